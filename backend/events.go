package backend

import (
	"context"
	"maps"
	"slices"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

// EventSink is told of every event beside the channels, such as Vault's own event system.
type EventSink interface {
	Deliver(ctx context.Context, role string, e rotation.Event) error
}

// publish logs an event, and hands it to the sink. Both may miss one, or see it twice: what
// must not be lost goes through the outbox.
func (e *Engine) publish(ctx context.Context, role string, ev rotation.Event) {
	args := []any{"role", role, "event", ev.Type, "id", ev.ID}
	for _, name := range slices.Sorted(maps.Keys(ev.Data)) {
		args = append(args, name, ev.Data[name])
	}
	e.logger.Info("event", args...)
	if e.sink == nil {
		return
	}
	if err := e.sink.Deliver(ctx, role, ev); err != nil {
		e.logger.Warn("an event was not handed on", "event", ev.Type, "role", role, "error", err)
	}
}
