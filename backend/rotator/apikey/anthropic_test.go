package apikey

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
)

const (
	testAnthropicAdmin = "sk-ant-admin01-CANARY0123456789"
	testAnthropicKey   = "sk-ant-api03-R2DCANARYCANARYCANARY-igAA"
)

// anthropicAt opens a connection to a fake.
func anthropicAt(t *testing.T, workspace string) (*fakeapi.Anthropic, *anthropic) {
	t.Helper()
	api := fakeapi.NewAnthropic()
	t.Cleanup(api.Close)
	return api, anthropicOf(t, api, workspace)
}

func anthropicOf(t *testing.T, api *fakeapi.Anthropic, workspace string) *anthropic {
	t.Helper()
	return openProvider(t, anthropicKind, api.URL(), api.AdminKey(), option.Values{"workspace": workspace}).(*anthropic)
}

func scriptedAnthropic(t *testing.T, answer http.HandlerFunc) (*script, *anthropic) {
	t.Helper()
	s := answering(t, answer)
	return s, openProvider(t, anthropicKind, s.URL, testAnthropicAdmin, nil).(*anthropic)
}

func anthropicErrorBody(typ, message string) string {
	return fmt.Sprintf(`{"type":"error","error":{"type":%q,"message":%q},"request_id":"req_1"}`, typ, message)
}

func TestAnthropicOptions(t *testing.T) {
	t.Parallel()
	require.NoError(t, checkOptions(anthropicKind, testAnthropicAdmin, nil))
	require.NoError(t, checkOptions(anthropicKind, testAnthropicAdmin, option.Values{"workspace": "wrkspc_01"}))
	requireFault(t, checkOptions(anthropicKind, "", nil), fault.Invalid, "admin_key: is required")
	requireFault(t, checkOptions(anthropicKind, testAnthropicKey, nil), fault.Invalid, "admin_key: must be an admin key", "CANARY")
	requireFault(t, checkOptions(anthropicKind, testAnthropicAdmin+" ", nil), fault.Invalid, "admin_key: must be an admin key", "CANARY")
	requireFault(t, checkOptions(anthropicKind, testAnthropicAdmin, option.Values{"workspace": "a/b"}), fault.Invalid, "workspace: must be the id")
}

func TestAnthropicLife(t *testing.T) {
	t.Parallel()
	api, p := anthropicAt(t, "")
	ctx := context.Background()
	require.Equal(t, "Anthropic", p.title())
	require.Equal(t, abilities{Identify: true, Disable: true, Revoke: true}, p.abilities())
	require.NoError(t, p.ping(ctx))
	key, id := api.MakeByHand("app")
	require.NoError(t, p.checkKey(secret.New(key)))
	answer, err := p.verify(ctx, secret.New(key))
	require.NoError(t, err)
	require.Equal(t, "200", answer)
	r, err := p.identify(ctx, secret.New(key), "")
	require.NoError(t, err)
	require.Equal(t, reference{ID: id}, r)

	for range 2 { // what is done stays done
		require.NoError(t, only(p.disable(ctx, r)))
		require.False(t, api.Works(key))
	}
	_, err = p.verify(ctx, secret.New(key))
	requireFault(t, err, fault.AuthFailed, "verify a key at Anthropic: the key is refused (status 401 authentication_error: ", key)
	for range 2 {
		require.NoError(t, p.enable(ctx, r))
		require.True(t, api.Works(key))
	}
	for range 2 {
		require.NoError(t, only(p.revoke(ctx, r)))
		require.False(t, api.Works(key))
	}
	require.Equal(t, "archived", api.Keys()[0].Status)
	api.ForgetRequests()
	require.NoError(t, only(p.disable(ctx, r)), "an archived key is disabled")
	requireFault(t, p.enable(ctx, r), fault.Target, "key "+id+" is archived at Anthropic, and cannot be enabled", key)
	require.Equal(t, map[string]int{"GET /v1/organizations/api_keys/{id}": 2}, api.Counts(), "nothing is written over an end")

	gone, err := p.revoke(ctx, r)
	require.NoError(t, err)
	require.False(t, gone, "an archived key is there")
	none := reference{ID: "apikey_none"}
	for _, end := range []func(context.Context, reference) (bool, error){p.disable, p.revoke} {
		gone, err := end(ctx, none)
		require.NoError(t, err, "a key that is gone is disabled")
		require.True(t, gone)
	}
	requireFault(t, p.enable(ctx, none), fault.Target, "key apikey_none is gone at Anthropic")
	for _, r := range []reference{{}, {ID: ".."}, {ID: "a/b"}} {
		require.Equal(t, fault.Internal, fault.KindOf(only(p.revoke(ctx, r))))
	}
}

