package rotationsecrets

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/access"
)

func (b *Backend) accessPaths() []*framework.Path {
	return []*framework.Path{{
		Pattern: pattern("access/:name"),
		Fields:  map[string]*framework.FieldSchema{"name": nameField("role")},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: asksActive(framework.PathOperation{
				Callback:     b.readAccess,
				Summary:      "See who read a role's secret.",
				DisplayAttrs: operation("read", "access"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses:    answers("Who read each version, how often, first and last.", accessFields(), exampleAccess()),
			}),
		},
		HelpSynopsis: "Who read a role's secret, how often, and how fast.",
		HelpDescription: `
Every read of creds/:name and creds/:name/versions/:n that gives a secret counts; the
second key of a pair counts as read too. Use inside Vault (sign, encrypt, decrypt and
the like) does not: no secret leaves Vault. Vault's audit log has both.

The last 20 versions that were read are kept, with up to 64 readers each; what further
ones read is summed up in others. Counts are kept in memory and stored once a minute,
of 500 roles in turn: a crash loses what was read since flushed_time.`,
	}}
}

func accessFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"role":              text("Name of the role."),
		"reads_last_minute": number("How many reads the active node answered within the last minute."),
		"threshold":         number("Above how many reads a minute people are told; null for any number."),
		"versions": list("For each version that was read, by number: version, reads, first_time, last_time, and who read it. " +
			"readers has, whoever read most first, entity_id, display_name, accessor_hash, address, reads, first_time and " +
			"last_time; accessor_hash is null for a token without an accessor, and where the reads of one reader's many tokens " +
			"were put together. others has readers_at_least and reads of those who are not named; reads is the sum."),
		"flushed_time": moment("When reads were last stored; null for never. What was read since is in the answer, and would be lost in a crash."),
		"complete":     flag("Whether every read is counted."),
		"note":         text("If not, which are missing."),
	}
}

func (b *Backend) readAccess(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	report, err := b.engine.Access(ctx, named(data))
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: renderAccess(report)}, nil
}

func renderAccess(a *backend.AccessReport) map[string]any {
	versions := make([]any, 0, len(a.Versions))
	for i := range a.Versions {
		v := &a.Versions[i]
		versions = append(versions, map[string]any{
			"version": v.Version, "reads": v.Reads, "first_time": renderTime(v.First), "last_time": renderTime(v.Last),
			"readers": renderLedger(v.Readers),
			"others":  map[string]any{"readers_at_least": v.Others.Readers, "reads": v.Others.Reads},
		})
	}
	return map[string]any{
		"role":              a.Role,
		"reads_last_minute": a.LastMinute,
		"threshold":         orNull(a.Threshold),
		"versions":          versions,
		"flushed_time":      renderTime(a.FlushedTime),
		"complete":          a.Complete,
		"note":              orNull(a.Note),
	}
}

func renderLedger(readers []access.Reader) []any {
	out := make([]any, 0, len(readers))
	for _, r := range readers {
		out = append(out, renderReader(r))
	}
	return out
}

func renderReader(r access.Reader) map[string]any {
	return map[string]any{
		"entity_id": orNull(r.EntityID), "display_name": orNull(r.DisplayName), "accessor_hash": orNull(r.AccessorHash),
		"address": orNull(r.Address), "reads": r.Reads, "first_time": renderTime(r.First), "last_time": renderTime(r.Last),
	}
}
