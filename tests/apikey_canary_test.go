package tests

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
)

// API keys and admin keys go through whole lives, at providers that quote in each error what was sent
// to them, and into fields where they do not belong. None turns up in a log, an error, a status, a
// history or an incident: only creds/ gives them away.
func TestAPIKeyCanaries(t *testing.T) {
	t.Parallel()
	p := newPairCanaries(t)
	p.ofOpenAI()
	p.ofAnthropic()
	p.ofStripe()
	p.ofOpenRouter()
	p.ofInPlace()
	p.misplacePairs()
	p.deadEnds()
	p.lookAtPairs()
	quoted := slices.ContainsFunc(slices.Collect(maps.Values(p.told)), func(text string) bool {
		return strings.Contains(text, "(authenticated with [redacted])")
	})
	assert.True(t, quoted, "the providers do quote what they were sent")
	for what, secret := range p.secrets {
		require.Greater(t, len(secret), 12, "%s is too short to be looked for", what)
	}
	require.Greater(t, len(p.secrets), 30)
	for where, text := range p.pairPlaces() {
		for what, secret := range p.secrets {
			if strings.Contains(text, secret) { // and no failure prints the text
				t.Errorf("%s stands in %s", what, where)
			}
		}
	}
}

type pairCanaries struct {
	*canaries
	openAI     *fakeapi.OpenAI
	anthropic  *fakeapi.Anthropic
	stripe     *fakeapi.Stripe
	openRouter *fakeapi.OpenRouter
	inPlace    *fakeapi.InPlace
	roles      []string
}

func newPairCanaries(t *testing.T) *pairCanaries {
	t.Helper()
	p := &pairCanaries{
		canaries: &canaries{world: newKeys(t, "pairs", sharedVault(t)), secrets: map[string]string{}, told: map[string]string{}},
		openAI:   started(t, fakeapi.NewOpenAI()), anthropic: started(t, fakeapi.NewAnthropic()), stripe: started(t, fakeapi.NewStripe()),
		openRouter: started(t, fakeapi.NewOpenRouter()), inPlace: started(t, fakeapi.NewInPlace()),
	}
	for name, api := range p.all() {
		api.Echo(true)
		if key := api.AdminKey(); key != "" {
			p.secrets["the admin key of "+name] = key
		}
	}
	return p
}

func (p *pairCanaries) all() map[string]*fakeapi.Server {
	return map[string]*fakeapi.Server{
		"openai": p.openAI.Server, "anthropic": p.anthropic.Server, "stripe": p.stripe.Server,
		"openrouter": p.openRouter.Server, "inplace": p.inPlace.Server,
	}
}

// fine makes a request that must succeed, bad one that must not.
func (p *pairCanaries) fine(path string, body map[string]any) {
	p.t.Helper()
	a := p.tell(http.MethodPut, path, body)
	assert.True(p.t, a.ok(), "%s: %s", path, a.Text)
}

func (p *pairCanaries) bad(path string, body map[string]any) {
	p.t.Helper()
	a := p.tell(http.MethodPut, path, body)
	assert.Contains(p.t, []int{http.StatusBadRequest, http.StatusConflict}, a.Status, "%s: %s", path, a.Text)
}

// keep makes a key that a person made a canary.
func (p *pairCanaries) keep(key, id string) string {
	p.secrets["a key made by hand, "+id] = key
	return key
}

// hold reads creds/, where keys belong, and makes them canaries everywhere else.
func (p *pairCanaries) hold(role string) {
	p.t.Helper()
	pair := p.pair(role)
	p.secrets[fmt.Sprintf("the primary key of %s, version %d", role, pair.Version)] = pair.Primary
	if pair.Secondary != "" {
		p.secrets[fmt.Sprintf("the secondary key of %s beside version %d", role, pair.Version)] = pair.Secondary
	}
}

// named is a role of its own for each provider.
func (p *pairCanaries) named(provider string) string {
	role := p.role + "-" + provider
	p.roles = append(p.roles, role)
	return role
}

