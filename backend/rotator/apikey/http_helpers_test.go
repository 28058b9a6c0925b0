package apikey

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/egress"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

const (
	rootCanary   = "root-canary-7f3a"
	secondCanary = "second-canary-9c1d"
	keyCanary    = "key-canary-55e2"
)

// whole is a definition that has everything, to be changed by a test.
const whole = `{
  "title": "Acme",
  "base_url": "https://api.acme.test",
  "admin": {"headers": {"Authorization": "Bearer {{admin_key}}", "X-Second": "{{admin_secret}}"}},
  "key": {"headers": {"Authorization": "Bearer {{key}}"}},
  "create": {"method": "POST", "path": "/keys", "body": {"name": "{{name}}", "team": "{{team}}"}, "key": "/secret", "id": "/id", "expires": "/until"},
  "replace": {"method": "POST", "path": "/keys/{{id}}/roll", "key": "/secret"},
  "list": {"method": "GET", "path": "/keys", "items": "/keys", "name": "/name", "id": "/id", "created": "/made"},
  "verify": {"method": "GET", "path": "/me", "forbidden": [403], "id": "/id", "propagation": "30s"},
  "disable": {"method": "PATCH", "path": "/keys/{{id}}", "body": {"off": true}},
  "enable": {"method": "PATCH", "path": "/keys/{{id}}", "body": {"off": false}},
  "revoke": {"method": "DELETE", "path": "/keys/{{id}}"},
  "error": ["/error/message", "/error"],
  "by_hand": {"make": "make one", "end": "end it."}
}`

// changed is the whole definition with some of its fields replaced, or left out where the
// new value is nil.
func changed(t testing.TB, fields map[string]any) string {
	t.Helper()
	var d map[string]any
	require.NoError(t, json.Unmarshal([]byte(whole), &d))
	for path, value := range fields {
		set(t, d, path, value)
	}
	out, err := json.Marshal(d)
	require.NoError(t, err)
	return string(out)
}

// set replaces what is at "create.path" in an object.
func set(t testing.TB, d map[string]any, path string, value any) {
	t.Helper()
	for i := range path {
		if path[i] == '.' {
			inner, ok := d[path[:i]].(map[string]any)
			if !ok {
				inner = map[string]any{}
				d[path[:i]] = inner
			}
			set(t, inner, path[i+1:], value)
			return
		}
	}
	if value == nil {
		delete(d, path)
		return
	}
	d[path] = value
}

// fields is short for what JSON calls an object.
type fields = map[string]any

var testParameters = map[string]string{"team": "payments"}

// openHTTP opens an API by a definition.
func openHTTP(t testing.TB, definition, baseURL string, parameters map[string]string) *httpProvider {
	t.Helper()
	return openSettings(t, &settings{
		BaseURL: baseURL, Definition: definition, Parameters: parameters, AdminKey: secret.New(rootCanary), AdminSecret: secret.New(secondCanary),
	})
}

// openSettings opens an API as a connection does, with a client that does not wait between
// attempts.
func openSettings(t testing.TB, s *settings) *httpProvider {
	t.Helper()
	_, err := completeHTTP(s)
	require.NoError(t, err)
	client := egress.New(egress.Options{
		AllowInsecureHTTP: true, AllowedHosts: []string{"127.0.0.1", "api.acme.test"}, Timeout: 10 * time.Second, RetryWait: time.Millisecond,
	})
	t.Cleanup(client.Close)
	h, err := newHTTPProvider(s, client)
	require.NoError(t, err)
	return h
}

// acme is an API that a test writes.
type acme struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string
	headers  []http.Header
	bodies   []string
}

// serveAcme starts one. What answer returns is the status, and the body: a text, or a
// value as JSON.
func serveAcme(t testing.TB, answer func(r *http.Request) (int, any)) *acme {
	t.Helper()
	a := &acme{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		a.mu.Lock()
		a.requests = append(a.requests, r.Method+" "+r.URL.RequestURI())
		a.headers = append(a.headers, r.Header)
		a.bodies = append(a.bodies, string(body))
		a.mu.Unlock()
		status, value := answer(r)
		w.WriteHeader(status)
		if text, ok := value.(string); ok {
			_, _ = io.WriteString(w, text)
			return
		}
		_ = json.NewEncoder(w).Encode(value)
	}))
	t.Cleanup(a.Close)
	return a
}

// always answers everything alike.
func always(status int, body any) func(*http.Request) (int, any) {
	return func(*http.Request) (int, any) { return status, body }
}

func (a *acme) sent() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.requests...)
}

// checkOf is what writing a connection says.
func checkOf(definition string, values option.Values, secrets map[string]string) ([]string, error) {
	all := option.Values{definitionField: definition}
	for name, value := range values {
		all[name] = value
	}
	kind := &ConnectionKind{kind: httpKind}
	return kind.CheckConnection(&rotator.ConnectionConfig{Name: "acme", Values: all, Secrets: secret.NewMap(secrets)})
}

var bothSecrets = map[string]string{"admin_key": rootCanary, "admin_secret": secondCanary}

// noCanary fails where a text shows a secret.
func noCanary(t testing.TB, err error) {
	t.Helper()
	if err == nil {
		return
	}
	for _, canary := range []string{rootCanary, secondCanary, keyCanary} {
		require.NotContains(t, fmt.Sprintf("%v", err), canary)
	}
}
