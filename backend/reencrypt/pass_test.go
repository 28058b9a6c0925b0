package reencrypt_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt/reencrypttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a table of values under version 1, with contexts, and what was saved of a pass.
type rig struct {
	t      testing.TB
	db     *reencrypttest.Database
	table  *reencrypttest.Table
	target *reencrypt.Target
	now    atomic.Int64

	mu    sync.Mutex
	saved []reencrypt.Progress
}

func newRig(t testing.TB, rows int) *rig {
	r := &rig{t: t, db: reencrypttest.New()}
	r.table = r.db.Create("cards", []string{"id"}, "number", "tenant")
	r.target = &reencrypt.Target{Table: "cards", KeyColumns: []string{"id"}, Columns: []string{"number"}, ContextColumn: "tenant"}
	for i := range rows {
		r.put(i, 1, "plain")
	}
	return r
}

func key(i int) reencrypt.Key { return reencrypt.Key{fmt.Sprintf("%05d", i)} }

func tenant(i int) []byte { return fmt.Appendf(nil, "tenant %d", i) }

func (r *rig) put(i, version int, plaintext string) {
	require.NoError(r.t, r.table.Put(key(i), reencrypttest.Seal(version, fmt.Appendf(nil, "%s %d", plaintext, i), tenant(i), nil), tenant(i)))
}

// holds tells what a row holds, and under which version.
func (r *rig) holds(i int) (plaintext string, version int) {
	r.t.Helper()
	values := r.table.Get(key(i))
	require.NotNil(r.t, values)
	plain, version, err := reencrypttest.Unseal(values[0], values[1], nil)
	require.NoError(r.t, err)
	return string(plain), version
}

func (r *rig) clock() time.Time { return time.Unix(0, r.now.Load()).UTC() }

func (r *rig) pass() *reencrypt.Pass {
	r.t.Helper()
	table, err := r.db.Open(r.t.Context(), r.target)
	require.NoError(r.t, err)
	return &reencrypt.Pass{
		Table: table, Target: r.target, Rewriter: reencrypttest.Rewriter(2), Now: r.clock, Batch: 10, Workers: 3,
		Save: func(_ context.Context, p reencrypt.Progress) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.saved = append(r.saved, p)
			return nil
		},
	}
}

func (r *rig) run(p *reencrypt.Pass, from reencrypt.Progress) reencrypt.Progress {
	r.t.Helper()
	got, err := p.Run(r.t.Context(), from)
	require.NoError(r.t, err)
	require.True(r.t, got.Ended)
	return got
}

func TestPassRewritesAll(t *testing.T) {
	r := newRig(t, 105)
	r.put(50, 2, "is done")
	p := r.pass()
	p.Total = 105
	got := r.run(p, reencrypt.Progress{})
	require.Equal(t, reencrypt.Progress{Version: 2, After: key(104), Ended: true, Total: 105, Passed: 105, Changed: 104, StartedTime: r.clock()}, got)
	for i := range 105 {
		_, version := r.holds(i)
		require.Equal(t, 2, version, i)
	}
	require.Equal(t, []reencrypt.Progress{got}, r.saved, "once, since no time has passed")
	require.Equal(t, got, r.run(p, got), "what has ended has nothing to do")
	require.Len(t, r.saved, 1)

	next := r.pass()
	next.Rewriter = reencrypttest.Rewriter(3)
	got = r.run(next, got)
	require.Equal(t, reencrypt.Progress{Version: 3, After: key(104), Ended: true, Passed: 105, Changed: 105, StartedTime: r.clock()}, got, "another version begins anew")
}

