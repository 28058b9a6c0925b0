// Package reencrypttest is a database in memory, with transactions, row locks and faults,
// for the tests of all who move rows.
package reencrypttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
)

// Op is an act of a Database or Table.
type Op string

// The acts.
const (
	Open         Op = "open"
	Transactions Op = "transactions"
	Count        Op = "count"
	Page         Op = "page"
	Read         Op = "read"
	Swap         Op = "swap"
	Facts        Op = "facts"
)

// Database is one in memory.
type Database struct {
	// Fault is called, without a lock, before each act, and after it: an error before it
	// keeps it from happening, one after it loses its answer. Set it before the first act.
	Fault func(op Op, after bool) error

	mu     sync.Mutex
	tables map[string]*Table
	living []*Tx
	next   int
}

var (
	_ reencrypt.Database = (*Database)(nil)
	_ reencrypt.Table    = (*opened)(nil)
)

// New is an empty database.
func New() *Database { return &Database{tables: map[string]*Table{}} }

// Create makes a table, with the names of its columns.
func (d *Database) Create(name string, key []string, columns ...string) *Table {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := &Table{db: d, name: name, key: key, columns: columns, rows: map[string]*row{}}
	d.tables[name] = t
	return t
}

// act runs an act between its faults.
func (d *Database) act(ctx context.Context, op Op, do func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if d.Fault != nil {
		if err := d.Fault(op, false); err != nil {
			return err
		}
	}
	d.mu.Lock()
	err := do()
	d.mu.Unlock()
	if err == nil && d.Fault != nil {
		err = d.Fault(op, true)
	}
	return err
}

// Open implements reencrypt.Database.
func (d *Database) Open(ctx context.Context, target *reencrypt.Target) (reencrypt.Table, error) {
	var o *opened
	err := d.act(ctx, Open, func() (err error) {
		t := d.tables[target.Table]
		if t == nil {
			return fault.Field("table", "is not there")
		}
		if !slices.Equal(t.key, target.KeyColumns) {
			return fault.Field("key_columns", "must be the columns of a unique key")
		}
		o = &opened{Table: t, context: -1, data: -1}
		for _, name := range target.Columns {
			at, err := t.column("columns", name)
			if err != nil {
				return err
			}
			o.at = append(o.at, at)
		}
		if target.ContextColumn != "" {
			if o.context, err = t.column("context_column", target.ContextColumn); err != nil {
				return err
			}
		}
		if target.AssociatedDataColumn != "" {
			o.data, err = t.column("associated_data_column", target.AssociatedDataColumn)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return o, nil
}

// Transactions implements reencrypt.Database.
func (d *Database) Transactions(ctx context.Context) (all []reencrypt.Transaction, err error) {
	err = d.act(ctx, Transactions, func() error {
		for _, tx := range d.living {
			all = append(all, reencrypt.Transaction{ID: tx.id, What: tx.what, Prepared: tx.prepared})
		}
		return nil
	})
	return all, err
}

// errForeign tells of a table of something else.
var errForeign = errors.New("not a table of this database")

// Count implements reencrypt.Database.
func (d *Database) Count(ctx context.Context, tables []reencrypt.Table) (all []reencrypt.Counts, err error) {
	err = d.act(ctx, Count, func() error {
		for _, each := range tables {
			t, ok := each.(*opened)
			if !ok || t.db != d {
				return errForeign
			}
			counts := reencrypt.Counts{Rows: int64(len(t.rows)), Versions: map[int]int64{}}
			for _, r := range t.rows {
				for _, at := range t.at {
					switch version, isCiphertext := VersionOf(r.values[at]); {
					case isCiphertext:
						counts.Versions[version]++
					case r.values[at] != nil:
						counts.Foreign++
					}
				}
			}
			all = append(all, counts)
		}
		return nil
	})
	return all, err
}

// VersionOf is the version of a ciphertext in transit's form.
func VersionOf(value []byte) (version int, isCiphertext bool) {
	rest, found := bytes.CutPrefix(value, []byte("vault:v"))
	digits, _, ended := strings.Cut(string(rest), ":")
	version, err := strconv.Atoi(digits)
	return version, found && ended && err == nil && len(digits) <= 9 && version >= 0
}

// Tx is a transaction of an application.
type Tx struct {
	db       *Database
	id, what string
	prepared bool
	writes   []write
}

type write struct {
	table  *Table
	key    reencrypt.Key
	values [][]byte // nil: the row is removed
}

// Begin begins a transaction, which lives until it is committed or rolled back.
func (d *Database) Begin(what string) *Tx {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next++
	tx := &Tx{db: d, id: fmt.Sprintf("tx-%d", d.next), what: what}
	d.living = append(d.living, tx)
	return tx
}

// ErrLocked tells that another transaction holds the row.
var ErrLocked = errors.New("the row is locked")

// Put writes a whole row, in the order of the table's columns, and holds it until the end.
func (tx *Tx) Put(t *Table, key reencrypt.Key, values ...[]byte) error {
	return tx.hold(write{t, key, values})
}

// Delete removes a row.
func (tx *Tx) Delete(t *Table, key reencrypt.Key) error { return tx.hold(write{t, key, nil}) }

func (tx *Tx) hold(w write) error {
	tx.db.mu.Lock()
	defer tx.db.mu.Unlock()
	if by := w.table.holder(w.key); by != nil && by != tx {
		return ErrLocked
	}
	tx.writes = append(tx.writes, w)
	return nil
}

// Prepare lets the transaction go on without its session, under another ID.
func (tx *Tx) Prepare() {
	tx.db.mu.Lock()
	defer tx.db.mu.Unlock()
	if tx.prepared || !slices.Contains(tx.db.living, tx) {
		return
	}
	tx.db.next++
	tx.id, tx.prepared = fmt.Sprintf("tx-%d", tx.db.next), true
}

// Commit makes what was written visible.
func (tx *Tx) Commit() { tx.finish(true) }

// Rollback throws it away.
func (tx *Tx) Rollback() { tx.finish(false) }

func (tx *Tx) finish(commit bool) {
	tx.db.mu.Lock()
	defer tx.db.mu.Unlock()
	i := slices.Index(tx.db.living, tx)
	if i < 0 {
		return
	}
	tx.db.living = slices.Delete(tx.db.living, i, i+1)
	if !commit {
		return
	}
	for _, w := range tx.writes {
		w.table.store(w.key, w.values)
	}
}
