package postgres_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt/reencrypttest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

func (r *rowsRig) passOver(target *reencrypt.Target, version int, save func(reencrypt.Progress)) *reencrypt.Pass {
	return &reencrypt.Pass{
		Table: r.open(target), Target: target, Rewriter: reencrypttest.Rewriter(version), Now: time.Now, Batch: 100, Every: time.Nanosecond,
		Save: func(_ context.Context, p reencrypt.Progress) error { save(p); return nil },
	}
}

// sealed fills a table with values under version 1.
func (r *rowsRig) sealed(n int) *reencrypt.Target {
	r.t.Helper()
	r.exec(`CREATE TABLE cards (id int PRIMARY KEY, number text, tenant text)`)
	conn := r.session()
	_, err := conn.CopyFrom(bounded(r.t), pgx.Identifier{"cards"}, []string{"id", "number", "tenant"}, pgx.CopyFromSlice(n, func(i int) ([]any, error) {
		return []any{i, string(reencrypttest.Seal(1, fmt.Appendf(nil, "first %d", i), []byte("t"), nil)), "t"}, nil
	}))
	require.NoError(r.t, err)
	r.grant("cards")
	return &reencrypt.Target{Table: "public.cards", KeyColumns: []string{"id"}, Columns: []string{"number"}, ContextColumn: "tenant"}
}

// holding are the plaintexts of all rows.
func (r *rowsRig) holding() map[int]string {
	r.t.Helper()
	rows, err := r.session().Query(bounded(r.t), "SELECT id, number, tenant FROM cards")
	require.NoError(r.t, err)
	defer rows.Close()
	all := map[int]string{}
	for rows.Next() {
		var id int
		var number, tenant string
		require.NoError(r.t, rows.Scan(&id, &number, &tenant))
		plain, _, err := reencrypttest.Unseal([]byte(number), []byte(tenant), nil)
		require.NoError(r.t, err, "row %d", id)
		all[id] = string(plain)
	}
	require.NoError(r.t, rows.Err())
	return all
}

// While an application writes the same rows, none of its writes is lost and every row it
// leaves alone is moved.
func TestPassBesideAnApplication(t *testing.T) {
	const rows = 2000
	r := newRowsRig(t)
	target := r.sealed(rows)
	want := map[int]string{}
	for i := range rows {
		want[i] = fmt.Sprintf("first %d", i)
	}
	var stop atomic.Bool
	var app sync.WaitGroup
	conn := r.session()
	var failed error
	app.Go(func() {
		for n := 0; !stop.Load() && failed == nil; n++ {
			i := n * 7919 % rows
			plain := fmt.Sprintf("write %d", n)
			if _, failed = conn.Exec(context.Background(), "UPDATE cards SET number = $1, tenant = 'u' WHERE id = $2", string(reencrypttest.Seal(1, []byte(plain), []byte("u"), nil)), i); failed == nil {
				want[i] = plain
			}
		}
	})
	for range 3 {
		_, err := r.passOver(target, 2, func(reencrypt.Progress) {}).Run(bounded(t), reencrypt.Progress{})
		require.NoError(t, err)
	}
	stop.Store(true)
	app.Wait()
	require.NoError(t, failed)
	got, err := r.passOver(target, 2, func(reencrypt.Progress) {}).Run(bounded(t), reencrypt.Progress{})
	require.NoError(t, err)
	require.Zero(t, got.Unreadable)
	require.Equal(t, want, r.holding())
	require.Equal(t, map[int]int64{2: rows}, r.count(r.open(target))[0].Versions)
}

// The server is stopped in the middle of a pass: the next run goes on from what was saved.
func TestPassAcrossARestart(t *testing.T) {
	const rows = 3000
	r := newRowsRigOn(t, pgtest.New(t))
	target := r.sealed(rows)
	want := r.holding()
	var saved reencrypt.Progress
	pass := r.passOver(target, 2, func(p reencrypt.Progress) {
		saved = p
		if p.Passed >= 500 {
			r.server.Halt()
		}
	})
	_, err := pass.Run(bounded(t), reencrypt.Progress{})
	require.Error(t, err)
	require.False(t, saved.Ended)
	require.GreaterOrEqual(t, saved.Passed, int64(500))
	require.NoError(t, r.server.Resume(bounded(t)))
	require.Eventually(t, func() bool { _, err := r.tables.Transactions(bounded(t)); return err == nil }, 10*time.Second, 10*time.Millisecond)
	got, err := r.passOver(target, 2, func(reencrypt.Progress) {}).Run(bounded(t), saved)
	require.NoError(t, err)
	require.Equal(t, int64(rows), got.Passed)
	require.Equal(t, want, r.holding())
	require.Equal(t, map[int]int64{2: rows}, r.count(r.open(target))[0].Versions)
}
