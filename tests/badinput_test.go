package tests

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// A refusal is a request that must change nothing, and the status and words of its answer.
type refusal struct {
	name   string
	method string // PUT
	path   string
	body   map[string]any
	status int    // 400
	field  string // the field that the sentence begins with, if there is one
	says   string
}

// check makes the request and looks at its answer.
func (r refusal) check(t *testing.T, w *world) {
	t.Helper()
	if r.method == "" {
		r.method = http.MethodPut
	}
	if r.status == 0 {
		r.status = http.StatusBadRequest
	}
	a := w.call(t.Context(), r.method, r.path, r.body)
	assert.Equal(t, r.status, a.Status, a.sentence())
	require.Len(t, a.Errors, 1, "one sentence")
	assert.NotContains(t, a.sentence(), "\n", "one sentence")
	assert.Contains(t, a.sentence(), r.field)
	assert.Contains(t, a.sentence(), r.says)
}

// everything is all that a refused request could have changed: what the mount shows and what the
// database has.
func (w *world) everything() map[string]string {
	w.t.Helper()
	shown := map[string]string{"users": w.snapshot()}
	for _, path := range []string{"connections/main", "roles/" + w.role, "status/" + w.role, "status", "config", "history/" + w.role} {
		shown[path] = string(w.get(path).Data)
	}
	for _, path := range []string{"roles", "connections", "incidents"} {
		a := w.call(w.t.Context(), "LIST", path, nil)
		shown[path] = strconv.Itoa(a.Status) + string(a.Data)
	}
	c := w.current(w.role)
	shown["creds"] = fmt.Sprint(withTTL(c, 0))
	return shown
}

// Wrong input is answered with one sentence that names the field, and changes nothing.
func TestBadInput(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "bad", sharedVault(t), pgtest.Shared(t))
	w.write("roles/"+w.role, w.roleFields(map[string]any{"grace_period": "1h"}))
	w.rotation("rotate/"+w.role, nil) // a version that can be rolled back to
	w.superuser(
		fmt.Sprintf("CREATE ROLE %s_boss NOLOGIN CREATEROLE", w.group),
		fmt.Sprintf("CREATE ROLE %s_reader NOLOGIN", w.group),
	)
	w.settled()
	before := w.everything()
	for _, r := range concat(w.badRoles(), w.badNames(), w.badGroups(), w.badConnections(), w.badRequests()) {
		t.Run(r.name, func(t *testing.T) {
			r.check(t, w)
			assert.Equal(t, before, w.everything(), "nothing may change")
		})
	}
}

func concat(lists ...[]refusal) (all []refusal) {
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}

// settled waits until the engine has nothing of its own to do, so that what changes was changed by
// the request.
func (w *world) settled() {
	w.t.Helper()
	w.awaitState(w.role, await.Patience, "ok", "grace")
}

// badRole is a write of a new role with one thing wrong.
func (w *world) badRole(name, field, says string, changes map[string]any) refusal {
	return refusal{name: name, path: "roles/" + w.role + "-new", body: w.roleFields(changes), field: field, says: says}
}

