package fakeapi

import "net/http"

// SendGrid imitates the management of keys. The admin key is one among them.
type SendGrid struct{ *Server }

// sendGridKeys is how many keys an account may have.
const sendGridKeys = 100

// NewSendGrid starts a fake with one key that may manage keys.
func NewSendGrid(options ...Option) *SendGrid {
	api := &SendGrid{}
	api.Server = newServer(dialect{credentials: bearer, failure: sendGridFailure})
	api.dialect.admit = api.admission(refusals{
		missing:   refusal{401, "authorization required", ""},
		wrong:     refusal{401, "The provided authorization grant is invalid, expired, or revoked", ""},
		forbidden: refusal{403, "access forbidden", ""},
	})
	api.byHand(sendGridKey("manages keys", rootKey))
	api.handle("POST /v3/api_keys", withRoot, api.create)
	api.handle("GET /v3/api_keys", withRoot, api.list)
	api.handle("DELETE /v3/api_keys/{id}", withRoot, api.delete)
	api.handle("GET /v3/scopes", withKey, func(*http.Request) reply { return ok(object{"scopes": sendGridScopes}) })
	api.start(options)
	return api
}

var sendGridScopes = []string{"mail.send", "sender_verification_eligible"}

// MakeByHand makes a key.
func (api *SendGrid) MakeByHand(name string) (key, id string) {
	return api.byHand(sendGridKey(name, plainKey))
}

// sendGridKey has 69 characters, of which the middle part is the id.
func sendGridKey(name string, kind recordKind) record {
	id := random("", 22)
	return record{kind: kind, Key: Key{ID: id, Name: name}, value: "SG." + id + random(".", 43)}
}

func sendGridFailure(_ int, message, field string) any {
	return object{"errors": []object{{"field": orNull(field), "message": message}}}
}

func (api *SendGrid) create(r *http.Request) reply {
	var body struct {
		Name   string
		Scopes []string
	}
	if !decode(r, &body) || body.Name == "" {
		return api.fail(http.StatusBadRequest, "missing required argument", "name")
	}
	if len(api.listed(func(*record) bool { return true })) >= sendGridKeys {
		return api.fail(http.StatusForbidden, "Cannot create more than 100 API Keys", "")
	}
	if body.Scopes == nil {
		body.Scopes = sendGridScopes
	}
	made := api.add(sendGridKey(body.Name, plainKey))
	return reply{status: http.StatusCreated, body: object{
		"api_key": made.value, "api_key_id": made.ID, "name": made.Name, "scopes": body.Scopes,
	}}
}

// list has no pages: limit, if any, cuts it short.
func (api *SendGrid) list(r *http.Request) reply {
	limit, valid := number(r, "limit", sendGridKeys, 1, 1<<20)
	if !valid {
		return api.fail(http.StatusBadRequest, "invalid limit", "limit")
	}
	all := api.listed(func(*record) bool { return true })
	return ok(object{"result": each(window(all, 0, limit), func(k *record) object {
		return object{"api_key_id": k.ID, "name": k.Name}
	})})
}

func (api *SendGrid) delete(r *http.Request) reply {
	for _, kind := range []recordKind{plainKey, rootKey} {
		if key := api.byID(kind, r.PathValue("id")); key != nil {
			api.remove(key)
			return reply{status: http.StatusNoContent}
		}
	}
	return api.fail(http.StatusNotFound, "unable to find API Key", "")
}