// A run is ended at each call of the database, before and after it: the next goes on from
// what was saved.
func TestPassGoesOnAfterAnEnd(t *testing.T) {
	errEnd := errors.New("the process ends here")
	for end := 1; ; end++ {
		r := newRig(t, 35)
		var calls atomic.Int64
		var armed atomic.Bool
		r.db.Fault = func(reencrypttest.Op, bool) error {
			r.now.Add(int64(time.Minute))
			if calls.Add(1) == int64(end) && armed.Load() {
				return errEnd
			}
			return nil
		}
		p := r.pass()
		calls.Store(0)
		armed.Store(true)
		p.Workers = 1 + end%3
		if end%2 == 0 {
			// The last save is lost with the process.
			save := p.Save
			p.Save = func(ctx context.Context, at reencrypt.Progress) error {
				if calls.Load() >= int64(end) {
					return errEnd
				}
				return save(ctx, at)
			}
		}
		_, err := p.Run(t.Context(), reencrypt.Progress{})
		if err == nil {
			require.Greater(t, end, 12, "it was ended often")
			return
		}
		require.ErrorIs(t, err, errEnd)
		armed.Store(false)
		from := reencrypt.Progress{}
		if len(r.saved) > 0 {
			from = r.saved[len(r.saved)-1]
		}
		require.False(t, from.Ended)
		got := r.run(r.pass(), from)
		require.Equal(t, int64(35), got.Passed)
		require.GreaterOrEqual(t, got.Spent, from.Spent)
		for i := range 35 {
			plaintext, version := r.holds(i)
			require.Equal(t, 2, version, "%d, ended at call %d", i, end)
			require.Equal(t, fmt.Sprintf("plain %d", i), plaintext)
		}
	}
}

// The cursor waits for the page that is behind.
func TestPassSavesInOrder(t *testing.T) {
	r := newRig(t, 50)
	r.db.Fault = func(reencrypttest.Op, bool) error { r.now.Add(int64(time.Minute)); return nil }
	p := r.pass()
	slow := &slowTable{Table: p.Table, first: make(chan struct{})}
	p.Table = slow
	p.Save = func(_ context.Context, at reencrypt.Progress) error {
		if at.Passed > 0 && slow.swaps.Load() < 5 {
			return errors.New("a page was passed before the first one was done")
		}
		r.saved = append(r.saved, at)
		return nil
	}
	r.run(p, reencrypt.Progress{})
	require.Equal(t, int64(5), slow.swaps.Load())
	require.Equal(t, int64(50), r.saved[len(r.saved)-1].Passed)
}

// slowTable holds the first page's swap until all others are done.
type slowTable struct {
	reencrypt.Table
	swaps atomic.Int64
	first chan struct{}
}

func (s *slowTable) Swap(ctx context.Context, changes []reencrypt.Change) ([]reencrypt.Result, error) {
	if slices.Equal(changes[0].Row.Key, key(0)) {
		<-s.first
	}
	results, err := s.Table.Swap(ctx, changes)
	if s.swaps.Add(1) == 4 {
		close(s.first)
	}
	return results, err
}

// A row that is written between read and swap is read again, and its writer's value kept.
func TestPassMeetsWrites(t *testing.T) {
	r := newRig(t, 20)
	var once sync.Once
	writes := 0
	p := r.pass()
	r.db.Fault = func(op reencrypttest.Op, after bool) error {
		if op == reencrypttest.Swap && !after {
			once.Do(func() {
				r.put(3, 1, "written")
				require.NoError(t, r.table.Put(key(4), []byte("vault:v1:junk"), tenant(4)))
				tx := r.db.Begin("delete")
				require.NoError(t, tx.Delete(r.table, key(5)))
				tx.Commit()
			})
			r.mu.Lock()
			writes++
			r.put(12, 1, fmt.Sprint("again and again ", writes))
			r.mu.Unlock()
		}
		return nil
	}
	got := r.run(p, reencrypt.Progress{})
	require.Equal(t, int64(20), got.Passed)
	require.Equal(t, int64(17), got.Changed)
	require.Equal(t, int64(1), got.Busy, "the one that is never as it was read")
	require.Equal(t, []reencrypt.Unreadable{{Key: key(4), Column: "number", Reason: "it does not decrypt"}}, got.UnreadableKeys)
	plaintext, version := r.holds(3)
	require.Equal(t, "written 3", plaintext)
	require.Equal(t, 2, version)
	plaintext, version = r.holds(12)
	require.Contains(t, plaintext, "again and again")
	require.Equal(t, 1, version)
}

