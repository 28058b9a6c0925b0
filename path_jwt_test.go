package rotationsecrets

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/jwt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/rotatortest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// kindOf is the in-memory kind under another name, with no more than the contract.
type kindOf struct {
	rotator.Rotator
	name string
}

func (k kindOf) Kind() rotator.Kind {
	kind := k.Rotator.Kind()
	kind.Name = k.name
	return kind
}

// signer stands in for the kind of the type jwt: its tokens say what was asked.
type signer struct {
	kindOf
	failure error // of every use
}

func (s *signer) Load(*rotation.Version, secret.Map) (any, error) { return nil, nil }

func (s *signer) Use(_ context.Context, live *rotator.LiveVersions, request any) (any, error) {
	version := live.Current.Version.Number
	if s.failure != nil {
		return nil, s.failure
	}
	switch r := request.(type) {
	case jwt.SignRequest:
		out := make([]jwt.Signed, 0, len(r.Items))
		for _, item := range r.Items {
			out = append(out, signed(item, r.Populate, version))
		}
		return out, nil
	case jwt.VerifyRequest:
		if r.Audience != "crm" {
			return &jwt.Verified{Claims: map[string]any{"sub": "hidden"}, Reason: "the audience is another"}, nil
		}
		return &jwt.Verified{Active: true, KeyID: "kid-1", Version: version, Claims: map[string]any{"sub": r.Token}}, nil
	case jwt.KeySetRequest:
		return &jwt.Document{JSON: []byte(`{"keys":[]}`), MaxAge: 90 * time.Second}, nil
	case jwt.DiscoveryRequest:
		return &jwt.Document{JSON: []byte(r.KeySetURL), MaxAge: time.Hour}, nil
	}
	return nil, fault.New(fault.Invalid, "not a request of this kind")
}

func signed(item jwt.SignItem, populate func(string) (string, error), version int) jwt.Signed {
	if template, ok := item.Claims["template"].(string); ok {
		filled, err := populate(template)
		return jwt.Signed{Token: filled, Err: err}
	}
	if item.Claims["fail"] != nil {
		return jwt.Signed{Err: fault.Field("claims", "may not set fail")}
	}
	token, err := json.Marshal(map[string]any{"claims": item.Claims, "headers": item.Headers, "ttl": item.TTL.String()})
	return jwt.Signed{Token: string(token), KeyID: "kid-1", Version: version, ExpireTime: time.Unix(1_900_000_000, 0), Err: err}
}

// sealer is another kind whose versions are used here.
type sealer struct{ signer }

func (s *sealer) Use(context.Context, *rotator.LiveVersions, any) (any, error) {
	return nil, fault.New(fault.Invalid, "roles of this type do not sign")
}

// newSigningMount has a role of each kind: session signs, seal seals, app is only read.
func newSigningMount(t *testing.T, view logical.SystemView) (*mount, *signer) {
	t.Helper()
	memory := rotatortest.NewMemory()
	as := func(name string) kindOf { return kindOf{Rotator: memory, name: name} }
	s := &signer{kindOf: as(jwt.Type)}
	m := &mount{t: t, storage: &logical.InmemStorage{}, memory: memory, others: []rotator.Rotator{s, &sealer{signer{kindOf: as("seal")}}, as("plain")}}
	m.start(view)
	m.connection()
	for role, kind := range map[string]string{"session": jwt.Type, "seal": "seal", "app": "plain"} {
		m.must(create, "roles/"+role, map[string]any{"type": kind, "connection": "main"})
	}
	return m, s
}

func TestSign(t *testing.T) {
	m, _ := newSigningMount(t, &logical.StaticSystemView{})
	object := map[string]any{"sub": "user-1", "deep": map[string]any{"list": []any{"a", json.Number("1.50")}}}
	want := `{"claims":{"deep":{"list":["a",1.50]},"sub":"user-1"},"headers":{"typ":"at+jwt"},"ttl":"5m0s"}`
	for form, data := range map[string]map[string]any{
		"objects": {"claims": object, "headers": map[string]any{"typ": "at+jwt"}, "ttl": 300.0},
		"texts":   {"claims": " {\"sub\": \"user-1\", \"deep\": {\"list\": [\"a\", 1.50]}}\n", "headers": `{"typ": "at+jwt"}`, "ttl": "5m"},
	} {
		t.Run(form, func(t *testing.T) {
			got := m.must(update, "sign/session", data).Data
			require.Equal(t, map[string]any{"token": want, "kid": "kid-1", "version": 1, "expire_time": "2030-03-17T17:46:40Z"}, got)
		})
	}
	nothing := `{"claims":{},"headers":{},"ttl":"0s"}`
	require.Equal(t, nothing, m.must(update, "sign/session", nil).Data["token"])
	require.JSONEq(t, `{"claims":null,"headers":null,"ttl":"0s"}`,
		m.must(update, "sign/session", map[string]any{"claims": nil, "headers": "null", "ttl": nil, "batch_input": nil}).Data["token"].(string))

	m.refuses(update, "sign/session", map[string]any{"claims": `{"fail": 1}`}, "claims: may not set fail")
	m.answers404(update, "sign/nobody", nil)
	m.refuses(update, "sign/app", nil, `role "app" is of type plain`)
	m.refuses(update, "sign/seal", nil, "roles of this type do not sign")
}

