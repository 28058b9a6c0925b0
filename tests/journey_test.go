package tests

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// A person's way through the product, with the vault command, from an empty mount to the end of a
// role. Each step goes on from the one before.
func TestJourney(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "journey", sharedVault(t), pgtest.Shared(t))
	j := &journey{world: w, t: t}
	inSteps(t, j, j, []step[*journey]{
		{"connection", (*journey).connection},
		{"role", (*journey).writeRole},
		{"creds", (*journey).creds},
		{"rotate", (*journey).rotate},
		{"emergency", (*journey).emergency},
		{"rollback", (*journey).rollback},
		{"history", (*journey).history},
		{"status", (*journey).status},
		{"change", (*journey).change},
		{"delete", (*journey).remove},
	})
}

// step is one of a journey of type J.
type step[J any] struct {
	name string
	do   func(J)
}

// inSteps takes a journey's steps, each in a test of its own, up to the first that fails.
func inSteps[J any](t *testing.T, at *journey, j J, steps []step[J]) {
	t.Helper()
	for _, step := range steps {
		if !t.Run(step.name, func(t *testing.T) {
			at.t, at.world.t = t, t
			step.do(j)
		}) {
			t.FailNow()
		}
	}
}

type journey struct {
	*world
	t        *testing.T
	first    credential
	incident string
}

// vaultCommand runs `vault verb -format=json path args...` below the mount, which must succeed.
func (j *journey) vaultCommand(verb, path string, args ...string) answer {
	j.t.Helper()
	all := append([]string{verb, "-format=json"}, args...)
	if verb == "write" && len(args) == 0 {
		all = append(all, "-f")
	}
	all = slices.Insert(all, len(all)-countFields(args), j.path+"/"+path)
	output, err := j.vault.CLI(j.t.Context(), all...)
	require.NoError(j.t, err, output)
	var a answer
	if strings.HasPrefix(output, "{") {
		require.NoError(j.t, json.Unmarshal([]byte(output), &a), output)
	}
	a.Text = output
	return a
}

// countFields counts the trailing key=value arguments, which come after the path.
func countFields(args []string) int {
	n := 0
	for _, arg := range args {
		if !strings.HasPrefix(arg, "-") {
			n++
		}
	}
	return n
}

func (j *journey) rotated(verb, path string, args ...string) (r rotationAnswer) {
	j.t.Helper()
	a := j.vaultCommand(verb, path, args...)
	require.NoError(j.t, json.Unmarshal(a.Data, &r), a.Text)
	return r
}

func (j *journey) connection() {
	shown := j.vaultCommand("read", "connections/main").fields()
	assert.Equal(j.t, "postgresql", shown["type"])
	assert.Equal(j.t, j.admin, shown["username"])
	assert.NotContains(j.t, shown, "password")
	assert.NotContains(j.t, shown, "private_key")

	var check struct {
		Lines []struct{ Check, Result, Detail string } `json:"lines"`
	}
	require.NoError(j.t, json.Unmarshal(j.vaultCommand("read", "connections/main/check").Data, &check))
	require.NotEmpty(j.t, check.Lines)
	for _, line := range check.Lines {
		assert.NotEqual(j.t, "fail", line.Result, "%s: %s", line.Check, line.Detail)
	}
	j.vaultCommand("write", "connections/main/rotate-root")
	_, err := j.postgres.Connect(j.t.Context(), j.admin, j.password, j.database)
	assert.True(j.t, refused(err), "the administrator's password must be changed: %v", err)
}

func (j *journey) writeRole() {
	r := j.rotated("write", "roles/"+j.role, "type=postgresql", "connection=main", "member_of="+j.group,
		"rotation_period=30d", "grace_period=1h")
	assert.Equal(j.t, rotationAnswer{ID: r.ID, Trigger: "initial", Phase: "rolled_out", Outcome: "succeeded", Version: 1}, r)
	assert.NotEmpty(j.t, r.ID)

	shown := j.vaultCommand("read", "roles/"+j.role).fields()
	assert.Equal(j.t, j.group, shown["member_of"])
	assert.EqualValues(j.t, "2592000", shown["rotation_period"])
	assert.EqualValues(j.t, "3600", shown["grace_period"])
	assert.Equal(j.t, "new_user", shown["strategy"])
}

