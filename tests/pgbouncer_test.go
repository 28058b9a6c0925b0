package tests

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// Readers behind a PgBouncer that asks the server for verifiers follow a rotation at once, and those
// of a retired version are shut out with their pooled sessions.
func TestReadersBehindPgBouncer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "bouncer", sharedVault(t), pgtest.Shared(t))
	b := pgtest.NewBouncer(t, w.postgres, w.database)
	w.write("roles/"+w.role, w.roleFields(nil))
	w.awaitState(w.role, patience, "ok", "grace")
	old := w.current(w.role)
	for range 2 { // the second meets the session that the first left in the pool
		require.NoError(t, w.login(t.Context(), b.Address(old.URL)), "%s", b.Log())
	}

	w.rotation("rotate/"+w.role, nil)
	fresh := w.current(w.role)
	require.NotEqual(t, old.Username, fresh.Username)
	for _, url := range []string{old.URL, fresh.URL} { // the old one has its grace
		require.NoError(t, w.login(t.Context(), b.Address(url)), "%s", b.Log())
	}
	require.NotEqual(t, "0", sessions(w, old.Username), "PgBouncer keeps no session of the old user: this test shows nothing")

	w.write("retire/"+w.role, map[string]any{"version": old.Version, "force": true})
	await(t, patience, "the pooled sessions of the retired user to end", func() (bool, any) {
		left := sessions(w, old.Username)
		return left == "0", left
	})
	require.Error(t, w.login(t.Context(), b.Address(old.URL)))
	require.NoError(t, w.login(t.Context(), b.Address(fresh.URL)), "%s", b.Log())
}

// sessions counts what a user has open at the server.
func sessions(w *world, user string) string {
	return w.postgres.MustQuery(w.t, "postgres", "SELECT count(*)::text FROM pg_stat_activity WHERE usename = $1", user)
}
