package kubernetes

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

func TestOptions(t *testing.T) {
	t.Parallel()
	k := New()
	require.Equal(t, "kubernetes", k.Type())
	var secrets, addresses []string
	for _, o := range k.Options() {
		require.Regexp(t, `^[A-Z].*\.$`, o.Help, o.Name)
		if o.Secret {
			secrets = append(secrets, o.Name)
		}
		if o.Address {
			addresses = append(addresses, o.Name)
		}
	}
	require.Equal(t, []string{"service_account_jwt"}, secrets)
	require.Equal(t, []string{"kubernetes_host", "kubernetes_ca_cert", "tls_server_name", "allow_insecure_http"}, addresses, "what a stored token must not follow")
}

// outside is the type of connection in a process that runs in no pod.
func outside() *ConnectionKind {
	k := New()
	k.pod.getenv = func(string) string { return "" }
	return k
}

func TestBadOptions(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for name, c := range map[string]struct {
		values      option.Values
		token       string
		field, says string
	}{
		"host, no URL":      {option.Values{"kubernetes_host": "10.0.0.1:6443"}, canary, "kubernetes_host", "must be a URL such as https://10.0.0.1:6443, without user, query and fragment"},
		"host, no host":     {option.Values{"kubernetes_host": "https:///x"}, canary, "kubernetes_host", "must be a URL"},
		"host, user":        {option.Values{"kubernetes_host": "https://me:cAnArY@k8s"}, canary, "kubernetes_host", "must be a URL"},
		"host, query":       {option.Values{"kubernetes_host": "https://k8s/?x"}, canary, "kubernetes_host", "must be a URL"},
		"host, fragment":    {option.Values{"kubernetes_host": "https://k8s/#"}, canary, "kubernetes_host", "must be a URL"},
		"host, space":       {option.Values{"kubernetes_host": "https://k8s/a b"}, canary, "kubernetes_host", "must be a URL"},
		"host, http":        {option.Values{"kubernetes_host": "http://k8s"}, canary, "kubernetes_host", "must begin with https://: http:// sends the token in clear, and needs allow_insecure_http=true"},
		"host, other":       {option.Values{"kubernetes_host": "ftp://k8s"}, canary, "kubernetes_host", "must begin with https://"},
		"authority":         {option.Values{"kubernetes_ca_cert": "MIIB"}, canary, "kubernetes_ca_cert", "holds no certificate in PEM form"},
		"server name":       {option.Values{"tls_server_name": "a/b"}, canary, "tls_server_name", "must be a name such as kubernetes.default.svc"},
		"no token":          {nil, "", "service_account_jwt", "is required, or leave out kubernetes_host, kubernetes_ca_cert and tls_server_name too: the token of Vault's own pod is sent to its own cluster alone"},
		"token, two lines":  {nil, "cAnArY\ncAnArY", "service_account_jwt", "must be of printable ASCII characters, without spaces"},
		"token, long":       {nil, strings.Repeat("cAnArY", 4000), "service_account_jwt", "is too long for a token"},
		"no pod":            {option.Values{"kubernetes_host": ""}, canary, "kubernetes_host", "is required, such as https://10.0.0.1:6443: this Vault does not run in a pod of Kubernetes"},
		"pod not wanted":    {option.Values{"kubernetes_host": "", "disable_local_ca_jwt": true}, canary, "kubernetes_host", "is required with disable_local_ca_jwt=true, such as https://10.0.0.1:6443"},
		"no token, no pod":  {option.Values{"disable_local_ca_jwt": true}, "", "service_account_jwt", "is required with disable_local_ca_jwt=true"},
		"nothing":           {option.Values{"kubernetes_host": "", "kubernetes_ca_cert": ""}, "", "kubernetes_host", "is required"},
		"not of this type":  {option.Values{"allowed_targets": "x"}, canary, "", "options do not fit their declared types"},
		"server name alone": {option.Values{"kubernetes_host": "", "kubernetes_ca_cert": "", "tls_server_name": "k8s"}, "", "service_account_jwt", "is required, or leave out"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := s.config()
			for name, value := range c.values {
				config.Values[name] = value
			}
			config.Secrets = secret.NewMap(map[string]string{"service_account_jwt": c.token})
			_, err := outside().CheckConnection(config)
			requireFault(t, err, fault.Invalid, c.says)
			var f *fault.Error
			require.ErrorAs(t, err, &f)
			require.Equal(t, c.field, f.Field)
			_, err = outside().Open(config)
			requireFault(t, err, fault.Invalid, c.says)
		})
	}
	require.Empty(t, s.seen(""), "nothing of that needs the network")
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c := s.config()
	warnings, err := outside().CheckConnection(c)
	require.NoError(t, err)
	require.Empty(t, warnings)

	claims := base64.RawURLEncoding.EncodeToString([]byte(`{"exp":1777900000}`))
	c.Secrets["service_account_jwt"] = secret.New("e30." + claims + ".cAnArY\n")
	c.Values = option.Values{"kubernetes_host": "http://k8s/", "allow_insecure_http": true}
	warnings, err = outside().CheckConnection(c)
	require.NoError(t, err)
	require.Equal(t, []string{
		"allowed_targets is empty: no role can restart anything through this connection until it names what, such as allowed_targets=default/deployment/api",
		"allow_insecure_http: the token travels in clear to http://k8s",
		"service_account_jwt expires at 2026-05-04T13:06:40Z: write another one before, or use one that does not expire",
	}, warnings)
	for _, odd := range []string{"e30.e30.x", "a.%.c", "a.bnVsbA.c", "opaque", "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"exp":9e18}`)) + ".x"} {
		c.Secrets["service_account_jwt"] = secret.New(odd)
		warnings, err = outside().CheckConnection(c)
		require.NoError(t, err)
		require.Len(t, warnings, 2, odd)
	}
}

// A token that was handed in as a file, below a path, at a name that is not the certificate's.
func TestConnections(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	c := s.config()
	c.Secrets["service_account_jwt"] = secret.New(canary + "\n")
	c.Values["kubernetes_host"] = s.URL + "/"
	c.Values["tls_server_name"] = "example.com"
	k, conn := opened(t, c)
	require.NoError(t, k.Ping(t.Context(), conn))
	require.NotContains(t, fmt.Sprintf("%+v", conn), "cAnArY")

	c.Values["tls_server_name"] = "k8s.example.org"
	k, conn = opened(t, c)
	requireFault(t, k.Ping(t.Context(), conn), fault.Unreachable, "k8s.example.org")
	c.Values["tls_server_name"], c.Values["kubernetes_ca_cert"] = "", ""
	k, conn = opened(t, c)
	requireFault(t, k.Ping(t.Context(), conn), fault.Unreachable, "certificate")
	require.Empty(t, s.seen("GET"))
}

func opened(t *testing.T, c *rotator.ConnectionConfig) (*ConnectionKind, rotator.Connection) {
	t.Helper()
	k := outside()
	k.RetryWait = 1
	conn, err := k.Open(c)
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	return k, conn
}
