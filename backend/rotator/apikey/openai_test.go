package apikey

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
)

const (
	testAdminKey = "sk-admin-CANARY0123456789"
	accountsPath = "/v1/organization/projects/*/service_accounts"
	accountPath  = "/v1/organization/projects/*/service_accounts/*"
)

// openAIAt opens a connection to a fake.
func openAIAt(t *testing.T) (*fakeapi.OpenAI, *openAI) {
	t.Helper()
	api := fakeapi.NewOpenAI()
	t.Cleanup(api.Close)
	p := openProvider(t, openAIKind, api.BaseURL(), api.AdminKey(), option.Values{"project": api.Project()})
	return api, p.(*openAI)
}

// scriptedOpenAI opens a connection to a server that says what the test wants.
func scriptedOpenAI(t *testing.T, answer http.HandlerFunc) (*script, *openAI) {
	t.Helper()
	s := answering(t, answer)
	return s, openProvider(t, openAIKind, s.URL+"/v1", testAdminKey, option.Values{"project": "proj_abc"}).(*openAI)
}

func openAIErrorBody(code, typ, message string) string {
	quoted := "null"
	if code != "" {
		quoted = fmt.Sprintf("%q", code)
	}
	return fmt.Sprintf(`{"error":{"message":%q,"type":%q,"param":null,"code":%s}}`, message, typ, quoted)
}

func TestOpenAIOptions(t *testing.T) {
	t.Parallel()
	require.NoError(t, checkOptions(openAIKind, testAdminKey, option.Values{"project": "proj_abc", "organization": "org-abc"}))
	for name, c := range map[string]struct {
		admin string
		with  option.Values
		part  string
	}{
		"no admin key":       {"", option.Values{"project": "proj_abc"}, "admin_key: is required"},
		"ordinary key":       {"sk-proj-CANARY", option.Values{"project": "proj_abc"}, "admin_key: must be an admin key"},
		"admin key on lines": {testAdminKey + "\n", option.Values{"project": "proj_abc"}, "admin_key: must be an admin key"},
		"no project":         {testAdminKey, nil, "project: is required"},
		"project is a path":  {testAdminKey, option.Values{"project": "proj_abc/../x"}, "project: must be the id"},
		"organization":       {testAdminKey, option.Values{"project": "proj_abc", "organization": "a\r\nb"}, "organization: must be the id"},
		"foreign option":     {testAdminKey, option.Values{"project": "proj_abc", "workspace": "w"}, ""},
	} {
		err := checkOptions(openAIKind, c.admin, c.with)
		if name == "foreign option" { // belongs to another kind, and stays unread
			require.NoError(t, err, name)
			continue
		}
		requireFault(t, err, fault.Invalid, c.part, "CANARY")
	}
}

func TestOpenAILife(t *testing.T) {
	t.Parallel()
	api, p := openAIAt(t)
	ctx := context.Background()
	require.Equal(t, "OpenAI", p.title())
	require.Equal(t, abilities{Create: true, Identify: true, Revoke: true}, p.abilities())
	require.NoError(t, p.ping(ctx))

	c, err := p.create(ctx, "vault-r1-a")
	require.NoError(t, err)
	require.True(t, api.Works(c.Key.Reveal()))
	require.Equal(t, api.Accounts()[0].ID, c.Reference.Owner)
	require.Equal(t, api.Keys()[0].ID, c.Reference.ID)
	require.NoError(t, p.checkKey(c.Key))
	answer, err := p.verify(ctx, c.Key)
	require.NoError(t, err)
	require.Equal(t, "200", answer)

	api.MakeAccountByHand("somebody else's")
	keys, err := p.find(ctx, "vault-r1-")
	require.NoError(t, err)
	require.Len(t, keys, 1)
	require.Equal(t, "vault-r1-a", keys[0].Name)
	require.Equal(t, reference{Owner: c.Reference.Owner}, keys[0].Reference)
	require.False(t, keys[0].Created.IsZero())

	gone, err := p.revoke(ctx, c.Reference)
	require.NoError(t, err)
	require.False(t, gone, "it was there")
	require.False(t, api.Works(c.Key.Reveal()))
	_, err = p.verify(ctx, c.Key)
	requireFault(t, err, fault.AuthFailed, "verify a key at OpenAI: the key is refused (status 401 invalid_api_key: ", c.Key.Reveal())
	gone, err = p.revoke(ctx, c.Reference)
	require.NoError(t, err, "what is gone is done")
	require.True(t, gone)
	require.Len(t, api.Accounts(), 1, "nothing foreign is touched")
}

