package egress

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// script answers each request in turn, the last one for all that follow.
func script(t *testing.T, answers ...http.HandlerFunc) *host {
	t.Helper()
	var h *host
	h = newHost(t, func(w http.ResponseWriter, r *http.Request) {
		answers[min(int(h.served.Load()), len(answers))-1](w, r)
	})
	return h
}

func after(status int, header, value string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(header, value)
		w.WriteHeader(status)
	}
}

func TestTriedAgain(t *testing.T) {
	t.Parallel()
	ok := answer(200, "ok")
	for name, tc := range map[string]struct {
		answers []http.HandlerFunc
		status  int // 0 for a fault
		served  int32
	}{
		"an answer":               {[]http.HandlerFunc{ok}, 200, 1},
		"a refusal is one":        {[]http.HandlerFunc{answer(403, "")}, 403, 1},
		"429":                     {[]http.HandlerFunc{answer(429, ""), ok}, 200, 2},
		"5xx":                     {[]http.HandlerFunc{answer(500, ""), answer(599, ""), ok}, 200, 3},
		"the last is the answer":  {[]http.HandlerFunc{answer(500, ""), answer(502, ""), answer(503, "")}, 503, 3},
		"a reset":                 {[]http.HandlerFunc{cutOff, ok}, 200, 2},
		"half an answer":          {[]http.HandlerFunc{half, ok}, 200, 2},
		"half a bad one, and 429": {[]http.HandlerFunc{half, answer(429, ""), answer(404, "")}, 404, 3},
		"nothing":                 {[]http.HandlerFunc{cutOff}, 0, 3},
		"halves":                  {[]http.HandlerFunc{half}, 0, 3},
		"at once":                 {[]http.HandlerFunc{after(429, "Retry-After", "0"), ok}, 200, 2},
		"after a date gone by":    {[]http.HandlerFunc{after(503, "Retry-After", "Mon, 02 Jan 2006 15:04:05 GMT"), ok}, 200, 2},
		"after a short while":     {[]http.HandlerFunc{after(429, "Retry-After-Ms", "5.5"), ok}, 200, 2},
		"after nobody knows what": {[]http.HandlerFunc{after(429, "Retry-After", "soon"), ok}, 200, 2},
		"after too long a while":  {[]http.HandlerFunc{after(429, "Retry-After", "11"), ok}, 429, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := script(t, tc.answers...)
			// With a body, so that each attempt must send it anew.
			resp, err := client(t, nil).Do(t.Context(), Request{Action: "put", Method: "PUT", URL: h.URL, Body: []byte("x")})
			if tc.status == 0 {
				require.Equal(t, fault.Unreachable, fault.KindOf(err), "%v", err)
				require.ErrorContains(t, err, "put: "+h.name(t)+": no answer: ")
			} else {
				require.NoError(t, err)
				require.Equal(t, tc.status, resp.Status)
			}
			require.Equal(t, tc.served, h.served.Load())
		})
	}
}

func half(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "1000")
	_, _ = io.WriteString(w, "half")
}

