package egress

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"golang.org/x/time/rate"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// Client sends requests within its options. It is safe for concurrent use.
type Client struct {
	options Options
	network *network
	// transport is the network, or what a test wrapped around it. It is used without an
	// http.Client, which would follow redirects and put the URL into each error.
	transport http.RoundTripper
	limit     *rate.Limiter // nil for no bound
	holds     holds
}

// New makes a client. It dials nothing.
func New(o Options) *Client { return newClient(o, newDialer(nil)) }

func newClient(o Options, dial dialFunc) *Client {
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.MaxBody <= 0 {
		o.MaxBody = defaultMaxBody
	}
	if o.RetryWait <= 0 {
		o.RetryWait = defaultRetryWait
	}
	c := &Client{options: o, network: newNetwork(&o, dial)}
	c.transport = c.network
	if o.Transport != nil {
		c.transport = o.Transport(c.network)
	}
	if o.RequestsPerSecond > 0 {
		c.limit = rate.NewLimiter(rate.Limit(o.RequestsPerSecond), max(1, int(o.RequestsPerSecond)))
	}
	return c
}

// Close drops idle connections.
func (c *Client) Close() { c.network.closeIdle() }

// Do sends a request. Faults: Invalid for one that the options do not admit, Target for an
// address that the egress policy refuses and for an answer beyond its bounds, Unreachable
// where no answer came or the host has asked not to be sent anything yet, and Unconfirmed
// where a request that is sent once may have been served. Where the context ended, its
// error is in the chain. An answer that asks to wait for longer than the context lasts,
// or than is waited here, is returned like any other.
func (c *Client) Do(ctx context.Context, r Request) (*Response, error) {
	k, err := c.admit(r)
	if err != nil {
		return nil, err
	}
	waits := c.waits()
	var waited time.Time // until when this request has waited, as the host asked it to
	for tried := 1; ; tried++ {
		if err := c.turn(ctx, k, waited); err != nil {
			return nil, err
		}
		resp, err := c.attempt(ctx, k)
		asked, until := c.heed(k, resp)
		if tried == maxAttempts || !repeats(ctx, k, resp, err) {
			return resp, err
		}
		wait := max(asked, waits.NextBackOff())
		if wait > longestWait || !fits(ctx, wait) {
			return resp, err
		}
		if err := pause(ctx, wait); err != nil {
			return nil, k.fault(fault.Unreachable, "given up while waiting to try again: %w", err)
		}
		if asked > 0 {
			waited = until
		}
	}
}

// turn waits until the client's own rate admits one more request, unless the host asked to
// be left alone for now.
func (c *Client) turn(ctx context.Context, k *call, waited time.Time) error {
	if until := c.holds.until(k); !k.Probe && until.After(c.options.now()) && until.After(waited) {
		return fault.New(fault.Unreachable, "%s: %s asked to wait until %s", k.Action, k.host, until.UTC().Format(time.RFC3339))
	}
	if err := ctx.Err(); err != nil {
		return k.fault(fault.Unreachable, "given up before it was sent: %w", err)
	}
	if c.limit == nil {
		return nil
	}
	if err := c.limit.Wait(ctx); err != nil {
		if cause := ctx.Err(); cause != nil {
			err = cause
		}
		return k.fault(fault.Unreachable, "not sent, since its turn within the rate limit did not come: %w", err)
	}
	return nil
}

// attempt sends the request once and reads the answer, within one time-out.
func (c *Client) attempt(ctx context.Context, k *call) (*Response, error) {
	bounded, cancel := context.WithTimeout(ctx, c.options.Timeout)
	defer cancel()
	t := &trip{once: k.Once || k.Probe}
	req, err := http.NewRequestWithContext(t.watch(bounded), k.Method, k.url.String(), bytes.NewReader(k.Body))
	if err != nil {
		return nil, fault.New(fault.Internal, "%s: a request that was admitted cannot be made", k.Action)
	}
	req.Header = k.header.Clone() // the last attempt may still be writing its own
	resp, err := c.transport.RoundTrip(req)
	if err != nil {
		return nil, c.lost(ctx, k, err, t.maySent(err))
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := k.read(resp.Body, c.options.MaxBody)
	if err != nil {
		return nil, c.lost(ctx, k, err, true)
	}
	return &Response{
		Status: resp.StatusCode, Header: resp.Header, Body: body, RetryAfter: askedWait(resp.Header, c.options.now()),
	}, nil
}

// read takes what counts of an answer.
func (k *call) read(r io.Reader, limit int64) ([]byte, error) {
	if k.Probe {
		return io.ReadAll(io.LimitReader(r, limit))
	}
	return readAll(r, limit)
}

var errTooLong = errors.New("the answer is too long")

// readAll reads to the end, which must come within limit bytes. What it reads has been
// decompressed already, so that a bomb is bounded like any other answer.
func readAll(r io.Reader, limit int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, limit+1))
	if int64(len(body)) > limit {
		return nil, errTooLong
	}
	return body, err
}
