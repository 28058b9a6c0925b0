package tests

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
)

// badPairs is a mount with a connection to each provider, and two roles.
type badPairs struct {
	*world
	openAI     *fakeapi.OpenAI
	anthropic  *fakeapi.Anthropic
	stripe     *fakeapi.Stripe
	openRouter *fakeapi.OpenRouter
	inPlace    *fakeapi.InPlace
	byHand     string // a role of Stripe; w.role is one of OpenAI
	key, old   string // its current key, and the one before
	dead       string
}

func newBadPairs(t *testing.T) *badPairs {
	t.Helper()
	b := &badPairs{
		openAI: started(t, fakeapi.NewOpenAI()), anthropic: started(t, fakeapi.NewAnthropic()), stripe: started(t, fakeapi.NewStripe()),
		openRouter: started(t, fakeapi.NewOpenRouter()), inPlace: started(t, fakeapi.NewInPlace()),
	}
	b.world = newPairs(t, "badpairs", sharedVault(t), toOpenAI(b.openAI, nil))
	b.byHand = b.role + "-hand"
	b.write("connections/anthropic", toAnthropic(b.anthropic, nil))
	b.write("connections/stripe", reaches("stripe", b.stripe.URL(), nil))
	b.write("connections/router", b.router(nil))
	b.write("connections/inplace", reaches("http", b.inPlace.URL(), map[string]any{"definition": definition(t, "inplace"), "admin_key": b.inPlace.AdminKey()}))
	b.old, _ = b.stripe.MakeByHand("old")
	b.key, _ = b.stripe.MakeByHand("current")
	b.dead, _ = b.stripe.MakeByHand("dead")
	b.stripe.ExpireByHand(b.dead)
	b.write("roles/"+b.role, pairFields(map[string]any{"grace_period": "1h"}))
	b.write("roles/"+b.byHand, pairFields(map[string]any{"connection": "stripe", "grace_period": "1h", "key": b.old}))
	b.stage(b.byHand, map[string]any{"key": b.key})
	return b
}

func (b *badPairs) router(changes map[string]any) map[string]any {
	return with(reaches("http", b.openRouter.URL(), map[string]any{"definition": definition(b.t, "openrouter"), "admin_key": b.openRouter.AdminKey()}), changes)
}

// everyPair is all that a refused request could have changed: what the mount shows, and what the
// providers have.
func (b *badPairs) everyPair() map[string]string {
	b.t.Helper()
	shown := map[string]string{"at the providers": fmt.Sprint(
		b.openAI.Accounts(), b.openAI.Keys(), b.openAI.AdminKeys(), b.anthropic.Keys(), b.stripe.Keys(), b.openRouter.Keys(), b.inPlace.Keys(),
	)}
	for _, path := range []string{
		"connections/main", "connections/anthropic", "connections/stripe", "connections/router", "status", "config",
		"roles/" + b.role, "status/" + b.role, "history/" + b.role, "roles/" + b.byHand, "status/" + b.byHand, "history/" + b.byHand,
	} {
		shown[path] = string(b.get(path).Data)
	}
	for _, path := range []string{"roles", "connections", "incidents"} {
		a := b.call(b.t.Context(), "LIST", path, nil)
		shown[path] = strconv.Itoa(a.Status) + string(a.Data)
	}
	for _, role := range []string{b.role, b.byHand} {
		pair := b.pair(role)
		pair.TTL = 0
		shown["creds/"+role] = fmt.Sprint(pair)
	}
	return shown
}

// Wrong input is answered with one sentence that names the field, and changes nothing.
func TestAPIKeyBadInput(t *testing.T) {
	t.Parallel()
	b := newBadPairs(t)
	for _, role := range []string{b.role, b.byHand} {
		b.awaitState(role, await.Patience, "ok", "grace")
	}
	before := b.everyPair()
	for _, r := range concat(b.badConnections(), b.badAddresses(), b.badDefinitions(), b.badRoles(), b.badImports(), b.badRequests()) {
		t.Run(r.name, func(t *testing.T) {
			r.check(t, b.world)
			after := b.everyPair()
			for what, was := range before {
				assert.Equal(t, was, after[what], "nothing may change: %s", what)
			}
			before = after // should it have changed, the next one is not to blame
		})
	}
}

// badConnection is a write of a new connection with one thing wrong.
func badConnection(name, field, says string, body map[string]any) refusal {
	if field != "" {
		field += ":"
	}
	return refusal{name: "connection: " + name, path: "connections/new", body: body, field: field, says: says}
}

