package vaultclient_test

import (
	"context"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/vaultclient"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// One real Vault serves the tests that leave it running; each has mounts of its own.
var shared struct {
	sync.Once
	server *vaulttest.Server
	err    error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.server != nil && shared.server.Close() != nil && code == 0 {
		code = 1
	}
	if code == 0 {
		if err := goleak.Find(goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop")); err != nil {
			println(err.Error())
			code = 1
		}
	}
	os.Exit(code)
}

func sharedVault(t *testing.T) *vaulttest.Server {
	t.Helper()
	shared.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		shared.server, shared.err = vaulttest.Start(ctx, vaulttest.Options{WithoutPlugin: true})
	})
	require.NoError(t, shared.err)
	return shared.server
}

// rootOf is what a client with the root token of a server is made of.
func rootOf(s *vaulttest.Server) vaultclient.Options {
	return vaultclient.Options{
		Address: s.Address(), AllowInsecureHTTP: true, RetryWait: time.Millisecond, Credential: vaultclient.Credential{Token: secret.New(s.Token())},
	}
}

func open(t *testing.T, o vaultclient.Options) *vaultclient.Client {
	t.Helper()
	c, err := vaultclient.New(o)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// write is what an operator does.
func write(t *testing.T, s *vaulttest.Server, path string, data map[string]any) map[string]any {
	t.Helper()
	answer, err := s.Client().Logical().WriteWithContext(t.Context(), path, data)
	require.NoError(t, err)
	if answer == nil {
		return nil
	}
	return answer.Data
}

func mount(t *testing.T, s *vaulttest.Server, path, typ string, options map[string]any) {
	t.Helper()
	write(t, s, "sys/mounts/"+path, map[string]any{"type": typ, "options": options})
}

// appRole makes an AppRole with a policy, and gives how to log in by it.
func appRole(t *testing.T, s *vaulttest.Server, name, policy string, options map[string]any) vaultclient.Credential {
	t.Helper()
	auths, err := s.Client().Sys().ListAuthWithContext(t.Context())
	require.NoError(t, err)
	if auths["machines/approle/"] == nil {
		write(t, s, "sys/auth/machines/approle", map[string]any{"type": "approle"})
	}
	write(t, s, "sys/policies/acl/"+name, map[string]any{"policy": policy})
	role := map[string]any{"token_policies": name}
	for k, v := range options {
		role[k] = v
	}
	write(t, s, "auth/machines/approle/role/"+name, role)
	id, err := s.Client().Logical().ReadWithContext(t.Context(), "auth/machines/approle/role/"+name+"/role-id")
	require.NoError(t, err)
	secretID := write(t, s, "auth/machines/approle/role/"+name+"/secret-id", nil)["secret_id"].(string)
	return vaultclient.Credential{AppRole: true, Mount: "machines/approle", RoleID: id.Data["role_id"].(string), SecretID: secret.New(secretID)}
}

// counted counts requests by method and path.
type counted struct {
	http.RoundTripper
	mu   sync.Mutex
	seen map[string]int
}

func counting(o *vaultclient.Options) *counted {
	c := &counted{seen: map[string]int{}}
	o.Transport = func(inner http.RoundTripper) http.RoundTripper {
		c.RoundTripper = inner
		return c
	}
	return c
}

func (c *counted) RoundTrip(r *http.Request) (*http.Response, error) {
	c.mu.Lock()
	c.seen[strings.TrimPrefix(r.URL.Path, "/v1/")]++
	c.mu.Unlock()
	return c.RoundTripper.RoundTrip(r)
}

func (c *counted) of(path string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen[path]
}

func requireFault(t *testing.T, err error, kind fault.Kind, part string) {
	t.Helper()
	require.ErrorContains(t, err, part)
	require.Equal(t, kind, fault.KindOf(err), err.Error())
}

// clock is one that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}