// Locked rows are tried again at the end, and busy until then.
func TestPassMeetsLocks(t *testing.T) {
	r := newRig(t, 40)
	p := r.pass()
	short, long := r.db.Begin("short"), r.db.Begin("long")
	require.NoError(t, short.Put(r.table, key(1), reencrypttest.Seal(1, []byte("new"), tenant(1), nil), tenant(1)))
	require.NoError(t, short.Put(r.table, key(39), reencrypttest.Seal(1, []byte("new"), tenant(39), nil), tenant(39)))
	require.NoError(t, long.Put(r.table, key(2), []byte("vault:v1:junk"), tenant(2)))
	r.db.Fault = func(op reencrypttest.Op, after bool) error {
		r.now.Add(int64(time.Minute))
		if op == reencrypttest.Read && !after { // the first that is read again is one of those
			short.Commit()
		}
		return nil
	}
	got := r.run(p, reencrypt.Progress{})
	require.Equal(t, int64(40), got.Passed)
	require.Equal(t, int64(39), got.Changed)
	require.Equal(t, int64(1), got.Busy)
	for _, i := range []int{1, 39} {
		plaintext, version := r.holds(i)
		require.Equal(t, "new", plaintext)
		require.Equal(t, 2, version)
	}
	require.True(t, slices.ContainsFunc(r.saved, func(p reencrypt.Progress) bool { return p.Busy == 3 && !p.Ended }), "known before they are tried again")
	long.Rollback()
	require.Equal(t, int64(1), r.run(r.pass(), reencrypt.Progress{}).Changed)
}

// What cannot be rewritten is told by its key, and left as it is.
func TestPassTellsOfUnreadableRows(t *testing.T) {
	r := newRig(t, 300)
	for i := range 150 {
		require.NoError(t, r.table.Put(key(2*i), []byte("no ciphertext"), tenant(2*i)))
	}
	require.NoError(t, r.table.Put(key(1), reencrypttest.Seal(1, []byte("x"), tenant(1), nil), nil), "its context is gone")
	require.NoError(t, r.table.Put(key(3), nil, tenant(1)), "NULL is nothing to rewrite")
	long := reencrypt.Key{"/" + strings.Repeat("ü", 400)}
	require.NoError(t, r.table.Put(long, []byte("junk"), nil))
	r.table.Refuses = func(k reencrypt.Key, _ string, _ []byte) string {
		if slices.Equal(k, key(5)) {
			return strings.Repeat("a CHECK constraint refused it. ", 100)
		}
		return ""
	}
	got := r.run(r.pass(), reencrypt.Progress{})
	require.Equal(t, int64(301), got.Passed)
	require.Equal(t, int64(153), got.Unreadable)
	require.Equal(t, int64(147), got.Changed)
	require.Len(t, got.UnreadableKeys, 100)
	require.Equal(t, "/"+strings.Repeat("ü", 63)+"...", got.UnreadableKeys[0].Key[0])
	require.Equal(t, reencrypt.Unreadable{Key: key(1), Column: "number", Reason: "it does not decrypt"}, got.UnreadableKeys[2])
	i := slices.IndexFunc(got.UnreadableKeys, func(u reencrypt.Unreadable) bool { return slices.Equal(u.Key, key(5)) })
	require.Positive(t, i)
	require.Contains(t, got.UnreadableKeys[i].Reason, "a CHECK constraint refused it")
	require.LessOrEqual(t, len(got.UnreadableKeys[i].Reason), 303)
	require.Equal(t, "no ciphertext", string(r.table.Get(key(298))[0]))
}

// The columns of a row are rewritten each for itself.
func TestPassOfSeveralColumns(t *testing.T) {
	r := newRig(t, 0)
	table := r.db.Create("two", []string{"id"}, "a", "b")
	r.target = &reencrypt.Target{Table: "two", KeyColumns: []string{"id"}, Columns: []string{"a", "b"}}
	seal := func(version int) []byte { return reencrypttest.Seal(version, []byte("x"), nil, nil) }
	require.NoError(t, table.Put(key(1), seal(1), seal(2)))
	require.NoError(t, table.Put(key(2), seal(1), []byte("junk")))
	require.NoError(t, table.Put(key(3), seal(1), seal(1)))
	require.NoError(t, table.Put(key(4), nil, seal(2)))
	got := r.run(r.pass(), reencrypt.Progress{})
	require.Equal(t, int64(3), got.Changed)
	require.Equal(t, []reencrypt.Unreadable{{Key: key(2), Column: "b", Reason: "it does not decrypt"}}, got.UnreadableKeys)
	for i, want := range [][][]byte{{seal(2), seal(2)}, {seal(2), []byte("junk")}, {seal(2), seal(2)}, {nil, seal(2)}} {
		require.Equal(t, want, table.Get(key(i+1)), i)
	}
}

