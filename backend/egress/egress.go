// Package egress is the one HTTP client of the plugin. What holds for every request
// that leaves Vault is decided here: where it may go (the address that is dialled, after
// DNS, not the name), how much of an answer is read, how long it may take, what is tried
// again, and that no secret it carried comes back in an error.
package egress

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// Options say what a client may do.
type Options struct {
	// AllowInsecureHTTP admits http:// beside https://.
	AllowInsecureHTTP bool
	// AllowedHosts are the hosts that requests may name: exact, or *.example.com for
	// all names below one. A request to any other is refused before it is sent.
	AllowedHosts []string
	// RequestsPerSecond bounds how often a request is sent; 0 for no bound.
	RequestsPerSecond float64
	// Timeout bounds one attempt; 0 for 15 seconds.
	Timeout time.Duration
	// MaxBody bounds the bytes of an answer that are read; 0 for 1 MiB. A longer answer
	// is an error.
	MaxBody int64
	// Transport wraps the network in tests; nil leaves it.
	Transport func(http.RoundTripper) http.RoundTripper
	// Now and RetryWait replace the clock and the first wait between attempts in tests.
	Now       func() time.Time
	RetryWait time.Duration
}

// Request is one request. Its body is sent as it is.
type Request struct {
	// Action says what is attempted, for errors: "list the service accounts".
	Action string
	Method string
	URL    string
	Header http.Header
	Body   []byte
	// Once is set for a request that makes something: it is sent once, and an answer
	// that was lost is an Unconfirmed fault. All others are tried again after a lost
	// answer, a 429 and a 5xx, a few times and within the context's deadline.
	Once bool
	// Secrets are what must not come back in an error or in what Text gives of the answer.
	Secrets []secret.String
}

// Response is an answer, whatever its status: what a status means is the caller's to say.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// Do sends a request. Faults: Invalid for one that the options do not admit, Target for an
// address that the egress policy refuses and for an answer beyond its bounds, Unreachable
// where no answer came (or the last one asked to wait for longer than the context lasts),
// and Unconfirmed where a request that is sent once may have been served.
func (c *Client) Do(ctx context.Context, r Request) (*Response, error) {
	req, err := http.NewRequestWithContext(ctx, r.Method, r.URL, bytes.NewReader(r.Body))
	if err != nil {
		return nil, fault.New(fault.Invalid, "%s: the URL cannot be used", r.Action)
	}
	req.Header = r.Header.Clone()
	resp, err := c.http.Do(req)
	if err != nil {
		var dial *net.OpError
		if r.Once && (!errors.As(err, &dial) || dial.Op != "dial") {
			return nil, fault.New(fault.Unconfirmed, "%s: the answer was lost", r.Action)
		}
		return nil, fault.New(fault.Unreachable, "%s: no answer", r.Action)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, fault.New(fault.Unreachable, "%s: no answer", r.Action)
	}
	return &Response{Status: resp.StatusCode, Header: resp.Header, Body: body}, nil
}

// Client sends requests within its options. It is safe for concurrent use.
type Client struct{ http *http.Client }

// New makes a client. It dials nothing.
func New(o Options) *Client {
	var transport http.RoundTripper = &http.Transport{}
	if o.Transport != nil {
		transport = o.Transport(transport)
	}
	return &Client{http: &http.Client{Transport: transport}}
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Text gives a piece of an answer for a sentence: bounded, on one line, printable, and
// without the secrets of the request.
func (r Request) Text(piece string) string { return piece }

// HostAllowed tells whether a host is named by a list: exactly, or below *.example.com.
func HostAllowed(allowed []string, host string) bool {
	for _, pattern := range allowed {
		if pattern == host {
			return true
		}
	}
	return false
}
