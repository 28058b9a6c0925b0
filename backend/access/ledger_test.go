package access

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func hashed(accessor string) string { return "hash of " + accessor }

func newLedger() *Ledger { return NewLedger("boot", DefaultLimits) }

func read(second int, who string) *Read {
	return &Read{Role: "app", Version: 1, Reader: Identity{DisplayName: who, Accessor: "token of " + who}, Time: at(second)}
}

// whole is all that the ledger has not stored, as it would be stored.
func whole(l *Ledger, role string) (all Log) {
	for _, b := range l.Waiting(role, hashed) {
		all.Merge(b.Log)
	}
	return all
}

func TestRecordTellsWhoReadWhat(t *testing.T) {
	t.Parallel()
	l := newLedger()
	l.Record(read(0, "alice"))
	l.Record(read(3, "alice"))
	pair := read(1, "bob")
	pair.Version, pair.Also = 2, 1
	l.Record(pair)
	require.Equal(t, Log{Versions: []Version{
		{Version: 1, Reads: 3, First: at(0), Last: at(3), Readers: []Reader{
			{DisplayName: "alice", AccessorHash: "hash of token of alice", Reads: 2, First: at(0), Last: at(3)},
			{DisplayName: "bob", AccessorHash: "hash of token of bob", Reads: 1, First: at(1), Last: at(1)},
		}},
		{Version: 2, Reads: 1, First: at(1), Last: at(1), Readers: []Reader{
			{DisplayName: "bob", AccessorHash: "hash of token of bob", Reads: 1, First: at(1), Last: at(1)},
		}},
	}}, whole(l, "app"))
	require.Equal(t, 3, l.Rate("app", at(3)), "a pair is read once")
	require.Empty(t, whole(l, "other").Versions)
}

// Whoever reads, in whatever order and however often it is flushed: the log adds up to the
// number of reads, and nobody is told of more readers than there were.
func TestTheLedgerAddsUp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := NewLedger("boot", Limits{Roles: 10, Entries: rapid.IntRange(3, 300).Draw(t, "entries"), CoolDown: time.Hour})
		var stored Log
		var mark Mark
		reads, who := int64(0), map[int]bool{}
		for i := range rapid.IntRange(1, 400).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				b := l.Take("app", hashed)
				if b == nil {
					break
				}
				if !mark.Covers(b.Mark) {
					stored.Merge(b.Log)
					mark = b.Mark
				}
				if rapid.Bool().Draw(t, "known to be stored") {
					l.Stored("app")
				}
			case 1:
				l.Sweep(at(i))
			default:
				n := rapid.IntRange(0, 150).Draw(t, "reader")
				l.Record(read(i, fmt.Sprint(n)))
				reads++
				who[n] = true
			}
		}
		for _, b := range l.Waiting("app", hashed) {
			if !mark.Covers(b.Mark) {
				stored.Merge(b.Log)
			}
		}
		if reads == 0 {
			return
		}
		v := stored.Of(1)
		require.Equal(t, reads, v.Reads+l.Missed())
		require.Equal(t, v.Reads, adds(v))
		require.LessOrEqual(t, v.Others.Readers, len(who))
		require.LessOrEqual(t, l.entries.Load(), int64(l.limits.Entries))
	})
}

func TestManyGoroutinesLoseNothing(t *testing.T) {
	t.Parallel()
	l := newLedger()
	const goroutines, each = 16, 2000
	var stored Log
	var running sync.WaitGroup
	for g := range goroutines {
		running.Go(func() {
			for i := range each {
				r := read(i/100, fmt.Sprint("reader", g))
				r.Version = 1 + i%2
				l.Record(r)
			}
		})
	}
	stop := make(chan struct{})
	flushed := make(chan struct{})
	go func() {
		defer close(flushed)
		for done := false; !done; {
			select {
			case <-stop:
				done = true
			default:
			}
			if b := l.Take("app", hashed); b != nil {
				stored.Merge(b.Log)
				l.Stored("app")
			}
			l.Sweep(at(10_000)) // far away: whatever is idle goes, while others read
		}
	}()
	running.Wait()
	close(stop)
	<-flushed
	sum := int64(0)
	for i := range stored.Versions {
		sum += adds(&stored.Versions[i])
		require.Len(t, stored.Versions[i].Readers, goroutines)
	}
	require.EqualValues(t, goroutines*each, sum)
	l.Sweep(at(20_000))
	require.Zero(t, l.known.Load())
	require.Zero(t, l.entries.Load(), "what is dropped leaves its place")
}

