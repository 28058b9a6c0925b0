package postgresql_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/mark"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/postgresql"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

func TestLifeOfAVersion(t *testing.T) {
	for name, superuser := range admins {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, superuser)
			f.values["allow_custom_statements"] = true
			f.reopen()
			f.role.Values = map[string]any{
				"member_of": f.group, "connection_limit": 7, "username_prefix": "App.User",
				"settings":                map[string]string{"search_path": `"$user", public`, "statement_timeout": "7s", "app.tenant": "it's"},
				"verification_statements": []string{"CREATE TABLE trial (id int)", "INSERT INTO trial VALUES (1)"},
			}
			r := postgresql.New()
			if !superuser { // PostgreSQL lets only superusers give a role a setting it does not know
				delete(f.role.Values["settings"].(map[string]string), "app.tenant")
			}
			require.NoError(t, r.CheckRole(nil, f.role))
			memberships := f.adminMemberships()
			first := f.plan(1)
			require.Regexp(t, `^App\.User_v1_[a-z0-9]{8}$`, first.Version.Identifier)

			require.NoError(t, r.Prepare(f.ctx(), first))
			require.NoError(t, r.Prepare(f.ctx(), first), "again, as after a crash")
			require.NoError(t, r.Verify(f.ctx(), first))
			require.NoError(t, r.Verify(f.ctx(), first), "verification statements leave nothing")

			conn := f.session(first, f.database)
			var current, path, timeout, tenant string
			require.NoError(t, conn.QueryRow(f.ctx(), "SELECT current_user::text, current_setting('search_path'), current_setting('statement_timeout'), coalesce(current_setting('app.tenant', true), '')").
				Scan(&current, &path, &timeout, &tenant))
			require.Equal(t, []string{f.group, `"$user", public`, "7s"}, []string{current, path, timeout})
			require.Equal(t, superuser, tenant == "it's")
			require.Equal(t, "7", f.server.MustQuery(t, "postgres", "SELECT rolconnlimit::text FROM pg_roles WHERE rolname = $1", first.Version.Identifier))

			require.Eventually(t, func() bool { // the server may still see the session of Verify
				uses, err := r.InUse(f.ctx(), first)
				return err == nil && len(uses) == 1 && uses[0].Count == 1 && (uses[0].ClientAddr == "127.0.0.1" || !superuser)
			}, 10*time.Second, 20*time.Millisecond)

			second := f.prepared(2)
			f.makeCurrent(second)
			first.Current = f.current

			proof, err := r.Probe(f.ctx(), first)
			require.NoError(t, err)
			require.False(t, proof.Dead)
			require.Contains(t, proof.Result, "still accepted")

			progress, err := r.Retire(f.ctx(), first, rotator.Disable)
			require.NoError(t, err)
			require.Equal(t, rotator.Progress{SessionsEnded: 1}, progress, "a session of our own does not count")
			require.Error(t, conn.Ping(f.ctx()), "the open session was ended")

			proof, err = r.Probe(f.ctx(), first)
			require.NoError(t, err)
			require.True(t, proof.Dead)
			require.Contains(t, proof.Result, "28P01")

			require.Empty(t, r.Restorable(first))
			require.NoError(t, r.Prepare(f.ctx(), first), "a disabled one comes back")
			require.NoError(t, r.Verify(f.ctx(), first))

			for range 2 { // the second time it is gone already
				progress, err = r.Retire(f.ctx(), first, rotator.Destroy)
				require.NoError(t, err)
				require.Equal(t, rotator.Progress{}, progress)
				require.False(t, f.exists(first.Version.Identifier))
			}
			proof, err = r.Probe(f.ctx(), first)
			require.NoError(t, err)
			require.True(t, proof.Dead)
			require.Contains(t, proof.Result, "28P01")

			require.NoError(t, r.Prepare(f.ctx(), first), "a dropped one comes back from kept material")
			require.NoError(t, r.Verify(f.ctx(), first))
			progress, err = r.Discard(f.ctx(), first)
			require.NoError(t, err)
			require.Equal(t, rotator.Progress{}, progress)
			require.False(t, f.exists(first.Version.Identifier))

			progress, err = r.Discard(f.ctx(), second)
			require.NoError(t, err)
			require.Equal(t, rotator.Progress{}, progress)
			require.Equal(t, memberships, f.adminMemberships(), "the administrator's own memberships are as before")

			f.noPasswordsIn(f.server.Log(), first, second)
			if superuser {
				require.Empty(t, linesWith(f.serverLog(), "SCRAM-SHA-256$"), "a superuser keeps even the verifier out of the log")
			}
		})
	}
}

