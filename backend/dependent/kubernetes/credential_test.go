package kubernetes

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/certs"
)

// inside is a pod of the server's cluster.
type inside struct {
	t   *testing.T
	dir string
	mu  sync.Mutex
	now time.Time
	*ConnectionKind
}

func inPod(t *testing.T, s *server) *inside {
	t.Helper()
	u, err := url.Parse(s.URL)
	require.NoError(t, err)
	in := &inside{t: t, dir: t.TempDir(), now: time.Unix(1e9, 0), ConnectionKind: New()}
	in.RetryWait = time.Millisecond
	in.pod = pod{
		folder: in.dir,
		getenv: func(name string) string {
			return map[string]string{"KUBERNETES_SERVICE_HOST": u.Hostname(), "KUBERNETES_SERVICE_PORT": u.Port()}[name]
		},
		now: func() time.Time { in.mu.Lock(); defer in.mu.Unlock(); return in.now },
	}
	in.write("token", canary+"\n")
	in.write("ca.crt", s.ca())
	return in
}

func (in *inside) write(name, text string) {
	in.t.Helper()
	require.NoError(in.t, os.WriteFile(filepath.Join(in.dir, name), []byte(text), 0o600))
}

func (in *inside) pass(d time.Duration) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.now = in.now.Add(d)
}

// open opens a connection of which only the targets are written.
func (in *inside) open() rotator.Connection {
	in.t.Helper()
	conn, err := in.Open(&rotator.ConnectionConfig{Values: option.Values{"allowed_targets": []string{"*"}}})
	require.NoError(in.t, err)
	in.t.Cleanup(conn.Close)
	return conn
}

func TestPodCredential(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	w := s.add("default", deployment, "api", nil, nil)
	in := inPod(t, s)
	conn := in.open()
	require.NoError(t, in.Ping(t.Context(), conn))

	// Renewed by the kubelet: taken over within a minute.
	const next = canary + "-2"
	s.set(func(s *server) { s.tokens[next] = account })
	in.write("token", next)
	in.pass(reread - time.Second)
	require.NoError(t, in.Ping(t.Context(), conn))
	s.set(func(s *server) { delete(s.tokens, canary) })
	s.seen("")
	in.pass(time.Second)
	require.NoError(t, in.Ping(t.Context(), conn))
	require.Len(t, s.seen("POST"), 1, "the old one was not tried")

	// Refused before the minute is over: read at once, and the change is made once.
	const third = canary + "-3"
	s.set(func(s *server) { delete(s.tokens, next); s.tokens[third] = account })
	in.write("token", third)
	require.NoError(t, in.Restart(t.Context(), conn, w, order("one")))
	require.Equal(t, 1, s.changed(w))

	// Refused between the look and the change.
	const fourth = canary + "-4"
	in.write("token", fourth)
	s.set(func(s *server) {
		s.around = func(rw http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			if r.Method == http.MethodPatch {
				s.set(func(s *server) { delete(s.tokens, third); s.tokens[fourth] = account })
			}
			serve(rw, r)
		}
	})
	s.seen("")
	require.NoError(t, in.Restart(t.Context(), conn, w, order("two")))
	require.Equal(t, 2, s.changed(w))
	require.Len(t, s.seen("PATCH"), 2, "the one that was refused, and the one with the fresh token")
}

func TestRefusedToken(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.set(func(s *server) { s.tokens = nil })
	in := inPod(t, s)
	conn := in.open()
	const refused = "ask who the service account is: the API server refuses the service account's token (status 401 Unauthorized: Unauthorized)"
	requireFault(t, in.Ping(t.Context(), conn), fault.AuthFailed, refused)
	require.Len(t, s.seen("POST"), 1, "there is no other one")
	in.write("token", canary+"-2")
	requireFault(t, in.Ping(t.Context(), conn), fault.AuthFailed, refused)
	require.Len(t, s.seen("POST"), 2, "and with a fresh one once")

	k, static := s.open(t)
	requireFault(t, k.Ping(t.Context(), static), fault.AuthFailed, refused)
	require.Len(t, s.seen("POST"), 1)
}

func TestPodFilesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	in := inPod(t, s)
	conn := in.open()
	require.NoError(t, os.Remove(filepath.Join(in.dir, "token")))
	requireFault(t, in.Ping(t.Context(), conn), fault.Target, "ask who the service account is: the file "+in.dir+"/token of Vault's own pod cannot be read: no such file or directory")
	in.write("token", canary)
	require.NoError(t, in.Ping(t.Context(), conn), "read as soon as it is there")

	// What was read serves on.
	in.write("token", "")
	in.write("ca.crt", "")
	in.pass(reread)
	require.NoError(t, in.Ping(t.Context(), conn))

	c := &rotator.ConnectionConfig{}
	for _, wrong := range []struct{ file, text, field, says string }{
		{"token", "", "service_account_jwt", "is required: the token of Vault's own pod is empty"},
		{"token", "cAnArY cAnArY", "service_account_jwt", "is required: the token of Vault's own pod must be of printable ASCII characters"},
		{"ca.crt", "x", "kubernetes_ca_cert", "is required: the file " + in.dir + "/ca.crt of Vault's own pod holds no certificate"},
	} {
		in.write("token", canary)
		in.write("ca.crt", s.ca())
		in.write(wrong.file, wrong.text)
		_, err := in.CheckConnection(c)
		requireFault(t, err, fault.Invalid, wrong.field+": "+wrong.says)
	}
	require.NoError(t, os.Remove(filepath.Join(in.dir, "ca.crt")))
	_, err := in.CheckConnection(c)
	requireFault(t, err, fault.Invalid, "kubernetes_ca_cert: is required: the file")
}

// The cluster's authority is replaced under a connection that stays open.
func TestPodAuthorityChanges(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	in := inPod(t, s)
	in.write("ca.crt", otherAuthority(t))
	conn := in.open()
	requireFault(t, in.Ping(t.Context(), conn), fault.Unreachable, "certificate")
	in.write("ca.crt", s.ca())
	requireFault(t, in.Ping(t.Context(), conn), fault.Unreachable, "certificate")
	in.pass(reread)
	require.NoError(t, in.Ping(t.Context(), conn))
}

func otherAuthority(t *testing.T) string {
	t.Helper()
	a, err := certs.New("another CA")
	require.NoError(t, err)
	return string(a.PEM)
}

// The token of Vault's own pod goes to its own cluster, and nowhere that somebody wrote.
func TestPodTokenFollowsNoAddress(t *testing.T) {
	t.Parallel()
	s, elsewhere := newServer(t), newServer(t)
	in := inPod(t, s)
	for _, values := range []option.Values{
		{"kubernetes_host": elsewhere.URL},
		{"kubernetes_host": elsewhere.URL, "kubernetes_ca_cert": elsewhere.ca()},
		{"kubernetes_ca_cert": elsewhere.ca()},
		{"tls_server_name": "example.com"},
		{"disable_local_ca_jwt": true, "kubernetes_host": elsewhere.URL},
	} {
		_, err := in.Open(&rotator.ConnectionConfig{Values: values})
		requireFault(t, err, fault.Invalid, "service_account_jwt: is required")
	}
	// A token of one's own, within the pod's cluster.
	const own = canary + "-own"
	s.set(func(s *server) { s.tokens = map[string]string{own: account} })
	conn, err := in.Open(&rotator.ConnectionConfig{Secrets: secret.NewMap(map[string]string{"service_account_jwt": own})})
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, in.Ping(t.Context(), conn))
	require.Empty(t, elsewhere.seen(""))
}
