package postgres

import (
	"context"
	"slices"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// attribute is what the catalog says of a column.
type attribute struct {
	number              int16
	base                string // name of the type of pg_catalog below all domains
	shown               string
	notNull, generated  bool
	mayRead, mayUpdate  bool
	typeSchema, typName string
}

// attributesQuery follows domains to the type below them.
const attributesQuery = `
WITH RECURSIVE base AS (
	SELECT a.attnum, t.oid, t.typtype, t.typbasetype, t.typname, t.typnamespace
	FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
	UNION ALL
	SELECT b.attnum, t.oid, t.typtype, t.typbasetype, t.typname, t.typnamespace
	FROM base b JOIN pg_type t ON t.oid = b.typbasetype WHERE b.typtype = 'd'
)
SELECT a.attname::text, a.attnum, CASE WHEN b.typnamespace = 'pg_catalog'::regnamespace THEN b.typname::text ELSE '' END,
	format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated <> '',
	has_column_privilege($1, a.attnum, 'SELECT'), has_column_privilege($1, a.attnum, 'UPDATE'), n.nspname::text, t.typname::text
FROM pg_attribute a JOIN base b ON b.attnum = a.attnum AND b.typtype <> 'd'
	JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped`

// columns looks at all columns that the target names.
func (o *opening) columns(ctx context.Context) error {
	all := map[string]*attribute{}
	err := o.s.Each(ctx, attributesQuery, []any{o.table.oid}, func(scan func(...any) error) error {
		var name string
		var a attribute
		err := scan(&name, &a.number, &a.base, &a.shown, &a.notNull, &a.generated, &a.mayRead, &a.mayUpdate, &a.typeSchema, &a.typName)
		all[name] = &a
		return err
	})
	if err != nil {
		return in("look at the table's columns", err)
	}
	o.numbers = map[string]int16{}
	for place, name := range o.target.KeyColumns {
		a, err := o.readable("key_columns", name, all)
		if err != nil {
			return err
		}
		if !a.notNull {
			return fault.Field("key_columns", "must be NOT NULL, which %s is not: take the columns of the primary key", Ident(name))
		}
		o.numbers[name] = a.number
		o.table.keys = append(o.table.keys, keyColumn{name: Ident(name), place: place, kind: Ident(a.typeSchema) + "." + Ident(a.typName)})
	}
	for _, name := range o.target.Columns {
		c, err := o.ciphertexts(name, all)
		if err != nil {
			return err
		}
		o.table.columns = append(o.table.columns, c)
	}
	if o.table.context, err = o.beside("context_column", o.target.ContextColumn, all); err != nil {
		return err
	}
	o.table.data, err = o.beside("associated_data_column", o.target.AssociatedDataColumn, all)
	return err
}

// readable finds a column that the connection's user may read.
func (o *opening) readable(field, name string, all map[string]*attribute) (*attribute, error) {
	a := all[name]
	switch {
	case a == nil:
		return nil, fault.Field(field, "names %s, which %s does not have: names are taken as they are, without quotes", Ident(name), o.table.name)
	case !a.mayRead:
		return nil, fault.Field(field, "names %s, which the connection's user may not read: grant it SELECT", Ident(name))
	}
	return a, nil
}

// ciphertexts looks at a column that holds ciphertexts.
func (o *opening) ciphertexts(name string, all map[string]*attribute) (column, error) {
	a, err := o.readable("columns", name, all)
	if err != nil {
		return column{}, err
	}
	switch {
	case a.base == "bpchar":
		return column{}, fault.Field("columns", "must be of type text, varchar or bytea, but %s is %s, which pads values with blanks", Ident(name), a.shown)
	case !slices.Contains([]string{"text", "varchar", "bytea"}, a.base):
		return column{}, fault.Field("columns", "must be of type text, varchar or bytea, but %s is %s", Ident(name), a.shown)
	case a.generated:
		return column{}, fault.Field("columns", "must not name %s: the server computes it", Ident(name))
	case !a.mayUpdate:
		return column{}, fault.Field("columns", "names %s, which the connection's user may not change: grant it UPDATE", Ident(name))
	}
	return column{name: Ident(name), plain: name, bytea: a.base == "bytea"}, nil
}

// beside looks at the column of what values were encrypted with.
func (o *opening) beside(field, name string, all map[string]*attribute) (*column, error) {
	if name == "" {
		return nil, nil
	}
	a, err := o.readable(field, name, all)
	if err != nil {
		return nil, err
	}
	if a.base == "bpchar" {
		return nil, fault.Field(field, "must not be %s: whether its blanks belong to a value depends on who reads it", a.shown)
	}
	return &column{name: Ident(name), plain: name, bytea: a.base == "bytea"}, nil
}