func TestBodyIsSentAgain(t *testing.T) {
	t.Parallel()
	bodies := make(chan string, maxAttempts)
	h := newHost(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		bodies <- string(body) + r.Header.Get("X-A")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	_, err := client(t, nil).Do(t.Context(), Request{Method: "PUT", URL: h.URL, Body: []byte("body"), Header: http.Header{"X-A": {"a"}}})
	require.NoError(t, err)
	for range maxAttempts {
		require.Equal(t, "bodya", <-bodies)
	}
}

// The context's deadline is no reason to wait until it: what is known is returned.
func TestDeadlineLeavesNoTimeToWait(t *testing.T) {
	t.Parallel()
	h := newHost(t, answer(503, ""))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	slow := func(o *Options) { o.RetryWait = time.Hour }
	resp, err := client(t, slow).Do(ctx, list(h.URL))
	require.NoError(t, err)
	require.Equal(t, 503, resp.Status)
	require.False(t, fits(ctx, time.Hour))
	require.True(t, fits(t.Context(), time.Hour))

	limited := script(t, after(429, "Retry-After", "9"))
	ctx, cancel = context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	resp, err = client(t, nil).Do(ctx, list(limited.URL))
	require.NoError(t, err)
	require.Equal(t, 429, resp.Status)
	require.EqualValues(t, 1, limited.served.Load())
}

// endsWhenAsked is a context that ends when it is asked how much time is left, which is
// the last that happens before a wait.
type endsWhenAsked struct {
	context.Context
	end func()
}

func (c endsWhenAsked) Deadline() (time.Time, bool) {
	c.end()
	return c.Context.Deadline()
}

func TestContextEndsWhileWaiting(t *testing.T) {
	t.Parallel()
	h := newHost(t, after(429, "Retry-After", "9"))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err := client(t, nil).Do(endsWhenAsked{ctx, func() {
		if h.served.Load() > 0 {
			cancel()
		}
	}}, list(h.URL))
	require.ErrorIs(t, err, context.Canceled)
	require.EqualError(t, err, "list the keys: "+h.name(t)+": given up while waiting to try again: context canceled")
	require.Equal(t, fault.Unreachable, fault.KindOf(err))
	require.EqualValues(t, 1, h.served.Load())
}

func TestAskedToWait(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 4, 3, 2, 1, 0, time.FixedZone("", 3600))
	busy := script(t, after(429, "Retry-After", "120"), answer(200, ""))
	other := newHost(t, answer(200, ""))
	c := client(t, func(o *Options) { o.Now = func() time.Time { return now } })

	resp, err := c.Do(t.Context(), create(busy.URL))
	require.NoError(t, err)
	require.Equal(t, 429, resp.Status, "that which is told is the caller's")
	for _, r := range []Request{list(busy.URL), create(busy.URL + "/elsewhere?canary")} {
		_, err = c.Do(t.Context(), r)
		require.EqualError(t, err, r.Action+": "+busy.name(t)+" asked to wait until 2026-05-04T02:04:01Z")
		require.Equal(t, fault.Unreachable, fault.KindOf(err))
	}
	require.EqualValues(t, 1, busy.served.Load())

	_, err = c.Do(t.Context(), list(other.URL))
	require.NoError(t, err, "another host is not meant")
	now = now.Add(2 * time.Minute)
	_, err = c.Do(t.Context(), list(busy.URL))
	require.NoError(t, err)
}

// A request that waited as it was asked to is not held up by that, but by what others were
// told meanwhile.
func TestWaitingCounts(t *testing.T) {
	t.Parallel()
	c := client(t, func(o *Options) { o.Now = func() time.Time { return time.Unix(1000, 0) } })
	short := script(t, after(429, "Retry-After-Ms", "1"), cutOff, answer(200, ""))
	// With a method that net/http does not repeat by itself.
	resp, err := c.Do(t.Context(), Request{Action: "put", Method: "PUT", URL: short.URL})
	require.NoError(t, err)
	require.Equal(t, 200, resp.Status)

	var h *host
	h = newHost(t, func(w http.ResponseWriter, r *http.Request) {
		c.holds.set(hold{h.name(t), bearerOf(nil)}, time.Unix(2000, 0), time.Unix(1000, 0))
		after(429, "Retry-After-Ms", "1")(w, r)
	})
	_, err = c.Do(t.Context(), list(h.URL))
	require.ErrorContains(t, err, "asked to wait until 1970-01-01T00:33:20Z")
	require.EqualValues(t, 1, h.served.Load())
}

func TestAskedWait(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)
	for _, tc := range []struct {
		seconds, ms string
		want        time.Duration
	}{
		{"", "", 0},
		{"3", "", 3 * time.Second},
		{"0.5", "", 500 * time.Millisecond},
		{"3", "250", 250 * time.Millisecond},
		{"3", "soon", 3 * time.Second},
		{"-3", "", 0},
		{"NaN", "", 0},
		{"soon", "", 0},
		{"Inf", "", time.Hour},
		{"86400", "", time.Hour},
		{strconv.FormatInt(1<<62, 10), "", time.Hour},
		{"1e300", "1e300", time.Hour},
		{now.Add(90 * time.Second).Format(http.TimeFormat), "", 90 * time.Second},
		{now.Add(90 * time.Second).Format(time.RFC850), "", 90 * time.Second},
		{now.Add(-time.Hour).Format(http.TimeFormat), "", 0},
		{now.AddDate(500, 0, 0).Format(http.TimeFormat), "", time.Hour},
	} {
		h := http.Header{}
		h.Set("Retry-After", tc.seconds)
		h.Set("Retry-After-Ms", tc.ms)
		require.Equal(t, tc.want, askedWait(h, now), "%q %q", tc.seconds, tc.ms)
	}
}

// with is a request that bears secrets.
func with(r Request, secrets ...string) Request {
	r.Secrets = carrying(secrets...).Secrets
	return r
}

