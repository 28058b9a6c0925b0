package schedule_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/schedule"
)

func at(t testing.TB, text string) time.Time {
	t.Helper()
	parsed, err := time.Parse(time.RFC3339, text)
	require.NoError(t, err)
	return parsed
}

func cron(t testing.TB, text string) *schedule.Cron {
	t.Helper()
	c, err := schedule.ParseCron(text)
	require.NoError(t, err)
	return c
}

func TestParseCronRefuses(t *testing.T) {
	t.Parallel()
	const fields, never = "must be five cron fields in UTC", "names no date that ever comes"
	for text, want := range map[string]string{
		"":                             fields,
		"* * * *":                      fields,
		"0 0 2 * * *":                  fields, // seconds
		"@daily":                       fields,
		" @every 5m":                   fields,
		"TZ=Europe/Zurich 0 2 * * *":   fields,
		"TZ=Europe/Zurich 0 2 * *":     fields,
		"CRON_TZ=Asia/Tokyo 0 2 * * *": fields,
		"60 * * * *":                   "field 1 (minute)",
		"5-1 * * * *":                  "field 1 (minute)",
		"*/0 * * * *":                  "field 1 (minute)",
		"* 24 * * *":                   "field 2 (hour)",
		"* * 0 * *":                    "field 3 (day of month)",
		"* * * 13 *":                   "field 4 (month)",
		"* * * * 8":                    "field 5 (weekday)",
		"canary b c d e":               "field 1 (minute)",
		"@daily * * * *":               "field 1 (minute)",
		"0 0 30 2 *":                   never,
		"0 0 31 4,6,9,11 *":            never,
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			_, err := schedule.ParseCron(text)
			require.ErrorContains(t, err, want)
			require.NotContains(t, err.Error(), "canary", "it may be a secret in the wrong place")
		})
	}
}

func TestCronNext(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ cron, after, want string }{
		{"0 2 * * *", "2030-01-01T01:59:59Z", "2030-01-01T02:00:00Z"},
		{"0 2 * * *", "2030-01-01T02:00:00Z", "2030-01-02T02:00:00Z"}, // strictly after
		{"*/15 * * * *", "2030-01-01T02:07:00Z", "2030-01-01T02:15:00Z"},
		{"30 4 1 * *", "2030-01-31T00:00:00Z", "2030-02-01T04:30:00Z"},
		{"0 0 29 2 *", "2029-03-01T00:00:00Z", "2032-02-29T00:00:00Z"},
		{"0 0 31 * *", "2030-01-31T00:00:00Z", "2030-03-31T00:00:00Z"},
		{"0 3 * * sun", "2030-01-01T00:00:00Z", "2030-01-06T03:00:00Z"},
		{"0 0 1 * mon", "2030-01-01T12:00:00Z", "2030-01-07T00:00:00Z"}, // either of the two days
		// The night in which clocks are put forward elsewhere has its half past two here.
		{"30 2 * * *", "2030-03-31T00:00:00Z", "2030-03-31T02:30:00Z"},
		{"30 2 * * *", "2030-10-27T02:30:00Z", "2030-10-28T02:30:00Z"},
	} {
		t.Run(tc.cron+" after "+tc.after, func(t *testing.T) {
			t.Parallel()
			c := cron(t, tc.cron)
			require.Equal(t, tc.cron, c.String())
			require.Equal(t, at(t, tc.want), c.Next(at(t, tc.after)))
		})
	}
}

// A schedule means the same moments whatever zone a time is written in.
func TestCronKnowsOnlyUTC(t *testing.T) {
	t.Parallel()
	c := cron(t, "30 2 * * *")
	tokyo := time.FixedZone("JST", 9*60*60)
	rapid.Check(t, func(t *rapid.T) {
		moment := time.Unix(rapid.Int64Range(0, 4_000_000_000).Draw(t, "unix"), 0)
		require.Equal(t, c.Next(moment.UTC()), c.Next(moment.In(tokyo)))
		require.Equal(t, time.UTC, c.Next(moment.In(tokyo)).Location())
		require.LessOrEqual(t, c.Next(moment).Sub(moment), 24*time.Hour, "no day is shorter or longer than another")
	})
}

func TestShortestGap(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for text, want := range map[string]time.Duration{
		"* * * * *":        time.Minute,
		"*/15 * * * *":     15 * time.Minute,
		"*/7 * * * *":      4 * time.Minute, // from :56 to :00
		"0 2 * * *":        day,
		"0 2,3 * * *":      time.Hour,
		"0 2 * * mon":      7 * day,
		"0 0 1 * *":        28 * day, // February
		"0 0 1,31 * *":     day,
		"0 0 29 2 *":       1461 * day,
		"0 0 1 * mon":      day,
		"0 23 * * sat":     7 * day,
		"0,59 0 1 1 *":     59 * time.Minute,
		"0 */7 * * *":      3 * time.Hour,
		"59 23 31 12 *":    365 * day,
		"0 12 * * mon,fri": 3 * day,
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, want, cron(t, text).ShortestGap())
			require.Equal(t, want, schedule.Policy{Cron: cron(t, text), Period: time.Hour}.Interval())
		})
	}
	require.Equal(t, time.Hour, schedule.Policy{Period: time.Hour}.Interval())
}