func (w *world) badRoles() []refusal {
	type m = map[string]any
	return []refusal{
		w.badRole("unknown type", "type", "postgresql", m{"type": "oracle"}),
		w.badRole("no type", "type", "postgresql", m{"type": nil}),
		w.badRole("unknown strategy", "strategy", "new_user", m{"strategy": "swap"}),
		w.badRole("unknown field", "rotation_periode", "did you mean rotation_period?", m{"rotation_periode": "30d"}),
		w.badRole("field of a connection", "tls_ca", "", m{"tls_ca": "x"}),
		w.badRole("period below a minute", "rotation_period", "at least 1m", m{"rotation_period": "59s"}),
		w.badRole("negative period", "rotation_period", "a duration", m{"rotation_period": "-5m"}),
		w.badRole("period that is none", "rotation_period", "a duration", m{"rotation_period": "often"}),
		w.badRole("period and schedule", "rotation_schedule", "rotation_period", m{"rotation_schedule": "0 2 * * *"}),
		w.badRole("schedule that is none", "rotation_schedule", "five cron fields", m{"rotation_period": nil, "rotation_schedule": "at night"}),
		w.badRole("schedule with a field out of range", "rotation_schedule", "hour", m{"rotation_period": nil, "rotation_schedule": "0 25 * * *"}),
		w.badRole("window longer than the period", "rotation_window", "longer", m{"rotation_period": nil, "rotation_schedule": "0 * * * *", "rotation_window": "2h"}),
		w.badRole("window of a period", "rotation_window", "rotation_schedule", m{"rotation_window": "1h"}),
		w.badRole("grace below 20 s", "grace_period", "at least 20s", m{"grace_period": "19s"}),
		w.badRole("grace as long as the period", "grace_period", "shorter", m{"rotation_period": "1h", "grace_period": "1h"}),
		w.badRole("grace longer than the schedule's gap", "grace_period", "shorter", m{"rotation_period": nil, "rotation_schedule": "* * * * *", "grace_period": "2m"}),
		w.badRole("no connection", "connection", "required", m{"connection": nil}),
		w.badRole("unknown connection", "connection", "there is no connection", m{"connection": "other"}),
		w.badRole("connection_limit of 0", "connection_limit", "-1", m{"connection_limit": 0}),
		w.badRole("statements that are not allowed", "verification_statements", "allow_custom_statements", m{"verification_statements": []string{"SELECT 1"}}),
		w.badRole("setting that changes the user", "settings", "role", m{"settings": m{"role": "postgres"}}),
		w.badRole("unknown password policy", "password_policy", "", m{"password_policy": "nowhere"}),
		{name: "existing role: period below a minute", path: "roles/" + w.role, body: m{"rotation_period": "10s"}, field: "rotation_period", says: "at least 1m"},
		{name: "existing role: other type", path: "roles/" + w.role, body: m{"type": "jwt"}, field: "type", says: ""},
		{name: "existing role: other connection", path: "roles/" + w.role, body: m{"connection": "other"}, field: "connection", says: "cannot be changed"},
	}
}

func (w *world) badNames() []refusal {
	type m = map[string]any
	long := strings.Repeat("x", 60)
	return []refusal{
		w.badRole("prefix of more than 63 bytes", "username_prefix", "at most", m{"username_prefix": long}),
		w.badRole("template of more than 63 bytes", "username_template", "63", m{"username_template": long + "{{.Version}}_{{random 8}}"}),
		w.badRole("letters of several bytes", "username_prefix", "", m{"username_prefix": strings.Repeat("é", 30)}),
		w.badRole("forged prefix", "username_prefix", "plain user name", m{"username_prefix": `x"; DROP ROLE postgres; --`}),
		w.badRole("forged template", "username_template", "plain user name", m{"username_template": `{{.RoleName}}"; DROP ROLE postgres; --{{.Version}}`}),
		w.badRole("template that repeats itself", "username_template", "another name for each version", m{"username_template": "always_{{.RoleName}}"}),
		w.badRole("template that is none", "username_template", "", m{"username_template": "{{.RoleName"}),
		w.badRole("template with an unknown value", "username_template", ".RotationID", m{"username_template": "{{.Password}}"}),
		w.badRole("reserved name", "username_prefix", "pg_", m{"username_prefix": "pg_monitor"}),
		w.badRole("prefix and template", "username_template", "username_prefix", m{"username_template": "x{{.Version}}", "username_prefix": "x"}),
		{name: "role name of more than 128", path: "roles/" + strings.Repeat("n", 129), body: w.roleFields(nil), field: "name", says: "128"},
	}
}

func (w *world) badGroups() []refusal {
	type m = map[string]any
	return []refusal{
		w.badRole("neither group nor statements", "member_of", "required", m{"member_of": nil}),
		w.badRole("group that is not allowed", "member_of", "allowed_groups", m{"member_of": w.group + "_reader"}),
		w.badRole("forged group", "member_of", "", m{"member_of": w.group + `"; DROP ROLE postgres; --`}),
		w.badRole("predefined group", "member_of", "predefined", m{"member_of": "pg_write_all_data"}),
		w.badRole("group of more than 63 bytes", "member_of", "63", m{"member_of": strings.Repeat("g", 64)}),
	}
}

