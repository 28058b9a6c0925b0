package apikey

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

func TestHTTPRequests(t *testing.T) {
	t.Parallel()
	api := serveAcme(t, always(200, fields{"id": "k1", "secret": keyCanary}))
	base := api.URL + "/base"
	ctx := t.Context()
	for _, tc := range []struct {
		name    string
		fields  fields
		do      func(h *httpProvider) error
		request string
		body    string
		header  http.Header
	}{
		{
			"create", nil,
			func(h *httpProvider) error { _, err := h.create(ctx, `a "name" \ {{team}}`); return err },
			"POST /base/keys", `{"name":"a \"name\" \\ {{team}}","team":"pay/ments&co"}`,
			http.Header{"Authorization": {"Bearer " + rootCanary}, "X-Second": {secondCanary}, "Content-Type": {"application/json"}, "Accept": {"application/json"}},
		},
		{
			"values are escaped in a path and in a query",
			fields{"create.path": "/t/{{team}}/k?a={{team}}&b=1&a=2", "create.query": fields{"c": "{{name}}", "d": "<{{team}}>"}},
			func(h *httpProvider) error { _, err := h.create(ctx, "x&y=z#/?"); return err },
			"POST /base/t/pay%2Fments&co/k?a=pay%2Fments%26co&a=2&b=1&c=x%26y%3Dz%23%2F%3F&d=%3Cpay%2Fments%26co%3E", "", nil,
		},
		{
			"a form",
			fields{"create.body": nil, "create.form": fields{"n": "{{name}}", "t": "{{team}}"}},
			func(h *httpProvider) error { _, err := h.create(ctx, "x&y=z"); return err },
			"POST /base/keys", "n=x%26y%3Dz&t=pay%2Fments%26co",
			http.Header{"Content-Type": {"application/x-www-form-urlencoded"}},
		},
		{
			"a body keeps its numbers, and its names are templates",
			fields{"create.body": fields{"{{team}}": []any{1, "<{{name}}>", nil, true}, "big": 1 << 53}},
			func(h *httpProvider) error { _, err := h.create(ctx, "n"); return err },
			"POST /base/keys", `{"big":9007199254740992,"pay/ments&co":[1,"<n>",null,true]}`, nil,
		},
		{
			"headers of the call",
			fields{"create.headers": fields{"accept": "text/x", "X-Team": "t={{team}}"}},
			func(h *httpProvider) error { _, err := h.create(ctx, "n"); return err },
			"POST /base/keys", "",
			http.Header{"Accept": {"text/x"}, "X-Team": {"t=pay/ments&co"}},
		},
		{
			"a key in the query",
			fields{"key.headers": fields{}, "key.query": fields{"k": "{{key}}"}},
			func(h *httpProvider) error { _, err := h.verify(ctx, secret.New("a&b")); return err },
			"GET /base/me?k=a%26b", "", nil,
		},
		{
			"verify has nothing of the admin's", nil,
			func(h *httpProvider) error { _, err := h.verify(ctx, secret.New("k")); return err },
			"GET /base/me", "",
			http.Header{"Authorization": {"Bearer k"}, "X-Second": nil},
		},
		{"replace", nil, func(h *httpProvider) error { _, err := h.replace(ctx, reference{ID: "7"}); return err }, "POST /base/keys/7/roll", "", nil},
		{"disable", nil, func(h *httpProvider) error { return only(h.disable(ctx, reference{ID: "7"})) }, "PATCH /base/keys/7", `{"off":true}`, nil},
		{"enable", nil, func(h *httpProvider) error { return h.enable(ctx, reference{ID: "7"}) }, "PATCH /base/keys/7", `{"off":false}`, nil},
		{"revoke", nil, func(h *httpProvider) error { return only(h.revoke(ctx, reference{ID: "a:7@b?c"})) }, "DELETE /base/keys/a:7@b%3Fc", "", nil},
	} {
		before := len(api.sent())
		require.NoError(t, tc.do(openHTTP(t, changed(t, tc.fields), base, map[string]string{"team": "pay/ments&co"})), tc.name)
		require.Len(t, api.sent(), before+1, tc.name)
		require.Equal(t, tc.request, api.sent()[before], tc.name)
		if tc.body != "" {
			require.Equal(t, tc.body, api.bodies[before], tc.name)
		}
		for name, want := range tc.header {
			require.Equal(t, want, api.headers[before][name], "%s: %s", tc.name, name)
		}
	}
}