func TestNext(t *testing.T) {
	t.Parallel()
	rotated := at(t, "2030-01-01T10:00:00Z")
	require.Equal(t, rotated.Add(time.Hour), schedule.Policy{Period: time.Hour}.Next(rotated, "any"))
	require.Equal(t, at(t, "2030-01-02T02:00:00Z"), schedule.Policy{Cron: cron(t, "0 2 * * *")}.Next(rotated, "any"))
	require.Zero(t, schedule.Policy{Period: time.Hour, Disabled: true}.Next(rotated, "any"))
	require.Equal(t, time.UTC, schedule.Policy{Period: time.Hour}.Next(rotated.In(time.FixedZone("x", 3600)), "any").Location())
	// The next February 29th is more than five years away: none rather than the year 1.
	leap := schedule.Policy{Cron: cron(t, "0 0 29 2 *"), Jitter: time.Hour}
	for _, role := range []string{"a", "b", "c"} {
		require.Zero(t, leap.Next(at(t, "2096-03-01T00:00:00Z"), role))
	}
}

func anyPolicy(t *rapid.T) schedule.Policy {
	p := schedule.Policy{Jitter: time.Duration(rapid.IntRange(0, 1800).Draw(t, "jitter")) * time.Second}
	if rapid.Bool().Draw(t, "cron") {
		c, err := schedule.ParseCron(rapid.SampledFrom([]string{"0 * * * *", "0 2 * * *", "30 4 1 * *", "15 3 * * sun"}).Draw(t, "schedule"))
		require.NoError(t, err)
		p.Cron, p.Window = c, time.Duration(rapid.IntRange(0, 3600).Draw(t, "window"))*time.Second
	} else {
		p.Period = time.Duration(rapid.IntRange(3600, 90*24*3600).Draw(t, "period")) * time.Second
	}
	p.OverdueAfter = time.Duration(rapid.IntRange(1, 30*24*3600).Draw(t, "overdue")) * time.Second
	return p
}

func anyTime(t *rapid.T, label string) time.Time {
	return time.Unix(rapid.Int64Range(1_900_000_000, 2_500_000_000).Draw(t, label), 0).UTC()
}

func TestNextIsNeverInThePastAndWithinTheJitter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p, rotated, role := anyPolicy(t), anyTime(t, "rotated"), rapid.String().Draw(t, "role")
		next := p.Next(rotated, role)
		require.True(t, next.After(rotated))
		require.Equal(t, next, p.Next(rotated, role), "a role's share is fixed")

		plain := p
		plain.Jitter = 0
		without := plain.Next(rotated, role)
		if p.Cron != nil {
			require.False(t, next.Before(without), "jitter makes a cron time later")
			require.LessOrEqual(t, next.Sub(without), p.Jitter)
		} else {
			require.False(t, next.After(without), "jitter makes a period shorter")
			require.LessOrEqual(t, without.Sub(next), p.Jitter)
		}
		if p.Jitter > 0 {
			require.Less(t, next.Sub(without).Abs(), p.Jitter)
		}
	})
}

func TestJitterSpreads(t *testing.T) {
	t.Parallel()
	p, rotated := schedule.Policy{Period: 24 * time.Hour, Jitter: time.Hour}, at(t, "2030-01-01T00:00:00Z")
	minutes := map[int]int{}
	for i := range 6000 {
		minutes[int(rotated.Add(p.Period).Sub(p.Next(rotated, fmt.Sprintf("role-%d", i)))/time.Minute)]++
	}
	require.Len(t, minutes, 60)
	for minute, roles := range minutes {
		require.InDelta(t, 100, roles, 60, "minute %d", minute)
	}
}

