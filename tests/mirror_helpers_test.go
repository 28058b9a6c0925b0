package tests

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// A place is where copies lie: a Vault with KV version 2 at a mount whose path has a slash, and an AppRole
// whose policy is the one that the documentation gives, with the paths of this mount.
type place struct {
	w        *world // whose roles are copied here
	server   *vaulttest.Server
	name     string
	mount    string // of KV
	roleID   string
	secretID string
}

func newPlace(w *world, server *vaulttest.Server, name string) *place {
	w.t.Helper()
	name = w.path + "-" + name
	p := &place{w: w, server: server, name: name, mount: name + "/kv"}
	p.write("sys/mounts/"+p.mount, map[string]any{"type": "kv", "options": map[string]any{"version": "2"}})
	await.Until(w.t, "KV to be ready", func() (bool, any) {
		_, err := server.Client().Logical().ReadWithContext(w.t.Context(), p.mount+"/config")
		return err == nil, err
	})
	p.write("sys/auth/"+p.authMount(), map[string]any{"type": "approle"})
	p.setPolicy(p.leastPolicy())
	p.write(p.appRole(), map[string]any{"token_policies": p.name, "token_no_default_policy": true, "token_ttl": "1h", "token_max_ttl": "24h"})
	id, err := server.Client().Logical().ReadWithContext(w.t.Context(), p.appRole()+"/role-id")
	require.NoError(w.t, err)
	p.roleID = id.Data["role_id"].(string)
	p.newSecretID()
	return p
}

func (p *place) authMount() string { return p.name + "/approle" }
func (p *place) appRole() string   { return "auth/" + p.authMount() + "/role/rotation" }

func (p *place) newSecretID() {
	p.w.t.Helper()
	p.secretID = p.write(p.appRole()+"/secret-id", nil).Data["secret_id"].(string)
}

// leastPolicy is deploy/vault/rotation-policy.hcl as its first lines tell to use it.
func (p *place) leastPolicy() string {
	p.w.t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "deploy", "vault", "rotation-policy.hcl"))
	require.NoError(p.w.t, err)
	require.Contains(p.w.t, string(text), `path "secret/data/intelliflow/*"`)
	policy := strings.ReplaceAll(string(text), `path "secret/`, `path "`+p.mount+`/`)
	return strings.ReplaceAll(policy, `path "transit/`, `path "`+p.name+`/transit/`)
}

func (p *place) setPolicy(text string) {
	p.w.t.Helper()
	p.write("sys/policies/acl/"+p.name, map[string]any{"policy": text})
}

// write is what an operator of that Vault does.
func (p *place) write(path string, data map[string]any) *api.Secret {
	p.w.t.Helper()
	answer, err := p.server.Client().Logical().WriteWithContext(p.w.t.Context(), path, data)
	require.NoError(p.w.t, err)
	return answer
}

// connection gives the fields of a working connection, with changes.
func (p *place) connection(changes map[string]any) map[string]any {
	return with(map[string]any{
		"type": "vault", "address": p.server.Address(), "allow_insecure_http": true, "auth_mount": p.authMount(),
		"role_id": p.roleID, "secret_id": p.secretID, "allowed_paths": p.mount + "/intelliflow/*",
	}, changes)
}

// to names a copy, through a connection.
func (p *place) to(connection, name string) string {
	return connection + "/" + p.mount + "/intelliflow/" + name
}

// A kept copy is the latest version of a secret of KV.
type keptCopy struct {
	Version int
	Fields  map[string]any
}

func (p *place) copyAt(ctx context.Context, client *api.Client, name string) (c keptCopy, err error) {
	found, err := client.KVv2(p.mount).Get(ctx, "intelliflow/"+name)
	if err != nil {
		return c, err
	}
	return keptCopy{Version: found.VersionMetadata.Version, Fields: found.Data}, nil
}

// copied reads the copy as an operator, version 0 for none.
func (p *place) copied(name string) keptCopy {
	p.w.t.Helper()
	c, err := p.copyAt(p.w.t.Context(), p.server.Client(), name)
	if !errors.Is(err, api.ErrSecretNotFound) {
		require.NoError(p.w.t, err)
	}
	return c
}

