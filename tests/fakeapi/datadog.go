package fakeapi

import (
	"net/http"
	"strings"
)

// Datadog imitates the management of API keys. It takes two keys to manage keys: any API key that
// works, and an application key of somebody who may.
type Datadog struct{ *Server }

// application is where application keys are filed; API keys are filed nowhere.
const application = "application"

// NewDatadog starts a fake with an API key and an application key that manage keys.
func NewDatadog(options ...Option) *Datadog {
	api := &Datadog{}
	api.Server = newServer(dialect{
		credentials: func(r *http.Request) []string {
			return some(r.Header.Get("DD-API-KEY"), r.Header.Get("DD-APPLICATION-KEY"))
		},
		admit: api.admit, failure: datadogFailure,
	})
	api.byHand(datadogKey("manages keys", rootKey))
	api.byHand(record{kind: rootKey, place: application, Key: Key{ID: uuid(), Name: "application key"}, value: randomHex(40)})
	api.handle("POST /api/v2/api_keys", withRoot, api.create)
	api.handle("GET /api/v2/api_keys", withRoot, api.list)
	api.onID("GET", func(key *record) reply { return ok(object{"data": api.full(key)}) })
	api.onID("DELETE", func(key *record) reply {
		api.remove(key)
		return reply{status: http.StatusNoContent}
	})
	api.handle("GET /api/v1/validate", withKey, func(*http.Request) reply { return ok(object{"valid": true}) })
	api.start(options)
	return api
}

// ApplicationKey goes with AdminKey.
func (api *Datadog) ApplicationKey() string {
	api.mu.Lock()
	defer api.mu.Unlock()
	for _, r := range api.records {
		if r.place == application && api.accepted(r) {
			return r.value
		}
	}
	return ""
}

// MakeByHand makes an API key.
func (api *Datadog) MakeByHand(name string) (key, id string) {
	return api.byHand(datadogKey(name, plainKey))
}

func datadogKey(name string, kind recordKind) record {
	return record{kind: kind, Key: Key{ID: uuid(), Name: name}, value: randomHex(32)}
}

func uuid() string {
	return strings.Join([]string{randomHex(8), randomHex(4), randomHex(4), randomHex(4), randomHex(12)}, "-")
}

func datadogFailure(_ int, message, _ string) any { return object{"errors": []string{message}} }

// admit refuses a key that is not accepted with 403, and a request that lacks one with 401, but for
// validate, which has 403 alone: there, and only there, 403 is a dead key.
func (api *Datadog) admit(r *http.Request, need access) *reply {
	refused := func(status int) *reply {
		a := api.fail(status, http.StatusText(status), "")
		return &a
	}
	key, app := api.byValue(r.Header.Get("DD-API-KEY")), api.byValue(r.Header.Get("DD-APPLICATION-KEY"))
	works := func(k *record, place string) bool { return api.accepted(k) && k.place == place }
	if need == withKey {
		if !works(key, "") {
			return refused(http.StatusForbidden)
		}
		return nil
	}
	switch {
	case r.Header.Get("DD-API-KEY") == "" || r.Header.Get("DD-APPLICATION-KEY") == "":
		return refused(http.StatusUnauthorized)
	case !works(key, "") || !works(app, application) || app.limited:
		return refused(http.StatusForbidden)
	}
	return nil
}

// partial is a key as listings show it, without its value.
func (api *Datadog) partial(r *record) object {
	return object{
		"type": "api_keys", "id": r.ID,
		"attributes": object{
			"name": r.Name, "last4": r.value[len(r.value)-4:], "created_at": stamp(r.made), "modified_at": stamp(r.made),
			"remote_config_read_enabled": false,
		},
		"relationships": object{"created_by": object{"data": object{"type": "users", "id": "4dee724d-00cc-11ea-a77b-570c9d03c6c5"}}},
	}
}

// full is a key as create and get show it.
func (api *Datadog) full(r *record) object {
	out := api.partial(r)
	attributes, _ := out["attributes"].(object)
	attributes["key"] = r.value
	return out
}

func (api *Datadog) create(r *http.Request) reply {
	var body struct {
		Data struct {
			Type       string
			Attributes struct{ Name string }
		}
	}
	if !decode(r, &body) || body.Data.Type != "api_keys" || body.Data.Attributes.Name == "" {
		return api.fail(http.StatusBadRequest, "Bad Request", "")
	}
	made := api.add(datadogKey(body.Data.Attributes.Name, plainKey))
	return reply{status: http.StatusCreated, body: object{"data": api.full(made)}}
}

// list pages with page[number], from 0, and page[size] (10 without one, 100 at most); filter is a
// part of the name.
func (api *Datadog) list(r *http.Request) reply {
	page, valid := number(r, "page[number]", 0, 0, 1<<20)
	size, valid2 := number(r, "page[size]", 10, 1, 100)
	if !valid || !valid2 {
		return api.fail(http.StatusBadRequest, "Bad Request", "")
	}
	filter := r.URL.Query().Get("filter")
	all := api.listed(func(k *record) bool { return k.place == "" && strings.Contains(k.Name, filter) })
	return ok(object{
		"data": each(window(all, page*size, size), api.partial),
		"meta": object{"max_allowed": 1000, "page": object{"total_filtered_count": len(all)}},
	})
}

// onID adds a route on one API key.
func (api *Datadog) onID(method string, serve func(*record) reply) {
	api.handle(method+" /api/v2/api_keys/{id}", withRoot, func(r *http.Request) reply {
		for _, kind := range []recordKind{plainKey, rootKey} {
			if key := api.byID(kind, r.PathValue("id")); key != nil && key.place == "" {
				return serve(key)
			}
		}
		return api.fail(http.StatusNotFound, "API key not found", "")
	})
}
