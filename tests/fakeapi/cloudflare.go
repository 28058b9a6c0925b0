package fakeapi

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// Cloudflare imitates the tokens of a user. The admin key is a token among them, the one that may
// create others.
type Cloudflare struct{ *Server }

// NewCloudflare starts a fake with one token that may create tokens.
func NewCloudflare(options ...Option) *Cloudflare {
	api := &Cloudflare{}
	api.Server = newServer(dialect{credentials: bearer, failure: cloudflareFailure, requestID: "Cf-Ray"})
	api.dialect.admit = api.admission(refusals{
		missing:   refusal{400, "Missing X-Auth-Key, X-Auth-Email or Authorization headers", "9106"},
		wrong:     refusal{401, "Invalid API Token", "1000"},
		forbidden: refusal{403, "Unauthorized to access requested resource", "9109"},
	})
	api.byHand(cloudflareToken("token that creates tokens", rootKey))
	const tokens = "/client/v4/user/tokens"
	api.handle("POST "+tokens, withRoot, api.create)
	api.handle("GET "+tokens, withRoot, api.list)
	api.handle("GET "+tokens+"/verify", open, api.verify)
	api.onToken("GET "+tokens+"/{id}", func(_ *http.Request, r *record) reply { return api.result(api.token(r)) })
	api.onToken("PUT "+tokens+"/{id}", api.update)
	api.onToken("PUT "+tokens+"/{id}/value", api.roll)
	api.onToken("DELETE "+tokens+"/{id}", func(_ *http.Request, r *record) reply {
		api.remove(r)
		return api.result(object{"id": r.ID})
	})
	api.start(options)
	return api
}

// MakeByHand makes a token.
func (api *Cloudflare) MakeByHand(name string) (key, id string) {
	return api.byHand(cloudflareToken(name, plainKey))
}

// DisableByHand switches a token off.
func (api *Cloudflare) DisableByHand(key string) {
	api.onKey(key, func(r *record) { api.end(r, disabled) })
}

func cloudflareToken(name string, kind recordKind) record {
	return record{kind: kind, Key: Key{ID: randomHex(32), Name: name}, value: random("", 40)}
}

// cloudflareFailure is the envelope of all answers, with the number of the error.
func cloudflareFailure(status int, message, code string) any {
	n, err := strconv.Atoi(code)
	if err != nil {
		n = 10000 + status
	}
	return object{"success": false, "errors": []object{{"code": n, "message": message}}, "messages": []object{}, "result": nil}
}

func (*Cloudflare) result(result any) reply {
	return ok(object{"success": true, "errors": []object{}, "messages": []object{}, "result": result})
}

func (api *Cloudflare) token(r *record) object {
	out := object{
		"id": r.ID, "name": r.Name, "status": api.status(r), "issued_on": second(r.made), "modified_on": second(r.made),
		"policies": []object{{
			"id": r.ID, "effect": "allow", "resources": object{"com.cloudflare.api.user": "*"}, "permission_groups": []object{{"id": r.ID}},
		}},
	}
	if !r.expires.IsZero() {
		out["expires_on"] = second(r.expires)
	}
	return out
}

func second(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// cloudflareBody is what makes a token, and what replaces one.
type cloudflareBody struct {
	Name, Status string
	Policies     []json.RawMessage
	Expires      time.Time `json:"expires_on"`
}

func (api *Cloudflare) decode(r *http.Request) (body cloudflareBody, refused *reply) {
	if !decode(r, &body) || body.Name == "" || len(body.Policies) == 0 {
		a := api.fail(http.StatusBadRequest, "name and policies are required", "1001")
		return body, &a
	}
	return body, nil
}

// create shows the value, this once.
func (api *Cloudflare) create(r *http.Request) reply {
	body, refused := api.decode(r)
	if refused != nil {
		return *refused
	}
	made := api.add(cloudflareToken(body.Name, plainKey))
	made.expires = body.Expires
	out := api.token(made)
	out["value"] = made.value
	return api.result(out)
}

// list pages with page, from 1, and per_page (20 without one, 50 at most).
func (api *Cloudflare) list(r *http.Request) reply {
	page, valid := number(r, "page", 1, 1, 1<<20)
	size, valid2 := number(r, "per_page", 20, 1, 50)
	if !valid || !valid2 {
		return api.fail(http.StatusBadRequest, "page or per_page is out of bounds", "1001")
	}
	all := api.listed(func(*record) bool { return true })
	shown := window(all, (page-1)*size, size)
	a := api.result(each(shown, api.token))
	a.body.(object)["result_info"] = object{
		"page": page, "per_page": size, "count": len(shown), "total_count": len(all), "total_pages": (len(all) + size - 1) / size,
	}
	return a
}

// verify answers 200 for every token that exists: whether it may be used stands in result.status,
// active, disabled or expired. It asks for no permission.
func (api *Cloudflare) verify(r *http.Request) reply {
	var token *record
	if len(api.current.sent) > 0 {
		token = api.byValue(api.current.sent[0])
	}
	if !api.accepted(token) && (token == nil || token.gone || api.status(token) == active) {
		return *api.dialect.admit(r, withKey)
	}
	out := object{"id": token.ID, "status": api.status(token)}
	if api.accepted(token) {
		out["status"] = active
	}
	if !token.expires.IsZero() {
		out["expires_on"] = second(token.expires)
	}
	return api.result(out)
}

// onToken adds a route on one token.
func (api *Cloudflare) onToken(pattern string, serve func(*http.Request, *record) reply) {
	api.handle(pattern, withRoot, func(r *http.Request) reply {
		for _, kind := range []recordKind{plainKey, rootKey} {
			if token := api.byID(kind, r.PathValue("id")); token != nil {
				return serve(r, token)
			}
		}
		return api.fail(http.StatusNotFound, "Token not found", "1003")
	})
}

// update replaces what a token is; its status may be active or disabled.
func (api *Cloudflare) update(r *http.Request, token *record) reply {
	body, refused := api.decode(r)
	if refused != nil {
		return *refused
	}
	switch body.Status {
	case "":
	case active:
		token.Status = active
	case disabled:
		api.end(token, disabled)
	default:
		return api.fail(http.StatusBadRequest, "status must be active or disabled", "1001")
	}
	token.Name, token.expires = body.Name, body.Expires
	return api.result(api.token(token))
}

// roll changes the value in place. The result is the new value itself.
func (api *Cloudflare) roll(_ *http.Request, token *record) reply {
	api.replace(token, random("", 40))
	return api.result(token.value)
}