func (w *world) badConnections() []refusal {
	type m = map[string]any
	silent := w.silentPort()
	moved := strings.Replace(w.postgres.TemplateURL(w.database), w.postgres.Host(), "localhost", 1)
	return []refusal{
		{name: "unknown type of connection", path: "connections/new", body: w.connection(m{"type": "oracle"}), field: "type", says: "postgresql"},
		{name: "unknown field of a connection", path: "connections/new", body: w.connection(m{"pasword": "x"}), field: "pasword", says: "did you mean password?"},
		{name: "field of a role", path: "connections/new", body: w.connection(m{"member_of": "x"}), field: "member_of"},
		{name: "wrong password", path: "connections/new", body: w.connection(m{"password": "wrong"}), says: "password authentication failed"},
		{name: "wrong password for an old one", path: "connections/main", body: m{"password": "wrong"}, says: "password authentication failed"},
		{name: "no password", path: "connections/new", body: w.connection(m{"password": nil}), field: "password", says: "required"},
		{name: "no user", path: "connections/new", body: w.connection(m{"username": nil}), field: "username", says: "required"},
		{name: "no address", path: "connections/new", body: w.connection(m{"connection_url": nil}), field: "connection_url"},
		{name: "password in the address", path: "connections/new", body: w.connection(m{"connection_url": "postgresql://u:secret@127.0.0.1/db"}), field: "connection_url", says: "{{"},
		{name: "changed host without the password", path: "connections/main", body: m{"connection_url": moved}, field: "password", says: "required again"},
		{name: "changed authority without the password", path: "connections/main", body: m{"tls_ca": ""}, field: "password", says: "required again"},
		{name: "foreign authority", path: "connections/new", body: w.connection(m{"tls_ca": foreignCA}), field: "tls_ca"},
		{name: "nobody listens", path: "connections/new", body: w.connection(m{"connection_url": w.elsewhere(closedPort(w.t))}), says: "could not connect to"},
		{name: "nobody answers", path: "connections/new", body: w.connection(m{"connection_url": w.elsewhere(silent), "connect_timeout": "1s"}), says: "did not answer in time"},
		{name: "deleting a connection in use", method: http.MethodDelete, path: "connections/main", status: http.StatusConflict, says: w.role},
	}
}

func (w *world) badRequests() []refusal {
	type m = map[string]any
	return []refusal{
		{name: "rotate what is not there", path: "rotate/nobody", status: http.StatusNotFound, says: "nobody"},
		{name: "read what is not there", method: http.MethodGet, path: "creds/nobody", status: http.StatusNotFound, says: "nobody"},
		{name: "rollback to a missing version", path: "rollback/" + w.role, body: m{"version": 17}, field: "version", says: "17"},
		{name: "rollback to the current version", path: "rollback/" + w.role, body: m{"version": 2}, status: http.StatusConflict, says: "current"},
		{name: "rollback to no version", path: "rollback/" + w.role, body: m{"version": -1}, field: "version"},
		{name: "emergency without a reason", path: "emergency/" + w.role, field: "reason", says: "required"},
		{name: "emergency with a blank reason", path: "emergency/" + w.role, body: m{"reason": "  "}, field: "reason", says: "required"},
		{name: "emergency of unknown severity", path: "emergency/" + w.role, body: m{"reason": "x", "severity": "terrible"}, field: "severity", says: "critical"},
		{name: "bulk emergency without a reason", path: "emergency", body: m{"roles": "*", "confirm": 1}, field: "reason", says: "required"},
		{name: "bulk emergency over nothing", path: "emergency", body: m{"reason": "x", "confirm": 1}, field: "connection", says: "or roles"},
		{name: "bulk emergency over a connection and a glob", path: "emergency", body: m{"reason": "x", "confirm": 1, "connection": "main", "roles": "*"}, field: "roles", says: "connection"},
		{name: "bulk emergency over no connection of ours", path: "emergency", body: m{"reason": "x", "confirm": 1, "connection": "other"}, field: "connection", says: "there is no connection"},
		{name: "bulk emergency over no role", path: "emergency", body: m{"roles": "nobody-*", "dry_run": true}, field: "roles", says: "no role"},
		{name: "bulk emergency without confirm", path: "emergency", body: m{"reason": "x", "roles": "*"}, field: "confirm", says: "required"},
		{name: "bulk emergency with confirm and dry_run", path: "emergency", body: m{"reason": "x", "roles": "*", "confirm": 1, "dry_run": true}, field: "confirm", says: "dry_run"},
		{name: "bulk emergency with a confirm that is no number", path: "emergency", body: m{"reason": "x", "roles": "*", "confirm": "all"}, field: "confirm", says: "whole number"},
		{name: "bulk emergency over another number of roles", path: "emergency", body: m{"reason": "x", "roles": "*", "confirm": 7}, status: http.StatusConflict, says: "confirm=1"},
		{name: "bulk emergency of unknown severity", path: "emergency", body: m{"reason": "x", "roles": "*", "confirm": 1, "severity": "terrible"}, field: "severity", says: "critical"},
		{name: "bulk emergency with an unknown field", path: "emergency", body: m{"reason": "x", "role": "*", "confirm": 1}, field: "role", says: "did you mean roles?"},
		{name: "reconcile what has not diverged", path: "reconcile/" + w.role, status: http.StatusConflict, says: "nothing to reconcile"},
		{name: "resume what is not held", path: "rotate/" + w.role, body: m{"resume": true}, status: http.StatusConflict, says: "nothing to resume"},
		{name: "retire the current version", path: "retire/" + w.role, body: m{"version": 2}, status: http.StatusConflict, says: "current"},
		{name: "retire what may be in use", path: "retire/" + w.role, body: m{"version": 1}, status: http.StatusConflict, says: "force=true"},
		{name: "wait too long", path: "rotate/" + w.role, body: m{"wait": "1h"}, field: "wait"},
		{name: "unknown field of a request", path: "rotate/" + w.role, body: m{"forse": true}, field: "forse", says: "did you mean force?"},
	}
}

