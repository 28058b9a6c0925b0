package fakeapi

import (
	"net/http"
	"strings"
	"time"
)

// OpenAI imitates the administration of OpenAI's platform: one project with service accounts and
// keys, admin keys, and the list of models.
type OpenAI struct {
	*Server
	project string
}

// NewOpenAI starts a fake with one admin key and one project.
func NewOpenAI(options ...Option) *OpenAI {
	api := &OpenAI{project: random("proj_", 24)}
	api.Server = newServer(dialect{credentials: bearer, admit: api.admit, failure: openAIFailure, requestID: "X-Request-Id"})
	api.byHand(record{kind: rootKey, Key: Key{ID: random("key_", 16), Name: "first admin key"}, value: random("sk-admin-", 64)})
	const accounts, keys = "/v1/organization/projects/{project}/service_accounts", "/v1/organization/projects/{project}/api_keys"
	api.inProject("POST "+accounts, api.createAccount)
	api.inProject("GET "+accounts, func(r *http.Request) reply { return api.list(r, account, api.account) })
	api.inProject("GET "+accounts+"/{id}", func(r *http.Request) reply { return api.get(r, account, api.account) })
	api.inProject("DELETE "+accounts+"/{id}", api.deleteAccount)
	api.inProject("GET "+keys, func(r *http.Request) reply { return api.list(r, plainKey, api.projectKey) })
	api.inProject("GET "+keys+"/{id}", func(r *http.Request) reply { return api.get(r, plainKey, api.projectKey) })
	api.inProject("DELETE "+keys+"/{id}", api.deleteProjectKey)
	const admin = "/v1/organization/admin_api_keys"
	api.handle("POST "+admin, withRoot, api.createAdminKey)
	api.handle("GET "+admin, withRoot, func(r *http.Request) reply { return api.list(r, rootKey, api.adminKey) })
	api.handle("GET "+admin+"/{id}", withRoot, func(r *http.Request) reply { return api.get(r, rootKey, api.adminKey) })
	api.handle("DELETE "+admin+"/{id}", withRoot, api.deleteAdminKey)
	api.handle("GET /v1/models", withKey, api.models)
	api.start(options)
	return api
}

// Project is the id of the one project.
func (api *OpenAI) Project() string { return api.project }

// BaseURL is URL with the version, as OpenAI gives it.
func (api *OpenAI) BaseURL() string { return api.URL() + "/v1" }

// MakeByHand makes a key of a person in the project.
func (api *OpenAI) MakeByHand(name string) (key, id string) {
	return api.byHand(record{Key: Key{ID: random("key_", 16), Name: name}, value: random("sk-proj-", 64)})
}

// MakeAccountByHand makes a service account with a key, and gives the account's id.
func (api *OpenAI) MakeAccountByHand(name string) (key, id string) {
	api.mu.Lock()
	defer api.mu.Unlock()
	owner, made := api.addAccount(name)
	return made.value, owner.ID
}

// Accounts are the service accounts that exist.
func (api *OpenAI) Accounts() []Key { return api.existing(account) }

// addAccount names the key, for Keys, as its account; on the wire it is called "Secret Key".
func (api *OpenAI) addAccount(name string) (owner, key *record) {
	owner = api.add(record{kind: account, Key: Key{ID: random("svc_acct_", 16), Name: name}})
	key = api.add(record{Key: Key{ID: random("key_", 16), Name: name, Owner: owner.ID}, value: random("sk-svcacct-", 64)})
	return owner, key
}

// openAIFailure has the code null where there is none: also for a valid key without a scope.
func openAIFailure(status int, message, code string) any {
	kind := "invalid_request_error"
	switch {
	case status == http.StatusTooManyRequests:
		kind, code = "requests", "rate_limit_exceeded"
	case status >= http.StatusInternalServerError:
		kind = "server_error"
	}
	return object{"error": object{"message": message, "type": kind, "param": nil, "code": orNull(code)}}
}

// admit refuses with 401 throughout: a key that is not accepted has the code invalid_api_key, one
// that lacks a scope the code null. An admin key serves administration and nothing else.
func (api *OpenAI) admit(_ *http.Request, need access) *reply {
	refusal := func(message, code string) *reply {
		a := api.fail(http.StatusUnauthorized, message, code)
		return &a
	}
	if len(api.current.sent) == 0 {
		return refusal("You didn't provide an API key.", "")
	}
	sent := api.current.sent[0]
	key := api.byValue(sent)
	const scopes = "You have insufficient permissions for this operation. Missing scopes: "
	switch {
	case !api.accepted(key):
		return refusal("Incorrect API key provided: "+masked(sent, 8, 4, "********")+".", "invalid_api_key")
	case need == withRoot && key.kind != rootKey:
		return refusal(scopes+"api.management.read.", "")
	case need == withKey && (key.kind == rootKey || key.limited):
		return refusal(scopes+"api.model.read.", "")
	}
	key.used = api.now()
	return nil
}

// inProject adds a route of the one project.
func (api *OpenAI) inProject(pattern string, serve func(*http.Request) reply) {
	api.handle(pattern, withRoot, func(r *http.Request) reply {
		if r.PathValue("project") != api.project {
			return api.fail(http.StatusNotFound, "No such project: "+r.PathValue("project"), "")
		}
		return serve(r)
	})
}