func TestNumbersInClaimsStayExact(t *testing.T) {
	m, _ := newSigningMount(t, &logical.StaticSystemView{})
	for form, data := range map[string]map[string]any{
		"text":        {"claims": `{"n": 12345678901234567890}`},
		"object":      {"claims": map[string]any{"n": json.Number("12345678901234567890")}},
		"batch, text": {"batch_input": `[{"claims": {"n": 12345678901234567890}}]`},
		"both":        {"batch_input": []any{map[string]any{"claims": `{"n": 12345678901234567890}`}}},
	} {
		t.Run(form, func(t *testing.T) {
			raw, err := json.Marshal(m.must(update, "sign/session", data).Data)
			require.NoError(t, err)
			require.Contains(t, string(raw), `{\"n\":12345678901234567890}`)
		})
	}

	// What the plugin protocol has rounded is not signed.
	rounded := map[string]any{"a": []any{map[string]any{"n": 12345678901234567890.0}}}
	m.refuses(update, "sign/session", map[string]any{"claims": rounded}, "claims: has a number of 2^53 or more")
	m.refuses(update, "sign/session", map[string]any{"batch_input": []any{map[string]any{"headers": rounded}}}, "batch_input")
	m.must(update, "sign/session", map[string]any{"claims": map[string]any{"n": float64(1<<53 - 1)}})
}

func TestSignRefusesWhatIsNoObject(t *testing.T) {
	m, _ := newSigningMount(t, &logical.StaticSystemView{})
	const secret = "hunter2"
	object := `must be a JSON object such as {"sub": "user-1"}`
	for _, c := range []struct {
		data map[string]any
		want string
	}{
		{map[string]any{"claims": secret}, "claims: " + object},
		{map[string]any{"claims": ""}, "claims: " + object},
		{map[string]any{"claims": `{"sub": "hunter2"`}, "claims: " + object},
		{map[string]any{"claims": `{} {"sub": "hunter2"}`}, "claims: " + object},
		{map[string]any{"claims": `["hunter2"]`}, "claims: " + object},
		{map[string]any{"claims": []any{}}, "claims: " + object},
		{map[string]any{"claims": []any{map[string]any{"sub": secret}}}, "claims: " + object},
		{map[string]any{"claims": 7}, "claims: " + object},
		{map[string]any{"headers": true}, "headers: " + object},
		{map[string]any{"clams": "{}"}, "clams: is not a field of sign/:name; did you mean claims?"},
		{map[string]any{"ttl": "soon"}, "ttl: must be a duration"},
		{map[string]any{"ttl": "500ms"}, "ttl: must be at least 1s"},
		{map[string]any{"ttl": 0}, "ttl: must be at least 1s"},
	} {
		require.NotContains(t, m.refuses(update, "sign/session", c.data, c.want), secret)
	}
}

func TestSignBatch(t *testing.T) {
	m, _ := newSigningMount(t, &logical.StaticSystemView{})
	got := m.must(update, "sign/session", map[string]any{
		"batch_input": `[{"claims": {"sub": "a"}, "ttl": 60}, {"claims": {"fail": true}}, {}]`,
	}).Data
	require.Len(t, got, 1, "no single token beside them")
	results := got["batch_results"].([]any)
	require.Len(t, results, 3)
	require.Equal(t, map[string]any{
		"token": `{"claims":{"sub":"a"},"headers":{},"ttl":"1m0s"}`, "kid": "kid-1", "version": 1, "expire_time": "2030-03-17T17:46:40Z",
	}, results[0])
	require.Equal(t, map[string]any{"error": "claims: may not set fail"}, results[1])
	require.Contains(t, results[2], "token")

	failing := map[string]any{"claims": map[string]any{"fail": 1}}
	all := m.must(update, "sign/session", map[string]any{"batch_input": []any{failing, failing}}).Data["batch_results"]
	require.Len(t, all, 2, "200 although all fail")
	m.answers404(update, "sign/nobody", map[string]any{"batch_input": "[{}]"})
}

