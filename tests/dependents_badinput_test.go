package tests

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// badDependents is a mount with a role that has a copy and a check, and what roles could wrongly name.
type badDependents struct {
	*world
	kv    *place
	check *httptest.Server
}

func newBadDependents(t *testing.T) *badDependents {
	t.Helper()
	w := newWorld(t, "baddeps", sharedVault(t), pgtest.Shared(t))
	b := &badDependents{world: w, kv: newPlace(w, w.vault, "team"), check: httptest.NewServer(http.NotFoundHandler())}
	t.Cleanup(b.check.Close)
	// Mounts that hold no copies, and that the token may nevertheless know of.
	b.kv.write("sys/mounts/"+b.old(), map[string]any{"type": "kv", "options": map[string]any{"version": "1"}})
	b.kv.write("sys/mounts/"+b.transit(), map[string]any{"type": "transit"})
	policy := b.kv.leastPolicy()
	for _, path := range []string{b.old() + "/*", b.transit() + "/*", b.path + "/creds/*", b.path + "/keys/*", b.path + "/keys"} {
		policy += fmt.Sprintf("\npath %q {\n  capabilities = [\"create\", \"read\", \"update\"]\n}\n", path)
	}
	b.kv.setPolicy(policy)
	b.write("connections/self", b.kv.connection(map[string]any{"allowed_paths": []string{
		b.kv.mount + "/intelliflow/*", b.old() + "/*", b.transit() + "/*", b.path + "/*", "nowhere/*",
	}}))
	b.write("connections/picky", b.kv.connection(map[string]any{"allowed_roles": "somebody-else"}))
	b.write("connections/health", map[string]any{"type": "http-check", "url": b.check.URL, "allow_insecure_http": true, "expected_status": "404"})
	b.write("roles/"+w.role, w.roleFields(map[string]any{"grace_period": "1h", "mirror": b.kv.to("self", "taken"), "checks": "health"}))
	b.kv.write(b.transit()+"/keys/taken", nil)
	b.write("roles/"+w.role+"-key", map[string]any{"type": "encryption-key", "backend": "self/" + b.transit() + "/taken"})
	b.settled()
	return b
}

func (b *badDependents) old() string     { return b.kv.name + "/old" }
func (b *badDependents) transit() string { return b.kv.name + "/transit" }

func (b *badDependents) everything() map[string]string {
	b.t.Helper()
	shown := b.world.everything()
	maps.Copy(shown, map[string]string{"copy": fmt.Sprint(b.kv.copied("taken"))})
	for _, name := range []string{"self", "picky", "health"} {
		shown["connections/"+name] = string(b.get("connections/" + name).Data)
	}
	return shown
}

// Dependents that are wrong are refused with one sentence that says what would be right, and nothing changes.
func TestBadDependents(t *testing.T) {
	t.Parallel()
	b := newBadDependents(t)
	before := b.everything()
	for _, r := range concat(b.badMirrors(), b.badPlaces(), b.badChecks(), b.badVaults(), b.badBackends()) {
		t.Run(r.name, func(t *testing.T) {
			b.t = t
			r.check(t, b.world)
			// A role whose first rotation was refused is gone a moment later.
			await.Until(t, "nothing to have changed", func() (bool, any) {
				now := b.everything()
				return maps.Equal(before, now), differing(before, now)
			})
		})
	}
	b.t = t
	assert.Equal(t, 1, b.kv.copied("taken").Version)
}

// differing names what is not the same.
func differing(before, now map[string]string) (names []string) {
	for name := range now {
		if before[name] != now[name] {
			names = append(names, name+": "+now[name])
		}
	}
	return names
}

// on is a write to the role that exists.
func (b *badDependents) on(name, says string, changes map[string]any) refusal {
	return refusal{name: name, path: "roles/" + b.role, body: changes, says: says}
}

