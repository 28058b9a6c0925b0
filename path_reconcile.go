package rotationsecrets

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

// remint is the one way to reconcile.
const remint = "remint"

func (b *Backend) reconcilePaths() []*framework.Path {
	return []*framework.Path{{
		Pattern: pattern("reconcile/:name"),
		Fields: map[string]*framework.FieldSchema{
			"name": nameField("role"),
			"wait": waitField(),
			"action": {
				Type: framework.TypeString, Default: remint, AllowedValues: []any{remint},
				Description: "remint: make a fresh version, numbered above everything that was seen outside.",
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: mutates(framework.PathOperation{
				Callback:     b.reconcile,
				Summary:      "Mend a role that has diverged.",
				DisplayAttrs: operation("reconcile", "role"),
				Examples:     []framework.RequestExample{example("", map[string]any{"action": remint})},
				Responses:    rotationAnswer(rotation.Manual),
			}),
		},
		HelpSynopsis: "Mend a role whose secret outside is ahead of Vault's storage.",
		HelpDescription: `
After Vault was restored from an older snapshot, cloned, or mounted twice, the world
outside may know versions that this mount does not. The role is then diverged:
reads say so in a warning, and nothing is changed or removed until this path is
written. What others made is not touched.`,
	}}
}

func (b *Backend) reconcile(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if data.Get("action").(string) != remint {
		return nil, fault.Field("action", "must be %s", remint)
	}
	wait, err := wait(data)
	if err != nil {
		return nil, err
	}
	r, err := b.engine.Reconcile(ctx, named(data), backend.RotateRequest{Actor: actor(req), Wait: wait})
	return rotationResponse(named(data), r, err)
}
