package rotationsecrets

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

func (b *Backend) connectionPaths() []*framework.Path {
	return []*framework.Path{
		listPath("connections", b.engine.ConnectionNames, "analytics", "main"),
		b.connectionPath(),
		b.connectionCheckPath(),
		b.rotateRootPath(),
	}
}

func (b *Backend) connectionPath() *framework.Path {
	fields := b.connections.fields()
	fields["name"] = nameField("connection")
	write := mutates(framework.PathOperation{
		Callback:     b.writeConnection,
		Summary:      "Create or change a connection.",
		DisplayAttrs: operation("write", "connection"),
		Examples: []framework.RequestExample{example("", map[string]any{
			"type": "postgresql", "username": "vault_admin", "password": "...",
			"connection_url": "postgresql://{{username}}:{{password}}@db:5432/intelliflow?sslmode=verify-full",
		})},
		Responses: done(),
	})
	return &framework.Path{
		Pattern:        pattern("connections/:name"),
		Fields:         fields,
		ExistenceCheck: b.connectionExists,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: reads(framework.PathOperation{
				Callback:     b.readConnection,
				Summary:      "Read a connection, without its secrets.",
				DisplayAttrs: operation("read", "connection"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses:    answers("The connection, defaults included.", b.connectionAnswer(), exampleConnection),
			}),
			logical.CreateOperation: write,
			logical.UpdateOperation: write,
			logical.DeleteOperation: mutates(framework.PathOperation{
				Callback:     b.deleteConnection,
				Summary:      "Delete a connection that no role uses.",
				DisplayAttrs: operation("delete", "connection"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses:    done(),
			}),
		},
		HelpSynopsis: "How to reach a system in which secrets live.",
		HelpDescription: `
A write proves the connection before it is stored, unless verify_connection is
false. What is left out keeps its value, secrets included, with one exception:
secrets do not follow an address, so changing where a connection leads requires
them again. Secrets are never shown. A connection that a role uses cannot be
deleted (409).`,
	}
}

func (b *Backend) connectionAnswer() map[string]*framework.FieldSchema {
	return b.connections.shown(map[string]*framework.FieldSchema{
		"type":               text("Type of system."),
		"last_root_rotation": moment("When rotate-root last changed the connection's own credential; null if never."),
	})
}

var exampleConnection = map[string]any{
	"type": "postgresql", "username": "vault_admin", "allowed_roles": []string{"*"}, "verify_connection": true,
	"connection_url":     "postgresql://{{username}}:{{password}}@db:5432/intelliflow?sslmode=verify-full",
	"last_root_rotation": "2026-03-01T10:00:00Z",
}

func (b *Backend) connectionCheckPath() *framework.Path {
	return &framework.Path{
		Pattern: pattern("connections/:name/check"),
		Fields:  map[string]*framework.FieldSchema{"name": nameField("connection")},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: asksActive(framework.PathOperation{
				Callback:     b.checkConnection,
				Summary:      "Check what a connection's credential may do.",
				DisplayAttrs: operation("check", "connection"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses: answers("The result, line by line.", linesFields(), map[string]any{"lines": []any{
					map[string]any{"check": "login", "result": "pass", "detail": "the server accepts the connection's user"},
					map[string]any{"check": "create", "result": "pass", "detail": "the connection's user may create users"},
				}}),
			}),
		},
		HelpSynopsis: "Check what a connection's own credential may do.",
		HelpDescription: `
Looks, line by line, whether everything that rotations will need is allowed. It
changes nothing. A line that fails says what would help.`,
	}
}

func (b *Backend) rotateRootPath() *framework.Path {
	return &framework.Path{
		Pattern: pattern("connections/:name/rotate-root"),
		Fields:  map[string]*framework.FieldSchema{"name": nameField("connection")},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: mutates(framework.PathOperation{
				Callback:     b.rotateRoot,
				Summary:      "Rotate a connection's own credential.",
				DisplayAttrs: operation("rotate", "connection-root"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses:    done(),
			}),
		},
		HelpSynopsis: "Rotate a connection's own credential.",
		HelpDescription: `
Afterwards only Vault knows it. The new credential is stored before it is set, and
after a crash the engine finds out which one works.`,
	}
}

func (b *Backend) connectionExists(ctx context.Context, _ *logical.Request, data *framework.FieldData) (bool, error) {
	_, err := b.engine.Connection(ctx, named(data))
	return exists(err)
}

// exists turns the result of a look into that of an existence check.
func exists(err error) (bool, error) {
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	return err == nil, err
}

func (b *Backend) readConnection(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	c, err := b.engine.Connection(ctx, named(data))
	if err != nil {
		return nil, err
	}
	out := b.connections.public(c.Type, c.Values)
	out["type"], out["last_root_rotation"] = c.Type, renderTime(c.RotatedTime)
	return &logical.Response{Data: out}, nil
}

func (b *Backend) writeConnection(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	kind, err := b.connections.typeGiven(data, func() (string, error) {
		stored, err := b.engine.Connection(ctx, named(data))
		if err != nil {
			return "", err
		}
		return stored.Type, nil
	})
	if err != nil {
		return nil, err
	}
	values, secrets, err := b.connections.collect(kind, data)
	if err != nil {
		return nil, err
	}
	warnings, err := b.engine.WriteConnection(ctx, backend.Write{Name: named(data), Given: values, Secrets: secrets, Actor: actor(req)})
	if err != nil {
		return nil, err
	}
	return &logical.Response{Warnings: warnings}, nil
}

func (b *Backend) deleteConnection(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if err := deleteTakes(req); err != nil {
		return nil, err
	}
	if err := b.engine.DeleteConnection(ctx, named(data)); err != nil {
		return nil, err
	}
	return &logical.Response{}, nil
}

func (b *Backend) checkConnection(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	lines, err := b.engine.CheckConnection(ctx, named(data))
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: renderLines(lines)}, nil
}

func (b *Backend) rotateRoot(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	warnings, err := b.engine.RotateRoot(ctx, named(data))
	if err != nil {
		return nil, err
	}
	return &logical.Response{Warnings: warnings}, nil
}
