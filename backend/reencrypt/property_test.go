package reencrypt_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt/reencrypttest"
)

// world is an application that writes while passes run and end at any call.
type world struct {
	db    *reencrypttest.Database
	table *reencrypttest.Table

	mu     sync.Mutex
	script []step
	// holds is what the application wrote last into each row; written are the rows that it
	// touched at all since the passes began.
	holds   map[int]string
	written map[int]bool
	open    []pending
	count   int
	saved   reencrypt.Progress
}

// step is what happens at one call of the database.
type step struct {
	what string
	row  int
}

// pending is a transaction that is not ended yet.
type pending struct {
	tx    *reencrypttest.Tx
	row   int
	plain string
}

var errProcessEnds = errors.New("the process ends")

const worldRows = 12

func drawWorld(t *rapid.T) *world {
	w := &world{db: reencrypttest.New(), holds: map[int]string{}, written: map[int]bool{}}
	w.table = w.db.Create("cards", []string{"id"}, "number", "tenant")
	for _, i := range rapid.SliceOfDistinct(rapid.IntRange(0, worldRows-1), rapid.ID).Draw(t, "rows") {
		w.write(i, 1+i%2)
	}
	w.written = map[int]bool{}
	w.script = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{
			what: rapid.SampledFrom([]string{"", "", "", "write old", "write new", "delete", "begin", "commit", "rollback", "end"}).Draw(t, "what"),
			row:  rapid.IntRange(0, worldRows-1).Draw(t, "row"),
		}
	}), 0, 60).Draw(t, "script")
	w.db.Fault = func(reencrypttest.Op, bool) error { return w.next() }
	return w
}

// value makes a new value of a row.
func (w *world) value(i, version int) (plain string, values [][]byte) {
	w.count++
	plain = fmt.Sprintf("%d of row %d", w.count, i)
	return plain, [][]byte{reencrypttest.Seal(version, []byte(plain), tenant(i), nil), tenant(i)}
}

func (w *world) write(i, version int) {
	plain, values := w.value(i, version)
	if w.table.Put(key(i), values...) == nil {
		w.holds[i], w.written[i] = plain, true
	}
}

// next does the next step of the script, between two calls.
func (w *world) next() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.script) == 0 {
		return nil
	}
	s := w.script[0]
	w.script = w.script[1:]
	switch s.what {
	case "write old":
		w.write(s.row, 1)
	case "write new":
		w.write(s.row, 2)
	case "delete":
		tx := w.db.Begin("delete")
		if tx.Delete(w.table, key(s.row)) == nil {
			delete(w.holds, s.row)
			w.written[s.row] = true
		}
		tx.Commit()
	case "begin":
		tx := w.db.Begin("long")
		plain, values := w.value(s.row, 1)
		if tx.Put(w.table, key(s.row), values...) == nil {
			w.open = append(w.open, pending{tx, s.row, plain})
			w.written[s.row] = true
		}
	case "commit", "rollback":
		w.finish(s.what == "commit")
	case "end":
		return errProcessEnds
	}
	return nil
}

// finish ends the oldest transaction.
func (w *world) finish(commit bool) {
	if len(w.open) == 0 {
		return
	}
	p := w.open[0]
	w.open = w.open[1:]
	if !commit {
		p.tx.Rollback()
		return
	}
	p.tx.Commit()
	w.holds[p.row] = p.plain
}

// run runs a pass from what was saved until it ends by itself.
func (w *world) run(t *rapid.T, workers, batch int) reencrypt.Progress {
	target := &reencrypt.Target{Table: "cards", KeyColumns: []string{"id"}, Columns: []string{"number"}, ContextColumn: "tenant"}
	var now time.Time
	for {
		table, err := w.db.Open(context.Background(), target)
		if err != nil {
			continue
		}
		var mu sync.Mutex
		p := &reencrypt.Pass{
			Table: table, Target: target, Rewriter: reencrypttest.Rewriter(2), Workers: workers, Batch: batch,
			Now: func() time.Time { mu.Lock(); defer mu.Unlock(); now = now.Add(time.Second); return now },
			Save: func(_ context.Context, p reencrypt.Progress) error {
				if err := w.next(); err != nil {
					return err
				}
				w.saved = p
				return w.next() // an end after it was stored
			},
		}
		if _, err := p.Run(context.Background(), w.saved); err == nil {
			return w.saved
		}
	}
}

// Whatever is written meanwhile, and wherever the process ends: what the application wrote
// is what is there, and every row that it left alone is under the new version after one
// pass; all are after another one, in peace.
func TestNothingIsLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		workers, batch := rapid.IntRange(1, 3).Draw(t, "workers"), rapid.IntRange(1, 5).Draw(t, "batch")
		w.run(t, workers, batch)
		w.check(t, func(row int) bool { return !w.written[row] })
		w.script = nil
		for len(w.open) > 0 {
			w.finish(true)
		}
		w.saved = reencrypt.Progress{}
		at := w.run(t, workers, batch)
		require.Zero(t, at.Busy)
		require.Zero(t, at.Unreadable)
		require.Equal(t, int64(len(w.holds)), at.Passed)
		w.check(t, func(int) bool { return true })
	})
}

func (w *world) check(t *rapid.T, moved func(row int) bool) {
	for i := range worldRows {
		values := w.table.Get(key(i))
		want, there := w.holds[i]
		require.Equal(t, there, values != nil, "row %d", i)
		if !there {
			continue
		}
		plain, version, err := reencrypttest.Unseal(values[0], values[1], nil)
		require.NoError(t, err)
		require.Equal(t, want, string(plain))
		if moved(i) {
			require.Equal(t, 2, version, "row %d", i)
		}
	}
}
