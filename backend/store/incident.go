package store

import (
	"context"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

var (
	incidentSchema     = schema{what: "incident"}
	incidentRoleSchema = schema{what: "role of an incident"}
)

// IncidentStatus is how far an incident got.
type IncidentStatus string

// The states of an incident.
const (
	IncidentOpen      IncidentStatus = "open"      // the leak may live on
	IncidentContained IncidentStatus = "contained" // every leaked version is proven dead
	IncidentClosed    IncidentStatus = "closed"    // a person drew the conclusion
)

// IncidentHeader is what is stored of an incident but for the facts of its roles:
// those have documents of their own, so that a step of one role of a thousand does
// not write them all.
type IncidentHeader struct {
	ID            string         `json:"id"`
	Severity      string         `json:"severity"`
	Status        IncidentStatus `json:"status"`
	Reason        string         `json:"reason"`
	Actor         rotation.Actor `json:"actor"`
	DetectedTime  time.Time      `json:"detected_time"`
	OpenedTime    time.Time      `json:"opened_time"`
	ContainedTime time.Time      `json:"contained_time,omitzero"`
	ClosedTime    time.Time      `json:"closed_time,omitzero"`
	// KillFirst is how it was declared: roles that a crash left out are declared so too.
	KillFirst bool `json:"kill_first,omitempty"`
	// Marks names every role of the incident; it is complete before the first role is
	// touched.
	Marks map[string]IncidentMark `json:"roles"`
}

// MaxIncidentRoles keeps a header well under the largest entry that Vault's storage
// takes (1 MiB), whatever the names.
const MaxIncidentRoles = 4000

// IncidentMark is how far one role of an incident is.
type IncidentMark struct {
	// Declared tells that the role's own state knows of the incident, or has known.
	Declared  bool `json:"declared,omitempty"`
	Contained bool `json:"contained,omitempty"`
	// Gone tells that the role did not exist any more when it was to be declared.
	Gone bool `json:"gone,omitempty"`
}

// Outstanding tells whether the role is still to be declared.
func (m IncidentMark) Outstanding() bool { return !m.Declared && !m.Contained && !m.Gone }

// Incident is the record of an emergency, over one or many roles.
type Incident struct {
	IncidentHeader
	Roles map[string]*IncidentRole
}

// IncidentRole is what an incident means for one role.
type IncidentRole struct {
	Compromised  []IncidentVersion `json:"compromised_versions"`
	ReplacedBy   int               `json:"replaced_by,omitempty"`
	ReplacedTime time.Time         `json:"replaced_time,omitzero"`
	Contained    bool              `json:"contained"`
	// Detail says what keeps the leak alive.
	Detail string         `json:"detail,omitempty"`
	Steps  []IncidentStep `json:"steps,omitempty"`
}

// IncidentVersion is a leaked version, by number and identifier, never a value.
type IncidentVersion struct {
	Version       int             `json:"version"`
	Identifier    string          `json:"identifier"`
	RevokedTime   time.Time       `json:"revoked_time,omitzero"`
	SessionsEnded int             `json:"sessions_ended"`
	Proof         *rotation.Proof `json:"proof,omitempty"`
}

// IncidentStep is one act, in order of time.
type IncidentStep struct {
	Time   time.Time `json:"time"`
	Action string    `json:"action"`
	Result string    `json:"result"`
	Detail string    `json:"detail,omitempty"`
}

// Incident assembles a record; nil when there is none of this id. A role of which
// nothing was recorded yet has empty facts.
func (s *Store) Incident(ctx context.Context, id string) (*Incident, error) {
	header, err := s.IncidentHeader(ctx, id)
	if err != nil || header == nil {
		return nil, err
	}
	out := &Incident{IncidentHeader: *header, Roles: make(map[string]*IncidentRole, len(header.Marks))}
	for name := range header.Marks {
		facts, err := s.IncidentRole(ctx, id, name)
		if err != nil {
			return nil, err
		}
		if facts == nil {
			facts = &IncidentRole{}
		}
		out.Roles[name] = facts
	}
	return out, nil
}

// IncidentHeader returns nil when there is none of this id.
func (s *Store) IncidentHeader(ctx context.Context, id string) (*IncidentHeader, error) {
	return readPtr[IncidentHeader](ctx, s, incidentKey(id), incidentSchema)
}

// PutIncidentHeader stores an incident but for the facts of its roles.
func (s *Store) PutIncidentHeader(ctx context.Context, i *IncidentHeader) error {
	return s.write(ctx, incidentKey(i.ID), incidentSchema, i)
}

// IncidentRole returns what is recorded of one role, nil for nothing yet.
func (s *Store) IncidentRole(ctx context.Context, id, name string) (*IncidentRole, error) {
	return readPtr[IncidentRole](ctx, s, incidentRoleFolder(id)+name, incidentRoleSchema)
}

// PutIncidentRole stores what an incident means for one role.
func (s *Store) PutIncidentRole(ctx context.Context, id, name string, facts *IncidentRole) error {
	return s.write(ctx, incidentRoleFolder(id)+name, incidentRoleSchema, facts)
}

// Incidents lists the ids, oldest first: an id begins with its time.
func (s *Store) Incidents(ctx context.Context) ([]string, error) {
	return s.list(ctx, incidentPrefix)
}
