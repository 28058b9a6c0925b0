package backend_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

func TestSecondEmergencyOwnsWhatIsStillAlive(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.world.SetDown(true)
	r.emergency(false)
	second := r.emergency(true)
	require.Equal(t, store.IncidentOpen, second.Status)
	require.Equal(t, []backend.Killed{{Version: 1}}, second.Killed)
	require.NotEmpty(t, second.NextSteps)
	r.Leak(true)
	r.world.SetDown(false)
	r.waitUntil("both contained", 2*time.Hour, func() bool { return len(r.status().OpenIncidents) == 0 })
	incident, err := r.Engine().Incident(context.Background(), second.IncidentID)
	require.NoError(t, err)
	require.Equal(t, store.IncidentContained, incident.Status)
	r.Leak(false)
}

func TestKillFirstIsTriedUntilItIsDone(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	user, password := r.creds().Data["username"].(string), r.creds().Data["password"].(string)
	r.world.SetDown(true)
	r.emergency(true)
	r.Leak(true)
	r.world.SetDown(false)
	r.world.SetRefuse(true) // no replacement can be made
	r.waitUntil("killed", 10*time.Minute, func() bool { return fault.Is(r.world.Login(user, password), fault.AuthFailed) })
	require.Equal(t, 1, r.Current())
	r.Restart()
	r.Wait(10 * time.Minute)
	require.NotEqual(t, backend.StateDiverged, r.status().State, "that the killed version is refused is no divergence")
	r.world.SetRefuse(false)
	r.waitUntil("replaced", 2*time.Hour, func() bool { return r.Current() > 1 })
	r.Leak(false)
}

func TestManyRolesAreCheckedAfterAnUnseal(t *testing.T) {
	t.Parallel()
	r := connected(t)
	const roles = 150
	for i := range roles {
		require.NoError(t, r.Act(func(ctx context.Context, e *backend.Engine) error {
			_, err := e.WriteRole(ctx, backend.Write{Name: fmt.Sprintf("app-%d", i), Given: role(option.Values{"disable_automated_rotation": true})})
			return err
		}))
	}
	r.Wait(time.Minute)
	for _, name := range r.marked() {
		r.world.Remove(name)
	}
	r.Restart()
	r.Wait(time.Minute)
	page, err := r.Engine().Status(context.Background(), backend.StatusQuery{})
	require.NoError(t, err)
	require.Equal(t, map[backend.RoleState]int{backend.StateDiverged: roles}, page.Counts)
}

func TestDeletedRoleWithAnIncidentComesToRest(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.world.SetRefuse(true)
	out := r.emergency(false)
	r.Leak(true)
	r.waitUntil("between two attempts", time.Minute, func() bool { return r.State().InFlight == nil })
	require.NoError(t, r.Act(func(ctx context.Context, e *backend.Engine) error {
		_, err := e.DeleteRole(ctx, app, false)
		return err
	}))
	r.Wait(5 * time.Minute)
	require.Empty(t, r.marked())
	require.NotContains(t, r.Log(), "did not come to rest")
	incident, err := r.Engine().Incident(context.Background(), out.IncidentID)
	require.NoError(t, err)
	require.Equal(t, store.IncidentContained, incident.Status)
	r.world.SetRefuse(false)
	_, err = r.write(role(nil))
	require.NoError(t, err, "the name is free")
	r.Leak(false)
}

func TestOneBrokenRoleStopsNoOther(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	disk := r.Disk.Snapshot()
	disk["role/aaa"], disk["state/aaa"] = disk["role/app"], []byte(`{"schema":99,"body":{}}`)
	r.Disk.Restore(disk)
	r.Restart()
	r.waitUntil("rotated", 15*time.Minute, func() bool { return r.Current() == 2 })
	_, err := r.Engine().Status(context.Background(), backend.StatusQuery{})
	require.NoError(t, err)
	_, err = r.Engine().RoleStatus(context.Background(), "aaa")
	require.ErrorContains(t, err, "newer release")
}

func TestWaitingEmergencyIsNotReplacedByLessUrgentWishes(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.Rotate()
	r.Wait(2 * time.Minute)
	r.world.SetRefuse(true)
	out := r.emergency(false)
	r.Leak(true)
	r.waitUntil("between two attempts", time.Minute, func() bool { return r.State().InFlight == nil && r.State().Intent != nil })
	_, err := r.rollback(1)
	requireKind(t, fault.Conflict, err, "an emergency waits for its next attempt")
	r.world.SetRefuse(false)
	again, err := r.rotate()
	require.NoError(t, err)
	require.Equal(t, rotation.Emergency, again.Trigger)
	require.Equal(t, out.IncidentID, again.IncidentID)
	require.Equal(t, rotation.Succeeded, again.Outcome)
	r.Wait(time.Minute)
	require.Empty(t, r.status().OpenIncidents)
	r.Leak(false)
}

