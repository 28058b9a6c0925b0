package backend_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/metrics"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

func (r *rig) metrics() *metrics.Snapshot {
	r.t.Helper()
	out, err := r.Engine().Metrics(context.Background())
	require.NoError(r.t, err)
	return out
}

// measured are the metrics of the one role.
func (r *rig) measured() metrics.Role {
	r.t.Helper()
	roles := r.metrics().Roles
	require.Len(r.t, roles, 1)
	return roles[0]
}

func TestMetricsFollowARole(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.creds()
	_, err := r.Engine().VersionCreds(context.Background(), app, 1, backend.Actor{})
	require.NoError(t, err)
	first := r.measured()
	require.Equal(t, metrics.Role{
		Name: app, Type: "memory", State: "ok", AccessRateThreshold: 1000, OverdueAfter: 7 * 24 * time.Hour, NextRotation: r.State().NextRotation,
		LastSuccess: r.State().SucceededTime, LastDuration: first.LastDuration, CurrentVersion: 1, LiveVersions: 1, Reads: first.Reads,
		Attempts: map[string]uint64{"succeeded": 1, "failed": 0, "rolled_back": 0, "superseded": 0, "blocked": 0},
	}, first)
	require.GreaterOrEqual(t, first.Reads, uint64(2))
	require.Equal(t, r.State().Last.EndedTime, first.LastSuccess)

	r.Rotate()
	second := r.measured()
	require.Equal(t, "grace", second.State)
	require.Equal(t, 2, second.LiveVersions)
	require.Equal(t, r.State().Version(1).RetireAt, second.GraceEnd)
	require.EqualValues(t, 2, second.Attempts["succeeded"])
	require.True(t, second.LastSuccess.After(first.LastSuccess))
	r.waitUntil("the first version retires", 5*time.Minute, func() bool { return r.State().Version(1).Settled() })
	require.Equal(t, 1, r.measured().LiveVersions)
	require.Zero(t, r.measured().GraceEnd)
}

func TestMetricsCountFailures(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"max_attempts": int64(2)})
	before := r.measured()
	r.world.SetRefuse(true)
	out, err := r.rotate()
	require.NoError(t, err)
	require.Equal(t, rotation.Failed, out.Outcome)
	m := r.measured()
	require.Equal(t, 1, m.Failures)
	require.EqualValues(t, 1, m.Attempts["failed"])
	require.Equal(t, before.LastSuccess, m.LastSuccess, "a failure does not hide when it last went well")
	r.waitUntil("blocked", 5*time.Minute, func() bool { return r.measured().State == "blocked" })
	require.EqualValues(t, 1, r.measured().Attempts["blocked"])
	require.Equal(t, 1, r.metrics().States["blocked"])
	outcomes := map[string]uint64{}
	for _, e := range r.metrics().Endings {
		outcomes[e.Trigger+" "+e.Outcome] += e.Durations.Count
	}
	require.Equal(t, map[string]uint64{"initial succeeded": 1, "manual failed": 1, "manual blocked": 1}, outcomes)

	r.Restart()
	require.Equal(t, 2, r.measured().Failures, "storage keeps them")
	require.Equal(t, before.LastSuccess, r.measured().LastSuccess)
	require.Zero(t, r.measured().Attempts["failed"], "counters begin with the process")
}

// Lateness is by the engine's clock: that decides what is due.
func TestMetricsTellHowLateARoleIs(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	_, err := r.Engine().WriteConfig(context.Background(), backend.Write{Given: option.Values{"paused": true, "overdue_after": int64(3600)}})
	require.NoError(t, err)
	due := r.State().NextRotation
	r.Clock.Advance(due.Sub(r.Clock.Now()) + 2*time.Hour)
	m := r.measured()
	require.Equal(t, "overdue", m.State)
	require.Equal(t, 2*time.Hour, m.Overdue)
	require.Equal(t, time.Hour, m.OverdueAfter)
	require.True(t, r.metrics().Paused)
}

// Who uses a version that is about to end is asked by the way, and told the next time.
func TestMetricsTellWhoUsesAVersionThatIsAboutToEnd(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	old := r.State().Version(1).Identifier
	r.Rotate()
	u := r.world.Users()[old]
	u.Sessions = 3
	r.world.Put(old, u)
	end := r.State().Version(1).RetireAt
	r.Clock.Advance(end.Add(-15 * time.Second).Sub(r.Clock.Now()))
	require.Nil(t, r.measured().OldInUse)
	r.measured()
	require.Nil(t, r.measured().OldInUse, "three quarters of its time it may be used")

	r.Clock.Advance(end.Add(-9 * time.Second).Sub(r.Clock.Now()))
	seen := func() *int {
		r.metrics()
		require.NoError(t, r.Engine().Quiesce(context.Background()))
		return r.measured().OldInUse
	}
	require.NotNil(t, seen())
	require.Equal(t, 3, *seen())
	r.waitUntil("it ends", 5*time.Minute, func() bool { return r.State().Version(1).State != rotation.Retiring })
	require.Nil(t, seen())
}

// A paused mount may be a copy: the target is the original's.
func TestMetricsOfAPausedMountAskNobody(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.Rotate()
	_, err := r.Engine().WriteConfig(context.Background(), backend.Write{Given: option.Values{"paused": true}})
	require.NoError(t, err)
	r.Clock.Advance(time.Hour)
	r.metrics()
	require.NoError(t, r.Engine().Quiesce(context.Background()))
	require.Nil(t, r.measured().OldInUse)
}

func TestMetricsTellOfIncidentsAndUnprovenEnds(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	require.Equal(t, metrics.Incidents{}, r.metrics().Incidents)
	r.world.SetBusy(true)
	r.emergency(false)
	opened := r.Incidents()[0].OpenedTime
	require.Equal(t, metrics.Incidents{Open: 1, OldestOpen: opened}, r.metrics().Incidents)
	r.Restart()
	require.Equal(t, metrics.Incidents{Open: 1, OldestOpen: opened}, r.metrics().Incidents, "storage knows it")

	r.waitUntil("replaced", 5*time.Minute, func() bool { return r.Current() == 2 && !r.State().Version(1).RetireBegun.IsZero() })
	require.Equal(t, 1, r.measured().UnprovenVersions)
	r.world.SetBusy(false)
	r.waitUntil("contained", 10*time.Minute, func() bool { return r.metrics().Incidents.Contained == 1 })
	require.Equal(t, metrics.Incidents{Contained: 1}, r.metrics().Incidents)
	require.Zero(t, r.measured().UnprovenVersions)
}

func TestMetricsForgetADeletedRole(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.creds()
	r.Delete()
	m := r.metrics()
	require.Empty(t, m.Roles)
	require.Equal(t, 1, m.Deleted)
	r.waitUntil("gone", 10*time.Minute, func() bool { return r.metrics().Deleted == 0 })
	r.Create(nil)
	require.EqualValues(t, 1, r.measured().Attempts["succeeded"], "a new role of the name begins at 0")
}
