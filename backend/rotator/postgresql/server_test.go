package postgresql_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/postgresql"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// A role's writer must not gain an administrator's power through a group.
func TestGroups(t *testing.T) { asBoth(t, testGroups) }

func testGroups(t *testing.T, superuser bool) {
	f := newFixture(t, superuser)
	g := func(name string) string { return f.id + "_" + name }
	s := f.server
	for name, attributes := range map[string]string{
		"super": "SUPERUSER", "creates": "CREATEROLE", "replicates": "REPLICATION", "bypasses": "BYPASSRLS", "plain": "", "login": "LOGIN",
		"of_super": "", "of_creates": "", "of_predefined": "", "of_admin": "", "deep": "",
	} {
		s.MustExec(t, "postgres", "CREATE ROLE "+g(name)+" "+attributes)
	}
	s.MustExec(t, "postgres", "GRANT "+g("super")+" TO "+g("of_super"), "GRANT "+g("creates")+" TO "+g("of_creates"), "GRANT pg_read_server_files TO "+g("of_predefined"),
		"GRANT "+f.admin+" TO "+g("of_admin"), "GRANT "+g("of_creates")+" TO "+g("deep"))
	ofAdmin := "superuser"
	if !superuser {
		ofAdmin = "own user"
		if f.major >= 16 {
			s.MustExec(t, "postgres", "GRANT "+g("plain")+", "+g("login")+" TO "+f.admin+" WITH ADMIN TRUE, INHERIT FALSE, SET FALSE")
		}
	}
	r := postgresql.New()
	for name, says := range map[string]string{
		"absent": "there is no role", "super": "is a superuser", "creates": "CREATEROLE", "replicates": "REPLICATION", "bypasses": "BYPASSRLS", "login": "login role",
		"of_super": "through membership in", "of_creates": "CREATEROLE", "of_predefined": "predefined", "of_admin": ofAdmin, "deep": "through membership in", "plain": "",
	} {
		f.role.Values = option.Values{"member_of": g(name)}
		target := f.plan(1)
		err := r.Prepare(f.ctx(), target)
		lines, preErr := r.Preflight(f.ctx(), target)
		require.NoError(t, preErr)
		last := lines[len(lines)-1]
		require.Equal(t, "group", last.Check)
		if says == "" {
			require.NoError(t, err)
			require.Equal(t, rotator.Pass, last.Result)
			_, err = r.Discard(f.ctx(), target)
			require.NoError(t, err)
			continue
		}
		require.True(t, fault.Is(err, fault.Invalid), "%s: %v", name, err)
		require.True(t, strings.HasPrefix(err.Error(), "member_of: "), "%v", err)
		require.ErrorContains(t, err, says, name)
		require.Equal(t, rotator.Fail, last.Result)
		require.Contains(t, last.Detail, says)
		require.False(t, f.exists(target.Version.Identifier), "nothing is made")
	}
	t.Run("the connection's own user", func(t *testing.T) {
		f := newFixture(t, false)
		f.server.MustExec(t, "postgres", "CREATE ROLE "+f.id+"_via", "GRANT "+f.admin+" TO "+f.id+"_via")
		f.role.Values = option.Values{"member_of": f.id + "_via"}
		require.ErrorContains(t, r.Prepare(f.ctx(), f.plan(1)), "own user")
	})
	t.Run("a login role that is named", func(t *testing.T) {
		f.values["allowed_groups"] = []string{g("login")}
		f.reopen()
		f.role.Values = option.Values{"member_of": g("login")}
		f.prepared(1)
	})
}

func TestVerifyRefuses(t *testing.T) { asBoth(t, testVerifyRefuses) }