// foreignCA is no certificate at all.
const foreignCA = "-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n"

// elsewhere is the connection_url with another port.
func (w *world) elsewhere(port string) string {
	return strings.Replace(w.postgres.TemplateURL(w.database), ":"+strconv.Itoa(w.postgres.Port())+"/", ":"+port+"/", 1)
}

// closedPort is one that nobody listens on.
func closedPort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
}

// silentPort accepts connections and never says a word.
func (w *world) silentPort() string {
	w.t.Helper()
	p := newProxy(w.t, "")
	p.block()
	return p.port()
}

// A first rotation that fails leaves no half-made role: no role, no credential, no user.
func TestFirstRotationFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "first", sharedVault(t), pgtest.Shared(t))
	w.write("connections/free", w.connection(map[string]any{"allowed_groups": nil, "allow_custom_statements": true}))
	w.superuser(
		fmt.Sprintf("CREATE ROLE %s_boss NOLOGIN CREATEROLE", w.group),
		fmt.Sprintf("GRANT %[1]s_boss TO %[2]s WITH ADMIN OPTION", w.group, w.admin),
	)
	before := w.snapshot()
	for name, c := range map[string]struct {
		changes map[string]any
		says    string
	}{
		"group that does not exist":      {map[string]any{"member_of": "nobody_at_all"}, "there is no role"},
		"group with too much power":      {map[string]any{"member_of": w.group + "_boss"}, "CREATEROLE"},
		"verification that fails":        {map[string]any{"verification_statements": []string{"SELECT * FROM nowhere"}}, "verification statement 1"},
		"setting that the server denies": {map[string]any{"settings": map[string]any{"work_mem": "a lot"}}, "work_mem"},
	} {
		role := w.role + "-" + strings.ReplaceAll(name, " ", "-")
		c.changes["connection"] = "free"
		a := w.call(t.Context(), http.MethodPut, "roles/"+role, w.roleFields(c.changes))
		assert.Equal(t, http.StatusBadRequest, a.Status, name)
		require.Len(t, a.Errors, 1, name)
		assert.Contains(t, a.sentence(), c.says, name)
		for _, path := range []string{"roles/", "creds/", "status/"} {
			gone, err := w.read(t.Context(), path+role)
			require.NoError(t, err)
			assert.Equal(t, http.StatusNotFound, gone.Status, "%s: %s", name, path)
		}
		await.Until(t, name+": nothing to be left", func() (bool, any) {
			now := w.snapshot()
			return now == before, now
		})
	}
	w.write("roles/"+w.role+"-verification-that-fails", w.roleFields(nil)) // the name is free
}

