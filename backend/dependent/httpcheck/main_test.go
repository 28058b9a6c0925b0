package httpcheck

import (
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// Nothing may run on after Close.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// canaryToken and canaryAnswer must come out nowhere.
const (
	canaryToken  = "canary-token-4f1d0c9e7b"
	canaryAnswer = "canary-answer-8a52e6d3c1"
)

// endpoint is a real server on loopback, with a certificate of its own.
type endpoint struct {
	*httptest.Server
	asked atomic.Int32
}

func newEndpoint(t *testing.T, answer http.HandlerFunc) *endpoint {
	t.Helper()
	e := &endpoint{}
	e.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.asked.Add(1)
		answer(w, r)
	}))
	e.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	e.EnableHTTP2 = true
	e.StartTLS()
	t.Cleanup(e.Close)
	return e
}

func answers(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Debug", canaryAnswer)
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

func (e *endpoint) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: e.Certificate().Raw}))
}

// host is how the endpoint is called in what people read.
func (e *endpoint) host() string { return strings.TrimPrefix(e.URL, "https://") }

// config is a connection to the endpoint, with more options by name.
func (e *endpoint) config(more option.Values) *rotator.ConnectionConfig {
	values := option.Values{"url": e.URL + "/health", "tls_ca": e.ca()}
	for name, value := range more {
		values[name] = value
	}
	return &rotator.ConnectionConfig{Name: "api-health", Values: values, Secrets: secret.Map{"token": secret.New(canaryToken)}}
}

func opened(t *testing.T, c *rotator.ConnectionConfig) rotator.Connection {
	t.Helper()
	conn, err := New().Open(c)
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	return conn
}

// clean holds what was said against the canaries.
func clean(t *testing.T, said string) {
	t.Helper()
	require.NotContains(t, strings.ToLower(said), "canary")
}

// fails wants an error that holds no canary.
func fails(t *testing.T, err error) string {
	t.Helper()
	require.Error(t, err)
	clean(t, err.Error())
	return err.Error()
}