func (j *journey) creds() {
	a := j.vaultCommand("read", "creds/"+j.role)
	first := a.fields()
	assert.Equal(j.t, []string{
		"connection_url", "database", "host", "last_vault_rotation", "password", "port", "rotation_period", "ttl", "username", "version",
	}, slices.Sorted(maps.Keys(first)))
	for _, name := range []string{"connection_url", "database", "host", "last_vault_rotation", "password", "username"} {
		assert.IsType(j.t, "", first[name], name)
	}
	for name, value := range map[string]int{"port": j.postgres.Port(), "rotation_period": 30 * 24 * 3600, "version": 1} {
		assert.Equal(j.t, json.Number(strconv.Itoa(value)), first[name], name)
	}
	ttl, err := first["ttl"].(json.Number).Int64()
	require.NoError(j.t, err)
	assert.LessOrEqual(j.t, ttl, int64(900), "a quarter of the grace")
	assert.Positive(j.t, ttl)
	_, err = time.Parse(time.RFC3339, first["last_vault_rotation"].(string))
	require.NoError(j.t, err)
	assert.Equal(j.t, j.postgres.Host(), first["host"])
	assert.Equal(j.t, j.database, first["database"])
	j.noLease(a)

	for range 3 {
		again := j.vaultCommand("read", "creds/"+j.role).fields()
		delete(again, "ttl")
		for name, value := range again {
			assert.Equal(j.t, first[name], value, name)
		}
	}
	j.first = j.current(j.role)
	require.NoError(j.t, j.login(j.t.Context(), j.first.URL))
	conn, err := j.postgres.Connect(j.t.Context(), j.first.Username, j.first.Password, j.database)
	require.NoError(j.t, err, "user name and password by themselves")
	require.NoError(j.t, conn.Close(j.t.Context()))
}

func (j *journey) noLease(a answer) {
	var lease struct {
		ID        string `json:"lease_id"`
		Duration  int    `json:"lease_duration"`
		Renewable bool   `json:"renewable"`
	}
	require.NoError(j.t, json.Unmarshal([]byte(a.Text), &lease))
	assert.Zero(j.t, lease, "there is nothing to renew")
}

func (j *journey) rotate() {
	session, err := connect(j.t.Context(), j.postgres, j.first.URL+"&application_name=billing")
	require.NoError(j.t, err)
	defer session.Close(j.t.Context())

	r := j.rotated("write", "rotate/"+j.role)
	assert.Equal(j.t, rotationAnswer{ID: r.ID, Trigger: "manual", Phase: "rolled_out", Outcome: "succeeded", Version: 2, Previous: 1}, r)
	second := j.current(j.role)
	assert.Equal(j.t, 2, second.Version)
	assert.NotEqual(j.t, j.first.Username, second.Username)
	assert.NotEqual(j.t, j.first.Password, second.Password)
	for _, c := range []credential{j.first, second} {
		require.NoError(j.t, j.login(j.t.Context(), c.URL), "version %d", c.Version)
	}
	old := j.vaultCommand("read", "creds/"+j.role+"/versions/1").fields()
	assert.Equal(j.t, "retiring", old["state"])
	assert.Equal(j.t, j.first.Password, old["password"])
	assert.NotEmpty(j.t, old["expire_time"])

	s := j.world.status(j.role)
	assert.Equal(j.t, "grace", s.State)
	use := s.version(1).InUse
	require.Len(j.t, use, 1, "the one session that still uses version 1")
	assert.Equal(j.t, "billing", use[0].Application)
	assert.Equal(j.t, "127.0.0.1", strings.TrimSuffix(use[0].Address, "/32"))
	assert.Equal(j.t, 1, use[0].Count)
}

func (j *journey) emergency() {
	a := j.vaultCommand("write", "emergency/"+j.role, "reason=password seen in a log")
	var e emergencyAnswer
	require.NoError(j.t, json.Unmarshal(a.Data, &e))
	assert.Equal(j.t, "contained", e.Status, e.NextSteps)
	assert.Equal(j.t, 3, e.Version)
	assert.Len(j.t, e.Killed, 2)
	j.incident = e.IncidentID
	err := j.login(j.t.Context(), j.first.URL)
	assert.True(j.t, refused(err), "what leaked must be refused: %v", err)

	assert.Contains(j.t, j.vaultCommand("list", "incidents").Text, j.incident)
	incident := j.vaultCommand("read", "incidents/"+j.incident).fields()
	assert.Equal(j.t, "contained", incident["status"])
	assert.Equal(j.t, "password seen in a log", incident["reason"])
}