func (b *badDependents) badMirrors() []refusal {
	type m = map[string]any
	taken := b.kv.to("self", "taken")
	return []refusal{
		b.badRole("path that another role mirrors to", "mirror: ", fmt.Sprintf("%s is where the role %q is copied to: each role needs a path of its own", taken, b.role), m{"mirror": taken}),
		b.on("no path", `mirror: "self" must be a connection and what it leads to, such as self/secret/intelliflow/database`, m{"mirror": "self"}),
		b.on("unknown connection of a mirror", `mirror: there is no connection "nowhere": write connections/nowhere first`, m{"mirror": "nowhere/secret/x"}),
		b.on("mirror in a database", `mirror: connection "main" is of type postgresql, which does not hold a copy: use one of type vault`, m{"mirror": "main/secret/x"}),
		b.on("mirror in an endpoint", `mirror: connection "health" is of type http-check, which does not hold a copy: use one of type vault`, m{"mirror": "health/secret/x"}),
		b.on("connection that does not allow the role", `mirror: connection "picky" does not allow the role "`+b.role+`": see its allowed_roles`, m{"mirror": b.kv.to("picky", "x")}),
		b.on("path that is not among allowed_paths", "does not admit \""+b.kv.mount+"/other/x\": none of its allowed_paths fits", m{"mirror": "self/" + b.kv.mount + "/other/x"}),
		b.on("path that climbs", "must not have . or .. as a segment", m{"mirror": b.kv.to("self", "../../sys/x")}),
		b.on("path with a glob", "must consist of letters, digits and _ - . : @ between slashes", m{"mirror": b.kv.to("self", "*")}),
		b.on("path that ends with a slash", "must neither begin nor end with a slash, nor have an empty segment", m{"mirror": b.kv.to("self", "x/")}),
		b.on("field of no kind", `mirror_fields: user: "name" is not a field: use one of connection_url, `, m{"mirror_fields": m{"user": "name"}}),
		b.on("template that is none", "mirror_fields: user: is not a template: ", m{"mirror_fields": m{"user": "{{.username"}}),
		b.on("field that is always there", "mirror_fields: version is always in the copy, and cannot be given", m{"mirror_fields": m{"version": "version"}}),
		b.on("fields without a mirror", "mirror: is required beside mirror_fields and mirror_force: where the copy goes, such as self/", m{"mirror": "", "mirror_force": true}),
		{name: "connection that a role mirrors through", method: http.MethodDelete, path: "connections/self", status: http.StatusConflict, says: b.role},
	}
}

// badPlaces are those that only the Vault there knows to be wrong: the first rotation is refused, and the role with it.
func (b *badDependents) badPlaces() []refusal {
	type m = map[string]any
	place := func(name, path, says string) refusal {
		return b.badRole(name, "preflight: mirror self/"+path+": ", says, m{"mirror": "self/" + path})
	}
	return []refusal{
		place("mount of KV version 1", b.old()+"/app", b.old()+" is a mount of KV version 1, which has no check-and-set: use one of version 2, or run vault kv enable-versioning "+b.old()),
		place("mount of transit", b.transit()+"/app", b.transit()+" is a mount of type transit, not of KV version 2"),
		place("mount of this plugin", b.path+"/creds/"+b.role, b.path+" is a mount of type vault-plugin-secrets-rotation, not of KV version 2"),
		place("no mount", "nowhere/app", "there is no mount at nowhere/app, or the token may do nothing there: "),
	}
}

func (b *badDependents) badChecks() []refusal {
	type m = map[string]any
	check := func(name, says string, changes m) refusal {
		body := with(m{"type": "http-check", "url": b.check.URL, "allow_insecure_http": true}, changes)
		return refusal{name: name, path: "connections/new", body: body, says: says}
	}
	return []refusal{
		b.on("unknown check", `checks: there is no connection "nowhere": write connections/nowhere first`, m{"checks": "nowhere"}),
		b.on("check of a database", `checks: connection "main" is of type postgresql, which does not check anything: use one of type http-check`, m{"checks": "main"}),
		b.on("check of a Vault", `checks: connection "self" is of type vault, which does not check anything: use one of type http-check`, m{"checks": "self"}),
		b.on("check that is named twice", "checks: names health twice", m{"checks": "health,health"}),
		b.on("rollout by a Vault", `rollout: connection "self" is of type vault, which does not restart workloads: use one of type kubernetes`, m{"rollout": "self/default/deployment/api"}),
		b.on("session of no application", "is not an application_name: 1 to 63 printable characters of ASCII", m{"expect_sessions": "a\tb"}),
		b.on("unknown way out", "on_rollout_failure: must be rollback or hold", m{"on_rollout_failure": "ignore"}),
		b.on("too little time", "rollout_timeout: must be from 10s to 24h", m{"rollout_timeout": "5s"}),
		{
			name: "sessions of a key", path: "roles/" + b.role + "-new", body: keyFields(m{"expect_sessions": "api"}),
			says: "expect_sessions: is not possible for type jwt: it cannot tell which applications use a version",
		},
		check("endpoint at a link-local address", "the egress policy refuses the address 169.254.7.7: it is link-local", m{"url": "http://169.254.7.7/health"}),
		check("endpoint of a cloud's metadata", "the egress policy refuses the address 169.254.169.254: it is a metadata service's", m{"url": "http://169.254.169.254/latest/meta-data/"}),
		check("the same as IPv6", "it is a metadata service's", m{"url": "http://[::ffff:169.254.169.254]/"}),
		check("endpoint in clear", "url: must begin with https://: http:// can be read and forged on its way, and needs allow_insecure_http=true", m{"allow_insecure_http": nil}),
		check("endpoint with a password", "url: must not hold a user or a password: it is shown when the connection is read", m{"url": "https://u:p@127.0.0.1/"}),
		check("no endpoint", "url: is required: which endpoint is asked, such as https://", m{"url": nil}),
		check("status that is none", "expected_status: ", m{"expected_status": "99"}),
		check("expression that is none", "body_match: is not a regular expression as RE2 knows them: ", m{"body_match": "("}),
		check("nobody listens", "ask the health endpoint: ", m{"url": "http://127.0.0.1:" + closedPort(b.t)}),
		check("misspelt field", "did you mean body_match?", m{"body_mach": "x"}),
	}
}

