package vaultclient_test

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/vaultclient"
)

// What a real Vault does not do on demand: lost answers, what stands in front of it, and
// what is not one.

const (
	canaryToken  = "hvs.canary-5f1c7a8e90b2"
	canarySecret = "canary-9d4e61f0-secret-id"
	canaryField  = "canary-b27c9f13-password"
)

// fake answers as a Vault with a KV mount named secret, until a test lets it do otherwise.
type fake struct {
	*httptest.Server
	// answer takes a request first; it returns false where the fake shall answer.
	answer atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
	logins atomic.Int32
}

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{}
	f.Server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.Close)
	return f
}

func (f *fake) on(path string, do http.HandlerFunc) {
	take := func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v1/"+path {
			return false
		}
		do(w, r)
		return true
	}
	f.answer.Store(&take)
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	if take := f.answer.Load(); take != nil && (*take)(w, r) {
		return
	}
	switch path := strings.TrimPrefix(r.URL.Path, "/v1/"); {
	case strings.HasSuffix(path, "/login"):
		reply(w, map[string]any{"auth": map[string]any{"client_token": fmt.Sprint(canaryToken, f.logins.Add(1)), "lease_duration": 3600, "renewable": true}})
	case path == lookup:
		reply(w, map[string]any{"data": map[string]any{"policies": []string{"p"}, "ttl": 0}})
	case strings.HasPrefix(path, "sys/internal/ui/mounts/secret/"):
		reply(w, map[string]any{"data": map[string]any{"path": "secret/", "type": "kv", "options": map[string]string{"version": "2"}}})
	case strings.HasPrefix(path, "sys/internal/ui/mounts/transit/"):
		reply(w, map[string]any{"data": map[string]any{"path": "transit/", "type": "transit"}})
	case path == "secret/data/app":
		reply(w, map[string]any{"data": map[string]any{"version": 1, "data": map[string]string{}, "metadata": map[string]any{"version": 1}}})
	default:
		w.WriteHeader(http.StatusNotFound)
		reply(w, map[string]any{"errors": []string{}})
	}
}

func reply(w http.ResponseWriter, body any) { _ = json.NewEncoder(w).Encode(body) }

func status(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_, _ = w.Write([]byte(body))
	}
}

func cutOff(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func (f *fake) options() vaultclient.Options {
	return vaultclient.Options{
		Address: f.URL, AllowInsecureHTTP: true, RetryWait: time.Millisecond,
		Credential: vaultclient.Credential{AppRole: true, Mount: "approle", RoleID: "r", SecretID: secret.New(canarySecret)},
	}
}

func requireClean(t *testing.T, err error, canaries ...string) {
	t.Helper()
	for _, canary := range append(canaries, canaryToken, canarySecret) {
		require.NotContains(t, err.Error(), canary)
	}
	require.Less(t, len(err.Error()), 800)
}

func TestAnswersThatAreNone(t *testing.T) {
	f := newFake(t)
	kv, err := open(t, f.options()).KV(t.Context(), "secret/app")
	require.NoError(t, err)
	fields := secret.NewMap(map[string]string{"password": canaryField})
	hostile := `{"errors":["refused ` + canaryToken + `1 and ` + canaryField + ` \u001b[31m\n` + strings.Repeat("<x>", 5000) + `"]}`
	for name, c := range map[string]struct {
		answer          http.HandlerFunc
		read, write     fault.Kind
		inRead, inWrite string
	}{
		"lost":         {cutOff, fault.Unreachable, fault.Unconfirmed, "no answer", "the answer was lost, and the request may have been served"},
		"500":          {status(500, `{"errors":["internal error"]}`), fault.Unreachable, fault.Unreachable, "answered 500 Internal Server Error (internal error)", "answered 500"},
		"429":          {status(429, `{"errors":["request path is over quota"]}`), fault.Unreachable, fault.Unreachable, "answered 429", "(request path is over quota)"},
		"standby":      {status(307, ``), fault.Unreachable, fault.Unreachable, "redirects are not followed: let address be that of the active node, or one that is balanced to it", "answered 307"},
		"consistency":  {status(412, `{"errors":["required index state not present"]}`), fault.Unreachable, fault.Unreachable, "answered 412", "answered 412"},
		"hostile":      {status(400, hostile), fault.Target, fault.Target, "answered 400 Bad Request (refused [redacted] and ", "answered 400"},
		"proxy's 404":  {status(404, `<html>not found</html>`), fault.Target, fault.Target, "that is not a Vault's answer: is address the URL of one?", "answered 404"},
		"other's 404":  {status(404, `{"message":"no such app"}`), fault.Target, fault.Target, "that is not a Vault's answer", "answered 404"},
		"no mount now": {status(404, `{"errors":["no handler for route \"secret/data/app\". route entry not found."]}`), fault.Target, fault.Target, "no handler for route", "no handler for route"},
		"page":         {status(200, `<html>sign in</html>`), fault.Target, fault.Unconfirmed, "not in the form of a Vault", "not in the form of a Vault"},
		"odd data":     {status(200, `{"data":[1]}`), fault.Target, fault.Unconfirmed, "does not have the documented form", "does not have the documented form"},
		"no version":   {status(200, `{"data":{}}`), fault.Target, fault.Unconfirmed, "does not have the documented form", "does not have the documented form"},
		"too long":     {status(200, `{"data":"`+strings.Repeat("x", 17<<20)+`"}`), fault.Target, fault.Unconfirmed, "it is longer than", "it is longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			f.on("secret/data/app", c.answer)
			_, err := kv.Read(t.Context())
			requireFault(t, err, c.read, c.inRead)
			requireClean(t, err)
			_, err = kv.Write(t.Context(), fields, 0)
			requireFault(t, err, c.write, c.inWrite)
			requireClean(t, err, canaryField)
		})
	}
}

