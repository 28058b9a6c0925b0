package outbox

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var start = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func key(n int) string { return fmt.Sprintf("%020d", n) }

// Whatever waits, each entry goes in one message, and those of a role in order.
func TestEachGoesOnceAndARolesInOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		q := &Queue{}
		now, next, role := start, 0, map[string]int{}
		of := map[string]string{}
		seen := map[string]bool{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "add") {
				next++
				name := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "role")
				of[key(next)] = name
				e := Entry{
					Key: key(next), Role: name, Same: rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "same"), QueuedTime: now,
					Urgent: rapid.Bool().Draw(t, "urgent"),
				}
				q.Add(e)
				q.Add(e) // handed over twice
				continue
			}
			now = now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "seconds")) * time.Second)
			at := q.Next()
			if at.IsZero() || at.After(now) {
				continue
			}
			var gone []string
			for _, e := range q.Together() {
				require.False(t, seen[e.Key], "it goes once")
				seen[e.Key] = true
				n, err := strconv.Atoi(e.Key)
				require.NoError(t, err)
				require.Greater(t, n, role[of[e.Key]], "in order")
				role[of[e.Key]] = n
				gone = append(gone, e.Key)
			}
			q.Remove(gone...)
			q.Sent("x", now)
		}
		require.Equal(t, next, len(seen)+q.Len())
	})
}

func TestWhatMayHaveBeenSentGoesAlone(t *testing.T) {
	t.Parallel()
	q := &Queue{}
	for i, name := range []string{"a", "b", "c"} {
		q.Add(Entry{Key: key(i), Role: name, Same: "x", QueuedTime: start})
	}
	require.Len(t, q.Together(), 3)
	q.Fix(key(0))
	require.Len(t, q.Together(), 1)
	require.Equal(t, start, q.Next(), "it does not wait for others")
	q.Remove(key(0))
	require.Len(t, q.Together(), 2)
}

func TestWhatWasFirstInLineMayHaveBeenSent(t *testing.T) {
	t.Parallel()
	at := func(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }
	q := &Queue{}
	q.Add(Entry{Key: key(5), Role: "b", Same: "x", QueuedTime: at(0)}) // it was sent, and a crash followed
	q.Add(Entry{Key: key(1), Role: "a", Same: "y", QueuedTime: at(5)}) // came in meanwhile
	q.Add(Entry{Key: key(6), Role: "c", Same: "x", QueuedTime: at(1)})
	q.Add(Entry{Key: key(7), Role: "d", Same: "x", QueuedTime: at(9)})
	q.Resume()
	for _, want := range [][]string{{"a"}, {"b"}, {"c", "d"}} {
		var roles, gone []string
		for _, e := range q.Together() {
			roles, gone = append(roles, e.Role), append(gone, e.Key)
		}
		require.Equal(t, want, roles)
		q.Remove(gone...)
	}
}

// Whatever came in when, what was first in line goes alone after a restart.
func TestWhatWasSentIsFoundAfterAnyOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		running, after := &Queue{}, &Queue{}
		sent := map[string]bool{}
		for i, n := range rapid.SliceOfNDistinct(rapid.IntRange(0, 99), 1, 20, rapid.ID[int]).Draw(t, "keys") {
			e := Entry{Key: key(n), Role: fmt.Sprint(n), Same: "x", QueuedTime: start.Add(time.Duration(i) * time.Second)}
			running.Add(e)
			after.Add(e)
			if rapid.Bool().Draw(t, "send") {
				head, _ := running.Oldest()
				sent[head.Key] = true
			}
		}
		after.Resume()
		for after.Len() > 0 {
			batch := after.Together()
			for _, e := range batch {
				require.False(t, sent[e.Key] && len(batch) > 1, "it would bear another id")
				after.Remove(e.Key)
			}
		}
	})
}

func TestPace(t *testing.T) {
	t.Parallel()
	q := &Queue{}
	require.True(t, q.Next().IsZero())
	q.Add(Entry{Key: key(1), Role: "a", Same: "x", QueuedTime: start})
	require.Equal(t, start.Add(linger), q.Next())
	q.Remove(key(1))
	q.Add(Entry{Key: key(2), Role: "a", Urgent: true, Same: "x", QueuedTime: start})
	require.Equal(t, start, q.Next(), "what is urgent goes at once")
	now := start
	for range burst - 1 {
		q.Sent("x", now)
		require.Equal(t, now.Add(pace), q.Next())
		now = now.Add(pace)
	}
	q.Sent("x", now)
	require.Equal(t, now.Add(pace), q.Next(), "and waits for no storm")
	q.Remove(key(2))
	q.Add(Entry{Key: key(3), Role: "a", Same: "y", QueuedTime: start})
	require.Equal(t, now.Add(pace), q.Next(), "one of another sort")
	q.Remove(key(3))
	q.Add(Entry{Key: key(4), Role: "a", Same: "x", QueuedTime: start})
	require.Equal(t, now.Add(slow), q.Next(), "after a burst what comes goes together")
	q.Add(Entry{Key: key(5), Role: "b", Urgent: true, QueuedTime: start})
	require.Equal(t, now.Add(pace), q.Next(), "something urgent stands behind it")
	q.Remove(key(5))
	q.Sent("y", now.Add(slow-1))
	require.Equal(t, now.Add(slow-1+pace), q.Next())
	q.Sent("x", now.Add(2*forgets))
	require.Equal(t, now.Add(2*forgets).Add(pace), q.Next())
}

func TestPaceOfACrowd(t *testing.T) {
	t.Parallel()
	q, now := &Queue{}, start
	q.Add(Entry{Key: key(0), Role: "a", QueuedTime: start})
	for i := range crowd {
		require.False(t, q.Next().After(now), "message %d", i)
		q.Sent("", now)
		now = now.Add(pace)
	}
	require.Equal(t, now.Add(slow-pace), q.Next())
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	for failures, want := range map[int]time.Duration{0: 5 * time.Second, 1: 5 * time.Second, 2: 5 * time.Minute, 3: 30 * time.Minute, 4: 2 * time.Hour, 5: 5 * time.Hour, 6: 10 * time.Hour, 90: 10 * time.Hour} {
		require.Equal(t, want, Backoff(failures, 0), failures)
	}
	require.Equal(t, time.Minute, Backoff(1, time.Minute), "as the service asks")
	require.Equal(t, 5*time.Minute, Backoff(2, time.Minute))
	require.Equal(t, maxAsked, Backoff(1, 1000*time.Hour), "but not for ever")
}