// What a user owns goes to its group, in every database, and nothing is lost.
func TestDestroyHandsOver(t *testing.T) {
	for name, superuser := range admins {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, superuser)
			other := f.id + ` Other "db"`
			databases := []string{f.database, other, "postgres", f.id + "_Größe", f.id + ".dots"}
			for _, database := range append(databases[3:], other) {
				require.NoError(t, f.server.CreateDatabase(t.Context(), database, ""))
			}
			memberships := f.adminMemberships()
			first := f.prepared(1)
			user := pgtest.Ident(first.Version.Identifier)
			for _, database := range databases {
				// A user can only own a schema where its group may create one.
				f.server.MustExec(t, database, "GRANT CREATE ON DATABASE "+pgtest.Ident(database)+" TO "+pgtest.Ident(f.group))
				f.server.MustExec(t, database, "CREATE SCHEMA "+pgtest.Ident(f.id+"_s")+" AUTHORIZATION "+user,
					"ALTER DEFAULT PRIVILEGES FOR ROLE "+user+" GRANT SELECT ON TABLES TO PUBLIC")
				f.asUser(first, database, "CREATE TABLE "+pgtest.Ident(f.id+"_s")+".t AS SELECT 42 AS answer",
					"CREATE FUNCTION "+pgtest.Ident(f.id+"_s")+".f() RETURNS int LANGUAGE sql AS 'SELECT 1'")
			}
			if superuser {
				f.server.MustExec(t, other, "CREATE TABLE granted (id int)", "GRANT SELECT ON granted TO "+user)
			}
			f.server.MustExec(t, other, "GRANT CREATE ON DATABASE "+pgtest.Ident(other)+" TO "+user,
				"ALTER DATABASE "+pgtest.Ident(other)+" OWNER TO "+user)

			progress, err := postgresql.New().Retire(f.ctx(), first, rotator.Destroy)
			require.NoError(t, err)
			require.Equal(t, rotator.Progress{}, progress)
			require.False(t, f.exists(first.Version.Identifier))
			for _, database := range databases {
				require.Equal(t, "42"+f.group, f.server.MustQuery(t, database, "SELECT answer || (SELECT tableowner FROM pg_tables WHERE schemaname = $1) FROM "+
					pgtest.Ident(f.id+"_s")+".t", f.id+"_s"))
			}
			require.Equal(t, f.group, f.server.MustQuery(t, "postgres", "SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = $1", other))
			require.Equal(t, memberships, f.adminMemberships(), "the administrator's own memberships are as before")
		})
	}
}

