package rotationsecrets

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
)

func (b *Backend) listTargetsPath() *framework.Path {
	return &framework.Path{
		Pattern: lists(pattern("reencrypt/:name/targets")),
		Fields:  map[string]*framework.FieldSchema{"name": nameField("role")},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: reads(framework.PathOperation{
				Callback:     b.listTargets,
				Summary:      "List where a role's data lies.",
				DisplayAttrs: operation("list", "targets"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses:    names("targets", "cards", "documents"),
			}),
		},
		HelpSynopsis:    "List where a role's data lies.",
		HelpDescription: "Lists the names of the role's targets, in alphabetical order.",
	}
}

// targetFields are what a target is made of, as it is written and read.
func targetFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"connection":             {Type: framework.TypeString, Description: "The connection, of type postgresql, whose allowed_tables must admit the table. Required."},
		"table":                  {Type: framework.TypeString, Description: `The table as SQL writes it: schema.table, odd names in double quotes. Required.`},
		"key_columns":            {Type: framework.TypeCommaStringSlice, Description: "The columns that identify a row: those of a primary key or of a unique index. Required."},
		"columns":                {Type: framework.TypeCommaStringSlice, Description: "The columns that hold what the role's versions made; text, varchar or bytea. Required."},
		"context_column":         {Type: framework.TypeString, Description: "The column whose value was the context of each encryption in its row, for roles with derived=true: its bytes, or its text form."},
		"associated_data_column": {Type: framework.TypeString, Description: "The column whose value was the associated data of each encryption in its row: its bytes, or its text form."},
		"content":                {Type: framework.TypeString, Default: string(reencrypt.Ciphertext), AllowedValues: []any{string(reencrypt.Ciphertext), string(reencrypt.DataKey)}, Description: "What the columns hold: ciphertext, or datakey for wrapped data keys, which are wrapped anew while what they protect stays as it is."},
	}
}

func (b *Backend) targetPath() *framework.Path {
	fields := targetFields()
	fields["name"], fields["target"] = nameField("role"), nameField("target")
	write := mutates(framework.PathOperation{
		Callback:     b.writeTarget,
		Summary:      "Say where data of a role lies.",
		DisplayAttrs: operation("write", "target"),
		Examples: []framework.RequestExample{example("", map[string]any{
			"connection": "main", "table": "billing.cards", "key_columns": "id", "columns": "number,holder",
		})},
		Responses: done(),
	})
	return &framework.Path{
		Pattern:        pattern("reencrypt/:name/targets/:target"),
		Fields:         fields,
		ExistenceCheck: b.targetExists,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: reads(framework.PathOperation{
				Callback:     b.readTarget,
				Summary:      "Read where data of a role lies.",
				DisplayAttrs: operation("read", "target"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses:    answers("The target.", targetAnswer(), renderTarget(&exampleTarget)),
			}),
			logical.CreateOperation: write,
			logical.UpdateOperation: write,
			logical.DeleteOperation: mutates(framework.PathOperation{
				Callback:     b.deleteTarget,
				Summary:      "Forget a target; its rows stay as they are.",
				DisplayAttrs: operation("delete", "target"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses:    done(),
			}),
		},
		HelpSynopsis: "A table whose columns hold what a role's versions made.",
		HelpDescription: `
A write looks at the table first, and is refused with what is wrong: a table or a
column that is not there, a key that is not unique, a right that is missing. It
changes nothing there. A write replaces the whole target, and lets the rows be
counted anew before any version ends. What a deleted target holds is counted no
more: versions end without regard to it.`,
	}
}

func targetAnswer() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"connection":             text("The connection."),
		"table":                  text("The table."),
		"key_columns":            always(framework.TypeStringSlice, "The columns that identify a row."),
		"columns":                always(framework.TypeStringSlice, "The columns that hold what the versions made."),
		"context_column":         text("The column of the context; null for none."),
		"associated_data_column": text("The column of the associated data; null for none."),
		"content":                text("ciphertext or datakey."),
	}
}

var exampleTarget = reencrypt.Target{
	Connection: "main", Table: "billing.cards", KeyColumns: []string{"id"}, Columns: []string{"number", "holder"}, Content: reencrypt.Ciphertext,
}

func renderTarget(t *reencrypt.Target) map[string]any {
	return map[string]any{
		"connection": t.Connection, "table": t.Table, "key_columns": t.KeyColumns, "columns": t.Columns,
		"context_column": orNull(t.ContextColumn), "associated_data_column": orNull(t.AssociatedDataColumn), "content": string(t.Content),
	}
}

func (b *Backend) targetExists(ctx context.Context, _ *logical.Request, data *framework.FieldData) (bool, error) {
	_, err := b.engine.Target(ctx, named(data), data.Get("target").(string))
	if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Invalid) {
		return false, nil
	}
	return err == nil, err
}

func (b *Backend) listTargets(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	names, err := b.engine.TargetNames(ctx, named(data))
	if err != nil {
		return nil, err
	}
	return logical.ListResponse(names), nil
}

func (b *Backend) readTarget(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	t, err := b.engine.Target(ctx, named(data), data.Get("target").(string))
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: renderTarget(t)}, nil
}

func (b *Backend) writeTarget(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	t := &reencrypt.Target{
		Connection: data.Get("connection").(string), Table: data.Get("table").(string),
		KeyColumns: data.Get("key_columns").([]string), Columns: data.Get("columns").([]string),
		ContextColumn: data.Get("context_column").(string), AssociatedDataColumn: data.Get("associated_data_column").(string),
		Content: reencrypt.Content(data.Get("content").(string)),
	}
	switch {
	case t.Connection == "":
		return nil, fault.Field("connection", "is required: the name of a connection of type postgresql")
	case t.Table == "":
		return nil, fault.Field("table", "is required, as SQL writes it: schema.table")
	case len(t.KeyColumns) == 0:
		return nil, fault.Field("key_columns", "is required: the columns of a primary key or of a unique index")
	case len(t.Columns) == 0:
		return nil, fault.Field("columns", "is required: the columns that hold what the versions made")
	case t.Content != reencrypt.Ciphertext && t.Content != reencrypt.DataKey:
		return nil, fault.Field("content", "must be %s or %s", reencrypt.Ciphertext, reencrypt.DataKey)
	}
	return &logical.Response{}, b.engine.WriteTarget(ctx, named(data), data.Get("target").(string), t)
}

func (b *Backend) deleteTarget(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if err := deleteTakes(req); err != nil {
		return nil, err
	}
	existed, err := b.engine.DeleteTarget(ctx, named(data), data.Get("target").(string))
	if err != nil || !existed {
		return &logical.Response{}, err
	}
	return &logical.Response{Warnings: []string{"what this target's rows still hold of earlier versions is counted no more: those versions end without regard to it"}}, nil
}
