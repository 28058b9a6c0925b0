package tests

import (
	"errors"
	"regexp"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// Readers behind a PgBouncer that asks the server for verifiers follow a rotation at once, and those
// of a retired version are shut out with their pooled sessions.
func TestReadersBehindPgBouncer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "bouncer", sharedVault(t), pgtest.Shared(t))
	b := pgtest.NewBouncer(t, w.postgres, w.database, nil)
	w.write("roles/"+w.role, w.roleFields(nil))
	w.awaitState(w.role, await.Patience, "ok", "grace")
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
	await.Until(t, "the pooled sessions of the retired user to end", func() (bool, any) {
		left := sessions(w, old.Username)
		return left == "0", left
	})
	err := w.login(t.Context(), b.Address(old.URL))
	require.True(t, shutOut(err), "%v", err)
	require.NoError(t, w.login(t.Context(), b.Address(fresh.URL)), "%s", b.Log())
}

// PgBouncer has no password of a reader: it logs in with the key that the client proved to have, to
// a server that asks for SCRAM. So it has to follow a user whose verifier is another one than before,
// for the same password, and only the server's own verifier serves.
func TestPgBouncerPassesSCRAMOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "scram", sharedVault(t), pgtest.Shared(t))
	require.Equal(t, "scram-sha-256", w.postgres.MustQuery(t, "postgres", "SELECT string_agg(DISTINCT auth_method, ' ') FROM pg_hba_file_rules"))
	b := pgtest.NewBouncer(t, w.postgres, w.database, nil)
	w.write("roles/"+w.role, w.roleFields(nil))
	first := w.current(w.role)
	require.NoError(t, w.login(t.Context(), b.Address(first.URL)), "%s", b.Log())
	before := verifier(w, first.Username)

	w.rotation("rotate/"+w.role, nil)
	w.write("retire/"+w.role, map[string]any{"version": first.Version, "force": true})
	await.Until(t, "PgBouncer to refuse the retired user", func() (bool, any) {
		err := w.login(t.Context(), b.Address(first.URL))
		return shutOut(err), err
	})
	w.rotation("rollback/"+w.role, map[string]any{"version": first.Version})
	again := w.current(w.role)
	require.Equal(t, first.URL, again.URL, "the same user and password")
	after := verifier(w, first.Username)
	require.NotEqual(t, before, after, "the same verifier: this test shows nothing")
	require.NoError(t, w.login(t.Context(), b.Address(again.URL)), "%s", b.Log())

	twin := w.role + "_twin"
	w.superuser("SET log_statement = 'none'", "CREATE ROLE "+twin+" PASSWORD '"+again.Password+"'")
	t.Cleanup(func() { w.superuser("DROP ROLE " + twin) })
	pinned := func(verifier string) *pgtest.Bouncer {
		return pgtest.NewBouncer(t, w.postgres, w.database, map[string]string{again.Username: verifier})
	}
	b = pinned(after)
	require.NoError(t, w.login(t.Context(), b.Address(again.URL)), "%s", b.Log())
	b = pinned(verifier(w, twin))
	err := w.login(t.Context(), b.Address(again.URL))
	require.ErrorContains(t, err, "password authentication failed", "the server refuses what PgBouncer accepted")
	await.Until(t, "PgBouncer to log that the server refused it: else this test shows nothing", func() (bool, any) {
		return loginFailed.MatchString(b.Log()), b.Log()
	})
	require.NoError(t, w.login(t.Context(), again.URL), "the server itself accepts it all along")
}

// loginFailed is what PgBouncer logs of a server that refused it.
var loginFailed = regexp.MustCompile(`S-0x\w+: [^\n]*closing because: login failed`)

// verifier is what the server keeps of a user's password.
func verifier(w *world, user string) string {
	return w.postgres.MustQuery(w.t, "postgres", "SELECT rolpassword FROM pg_authid WHERE rolname = $1", user)
}

// shutOut tells whether PgBouncer refused a login as that of nobody it knows. Most releases say so with
// a code of the protocol, under which other troubles of theirs go too.
func shutOut(err error) bool {
	var pgErr *pgconn.PgError
	return refused(err) || errors.As(err, &pgErr) && pgErr.Code == "08P01" &&
		slices.Contains([]string{"no such user", "SASL authentication failed", "password authentication failed"}, pgErr.Message)
}

// sessions counts what a user has open at the server.
func sessions(w *world, user string) string {
	return w.postgres.MustQuery(w.t, "postgres", "SELECT count(*)::text FROM pg_stat_activity WHERE usename = $1", user)
}
