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
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/rotatortest"
)

// rig is an engine over an in-memory target, with a clock that only tests move.
type rig struct {
	*enginetest.Play
	t     *testing.T
	world *rotatortest.World
	// published are the events that Vault's event system would see.
	published *published
}

// published keeps all events, each once.
type published struct {
	enginetest.Shared[[]rotation.Event]
}

// Deliver implements backend.EventSink.
func (p *published) Deliver(_ context.Context, _ string, e rotation.Event) error {
	if !slices.ContainsFunc(p.Get(), func(known rotation.Event) bool { return known.ID == e.ID }) {
		p.Set(append(p.Get(), e))
	}
	return nil
}

type enginetestStage = enginetest.Stage

// kind is the in-memory kind over the same target, for a second mount.
func (r *rig) kind() *rotatortest.Memory { return &rotatortest.Memory{World: r.world} }

const app = enginetest.RoleName

func newRig(t *testing.T, change ...func(*enginetest.Stage)) *rig {
	t.Helper()
	kind := rotatortest.NewMemory()
	stage := memoryStage(kind)
	seen := &published{}
	stage.Sink = seen
	for _, c := range change {
		c(stage)
	}
	r := &rig{Play: enginetest.NewPlay(stage, enginetest.NewFaults(enginetest.None, 0)), t: t, world: kind.World, published: seen}
	t.Cleanup(func() {
		r.Close()
		require.Empty(t, r.Violations())
	})
	return r
}

// created is a rig whose role exists, in a process that has served long enough.
func created(t *testing.T, role option.Values, change ...func(*enginetest.Stage)) *rig {
	t.Helper()
	r := newRig(t, change...)
	r.Create(role)
	r.Wait(time.Minute)
	return r
}

func (r *rig) rotate() (*rotation.Rotation, error) { return r.rotateBy(backend.RotateRequest{}) }

func (r *rig) rotateBy(request backend.RotateRequest) (out *rotation.Rotation, err error) {
	request.Wait = backend.Wait
	err = r.Act(func(ctx context.Context, e *backend.Engine) (err error) {
		out, err = e.Rotate(ctx, app, request)
		return err
	})
	return out, err
}

func (r *rig) rollback(version int) (out *rotation.Rotation, err error) {
	err = r.Act(func(ctx context.Context, e *backend.Engine) (err error) {
		out, err = e.Rollback(ctx, app, backend.RollbackRequest{Wait: backend.Wait, Version: version})
		return err
	})
	return out, err
}

func (r *rig) emergency(killFirst bool) (out *backend.EmergencyResult) {
	r.Leak(true)
	defer r.Leak(false)
	require.NoError(r.t, r.Act(func(ctx context.Context, e *backend.Engine) (err error) {
		out, err = e.Emergency(ctx, app, backend.EmergencyRequest{Reason: "found in a log", KillFirst: killFirst, Wait: backend.Wait})
		return err
	}))
	return out
}

func (r *rig) write(values option.Values) (out *backend.RoleWritten, err error) {
	err = r.Act(func(ctx context.Context, e *backend.Engine) (err error) {
		out, err = e.WriteRole(ctx, backend.Write{Name: app, Given: values})
		return err
	})
	return out, err
}

func (r *rig) status() *backend.RoleStatus {
	s, err := r.Engine().RoleStatus(context.Background(), app)
	require.NoError(r.t, err)
	return s
}

func (r *rig) creds() *backend.Creds {
	c, err := r.Engine().Creds(context.Background(), app, backend.Actor{})
	require.NoError(r.t, err)
	return c
}

// waitUntil steps until something holds, for at most so long on the engine's clock.
func (r *rig) waitUntil(what string, most time.Duration, holds func() bool) {
	r.t.Helper()
	for end := r.Clock.Now().Add(most); !holds(); r.Step() {
		require.True(r.t, r.Clock.Now().Before(end), "%s: not within %s", what, most)
	}
}

func requireKind(t *testing.T, kind fault.Kind, err error, says string) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, kind, fault.KindOf(err), err)
	require.ErrorContains(t, err, says)
}
