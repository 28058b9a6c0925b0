package apikey

import (
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/egress"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// stripeKind is the connection type stripe: keys that people make and expire in the
// dashboard. The plugin proves both.
var stripeKind = providerKind{
	typ:     "stripe",
	baseURL: "https://api.stripe.com",
	check: func(s *settings) error {
		if !s.AdminKey.Empty() {
			return fault.Field("admin_key", "is not used: Stripe has no call that manages keys")
		}
		return nil
	},
	open: func(s *settings, client *egress.Client) (provider, error) { return newStripe(s, client), nil },
}

// stripe is the API of Stripe. An ordinary account has no call that makes, lists or ends a key.
type stripe struct {
	unable
	caller caller
}

var _ provider = (*stripe)(nil)

func newStripe(s *settings, client *egress.Client) *stripe {
	return &stripe{caller: caller{
		title: "Stripe", base: s.BaseURL, client: client,
		authorize: func(h http.Header, key secret.String) { h.Set("Authorization", "Bearer "+key.Reveal()) },
		decline:   readStripeError,
		refuses:   refusedByStripe,
	}}
}

// refusedByStripe tells the refusal of a key. Most have no code; nor has the answer to a call
// that bears no key, which is what is left of one where a gateway drops it.
func refusedByStripe(status int, d *declined) bool {
	return status == http.StatusUnauthorized && d != nil &&
		(d.Code == "api_key_expired" || strings.HasPrefix(d.Message, "Invalid API Key provided"))
}

// readStripeError reads {"error":{"type","code","message"}}; code may be missing.
func readStripeError(body []byte) *declined {
	var in struct {
		Error *struct {
			Type    string `json:"type"`
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &in) != nil || in.Error == nil || in.Error.Type == "" {
		return nil
	}
	return &declined{Code: in.Error.Code, Type: in.Error.Type, Message: in.Error.Message}
}

func (*stripe) title() string { return "Stripe" }

func (*stripe) abilities() abilities { return abilities{} }

// stripeKey is the form of a secret key, or a restricted one, of an account or its sandbox.
var stripeKey = regexp.MustCompile(`^(sk|rk)_(live|test)_.`)

// checkKey refuses what is no key of a server: a publishable one is no secret.
func (*stripe) checkKey(key secret.String) error {
	if err := checkKeyText(key); err != nil {
		return err
	}
	switch text := key.Reveal(); {
	case strings.HasPrefix(text, "pk_"):
		return fault.Field("key", "is a publishable key, which is no secret: hand in one that begins with sk_ or rk_")
	case !stripeKey.MatchString(text):
		return fault.Field("key", "is no key of a Stripe account: they begin with sk_live_, rk_live_, sk_test_ or rk_test_")
	}
	return nil
}

func (*stripe) byHand() byHand {
	return byHand{
		Make: "make a new key in the Stripe Dashboard (Developers, API keys), beside the one in use and with its permissions",
		End:  "expire it in the Stripe Dashboard (Developers, API keys)",
	}
}

// balance makes GET /v1/balance: the call that says most about a key, and changes nothing.
func (p *stripe) balance(ctx context.Context, action string, key secret.String) (*answer, error) {
	return p.caller.do(ctx, call{action: action, method: http.MethodGet, path: "/v1/balance", key: key})
}

// ping implements provider with GET /v1/balance that bears no key. There is no credential
// to prove; Stripe's own 401 proves that it is Stripe which is reached.
func (p *stripe) ping(ctx context.Context) error {
	a, err := p.balance(ctx, "reach the API", secret.String{})
	switch {
	case err != nil:
		return err
	case a.Status == http.StatusUnauthorized && a.declined != nil:
		return nil
	case a.ok():
		return a.unclear()
	}
	return a.failed()
}

// witness implements provider: a connection to Stripe has no credential.
func (*stripe) witness(context.Context) (string, error) { return "", errNoWitness }

// check implements provider with the call that ping makes.
func (p *stripe) check(ctx context.Context) ([]rotator.Line, error) {
	const reach = "reach Stripe"
	if err := p.ping(ctx); err != nil {
		return []rotator.Line{failed(reach, err.Error())}, nil
	}
	return []rotator.Line{passed(reach, "it answers; Stripe has no call that manages keys, so there is no credential to check")}, nil
}

// verify implements provider with GET /v1/balance. A restricted key that may not read it is
// accepted all the same.
func (p *stripe) verify(ctx context.Context, key secret.String) (string, error) {
	a, err := p.balance(ctx, "verify a key", key)
	if err != nil {
		return "", err
	}
	switch {
	case a.ok():
		var in struct {
			Object string `json:"object"`
		}
		if a.read(&in) != nil || in.Object != "balance" {
			return "", a.unproven()
		}
		return "200", nil
	case a.Status == http.StatusForbidden && a.declined != nil:
		return "403", nil
	case a.Status == http.StatusUnauthorized && a.own() && !refusedByStripe(a.Status, a.declined):
		return "", a.nothing()
	}
	return "", a.unproven()
}
