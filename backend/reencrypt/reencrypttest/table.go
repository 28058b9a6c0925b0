package reencrypttest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
)

// Table is a table in memory. Keys are in the order of their texts.
type Table struct {
	// Refuses, where it is set, gives the reason for which a value is not taken, or "". It
	// is called under the database's lock.
	Refuses func(key reencrypt.Key, column string, value []byte) string
	// Ignores lets nothing that is swapped take hold, as a trigger may.
	Ignores bool
	// About is what Facts tells.
	About reencrypt.Facts

	db      *Database
	name    string
	key     []string
	columns []string
	rows    map[string]*row
}

type row struct {
	key    reencrypt.Key
	values [][]byte
}

func name(key reencrypt.Key) string { return fmt.Sprintf("%q", []string(key)) }

func (t *Table) column(field, name string) (int, error) {
	i := slices.Index(t.columns, name)
	if i < 0 {
		return 0, fault.Field(field, "names a column that is not there")
	}
	return i, nil
}

// holder is the transaction that holds a row.
func (t *Table) holder(key reencrypt.Key) *Tx {
	for _, tx := range t.db.living {
		if slices.ContainsFunc(tx.writes, func(w write) bool { return w.table == t && slices.Equal(w.key, key) }) {
			return tx
		}
	}
	return nil
}

func (t *Table) store(key reencrypt.Key, values [][]byte) {
	if values == nil {
		delete(t.rows, name(key))
		return
	}
	kept := &row{key: slices.Clone(key), values: make([][]byte, len(t.columns))}
	for i := range min(len(values), len(t.columns)) {
		kept.values[i] = bytes.Clone(values[i])
	}
	t.rows[name(key)] = kept
}

// Put writes a whole row in a transaction of its own.
func (t *Table) Put(key reencrypt.Key, values ...[]byte) error {
	tx := t.db.Begin("put")
	err := tx.Put(t, key, values...)
	tx.Commit()
	return err
}

// Get reads a row; nil where there is none.
func (t *Table) Get(key reencrypt.Key) [][]byte {
	t.db.mu.Lock()
	defer t.db.mu.Unlock()
	r := t.rows[name(key)]
	if r == nil {
		return nil
	}
	values := make([][]byte, len(r.values))
	for i, v := range r.values {
		values[i] = bytes.Clone(v)
	}
	return values
}

// Keys are those of all rows, in order.
func (t *Table) Keys() []reencrypt.Key {
	t.db.mu.Lock()
	defer t.db.mu.Unlock()
	return t.sorted()
}

func (t *Table) sorted() []reencrypt.Key {
	var keys []reencrypt.Key
	for r := range maps.Values(t.rows) {
		keys = append(keys, r.key)
	}
	slices.SortFunc(keys, func(a, b reencrypt.Key) int { return slices.Compare(a, b) })
	return keys
}

// opened is a Table as a target sees it.
type opened struct {
	*Table
	at            []int // of the target's columns
	context, data int   // -1: none
}

func (o *opened) read(r *row, done string) reencrypt.Row {
	out := reencrypt.Row{Key: slices.Clone(r.key), Values: make([][]byte, len(o.at))}
	for i, at := range o.at {
		if v := r.values[at]; !bytes.HasPrefix(v, []byte(done)) {
			out.Values[i] = bytes.Clone(v)
		}
	}
	if o.context >= 0 {
		out.Context = bytes.Clone(r.values[o.context])
	}
	if o.data >= 0 {
		out.AssociatedData = bytes.Clone(r.values[o.data])
	}
	return out
}

// Page implements reencrypt.Table.
func (o *opened) Page(ctx context.Context, after reencrypt.Key, limit int, done string) (rows []reencrypt.Row, err error) {
	err = o.db.act(ctx, Page, func() error {
		size := 0
		for _, key := range o.sorted() {
			if after != nil && slices.Compare(key, after) <= 0 {
				continue
			}
			if len(rows) == limit || size >= reencrypt.PageBytes {
				break
			}
			r := o.read(o.rows[name(key)], done)
			for _, v := range r.Values {
				size += len(v)
			}
			rows = append(rows, r)
		}
		return nil
	})
	return rows, err
}

// Read implements reencrypt.Table.
func (o *opened) Read(ctx context.Context, keys []reencrypt.Key, done string) (rows []reencrypt.Row, err error) {
	err = o.db.act(ctx, Read, func() error {
		for _, key := range keys {
			if r := o.rows[name(key)]; r != nil {
				rows = append(rows, o.read(r, done))
			}
		}
		return nil
	})
	return rows, err
}

// Swap implements reencrypt.Table.
func (o *opened) Swap(ctx context.Context, changes []reencrypt.Change) (results []reencrypt.Result, err error) {
	err = o.db.act(ctx, Swap, func() error {
		for i := range changes {
			results = append(results, o.swap(&changes[i]))
		}
		return nil
	})
	return results, err
}

func (o *opened) swap(c *reencrypt.Change) reencrypt.Result {
	r := o.rows[name(c.Row.Key)]
	switch {
	case o.holder(c.Row.Key) != nil:
		return reencrypt.Result{Outcome: reencrypt.Locked}
	case r == nil,
		o.context >= 0 && !same(r.values[o.context], c.Row.Context),
		o.data >= 0 && !same(r.values[o.data], c.Row.AssociatedData):
		return reencrypt.Result{Outcome: reencrypt.Moved}
	}
	for i, at := range o.at {
		if c.New[i] != nil && !same(r.values[at], c.Row.Values[i]) {
			return reencrypt.Result{Outcome: reencrypt.Moved}
		}
	}
	for i, at := range o.at {
		if c.New[i] != nil && o.Refuses != nil {
			if reason := o.Refuses(r.key, o.columns[at], c.New[i]); reason != "" {
				return reencrypt.Result{Outcome: reencrypt.Refused, Reason: reason}
			}
		}
	}
	for i, at := range o.at {
		if c.New[i] != nil && !o.Ignores {
			r.values[at] = bytes.Clone(c.New[i])
		}
	}
	return reencrypt.Result{Outcome: reencrypt.Changed}
}

// same tells NULL from an empty value.
func same(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

// Facts implements reencrypt.Table.
func (o *opened) Facts(ctx context.Context) (facts reencrypt.Facts, err error) {
	err = o.db.act(ctx, Facts, func() error {
		facts = o.About
		return nil
	})
	return facts, err
}
