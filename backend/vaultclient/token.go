package vaultclient

import (
	"context"
	"net/http"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/egress"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

const (
	// reserve is how long before its end a token is not used any more, or a tenth of its life.
	reserve = 10 * time.Second
	// renewAgain is the wait after a renewal that failed: the token still works.
	renewAgain = 10 * time.Second
)

// token is one that Vault gave, or that an operator did.
type token struct {
	value     secret.String
	renewable bool
	// ttl is how long it lived when it was got or renewed last; 0: for ever.
	ttl time.Duration
	// renewAt is half of it later, so that one in use is renewed well before two thirds are over.
	renewAt, ends time.Time
}

// ended tells whether a token is too near its end to be used.
func (t *token) ended(now time.Time) bool {
	return t.ttl > 0 && !now.Before(t.ends.Add(-min(reserve, t.ttl/10)))
}

func (t *token) renews(now time.Time) bool {
	return t.ttl > 0 && t.renewable && !now.Before(t.renewAt)
}

// auth is what Vault answers to a login, and to a renewal.
type auth struct {
	ClientToken   string `json:"client_token"`
	LeaseDuration int64  `json:"lease_duration"`
	Renewable     bool   `json:"renewable"`
}

// tokens hold the token in use. There is no goroutine: whoever needs the token renews it when
// it is time, and all others wait for that one.
type tokens struct {
	client     *Client
	credential Credential
	now        func() time.Time
	// held is the lock: who sends to it holds it.
	held    chan struct{}
	current *token
}

func newTokens(c *Client, credential Credential, now func() time.Time) *tokens {
	return &tokens{client: c, credential: credential, now: now, held: make(chan struct{}, 1)}
}

// lock waits for the lock for as long as the context lasts.
func (t *tokens) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case t.held <- struct{}{}:
		return func() { <-t.held }, nil
	case <-ctx.Done():
		return nil, fault.New(fault.Unreachable, "given up while somebody else got a token of Vault: %w", ctx.Err())
	}
}

// get returns a token to use now.
func (t *tokens) get(ctx context.Context) (*token, error) {
	unlock, err := t.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	now := t.now()
	switch cur := t.current; {
	case cur == nil || cur.ended(now):
		return t.acquire(ctx)
	case cur.renews(now):
		return t.renew(ctx, cur)
	default:
		return cur, nil
	}
}

// replace returns the token that comes after one with which Vault refused a call; nil where
// that one lives, so that the refusal was about the call.
func (t *tokens) replace(ctx context.Context, used *token, why *refusal) (*token, error) {
	unlock, err := t.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if t.current != nil && t.current != used {
		return t.current, nil
	}
	if !why.says("invalid token") { // which older Vaults do not say
		switch _, err := t.lookup(ctx, used.value); {
		case err == nil:
			return nil, nil
		case !denied(err):
			return nil, err
		}
	}
	return t.acquire(ctx)
}

func denied(err error) bool {
	r := refusalIn(err)
	return r != nil && r.vaults && r.status == http.StatusForbidden
}

// acquire logs in, or learns what the token of the operator is. The caller holds the lock.
func (t *tokens) acquire(ctx context.Context) (*token, error) {
	t.current = nil
	get := t.adopt
	if t.credential.AppRole {
		get = t.login
	}
	next, err := get(ctx)
	if err != nil {
		return nil, err
	}
	t.current = next
	return next, nil
}

func (t *tokens) login(ctx context.Context) (*token, error) {
	in := call{
		action: "log in by auth/" + t.credential.Mount, method: http.MethodPost, path: "auth/" + t.credential.Mount + "/login",
		body:    map[string]string{"role_id": t.credential.RoleID, "secret_id": t.credential.SecretID.Reveal()},
		secrets: []secret.String{t.credential.SecretID},
	}
	out, err := t.client.send(ctx, in, secret.String{})
	if r := refusalIn(err); r != nil && r.vaults && fault.Is(err, fault.Target) {
		return nil, unknown(err, "role_id and secret_id must be those of a role at auth_mount, and neither expired nor used up")
	}
	if err != nil {
		return nil, err
	}
	if out.Auth == nil || out.Auth.ClientToken == "" {
		return nil, decode(in, nil, nil)
	}
	return t.from(out.Auth, secret.New(out.Auth.ClientToken)), nil
}

