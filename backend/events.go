package backend

import (
	"context"

	"github.com/hashicorp/go-hclog"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

// EventSink takes events out of a role's state document, where they were stored
// with what they tell of. It sees an event at least once; its id stays the same.
type EventSink interface {
	Deliver(ctx context.Context, role string, e rotation.Event) error
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
