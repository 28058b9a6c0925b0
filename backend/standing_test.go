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
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/rotatortest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

var standing = option.Values{"standing": true}

func TestTheOtherUserIsNotTouchedBeforeItsVersionEnds(t *testing.T) {
	t.Parallel()
	r := created(t, standing)
	r.Rotate()
	first := *r.State().Version(1)
	before := r.world.Users()
	_, err := r.rotate()
	requireKind(t, fault.Conflict, err, first.RetireAt.Format(time.RFC3339))
	require.ErrorContains(t, err, "force=true")
	require.Equal(t, before, r.world.Users())
	require.Nil(t, r.State().Intent)

	r.Leak(true) // force ends what readers hold
	out, err := r.rotateBy(backend.RotateRequest{Force: true})
	require.NoError(t, err)
	require.Equal(t, rotation.Succeeded, out.Outcome)
	require.True(t, r.State().Version(1).State.Ended())
	require.Equal(t, first.Identifier, r.State().CurrentVersion().Identifier, "they take turns")
	r.Leak(false)
	r.Wait(2 * time.Minute)
	require.Len(t, r.world.Users(), 3, "two users and the administrator, whatever happens")
}

// Both users leaked: the one that is needed for the replacement is not waited for.
func TestAnEmergencyDoesNotWaitForTheOtherUser(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"standing": true, "grace_period": int64(3600), "rotation_period": int64(30 * 24 * 3600)})
	r.Rotate()
	first, second := r.State().Version(1).Identifier, r.State().Version(2).Identifier
	r.emergency(false)
	r.waitUntil("replaced", time.Minute, func() bool { return r.Current() == 3 })
	require.Equal(t, first, r.State().CurrentVersion().Identifier)
	r.waitUntil("contained", time.Minute, func() bool { return r.State().Version(1).ProvenDead() && r.State().Version(2).ProvenDead() })
	require.False(t, r.world.Users()[second].Enabled)
}

// A standing user bears the mark of its last version after that was forgotten.
func TestForgottenVersionsOfStandingUsersAreNoDivergence(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"standing": true, "max_versions": int64(2), "rotation_period": int64(30 * 24 * 3600)})
	r.Rotate()
	r.Wait(3 * time.Minute)
	user := r.State().Version(1).Identifier
	ours := r.world.Users()[user]
	r.world.Put(user, rotatortest.User{Comment: "somebody else's for a while"})
	out, err := r.rotate() // fails before it touches the user
	require.True(t, err != nil || out.Outcome == rotation.Failed)
	r.world.Put(user, ours)
	r.Wait(time.Minute)
	require.Nil(t, r.State().Version(1), "forgotten")
	r.Restart()
	r.Wait(20 * time.Minute)
	require.Equal(t, backend.StateOK, r.status().State, r.status().StateReason)
	require.Equal(t, user, r.State().CurrentVersion().Identifier, "a further attempt went on")
}

func TestTheScheduleWaitsForTheOtherUser(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"standing": true, "wait_for_idle": true, "max_grace_period": int64(3600), "rotation_period": int64(120)})
	r.Rotate()
	r.open(r.State().Version(1).Identifier, 3)
	r.Wait(10 * time.Minute) // five periods
	require.Equal(t, 2, r.Current(), "version 1 is still in use")
	require.Contains(t, r.State().Postponed.Reason, "3 sessions of "+r.State().Version(1).Identifier)
	require.Equal(t, backend.StateDue, r.status().State)
	r.open(r.State().Version(1).Identifier, 0)
	r.waitUntil("the next rotation", 5*time.Minute, func() bool { return r.Current() == 3 })
}

// open sets how many sessions a user has.
func (r *rig) open(user string, sessions int) {
	u := r.world.Users()[user]
	u.Sessions = sessions
	r.world.Put(user, u)
}