func (b *badPairs) badConnections() []refusal {
	type m = map[string]any
	openAI := func(changes m) m { return toOpenAI(b.openAI, changes) }
	wrong := "sk-admin-" + strings.Repeat("x", 64)
	return []refusal{
		badConnection("unknown type", "type", "anthropic, http, ", openAI(m{"type": "azure"})),
		badConnection("unknown field", "admin_kee", "did you mean admin_key?", openAI(m{"admin_kee": "x"})),
		badConnection("field of another type", "workspace", "is an option of type anthropic", openAI(m{"workspace": "wrkspc_1"})),
		badConnection("no admin key", "admin_key", "is required", openAI(m{"admin_key": nil})),
		badConnection("key of a project as admin key", "admin_key", "begin with sk-admin-", openAI(m{"admin_key": "sk-proj-abc"})),
		badConnection("admin key with a line feed", "admin_key", "must be an admin key", openAI(m{"admin_key": wrong + "\n"})),
		badConnection("wrong admin key", "", "the admin key is refused (status 401 invalid_api_key", openAI(m{"admin_key": wrong})),
		badConnection("no project", "project", "is required", openAI(m{"project": nil})),
		badConnection("project that is a path", "project", "must be the id of a project", openAI(m{"project": "../admin"})),
		badConnection("project that is not there", "", "proj_other", openAI(m{"project": "proj_other"})),
		badConnection("organization that is a path", "organization", "must be the id of an organization", openAI(m{"organization": "a/b"})),
		badConnection("negative rate", "requests_per_second", "from 0 to 1000", openAI(m{"requests_per_second": -1})),
		badConnection("rate that is no number", "requests_per_second", "whole number", openAI(m{"requests_per_second": "many"})),
		badConnection("anthropic without an admin key", "admin_key", "is required", toAnthropic(b.anthropic, m{"admin_key": nil})),
		badConnection("anthropic with a key of a workspace", "admin_key", "begin with sk-ant-admin", toAnthropic(b.anthropic, m{"admin_key": "sk-ant-api03-abc"})),
		badConnection("workspace that is a path", "workspace", "must be the id of a workspace", toAnthropic(b.anthropic, m{"workspace": "a/../b"})),
		badConnection("stripe with an admin key", "admin_key", "is not used", reaches("stripe", b.stripe.URL(), m{"admin_key": "sk_live_abc"})),
		{name: "existing connection: other type", path: "connections/main", body: m{"type": "stripe"}, field: "type:", says: "cannot be changed"},
		{name: "existing connection: other project", path: "connections/main", body: openAI(m{"project": "proj_other", "verify_connection": false}), field: "project:", says: "cannot be changed"},
		{name: "existing connection: wrong admin key", path: "connections/main", body: m{"admin_key": wrong}, says: "the admin key is refused"},
		{name: "deleting a connection in use", method: http.MethodDelete, path: "connections/main", status: http.StatusConflict, says: b.role},
		{name: "rotate-root without a call for it", path: "connections/stripe/rotate-root", says: "Stripe has no call for that"},
		{name: "rotate-root of what is not there", path: "connections/nobody/rotate-root", status: http.StatusNotFound, says: "nobody"},
	}
}

func (b *badPairs) badAddresses() []refusal {
	type m = map[string]any
	openAI := func(changes m) m { return toOpenAI(b.openAI, changes) }
	moved := strings.Replace(b.openAI.BaseURL(), "127.0.0.1", "localhost", 1)
	return []refusal{
		badConnection("keys in clear", "base_url", "must begin with https://", openAI(m{"allow_insecure_http": nil})),
		badConnection("base_url of another scheme", "base_url", "must begin with https://", openAI(m{"base_url": "ftp://127.0.0.1/v1"})),
		badConnection("base_url without a host", "base_url", "must be a URL", openAI(m{"base_url": "https:///v1"})),
		badConnection("base_url with a password", "base_url", "without user", openAI(m{"base_url": "https://user:pass@api.example.com"})),
		badConnection("base_url with a query", "base_url", "without user, query", openAI(m{"base_url": "https://api.example.com/?a=b"})),
		badConnection("host that is not allowed", "allowed_hosts", "does not admit \"127.0.0.1\"", openAI(m{"allowed_hosts": "api.openai.com,*.example.com"})),
		badConnection("metadata of the cloud", "", "169.254.169.254", openAI(m{"base_url": "http://169.254.169.254/v1"})),
		badConnection("nobody listens", "", "no answer", openAI(m{"base_url": "http://127.0.0.1:" + closedPort(b.t) + "/v1"})),
		badConnection("another API", "", "status 404", openAI(m{"base_url": b.stripe.URL() + "/v1"})),
		{name: "changed address without the secret", path: "connections/main", body: m{"base_url": moved}, field: "admin_key:", says: "is required again, because base_url changed"},
		{name: "one more host without the secret", path: "connections/main", body: m{"allowed_hosts": "127.0.0.1,localhost"}, field: "admin_key:", says: "is required again"},
		{name: "changed definition without the secret", path: "connections/router", body: m{"definition": strings.Replace(definition(b.t, "openrouter"), "OpenRouter", "Mine", 1)}, field: "admin_key:", says: "is required again, because definition changed"},
	}
}

