package postgresql_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/mark"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/postgresql"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

const handMade = "known to the whole team"

// byHand makes a user as people do, and what the administrator needs to change it.
func (f *fixture) byHand(name string) {
	f.t.Helper()
	user := pgtest.Ident(name)
	f.server.MustExec(f.t, "postgres", "CREATE ROLE "+user+" LOGIN PASSWORD '"+handMade+"'", "COMMENT ON ROLE "+user+" IS 'ask Ada''s team'")
	if f.major >= 16 {
		f.server.MustExec(f.t, "postgres", "GRANT "+user+" TO "+pgtest.Ident(f.admin)+" WITH ADMIN TRUE, INHERIT FALSE, SET FALSE")
	}
}

// imported is a role that takes over a user, and its first version.
func (f *fixture) imported(password string) (*rotator.Target, error) {
	f.t.Helper()
	f.role.Secrets = secret.NewMap(map[string]string{"password": password})
	defer func() { f.role.Secrets = nil }()
	require.NoError(f.t, postgresql.New().CheckRole(nil, f.role))
	require.True(f.t, postgresql.New().Imports(f.role))
	first := f.planAfter(1)
	return first, postgresql.New().Prepare(f.ctx(), first)
}

func (f *fixture) comment(user string) string {
	return f.server.MustQuery(f.t, "postgres", "SELECT coalesce(shobj_description(oid, 'pg_authid'), '') FROM pg_roles WHERE rolname = $1", user)
}

// stored is what the server knows of a user beside its comment.
func (f *fixture) stored(user string) string {
	return f.server.MustQuery(f.t, "postgres", "SELECT row(a.*)::text FROM pg_authid a WHERE rolname = $1", user)
}

func importing(t testing.TB, superuser bool, more option.Values) (*fixture, string) {
	f := newFixture(t, superuser)
	user := f.id + `_Crm."app" é`
	f.byHand(user)
	f.role.Values = option.Values{"member_of": f.group, "username": user, "username_prefix": f.id}
	for name, value := range more {
		f.role.Values[name] = value
	}
	return f, user
}

func TestTakeOverOfAUser(t *testing.T) {
	for name, superuser := range admins {
		t.Run(name, func(t *testing.T) {
			f, user := importing(t, superuser, nil)
			r := postgresql.New()
			before := f.stored(user)
			_, err := f.imported("guessed")
			require.True(t, fault.Is(err, fault.Invalid), "%v", err)
			require.ErrorContains(t, err, "password: is not that of the user")
			require.Equal(t, "ask Ada's team", f.comment(user))

			first, err := f.imported(handMade)
			require.NoError(t, err)
			require.NoError(t, r.Prepare(f.ctx(), first), "again, as after a crash")
			require.NoError(t, r.Verify(f.ctx(), first))
			require.Equal(t, before, f.stored(user), "nothing but the comment has changed")
			require.Equal(t, first.Version.RotationID, f.markOf(user).RotationID)

			for range 2 { // a role that does not come about
				progress, err := r.Discard(f.ctx(), first)
				require.NoError(t, err)
				require.Equal(t, rotator.Progress{}, progress)
				require.Equal(t, "ask Ada's team", f.comment(user))
				require.Equal(t, before, f.stored(user))
			}
			require.NoError(t, r.Prepare(f.ctx(), first))
			first.Version.State = rotation.Current

			second := f.next(2, first)
			f.accepted(first)
			f.accepted(second)
			progress, err := r.Retire(f.ctx(), history(first, second), rotator.Disable)
			require.NoError(t, err)
			require.Empty(t, progress)
			for range 2 {
				progress, err = r.Retire(f.ctx(), first, rotator.Destroy)
				require.NoError(t, err)
				require.Contains(t, progress.Left, "drop_imported")
			}
			f.refused(first)
			require.False(t, f.mayLogIn(user))

			require.Empty(t, r.Restorable(first))
			first.Version.State = rotation.Retired
			require.NoError(t, r.Prepare(f.ctx(), first), "it can come back")
			require.NoError(t, r.Verify(f.ctx(), first))

			f.role.Values["drop_imported"] = true
			progress, err = r.Retire(f.ctx(), first, rotator.Destroy)
			require.NoError(t, err)
			require.Empty(t, progress)
			require.False(t, f.exists(user))
			require.ErrorContains(t, r.Prepare(f.ctx(), first), "is gone")
			f.noPasswordsIn(f.server.Log(), second)
			require.Empty(t, linesWith(f.serverLog(), handMade))
		})
	}
}

