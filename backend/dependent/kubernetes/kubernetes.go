// Package kubernetes is the type of connection by which the pods of workloads are replaced: a
// rolling restart of Deployments, StatefulSets and DaemonSets, as kubectl rollout restart does
// it, and a look at how far it got, by the rules of kubectl rollout status.
//
// It speaks the few calls of the API that this takes by itself, through egress: a client of the
// usual kind would make the plugin several times as large.
//
//	kubernetes.go  the type of connection and its options
//	credential.go  what requests are made with, and the account of Vault's own pod (pod.go)
//	call.go        one call, and what an answer means
//	object.go      workloads as the API shows them
//	target.go      which workloads a target means (selector.go)
//	rights.go      what the credential may do
//	ready.go  resolve.go  restart.go  look.go  the contract of dependents
package kubernetes

import (
	"crypto/x509"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/dependent"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/egress"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// ConnectionKind is the type of connection to a Kubernetes API server.
type ConnectionKind struct {
	// Transport wraps the network in tests; nil leaves it.
	Transport func(http.RoundTripper) http.RoundTripper
	// RetryWait is the first wait before a request is repeated; 0 for the usual one.
	RetryWait time.Duration

	pod pod
}

// New makes the type of connection.
func New() *ConnectionKind { return &ConnectionKind{pod: ownPod()} }

var (
	_ rotator.ConnectionKind = (*ConnectionKind)(nil)
	_ dependent.Restarter    = (*ConnectionKind)(nil)
)

var options = option.Set{
	{Name: "kubernetes_host", Type: option.String, Address: true, Help: "Where the API server is, such as https://10.0.0.1:6443. Default: that of the cluster in whose pod Vault runs."},
	{Name: "kubernetes_ca_cert", Type: option.String, Address: true, Help: "Certificate authority of the API server, in PEM form. Default: the system's, and that of the pod where kubernetes_host is left out."},
	{Name: "service_account_jwt", Type: option.String, Secret: true, Help: "Token of the service account that restarts workloads. Default: that of Vault's own pod, which is used where kubernetes_host is left out, too."},
	{Name: "disable_local_ca_jwt", Type: option.Bool, Default: false, Help: "Never use the token, the certificate authority and the API server's address of the pod in which Vault runs."},
	{Name: "allowed_targets", Type: option.List, Help: "What roles may restart, as namespace/kind/name or namespace/kind/selector, with * as a wildcard for any text, such as default/deployment/*. Default: nothing."},
	{Name: "tls_server_name", Type: option.String, Address: true, Help: "Name to expect in the server's certificate. Default: the host's."},
	{Name: "allow_insecure_http", Type: option.Bool, Default: false, Address: true, Help: "Admit http:// in kubernetes_host: the token then travels in clear."},
}

// settings are the decoded options of a connection.
type settings struct {
	Host       string   `json:"kubernetes_host"`
	CA         string   `json:"kubernetes_ca_cert"`
	NoPod      bool     `json:"disable_local_ca_jwt"`
	Targets    []string `json:"allowed_targets"`
	ServerName string   `json:"tls_server_name"`
	Insecure   bool     `json:"allow_insecure_http"`

	Token secret.String `json:"-"`
}

// Type implements rotator.ConnectionKind.
func (*ConnectionKind) Type() string { return "kubernetes" }

// Options implements rotator.ConnectionKind.
func (*ConnectionKind) Options() option.Set { return options }

// decode reads a connection as it is stored.
func decode(c *rotator.ConnectionConfig) (*settings, error) {
	own := option.Values{}
	for name, value := range c.Values {
		if options.Named(name) != nil {
			own[name] = value
		}
	}
	s := &settings{}
	if err := options.Decode(own, s); err != nil {
		return nil, err
	}
	// Files with a token often end with a line break.
	s.Token = secret.New(strings.TrimSpace(c.Secrets["service_account_jwt"].Reveal()))
	return s, nil
}

// settings decodes and checks a connection.
func (k *ConnectionKind) settings(c *rotator.ConnectionConfig) (s *settings, warnings []string, err error) {
	if s, err = decode(c); err != nil {
		return nil, nil, err
	}
	for _, check := range []func(*settings) error{checkHost, checkTLS, checkToken, checkAllowed, k.checkPod} {
		if err := check(s); err != nil {
			return nil, nil, err
		}
	}
	if len(s.Targets) == 0 {
		warnings = append(warnings, "allowed_targets is empty: no role can restart anything through this connection until it names what, such as allowed_targets=default/deployment/api")
	}
	if strings.HasPrefix(strings.ToLower(s.Host), "http://") {
		warnings = append(warnings, "allow_insecure_http: the token travels in clear to "+s.Host)
	}
	if ends := expiry(s.Token); !ends.IsZero() {
		warnings = append(warnings, "service_account_jwt expires at "+ends.Format(time.RFC3339)+": write another one before, or use one that does not expire")
	}
	return s, warnings, nil
}

// CheckConnection implements rotator.ConnectionKind.
func (k *ConnectionKind) CheckConnection(c *rotator.ConnectionConfig) ([]string, error) {
	_, warnings, err := k.settings(c)
	return warnings, err
}

// checkHost refuses an address that no token may be sent to.
func checkHost(s *settings) error {
	if s.Host == "" {
		return nil
	}
	u, err := url.Parse(s.Host)
	switch {
	case err != nil || u.Opaque != "" || u.Hostname() == "" || u.User != nil || strings.ContainsAny(s.Host, "?#") || !printable(s.Host):
		return fault.Field("kubernetes_host", "must be a URL such as https://10.0.0.1:6443, without user, query and fragment")
	case u.Scheme == "http" && !s.Insecure:
		return fault.Field("kubernetes_host", "must begin with https://: http:// sends the token in clear, and needs allow_insecure_http=true")
	case u.Scheme != "http" && u.Scheme != "https":
		return fault.Field("kubernetes_host", "must begin with https://")
	}
	s.Host = strings.TrimRight(s.Host, "/")
	return nil
}

// caOption is who vouches for the API server.
const caOption = "kubernetes_ca_cert"

func checkTLS(s *settings) error {
	if _, err := egress.Authorities(caOption, s.CA); err != nil {
		return err
	}
	if s.ServerName != "" && !isSubdomain(strings.ToLower(s.ServerName)) {
		return fault.Field("tls_server_name", "must be a name such as kubernetes.default.svc")
	}
	return nil
}

// checkPod tells what is missing where the pod of Vault has to stand in for it. Its token
// goes to its own cluster alone, whose address and authority nobody can write: whoever may write a
// connection must not learn it.
func (k *ConnectionKind) checkPod(s *settings) error {
	const instead = "or leave out kubernetes_host, kubernetes_ca_cert and tls_server_name too"
	switch {
	case s.Host == "" && s.NoPod:
		return fault.Field("kubernetes_host", "is required with disable_local_ca_jwt=true, such as https://10.0.0.1:6443")
	case s.Token.Empty() && s.NoPod:
		return fault.Field("service_account_jwt", "is required with disable_local_ca_jwt=true")
	case s.Token.Empty() && (s.Host != "" || s.CA != "" || s.ServerName != ""):
		return fault.Field("service_account_jwt", "is required, %s: the token of Vault's own pod is sent to its own cluster alone", instead)
	case s.Host != "":
		return nil
	}
	if k.pod.host() == "" {
		return fault.Field("kubernetes_host", "is required, such as https://10.0.0.1:6443: this Vault does not run in a pod of Kubernetes")
	}
	if s.Token.Empty() {
		if _, err := k.pod.token(); err != nil {
			return fault.Field("service_account_jwt", "is required: %v", err)
		}
	}
	if s.CA == "" {
		if _, err := k.pod.authority(); err != nil {
			return fault.Field("kubernetes_ca_cert", "is required: %v", err)
		}
	}
	return nil
}

// Connection is an open connection to an API server.
type Connection struct {
	base       string
	targets    []string
	credential *credential
}

// Close implements rotator.Connection.
func (c *Connection) Close() { c.credential.close() }

// maxBody bounds an answer: an object is 1.5 MiB at most, and of lists only names are asked for.
const maxBody = 4 << 20

// Open implements rotator.ConnectionKind. It does not dial.
func (k *ConnectionKind) Open(c *rotator.ConnectionConfig) (rotator.Connection, error) {
	s, _, err := k.settings(c)
	if err != nil {
		return nil, err
	}
	base := s.Host
	if base == "" {
		base = k.pod.host()
	}
	u, err := url.Parse(base)
	if err != nil {
		return nil, fault.Field("kubernetes_host", "must be a URL such as https://10.0.0.1:6443")
	}
	dial := func(roots *x509.CertPool) *egress.Client {
		return egress.New(egress.Options{
			AllowInsecureHTTP: s.Insecure, AllowedHosts: []string{u.Hostname()}, RootCAs: roots, ServerName: s.ServerName,
			MaxBody: maxBody, Transport: k.Transport, RetryWait: k.RetryWait,
		})
	}
	return &Connection{base: base, targets: s.Targets, credential: newCredential(s, k.pod, dial)}, nil
}

func own(conn rotator.Connection) (*Connection, error) {
	c, ok := conn.(*Connection)
	if !ok || c == nil {
		return nil, fault.New(fault.Internal, "not a connection to Kubernetes")
	}
	return c, nil
}