// Older Vaults say of a dead token no more than of a missing right.
func TestDeadTokenOfAnOlderVault(t *testing.T) {
	f := newFake(t)
	c := open(t, f.options())
	kv, err := c.KV(t.Context(), "secret/app")
	require.NoError(t, err)
	dead := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("X-Vault-Token") != canaryToken+"1" {
			return false
		}
		status(403, `{"errors":["permission denied"]}`)(w, r)
		return true
	}
	f.answer.Store(&dead)
	_, err = kv.Read(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 2, f.logins.Load())

	always := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("X-Vault-Token") == "" {
			return false
		}
		status(403, `{"errors":["permission denied"]}`)(w, r)
		return true
	}
	f.answer.Store(&always)
	_, err = kv.Read(t.Context())
	requireFault(t, err, fault.Target, "answered 403 Forbidden (permission denied): the policies of the token do not allow it")
	require.EqualValues(t, 3, f.logins.Load(), "once, and no more")
	requireClean(t, err)
}

func TestLoginThatIsNotOne(t *testing.T) {
	f := newFake(t)
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		kind   fault.Kind
		part   string
	}{
		"lost":       {cutOff, fault.Unreachable, "no answer"},
		"sealed":     {status(503, `{"errors":["Vault is sealed"]}`), fault.Unreachable, "it is sealed"},
		"no auth":    {status(200, `{"data":{}}`), fault.Target, "does not have the documented form"},
		"no token":   {status(200, `{"auth":{"lease_duration":-5}}`), fault.Target, "does not have the documented form"},
		"a proxy":    {status(403, `go away `+canarySecret), fault.Target, "that is not a Vault's answer"},
		"quotes all": {status(400, `{"errors":["secret `+canarySecret+` unknown"]}`), fault.AuthFailed, "secret [redacted] unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			f.on("auth/approle/login", c.answer)
			_, err := open(t, f.options()).Token(t.Context())
			requireFault(t, err, c.kind, c.part)
			requireClean(t, err)
		})
	}
}

// A renewal that fails takes nothing from a token that works.
func TestRenewalThatFails(t *testing.T) {
	f, at := newFake(t), &clock{now: time.Now()}
	o := f.options()
	o.Now = at.Now
	seen := counting(&o)
	c := open(t, o)
	_, err := c.Token(t.Context())
	require.NoError(t, err)
	at.pass(40 * time.Minute)
	f.on(renew, status(400, `{"errors":["lease is not renewable"]}`))
	for range 3 {
		_, err = c.Token(t.Context())
		require.NoError(t, err)
	}
	require.Equal(t, 1, seen.of(renew), "not with each call")
	at.pass(time.Minute)
	f.on(renew, status(200, `{"auth":{"client_token":"other","lease_duration":60,"renewable":true}}`))
	_, err = c.Token(t.Context())
	require.NoError(t, err)
	at.pass(45 * time.Second)
	_, err = c.Token(t.Context())
	require.NoError(t, err)
	require.Equal(t, 2, seen.of(renew), "near the end of its longest life it is not renewed again")
	require.EqualValues(t, 1, f.logins.Load())
	at.pass(10 * time.Second)
	_, err = c.Token(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 2, f.logins.Load())
	at.pass(40 * time.Minute)
	f.on(renew, status(403, `{"errors":["permission denied"]}`))
	_, err = c.Token(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 3, f.logins.Load(), "what may not be renewed is replaced")
}