// While a rotation is in flight another is refused with its phase, and readers go on.
func TestRotationInFlight(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "flight", sharedVault(t), pgtest.Shared(t))
	w.write("connections/main", map[string]any{"allow_custom_statements": true})
	w.write("roles/"+w.role, w.roleFields(map[string]any{"verification_statements": []string{"SELECT count(*) FROM orders"}}))
	w.rotation("rotate/"+w.role, nil) // a new role is compared with its target first; that is over now
	before := w.current(w.role)

	// Verification waits for a table that the test has locked.
	release := w.lockOrders()
	slow := w.rotation("rotate/"+w.role, map[string]any{"wait": "1s"})
	assert.Equal(t, "prepared", slow.Phase)
	assert.Empty(t, slow.Outcome)
	users := w.snapshot()
	for _, path := range []string{"rotate/", "rollback/", "retire/"} {
		a := w.call(t.Context(), http.MethodPut, path+w.role, nil)
		assert.Equal(t, http.StatusConflict, a.Status, path)
		assert.Contains(t, a.sentence(), "prepared", path)
		assert.Contains(t, a.sentence(), slow.ID, path)
	}
	a := w.call(t.Context(), http.MethodDelete, "roles/"+w.role, nil)
	assert.Equal(t, http.StatusConflict, a.Status, a.sentence())
	assert.Equal(t, users, w.snapshot())
	assert.Equal(t, before.Password, w.current(w.role).Password)
	require.NoError(t, w.login(t.Context(), before.URL))
	assert.Equal(t, slow.ID, w.status(w.role).Rotation.ID)

	release()
	await.Until(t, "the rotation to end", func() (bool, any) {
		s := w.status(w.role)
		return s.Rotation == nil && s.Current == slow.Version, s
	})
	require.NoError(t, w.login(t.Context(), w.current(w.role).URL))
}

// lockOrders keeps everybody from the table, until the answer is called.
func (w *world) lockOrders() (release func()) {
	w.t.Helper()
	ctx := context.WithoutCancel(w.t.Context())
	conn, err := w.postgres.Connect(ctx, pgtest.Superuser, w.postgres.SuperuserPassword(), w.database)
	require.NoError(w.t, err)
	for _, statement := range []string{"BEGIN", "LOCK TABLE orders IN ACCESS EXCLUSIVE MODE"} {
		_, err := conn.Exec(ctx, statement)
		require.NoError(w.t, err)
	}
	release = func() { _ = conn.Close(ctx) }
	w.t.Cleanup(release)
	return release
}

// A database that cannot be reached costs a bounded time, and readers nothing.
func TestUnreachableDatabase(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "cutoff", sharedVault(t), pgtest.Shared(t))
	p := newProxy(t, net.JoinHostPort(w.postgres.Host(), strconv.Itoa(w.postgres.Port())))
	w.write("connections/main", w.connection(map[string]any{"connection_url": w.elsewhere(p.port()), "connect_timeout": "1s"}))
	w.write("roles/"+w.role, w.roleFields(nil))
	before := w.current(w.role)
	users := w.snapshot()

	p.block()
	began := time.Now()
	a := w.call(t.Context(), http.MethodPut, "rotate/"+w.role, nil)
	assert.Less(t, time.Since(began), 30*time.Second)
	assert.Equal(t, http.StatusBadRequest, a.Status, a.sentence())
	assert.Contains(t, a.sentence(), "did not answer in time")
	assert.Equal(t, before, withTTL(w.current(w.role), before.TTL), "the credential stays readable")
	assert.Equal(t, 1, w.status(w.role).Current, "and so does the status")
	assert.Equal(t, users, w.snapshot())

	p.unblock()
	require.NoError(t, w.login(t.Context(), before.URL))
	assert.Equal(t, 2, w.awaitRotation(w.role))
	require.NoError(t, w.login(t.Context(), w.current(w.role).URL))
}