// The end of the context ends a pass at once, and is stored.
func TestPassEndsWithItsContext(t *testing.T) {
	r := newRig(t, 100)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p := r.pass()
	var swaps atomic.Int64
	r.db.Fault = func(op reencrypttest.Op, after bool) error {
		if op == reencrypttest.Swap && after && swaps.Add(1) == 4 {
			cancel()
		}
		return nil
	}
	got, err := p.Run(ctx, reencrypt.Progress{})
	require.ErrorIs(t, err, context.Canceled)
	require.False(t, got.Ended)
	require.Equal(t, []reencrypt.Progress{got}, r.saved)
	require.Equal(t, int64(100), r.run(r.pass(), got).Passed)
}

func TestPassKeepsToItsRate(t *testing.T) {
	r := newRig(t, 60)
	p := r.pass()
	p.RowsPerSecond, p.Batch = 100, 40
	var most, total atomic.Int64
	counted := &countedTable{Table: p.Table, most: &most, total: &total}
	p.Table = counted
	begin := time.Now()
	r.run(p, reencrypt.Progress{})
	require.GreaterOrEqual(t, time.Since(begin), 190*time.Millisecond, "60 rows, of which 40 come at once")
	require.LessOrEqual(t, most.Load(), int64(40))

	slow := newRig(t, 60)
	p = slow.pass()
	p.RowsPerSecond = 3
	p.Table = counted
	counted.Table, _ = slow.db.Open(t.Context(), slow.target)
	most.Store(0)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	got, err := p.Run(ctx, reencrypt.Progress{})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.False(t, got.Ended)
	require.LessOrEqual(t, most.Load(), int64(3), "what comes at once is bounded, too")
}

type countedTable struct {
	reencrypt.Table
	most, total *atomic.Int64
}

func (c *countedTable) Swap(ctx context.Context, changes []reencrypt.Change) ([]reencrypt.Result, error) {
	c.most.Store(max(c.most.Load(), int64(len(changes))))
	c.total.Add(int64(len(changes)))
	return c.Table.Swap(ctx, changes)
}

// An error of Save ends the pass: whoever stores it may have been deposed.
func TestPassEndsWithSave(t *testing.T) {
	r := newRig(t, 100)
	r.db.Fault = func(reencrypttest.Op, bool) error { r.now.Add(int64(time.Minute)); return nil }
	p := r.pass()
	errSave := errors.New("no")
	p.Save = func(context.Context, reencrypt.Progress) error { return errSave }
	_, err := p.Run(t.Context(), reencrypt.Progress{})
	require.ErrorIs(t, err, errSave)
}

func TestProgressTellsWhatIsLeft(t *testing.T) {
	p := reencrypt.Progress{Total: 1000, Passed: 250, Spent: 10 * time.Second}
	require.InDelta(t, 25, p.Rate(), 0.001)
	require.Equal(t, 30*time.Second, p.Left())
	require.Zero(t, reencrypt.Progress{Total: 10}.Left())
	require.Zero(t, reencrypt.Progress{Total: 10, Passed: 11, Spent: 1}.Left())
	require.Zero(t, reencrypt.Progress{Total: 10, Passed: 5, Spent: 1, Ended: true}.Left())
}

// moved is a table whose keys are others than when a cursor was saved.
type moved struct {
	reencrypt.Table
	stale reencrypt.Key // nil: any
	pages atomic.Int64
}

func (m *moved) Page(ctx context.Context, after reencrypt.Key, limit int, done string) ([]reencrypt.Row, error) {
	m.pages.Add(1)
	if after != nil && (m.stale == nil || slices.Equal(after, m.stale)) {
		return nil, fmt.Errorf("no such key: %w", reencrypt.ErrCursor)
	}
	return m.Table.Page(ctx, after, limit, done)
}