func TestHTTPBasic(t *testing.T) {
	t.Parallel()
	var user, password string
	api := serveAcme(t, func(r *http.Request) (int, any) {
		user, password, _ = r.BasicAuth()
		return 403, fields{"error": "Authorization was " + r.Header.Get("Authorization")}
	})
	h := openHTTP(t, changed(t, fields{
		"admin.headers": fields{}, "admin.basic": fields{"username": "{{team}}", "password": "{{admin_key}}"}, "key.headers": fields{}, "key.basic": fields{"username": "{{key}}"},
	}), api.URL, testParameters)
	err := only(h.revoke(t.Context(), reference{ID: "1"}))
	require.True(t, fault.Is(err, fault.Target), err)
	require.Equal(t, []string{"payments", rootCanary}, []string{user, password})
	noCanary(t, err)

	_, err = h.verify(t.Context(), secret.New(keyCanary))
	require.NoError(t, err)
	require.Equal(t, []string{keyCanary, ""}, []string{user, password})

	_, err = h.verify(t.Context(), secret.New("a:b"))
	require.EqualError(t, err, "verify a key at Acme: the user name of basic would hold a colon, where the password begins")
}

// What does not fit is refused before anything is sent.
func TestHTTPRefusesToSend(t *testing.T) {
	t.Parallel()
	api := serveAcme(t, always(200, fields{}))
	ctx := t.Context()
	h := openHTTP(t, changed(t, fields{
		"create.path": "/keys/{{name}}", "create.headers": fields{"X-Name": "{{name}}"}, "create.body": fields{"{{name}}": 1, "{{team}}": 2},
	}), api.URL, testParameters)
	for _, tc := range []struct{ name, want string }{
		{"a\r\nX-Evil: 1", "make a key at Acme: the header X-Name would hold characters that a header cannot"},
		{"caf\u00e9", "make a key at Acme: the header X-Name would hold characters that a header cannot"},
		{"..", "make a key at Acme: must not have a segment . or .., which leads up"},
		{"payments", "make a key at Acme: the body would have a name twice in one object"},
	} {
		_, err := h.create(ctx, tc.name)
		require.EqualError(t, err, tc.want)
		require.True(t, fault.Is(err, fault.Invalid))
	}
	for _, key := range []string{"", "a b", "a\n", "a\r\nX: y", "caf\u00e9", strings.Repeat("x", 4097)} {
		_, err := h.verify(ctx, secret.New(key))
		require.True(t, fault.Is(err, fault.Invalid), key)
		require.Error(t, h.checkKey(secret.New(key)))
		_, err = h.identify(ctx, secret.New(key), "")
		require.True(t, fault.Is(err, fault.Invalid), key)
	}
	for _, id := range []string{"", ".", "..", "a/b", `a\b`, "a%2fb", "a b", "a\n", strings.Repeat("x", 257)} {
		r := reference{ID: id}
		_, err := h.replace(ctx, r)
		for _, err := range []error{only(h.disable(ctx, r)), h.enable(ctx, r), only(h.revoke(ctx, r)), err} {
			require.True(t, fault.Is(err, fault.Conflict), id)
			require.ErrorContains(t, err, "the provider's id of the key is not known")
		}
	}
	require.Empty(t, api.sent())
}