func TestOpenAILostAnswer(t *testing.T) {
	t.Parallel()
	api, p := openAIAt(t)
	ctx := context.Background()
	api.LoseAnswer(1, fakeapi.On("POST", accountsPath))
	_, err := p.create(ctx, "vault-r1-a")
	requireFault(t, err, fault.Unconfirmed, "make a service account with a key at OpenAI", api.AdminKey())
	require.Len(t, api.Accounts(), 1, "it is made once")

	keys, err := p.find(ctx, "vault-r1-a")
	require.NoError(t, err)
	require.Len(t, keys, 1)
	require.NoError(t, only(p.revoke(ctx, keys[0].Reference)))
	require.Empty(t, api.Accounts())

	// A lost answer of a DELETE is asked for again, and finds that it is done.
	c, err := p.create(ctx, "vault-r1-b")
	require.NoError(t, err)
	api.LoseAnswer(1, fakeapi.On("DELETE", accountPath))
	require.NoError(t, only(p.revoke(ctx, c.Reference)))
	require.Empty(t, api.Accounts())
}

// What a create answers decides whether there may be a key.
func TestOpenAICreateAnswers(t *testing.T) {
	t.Parallel()
	good := `{"id":"svc_1","api_key":{"id":"key_1","value":"sk-svcacct-CANARY","expires_at":1711471533}}`
	for name, c := range map[string]struct {
		status int
		body   string
		kind   fault.Kind
	}{
		"good":                  {200, good, ""},
		"good, 201":             {201, good, ""},
		"kept back on its way":  {403, "<html>blocked: the answer holds sk-svcacct-CANARY", fault.Unconfirmed},
		"refused by somebody":   {401, `{"message":"who?"}`, fault.Unconfirmed},
		"id is the key":         {200, `{"id":"svc_1","api_key":{"id":"sk-svcacct-CANARY","value":"sk-svcacct-CANARY"}}`, fault.Unconfirmed},
		"owner is the key":      {200, `{"id":"sk-svcacct-CANARY","api_key":{"id":"key_1","value":"sk-svcacct-CANARY"}}`, fault.Unconfirmed},
		"declined":              {400, openAIErrorBody("", "invalid_request_error", "no"), fault.Target},
		"no such project":       {404, openAIErrorBody("", "invalid_request_error", "no"), fault.Target},
		"forbidden":             {403, openAIErrorBody("", "invalid_request_error", "no"), fault.Target},
		"admin key is refused":  {401, openAIErrorBody("invalid_api_key", "invalid_request_error", "no"), fault.AuthFailed},
		"rate":                  {429, openAIErrorBody("rate_limit_exceeded", "requests", "no"), fault.Unreachable},
		"timed out":             {408, "", fault.Unconfirmed},
		"failed":                {500, openAIErrorBody("", "server_error", "sk-svcacct-CANARY"), fault.Unconfirmed},
		"gateway":               {502, "<html>sk-svcacct-CANARY", fault.Unconfirmed},
		"elsewhere":             {302, "", fault.Unconfirmed},
		"empty":                 {200, "", fault.Unconfirmed},
		"no JSON":               {200, "<html>sk-svcacct-CANARY", fault.Unconfirmed},
		"null":                  {200, "null", fault.Unconfirmed},
		"list":                  {200, "[]", fault.Unconfirmed},
		"no key":                {200, `{"id":"svc_1","api_key":null}`, fault.Unconfirmed},
		"no value":              {200, `{"id":"svc_1","api_key":{"id":"key_1"}}`, fault.Unconfirmed},
		"no id":                 {200, `{"id":"svc_1","api_key":{"value":"sk-svcacct-CANARY"}}`, fault.Unconfirmed},
		"no owner":              {200, `{"api_key":{"id":"key_1","value":"sk-svcacct-CANARY"}}`, fault.Unconfirmed},
		"id is a path":          {200, `{"id":"svc_1","api_key":{"id":"../key","value":"sk-svcacct-CANARY"}}`, fault.Unconfirmed},
		"owner is a path":       {200, `{"id":"..","api_key":{"id":"key_1","value":"sk-svcacct-CANARY"}}`, fault.Unconfirmed},
		"id of a wrong type":    {200, `{"id":7,"api_key":{"id":"key_1","value":"sk-svcacct-CANARY"}}`, fault.Unconfirmed},
		"value of a wrong type": {200, `{"id":"svc_1","api_key":{"id":"key_1","value":{"CANARY":1}}}`, fault.Unconfirmed},
		"value of lines":        {200, `{"id":"svc_1","api_key":{"id":"key_1","value":"sk-CANARY\nx"}}`, fault.Unconfirmed},
		"value without end":     {200, `{"id":"svc_1","api_key":{"id":"key_1","value":"sk-CANARY` + strings.Repeat("x", maxKey) + `"}}`, fault.Unconfirmed},
		"an admin key":          {200, `{"id":"svc_1","api_key":{"id":"key_1","value":"sk-admin-CANARY"}}`, fault.Unconfirmed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, p := scriptedOpenAI(t, saying(c.status, c.body))
			made, err := p.create(context.Background(), "n")
			if c.kind == "" {
				require.NoError(t, err)
				require.Equal(t, reference{ID: "key_1", Owner: "svc_1", Expires: instant(1711471533)}, made.Reference)
			} else {
				requireFault(t, err, c.kind, "make a service account with a key at OpenAI", "CANARY")
			}
			require.Equal(t, []string{`POST /v1/organization/projects/proj_abc/service_accounts {"name":"n"}`}, s.requests(), "asked once")
		})
	}
}