func (p *pairCanaries) ofOpenAI() {
	p.t.Helper()
	role := p.named("openai")
	p.fine("connections/openai", toOpenAI(p.openAI, nil))
	p.fine("roles/"+role, pairFields(map[string]any{"connection": "openai"}))
	p.hold(role)
	first := p.pair(role).Primary
	p.fine("rotate/"+role, nil)
	p.hold(role)
	p.openAI.LoseAnswer(1, makesAccount)
	p.bad("rotate/"+role, nil)
	// The new key is refused, with a message that quotes it.
	models := fakeapi.On(http.MethodGet, "/v1/models")
	p.openAI.Fail(-1, models, http.StatusUnauthorized, nil,
		`{"error":{"message":"Incorrect API key provided: `+fakeapi.SentCredential+`","type":"invalid_request_error","code":"invalid_api_key"}}`)
	p.bad("rotate/"+role, nil)
	p.openAI.Heal()
	p.fine("rotate/"+role, nil)
	p.hold(role)
	p.fine("rollback/"+role, nil)
	p.fine("emergency/"+role, map[string]any{"reason": "an exercise"})
	p.hold(role)
	assert.False(p.t, p.openAI.Works(first))
	p.fine("connections/openai/rotate-root", nil)
	p.secrets["the second admin key of openai"] = p.openAI.AdminKey()
	p.fine("rotate/"+role, nil)
	p.hold(role)
}

// deadEnds ends at the provider, by hand, what a role and its connection use.
func (p *pairCanaries) deadEnds() {
	p.t.Helper()
	role := p.role + "-openai"
	p.openAI.ExpireByHand(p.pair(role).Primary)
	p.tell(http.MethodPut, "rotate/"+role, nil)
	p.openAI.ExpireByHand(p.openAI.AdminKey())
	p.bad("rotate/"+role, nil)
	p.bad("connections/openai/rotate-root", nil)
}

func (p *pairCanaries) ofAnthropic() {
	p.t.Helper()
	role := p.named("anthropic")
	p.fine("connections/anthropic", toAnthropic(p.anthropic, nil))
	p.fine("roles/"+role, pairFields(map[string]any{"connection": "anthropic"}))
	p.bad("stage/"+role, map[string]any{"key": p.keep("sk-ant-api03-"+strings.Repeat("q", 90)+"canary", "of nobody")})
	off := p.keep(p.anthropic.MakeByHand("off"))
	p.anthropic.DisableByHand(off)
	p.bad("stage/"+role, map[string]any{"key": off})
	for range 2 {
		p.fine("stage/"+role, map[string]any{"key": p.keep(p.anthropic.MakeByHand("next"))})
		p.hold(role)
	}
	p.fine("retire/"+role, map[string]any{"version": 1, "force": true})
	p.fine("rollback/"+role, nil)
	p.fine("emergency/"+role, map[string]any{"reason": "an exercise", "kill_first": true})
}

func (p *pairCanaries) ofStripe() {
	p.t.Helper()
	role := p.named("stripe")
	p.fine("connections/stripe", reaches("stripe", p.stripe.URL(), nil))
	first := p.keep(p.stripe.MakeByHand("first"))
	p.fine("roles/"+role, pairFields(map[string]any{"connection": "stripe", "key": first}))
	dead := p.keep(p.stripe.MakeByHand("dead"))
	p.stripe.ExpireByHand(dead)
	p.bad("stage/"+role, map[string]any{"key": dead})
	p.bad("stage/"+role, map[string]any{"key": first})
	p.fine("stage/"+role, map[string]any{"key": p.keep(p.stripe.MakeRestricted("second"))})
	p.hold(role)
	p.fine("retire/"+role, map[string]any{"version": 1, "force": true})
	p.tell(http.MethodGet, "status/"+role, nil)
	p.stripe.ExpireByHand(first)
	p.fine("retire/"+role, map[string]any{"version": 1, "force": true})
	p.fine("emergency/"+role, map[string]any{"reason": "an exercise"})
	third := p.keep(p.stripe.MakeByHand("third"))
	p.fine("stage/"+role, map[string]any{"key": third})
	p.tell(http.MethodGet, "status/"+role, nil)
}