func TestWaitForIdle(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"wait_for_idle": true, "max_grace_period": int64(900), "rotation_period": int64(30 * 24 * 3600)})
	old := r.State().CurrentVersion().Identifier
	r.open(old, 2)
	r.Rotate()
	r.Wait(5 * time.Minute)
	v := r.State().Version(1)
	require.Equal(t, rotation.Retiring, v.State)
	require.True(t, v.RetireBegun.IsZero(), "it can still be rolled back to")
	require.Contains(t, v.Attention.Reason, `2 sessions of `+old+` remain: 2 of "app" from 127.0.0.1`)
	require.NotEqual(t, backend.StateFailing, r.status().State)
	ended := v.RetireAt.Add(15 * time.Minute)
	r.waitUntil("max_grace_period", 12*time.Minute, func() bool { return r.State().Version(1).State.Ended() })
	require.False(t, r.Clock.Now().Before(ended))
	require.Equal(t, 2, r.State().Version(1).SessionsEnded)

	r.open(r.State().CurrentVersion().Identifier, 1)
	r.Rotate()
	r.Wait(3 * time.Minute)
	r.open(r.State().Version(2).Identifier, 0)
	r.waitUntil("idle", 2*time.Minute, func() bool { return r.State().Version(2).State.Ended() })

	r.open(r.State().CurrentVersion().Identifier, 1)
	r.emergency(false)
	r.waitUntil("a leak waits for nobody", time.Minute, func() bool { return r.State().Version(3).State.Ended() })
}

func TestWaitForIdleIsRefusedWhereItMeansNothing(t *testing.T) {
	t.Parallel()
	r := connected(t)
	_, err := r.write(role(option.Values{"wait_for_idle": true, "in_place": true, "grace_period": int64(0)}))
	requireKind(t, fault.Invalid, err, "wait_for_idle")
	_, err = r.write(role(option.Values{"wait_for_idle": true, "max_grace_period": int64(31 * 24 * 3600)}))
	requireKind(t, fault.Invalid, err, "max_grace_period")
}

func TestImportTakesOverWhatExists(t *testing.T) {
	t.Parallel()
	r := connected(t)
	r.world.Put("by_hand", rotatortest.User{Password: "known-to-the-team", Enabled: true})
	importing := func(password string) (out *backend.RoleWritten, err error) {
		err = r.Act(func(ctx context.Context, e *backend.Engine) (err error) {
			out, err = e.WriteRole(ctx, backend.Write{
				Name: app, Given: role(option.Values{"username": "by_hand"}), Secrets: secret.NewMap(map[string]string{"password": password}),
			})
			return err
		})
		return out, err
	}
	_, err := importing("guessed")
	require.Error(t, err)
	require.Equal(t, rotatortest.User{Password: "known-to-the-team", Enabled: true}, r.world.Users()["by_hand"])
	out, err := importing("known-to-the-team")
	require.NoError(t, err)
	require.Equal(t, rotation.Import, out.Rotation.Trigger)
	require.Equal(t, "by_hand", r.creds().Data["username"])
	require.Equal(t, "known-to-the-team", r.creds().Data["password"])
	r.Rotate()
	r.Wait(3 * time.Minute)
	require.NotEqual(t, "by_hand", r.creds().Data["username"])
	require.NotContains(t, r.world.Users(), "by_hand")
}

// A leader that was frozen and deposed wakes up: what it still sends is refused.
func TestDeposedLeaderIsFencedOff(t *testing.T) {
	t.Parallel()
	r := created(t, standing)
	r.Rotate()
	r.Wait(2 * time.Minute) // the first user's version has ended
	frozen := r.Disk.Snapshot()
	r.Rotate() // its successor gives that user to version 3
	r.Wait(2 * time.Minute)
	now, world := r.Disk.Snapshot(), r.world.Users()

	stale := newRig(t, func(s *enginetest.Stage) { *s = *memoryStage(r.kind()) })
	stale.Disk.Restore(frozen)
	stale.Restart()
	stale.Leak(true)
	_, err := stale.rotate()
	require.Error(t, err)
	stale.Wait(10 * time.Minute)
	require.Equal(t, world, r.world.Users(), "nothing of it went through")
	require.Equal(t, backend.StateDiverged, stale.status().State)
	stale.Leak(false)

	r.Disk.Restore(now)
	r.Wait(time.Minute)
	require.Equal(t, backend.StateOK, r.status().State)
}

func TestRestoredStorageIsCaughtUpByReconcile(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"standing": true, "rotation_period": int64(30 * 24 * 3600)})
	r.Rotate()
	backup := r.Disk.Snapshot()
	r.Wait(3 * time.Minute) // version 1 ends: no version is new, but its user has changed
	r.Disk.Restore(backup)
	r.Restart()
	r.Leak(true)
	r.waitUntil("noticed", 20*time.Minute, func() bool { return r.status().State == backend.StateDiverged })
	require.Contains(t, r.status().StateReason, "restored")
	r.reconcile()
	r.Leak(false)
	r.Wait(5 * time.Minute)
	require.Equal(t, backend.StateOK, r.status().State)
	require.NoError(t, r.world.Login(r.creds().Data["username"].(string), r.creds().Data["password"].(string)))
}
