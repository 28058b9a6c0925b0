package fakeapi

import (
	"net/http"
	"strings"
)

// Stripe imitates what an ordinary account lets a key do: keys are made and expired in the
// dashboard, by hand alone, and a call tells whether one is alive.
type Stripe struct{ *Server }

const stripeAccount = "acct_1032D82eZvKYlo2C"

// NewStripe starts a fake without any key.
func NewStripe(options ...Option) *Stripe {
	api := &Stripe{}
	api.Server = newServer(dialect{
		credentials: stripeCredentials, admit: api.admit, failure: stripeFailure, ended: expired, requestID: "Request-Id",
	})
	api.handle("GET /v1/balance", withKey, api.balance)
	api.handle("GET /v1/account", withKey, api.account)
	api.start(options)
	return api
}

// MakeByHand makes an unrestricted key of the test mode.
func (api *Stripe) MakeByHand(name string) (key, id string) {
	return api.MakeWithPrefix("sk_test_", name)
}

// MakeRestricted makes a restricted key of the test mode, without any permission.
func (api *Stripe) MakeRestricted(name string) (key, id string) {
	key, id = api.MakeWithPrefix("rk_test_", name)
	api.LimitScopes(key)
	return key, id
}

// MakeWithPrefix makes a key of another sort, such as rk_live_.
func (api *Stripe) MakeWithPrefix(prefix, name string) (key, id string) {
	return api.byHand(record{Key: Key{ID: random("mk_1", 23), Name: name}, value: random(prefix+"51", 97)})
}

// stripeCredentials are the user name of basic authentication, or a bearer token.
func stripeCredentials(r *http.Request) []string {
	if user, _, basic := r.BasicAuth(); basic {
		return some(user)
	}
	return bearer(r)
}

// stripeFailure leaves the code out where there is none.
func stripeFailure(status int, message, code string) any {
	kind := "invalid_request_error"
	switch {
	case status == http.StatusTooManyRequests && code == "":
		code = "rate_limit"
	case status >= http.StatusInternalServerError:
		kind = "api_error"
	}
	e := object{"message": message, "type": kind}
	if code != "" {
		e["code"] = code
	}
	return object{"error": e}
}

// admit tells dead keys (401) from live ones without the permission (403).
func (api *Stripe) admit(r *http.Request, _ access) *reply {
	refusal := func(status int, message, code string) *reply {
		a := api.fail(status, message, code)
		if status == http.StatusUnauthorized {
			a.header = http.Header{"Www-Authenticate": {`Basic realm="Stripe"`}}
		}
		return &a
	}
	if len(api.current.sent) == 0 {
		return refusal(http.StatusUnauthorized, "You did not provide an API key.", "")
	}
	sent := api.current.sent[0]
	quoted := masked(sent, len("sk_test_"), 4, strings.Repeat("*", 16))
	key := api.byValue(sent)
	switch {
	case !api.accepted(key) && key != nil && api.status(key) == expired:
		return refusal(http.StatusUnauthorized, "Expired API Key provided: "+quoted, "api_key_expired")
	case !api.accepted(key):
		return refusal(http.StatusUnauthorized, "Invalid API Key provided: "+quoted, "")
	case key.limited:
		permission := "rak_" + strings.TrimPrefix(r.URL.Path, "/v1/") + "_read"
		return refusal(http.StatusForbidden, "The provided key '"+quoted+"' does not have the required permissions for this endpoint on account '"+
			stripeAccount+"'. Having the '"+permission+"' permission would allow this request to continue.", "")
	}
	return nil
}

// answer200 bears the version of the API that it was made with.
func (api *Stripe) answer200(r *http.Request, body object) reply {
	version := r.Header.Get("Stripe-Version")
	if version == "" {
		version = "2025-09-30.clover"
	}
	return reply{status: http.StatusOK, header: http.Header{"Stripe-Version": {version}}, body: body}
}

func (api *Stripe) balance(r *http.Request) reply {
	amount := []object{{"amount": 2217713, "currency": "usd", "source_types": object{"card": 2217713}}}
	live := strings.Contains(api.current.sent[0], "_live_")
	return api.answer200(r, object{"object": "balance", "available": amount, "pending": amount, "livemode": live})
}

func (api *Stripe) account(r *http.Request) reply {
	return api.answer200(r, object{"object": "account", "id": stripeAccount, "country": "US", "default_currency": "usd"})
}
