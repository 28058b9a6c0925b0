package rotationsecrets

import (
	"context"
	"maps"
	"slices"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

// eventSystem hands events to Vault's own event system, where the server has one: on
// Community nobody can subscribe to it.
type eventSystem struct{ sender logical.EventSender }

// Deliver implements backend.EventSink. The metadata names the path to read, and holds no
// secret.
func (s eventSystem) Deliver(ctx context.Context, role string, ev rotation.Event) error {
	if s.sender == nil {
		return nil
	}
	pairs := []string{"event_id", ev.ID}
	if role != "" {
		pairs = append(pairs, "role", role, logical.EventMetadataDataPath, "creds/"+role, logical.EventMetadataOperation, ev.Type)
	}
	for _, name := range slices.Sorted(maps.Keys(ev.Data)) {
		pairs = append(pairs, name, ev.Data[name])
	}
	return logical.SendEvent(ctx, s.sender, "rotation/"+ev.Type, pairs...)
}
