package postgres_test

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

func TestPipelinedNamesTheStepThatFailed(t *testing.T) {
	db := open(t, nil)
	hidden := secret.New("SCRAM-SHA-256$4096:c2FsdA==$stored:server")
	err := db.WithLock(bounded(t), func(ctx context.Context, s *postgres.Session) error {
		return s.Pipelined(ctx, func(s *postgres.Session) error {
			s.Step("make it")
			if err := s.Exec(ctx, "CREATE ROLE pipelined"); err != nil {
				return err
			}
			s.Step("set the password")
			if err := s.ExecSecret(ctx, "ALTER ROLE nobody_of_this_name PASSWORD '"+hidden.Reveal()+"'", hidden); err != nil {
				return err
			}
			s.Step("never sent in vain")
			return s.Exec(ctx, "COMMENT ON ROLE pipelined IS 'x'")
		})
	})
	require.ErrorContains(t, err, "set the password: ")
	require.NotContains(t, err.Error(), hidden.Reveal())
	require.Equal(t, "42704", postgres.Code(err))
	server := pgtest.Shared(t)
	require.Equal(t, "0", server.MustQuery(t, "postgres", "SELECT count(*)::text FROM pg_roles WHERE rolname = 'pipelined'"), "all or nothing")
	require.NotContains(t, server.Log(), hidden.Reveal(), "silence begins before what is to be hidden")
}

func TestAliveLogsInOnceForMany(t *testing.T) {
	var dials atomic.Int64
	db := open(t, func(c *postgres.Config) {
		c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			dials.Add(1)
			return new(net.Dialer).DialContext(ctx, network, address)
		}
	})
	askTogether(t, db, func(err error) { require.NoError(t, err) })
	require.Equal(t, int64(1), dials.Load())
	require.NoError(t, db.Ping(bounded(t)))
	require.Equal(t, int64(2), dials.Load(), "a ping is always a login")
}

// Nobody waits for a server that is away as often as there are others.
func TestAliveSharesTheRefusal(t *testing.T) {
	var dials atomic.Int64
	refused := make(chan struct{})
	db := open(t, func(c *postgres.Config) {
		c.Dial = func(context.Context, string, string) (net.Conn, error) {
			dials.Add(1)
			<-refused
			return nil, net.ErrClosed
		}
	})
	asked := make(chan error)
	go func() { asked <- db.Alive(bounded(t)) }()
	require.Eventually(t, func() bool { return dials.Load() == 1 }, 10*time.Second, 10*time.Millisecond)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, db.Alive(canceled), "who gives up does not wait")
	close(refused)
	require.Error(t, <-asked)
	require.Error(t, db.Alive(bounded(t)))
	require.Equal(t, int64(2), dials.Load(), "who asks later gets an answer of its own")
}

func askTogether(t *testing.T, db *postgres.DB, check func(error)) {
	t.Helper()
	var all sync.WaitGroup
	errs := make(chan error, 16)
	for range cap(errs) {
		all.Go(func() { errs <- db.Alive(bounded(t)) })
	}
	all.Wait()
	close(errs)
	for err := range errs {
		check(err)
	}
}
