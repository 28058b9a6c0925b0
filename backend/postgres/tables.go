package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
)

// Tables gives access to the rows in the connection's own database.
type Tables struct{ db *DB }

// Tables gives access to the rows in the connection's own database.
func (db *DB) Tables() *Tables { return &Tables{db} }

var (
	_ reencrypt.Database = (*Tables)(nil)
	_ reencrypt.Table    = (*table)(nil)
)

// table is a target's table. Names in it are quoted.
type table struct {
	db   *DB
	oid  uint32
	name string
	// keys are in the order of the index, each with the place it has in a Key.
	keys    []keyColumn
	columns []column
	// context and data are nil where the target has no such column.
	context, data *column
}

// column is one whose values are read.
type column struct {
	name, plain string
	bytea       bool
}

// oid is of the type in which its values travel.
func (c *column) oid() uint32 {
	if c.bytea {
		return pgtype.ByteaOID
	}
	return pgtype.TextOID
}

// read is what a value of the table, named t in statements, is as bytes. The collation "C" compares by bytes, whatever the
// column's own takes for equal.
func (c *column) read() string {
	if c.bytea {
		return "t." + c.name
	}
	return "(t." + c.name + `::text COLLATE "C")`
}

// begins asks whether a value has a prefix of so many bytes. To compare that of a text costs
// a fifth of cutting it off, which has to find where characters begin.
func (c *column) begins(prefix string, length int) string {
	if c.bytea {
		return fmt.Sprintf("substr(%s, 1, %d) = %s", c.read(), length, prefix)
	}
	return fmt.Sprintf("starts_with(%s, %s)", c.read(), prefix)
}

// keyColumn is a column of the key.
type keyColumn struct {
	name  string
	place int    // in a Key
	kind  string // its type, below all domains, whose checks are nothing to be asked
	// collation is the index's; empty where the type has none.
	collation string
	// cast tells that the column has to be made its type before it is compared.
	cast bool
}

// of is the column as the index sorts it.
func (k *keyColumn) of() string {
	if k.cast {
		return "(t." + k.name + "::" + k.kind + ")" + k.collation
	}
	return "t." + k.name + k.collation
}

// value makes of a text what is compared with the column.
func (k *keyColumn) value(text string) string { return "(" + text + "::" + k.kind + ")" + k.collation }

// operator is how keys are compared: never by an operator of somebody else's.
func (t *table) operator(name string) string { return "OPERATOR(pg_catalog." + name + ")" }

// relation is what the catalog says of a table.
type relation struct {
	oid                                    uint32
	kind, persistence                      string
	rules, children, foreign, hidden, used bool
}

const relationQuery = `
SELECT c.oid, c.relkind::text, c.relpersistence::text,
	EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid),
	c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid),
	c.relkind = 'p' AND EXISTS (SELECT FROM pg_partition_tree(c.oid) p JOIN pg_class l ON l.oid = p.relid WHERE l.relkind = 'f'),
	row_security_active(c.oid),
	has_schema_privilege(n.oid, 'USAGE')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2`

// relationKinds are those in which no rows of ours can lie.
var relationKinds = map[string]string{
	"v": "a view: name the table that it shows", "m": "a materialized view: name the table that it shows",
	"f": "a foreign table: make a connection to the database in which its rows are", "S": "a sequence", "c": "a composite type",
	"i": "an index", "I": "an index", "t": "a part of another table",
}

// Open implements reencrypt.Database.
func (d *Tables) Open(ctx context.Context, target *reencrypt.Target) (reencrypt.Table, error) {
	name, err := ParseTableName(target.Table)
	if err != nil {
		return nil, err
	}
	if err := checkTarget(name, target); err != nil {
		return nil, err
	}
	t := &table{db: d.db, name: name.String()}
	err = d.db.withRows(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		o := &opening{s: d.db.session(conn), table: t, target: target}
		if err := o.relation(ctx, name); err != nil {
			return err
		}
		if err := o.columns(ctx); err != nil {
			return err
		}
		if err := o.index(ctx); err != nil {
			return err
		}
		return o.code(ctx)
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// checkTarget refuses what can be seen to be wrong without the server.
func checkTarget(name TableName, t *reencrypt.Target) error {
	if strings.HasPrefix(name.Schema, "pg_") || name.Schema == "information_schema" {
		return fault.Field("table", "must not be in a schema of the server's own")
	}
	if len(t.KeyColumns) == 0 {
		return fault.Field("key_columns", "is required: name the columns of the primary key")
	}
	if len(t.Columns) == 0 {
		return fault.Field("columns", "is required: name the columns that hold ciphertexts")
	}
	for i, name := range t.KeyColumns {
		if slices.Contains(t.KeyColumns[:i], name) {
			return fault.Field("key_columns", "names %s twice", Ident(name))
		}
	}
	for i, name := range t.Columns {
		switch {
		case slices.Contains(t.Columns[:i], name):
			return fault.Field("columns", "names %s twice", Ident(name))
		case slices.Contains(t.KeyColumns, name):
			return fault.Field("columns", "must not name %s, which is among key_columns: a row is found by what does not change", Ident(name))
		case name == t.ContextColumn:
			return fault.Field("context_column", "must not be among columns: what is encrypted is no context")
		case name == t.AssociatedDataColumn:
			return fault.Field("associated_data_column", "must not be among columns: what is encrypted is no associated data")
		}
	}
	return nil
}

// opening looks at a target's table, and changes nothing.
type opening struct {
	s      *Session
	table  *table
	target *reencrypt.Target
	// numbers are the columns' by name.
	numbers map[string]int16
}

func (o *opening) relation(ctx context.Context, name TableName) error {
	var r relation
	found, err := o.s.Row(ctx, relationQuery, []any{name.Schema, name.Table},
		&r.oid, &r.kind, &r.persistence, &r.rules, &r.children, &r.foreign, &r.hidden, &r.used)
	if err != nil {
		return in("look for the table", err)
	}
	what, wrong := relationKinds[r.kind]
	switch {
	case !found:
		return fault.Field("table", "is not there: the connection's database has no table %s", name)
	case wrong:
		return fault.Field("table", "must be a table, but %s is %s", name, what)
	case r.persistence == "t":
		return fault.Field("table", "must not be a temporary table")
	case !r.used:
		return fault.Field("table", "is not allowed to the connection's user: grant it USAGE on the schema %s", Ident(name.Schema))
	case r.foreign:
		return fault.Field("table", "has partitions that are foreign tables: name the other partitions one by one, each as a target")
	case r.children:
		return fault.Field("table", "has tables that inherit from it, over which no key is unique: use a partitioned table")
	case r.rules:
		return fault.Field("table", "has rules, which may make something else of an UPDATE: use triggers in their place")
	case r.hidden:
		return fault.Field("table", "has row security, which may hide rows from the connection's user: give it BYPASSRLS, or let the table's owner, without FORCE ROW LEVEL SECURITY, be that user")
	}
	o.table.oid = r.oid
	return nil
}
