package fakeapi

import (
	"net/http"
	"slices"
)

const (
	inactive = "inactive"
	archived = "archived"
)

// Anthropic imitates the Admin API for keys, and the list of models. There is no call that makes a
// key.
type Anthropic struct{ *Server }

// NewAnthropic starts a fake with one admin key.
func NewAnthropic(options ...Option) *Anthropic {
	api := &Anthropic{}
	api.Server = newServer(dialect{
		credentials: func(r *http.Request) []string { return some(r.Header.Get("X-Api-Key")) },
		admit:       api.admit, failure: api.failure, ended: archived, requestID: "Request-Id",
	})
	api.byHand(record{kind: rootKey, Key: Key{ID: random("apikey_01", 22), Name: "admin key"}, value: random("sk-ant-admin01-", 93) + "AA"})
	const keys = "/v1/organizations/api_keys"
	api.handle("GET "+keys, withRoot, api.list)
	api.handle("GET "+keys+"/{id}", withRoot, func(r *http.Request) reply { return api.onID(r, func(*record) *reply { return nil }) })
	api.handle("POST "+keys+"/{id}", withRoot, api.update)
	api.handle("GET /v1/models", withKey, api.models)
	api.start(options)
	return api
}

// MakeByHand makes a key in the default workspace.
func (api *Anthropic) MakeByHand(name string) (key, id string) { return api.MakeByHandIn("", name) }

// MakeByHandIn makes a key in a workspace.
func (api *Anthropic) MakeByHandIn(workspace, name string) (key, id string) {
	return api.byHand(anthropicKey(workspace, name, random("sk-ant-api03-", 93)+"AA"))
}

// MakeLookAlikes makes keys in the default workspace that all have the same partial_key_hint.
func (api *Anthropic) MakeLookAlikes(names ...string) []Made {
	beginning, end := random("sk-ant-api03-", 3), random("", 2)+"AA"
	out := make([]Made, 0, len(names))
	for _, name := range names {
		key, id := api.byHand(anthropicKey("", name, random(beginning, 88)+end))
		out = append(out, Made{key, id})
	}
	return out
}

// DisableByHand sets a key to inactive.
func (api *Anthropic) DisableByHand(key string) {
	api.onKey(key, func(r *record) { api.end(r, inactive) })
}

func anthropicKey(workspace, name, value string) record {
	return record{Key: Key{ID: random("apikey_01", 22), Name: name}, place: workspace, value: value}
}

// failure names the request, as the header request-id does.
func (api *Anthropic) failure(status int, message, _ string) any {
	kinds := map[int]string{
		http.StatusBadRequest: "invalid_request_error", http.StatusUnauthorized: "authentication_error",
		http.StatusForbidden: "permission_error", http.StatusNotFound: "not_found_error",
		http.StatusRequestEntityTooLarge: "request_too_large", http.StatusTooManyRequests: "rate_limit_error",
		http.StatusGatewayTimeout: "timeout_error", 529: "overloaded_error",
	}
	kind, known := kinds[status]
	if !known {
		kind = "api_error"
	}
	return object{"type": "error", "error": object{"type": kind, "message": message}, "request_id": api.current.id}
}

// admit refuses a key of the other sort as if there were none such.
func (api *Anthropic) admit(r *http.Request, need access) *reply {
	refusal := func(status int, message string) *reply {
		a := api.fail(status, message, "")
		return &a
	}
	if r.Header.Get("Anthropic-Version") == "" {
		return refusal(http.StatusBadRequest, "anthropic-version: header is required")
	}
	if len(api.current.sent) == 0 {
		return refusal(http.StatusUnauthorized, "x-api-key header is required")
	}
	key := api.byValue(api.current.sent[0])
	switch {
	case !api.accepted(key) || (need == withRoot) != (key.kind == rootKey):
		return refusal(http.StatusUnauthorized, "invalid x-api-key")
	case key.limited:
		return refusal(http.StatusForbidden, "Your API key does not have permission to use the specified resource.")
	}
	return nil
}

func (api *Anthropic) key(r *record) object {
	return object{
		"type": "api_key", "id": r.ID, "name": r.Name, "created_at": stamp(r.made),
		"created_by": object{"id": "user_01WCz1FkmYMm4gnmykNKUu3Q", "type": "user"}, "expires_at": stamp(r.expires),
		"partial_key_hint": masked(r.value, len("sk-ant-api03-")+3, 4, "..."), "status": api.status(r), "workspace_id": orNull(r.place),
	}
}

// list pages with limit (1 to 1000, 20 without one) and after_id.
func (api *Anthropic) list(r *http.Request) reply {
	query := r.URL.Query()
	limit, valid := number(r, "limit", 20, 1, 1000)
	if !valid {
		return api.fail(http.StatusBadRequest, "limit: must be from 1 to 1000", "")
	}
	all := api.listed(func(k *record) bool {
		return k.kind == plainKey && (!query.Has("status") || api.status(k) == query.Get("status")) &&
			(!query.Has("workspace_id") || k.place == query.Get("workspace_id"))
	})
	page, more, found := api.after(all, query.Get("after_id"), limit)
	if !found {
		return api.fail(http.StatusBadRequest, "after_id: no such key", "")
	}
	first, last := ends(page)
	return ok(object{"data": each(page, api.key), "first_id": first, "last_id": last, "has_more": more})
}

// onID changes a key, and gives what it is then.
func (api *Anthropic) onID(r *http.Request, change func(*record) *reply) reply {
	key := api.byID(plainKey, r.PathValue("id"))
	if key == nil {
		return api.fail(http.StatusNotFound, "API key not found", "")
	}
	if refusal := change(key); refusal != nil {
		return *refusal
	}
	return ok(api.key(key))
}

// update changes the name and the status. archived is final; expired is nothing that can be set, nor
// be undone.
func (api *Anthropic) update(r *http.Request) reply {
	var body struct{ Name, Status *string }
	if !decode(r, &body) {
		return api.fail(http.StatusBadRequest, "the body is no JSON object", "")
	}
	return api.onID(r, func(key *record) *reply {
		refusal := func(message string) *reply {
			a := api.fail(http.StatusBadRequest, message, "")
			return &a
		}
		status := api.status(key)
		if status == archived {
			return refusal("an archived key cannot be changed")
		}
		if body.Status != nil {
			switch {
			case !slices.Contains([]string{active, inactive, archived}, *body.Status):
				return refusal("status: must be active, inactive or archived")
			case status == expired && *body.Status == active:
				return refusal("an expired key cannot be activated")
			case *body.Status == active:
				key.Status = active
			default:
				api.end(key, *body.Status)
			}
		}
		if body.Name != nil {
			key.Name = *body.Name
		}
		return nil
	})
}

func (api *Anthropic) models(*http.Request) reply {
	return ok(object{
		"data": []object{{
			"type": "model", "id": "claude-sonnet-4-20250514", "display_name": "Claude Sonnet 4", "created_at": "2025-02-19T00:00:00Z",
		}},
		"first_id": "claude-sonnet-4-20250514", "last_id": "claude-sonnet-4-20250514", "has_more": false,
	})
}
