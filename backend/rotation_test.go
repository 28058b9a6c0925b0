package backend_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

func TestFailuresAreRetriedWithFreshMaterialThenBlocked(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"max_attempts": int64(3), "rotation_period": int64(30 * 24 * 3600)})
	r.world.SetRefuse(true)
	out, err := r.rotate()
	require.NoError(t, err)
	require.Equal(t, rotation.Failed, out.Outcome)
	require.Equal(t, 2, out.Version)
	r.waitUntil("second attempt", 2*time.Minute, func() bool { return r.State().Last.Attempt == 2 })
	require.Equal(t, out.ID, r.State().Last.RetryOf)
	require.Equal(t, 3, r.State().Last.Version, "numbers are never reused")
	r.waitUntil("blocked", 5*time.Minute, func() bool { return r.status().State == backend.StateBlocked })
	require.Equal(t, rotation.Blocked, r.State().Last.Outcome)
	require.Contains(t, r.status().StateReason, "3 attempts failed")
	require.Equal(t, 1, r.Current())
	r.Wait(time.Minute)
	require.Len(t, r.marked(), 1, "no candidate is left behind")

	r.world.SetRefuse(false)
	r.Wait(2 * time.Hour)
	require.Equal(t, backend.StateBlocked, r.status().State, "nothing but a person unblocks it")
	out, err = r.rotate()
	require.NoError(t, err)
	require.Equal(t, rotation.Succeeded, out.Outcome)
	require.Equal(t, 5, out.Version)
}

// marked are the users at the target that the engine made.
func (r *rig) marked() (names []string) {
	for name, u := range r.world.Users() {
		if u.Comment != "" {
			names = append(names, name)
		}
	}
	return names
}

func TestPreflightPostponesAndCountsNoAttempt(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.world.SetDown(true)
	before := r.State()
	_, err := r.rotate()
	requireKind(t, fault.Target, err, "preflight")
	require.Nil(t, r.State().Intent)
	require.Equal(t, before.Highest, r.State().Highest)
	require.Zero(t, r.State().Failures)
	require.Equal(t, 1, r.creds().Data["version"], "credentials stay readable while the target is away")

	r.waitUntil("the schedule is postponed", 12*time.Minute, func() bool { return r.State().Postponed != nil && r.Clock.Now().After(r.State().NextRotation) })
	require.Zero(t, r.State().Failures)
	r.world.SetDown(false)
	r.waitUntil("rotated", time.Hour, func() bool { return r.Current() == 2 })
}

func TestRotateWhileInFlightIsRefusedWithItsPhase(t *testing.T) {
	t.Parallel()
	r := withDependents(t, option.Values{"rollout": []string{apiTarget}})
	r.around.Change(api, func(w *enginetest.Workload) { w.Broken = true })
	out, err := r.rotate()
	require.NoError(t, err)
	require.Equal(t, rotation.Active, out.Phase)
	require.Empty(t, out.Outcome)
	_, err = r.rotate()
	requireKind(t, fault.Conflict, err, "phase active")
	_, err = r.rollback(1)
	requireKind(t, fault.Conflict, err, "phase active")
	require.True(t, r.State().Version(1).RetireAt.IsZero(), "grace runs from the end of the rotation")
	r.around.Change(api, func(w *enginetest.Workload) { w.Broken = false })
	r.waitUntil("rolled out", time.Minute, func() bool { return r.State().InFlight == nil })
	require.Equal(t, rotation.Succeeded, r.State().Last.Outcome)
	require.False(t, r.State().Version(1).RetireAt.IsZero())
}

func TestRollbackIsRefusedWithTheReason(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	_, err := r.rollback(0)
	requireKind(t, fault.Conflict, err, "no version before 1")
	_, err = r.rollback(1)
	requireKind(t, fault.Conflict, err, "it is the current version")
	_, err = r.rollback(9)
	requireKind(t, fault.Invalid, err, "has no version 9")
	_, err = r.rotate()
	require.NoError(t, err)
	next := r.State().NextRotation
	r.emergency(false)
	_, err = r.rollback(2)
	requireKind(t, fault.Conflict, err, "it is compromised")
	_, err = r.rollback(0)
	requireKind(t, fault.Conflict, err, "it is compromised")
	require.False(t, r.State().NextRotation.Before(next), "an emergency renews the schedule")
}

