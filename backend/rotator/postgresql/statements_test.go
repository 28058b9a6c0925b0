package postgresql_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/postgresql"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

const createStatement = `CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`

// customFixture is a fixture whose role makes its users by statements, with a table
// that the administrator owns.
func customFixture(t testing.TB, superuser bool, values option.Values) *fixture {
	f := newFixture(t, superuser)
	f.values["allow_custom_statements"] = true
	f.reopen()
	f.server.MustExec(t, f.database, "CREATE TABLE public.report (id int)", "ALTER TABLE public.report OWNER TO "+pgtest.Ident(f.admin))
	f.role.Values = values
	require.NoError(t, postgresql.New().CheckRole(nil, f.role))
	return f
}

func granting() option.Values {
	return option.Values{"creation_statements": []string{createStatement, `GRANT SELECT ON public.report TO "{{name}}"`}}
}

func (f *fixture) refused(target *rotator.Target) {
	f.t.Helper()
	_, err := f.server.Connect(f.ctx(), target.Version.Identifier, target.Material["password"].Reveal(), f.database)
	require.ErrorContains(f.t, err, "28P01")
}

func TestLifeByStatements(t *testing.T) {
	for name, superuser := range admins {
		t.Run(name, func(t *testing.T) {
			values := granting()
			values["rotation_statements"] = []string{`ALTER ROLE "{{name}}" LOGIN CONNECTION LIMIT 9 PASSWORD '{{password}}'`}
			values["revocation_statements"] = []string{
				`REVOKE ALL ON public.report FROM "{{name}}"`, `SET search_path = public`,
				`COMMENT ON TABLE report IS '{{name}} until {{expiration}}'`,
			}
			f := customFixture(t, superuser, values)
			r := postgresql.New()
			memberships := f.adminMemberships()
			lines, err := r.Preflight(f.ctx(), f.plan(1))
			require.NoError(t, err)
			for _, line := range lines {
				require.Equal(t, rotator.Pass, line.Result, line.Detail)
			}

			first := f.prepared(1)
			require.NoError(t, r.Prepare(f.ctx(), first), "again, as after a crash")
			require.NoError(t, r.Verify(f.ctx(), first))
			conn := f.session(first, f.database)
			var n int
			var user string
			require.NoError(t, conn.QueryRow(f.ctx(), "SELECT count(*), current_user::text FROM public.report").Scan(&n, &user))
			require.Equal(t, first.Version.Identifier, user)
			require.Equal(t, "infinity", f.server.MustQuery(t, "postgres", "SELECT rolvaliduntil::text FROM pg_roles WHERE rolname = $1", user))

			second := f.prepared(2)
			f.makeCurrent(second)
			first.Current = f.current
			progress, err := r.Retire(f.ctx(), first, rotator.Disable)
			require.NoError(t, err)
			require.Equal(t, 1, progress.SessionsEnded)
			f.refused(first)
			require.Empty(t, r.Restorable(first))
			require.NoError(t, r.Prepare(f.ctx(), first), "a disabled one comes back")
			require.NoError(t, r.Verify(f.ctx(), first))
			require.Equal(t, "9", f.server.MustQuery(t, "postgres", "SELECT rolconnlimit::text FROM pg_roles WHERE rolname = $1", user), "by rotation_statements")

			first.Version.RetireBegun = time.Date(2026, 5, 4, 3, 2, 1, 0, time.FixedZone("", 7200))
			for range 2 { // the second time it is gone already
				progress, err = r.Retire(f.ctx(), first, rotator.Destroy)
				require.NoError(t, err)
				require.Equal(t, rotator.Progress{}, progress)
				require.False(t, f.exists(user))
			}
			require.Equal(t, user+" until 2026-05-04 01:02:01+00", f.server.MustQuery(t, f.database, "SELECT obj_description('public.report'::regclass)"))

			require.NoError(t, r.Prepare(f.ctx(), first), "a dropped one comes back from kept material")
			require.NoError(t, r.Verify(f.ctx(), first))
			for _, target := range []*rotator.Target{first, second} {
				progress, err = r.Discard(f.ctx(), target)
				require.NoError(t, err)
				require.Equal(t, rotator.Progress{}, progress)
				require.False(t, f.exists(target.Version.Identifier))
			}
			require.Equal(t, memberships, f.adminMemberships())
			f.noPasswordsIn(f.server.Log(), first, second)
			if superuser {
				require.Empty(t, linesWith(f.serverLog(), "SCRAM-SHA-256$"))
			}

			f.role.Values = option.Values{"member_of": f.group}
			require.Contains(t, r.Restorable(first), "which the role no longer has")
			require.True(t, fault.Is(r.Prepare(f.ctx(), first), fault.Conflict))
		})
	}
}

