package backend_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/rotatortest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// connected is a rig with a connection and no role.
func connected(t *testing.T) *rig {
	t.Helper()
	r := newRig(t)
	_, err := r.Engine().WriteConnection(context.Background(), backend.Write{
		Name: enginetest.ConnectionName, Given: option.Values{"type": rotatortest.MemoryType, "address": "memory://target", "allowed_roles": []string{"app*"}},
		Secrets: secret.NewMap(map[string]string{"password": "the-admin-canary"}),
	})
	require.NoError(t, err)
	return r
}

func role(extra option.Values) option.Values {
	values := option.Values{"type": rotatortest.MemoryType, "connection": enginetest.ConnectionName, "rotation_period": int64(600), "grace_period": int64(40)}
	for k, v := range extra {
		values[k] = v
	}
	return values
}

func TestBadRolesAreRefusedAndLeaveNothing(t *testing.T) {
	t.Parallel()
	r := connected(t)
	before := r.Disk.Snapshot()
	for name, c := range map[string]struct {
		given option.Values
		says  string
	}{
		"no type":                 {option.Values{"type": ""}, "type: is required"},
		"unknown type":            {option.Values{"type": "oracle"}, `type: "oracle" is not a type of role`},
		"unknown field":           {option.Values{"colour": "red"}, "colour: is not a field of type memory"},
		"no connection":           {option.Values{"connection": ""}, "connection: is required"},
		"missing connection":      {option.Values{"connection": "nowhere"}, `connection: there is no connection "nowhere"`},
		"short period":            {option.Values{"rotation_period": int64(59)}, "rotation_period: must be at least 1m0s"},
		"period and schedule":     {option.Values{"rotation_schedule": "0 2 * * *"}, "rotation_schedule: cannot be given together"},
		"short grace":             {option.Values{"grace_period": int64(19)}, "grace_period: must be at least 20s"},
		"long grace":              {option.Values{"grace_period": int64(600)}, "grace_period: is 10m0s and must be shorter"},
		"window without cron":     {option.Values{"rotation_window": int64(60)}, "rotation_window: needs rotation_schedule"},
		"long jitter":             {option.Values{"jitter": int64(301)}, "jitter: must not be longer than half"},
		"first rotation":          {option.Values{"next_rotation": "tomorrow"}, "next_rotation: must be an RFC 3339 time"},
		"versions":                {option.Values{"max_versions": int64(1)}, "max_versions: must be between"},
		"attempts":                {option.Values{"max_attempts": int64(0)}, "max_attempts: must be between"},
		"rollout failure":         {option.Values{"on_rollout_failure": "panic"}, "on_rollout_failure: must be rollback or hold"},
		"the kind's own":          {option.Values{"prefix": string(make([]byte, 41))}, "prefix: must have at most 40 bytes"},
		"metadata":                {option.Values{"custom_metadata": map[string]string{"": "x"}}, "custom_metadata: keys have"},
		"a value of a wrong form": {option.Values{"max_versions": "many"}, "options do not fit"},
	} {
		_, err := r.write(role(c.given))
		requireKind(t, fault.Invalid, err, c.says)
		require.Equal(t, before, r.Disk.Snapshot(), name)
	}
	_, err := r.write(func() option.Values {
		v := role(option.Values{"rotation_schedule": "0 2 * * *", "rotation_window": int64(25 * 3600)})
		delete(v, "rotation_period")
		return v
	}())
	requireKind(t, fault.Invalid, err, "rotation_window: must not be longer than the shortest gap")
	err = r.Act(func(ctx context.Context, e *backend.Engine) error {
		_, err := e.WriteRole(ctx, backend.Write{Name: "other", Given: role(nil)})
		return err
	})
	requireKind(t, fault.Invalid, err, `does not allow the role "other"`)
}