func (b *badDependents) badVaults() []refusal {
	type m = map[string]any
	vault := func(name, says string, changes m) refusal {
		return refusal{name: name, path: "connections/new", body: b.kv.connection(changes), says: says}
	}
	return []refusal{
		vault("wrong secret id", "role_id and secret_id must be those of a role at auth_mount, and neither expired nor used up", m{"secret_id": "11111111-2222-3333-4444-555555555555"}),
		vault("wrong token", "the token expired, was revoked, or may not look itself up: write the connection with a new one", m{"auth": "token", "token": "hvs.wrong"}),
		vault("no secret id", "secret_id: is required with auth=approle", m{"secret_id": nil}),
		vault("unknown way to log in", "auth: must be approle or token", m{"auth": "kubernetes"}),
		vault("Vault in clear", "address: ", m{"allow_insecure_http": nil}),
		vault("Vault at a link-local address", "the egress policy refuses the address 169.254.7.7: it is link-local", m{"address": "http://169.254.7.7:8200"}),
		vault("no Vault", "that is not a Vault's answer: is address the URL of one?", m{"address": b.check.URL}),
		vault("nobody listens", "log in by auth/", m{"address": "http://127.0.0.1:" + closedPort(b.t)}),
		vault("pattern that fits nothing", `allowed_paths: has "secret//x", which fits no path`, m{"allowed_paths": "secret//x"}),
		{name: "changed address without the secret id", path: "connections/self", body: m{"address": "http://localhost:1"}, says: "secret_id: is required again, because address changed"},
	}
}

// badBackends are keys that are not transit's: this plugin's own above all, which would rotate themselves.
func (b *badDependents) badBackends() []refusal {
	backend := func(name, path, says string) refusal {
		return refusal{name: name, path: "roles/" + b.role + "-new", body: map[string]any{"type": "encryption-key", "backend": path}, says: says}
	}
	own := "self/" + b.path
	return []refusal{
		backend("key of this plugin", own+"/"+b.role, b.path+" is a mount of type vault-plugin-secrets-rotation, not of transit"),
		backend("key of itself", own+"/keys/"+b.role+"-new", b.path+" is a mount of type vault-plugin-secrets-rotation, not of transit"),
		backend("secret of KV", b.kv.to("self", "app"), b.kv.mount+" is a mount of type kv, not of transit"),
		backend("key that is not there", "self/"+b.transit()+"/cards", "there is no key "+b.transit()+"/cards: make it with vault write -f "+b.transit()+"/keys/cards"),
		backend("key of another role", "self/"+b.transit()+"/taken", fmt.Sprintf("backend: self/%s/taken is what the role %q has: it can be of one role alone", b.transit(), b.role+"-key")),
		backend("key in a database", "main/x/y", `"main" is of type postgresql`),
		backend("key that the connection does not admit", "self/other/cards", `backend: the connection does not admit "other/cards": none of its allowed_paths fits`),
	}
}

// A role that exists is asked about a mirror when it names it, and nothing changes where that refuses. What turns out wrong
// there later keeps rotations from beginning.
func TestMirrorThatTurnsOutWrong(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "latemirror", sharedVault(t), pgtest.Shared(t))
	kv := newPlace(w, w.vault, "team")
	w.write("connections/self", kv.connection(nil))
	w.write("roles/"+w.role, w.roleFields(nil))
	noWrites := `path "auth/token/lookup-self" { capabilities = ["read"] }
		path "sys/capabilities-self" { capabilities = ["update"] }
		path "` + kv.mount + `/data/intelliflow/*" { capabilities = ["read"] }`
	data := kv.mount + "/data/intelliflow/app"
	says := fmt.Sprintf(`%s: the token may not create, nor update %s: its policies need path %q { capabilities = ["create", "read", "update"] }`, kv.to("self", "app"), data, data)
	kv.setPolicy(noWrites)
	a := w.call(t.Context(), http.MethodPut, "roles/"+w.role, map[string]any{"mirror": kv.to("self", "app")})
	require.Equal(t, http.StatusBadRequest, a.Status)
	assert.Equal(t, "mirror: "+says, a.sentence())
	assert.Nil(t, w.mirrorStatus(w.role).Mirror)
	assert.Equal(t, 0, kv.copied("app").Version)

	kv.setPolicy(kv.leastPolicy())
	w.write("roles/"+w.role, map[string]any{"mirror": kv.to("self", "app")})
	await.Until(t, "the copy", func() (bool, any) {
		c := kv.copied("app")
		return c.Version == 1, c
	})
	kv.setPolicy(noWrites)
	a = w.call(t.Context(), http.MethodPut, "rotate/"+w.role, nil)
	require.Equal(t, http.StatusBadRequest, a.Status)
	assert.Equal(t, "preflight: mirror "+says, a.sentence())
	assert.Equal(t, 1, kv.copied("app").Version)
	assert.Equal(t, 1, w.current(w.role).Version)
}
