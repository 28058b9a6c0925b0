package egress

import (
	"context"
	"crypto/sha256"
	"errors"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

const (
	maxAttempts = 3
	// longestWait is what a request waits for between two attempts, whatever it is asked.
	longestWait = 10 * time.Second
	// longestHold is what is believed of a Retry-After: a host that says more by mistake
	// would else be lost until the plugin restarts.
	longestHold = time.Hour
	// longestHoldOfAll is what is believed of one that is for all who ask.
	longestHoldOfAll = time.Minute
	// maxHolds bounds how many are remembered.
	maxHolds = 1024
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
	if k.Once || k.Probe || ctx.Err() != nil {
		return false
	}
	if err != nil {
		return fault.Is(err, fault.Unreachable) && !errors.Is(err, errCertificate)
	}
	return resp.Status == http.StatusTooManyRequests || resp.Status >= http.StatusInternalServerError
}

// heed reads for how long an answer asks to be left alone, and remembers it for what comes
// after. A 429 is for who sent the request: a key that somebody uses too much must not keep
// others from being made, or that one from being ended. A 503 is for all, but not for long.
// Whatever else comes with such a wish is no reason to keep still.
func (c *Client) heed(k *call, resp *Response) (wait time.Duration, until time.Time) {
	if resp == nil || k.Probe || resp.Status < http.StatusBadRequest || resp.RetryAfter <= 0 {
		return 0, time.Time{}
	}
	now := c.options.now()
	wait = resp.RetryAfter
	until = now.Add(wait)
	switch resp.Status {
	case http.StatusTooManyRequests:
		c.holds.set(hold{k.place, k.bearer}, until, now)
	case http.StatusServiceUnavailable:
		c.holds.set(hold{k.place, everybody}, now.Add(min(wait, longestHoldOfAll)), now)
	}
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

// bearer stands for the credential of a request: a digest, since keys are not to be kept.
type bearer [sha256.Size]byte

// everybody is the bearer of a hold that is for all. No digest is.
var everybody bearer

// bearerOf does not depend on the order of secrets.
func bearerOf(secrets []secret.String) bearer {
	digests := make([]string, 0, len(secrets))
	for _, s := range secrets {
		one := sha256.Sum256([]byte(s.Reveal()))
		digests = append(digests, string(one[:]))
	}
	slices.Sort(digests)
	return sha256.Sum256([]byte(strings.Join(digests, "")))
}

// hold is what is to be left alone: a host, for who bears a credential.
type hold struct {
	place  string
	bearer bearer
}

// holds say until when.
type holds struct {
	mu   sync.Mutex
	ends map[hold]time.Time
}

// until is when a call may be made.
func (h *holds) until(k *call) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	own, all := h.ends[hold{k.place, k.bearer}], h.ends[hold{k.place, everybody}]
	if all.After(own) {
		return all
	}
	return own
}

// set keeps the latest time that was asked for, and forgets those that have passed. Where
// there are too many it forgets the one that ends first.
func (h *holds) set(what hold, until, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ends == nil {
		h.ends = map[hold]time.Time{}
	}
	maps.DeleteFunc(h.ends, func(_ hold, end time.Time) bool { return end.Before(now) })
	if !until.After(h.ends[what]) {
		return
	}
	h.ends[what] = until
	if len(h.ends) <= maxHolds {
		return
	}
	first := what
	for other, end := range h.ends {
		if end.Before(h.ends[first]) {
			first = other
		}
	}
	delete(h.ends, first)
}