func TestFailedCreationLeavesNoRole(t *testing.T) {
	t.Parallel()
	r := connected(t)
	r.world.SetRefuse(true)
	_, err := r.write(role(nil))
	requireKind(t, fault.Target, err, "role app was not created: the check query failed")
	_, err = r.Engine().Role(context.Background(), app)
	requireKind(t, fault.NotFound, err, "no role")
	names, err := r.Engine().RoleNames(context.Background())
	require.NoError(t, err)
	require.Empty(t, names)
	require.Empty(t, r.marked(), "no half-made user")
	r.world.SetRefuse(false)
	out, err := r.write(role(nil))
	require.NoError(t, err, "the name is free at once")
	require.Equal(t, 2, out.Rotation.Version, "and the number is not reused")
}

func TestDeletedRoleRetiresAfterGrace(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.Rotate()
	var warnings []string
	require.NoError(t, r.Act(func(ctx context.Context, e *backend.Engine) (err error) {
		warnings, err = e.DeleteRole(ctx, app, false)
		return err
	}))
	require.Len(t, warnings, 2)
	page, err := r.Engine().Status(context.Background(), backend.StatusQuery{})
	require.NoError(t, err)
	require.Equal(t, []string{"deleted roles whose last versions are being ended: app"}, page.Warnings)
	_, err = r.Engine().Creds(context.Background(), app, backend.Actor{})
	requireKind(t, fault.NotFound, err, "no role")
	require.Len(t, r.marked(), 2, "readers hold them")
	_, err = r.write(role(nil))
	requireKind(t, fault.Conflict, err, "still being ended")
	err = r.Engine().DeleteConnection(context.Background(), enginetest.ConnectionName)
	requireKind(t, fault.Conflict, err, "deleted, its last versions are being ended")
	r.Wait(3 * time.Minute)
	require.Empty(t, r.marked())
	page, err = r.Engine().Status(context.Background(), backend.StatusQuery{})
	require.NoError(t, err)
	require.Empty(t, page.Warnings)
	for key := range r.Disk.Snapshot() {
		require.NotContains(t, key, "material/")
		require.NotContains(t, key, "history/")
	}
	out, err := r.write(role(nil))
	require.NoError(t, err)
	require.Equal(t, 3, out.Rotation.Version)
	r.Wait(2 * time.Minute)
	require.Equal(t, backend.StateOK, r.status().State)
	require.NoError(t, r.Act(func(ctx context.Context, e *backend.Engine) error {
		_, err := e.DeleteRole(ctx, "never-was", false)
		return err
	}))
}

func TestForcedDeleteLeavesTheObjects(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	warnings, err := r.Engine().DeleteRole(context.Background(), app, true)
	require.NoError(t, err)
	require.Len(t, warnings, 1)
	r.Wait(2 * time.Minute)
	require.Len(t, r.marked(), 1)
	_, err = r.write(role(nil))
	require.NoError(t, err)
	r.Wait(2 * time.Minute)
	require.Equal(t, backend.StateOK, r.status().State, "what an earlier role of the name left is no divergence")
}

func TestPolicyChangesCountFromTheLastRotation(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"rotation_period": int64(3600)})
	last := r.State().ActivatedTime
	_, err := r.write(option.Values{"rotation_period": int64(1200)})
	require.NoError(t, err)
	r.Step()
	require.Equal(t, last.Add(20*time.Minute), r.State().NextRotation)
	_, err = r.write(option.Values{"disable_automated_rotation": true})
	require.NoError(t, err)
	r.Step()
	require.True(t, r.State().NextRotation.IsZero())
	_, err = r.write(option.Values{"type": "other"})
	requireKind(t, fault.Invalid, err, "type: is memory and cannot be changed")
	_, err = r.write(option.Values{"fixed": "x"})
	requireKind(t, fault.Invalid, err, "fixed: cannot be changed")
	stored, err := r.Engine().Role(context.Background(), app)
	require.NoError(t, err)
	require.True(t, stored.Policy.Disabled)
	require.Equal(t, 40*time.Second, stored.Policy.Grace.Std(), "what is left out is kept")
}

