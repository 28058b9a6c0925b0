package store

import (
	"context"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

var incidentSchema = schema{what: "incident"}

// IncidentStatus is how far an incident got.
type IncidentStatus string

// The states of an incident.
const (
	IncidentOpen      IncidentStatus = "open"      // the leak may live on
	IncidentContained IncidentStatus = "contained" // every leaked version is proven dead
	IncidentClosed    IncidentStatus = "closed"    // a person drew the conclusion
)

// Incident is the record of an emergency, over one or many roles.
type Incident struct {
	ID            string                   `json:"id"`
	Severity      string                   `json:"severity"`
	Status        IncidentStatus           `json:"status"`
	Reason        string                   `json:"reason"`
	Actor         rotation.Actor           `json:"actor"`
	DetectedTime  time.Time                `json:"detected_time"`
	OpenedTime    time.Time                `json:"opened_time"`
	ContainedTime time.Time                `json:"contained_time,omitzero"`
	ClosedTime    time.Time                `json:"closed_time,omitzero"`
	Roles         map[string]*IncidentRole `json:"roles"`
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

// Incident returns nil when there is none of this id.
func (s *Store) Incident(ctx context.Context, id string) (*Incident, error) {
	return readPtr[Incident](ctx, s, incidentKey(id), incidentSchema)
}

// PutIncident stores the record.
func (s *Store) PutIncident(ctx context.Context, i *Incident) error {
	return s.write(ctx, incidentKey(i.ID), incidentSchema, i)
}

// DeleteIncident removes a record that turned out to tell of nothing.
func (s *Store) DeleteIncident(ctx context.Context, id string) error {
	return s.delete(ctx, incidentKey(id))
}

// Incidents lists the ids, oldest first: an id begins with its time.
func (s *Store) Incidents(ctx context.Context) ([]string, error) {
	return s.list(ctx, incidentPrefix)
}
