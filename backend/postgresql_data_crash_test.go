package backend_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/postgresql"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// serverRows are rows of a table in a real server.
type serverRows struct{ pool *pgxpool.Pool }

func (s *serverRows) get(k reencrypt.Key) (text string) {
	err := s.pool.QueryRow(context.Background(), "SELECT number FROM billing.cards WHERE id = $1", k[0]).Scan(&text)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		panic(err)
	}
	return text
}

func (s *serverRows) begin(k reencrypt.Key, text string) ending {
	ctx := context.Background()
	tx, err := s.pool.Begin(ctx)
	if err != nil {
		panic(err)
	}
	_, err = tx.Exec(ctx, "SET LOCAL lock_timeout = '2ms'")
	if err == nil {
		_, err = tx.Exec(ctx, "INSERT INTO billing.cards (id, number) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET number = $2", k[0], text)
	}
	if err != nil { // another one of its own, or the pass, holds the row
		_ = tx.Rollback(ctx)
		return nil
	}
	return serverTx{tx}
}

type serverTx struct{ pgx.Tx }

func (tx serverTx) commit() {
	if err := tx.Commit(context.Background()); err != nil {
		panic(err)
	}
}

// serverData makes stages whose data lies in a table of a real server, in a database that
// no other test has transactions in.
func serverData(t *testing.T) func(*testing.T) *enginetest.Stage {
	server := pgtest.Shared(t)
	const name, admin = "crash_data", "crash_data_admin"
	server.MustExec(t, "postgres", "CREATE DATABASE "+name, "CREATE ROLE "+admin+" LOGIN PASSWORD 'admin-canary'")
	server.MustExec(t, name, "CREATE SCHEMA billing", "CREATE TABLE billing.cards (id text PRIMARY KEY, number text NOT NULL)",
		"GRANT USAGE ON SCHEMA billing TO "+admin, "GRANT SELECT, UPDATE (number) ON billing.cards TO "+admin)
	pool, err := pgxpool.New(t.Context(), server.URL("postgres", server.SuperuserPassword(), name))
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return func(t *testing.T) *enginetest.Stage {
		_, err := pool.Exec(t.Context(), "TRUNCATE billing.cards")
		require.NoError(t, err)
		app := &application{rows: &serverRows{pool}, count: 6}
		stage := app.stage(t, postgresql.NewConnectionKind())
		stage.Address = option.Values{
			"connection_url": server.TemplateURL(name), "username": admin, "tls_ca": server.CAPEM(), "allowed_tables": []string{"billing.*"},
		}
		stage.Secrets = secret.NewMap(map[string]string{"password": "admin-canary"})
		stage.Ended = func() { app.commit(app.play.Clock.Now().Add(time.Hour)) }
		return stage
	}
}

// TestPostgreSQLDataCrashAnywhere is TestDataCrashAnywhere with a real server outside.
func TestPostgreSQLDataCrashAnywhere(t *testing.T) {
	t.Parallel()
	enginetest.Enumerate(t, serverData(t), dataScenarios[0])
}
