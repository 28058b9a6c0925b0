package egress

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

const (
	maxAttempts = 3
	// longestWait is what a request waits for between two attempts, whatever it is asked.
	longestWait = 10 * time.Second
	// longestHold is what is believed of a Retry-After: a host that says more by mistake
	// would else be lost until the plugin restarts.
	longestHold = time.Hour
)

// waits are those between attempts where the host asks for none. The loop around them is
// Do's own: which answers are tried again, what a host asks for and what is left of the
// context decide together, and the last answer is the caller's also when it is a 503.
func (c *Client) waits() *backoff.ExponentialBackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval = c.options.RetryWait
	b.Multiplier = 2
	b.MaxInterval = longestWait / 2
	b.Reset()
	return b
}

// repeats tells whether an attempt's end is a reason for another one.
func repeats(ctx context.Context, k *call, resp *Response, err error) bool {
	if k.Once || ctx.Err() != nil {
		return false
	}
	if err != nil {
		return fault.Is(err, fault.Unreachable) && !errors.Is(err, errCertificate)
	}
	return resp.Status == http.StatusTooManyRequests || resp.Status >= http.StatusInternalServerError
}

// heed reads for how long an answer asks to be left alone, and remembers it for all that
// comes after. It is asked for with 429 and 503 mostly, but with 403 by some.
func (c *Client) heed(k *call, resp *Response) (wait time.Duration, until time.Time) {
	if resp == nil || resp.Status < http.StatusBadRequest {
		return 0, time.Time{}
	}
	now := c.options.now()
	wait = askedWait(resp.Header, now)
	if wait <= 0 {
		return 0, time.Time{}
	}
	until = now.Add(wait)
	c.holds.set(k.host, until, now)
	return wait, until
}

// askedWait reads Retry-After, in seconds or as a date, and the finer Retry-After-Ms that
// some send beside it; 0 where there is none that can be understood.
func askedWait(h http.Header, now time.Time) time.Duration {
	if wait, ok := number(h.Get("Retry-After-Ms"), time.Millisecond); ok {
		return wait
	}
	if wait, ok := number(h.Get("Retry-After"), time.Second); ok {
		return wait
	}
	if date, err := http.ParseTime(h.Get("Retry-After")); err == nil {
		return min(max(date.Sub(now), 0), longestHold)
	}
	return 0
}

func number(text string, unit time.Duration) (time.Duration, bool) {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(n) || n < 0 {
		return 0, false
	}
	// Compared as floats, since an absurd number does not fit a Duration.
	return time.Duration(min(n*float64(unit), float64(longestHold))), true
}

// holds are the hosts that asked to be left alone, and until when.
type holds struct {
	mu     sync.Mutex
	byHost map[string]time.Time
}

func (h *holds) until(host string) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.byHost[host]
}

// set keeps the latest time that a host asked for, and forgets those that have passed.
func (h *holds) set(host string, until, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.byHost == nil {
		h.byHost = map[string]time.Time{}
	}
	for name, passed := range h.byHost {
		if passed.Before(now) {
			delete(h.byHost, name)
		}
	}
	if until.After(h.byHost[host]) {
		h.byHost[host] = until
	}
}