func TestDestroyLeavesWhatItMustNotDrop(t *testing.T) {
	r := postgresql.New()
	owning := func(t *testing.T, superuser bool) (*fixture, *rotator.Target, string) {
		f := newFixture(t, superuser)
		other := f.id + "_other"
		require.NoError(t, f.server.CreateDatabase(t.Context(), other, ""))
		first := f.prepared(1)
		f.server.MustExec(t, other, "CREATE TABLE precious (id int)", "ALTER TABLE precious OWNER TO "+pgtest.Ident(first.Version.Identifier))
		return f, first, other
	}
	for name, superuser := range admins {
		t.Run(name+", a database that admits nobody", func(t *testing.T) {
			f, first, other := owning(t, superuser)
			f.server.MustExec(t, "postgres", "ALTER DATABASE "+other+" ALLOW_CONNECTIONS false")
			progress, err := r.Retire(f.ctx(), first, rotator.Destroy)
			require.NoError(t, err)
			require.Contains(t, progress.Left, "admits nobody")
			require.True(t, f.exists(first.Version.Identifier))
			_, err = f.server.Connect(f.ctx(), first.Version.Identifier, first.Material["password"].Reveal(), f.database)
			require.ErrorContains(t, err, "28P01", "left, but disabled")
		})
		t.Run(name+", no successor", func(t *testing.T) {
			f, first, other := owning(t, superuser)
			f.server.MustExec(t, f.database, "DROP OWNED BY "+pgtest.Ident(f.group))
			f.server.MustExec(t, "postgres", "DROP ROLE "+pgtest.Ident(f.group))
			progress, err := r.Retire(f.ctx(), first, rotator.Destroy)
			require.NoError(t, err)
			require.Contains(t, progress.Left, "no successor")
			require.Equal(t, "1", f.server.MustQuery(t, other, "SELECT count(*)::text FROM pg_tables WHERE tablename = 'precious'"))
		})
		t.Run(name+", a successor that became a superuser", func(t *testing.T) {
			f, first, _ := owning(t, superuser)
			f.server.MustExec(t, "postgres", "ALTER ROLE "+pgtest.Ident(f.group)+" SUPERUSER")
			progress, err := r.Retire(f.ctx(), first, rotator.Destroy)
			require.NoError(t, err)
			require.Contains(t, progress.Left, "superuser")
			require.True(t, f.exists(first.Version.Identifier))
		})
		t.Run(name+", a table in use", func(t *testing.T) {
			f, first, other := owning(t, superuser)
			conn, err := f.server.Connect(f.ctx(), pgtest.Superuser, f.server.SuperuserPassword(), other)
			require.NoError(t, err)
			_, err = conn.Exec(f.ctx(), "BEGIN")
			require.NoError(t, err)
			_, err = conn.Exec(f.ctx(), "SELECT * FROM precious")
			require.NoError(t, err)
			progress, err := r.Retire(f.ctx(), first, rotator.Destroy)
			require.NoError(t, err)
			require.Contains(t, progress.NotYet, "in use")
			require.Positive(t, progress.AskAgain)
			require.NoError(t, conn.Close(f.ctx()))
			progress, err = r.Retire(f.ctx(), first, rotator.Destroy)
			require.NoError(t, err)
			require.Equal(t, rotator.Progress{}, progress)
			require.False(t, f.exists(first.Version.Identifier))
		})
	}
	for name, superuser := range admins {
		t.Run(name+", a prepared transaction", func(t *testing.T) {
			f := newFixture(t, superuser)
			first := f.prepared(1)
			f.asUser(first, f.database, "BEGIN", "SELECT pg_advisory_xact_lock(1)", "PREPARE TRANSACTION '"+f.id+"'")
			progress, err := r.Retire(f.ctx(), first, rotator.Destroy)
			require.NoError(t, err)
			require.Contains(t, progress.NotYet, "prepared transactions")
			f.server.MustExec(t, f.database, "ROLLBACK PREPARED '"+f.id+"'")
			progress, err = r.Retire(f.ctx(), first, rotator.Destroy)
			require.NoError(t, err)
			require.Equal(t, rotator.Progress{}, progress)
		})
	}
	t.Run("what others granted to the user itself", func(t *testing.T) {
		f := newFixture(t, false)
		first := f.prepared(1)
		f.server.MustExec(t, f.database, "CREATE TABLE theirs (id int)", "GRANT SELECT ON theirs TO "+pgtest.Ident(first.Version.Identifier))
		progress, err := r.Retire(f.ctx(), first, rotator.Destroy)
		require.NoError(t, err)
		require.Contains(t, progress.Left, "granted to it")
		require.Contains(t, progress.Left, f.database)
	})
	t.Run("what others granted in many databases", func(t *testing.T) {
		f := newFixture(t, false)
		first := f.prepared(1)
		for i := range 10 { // each name takes its full length
			name := f.id + strings.Repeat("x", 58-len(f.id)) + "_" + string(rune('a'+i))
			require.NoError(t, f.server.CreateDatabase(t.Context(), name, ""))
			f.server.MustExec(t, name, "CREATE TABLE theirs (id int)", "GRANT SELECT ON theirs TO "+pgtest.Ident(first.Version.Identifier))
		}
		progress, err := r.Retire(f.ctx(), first, rotator.Destroy)
		require.NoError(t, err)
		require.Contains(t, progress.Left, "granted to it")
		require.Less(t, len(progress.Left), 510)
	})
	t.Run("a database that does not let the administrator in", func(t *testing.T) {
		f, first, other := owning(t, false)
		f.server.MustExec(t, "postgres", "REVOKE CONNECT ON DATABASE "+other+" FROM PUBLIC")
		progress, err := r.Retire(f.ctx(), first, rotator.Destroy)
		require.NoError(t, err)
		require.Contains(t, progress.Left, "does not admit")
	})
}

