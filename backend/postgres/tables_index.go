package postgres

import (
	"context"
	"slices"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// indexQuery lists the columns of the indexes that make rows unique, in their order, each
// with how it sorts. One that sorts otherwise than ORDER BY does could not be used, and
// each page would read the whole table; one that is checked late, or holds part of the
// rows, makes nothing unique.
const indexQuery = `
SELECT i.indexrelid, i.indkey[k.n - 1]::int2, i.indoption[k.n - 1]::int2,
	coalesce(quote_ident(cn.nspname) || '.' || quote_ident(co.collname), ''),
	EXISTS (SELECT FROM pg_opclass d WHERE d.opcmethod = o.opcmethod AND d.opcdefault AND d.opcfamily = o.opcfamily AND d.opcintype = o.opcintype),
	coalesce((SELECT quote_ident(opn.nspname) FROM pg_amop m JOIN pg_operator op ON op.oid = m.amopopr JOIN pg_namespace opn ON opn.oid = op.oprnamespace
		WHERE m.amopfamily = o.opcfamily AND m.amoplefttype = o.opcintype AND m.amoprighttype = o.opcintype AND m.amopstrategy = 5 AND op.oprname = '>'), '')
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am am ON am.oid = c.relam
	CROSS JOIN LATERAL generate_series(1, i.indnkeyatts) k(n)
	JOIN pg_opclass o ON o.oid = i.indclass[k.n - 1]
	LEFT JOIN pg_collation co ON co.oid = i.indcollation[k.n - 1] LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
WHERE i.indrelid = $1 AND am.amname = 'btree' AND i.indisunique AND i.indisvalid AND i.indisready AND i.indimmediate
	AND i.indpred IS NULL AND i.indexprs IS NULL
ORDER BY i.indisprimary DESC, i.indexrelid, k.n`

// sortedColumn is a column of an index.
type sortedColumn struct {
	number, option       int16
	collation, namespace string
	usual                bool
}

// Orders of an index that ORDER BY asks for, read forwards or backwards.
const (
	ascending  int16 = 0
	descending int16 = 3 // with NULLs first
)

// index finds the index that makes the key unique, and by which pages are read.
func (o *opening) index(ctx context.Context) error {
	var all [][]sortedColumn
	var last uint32
	err := o.s.Each(ctx, indexQuery, []any{o.table.oid}, func(scan func(...any) error) error {
		var id uint32
		var c sortedColumn
		if err := scan(&id, &c.number, &c.option, &c.collation, &c.usual, &c.namespace); err != nil {
			return err
		}
		if id != last {
			all, last = append(all, nil), id
		}
		all[len(all)-1] = append(all[len(all)-1], c)
		return nil
	})
	if err != nil {
		return in("look at the table's indexes", err)
	}
	covered := false
	for _, index := range all {
		if !o.covers(index) {
			continue
		}
		covered = true
		if sortsAsAsked(index) {
			o.follow(index)
			return nil
		}
	}
	if covered {
		return fault.Field("key_columns", "have a unique index, by which rows cannot be read in order: its columns must be all ascending or all descending, with the usual place of NULLs and the operator classes that their types have by default")
	}
	return fault.Field("key_columns", "must be, together, all columns of a primary key or of another unique index of %s that is not partial, deferrable or of expressions", o.table.name)
}

// covers tells whether an index has exactly the key's columns.
func (o *opening) covers(index []sortedColumn) bool {
	if len(index) != len(o.target.KeyColumns) {
		return false
	}
	return !slices.ContainsFunc(o.target.KeyColumns, func(name string) bool {
		return !slices.ContainsFunc(index, func(c sortedColumn) bool { return c.number == o.numbers[name] })
	})
}

func sortsAsAsked(index []sortedColumn) bool {
	first := index[0]
	return (first.option == ascending || first.option == descending) && !slices.ContainsFunc(index, func(c sortedColumn) bool {
		// Those of anybody else would run with our rights.
		return !c.usual || c.option != first.option || c.namespace != "pg_catalog"
	})
}

// follow puts the key's columns into the index's order.
func (o *opening) follow(index []sortedColumn) {
	keys := make([]keyColumn, len(index))
	for i, c := range index {
		place := slices.IndexFunc(o.target.KeyColumns, func(name string) bool { return o.numbers[name] == c.number })
		keys[i] = o.table.keys[place]
		if c.collation != "" {
			keys[i].collation = " COLLATE " + c.collation
		}
	}
	o.table.keys = keys
}