// Statements that would do harm change nothing, not even together with good ones.
func TestHostileStatements(t *testing.T) {
	for name, superuser := range admins {
		t.Run(name, func(t *testing.T) {
			f := customFixture(t, superuser, granting())
			r := postgresql.New()
			try := func(says string, statements ...string) {
				t.Helper()
				f.role.Values = option.Values{"creation_statements": statements}
				target := f.plan(1)
				err := r.Prepare(f.ctx(), target)
				require.ErrorContains(t, err, says, "%v", statements)
				require.NotContains(t, err.Error(), "SCRAM-SHA-256$")
				require.False(t, f.exists(target.Version.Identifier), "%v", statements)
			}
			try("must not begin or end a transaction", createStatement, "/**/ COMMIT")
			try("must not begin or end a transaction", createStatement, "COMMIT AND CHAIN")
			try("42601", createStatement, "SELECT 1; COMMIT")
			try("statement 2", createStatement, "DO $$ BEGIN COMMIT; END $$")
			try("{{nonsense}}", createStatement, "SELECT '{{nonsense}}'")
			try("do not make the user", `CREATE ROLE "other_`+f.id+`_{{name}}" PASSWORD '{{password}}'`)
			require.Equal(t, "0", f.server.MustQuery(t, "postgres", "SELECT count(*)::text FROM pg_roles WHERE rolname LIKE $1", "other_"+f.id+"%"))
			try("statement 2", createStatement, `SELECT 1/0 -- {{name}}`)
			try("statement 2", createStatement, `ALTER ROLE "{{password}}" LOGIN`)
			if superuser {
				try("SUPERUSER, CREATEROLE", createStatement, `ALTER ROLE "{{name}}" SUPERUSER`)
				try("through membership in "+pgtest.Ident(f.admin), createStatement, `GRANT `+pgtest.Ident(f.admin)+` TO "{{name}}"`)
				// What poses as the server's own tables is not looked at.
				try("SUPERUSER, CREATEROLE", createStatement, `ALTER ROLE "{{name}}" SUPERUSER`,
					"CREATE TEMP TABLE pg_roles AS SELECT oid, rolname, false AS rolsuper, rolcanlogin, rolcreaterole, rolreplication, rolbypassrls FROM pg_catalog.pg_roles")
			} else {
				try("statement 2", createStatement, `ALTER ROLE "{{name}}" SUPERUSER`)
			}
			f.values["allow_custom_statements"] = false
			f.reopen()
			try("need allow_custom_statements", createStatement)
			f.values["allow_custom_statements"] = true
			f.reopen()

			// What only the session remembers is gone after it.
			f.role.Values = option.Values{"creation_statements": []string{
				createStatement, "SET search_path = public", "SET statement_timeout = 1000", "RESET statement_timeout", `GRANT "{{name}}" TO CURRENT_USER`, `SET ROLE "{{name}}"`,
			}}
			target := f.prepared(2)
			f.role.Values = granting()
			next := f.prepared(3)
			for _, t2 := range []*rotator.Target{target, next} {
				progress, err := r.Retire(f.ctx(), t2, rotator.Destroy)
				require.NoError(t, err)
				require.Equal(t, rotator.Progress{}, progress)
			}
		})
	}
}

// Without a group, what a user owns is handed over by revocation_statements or by a
// person.
func TestOwnerWithoutGroup(t *testing.T) {
	for name, superuser := range admins {
		t.Run(name, func(t *testing.T) {
			f := customFixture(t, superuser, granting())
			f.server.MustExec(t, f.database, "GRANT CREATE ON SCHEMA public TO PUBLIC")
			r := postgresql.New()
			target := f.prepared(1)
			f.asUser(target, f.database, "CREATE TABLE public.mine AS SELECT 1 AS id")
			progress, err := r.Retire(f.ctx(), target, rotator.Destroy)
			require.NoError(t, err)
			require.Contains(t, progress.Left, "revocation_statements")
			require.True(t, f.exists(target.Version.Identifier))
			f.refused(target)

			f.role.Values["revocation_statements"] = []string{`REASSIGN OWNED BY "{{name}}" TO CURRENT_USER`, `DROP OWNED BY "{{name}}"`, `DROP ROLE "{{name}}"`}
			progress, err = r.Retire(f.ctx(), target, rotator.Destroy)
			require.NoError(t, err)
			require.Equal(t, rotator.Progress{}, progress)
			require.False(t, f.exists(target.Version.Identifier))
			require.Equal(t, "1", f.server.MustQuery(t, f.database, "SELECT count(*)::text FROM public.mine"))
		})
	}
}