// badDefinition changes the definition of OpenRouter in one place.
func (b *badPairs) badDefinition(name, says, old, now string) refusal {
	b.t.Helper()
	text := definition(b.t, "openrouter")
	require.Contains(b.t, text, old)
	return badConnection("definition with "+name, "definition", says, b.router(map[string]any{"definition": strings.Replace(text, old, now, 1)}))
}

func (b *badPairs) badDefinitions() []refusal {
	type m = map[string]any
	return []refusal{
		badConnection("no definition", "definition", "is required", b.router(m{"definition": nil})),
		badConnection("definition that is no JSON", "definition", "is not JSON", b.router(m{"definition": "{title: x}"})),
		badConnection("definition that is a list", "definition", "must be a JSON object", b.router(m{"definition": "[]"})),
		badConnection("definition of 100 kB", "definition", "must not be longer than", b.router(m{"definition": strings.Repeat(" ", 100<<10) + "{}"})),
		b.badDefinition("an unknown field", "titel", `"title"`, `"titel"`),
		b.badDefinition("a field twice", "is given twice", `"title": "OpenRouter"`, `"title": "OpenRouter", "title": "Other"`),
		b.badDefinition("an unresolvable pointer", "create.key", `"key": "/key"`, `"key": "key"`),
		b.badDefinition("an unknown placeholder", "hash", `/api/v1/keys/{{id}}", "body": {"disabled": true}`, `/api/v1/keys/{{hash}}", "body": {"disabled": true}`),
		b.badDefinition("a placeholder where it has no place", "create.path", `"path": "/api/v1/keys",`, `"path": "/api/v1/keys/{{admin_key}}",`),
		b.badDefinition("a path to another host", "create.path", `"path": "/api/v1/keys",`, `"path": "//evil.example/keys",`),
		b.badDefinition("a path that is a URL", "create.path", `"path": "/api/v1/keys",`, `"path": "https://evil.example/keys",`),
		b.badDefinition("a path that leads up", "revoke.path", `"revoke": {"method": "DELETE", "path": "/api`, `"revoke": {"method": "DELETE", "path": "/../api`),
		b.badDefinition("a method of its own", "create.method", `"method": "POST"`, `"method": "TRACE"`),
		b.badDefinition("a create that names nothing", "create", `{"name": "{{name}}"}`, `{"name": "always"}`),
		badConnection("parameter of a reserved name", "parameters", "is a placeholder of its own", b.router(m{"parameters": "admin_key=x"})),
		badConnection("http without an admin key", "admin_key", "is required", b.router(m{"admin_key": nil})),
		badConnection("http with a line feed in the admin key", "admin_key", "printable ASCII", b.router(m{"admin_key": "abc\ndef"})),
	}
}

// badPair is a write of a new role with one thing wrong.
func (b *badPairs) badPair(name, field, says string, changes map[string]any) refusal {
	return refusal{name: "role: " + name, path: "roles/" + b.role + "-new", body: pairFields(changes), field: field + ":", says: says}
}

