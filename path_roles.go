package rotationsecrets

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

func (b *Backend) rolePaths() []*framework.Path {
	return []*framework.Path{listPath("roles", b.engine.RoleNames, "billing", "database"), b.rolePath()}
}

func (b *Backend) rolePath() *framework.Path {
	write := mutates(framework.PathOperation{
		Callback:     b.writeRole,
		Summary:      "Create or change a role.",
		DisplayAttrs: operation("write", "role"),
		Examples: []framework.RequestExample{
			example("", map[string]any{
				"type": "postgresql", "connection": "main", "member_of": "intelliflow_app",
				"rotation_period": "30d", "grace_period": "1h",
			}),
			example("Another period; all else stays:", map[string]any{"rotation_period": "7d"}),
		},
		Responses: answers("A new role: its first Rotation. A changed one: no data.", optional(rotationFields()), exampleRotation(rotation.Initial)),
	})
	return &framework.Path{
		Pattern:        pattern("roles/:name"),
		Fields:         b.roleFields(),
		ExistenceCheck: b.roleExists,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: reads(framework.PathOperation{
				Callback:     b.readRole,
				Summary:      "Read a role.",
				DisplayAttrs: operation("read", "role"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses:    answers("The role, defaults included; null where a field does not apply.", b.roleAnswer(), exampleRole),
			}),
			logical.CreateOperation: write,
			logical.UpdateOperation: write,
			logical.DeleteOperation: mutates(framework.PathOperation{
				Callback:     b.deleteRole,
				Summary:      "Delete a role; its secret ends after the grace period.",
				DisplayAttrs: operation("delete", "role"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses:    done(),
			}),
		},
		HelpSynopsis:    "The rotation policy for one secret.",
		HelpDescription: b.roleHelp(),
	}
}

func (b *Backend) roleHelp() string {
	var defaults []string
	for _, k := range b.engine.Kinds() {
		defaults = append(defaults, fmt.Sprintf("%s: rotation_period %s, grace_period %s", k.Name, Brief(k.Period), Brief(k.Grace)))
	}
	return `
The first write makes version 1 of the secret current before it answers, within 30
seconds; when that fails there is no role. What is left out of a later write keeps
its value.

Give rotation_period, or rotation_schedule (five cron fields, UTC) with an optional
rotation_window. Defaults by type: ` + strings.Join(defaults, "; ") + `.

A delete lets what readers hold live until its grace is over. Until it is proven
dead a role of the same name cannot be made (409).`
}

func (b *Backend) roleFields() map[string]*framework.FieldSchema {
	fields := b.roles.fields()
	fields["name"] = nameField("role")
	fields["force"] = &framework.FieldSchema{
		Type:        framework.TypeBool,
		Query:       true,
		Description: "Of a delete: forget the role at once, and leave its objects outside as they are.",
	}
	return fields
}

func (b *Backend) roleAnswer() map[string]*framework.FieldSchema {
	return b.roles.shown(map[string]*framework.FieldSchema{
		"type":         text("Kind of secret."),
		"connection":   text("Name of the connection; null when the kind needs none."),
		"created_time": moment("When the role was made."),
	})
}

var exampleRole = map[string]any{
	"type": "postgresql", "connection": "main", "strategy": "new_user", "member_of": "intelliflow_app",
	"rotation_period": 2592000, "grace_period": 3600, "rotation_schedule": nil, "created_time": "2026-03-01T10:00:00Z",
}

func (b *Backend) roleExists(ctx context.Context, _ *logical.Request, data *framework.FieldData) (bool, error) {
	_, err := b.engine.Role(ctx, named(data))
	return exists(err)
}

func (b *Backend) readRole(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	role, err := b.engine.Role(ctx, named(data))
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: b.renderRole(role)}, nil
}

func (b *Backend) renderRole(r *store.Role) map[string]any {
	values := option.Values(renderPolicy(r.Policy))
	maps.Copy(values, r.Values)
	out := b.roles.public(r.Type, values)
	out["type"], out["connection"], out["created_time"] = r.Type, orNull(r.Connection), renderTime(r.CreatedTime)
	return out
}

func (b *Backend) writeRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	kind, err := b.roleType(ctx, data)
	if err != nil {
		return nil, err
	}
	values, secrets, err := b.roles.collect(kind, data)
	if err != nil {
		return nil, err
	}
	written, err := b.engine.WriteRole(ctx, backend.Write{Name: named(data), Given: values, Secrets: secrets, Actor: actor(req)})
	if err != nil {
		return nil, err
	}
	resp := &logical.Response{Warnings: written.Warnings}
	if written.Rotation != nil {
		resp.Data = renderRotation(written.Rotation)
	}
	return resp, nil
}

// roleType is the type that is given, or else stored.
func (b *Backend) roleType(ctx context.Context, data *framework.FieldData) (string, error) {
	if kind := data.Get("type").(string); kind != "" {
		return kind, nil
	}
	stored, err := b.engine.Role(ctx, named(data))
	switch {
	case fault.Is(err, fault.NotFound):
		return "", b.roles.typeRequired()
	case err != nil:
		return "", err
	}
	return stored.Type, nil
}

func (b *Backend) deleteRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if err := deleteTakes(req, "force"); err != nil {
		return nil, err
	}
	warnings, err := b.engine.DeleteRole(ctx, named(data), data.Get("force").(bool))
	if err != nil {
		return nil, err
	}
	return &logical.Response{Warnings: warnings}, nil
}
