package postgresql_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/postgresql"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// takeTheLock is what anybody who can log in may do: the lock needs no privilege,
// and its key is known.
const takeTheLock = "SELECT pg_advisory_lock(x'7661726f74617465'::bigint)"

// Whoever holds a leaked password cannot keep it alive by holding a lock.
func TestLockHolderIsEnded(t *testing.T) {
	for name, superuser := range admins {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, superuser)
			r := postgresql.New()
			leaked, next := f.prepared(1), f.plan(2)
			conn := f.session(leaked, "postgres")
			_, err := conn.Exec(f.ctx(), takeTheLock)
			require.NoError(t, err)

			begin := time.Now()
			err = r.Prepare(f.ctx(), next)
			require.Less(t, time.Since(begin), 15*time.Second)
			require.True(t, fault.Is(err, fault.Target), "%v", err)
			require.ErrorContains(t, err, "held by "+pgtest.Ident(leaked.Version.Identifier)+" ", "who keeps others out is named")
			require.ErrorContains(t, err, "pid ")
			require.False(t, f.exists(next.Version.Identifier))

			progress, err := r.Retire(f.ctx(), leaked, rotator.Disable)
			require.NoError(t, err)
			require.Equal(t, rotator.Progress{SessionsEnded: 1}, progress)
			require.Error(t, conn.Ping(f.ctx()))
			_, err = f.server.Connect(f.ctx(), leaked.Version.Identifier, leaked.Material["password"].Reveal(), f.database)
			require.ErrorContains(t, err, "28P01")
			require.NoError(t, r.Prepare(f.ctx(), next), "the lock is free again")
			require.NoError(t, r.Verify(f.ctx(), next))
		})
	}
}

// A user's own row, which it may lock by changing its password, is no shield.
func TestHolderOfItsOwnRowIsEnded(t *testing.T) {
	for name, superuser := range admins {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, superuser)
			leaked := f.prepared(1)
			conn := f.session(leaked, "postgres")
			for _, statement := range []string{"SET ROLE NONE", "BEGIN", "ALTER ROLE CURRENT_USER PASSWORD 'mine'"} {
				_, err := conn.Exec(f.ctx(), statement)
				require.NoError(t, err)
			}
			progress, err := postgresql.New().Retire(f.ctx(), leaked, rotator.Destroy)
			require.NoError(t, err)
			require.Equal(t, rotator.Progress{SessionsEnded: 1}, progress)
			require.False(t, f.exists(leaked.Version.Identifier))
		})
	}
}

// What can wait for the lock says so and is asked for again.
func TestDestroyWaitsForTheLock(t *testing.T) { asBoth(t, testDestroyWaitsForTheLock) }

func testDestroyWaitsForTheLock(t *testing.T, superuser bool) {
	f := newFixture(t, superuser)
	old, other := f.prepared(1), f.prepared(2)
	conn := f.session(other, "postgres")
	_, err := conn.Exec(f.ctx(), takeTheLock)
	require.NoError(t, err)
	progress, err := postgresql.New().Retire(f.ctx(), old, rotator.Destroy)
	require.NoError(t, err)
	require.Contains(t, progress.NotYet, "held by "+pgtest.Ident(other.Version.Identifier))
	require.Positive(t, progress.AskAgain)
	_, err = f.server.Connect(f.ctx(), old.Version.Identifier, old.Material["password"].Reveal(), f.database)
	require.ErrorContains(t, err, "28P01", "it is disabled")
	require.NoError(t, conn.Close(context.Background()))
	progress, err = postgresql.New().Retire(f.ctx(), old, rotator.Destroy)
	require.NoError(t, err)
	require.Equal(t, rotator.Progress{}, progress)
}

// A superuser could give a role any setting; a role's writer decides only about
// those that every user may set, whoever the administrator is.
func TestSettingsOfAnAdministrator(t *testing.T) { asBoth(t, testSettingsOfAnAdministrator) }

func testSettingsOfAnAdministrator(t *testing.T, superuser bool) {
	f := newFixture(t, superuser)
	r := postgresql.New()
	try := func(name, value string) (lines []rotator.Line, err error) {
		f.role.Values = option.Values{"member_of": f.group, "settings": map[string]string{name: value}}
		target := f.plan(1)
		err = r.Prepare(f.ctx(), target)
		lines, preErr := r.Preflight(f.ctx(), target)
		require.NoError(t, preErr)
		require.Equal(t, err == nil, f.exists(target.Version.Identifier), "nothing is made")
		return lines, err
	}
	refused := func(name, value, says string) {
		lines, err := try(name, value)
		require.True(t, fault.Is(err, fault.Invalid), "%s: %v", name, err)
		require.ErrorContains(t, err, "settings: must not set "+strings.ToLower(name)+": "+says)
		require.Equal(t, "settings", lines[1].Check)
		require.Equal(t, rotator.Fail, lines[1].Result)
		require.Equal(t, err.Error(), lines[1].Detail)
	}
	for name, value := range map[string]string{
		"session_replication_role": "replica", "Log_Statement": "none", "lo_compat_privileges": "on", "allow_system_table_mods": "on",
		"log_min_duration_statement": "-1", "shared_buffers": "1GB",
	} {
		refused(name, value, "not every user may set it")
	}
	hidden := "not every user may set it"
	if !superuser { // only superusers see that it is there
		hidden = "the server knows no such setting"
	}
	refused("dynamic_library_path", "/tmp", hidden)
	refused("session_preload_libraries", "evil", "it makes the server load code")
	refused("nonsense", "1", "the server knows no such setting")
	refused("myapp.tenant", "1", "names with a dot")
	f.values["allow_custom_statements"] = true
	f.reopen()
	refused("plpgsql.extra_errors", "all", "it belongs to an extension")
	refused("plperl.on_init", "1", "it belongs to an extension")
	refused("auto_explain.log_min_duration", "0", "it belongs to an extension")
	accepted := map[string]string{"myapp.tenant": "it", "Work_Mem": "8MB", "search_path": "public", "DateStyle": "ISO"}
	if !superuser { // PostgreSQL lets only superusers give a role a setting it does not know
		delete(accepted, "myapp.tenant")
	}
	for name, value := range accepted {
		lines, err := try(name, value)
		require.NoError(t, err, name)
		require.Equal(t, rotator.Pass, lines[1].Result)
	}
}