func testVerifyRefuses(t *testing.T, superuser bool) {
	r := postgresql.New()
	f := newFixture(t, superuser)
	target := f.prepared(1)
	user := pgtest.Ident(target.Version.Identifier)

	grantor := ""
	if f.major >= 16 && !superuser { // a superuser's grants are the cluster owner's
		grantor = " GRANTED BY " + f.admin
	}
	f.server.MustExec(t, "postgres", "REVOKE "+pgtest.Ident(f.group)+" FROM "+user+grantor)
	err := r.Verify(f.ctx(), target)
	require.True(t, fault.Is(err, fault.Target), "%v", err)
	require.ErrorContains(t, err, "acts as", "a server only warns when a user may not act as its group")

	f.values["allow_custom_statements"] = true
	f.reopen()
	f.role.Values["verification_statements"] = []string{"SELECT 1", "SELECT secret FROM nowhere"}
	target = f.plan(2)
	require.NoError(t, r.Prepare(f.ctx(), target))
	err = r.Verify(f.ctx(), target)
	require.True(t, fault.Is(err, fault.Conflict), "it says nothing about the user: %v", err)
	require.ErrorContains(t, err, "verification statement 2")
	require.ErrorContains(t, err, "42P01")

	for statement, kind := range map[string]fault.Kind{
		"SELECT 1; COMMIT": fault.Conflict, "COMMIT AND CHAIN": fault.Conflict, "SELECT pg_sleep(20)": fault.Unreachable,
	} {
		f.values["statement_timeout"] = 1
		f.reopen()
		target.Conn = f.conn
		f.role.Values["verification_statements"] = []string{statement}
		err = r.Verify(f.ctx(), target)
		require.True(t, fault.Is(err, kind), "%s: %v", statement, err)
	}
	f.values["statement_timeout"] = 30
	f.reopen()
	target.Conn = f.conn

	target.Material = secret.NewMap(map[string]string{"password": "wrong"})
	require.True(t, fault.Is(r.Verify(f.ctx(), target), fault.AuthFailed))

	f.server.MustExec(t, "postgres", "REVOKE CONNECT ON DATABASE "+f.database+" FROM PUBLIC")
	target = f.plan(3)
	require.NoError(t, r.Prepare(f.ctx(), target))
	err = r.Verify(f.ctx(), target)
	require.True(t, fault.Is(err, fault.Unreachable), "it says nothing about the user: %v", err)
	require.ErrorContains(t, err, "42501")
}

func TestCheckLines(t *testing.T) {
	results := func(t *testing.T, f *fixture) map[string]rotator.Line {
		before := f.server.MustQuery(t, "postgres", "SELECT count(*)::text FROM pg_roles")
		memberships := f.adminMemberships()
		lines, err := postgresql.NewConnectionKind().Check(f.ctx(), f.conn)
		require.NoError(t, err)
		require.Equal(t, before, f.server.MustQuery(t, "postgres", "SELECT count(*)::text FROM pg_roles"), "a check leaves nothing")
		require.Equal(t, memberships, f.adminMemberships())
		out := map[string]rotator.Line{}
		for _, line := range lines {
			out[line.Check] = line
		}
		return out
	}
	for name, superuser := range admins {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, superuser)
			require.Equal(t, rotator.Warn, results(t, f)["grant"].Result)
			f.values["allowed_groups"] = []string{f.group, f.id + "_absent"}
			f.reopen()
			lines := results(t, f)
			for _, check := range []string{"login", "create", "comment", "grant " + f.group, "reassign " + f.group, "terminate"} {
				require.Equal(t, rotator.Pass, lines[check].Result, "%s: %s", check, lines[check].Detail)
			}
			require.Equal(t, rotator.Fail, lines["grant "+f.id+"_absent"].Result)
			require.Contains(t, lines, "connect")
			want := rotator.Warn
			if superuser {
				want = rotator.Pass
			}
			require.Equal(t, want, lines["statistics"].Result)
		})
	}
	t.Run("an administrator who may nothing", func(t *testing.T) {
		f := newFixture(t, false)
		f.server.MustExec(t, "postgres", "ALTER ROLE "+f.admin+" NOCREATEROLE")
		lines := results(t, f)
		require.Len(t, lines, 2)
		require.Equal(t, rotator.Fail, lines["create"].Result)
		require.Contains(t, lines["create"].Detail, "42501")
		pre, err := postgresql.New().Preflight(f.ctx(), f.plan(1))
		require.NoError(t, err)
		require.Equal(t, rotator.Fail, pre[1].Result)
	})
	t.Run("a wrong password", func(t *testing.T) {
		f := newFixture(t, false)
		f.adminPassword = "wrong-canary"
		f.reopen()
		k := postgresql.NewConnectionKind()
		err := k.Ping(f.ctx(), f.conn)
		require.True(t, fault.Is(err, fault.AuthFailed), "%v", err)
		require.NotContains(t, err.Error(), "wrong-canary")
		lines, err := k.Check(f.ctx(), f.conn)
		require.NoError(t, err)
		require.Len(t, lines, 1)
		require.Equal(t, rotator.Fail, lines[0].Result)
		err = postgresql.New().Prepare(f.ctx(), f.plan(1))
		require.True(t, fault.Is(err, fault.Target), "AuthFailed would speak of the version: %v", err)
	})
}