func TestSignRefusesABatchOfAnotherForm(t *testing.T) {
	m, _ := newSigningMount(t, &logical.StaticSystemView{})
	many := strings.Repeat("{},", maxBatch)
	m.must(update, "sign/session", map[string]any{"batch_input": "[" + many[:len(many)-1] + "]"})
	for batch, want := range map[string]string{
		`{"claims": {}}`:                      "batch_input: must be a JSON list such as",
		`no`:                                  "batch_input: must be a JSON list such as",
		`[]`:                                  "batch_input: has 0 items; 1 to 1000 are allowed",
		"[" + many + "{}]":                    "batch_input: has 1001 items; 1 to 1000 are allowed",
		`[{}, 7]`:                             "batch_input[1]: must be a JSON object with claims, headers, ttl",
		`[{}, null]`:                          "batch_input[1]: must be a JSON object with claims, headers, ttl",
		`[{}, {}, {"clams": {}}]`:             "batch_input[2].clams: is not a field of an item; did you mean claims?",
		`[{"name": "other"}]`:                 "batch_input[0].name: is not a field of an item, which takes claims, headers, ttl",
		`[{"claims": ["a"]}]`:                 `batch_input[0].claims: must be a JSON object such as {"sub": "user-1"}`,
		`[{"ttl": "soon"}]`:                   "batch_input[0].ttl: must be a duration",
		`[{"ttl": -5}]`:                       "batch_input[0].ttl: must be a duration that is not negative",
		`[{"ttl": "0s"}]`:                     "batch_input[0].ttl: must be at least 1s",
		`[{"batch_input": [{"claims": {}}]}]`: "batch_input[0].batch_input: is not a field of an item",
	} {
		m.refuses(update, "sign/session", map[string]any{"batch_input": batch}, want)
	}
	for _, other := range []string{"claims", "headers"} {
		m.refuses(update, "sign/session", map[string]any{"batch_input": "[{}]", other: "{}"}, other+": cannot be given together with batch_input")
	}
	m.refuses(update, "sign/session", map[string]any{"batch_input": "[{}]", "ttl": "5m"}, "ttl: cannot be given together with batch_input")
}

func TestVerify(t *testing.T) {
	m, _ := newSigningMount(t, &logical.StaticSystemView{})
	require.Equal(t, map[string]any{"active": true, "claims": map[string]any{"sub": "a.b.c"}, "kid": "kid-1", "version": 1, "reason": nil},
		m.must(update, "verify/session", map[string]any{"token": "a.b.c", "audience": "crm"}).Data)
	require.Equal(t, map[string]any{"active": false, "claims": nil, "kid": nil, "version": nil, "reason": "the audience is another"},
		m.must(update, "verify/session", map[string]any{"token": "a.b.c"}).Data)

	m.refuses(update, "verify/session", nil, "token: is required")
	m.refuses(update, "verify/session", map[string]any{"tokn": "a"}, "tokn: is not a field of verify/:name; did you mean token?")
	m.refuses(update, "verify/app", map[string]any{"token": "a"}, `role "app" is of type plain`)
	m.answers404(update, "verify/nobody", map[string]any{"token": "a"})
}

// identities is a system view with one entity, which counts what it is asked.
type identities struct {
	logical.StaticSystemView
	mu    sync.Mutex
	asked int
	fail  error
}

func (i *identities) EntityInfo(id string) (*logical.Entity, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked++
	if i.fail != nil || id != "entity-1" {
		return nil, i.fail
	}
	return &logical.Entity{ID: id, Name: "alice", Metadata: map[string]string{"team": `a","admin":"yes`}}, nil
}

func (i *identities) GroupsForEntity(string) ([]*logical.Group, error) {
	return []*logical.Group{{ID: "group-1", Name: "crew", Metadata: map[string]string{"m": `","admin":"yes`}}}, nil
}

func TestClaimsNameTheCaller(t *testing.T) {
	view := &identities{}
	m, _ := newSigningMount(t, view)
	sign := func(template, entity string, items int) (*logical.Response, error) {
		item := map[string]any{"claims": map[string]any{"template": template}}
		list := make([]any, items)
		for i := range list {
			list[i] = item
		}
		req := m.request(update, "sign/session", map[string]any{"batch_input": list})
		if items == 1 {
			req.Data = item
		}
		req.EntityID = entity
		return m.backend.HandleRequest(t.Context(), req)
	}
	template := `{"id": {{identity.entity.id}}, "team": {{identity.entity.metadata.team}}, "groups": {{ identity.entity.groups.names }}}`
	want := `{"id": "entity-1", "team": "a\",\"admin\":\"yes", "groups": ["crew"]}`

	resp, err := sign(template, "entity-1", 3)
	require.NoError(t, err)
	for _, result := range resp.Data["batch_results"].([]any) {
		require.Equal(t, want, result.(map[string]any)["token"])
	}
	require.Equal(t, 1, view.asked, "once per request")

	resp, err = sign(`{"fixed": true, "nbf": {{time.now}}}`, "", 1)
	require.NoError(t, err)
	require.NoError(t, resp.Error())
	require.Equal(t, 1, view.asked, "nobody is named")

	refused := func(template, entity, sentence string) {
		t.Helper()
		resp, err := sign(template, entity, 1)
		status, got := statusOf(t, update, resp, err)
		require.Equal(t, http.StatusBadRequest, status)
		require.Contains(t, got, sentence)
	}
	for _, entity := range []string{"", "gone"} {
		refused(template, entity, "this needs a token with an entity")
	}
	refused(`{"a": {{identity.entity.nonsense}}}`, "entity-1", "claims_template: cannot be filled")
	refused(`{"a": "{{identity.groups.names.crew.metadata.m}}"}`, "entity-1", "claims_template: may not name identity.groups")

	view.fail = errors.New("unavailable")
	resp, err = sign(template, "entity-1", 1)
	status, _ := statusOf(t, update, resp, err)
	require.Equal(t, http.StatusInternalServerError, status)
}

