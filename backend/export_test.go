package backend

import (
	"context"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/access"
)

// SetLedger sets who had read what.
func (e *Engine) SetLedger(ledger func(ctx context.Context, role string, version int) ([]access.Reader, error)) {
	e.ledger = ledger
}

// ReadersOf is what the record of an incident asks.
func (e *Engine) ReadersOf(ctx context.Context, role string, version int) ([]access.Reader, error) {
	return e.readersOf(ctx, role, version)
}
