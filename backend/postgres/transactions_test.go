package postgres_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// transactions are those that live, without what the server does by itself.
func (r *rowsRig) transactions() []reencrypt.Transaction {
	r.t.Helper()
	all, err := r.tables.Transactions(bounded(r.t))
	require.NoError(r.t, err)
	return all
}

// named finds the one whose description has a text.
func (r *rowsRig) named(text string) *reencrypt.Transaction {
	r.t.Helper()
	all := r.transactions()
	i := slices.IndexFunc(all, func(one reencrypt.Transaction) bool { return strings.Contains(one.What, text) })
	if i < 0 {
		return nil
	}
	return &all[i]
}

// app is a session that calls itself so.
func (r *rowsRig) app(name string) *pgx.Conn {
	r.t.Helper()
	conn := r.session()
	r.must(conn, "SET application_name = '"+name+"'")
	return conn
}

// Every transaction that may still commit is listed, whatever it did so far, and nothing
// else; the user who asks may see nothing of others.
func TestTransactions(t *testing.T) {
	r := newRowsRig(t)
	r.exec("CREATE TABLE written (id int)")
	require.Empty(t, r.transactions())

	idle := r.app("is-idle")
	require.Nil(t, r.named("is-idle"), "no transaction")
	r.must(idle, "BEGIN")
	require.NotNil(t, r.named("is-idle"), "before it has done anything")
	r.must(idle, "ROLLBACK")
	require.Nil(t, r.named("is-idle"))

	reads := r.app("only-reads")
	r.must(reads, "BEGIN READ ONLY")
	r.must(reads, "SELECT FROM written")
	require.NotNil(t, r.named("only-reads"))

	writes := r.app("has-written")
	r.must(writes, "BEGIN")
	before := r.named("has-written")
	require.NotNil(t, before)
	r.must(writes, "INSERT INTO written VALUES (1)")
	require.Equal(t, before, r.named("has-written"), "one transaction is one, before and after it wrote")
	r.must(writes, "COMMIT")
	require.Nil(t, r.named("has-written"))
	r.must(writes, "BEGIN")
	require.NotEqual(t, before.ID, r.named("has-written").ID, "the next one of the same session is another")
	r.must(writes, "INSERT INTO written VALUES (2)")
	r.must(writes, "PREPARE TRANSACTION 'two phases'")
	require.Nil(t, r.named("has-written"))
	prepared := r.named(`"two phases"`)
	require.NotNil(t, prepared)
	r.must(writes, "COMMIT PREPARED 'two phases'")
	require.Nil(t, r.named(`"two phases"`))
	r.must(writes, "BEGIN")
	r.must(writes, "INSERT INTO written VALUES (3)")
	r.must(writes, "PREPARE TRANSACTION 'two phases'")
	require.NotEqual(t, prepared.ID, r.named(`"two phases"`).ID, "a name that is used again")
	r.must(writes, "ROLLBACK PREPARED 'two phases'")

	elsewhere, err := r.server.Connect(bounded(t), pgtest.Superuser, r.server.SuperuserPassword(), "postgres")
	require.NoError(t, err)
	defer elsewhere.Close(t.Context())
	r.must(elsewhere, "BEGIN; SET LOCAL application_name = 'elsewhere'; SELECT 1")
	require.Nil(t, r.named("elsewhere"), "another database")
	require.Len(t, r.transactions(), 1, "the one that reads")
	require.Contains(t, r.transactions()[0].What, `transaction of "postgres" (application_name "only-reads", pid `)
}

// A statement that runs is a transaction, without BEGIN.
func TestTransactionsOfAStatement(t *testing.T) {
	r := newRowsRig(t)
	conn := r.app("sleeps")
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(bounded(t), "SELECT pg_sleep(20)")
		done <- err
	}()
	require.Eventually(t, func() bool { return r.named("sleeps") != nil }, 10*time.Second, 10*time.Millisecond)
	r.query("SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity WHERE application_name = 'sleeps'")
	require.Error(t, <-done)
	require.Eventually(t, func() bool { return r.named("sleeps") == nil }, 10*time.Second, 10*time.Millisecond)
}

// A prepared transaction outlives the server, under the same name; others end with it.
func TestTransactionsAcrossARestart(t *testing.T) {
	r := newRowsRigOn(t, pgtest.New(t))
	r.exec("CREATE TABLE written (id int)")
	one, two := r.app("prepares"), r.app("ends")
	r.must(one, "BEGIN")
	r.must(one, "INSERT INTO written VALUES (1)")
	r.must(one, "PREPARE TRANSACTION 'stays'")
	r.must(two, "BEGIN")
	prepared, ends := r.named("stays"), r.named("ends")
	require.NotNil(t, prepared)
	require.NotNil(t, ends)
	require.NoError(t, r.server.Restart(bounded(t)))
	require.Eventually(t, func() bool { _, err := r.tables.Transactions(bounded(t)); return err == nil }, 10*time.Second, 10*time.Millisecond)
	require.Equal(t, prepared, r.named("stays"))
	require.Nil(t, r.named("ends"))
	r.exec("ROLLBACK PREPARED 'stays'")
}