// A key that is used too much does not keep others from being used.
func TestHoldIsForACredential(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	h := script(t, after(429, "Retry-After", "3600"), answer(200, ""))
	c := client(t, func(o *Options) { o.Now = func() time.Time { return now } })
	resp, err := c.Do(t.Context(), with(list(h.URL), "leaked", "second"))
	require.NoError(t, err)
	require.Equal(t, 429, resp.Status)
	for range 20 {
		_, err = c.Do(t.Context(), with(list(h.URL), "second", "leaked"))
		require.EqualError(t, err, "list the keys: "+h.name(t)+" asked to wait until 1970-01-01T01:16:40Z", "the order does not matter")
	}
	for _, other := range [][]string{{"admin"}, {"leaked"}, nil} {
		_, err = c.Do(t.Context(), with(list(h.URL), other...))
		require.NoError(t, err, other)
	}
	now = now.Add(time.Hour)
	_, err = c.Do(t.Context(), with(list(h.URL), "leaked", "second"))
	require.NoError(t, err)
}

// A host that cannot serve is left alone by all, for a minute at most.
func TestHoldOfAll(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	h := script(t, after(503, "Retry-After", "3600"), answer(200, ""))
	c := client(t, func(o *Options) { o.Now = func() time.Time { return now } })
	_, err := c.Do(t.Context(), with(list(h.URL), "one"))
	require.NoError(t, err)
	for _, secret := range []string{"one", "another"} {
		_, err = c.Do(t.Context(), with(list(h.URL), secret))
		require.ErrorContains(t, err, "asked to wait until 1970-01-01T00:17:40Z")
	}
	now = now.Add(time.Minute)
	_, err = c.Do(t.Context(), with(list(h.URL), "one"))
	require.NoError(t, err)
}

func TestNothingElseHolds(t *testing.T) {
	t.Parallel()
	statuses := []int{200, 302, 400, 401, 403, 404, 500, 502, 504}
	answers := make([]http.HandlerFunc, 0, len(statuses))
	for _, status := range statuses {
		answers = append(answers, after(status, "Retry-After", "3600"))
	}
	h := script(t, answers...)
	c := client(t, nil)
	for _, status := range statuses {
		resp, err := c.Do(t.Context(), list(h.URL))
		require.NoError(t, err, status)
		require.Equal(t, status, resp.Status)
	}
	require.EqualValues(t, len(statuses), h.served.Load(), "none is waited for either")
}

func TestHolds(t *testing.T) {
	t.Parallel()
	var h holds
	now := time.Unix(1000, 0)
	a, b := hold{"a:443", bearerOf(nil)}, hold{"b:443", everybody}
	on := func(h hold) *call { return &call{place: h.place, bearer: h.bearer} }
	h.set(a, now.Add(time.Minute), now)
	h.set(a, now.Add(time.Second), now)
	require.Equal(t, now.Add(time.Minute), h.until(on(a)), "the latest counts")
	h.set(b, now.Add(time.Hour), now.Add(2*time.Minute))
	require.Equal(t, map[hold]time.Time{b: now.Add(time.Hour)}, h.ends, "what has passed is forgotten")
	require.Equal(t, now.Add(time.Hour), h.until(on(hold{"b:443", bearerOf(carrying("x").Secrets)})))

	for i := range 2 * maxHolds {
		h.set(hold{strconv.Itoa(i), everybody}, now.Add(time.Duration(i+1)*time.Second), now)
	}
	require.Len(t, h.ends, maxHolds)
	require.Contains(t, h.ends, b, "those that end first are forgotten")
	require.NotContains(t, h.ends, hold{"0", everybody})
	require.Contains(t, h.ends, hold{strconv.Itoa(2*maxHolds - 1), everybody})
}

// A host is the same with and without its port.
func TestPlace(t *testing.T) {
	t.Parallel()
	c := client(t, func(o *Options) { o.AllowedHosts = []string{"*.acme.test", "::1"} })
	for url, want := range map[string]string{
		"https://api.ACME.test/x": "api.acme.test:443", "https://api.acme.test:443": "api.acme.test:443", "http://api.acme.test": "api.acme.test:80",
		"https://api.acme.test:8443": "api.acme.test:8443", "https://[::1]": "[::1]:443",
	} {
		k, err := c.admit(list(url))
		require.NoError(t, err)
		require.Equal(t, want, k.place)
	}
}

func TestAnswersTellForHowLongToWait(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "soon": 0, "7": 7 * time.Second, "Mon, 04 May 2026 12:01:30 GMT": 90 * time.Second, "86400": time.Hour,
	} {
		h := newHost(t, after(503, "Retry-After", value))
		resp, err := client(t, func(o *Options) { o.Now = func() time.Time { return now } }).Do(t.Context(), create(h.URL))
		require.NoError(t, err)
		require.Equal(t, want, resp.RetryAfter, value)
	}
}