// unknown is the end of a credential. Vault's refusal is not in its chain: it was not about
// the call for which a token was wanted.
func unknown(refused error, right string) error {
	return fault.New(fault.AuthFailed, "%s; %s", refused.Error(), right)
}

func (t *tokens) from(a *auth, value secret.String) *token {
	return t.made(value, time.Duration(max(a.LeaseDuration, 0))*time.Second, a.Renewable)
}

func (t *tokens) made(value secret.String, ttl time.Duration, renewable bool) *token {
	now := t.now()
	return &token{value: value, ttl: ttl, renewable: renewable, renewAt: now.Add(ttl / 2), ends: now.Add(ttl)}
}

// adopt takes the operator's token, if Vault still knows it.
func (t *tokens) adopt(ctx context.Context) (*token, error) {
	info, err := t.lookup(ctx, t.credential.Token)
	if denied(err) {
		return nil, unknown(err, "the token expired, was revoked, or may not look itself up: write the connection with a new one")
	}
	if err != nil {
		return nil, err
	}
	return t.made(t.credential.Token, info.TTL, info.Renewable), nil
}

// renew lets the token live on. One that cannot be renewed is used until it ends.
func (t *tokens) renew(ctx context.Context, cur *token) (*token, error) {
	in := call{action: "renew the token", method: http.MethodPost, path: "auth/token/renew-self", body: struct{}{}}
	out, err := t.client.send(ctx, in, cur.value)
	if denied(err) {
		return t.acquire(ctx)
	}
	next := *cur
	if err != nil || out.Auth == nil {
		next.renewAt = t.now().Add(renewAgain)
	} else {
		next = *t.from(out.Auth, cur.value)
		// It comes to the end of its longest life: renewing it again gains less and less.
		next.renewable = next.renewable && next.ttl > cur.ttl/2
	}
	t.current = &next
	return &next, nil
}

// TokenInfo is what Vault says of a token.
type TokenInfo struct {
	DisplayName string
	Policies    []string
	TTL         time.Duration // what is left of it; 0: it lives for ever
	Renewable   bool
}

func (t *tokens) lookup(ctx context.Context, value secret.String) (*TokenInfo, error) {
	in := call{action: "look the token up", method: http.MethodGet, path: "auth/token/lookup-self"}
	out, err := t.client.send(ctx, in, value)
	if err != nil {
		return nil, err
	}
	var data struct {
		DisplayName      string   `json:"display_name"`
		Policies         []string `json:"policies"`
		IdentityPolicies []string `json:"identity_policies"`
		TTL              int64    `json:"ttl"`
		Renewable        bool     `json:"renewable"`
	}
	if err := decode(in, out.Data, &data); err != nil {
		return nil, err
	}
	return &TokenInfo{
		DisplayName: egress.Request{}.Text(data.DisplayName), Policies: named(append(data.Policies, data.IdentityPolicies...)),
		TTL: time.Duration(max(data.TTL, 0)) * time.Second, Renewable: data.Renewable,
	}, nil
}

// maxPolicies bounds how many policies of a token are told of.
const maxPolicies = 50

// named makes names of policies fit for a sentence.
func named(policies []string) []string {
	out := make([]string, 0, min(len(policies), maxPolicies))
	for _, name := range policies[:min(len(policies), maxPolicies)] {
		out = append(out, egress.Request{}.Text(name))
	}
	return out
}

// Token says what the client's token is: Vault is asked, so that it proves the credential.
func (c *Client) Token(ctx context.Context) (*TokenInfo, error) {
	t, err := c.tokens.get(ctx)
	if err != nil {
		return nil, err
	}
	info, err := c.tokens.lookup(ctx, t.value)
	if !denied(err) {
		return info, err
	}
	next, err := c.tokens.replace(ctx, t, refusalIn(err))
	if err != nil {
		return nil, err
	}
	if next == nil { // refused a moment ago, and not any more
		next = t
	}
	return c.tokens.lookup(ctx, next.value)
}
