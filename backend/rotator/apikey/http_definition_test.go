package apikey

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/egress"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

func TestWholeDefinition(t *testing.T) {
	t.Parallel()
	warnings, err := checkOf(whole, option.Values{"parameters": testParameters}, bothSecrets)
	require.NoError(t, err)
	require.Empty(t, warnings)

	h := openHTTP(t, whole, "https://api.acme.test", testParameters)
	require.Equal(t, "Acme", h.title())
	require.Equal(t, abilities{Create: true, Replace: true, Identify: true, Disable: true, Revoke: true, Propagation: 30 * time.Second}, h.abilities())
	require.Equal(t, byHand{Make: "make one", End: "end it"}, h.byHand())

	h = openHTTP(t, changed(t, fields{"title": nil, "by_hand": nil, "verify.id": nil, "disable": nil, "enable": nil, "replace": nil}), "https://api.acme.test", testParameters)
	require.Equal(t, "api.acme.test", h.title())
	require.Equal(t, abilities{Create: true, Revoke: true, Propagation: 30 * time.Second}, h.abilities())
	require.Equal(t, byHand{Make: "make a new key at api.acme.test", End: "end it at api.acme.test"}, h.byHand())
}

// What is wrong with a definition is said when it is written, and where it is.
func TestDefinitionIsRefused(t *testing.T) {
	t.Parallel()
	page := func(p fields) fields { return fields{"list.page": p} }
	for _, tc := range []struct {
		name   string
		fields fields
		want   string
	}{
		{"no verify", fields{"verify": nil}, "definition: verify: is required: no key is used before it was proven"},
		{"no key", fields{"key": nil}, "definition: key: is required: it says how a key goes on verify"},
		{"no admin", fields{"admin": nil}, "definition: admin: is required: it says how the admin key goes on all calls but verify"},
		{"create without list", fields{"list": nil}, "definition: create: needs list: a key whose creation was not answered is found by its name"},
		{"create without revoke", fields{"revoke": nil, "disable": nil, "enable": nil}, "definition: create: needs revoke: what is made must be ended"},
		{"nothing makes a key", fields{"create": nil, "replace": nil, "by_hand": nil}, "definition: create: is required, with list and revoke, unless there is replace or by_hand"},
		{"half a sentence", fields{"by_hand.end": nil}, "definition: by_hand: needs both make and end: what a person is told"},
		{"a long sentence", fields{"by_hand.end": strings.Repeat("x", 513)}, "definition: by_hand.end: must be one line of at most 512 bytes"},
		{"two lines", fields{"title": "a\nb"}, "definition: title: must be one line of at most 64 bytes"},
		{"disable alone", fields{"enable": nil}, "definition: disable: and enable need each other: what is disabled can be brought back"},
		{"disable without revoke", fields{"create": nil, "revoke": nil}, "definition: disable: needs revoke: a disabled key is not ended"},
		{"revoke of no id", fields{"create": nil, "verify.id": nil}, "definition: revoke: has no use without create: nothing tells the id of a key (verify.id may)"},

		{"replace of no id", fields{"create": nil, "verify.id": nil, "revoke": nil, "disable": nil, "enable": nil}, "definition: replace: mentions {{id}}, and nothing tells the id of a key that is handed in (verify.id may)"},
		{"replace of an id that only keys of ours have", fields{"verify.id": nil}, "definition: replace: mentions {{id}}, and nothing tells the id of a key that is handed in (verify.id may)"},
		{"an id that is the key", fields{"create.id": "/secret"}, "definition: create.id: is the same as key, which must stay secret"},
		{"a new id that is the key", fields{"replace.id": "/secret"}, "definition: replace.id: is the same as key, which must stay secret"},
		{"an id of verify that is the key", fields{"verify.id": "/secret"}, "definition: verify.id: is the same as create.key, which must stay secret"},
		{"an id of verify that is the key that takes its place", fields{"verify.id": "/next", "replace.key": "/next"}, "definition: verify.id: is the same as replace.key, which must stay secret"},
		{"forbidden by anybody", fields{"error": nil}, "definition: error: is required with verify.forbidden: a gateway forbids too, and would prove a key"},

		{"no method", fields{"create.method": nil}, "definition: create.method: must be one of GET, POST, PUT, PATCH, DELETE"},
		{"a method in lower case", fields{"verify.method": "get"}, "definition: verify.method: must be one of GET, POST, PUT, PATCH, DELETE"},
		{"no path", fields{"revoke.path": nil}, "definition: revoke.path: must begin with /: it is appended to base_url"},
		{"another host", fields{"revoke.path": "https://evil.test/{{id}}"}, "definition: revoke.path: must begin with /: it is appended to base_url"},
		{"another host without a scheme", fields{"revoke.path": "//evil.test/{{id}}"}, "definition: revoke.path: must not contain //"},
		{"a user of another host", fields{"revoke.path": "@evil.test/{{id}}"}, "definition: revoke.path: must begin with /: it is appended to base_url"},
		{"up", fields{"revoke.path": "/keys/../{{id}}"}, "definition: revoke.path: must not have a segment . or .., which leads up"},
		{"up, escaped", fields{"revoke.path": "/keys/%2e%2E/{{id}}"}, "definition: revoke.path: must not have a segment . or .., which leads up"},
		{"up, with a slash that is escaped", fields{"revoke.path": "/keys/..%2f{{id}}"}, "definition: revoke.path: must not have a segment . or .., which leads up"},
		{"up, with a parameter", fields{"revoke.path": "/keys/..;a=b/{{id}}"}, "definition: revoke.path: must not have a segment . or .., which leads up"},
		{"up, escaped twice", fields{"revoke.path": "/keys/%252e%252e/{{id}}"}, "definition: revoke.path: must not have a segment . or .., which leads up"},
		{"up, with a slash that is escaped twice", fields{"revoke.path": "/keys%252f..%255cx/{{id}}"}, "definition: revoke.path: must not have a segment . or .., which leads up"},
		{"a backslash", fields{"revoke.path": `/keys\{{id}}`}, `definition: revoke.path: must not contain \`},
		{"a backslash, escaped", fields{"revoke.path": `/keys%5c{{id}}`}, `definition: revoke.path: must not contain \`},
		{"a fragment", fields{"revoke.path": "/keys/{{id}}#x"}, "definition: revoke.path: must not contain #"},
		{"a space", fields{"revoke.path": "/a key/{{id}}"}, "definition: revoke.path: must be printable ASCII without spaces: write other characters percent-encoded"},
		{"a line break", fields{"revoke.path": "/keys\r\n/{{id}}"}, "definition: revoke.path: must be printable ASCII without spaces: write other characters percent-encoded"},
		{"half an escape", fields{"revoke.path": "/keys/%4/{{id}}"}, "definition: revoke.path: has a % that is not followed by two hexadecimal digits"},
		{"no query", fields{"revoke.path": "/keys/{{id}}?a=%zz"}, "definition: revoke.path: has a query that is not one"},

		{"an unknown placeholder", fields{"create.path": "/{{teem}}"}, "definition: create.path: {{teem}} is not among the connection's parameters"},
		{"one in a header", fields{"create.headers": fields{"X-A": "{{teem}}"}}, "definition: create.headers.X-A: {{teem}} is not among the connection's parameters"},
		{"one in a query", fields{"create.query": fields{"a": "{{teem}}"}}, "definition: create.query.a: {{teem}} is not among the connection's parameters"},
		{"one in the path's query", fields{"create.path": "/keys?a={{teem}}"}, "definition: create.path.a: {{teem}} is not among the connection's parameters"},
		{"one deep in a body", fields{"create.body": fields{"a": []any{fields{"b": "{{teem}}"}}}}, "definition: create.body.a.b: {{teem}} is not among the connection's parameters"},
		{"one in a name in a body", fields{"create.body": fields{"{{teem}}": 1}}, "definition: create.body.{{teem}}: {{teem}} is not among the connection's parameters"},
		{"the admin key in a path", fields{"create.path": "/{{admin_key}}"}, "definition: create.path: {{admin_key}} must not stand here, only in admin"},
		{"the second secret in a key's header", fields{"key.headers.X": "{{admin_secret}}"}, "definition: key.headers.X: {{admin_secret}} must not stand here, only in admin"},
		{"the admin key in verify", fields{"verify.headers": fields{"X": "{{admin_key}}"}}, "definition: verify.headers.X: {{admin_key}} must not stand here, only in admin"},
		{"the key in a path", fields{"verify.path": "/{{key}}"}, "definition: verify.path: {{key}} must not stand here, only in key"},
		{"the key in revoke", fields{"revoke.body": fields{"key": "{{key}}"}}, "definition: revoke.body.key: {{key}} must not stand here, only in key"},
		{"a name in list", fields{"list.path": "/keys?q={{name}}"}, "definition: list.path.q: {{name}} must not stand here, only in create"},
		{"an id in create", fields{"create.path": "/{{id}}"}, "definition: create.path: {{id}} must not stand here, only in disable, enable, revoke and replace"},
		{"open braces", fields{"create.path": "/{{name"}, "definition: create.path: has {{ or }} that is not part of a placeholder such as {{name}}"},
		{"braces around no name", fields{"create.path": "/{{a b}}"}, "definition: create.path: has {{ or }} that is not part of a placeholder such as {{name}}"},
		{"a name that is a template", fields{"create.query": fields{"{{team}}": "x"}}, "definition: create.query.{{team}}: is not a name: it must not be empty, nor hold a placeholder"},
		{"an empty name", fields{"create.query": fields{"": "x"}}, "definition: create.query.: is not a name: it must not be empty, nor hold a placeholder"},

		{"auth without the key", fields{"key.headers": fields{"X": "a literal"}}, "definition: key: must mention {{key}}"},
		{"admin without its key", fields{"admin.headers": fields{"X": "{{admin_secret}}"}}, "definition: admin: must mention {{admin_key}}"},
		{"two Authorizations", fields{"key.basic": fields{"username": "{{key}}"}}, "definition: key: must not have both basic and a header Authorization: they are the same header"},
		{"a user name with a colon", fields{"key.headers": fields{}, "key.basic": fields{"username": "a:{{key}}"}}, "definition: key.basic.username: must not hold a colon: the password begins there"},
		{"a header of admin's", fields{"create.headers": fields{"authorization": "x"}}, "definition: create.headers.Authorization: is given by admin or key, which goes on each call"},
		{"a header of key's", fields{"verify.headers": fields{"Authorization": "x"}}, "definition: verify.headers.Authorization: is given by admin or key, which goes on each call"},
		{"a parameter of admin's", fields{"admin.query": fields{"k": "x"}, "create.path": "/keys?k=1"}, "definition: create.query.k: is given by admin or key, which goes on each call"},
		{"no name of a header", fields{"create.headers": fields{"X A": "x"}}, "definition: create.headers.X A: is not the name of a header"},
		{"the client's header", fields{"create.headers": fields{"host": "evil.test"}}, "definition: create.headers.host: is a header that the HTTP client sets"},
		{"two headers in one", fields{"create.headers": fields{"X-A": "a\r\nX-B: b"}}, "definition: create.headers.X-A: must be one line of printable ASCII"},

		{"body and form", fields{"create.form": fields{"a": "b"}}, "definition: create.form: must not be given with body"},
		{"a body with GET", fields{"list.body": fields{}}, "definition: list.body: must not be given with GET"},
		{"create without the name", fields{"create.body": fields{"team": "{{team}}"}}, "definition: create: must mention {{name}}: a key is found by it"},
		{"revoke without the id", fields{"revoke.path": "/keys"}, "definition: revoke: must mention {{id}}: it is about one key"},
		{"disable without the id", fields{"disable.path": "/keys"}, "definition: disable: must mention {{id}}: it is about one key"},
		{"enable without the id", fields{"enable.path": "/keys"}, "definition: enable: must mention {{id}}: it is about one key"},
		{"a success that is none", fields{"revoke.success": []int{200, 404}}, "definition: revoke.success: must be from 200 to 299, not 404"},
		{"no pointer to the key", fields{"create.key": nil}, `definition: create.key: is required: a JSON pointer (RFC 6901), such as "/data/id"`},
		{"no pointer to the id", fields{"create.id": nil}, `definition: create.id: is required: a JSON pointer (RFC 6901), such as "/data/id"`},
		{"no pointer to the new key", fields{"replace.key": nil}, `definition: replace.key: is required: a JSON pointer (RFC 6901), such as "/data/id"`},
		{"no pointer", fields{"create.key": "secret"}, `definition: create.key: must be a JSON pointer (RFC 6901), such as "/data/id"`},
		{"a second error that is no pointer", fields{"error": []string{"/a", "b"}}, `definition: error, entry 2: must be a JSON pointer (RFC 6901), such as "/data/id"`},

		{"dead and alive", fields{"verify.dead": []int{401, 403}}, "definition: verify.forbidden: 403 is in dead too: a key is either alive or dead"},
		{"dead by default, and alive", fields{"verify.forbidden": []int{401}}, "definition: verify.forbidden: 401 is in dead too: a key is either alive or dead"},
		{"dead when busy", fields{"verify.dead": []int{429}}, "definition: verify.dead: must not have 408 nor 429, which say nothing of a key"},
		{"dead by a success", fields{"verify.dead": []int{200}}, "definition: verify.dead: must be from 400 to 499, not 200"},
		{"alive by an error of the server", fields{"verify.forbidden": []int{503}}, "definition: verify.forbidden: must be from 400 to 499, not 503"},
		{"a state that is both", fields{"verify.state": fields{"pointer": "/s", "alive": []string{"on"}, "dead": []string{"on"}}}, `definition: verify.state.alive: "on" is in dead too: a key is either alive or dead`},
		{"a state nowhere", fields{"verify.state": fields{"alive": []string{"on"}}}, `definition: verify.state.pointer: is required: a JSON pointer (RFC 6901), such as "/data/id"`},
		{"no duration", fields{"verify.propagation": "soon"}, `definition: verify.propagation: must be a duration such as "30s", at most 10m0s`},
		{"a long duration", fields{"verify.propagation": "11m"}, `definition: verify.propagation: must be a duration such as "30s", at most 10m0s`},
		{"no pointer to names", fields{"list.name": nil}, `definition: list.name: is required: a JSON pointer (RFC 6901), such as "/data/id"`},
		{"no pointer to ids", fields{"list.id": nil}, `definition: list.id: is required: a JSON pointer (RFC 6901), such as "/data/id"`},

		{"no style", page(fields{"parameter": "p"}), "definition: list.page.style: must be one of offset, number, cursor"},
		{"no parameter", page(fields{"style": "number"}), "definition: list.page.parameter: is required: the parameter of the query that tells pages apart"},
		{"no cursor", page(fields{"style": "cursor", "parameter": "p"}), "definition: list.page.next: is required with style cursor"},
		{"a cursor of no use", page(fields{"style": "number", "parameter": "p", "next": "/n"}), "definition: list.page.next: has no use with style number"},
		{"a first cursor", page(fields{"style": "cursor", "parameter": "p", "next": "/n", "start": 1}), "definition: list.page.start: has no use with style cursor: the first page has no cursor"},
		{"a size without a parameter", page(fields{"style": "number", "parameter": "p", "size": 10}), "definition: list.page.size: and size_parameter need each other"},
		{"a parameter without a size", page(fields{"style": "number", "parameter": "p", "size_parameter": "s"}), "definition: list.page.size: and size_parameter need each other"},
		{"a large size", page(fields{"style": "number", "parameter": "p", "size": 1001, "size_parameter": "s"}), "definition: list.page.size: must be from 1 to 1000"},
		{"a start below none", page(fields{"style": "number", "parameter": "p", "start": -1}), "definition: list.page.start: must be from 0 to 1000"},
		{"one parameter for two", page(fields{"style": "number", "parameter": "p", "size": 10, "size_parameter": "p"}), `definition: list.page.size_parameter: "p" is in the query already`},
		{"a parameter of the path", fields{"list.path": "/keys?p=1", "list.prefix_parameter": "p"}, `definition: list.prefix_parameter: "p" is in the query already`},
		{"a parameter of admin", fields{"admin.query": fields{"p": "x"}, "list.prefix_parameter": "p"}, `definition: list.prefix_parameter: "p" is in the query already`},

		{"an unknown field", fields{"create.url": "/x"}, `definition: unknown field "url"`},
		{"a number for a text", fields{"create.path": 7}, "definition: create.path must not be a number"},
		{"a text for a list", fields{"error": "/message"}, "definition: error must not be a string"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := checkOf(changed(t, tc.fields), option.Values{"parameters": testParameters}, bothSecrets)
			require.EqualError(t, err, tc.want)
			require.True(t, fault.Is(err, fault.Invalid))
		})
	}
}

func TestDefinitionThatIsNoDocument(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ definition, want string }{
		{"", "definition: is required: a JSON document that says how the API makes, verifies and ends keys"},
		{strings.Repeat(" ", 64<<10) + "{}", "definition: must not be longer than 65536 bytes"},
		{"{", "definition: is not JSON: it ends too early"},
		{"{]", "definition: is not JSON: invalid character ']' looking for beginning of object key string, at byte 2"},
		{"[]", "definition: must be a JSON object, and is of type array"},
		{whole + "{}", "definition: must be one JSON document, and nothing after it"},
		{whole + "x", "definition: must be one JSON document, and nothing after it"},
		{`{"title": "a", "title": "b"}`, "definition: title: is given twice"},
		{`{"title": "a", "Title": "b"}`, "definition: Title: is given twice"},
		{`{"create": {"body": {"a": [{"b": 1, "b": 2}]}}}`, "definition: create.body.a.b: is given twice"},
		{`{"create": {"headers": {"X-A": "1", "x-a": "2"}}}`, "definition: create.headers.x-a: is given twice"},
		{"{}", "definition: verify: is required: no key is used before it was proven"},
		{"null", "definition: verify: is required: no key is used before it was proven"},
	} {
		_, err := checkOf(tc.definition, nil, nil)
		require.EqualError(t, err, tc.want)
	}
	// An API may tell upper case from lower.
	_, _, err := parseDefinition(changed(t, fields{"create.body": fields{"name": "{{name}}", "Name": "x"}}), testParameters)
	require.NoError(t, err)
}

func TestConnectionOfADefinition(t *testing.T) {
	t.Parallel()
	given := option.Values{"parameters": testParameters}
	for _, tc := range []struct {
		name    string
		fields  fields
		values  option.Values
		secrets map[string]string
		want    string
	}{
		{"a missing parameter", nil, nil, bothSecrets, "definition: create.body.team: {{team}} is not among the connection's parameters"},
		{"no admin key", nil, given, nil, "admin_key: is required: the definition's admin mentions it"},
		{"no second secret", nil, given, map[string]string{"admin_key": "k"}, "admin_secret: is required: the definition's admin mentions it"},
		{"a line break after a secret", nil, given, map[string]string{"admin_key": "k\n", "admin_secret": "s"}, "admin_key: must be printable ASCII without spaces, at most 4096 bytes: a line break at its end, perhaps?"},
		{"no base", fields{"base_url": nil}, given, bothSecrets, "base_url: is required: where the API is, such as https://api.example.com/v1"},
		{"a base in clear", fields{"base_url": "http://api.acme.test"}, given, bothSecrets, "base_url: must begin with https://: http:// sends keys in clear, and needs allow_insecure_http=true"},
		{"a parameter with a name of ours", nil, option.Values{"parameters": map[string]string{"team": "a", "id": "b"}}, bothSecrets, "parameters: id is a placeholder of its own: choose another name"},
		{"a parameter with no name", nil, option.Values{"parameters": map[string]string{"a-b": "a"}}, bothSecrets, `parameters: "a-b" is not a name: letters, digits and _, at most 64`},
		{"an empty parameter", nil, option.Values{"parameters": map[string]string{"team": ""}}, bothSecrets, "parameters: team must be from 1 to 1024 characters of printable ASCII"},
		{"a parameter of two lines", nil, option.Values{"parameters": map[string]string{"team": "a\r\nb"}}, bothSecrets, "parameters: team must be from 1 to 1024 characters of printable ASCII"},
		{"a parameter that leads up", fields{"list.path": "/t/{{team}}/keys"}, option.Values{"parameters": map[string]string{"team": ".."}}, bothSecrets, "definition: list.path: must not have a segment . or .., which leads up"},
		{"a parameter that leads up and down", fields{"list.path": "/t/{{team}}/keys"}, option.Values{"parameters": map[string]string{"team": "../x"}}, bothSecrets, "definition: list.path: must not have a segment . or .., which leads up"},
		{"a parameter with a colon before a password", fields{"admin.headers": fields{}, "admin.basic": fields{"username": "{{team}}", "password": "{{admin_key}}"}}, option.Values{"parameters": map[string]string{"team": "a:b"}}, bothSecrets, "definition: admin.basic.username: must not hold a colon: the password begins there"},
		{"a parameter that leads up when it is unescaped twice", fields{"list.path": "/t/{{team}}/keys"}, option.Values{"parameters": map[string]string{"team": "%2e%2E"}}, bothSecrets, "definition: list.path: must not have a segment . or .., which leads up"},
		{"a base with an empty query", fields{"base_url": "https://api.acme.test/v1?"}, given, bothSecrets, "base_url: must be a URL such as https://api.example.com/v1, without user, query and fragment"},
		{"a base with an empty fragment", fields{"base_url": "https://api.acme.test/v1#"}, given, bothSecrets, "base_url: must be a URL such as https://api.example.com/v1, without user, query and fragment"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := checkOf(changed(t, tc.fields), tc.values, tc.secrets)
			require.EqualError(t, err, tc.want)
		})
	}

	warnings, err := checkOf(changed(t, fields{"key.query": fields{"k": "{{key}}"}}), option.Values{"parameters": map[string]string{"team": "a", "unused": "b"}}, bothSecrets)
	require.NoError(t, err)
	require.Equal(t, []string{
		"definition: key.query puts keys into URLs, which servers and proxies write into their logs",
		"parameters: the definition does not mention {{unused}}",
	}, warnings)

	// Made by hand: a proof is all it takes.
	warnings, err = checkOf(`{"base_url": "https://api.acme.test", "key": {"headers": {"X-Key": "{{key}}"}}, "verify": {"method": "GET", "path": "/me"}, "by_hand": {"make": "m", "end": "e"}}`, nil, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"definition: verify has no state, and there is no error: whatever answers, such as a gateway, passes for the API"}, warnings)
}

// What the parser accepts it can run: whatever the API answers, nothing panics, and no
// request goes anywhere but to the base.
func FuzzDefinition(f *testing.F) {
	f.Add(whole, `{"id": 7, "secret": "s", "keys": [{"name": "n", "id": "i"}], "error": "no"}`, 200)
	ready, err := filepath.Glob("../../../docs/providers/*.json")
	require.NoError(f, err)
	require.NotEmpty(f, ready)
	for _, path := range ready {
		raw, err := os.ReadFile(path)
		require.NoError(f, err)
		f.Add(string(raw), `{"data": {"id": "x"}, "result": [], "key": "k"}`, 401)
	}
	f.Fuzz(func(t *testing.T, text, answer string, status int) {
		parameters := map[string]string{"team": "a&b/c", "service_account": "42", "resource": "com.cloudflare.api.account.1", "permission_group": "g"}
		runAccepted(t, text, parameters, answer, status)
	})
}

// The same, with a definition of which the parts are made up: more of them are accepted.
func FuzzDefinitionParts(f *testing.F) {
	f.Add("/a/{{id}}?b={{team}}&c=1", "X-A", "v {{team}}", `{"{{team}}": ["{{id}}", 1]}`, "/a~1b/0", "offset", "x/y", `{"a/b": [7]}`, 200)
	f.Add("/%41/;{{ id }}", "x-b", "", `"{{id}}"`, "", "cursor", "..", `{"": {"": "next"}}`, 404)
	f.Fuzz(func(t *testing.T, path, header, value, body, pointer, style, parameter, answer string, status int) {
		if !json.Valid([]byte(body)) || pointer == "" {
			t.Skip()
		}
		page := fields{"style": style, "parameter": "p"}
		if style == byCursor {
			page["next"] = pointer
		}
		text := changed(t, fields{
			"revoke.path": path, "revoke.headers": fields{header: value}, "disable.body": json.RawMessage(body), "replace.path": path, "replace.form": fields{header: value},
			"create.key": pointer + "/k", "create.id": pointer, "create.expires": pointer, "list.items": pointer, "list.name": pointer, "list.page": page,
			"verify.state": fields{"pointer": pointer, "dead": []string{value}}, "error": []string{pointer},
		})
		runAccepted(t, text, map[string]string{"team": parameter}, answer, status)
	})
}

// runAccepted runs a definition, if it is one.
func runAccepted(t *testing.T, text string, parameters map[string]string, answer string, status int) {
	t.Helper()
	s := &settings{Definition: text, Parameters: parameters, BaseURL: "https://api.acme.test/base", AdminKey: secret.New("a"), AdminSecret: secret.New("s")}
	if _, err := completeHTTP(s); err != nil {
		require.True(t, fault.Is(err, fault.Invalid), err)
		return
	}
	network := &stub{t: t, status: 100 + (status%500+500)%500, answer: answer}
	client := egress.New(egress.Options{
		AllowedHosts: []string{"api.acme.test"}, RetryWait: time.Nanosecond, Transport: func(http.RoundTripper) http.RoundTripper { return network },
	})
	defer client.Close()
	h, err := newHTTPProvider(s, client)
	require.NoError(t, err)
	runAll(t.Context(), h)
}

// runAll makes all calls that a definition has.
func runAll(ctx context.Context, h *httpProvider) {
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	r := reference{ID: "id:1"}
	can := h.abilities()
	_ = h.ping(ctx)
	_, _ = h.check(ctx)
	_, _ = h.verify(ctx, secret.New("k:1"))
	if can.Create {
		_, _ = h.create(ctx, "name/with ?#%\"")
		_, _ = h.find(ctx, "name")
	}
	if can.Replace {
		_, _ = h.replace(ctx, r)
	}
	if can.Identify {
		_, _ = h.identify(ctx, secret.New("k"), "")
	}
	if can.Disable {
		_, _ = only(h.disable(ctx, r)), h.enable(ctx, r)
	}
	if can.Revoke {
		_ = only(h.revoke(ctx, r))
	}
}

// stub is a network that answers everything alike.
type stub struct {
	t      *testing.T
	status int
	answer string
}

func (s *stub) RoundTrip(r *http.Request) (*http.Response, error) {
	require.Equal(s.t, "https", r.URL.Scheme)
	require.Equal(s.t, "api.acme.test", r.URL.Host)
	require.True(s.t, strings.HasPrefix(r.URL.Path, "/base/"), r.URL.Path)
	require.NotContains(s.t, strings.Split(r.URL.Path, "/"), "..")
	require.NotContains(s.t, strings.Split(unescapeAll(r.URL.Path), "/"), "..")
	for name, values := range r.Header {
		for _, value := range values {
			require.False(s.t, strings.ContainsAny(name+value, "\r\n"))
		}
	}
	return &http.Response{StatusCode: s.status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(s.answer)), Request: r}, nil
}
