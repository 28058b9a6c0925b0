package backend_test

import (
	"context"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

// readersLogIn tells that the target accepts what readers get.
func (d *dependents) readersLogIn() {
	d.t.Helper()
	got := d.creds().Data
	require.NoError(d.t, d.world.Login(got["username"].(string), got["password"].(string)))
}

// unseenSinceTheCheck is a minute after a rotation whose check fails, and whose target does not
// answer from the moment on at which the endpoint was asked first.
func unseenSinceTheCheck(t *testing.T, role option.Values) *dependents {
	t.Helper()
	d := withDependents(t, role)
	d.around.Unwell(health, "answered 503")
	var first sync.Once
	d.around.OnTry = func() { first.Do(func() { d.world.SetDown(true) }) }
	_, err := d.rotate()
	require.NoError(t, err)
	d.Wait(time.Minute)
	return d
}

// The pointer goes back to what works, and to nothing else.
func TestTheWayBackLeadsToWhatWorks(t *testing.T) {
	t.Parallel()
	t.Run("not to what was dropped by hand", func(t *testing.T) {
		t.Parallel()
		d := withDependents(t, option.Values{"checks": []string{health}})
		d.Leak(true) // what readers held is dead, and not by us
		d.world.Remove(d.State().Version(1).Identifier)
		d.around.Unwell(health, "answered 503")
		_, err := d.rotate()
		require.ErrorContains(t, err, "the role is diverged")
		require.NoError(t, d.Act(func(ctx context.Context, e *backend.Engine) error {
			_, err := e.Reconcile(ctx, app, backend.RotateRequest{Wait: backend.Wait})
			return err
		}))
		d.waitUntil("the switch", time.Minute, func() bool { return d.Current() == 2 })
		d.Leak(false)
		d.held("answered 503; readers keep version 2, since version 1 is not proven to work: ")
		require.Equal(t, 2, d.Current())
		d.readersLogIn()
		d.around.Unwell(health, "")
		d.resume()
		d.ended(rotation.Succeeded)
	})
	t.Run("not to what cannot be seen", func(t *testing.T) {
		t.Parallel()
		d := unseenSinceTheCheck(t, option.Values{"checks": []string{health}, "rollout_timeout": int64(24 * 3600)})
		require.Empty(t, d.State().InFlight.Held)
		require.Contains(t, d.status().Rotation.Steps[0].Detail, "whether version 1 still works is not known yet: the target does not answer")
		failed := d.Clock.Now()
		d.held("version 1 is not proven to work: the target does not answer")
		require.Less(t, d.Clock.Now().Sub(failed), 6*time.Minute)
		require.Equal(t, 2, d.Current())
	})
	t.Run("nor once the step comes out well after all", func(t *testing.T) {
		t.Parallel()
		d := unseenSinceTheCheck(t, option.Values{"checks": []string{health}})
		d.around.Unwell(health, "")
		d.world.SetDown(false)
		d.ended(rotation.Succeeded)
		require.Equal(t, 2, d.Current())
	})
	t.Run("once it can be seen again", func(t *testing.T) {
		t.Parallel()
		d := unseenSinceTheCheck(t, option.Values{"checks": []string{health}})
		d.Restart()
		d.world.SetDown(false)
		d.ended(rotation.RolledBack)
		require.Equal(t, 1, d.Current())
		d.readersLogIn()
	})
}

// What pods hold is dead where the version before ended with the switch, whoever asked for the
// rotation: nothing keeps them from their restart.
func TestWhatPodsHoldIsDead(t *testing.T) {
	t.Parallel()
	inPlace := func(more option.Values) option.Values {
		role := option.Values{"in_place": true, "grace_period": int64(0)}
		maps.Copy(role, more)
		return role
	}
	t.Run("a person rotates after an emergency failed", func(t *testing.T) {
		t.Parallel()
		d := withDependents(t, option.Values{"rollout": []string{apiTarget, webTarget}, "max_attempts": int64(1)})
		d.world.SetRefuse(true)
		d.emergency(false)
		d.waitUntil("blocked", time.Hour, func() bool { return d.State().Blocked != "" })
		d.world.SetRefuse(false)
		d.around.Change(api, func(w *enginetest.Workload) { w.Broken = true })
		r, err := d.rotate()
		require.NoError(t, err)
		require.Equal(t, rotation.Manual, r.Trigger)
		d.Wait(time.Minute)
		d.podsHold(web)
		d.held("step rollout failed: not done after 10m0s")
	})
	t.Run("one credential, and a copy that is not ours", func(t *testing.T) {
		t.Parallel()
		d := withDependents(t, inPlace(option.Values{"mirror": mirror, "rollout": []string{apiTarget}}))
		done := false
		d.around.OnWrite = func() {
			if !done {
				done = true
				d.around.Put(copyPath, map[string]string{"password": "theirs"}) // just before ours
			}
		}
		d.rotateHeld("is not overwritten")
		d.podsHold(api)
	})
	t.Run("one credential, and a broken workload", func(t *testing.T) {
		t.Parallel()
		d := withDependents(t, inPlace(option.Values{"rollout": []string{apiTarget, webTarget}}))
		d.around.Change(api, func(w *enginetest.Workload) { w.Broken = true })
		d.rotateHeld("step rollout failed")
		d.podsHold(web)
	})
	t.Run("a rollback takes the place of an emergency that nobody had followed", func(t *testing.T) {
		t.Parallel()
		d := withDependents(t, option.Values{"rollout": []string{apiTarget, webTarget}, "grace_period": int64(60), "rotation_period": int64(30 * 24 * 3600)})
		_, err := d.rotate()
		require.NoError(t, err)
		d.ended(rotation.Succeeded)
		d.waitUntil("the first version ended", time.Hour, func() bool { return !d.State().Version(1).State.Live() })
		d.around.Change(api, func(w *enginetest.Workload) { w.Broken = true })
		d.emergency(false)
		d.held("step rollout failed")
		_, err = d.rollback(1)
		require.NoError(t, err)
		d.Wait(time.Minute)
		require.Equal(t, 1, d.Current())
		d.podsHold(web)
	})
}

// A place for copies that does not answer keeps pods that hold what is dead for a moment only.
func TestAnEmergencyDoesNotWaitForItsCopy(t *testing.T) {
	t.Parallel()
	d := withDependents(t, option.Values{"rollout": []string{apiTarget}, "mirror": mirror})
	d.around.SetCopiesAway(true)
	d.emergency(false)
	d.Wait(90 * time.Second)
	d.podsHold(api)
	d.held("step mirror failed: not done after 10m0s: the place for copies does not answer")
	d.around.SetCopiesAway(false)
	d.resume()
	d.ended(rotation.Succeeded)
	require.Len(t, d.around.Workload(api).Changes, 2, "its pods may have read what the copy held before")
	copies := d.around.Copies(copyPath)
	require.Equal(t, d.creds().Data["password"], copies[len(copies)-1]["password"])
}

// A rollback of a held rotation ends, whatever became of what that one restarted.
func TestARollbackIsNoTrap(t *testing.T) {
	t.Parallel()
	broken := func(t *testing.T) *dependents {
		t.Helper()
		d := withDependents(t, option.Values{
			"rollout": []string{apiTarget, webTarget}, "rollout_order": "parallel", "on_rollout_failure": "hold", "grace_period": int64(60),
		})
		d.around.Change(api, func(w *enginetest.Workload) { w.Broken = true })
		d.rotateHeld("step rollout failed")
		return d
	}
	t.Run("a workload that is gone", func(t *testing.T) {
		t.Parallel()
		d := broken(t)
		d.around.Change(api, func(w *enginetest.Workload) { w.Gone = true })
		_, err := d.rollback(0)
		require.NoError(t, err)
		d.ended(rotation.Succeeded)
		d.podsHold(web)
	})
	t.Run("what cannot follow", func(t *testing.T) {
		t.Parallel()
		d := broken(t)
		_, err := d.write(option.Values{"checks": []string{health}})
		require.NoError(t, err)
		d.around.Unwell(health, "answered 503")
		_, err = d.rollback(0)
		require.NoError(t, err)
		d.held("step checks failed")
		name := d.State().Version(2).Identifier
		user := d.world.Users()[name]
		user.Sessions = 1
		d.world.Put(name, user)
		r, err := d.rollback(0)
		require.NoError(t, err)
		require.Equal(t, rotation.Succeeded, r.Outcome)
		require.Contains(t, r.Error.Message, "step checks failed", "what is left to a person stays on record")
		require.Nil(t, d.State().InFlight)
		require.Equal(t, 1, d.Current())
		d.Wait(10 * time.Minute)
		require.Equal(t, rotation.Retiring, d.State().Version(2).State, "what did not follow may still use it")
	})
	t.Run("a connection that would be missed", func(t *testing.T) {
		t.Parallel()
		d := broken(t)
		_, err := d.write(option.Values{"rollout": []string{}})
		require.NoError(t, err)
		remove := func() error {
			return d.Act(func(ctx context.Context, e *backend.Engine) error {
				return e.DeleteConnection(ctx, enginetest.AroundName)
			})
		}
		requireKind(t, fault.Conflict, remove(), `connection "around" is in use by app (until its workloads there have followed a rotation)`)
		_, err = d.rollback(0)
		require.NoError(t, err)
		d.ended(rotation.Succeeded)
		require.NoError(t, remove())
	})
}
