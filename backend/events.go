package backend

import (
	"context"

	"github.com/hashicorp/go-hclog"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// EventSink takes events out of a role's state document, where they were stored
// with what they tell of. It sees an event at least once; its id stays the same.
type EventSink interface {
	Deliver(ctx context.Context, role string, e rotation.Event) error
}

// ChannelKind is a type of channel: where people are told. Like roles and
// connections it declares its options, which are decoded strictly.
type ChannelKind interface {
	// Type is the type= value.
	Type() string
	Options() option.Set
	// CheckChannel refuses options that can be seen to be wrong without the network.
	CheckChannel(c *ChannelConfig) error
	// Deliver tells an event. It may be asked again for one that it told already;
	// the event's id is the same then.
	Deliver(ctx context.Context, c *ChannelConfig, role string, e rotation.Event) error
}

// ChannelConfig is a channel as its kind sees it.
type ChannelConfig struct {
	Name    string
	Values  option.Values
	Secrets secret.Map
}

// ToChannel is the sink that tells every event to one channel.
func ToChannel(kind ChannelKind, c *ChannelConfig) (EventSink, error) {
	if err := kind.CheckChannel(c); err != nil {
		return nil, err
	}
	return channelSink{kind, c}, nil
}

type channelSink struct {
	kind   ChannelKind
	config *ChannelConfig
}

// Deliver implements EventSink.
func (s channelSink) Deliver(ctx context.Context, role string, e rotation.Event) error {
	return s.kind.Deliver(ctx, s.config, role, e)
}

// handOver gives a role's events to the sink. They leave the document with its
// next Put; after a crash before that they are handed over again.
func (e *Engine) handOver(ctx context.Context, s *subject) error {
	for _, ev := range s.state.Events {
		if e.memory.delivered(s.name, ev.ID) {
			continue
		}
		if err := e.sink.Deliver(ctx, s.name, ev); err != nil {
			return err
		}
		e.memory.setDelivered(s.name, ev.ID)
	}
	return nil
}

// logSink tells events to Vault's log.
type logSink struct{ logger hclog.Logger }

// Deliver implements EventSink.
func (l logSink) Deliver(_ context.Context, role string, ev rotation.Event) error {
	args := []any{"role", role, "event", ev.Type, "id", ev.ID}
	for k, v := range ev.Data {
		args = append(args, k, v)
	}
	l.logger.Info("event", args...)
	return nil
}
