package egress

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

func probe(url string) Request {
	return Request{Action: "ask", Method: "GET", URL: url, Probe: true}
}

// What would be tried again otherwise is an answer, or none, and may be asked for again.
func TestProbeIsSentOnce(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		status int // 0 for a fault
	}{
		"503":            {answer(503, ""), 503},
		"429":            {answer(429, ""), 429},
		"a reset":        {cutOff, 0},
		"half an answer": {half, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, tc.answer)
			resp, err := client(t, nil).Do(t.Context(), probe(h.URL))
			require.EqualValues(t, 1, h.served.Load())
			if tc.status != 0 {
				require.NoError(t, err)
				require.Equal(t, tc.status, resp.Status)
				return
			}
			require.Equal(t, fault.Unreachable, fault.KindOf(err), "%v", err)
			require.ErrorContains(t, err, "ask: "+h.name(t)+": no answer: ")
		})
	}
}

// A host that says when to come again is asked when the caller likes, and others that use
// the client are not held up by what it said.
func TestProbeHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	h := script(t, after(503, "Retry-After", "3600"), after(429, "Retry-After", "3600"), answer(200, ""))
	c := client(t, nil)
	for _, want := range []int{503, 429, 200} {
		resp, err := c.Do(t.Context(), probe(h.URL))
		require.NoError(t, err)
		require.Equal(t, want, resp.Status)
	}
	resp, err := c.Do(t.Context(), list(h.URL))
	require.NoError(t, err)
	require.Equal(t, 200, resp.Status)
}

func TestProbeIsNotHeldUp(t *testing.T) {
	t.Parallel()
	h := script(t, after(429, "Retry-After", "3600"), answer(200, ""))
	c := client(t, nil)
	resp, err := c.Do(t.Context(), list(h.URL))
	require.NoError(t, err)
	require.Equal(t, 429, resp.Status)
	_, err = c.Do(t.Context(), list(h.URL))
	require.ErrorContains(t, err, "asked to wait until")
	resp, err = c.Do(t.Context(), probe(h.URL))
	require.NoError(t, err)
	require.Equal(t, 200, resp.Status)
}

// Each probe has a connection of its own, which nothing is left of.
func TestProbeHasAFreshConnection(t *testing.T) {
	t.Parallel()
	from := map[string]bool{}
	h := newHost(t, func(w http.ResponseWriter, r *http.Request) {
		from[r.RemoteAddr] = true // one after another
		w.Header().Set("X-Close", r.Header.Get("Connection"))
	})
	c := client(t, nil)
	for range 3 {
		resp, err := c.Do(t.Context(), probe(h.URL))
		require.NoError(t, err)
		require.Equal(t, "close", resp.Header.Get("X-Close"))
	}
	require.Len(t, from, 3)
}

func TestProbeReadsTheBeginning(t *testing.T) {
	t.Parallel()
	body := strings.Repeat("x", 1000)
	h := newHost(t, answer(200, body))
	for limit, want := range map[int64]int{999: 999, 1000: 1000, 1001: 1000} {
		c := client(t, func(o *Options) { o.MaxBody = limit })
		resp, err := c.Do(t.Context(), probe(h.URL))
		require.NoError(t, err)
		require.Len(t, resp.Body, want)
	}
	endless := newHost(t, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := io.WriteString(w, body); err != nil {
				return
			}
		}
	})
	resp, err := client(t, nil).Do(t.Context(), probe(endless.URL))
	require.NoError(t, err)
	require.Len(t, resp.Body, 1<<20)
}

func TestProbeIsBounded(t *testing.T) {
	t.Parallel()
	for _, before := range []string{"", "half an answer"} {
		h := silent(t, before)
		c := client(t, func(o *Options) { o.Timeout = 250 * time.Millisecond })
		_, err := c.Do(t.Context(), probe(h.URL))
		require.EqualError(t, err, "ask: "+h.name(t)+": no answer: it took longer than 250ms")
		require.Equal(t, fault.Unreachable, fault.KindOf(err))
		require.EqualValues(t, 1, h.served.Load())
	}
}