func TestRotateWhoseAnswerIsLost(t *testing.T) {
	f := newFake(t)
	key, err := open(t, f.options()).TransitKey(t.Context(), "transit/k")
	require.NoError(t, err)
	calls := atomic.Int32{}
	for _, answer := range []http.HandlerFunc{cutOff, status(500, `{"errors":["x"]}`), status(502, `bad gateway`), status(200, `<html>`)} {
		f.on("transit/keys/k/rotate", func(w http.ResponseWriter, r *http.Request) {
			calls.Add(1)
			answer(w, r)
		})
		err := key.Rotate(t.Context())
		require.Equal(t, fault.Unconfirmed, fault.KindOf(err), "%v", err)
	}
	require.EqualValues(t, 4, calls.Load(), "none is repeated")
	f.on("transit/keys/k/rotate", status(204, ""))
	require.NoError(t, key.Rotate(t.Context()), "older Vaults answer nothing")
}

func TestStatesOfAKeyThatAreNone(t *testing.T) {
	f := newFake(t)
	key, err := open(t, f.options()).TransitKey(t.Context(), "transit/k")
	require.NoError(t, err)
	for _, body := range []string{`{}`, `{"latest_version":0}`, `{"latest_version":2,"min_decryption_version":3}`, `{"latest_version":-1}`, `{"latest_version":"7"}`} {
		f.on("transit/keys/k", status(200, `{"data":`+body+`}`))
		_, err := key.State(t.Context())
		requireFault(t, err, fault.Target, "does not have the documented form")
	}
	f.on("transit/keys/k", status(200, `{"data":{"latest_version":2,"min_decryption_version":0,"keys":{"1":{"name":"x"},"2":1796100403}}}`))
	state, err := key.State(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, state.MinDecryption)
	for _, body := range []string{`{"batch_results":[]}`, `{"batch_results":[{},{}]}`, `{"batch_results":[{}]}`} {
		f.on("transit/rewrap/k", status(200, `{"data":`+body+`}`))
		_, err := key.Rewrap(t.Context(), 1, []vaultclient.Value{value("vault:v1:x")})
		requireFault(t, err, fault.Target, "rewrap values of transit/k: Vault answered ")
	}
}

func TestMountsThatNoVaultNames(t *testing.T) {
	f := newFake(t)
	for _, path := range []string{"", "other/", "secret", "sec", "secret/app/", "secret/../"} {
		f.on("sys/internal/ui/mounts/secret/app", status(200, fmt.Sprintf(`{"data":{"path":%q,"type":"kv","options":{"version":"2"}}}`, path)))
		_, err := open(t, f.options()).KV(t.Context(), "secret/app")
		require.Error(t, err, path)
	}
}

func TestTLS(t *testing.T) {
	f := &fake{}
	f.Server = httptest.NewTLSServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.Close)
	o := f.options()
	o.AllowInsecureHTTP = false
	_, err := open(t, o).Token(t.Context())
	requireFault(t, err, fault.Unreachable, "x509")
	o.CA = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw}))
	_, err = open(t, o).Token(t.Context())
	require.NoError(t, err)
	o.ServerName = "example.com"
	_, err = open(t, o).Token(t.Context())
	require.NoError(t, err)
	o.CA = "-----BEGIN NOTHING-----"
	_, err = vaultclient.New(o)
	requireFault(t, err, fault.Invalid, "ca_cert: holds no certificate in PEM form")
}

func TestNamespace(t *testing.T) {
	f := newFake(t)
	o := f.options()
	o.Namespace = "team/prod"
	f.on(lookup, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Vault-Namespace") != "team/prod" || r.Header.Get("X-Vault-Request") != "true" {
			cutOff(w, r)
		}
		reply(w, map[string]any{"data": map[string]any{"ttl": 0}})
	})
	_, err := open(t, o).Token(t.Context())
	require.NoError(t, err)
}