func (j *journey) rollback() {
	assert.Equal(j.t, 4, j.rotated("write", "rotate/"+j.role).Version)
	before := j.current(j.role)
	r := j.rotated("write", "rollback/"+j.role)
	assert.Equal(j.t, rotationAnswer{ID: r.ID, Trigger: "rollback", Phase: "rolled_out", Outcome: "succeeded", Version: 3, Previous: 4}, r)
	after := j.current(j.role)
	assert.Equal(j.t, 3, after.Version)
	for _, c := range []credential{before, after} {
		require.NoError(j.t, j.login(j.t.Context(), c.URL), "version %d", c.Version)
	}
	assert.Equal(j.t, 4, j.rotated("write", "rollback/"+j.role, "version=4").Version, "and forward again, by number")
}

func (j *journey) history() {
	var page struct {
		Rotations []rotationAnswer `json:"rotations"`
		Next      *string          `json:"next"`
	}
	require.NoError(j.t, json.Unmarshal(j.vaultCommand("read", "history/"+j.role).Data, &page))
	var told []string
	for _, r := range page.Rotations {
		assert.Equal(j.t, "succeeded", r.Outcome)
		told = append(told, fmt.Sprintf("%s %d", r.Trigger, r.Version))
	}
	assert.Equal(j.t, []string{"rollback 4", "rollback 3", "manual 4", "emergency 3", "manual 2", "initial 1"}, told)
	assert.Nil(j.t, page.Next)
}

func (j *journey) status() {
	var page struct {
		Roles []struct {
			Name    string `json:"name"`
			State   string `json:"state"`
			Current int    `json:"current_version"`
		} `json:"roles"`
		Counts map[string]int `json:"counts"`
	}
	require.NoError(j.t, json.Unmarshal(j.vaultCommand("read", "status").Data, &page))
	require.Len(j.t, page.Roles, 1)
	assert.Equal(j.t, j.role, page.Roles[0].Name)
	assert.Equal(j.t, "grace", page.Roles[0].State)
	assert.Equal(j.t, 4, page.Roles[0].Current)
	assert.Equal(j.t, 1, page.Counts["grace"])
	full := j.world.status(j.role)
	assert.True(j.t, full.version(1).Compromised)
	assert.True(j.t, full.version(2).ProvenDead)
	assert.Empty(j.t, full.OpenIncidents)
}

// change shows that what is left out of a write stays, and that readers follow at once.
func (j *journey) change() {
	before := j.current(j.role)
	j.vaultCommand("write", "roles/"+j.role, "rotation_period=7d")
	shown := j.vaultCommand("read", "roles/"+j.role).fields()
	assert.EqualValues(j.t, "604800", shown["rotation_period"])
	assert.EqualValues(j.t, "3600", shown["grace_period"])
	assert.Equal(j.t, j.group, shown["member_of"])
	assert.EqualValues(j.t, "604800", j.get("creds/" + j.role).fields()["rotation_period"])
	assert.Equal(j.t, before.Password, j.current(j.role).Password)
}

func (j *journey) remove() {
	last := j.current(j.role)
	a := j.vaultCommand("delete", "roles/"+j.role)
	assert.Contains(j.t, a.Text, last.Username, "the answer must say what stays valid, and until when")
	for _, path := range []string{"roles/", "creds/", "status/"} {
		gone, err := j.read(j.t.Context(), path+j.role)
		require.NoError(j.t, err)
		assert.Equal(j.t, 404, gone.Status, path)
	}
	require.NoError(j.t, j.login(j.t.Context(), last.URL), "what a reader holds outlives the role")
	again := j.call(j.t.Context(), "PUT", "roles/"+j.role, j.roleFields(nil))
	assert.Equal(j.t, 409, again.Status, again.sentence())

	j.vaultCommand("write", "roles/"+j.role+"-next", "type=postgresql", "connection=main", "member_of="+j.group,
		"rotation_period=1h", "grace_period=20s")
	j.vaultCommand("delete", "roles/"+j.role+"-next")
	await.Until(j.t, "the deleted role's user to be dropped", func() (bool, any) {
		users := j.users(j.role + "-next")
		return len(users) == 0, users
	})
}
