package egress

import (
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// trusting makes a client that knows who vouches for a host.
func trusting(t *testing.T, h *host) *Client {
	t.Helper()
	return client(t, func(o *Options) {
		o.AllowInsecureHTTP = false
		o.RootCAs = x509.NewCertPool()
		o.RootCAs.AddCert(h.Certificate())
	})
}

func TestRequestAndAnswer(t *testing.T) {
	t.Parallel()
	h := newTLSHost(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Saw", strings.Join([]string{r.Proto, r.Method, r.RequestURI, r.Header.Get("Authorization"), string(body)}, " "))
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "short and stout")
	})
	c := trusting(t, h)
	r := Request{Action: "brew", Method: "PUT", URL: h.URL + "/pot?x=y", Header: http.Header{"Authorization": {"Bearer k"}}, Body: []byte("tea")}
	resp, err := c.Do(t.Context(), r)
	require.NoError(t, err)
	require.Equal(t, http.StatusTeapot, resp.Status)
	require.Equal(t, "short and stout", string(resp.Body))
	require.Equal(t, "HTTP/2.0 PUT /pot?x=y Bearer k tea", resp.Header.Get("X-Saw"))

	r.Once = true
	resp, err = c.Do(t.Context(), r)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1 PUT /pot?x=y Bearer k tea", resp.Header.Get("X-Saw"), "what is sent once has a connection of its own")
	require.Equal(t, http.Header{"Authorization": {"Bearer k"}}, r.Header, "the request stays the caller's")
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	h := newTLSHost(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	c := trusting(t, h)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for _, once := range []bool{false, true} {
				resp, err := c.Do(t.Context(), Request{Method: "POST", URL: h.URL, Body: []byte("echo"), Once: once})
				if err != nil || string(resp.Body) != "echo" {
					t.Errorf("%v, %v", resp, err)
				}
			}
		})
	}
	all.Wait()
}

func TestUnknownCertificate(t *testing.T) {
	t.Parallel()
	h := newTLSHost(t, answer(200, ""))
	dials := 0
	c := client(t, func(o *Options) {
		o.Transport = func(inner http.RoundTripper) http.RoundTripper {
			return tripper(func(r *http.Request) (*http.Response, error) {
				dials++
				return inner.RoundTrip(r)
			})
		}
	})
	for i, r := range []Request{list(h.URL), create(h.URL)} {
		_, err := c.Do(t.Context(), r)
		require.ErrorContains(t, err, ": no answer: tls: failed to verify certificate: x509: ")
		require.Equal(t, fault.Unreachable, fault.KindOf(err), "no byte of the request was sent")
		require.Equal(t, i+1, dials, "asking again does not help")
	}
	require.Zero(t, h.served.Load())
}

func TestOldTLS(t *testing.T) {
	t.Parallel()
	h := newQuietHost(answer(200, ""))
	h.TLS = &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}
	h.StartTLS()
	t.Cleanup(h.Close)
	c := trusting(t, h)
	for _, r := range []Request{list(h.URL), create(h.URL)} {
		_, err := c.Do(t.Context(), r)
		require.ErrorContains(t, err, "protocol version")
		require.Equal(t, fault.Unreachable, fault.KindOf(err))
	}
	require.Zero(t, h.served.Load())
}

func TestNoTLS(t *testing.T) {
	t.Parallel()
	h := newHost(t, answer(200, ""))
	_, err := client(t, nil).Do(t.Context(), create(strings.Replace(h.URL, "http:", "https:", 1)))
	require.EqualError(t, err, "create a key: "+h.name(t)+": no answer: it does not speak TLS")
	require.Equal(t, fault.Unreachable, fault.KindOf(err))
}

