// Package egress is the one HTTP client of the plugin, and Dial for what speaks another
// protocol but goes under the same policy. What holds for every request
// that leaves Vault is decided here: where it may go (the address that is dialled, after
// DNS, not the name), how much of an answer is read, how long it may take, what is tried
// again, and that no secret it carried comes back in an error.
//
// Nothing is taken from the environment: a proxy would be dialled in the place of the
// host, and the policy would judge the wrong address. No redirect is followed: a 3xx is an
// answer like any other.
package egress

import (
	"crypto/x509"
	"net/http"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// What holds where the options say nothing.
const (
	defaultTimeout   = 15 * time.Second
	defaultMaxBody   = 1 << 20
	defaultRetryWait = 500 * time.Millisecond
)

// Options say what a client may do.
type Options struct {
	// AllowInsecureHTTP admits http:// beside https://.
	AllowInsecureHTTP bool
	// AllowedHosts are the hosts that requests may name: exact, or *.example.com for
	// all names below one. A request to any other is refused before it is sent.
	AllowedHosts []string
	// RootCAs are who may vouch for a host; nil for those that the system trusts.
	RootCAs *x509.CertPool
	// ServerName is the name to expect in the host's certificate; empty for the URL's own.
	ServerName string
	// RequestsPerSecond bounds how often a request is sent; 0 for no bound.
	RequestsPerSecond float64
	// Timeout bounds one attempt; 0 for 15 seconds.
	Timeout time.Duration
	// MaxBody bounds the bytes of an answer that are read, after decompression; 0 for
	// 1 MiB. A longer answer is an error, but to a Probe.
	MaxBody int64
	// Transport wraps the network in tests; nil leaves it. A *net.OpError of "dial" that
	// comes out of it says that the request was not sent; after any other error that the
	// wrapper makes up itself it may have been.
	Transport func(http.RoundTripper) http.RoundTripper
	// Now and RetryWait replace the clock and the first wait between attempts in tests.
	// The clock is what Retry-After is counted by; time-outs and waits are real.
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
	// Probe is set for a request that asks whether a host is well. It is sent once too, on a
	// connection of its own, but it makes nothing: a lost answer is Unreachable. A wish to be
	// left alone neither stops it nor outlasts it, since its answer is what the caller waits
	// for, and of a longer answer than is read it gets the beginning.
	Probe bool
	// Secrets are what must not come back in an error or in what Text gives of the answer.
	Secrets []secret.String
}

// Response is an answer, whatever its status: what a status means is the caller's to say.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
	// RetryAfter is how long it asks to be left alone, in seconds or as a date; 0 where it
	// does not, and an hour at most.
	RetryAfter time.Duration
}
