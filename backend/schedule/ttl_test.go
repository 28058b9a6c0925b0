package schedule_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/schedule"
)

func TestTTL(t *testing.T) {
	t.Parallel()
	now := at(t, "2030-01-01T00:00:00Z")
	const unset = time.Duration(-1 << 62)
	for name, tc := range map[string]struct{ grace, next, want time.Duration }{
		"a quarter of the grace":               {time.Hour, 30 * 24 * time.Hour, 15 * time.Minute},
		"until the next rotation":              {time.Hour, 10 * time.Minute, 10 * time.Minute},
		"whole seconds":                        {time.Hour, 10*time.Minute + 900*time.Millisecond, 10 * time.Minute},
		"the floor":                            {time.Hour, 10 * time.Second, 30 * time.Second},
		"the floor of a short grace":           {time.Minute, 2 * time.Second, 15 * time.Second},
		"the least grace":                      {20 * time.Second, time.Hour, 5 * time.Second},
		"the least grace, next at once":        {20 * time.Second, time.Second, 5 * time.Second},
		"a quarter that is no whole second":    {21 * time.Second, time.Hour, 5 * time.Second},
		"due now":                              {time.Hour, 0, 15 * time.Minute},
		"overdue readers do not poll to death": {time.Hour, -24 * time.Hour, 15 * time.Minute},
		"none planned":                         {time.Hour, unset, 15 * time.Minute},
		"in place, until the next":             {0, 10 * time.Minute, 10 * time.Minute},
		"in place, soon":                       {0, 10 * time.Second, 30 * time.Second},
		"in place, past":                       {0, -time.Second, 30 * time.Second},
		"in place, now":                        {0, 0, 30 * time.Second},
		"in place, none planned":               {0, unset, 300 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			next := now.Add(tc.next)
			if tc.next == unset {
				next = time.Time{}
			}
			require.Equal(t, tc.want, schedule.TTL(tc.grace, next, now))
		})
	}
}

func TestRetiringTTL(t *testing.T) {
	t.Parallel()
	now := at(t, "2030-01-01T00:00:00Z")
	for name, tc := range map[string]struct {
		grace, left, want time.Duration
		refused           bool
	}{
		"half of what is left":       {time.Hour, 20 * time.Minute, 10 * time.Minute, false},
		"but a quarter of the grace": {time.Hour, 59 * time.Minute, 15 * time.Minute, false},
		"whole seconds":              {time.Hour, 11 * time.Second, 5 * time.Second, false},
		"the least":                  {time.Hour, 4 * time.Second, 2 * time.Second, false},
		"too little":                 {time.Hour, 3900 * time.Millisecond, time.Second, true},
		"over":                       {time.Hour, -time.Minute, -30 * time.Second, true},
		"in place":                   {0, time.Hour, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ttl, ok := schedule.RetiringTTL(tc.grace, now.Add(tc.left), now)
			require.Equal(t, !tc.refused, ok)
			require.Equal(t, tc.want, ttl)
		})
	}
	t.Run("its end is not set yet", func(t *testing.T) {
		t.Parallel()
		ttl, ok := schedule.RetiringTTL(time.Hour, time.Time{}, now)
		require.True(t, ok)
		require.Equal(t, 15*time.Minute, ttl)
		_, ok = schedule.RetiringTTL(0, time.Time{}, now)
		require.False(t, ok, "a ttl of 0 would make readers poll")
	})
}

// The promise that everything stands on: whoever read a version, at any moment of its
// life and by either path, has read again before it ends.
func TestNoTTLOutlivesItsVersion(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		second := func(low, high int64, label string) time.Duration {
			return time.Duration(rapid.Int64Range(low, high).Draw(t, label)) * time.Second
		}
		grace := second(20, 7*24*3600, "grace")
		read := anyTime(t, "read")
		next := read.Add(second(-100_000, 10_000_000, "next"))
		if rapid.Bool().Draw(t, "unset") {
			next = time.Time{}
		}
		ttl := schedule.TTL(grace, next, read)
		require.GreaterOrEqual(t, ttl, 5*time.Second, "nobody polls")
		require.LessOrEqual(t, ttl, schedule.LongestTTL(grace))
		require.Equal(t, ttl, ttl.Truncate(time.Second))

		// The version is replaced the moment it was read, by whatever comes early.
		retireAt := read.Add(grace)
		require.False(t, read.Add(ttl+schedule.Margin(grace)).After(retireAt))
		// A process that starts the moment after the read ends it by the clock, however
		// much too early that is.
		require.GreaterOrEqual(t, schedule.Settle(grace), ttl+schedule.Margin(grace))

		again := read.Add(second(0, int64(grace/time.Second), "later"))
		if ttl, ok := schedule.RetiringTTL(grace, retireAt, again); ok {
			require.GreaterOrEqual(t, ttl, 2*time.Second)
			require.False(t, again.Add(2*ttl).After(retireAt), "half of its life at most")
			require.LessOrEqual(t, ttl, schedule.LongestTTL(grace))
		}
	})
}

func TestMarginAndSettle(t *testing.T) {
	t.Parallel()
	require.Equal(t, time.Minute, schedule.Margin(time.Hour))
	require.Equal(t, 2500*time.Millisecond, schedule.Margin(20*time.Second))
	require.Equal(t, 16*time.Minute, schedule.Settle(time.Hour))
	require.Zero(t, schedule.Settle(0), "in place: there is nothing to wait for")
	// The least grace leaves room for both.
	require.Less(t, schedule.Settle(schedule.MinGrace), schedule.MinGrace)
}