func TestHTTPCreate(t *testing.T) {
	t.Parallel()
	until := time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)
	for _, tc := range []struct {
		name   string
		status int
		body   any
		id     string
		until  time.Time
		kind   fault.Kind
	}{
		{"a text", 201, fields{"id": "k-1", "secret": "s"}, "k-1", time.Time{}, ""},
		{"a number, digit by digit", 200, `{"id": 12345678901234567890123, "secret": "s"}`, "12345678901234567890123", time.Time{}, ""},
		{"a date", 200, fields{"id": 1, "secret": "s", "until": "2031-02-03T05:05:06+01:00"}, "1", until, ""},
		{"seconds", 200, fields{"id": 1, "secret": "s", "until": until.Unix()}, "1", until, ""},
		{"never", 200, fields{"id": 1, "secret": "s", "until": nil}, "1", time.Time{}, ""},
		{"never, as an empty text", 200, fields{"id": 1, "secret": "s", "until": ""}, "1", time.Time{}, ""},
		{"never, as zero", 200, fields{"id": 1, "secret": "s", "until": 0}, "1", time.Time{}, ""},

		{"no JSON", 200, "<html>" + keyCanary, "", time.Time{}, fault.Unconfirmed},
		{"two documents", 200, `{"id": 1, "secret": "` + keyCanary + `"} {}`, "", time.Time{}, fault.Unconfirmed},
		{"nothing", 204, "", "", time.Time{}, fault.Unconfirmed},
		{"no key", 200, fields{"id": 1}, "", time.Time{}, fault.Unconfirmed},
		{"an empty key", 200, fields{"id": 1, "secret": ""}, "", time.Time{}, fault.Unconfirmed},
		{"a key of two lines", 200, fields{"id": 1, "secret": keyCanary + "\r\nX: y"}, "", time.Time{}, fault.Unconfirmed},
		{"a long key", 200, fields{"id": 1, "secret": strings.Repeat("x", 4097)}, "", time.Time{}, fault.Unconfirmed},
		{"a key that is a number", 200, fields{"id": 1, "secret": 5}, "", time.Time{}, fault.Unconfirmed},
		{"no id", 200, fields{"secret": keyCanary}, "", time.Time{}, fault.Unconfirmed},
		{"an id that leads up", 200, fields{"id": "..", "secret": keyCanary}, "", time.Time{}, fault.Unconfirmed},
		{"an id that is a path", 200, fields{"id": "../users/1", "secret": keyCanary}, "", time.Time{}, fault.Unconfirmed},
		{"a long id", 200, fields{"id": strings.Repeat("x", 257), "secret": keyCanary}, "", time.Time{}, fault.Unconfirmed},
		{"an id that is a fraction", 200, `{"id": 1.5, "secret": "s"}`, "", time.Time{}, fault.Unconfirmed},
		{"an id that is a list", 200, fields{"id": []any{1}, "secret": keyCanary}, "", time.Time{}, fault.Unconfirmed},
		{"no date", 200, fields{"id": 1, "secret": keyCanary, "until": "soon"}, "", time.Time{}, fault.Unconfirmed},
		{"a date beyond all", 200, fields{"id": 1, "secret": keyCanary, "until": 1 << 50}, "", time.Time{}, fault.Unconfirmed},
		{"another success", 206, fields{"id": 1, "secret": keyCanary}, "", time.Time{}, fault.Unconfirmed},
		{"elsewhere", 302, "", "", time.Time{}, fault.Unconfirmed},
		{"a time-out", 408, "", "", time.Time{}, fault.Unconfirmed},
		{"a failure", 500, fields{"error": keyCanary}, "", time.Time{}, fault.Unconfirmed},

		{"kept back on its way", 403, "<html>the answer holds a key", "", time.Time{}, fault.Unconfirmed},
		{"refused by somebody", 401, fields{"message": "who?"}, "", time.Time{}, fault.Unconfirmed},
		{"an id that is the key", 200, fields{"id": keyCanary, "secret": keyCanary}, "", time.Time{}, fault.Unconfirmed},
		{"an id in which the key stands", 200, fields{"id": "id:" + keyCanary, "secret": keyCanary}, "", time.Time{}, fault.Unconfirmed},
		{"an id that is most of the key", 200, fields{"id": keyCanary, "secret": "sk-" + keyCanary}, "", time.Time{}, fault.Unconfirmed},

		{"declined", 400, fields{"error": "no"}, "", time.Time{}, fault.Target},
		{"refused", 401, fields{"error": "who?"}, "", time.Time{}, fault.AuthFailed},
		{"too many", 429, fields{"error": "slow"}, "", time.Time{}, fault.Unreachable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			api := serveAcme(t, always(tc.status, tc.body))
			h := openHTTP(t, whole, api.URL, testParameters)
			c, err := h.create(t.Context(), "n")
			require.Len(t, api.sent(), 1, "it is never repeated")
			if tc.kind != "" {
				require.Equal(t, tc.kind, fault.KindOf(err), err)
				noCanary(t, err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, "s", c.Key.Reveal())
			require.Equal(t, reference{ID: tc.id, Expires: tc.until}, c.Reference)
		})
	}
}

