package postgres

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
)

// Swap implements reencrypt.Table.
func (t *table) Swap(ctx context.Context, changes []reencrypt.Change) ([]reencrypt.Result, error) {
	results := make([]reencrypt.Result, len(changes))
	groups, err := t.groups(changes, results)
	if err != nil {
		return nil, err
	}
	err = t.db.withRows(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		for _, group := range groups {
			if err := t.swap(ctx, conn, group); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, in("write rows of "+t.name, err)
	}
	return results, nil
}

// batch are changes of the same columns.
type batch struct {
	columns []int
	changes []*reencrypt.Change
	results []*reencrypt.Result
}

// groups puts changes of the same columns together: a column that does not change is not
// named in an UPDATE, so that triggers of it do not fire.
func (t *table) groups(changes []reencrypt.Change, results []reencrypt.Result) ([]*batch, error) {
	var all []*batch
	columns := make([]int, 0, len(t.columns))
	for i := range changes {
		c := &changes[i]
		if len(c.Row.Key) != len(t.keys) || len(c.New) != len(t.columns) || len(c.Row.Values) != len(t.columns) {
			return nil, errKey()
		}
		columns = columns[:0]
		for n, value := range c.New {
			if value != nil {
				columns = append(columns, n)
			}
		}
		at := slices.IndexFunc(all, func(b *batch) bool { return slices.Equal(b.columns, columns) })
		if at < 0 {
			at, all = len(all), append(all, &batch{columns: slices.Clone(columns)})
		}
		all[at].changes, all[at].results = append(all[at].changes, c), append(all[at].results, &results[i])
	}
	return all, nil
}

// part is a part of a batch.
func (b *batch) part(from, to int) *batch {
	return &batch{columns: b.columns, changes: b.changes[from:to], results: b.results[from:to]}
}

// all gives the same result to all.
func (b *batch) all(r reencrypt.Result) {
	for _, result := range b.results {
		*result = r
	}
}

// swap changes all rows by one statement. Where that fails because of some of them, those
// are found by halves.
func (t *table) swap(ctx context.Context, conn *pgxpool.Conn, b *batch) error {
	if len(b.columns) == 0 {
		b.all(reencrypt.Result{Outcome: reencrypt.Changed})
		return nil
	}
	b.all(reencrypt.Result{Outcome: reencrypt.Moved})
	err := t.update(ctx, conn, b)
	if isBusy(err) {
		err = t.aroundLocks(ctx, conn, b)
	}
	switch single := len(b.changes) == 1; {
	case err == nil:
		return nil
	case isBusy(err) || single && stateOf(err) == codeQueryCanceled:
		// Of the table, or for longer than a statement may run.
		b.all(reencrypt.Result{Outcome: reencrypt.Locked})
		return nil
	case refusesRow(err) && single:
		b.all(reencrypt.Result{Outcome: reencrypt.Refused, Reason: refusal(err)})
		return nil
	case refusesRow(err) || stateOf(err) == codeQueryCanceled:
		half := len(b.changes) / 2
		if err := t.swap(ctx, conn, b.part(0, half)); err != nil {
			return err
		}
		return t.swap(ctx, conn, b.part(half, len(b.changes)))
	default:
		return t.db.rowsError(err)
	}
}

// update changes the rows that hold what was read of them. The server looks again at a row
// that it had to wait for. That all of them were changed, as they are nearly always, is
// told by their number: to hear of each costs both sides something. The error is the
// driver's.
func (t *table) update(ctx context.Context, conn *pgxpool.Conn, b *batch) error {
	p := params{}
	g, err := t.given(b.keys(), &p)
	if err != nil {
		return err
	}
	guards := []string{t.matches()}
	var sets []string
	for _, n := range b.columns {
		c, number := &t.columns[n], strconv.Itoa(n+1)
		g.add("o"+number, &p, c.oid(), b.collect(func(c *reencrypt.Change) []byte { return c.Row.Values[n] }))
		g.add("n"+number, &p, c.oid(), b.collect(func(c *reencrypt.Change) []byte { return c.New[n] }))
		guards = append(guards, c.read()+" = u.o"+number)
		sets = append(sets, c.name+" = u.n"+number)
	}
	if t.context != nil {
		g.add("x", &p, t.context.oid(), b.collect(func(c *reencrypt.Change) []byte { return c.Row.Context }))
		guards = append(guards, t.context.read()+" IS NOT DISTINCT FROM u.x")
	}
	if t.data != nil {
		g.add("a", &p, t.data.oid(), b.collect(func(c *reencrypt.Change) []byte { return c.Row.AssociatedData }))
		guards = append(guards, t.data.read()+" IS NOT DISTINCT FROM u.a")
	}
	sql := fmt.Sprintf("UPDATE %s t SET %s FROM %s WHERE %s", t.name, strings.Join(sets, ", "), g.from(), strings.Join(guards, " AND "))
	changed, err := query(ctx, conn, sql, p, nil)
	if err != nil {
		return err
	}
	if changed < int64(len(b.changes)) {
		return t.look(ctx, conn, b)
	}
	b.all(reencrypt.Result{Outcome: reencrypt.Changed})
	return nil
}

// look finds the rows of a batch that hold their new values. No value is made twice, so it
// was we who wrote them. One that was written again since we did counts as moved, which it
// is. The error is the driver's.
func (t *table) look(ctx context.Context, conn *pgxpool.Conn, b *batch) error {
	p := params{}
	g, err := t.given(b.keys(), &p)
	if err != nil {
		return err
	}
	holds := []string{t.matches()}
	for _, n := range b.columns {
		c, number := &t.columns[n], strconv.Itoa(n+1)
		g.add("n"+number, &p, c.oid(), b.collect(func(c *reencrypt.Change) []byte { return c.New[n] }))
		holds = append(holds, c.read()+" = u.n"+number)
	}
	return t.places(ctx, conn, b, p, fmt.Sprintf("SELECT u.place::text FROM %s, %s t WHERE %s", g.placed(), t.name, strings.Join(holds, " AND ")),
		func(i int) { *b.results[i] = reencrypt.Result{Outcome: reencrypt.Changed} })
}

// places runs a query for places among what is given, and calls found with each, from 0.
func (t *table) places(ctx context.Context, conn *pgxpool.Conn, b *batch, p params, sql string, found func(i int)) error {
	_, err := query(ctx, conn, sql, p, func(values [][]byte) {
		if i, err := strconv.Atoi(string(values[0])); err == nil && i >= 1 && i <= len(b.results) {
			found(i - 1)
		}
	})
	return err
}

func (b *batch) keys() []reencrypt.Key {
	keys := make([]reencrypt.Key, len(b.changes))
	for i, c := range b.changes {
		keys[i] = c.Row.Key
	}
	return keys
}

func (b *batch) collect(value func(*reencrypt.Change) []byte) [][]byte {
	all := make([][]byte, len(b.changes))
	for i, c := range b.changes {
		all[i] = value(c)
	}
	return all
}

// aroundLocks takes the locks of those rows that nobody holds, and changes these. That is
// dearer than an update that meets no lock, and is never waited in for a row. The lock is
// the one that an update takes, which lets others refer to the row. The error is the
// driver's.
func (t *table) aroundLocks(ctx context.Context, conn *pgxpool.Conn, b *batch) error {
	b.all(reencrypt.Result{Outcome: reencrypt.Locked})
	p := params{}
	g, err := t.given(b.keys(), &p)
	if err != nil {
		return err
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		_ = tx.Rollback(end) // does nothing after a commit
	}()
	free := &batch{columns: b.columns}
	sql := fmt.Sprintf("SELECT u.place::text FROM %s, %s t WHERE %s FOR NO KEY UPDATE OF t SKIP LOCKED", g.placed(), t.name, t.matches())
	err = t.places(ctx, conn, b, p, sql, func(i int) {
		free.changes, free.results = append(free.changes, b.changes[i]), append(free.results, b.results[i])
	})
	if err != nil || len(free.changes) == 0 {
		return err
	}
	free.all(reencrypt.Result{Outcome: reencrypt.Moved})
	if err := t.update(ctx, conn, free); err != nil {
		return err
	}
	return tx.Commit(ctx)
}