// OpenAI says 401 and 429 of keys that it accepts, and 403 of calls whose key it never saw.
func TestOpenAIVerifyAnswers(t *testing.T) {
	t.Parallel()
	const scopes = "You have insufficient permissions for this operation. Missing scopes: api.model.read."
	for name, c := range map[string]struct {
		status int
		body   string
		answer string
		kind   fault.Kind
	}{
		"accepted":            {200, `{"object":"list","data":[]}`, "200", ""},
		"without a scope":     {401, openAIErrorBody("", "invalid_request_error", scopes), "401 missing scopes", ""},
		"the same, with code": {401, openAIErrorBody("missing_scope", "invalid_request_error", scopes), "401 missing scopes", ""},
		"forbidden":           {403, openAIErrorBody("", "invalid_request_error", "no access"), "403", ""},
		"out of quota":        {429, openAIErrorBody("insufficient_quota", "insufficient_quota", "no money"), "429 insufficient_quota", ""},
		"refused":             {401, openAIErrorBody("invalid_api_key", "invalid_request_error", "Incorrect API key"), "", fault.AuthFailed},
		"no key arrived":      {401, openAIErrorBody("", "invalid_request_error", "You didn't provide an API key."), "", fault.Target},
		"account closed":      {401, openAIErrorBody("account_deactivated", "invalid_request_error", "closed"), "", fault.Target},
		"turned away":         {403, openAIErrorBody("unsupported_country_region_territory", "request_forbidden", "not here"), "", fault.Target},
		"unknown":             {418, openAIErrorBody("", "teapot", "short and stout"), "", fault.Target},
		"too often":           {429, openAIErrorBody("rate_limit_exceeded", "requests", "slow down"), "", fault.Unreachable},
		"failing":             {500, openAIErrorBody("", "server_error", "sorry"), "", fault.Unreachable},
		"overloaded":          {503, "", "", fault.Unreachable},
		"a page of a gateway": {403, "<html>blocked</html>", "", fault.Unreachable},
		"another's 401":       {401, `{"message":"Unauthorized"}`, "", fault.Unreachable},
		"an error of types":   {401, `{"error":{"message":1,"code":"invalid_api_key"}}`, "", fault.Unreachable},
		"elsewhere":           {307, "", "", fault.Unreachable},
		"a portal":            {200, "<html>log in</html>", "", fault.Unreachable},
		"another's 200":       {200, `{"object":"list"}`, "", fault.Unreachable},
		"nothing":             {204, "", "", fault.Unreachable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, p := scriptedOpenAI(t, saying(c.status, c.body))
			answer, err := p.verify(context.Background(), secret.New("sk-proj-CANARY"))
			require.Equal(t, c.answer, answer)
			requireOutcome(t, err, c.kind, "verify a key at OpenAI", "CANARY")
		})
	}
}

// Keys are proven with faithful answers too.
func TestOpenAIVerifyFake(t *testing.T) {
	t.Parallel()
	api, p := openAIAt(t)
	key, _ := api.MakeByHand("k")
	api.LimitScopes(key)
	answer, err := p.verify(context.Background(), secret.New(key))
	require.NoError(t, err)
	require.Equal(t, "401 missing scopes", answer)
	api.ExpireByHand(key)
	_, err = p.verify(context.Background(), secret.New(key))
	requireFault(t, err, fault.AuthFailed, "the key is refused", key)
}

