package backend_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

// Two engines on one database: a leader that was frozen and deposed wakes up with
// the storage it had, while its successor goes on. Nothing that it does reaches the
// users, and the successor never notices.
func TestTwoEnginesOnOneDatabase(t *testing.T) {
	t.Parallel()
	for name, fresh := range map[string]func(*testing.T) *enginetest.Stage{"alternate": alternateStage, "in place": inPlaceStage} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stage := fresh(t)
			leader := enginetest.NewPlay(stage, enginetest.NewFaults(enginetest.None, 0))
			defer leader.Close()
			leader.Create(nil)
			leader.Rotate()
			leader.Wait(2 * time.Minute) // the first version has ended
			frozen := leader.Disk.Snapshot()
			leader.Rotate()
			leader.Wait(2 * time.Minute)
			works := creds(t, leader)

			deposed := enginetest.NewPlay(stage, enginetest.NewFaults(enginetest.None, 0))
			defer deposed.Close()
			deposed.Disk.Restore(frozen)
			deposed.Restart()
			deposed.Leak(true) // what it hands out is not to be relied on
			for _, act := range []func(context.Context, *backend.Engine) error{
				func(ctx context.Context, e *backend.Engine) error {
					return notSucceeded(e.Rotate(ctx, enginetest.RoleName, backend.RotateRequest{Wait: backend.Wait}))
				},
				func(ctx context.Context, e *backend.Engine) error {
					return notSucceeded(e.Rollback(ctx, enginetest.RoleName, backend.RollbackRequest{Wait: backend.Wait}))
				},
			} {
				require.Error(t, deposed.Act(act))
				require.NoError(t, stage.Login(works))
			}
			deposed.Wait(12 * time.Minute) // its schedule and its checks
			require.NotNil(t, deposed.State().Divergence)
			require.NoError(t, stage.Login(works))

			leader.Wait(time.Minute)
			require.Nil(t, leader.State().Divergence)
			require.Equal(t, works["password"], creds(t, leader)["password"])
			leader.Rotate()
			require.NoError(t, stage.Login(creds(t, leader)))
			require.Empty(t, leader.Violations())
		})
	}
}

func creds(t *testing.T, p *enginetest.Play) map[string]any {
	t.Helper()
	read, err := p.Engine().Creds(t.Context(), enginetest.RoleName, backend.Actor{})
	require.NoError(t, err)
	return read.Data
}

// notSucceeded is an error also where a slow server let the request end before its rotation.
func notSucceeded(r *rotation.Rotation, err error) error {
	if err == nil && r.Outcome != rotation.Succeeded {
		return fmt.Errorf("rotation %s is in phase %s", r.ID, r.Phase)
	}
	return err
}
