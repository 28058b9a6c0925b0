package rotationsecrets

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

func (b *Backend) reencryptPaths() []*framework.Path {
	return []*framework.Path{
		b.reencryptPath(),
		b.reencryptRunPath(),
		b.reencryptControlPath("pause", rotation.Paused, "Stop for now; resume goes on where it stopped.",
			"Rows that were rewritten stay so, and no version ends meanwhile."),
		b.reencryptControlPath("resume", rotation.Goes, "Go on where pause stopped.",
			"In the maintenance window, if the role has one."),
		b.reencryptControlPath("cancel", rotation.Cancelled, "Give the job up.",
			"Rows that were rewritten stay so. The earlier versions decrypt until run, or the job\nof the next rotation, has let their data follow."),
		b.reopenPath(),
		b.listTargetsPath(),
		b.targetPath(),
	}
}

func (b *Backend) reencryptPath() *framework.Path {
	return &framework.Path{
		Pattern: pattern("reencrypt/:name"),
		Fields:  map[string]*framework.FieldSchema{"name": nameField("role")},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: reads(framework.PathOperation{
				Callback:     b.reencryption,
				Summary:      "See how far the re-encryption of a role's data is.",
				DisplayAttrs: operation("read", "reencryption"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses:    answers("The job, its targets, and what still keeps each version.", reencryptionFields(), exampleReencryption()),
			}),
		},
		HelpSynopsis: "How far the stored data is on its way to the current version.",
		HelpDescription: `
After a rotation the job waits for reencrypt_after and for the maintenance window. It
then rewrites the rows of every target, waits until what the earlier versions
encrypted has been stored and what was read of the rows decrypted (settle_period),
and until the transactions of that time have ended, and counts. A version of which nothing is left ends; what is found
begins another pass. Rows that do not decrypt are named by their key and are not
touched: they keep every version that they may belong to.`,
	}
}

func (b *Backend) reencryptRunPath() *framework.Path {
	return &framework.Path{
		Pattern: pattern("reencrypt/:name/run"),
		Fields: map[string]*framework.FieldSchema{
			"name":    nameField("role"),
			"dry_run": {Type: framework.TypeBool, Description: "Count the values of every target by version, list what an update would fire, and touch nothing."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: mutates(framework.PathOperation{
				Callback:     b.runReencryption,
				Summary:      "Let the data follow now, or look what that would touch.",
				DisplayAttrs: operation("run", "reencryption"),
				Examples: []framework.RequestExample{
					example("", nil),
					example("Look first:", map[string]any{"dry_run": true}),
				},
				Responses: answers("What is waived, or, for a dry run, what each target holds.", map[string]*framework.FieldSchema{
					"waives":  sometimes(framework.TypeStringSlice, "What the job does not wait for any more, in sentences."),
					"targets": sometimes(framework.TypeMap, "For a dry run, by target: rows, versions (values by version), foreign (values that are no ciphertext), triggers, partitions, bytes, error."),
				}, map[string]any{"targets": map[string]any{"cards": exampleDryRun()}}),
			}),
		},
		HelpSynopsis: "Start the re-encryption now, outside any window and at full speed.",
		HelpDescription: `
What the job would have waited for is waived and told: reencrypt_after, the
maintenance window, max_rows_per_second. It is not waived that settle_period passes
and that transactions end before a version does. A job that was paused or cancelled
goes on.`,
	}
}

func (b *Backend) reencryptControlPath(verb string, choice rotation.ReencryptionChoice, summary, about string) *framework.Path {
	return &framework.Path{
		Pattern: pattern("reencrypt/:name/" + verb),
		Fields:  map[string]*framework.FieldSchema{"name": nameField("role")},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: mutates(framework.PathOperation{
				Callback: func(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
					return &logical.Response{}, b.engine.ControlReencryption(ctx, named(data), choice)
				},
				Summary:      summary,
				DisplayAttrs: operation(verb, "reencryption"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses:    done(),
			}),
		},
		HelpSynopsis:    summary,
		HelpDescription: about,
	}
}

func (b *Backend) reopenPath() *framework.Path {
	return &framework.Path{
		Pattern: pattern("reencrypt/:name/reopen"),
		Fields: map[string]*framework.FieldSchema{
			"name":    nameField("role"),
			"version": {Type: framework.TypeInt, Required: true, Description: "The disabled version."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: mutates(framework.PathOperation{
				Callback:     b.reopen,
				Summary:      "Let a disabled version decrypt again.",
				DisplayAttrs: operation("reopen", "version"),
				Examples:     []framework.RequestExample{example("", map[string]any{"version": 1})},
				Responses: answers("The Version.", versionFields(), renderVersion(&rotation.Version{
					Number: 1, State: rotation.Retiring, Identifier: "3f6c1d9a", CreatedTime: exampleTime, ActivatedTime: exampleTime, RetireAt: exampleTime,
				}, nil)),
			}),
		},
		HelpSynopsis: "Let a disabled version decrypt again, beside the current one.",
		HelpDescription: `
For data that came back: a backup was restored, or a table was never named as a
target. The version decrypts, and does not encrypt; it ends again when its data has
followed. One whose material was destroyed cannot come back (409).`,
	}
}

func (b *Backend) reencryption(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	status, err := b.engine.Reencryption(ctx, named(data))
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: renderReencryption(status)}, nil
}

func (b *Backend) runReencryption(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if data.Get("dry_run").(bool) {
		looks, err := b.engine.DryRunReencryption(ctx, named(data))
		if err != nil {
			return nil, err
		}
		targets := map[string]any{}
		for name, look := range looks {
			targets[name] = renderDryRun(look)
		}
		return &logical.Response{Data: map[string]any{"targets": targets}}, nil
	}
	waives, err := b.engine.RunReencryption(ctx, named(data))
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{"waives": orEmpty(waives)}}, nil
}

func (b *Backend) reopen(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	number, err := versionNumber(data)
	if err != nil {
		return nil, err
	}
	if number == 0 {
		return nil, fault.Field("version", "is required: the number of a disabled version")
	}
	v, err := b.engine.ReopenVersion(ctx, named(data), number)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: renderVersion(v, nil)}, nil
}