// byHand is `vault kv put`.
func (p *place) byHand(name string, fields ...string) {
	p.w.t.Helper()
	output, err := p.server.CLI(p.w.t.Context(), append([]string{"kv", "put", "-mount=" + p.mount, "intelliflow/" + name}, fields...)...)
	require.NoError(p.w.t, err, output)
}

// reader gives a client that may read copies, and nothing else.
func (p *place) reader() *api.Client {
	p.w.t.Helper()
	p.write("sys/policies/acl/"+p.name+"-reader", map[string]any{"policy": fmt.Sprintf(`path "%s/data/intelliflow/*" { capabilities = ["read"] }`, p.mount)})
	token := p.write("auth/token/create", map[string]any{"policies": []string{p.name + "-reader"}, "no_default_policy": true}).Auth.ClientToken
	client := p.server.Client()
	client.SetToken(token)
	return client
}

// What status/:name tells of a copy.
type mirrorStatus struct {
	Rotation *struct {
		ID    string       `json:"rotation_id"`
		Steps []stepAnswer `json:"steps"`
	} `json:"rotation"`
	Mirror *struct {
		Path    string `json:"path"`
		Version int    `json:"version"`
		Copy    int    `json:"mirror_version"`
		Trouble string `json:"trouble"`
	} `json:"mirror"`
}

type stepAnswer struct {
	Name   string `json:"name"`
	State  string `json:"state"`
	Detail string `json:"detail"`
}

func (w *world) mirrorStatus(role string) (s mirrorStatus) {
	w.t.Helper()
	require.NoError(w.t, unmarshal(w.get("status/"+role), &s))
	return s
}

// kvReader is an application that knows the copy alone: it reads it, and logs in with what it says.
type kvReader struct {
	mu       sync.Mutex
	logins   int
	versions map[string]bool
	failed   []string
}

func (r *kvReader) keepReading(ctx context.Context, w *world, p *place, client *api.Client, name string) {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for ctx.Err() == nil {
		c, err := p.copyAt(ctx, client, name)
		if err == nil {
			err = w.login(ctx, fmt.Sprint(c.Fields["DSN"]))
		}
		if ctx.Err() != nil {
			return
		}
		r.saw(fmt.Sprint(c.Fields["version"]), err)
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}

func (r *kvReader) saw(version string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.failed = append(r.failed, fmt.Sprintf("%s: version %s: %v", time.Now().Format(time.TimeOnly), version, err))
		return
	}
	r.logins++
	if r.versions == nil {
		r.versions = map[string]bool{}
	}
	r.versions[version] = true
}

// loggedInWith tells whether the application was let in with a version.
func (r *kvReader) loggedInWith(version string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.versions[version]
}

// A front stands before a Vault, over TLS, and lets something happen around the next write to KV.
type front struct {
	*httptest.Server
	forward http.Handler

	mu     sync.Mutex
	around func(w http.ResponseWriter, forward func(http.ResponseWriter))
	writes int
}

func newFront(t *testing.T, server *vaulttest.Server) *front {
	t.Helper()
	to, err := url.Parse(server.Address())
	require.NoError(t, err)
	f := &front{forward: httputil.NewSingleHostReverseProxy(to)}
	f.Server = httptest.NewTLSServer(f)
	t.Cleanup(f.Close)
	return f
}

// ca is who vouches for the front.
func (f *front) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw}))
}

// next says what happens around the next write.
func (f *front) next(around func(w http.ResponseWriter, forward func(http.ResponseWriter))) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.around = around
}

// seen counts the writes to KV so far.
func (f *front) seen() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writes
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	around := f.take(r)
	if around == nil {
		f.forward.ServeHTTP(w, r)
		return
	}
	// Not with the client's context, which ends with the plugin.
	r = r.WithContext(context.WithoutCancel(r.Context()))
	around(w, func(w http.ResponseWriter) { f.forward.ServeHTTP(w, r) })
}

func (f *front) take(r *http.Request) (around func(http.ResponseWriter, func(http.ResponseWriter))) {
	if r.Method == http.MethodGet || !strings.Contains(r.URL.Path, "/data/") {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes++
	around, f.around = f.around, nil
	return around
}
