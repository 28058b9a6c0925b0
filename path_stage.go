package rotationsecrets

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

func (b *Backend) stagePaths() []*framework.Path {
	return []*framework.Path{b.stagePath(), b.promotePath()}
}

func (b *Backend) stagePath() *framework.Path {
	return &framework.Path{
		Pattern: pattern("stage/:name"),
		Fields: map[string]*framework.FieldSchema{
			"name": nameField("role"),
			"wait": waitField(),
			"key": {
				Type: framework.TypeString, DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
				Description: "The key that a person made at the provider. Required. Never shown again but to readers of creds/:name.",
			},
			"key_id": {Type: framework.TypeString, Description: "The provider's id of the key, where it cannot be found by itself."},
			"force":  {Type: framework.TypeBool, Description: "Give up a key that was staged before and has not taken over: it lives until its grace is over."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: mutates(framework.PathOperation{
				Callback:     b.stage,
				Summary:      "Hand in a key that was made by hand.",
				DisplayAttrs: operation("stage", "key"),
				Examples:     []framework.RequestExample{example("", map[string]any{"key": "rk_live_..."})},
				Responses:    answers("The Version that it became.", versionFields(), exampleStaged()),
			}),
		},
		HelpSynopsis: "Hand in a key that a person made at the provider.",
		HelpDescription: `
For roles of type api-key whose keys are made by hand. The key is proven by a call
first: one that is refused changes nothing. It then stands by as the secondary key,
and takes over after the role's soak_period, at once by default, unless auto_promote
is false: then promote/:name does. The same key handed in again is answered with the
version that it became. A role that is blocked, diverged or waits for a person goes
on by it.`,
	}
}

func (b *Backend) promotePath() *framework.Path {
	return &framework.Path{
		Pattern: pattern("promote/:name"),
		Fields: map[string]*framework.FieldSchema{
			"name":  nameField("role"),
			"wait":  waitField(),
			"force": {Type: framework.TypeBool, Description: "Do not wait until the key has soaked."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: mutates(framework.PathOperation{
				Callback:     b.promote,
				Summary:      "Let the staged key take over.",
				DisplayAttrs: operation("promote", "key"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses:    rotationAnswer(rotation.Manual),
			}),
		},
		HelpSynopsis: "Let the key that stands by take over now.",
		HelpDescription: `
The key is proven once more before readers get it as the primary; the one before it
becomes the secondary until its grace is over. Refused (409) while no key is staged,
and before its soak_period is over unless force=true.`,
	}
}

func exampleStaged() map[string]any {
	return renderVersion(&rotation.Version{
		Number: 2, State: rotation.Current, Identifier: "rk_live_...9f3a", CreatedTime: exampleTime, ActivatedTime: exampleTime,
	}, nil)
}

func (b *Backend) stage(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	wait, err := wait(data)
	if err != nil {
		return nil, err
	}
	key := data.Get("key").(string)
	if key == "" {
		return nil, fault.Field("key", "is required: the key that was made at the provider")
	}
	secrets := secret.Map{"key": secret.New(key)}
	if id := data.Get("key_id").(string); id != "" {
		secrets["key_id"] = secret.New(id)
	}
	staged, err := b.engine.Stage(ctx, named(data), backend.StageRequest{
		Actor: actor(req), Wait: wait, Secrets: secrets, Force: data.Get("force").(bool),
	})
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: renderVersion(staged.Version, nil), Warnings: staged.Warnings}, nil
}

func (b *Backend) promote(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	wait, err := wait(data)
	if err != nil {
		return nil, err
	}
	r, err := b.engine.Promote(ctx, named(data), backend.RotateRequest{Actor: actor(req), Wait: wait, Force: data.Get("force").(bool)})
	return rotationResponse(named(data), r, err)
}
