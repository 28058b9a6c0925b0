package fakeapi

import "net/http"

// InPlace is an invented API for keys that are changed in place: there is one at a time, and the
// earlier value is refused once there is a next one.
type InPlace struct{ *Server }

// NewInPlace starts a fake with an admin key and no other.
func NewInPlace(options ...Option) *InPlace {
	api := &InPlace{}
	api.Server = newServer(dialect{credentials: bearer, failure: inPlaceFailure})
	api.dialect.admit = api.admission(refusals{
		missing: refusal{401, "a key is required", "unauthorized"}, wrong: refusal{401, "the key is not valid", "unauthorized"},
		forbidden: refusal{403, "the key may not do this", "forbidden"},
	})
	api.byHand(inPlaceKey("admin", rootKey))
	api.handle("POST /v1/key/rotate", withKey, api.rotate)
	api.handle("GET /v1/me", withKey, func(*http.Request) reply {
		r := api.byValue(api.current.sent[0])
		return ok(object{"id": r.ID, "name": r.Name})
	})
	api.start(options)
	return api
}

// MakeByHand makes a key, whose value is then changed by rotate.
func (api *InPlace) MakeByHand(name string) (key, id string) {
	return api.byHand(inPlaceKey(name, plainKey))
}

func inPlaceKey(name string, kind recordKind) record {
	return record{kind: kind, Key: Key{ID: random("k_", 12), Name: name}, value: random("ipk_", 40)}
}

func inPlaceFailure(_ int, message, code string) any {
	return object{"error": object{"code": orNull(code), "message": message}}
}

// rotate is for the admin key, and for a key itself.
func (api *InPlace) rotate(r *http.Request) reply {
	var body struct{ ID string }
	if !decode(r, &body) || body.ID == "" {
		return api.fail(http.StatusBadRequest, "id is required", "invalid")
	}
	key, caller := api.byID(plainKey, body.ID), api.byValue(api.current.sent[0])
	switch {
	case caller.kind != rootKey && caller.ID != body.ID:
		return api.fail(http.StatusForbidden, "the key may not do this", "forbidden")
	case key == nil:
		return api.fail(http.StatusNotFound, "there is no such key", "not_found")
	}
	api.replace(key, random("ipk_", 40))
	return ok(object{"key": key.value, "id": key.ID})
}