// A provider that quotes what it was sent does not make us quote it.
func TestOpenAIEcho(t *testing.T) {
	t.Parallel()
	api, p := openAIAt(t)
	api.Echo(true)
	ctx, admin := context.Background(), api.AdminKey()
	_, err := p.verify(ctx, secret.New("sk-proj-CANARY0123456789"))
	requireFault(t, err, fault.AuthFailed, "invalid_api_key", "CANARY0123456789")
	err = openProvider(t, openAIKind, api.BaseURL(), admin, option.Values{"project": "proj_other"}).ping(ctx)
	requireFault(t, err, fault.Target, "No such project: proj_other", admin)
}

func TestOpenAIOrganizationHeader(t *testing.T) {
	t.Parallel()
	var got []string
	s := answering(t, func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Header.Get("OpenAI-Organization")+" "+r.Header.Get("Authorization"))
		saying(200, `{"object":"list","data":[]}`)(w, r)
	})
	p := openProvider(t, openAIKind, s.URL+"/v1", testAdminKey, option.Values{"project": "proj_abc", "organization": "org-abc"})
	require.NoError(t, p.ping(context.Background()))
	_, err := p.verify(context.Background(), secret.New("sk-proj-a"))
	require.NoError(t, err)
	require.Equal(t, []string{"org-abc Bearer " + testAdminKey, " Bearer sk-proj-a"}, got)
}

func TestOpenAIFindReadsAllPages(t *testing.T) {
	t.Parallel()
	api, p := openAIAt(t)
	for i := range 230 {
		api.MakeAccountByHand(fmt.Sprintf("vault-%03d", i))
	}
	api.ForgetRequests()
	keys, err := p.find(context.Background(), "vault-")
	require.NoError(t, err)
	require.Len(t, keys, 230)
	require.Len(t, api.Requests(), 3)
	keys, err = p.find(context.Background(), "vault-229")
	require.NoError(t, err)
	require.Len(t, keys, 1)

	// An error on the way is no shorter list.
	api.Fail(-1, func(r *http.Request) bool { return r.URL.Query().Get("after") != "" }, 500, nil, api.ErrorBody(500, "sorry"))
	_, err = p.find(context.Background(), "vault-")
	requireFault(t, err, fault.Unreachable, "list the service accounts of project "+api.Project()+" at OpenAI: it cannot serve now (status 500", api.AdminKey())
}