// losesCommits is a network on which the answer to the n-th commit from now is lost.
type losesCommits struct{ n atomic.Int64 }

type losingConn struct {
	net.Conn
	network *losesCommits
	lost    atomic.Bool
}

func (l *losesCommits) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	return &losingConn{Conn: conn, network: l}, err
}

func (c *losingConn) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("commit\x00")) && c.network.n.Add(-1) == 0 {
		c.lost.Store(true)
	}
	return c.Conn.Write(p)
}

func (c *losingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.lost.Load() {
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

// A user whose commit was not answered is found by its mark and is complete; one
// whose end was not answered, at whichever commit, is ended again.
func TestStatementsAnswerLost(t *testing.T) { asBoth(t, testStatementsAnswerLost) }

func testStatementsAnswerLost(t *testing.T, superuser bool) {
	values := granting()
	values["revocation_statements"] = []string{`REVOKE ALL ON public.report FROM "{{name}}"`}
	f := customFixture(t, superuser, values)
	r := postgresql.New()
	var network losesCommits
	f.values["connection_url"] = strings.Replace(f.server.TemplateURL(f.database), "verify-full", "disable", 1)
	delete(f.values, "tls_ca")
	var err error
	f.conn, err = (&postgresql.ConnectionKind{Dial: network.dial}).Open(f.config())
	require.NoError(t, err)
	t.Cleanup(f.conn.Close)

	const commitsOfAnEnd = 3 // disabling, the statements, dropping
	for n := range int64(commitsOfAnEnd) {
		target := f.plan(int(n) + 1)
		network.n.Store(1)
		err = r.Prepare(f.ctx(), target)
		require.True(t, fault.Is(err, fault.Unconfirmed), "%v", err)
		require.Eventually(t, func() bool { return f.exists(target.Version.Identifier) }, 10*time.Second, 20*time.Millisecond)
		require.NoError(t, r.Prepare(f.ctx(), target))
		require.NoError(t, r.Verify(f.ctx(), target))

		network.n.Store(n + 1)
		_, err = r.Retire(f.ctx(), target, rotator.Destroy)
		require.True(t, fault.Is(err, fault.Unconfirmed), "commit %d: %v", n+1, err)
		progress, err := r.Retire(f.ctx(), target, rotator.Destroy)
		require.NoError(t, err)
		require.Empty(t, progress.Left+progress.NotYet)
		require.False(t, f.exists(target.Version.Identifier))
	}
}

// With member_of, the statements have to make the user act as the group, and the
// group inherits what the user owns.
func TestStatementsWithGroup(t *testing.T) {
	for name, superuser := range admins {
		t.Run(name, func(t *testing.T) {
			f := customFixture(t, superuser, granting())
			r := postgresql.New()
			f.role.Values["member_of"] = f.group
			lacking := f.plan(1)
			require.NoError(t, r.Prepare(f.ctx(), lacking))
			require.ErrorContains(t, r.Verify(f.ctx(), lacking), "and not as its group")
			_, err := r.Discard(f.ctx(), lacking)
			require.NoError(t, err)

			f.role.Values["creation_statements"] = []string{
				createStatement, "GRANT " + pgtest.Ident(f.group) + ` TO "{{name}}"`, `ALTER ROLE "{{name}}" SET role = ` + pgtest.Ident(f.group),
			}
			f.server.MustExec(t, f.database, "GRANT CREATE ON SCHEMA public TO PUBLIC")
			target := f.prepared(2)
			f.asUser(target, f.database, "CREATE TABLE public.mine (id int)")
			progress, err := r.Retire(f.ctx(), target, rotator.Destroy)
			require.NoError(t, err)
			require.Empty(t, progress.Left+progress.NotYet)
			require.False(t, f.exists(target.Version.Identifier))
			require.Equal(t, f.group, f.server.MustQuery(t, f.database, "SELECT tableowner::text FROM pg_tables WHERE tablename = 'mine'"))
		})
	}
}