func TestRetireEndsManySessions(t *testing.T) {
	for name, superuser := range admins {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, superuser)
			first := f.prepared(1)
			for range 200 {
				f.session(first, f.database)
			}
			progress, err := postgresql.New().Retire(f.ctx(), first, rotator.Disable)
			require.NoError(t, err)
			require.Equal(t, 200, progress.SessionsEnded)
			require.Equal(t, "0", f.server.MustQuery(t, "postgres", "SELECT count(*)::text FROM pg_stat_activity WHERE usename = $1", first.Version.Identifier))
		})
	}
}

// A user of the right name that is not the version's own is never touched.
func TestForeignUsers(t *testing.T) { asBoth(t, testForeignUsers) }

func testForeignUsers(t *testing.T, superuser bool) {
	r := postgresql.New()
	cases := map[string]func(f *fixture, target *rotator.Target) string{
		"unmarked": func(*fixture, *rotator.Target) string { return "NULL" },
		"forged":   func(_ *fixture, target *rotator.Target) string { return "'" + forge(target) + "'" },
		"another rotation": func(f *fixture, target *rotator.Target) string {
			m := target.Mark
			m.RotationID = "another"
			return "'" + f.key.Sign(m, target.Version.Identifier) + "'"
		},
		"a mark copied from another user": func(f *fixture, target *rotator.Target) string {
			return "'" + f.key.Sign(target.Mark, "somebody_else") + "'"
		},
	}
	for name, comment := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, superuser)
			target := f.plan(1)
			user := pgtest.Ident(target.Version.Identifier)
			f.server.MustExec(t, "postgres", "CREATE ROLE "+user+" LOGIN PASSWORD 'pw'", "COMMENT ON ROLE "+user+" IS "+comment(f, target))
			require.True(t, fault.Is(r.Prepare(f.ctx(), target), fault.Conflict))
			for _, stage := range []rotator.Stage{rotator.Disable, rotator.Destroy} {
				_, err := r.Retire(f.ctx(), target, stage)
				require.True(t, fault.Is(err, fault.Conflict), "%v", err)
			}
			progress, err := r.Discard(f.ctx(), target)
			require.NoError(t, err)
			require.Contains(t, progress.Left, "not touched")
			conn, err := f.server.Connect(f.ctx(), target.Version.Identifier, "pw", f.database)
			require.NoError(t, err, "the user is as it was")
			require.NoError(t, conn.Close(f.ctx()))
		})
	}
	t.Run("superusers and the connection's own user, even with our mark", func(t *testing.T) {
		f := newFixture(t, superuser)
		for _, victim := range []string{f.id + "_super", f.admin} {
			target := f.plan(1)
			target.Version.Identifier = victim
			if victim != f.admin {
				f.server.MustExec(t, "postgres", "CREATE ROLE "+victim+" SUPERUSER LOGIN")
			}
			f.server.MustExec(t, "postgres", "COMMENT ON ROLE "+victim+" IS '"+f.key.Sign(target.Mark, victim)+"'")
			_, err := r.Retire(f.ctx(), target, rotator.Destroy)
			require.True(t, fault.Is(err, fault.Conflict), "%v", err)
			require.Equal(t, "true", f.server.MustQuery(t, "postgres", "SELECT rolcanlogin::text FROM pg_roles WHERE rolname = $1", victim))
		}
	})
}

// forge is a mark whose MAC was made with another key.
func forge(t *rotator.Target) string {
	return mark.Key("another key").Sign(t.Mark, t.Version.Identifier)
}

func TestSurvey(t *testing.T) { asBoth(t, testSurvey) }