func TestHTTPReplace(t *testing.T) {
	t.Parallel()
	api := serveAcme(t, always(200, fields{"secret": "next", "id": 8}))
	c, err := openHTTP(t, whole, api.URL, testParameters).replace(t.Context(), reference{ID: "7"})
	require.NoError(t, err)
	require.Equal(t, "next", c.Key.Reveal())
	require.Equal(t, "7", c.Reference.ID, "the key keeps its id")

	c, err = openHTTP(t, changed(t, fields{"replace.id": "/id"}), api.URL, testParameters).replace(t.Context(), reference{ID: "7"})
	require.NoError(t, err)
	require.Equal(t, "8", c.Reference.ID)

	c, err = openHTTP(t, changed(t, fields{"replace.path": "/roll"}), api.URL, testParameters).replace(t.Context(), reference{})
	require.NoError(t, err)
	require.Empty(t, c.Reference.ID, "an API with one key need not know it by an id")

	api = serveAcme(t, always(200, fields{"secret": ""}))
	_, err = openHTTP(t, whole, api.URL, testParameters).replace(t.Context(), reference{ID: "7"})
	require.True(t, fault.Is(err, fault.Unconfirmed))
	require.Len(t, api.sent(), 1)
}

func TestHTTPVerify(t *testing.T) {
	t.Parallel()
	state := fields{"verify.state": fields{"pointer": "/state", "alive": []string{"on", "1"}, "dead": []string{"off", "false"}}}
	for _, tc := range []struct {
		name   string
		fields fields
		status int
		body   any
		want   string // the answer, or the error
		kind   fault.Kind
	}{
		{"alive", nil, 200, "", "200", ""},
		{"alive, and nothing to say", nil, 204, "", "204", ""},
		{"may do nothing", nil, 403, fields{"error": "no"}, "403, valid but forbidden", ""},
		{"a gateway forbids", nil, 403, "<html>", "verify a key at Acme: something answered that is not in the form of Acme, and proves nothing (status 403)", fault.Unreachable},
		{"dead", nil, 401, fields{"error": fields{"message": "bad key " + keyCanary}}, "", fault.AuthFailed},
		{"dead, the second form", nil, 401, fields{"error": "bad key"}, "verify a key at Acme: the key is refused (status 401: bad key)", fault.AuthFailed},
		{"a gateway refuses", nil, 401, "<html>", "verify a key at Acme: something answered that is not in the form of Acme, and proves nothing (status 401)", fault.Unreachable},
		{"no form is known", fields{"error": nil, "verify.forbidden": nil}, 401, "<html>", "verify a key at Acme: the key is refused (status 401)", fault.AuthFailed},
		{"no form is known, something else", fields{"error": nil, "verify.forbidden": nil}, 418, "", "verify a key at Acme: the answer proves nothing of the key (status 418)", fault.Unreachable},
		{"dead by another status", fields{"verify.dead": []int{403}, "verify.forbidden": nil}, 403, fields{"error": "x"}, "", fault.AuthFailed},
		{"alive by default elsewhere", fields{"verify.dead": []int{403}, "verify.forbidden": nil}, 401, fields{"error": "x"}, "verify a key at Acme: the answer proves nothing of the key (status 401: x)", fault.Unreachable},
		{"something else", nil, 404, fields{"error": "x"}, "verify a key at Acme: the answer proves nothing of the key (status 404: x)", fault.Unreachable},
		{"a web server's page", nil, 404, "<html>", "verify a key at Acme: something answered that is not in the form of Acme, and proves nothing (status 404)", fault.Unreachable},
		{"elsewhere", nil, 302, "", "", fault.Unreachable},
		{"too many", nil, 429, fields{"error": "x"}, "", fault.Unreachable},
		{"a failure", nil, 503, "", "", fault.Unreachable},
		{"another success", nil, 206, fields{}, "", fault.Unreachable},
		{"on", state, 200, fields{"state": "on"}, "200", ""},
		{"on, a number", state, 200, fields{"state": 1}, "200", ""},
		{"off", state, 200, fields{"state": "off"}, `verify a key at Acme: the key is refused (it is "off")`, fault.AuthFailed},
		{"off, a truth value", state, 200, fields{"state": false}, `verify a key at Acme: the key is refused (it is "false")`, fault.AuthFailed},
		{"unheard of", state, 200, fields{"state": "odd"}, `verify a key at Acme: the answer proves nothing of the key: it is "odd", which the definition does not know`, fault.Unreachable},
		{"no state", state, 200, fields{}, "verify a key at Acme: something answered that is not in the form of Acme, and proves nothing (status 200)", fault.Unreachable},
		{"a portal's page", state, 200, "<html>", "verify a key at Acme: something answered that is not in the form of Acme, and proves nothing (status 200)", fault.Unreachable},
		{"it must be there", fields{"verify.state": fields{"pointer": "/me"}}, 200, fields{"me": fields{}}, "200", ""},
		{"and is not", fields{"verify.state": fields{"pointer": "/me"}}, 200, fields{}, "verify a key at Acme: something answered that is not in the form of Acme, and proves nothing (status 200)", fault.Unreachable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			api := serveAcme(t, always(tc.status, tc.body))
			answer, err := openHTTP(t, changed(t, tc.fields), api.URL, testParameters).verify(t.Context(), secret.New(keyCanary))
			if tc.kind == "" {
				require.NoError(t, err)
				require.Equal(t, tc.want, answer)
				return
			}
			require.Equal(t, tc.kind, fault.KindOf(err), err)
			noCanary(t, err)
			if tc.want != "" {
				require.EqualError(t, err, tc.want)
			}
		})
	}
}