func TestTakeOverIsRefused(t *testing.T) {
	for _, c := range []struct {
		name, statement, says string
	}{
		{"superuser", "ALTER ROLE %s SUPERUSER", "superuser"},
		{"administrator", "ALTER ROLE %s CREATEROLE", "CREATEROLE"},
		{"forged mark", "COMMENT ON ROLE %s IS 'vault-rotation:1 instance=i role=r version=1 rotation=x mac=y'", "not authentic"},
		{"may not log in", "ALTER ROLE %s NOLOGIN", "password"},
		{"gone", "DROP ROLE %s", "no user"},
		{"expires", "ALTER ROLE %s VALID UNTIL '2099-01-01'", "VALID UNTIL"},
		{"runs programs", "GRANT pg_execute_server_program TO %s", "pg_execute_server_program"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, user := importing(t, false, nil)
			f.server.MustExec(t, "postgres", fmt.Sprintf(c.statement, pgtest.Ident(user)))
			comment := ""
			if c.name != "gone" {
				comment = f.comment(user)
			}
			f.role.Secrets = secret.NewMap(map[string]string{"password": handMade})
			target := &rotator.Target{
				Role: f.role, Conn: f.conn, MarkKey: f.key, Version: rotation.Version{Number: 1, RotationID: "r", State: rotation.Pending},
				Mark: mark.Mark{Instance: "instance", Role: f.role.Name, Version: 1, RotationID: "r"},
			}
			candidate, err := postgresql.New().Plan(f.ctx(), target)
			if err == nil {
				target.Version.Identifier, target.Version.Object, target.Material = candidate.Identifier, candidate.Object, candidate.Material
				err = postgresql.New().Prepare(f.ctx(), target)
			}
			require.ErrorContains(t, err, c.says)
			if c.name != "gone" {
				require.Equal(t, comment, f.comment(user))
			}
		})
	}
}

// The first successor must be able to use all that the imported user can.
func TestSuccessorOfAnImportedUserLosesNothing(t *testing.T) {
	for name, superuser := range admins {
		t.Run(name, func(t *testing.T) {
			f, user := importing(t, superuser, nil)
			r, u, g := postgresql.New(), pgtest.Ident(user), pgtest.Ident(f.group)
			other := f.id + `_Zweite "db"`
			require.NoError(t, f.server.CreateDatabase(t.Context(), other, ""))
			team, owner := f.id+"_readers", f.id+"_owner"
			f.server.MustExec(t, f.database,
				"CREATE TABLE public.owned (id int)", "ALTER TABLE public.owned OWNER TO "+u,
				"CREATE TABLE public.granted (id int, name text)", "GRANT SELECT, UPDATE ON public.granted TO "+u, "GRANT INSERT (name) ON public.granted TO "+u,
				"CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "REVOKE EXECUTE ON FUNCTION public.f() FROM PUBLIC", "GRANT EXECUTE ON FUNCTION public.f() TO "+u,
				"CREATE SCHEMA own AUTHORIZATION "+u, "CREATE ROLE "+team, "GRANT "+team+" TO "+u,
				"ALTER TABLE public.granted ENABLE ROW LEVEL SECURITY", "CREATE POLICY mine ON public.granted TO "+u+" USING (true)",
				"ALTER DEFAULT PRIVILEGES FOR ROLE "+u+" GRANT SELECT ON TABLES TO "+team,
				"CREATE ROLE "+owner, "ALTER DEFAULT PRIVILEGES FOR ROLE "+owner+" GRANT INSERT ON TABLES TO "+u)
			if f.major >= 15 {
				f.server.MustExec(t, "postgres", "GRANT SET ON PARAMETER log_statement TO "+u)
			}
			f.server.MustExec(t, other, "CREATE SEQUENCE public.numbers", "GRANT USAGE ON SEQUENCE public.numbers TO "+u)
			first, err := f.imported(handMade)
			require.NoError(t, err)
			_, err = f.session(first, f.database).Exec(f.ctx(), "CREATE TEMP TABLE scratch (id int)") // nobody else's business
			require.NoError(t, err)
			second := f.planAfter(2, first)
			require.NoError(t, r.Prepare(f.ctx(), second))
			err = r.Verify(f.ctx(), second)
			require.True(t, fault.Is(err, fault.Conflict), "%v", err)
			require.ErrorContains(t, err, "adopt_ownership=true")
			lines, err := r.Preflight(f.ctx(), second)
			require.NoError(t, err)
			line := lines[len(lines)-1]
			require.Equal(t, rotator.Fail, line.Result)
			require.Equal(t, "rights", line.Check)
			require.Contains(t, line.Detail, "would lose")

			missing := func() string {
				lines, err := r.Preflight(f.ctx(), f.planAfter(3, first))
				require.NoError(t, err)
				return lines[len(lines)-1].Detail
			}
			seen := "" // a sentence names only the first few
			for _, c := range []struct{ says, database, mend string }{
				{"table public.owned (owner)", f.database, "ALTER TABLE public.owned OWNER TO " + g},
				{"schema own (owner)", f.database, "ALTER SCHEMA own OWNER TO " + g},
				{"table public.granted (SELECT, UPDATE)", f.database, "GRANT SELECT, UPDATE ON public.granted TO " + g},
				{"column name of table public.granted (INSERT)", f.database, "GRANT INSERT (name) ON public.granted TO " + g},
				{"function public.f() (EXECUTE)", f.database, "GRANT EXECUTE ON FUNCTION public.f() TO " + g},
				{"policy mine on table public.granted", f.database, "ALTER POLICY mine ON public.granted TO " + u + ", " + g},
				{"default privileges for its tables (SELECT to " + team + ")", f.database, "ALTER DEFAULT PRIVILEGES FOR ROLE " + g + " GRANT SELECT ON TABLES TO " + team},
				{"sequence public.numbers (USAGE) in database " + pgtest.Ident(other), other, "GRANT USAGE ON SEQUENCE public.numbers TO " + g},
				{"membership in " + team, "postgres", "GRANT " + team + " TO " + g},
				{"default privileges for tables of " + owner + " (INSERT)", f.database, "ALTER DEFAULT PRIVILEGES FOR ROLE " + owner + " GRANT INSERT ON TABLES TO " + g},
			} {
				seen += missing()
				f.server.MustExec(t, c.database, c.mend)
				require.Contains(t, seen, c.says)
				require.NotContains(t, missing(), c.says)
			}
			if f.major >= 15 {
				require.Contains(t, missing(), "parameter log_statement (SET)")
				f.server.MustExec(t, "postgres", "GRANT SET ON PARAMETER log_statement TO "+g)
			}
			require.Contains(t, missing(), "may use what the imported user may")
			require.NoError(t, r.Verify(f.ctx(), second))
		})
	}
}

