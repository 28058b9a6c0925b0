package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/access"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

var (
	incidentSchema     = schema{what: "incident"}
	incidentRoleSchema = schema{what: "role of an incident"}
	incidentNoteSchema = schema{what: "note of an incident"}
	incidentToldSchema = schema{what: "what a channel told of an incident"}
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
	// Acknowledged is who said first that they see to it; nil while nobody has.
	Acknowledged *rotation.Acknowledgement `json:"acknowledged,omitempty"`
	// Closing is what was said when it was closed; nil before.
	Closing *IncidentClosing `json:"closing,omitempty"`
	// SeverityChanges counts them.
	SeverityChanges int `json:"severity_changes,omitempty"`
	// Contacts are how many in line were told, and PassedTime when the last was.
	Contacts   int       `json:"contacts,omitempty"`
	PassedTime time.Time `json:"passed_time,omitzero"`
	// Channels are those that hear of it, as far as their filters of events go. They were
	// chosen when it was opened: who heard of the leak hears how it goes on.
	Channels []string `json:"channels,omitempty"`
	// Events are stored with what they tell of, and are not handed to the outbox yet.
	Events []rotation.Event `json:"events,omitempty"`
	// Marks names every role of the incident; it is complete before the first role is
	// touched.
	Marks map[string]IncidentMark `json:"roles"`
}

// IncidentClosing is how an incident was closed.
type IncidentClosing struct {
	Actor      rotation.Actor `json:"actor"`
	Conclusion string         `json:"conclusion"`
	// Forced tells that it was not contained, Reason why it was closed all the same.
	Forced bool   `json:"forced,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// maxIncidentEvents bounds a header should nobody take its events away.
const maxIncidentEvents = 64

// SeverityChanged is the type of the one event that an incident may have many of.
const SeverityChanged = "incident.severity"

// Emit stores an event with what it tells of. When too many wait, the oldest changes of
// severity go: all others happen once.
func (h *IncidentHeader) Emit(e rotation.Event) {
	h.Events = append(h.Events, e)
	if len(h.Events) <= maxIncidentEvents {
		return
	}
	oldest := max(slices.IndexFunc(h.Events, func(e rotation.Event) bool { return e.Type == SeverityChanged }), 0)
	h.Events = slices.Delete(h.Events, oldest, oldest+1)
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
	Notes []IncidentNote
	Told  []IncidentTold
}

// IncidentNote is what a person added.
type IncidentNote struct {
	Time  time.Time      `json:"time"`
	Actor rotation.Actor `json:"actor"`
	Text  string         `json:"text"`
}

// IncidentTold is what became of the messages about an incident in one channel.
type IncidentTold struct {
	Channel     string    `json:"channel"`
	Delivered   int       `json:"delivered"`
	Undelivered int       `json:"undelivered"`
	Last        time.Time `json:"last,omitzero"`
	// Events are the first MaxToldEvents; the counts are of all.
	Events []ToldEvent `json:"events,omitempty"`
}

// ToldEvent is the fate of one message.
type ToldEvent struct {
	ID       string    `json:"id"`
	Type     string    `json:"type"`
	Role     string    `json:"role,omitempty"`
	Status   string    `json:"status"`
	Time     time.Time `json:"time"`
	Attempts int       `json:"attempts"`
	Detail   string    `json:"detail,omitempty"`
}

// The fates of a message.
const (
	ToldWaiting   = "waiting"   // it is tried again
	ToldDelivered = "delivered" // the channel took it
	ToldExpired   = "expired"   // it was tried for too long
	ToldRefused   = "refused"   // the channel will never take it
)

// MaxToldEvents bounds what is kept of one channel.
const MaxToldEvents = 100

// IncidentRole is what an incident means for one role.
type IncidentRole struct {
	Compromised  []IncidentVersion `json:"compromised_versions"`
	ReplacedBy   int               `json:"replaced_by,omitempty"`
	ReplacedTime time.Time         `json:"replaced_time,omitzero"`
	Contained    bool              `json:"contained"`
	// Detail says what keeps the leak alive.
	Detail string         `json:"detail,omitempty"`
	Steps  []IncidentStep `json:"steps,omitempty"`
	// Readers are who had read a leaked version, as far as the ledger knows; MoreReaders
	// counts those beyond MaxIncidentReaders.
	Readers     []IncidentReader `json:"readers,omitempty"`
	MoreReaders int              `json:"more_readers,omitempty"`
}

// MaxIncidentReaders bounds who is named for one role.
const MaxIncidentReaders = 50

// IncidentReader is who had read a leaked version. Role is set where readers of several
// roles stand together.
type IncidentReader struct {
	Role    string `json:"role,omitempty"`
	Version int    `json:"version"`
	access.Reader
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
	if out.Notes, err = s.IncidentNotes(ctx, id); err != nil {
		return nil, err
	}
	out.Told, err = s.IncidentTold(ctx, id)
	return out, err
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

// IncidentNotes returns what people added, the oldest first.
func (s *Store) IncidentNotes(ctx context.Context, id string) ([]IncidentNote, error) {
	return readFolder[IncidentNote](ctx, s, incidentNoteFolder(id), incidentNoteSchema)
}

// PutIncidentNote stores a note by its number, from 1: each is a document of its own, so
// that a header stays small.
func (s *Store) PutIncidentNote(ctx context.Context, id string, number int, n *IncidentNote) error {
	return s.write(ctx, fmt.Sprintf("%s%04d", incidentNoteFolder(id), number), incidentNoteSchema, n)
}

// IncidentTold returns what became of the messages about an incident, by channel.
func (s *Store) IncidentTold(ctx context.Context, id string) ([]IncidentTold, error) {
	return readFolder[IncidentTold](ctx, s, toldFolder(id), incidentToldSchema)
}

// IncidentToldThrough returns what became of them in one channel, nil for nothing yet.
func (s *Store) IncidentToldThrough(ctx context.Context, id, channel string) (*IncidentTold, error) {
	return readPtr[IncidentTold](ctx, s, toldFolder(id)+channel, incidentToldSchema)
}

// PutIncidentTold stores what became of the messages about an incident in a channel. No
// more than the first MaxToldEvents are kept.
func (s *Store) PutIncidentTold(ctx context.Context, id string, t *IncidentTold) error {
	kept := *t
	kept.Events = t.Events[:min(len(t.Events), MaxToldEvents)]
	return s.write(ctx, toldFolder(id)+t.Channel, incidentToldSchema, &kept)
}

// readFolder reads all documents of a folder, in the order of their names.
func readFolder[T any](ctx context.Context, s *Store, folder string, form schema) ([]T, error) {
	keys, err := s.list(ctx, folder)
	if err != nil {
		return nil, err
	}
	slices.Sort(keys)
	var out []T
	for _, key := range keys {
		doc, err := readPtr[T](ctx, s, folder+key, form)
		if err != nil {
			return nil, err
		}
		if doc != nil {
			out = append(out, *doc)
		}
	}
	return out, nil
}