func TestHTTPEnds(t *testing.T) {
	t.Parallel()
	r := reference{ID: "7"}
	for _, tc := range []struct {
		fields      fields
		status      int
		body        any
		end, enable fault.Kind
		gone        bool
	}{
		{nil, 200, fields{}, "", "", false},
		{nil, 204, "", "", "", false},
		{nil, 404, fields{"error": "gone"}, "", fault.Target, true},
		{nil, 404, "<html>nginx</html>", fault.Unreachable, fault.Unreachable, false},
		{nil, 404, fields{"message": "no such route"}, fault.Unreachable, fault.Unreachable, false},
		{fields{"error": nil, "verify.forbidden": nil}, 404, "<html>nginx</html>", "", fault.Target, true},
		{nil, 403, fields{"error": "no"}, fault.Target, fault.Target, false},
		{nil, 401, fields{"error": "no"}, fault.AuthFailed, fault.AuthFailed, false},
		{nil, 302, "", fault.Target, fault.Target, false},
		{nil, 206, "", fault.Target, fault.Target, false},
	} {
		api := serveAcme(t, always(tc.status, tc.body))
		h := openHTTP(t, changed(t, tc.fields), api.URL, testParameters)
		for _, end := range []func(context.Context, reference) (bool, error){h.disable, h.revoke} {
			gone, err := end(t.Context(), r)
			require.Equal(t, tc.end, fault.KindOf(err), "%d: %v", tc.status, err)
			require.Equal(t, tc.gone, gone, tc.status)
		}
		require.Equal(t, tc.enable, fault.KindOf(h.enable(t.Context(), r)), tc.status)
	}
}

func TestHTTPWitness(t *testing.T) {
	t.Parallel()
	api := serveAcme(t, always(200, fields{"keys": []any{}}))
	witness, err := openHTTP(t, whole, api.URL, testParameters).witness(t.Context())
	require.NoError(t, err)
	require.Equal(t, "the admin key", witness)
	require.Equal(t, []string{"GET /keys"}, api.sent())
	_, err = openHTTP(t, changed(t, fields{"create": nil, "list": nil}), api.URL, testParameters).witness(t.Context())
	require.ErrorIs(t, err, errNoWitness)
	refusing := serveAcme(t, always(401, fields{"error": "no"}))
	_, err = openHTTP(t, whole, refusing.URL, testParameters).witness(t.Context())
	require.True(t, fault.Is(err, fault.AuthFailed), err)
}

func TestHTTPIdentify(t *testing.T) {
	t.Parallel()
	api := serveAcme(t, always(200, `{"id": 42}`))
	h := openHTTP(t, whole, api.URL, testParameters)
	for _, said := range []string{"", "42"} {
		r, err := h.identify(t.Context(), secret.New("k"), said)
		require.NoError(t, err)
		require.Equal(t, reference{ID: "42"}, r)
	}
	_, err := h.identify(t.Context(), secret.New("k"), "43")
	require.EqualError(t, err, "key_id: is the id of another key: Acme says otherwise of this one")

	for _, body := range []any{fields{}, fields{"id": "a/b"}, fields{"id": "a%2fb"}, fields{"id": keyCanary}, fields{"id": "x" + keyCanary}, "<html>", ""} {
		api := serveAcme(t, always(200, body))
		_, err := openHTTP(t, whole, api.URL, testParameters).identify(t.Context(), secret.New(keyCanary), "")
		noCanary(t, err)
		require.True(t, fault.Is(err, fault.Target), body)
	}
}