func TestBeginAt(t *testing.T) {
	t.Parallel()
	nightly := schedule.Policy{Cron: cron(t, "0 2 * * *"), Window: time.Hour, OverdueAfter: 7 * 24 * time.Hour}
	hasty := nightly
	hasty.OverdueAfter = 6 * time.Hour
	anytime := nightly
	anytime.Window = 0
	off := nightly
	off.Disabled = true
	period := schedule.Policy{Period: time.Hour}
	const due = "2030-01-01T02:00:00Z"
	for name, tc := range map[string]struct {
		policy          schedule.Policy
		next, now, want string
	}{
		"not due yet":                     {nightly, due, "2030-01-01T01:00:00Z", due},
		"due, the window opens":           {nightly, due, due, due},
		"due, in the window":              {nightly, due, "2030-01-01T02:59:59Z", due},
		"the window closed":               {nightly, due, "2030-01-01T03:00:00Z", "2030-01-02T02:00:00Z"},
		"caught up in the next one":       {nightly, due, "2030-01-04T02:30:00Z", due},
		"after downtime, between windows": {nightly, due, "2030-01-04T12:00:00Z", "2030-01-05T02:00:00Z"},
		"overdue before the next window":  {hasty, due, "2030-01-01T03:00:00Z", "2030-01-01T08:00:00Z"},
		"overdue overrides windows":       {hasty, due, "2030-01-01T12:00:00Z", "2030-01-01T08:00:00Z"},
		"long overdue":                    {nightly, due, "2030-02-01T12:00:00Z", "2030-01-08T02:00:00Z"},
		"jitter lies within the window":   {nightly, "2030-01-01T02:40:00Z", "2030-01-01T02:50:00Z", "2030-01-01T02:40:00Z"},
		"no window":                       {anytime, due, "2030-01-01T12:00:00Z", due},
		"a period has no window":          {period, due, "2030-01-09T12:00:00Z", due},
		"disabled":                        {off, due, "2030-02-01T12:00:00Z", ""},
		"disabled, though long overdue":   {off, due, "2031-02-01T12:00:00Z", ""},
		"nothing planned":                 {nightly, "", "2030-01-01T02:00:00Z", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var next, want time.Time
			if tc.next != "" {
				next = at(t, tc.next)
			}
			if tc.want != "" {
				want = at(t, tc.want)
			}
			require.Equal(t, want, tc.policy.BeginAt(next, at(t, tc.now)))
		})
	}
}

func TestBeginAtProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p, next := anyPolicy(t), anyTime(t, "next")
		now := next.Add(time.Duration(rapid.Int64Range(-40*24*3600, 80*24*3600).Draw(t, "late")) * time.Second)
		begin := p.BeginAt(next, now)
		require.False(t, begin.Before(next), "never before it is due")
		if !now.Before(next.Add(p.OverdueAfter)) {
			require.False(t, begin.After(now), "overdue overrides windows")
		}
		if begin.After(now) && now.After(next) { // waiting: there is an end to it, and it is what it says then
			require.False(t, p.BeginAt(next, begin).After(begin))
		}
	})
}

func TestOverdue(t *testing.T) {
	t.Parallel()
	next := at(t, "2030-01-01T02:00:00Z")
	require.Zero(t, schedule.Overdue(time.Time{}, next))
	require.Zero(t, schedule.Overdue(next, next.Add(-time.Second)))
	require.Zero(t, schedule.Overdue(next, next))
	require.Equal(t, time.Minute, schedule.Overdue(next, next.Add(time.Minute)))
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	for attempt, want := range map[int]time.Duration{
		-1: 0, 0: 0, 1: 0, 2: 30 * time.Second, 3: time.Minute, 4: 2 * time.Minute, 5: 4 * time.Minute, 6: 8 * time.Minute,
		7: 16 * time.Minute, 8: 32 * time.Minute, 9: time.Hour, 10: time.Hour, 1000: time.Hour,
	} {
		require.Equal(t, want, schedule.Backoff(attempt), "attempt %d", attempt)
	}
}

func FuzzParseCron(f *testing.F) {
	for _, text := range []string{"0 2 * * *", "*/5 1-3,7 * jan-mar mon", "0 0 30 2 *", "TZ=x 0 0 * * *", "@daily"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := schedule.ParseCron(text)
		if err != nil {
			return
		}
		now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
		require.Equal(t, text, c.String())
		require.True(t, c.Next(now).After(now))
		require.GreaterOrEqual(t, c.ShortestGap(), time.Minute)
	})
}

func TestOpen(t *testing.T) {
	t.Parallel()
	cron, err := schedule.ParseCron("0 3 * * *")
	require.NoError(t, err)
	at := time.Date(2030, 1, 1, 3, 0, 0, 0, time.UTC)
	windowed := schedule.Policy{Cron: cron, Window: time.Hour}
	for offset, open := range map[time.Duration]bool{-time.Second: false, 0: true, 59 * time.Minute: true, time.Hour: false} {
		require.Equal(t, open, windowed.Open(at.Add(offset)), offset)
		require.True(t, schedule.Policy{Cron: cron}.Open(at.Add(offset)), "no window")
		require.True(t, schedule.Policy{Period: time.Hour, Window: time.Hour}.Open(at.Add(offset)), "windows belong to cron")
	}
}
