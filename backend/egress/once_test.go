package egress

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// Each way to lose an answer, for requests that net/http would send again by itself.
func TestOnceIsSentOnce(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]http.HandlerFunc{
		"a reset": cutOff,
		"an end":  func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"half an answer": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			cutOff(w, r)
		},
	} {
		for _, method := range []string{"POST", "GET", "DELETE"} {
			for _, body := range []string{"", "a body"} {
				t.Run(name+" to "+method+" with "+body, func(t *testing.T) {
					t.Parallel()
					// The first answer leaves an idle connection, on which net/http would repeat.
					first := make(chan struct{}, 1)
					first <- struct{}{}
					h := newHost(t, func(w http.ResponseWriter, r *http.Request) {
						select {
						case <-first:
						default:
							end(w, r)
						}
					})
					c := client(t, nil)
					_, err := c.Do(t.Context(), list(h.URL))
					require.NoError(t, err)
					r := create(h.URL)
					r.Method, r.Body, r.Header = method, []byte(body), http.Header{"Idempotency-Key": {"1"}}
					_, err = c.Do(t.Context(), r)
					require.Equal(t, fault.Unconfirmed, fault.KindOf(err), "%v", err)
					require.ErrorContains(t, err, "the answer was lost, and the request may have been served: ")
					require.EqualValues(t, 2, h.served.Load())
				})
			}
		}
	}
}

// A status that is tried again otherwise is an answer here.
func TestOnceIsNotRepeated(t *testing.T) {
	t.Parallel()
	for _, status := range []int{429, 500, 502, 503, 504} {
		h := newHost(t, answer(status, ""))
		resp, err := client(t, nil).Do(t.Context(), create(h.URL))
		require.NoError(t, err)
		require.Equal(t, status, resp.Status)
		require.EqualValues(t, 1, h.served.Load())
	}
}

// A connection that the host closed while it was idle is no way to lose an answer for what
// is sent once: it never uses one, and leaves none.
func TestOnceHasAFreshConnection(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	from := map[string]int{}
	h := newHost(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		from[r.RemoteAddr]++
		w.Header().Set("X-Close", r.Header.Get("Connection"))
	})
	c := client(t, nil)
	for _, r := range []Request{list(h.URL), create(h.URL), create(h.URL), list(h.URL)} {
		resp, err := c.Do(t.Context(), r)
		require.NoError(t, err)
		require.Equal(t, r.Once, resp.Header.Get("X-Close") == "close")
	}
	require.Len(t, from, 3, "two of their own, one shared")

	h.CloseClientConnections()
	_, err := c.Do(t.Context(), create(h.URL))
	require.NoError(t, err)
}

// What a test's network says decides what may have been sent.
func TestErrorsOfTheNetwork(t *testing.T) {
	t.Parallel()
	dial := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("injected")}
	read := &net.OpError{Op: "read", Net: "tcp", Err: errors.New("injected")}
	for name, tc := range map[string]struct {
		before, after error
		want          fault.Kind
		served        int32
	}{
		"a dial that failed":              {before: dial, want: fault.Unreachable},
		"a failure of no known kind":      {before: errors.New("canary"), want: fault.Unconfirmed},
		"a connection that broke":         {before: read, want: fault.Unconfirmed},
		"an answer that was lost":         {after: read, want: fault.Unconfirmed, served: 1},
		"an answer that was lost, oddly":  {after: errors.New("canary"), want: fault.Unconfirmed, served: 1},
		"an answer that came":             {served: 1},
		"an answer that ended before EOF": {after: io.ErrUnexpectedEOF, want: fault.Unconfirmed, served: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, answer(200, ""))
			c := client(t, func(o *Options) {
				o.Transport = func(inner http.RoundTripper) http.RoundTripper {
					return tripper(func(r *http.Request) (*http.Response, error) {
						if tc.before != nil {
							return nil, tc.before
						}
						resp, err := inner.RoundTrip(r)
						if err == nil && tc.after != nil {
							_ = resp.Body.Close()
							return nil, tc.after
						}
						return resp, err
					})
				}
			})
			_, err := c.Do(t.Context(), create(h.URL))
			require.Equal(t, tc.want, fault.KindOf(err), "%v", err)
			require.Equal(t, tc.served, h.served.Load())
			if err != nil {
				require.NotContains(t, err.Error(), "canary")
			}
		})
	}
}