func TestPublicKeys(t *testing.T) {
	m, signer := newSigningMount(t, &logical.StaticSystemView{})
	require.Equal(t, map[string]any{
		logical.HTTPStatusCode: http.StatusOK, logical.HTTPContentType: "application/json",
		logical.HTTPRawBody: []byte(`{"keys":[]}`), logical.HTTPCacheControlHeader: "public, max-age=90",
	}, m.must(read, "jwks/session", nil).Data)

	signer.failure = errors.New("inside")
	require.NotContains(t, m.fails(http.StatusInternalServerError, read, "jwks/session", nil), "inside")
}

// Whoever is not authenticated does not learn which other roles there are.
func TestPublicPathsTellNothingOfOtherRoles(t *testing.T) {
	m, _ := newSigningMount(t, &logical.StaticSystemView{})
	m.must(update, "config", map[string]any{"external_url": "https://vault"})
	for _, path := range []string{"jwks/%s", "oidc/%s/.well-known/openid-configuration"} {
		nobody := m.fails(http.StatusNotFound, read, fmt.Sprintf(path, "nobody"), nil)
		for _, name := range []string{"app", "seal"} {
			require.Equal(t, nobody, m.fails(http.StatusNotFound, read, fmt.Sprintf(path, name), nil))
		}
		m.refuses(read, fmt.Sprintf(path, strings.Repeat("a", maxName+1)), nil, "name: has 129 characters")
		m.refuses(read, fmt.Sprintf(path, "a..b"), nil, "name: may not contain two dots")
	}
}

func TestDiscovery(t *testing.T) {
	m, _ := newSigningMount(t, &logical.StaticSystemView{})
	const path = "oidc/session/.well-known/openid-configuration"
	ask := func() (*logical.Response, error) {
		req := m.request(read, path, nil)
		req.MountPoint = "team a/rotation/"
		return m.backend.HandleRequest(t.Context(), req)
	}
	resp, err := ask()
	status, sentence := statusOf(t, read, resp, err)
	require.Equal(t, http.StatusNotFound, status)
	require.Contains(t, sentence, "external_url")

	m.must(update, "config", map[string]any{"external_url": "https://vault.example.com/"})
	require.Equal(t, m.fails(http.StatusNotFound, read, "oidc/nobody/.well-known/openid-configuration", nil), sentence, "alike")
	resp, err = ask()
	require.NoError(t, err)
	require.Equal(t, "https://vault.example.com/v1/team%20a/rotation/jwks/session", string(resp.Data[logical.HTTPRawBody].([]byte)))
	require.Equal(t, "public, max-age=3600", resp.Data[logical.HTTPCacheControlHeader])
	m.answers404(read, "oidc/session/Xwell-known/openid-configuration", nil)
}

func TestOnlyPublicKeysAndMetricsNeedNoToken(t *testing.T) {
	b := release(t)
	require.ElementsMatch(t, []string{"jwks/+", "oidc/+/.well-known/openid-configuration", "public/metrics"}, b.SpecialPaths().Unauthenticated)
	for _, open := range b.SpecialPaths().Unauthenticated {
		path := b.Route(strings.ReplaceAll(open, "+", "x"))
		require.NotNil(t, path)
		require.Len(t, path.Operations, 1)
		require.NotNil(t, path.Operations[read])
		require.Nil(t, path.ExistenceCheck)
	}
}

func TestStatusNamesRevokedKeys(t *testing.T) {
	m, _ := newSigningMount(t, &logical.StaticSystemView{})
	require.Equal(t, []any{}, m.must(read, "status/session", nil).Data["revoked_kids"])
	require.NotContains(t, m.must(read, "status/app", nil).Data, "revoked_kids")
}
