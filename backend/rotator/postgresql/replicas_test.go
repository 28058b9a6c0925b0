package postgresql_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/postgresql"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// replicated is a fixture whose connection names a standby.
type replicated struct {
	*fixture
	standby *pgtest.Server
}

func newReplicated(t *testing.T, primary, standby *pgtest.Server, superuser bool) *replicated {
	t.Helper()
	f := &replicated{newFixtureOn(t, primary, superuser), standby}
	if !superuser {
		primary.MustExec(t, "postgres", "GRANT pg_signal_backend TO "+f.admin)
	}
	f.useReplicas(standby.TemplateURL(f.database))
	require.NoError(t, standby.CatchUp(t.Context(), primary))
	return f
}

func (f *replicated) useReplicas(urls ...string) {
	f.values["replica_urls"] = urls
	f.reopen()
}

// reader logs in to the standby as a version.
func (f *replicated) reader(t *rotator.Target) *pgx.Conn {
	f.t.Helper()
	conn, err := f.standby.Connect(f.ctx(), t.Version.Identifier, t.Material["password"].Reveal(), f.database)
	require.NoError(f.t, err)
	f.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// soon is a context for acts that are going to wait in vain.
func (f *replicated) soon() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	f.t.Cleanup(cancel)
	return ctx
}

// twoVersions are one that is to end, and the current one.
func (f *replicated) twoVersions() (old *rotator.Target) {
	f.t.Helper()
	old = f.prepared(1)
	f.makeCurrent(f.prepared(2))
	old.Current = f.current
	return old
}

func (f *replicated) line() rotator.Line {
	f.t.Helper()
	lines, err := postgresql.NewConnectionKind().Check(f.ctx(), f.conn)
	require.NoError(f.t, err)
	last := lines[len(lines)-1]
	require.Regexp(f.t, `^replica 127\.0\.0\.1:\d+$`, last.Check)
	return last
}