func TestNotHTTP(t *testing.T) {
	t.Parallel()
	h := newHost(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, _ = io.WriteString(conn, "canary\r\n\r\n")
			_ = conn.Close()
		}
	})
	_, err := client(t, nil).Do(t.Context(), list(h.URL+"?canary"))
	require.EqualError(t, err, "list the keys: "+h.name(t)+": no answer: the connection failed, or what came was not HTTP")
	require.Equal(t, fault.Unreachable, fault.KindOf(err))
}

func TestLongAnswer(t *testing.T) {
	t.Parallel()
	body := strings.Repeat("x", 1000)
	h := newHost(t, answer(200, body))
	exact := client(t, func(o *Options) { o.MaxBody = 1000 })
	resp, err := exact.Do(t.Context(), list(h.URL))
	require.NoError(t, err)
	require.Len(t, resp.Body, 1000)

	tight := client(t, func(o *Options) { o.MaxBody = 999 })
	before := h.served.Load()
	_, err = tight.Do(t.Context(), list(h.URL))
	require.EqualError(t, err, "list the keys: "+h.name(t)+": the answer was not read: it is longer than 999 bytes")
	require.Equal(t, fault.Target, fault.KindOf(err))
	require.Equal(t, before+1, h.served.Load(), "it would be as long again")

	_, err = tight.Do(t.Context(), create(h.URL))
	require.ErrorContains(t, err, "may have been served: it is longer than 999 bytes")
	require.Equal(t, fault.Unconfirmed, fault.KindOf(err))
}

func TestDecompressionIsBounded(t *testing.T) {
	t.Parallel()
	h := newHost(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "gzip" {
			return
		}
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		_, _ = z.Write(make([]byte, 2<<20)) // some 2 KiB on the wire
		_ = z.Close()
	})
	_, err := client(t, nil).Do(t.Context(), list(h.URL))
	require.ErrorContains(t, err, "it is longer than 1048576 bytes")
	require.Equal(t, fault.Target, fault.KindOf(err))
}

func TestHeadersAreBounded(t *testing.T) {
	t.Parallel()
	h := newHost(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Long", strings.Repeat("x", 2*maxHeaderBytes))
	})
	_, err := client(t, nil).Do(t.Context(), list(h.URL))
	require.Equal(t, fault.Unreachable, fault.KindOf(err))
	_, err = client(t, nil).Do(t.Context(), create(h.URL))
	require.Equal(t, fault.Unconfirmed, fault.KindOf(err))
}

func TestConnectionRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t, nil)
	h.Close()
	for _, r := range []Request{list(h.URL + "?key=canary"), create(h.URL + "?key=canary")} {
		_, err := client(t, nil).Do(t.Context(), r)
		require.EqualError(t, err, r.Action+": "+h.name(t)+": no answer: dial tcp "+h.name(t)+": connect: connection refused")
		require.Equal(t, fault.Unreachable, fault.KindOf(err))
		var op *net.OpError
		require.ErrorAs(t, err, &op)
	}
}

// silent is a host that answers when the test is over.
func silent(t *testing.T, before string) *host {
	t.Helper()
	over := make(chan struct{})
	h := newHost(t, func(w http.ResponseWriter, _ *http.Request) {
		if before != "" {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, before)
			_ = http.NewResponseController(w).Flush()
		}
		<-over
	})
	t.Cleanup(func() { close(over) }) // before the host's own, which waits for its handlers
	return h
}

func TestAttemptsAreBounded(t *testing.T) {
	t.Parallel()
	for _, before := range []string{"", "half an answer"} {
		h := silent(t, before)
		c := client(t, func(o *Options) { o.Timeout = 250 * time.Millisecond })
		_, err := c.Do(t.Context(), list(h.URL))
		require.EqualError(t, err, "list the keys: "+h.name(t)+": no answer: it took longer than 250ms")
		require.Equal(t, fault.Unreachable, fault.KindOf(err))
		require.NotErrorIs(t, err, context.DeadlineExceeded, "the caller's time is not over")

		_, err = c.Do(t.Context(), create(h.URL))
		require.EqualError(t, err, "create a key: "+h.name(t)+": the answer was lost, and the request may have been served: it took longer than 250ms")
		require.Equal(t, fault.Unconfirmed, fault.KindOf(err))
	}
}

