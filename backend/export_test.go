package backend

import (
	"context"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/access"
)

// ReadersOf is what the record of an incident asks.
func (e *Engine) ReadersOf(ctx context.Context, role string, version int) ([]access.Reader, error) {
	return e.readersOf(ctx, role, version)
}
