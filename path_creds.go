package rotationsecrets

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

func (b *Backend) credsPaths() []*framework.Path {
	return []*framework.Path{b.currentCredsPath(), b.versionCredsPath()}
}

func (b *Backend) currentCredsPath() *framework.Path {
	return &framework.Path{
		Pattern: pattern("creds/:name"),
		Fields:  map[string]*framework.FieldSchema{"name": nameField("role")},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: reads(framework.PathOperation{
				Callback:     b.readCreds,
				Summary:      "Read the current credential.",
				DisplayAttrs: operation("read", "credentials"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses:    answers("The current credential; keys that do not apply are left out.", credsFields(), exampleCreds(4, "database_v4_k3x9q2", "aV8...")),
			}),
		},
		HelpSynopsis: "The current credential of a role, for applications.",
		HelpDescription: `
Stays valid for at least "ttl" seconds from the read, whatever happens to the role
meanwhile, but for an emergency, a write with force=true, and kinds that change
one credential where it stands. Read again when the ttl is over. Nothing but ttl
differs from read to read until the secret is rotated. There is no lease.

Vault Agent and the Vault Secrets Operator (allowStaticCreds) follow it as it is.`,
	}
}

func (b *Backend) versionCredsPath() *framework.Path {
	return &framework.Path{
		Pattern: pattern("creds/:name/versions/:version"),
		Fields: map[string]*framework.FieldSchema{
			"name":    nameField("role"),
			"version": {Type: framework.TypeInt, Required: true, Description: "Number of a version that is current or retiring."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: asksActive(framework.PathOperation{
				Callback:     b.readVersionCreds,
				Summary:      "Read the credential of another live version.",
				DisplayAttrs: operation("read", "credentials-version"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses:    answers("The credential of that version.", versionCredsFields(), exampleVersionCreds()),
			}),
		},
		HelpSynopsis: "The credential of one live version of a role.",
		HelpDescription: `
For the rare reader that needs a version other than the current one while that one
still lives. The path is apart from creds/:name, so that a policy can withhold it.
A version that has ended answers 404.`,
	}
}

func credsFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"last_vault_rotation": text("When the credential last changed, RFC 3339; a rollback is a change too."),
		"ttl":                 number("For how many seconds the credential certainly stays valid."),
		"rotation_period":     number("Seconds between rotations; for a cron schedule the shortest gap."),
		"version":             number("Number of the version."),
		"username":            sometimes(framework.TypeString, "(type postgresql) The user."),
		"password":            sometimes(framework.TypeString, "(type postgresql) Its password."),
		"host":                sometimes(framework.TypeString, "(type postgresql) Where the database is."),
		"port":                sometimes(framework.TypeInt, "(type postgresql) Its port."),
		"database":            sometimes(framework.TypeString, "(type postgresql) Its name."),
		"connection_url":      sometimes(framework.TypeString, "(type postgresql) All of it as one URL, ready to use."),
		"primary_key":         sometimes(framework.TypeString, "(type api-key) The key to use, always."),
		"primary_key_id":      sometimes(framework.TypeString, "(type api-key) The provider's id of it, where it has one."),
		"secondary_key":       sometimes(framework.TypeString, "(type api-key) The other live key, if there is one: the one that stands by, else the one before, until the end of its grace."),
		"secondary_key_id":    sometimes(framework.TypeString, "(type api-key) The provider's id of it, where it has one."),
		"kid":                 sometimes(framework.TypeString, "(type jwt) Id of the key."),
		"algorithm":           sometimes(framework.TypeString, "(type jwt) What it signs with, such as ES256 (RFC 7518)."),
		"public_key":          sometimes(framework.TypeString, "(type jwt) The public key, PEM."),
		"public_jwk":          sometimes(framework.TypeMap, "(type jwt) The public key as a JSON Web Key (RFC 7517)."),
		"private_key":         sometimes(framework.TypeString, "(type jwt) The private key, PEM; only of a role with exportable=true."),

		"key_type":               sometimes(framework.TypeString, "(type encryption-key) The cipher."),
		"derived":                sometimes(framework.TypeBool, "(type encryption-key) Whether requests need a context."),
		"latest_version":         sometimes(framework.TypeInt, "(type encryption-key) Number of the version that encrypts."),
		"min_decryption_version": sometimes(framework.TypeInt, "(type encryption-key) The lowest number of a version that decrypts."),
		"key":                    sometimes(framework.TypeString, "(type encryption-key) The key itself, in base64; only of a role with exportable=true."),
	}
}

func versionCredsFields() map[string]*framework.FieldSchema {
	fields := credsFields()
	fields["state"] = text("current or retiring.")
	fields["expire_time"] = &framework.FieldSchema{Type: framework.TypeTime, Description: "When a retiring version ends."}
	return fields
}

func exampleCreds(version int, user, password string) map[string]any {
	return map[string]any{
		"last_vault_rotation": "2026-03-01T10:00:00Z", "ttl": 900, "rotation_period": 2592000, "version": version,
		"username": user, "password": password, "host": "db", "port": 5432, "database": "intelliflow",
		"connection_url": "postgresql://" + user + ":" + password + "@db:5432/intelliflow?sslmode=verify-full",
	}
}

func exampleVersionCreds() map[string]any {
	out := exampleCreds(3, "database_v3_w7m1p0", "Zk2...")
	out["state"], out["expire_time"] = "retiring", "2026-03-01T11:00:00Z"
	return out
}

func (b *Backend) readCreds(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	return credsResponse(b.engine.Creds(ctx, named(data), actor(req)))
}

func (b *Backend) readVersionCreds(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	version, err := versionNumber(data)
	if err != nil {
		return nil, err
	}
	if version == 0 {
		return nil, fault.Field("version", "must be a version number: 1 or more")
	}
	return credsResponse(b.engine.VersionCreds(ctx, named(data), version, actor(req)))
}

func credsResponse(c *backend.Creds, err error) (*logical.Response, error) {
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: c.Data, Warnings: c.Warnings}, nil
}