func (b *badPairs) badRoles() []refusal {
	type m = map[string]any
	change := func(name, field, says string, body m) refusal {
		return refusal{name: "existing role: " + name, path: "roles/" + b.role, body: body, field: field + ":", says: says}
	}
	return []refusal{
		b.badPair("unknown strategy", "strategy", "must be create, in_place or by_hand", m{"strategy": "new_user"}),
		b.badPair("create at Stripe", "strategy", "cannot be create: connections of type stripe have no call that makes a key", m{"connection": "stripe", "strategy": "create"}),
		b.badPair("create at Anthropic", "strategy", "use by_hand", m{"connection": "anthropic", "strategy": "create"}),
		b.badPair("in_place at OpenAI", "strategy", "cannot be in_place", m{"strategy": "in_place", "grace_period": nil, "key": "x"}),
		b.badPair("create where a key is changed in place", "strategy", "use in_place or by_hand", m{"connection": "inplace", "strategy": "create"}),
		b.badPair("no connection", "connection", "anthropic or stripe or http", m{"connection": nil}),
		b.badPair("unknown connection", "connection", "there is no connection", m{"connection": "other"}),
		b.badPair("unknown field", "auto_promot", "did you mean auto_promote?", m{"auto_promot": true}),
		b.badPair("field of another type", "member_of", "type api-key", m{"member_of": "app"}),
		b.badPair("auto_promote that is no bool", "auto_promote", "true or false", m{"auto_promote": "perhaps"}),
		b.badPair("soak of more than a month", "soak_period", "must be from 0 to", m{"soak_period": "31d", "rotation_period": "90d"}),
		b.badPair("soak as long as the period", "soak_period", "must be shorter than the time between rotations", m{"soak_period": "7d", "rotation_period": "7d"}),
		b.badPair("negative soak", "soak_period", "a duration", m{"soak_period": "-1h"}),
		b.badPair("soak of a key changed in place", "soak_period", "need a second key", m{"connection": "inplace", "strategy": "in_place", "grace_period": nil, "key": "x", "soak_period": "1h"}),
		b.badPair("destroy_after of half a year", "destroy_after", "must be from 0 to", m{"destroy_after": "180d"}),
		b.badPair("grace as long as the period", "grace_period", "shorter", m{"grace_period": "30d"}),
		b.badPair("grace below 20 s", "grace_period", "at least 20s", m{"grace_period": "19s"}),
		b.badPair("grace of a key changed in place", "grace_period", "must be 0", m{"connection": "inplace", "strategy": "in_place", "key": "x"}),
		change("other strategy", "strategy", "cannot be changed", m{"strategy": "by_hand"}),
		change("other connection", "connection", "cannot be changed", m{"connection": "stripe"}),
		change("other type", "type", "cannot be changed", m{"type": "jwt"}),
		change("soak of more than a month", "soak_period", "must be from 0 to", m{"soak_period": "31d", "rotation_period": "90d"}),
	}
}

func (b *badPairs) badImports() []refusal {
	type m = map[string]any
	stripe := func(name, says, key string) refusal {
		return b.badPair(name, "key", says, m{"connection": "stripe", "key": key})
	}
	return []refusal{
		b.badPair("key_id without a key", "key_id", "needs key", m{"key_id": "key_1"}),
		b.badPair("empty key", "key", "is empty", m{"key": ""}),
		b.badPair("in_place without a key", "key", "is required with strategy in_place", m{"connection": "inplace", "strategy": "in_place", "grace_period": nil}),
		b.badPair("admin key as key", "key", "is an admin key", m{"key": b.openAI.AdminKey()}),
		b.badPair("admin key of Anthropic as key", "key", "is an admin key", m{"connection": "anthropic", "key": b.anthropic.AdminKey()}),
		b.badPair("key of nobody", "key", "none of the keys of project", m{"key": "sk-proj-" + strings.Repeat("y", 64)}),
		stripe("publishable key", "is a publishable key", "pk_live_"+strings.Repeat("z", 90)),
		stripe("key of another provider", "is no key of a Stripe account", "sk-proj-abc"),
		stripe("key with a line feed", "printable ASCII", b.key+"\n"),
		stripe("key of 5 kB", "is longer than", "sk_live_"+strings.Repeat("z", 5<<10)),
		{name: "role: dead key", path: "roles/" + b.role + "-new", body: pairFields(m{"connection": "stripe", "key": b.dead}), says: "api_key_expired"},
	}
}