// A list that is not one must not seem to be empty.
func TestOpenAIHostileLists(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"empty": "", "HTML": "<html>", "null": "null", "object": "{}", "no data": `{"object":"list"}`, "null data": `{"object":"list","data":null}`,
		"no list": `{"object":"page","data":[]}`, "data of types": `{"object":"list","data":[7]}`, "name of types": `{"object":"list","data":[{"name":[]}]}`,
		"id is a path": `{"object":"list","data":[{"id":"a/b","name":"vault-1"}]}`, "no id": `{"object":"list","data":[{"name":"vault-1"}]}`,
		"time of types":      `{"object":"list","data":[{"id":"a","name":"vault-1","created_at":"now"}]}`,
		"no cursor":          `{"object":"list","data":[{"id":"a","name":"x"}],"has_more":true}`,
		"a cursor that is 1": `{"object":"list","data":[{"id":"a","name":"x"}],"has_more":true,"last_id":1}`,
		"standing cursor":    `{"object":"list","data":[{"id":"a","name":"x"}],"has_more":true,"last_id":"a"}`,
		"without end":        `{"object":"list","data":[{"id":"a","name":"` + strings.Repeat("x", 2<<20) + `"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, p := scriptedOpenAI(t, saying(200, body))
			_, err := p.find(context.Background(), "vault-")
			requireFault(t, err, fault.Target, "", testAdminKey)
			_, err = p.rootFind(context.Background(), "vault-")
			requireFault(t, err, fault.Target, "", testAdminKey)
		})
	}
}

func TestOpenAIPagesWithoutEnd(t *testing.T) {
	t.Parallel()
	n := 0
	s, p := scriptedOpenAI(t, func(w http.ResponseWriter, r *http.Request) {
		n++
		saying(200, fmt.Sprintf(`{"object":"list","data":[],"has_more":true,"last_id":"id_%d"}`, n))(w, r)
	})
	_, err := p.find(context.Background(), "vault-")
	requireFault(t, err, fault.Target, "more than 100 pages")
	require.Len(t, s.requests(), maxPages)
	require.Equal(t, "GET /v1/organization/projects/proj_abc/service_accounts?after=id_1&limit=100", s.requests()[1])
}

func TestOpenAIIdentify(t *testing.T) {
	t.Parallel()
	api, p := openAIAt(t)
	ctx := context.Background()
	for i := range 120 {
		api.MakeByHand(fmt.Sprint("other ", i))
	}
	mine, id := api.MakeByHand("mine")
	shared, account := api.MakeAccountByHand("app")
	_, other := api.MakeByHand("another")

	r, err := p.identify(ctx, secret.New(mine), "")
	require.NoError(t, err)
	require.Equal(t, reference{ID: id}, r)
	r, err = p.identify(ctx, secret.New(mine), id)
	require.NoError(t, err)
	require.Equal(t, reference{ID: id}, r)
	r, err = p.identify(ctx, secret.New(shared), "")
	require.NoError(t, err)
	require.Equal(t, account, r.Owner)
	require.NotEmpty(t, r.ID)

	_, err = p.identify(ctx, secret.New(mine), other)
	requireFault(t, err, fault.Invalid, "key_id: is the id of another key", mine)
	_, err = p.identify(ctx, secret.New(mine), "key_none")
	requireFault(t, err, fault.Invalid, "key_id: is the id of no key of project "+api.Project(), mine)
	_, err = p.identify(ctx, secret.New("sk-proj-CANARY-of-elsewhere"), "")
	requireFault(t, err, fault.Invalid, "key: is none of the keys of project "+api.Project(), "CANARY")

	// A key of a person ends by itself, and one of an account with it.
	require.NoError(t, only(p.revoke(ctx, reference{ID: id})))
	require.False(t, api.Works(mine))
	require.NoError(t, only(p.revoke(ctx, r)))
	require.False(t, api.Works(shared))
	require.NoError(t, only(p.revoke(ctx, reference{ID: id})), "what is gone is done")
}

// openAIKeyList is what a project lists of its keys: "id hint account".
func openAIKeyList(keys ...string) string {
	var out []string
	for _, k := range keys {
		part := strings.Fields(k)
		owner := `{"type":"user","user":{"id":"user_1"}}`
		if len(part) > 2 {
			owner = fmt.Sprintf(`{"type":"service_account","service_account":{"id":%q}}`, part[2])
		}
		out = append(out, fmt.Sprintf(`{"id":%q,"redacted_value":%q,"owner":%s}`, part[0], part[1], owner))
	}
	return `{"object":"list","data":[` + strings.Join(out, ",") + `],"has_more":false}`
}

func TestOpenAIIdentifyLookAlikes(t *testing.T) {
	t.Parallel()
	ctx, key := context.Background(), secret.New("sk-proj-CANARYCANARYCANARY-wxyz")
	identify := func(t *testing.T, id string, keys ...string) (reference, error) {
		t.Helper()
		s, p := scriptedOpenAI(t, saying(200, openAIKeyList(keys...)))
		r, err := p.identify(ctx, key, id)
		require.Equal(t, []string{"GET /v1/organization/projects/proj_abc/api_keys?limit=100&owner_project_access=any"}, s.requests())
		return r, err
	}
	_, err := identify(t, "", "key_1 sk-proj-...wxyz", "key_2 sk-proj-...abcd", "key_3 sk-proj-****wxyz svc_1")
	requireFault(t, err, fault.Invalid, "key_id: is required: 2 keys of project proj_abc look like this one (key_1, key_3)", "CANARY")
	r, err := identify(t, "key_3", "key_1 sk-proj-...wxyz", "key_2 sk-proj-...abcd", "key_3 sk-proj-****wxyz svc_1")
	require.NoError(t, err)
	require.Equal(t, reference{ID: "key_3", Owner: "svc_1"}, r)
	_, err = identify(t, "", "key_1 sk-proj-...wxyz", "key_2 sk-proj-...abcd")
	requireFault(t, err, fault.Invalid, "key_id: is required: one key of project proj_abc looks like this one (key_1), and OpenAI shows too little of it to be sure", "CANARY")
	r, err = identify(t, "key_1", "key_1 sk-proj-...wxyz", "key_2 sk-proj-...abcd")
	require.NoError(t, err)
	require.Equal(t, reference{ID: "key_1"}, r)
	r, err = identify(t, "", "key_1 sk-proj-CAN...xyz", "key_2 sk-proj-CAN...abc")
	require.NoError(t, err)
	require.Equal(t, reference{ID: "key_1"}, r)
	_, err = identify(t, "", "key_1 sk-...")
	requireFault(t, err, fault.Invalid, "key: is none of the keys", "CANARY")

	// Deleting the account would end keys that nobody spoke of.
	const others = "belongs to service account svc_1, which has 2 more"
	_, err = identify(t, "", "key_1 sk-proj-C...wxyz svc_1", "key_2 sk-proj-...aaaa svc_1", "key_3 sk-proj-...bbbb svc_1", "key_4 sk-proj-...cccc svc_2")
	requireFault(t, err, fault.Invalid, others, "CANARY")
	_, err = identify(t, "key_1", "key_1 sk-proj-...wxyz svc_1", "key_2 sk-proj-...aaaa svc_1", "key_3 sk-proj-...wxyz svc_1")
	requireFault(t, err, fault.Invalid, others, "CANARY")

	for _, hostile := range []string{"../key sk-proj-C...wxyz", "key_1 sk-proj-C...wxyz a/b", key.Reveal() + " sk-proj-C...wxyz"} {
		_, err = identify(t, "", hostile)
		requireFault(t, err, fault.Target, "OpenAI gives an id of the key that cannot be used", "CANARY")
	}
}

// Only OpenAI's own word ends a key.
func TestOpenAIRevokeAnswers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status int
		body   string
		kind   fault.Kind
		gone   bool
	}{
		"deleted":        {200, `{"object":"organization.project.service_account.deleted","id":"svc_1","deleted":true}`, "", false},
		"gone":           {404, openAIErrorBody("", "invalid_request_error", "No such service account"), "", true},
		"another's 404":  {404, "<html>not found</html>", fault.Unreachable, false},
		"no such path":   {404, openAIErrorBody("", "invalid_request_error", "Invalid URL (DELETE /v1/x)"), fault.Target, false},
		"the same":       {404, openAIErrorBody("unknown_url", "invalid_request_error", "Unknown request URL"), fault.Target, false},
		"not deleted":    {200, `{"deleted":false}`, fault.Target, false},
		"no word of it":  {200, `{}`, fault.Target, false},
		"empty":          {204, ``, fault.Target, false},
		"declined":       {400, openAIErrorBody("", "invalid_request_error", "The key belongs to a service account"), fault.Target, false},
		"refused":        {401, openAIErrorBody("invalid_api_key", "invalid_request_error", "no"), fault.AuthFailed, false},
		"too often":      {429, openAIErrorBody("rate_limit_exceeded", "requests", "no"), fault.Unreachable, false},
		"of wrong types": {200, `{"deleted":"yes"}`, fault.Target, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, p := scriptedOpenAI(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet {
					saying(200, `{"object":"list","data":[]}`)(w, r)
					return
				}
				saying(c.status, c.body)(w, r)
			})
			for action, r := range map[string]reference{"delete service account svc_1 at OpenAI": {ID: "key_1", Owner: "svc_1"}, "delete key key_1 at OpenAI": {ID: "key_1"}} {
				gone, err := p.revoke(context.Background(), r)
				require.Equal(t, c.gone, gone)
				requireOutcome(t, err, c.kind, action, testAdminKey)
			}
		})
	}
}

// A 404 says that a key is gone only where its list is there.
func TestOpenAIAbsenceIsConfirmed(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	no := openAIErrorBody("", "invalid_request_error", "No such object")
	for name, c := range map[string]struct {
		status int
		body   string
		kind   fault.Kind
	}{
		"another's project": {404, no, fault.Target},
		"a portal":          {200, "<html>", fault.Target},
		"nobody":            {503, "", fault.Unreachable},
		"refused":           {401, openAIErrorBody("invalid_api_key", "invalid_request_error", "no"), fault.AuthFailed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, p := scriptedOpenAI(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet {
					saying(c.status, c.body)(w, r)
					return
				}
				saying(404, no)(w, r)
			})
			gone, err := p.revoke(ctx, reference{ID: "key_1"})
			requireFault(t, err, c.kind, "delete key key_1 at OpenAI: it is said to be gone, which is not confirmed", testAdminKey)
			require.False(t, gone)
			require.Equal(t, []string{"DELETE /v1/organization/projects/proj_abc/api_keys/key_1", "GET /v1/organization/projects/proj_abc/api_keys?limit=1"}, s.requests()[:2])
			requireFault(t, p.rootRevoke(ctx, reference{ID: "key_2"}), c.kind, "delete admin key key_2 at OpenAI: it is said to be gone, which is not confirmed", testAdminKey)
		})
	}
}

// An id of a journal that was tampered with leads nowhere.
func TestOpenAIRevokeWithoutID(t *testing.T) {
	t.Parallel()
	s, p := scriptedOpenAI(t, saying(200, `{"deleted":true}`))
	for _, r := range []reference{{}, {ID: ".."}, {Owner: "../../projects/proj_x"}, {ID: "key_1", Owner: "a b"}} {
		require.Equal(t, fault.Internal, fault.KindOf(only(p.revoke(context.Background(), r))))
	}
	require.Equal(t, fault.Internal, fault.KindOf(p.rootRevoke(context.Background(), reference{})))
	require.Empty(t, s.requests())
}

func TestOpenAICheck(t *testing.T) {
	t.Parallel()
	api, _ := openAIAt(t)
	ctx := context.Background()
	check := func(admin, project string) string {
		p := openProvider(t, openAIKind, api.BaseURL(), admin, option.Values{"project": project})
		lines, err := p.check(ctx)
		require.NoError(t, err)
		require.Equal(t, lines[len(lines)-1].Result == rotator.Pass, p.ping(ctx) == nil, "ping agrees")
		return results(lines)
	}
	require.Equal(t, "admin key: pass, project: pass, service accounts: pass", check(api.AdminKey(), api.Project()))
	require.Equal(t, "admin key: pass, project: fail", check(api.AdminKey(), "proj_other"))
	require.Equal(t, "admin key: fail", check(testAdminKey, api.Project()))

	_, p := scriptedOpenAI(t, saying(401, openAIErrorBody("", "invalid_request_error", "Missing scopes: api.management.read")))
	lines, err := p.check(ctx)
	require.NoError(t, err)
	require.Equal(t, "admin key: pass, service accounts: fail", results(lines))
	requireFault(t, p.ping(ctx), fault.Target, "Missing scopes: api.management.read", testAdminKey)

	_, p = scriptedOpenAI(t, saying(503, ""))
	lines, err = p.check(ctx)
	require.NoError(t, err)
	require.Equal(t, "service accounts: fail", results(lines))

	lines, err = openProvider(t, openAIKind, nobody, testAdminKey, option.Values{"project": "proj_x"}).check(ctx)
	require.NoError(t, err)
	require.Equal(t, "reach OpenAI: fail", results(lines))
}

// results are the lines of a check, in short.
func results(lines []rotator.Line) string {
	out := make([]string, 0, len(lines))
	for _, l := range lines {
		out = append(out, fmt.Sprintf("%s: %s", l.Check, l.Result))
	}
	return strings.Join(out, ", ")
}

func TestOpenAICheckKey(t *testing.T) {
	t.Parallel()
	_, p := scriptedOpenAI(t, saying(200, ""))
	require.NoError(t, p.checkKey(secret.New("sk-proj-abc_DEF-1")))
	for text, part := range map[string]string{
		"": "key: is empty", "sk-admin-CANARY": "key: is an admin key", "sk-CANARY x": "key: must be of printable ASCII", "sk-CANARY\n": "key: must be",
		"sk-CANARY\x00": "key: must be", "sk-CANARYé": "key: must be", "sk-CANARY" + strings.Repeat("x", maxKey): "key: is longer than 4096 bytes",
	} {
		requireFault(t, p.checkKey(secret.New(text)), fault.Invalid, part, "CANARY")
	}
	require.Contains(t, p.byHand().Make, "project proj_abc")
	require.Contains(t, p.byHand().End, "proj_abc")
}

// A new admin key that cannot be taken into use is there all the same.
func TestOpenAIMintRootUnconfirmed(t *testing.T) {
	t.Parallel()
	api, p := openAIAt(t)
	conn := &Connection{provider: p, withAdminKey: func(secret.String) (provider, error) { return nil, fault.New(fault.Internal, "no") }}
	_, err := (&ConnectionKind{kind: openAIKind}).MintRoot(context.Background(), conn, "vault-root-1")
	requireFault(t, err, fault.Unconfirmed, "the new admin key was made, and cannot be taken into use: no", api.AdminKey())
	require.Len(t, api.AdminKeys(), 2)
}

// The admin key makes the one that takes its place.
func TestOpenAIRootKeys(t *testing.T) {
	t.Parallel()
	api, p := openAIAt(t)
	ctx, first := context.Background(), api.AdminKey()
	old, err := p.rootIdentify(ctx, secret.New(first))
	require.NoError(t, err)
	c, err := p.rootCreate(ctx, "vault-root-1")
	require.NoError(t, err)
	require.True(t, api.Works(c.Key.Reveal()))
	require.NoError(t, checkOptions(openAIKind, c.Key.Reveal(), option.Values{"project": "proj_abc"}))

	next := openProvider(t, openAIKind, api.BaseURL(), c.Key.Reveal(), option.Values{"project": api.Project()}).(*openAI)
	keys, err := next.rootFind(ctx, "vault-root-")
	require.NoError(t, err)
	require.Len(t, keys, 1)
	require.Equal(t, c.Reference.ID, keys[0].Reference.ID)
	known, err := next.rootIdentify(ctx, c.Key)
	require.NoError(t, err)
	require.Equal(t, reference{ID: c.Reference.ID}, known)

	require.NoError(t, next.rootRevoke(ctx, old))
	require.False(t, api.Works(first))
	require.NoError(t, next.rootRevoke(ctx, old), "what is gone is done")
	requireFault(t, p.ping(ctx), fault.AuthFailed, "the admin key is refused", first)
	_, err = next.rootIdentify(ctx, secret.New(first))
	requireFault(t, err, fault.Target, "no admin key that the one in use can be", first)

	api.LoseAnswer(1, fakeapi.On("POST", "/v1/organization/admin_api_keys"))
	_, err = next.rootCreate(ctx, "vault-root-2")
	requireFault(t, err, fault.Unconfirmed, "make an admin key at OpenAI", c.Key.Reveal())
	keys, err = next.rootFind(ctx, "vault-root-2")
	require.NoError(t, err)
	require.Len(t, keys, 1)
}

func TestOpenAIRootAnswers(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, body := range []string{
		"", "{}", `{"id":"key_1"}`, `{"value":"sk-admin-CANARY"}`, `{"id":"a/b","value":"sk-admin-CANARY"}`, `{"id":"key_1","value":"sk-proj-CANARY"}`,
		`{"id":"key_1","value":"sk-admin-CANARY x"}`, `{"id":"key_1","value":7}`,
		`{"id":"sk-admin-CANARY","value":"sk-admin-CANARY"}`,
	} {
		_, p := scriptedOpenAI(t, saying(200, body))
		_, err := p.rootCreate(ctx, "n")
		requireFault(t, err, fault.Unconfirmed, "make an admin key at OpenAI", "sk-")
	}
	_, p := scriptedOpenAI(t, saying(403, "<html>blocked: it holds sk-admin-CANARY"))
	_, err := p.rootCreate(ctx, "n")
	requireFault(t, err, fault.Unconfirmed, "make an admin key at OpenAI", "sk-")
	_, p = scriptedOpenAI(t, saying(403, openAIErrorBody("", "invalid_request_error", "no owner")))
	_, err = p.rootCreate(ctx, "n")
	requireFault(t, err, fault.Target, "make an admin key at OpenAI: declined (status 403 invalid_request_error: no owner)")

	two := `{"object":"list","data":[{"id":"key_1","redacted_value":"sk-admin...789"},{"id":"key_2","redacted_value":"sk-admin...789"}]}`
	_, p = scriptedOpenAI(t, saying(200, two))
	_, err = p.rootIdentify(ctx, secret.New(testAdminKey))
	requireFault(t, err, fault.Target, "2 admin keys that look like the one in use (key_1, key_2)", testAdminKey)
	_, p = scriptedOpenAI(t, saying(200, `{"object":"list","data":[{"id":"a/b","redacted_value":"sk-admin...789"}]}`))
	_, err = p.rootIdentify(ctx, secret.New(testAdminKey))
	requireFault(t, err, fault.Target, "an id of the admin key that cannot be used", testAdminKey)
}

// What a key is known by can be stored, whatever the provider says of times.
func TestOpenAIHostileTimes(t *testing.T) {
	t.Parallel()
	_, p := scriptedOpenAI(t, saying(200, `{"id":"svc_1","api_key":{"id":"key_1","value":"sk-a","expires_at":9223372036854775807}}`))
	c, err := p.create(context.Background(), "n")
	require.NoError(t, err)
	raw, err := json.Marshal(c.Reference)
	require.NoError(t, err)
	require.JSONEq(t, `{"id":"key_1","owner":"svc_1"}`, string(raw))
}
