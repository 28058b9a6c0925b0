package backend_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/mark"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/postgresql"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

var stages atomic.Int64

// postgresStage is a stage whose target is a real server: a group and an
// administrator with least rights of its own, in a shared database.
func postgresStage(t *testing.T) *enginetest.Stage { stage, _ := namedStage(t); return stage }

// alternateStage is one whose roles have two standing users.
func alternateStage(t *testing.T) *enginetest.Stage {
	stage, id := namedStage(t)
	delete(stage.Role, "username_prefix")
	stage.Role["strategy"], stage.Role["usernames"] = "alternate", []string{id + "_blue", id + "_green"}
	return stage
}

// inPlaceStage is one whose roles have one user.
func inPlaceStage(t *testing.T) *enginetest.Stage {
	stage, id := namedStage(t)
	delete(stage.Role, "username_prefix")
	stage.Role["strategy"], stage.Role["username"], stage.Role["grace_period"] = "in_place", id+"_only", int64(0)
	return stage
}

// importStage is one whose roles take over a user that people made.
func importStage(t *testing.T) *enginetest.Stage {
	stage, id := namedStage(t)
	user, server := id+"_byhand", pgtest.Shared(t)
	server.MustExec(t, "postgres", "CREATE ROLE "+user+" LOGIN PASSWORD 'by-hand-canary'",
		"CREATE SCHEMA "+id+" AUTHORIZATION "+user, "GRANT CREATE ON DATABASE postgres TO "+id+"_group", // an owner that is to follow must be able to create
		"DO $$ BEGIN IF current_setting('server_version_num')::int >= 160000 THEN EXECUTE 'GRANT "+user+" TO "+id+"_admin WITH ADMIN TRUE'; END IF; END $$")
	stage.Role["username"], stage.Role["adopt_ownership"], stage.Role["drop_imported"] = user, true, true
	stage.RoleSecrets = secret.NewMap(map[string]string{"password": "by-hand-canary"})
	return stage
}

// stagesOf has the last stage of each test, which is over when it gets the next one.
var stagesOf sync.Map

// strike removes what a stage has left: a cluster with a thousand users of its kind
// is slow to look through.
const strike = `DO $$ DECLARE role text; BEGIN
	FOR role IN SELECT rolname FROM pg_roles WHERE starts_with(rolname, '%[1]s_') ORDER BY rolname IN ('%[1]s_admin', '%[1]s_group'), rolname LOOP
		EXECUTE format('DROP OWNED BY %%I CASCADE', role);
		EXECUTE format('DROP ROLE %%I', role);
	END LOOP;
END $$`

func namedStage(t *testing.T) (stage *enginetest.Stage, id string) {
	server := pgtest.Shared(t)
	id = fmt.Sprintf("crash%d", stages.Add(1))
	before := "SELECT"
	if last, over := stagesOf.Swap(t.Name(), id); over {
		before = fmt.Sprintf(strike, last)
	}
	admin, group := id+"_admin", id+"_group"
	server.MustExec(t, "postgres", before, // one login, which costs more than what it does
		"CREATE ROLE "+group,
		"CREATE ROLE "+admin+" LOGIN CREATEROLE PASSWORD 'admin-canary'",
		"DO $$ BEGIN IF current_setting('server_version_num')::int >= 160000 THEN EXECUTE 'GRANT "+group+" TO "+admin+" WITH ADMIN TRUE'; END IF; END $$")
	return &enginetest.Stage{
		Rotator: func(f *enginetest.Faults) rotator.Rotator { return enginetest.NewFaulty(postgresql.New(), f) },
		Connection: func(f *enginetest.Faults) rotator.ConnectionKind {
			return enginetest.FaultyConnection{ConnectionKind: postgresql.NewConnectionKind(), Faults: f}
		},
		Address: option.Values{"connection_url": server.TemplateURL("postgres"), "username": admin, "tls_ca": server.CAPEM()},
		Secrets: secret.NewMap(map[string]string{"password": "admin-canary"}),
		Role:    option.Values{"member_of": group, "username_prefix": id},
		Login:   func(rendered map[string]any) error { return loginAsReader(server, rendered) },
		Objects: func() ([]string, error) {
			out, err := server.QueryString(context.Background(), "postgres",
				markedUsers, id, mark.Prefix)
			if err != nil || out == "" {
				return nil, err
			}
			return strings.Split(out, ","), nil
		},
		Step: 10 * time.Second,
	}, id
}