func (b *badPairs) badRequests() []refusal {
	type m = map[string]any
	stage := func(name, field, says string, body m) refusal {
		return refusal{name: "stage: " + name, path: "stage/" + b.byHand, body: body, field: field, says: says}
	}
	conflict := func(name, path, says string, body m) refusal {
		return refusal{name: name, path: path, body: body, status: http.StatusConflict, says: says}
	}
	return []refusal{
		stage("no key", "key:", "is required", nil),
		stage("empty key", "key:", "is required", m{"key": ""}),
		stage("unknown field", "kee:", "did you mean key?", m{"kee": b.key}),
		stage("dead key", "nothing was staged", "api_key_expired", m{"key": b.dead}),
		stage("key that never was", "nothing was staged", "the key is refused", m{"key": "sk_live_" + strings.Repeat("z", 90)}),
		stage("publishable key", "key: ", "nothing was staged", m{"key": "pk_live_" + strings.Repeat("z", 90)}),
		stage("force that is no bool", "force:", "true or false", m{"key": b.key, "force": "perhaps"}),
		stage("wait of an hour", "wait:", "", m{"key": b.key, "wait": "1h"}),
		conflict("stage: key of the version before", "stage/"+b.byHand, "this secret is version 1", m{"key": b.old}),
		conflict("stage: role whose keys a call makes", "stage/"+b.role, "takes no secret by hand: its keys are made by a call: write rotate/"+b.role, m{"key": b.key}),
		{name: "stage: role that is not there", path: "stage/nobody", body: m{"key": b.key}, status: http.StatusNotFound, says: "nobody"},
		conflict("promote: nothing staged", "promote/"+b.byHand, "there is nothing to promote", nil),
		conflict("promote: nothing staged, with force", "promote/"+b.byHand, "there is nothing to promote", m{"force": true}),
		{name: "promote: role that is not there", path: "promote/nobody", status: http.StatusNotFound, says: "nobody"},
		{name: "promote: unknown field", path: "promote/" + b.byHand, body: m{"version": 1}, field: "version:"},
		conflict("retire: the only key", "retire/"+b.role, "no version of "+b.role+" is retiring", m{"force": true}),
		conflict("retire: the current key", "retire/"+b.byHand, "is current", m{"version": 2, "force": true}),
		conflict("retire: what readers may hold", "retire/"+b.byHand, "force=true", m{"version": 1}),
		conflict("rollback: nothing before", "rollback/"+b.role, "there is no version before 1", nil),
		{name: "rollback: version that is not there", path: "rollback/" + b.role, body: m{"version": 7}, field: "version:", says: "7"},
		{name: "emergency without a reason", path: "emergency/" + b.byHand, field: "reason:", says: "required"},
		{name: "rotate with an unknown field", path: "rotate/" + b.role, body: m{"forse": true}, field: "forse:", says: "did you mean force?"},
		conflict("reconcile: nothing diverged", "reconcile/"+b.role, "nothing to reconcile", nil),
	}
}

// What a provider answers may be wrong, strange or not the provider's: the connection is then not
// written, and the sentence says what came.
func TestAPIKeyStrangeAnswers(t *testing.T) {
	t.Parallel()
	api := started(t, fakeapi.NewOpenAI())
	w := newPairs(t, "strange", sharedVault(t), toOpenAI(api, nil))
	lists := fakeapi.On(http.MethodGet, "/v1/organization/projects/*/service_accounts")
	const scopes = "You have insufficient permissions for this operation. Missing scopes: api.management.read."
	elsewhere := http.Header{"Location": {"http://169.254.169.254/"}}
	for name, c := range map[string]struct {
		status int
		header http.Header
		body   string
		says   string
	}{
		"right that is missing":   {401, nil, api.ErrorBody(401, scopes), "Missing scopes: api.management.read"},
		"10 MB":                   {200, nil, strings.Repeat(" ", 10<<20), "the answer was not read: it is longer than"},
		"page of a gateway":       {200, http.Header{"Content-Type": {"text/html"}}, "<html>log in</html>", "the answer cannot be understood (status 200)"},
		"redirect":                {307, elsewhere, "", "status 307"},
		"401 of a proxy":          {401, nil, "who are you?", "status 401"},
		"message with the secret": {403, nil, api.ErrorBody(403, "not with "+fakeapi.SentCredential), "status 403"},
	} {
		w.strange(api, name, func() { api.Fail(1, lists, c.status, c.header, c.body) }, c.says)
	}
	w.write("roles/"+w.role, pairFields(nil))
	assert.Equal(t, "ok", w.status(w.role).State, "after all that a role is made")
}

// strange writes a new connection while a fault is on, and reads the check of the old one under it.
func (w *world) strange(api *fakeapi.OpenAI, name string, fault func(), says string) {
	w.t.Helper()
	fault()
	a := w.call(w.t.Context(), http.MethodPut, "connections/new", toOpenAI(api, nil))
	assert.Equal(w.t, http.StatusBadRequest, a.Status, "%s: %s", name, a.Text)
	assert.Contains(w.t, a.sentence(), "connection new was not written", name)
	assert.Contains(w.t, a.sentence(), says, name)
	assert.NotContains(w.t, a.Text, api.AdminKey(), name)
	assert.Less(w.t, len(a.Text), 2000, name)
	w.gone("connections/new")
	api.Heal()
	fault()
	check := w.get("connections/main/check")
	assert.Contains(w.t, check.Text, `"fail"`, name)
	assert.Contains(w.t, check.Text, says, name)
	assert.NotContains(w.t, check.Text, api.AdminKey(), name)
	api.Heal()
}
