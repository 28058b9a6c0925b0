package backend_test

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/postgresql"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// BenchmarkPostgreSQLRotation is what BenchmarkRotations in tests/ measures, but
// for Vault: to be profiled, and to count what a rotation asks of others. The counts
// are of one rotation among many that are due together.
func BenchmarkPostgreSQLRotation(b *testing.B) {
	const roles = 200
	server := pgtest.New(b, pgtest.Options{Settings: map[string]string{"log_statement": "none", "log_connections": "off"}})
	server.MustExec(b, "postgres", "CREATE ROLE bench_admin LOGIN CREATEROLE PASSWORD 'bench'", "CREATE ROLE bench_group", "GRANT bench_group TO bench_admin WITH ADMIN OPTION")
	target := &tally{}
	e, clock, storage := postgresEngine(b, server, target)
	for i := range roles {
		_, err := e.WriteRole(b.Context(), backend.Write{Name: fmt.Sprintf("app%d", i), Given: option.Values{
			"type": postgresql.Type, "connection": "main", "member_of": "bench_group", "rotation_period": int64(86400), "grace_period": int64(86000),
		}})
		require.NoError(b, err)
	}
	require.NoError(b, e.Quiesce(b.Context()))
	storage.reset()
	target.reset()
	b.ResetTimer()
	for b.Loop() {
		clock.Advance(24 * time.Hour)
		require.NoError(b, e.Tick(b.Context()))
		require.NoError(b, e.Quiesce(b.Context()))
	}
	b.StopTimer()
	state, err := e.RoleStatus(b.Context(), "app0")
	require.NoError(b, err)
	require.Equal(b, rotation.Succeeded, state.LastRotation.Outcome)
	rotations := float64(b.N * roles)
	b.ReportMetric(rotations/b.Elapsed().Seconds(), "rotations/s")
	b.ReportMetric(float64(storage.reads.Load())/rotations, "reads/rotation")
	b.ReportMetric(float64(storage.writes.Load())/rotations, "writes/rotation")
	b.ReportMetric(float64(target.logins.Load())/rotations, "logins/rotation")
	b.ReportMetric(float64(target.trips.Load())/rotations, "trips/rotation")
}

// postgresEngine has a connection to a real server, and counts.
func postgresEngine(b *testing.B, server *pgtest.Server, target *tally) (*backend.Engine, *enginetest.Clock, *counts) {
	storage := &counts{Storage: &enginetest.Storage{Disk: enginetest.NewDisk()}}
	clock := enginetest.NewClock()
	e := backend.New(backend.Options{
		Storage: storage, System: &enginetest.System{}, Clock: clock,
		Rotators: []rotator.Rotator{postgresql.New()}, Connections: []rotator.ConnectionKind{&postgresql.ConnectionKind{Dial: target.dial}},
	})
	b.Cleanup(e.Close)
	require.NoError(b, e.Start(b.Context()))
	_, err := e.WriteConnection(b.Context(), backend.Write{
		Name: "main", Given: option.Values{"type": postgresql.Type, "connection_url": server.TemplateURL("postgres"), "username": "bench_admin", "tls_ca": server.CAPEM()},
		Secrets: secret.NewMap(map[string]string{"password": "bench"}),
	})
	require.NoError(b, err)
	return e, clock, storage
}

// counts counts calls of storage by what they cost.
type counts struct {
	store.Storage
	reads, writes atomic.Int64
}

func (c *counts) reset() { c.reads.Store(0); c.writes.Store(0) }

func (c *counts) Get(ctx context.Context, key string) ([]byte, error) {
	c.reads.Add(1)
	return c.Storage.Get(ctx, key)
}

func (c *counts) List(ctx context.Context, prefix string) ([]string, error) {
	c.reads.Add(1)
	return c.Storage.List(ctx, prefix)
}

func (c *counts) Put(ctx context.Context, key string, value []byte) error {
	c.writes.Add(1)
	return c.Storage.Put(ctx, key, value)
}

func (c *counts) Delete(ctx context.Context, key string) error {
	c.writes.Add(1)
	return c.Storage.Delete(ctx, key)
}

// tally counts connections to a server, and how often something is sent to it.
type tally struct{ logins, trips atomic.Int64 }

func (t *tally) reset() { t.logins.Store(0); t.trips.Store(0) }

func (t *tally) dial(ctx context.Context, network, address string) (net.Conn, error) {
	t.logins.Add(1)
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &tallied{Conn: conn, tally: t}, nil
}

type tallied struct {
	net.Conn
	tally *tally
}

// Write implements net.Conn.
func (c *tallied) Write(p []byte) (int, error) {
	c.tally.trips.Add(1)
	return c.Conn.Write(p)
}