// A saved key that is none any more is no reason never to go on.
func TestPassBeginsAnewWithoutItsCursor(t *testing.T) {
	r := newRig(t, 35)
	p := r.pass()
	table := &moved{Table: p.Table, stale: reencrypt.Key{"happy"}}
	p.Table = table
	at := r.run(p, reencrypt.Progress{Version: 2, After: reencrypt.Key{"happy"}, Passed: 20, Busy: 3, Unreadable: 1, Spent: time.Hour})
	require.Equal(t, int64(35), at.Passed)
	require.Equal(t, int64(35), at.Changed)
	require.Zero(t, at.Busy)
	require.Zero(t, at.Unreadable)
	require.Less(t, at.Spent, time.Hour)
	_, version := r.holds(0)
	require.Equal(t, 2, version)

	// Once, and not for a table that takes none of its own keys.
	p = r.pass()
	table = &moved{Table: p.Table}
	p.Table = table
	at, err := p.Run(t.Context(), reencrypt.Progress{Version: 2, After: reencrypt.Key{"happy"}})
	require.ErrorIs(t, err, reencrypt.ErrCursor)
	require.False(t, at.Ended)
	require.LessOrEqual(t, table.pages.Load(), int64(3))
}

// A transaction that is prepared goes on under another name, and holds its rows.
func TestPreparedInMemory(t *testing.T) {
	r := newRig(t, 1)
	tx := r.db.Begin("app")
	require.NoError(t, tx.Put(r.table, key(0), []byte("x"), nil))
	before, err := r.db.Transactions(t.Context())
	require.NoError(t, err)
	require.Len(t, before, 1)
	require.False(t, before[0].Prepared)
	tx.Prepare()
	tx.Prepare()
	after, err := r.db.Transactions(t.Context())
	require.NoError(t, err)
	require.Len(t, after, 1)
	require.True(t, after[0].Prepared)
	require.NotEqual(t, before[0].ID, after[0].ID)
	require.ErrorIs(t, r.table.Put(key(0), []byte("y"), nil), reencrypttest.ErrLocked)
	tx.Commit()
	tx.Prepare()
	require.Equal(t, "x", string(r.table.Get(key(0))[0]))
}

// Rows that were read a while ago are not written before somebody has said that this is still
// wanted: the process may have been frozen, and deposed.
func TestRowsOfLongAgoAreNotWrittenUnasked(t *testing.T) {
	db := reencrypttest.New()
	table := db.Create("t", []string{"id"}, "v")
	require.NoError(t, table.Put(reencrypt.Key{"1"}, reencrypttest.Seal(1, []byte("x"), nil, nil)))
	target := &reencrypt.Target{Table: "t", KeyColumns: []string{"id"}, Columns: []string{"v"}}
	opened, err := db.Open(t.Context(), target)
	require.NoError(t, err)
	var minutes atomic.Int64
	db.Fault = func(op reencrypttest.Op, after bool) error {
		if op == reencrypttest.Page && after {
			minutes.Add(1)
		}
		return nil
	}
	deposed := errors.New("deposed")
	pass := &reencrypt.Pass{
		Table: opened, Target: target, Rewriter: reencrypttest.Rewriter(2), Workers: 1, Now: func() time.Time { return time.Unix(60*minutes.Load(), 0) },
		Save: func(context.Context, reencrypt.Progress) error { return nil }, Wanted: func(context.Context) error { return deposed },
	}
	_, err = pass.Run(t.Context(), reencrypt.Progress{})
	require.ErrorIs(t, err, deposed)
	version, _ := reencrypttest.VersionOf(table.Get(reencrypt.Key{"1"})[0])
	require.Equal(t, 1, version)
	pass.Wanted = func(context.Context) error { return nil }
	_, err = pass.Run(t.Context(), reencrypt.Progress{})
	require.NoError(t, err)
	version, _ = reencrypttest.VersionOf(table.Get(reencrypt.Key{"1"})[0])
	require.Equal(t, 2, version)
}
