package egress

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"
)

const (
	tlsTimeout     = 10 * time.Second
	idleTimeout    = 30 * time.Second
	maxIdle        = 8
	maxIdlePerHost = 2
	maxHeaderBytes = 64 << 10
)

// network is what dials. It has two ways, because net/http sends some requests again by
// itself: one that was lost on a connection that had been idle, if its method or an
// Idempotency-Key says that it may be repeated, and on HTTP/2 a stream that the server
// says it refused or had not seen when it went away. The former may be a second effect,
// the latter rests on the server's word.
type network struct {
	// shared keeps connections, and speaks HTTP/2 where the host does.
	shared *http.Transport
	// single is for requests that are sent once: each has a fresh connection of HTTP/1.1,
	// on which net/http repeats nothing. Nor does such a request meet a connection that
	// the host is about to close: its loss could not be told from one after the effect.
	// A handshake more is a small price for what is made so rarely.
	single *http.Transport
}

func newNetwork(o *Options, dial dialFunc) *network {
	n := &network{shared: newTransport(o, dial), single: newTransport(o, dial)}
	n.shared.ForceAttemptHTTP2 = true // which a dialer of one's own switches off otherwise
	n.single.DisableKeepAlives = true
	n.single.Protocols = new(http.Protocols)
	n.single.Protocols.SetHTTP1(true)
	return n
}

func newTransport(o *Options, dial dialFunc) *http.Transport {
	return &http.Transport{
		Proxy:                  nil, // not even from the environment: the policy judges what is dialled
		DialContext:            dial,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.RootCAs, ServerName: o.ServerName},
		TLSHandshakeTimeout:    tlsTimeout,
		ResponseHeaderTimeout:  o.Timeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
		MaxIdleConns:           maxIdle,
		MaxIdleConnsPerHost:    maxIdlePerHost,
		IdleConnTimeout:        idleTimeout,
	}
}

// RoundTrip implements http.RoundTripper.
func (n *network) RoundTrip(req *http.Request) (*http.Response, error) {
	t, ok := req.Context().Value(tripKey{}).(*trip)
	if !ok {
		return n.single.RoundTrip(req)
	}
	t.reached.Store(true)
	if t.once {
		return n.single.RoundTrip(req)
	}
	return n.shared.RoundTrip(req)
}

func (n *network) closeIdle() {
	n.shared.CloseIdleConnections()
	n.single.CloseIdleConnections()
}

// trip is how far one attempt got.
type trip struct {
	once      bool
	reached   atomic.Bool // the network, through what a test wrapped around it
	connected atomic.Bool // there was a connection, its TLS handshake done, to write to
}

type tripKey struct{}

func (t *trip) watch(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(context.WithValue(ctx, tripKey{}, t), &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { t.connected.Store(true) },
	})
}

// maySent tells whether a byte of the request may have left, in doubt yes.
func (t *trip) maySent(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return false
	}
	return t.connected.Load() || !t.reached.Load()
}