func TestRollbackToAVersionWhoseEndHasBegun(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"destroy_after": int64(600)})
	r.Rotate()
	r.Wait(2 * time.Minute)
	require.Equal(t, rotation.Disabled, r.State().Version(1).State)
	out, err := r.rollback(1)
	require.NoError(t, err)
	require.Equal(t, rotation.Succeeded, out.Outcome, "it is prepared again")
	r.Wait(15 * time.Minute)
}

func TestLostAnswerOfARequestIsNoticedAtOnce(t *testing.T) {
	t.Parallel()
	var storage *losing
	r := created(t, option.Values{"rotation_period": int64(30 * 24 * 3600)}, func(s *enginetestStage) {
		s.Storage = func(inner store.Storage) store.Storage {
			storage = &losing{Storage: inner}
			return storage
		}
	})
	storage.next.Set(true)
	_, err := r.rotate()
	require.Error(t, err)
	r.Wait(30 * time.Second)
	require.Equal(t, 2, r.Current(), "the intent was stored, so it is carried out")
}

// losing stores one Put of a state, and says that it failed.
type losing struct {
	store.Storage
	next enginetest.Shared[bool]
}

func (l *losing) Put(ctx context.Context, key string, value []byte) error {
	err := l.Storage.Put(ctx, key, value)
	if err == nil && key == "state/"+app && l.next.Get() {
		l.next.Set(false)
		return enginetest.ErrInjected
	}
	return err
}

// What a look at the target found is looked for again when it could not be stored.
func TestADivergenceThatWasNotStoredIsFoundAgain(t *testing.T) {
	t.Parallel()
	var refused enginetest.Shared[bool]
	r := created(t, option.Values{"rotation_period": int64(30 * 24 * 3600)}, func(s *enginetestStage) {
		s.Storage = func(inner store.Storage) store.Storage { return firstRefused{inner, `"divergence":{`, &refused} }
	})
	r.Leak(true)
	r.world.Remove(r.marked()[0])
	r.Restart()
	r.waitUntil("diverged", 10*time.Minute, func() bool { return r.status().State == backend.StateDiverged })
	require.True(t, refused.Get())
}

// firstRefused refuses the first Put of a state that says something.
type firstRefused struct {
	store.Storage
	says    string
	refused *enginetest.Shared[bool]
}

func (f firstRefused) Put(ctx context.Context, key string, value []byte) error {
	if key == "state/"+app && strings.Contains(string(value), f.says) && !f.refused.Get() {
		f.refused.Set(true)
		return enginetest.ErrInjected
	}
	return f.Storage.Put(ctx, key, value)
}

func TestConnectionWriteAsksForSecretsOnlyOnce(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	before, err := r.Engine().Connection(context.Background(), enginetest.ConnectionName)
	require.NoError(t, err)
	require.True(t, before.RotatedTime.IsZero())
	_, err = r.Engine().RotateRoot(context.Background(), enginetest.ConnectionName)
	require.NoError(t, err)
	after, err := r.Engine().Connection(context.Background(), enginetest.ConnectionName)
	require.NoError(t, err)
	require.False(t, after.RotatedTime.IsZero())
	r.Rotate()
}

func TestRefusedReconcileLeavesTheRoleDiverged(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"rotation_period": int64(30 * 24 * 3600)})
	r.Leak(true)
	r.world.Remove(r.marked()[0])
	r.Restart()
	r.waitUntil("diverged", 10*time.Minute, func() bool { return r.status().State == backend.StateDiverged })
	r.world.SetDown(true)
	err := r.Act(func(ctx context.Context, e *backend.Engine) error {
		_, err := e.Reconcile(ctx, app, backend.RotateRequest{Wait: backend.Wait})
		return err
	})
	requireKind(t, fault.Target, err, "preflight")
	require.Equal(t, backend.StateDiverged, r.status().State)
	r.world.SetDown(false)
	r.reconcile()
	r.Leak(false)
	r.Wait(time.Minute)
	require.Equal(t, backend.StateOK, r.status().State)
}

func TestRefusedRotateChangesNothing(t *testing.T) {
	t.Parallel()
	t.Run("a blocked role stays blocked", func(t *testing.T) {
		t.Parallel()
		r := created(t, option.Values{"max_attempts": int64(1)})
		r.world.SetRefuse(true)
		_, err := r.rotate()
		require.NoError(t, err)
		require.Equal(t, backend.StateBlocked, r.status().State)
		r.Wait(time.Minute)
		r.world.SetDown(true)
		_, err = r.rotate()
		requireKind(t, fault.Target, err, "preflight")
		require.Equal(t, backend.StateBlocked, r.status().State)
	})
	t.Run("a retry that waits goes on waiting", func(t *testing.T) {
		t.Parallel()
		r := created(t, nil)
		r.world.SetRefuse(true)
		_, err := r.rotate()
		require.NoError(t, err)
		retry := r.State().Intent
		require.NotNil(t, retry)
		r.world.SetDown(true)
		_, err = r.rotate()
		requireKind(t, fault.Target, err, "preflight")
		require.Equal(t, retry, r.State().Intent)
	})
}