func TestReplicas(t *testing.T) {
	primary, standby := pgtest.NewPair(t)
	r := postgresql.New()
	for name, superuser := range admins {
		t.Run("a version lives and ends on both, "+name, func(t *testing.T) {
			f := newReplicated(t, primary, standby, superuser)
			line := f.line()
			require.Equal(t, rotator.Pass, line.Result, line.Detail)
			old := f.twoVersions()
			here, there := f.session(old, f.database), f.reader(old) // Verify waited until it may
			require.Eventually(t, func() bool {
				uses, err := r.InUse(f.ctx(), old)
				return err == nil && len(uses) == 1 && uses[0].Count == 2
			}, 10*time.Second, 20*time.Millisecond)

			proof, err := r.Probe(f.ctx(), old)
			require.NoError(t, err)
			require.False(t, proof.Dead)
			progress, err := r.Retire(f.ctx(), old, rotator.Disable)
			require.NoError(t, err)
			require.Equal(t, rotator.Progress{SessionsEnded: 2}, progress)
			require.Error(t, here.Ping(f.ctx()))
			require.Error(t, there.Ping(f.ctx()))
			for range 2 { // disabled, and gone
				proof, err = r.Probe(f.ctx(), old)
				require.NoError(t, err)
				require.True(t, proof.Dead, proof.Result)
				require.Contains(t, proof.Result, "a moment later, primary and 1 standby")
				progress, err = r.Retire(f.ctx(), old, rotator.Destroy)
				require.NoError(t, err)
				require.Equal(t, rotator.Progress{}, progress)
				require.False(t, f.exists(old.Version.Identifier))
			}
		})
	}
	t.Run("a leak in place, on a standby that lags", func(t *testing.T) {
		f := newReplicated(t, primary, standby, false)
		f.role.Values = option.Values{"strategy": "in_place", "member_of": f.group, "username": f.id + "_only"}
		first := f.next(1)
		there := f.reader(first)
		require.NoError(t, standby.PauseReplay(t.Context()))
		t.Cleanup(func() { require.NoError(t, standby.ResumeReplay(context.Background())) })
		second := f.planAfter(2, first)
		second.Current.Version.Compromised = true
		require.NoError(t, r.Prepare(f.ctx(), second))
		require.NoError(t, r.Verify(f.soon(), second), "what ends a leak waits for no standby")
		history(first, second).Fence = 3
		first.Version.Compromised = true
		progress, err := r.Retire(f.ctx(), first, rotator.Disable)
		require.NoError(t, err)
		require.Empty(t, progress)
		progress, err = r.Retire(f.soon(), first, rotator.Destroy)
		require.NoError(t, err)
		require.Contains(t, progress.NotYet, "has not replayed it yet")
		require.NoError(t, there.Ping(f.ctx()))
		proof, err := r.Probe(f.ctx(), first)
		require.NoError(t, err)
		require.False(t, proof.Dead)

		require.NoError(t, standby.ResumeReplay(t.Context()))
		progress, err = r.Retire(f.ctx(), first, rotator.Destroy)
		require.NoError(t, err)
		require.Equal(t, rotator.Progress{SessionsEnded: 1}, progress)
		require.Error(t, there.Ping(f.ctx()))
		proof, err = r.Probe(f.ctx(), first)
		require.NoError(t, err)
		require.True(t, proof.Dead, proof.Result)
	})
	t.Run("two users that take turns", func(t *testing.T) {
		f := newReplicated(t, primary, standby, false)
		f.role.Values = option.Values{"strategy": "alternate", "member_of": f.group, "usernames": []string{f.id + "_a", f.id + "_b"}}
		first := f.next(1)
		second := f.next(2, first)
		there := f.reader(first)
		history(first, second).Fence = 3
		for _, stage := range []rotator.Stage{rotator.Disable, rotator.Destroy} {
			progress, err := r.Retire(f.ctx(), first, stage)
			require.NoError(t, err)
			require.Empty(t, progress.NotYet)
		}
		require.Error(t, there.Ping(f.ctx()))
		third := f.next(4, first, second)
		f.reader(third) // of the same user, and nobody's business
		history(first, second, third)
		proof, err := r.Probe(f.ctx(), first)
		require.NoError(t, err)
		require.True(t, proof.Dead, proof.Result)
		require.Contains(t, proof.Result, "primary and 1 standby")
	})
	t.Run("a standby that lags", func(t *testing.T) {
		f := newReplicated(t, primary, standby, false)
		old := f.twoVersions()
		there := f.reader(old)
		require.NoError(t, standby.PauseReplay(t.Context()))
		t.Cleanup(func() { require.NoError(t, standby.ResumeReplay(context.Background())) })
		require.Contains(t, f.line().Detail, "replay is paused")

		next := f.plan(3)
		require.NoError(t, r.Prepare(f.ctx(), next))
		err := r.Verify(f.soon(), next)
		require.True(t, fault.Is(err, fault.Unreachable), "it says nothing about the version: %v", err)
		require.ErrorContains(t, err, "does not accept")
		require.ErrorContains(t, err, "28P01")
		next.Current = nil
		require.NoError(t, r.Verify(f.soon(), next), "when readers have nothing else")
		_, err = r.Retire(f.soon(), next, rotator.Disable)
		require.NoError(t, err)
		proof, err := r.Probe(f.ctx(), next)
		require.NoError(t, err)
		require.False(t, proof.Dead, "the standby refuses it because it does not know it yet")
		require.Contains(t, proof.Result, "has not replayed yet that")

		progress, err := r.Retire(f.soon(), old, rotator.Disable)
		require.NoError(t, err)
		require.Equal(t, rotator.Progress{}, progress, "what ends a leak is done when the primary refuses it")
		progress, err = r.Retire(f.soon(), old, rotator.Destroy)
		require.NoError(t, err)
		require.Contains(t, progress.NotYet, "has not replayed yet that the user was disabled")
		require.Equal(t, 5*time.Second, progress.AskAgain)
		require.True(t, f.exists(old.Version.Identifier), "its sessions on the standby could not be found without it")
		require.NoError(t, there.Ping(f.ctx()))
		proof, err = r.Probe(f.ctx(), old)
		require.NoError(t, err)
		require.False(t, proof.Dead)
		require.Contains(t, proof.Result, "still accepted by the standby")

		require.NoError(t, standby.ResumeReplay(t.Context()))
		progress, err = r.Retire(f.ctx(), old, rotator.Destroy)
		require.NoError(t, err)
		require.Equal(t, rotator.Progress{SessionsEnded: 1}, progress)
		require.Error(t, there.Ping(f.ctx()))
		proof, err = r.Probe(f.ctx(), old)
		require.NoError(t, err)
		require.True(t, proof.Dead, proof.Result)
	})
	t.Run("an administrator who may not end sessions on a standby", func(t *testing.T) {
		f := newReplicated(t, primary, standby, false)
		primary.MustExec(t, "postgres", "REVOKE pg_signal_backend FROM "+f.admin)
		old := f.twoVersions()
		there := f.reader(old)
		grant := "GRANT pg_signal_backend TO " + pgtest.Ident(f.admin)
		line := f.line()
		require.Equal(t, rotator.Fail, line.Result)
		require.Contains(t, line.Detail, grant)
		progress, err := r.Retire(f.ctx(), old, rotator.Destroy)
		require.NoError(t, err)
		require.Contains(t, progress.NotYet, grant)
		require.Equal(t, time.Minute, progress.AskAgain)
		proof, err := r.Probe(f.ctx(), old)
		require.NoError(t, err)
		require.False(t, proof.Dead)
		require.Contains(t, proof.Result, "1 sessions of")

		primary.MustExec(t, "postgres", grant)
		require.NoError(t, standby.CatchUp(t.Context(), primary))
		progress, err = r.Retire(f.ctx(), old, rotator.Destroy)
		require.NoError(t, err)
		require.Equal(t, rotator.Progress{SessionsEnded: 1}, progress)
		require.Error(t, there.Ping(f.ctx()))
	})
	t.Run("the primary itself, and a server of another cluster", func(t *testing.T) {
		f := newReplicated(t, primary, standby, true)
		f.useReplicas(primary.TemplateURL(f.database))
		line := f.line()
		require.Equal(t, rotator.Warn, line.Result)
		require.Contains(t, line.Detail, "is not in recovery")
		old := f.twoVersions()
		f.session(old, f.database)
		require.Eventually(t, func() bool {
			uses, err := r.InUse(f.ctx(), old)
			return err == nil && len(uses) == 1 && uses[0].Count == 1
		}, 10*time.Second, 20*time.Millisecond, "it counts once")
		_, err := r.Retire(f.ctx(), old, rotator.Destroy)
		require.NoError(t, err)
		proof, err := r.Probe(f.ctx(), old)
		require.NoError(t, err)
		require.Contains(t, proof.Result, "primary only")

		other := pgtest.New(t)
		other.MustExec(t, "postgres", "CREATE ROLE "+f.admin+" SUPERUSER LOGIN PASSWORD '"+f.adminPassword+"'", "CREATE DATABASE "+f.database)
		f.useReplicas(other.TemplateURL(f.database))
		f.values["tls_ca"] = primary.CAPEM() + other.CAPEM()
		f.reopen()
		line = f.line()
		require.Equal(t, rotator.Fail, line.Result)
		require.Contains(t, line.Detail, "another cluster")
	})
	t.Run("a standby that is away", func(t *testing.T) {
		f := newReplicated(t, primary, standby, true)
		old := f.twoVersions()
		standby.Halt()
		line := f.line()
		require.Equal(t, rotator.Fail, line.Result)
		lines, err := r.Preflight(f.ctx(), old)
		require.NoError(t, err)
		require.Equal(t, rotator.Warn, lines[len(lines)-1].Result, "it stops no rotation")
		f.prepared(3) // nor does Verify

		_, err = r.InUse(f.ctx(), old)
		require.True(t, fault.Is(err, fault.Unreachable), "%v", err)
		progress, err := r.Retire(f.ctx(), old, rotator.Disable)
		require.NoError(t, err)
		require.Equal(t, rotator.Progress{}, progress)
		progress, err = r.Retire(f.ctx(), old, rotator.Destroy)
		require.NoError(t, err)
		require.Contains(t, progress.NotYet, "take it out of replica_urls")
		_, err = r.Probe(f.ctx(), old)
		require.True(t, fault.Is(err, fault.Unreachable), "%v", err)
		require.ErrorContains(t, err, "take it out of replica_urls")

		f.useReplicas()
		old.Conn = f.conn
		progress, err = r.Retire(f.ctx(), old, rotator.Destroy)
		require.NoError(t, err)
		require.Equal(t, rotator.Progress{}, progress)
		proof, err := r.Probe(f.ctx(), old)
		require.NoError(t, err)
		require.True(t, proof.Dead)
		require.Contains(t, proof.Result, "a moment later, primary only")
	})
}