func TestAHundredThousandReadersAreBounded(t *testing.T) {
	t.Parallel()
	l := newLedger()
	for i := range 100_000 {
		l.Record(read(i/2000, fmt.Sprint("reader", i)))
	}
	require.LessOrEqual(t, l.entries.Load(), int64(MaxReaders+1))
	all := whole(l, "app")
	v := all.Of(1)
	require.EqualValues(t, 100_000, v.Reads)
	require.EqualValues(t, 100_000, adds(v))
	require.Len(t, v.Readers, MaxReaders)
	require.Greater(t, v.Others.Readers, 1000)
	require.Less(t, v.Others.Readers, 100_000-MaxReaders)
}

// A pod that logs in again for each read is named, with all its reads.
func TestOneReaderWithManyTokensIsNamed(t *testing.T) {
	t.Parallel()
	l := newLedger()
	for i := range 1000 {
		r := read(0, "pod")
		r.Reader.Accessor, r.Reader.Address = fmt.Sprint(i), "10.0.0.1"
		l.Record(r)
	}
	all := whole(l, "app")
	v := all.Of(1)
	require.Zero(t, v.Others)
	require.Equal(t, Reader{DisplayName: "pod", Address: "10.0.0.1", Reads: 1000 - MaxReaders/2, First: at(0), Last: at(0)}, v.Readers[0])
}

func TestRolesAreBounded(t *testing.T) {
	t.Parallel()
	l := NewLedger("boot", Limits{Roles: 3, Entries: 100, CoolDown: time.Minute})
	record := func(role string, second int) {
		l.Record(&Read{Role: role, Version: 1, Time: at(second)})
	}
	for i := range 10 {
		record(fmt.Sprint("role", i), i)
	}
	require.EqualValues(t, 7, l.Missed())
	require.Equal(t, []string{"role0", "role1"}, l.Due(2), "the one that waits longest first")
	for _, name := range l.Due(10) {
		l.Take(name, hashed)
		l.Stored(name)
	}
	require.Empty(t, l.Due(10))
	l.Sweep(at(30))
	record("late", 30)
	require.EqualValues(t, 8, l.Missed(), "a role that was read within a minute keeps its place")
	l.Sweep(at(100))
	record("late", 100)
	require.EqualValues(t, 8, l.Missed())
	require.Equal(t, []string{"late"}, l.Due(10))
	l.Forget("late")
	require.Empty(t, l.Due(10))
	require.Zero(t, l.entries.Load())
}

func TestWhatStorageDidNotTakeIsTakenAgain(t *testing.T) {
	t.Parallel()
	l := newLedger()
	require.Nil(t, l.Take("app", hashed))
	l.Record(read(0, "alice"))
	first := l.Take("app", hashed)
	l.Record(read(1, "bob"))
	again := l.Take("app", hashed)
	require.Equal(t, first, again, "a page does not grow once it was taken")
	require.Len(t, l.Waiting("app", hashed), 2)
	l.Stored("app")
	second := l.Take("app", hashed)
	require.True(t, second.Mark.Covers(first.Mark))
	require.False(t, first.Mark.Covers(second.Mark))
	require.False(t, second.Mark.Covers(Mark{Boot: "another process"}))
	require.Len(t, l.Recent("app", at(1), hashed), 2, "also those that are stored already")
	require.Len(t, l.Recent("app", at(61), hashed), 1, "but none that did not read within the minute")
	l.Stored("app")
	l.Stored("app") // nothing was taken
	require.Empty(t, l.Waiting("app", hashed))
}