func TestAnthropicExpired(t *testing.T) {
	t.Parallel()
	api, p := anthropicAt(t, "")
	ctx := context.Background()
	key, id := api.MakeByHand("app")
	soon := time.Now().Add(time.Hour).Truncate(time.Second).UTC()
	api.ExpireAt(key, soon)
	r, err := p.identify(ctx, secret.New(key), "")
	require.NoError(t, err)
	require.Equal(t, reference{ID: id, Expires: soon}, r)
	api.SetNow(func() time.Time { return soon })
	require.NoError(t, only(p.disable(ctx, r)))
	require.NoError(t, only(p.revoke(ctx, r)))
	require.Equal(t, "expired", api.Keys()[0].Status, "an expired key is done")
	requireFault(t, p.enable(ctx, r), fault.Target, "is expired at Anthropic, and cannot be enabled", key)
	_, err = p.identify(ctx, secret.New(key), id)
	requireFault(t, err, fault.Invalid, "key: is not active at Anthropic", key)
}

func TestAnthropicIdentify(t *testing.T) {
	t.Parallel()
	api, p := anthropicAt(t, "")
	ctx := context.Background()
	for i := range 130 {
		api.MakeByHandIn("wrkspc_b", fmt.Sprint("other ", i))
	}
	alike := api.MakeLookAlikes("one", "two", "three")
	key, id := api.MakeByHandIn("wrkspc_a", "mine")

	_, err := p.identify(ctx, secret.New(alike[1].Key), "")
	requireFault(t, err, fault.Invalid, "key_id: is required: 3 active keys of the organization look like this one", alike[1].Key)
	require.ErrorContains(t, err, alike[0].ID+", "+alike[1].ID+", "+alike[2].ID)
	r, err := p.identify(ctx, secret.New(alike[1].Key), alike[1].ID)
	require.NoError(t, err)
	require.Equal(t, reference{ID: alike[1].ID}, r)

	api.ForgetRequests()
	r, err = p.identify(ctx, secret.New(key), "")
	require.NoError(t, err)
	require.Equal(t, reference{ID: id}, r)
	require.Len(t, api.Requests(), 2, "the list has two pages")

	for _, wrong := range []struct{ id, part string }{
		{alike[0].ID, "key_id: is the id of another key"},
		{"apikey_none", "key_id: is the id of no key of the organization"},
		{"../models", "key_id: must be the id of a key"},
	} {
		_, err = p.identify(ctx, secret.New(key), wrong.id)
		requireFault(t, err, fault.Invalid, wrong.part, key)
	}
	api.DisableByHand(key)
	_, err = p.identify(ctx, secret.New(key), "")
	requireFault(t, err, fault.Invalid, "key: is none of the active keys of the organization", key)
}

// A workspace that was named is a bound.
func TestAnthropicWorkspace(t *testing.T) {
	t.Parallel()
	api, p := anthropicAt(t, "wrkspc_a")
	ctx := context.Background()
	mine, id := api.MakeByHandIn("wrkspc_a", "mine")
	other, otherID := api.MakeByHandIn("wrkspc_b", "other")
	standard, standardID := api.MakeByHand("of the default workspace")
	r, err := p.identify(ctx, secret.New(mine), "")
	require.NoError(t, err)
	require.Equal(t, reference{ID: id}, r)
	for key, id := range map[string]string{other: otherID, standard: standardID} {
		_, err = p.identify(ctx, secret.New(key), "")
		requireFault(t, err, fault.Invalid, "key: is none of the active keys of workspace wrkspc_a", key)
		_, err = p.identify(ctx, secret.New(key), id)
		requireFault(t, err, fault.Invalid, "key_id: is the id of no key of workspace wrkspc_a", key)
	}
	require.Contains(t, p.byHand().Make, "make a new key of workspace wrkspc_a in the Anthropic Console (Settings, API keys)")
	require.Contains(t, p.byHand().End, "wrkspc_a")
	require.NotContains(t, anthropicOf(t, api, "").byHand().Make, "workspace")

	// An end that most keys have, and two more characters, are too little to be sure of a key.
	few := answering(t, saying(200, `{"data":[{"id":"apikey_1","partial_key_hint":"sk-ant-api03...igAA","status":"active"}],"has_more":false}`))
	_, err = openProvider(t, anthropicKind, few.URL, testAnthropicAdmin, nil).identify(ctx, secret.New(testAnthropicKey), "")
	requireFault(t, err, fault.Invalid, "key_id: is required: one active key of the organization looks like this one (apikey_1), and Anthropic shows too little", "CANARY")

	// The filters of the request are not relied upon.
	s := answering(t, saying(200, `{"data":[{"id":"apikey_1","partial_key_hint":"sk-ant-api03-R2D...igAA","status":"active","workspace_id":"wrkspc_b"},
		{"id":"apikey_2","partial_key_hint":"sk-ant-api03-R2D...igAA","status":"inactive","workspace_id":"wrkspc_a"}],"has_more":false}`))
	q := openProvider(t, anthropicKind, s.URL, testAnthropicAdmin, option.Values{"workspace": "wrkspc_a"})
	_, err = q.identify(ctx, secret.New(testAnthropicKey), "")
	requireFault(t, err, fault.Invalid, "is none of the active keys", "CANARY")
	require.Equal(t, []string{"GET /v1/organizations/api_keys?limit=100&status=active&workspace_id=wrkspc_a"}, s.requests())
}

