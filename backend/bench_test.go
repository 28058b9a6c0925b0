package backend_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/rotatortest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

const dueRoles = 1000

// benchEngine has many roles that are due together.
func benchEngine(b *testing.B) (*backend.Engine, *enginetest.Clock) {
	kind := rotatortest.NewMemory()
	clock := enginetest.NewClock()
	e := backend.New(backend.Options{
		Storage: &enginetest.Storage{Disk: enginetest.NewDisk()}, System: &enginetest.System{}, Clock: clock,
		Rotators: []rotator.Rotator{kind}, Connections: []rotator.ConnectionKind{rotatortest.MemoryConnection{World: kind.World}},
	})
	b.Cleanup(e.Close)
	ctx := context.Background()
	require.NoError(b, e.Start(ctx))
	_, err := e.WriteConnection(ctx, backend.Write{
		Name: "main", Given: option.Values{"type": rotatortest.MemoryType, "address": "memory://target"},
		Secrets: secret.NewMap(map[string]string{"password": "admin"}),
	})
	require.NoError(b, err)
	for i := range dueRoles {
		_, err := e.WriteRole(ctx, backend.Write{Name: fmt.Sprintf("app%d", i), Given: option.Values{
			"type": rotatortest.MemoryType, "connection": "main", "rotation_period": int64(600), "grace_period": int64(40),
		}})
		require.NoError(b, err)
	}
	require.NoError(b, e.Quiesce(ctx))
	return e, clock
}

// BenchmarkTick is how long Vault's periodic call takes with 1,000 roles due.
func BenchmarkTick(b *testing.B) {
	e, clock := benchEngine(b)
	ctx := context.Background()
	var ticking time.Duration
	for b.Loop() {
		clock.Advance(11 * time.Minute)
		start := time.Now()
		require.NoError(b, e.Tick(ctx))
		ticking += time.Since(start)
		require.NoError(b, e.Quiesce(ctx))
	}
	b.ReportMetric(float64(ticking.Microseconds())/1000/float64(b.N), "ms/tick")
}

// BenchmarkIdleTick is the same call with nothing due.
func BenchmarkIdleTick(b *testing.B) {
	e, _ := benchEngine(b)
	for b.Loop() {
		require.NoError(b, e.Tick(context.Background()))
	}
}

// BenchmarkCreds is a read from the cache, Vault's part left out.
func BenchmarkCreds(b *testing.B) {
	e, _ := benchEngine(b)
	b.ReportAllocs()
	for b.Loop() {
		_, err := e.Creds(context.Background(), "app1", backend.Actor{})
		require.NoError(b, err)
	}
}
