package kubernetes

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/egress"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// reread is how long what stands in the pod's files is believed.
const reread = time.Minute

// credential is what requests are made with: what the operator wrote, and what Vault's own pod
// has where nothing was written.
type credential struct {
	pod pod
	// podToken and podCA tell what comes from the pod's files.
	podToken, podCA bool
	dial            func(*x509.CertPool) *egress.Client

	mu       sync.Mutex
	readTime time.Time // of the files
	token    secret.String
	ca       string
	client   *egress.Client // for ca; nil at first
}

func newCredential(s *settings, p pod, dial func(*x509.CertPool) *egress.Client) *credential {
	return &credential{
		pod: p, dial: dial, token: s.Token, ca: s.CA,
		podToken: s.Token.Empty(), podCA: s.Host == "" && s.CA == "",
	}
}

// use gives the client and the token for a request. refused is a token that the server does not
// take any more, if there is one: the file is then read whatever its age.
func (c *credential) use(refused secret.String) (*egress.Client, secret.String, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	stale := !refused.Empty() && c.token.Equal(refused)
	if now := c.pod.now(); (c.podToken || c.podCA) && (stale || c.readTime.IsZero() || now.Sub(c.readTime) >= reread) {
		if err := c.read(); err != nil {
			return nil, secret.String{}, fault.New(fault.Target, "%w", err)
		}
		c.readTime = now
	}
	if c.client == nil {
		roots, err := c.roots()
		if err != nil {
			return nil, secret.String{}, err
		}
		c.client = c.dial(roots)
	}
	return c.client, c.token, nil
}

// read takes what stands in the files. What was read once serves until it can be read again: it
// may well be good still, and the server says so if it is not.
func (c *credential) read() error {
	if c.podToken {
		token, err := c.pod.token()
		if err != nil && c.token.Empty() {
			return err
		}
		if err == nil {
			c.token = token
		}
	}
	if !c.podCA {
		return nil
	}
	ca, err := c.pod.authority()
	if err != nil && c.ca == "" {
		return err
	}
	if err == nil && ca != c.ca {
		c.ca = ca
		c.drop()
	}
	return nil
}

func (c *credential) roots() (*x509.CertPool, error) {
	return egress.Authorities(caOption, c.ca)
}

// drop lets go of the client. Requests that are under way end by themselves.
func (c *credential) drop() {
	if c.client != nil {
		c.client.Close()
		c.client = nil
	}
}

func (c *credential) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop()
}

// maxToken bounds a token, in bytes.
const maxToken = 16 << 10

// checkToken refuses what cannot be sent as a token.
func checkToken(s *settings) error {
	if s.Token.Empty() {
		return nil
	}
	if reason := unfit(s.Token); reason != "" {
		return fault.Field("service_account_jwt", "%s", reason)
	}
	return nil
}

// unfit says why a text cannot be a token, and "" where it can.
func unfit(token secret.String) string {
	switch text := token.Reveal(); {
	case text == "":
		return "is empty"
	case len(text) > maxToken:
		return "is too long for a token"
	case !printable(text):
		return "must be of printable ASCII characters, without spaces"
	}
	return ""
}

// expiry is when a token says that it ends (RFC 7519, exp); the zero time where it does not.
func expiry(token secret.String) time.Time {
	parts := strings.Split(token.Reveal(), ".")
	if len(parts) != 3 {
		return time.Time{}
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return time.Time{}
	}
	var claims struct {
		Expires int64 `json:"exp"`
	}
	if json.Unmarshal(raw, &claims) != nil || claims.Expires <= 0 || claims.Expires > maxInstant {
		return time.Time{}
	}
	return time.Unix(claims.Expires, 0).UTC()
}

// maxInstant is the end of the year 9999.
const maxInstant = 253402300799
