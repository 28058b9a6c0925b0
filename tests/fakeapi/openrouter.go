package fakeapi

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"time"
)

const disabled = "disabled"

// OpenRouter imitates the management of keys. What a key is known by is its hash.
type OpenRouter struct {
	*Server
	pageSize int
}

// NewOpenRouter starts a fake with one management key.
func NewOpenRouter(options ...Option) *OpenRouter {
	api := &OpenRouter{pageSize: 100}
	api.Server = newServer(dialect{credentials: bearer, failure: openRouterFailure})
	api.dialect.admit = api.admission(refusals{
		missing: refusal{401, "No auth credentials found", ""}, wrong: refusal{401, "User not found.", ""}, forbidden: refusal{403, "Forbidden", ""},
	})
	api.byHand(openRouterKey("management", rootKey))
	const keys = "/api/v1/keys"
	api.handle("POST "+keys, withRoot, api.create)
	api.handle("GET "+keys, withRoot, api.list)
	api.onHash("GET", func(*http.Request, *record) reply { return reply{} })
	api.onHash("PATCH", api.update)
	api.onHash("DELETE", func(_ *http.Request, key *record) reply {
		api.remove(key)
		return ok(object{"deleted": true})
	})
	api.handle("GET /api/v1/key", withKey, api.own)
	api.start(options)
	return api
}

// MakeByHand makes a key; id is its hash.
func (api *OpenRouter) MakeByHand(name string) (key, id string) {
	return api.byHand(openRouterKey(name, plainKey))
}

// DisableByHand switches a key off.
func (api *OpenRouter) DisableByHand(key string) {
	api.onKey(key, func(r *record) { api.end(r, disabled) })
}

// PageSize replaces the 100 keys of a page, which no request can.
func (api *OpenRouter) PageSize(n int) {
	api.mu.Lock()
	defer api.mu.Unlock()
	api.pageSize = n
}

func openRouterKey(name string, kind recordKind) record {
	value := "sk-or-v1-" + randomHex(64)
	hash := sha256.Sum256([]byte(value))
	return record{kind: kind, Key: Key{ID: hex.EncodeToString(hash[:]), Name: name}, value: value}
}

// openRouterFailure has the status for a code.
func openRouterFailure(status int, message, _ string) any {
	return object{"error": object{"code": status, "message": message}}
}

func (api *OpenRouter) key(r *record) object {
	return object{
		"hash": r.ID, "name": r.Name, "label": masked(r.value, 12, 3, "..."), "disabled": api.status(r) == disabled,
		"limit": nil, "limit_remaining": nil, "limit_reset": nil, "include_byok_in_limit": false,
		"usage": 0, "usage_daily": 0, "usage_weekly": 0, "usage_monthly": 0,
		"created_at": stamp(r.made), "updated_at": nil, "expires_at": stamp(r.expires),
	}
}

func (api *OpenRouter) create(r *http.Request) reply {
	var body struct {
		Name    string
		Expires time.Time `json:"expires_at"`
	}
	if !decode(r, &body) || body.Name == "" {
		return api.fail(http.StatusBadRequest, "name: Required", "")
	}
	key := api.add(openRouterKey(body.Name, plainKey))
	key.expires = body.Expires
	return reply{status: http.StatusCreated, body: object{"data": api.key(key), "key": key.value}}
}

// list pages by offset alone, and leaves disabled keys out unless they are asked for.
func (api *OpenRouter) list(r *http.Request) reply {
	offset, valid := number(r, "offset", 0, 0, 1<<30)
	if !valid {
		return api.fail(http.StatusBadRequest, "offset: Expected a number", "")
	}
	all := r.URL.Query().Get("include_disabled") == "true"
	found := api.listed(func(k *record) bool { return k.kind == plainKey && (all || api.status(k) != disabled) })
	return ok(object{"data": each(window(found, offset, api.pageSize), api.key)})
}

// onHash adds a route on one key. Without an answer of its own it gives what the key is then.
func (api *OpenRouter) onHash(method string, serve func(*http.Request, *record) reply) {
	api.handle(method+" /api/v1/keys/{hash}", withRoot, func(r *http.Request) reply {
		key := api.byID(plainKey, r.PathValue("hash"))
		if key == nil {
			return api.fail(http.StatusNotFound, "API key not found", "")
		}
		if a := serve(r, key); a.status != 0 {
			return a
		}
		return ok(object{"data": api.key(key)})
	})
}

func (api *OpenRouter) update(r *http.Request, key *record) reply {
	var body struct {
		Name     *string
		Disabled *bool
	}
	if !decode(r, &body) {
		return api.fail(http.StatusBadRequest, "Invalid JSON", "")
	}
	if body.Name != nil {
		key.Name = *body.Name
	}
	switch {
	case body.Disabled != nil && *body.Disabled:
		api.end(key, disabled)
	case body.Disabled != nil:
		key.Status = active
	}
	return reply{}
}

// own tells a key what it is.
func (api *OpenRouter) own(*http.Request) reply {
	key := api.byValue(api.current.sent[0])
	manages := key.kind == rootKey
	return ok(object{"data": object{
		"label": masked(key.value, 12, 3, "..."), "limit": nil, "limit_remaining": nil, "usage": 0, "is_free_tier": false,
		"is_management_key": manages, "is_provisioning_key": manages, "expires_at": stamp(key.expires),
	}})
}