// A host that accepts and says nothing leaves the TLS handshake open: nothing was sent.
func TestHandshakeWithoutEnd(t *testing.T) {
	t.Parallel()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	c := client(t, func(o *Options) { o.Timeout = 30 * time.Millisecond })
	_, err = c.Do(t.Context(), create("https://"+l.Addr().String()))
	require.Equal(t, fault.Unreachable, fault.KindOf(err))
	require.ErrorContains(t, err, "it took longer than 30ms")
}

func TestContextEnds(t *testing.T) {
	t.Parallel()
	for _, before := range []string{"", "half an answer"} {
		for _, r := range []Request{list(""), create("")} {
			h := silent(t, before)
			r.URL = h.URL
			ctx, cancel := context.WithCancel(t.Context())
			c := client(t, func(o *Options) {
				o.Transport = func(inner http.RoundTripper) http.RoundTripper {
					return tripper(func(r *http.Request) (*http.Response, error) {
						go func() { // once it has arrived
							for h.served.Load() == 0 && r.Context().Err() == nil {
								<-time.After(time.Millisecond)
							}
							cancel()
						}()
						return inner.RoundTrip(r)
					})
				}
			})
			_, err := c.Do(ctx, r)
			require.ErrorIs(t, err, context.Canceled)
			require.ErrorContains(t, err, r.Action+": "+h.name(t)+": ")
			want := fault.Unreachable
			if r.Once {
				want = fault.Unconfirmed
			}
			require.Equal(t, want, fault.KindOf(err))
			require.EqualValues(t, 1, h.served.Load())
		}
	}
}

func TestContextHasEnded(t *testing.T) {
	t.Parallel()
	h := newHost(t, answer(200, ""))
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	for _, r := range []Request{list(h.URL), create(h.URL)} {
		_, err := client(t, nil).Do(ctx, r)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, fault.Unreachable, fault.KindOf(err))
	}
	require.Zero(t, h.served.Load())
}

func TestRate(t *testing.T) {
	t.Parallel()
	h := newHost(t, answer(200, ""))
	c := client(t, func(o *Options) { o.RequestsPerSecond = 0.001 })
	_, err := c.Do(t.Context(), list(h.URL))
	require.NoError(t, err, "a burst of one")

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = c.Do(ctx, create(h.URL))
	require.ErrorContains(t, err, "not sent, since its turn within the rate limit did not come")
	require.Equal(t, fault.Unreachable, fault.KindOf(err))

	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	_, err = c.Do(ctx, list(h.URL))
	require.ErrorIs(t, err, context.Canceled)
	require.EqualValues(t, 1, h.served.Load())

	burst := client(t, func(o *Options) { o.RequestsPerSecond = 3.9 })
	require.Equal(t, 3, burst.limit.Burst())
}

func TestCloseEndsIdleConnections(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{}, 1)
	h := newQuietHost(answer(200, "ok"))
	h.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateClosed {
			closed <- struct{}{}
		}
	}
	h.Start()
	t.Cleanup(h.Close)
	c := client(t, nil)
	_, err := c.Do(t.Context(), list(h.URL))
	require.NoError(t, err)
	c.Close()
	<-closed
}

func TestServerName(t *testing.T) {
	t.Parallel()
	h := newTLSHost(t, answer(200, ""))
	named := func(name string) error {
		c := client(t, func(o *Options) {
			o.AllowInsecureHTTP, o.ServerName = false, name
			o.RootCAs = x509.NewCertPool()
			o.RootCAs.AddCert(h.Certificate())
		})
		_, err := c.Do(t.Context(), list(h.URL))
		return err
	}
	require.NoError(t, named("example.com"), "a name of the certificate that is not the URL's")
	require.ErrorContains(t, named("vault.internal"), "vault.internal")
}
