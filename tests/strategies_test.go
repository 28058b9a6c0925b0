package tests

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// Two users take turns, and the one that readers may still hold is left alone.
func TestTwoStandingUsers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "turns", sharedVault(t), pgtest.Shared(t))
	blue, green := w.role+"_blue", w.role+"_green"
	w.write("roles/"+w.role, w.roleFields(map[string]any{"strategy": "alternate", "usernames": []string{blue, green}, "grace_period": "1h"}))
	first := w.current(w.role)
	require.Equal(t, blue, first.Username)
	require.NoError(t, w.login(t.Context(), first.URL))
	w.rotation("rotate/"+w.role, nil)
	second := w.current(w.role)
	require.Equal(t, green, second.Username)

	before := w.snapshot()
	a := w.call(t.Context(), http.MethodPut, "rotate/"+w.role, nil)
	require.Equal(t, http.StatusConflict, a.Status)
	require.Contains(t, a.sentence(), blue+" serves version 1 until ")
	require.Contains(t, a.sentence(), "force=true")
	require.Equal(t, before, w.snapshot())
	require.NoError(t, w.login(t.Context(), first.URL))

	r := w.rotation("rollback/"+w.role, nil)
	require.Equal(t, "succeeded", r.Outcome)
	require.Equal(t, first.Password, w.current(w.role).Password)
	require.NoError(t, w.login(t.Context(), second.URL), "it has its grace")

	w.rotation("rotate/"+w.role, map[string]any{"force": true})
	third := w.current(w.role)
	require.Equal(t, green, third.Username)
	err := w.login(t.Context(), second.URL)
	require.True(t, refused(err), "%v", err)
	for _, url := range []string{first.URL, third.URL} {
		require.NoError(t, w.login(t.Context(), url))
	}
	require.ElementsMatch(t, []string{blue, green}, w.users(w.role))

	w.write("emergency/"+w.role, map[string]any{"reason": "both leaked"})
	await.Until(t, "the leak to be contained", func() (bool, any) {
		s := w.status(w.role)
		return len(s.OpenIncidents) == 0 || s.version(third.Version).ProvenDead && s.version(first.Version).ProvenDead, s
	})
	require.NoError(t, w.login(t.Context(), w.current(w.role).URL))
	for _, url := range []string{first.URL, third.URL} {
		require.True(t, refused(w.login(t.Context(), url)))
	}
}

// One user's password changes where it stands, and the answer to the write says what that means.
func TestOneUserInPlace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "inplace", sharedVault(t), pgtest.Shared(t))
	a := w.write("roles/"+w.role, w.roleFields(map[string]any{"strategy": "in_place", "username": w.role + "_only", "grace_period": nil, "rotation_period": "1h"}))
	require.Contains(t, fmt.Sprint(a.Warnings), "gap")
	first := w.current(w.role)
	require.InDelta(t, 3600, first.TTL, 120, "until the next rotation")
	require.NoError(t, w.login(t.Context(), first.URL))
	w.rotation("rotate/"+w.role, nil)
	second := w.current(w.role)
	require.Equal(t, first.Username, second.Username)
	require.True(t, refused(w.login(t.Context(), first.URL)))
	require.NoError(t, w.login(t.Context(), second.URL))

	w.rotation("rollback/"+w.role, nil)
	require.Equal(t, first.Password, w.current(w.role).Password)
	require.NoError(t, w.login(t.Context(), first.URL))
	require.True(t, refused(w.login(t.Context(), second.URL)))
	w.awaitState(w.role, await.Patience, "ok")
}