func TestAdoptOwnership(t *testing.T) {
	for name, superuser := range admins {
		t.Run(name, func(t *testing.T) {
			f, user := importing(t, superuser, option.Values{"adopt_ownership": true, "drop_imported": true})
			r, u := postgresql.New(), pgtest.Ident(user)
			other := f.id + "_other"
			require.NoError(t, f.server.CreateDatabase(t.Context(), other, ""))
			for _, database := range []string{f.database, other} {
				f.server.MustExec(t, database, "CREATE SCHEMA own AUTHORIZATION "+u, "CREATE TABLE own.data (id int)", "ALTER TABLE own.data OWNER TO "+u)
				if !superuser { // who is no superuser may hand over only where the new owner could create
					f.server.MustExec(t, database, "GRANT CREATE ON DATABASE "+pgtest.Ident(database)+" TO "+pgtest.Ident(f.group))
				}
			}
			memberships := f.adminMemberships()
			first, err := f.imported(handMade)
			require.NoError(t, err)
			old := f.session(first, f.database)
			second := f.next(2, first)
			require.NoError(t, r.Prepare(f.ctx(), second), "again")
			for _, database := range []string{f.database, other} {
				require.Equal(t, f.group, f.server.MustQuery(t, database, "SELECT tableowner FROM pg_tables WHERE tablename = 'data'"))
			}
			// Both can do what an owner can.
			_, err = old.Exec(f.ctx(), "ALTER TABLE own.data ADD COLUMN old int")
			require.NoError(t, err)
			_, err = f.session(second, f.database).Exec(f.ctx(), "ALTER TABLE own.data ADD COLUMN new int")
			require.NoError(t, err)
			_, err = old.Exec(f.ctx(), "CREATE TABLE own.late (id int)")
			require.NoError(t, err)

			progress, err := r.Retire(f.ctx(), history(first, second), rotator.Destroy)
			require.NoError(t, err)
			require.Empty(t, progress.Left)
			require.False(t, f.exists(user))
			require.Equal(t, f.group, f.server.MustQuery(t, f.database, "SELECT tableowner FROM pg_tables WHERE tablename = 'late'"))
			if f.major < 16 { // the administrator's ADMIN on the user went with it
				require.Equal(t, memberships, f.adminMemberships())
			}
		})
	}
}

// takenOver is a role that took over all its standing users.
func takenOver(t *testing.T, f *fixture, names ...string) *rotator.Target {
	for _, name := range names {
		f.byHand(name)
	}
	first, err := f.imported(handMade)
	require.NoError(t, err)
	require.NoError(t, postgresql.New().Verify(f.ctx(), first))
	for _, name := range names {
		require.Equal(t, 1, f.markOf(name).Version)
	}
	return first
}

