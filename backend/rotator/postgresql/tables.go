package postgresql

import (
	"context"
	"slices"

	"github.com/ryanuber/go-glob"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// Database implements rotator.DataHolder.
func (*ConnectionKind) Database(conn rotator.Connection) (reencrypt.Database, error) {
	c, err := own(conn)
	if err != nil {
		return nil, err
	}
	return &admitted{Tables: c.DB.Tables(), options: c.options}, nil
}

// admitted are the tables of a connection's database that its allowed_tables name.
type admitted struct {
	*postgres.Tables
	options *connectionOptions
}

// Open implements reencrypt.Database.
func (a *admitted) Open(ctx context.Context, target *reencrypt.Target) (reencrypt.Table, error) {
	name, err := postgres.ParseTableName(target.Table)
	if err != nil {
		return nil, err
	}
	if !a.options.admits(name) {
		return nil, fault.Field("table", "is not admitted: connection %q names no such table in its allowed_tables", target.Connection)
	}
	return a.Tables.Open(ctx, target)
}

// admits matches schema and table each for itself: what a pattern says of the one must not
// match a dot in the other.
func (o *connectionOptions) admits(name postgres.TableName) bool {
	return slices.ContainsFunc(o.AllowedTables, func(text string) bool {
		pattern, ok := postgres.ParseTablePattern(text)
		return ok && glob.Glob(pattern.Schema, name.Schema) && glob.Glob(pattern.Table, name.Table)
	})
}

func (o *connectionOptions) checkAllowedTables() error {
	for i, text := range o.AllowedTables {
		if _, ok := postgres.ParseTablePattern(text); !ok {
			return fault.Field("allowed_tables", `entry %d must be schema.table, in which * stands for anything within a name and odd names, without *, are in double quotes, such as billing.* or "Sales".orders`, i+1)
		}
	}
	return nil
}
