package rotationsecrets

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
)

func (b *Backend) configPaths() []*framework.Path {
	shown := answers("The settings in force.", b.config.shown(nil), map[string]any{
		"paused": false, "max_concurrent_rotations": 16, "overdue_after": 604800, "history_limit": 100,
		"external_url": "https://vault.example.com:8200", "channels": []string{}, "contacts": []string{"ops", "oncall"},
		"escalate_after": 3600, "notify_before": 0, "unauthenticated_metrics": false, "access_rate_threshold": 1000,
	})
	return []*framework.Path{{
		Pattern: pattern("config"),
		Fields:  b.config.fields(),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: reads(framework.PathOperation{
				Callback:     b.readConfig,
				Summary:      "Read the mount's settings.",
				DisplayAttrs: operation("read", "configuration"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses:    shown,
			}),
			logical.UpdateOperation: mutates(framework.PathOperation{
				Callback:     b.writeConfig,
				Summary:      "Change the mount's settings.",
				DisplayAttrs: operation("configure", ""),
				Examples: []framework.RequestExample{
					example("Stop every effect outside, for instance while a backup is restored:", map[string]any{"paused": true}),
				},
				Responses: shown,
			}),
		},
		HelpSynopsis: "Settings of the whole mount.",
		HelpDescription: `
What is left out of a write keeps its value. While "paused" is true nothing
outside is changed, emergencies included: a write that would is answered 409.`,
	}}
}

func (b *Backend) readConfig(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	c, err := b.engine.Config(ctx)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: renderConfig(c)}, nil
}

func (b *Backend) writeConfig(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	values, secrets, err := b.config.collect("", data)
	if err != nil {
		return nil, err
	}
	c, err := b.engine.WriteConfig(ctx, backend.Write{Given: values, Secrets: secrets, Actor: actor(req)})
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: renderConfig(c)}, nil
}
