// Package postgresql rotates PostgreSQL credentials by swapping users: every
// version is a login role of its own, a member of a standing group role that owns
// the objects and holds the grants.
package postgresql

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// Type is the type= value of roles and connections.
const Type = "postgresql"

// Defaults of a role.
const (
	DefaultPeriod = 30 * 24 * time.Hour
	DefaultGrace  = time.Hour
)

// passwordKey is the name of the one secret in a version's material.
const passwordKey = "password"

// Rotator implements the rotator contract for PostgreSQL users. It holds no
// state.
type Rotator struct{}

// New returns the rotator.
func New() *Rotator { return &Rotator{} }

var (
	_ rotator.Rotator     = (*Rotator)(nil)
	_ rotator.Prober      = (*Rotator)(nil)
	_ rotator.InUser      = (*Rotator)(nil)
	_ rotator.Preflighter = (*Rotator)(nil)
	_ rotator.Surveyor    = (*Rotator)(nil)
	_ rotator.Restorer    = (*Rotator)(nil)
	_ rotator.Warner      = (*Rotator)(nil)
	_ rotator.InPlace     = (*Rotator)(nil)
	_ rotator.Importer    = (*Rotator)(nil)
)

// Kind implements rotator.Rotator.
func (*Rotator) Kind() rotator.Kind {
	return rotator.Kind{
		Name:            Type,
		ConnectionTypes: []string{Type},
		Options:         roleOptionSet,
		Period:          DefaultPeriod,
		Grace:           DefaultGrace,
		Copied:          []string{"username", "password", "host", "port", "database", "connection_url"},
	}
}

// object is what a version's Object holds.
type object struct {
	// Group is the role the user was made a member of, whatever the role's
	// member_of says by now: it is what inherits from the user. Empty for a user
	// that creation_statements made and that acts as itself.
	Group string `json:"group,omitempty"`
	// Strategy is alternate or in_place for a user that outlives its versions, empty
	// for one of the version's own.
	Strategy string `json:"strategy,omitempty"`
	// Imported are the users that were there before the role and that this version,
	// the role's first, took over.
	Imported []importedUser `json:"imported,omitempty"`
}

func (o object) standing() bool { return isStanding(o.Strategy) }

func objectOf(v *rotation.Version) (object, error) {
	var o object
	if err := json.Unmarshal(v.Object, &o); err != nil || v.Identifier == "" {
		return o, fault.New(fault.Internal, "version %d does not say which user it is", v.Number)
	}
	return o, nil
}

func (o object) encode() (json.RawMessage, error) {
	raw, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode the version's object: %w", err)
	}
	return raw, nil
}

// open returns the connection that the engine opened for the target.
func open(t *rotator.Target) (*Connection, error) {
	c, ok := t.Conn.(*Connection)
	if !ok || c == nil {
		return nil, fault.New(fault.Internal, "role %s has no PostgreSQL connection", t.Role.Name)
	}
	return c, nil
}

// quoted is an identifier in a sentence.
func quoted(name string) string { return postgres.Ident(name) }

// maxText bounds what is stored of a text that names objects of the server.
const maxText = 500

func bounded(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + "..."
}

func boundedProgress(p rotator.Progress) rotator.Progress {
	p.NotYet, p.Left = bounded(p.NotYet), bounded(p.Left)
	return p
}
