package store

import (
	"context"
	"slices"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

var (
	channelSchema  = schema{what: "channel"}
	deliverySchema = schema{what: "deliveries of a channel"}
	outboxSchema   = schema{what: "message in the outbox"}
)

// Channel is a stored channel.
type Channel struct {
	Name string `json:"name"`
	Type string `json:"type"`
	// Events are names of events, Roles names of roles, both with * as a wildcard, and
	// Severity is the least: what the channel is told of.
	Events   []string          `json:"events"`
	Severity string            `json:"severity"`
	Roles    []string          `json:"roles"`
	Values   option.Values     `json:"values"`
	Secrets  map[string]string `json:"secrets"`
}

// Deliveries are how a channel fares. There is none for one that always did well.
type Deliveries struct {
	// Failures counts attempts in a row that failed, since FailingSince; NextTime is when
	// the next one is due.
	Failures     int       `json:"failures,omitempty"`
	FailingSince time.Time `json:"failing_since,omitzero"`
	NextTime     time.Time `json:"next_time,omitzero"`
	LastError    string    `json:"last_error,omitempty"`
	// Attempted is the key of what the channel did not take last: it may have been told.
	Attempted string `json:"attempted,omitempty"`
	// Told says that the other channels know.
	Told bool `json:"told,omitempty"`
	// Lost are the last messages that were not delivered, LostTotal all there ever were.
	Lost      []LostMessage `json:"lost,omitempty"`
	LostTotal int           `json:"lost_total,omitempty"`
	// Alarms has, for each role whose alarm the channel was told of, the alarm's key. One
	// that several roles share is over when the last of them is well.
	Alarms map[string]string `json:"alarms,omitempty"`
	// Events are not handed to the outbox yet.
	Events []rotation.Event `json:"events,omitempty"`
}

// LostMessage is one that was never delivered.
type LostMessage struct {
	Time   time.Time `json:"time"`
	Event  string    `json:"event"`
	Role   string    `json:"role,omitempty"`
	Reason string    `json:"reason"`
}

// Queued is an event on its way to one channel.
type Queued struct {
	Role  string         `json:"role,omitempty"`
	Event rotation.Event `json:"event"`
	// QueuedTime is when it came into the outbox.
	QueuedTime time.Time `json:"queued_time"`
	// Others are the same of other roles, told in the same message: their own documents
	// are void from the moment at which they stand here.
	Others []Other `json:"others,omitempty"`
	// Alarm is what the message raises, and Over are the alarms that end with it, once that
	// was decided: it stays so however often the message is sent.
	Alarm string   `json:"alarm,omitempty"`
	Over  []string `json:"over,omitempty"`
}

// Other is an event that another one tells too.
type Other struct {
	Key  string `json:"key"`
	Role string `json:"role"`
}

// Channel returns nil when there is none of this name.
func (s *Store) Channel(ctx context.Context, name string) (*Channel, error) {
	return readPtr[Channel](ctx, s, channelPrefix+name, channelSchema)
}

// PutChannel stores a channel, secrets included.
func (s *Store) PutChannel(ctx context.Context, c *Channel) error {
	return s.write(ctx, channelPrefix+c.Name, channelSchema, c)
}

// DeleteChannel removes a channel, and then what waits for it: the rest of an interrupted
// removal is in nobody's way, and goes when a channel of that name is removed again.
func (s *Store) DeleteChannel(ctx context.Context, name string) error {
	if err := s.delete(ctx, channelPrefix+name); err != nil {
		return err
	}
	keys, err := s.OutboxKeys(ctx, name)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := s.DeleteQueued(ctx, name, key); err != nil {
			return err
		}
	}
	return s.delete(ctx, deliveriesPrefix+name)
}

// Channels lists the names.
func (s *Store) Channels(ctx context.Context) ([]string, error) { return s.list(ctx, channelPrefix) }

// Deliveries returns how a channel fares, nil where nothing is to be said.
func (s *Store) Deliveries(ctx context.Context, channel string) (*Deliveries, error) {
	return readPtr[Deliveries](ctx, s, deliveriesPrefix+channel, deliverySchema)
}

// PutDeliveries stores how a channel fares.
func (s *Store) PutDeliveries(ctx context.Context, channel string, d *Deliveries) error {
	return s.write(ctx, deliveriesPrefix+channel, deliverySchema, d)
}

// OutboxKeys lists what waits for a channel, in the order in which it is to be told.
func (s *Store) OutboxKeys(ctx context.Context, channel string) ([]string, error) {
	keys, err := s.list(ctx, outboxFolder(channel))
	slices.Sort(keys)
	return keys, err
}

// Queued returns nil when nothing waits under this key.
func (s *Store) Queued(ctx context.Context, channel, key string) (*Queued, error) {
	return readPtr[Queued](ctx, s, outboxFolder(channel)+key, outboxSchema)
}

// PutQueued stores what waits for a channel.
func (s *Store) PutQueued(ctx context.Context, channel, key string, q *Queued) error {
	return s.write(ctx, outboxFolder(channel)+key, outboxSchema, q)
}

// DeleteQueued removes what was told.
func (s *Store) DeleteQueued(ctx context.Context, channel, key string) error {
	return s.delete(ctx, outboxFolder(channel)+key)
}