func TestRollbackKeepsNumberAndSchedule(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	_, err := r.rotate()
	require.NoError(t, err)
	next, floor := r.State().NextRotation, r.State().Version(1).RetireAt
	out, err := r.rollback(0)
	require.NoError(t, err)
	require.Equal(t, rotation.Succeeded, out.Outcome)
	require.Equal(t, 1, r.Current())
	require.Equal(t, next, r.State().NextRotation)
	require.True(t, r.State().Version(1).RetireAt.IsZero())
	r.Rotate()
	require.False(t, r.State().Version(1).RetireAt.Before(floor), "the end only ever moves later")
}

func TestFailedRollbackChangesNothing(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.Rotate()
	r.Wait(2 * time.Minute)
	require.Equal(t, rotation.Retired, r.State().Version(1).State)
	r.world.SetRefuse(true)
	out, err := r.rollback(1)
	require.NoError(t, err)
	require.Equal(t, rotation.Failed, out.Outcome)
	r.world.SetRefuse(false)
	r.Wait(3 * time.Minute)
	require.Equal(t, 2, r.Current())
	require.Equal(t, rotation.Retired, r.State().Version(1).State)
	require.Len(t, r.marked(), 1, "what was brought back is ended again")
	require.Nil(t, r.State().Intent, "rollbacks are not retried")
	require.Empty(t, r.State().Blocked)
}

func TestByHandWaitsForAPerson(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"by_hand": true})
	_, err := r.rotate()
	requireKind(t, fault.Conflict, err, "make a user by hand")
	require.Equal(t, backend.StateActionRequired, r.status().State)
	require.Zero(t, r.State().Failures)
}

func TestStandbyIsKeptReadyAndUsed(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"announce": int64(60)})
	r.waitUntil("standby", time.Minute, func() bool { return r.State().StandbyVersion() != nil })
	ready := r.ready().Number
	out, err := r.rotate()
	require.NoError(t, err)
	require.Equal(t, ready, out.Version)
	r.waitUntil("the next one", time.Minute, func() bool { s := r.State().StandbyVersion(); return s != nil && s.Number > ready })
}

func TestHistoryHasEveryRotationNewestFirst(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.Rotate()
	r.Wait(10 * time.Second)
	r.Rollback(1)
	all, next, err := r.Engine().History(context.Background(), app, "", 50)
	require.NoError(t, err)
	require.Empty(t, next)
	var triggers []rotation.Trigger
	for _, one := range all {
		triggers = append(triggers, one.Trigger)
		require.Equal(t, rotation.Succeeded, one.Outcome)
	}
	require.Equal(t, []rotation.Trigger{rotation.Rollback, rotation.Manual, rotation.Initial}, triggers)
	first, next, err := r.Engine().History(context.Background(), app, "", 2)
	require.NoError(t, err)
	require.Len(t, first, 2)
	rest, _, err := r.Engine().History(context.Background(), app, next, 2)
	require.NoError(t, err)
	require.Len(t, rest, 1)
}

func TestPauseStopsEverythingThatActs(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	pause := func(v bool) {
		_, err := r.Engine().WriteConfig(context.Background(), backend.Write{Given: option.Values{"paused": v}})
		require.NoError(t, err)
	}
	r.Rotate()
	pause(true)
	_, err := r.rotate()
	requireKind(t, fault.Conflict, err, "paused")
	_, err = r.Engine().Emergency(context.Background(), app, backend.EmergencyRequest{Reason: "x"})
	requireKind(t, fault.Conflict, err, "paused")
	r.Wait(20 * time.Minute)
	require.Equal(t, 2, r.Current())
	require.Len(t, r.marked(), 2, "nothing retires")
	pause(false)
	r.waitUntil("rotated", 5*time.Minute, func() bool { return r.Current() == 3 })
}

func TestReadOnlyNodeDoesNothing(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.System.SetReadOnly(true)
	r.Wait(20 * time.Minute)
	require.Equal(t, 1, r.Current())
	r.System.SetReadOnly(false)
	r.waitUntil("rotated", 5*time.Minute, func() bool { return r.Current() == 2 })
}
