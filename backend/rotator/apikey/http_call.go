package apikey

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/egress"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// attempt is one call of a definition that is about to be made.
type attempt struct {
	caller *caller
	action string // "revoke a key"
	spec   *callSpec
	auth   *authSpec
	// secrets fill auth, and nothing else.
	secrets secret.Map
	// with fills the call, beside the connection's parameters.
	with values
	// page is added to the query.
	page url.Values
	once bool // see egress.Request
}

// asAdmin is a call with the connection's own credential.
func (h *httpProvider) asAdmin(action string, spec *callSpec, with values) attempt {
	return attempt{caller: h.admin, action: action, spec: spec, auth: h.definition.Admin, secrets: h.adminSecrets, with: with}
}

// do makes a call.
func (h *httpProvider) do(ctx context.Context, in attempt) (*answer, error) {
	r, err := h.request(in)
	if err != nil {
		return nil, err
	}
	resp, err := in.caller.client.Do(ctx, *r)
	if err != nil {
		return nil, err
	}
	a := &answer{Response: resp, caller: in.caller, request: *r}
	if !in.spec.succeeded(a) {
		a.declined = in.caller.decline(resp.Body)
	}
	return a, nil
}

// succeeded tells whether the status is one that the definition says is a success.
func (s *callSpec) succeeded(a *answer) bool { return slices.Contains(s.Success, a.Status) }

// request fills a call. Only here do secrets become text.
func (h *httpProvider) request(in attempt) (*egress.Request, error) {
	r := &egress.Request{
		Action: fmt.Sprintf("%s at %s", in.action, h.title()), Method: in.spec.Method, Header: http.Header{}, Once: in.once,
	}
	f := &filler{r: r, query: url.Values{}}
	with := values{}
	for _, more := range []values{h.parameters, in.with} {
		for name, value := range more {
			with[name] = value
		}
	}
	r.Header.Set("Accept", "application/json")
	f.body(in.spec, with)
	f.headers(in.spec.headers, with)
	f.pairs(in.spec.query, with)
	for name, v := range in.page {
		f.query[name] = v
	}
	f.auth(in.auth, h.parameters, in.secrets)
	path, err := in.spec.path.fillPath(with)
	if f.refuse(err); f.err != nil {
		return nil, fault.New(fault.Invalid, "%s: %w", r.Action, f.err)
	}
	r.URL = in.caller.base + path
	if len(f.query) > 0 {
		r.URL += "?" + f.query.Encode()
	}
	return r, nil
}

// filler puts values into a request, up to the first that does not fit.
type filler struct {
	r     *egress.Request
	query url.Values
	err   error
}

func (f *filler) refuse(err error) {
	if f.err == nil {
		f.err = err
	}
}

func (f *filler) headers(list []pair, with values) {
	for _, h := range list {
		value, err := h.value.fillHeader(h.name, with)
		f.refuse(err)
		f.r.Header.Set(h.name, value)
	}
}

func (f *filler) pairs(list []pair, with values) {
	for _, q := range list {
		f.query.Add(q.name, q.value.fill(with, asIs))
	}
}

// auth puts the credential on the request. Its texts are what must not come back.
func (f *filler) auth(a *authSpec, parameters values, secrets secret.Map) {
	with := values{}
	for name, value := range parameters {
		with[name] = value
	}
	for name, s := range secrets {
		if with[name] = s.Reveal(); !s.Empty() {
			f.r.Secrets = append(f.r.Secrets, s)
		}
	}
	f.headers(a.headers, with)
	f.pairs(a.query, with)
	if a.Basic == nil {
		return
	}
	username := a.username.fill(with, asIs)
	if strings.Contains(username, ":") {
		f.refuse(fmt.Errorf("the user name of basic would hold a colon, where the password begins"))
	}
	encoded := base64.StdEncoding.EncodeToString([]byte(username + ":" + a.password.fill(with, asIs)))
	f.r.Header.Set(authorization, "Basic "+encoded)
	f.r.Secrets = append(f.r.Secrets, secret.New(encoded))
}

// body encodes the body: templates were filled before, so that nothing that fills one can
// end the string, or the field of a form, that it stands in.
func (f *filler) body(s *callSpec, with values) {
	switch {
	case len(s.Body) > 0:
		filled, err := fillBody(s.body, with)
		f.refuse(err)
		var out bytes.Buffer
		enc := json.NewEncoder(&out)
		enc.SetEscapeHTML(false)
		f.refuse(enc.Encode(filled))
		f.r.Body = bytes.TrimSuffix(out.Bytes(), []byte("\n"))
		f.r.Header.Set("Content-Type", "application/json")
	case s.Form != nil:
		form := url.Values{}
		for _, field := range s.form {
			form.Add(field.name, field.value.fill(with, asIs))
		}
		f.r.Body = []byte(form.Encode())
		f.r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
}

func fillBody(value any, with values) (any, error) {
	switch value := value.(type) {
	case template:
		return value.fill(with, asIs), nil
	case []any:
		out := make([]any, 0, len(value))
		for _, entry := range value {
			filled, err := fillBody(entry, with)
			if err != nil {
				return nil, err
			}
			out = append(out, filled)
		}
		return out, nil
	case []member:
		out := make(map[string]any, len(value))
		for _, m := range value {
			name := m.name.fill(with, asIs)
			if _, taken := out[name]; taken {
				return nil, fmt.Errorf("the body would have a name twice in one object")
			}
			filled, err := fillBody(m.value, with)
			if err != nil {
				return nil, err
			}
			out[name] = filled
		}
		return out, nil
	}
	return value, nil
}

// decline finds what the API says is wrong. Without pointers to it no form is known.
func (d *definition) decline(body []byte) *declined {
	document, err := decodeAnswer(body)
	if err != nil {
		return nil
	}
	for _, p := range d.errors {
		if text, ok := plain(p.in(document)); ok {
			return &declined{Message: text}
		}
	}
	return nil
}

// refuses is the caller's test for the refusal of a key, by one of the given statuses. Where
// the form of the API's errors is known, a gateway's page with such a status is none.
func (d *definition) refuses(statuses ...int) func(int, *declined) bool {
	return func(status int, said *declined) bool {
		return slices.Contains(statuses, status) && d.speaks(said)
	}
}

// speaks tells whether an answer that is no success was the API's own.
func (d *definition) speaks(said *declined) bool { return said != nil || len(d.errors) == 0 }
