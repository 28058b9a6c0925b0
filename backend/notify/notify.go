// Package notify tells people. A Message is what there is to tell; each kind of channel, in
// a package of its own below, puts it into the form of one service and delivers it once.
// When, where to and how often again is the engine's to decide.
package notify

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// Severity is how much a message matters.
type Severity string

// The severities, the least first.
const (
	Info     Severity = "info"
	Warning  Severity = "warning"
	Error    Severity = "error"
	Critical Severity = "critical"
)

// Severities lists all of them, the least first.
var Severities = []Severity{Info, Warning, Error, Critical}

// AtLeast tells whether a severity is no less than another.
func (s Severity) AtLeast(least Severity) bool {
	return slices.Index(Severities, s) >= slices.Index(Severities, least)
}

// Message is one thing to tell. It holds no secret.
type Message struct {
	// ID stays the same however often the message is delivered.
	ID string
	// Event names what happened, such as rotation.failed.
	Event    string
	Severity Severity
	Time     time.Time // when it happened, in UTC
	// Source names the mount that tells, as a URI reference without a host.
	Source string
	// Roles are whom it is about, in order of their names: one, several for which the
	// same happened, all those of an incident, or none where it is the mount's.
	Roles []string
	// Summary is one sentence.
	Summary string
	// Fields are what else there is to know, in the order in which to show them.
	Fields []Field
	// Alarm is the stable key of what lasts and is raised, or told again; empty for what
	// only happens, or ends.
	Alarm string
	// Over are the keys of alarms that end with this message.
	Over []string
	// IncidentID is set for a message of an incident.
	IncidentID string
	// Link is a URL where more is to be read, or empty.
	Link string
}

// Field is a fact with its name, such as "phase".
type Field struct {
	Name  string
	Value string
}

// Channel is where people are told, as its kind sees it.
type Channel struct {
	Name string
	// Values are those of the kind's own options, and no others.
	Values  option.Values
	Secrets secret.Map
}

// Kind is a type of channel.
type Kind interface {
	// Type is the type= value.
	Type() string
	// Help says in a sentence where such a channel tells people.
	Help() string
	Options() option.Set
	// Check refuses options that can be seen to be wrong without the network, with a fault
	// that names the field.
	Check(c *Channel) error
	// Send delivers a message once. A *Failure says whether to try again; any other error
	// is tried again. No error holds a secret of the channel, which a webhook's URL may be.
	Send(ctx context.Context, c *Channel, m *Message) error
}

// EndsOneByOne is implemented by kinds that tell of the end of each alarm by a request of its
// own, on a connection of its own. All that one message ends have to fit into one attempt, since
// the next one begins with the first again: at most MaxEnded do.
type EndsOneByOne interface{ MaxEnded() int }

// Failure is why a message was not delivered.
type Failure struct {
	// Permanent tells that no later attempt will fare better: the service refused.
	Permanent bool
	// Partial tells that the message was taken, though not by all who were to be told.
	Partial bool
	// RetryAfter is the least time to wait that the service asked for; 0 where it did not.
	RetryAfter time.Duration
	// Reason is a sentence without secrets.
	Reason string
	// Err is the cause, if any, such as the context's end; its text already stands in Reason.
	Err error
}

// Error implements error.
func (f *Failure) Error() string { return f.Reason }

// Unwrap gives the cause.
func (f *Failure) Unwrap() error { return f.Err }

// FailureOf reads an error of Send.
func FailureOf(err error) *Failure {
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	return &Failure{Reason: err.Error(), Err: err}
}