func TestRootRotation(t *testing.T) {
	for name, superuser := range admins {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, superuser)
			k := postgresql.NewConnectionKind()
			next, err := k.NewRoot(f.ctx(), f.config(), nil)
			require.NoError(t, err)
			require.NoError(t, k.SetRoot(f.ctx(), f.conn, next))
			require.True(t, fault.Is(k.Ping(f.ctx(), f.conn), fault.AuthFailed), "a pooled session does not hide that the password is another")
			f.adminPassword = next["password"].Reveal()
			f.reopen()
			require.NoError(t, k.Ping(f.ctx(), f.conn))
			require.Empty(t, linesWith(f.server.Log(), f.adminPassword), "the new password is in the server's log")
		})
	}
	c := &rotator.ConnectionConfig{Name: "main"}
	_, err := postgresql.NewConnectionKind().NewRoot(t.Context(), c, nil)
	require.True(t, fault.Is(err, fault.Conflict))
}

// PostgreSQL 16 and later ask for ADMIN on the group; before, CREATEROLE does.
func TestGrantRules(t *testing.T) {
	f := newFixture(t, false)
	bare := f.id + "_bare"
	f.server.MustExec(t, "postgres", "CREATE ROLE "+bare)
	f.role.Values = option.Values{"member_of": bare}
	target := f.plan(1)
	lines, err := postgresql.New().Preflight(f.ctx(), target)
	require.NoError(t, err)
	err = postgresql.New().Prepare(f.ctx(), target)
	if f.major < 16 {
		require.NoError(t, err)
		require.Equal(t, rotator.Pass, lines[len(lines)-1].Result)
		return
	}
	require.ErrorContains(t, err, "grant the group")
	require.ErrorContains(t, err, "42501")
	require.Equal(t, rotator.Fail, lines[len(lines)-1].Result)
	require.Contains(t, lines[len(lines)-1].Detail, "ADMIN")
}

func TestUnreachablePreflight(t *testing.T) {
	f := newFixture(t, true)
	f.values["connection_url"] = "postgresql://{{username}}:{{password}}@127.0.0.1:1/x?sslmode=verify-full"
	f.reopen()
	lines, err := postgresql.New().Preflight(f.ctx(), f.plan(1))
	require.NoError(t, err)
	require.Equal(t, rotator.Fail, lines[0].Result)
	require.Equal(t, "target", lines[0].Check)
}

// The optional grants of docs/postgresql.md do what it says.
func TestOptionalGrants(t *testing.T) {
	f := newFixture(t, false)
	f.server.MustExec(t, "postgres", "GRANT pg_read_all_stats TO "+f.admin)
	if f.major >= 15 {
		f.server.MustExec(t, "postgres", "GRANT SET ON PARAMETER log_statement, log_min_duration_statement, log_min_error_statement TO "+f.admin)
	}
	target := f.prepared(1)
	require.Equal(t, f.major < 15, len(linesWith(f.serverLog(), "SCRAM-SHA-256$")) > 0)
	require.NotEmpty(t, linesWith(f.serverLog(), "COMMENT ON ROLE"), "only the one statement is kept out of the log")
	f.session(target, f.database)
	require.Eventually(t, func() bool {
		uses, err := postgresql.New().InUse(f.ctx(), target)
		return err == nil && len(uses) == 1 && uses[0].ClientAddr == "127.0.0.1"
	}, 10*time.Second, 20*time.Millisecond)
}

// A connection's user can be followed by another.
func TestAnotherAdministrator(t *testing.T) {
	f := newFixture(t, false)
	target := f.prepared(1)
	successor := f.id + "_admin2"
	f.server.MustExec(t, "postgres", "CREATE ROLE "+successor+" LOGIN CREATEROLE PASSWORD '"+f.adminPassword+"'")
	if f.major >= 16 {
		f.server.MustExec(t, "postgres", "GRANT "+f.admin+" TO "+successor+" WITH ADMIN TRUE")
	}
	f.values["username"] = successor
	f.reopen()
	target.Conn = f.conn
	f.session(target, f.database)
	progress, err := postgresql.New().Retire(f.ctx(), target, rotator.Destroy)
	require.NoError(t, err)
	require.Equal(t, rotator.Progress{SessionsEnded: 1}, progress)
	require.False(t, f.exists(target.Version.Identifier))
}