// A role moves in where people made the user: nothing changes until the first rotation, which begins
// only once its successor can do what it could, and readers notice nothing.
func TestMoveInFromAHandMadeUser(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "movein", sharedVault(t), pgtest.Shared(t))
	user := w.role + "_crm"
	w.superuser(
		"SET log_statement = 'none'",
		fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD 'a-well-kept-secret'", user),
		"RESET log_statement",
		fmt.Sprintf("GRANT %s TO %s WITH ADMIN OPTION", user, w.admin),
		fmt.Sprintf("GRANT CREATE ON SCHEMA public TO %s, %s", user, w.group),
		"CREATE TABLE customers (id int)", fmt.Sprintf("ALTER TABLE customers OWNER TO %s", user),
	)
	role := func(changes map[string]any) map[string]any {
		return w.roleFields(with(map[string]any{"username": user, "username_prefix": w.role}, changes))
	}
	a := w.call(t.Context(), http.MethodPut, "roles/"+w.role, role(map[string]any{"password": "wrong"}))
	require.Equal(t, http.StatusBadRequest, a.Status)
	require.Contains(t, a.sentence(), "password")
	require.NotContains(t, a.Text, "a-well-kept-secret")
	require.Empty(t, w.users(w.role))

	w.write("roles/"+w.role, role(map[string]any{"password": "a-well-kept-secret"}))
	first := w.current(w.role)
	require.Equal(t, []any{user, "a-well-kept-secret"}, []any{first.Username, first.Password})
	conn, err := connect(t.Context(), w.postgres, first.URL)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(t.Context()) })

	a = w.call(t.Context(), http.MethodPut, "rotate/"+w.role, nil)
	require.Equal(t, http.StatusBadRequest, a.Status)
	require.Contains(t, a.sentence(), "table public.customers (owner)")
	require.Contains(t, a.sentence(), "adopt_ownership=true")
	require.Contains(t, string(w.get("preflight/"+w.role).Data), "table public.customers (owner)")

	w.write("roles/"+w.role, map[string]any{"adopt_ownership": true})
	r := w.rotation("rotate/"+w.role, nil)
	require.Equal(t, "succeeded", r.Outcome)
	second := w.current(w.role)
	require.NoError(t, w.login(t.Context(), second.URL))
	fresh, err := connect(t.Context(), w.postgres, second.URL)
	require.NoError(t, err)
	_, err = conn.Exec(t.Context(), "ALTER TABLE customers ADD COLUMN old int")
	require.NoError(t, err, "who still holds the old credential works on")
	_, err = fresh.Exec(t.Context(), "ALTER TABLE customers ADD COLUMN new int")
	require.NoError(t, err)
	require.NoError(t, fresh.Close(t.Context()))

	w.write("retire/"+w.role, map[string]any{"version": first.Version, "force": true})
	await.Until(t, "the old user to end", func() (bool, any) {
		v := w.status(w.role).version(first.Version)
		return v.State == "retired" && v.ProvenDead, v
	})
	_, err = connect(t.Context(), w.postgres, first.URL)
	require.True(t, refused(err))
	assert.Equal(t, "false", w.postgres.MustQuery(t, w.database, "SELECT rolcanlogin::text FROM pg_roles WHERE rolname = $1", user), "it stays, and may not log in")
}

// SQL of the operator's makes and ends the users, where the connection allows it.
func TestUsersByStatements(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "statements", sharedVault(t), pgtest.Shared(t))
	statements := map[string]any{
		"creation_statements": []string{
			`CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`,
			fmt.Sprintf(`GRANT %s TO "{{name}}"`, w.group),
			fmt.Sprintf(`ALTER ROLE "{{name}}" SET role = '%s'`, w.group),
		},
		"revocation_statements": []string{`COMMENT ON DATABASE ` + w.database + ` IS '{{name}} ended {{expiration}}'`},
	}
	fields := w.roleFields(statements)
	a := w.call(t.Context(), http.MethodPut, "roles/"+w.role, fields)
	require.Equal(t, http.StatusBadRequest, a.Status)
	require.Contains(t, a.sentence(), "allow_custom_statements")

	w.superuser(fmt.Sprintf("ALTER DATABASE %s OWNER TO %s", w.database, w.admin))
	w.write("connections/main", map[string]any{"allow_custom_statements": true})
	w.write("roles/"+w.role, fields)
	first := w.current(w.role)
	require.NoError(t, w.login(t.Context(), first.URL))
	w.rotation("rotate/"+w.role, nil)
	w.write("retire/"+w.role, map[string]any{"version": 1, "force": true})
	await.Until(t, "the first user to go", func() (bool, any) {
		users := w.users(w.role)
		return len(users) == 1, users
	})
	said := w.postgres.MustQuery(t, w.database, "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()")
	require.Contains(t, said, first.Username+" ended 2")
}