func TestAnthropicVerifyAnswers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status int
		body   string
		answer string
		kind   fault.Kind
	}{
		"accepted":            {200, `{"data":[],"has_more":false}`, "200", ""},
		"forbidden":           {403, anthropicErrorBody("permission_error", "not this"), "403 permission_error", ""},
		"refused":             {401, anthropicErrorBody("authentication_error", "invalid x-api-key"), "", fault.AuthFailed},
		"another 401":         {401, anthropicErrorBody("other_error", "hm"), "", fault.Target},
		"turned away":         {403, `{"error":{"type":"forbidden","message":"Request not allowed"}}`, "", fault.Unreachable},
		"forbidden elsewhere": {403, "<html>", "", fault.Unreachable},
		"declined":            {400, anthropicErrorBody("invalid_request_error", "organization disabled"), "", fault.Target},
		"no such call":        {404, anthropicErrorBody("not_found_error", "no"), "", fault.Target},
		"too often":           {429, anthropicErrorBody("rate_limit_error", "slow down"), "", fault.Unreachable},
		"failing":             {500, anthropicErrorBody("api_error", "sorry"), "", fault.Unreachable},
		"overloaded":          {529, anthropicErrorBody("overloaded_error", "sorry"), "", fault.Unreachable},
		"another's 401":       {401, `{"type":"error","error":"authentication_error"}`, "", fault.Unreachable},
		"a portal":            {200, "<html>", "", fault.Unreachable},
		"another's 200":       {200, "{}", "", fault.Unreachable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, p := scriptedAnthropic(t, saying(c.status, c.body))
			answer, err := p.verify(context.Background(), secret.New(testAnthropicKey))
			require.Equal(t, c.answer, answer)
			requireOutcome(t, err, c.kind, "verify a key at Anthropic", "CANARY")
		})
	}
	api, p := anthropicAt(t, "")
	key, _ := api.MakeByHand("limited")
	api.LimitScopes(key)
	answer, err := p.verify(context.Background(), secret.New(key))
	require.NoError(t, err)
	require.Equal(t, "403 permission_error", answer)
}

func TestAnthropicEcho(t *testing.T) {
	t.Parallel()
	api, p := anthropicAt(t, "")
	api.Echo(true)
	_, err := p.verify(context.Background(), secret.New(testAnthropicKey))
	requireFault(t, err, fault.AuthFailed, "authentication_error", testAnthropicKey)
	api.Fail(-1, nil, 418, nil, api.ErrorBody(418, "no tea for "+fakeapi.SentCredential))
	requireFault(t, p.ping(context.Background()), fault.Target, "list the keys of the organization at Anthropic: declined (status 418 api_error: no tea for ", api.AdminKey())
}

