package backend_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

func TestEmergencyReplacesThenKills(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.Rotate()
	for _, name := range r.marked() {
		u := r.world.Users()[name]
		u.Sessions = 3
		r.world.Put(name, u)
	}
	out := r.emergency(false)
	require.Equal(t, store.IncidentContained, out.Status)
	require.Equal(t, rotation.Succeeded, out.Rotation.Outcome)
	require.Equal(t, 3, out.Rotation.Version)
	require.Empty(t, out.NextSteps)
	require.Equal(t, []backend.Killed{{Version: 1, SessionsEnded: 3, ProvenDead: true}, {Version: 2, SessionsEnded: 3, ProvenDead: true}}, out.Killed)
	r.Wait(10 * time.Second)
	require.Len(t, r.marked(), 1)
	require.Empty(t, r.status().OpenIncidents)

	incident, err := r.Engine().Incident(context.Background(), out.IncidentID)
	require.NoError(t, err)
	require.Equal(t, store.IncidentContained, incident.Status)
	require.Equal(t, "found in a log", incident.Reason)
	require.Equal(t, "high", incident.Severity)
	facts := incident.Roles[app]
	require.True(t, facts.Contained)
	require.Equal(t, 3, facts.ReplacedBy)
	require.Len(t, facts.Compromised, 2)
	for _, v := range facts.Compromised {
		require.True(t, v.Proof.Dead)
		require.Equal(t, 3, v.SessionsEnded)
		require.False(t, v.RevokedTime.IsZero())
	}
	for _, v := range r.State().Versions[:2] {
		require.False(t, v.HasMaterial, "leaked material is destroyed once it is dead")
	}
}

func TestEmergencyWithoutReplacementStaysOpen(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.world.SetRefuse(true)
	r.Leak(true)
	out := r.emergency(false)
	require.Equal(t, store.IncidentOpen, out.Status)
	require.Equal(t, rotation.Failed, out.Rotation.Outcome)
	require.Len(t, out.NextSteps, 1)
	require.Contains(t, out.NextSteps[0], "the leak lives on")
	require.Contains(t, out.NextSteps[0], "kill_first=true")
	r.Leak(true)
	require.Contains(t, r.creds().Warnings[0], "compromised and has no replacement")
	require.Equal(t, []string{out.IncidentID}, r.status().OpenIncidents)
	require.Contains(t, r.status().StateReason, "the leak lives on")

	second := r.emergency(true)
	r.Leak(true)
	require.Equal(t, 1, r.Current())
	require.ErrorContains(t, r.world.Login(r.creds().Data["username"].(string), r.creds().Data["password"].(string)), "refused", "kill_first ends it before there is another")
	require.NotEqual(t, out.IncidentID, second.IncidentID)

	r.world.SetRefuse(false)
	r.waitUntil("replaced", 10*time.Minute, func() bool { return r.Current() > 1 && r.State().InFlight == nil })
	r.Leak(false)
	r.Wait(time.Minute)
	require.Empty(t, r.status().OpenIncidents)
	incident, err := r.Engine().Incident(context.Background(), out.IncidentID)
	require.NoError(t, err)
	require.Equal(t, store.IncidentContained, incident.Status)
	require.Len(t, r.marked(), 1)
}

func TestEmergencyNeedsAReason(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	before := r.Disk.Snapshot()
	for _, c := range []struct {
		request backend.EmergencyRequest
		says    string
	}{
		{backend.EmergencyRequest{}, "reason: is required"},
		{backend.EmergencyRequest{Reason: " \n"}, "reason: is required"},
		{backend.EmergencyRequest{Reason: "x", Severity: "huge"}, "severity: must be one of low, medium, high, critical"},
	} {
		_, err := r.Engine().Emergency(context.Background(), app, c.request)
		requireKind(t, fault.Invalid, err, c.says)
	}
	_, err := r.Engine().Emergency(context.Background(), "nobody", backend.EmergencyRequest{Reason: "x"})
	requireKind(t, fault.NotFound, err, "no role")
	require.Equal(t, before, r.Disk.Snapshot())
}

func TestEmergencyCancelsWhatIsInFlight(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.world.SetRefuse(true)
	_, err := r.rotate() // fails, and is to be tried again
	require.NoError(t, err)
	require.NotNil(t, r.State().Intent)
	r.world.SetRefuse(false)
	out := r.emergency(false)
	require.Equal(t, store.IncidentContained, out.Status)
	r.Wait(5 * time.Minute)
	require.Equal(t, 3, r.Current(), "the attempt that was to follow is given up")
	require.Len(t, r.marked(), 1)
}

