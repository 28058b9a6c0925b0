package postgres_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// rowsRig is a database of its own, whose rows a user without any power moves.
type rowsRig struct {
	t        testing.TB
	server   *pgtest.Server
	database string
	user     string
	tables   *postgres.Tables
}

var rowsRigs atomic.Int64

func newRowsRig(t testing.TB) *rowsRig { return newRowsRigOn(t, pgtest.Shared(t)) }

func newRowsRigOn(t testing.TB, s *pgtest.Server) *rowsRig {
	t.Helper()
	id := rowsRigs.Add(1)
	r := &rowsRig{t: t, server: s, database: fmt.Sprintf("Rows %d", id), user: fmt.Sprintf("rows_%d", id)}
	require.NoError(t, s.CreateDatabase(t.Context(), r.database, ""))
	s.MustExec(t, "postgres", "CREATE ROLE "+r.user+" LOGIN PASSWORD 'pw'")
	address, err := postgres.ParseAddress(s.TemplateURL("postgres"))
	require.NoError(t, err)
	address.Database = r.database
	db, err := postgres.Open(postgres.Config{
		Address: address, Username: r.user, Password: secret.New("pw"), CA: s.CAPEM(),
		MaxOpen: 4, MaxIdle: 1, ConnectTimeout: 5e9, StatementTimeout: 30e9,
	})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	r.tables = db.Tables()
	return r
}

// exec runs statements as the superuser.
func (r *rowsRig) exec(statements ...string) {
	r.t.Helper()
	r.server.MustExec(r.t, r.database, statements...)
}

func (r *rowsRig) query(sql string, args ...any) string {
	r.t.Helper()
	return r.server.MustQuery(r.t, r.database, sql, args...)
}

// grant lets the user move the rows of tables.
func (r *rowsRig) grant(tables ...string) {
	r.t.Helper()
	for _, table := range tables {
		r.exec("GRANT SELECT, UPDATE ON " + table + " TO " + r.user)
	}
}

// session is one of an application's.
func (r *rowsRig) session() *pgx.Conn {
	r.t.Helper()
	conn, err := r.server.Connect(bounded(r.t), pgtest.Superuser, r.server.SuperuserPassword(), r.database)
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (r *rowsRig) must(conn *pgx.Conn, sql string) {
	r.t.Helper()
	_, err := conn.Exec(bounded(r.t), sql)
	require.NoError(r.t, err)
}

func (r *rowsRig) open(target *reencrypt.Target) reencrypt.Table {
	r.t.Helper()
	table, err := r.tables.Open(bounded(r.t), target)
	require.NoError(r.t, err)
	return table
}

// all reads all pages.
func (r *rowsRig) all(table reencrypt.Table, limit int, done string) (all []reencrypt.Row) {
	r.t.Helper()
	var after reencrypt.Key
	for {
		rows, err := table.Page(bounded(r.t), after, limit, done)
		require.NoError(r.t, err)
		if len(rows) == 0 {
			return all
		}
		require.LessOrEqual(r.t, len(rows), limit)
		all, after = append(all, rows...), rows[len(rows)-1].Key
	}
}

func (r *rowsRig) swap(table reencrypt.Table, changes ...reencrypt.Change) []reencrypt.Result {
	r.t.Helper()
	results, err := table.Swap(bounded(r.t), changes)
	require.NoError(r.t, err)
	require.Len(r.t, results, len(changes))
	return results
}

// to changes the values of a row; "" leaves one as it is.
func to(row reencrypt.Row, values ...string) reencrypt.Change {
	c := reencrypt.Change{Row: row, New: make([][]byte, len(values))}
	for i, v := range values {
		if v != "" {
			c.New[i] = []byte(v)
		}
	}
	return c
}

func outcomes(results []reencrypt.Result) (all []reencrypt.Outcome) {
	for _, r := range results {
		all = append(all, r.Outcome)
	}
	return all
}
