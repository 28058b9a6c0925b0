package backend

import (
	"context"

	"github.com/hashicorp/go-hclog"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

// EventSink is told of every event beside the channels.
type EventSink interface {
	Deliver(ctx context.Context, role string, e rotation.Event) error
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