func TestRestoredStorageDiverges(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"rotation_period": int64(30 * 24 * 3600)})
	backup := r.Disk.Snapshot()
	r.Rotate()
	r.Wait(2 * time.Minute)
	r.Rotate()
	r.Wait(2 * time.Minute)
	r.Leak(true) // readers of the lost time line are not this engine's
	before := r.world.Users()
	r.Disk.Restore(backup)
	r.Restart()
	r.waitUntil("diverged", 5*time.Minute, func() bool { return r.status().State == backend.StateDiverged })
	require.Contains(t, r.status().StateReason, "up to version 3")
	require.Contains(t, r.creds().Warnings[0], "diverged")
	_, err := r.rotate()
	requireKind(t, fault.Conflict, err, "write reconcile/app with action=remint")
	_, err = r.rollback(0)
	requireKind(t, fault.Conflict, err, "reconcile")
	err = r.Act(func(ctx context.Context, e *backend.Engine) error {
		_, err := e.DeleteRole(ctx, app, false)
		return err
	})
	requireKind(t, fault.Conflict, err, "reconcile")
	r.Wait(2 * time.Hour)
	require.Equal(t, before, r.world.Users(), "no live user is touched")

	r.reconcile()
	require.Equal(t, 4, r.Current(), "above everything seen")
	r.Leak(false)
	r.Wait(3 * time.Minute)
	require.Equal(t, backend.StateOK, r.status().State)
	for name, u := range before {
		require.Equal(t, u, r.world.Users()[name], "what our journal does not know is left alone")
	}
	err = r.Act(func(ctx context.Context, e *backend.Engine) error {
		_, err := e.Reconcile(ctx, app, backend.RotateRequest{Wait: backend.Wait})
		return err
	})
	requireKind(t, fault.Conflict, err, "not diverged")
}

func (r *rig) reconcile() {
	require.NoError(r.t, r.Act(func(ctx context.Context, e *backend.Engine) error {
		out, err := e.Reconcile(ctx, app, backend.RotateRequest{Wait: backend.Wait})
		if err == nil && out.Outcome != rotation.Succeeded && out.Outcome != "" { // the clock may have been faster
			r.t.Errorf("reconcile ended %s", out.Outcome)
		}
		return err
	}))
	r.waitUntil("reconciled", time.Minute, func() bool { return r.State().InFlight == nil && r.State().Intent == nil })
}

func TestSecondMountDiverges(t *testing.T) {
	t.Parallel()
	one := created(t, nil)
	two := newRig(t, func(s *enginetestStage) { *s = *memoryStage(one.kind()) })
	two.Create(nil)
	two.waitUntil("the second mount sees the first", 5*time.Minute, func() bool { return two.status().State == backend.StateDiverged })
	one.waitUntil("the first sees the second", 20*time.Minute, func() bool { return one.status().State == backend.StateDiverged })
	require.Contains(t, one.status().StateReason, "another mount")
	require.Len(t, one.marked(), 2, "no user of either is touched")
	one.reconcile()
	one.Wait(3 * time.Minute)
	require.Equal(t, backend.StateOK, one.status().State)
	require.NoError(t, one.world.Login(two.creds().Data["username"].(string), two.creds().Data["password"].(string)))
}

func TestUserDroppedByHandDiverges(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"rotation_period": int64(30 * 24 * 3600)})
	r.Leak(true)
	r.world.Remove(r.marked()[0])
	r.waitUntil("noticed within a day", 25*time.Hour, func() bool { return r.status().State == backend.StateDiverged })
	require.Contains(t, r.status().StateReason, "does not bear its mark any more")
	r.reconcile()
	r.Leak(false)
	r.Wait(3 * time.Minute)
	require.Equal(t, backend.StateOK, r.status().State)
	require.Len(t, r.marked(), 1)
}

func TestForgedMarkIsNobodys(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	user := r.world.Users()[r.marked()[0]]
	user.Enabled = false
	r.world.Put("copied", user) // our mark, on somebody else's user
	r.Rotate()
	r.Wait(3 * time.Minute)
	require.Equal(t, backend.StateOK, r.status().State)
	require.Contains(t, r.world.Users(), "copied")
	r.world.Remove("copied")
}