// list pages with limit (1 to 100, 20 without one) and after, the last id of the page before.
func (api *OpenAI) list(r *http.Request, kind recordKind, shape func(*record) object) reply {
	limit, valid := number(r, "limit", 20, 1, 100)
	if !valid {
		return api.fail(http.StatusBadRequest, "Invalid 'limit': expected a value from 1 to 100.", "")
	}
	all := api.listed(func(k *record) bool { return k.kind == kind })
	page, more, found := api.after(all, r.URL.Query().Get("after"), limit)
	if !found {
		return api.fail(http.StatusBadRequest, "Invalid 'after'.", "")
	}
	first, last := ends(page)
	return ok(object{"object": "list", "data": each(page, shape), "first_id": first, "last_id": last, "has_more": more})
}

func (api *OpenAI) get(r *http.Request, kind recordKind, shape func(*record) object) reply {
	if found := api.byID(kind, r.PathValue("id")); found != nil {
		return ok(shape(found))
	}
	return api.notFound(r)
}

func (api *OpenAI) notFound(r *http.Request) reply {
	return api.fail(http.StatusNotFound, "No such object: "+r.PathValue("id"), "")
}

// deleted removes what is there, with the object type of the confirmation.
func (api *OpenAI) deleted(r *record, typ string) reply {
	api.remove(r)
	return ok(object{"object": typ, "id": r.ID, "deleted": true})
}

func (api *OpenAI) account(r *record) object {
	return object{"object": "organization.project.service_account", "id": r.ID, "name": r.Name, "role": "member", "created_at": r.made.Unix()}
}

// createAccount shows the value of the account's key, this once.
func (api *OpenAI) createAccount(r *http.Request) reply {
	var body struct{ Name string }
	if !decode(r, &body) || body.Name == "" {
		return api.fail(http.StatusBadRequest, "Missing required parameter: 'name'.", "missing_required_parameter")
	}
	owner, key := api.addAccount(body.Name)
	answer := api.account(owner)
	answer["api_key"] = object{
		"object": "organization.project.service_account.api_key", "value": key.value,
		"name": "Secret Key", "created_at": key.made.Unix(), "id": key.ID,
	}
	return ok(answer)
}

// deleteAccount takes the account's keys with it.
func (api *OpenAI) deleteAccount(r *http.Request) reply {
	owner := api.byID(account, r.PathValue("id"))
	if owner == nil {
		return api.notFound(r)
	}
	for _, key := range api.records {
		if key.Owner == owner.ID && !key.gone {
			api.remove(key)
		}
	}
	return api.deleted(owner, "organization.project.service_account.deleted")
}

// redacted shows three characters after what keys of a sort begin with, and the last three.
func redacted(key string) string { return masked(key, strings.LastIndex(key, "-")+4, 3, "...") }

func (api *OpenAI) projectKey(r *record) object {
	name := r.Name
	owner := object{"type": "user", "user": object{
		"object": "organization.project.user", "id": "user_1", "name": "A person", "email": "person@example.com",
		"role": "owner", "created_at": r.made.Unix(),
	}}
	if r.Owner != "" {
		name = "Secret Key"
		owner = object{"type": "service_account", "service_account": object{
			"object": "organization.project.service_account", "id": r.Owner, "name": r.Name, "role": "member", "created_at": r.made.Unix(),
		}}
	}
	return object{
		"object": "organization.project.api_key", "redacted_value": redacted(r.value), "name": name,
		"created_at": r.made.Unix(), "last_used_at": unix(r.used), "id": r.ID, "owner": owner,
	}
}

// deleteProjectKey refuses the key of a service account: that one ends with its account.
func (api *OpenAI) deleteProjectKey(r *http.Request) reply {
	switch key := api.byID(plainKey, r.PathValue("id")); {
	case key == nil:
		return api.notFound(r)
	case key.Owner != "":
		return api.fail(http.StatusBadRequest, "The key belongs to a service account: delete the account instead.", "")
	default:
		return api.deleted(key, "organization.project.api_key.deleted")
	}
}

func (api *OpenAI) adminKey(r *record) object {
	return object{
		"object": "organization.admin_api_key", "id": r.ID, "name": r.Name, "redacted_value": masked(r.value, len("sk-admin"), 3, "..."),
		"created_at": r.made.Unix(), "last_used_at": unix(r.used), "expires_at": unix(r.expires),
		"owner": object{
			"type": "user", "object": "organization.user", "id": "user_1", "name": "A person", "role": "owner", "created_at": r.made.Unix(),
		},
	}
}

func (api *OpenAI) createAdminKey(r *http.Request) reply {
	var body struct {
		Name    string
		Seconds int64 `json:"expires_in_seconds"`
	}
	if !decode(r, &body) || body.Name == "" || body.Seconds < 0 {
		return api.fail(http.StatusBadRequest, "Missing required parameter: 'name'.", "missing_required_parameter")
	}
	key := api.add(record{kind: rootKey, Key: Key{ID: random("key_", 16), Name: body.Name}, value: random("sk-admin-", 64)})
	if body.Seconds > 0 {
		key.expires = key.made.Add(time.Duration(body.Seconds) * time.Second)
	}
	answer := api.adminKey(key)
	answer["value"] = key.value
	return ok(answer)
}

func (api *OpenAI) deleteAdminKey(r *http.Request) reply {
	key := api.byID(rootKey, r.PathValue("id"))
	if key == nil {
		return api.notFound(r)
	}
	return api.deleted(key, "organization.admin_api_key.deleted")
}

func (api *OpenAI) models(*http.Request) reply {
	return ok(object{"object": "list", "data": []object{
		{"id": "gpt-4o-mini", "object": "model", "created": 1721172741, "owned_by": "system"},
	}})
}