func TestFirstRotationMayBeOffset(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first := r.Clock.Now().Add(5 * time.Minute)
	r.Create(option.Values{"next_rotation": first.Format(time.RFC3339)})
	require.Equal(t, first, r.State().NextRotation)
	r.waitUntil("the first", 6*time.Minute, func() bool { return r.Current() == 2 })
	require.WithinDuration(t, r.Clock.Now().Add(10*time.Minute), r.State().NextRotation, 10*time.Second)
}

func TestGrowingGraceNeverOutlivesTheVersion(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	_, err := r.write(option.Values{"grace_period": int64(400)})
	require.NoError(t, err)
	r.Step()
	require.Equal(t, int64(100), r.creds().Data["ttl"])
	_, err = r.write(option.Values{"grace_period": int64(20)})
	require.NoError(t, err)
	require.Equal(t, int64(5), r.creds().Data["ttl"])
	r.Rotate()
	v := r.State().Version(1)
	require.Equal(t, 400*time.Second, v.RetireAt.Sub(v.DeactivatedTime), "the largest grace in force since it became current")
}

func TestSecretsDoNotFollowAnAddress(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	write := func(given option.Values, secrets map[string]string) error {
		_, err := r.Engine().WriteConnection(context.Background(), backend.Write{Name: enginetest.ConnectionName, Given: given, Secrets: secret.NewMap(secrets)})
		return err
	}
	requireKind(t, fault.Invalid, write(option.Values{"address": "memory://evil"}, nil), "password: is required again, because address changed")
	require.NoError(t, write(option.Values{"pool_size": int64(8)}, nil), "an omitted secret is kept")
	require.NoError(t, write(option.Values{"address": "memory://other"}, map[string]string{"password": "the-admin-canary"}))
	requireKind(t, fault.AuthFailed, write(nil, map[string]string{"password": "wrong"}), "was not written")
	requireKind(t, fault.Conflict, r.Engine().DeleteConnection(context.Background(), enginetest.ConnectionName), "in use by app")
	view, err := r.Engine().Connection(context.Background(), enginetest.ConnectionName)
	require.NoError(t, err)
	require.NotContains(t, view.Values, "password")
}

func TestStatusListsTheMostUrgentFirst(t *testing.T) {
	t.Parallel()
	r := connected(t)
	for _, name := range []string{"app-a", "app-b", "app-c"} {
		require.NoError(t, r.Act(func(ctx context.Context, e *backend.Engine) error {
			_, err := e.WriteRole(ctx, backend.Write{Name: name, Given: role(option.Values{"max_attempts": int64(1), "disable_automated_rotation": true})})
			return err
		}))
	}
	r.world.SetRefuse(true)
	require.NoError(t, r.Act(func(ctx context.Context, e *backend.Engine) error {
		_, err := e.Rotate(ctx, "app-c", backend.RotateRequest{Wait: backend.Wait})
		return err
	}))
	page, err := r.Engine().Status(context.Background(), backend.StatusQuery{Limit: 2})
	require.NoError(t, err)
	names := func(p *backend.StatusPage) (out []string) {
		for _, one := range p.Roles {
			out = append(out, one.Name)
		}
		return out
	}
	require.Equal(t, []string{"app-c", "app-a"}, names(page))
	require.Equal(t, map[backend.RoleState]int{backend.StateBlocked: 1, backend.StateOK: 2}, page.Counts)
	page, err = r.Engine().Status(context.Background(), backend.StatusQuery{Limit: 2, After: page.Next})
	require.NoError(t, err)
	require.Equal(t, []string{"app-b"}, names(page))
	page, err = r.Engine().Status(context.Background(), backend.StatusQuery{State: backend.StateOK})
	require.NoError(t, err)
	require.True(t, slices.Equal([]string{"app-a", "app-b"}, names(page)))
}
