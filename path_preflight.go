package rotationsecrets

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *Backend) preflightPaths() []*framework.Path {
	return []*framework.Path{{
		Pattern: pattern("preflight/:name"),
		Fields:  map[string]*framework.FieldSchema{"name": nameField("role")},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: asksActive(framework.PathOperation{
				Callback:     b.preflight,
				Summary:      "Look whether a rotation would go well.",
				DisplayAttrs: operation("read", "preflight"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses: answers("The result, line by line.", linesFields(), map[string]any{"lines": []any{
					map[string]any{"check": "target", "result": "pass", "detail": "PostgreSQL answers and accepts the connection's own user"},
					map[string]any{"check": "group", "result": "pass", "detail": "intelliflow_app exists and is allowed"},
					map[string]any{"check": "current version", "result": "pass", "detail": "version 4 (database_v4_k3x9q2) works"},
					map[string]any{"check": "window", "result": "warn", "detail": "the window is closed, and opens at 2026-03-02T02:00:00Z; the next rotation is due at 2026-03-31T02:00:00Z"},
				}}),
			}),
		},
		HelpSynopsis: "Look whether a rotation of a role would go well.",
		HelpDescription: `
Changes nothing. The lines: what the kind of secret finds out at the target ("target"
and its rights), "current version", "earlier version", "rollback plan", what depends on
the secret ("mirror ...", "rollout ..." for each target, "check ..." for each endpoint),
"channels", "window", and "nothing in flight". The target, rights, the mirror, targets of
the rollout, and what is in flight can fail; an endpoint that is unwell is a warning.

The lines of the target, the mirror and the rollout come before each rotation too, but
for emergencies and rollbacks: one that fails postpones it, without counting an attempt.`,
	}}
}

func (b *Backend) preflight(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	lines, err := b.engine.Preflight(ctx, named(data))
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: renderLines(lines)}, nil
}