func TestTakeOverOfTwoUsers(t *testing.T) {
	for name, superuser := range admins {
		t.Run(name, func(t *testing.T) {
			f := standingFixture(t, superuser)
			names, _ := f.role.Values["usernames"].([]string)
			delete(f.role.Values, "member_of")
			r := postgresql.New()
			first := takenOver(t, f, names...)
			require.Equal(t, names[0], first.Version.Identifier)
			f.server.MustExec(t, f.database, "CREATE TABLE public.only_one (id int)", "GRANT SELECT ON public.only_one TO "+pgtest.Ident(names[0]))
			second := f.planAfter(2, first)
			require.Equal(t, names[1], second.Version.Identifier)
			require.NoError(t, r.Prepare(f.ctx(), second))
			require.ErrorContains(t, r.Verify(f.ctx(), second), "table public.only_one (SELECT)")
			f.server.MustExec(t, f.database, "GRANT SELECT ON public.only_one TO "+pgtest.Ident(names[1]))
			require.NoError(t, r.Verify(f.ctx(), second))
			f.accepted(first)
			history(first, second).Fence = 3
			first.Version.State = rotation.Retiring
			_, err := r.Retire(f.ctx(), first, rotator.Destroy)
			require.NoError(t, err)
			f.refused(first)
			f.accepted(second)
			third := f.next(4, first, second)
			require.Equal(t, names[0], third.Version.Identifier)
			f.accepted(second)
		})
	}
}

// What leaked with one of two users leaked with both.
func TestTwoUsersThatWereTakenOverEndTogether(t *testing.T) {
	for name, superuser := range admins {
		t.Run(name, func(t *testing.T) {
			f := standingFixture(t, superuser)
			names, _ := f.role.Values["usernames"].([]string)
			r := postgresql.New()
			first := takenOver(t, f, names...)
			proof, err := r.Probe(f.ctx(), first)
			require.NoError(t, err)
			require.False(t, proof.Dead)
			f.server.MustExec(t, "postgres", "ALTER ROLE "+pgtest.Ident(names[0])+" NOLOGIN PASSWORD NULL")
			proof, err = r.Probe(f.ctx(), first)
			require.NoError(t, err)
			require.False(t, proof.Dead, "the other one still has the password")
			first.Fence = 2
			_, err = r.Retire(f.ctx(), first, rotator.Disable)
			require.NoError(t, err)
			for _, name := range names {
				require.False(t, f.mayLogIn(name))
			}
			proof, err = r.Probe(f.ctx(), first)
			require.NoError(t, err)
			require.True(t, proof.Dead, proof.Result)
			f.next(3, first)
		})
	}
}

func TestTakeOverInPlace(t *testing.T) {
	for name, superuser := range admins {
		t.Run(name, func(t *testing.T) {
			f := inPlaceFixture(t, superuser)
			user := f.id + "_only"
			r := postgresql.New()
			first := takenOver(t, f, user)
			f.server.MustExec(t, f.database, "CREATE TABLE public.own (id int)", "ALTER TABLE public.own OWNER TO "+pgtest.Ident(user))
			second := f.planAfter(2, first)
			require.NoError(t, r.Prepare(f.ctx(), second))
			err := r.Verify(f.ctx(), second)
			require.ErrorContains(t, err, "table public.own (owner)", "it would act as the group from now on")
			require.NotContains(t, err.Error(), "adopt_ownership")
			_, err = r.Discard(f.ctx(), second)
			require.NoError(t, err)
			f.accepted(first)

			delete(f.role.Values, "member_of")
			third := f.next(3, first)
			f.refused(first)
			f.accepted(third)
		})
	}
}

func TestAdoptOwnershipOfANoInheritUser(t *testing.T) {
	f, user := importing(t, false, option.Values{"adopt_ownership": true})
	f.server.MustExec(t, f.database, "ALTER ROLE "+pgtest.Ident(user)+" NOINHERIT", "CREATE TABLE public.own (id int)", "ALTER TABLE public.own OWNER TO "+pgtest.Ident(user))
	first, err := f.imported(handMade)
	require.NoError(t, err)
	second := f.planAfter(2, first)
	err = postgresql.New().Prepare(f.ctx(), second)
	if f.major < 16 { // later servers keep it with the membership
		require.ErrorContains(t, err, "INHERIT first")
		return
	}
	require.NoError(t, err)
	_, err = f.session(first, f.database).Exec(f.ctx(), "ALTER TABLE public.own ADD COLUMN old int")
	require.NoError(t, err)
}
