package egress

import (
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// Nothing may run on after Close.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is a real server on loopback that counts what reaches it.
type host struct {
	*httptest.Server
	served atomic.Int32
}

func newHost(t *testing.T, answer http.HandlerFunc) *host {
	t.Helper()
	h := newQuietHost(answer)
	h.Start()
	t.Cleanup(h.Close)
	return h
}

func newTLSHost(t *testing.T, answer http.HandlerFunc) *host {
	t.Helper()
	h := newQuietHost(answer)
	h.EnableHTTP2 = true
	h.StartTLS()
	t.Cleanup(h.Close)
	return h
}

func newQuietHost(answer http.HandlerFunc) *host {
	h := &host{}
	h.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.served.Add(1)
		answer(w, r)
	}))
	h.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	return h
}

// name is how the host is called in errors.
func (h *host) name(t *testing.T) string {
	t.Helper()
	u, err := url.Parse(h.URL)
	require.NoError(t, err)
	return u.Host
}

// client makes one that reaches hosts on loopback, and tries again without delay.
func client(t *testing.T, change func(*Options)) *Client {
	t.Helper()
	o := Options{AllowInsecureHTTP: true, AllowedHosts: []string{"127.0.0.1"}, RetryWait: time.Millisecond}
	if change != nil {
		change(&o)
	}
	c := New(o)
	t.Cleanup(c.Close)
	return c
}

func list(url string) Request { return Request{Action: "list the keys", Method: "GET", URL: url} }

func create(url string) Request {
	return Request{Action: "create a key", Method: "POST", URL: url, Body: []byte(`{"name":"x"}`), Once: true}
}

// tripper is a network that a test makes up.
type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// cutOff ends a connection under its handler.
func cutOff(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a reset, not an orderly end
	}
	_ = conn.Close()
}

func answer(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}
