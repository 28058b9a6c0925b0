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
					map[string]any{"check": "group", "result": "pass", "detail": "intelliflow_app exists and is allowed"},
				}}),
			}),
		},
		HelpSynopsis: "Look whether a rotation of a role would go well.",
		HelpDescription: `
Changes nothing. The same looks come before each rotation: one that fails postpones
it, without counting an attempt.`,
	}}
}

func (b *Backend) preflight(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	lines, err := b.engine.Preflight(ctx, named(data))
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: renderLines(lines)}, nil
}
