package tests

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

const checkToken = "the-token-of-the-health-endpoint"

// A service is an application with a health endpoint over TLS, and sessions in PostgreSQL. It has what it read from
// Vault at its start, and starts anew when readers get another version.
type service struct {
	*httptest.Server
	w    *world
	role string
	loop sync.WaitGroup
	// starting is held while it may start anew.
	starting sync.Mutex

	mu       sync.Mutex
	held     credential
	sessions map[string]*pgx.Conn
	broken   int    // versions from this one on do not work with this release; 0: all do
	lacks    string // with them this application does not come back; "": the endpoint says that all is not well
}

func startService(t *testing.T, w *world, role string, applications ...string) *service {
	t.Helper()
	s := &service{w: w, role: role, sessions: map[string]*pgx.Conn{}}
	for _, name := range applications {
		s.sessions[name] = nil
	}
	s.Server = httptest.NewTLSServer(http.HandlerFunc(s.health))
	held, err := w.creds(t.Context(), role)
	require.NoError(t, err)
	require.NoError(t, s.start(t.Context(), held))
	ctx, cancel := context.WithCancel(t.Context())
	s.loop.Go(func() { s.follow(ctx) })
	t.Cleanup(func() {
		cancel()
		s.loop.Wait()
		s.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.endSessions(context.Background())
	})
	return s
}

// connection gives the fields of a check of this service, with changes.
func (s *service) connection(changes map[string]any) map[string]any {
	return with(map[string]any{
		"type": "http-check", "url": s.URL + "/health", "token": checkToken, "body_match": `"database": *"up"`,
		"tls_ca":   string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})),
		"attempts": 2, "interval": "1s",
	}, changes)
}

// start lets the service work with a credential: each application opens its session.
func (s *service) start(ctx context.Context, with credential) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = with
	s.endSessions(ctx)
	for name := range s.sessions {
		if name == s.lacks && s.fails() {
			continue
		}
		conn, err := connect(ctx, s.w.postgres, with.URL+"&application_name="+url.QueryEscape(name))
		if err != nil {
			return fmt.Errorf("open the session of %s: %w", name, err)
		}
		s.sessions[name] = conn
	}
	return nil
}

func (s *service) fails() bool { return s.broken > 0 && s.held.Version >= s.broken }

func (s *service) endSessions(ctx context.Context) {
	for name, conn := range s.sessions {
		if conn != nil {
			_ = conn.Close(context.WithoutCancel(ctx))
		}
		s.sessions[name] = nil
	}
}

// follow restarts the service when Vault gives another version, as an agent beside it would.
func (s *service) follow(ctx context.Context) {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		s.catchUp(ctx)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *service) catchUp(ctx context.Context) {
	s.starting.Lock()
	defer s.starting.Unlock()
	if now, err := s.w.creds(ctx, s.role); err == nil && now.Version != s.holds() {
		_ = s.start(ctx, now) // which the health endpoint tells
	}
}

func (s *service) holds() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held.Version
}

// change breaks or mends the service.
func (s *service) change(how func(*service)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	how(s)
}

func (s *service) health(w http.ResponseWriter, r *http.Request) {
	s.catchUp(r.Context()) // no rollout restarts it before it is asked
	s.mu.Lock()
	held, broken := s.held, s.fails() && s.lacks == ""
	s.mu.Unlock()
	err := fmt.Errorf("this release does not take the password %s", held.Password)
	if !broken {
		err = s.w.login(r.Context(), held.URL)
	}
	switch {
	case r.Header.Get("Authorization") != "Bearer "+checkToken:
		http.Error(w, "who asks?", http.StatusUnauthorized)
	case err != nil: // which is careless, and must be told nowhere
		http.Error(w, err.Error()+" "+held.Password, http.StatusServiceUnavailable)
	default:
		_, _ = io.WriteString(w, `{"database": "up"}`)
	}
}