// markedUsers are ours; standing ones that nobody may use are only there.
const markedUsers = `SELECT coalesce(string_agg(rolname, ','), '') FROM pg_roles
	WHERE starts_with(rolname, $1) AND starts_with(shobj_description(oid, 'pg_authid'), $2)
	AND (rolcanlogin OR strpos(shobj_description(oid, 'pg_authid'), ' fence=') = 0)`

// loginAsReader connects as an application would, with the ready URL.
func loginAsReader(server *pgtest.Server, rendered map[string]any) error {
	user, _ := rendered["username"].(string)
	password, _ := rendered["password"].(string)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := server.Connect(ctx, user, password, "postgres")
	if err != nil {
		return fault.New(fault.AuthFailed, "%w", err)
	}
	return conn.Close(ctx)
}

// postgresScenarios are fewer than those in memory: each of their points costs
// real logins. What is shared with the twins in memory, plain failures most of all,
// is left to them where a scenario is about what the server does.
var postgresScenarios = []struct {
	stage func(*testing.T) *enginetest.Stage
	enginetest.Scenario
	modes []enginetest.Mode // none for all
}{
	{postgresStage, enginetest.Scenario{Name: "rollback to a retired version", AtLeast: 40, Run: thereAndBack}, nil},
	{postgresStage, enginetest.Scenario{Name: "emergency, kill first", AtLeast: 35, Run: func(p *enginetest.Play) { p.Create(nil); p.Rotate(); p.Emergency(true); p.Wait(time.Minute) }}, nil},
	{postgresStage, enginetest.Scenario{Name: "rotate root", AtLeast: 20, Run: func(p *enginetest.Play) { p.Create(nil); p.RotateRoot(); p.Rotate(); p.Wait(time.Minute) }}, nil},
	{postgresStage, enginetest.Scenario{Name: "delete", AtLeast: 30, Deleted: true, Run: func(p *enginetest.Play) { p.Create(nil); p.Delete(); p.Wait(time.Minute) }}, nil},
	{alternateStage, enginetest.Scenario{Name: "alternate, rollback to a retired version", AtLeast: 40, Run: thereAndBack}, lostOrDead},
	{alternateStage, enginetest.Scenario{Name: "alternate, emergency", AtLeast: 30, Run: func(p *enginetest.Play) { p.Create(nil); p.Rotate(); p.Emergency(false); p.Wait(time.Minute) }}, []enginetest.Mode{enginetest.Crash}},
	{inPlaceStage, enginetest.Scenario{Name: "in place, rollback", AtLeast: 30, Run: thereAndBack}, lostOrDead},
	{inPlaceStage, enginetest.Scenario{Name: "in place, emergency, kill first", AtLeast: 20, Run: func(p *enginetest.Play) { p.Create(nil); p.Emergency(true); p.Wait(time.Minute) }}, []enginetest.Mode{enginetest.Crash}},
	{importStage, enginetest.Scenario{Name: "import", AtLeast: 30, Run: func(p *enginetest.Play) { p.Create(nil); p.Rotate(); p.Wait(time.Minute) }}, lostOrDead},
}

var lostOrDead = []enginetest.Mode{enginetest.Lose, enginetest.Crash}

// thereAndBack rotates, and returns to the first version once that has ended.
func thereAndBack(p *enginetest.Play) {
	p.Create(nil)
	first := p.Current()
	p.Rotate()
	p.Wait(time.Minute)
	p.Rollback(first)
	p.Wait(time.Minute)
}

// TestPostgreSQLCrashAnywhere is TestCrashAnywhere with a real server outside.
func TestPostgreSQLCrashAnywhere(t *testing.T) {
	for _, s := range postgresScenarios {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			enginetest.Enumerate(t, s.stage, s.Scenario, s.modes...)
		})
	}
}
