package postgresql_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/mark"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/postgresql"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// counter keeps the names of tests apart: roles are shared by a whole cluster.
var counter atomic.Int64

// fixture is a role with a database, a group and an administrator of its own.
type fixture struct {
	t             testing.TB
	server        *pgtest.Server
	major         int
	id            string
	database      string
	group         string
	admin         string
	adminPassword string
	values        option.Values
	conn          rotator.Connection
	role          *rotator.Role
	key           mark.Key
	current       *rotator.Live
}

// admins are the two kinds of administrator everything has to work with. Tests that know
// one alone are about what that one may do, or about a server that is not reached.
var admins = map[string]bool{"superuser": true, "least privileged": false}

// asBoth runs a test as each of them.
func asBoth(t *testing.T, test func(t *testing.T, superuser bool)) {
	t.Helper()
	for name, superuser := range admins {
		t.Run(name, func(t *testing.T) { test(t, superuser) })
	}
}

func newFixture(t testing.TB, superuser bool) *fixture {
	t.Helper()
	return newFixtureOn(t, pgtest.Shared(t), superuser)
}

func newFixtureOn(t testing.TB, s *pgtest.Server, superuser bool) *fixture {
	t.Helper()
	id := fmt.Sprintf("t%d", counter.Add(1))
	f := &fixture{
		t: t, server: s, id: id, database: id + "_app", group: id + `_Group."odd" ü`, admin: id + "_admin", adminPassword: "admin-canary-" + id,
		key: mark.Key("0123456789abcdef0123456789abcdef"),
	}
	_, err := fmt.Sscan(s.MustQuery(t, "postgres", "SELECT (current_setting('server_version_num')::int / 10000)::text"), &f.major)
	require.NoError(t, err)
	attribute := "CREATEROLE"
	if superuser {
		attribute = "SUPERUSER"
	}
	s.MustExec(t, "postgres",
		"CREATE ROLE "+pgtest.Ident(f.group),
		"CREATE ROLE "+pgtest.Ident(f.admin)+" LOGIN "+attribute+" PASSWORD '"+f.adminPassword+"'",
		"CREATE DATABASE "+pgtest.Ident(f.database))
	if !superuser && f.major >= 16 {
		s.MustExec(t, "postgres", "GRANT "+pgtest.Ident(f.group)+" TO "+pgtest.Ident(f.admin)+" WITH ADMIN TRUE, INHERIT FALSE, SET FALSE")
	}
	s.MustExec(t, f.database, "GRANT CREATE ON SCHEMA public TO "+pgtest.Ident(f.group))
	f.values = option.Values{"connection_url": s.TemplateURL(f.database), "username": f.admin, "tls_ca": s.CAPEM()}
	f.role = &rotator.Role{Name: id + "-role", Values: option.Values{"member_of": f.group}, ConnectionValues: f.values}
	f.reopen()
	return f
}

func (f *fixture) config() *rotator.ConnectionConfig {
	return &rotator.ConnectionConfig{Name: "main", Values: f.values, Secrets: secret.NewMap(map[string]string{"password": f.adminPassword})}
}

// reopen opens the connection again, after its values were changed.
func (f *fixture) reopen() {
	f.t.Helper()
	if f.conn != nil {
		f.conn.Close()
	}
	var err error
	f.conn, err = postgresql.NewConnectionKind().Open(f.config())
	require.NoError(f.t, err)
	f.t.Cleanup(f.conn.Close)
}

func (f *fixture) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	f.t.Cleanup(cancel)
	return ctx
}

// plan makes a target with a freshly minted version.
func (f *fixture) plan(number int) *rotator.Target { return f.planWith(number, nil) }

// planWith lets Plan know what change says.
func (f *fixture) planWith(number int, change func(*rotator.Target)) *rotator.Target {
	f.t.Helper()
	version := rotation.Version{Number: number, RotationID: fmt.Sprintf("rotation-%s-%d", f.id, counter.Add(1))}
	target := &rotator.Target{
		Role: f.role, Conn: f.conn, Version: version, MarkKey: f.key, Current: f.current, Now: time.Now(),
		Mark: mark.Mark{Instance: "instance", Role: f.role.Name, Version: number, RotationID: version.RotationID},
	}
	if change != nil {
		change(target)
	}
	candidate, err := postgresql.New().Plan(f.ctx(), target)
	require.NoError(f.t, err)
	target.Version.Identifier, target.Version.Object, target.Material = candidate.Identifier, candidate.Object, candidate.Material
	return target
}

// prepared makes a version that works.
func (f *fixture) prepared(number int) *rotator.Target {
	f.t.Helper()
	target := f.plan(number)
	require.NoError(f.t, postgresql.New().Prepare(f.ctx(), target))
	require.NoError(f.t, postgresql.New().Verify(f.ctx(), target))
	return target
}

// makeCurrent lets later targets know the version as the current one.
func (f *fixture) makeCurrent(t *rotator.Target) {
	f.current = &rotator.Live{Version: t.Version, Material: t.Material}
}

// session logs in as a version.
func (f *fixture) session(t *rotator.Target, database string) *pgx.Conn {
	f.t.Helper()
	conn, err := f.server.Connect(f.ctx(), t.Version.Identifier, t.Material["password"].Reveal(), database)
	require.NoError(f.t, err)
	f.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// asUser runs statements as the login itself, not as its group.
func (f *fixture) asUser(t *rotator.Target, database string, statements ...string) {
	f.t.Helper()
	conn := f.session(t, database)
	for _, statement := range append([]string{"SET ROLE NONE"}, statements...) {
		_, err := conn.Exec(f.ctx(), statement)
		require.NoError(f.t, err, statement)
	}
	require.NoError(f.t, conn.Close(f.ctx()))
}

func (f *fixture) exists(user string) bool {
	return f.server.MustQuery(f.t, "postgres", "SELECT count(*)::text FROM pg_roles WHERE rolname = $1", user) == "1"
}

// adminMemberships lists what the administrator is a member of: acts must leave
// it as it was.
func (f *fixture) adminMemberships() string {
	options := "''"
	if f.major >= 16 {
		options = "m.inherit_option::text || m.set_option::text || m.admin_option::text || m.grantor::text"
	}
	return f.server.MustQuery(f.t, "postgres", `SELECT coalesce(string_agg(g.rolname || `+options+`, ',' ORDER BY 1), '')
		FROM (SELECT * FROM pg_auth_members m ORDER BY roleid, grantor) m JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles u ON u.oid = m.member WHERE u.rolname = $1`, f.admin)
}

// noPasswordsIn fails when the canary of a version, or of the administrator in
// what the administrator did, stands in the server's log.
func (f *fixture) noPasswordsIn(log string, targets ...*rotator.Target) {
	f.t.Helper()
	require.Empty(f.t, linesWith(f.serverLog(), f.adminPassword))
	for _, target := range targets {
		require.Empty(f.t, linesWith(log, target.Material["password"].Reveal()))
	}
}

// linesWith keeps a failing test from printing a whole log.
func linesWith(log, text string) (lines []string) {
	for line := range strings.SplitSeq(log, "\n") {
		if strings.Contains(line, text) {
			lines = append(lines, line)
		}
	}
	return lines
}

// serverLog is what the server logged for the fixture's administrator.
func (f *fixture) serverLog() string {
	return strings.Join(linesWith(f.server.Log(), f.admin+"@"), "\n")
}
