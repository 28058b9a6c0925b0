// Package vaultclient speaks to another Vault, or to the one that hosts this plugin, which
// gives it no access to other mounts: KV version 2, transit, and what a token may do. All
// goes through egress, under a token of its own that it logs in for, renews and replaces
// when it is used.
//
// Who calls must be a worker: a Vault that waits for a request of its own to end may not
// answer another one until then. Every call has a short time-out.
package vaultclient

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/egress"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

const (
	// timeout bounds one attempt of a call.
	timeout = 10 * time.Second
	// maxAnswer bounds what is read of an answer: a batch of rewrapped values is the longest.
	maxAnswer = 16 << 20
)

// Options say which Vault is asked, and as whom.
type Options struct {
	// Address is its URL, as CheckAddress admits it.
	Address           string
	AllowInsecureHTTP bool
	Namespace         string
	// CA is who may vouch for it, in PEM form; empty for those that the system trusts.
	CA string
	// ServerName is the name to expect in its certificate; empty for the address's.
	ServerName string
	Credential Credential

	// Transport, RetryWait and Now replace the network, the first wait before a request is
	// repeated, and the clock in tests.
	Transport func(http.RoundTripper) http.RoundTripper
	RetryWait time.Duration
	Now       func() time.Time
}

// Credential is a token, or an AppRole to log in with.
type Credential struct {
	Token secret.String
	// AppRole says that the role is used, and no token.
	AppRole bool
	// Mount is where the auth method is, such as approle.
	Mount    string
	RoleID   string
	SecretID secret.String
}

// Client asks one Vault. It is safe for concurrent use.
type Client struct {
	http      *egress.Client
	base      string
	namespace string
	tokens    *tokens
}

// New makes a client. It dials nothing.
func New(o Options) (*Client, error) {
	address, err := CheckAddress(o.Address, o.AllowInsecureHTTP)
	if err != nil {
		return nil, err
	}
	pool, err := egress.Authorities("ca_cert", o.CA)
	if err != nil {
		return nil, err
	}
	c := &Client{base: address.String(), namespace: o.Namespace, http: egress.New(egress.Options{
		AllowInsecureHTTP: o.AllowInsecureHTTP, AllowedHosts: []string{address.Hostname()}, RootCAs: pool, ServerName: o.ServerName,
		Timeout: timeout, MaxBody: maxAnswer, Transport: o.Transport, RetryWait: o.RetryWait, Now: o.now,
	})}
	c.tokens = newTokens(c, o.Credential, o.now)
	return c, nil
}

// Close drops idle connections. The token is left to run out.
func (c *Client) Close() { c.http.Close() }

// CheckAddress refuses what no token may be sent to.
func CheckAddress(text string, insecure bool) (*url.URL, error) {
	const example = "such as https://vault.example.com:8200"
	u, err := url.Parse(text)
	switch {
	case text == "":
		return nil, fault.Field("address", "is required: the URL of the Vault, %s", example)
	// Looked for in the text: an empty query, or fragment, would begin at the end of each path.
	case err != nil || u.Hostname() == "" || u.Opaque != "" || u.User != nil || strings.ContainsAny(text, "?#"):
		return nil, fault.Field("address", "must be a URL %s, without user, query and fragment", example)
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, fault.Field("address", "must begin with https://")
	case u.Scheme == "http" && !insecure:
		return nil, fault.Field("address", "must begin with https://: http:// sends tokens in clear, and needs allow_insecure_http=true")
	}
	u.Path = strings.TrimRight(u.Path, "/")
	if strings.HasSuffix(u.Path, "/v1") {
		return nil, fault.Field("address", "must end before /v1: the URL of the Vault, %s", example)
	}
	return u, nil
}