func TestHTTPPingAndCheck(t *testing.T) {
	t.Parallel()
	first := rotator.Line{Check: "definition", Result: rotator.Pass, Detail: "Acme: verify, create, list, disable and enable, revoke, replace in place, make by hand"}
	refused := "list keys at Acme: the admin key is refused (status 401: no)"
	for _, tc := range []struct {
		name   string
		fields fields
		status int
		body   any
		ping   fault.Kind
		lines  []rotator.Line
	}{
		{"good", nil, 200, fields{"keys": []any{}}, "", []rotator.Line{first, passed("admin key", "Acme accepts it"), passed("list of keys", "the admin key may read it, and the definition fits its form")}},
		{"refused", nil, 401, fields{"error": "no"}, fault.AuthFailed, []rotator.Line{first, failed("admin key", refused)}},
		{"forbidden", nil, 403, fields{"error": "no"}, fault.Target, []rotator.Line{first, failed("list of keys", "list keys at Acme: declined (status 403: no)")}},
		{"another form", nil, 200, fields{"items": []any{}}, fault.Target, []rotator.Line{first, failed("list of keys", "list keys at Acme: the answer cannot be understood (status 200)")}},
		{"no list", fields{"list": nil, "create": nil}, 500, "", "", []rotator.Line{
			{Check: "definition", Result: rotator.Pass, Detail: "Acme: verify, disable and enable, revoke, replace in place, make by hand"},
			{Check: "admin key", Result: rotator.Warn, Detail: "not proven: the definition has no list, and all other calls change something"},
		}},
		{"by hand", fields{"list": nil, "create": nil, "replace": nil, "disable": nil, "enable": nil, "revoke": nil, "admin": nil}, 500, "", "", []rotator.Line{
			{Check: "definition", Result: rotator.Pass, Detail: "Acme: verify, make by hand"}, passed("admin key", "none: keys are made by hand"),
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			api := serveAcme(t, always(tc.status, tc.body))
			h := openHTTP(t, changed(t, tc.fields), api.URL, testParameters)
			require.Equal(t, tc.ping, fault.KindOf(h.ping(t.Context())))
			lines, err := h.check(t.Context())
			require.NoError(t, err)
			require.Equal(t, tc.lines, lines)
		})
	}
	api := serveAcme(t, always(503, ""))
	lines, err := openHTTP(t, whole, api.URL, testParameters).check(t.Context())
	require.NoError(t, err)
	require.Equal(t, "reach Acme", lines[1].Check)
}

// An API that quotes what it was sent does not bring a secret out.
func TestHTTPEchoes(t *testing.T) {
	t.Parallel()
	api := serveAcme(t, func(r *http.Request) (int, any) {
		return 400, fields{"error": fmt.Sprintf("what is %v, %s?\n\x1b[31m", r.Header, r.URL.RequestURI())}
	})
	h := openHTTP(t, changed(t, fields{"key.query": fields{"k": "{{key}}"}}), api.URL, testParameters)
	ctx := t.Context()
	_, verified := h.verify(ctx, secret.New(keyCanary))
	_, made := h.create(ctx, "n")
	_, listed := h.find(ctx, "n")
	require.True(t, fault.Is(verified, fault.Unreachable), verified)
	for _, err := range []error{verified, made, listed, only(h.revoke(ctx, reference{ID: "1"})), h.ping(ctx)} {
		require.ErrorContains(t, err, "(status 400: what is ")
		noCanary(t, err)
		require.NotContains(t, err.Error(), "\n")
		require.NotContains(t, err.Error(), "\x1b")
		require.Less(t, len(err.Error()), 1000)
	}
}

// A lost answer to a create is not sent again, and may have been served.
func TestHTTPLostAnswers(t *testing.T) {
	t.Parallel()
	api := serveAcme(t, func(*http.Request) (int, any) { panic(http.ErrAbortHandler) })
	h := openHTTP(t, whole, api.URL, testParameters)
	_, err := h.create(t.Context(), "n")
	require.True(t, fault.Is(err, fault.Unconfirmed), err)
	require.Len(t, api.sent(), 1)
	_, err = h.replace(t.Context(), reference{ID: "1"})
	require.True(t, fault.Is(err, fault.Unconfirmed), err)
	require.Len(t, api.sent(), 2)
	require.True(t, fault.Is(only(h.revoke(t.Context(), reference{ID: "1"})), fault.Unreachable))
}
