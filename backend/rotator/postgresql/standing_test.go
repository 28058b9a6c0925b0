package postgresql_test

import (
	"maps"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/mark"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/postgresql"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// standingFixture is a fixture whose role has two users that take turns, with names
// that need quotes.
func standingFixture(t testing.TB, superuser bool) *fixture {
	f := newFixture(t, superuser)
	f.role.Values = option.Values{"strategy": "alternate", "member_of": f.group, "usernames": []string{f.id + `_"Blau".ü`, f.id + "_grün"}}
	require.NoError(t, postgresql.New().CheckRole(nil, f.role))
	return f
}

// inPlaceFixture is a fixture whose role has one user.
func inPlaceFixture(t testing.TB, superuser bool) *fixture {
	f := newFixture(t, superuser)
	f.role.Values = option.Values{"strategy": "in_place", "member_of": f.group, "username": f.id + "_only"}
	require.NoError(t, postgresql.New().CheckRole(nil, f.role))
	return f
}

func (f *fixture) mayLogIn(user string) bool {
	return f.server.MustQuery(f.t, "postgres", "SELECT count(*)::text FROM pg_roles WHERE rolcanlogin AND rolname = $1", user) == "1"
}

// accepted logs in as a version's reader does.
func (f *fixture) accepted(target *rotator.Target) {
	f.t.Helper()
	conn, err := f.server.Connect(f.ctx(), target.Version.Identifier, target.Material["password"].Reveal(), f.database)
	require.NoError(f.t, err)
	require.NoError(f.t, conn.Close(f.ctx()))
}

// markOf reads the mark that a user bears.
func (f *fixture) markOf(user string) mark.Mark {
	f.t.Helper()
	m, mac, err := mark.Parse(f.server.MustQuery(f.t, "postgres", "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = $1", user))
	require.NoError(f.t, err)
	require.True(f.t, f.key.Verify(m, mac, user))
	return m
}

// history lets targets know the versions before them, the last as the current one.
func history(target *rotator.Target, versions ...*rotator.Target) *rotator.Target {
	target.Others, target.Current = nil, nil
	for i, v := range versions {
		version := v.Version
		version.State, version.ActivatedTime = rotation.Retired, v.Now
		if i == len(versions)-1 {
			version.State = rotation.Current
			target.Current = &rotator.Live{Version: version, Material: v.Material}
		}
		target.Others = append(target.Others, version)
	}
	return target
}

func TestTwoUsersTakeTurns(t *testing.T) {
	for name, superuser := range admins {
		t.Run(name, func(t *testing.T) {
			f := standingFixture(t, superuser)
			f.role.Values["connection_limit"] = 5
			f.role.Values["settings"] = map[string]string{"statement_timeout": "7s"}
			r := postgresql.New()
			first := f.next(1)
			require.NoError(t, r.Prepare(f.ctx(), first), "again, as after a crash")
			require.Equal(t, int64(1), f.markOf(first.Version.Identifier).Fence)
			second := f.next(2, first)
			require.NotEqual(t, first.Version.Identifier, second.Version.Identifier)
			f.accepted(first)
			memberships := f.adminMemberships() // from PostgreSQL 16 on ADMIN on the two that were made

			conn := f.session(first, f.database)
			first.Fence = 3
			history(first, second)
			progress, err := r.Retire(f.ctx(), first, rotator.Disable)
			require.NoError(t, err)
			require.Equal(t, rotator.Progress{SessionsEnded: 1}, progress)
			require.Error(t, conn.Ping(f.ctx()))
			progress, err = r.Retire(f.ctx(), first, rotator.Destroy)
			require.NoError(t, err)
			require.Equal(t, rotator.Progress{}, progress)
			require.True(t, f.exists(first.Version.Identifier), "it stands, and nobody may log in as it")
			f.refused(first)
			proof, err := r.Probe(f.ctx(), first)
			require.NoError(t, err)
			require.True(t, proof.Dead, proof.Result)

			third := f.next(4, first, second)
			require.Equal(t, first.Version.Identifier, third.Version.Identifier)
			f.refused(first)
			f.accepted(second)
			proof, err = r.Probe(f.ctx(), first)
			require.NoError(t, err)
			require.True(t, proof.Dead, "the user lives on with another password")

			// What served a version of its own since is not touched by an old one's end.
			first.Fence = 5
			for _, stage := range []rotator.Stage{rotator.Disable, rotator.Destroy} {
				progress, err = r.Retire(f.ctx(), first, stage)
				require.NoError(t, err)
				require.Equal(t, rotator.Progress{}, progress)
			}
			f.accepted(third)
			require.Contains(t, r.Restorable(history(first, second, third)), "served a later version")
			require.Empty(t, r.Restorable(history(second, first, third)))

			second.Fence = 6
			_, err = r.Retire(f.ctx(), second, rotator.Disable)
			require.NoError(t, err)
			f.refused(second)
			second.Fence = 7
			require.NoError(t, r.Prepare(f.ctx(), second), "the other user's last version comes back")
			require.NoError(t, r.Verify(f.ctx(), second))
			require.Equal(t, memberships, f.adminMemberships(), "the administrator's own memberships are as before")
			f.noPasswordsIn(f.server.Log(), first, second, third)
		})
	}
}

// next makes the version that follows the others, as the engine would. Its number
// is its fence too.
func (f *fixture) next(number int, before ...*rotator.Target) *rotator.Target {
	f.t.Helper()
	target := f.planAfter(number, before...)
	require.NoError(f.t, postgresql.New().Prepare(f.ctx(), target))
	require.NoError(f.t, postgresql.New().Verify(f.ctx(), target))
	return target
}

func (f *fixture) planAfter(number int, before ...*rotator.Target) *rotator.Target {
	f.t.Helper()
	f.current = nil
	target := f.planWith(number, func(t *rotator.Target) { history(t, before...).Fence = int64(number) })
	target.Version.State = rotation.Pending
	return target
}

func TestOnePasswordChangesInPlace(t *testing.T) {
	for name, superuser := range admins {
		t.Run(name, func(t *testing.T) {
			f := inPlaceFixture(t, superuser)
			r := postgresql.New()
			require.Contains(t, r.Warnings(f.role)[0], "gap")
			require.True(t, r.InPlace(f.role))
			first := f.next(1)
			second := f.next(2, first)
			require.Equal(t, first.Version.Identifier, second.Version.Identifier)
			f.refused(first)
			f.accepted(second)

			// A candidate that fails gives the password back that readers have.
			third := f.next(3, first, second)
			f.refused(second)
			for range 2 {
				progress, err := r.Discard(f.ctx(), third)
				require.NoError(t, err)
				require.Equal(t, rotator.Progress{}, progress)
			}
			f.refused(third)
			f.accepted(second)
			require.Equal(t, 2, f.markOf(second.Version.Identifier).Version)

			// What ended when its successor came has no sessions of its own to end, unless
			// it leaked: nobody can tell whose they are.
			conn := f.session(second, f.database)
			history(first, second).Fence = 4
			_, err := r.Retire(f.ctx(), first, rotator.Disable)
			require.NoError(t, err)
			require.NoError(t, conn.Ping(f.ctx()))
			first.Version.Compromised = true
			progress, err := r.Retire(f.ctx(), first, rotator.Disable)
			require.NoError(t, err)
			require.Equal(t, rotator.Progress{SessionsEnded: 1}, progress)
			require.Error(t, conn.Ping(f.ctx()))
			f.accepted(second)

			// The one that readers have, ended first in an emergency, or with the role.
			history(second).Fence = 5
			_, err = r.Retire(f.ctx(), second, rotator.Disable)
			require.NoError(t, err)
			f.refused(second)
			require.True(t, f.exists(second.Version.Identifier))
			first.Version.Compromised = false
			first.Fence = 6
			require.Empty(t, r.Restorable(first))
			require.NoError(t, r.Prepare(f.ctx(), first), "an earlier password comes back")
			require.NoError(t, r.Verify(f.ctx(), first))
		})
	}
}

// A leader that was frozen and deposed wakes up after its successor acted.
func TestDeposedLeaderChangesNothing(t *testing.T) {
	f := standingFixture(t, false)
	r := postgresql.New()
	first := f.next(1)
	second := f.next(2, first)
	first.Fence = 3
	_, err := r.Retire(f.ctx(), history(first, second), rotator.Destroy)
	require.NoError(t, err)
	third := f.next(9, first, second)
	for _, late := range []func() error{
		func() error { return r.Prepare(f.ctx(), first) },
		func() error { _, err := r.Retire(f.ctx(), first, rotator.Disable); return err },
		func() error { _, err := r.Discard(f.ctx(), first); return err },
		func() error { return r.Prepare(f.ctx(), f.planAfter(8, first, second)) },
	} {
		err := late()
		require.True(t, fault.Is(err, fault.Conflict), "%v", err)
		require.ErrorContains(t, err, "later state of this mount")
		f.accepted(third)
	}
}

// A step that was given up advances the fence too: what its process sent before comes
// late, and must not come through.
func TestWhatWasGivenUpDoesNotComeLate(t *testing.T) {
	for name, fresh := range map[string]func(testing.TB, bool) *fixture{"alternate": standingFixture, "in_place": inPlaceFixture} {
		t.Run(name, func(t *testing.T) {
			f := fresh(t, false)
			r := postgresql.New()
			first := f.next(1)
			second := first
			if name == "alternate" { // the user of the candidate exists
				second = f.next(2, first)
				history(first, second).Fence = 3
				_, err := r.Retire(f.ctx(), first, rotator.Destroy)
				require.NoError(t, err)
			}
			candidate := f.planAfter(5, second)
			given := *candidate
			given.Fence = 7
			for range 2 {
				progress, err := r.Discard(f.ctx(), &given)
				require.NoError(t, err)
				require.Empty(t, progress)
			}
			require.ErrorContains(t, r.Prepare(f.ctx(), candidate), "later state of this mount")
			f.accepted(second)
			f.refused(candidate)
		})
	}
}

func TestStandingUsersOfOthersAreNotTouched(t *testing.T) {
	f := standingFixture(t, false)
	r := postgresql.New()
	first := f.planAfter(1)
	user := first.Version.Identifier
	f.server.MustExec(t, "postgres", "CREATE ROLE "+pgtest.Ident(user)+" LOGIN PASSWORD 'theirs'")
	require.ErrorContains(t, r.Prepare(f.ctx(), first), "give its password with the role")

	other := maps.Clone(f.role.Values)
	require.NoError(t, f.server.Exec(f.ctx(), "postgres", "DROP ROLE "+pgtest.Ident(user)))
	f.next(1)
	role := *f.role
	role.Name, role.Values = "somebody-else", other
	late := f.planAfter(1)
	late.Role = &role
	require.ErrorContains(t, r.Prepare(f.ctx(), late), `it is a user of the role "`+f.role.Name)
}

func TestStandingUsersByStatements(t *testing.T) {
	for name, superuser := range admins {
		t.Run(name, func(t *testing.T) {
			f := customFixture(t, superuser, granting())
			names := []string{f.id + "_a", f.id + "_b"}
			f.role.Values = option.Values{
				"strategy": "alternate", "usernames": names,
				"creation_statements":   []string{createStatement, `GRANT SELECT ON public.report TO "{{name}}"`},
				"rotation_statements":   []string{`ALTER ROLE "{{name}}" LOGIN CONNECTION LIMIT 9 PASSWORD '{{password}}'`},
				"revocation_statements": []string{`ALTER ROLE "{{name}}" CONNECTION LIMIT 0`},
			}
			r := postgresql.New()
			require.NoError(t, r.CheckRole(nil, f.role))
			first := f.next(1)
			limit := func() string {
				return f.server.MustQuery(t, "postgres", "SELECT rolconnlimit::text FROM pg_roles WHERE rolname = $1", first.Version.Identifier)
			}
			require.Equal(t, "-1", limit())
			second := f.next(2, first)
			history(first, second).Fence = 3
			_, err := r.Retire(f.ctx(), first, rotator.Destroy)
			require.NoError(t, err)
			require.Equal(t, "0", limit())
			third := f.next(4, first, second)
			require.Equal(t, "9", limit())
			f.refused(first)
			f.accepted(third)
		})
	}
}