func (p *pairCanaries) ofOpenRouter() {
	p.t.Helper()
	role := p.named("openrouter")
	p.fine("connections/openrouter", reaches("http", p.openRouter.URL(), map[string]any{
		"definition": definition(p.t, "openrouter"), "admin_key": p.openRouter.AdminKey(),
	}))
	p.fine("roles/"+role, pairFields(map[string]any{"connection": "openrouter"}))
	p.hold(role)
	p.openRouter.LoseAnswer(1, fakeapi.On(http.MethodPost, "/api/v1/keys"))
	p.bad("rotate/"+role, nil)
	p.openRouter.Fail(1, fakeapi.On(http.MethodPost, "/api/v1/keys"), http.StatusPaymentRequired, nil,
		p.openRouter.ErrorBody(http.StatusPaymentRequired, "no money for "+fakeapi.SentCredential))
	p.bad("rotate/"+role, nil)
	p.fine("rotate/"+role, nil)
	p.hold(role)
	p.fine("retire/"+role, map[string]any{"version": 1, "force": true})
	p.fine("rollback/"+role, nil)
	p.fine("emergency/"+role, map[string]any{"reason": "an exercise"})
	p.hold(role)
}

func (p *pairCanaries) ofInPlace() {
	p.t.Helper()
	role := p.named("inplace")
	p.fine("connections/inplace", reaches("http", p.inPlace.URL(), map[string]any{
		"definition": definition(p.t, "inplace"), "admin_key": p.inPlace.AdminKey(),
	}))
	p.fine("roles/"+role, pairFields(map[string]any{
		"connection": "inplace", "strategy": "in_place", "grace_period": nil, "key": p.keep(p.inPlace.MakeByHand("the one key")),
	}))
	p.fine("rotate/"+role, nil)
	p.hold(role)
	p.inPlace.LoseAnswer(1, fakeapi.On(http.MethodPost, "/v1/key/rotate"))
	p.bad("rotate/"+role, nil)
	p.fine("rotate/"+role, nil)
	p.hold(role)
}