// What is answered about one key must be of that key, and show what was asked for.
func TestAnthropicHostileKeys(t *testing.T) {
	t.Parallel()
	ctx, r := context.Background(), reference{ID: "apikey_1"}
	for name, body := range map[string]string{
		"empty": "", "HTML": "<html>", "null": "null", "no status": `{"id":"apikey_1"}`, "another": `{"id":"apikey_2","status":"archived"}`,
		"status of types": `{"id":"apikey_1","status":1}`, "time of types": `{"id":"apikey_1","status":"archived","expires_at":"soon"}`,
		"without end": `{"id":"apikey_1","status":"archived","name":"` + strings.Repeat("x", 2<<20) + `"}`,
		"unmoved":     `{"id":"apikey_1","status":"strange\nstatus"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, p := scriptedAnthropic(t, saying(200, body))
			for _, err := range []error{only(p.disable(ctx, r)), only(p.revoke(ctx, r)), p.enable(ctx, r)} {
				requireFault(t, err, fault.Target, "apikey_1", "CANARY", "strange")
			}
		})
	}
	// A 404 of another's is no end.
	_, p := scriptedAnthropic(t, saying(404, "<html>"))
	requireFault(t, only(p.revoke(ctx, r)), fault.Unreachable, "look at key apikey_1 at Anthropic: something answered that is not in the form of Anthropic")
	_, p = scriptedAnthropic(t, saying(404, anthropicErrorBody("other_error", "no such route")))
	requireFault(t, only(p.revoke(ctx, r)), fault.Target, "look at key apikey_1 at Anthropic: declined (status 404 other_error: no such route)")
	// Nor is one in Anthropic's form, where the keys cannot be listed.
	_, p = scriptedAnthropic(t, saying(404, anthropicErrorBody("not_found_error", "Not found")))
	gone, err := p.disable(ctx, r)
	requireFault(t, err, fault.Target, "look at key apikey_1 at Anthropic: it is said to be gone, which is not confirmed: list the keys of the organization", "CANARY")
	require.False(t, gone)
}

func TestAnthropicWrites(t *testing.T) {
	t.Parallel()
	ctx, r := context.Background(), reference{ID: "apikey_1"}
	status := "active"
	s, p := scriptedAnthropic(t, func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodPost {
			saying(400, anthropicErrorBody("invalid_request_error", "not now"))(w, req)
			return
		}
		saying(200, fmt.Sprintf(`{"id":"apikey_1","status":%q}`, status))(w, req)
	})
	requireFault(t, only(p.disable(ctx, r)), fault.Target, "disable key apikey_1 at Anthropic: declined (status 400 invalid_request_error: not now)")
	requireFault(t, only(p.revoke(ctx, r)), fault.Target, "archive key apikey_1 at Anthropic: declined")
	status = "inactive"
	requireFault(t, p.enable(ctx, r), fault.Target, "enable key apikey_1 at Anthropic: declined")
	require.Equal(t, []string{
		"GET /v1/organizations/api_keys/apikey_1", `POST /v1/organizations/api_keys/apikey_1 {"status":"inactive"}`,
		"GET /v1/organizations/api_keys/apikey_1", `POST /v1/organizations/api_keys/apikey_1 {"status":"archived"}`,
		"GET /v1/organizations/api_keys/apikey_1", `POST /v1/organizations/api_keys/apikey_1 {"status":"active"}`,
	}, s.requests())
}

func TestAnthropicHostileLists(t *testing.T) {
	t.Parallel()
	match := `"partial_key_hint":"sk-ant-api03-R2D...igAA","status":"active"`
	for name, body := range map[string]string{
		"empty": "", "HTML": "<html>", "null": "null", "object": "{}", "no data": `{"has_more":false}`, "no end": `{"data":[]}`,
		"data of types": `{"data":[7],"has_more":false}`, "hint of types": `{"data":[{"partial_key_hint":{}}],"has_more":false}`,
		"id is a path": `{"data":[{"id":"../x",` + match + `}],"has_more":false}`, "no id": `{"data":[{` + match + `}],"has_more":false}`,
		"no cursor": `{"data":[],"has_more":true,"last_id":null}`, "standing cursor": `{"data":[],"has_more":true,"last_id":"a"}`,
		"without end": `{"data":[{"id":"` + strings.Repeat("x", 2<<20) + `"}],"has_more":false}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, p := scriptedAnthropic(t, saying(200, body))
			_, err := p.identify(context.Background(), secret.New(testAnthropicKey), "")
			requireFault(t, err, fault.Target, "", "CANARY")
		})
	}
}

func TestAnthropicCheck(t *testing.T) {
	t.Parallel()
	api, p := anthropicAt(t, "wrkspc_a")
	ctx := context.Background()
	lines, err := p.check(ctx)
	require.NoError(t, err)
	require.Equal(t, "admin key: pass, keys: pass", results(lines))
	lines, err = openProvider(t, anthropicKind, api.URL(), testAnthropicAdmin, nil).check(ctx)
	require.NoError(t, err)
	require.Equal(t, "admin key: fail", results(lines))
	_, p = scriptedAnthropic(t, saying(403, anthropicErrorBody("permission_error", "no")))
	lines, err = p.check(ctx)
	require.NoError(t, err)
	require.Equal(t, "keys: fail", results(lines))
	_, p = scriptedAnthropic(t, saying(529, anthropicErrorBody("overloaded_error", "no")))
	lines, err = p.check(ctx)
	require.NoError(t, err)
	require.Equal(t, "reach Anthropic: fail", results(lines))
}

func TestAnthropicCheckKey(t *testing.T) {
	t.Parallel()
	_, p := scriptedAnthropic(t, saying(200, ""))
	require.NoError(t, p.checkKey(secret.New(testAnthropicKey)))
	requireFault(t, p.checkKey(secret.New(testAnthropicAdmin)), fault.Invalid, "key: is an admin key", "CANARY")
	requireFault(t, p.checkKey(secret.String{}), fault.Invalid, "key: is empty")
}
