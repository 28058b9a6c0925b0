package backend_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
)

func (r *rig) calendar(days int) *backend.Calendar {
	r.t.Helper()
	c, err := r.Engine().Calendar(context.Background(), days)
	require.NoError(r.t, err)
	require.True(r.t, slices.IsSortedFunc(c.Entries, func(a, b backend.Upcoming) int { return a.Time.Compare(b.Time) }))
	return c
}

func upcoming(c *backend.Calendar, role, what string) (out []backend.Upcoming) {
	for _, e := range c.Entries {
		if e.Role == role && e.What == what {
			out = append(out, e)
		}
	}
	return out
}

const day = 24 * time.Hour

func TestCalendarProjectsSchedules(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"rotation_period": int64(10 * 24 * 3600)})
	r.Add(nil, "weekly")
	require.NoError(t, r.Act(func(ctx context.Context, e *backend.Engine) error {
		_, err := e.WriteRole(ctx, backend.Write{Name: "weekly", Given: option.Values{"rotation_schedule": "0 3 * * 0", "rotation_window": int64(3600), "jitter": int64(600)}})
		return err
	}))
	r.Wait(10 * time.Second) // until the changed schedule was adopted
	r.Add(option.Values{"rotation_period": int64(24 * 3600), "disable_automated_rotation": true}, "by-hand")
	next := r.State().NextRotation
	c := r.calendar(30)
	require.False(t, c.Truncated)
	require.Equal(t, r.Clock.Now().Add(30*day), c.Until)

	own := upcoming(c, app, backend.UpcomingRotation)
	require.Len(t, own, 3, "rotated a minute ago, and every ten days")
	require.Equal(t, backend.Upcoming{Time: next, Role: app, Type: "memory", What: "rotation", Detail: "by the schedule"}, own[0])
	for i, e := range own[1:] {
		require.Equal(t, next.Add(time.Duration(i+1)*10*day), e.Time)
		require.Contains(t, e.Detail, "if those before it go well")
	}
	weekly := upcoming(c, "weekly", backend.UpcomingRotation)
	require.GreaterOrEqual(t, len(weekly), 4)
	for _, e := range weekly {
		require.Equal(t, time.Sunday, e.Time.Weekday())
		require.Equal(t, 3, e.Time.Hour(), "the jitter stays within the hour")
		require.Equal(t, weekly[0].Time.Minute(), e.Time.Minute(), "and is always the same")
	}
	require.Empty(t, upcoming(c, "by-hand", backend.UpcomingRotation))
	require.Empty(t, upcoming(r.calendar(1), app, backend.UpcomingRotation))
}

func TestCalendarTellsEndsOfVersions(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"rotation_period": int64(30 * 24 * 3600), "grace_period": int64(600), "destroy_after": int64(3 * 24 * 3600)})
	r.Rotate()
	r.Wait(10 * time.Second)
	c := r.calendar(5)
	ends := upcoming(c, app, backend.UpcomingRetirement)
	require.Len(t, ends, 1)
	require.Equal(t, r.State().Versions[0].RetireAt, ends[0].Time)
	require.Contains(t, ends[0].Detail, "version 1 (")

	r.Wait(12 * time.Minute)
	c = r.calendar(5)
	require.Empty(t, upcoming(c, app, backend.UpcomingRetirement))
	ends = upcoming(c, app, backend.UpcomingDestruction)
	require.Len(t, ends, 1)
	require.Equal(t, r.State().Versions[0].DestroyAt, ends[0].Time)
	require.Empty(t, upcoming(r.calendar(1), app, backend.UpcomingDestruction))
}

func TestCalendarTellsOfVersionsThatStandBy(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"announce": int64(3600), "rotation_period": int64(24 * 3600)})
	r.Wait(time.Minute)
	ready := upcoming(r.calendar(1), app, backend.UpcomingPromotion)
	require.Len(t, ready, 1)
	require.Equal(t, r.State().StandbyVersion().ReadyAt, ready[0].Time)
	require.Contains(t, ready[0].Detail, "version 2 (")
}

func TestCalendarTellsWhatStandsStill(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"max_attempts": int64(1)})
	r.world.SetRefuse(true)
	_, err := r.rotate()
	require.NoError(t, err)
	r.waitUntil("blocked", time.Minute, func() bool { return r.status().State == backend.StateBlocked })
	r.Clock.Advance(time.Hour)
	r.Leak(true) // readers of an hour ago
	entries := upcoming(r.calendar(30), app, backend.UpcomingRotation)
	require.Len(t, entries, 1, "nothing follows before a person has acted")
	require.Equal(t, r.State().NextRotation, entries[0].Time, "when it was due")
	require.Equal(t, "by the schedule, and late; blocked: only people rotate it", entries[0].Detail)
}

func TestCalendarIsBounded(t *testing.T) {
	t.Parallel()
	r := created(t, nil) // every ten minutes
	r.Add(nil, "billing")
	puts := r.Disk.Snapshot()
	c := r.calendar(366)
	require.True(t, c.Truncated)
	require.Len(t, c.Entries, backend.MaxCalendar)
	require.Less(t, c.Entries[backend.MaxCalendar-1].Time.Sub(r.Clock.Now()), 4*day, "the earliest are told")
	require.Len(t, upcoming(c, "billing", backend.UpcomingRotation), backend.MaxCalendar/2)
	require.Equal(t, puts, r.Disk.Snapshot())
	for _, days := range []int{-1, 0, 367} {
		_, err := r.Engine().Calendar(context.Background(), days)
		requireKind(t, fault.Invalid, err, "days: must be 1 to 366")
	}
}

// What a process finds in storage, and what it was told since, give the same calendar.
func TestCalendarIsTheSameAfterARestart(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"rotation_period": int64(24 * 3600), "grace_period": int64(3600)})
	r.Add(option.Values{"grace_period": int64(599)}, "left")
	r.Rotate()
	r.DeleteOther("left")
	before := r.calendar(2)
	require.Len(t, upcoming(before, "left", backend.UpcomingRetirement), 1, "of a deleted role")
	require.Empty(t, upcoming(before, "left", backend.UpcomingRotation))
	r.Restart()
	require.Equal(t, fmt.Sprint(before), fmt.Sprint(r.calendar(2)))
}

func TestCalendarTellsWhenDataMayFollow(t *testing.T) {
	t.Parallel()
	v := newVault(t, 10, option.Values{"maintenance_schedule": "0 2 * * *", "maintenance_window": int64(3600), "disable_automated_rotation": true})
	require.Empty(t, v.calendar(3).Entries, "a window that nothing waits for")
	v.Rotate()
	v.Wait(30 * time.Minute)
	c := v.calendar(3)
	opens := time.Date(2030, 1, 1, 2, 0, 0, 0, time.UTC)
	starts := upcoming(c, app, backend.UpcomingReencryption)
	require.Len(t, starts, 1)
	require.Equal(t, opens, starts[0].Time, "not before the window opens")
	windows := upcoming(c, app, backend.UpcomingMaintenance)
	require.Len(t, windows, 3)
	for i, w := range windows {
		require.Equal(t, opens.Add(time.Duration(i)*day), w.Time)
		require.Contains(t, w.Detail, "opens for 1h0m0s")
	}
}