// misplacePairs gives secrets where they do not belong, and wrong ones.
func (p *pairCanaries) misplacePairs() {
	p.t.Helper()
	type m = map[string]any
	number := 0
	secret := func(where string) string {
		number++
		value := fmt.Sprintf("canary%dSecretValue%d", number, number*7919)
		p.secrets["what was given "+where] = value
		return value
	}
	openAI := func(changes m) m {
		return toOpenAI(p.openAI, with(m{"admin_key": p.secrets["the admin key of openai"]}, changes))
	}
	router := func(changes m) m {
		return with(reaches("http", p.openRouter.URL(), m{"definition": definition(p.t, "openrouter"), "admin_key": p.openRouter.AdminKey()}), changes)
	}
	text := definition(p.t, "openrouter")
	role := p.role + "-openai"
	for _, r := range []struct {
		path string
		body m
	}{
		{"connections/wrong", openAI(m{"admin_key": "sk-admin-" + secret("as a wrong admin key")})},
		{"connections/wrong", openAI(m{"admin_key": secret("as an admin key of another form")})},
		{"connections/wrong", openAI(m{"admin_kee": secret("in a misspelt field")})},
		{"connections/wrong", openAI(m{"base_url": "http://u:" + secret("as a password in base_url") + "@127.0.0.1/v1"})},
		{"connections/wrong", openAI(m{"base_url": p.openAI.BaseURL() + "?key=" + secret("in the query of base_url")})},
		{"connections/wrong", openAI(m{"organization": "a/" + secret("as organization")})},
		{"connections/wrong", openAI(m{"requests_per_second": secret("as requests_per_second")})},
		{"connections/wrong", openAI(m{"allow_insecure_http": secret("as allow_insecure_http")})},
		{"connections/wrong", reaches("stripe", p.stripe.URL(), m{"admin_key": secret("as admin key of stripe")})},
		{"connections/wrong", toAnthropic(p.anthropic, m{"admin_key": "sk-ant-admin01-" + secret("as a wrong admin key of anthropic")})},
		{"connections/wrong", router(m{"admin_key": secret("as a wrong admin key of openrouter")})},
		{"connections/wrong", router(m{"definition": strings.Replace(text, "Bearer {{admin_key}}", "Bearer "+secret("in the definition"), 1)})},
		{"connections/wrong", router(m{"definition": strings.Replace(text, "/api/v1/keys", "//"+secret("in a path of the definition"), 1)})},
		{"connections/wrong", router(m{"parameters": "admin_key=" + secret("as a reserved parameter")})},
		{"connections/openai", m{"admin_key": "sk-admin-" + secret("as another wrong admin key")}},
		{"roles/wrong", pairFields(m{"connection": "openai", "strategy": secret("as strategy")})},
		{"roles/wrong", pairFields(m{"connection": "openai", "kee": secret("as a misspelt key")})},
		{"roles/wrong", pairFields(m{"connection": "openai", "key_id": secret("as key_id without a key")})},
		{"roles/wrong", pairFields(m{"connection": "openai", "key": "sk-admin-" + secret("as an admin key for applications")})},
		{"roles/wrong", pairFields(m{"connection": "stripe", "key": secret("as a key of another form")})},
		{"roles/wrong", pairFields(m{"connection": "stripe", "key": "sk_live_" + secret("as a wrong key of stripe")})},
		{"roles/wrong", pairFields(m{"connection": "inplace", "strategy": "in_place", "grace_period": nil, "key": secret("as a wrong key of inplace")})},
		{"roles/wrong", pairFields(m{"connection": "openai", "soak_period": secret("as soak_period")})},
		{"roles/wrong", pairFields(m{"connection": "openai", "auto_promote": secret("as auto_promote")})},
		{"stage/" + role, m{"key": secret("as a key for a role that takes none")}},
		{"stage/" + p.role + "-stripe", m{"key": "rk_live_" + secret("as a wrong key to be staged")}},
		{"stage/" + p.role + "-stripe", m{"kee": secret("as a misspelt key to be staged")}},
		{"stage/" + p.role + "-stripe", m{"key": "sk_test_x", "force": secret("as force")}},
		{"stage/" + p.role + "-anthropic", m{"key": "sk-ant-api03-" + secret("as a wrong key with an id"), "key_id": "a/" + secret("as key_id")}},
		{"promote/" + role, m{"key": secret("as a key to be promoted")}},
	} {
		p.bad(r.path, r.body)
	}
}

// lookAtPairs asks for everything that tells of the roles and connections.
func (p *pairCanaries) lookAtPairs() {
	p.t.Helper()
	for _, role := range p.roles {
		for _, path := range []string{"roles/", "status/", "history/", "preflight/"} {
			p.tell(http.MethodGet, path+role, nil)
		}
	}
	for _, name := range []string{"openai", "anthropic", "stripe", "openrouter", "inplace"} {
		assert.Equal(p.t, http.StatusOK, p.tell(http.MethodGet, "connections/"+name, nil).Status)
		assert.Equal(p.t, http.StatusOK, p.tell(http.MethodGet, "connections/"+name+"/check", nil).Status)
	}
	p.tell(http.MethodGet, "status", nil)
	var list struct{ Keys []string }
	require.NoError(p.t, unmarshal(p.tell("LIST", "incidents", nil), &list))
	require.Len(p.t, list.Keys, 4)
	for _, id := range list.Keys {
		assert.Equal(p.t, http.StatusOK, p.tell(http.MethodGet, "incidents/"+id, nil).Status)
	}
}

// pairPlaces are all texts in which a key would be a leak, each known to tell of what was done.
func (p *pairCanaries) pairPlaces() map[string]string {
	p.t.Helper()
	audit, err := os.ReadFile(sharedAuditLog())
	require.NoError(p.t, err)
	places := map[string]string{"Vault's log, with the plugin's": p.vault.Log(), "Vault's audit log": string(audit)}
	for _, role := range p.roles {
		assert.Contains(p.t, places["Vault's log, with the plugin's"], "role="+role)
		assert.Contains(p.t, places["Vault's audit log"], p.path+"/roles/"+role)
	}
	for where, text := range p.told {
		places[where] = text
	}
	return places
}