func TestANodeThatMayNotStoreForgets(t *testing.T) {
	t.Parallel()
	l := newLedger()
	l.Record(read(0, "alice"))
	l.Discard(at(30))
	require.Len(t, l.Waiting("app", hashed), 1)
	l.Discard(at(61))
	l.Discard(at(130))
	require.Empty(t, l.Waiting("app", hashed))
	require.Zero(t, l.known.Load())
	require.Zero(t, l.entries.Load())
}

func TestCrossing(t *testing.T) {
	t.Parallel()
	l := newLedger()
	record := func(second int) *Crossing {
		r := read(second, "alice")
		r.Threshold = 10
		return l.Record(r)
	}
	for range 10 {
		require.Nil(t, record(0), "the threshold is allowed")
	}
	require.Equal(t, &Crossing{Role: "app", Rate: 11, Threshold: 10, Time: at(0)}, record(0))
	for i := range 899 {
		require.Nil(t, record(i), "not again before the cool-down is over")
	}
	require.NotNil(t, record(900), "it lasts")
	require.Nil(t, record(901))
	require.Nil(t, record(3000), "the cool-down is over, and the rate is low")

	for range 100 {
		require.Nil(t, l.Record(read(4000, "alice")), "0 is never")
	}
	require.NotNil(t, record(4000), "a threshold that is set later counts at once")
}

// A clock that goes back must neither silence the alarm for as long as it went back, nor
// count the past twice.
func TestCrossingWhereTheClockGoesBack(t *testing.T) {
	t.Parallel()
	l := newLedger()
	record := func(second int) *Crossing {
		r := read(second, "alice")
		r.Threshold = 10
		return l.Record(r)
	}
	for range 10 {
		record(10_000)
	}
	for range 10 {
		require.Nil(t, record(5000), "these are ten, and not twenty")
	}
	require.Equal(t, 10, l.Rate("app", at(5000)))
	require.NotNil(t, record(4999), "a second back is the order of requests")
	require.Equal(t, 11, l.Rate("app", at(5000)))
	for range 10 {
		require.Nil(t, record(2000))
	}
	require.NotNil(t, record(2000))
}

// The window against a list of all times.
func TestTheWindowCountsAMinute(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var w window
		var all []int64
		now := int64(1_893_456_000)
		for range rapid.IntRange(1, 300).Draw(t, "reads") {
			now += int64(rapid.SampledFrom([]int{0, 0, 0, 1, 1, 2, 5, 30, 59, 60, 61, 1000}).Draw(t, "later"))
			all = append(all, now)
			want := 0
			for _, second := range all {
				if now-second < windowSeconds {
					want++
				}
			}
			require.Equal(t, want, w.add(now))
			require.Equal(t, want, w.count(now))
		}
	})
}

func TestNothingOfARequestIsKeptAliveOrGrows(t *testing.T) {
	t.Parallel()
	l := newLedger()
	r := read(0, strings.Repeat("x", 10_000))
	r.Reader.Address = strings.Repeat("1", 500)
	r.Reader.EntityID = "broken \xff"
	l.Record(r)
	got := whole(l, "app").Versions[0].Readers[0]
	require.Len(t, got.DisplayName, maxName)
	require.Len(t, got.Address, maxText)
	require.Equal(t, "broken ?", got.EntityID)
}

func BenchmarkRecord(b *testing.B) {
	for _, readers := range []int{1, 16} {
		b.Run(fmt.Sprintf("%d readers", readers), func(b *testing.B) {
			l := newLedger()
			who := make([]Identity, readers)
			for i := range who {
				who[i] = Identity{EntityID: fmt.Sprintf("7d2e3f6a-1b1c-4b5e-9a55-0f4de2c1a9%02d", i), DisplayName: "kubernetes-billing", Accessor: fmt.Sprintf("hmac-accessor-of-a-token-%d", i), Address: "10.1.4.7"}
			}
			b.ReportAllocs()
			b.SetParallelism(8)
			b.RunParallel(func(p *testing.PB) {
				for i := 0; p.Next(); i++ {
					l.Record(&Read{Role: "app", Version: 4, Reader: who[i%readers], Time: epoch, Threshold: 1 << 30})
				}
			})
		})
	}
}