// Several hosts: the one that may be written to is found, also after a failover, and
// also when a standby that lags is tried first.
func TestFailover(t *testing.T) {
	primary, standby := pgtest.NewPair(t)
	f := newReplicated(t, primary, standby, false)
	r := postgresql.New()
	f.values["connection_url"] = "host=127.0.0.1,127.0.0.1 port=" + strconv.Itoa(standby.Port()) + "," + strconv.Itoa(primary.Port()) + " dbname=" + f.database +
		" sslmode=verify-full target_session_attrs=read-write user={{username}} password={{password}}"
	f.useReplicas()
	for n := range 3 {
		target := f.prepared(n + 1) // the standby refuses it until it has replayed it
		f.makeCurrent(target)
	}
	old := f.prepared(4)
	old.Current = f.current
	rendered, err := r.Render(old)
	require.NoError(t, err)
	require.Contains(t, rendered["connection_url"], "@127.0.0.1:"+strconv.Itoa(standby.Port())+",127.0.0.1:"+strconv.Itoa(primary.Port())+"/")

	require.NoError(t, standby.CatchUp(t.Context(), primary))
	primary.Halt()
	require.NoError(t, standby.Promote(t.Context()))
	f.server = standby
	require.Eventually(t, func() bool { // sessions of the pool may have to be found dead
		_, err = r.Retire(f.ctx(), old, rotator.Destroy)
		return err == nil
	}, 20*time.Second, 20*time.Millisecond, "%v", err)
	f.makeCurrent(f.prepared(5))
	old.Current = f.current
	proof, err := r.Probe(f.ctx(), old)
	require.NoError(t, err)
	require.True(t, proof.Dead, proof.Result)
}

