package backend_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

func TestReadingFromTheCacheTouchesNoStorage(t *testing.T) {
	t.Parallel()
	var storage *counted
	r := created(t, nil, func(s *enginetestStage) {
		s.Storage = func(inner store.Storage) store.Storage {
			storage = &counted{Storage: inner}
			return storage
		}
	})
	r.creds()
	require.NoError(t, r.Engine().Quiesce(context.Background())) // a tick before this may still be storing who read
	calls := storage.calls.Get()
	for range 1000 {
		r.creds()
	}
	require.Equal(t, calls, storage.calls.Get())
	for range 100 {
		require.NoError(t, r.Engine().Tick(context.Background()))
	}
	require.Equal(t, calls, storage.calls.Get(), "an idle tick touches none either")
}

// counted counts storage calls, reads included.
type counted struct {
	store.Storage
	calls enginetest.Shared[int]
}

func (c *counted) count() { c.calls.Set(c.calls.Get() + 1) }

func (c *counted) Get(ctx context.Context, key string) ([]byte, error) {
	c.count()
	return c.Storage.Get(ctx, key)
}

func (c *counted) Put(ctx context.Context, key string, value []byte) error {
	c.count()
	return c.Storage.Put(ctx, key, value)
}

func (c *counted) List(ctx context.Context, prefix string) ([]string, error) {
	c.count()
	return c.Storage.List(ctx, prefix)
}

func TestReadsDifferInTTLAlone(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	first := r.creds().Data
	require.Equal(t, int64(10), first["ttl"])
	require.Equal(t, int64(600), first["rotation_period"])
	require.IsType(t, "", first["last_vault_rotation"])
	r.waitUntil("close to the next rotation", 10*time.Minute, func() bool { return r.State().NextRotation.Sub(r.Clock.Now()) < 6*time.Second })
	later := r.creds().Data
	require.Equal(t, int64(10), later["ttl"], "never below the floor, min(30s, grace/4)")
	delete(first, "ttl")
	delete(later, "ttl")
	require.Equal(t, first, later)
}

func TestOldVersionsHaveAPathOfTheirOwn(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.Rotate()
	read := func(n int) (*backend.Creds, error) {
		return r.Engine().VersionCreds(context.Background(), app, n, backend.Actor{})
	}
	old, err := read(1)
	require.NoError(t, err)
	require.Equal(t, "retiring", old.Data["state"])
	require.Equal(t, r.State().Version(1).RetireAt.Format(time.RFC3339), old.Data["expire_time"])
	require.Equal(t, int64(10), old.Data["ttl"])
	current, err := read(2)
	require.NoError(t, err)
	require.Equal(t, "current", current.Data["state"])
	require.NotContains(t, current.Data, "expire_time")
	_, err = read(3)
	requireKind(t, fault.NotFound, err, "no live version 3")
	r.waitUntil("close to its end", time.Minute, func() bool { return r.State().Version(1).RetireAt.Sub(r.Clock.Now()) < 4*time.Second })
	_, err = read(1)
	requireKind(t, fault.NotFound, err, "")
	r.Wait(time.Minute)
	_, err = read(1)
	requireKind(t, fault.NotFound, err, "no live version 1")
}

func TestRetireByHandWaitsForIssuedTTLs(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	retire := func(version int, force bool) (v *rotation.Version, err error) {
		err = r.Act(func(ctx context.Context, e *backend.Engine) (err error) {
			v, err = e.Retire(ctx, app, backend.RetireRequest{Version: version, Force: force, Wait: backend.Wait})
			return err
		})
		return v, err
	}
	_, err := retire(0, false)
	requireKind(t, fault.Conflict, err, "no version of app is retiring")
	_, err = retire(1, false)
	requireKind(t, fault.Conflict, err, "only a retiring version")
	_, err = retire(7, false)
	requireKind(t, fault.Invalid, err, "has no version 7")
	r.Rotate()
	_, err = retire(1, false)
	requireKind(t, fault.Conflict, err, "may be in use until")
	r.Wait(16 * time.Second) // ttl 10s + margin 5s
	v, err := retire(1, false)
	require.NoError(t, err)
	require.Equal(t, rotation.Retired, v.State)
	r.Rotate()
	r.Leak(true)
	v, err = retire(2, true)
	require.NoError(t, err)
	require.Equal(t, rotation.Retired, v.State)
	r.Leak(false)
}

func TestNothingRetiresRightAfterAStart(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.Rotate()
	r.Close()
	r.Leak(true) // nobody could read meanwhile
	r.Clock.Advance(time.Hour)
	r.Restart()
	r.Leak(false)
	r.creds()
	started := r.Clock.Now()
	r.waitUntil("retired", time.Minute, func() bool { return r.State().Version(1).State == rotation.Retired })
	require.GreaterOrEqual(t, r.Clock.Now().Sub(started), 12*time.Second, "readers were given their longest ttl, and a margin, to come back")
}

func TestClockJumpEndsNothing(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.Rotate()
	r.Leak(true)
	r.Clock.Jump(time.Minute)
	jumped := r.Clock.Now()
	r.waitUntil("retired", 2*time.Minute, func() bool { return r.State().Version(1).State == rotation.Retired })
	require.GreaterOrEqual(t, r.Clock.Now().Sub(jumped), 12*time.Second)
	r.Leak(false)
}

func TestEventsAreHandedOverAtLeastOnce(t *testing.T) {
	t.Parallel()
	sink := &events{}
	r := created(t, nil, func(s *enginetestStage) { s.Sink = sink })
	r.Rotate()
	r.Wait(10 * time.Second)
	id := r.State().Last.ID
	require.Contains(t, sink.Get(), id+"/rotation.succeeded")
	require.Contains(t, sink.Get(), id+"/version.activated")
	count := len(sink.Get())
	r.Wait(time.Minute)
	require.Len(t, sink.Get(), count, "once, as long as nobody dies")
	r.Restart()
	r.Wait(time.Minute)
	require.GreaterOrEqual(t, len(sink.Get()), count, "again after a crash, under the same id")
}

type events struct{ enginetest.Shared[[]string] }

func (s *events) Deliver(_ context.Context, _ string, e rotation.Event) error {
	s.Set(append(s.Get(), e.ID))
	return nil
}
