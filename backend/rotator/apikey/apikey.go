package apikey

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// Type is the type= value of roles.
const Type = "api-key"

// Defaults of a role.
const (
	DefaultPeriod = 90 * 24 * time.Hour
	DefaultGrace  = 24 * time.Hour
)

// keyName is the name of the one secret in a version's material, and of the option with
// which an existing key is handed in.
const keyName = "key"

// Rotator implements the rotator contract for API keys. It holds no state.
type Rotator struct{}

// New returns the rotator.
func New() *Rotator { return &Rotator{} }

var (
	_ rotator.Rotator      = (*Rotator)(nil)
	_ rotator.Minter       = (*Rotator)(nil)
	_ rotator.Stager       = (*Rotator)(nil)
	_ rotator.Soaker       = (*Rotator)(nil)
	_ rotator.Pairer       = (*Rotator)(nil)
	_ rotator.Prober       = (*Rotator)(nil)
	_ rotator.Preflighter  = (*Rotator)(nil)
	_ rotator.Surveyor     = (*Rotator)(nil)
	_ rotator.Restorer     = (*Rotator)(nil)
	_ rotator.InPlace      = (*Rotator)(nil)
	_ rotator.Irreversible = (*Rotator)(nil)
	_ rotator.Importer     = (*Rotator)(nil)
	_ rotator.Defaulter    = (*Rotator)(nil)
	_ rotator.HandEnded    = (*Rotator)(nil)
)

// Kind implements rotator.Rotator.
func (*Rotator) Kind() rotator.Kind {
	k := rotator.Kind{Name: Type, Options: roleOptionSet, Period: DefaultPeriod, Grace: DefaultGrace, Copied: []string{"primary_key", "primary_key_id"}}
	for _, kind := range kinds {
		k.ConnectionTypes = append(k.ConnectionTypes, kind.typ)
	}
	return k
}

// object is what a version's Object holds.
type object struct {
	Reference reference `json:"reference"`
	// Handed tells that a person made the key: it bears no mark of ours.
	Handed bool `json:"handed,omitempty"`
	// Endable tells that the provider ends the key by a call, Reversible that it can
	// also refuse it and bring it back.
	Endable    bool `json:"endable,omitempty"`
	Reversible bool `json:"reversible,omitempty"`
}

// objectOf is zero for a version that was not made yet.
func objectOf(v *rotation.Version) (object, error) {
	var o object
	if len(v.Object) == 0 {
		return o, nil
	}
	if err := json.Unmarshal(v.Object, &o); err != nil {
		return o, fault.New(fault.Internal, "version %d does not say which key it is", v.Number)
	}
	return o, nil
}

// candidate describes a key that exists now.
func candidate(key secret.String, o object, can abilities) (*rotator.Candidate, error) {
	known := o.Reference.ID != "" || o.Reference.Owner != ""
	o.Endable = known && (can.Revoke || can.Disable)
	o.Reversible = known && can.Disable
	raw, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode the version's object: %w", err)
	}
	identifier := o.Reference.ID
	if identifier == "" {
		identifier = o.Reference.Owner
	}
	if identifier == "" {
		identifier = masked(key)
	}
	return &rotator.Candidate{Identifier: identifier, Object: raw, Material: secret.Map{keyName: key}}, nil
}

// masked names a key that has no id as its provider's own pages do: by how it begins and
// ends. What is between stays secret.
func masked(key secret.String) string {
	const begin, end = 8, 4
	plain := key.Reveal()
	if len(plain) < 4*(begin+end) { // too short to give so much away
		return "key"
	}
	return plain[:begin] + "..." + plain[len(plain)-end:]
}

// open returns the connection that the engine opened for the target.
func open(t *rotator.Target) (*Connection, error) {
	c, err := own(t.Conn)
	if err != nil {
		return nil, fault.New(fault.Internal, "role %s has no connection to a provider of API keys", t.Role.Name)
	}
	return c, nil
}

// openKey returns it with what the version's Object holds.
func openKey(t *rotator.Target) (*Connection, object, error) {
	c, err := open(t)
	if err != nil {
		return nil, object{}, err
	}
	o, err := objectOf(&t.Version)
	return c, o, err
}

// keyOf is a version's key.
func keyOf(v *rotation.Version, material secret.Map) (secret.String, error) {
	key := material[keyName]
	if key.Empty() {
		return key, fault.New(fault.AuthFailed, "version %d has no key, so none can be accepted", v.Number)
	}
	return key, nil
}