func TestReplicaInput(t *testing.T) {
	t.Parallel()
	const address = "postgresql://{{username}}:{{password}}@db:5432/app?sslmode=verify-full"
	check := func(replicas ...string) ([]string, error) {
		c := &rotator.ConnectionConfig{Name: "main", Values: option.Values{"connection_url": address, "username": "admin", "replica_urls": replicas}}
		c.Secrets = secret.NewMap(map[string]string{"password": "x"})
		return postgresql.NewConnectionKind().CheckConnection(c)
	}
	for _, c := range []struct{ url, says string }{
		{"postgresql://{{username}}:{{password}}@s1,s2/app", "entry 2 must name one host"},
		{"postgresql://app:canary@s1/app", "entry 2 must not contain a user name"},
		{"postgresql://{{username}}:canary@s1/app", "entry 2 must not contain a password"},
		{"postgresql://{{username}}:{{password}}@s1/app?target_session_attrs=read-write", "entry 2 must not ask for"},
		{"host=first dbname=app", "entry 2 names the same server"},
		{"postgresql://{{username}}:{{password}}@/tmp/app", "entry 2 "},
		{"", "entry 2 "},
	} {
		_, err := check("postgresql://{{username}}:{{password}}@first/app?sslmode=verify-full", c.url)
		require.True(t, fault.Is(err, fault.Invalid), "%s: %v", c.url, err)
		require.ErrorContains(t, err, "replica_urls: "+c.says, c.url)
		require.NotContains(t, err.Error(), "canary")
	}
	_, err := check(make([]string, 17)...)
	require.ErrorContains(t, err, "replica_urls: must be at most 16")
	warnings, err := check("postgresql://{{username}}:{{password}}@s1/app?sslmode=require")
	require.NoError(t, err)
	require.Len(t, warnings, 1)
	require.Contains(t, warnings[0], "replica_urls, entry 1: sslmode=require")
}
