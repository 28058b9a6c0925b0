package fakeapi

import (
	"net/http"
	"strconv"
	"time"
)

// Grafana imitates the tokens of service accounts. Ids are numbers, also in JSON.
type Grafana struct {
	*Server
	serial int
}

// What the service accounts are: the admin key's, and one for tests.
const (
	grafanaAdmins = "1"
	grafanaTests  = "2"
)

// NewGrafana starts a fake with two service accounts, and a token of the first that may manage
// tokens.
func NewGrafana(options ...Option) *Grafana {
	api := &Grafana{}
	api.Server = newServer(dialect{credentials: bearer, failure: grafanaFailure})
	api.dialect.admit = api.admission(refusals{
		missing:   refusal{401, "Unauthorized", "auth.unauthorized"},
		wrong:     refusal{401, "Invalid API key", "api-key.invalid"},
		forbidden: refusal{403, "You'll need additional permissions to perform this action.", ""},
	})
	api.byHand(api.token("manages tokens", grafanaAdmins, rootKey))
	const tokens = "/api/serviceaccounts/{account}/tokens"
	api.inAccount("POST "+tokens, api.create)
	api.inAccount("GET "+tokens, api.list)
	api.inAccount("DELETE "+tokens+"/{id}", api.delete)
	api.handle("GET /api/org", withKey, func(*http.Request) reply { return ok(object{"id": 1, "name": "Main Org."}) })
	api.start(options)
	return api
}

// ServiceAccount is the account for tests.
func (*Grafana) ServiceAccount() int64 { return 2 }

// MakeByHand makes a token of ServiceAccount.
func (api *Grafana) MakeByHand(name string) (key, id string) {
	api.mu.Lock()
	defer api.mu.Unlock()
	made := api.add(api.token(name, grafanaTests, plainKey))
	return made.value, made.ID
}

func (api *Grafana) token(name, owner string, kind recordKind) record {
	api.serial++
	return record{kind: kind, Key: Key{ID: strconv.Itoa(api.serial), Name: name, Owner: owner}, value: random("glsa_", 32) + "_" + randomHex(8)}
}

func grafanaFailure(status int, message, code string) any {
	out := object{"message": message}
	if code != "" {
		out["messageId"], out["statusCode"], out["traceID"] = code, status, ""
	}
	return out
}

// inAccount adds a route of an account that exists.
func (api *Grafana) inAccount(pattern string, serve func(*http.Request) reply) {
	api.handle(pattern, withRoot, func(r *http.Request) reply {
		switch id := r.PathValue("account"); {
		case id == grafanaAdmins || id == grafanaTests:
			return serve(r)
		case !isNumber(id):
			return api.fail(http.StatusBadRequest, "Service Account ID is invalid", "")
		}
		return api.fail(http.StatusNotFound, "service account not found", "serviceaccounts.ErrNotFound")
	})
}

func isNumber(text string) bool {
	_, err := strconv.ParseInt(text, 10, 64)
	return err == nil
}

// create refuses a name that a token has already, in any account of the organisation.
func (api *Grafana) create(r *http.Request) reply {
	var body struct {
		Name    string
		Seconds int64 `json:"secondsToLive"`
	}
	switch {
	case !decode(r, &body) || body.Name == "":
		return api.fail(http.StatusBadRequest, "bad request data", "")
	case body.Seconds < 0:
		return api.fail(http.StatusBadRequest, "invalid SecondsToLive value", "serviceaccounts.ErrInvalidInput")
	}
	for _, k := range api.records {
		if k.Name == body.Name && !k.gone {
			return api.fail(http.StatusBadRequest, "service account token with given name already exists in the organization",
				"serviceaccounts.ErrTokenAlreadyExists")
		}
	}
	made := api.add(api.token(body.Name, r.PathValue("account"), plainKey))
	if body.Seconds > 0 {
		made.expires = made.made.Add(time.Duration(body.Seconds) * time.Second)
	}
	return ok(object{"id": grafanaID(made), "name": made.Name, "key": made.value})
}

func grafanaID(r *record) int64 {
	n, err := strconv.ParseInt(r.ID, 10, 64)
	if err != nil {
		panic(err) // an id of our own
	}
	return n
}

// list is an array, without pages.
func (api *Grafana) list(r *http.Request) reply {
	all := api.listed(func(k *record) bool { return k.Owner == r.PathValue("account") })
	return ok(each(all, func(k *record) object {
		return object{
			"id": grafanaID(k), "name": k.Name, "created": stamp(k.made), "lastUsedAt": stamp(k.used), "expiration": stamp(k.expires),
			"secondsUntilExpiration": 0, "hasExpired": api.status(k) == expired, "isRevoked": false,
		}
	}))
}

func (api *Grafana) delete(r *http.Request) reply {
	if !isNumber(r.PathValue("id")) {
		return api.fail(http.StatusBadRequest, "Token ID is invalid", "")
	}
	for _, kind := range []recordKind{plainKey, rootKey} {
		if key := api.byID(kind, r.PathValue("id")); key != nil && key.Owner == r.PathValue("account") {
			api.remove(key)
			return ok(object{"message": "Service account token deleted"})
		}
	}
	return api.fail(http.StatusNotFound, "service account token not found", "serviceaccounts.ErrTokenNotFound")
}
