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
	typeSchema, typName string // below all domains
	// ownText tells that the server itself makes texts of its values, and values of texts.
	ownText bool
	// ofEnum is a domain over an enum: the one is not compared with the other.
	ofEnum bool
}

// attributesQuery follows domains to the type below them. Its text is made by the server's
// own functions where it is one of pg_catalog, or an enum, and there is no cast by a
// function of somebody else's.
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
	has_column_privilege($1, a.attnum, 'SELECT'), has_column_privilege($1, a.attnum, 'UPDATE'), n.nspname::text, b.typname::text,
	(b.typnamespace = 'pg_catalog'::regnamespace OR b.typtype = 'e') AND NOT EXISTS (SELECT FROM pg_cast c JOIN pg_proc f ON f.oid = c.castfunc
		WHERE (c.castsource = b.oid AND c.casttarget = 'text'::regtype OR c.casttarget = b.oid AND c.castsource = 'text'::regtype)
			AND f.pronamespace <> 'pg_catalog'::regnamespace),
	b.typtype = 'e' AND b.oid <> a.atttypid
FROM pg_attribute a JOIN base b ON b.attnum = a.attnum AND b.typtype <> 'd'
	JOIN pg_namespace n ON n.oid = b.typnamespace
WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped`

// columns looks at all columns that the target names.
func (o *opening) columns(ctx context.Context) error {
	all := map[string]*attribute{}
	err := o.s.Each(ctx, attributesQuery, []any{o.table.oid}, func(scan func(...any) error) error {
		var name string
		var a attribute
		err := scan(&name, &a.number, &a.base, &a.shown, &a.notNull, &a.generated, &a.mayRead, &a.mayUpdate, &a.typeSchema, &a.typName, &a.ownText, &a.ofEnum)
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
		o.table.keys = append(o.table.keys, keyColumn{name: Ident(name), place: place, kind: Ident(a.typeSchema) + "." + Ident(a.typName), cast: a.ofEnum})
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
	case !a.ownText:
		return nil, fault.Field(field, "must not name %s, of the type %s: reading it would run what others may have written, so that it must be a type of the server's own, an enum or a domain, without a cast to or from text of somebody else's", Ident(name), a.shown)
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