func testSurvey(t *testing.T, superuser bool) {
	f := newFixture(t, superuser)
	first, second := f.prepared(1), f.prepared(2)
	f.server.MustExec(t, "postgres", "COMMENT ON ROLE "+pgtest.Ident(second.Version.Identifier)+" IS '"+f.key.Sign(first.Mark, first.Version.Identifier)+"'")
	elsewhere := f.id + "_elsewhere"
	f.server.MustExec(t, "postgres", "CREATE ROLE "+elsewhere, "COMMENT ON ROLE "+elsewhere+" IS '"+forge(first)+"'")
	// Whoever may write comments may write long ones: they are not even fetched.
	huge := f.id + "_huge"
	m := first.Mark
	m.Instance = strings.Repeat("x", 1<<20)
	f.server.MustExec(t, "postgres", "CREATE ROLE "+huge+" IN ROLE "+pgtest.Ident(f.group), "COMMENT ON ROLE "+huge+" IS '"+f.key.Sign(m, huge)+"'")
	sightings, err := postgresql.New().Survey(f.ctx(), first)
	require.NoError(t, err)
	require.ElementsMatch(t, []rotator.Sighting{
		{Mark: first.Mark, Identifier: first.Version.Identifier, Authentic: true},
		{Mark: first.Mark, Identifier: second.Version.Identifier},
	}, sightings, "another mount's users count only where they act as the same group")

	// A crowd of others hides neither what the journal knows nor what else is ours.
	f.server.MustExec(t, "postgres", "COMMENT ON ROLE "+pgtest.Ident(second.Version.Identifier)+" IS '"+f.key.Sign(second.Mark, second.Version.Identifier)+"'",
		fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..1001 LOOP
			EXECUTE format('CREATE ROLE %%I', '%[1]s_!' || i);
			EXECUTE format('COMMENT ON ROLE %%I IS %%L', '%[1]s_!' || i, '%[2]s');
		END LOOP; END $$`, f.id, strings.Replace(forge(first), "instance="+first.Mark.Instance, "instance=another", 1)))
	for name, journal := range map[string][]rotation.Version{"known": {first.Version, second.Version}, "of this mount": nil} {
		first.Others = journal
		sightings, err = postgresql.New().Survey(f.ctx(), first)
		require.NoError(t, err)
		require.ElementsMatch(t, []string{first.Version.Identifier, second.Version.Identifier}, identifiers(sightings), name)
	}
}

func identifiers(sightings []rotator.Sighting) (names []string) {
	for _, s := range sightings {
		names = append(names, s.Identifier)
	}
	return names
}

func TestProbeProvesNothing(t *testing.T) { asBoth(t, testProbeProvesNothing) }

func testProbeProvesNothing(t *testing.T, superuser bool) {
	r := postgresql.New()
	f := newFixture(t, superuser)
	first, second := f.prepared(1), f.prepared(2)
	_, err := r.Retire(f.ctx(), first, rotator.Destroy)
	require.NoError(t, err)

	proof, err := r.Probe(f.ctx(), first)
	require.NoError(t, err)
	require.True(t, proof.Dead, "without a current version the administrator is the witness")
	require.Contains(t, proof.Result, f.admin)

	first.Current = &rotator.Live{Version: second.Version, Material: first.Material}
	_, err = r.Probe(f.ctx(), first)
	require.True(t, fault.Is(err, fault.Target), "when the current one is refused too: %v", err)

	first.Material = nil
	_, err = r.Probe(f.ctx(), first)
	require.True(t, fault.Is(err, fault.Conflict), "without its password: %v", err)
	require.NotEmpty(t, r.Restorable(first))

	// pg_hba.conf refuses before the password is looked at.
	require.NoError(t, f.server.SetHBA(f.ctx(), "host all "+second.Version.Identifier+" all reject"))
	t.Cleanup(func() { require.NoError(t, f.server.SetHBA(f.ctx())) })
	second.Current = f.current
	second.Current = &rotator.Live{Version: second.Version, Material: second.Material}
	_, err = r.Probe(f.ctx(), second)
	require.True(t, fault.Is(err, fault.Unreachable), "%v", err)
	require.ErrorContains(t, err, "28000")
}

func TestRetireWithAnUnreachableServer(t *testing.T) {
	f := newFixture(t, true)
	f.values["connection_url"] = "postgresql://{{username}}:{{password}}@127.0.0.1:1/x?sslmode=verify-full"
	f.reopen()
	target := f.plan(1)
	start := time.Now()
	require.True(t, fault.Is(postgresql.New().Prepare(f.ctx(), target), fault.Unreachable))
	_, err := postgresql.New().Retire(f.ctx(), target, rotator.Destroy)
	require.True(t, fault.Is(err, fault.Unreachable), "%v", err)
	require.Less(t, time.Since(start), 15*time.Second)
	var raw *pgconn.ConnectError
	require.NotErrorAs(t, err, &raw, "the driver's error, which carries the password, does not leave")
}
