package backend_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

// readersLogIn tells that the target accepts what readers get.
func (d *dependents) readersLogIn() {
	d.t.Helper()
	got := d.creds().Data
	require.NoError(d.t, d.world.Login(got["username"].(string), got["password"].(string)))
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
		d := withDependents(t, option.Values{"checks": []string{health}, "rollout_timeout": int64(60)})
		d.around.Unwell(health, "answered 503")
		_, err := d.rotate()
		require.NoError(t, err)
		d.world.SetDown(true)
		d.Wait(time.Minute)
		require.Empty(t, d.State().InFlight.Held)
		require.Contains(t, d.status().Rotation.Steps[0].Detail, "whether version 1 still works is not known yet: the target does not answer")
		d.held("version 1 is not proven to work: the target does not answer")
		require.Equal(t, 2, d.Current())
	})
	t.Run("once it can be seen again", func(t *testing.T) {
		t.Parallel()
		d := withDependents(t, option.Values{"checks": []string{health}})
		d.around.Unwell(health, "answered 503")
		_, err := d.rotate()
		require.NoError(t, err)
		d.world.SetDown(true)
		d.Wait(time.Minute)
		d.Restart()
		d.world.SetDown(false)
		d.ended(rotation.RolledBack)
		require.Equal(t, 1, d.Current())
		d.readersLogIn()
	})
}
