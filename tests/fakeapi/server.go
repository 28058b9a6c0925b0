// Package fakeapi imitates the APIs of providers of keys over real HTTP: their documented shapes,
// statuses and cursors, with controls for what a test cannot ask of a provider (a lost answer, a key
// that appears late in a listing, a message that quotes the key).
//
// Each fake is a Server with the provider's calls. All of its methods may be called from any
// goroutine.
package fakeapi

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"
)

// maxBody bounds what is read of a request.
const maxBody = 1 << 20

// Server is what all fakes share.
type Server struct {
	http    *httptest.Server
	mux     *http.ServeMux
	dialect dialect
	closing chan struct{}
	once    sync.Once

	// One request is served at a time: mu covers all that follows, and the state of the provider.
	mu       sync.Mutex
	now      func() time.Time
	records  []*record
	faults   []*fault
	requests []Request
	lateness lateness
	echo     bool
	current  current
}

// dialect is how a provider speaks, where the shared part needs to know.
type dialect struct {
	// credentials are what a request authenticates with, as far as it has any.
	credentials func(r *http.Request) []string
	// admit refuses a request that may not be made, with the provider's answer; nil admits it.
	admit func(r *http.Request, need access) *reply
	// failure is the body of an error.
	failure func(status int, message, code string) any
	// ended is the status of a key that a person ended; empty if such a key is no more.
	ended string
	// requestID is the header that numbers answers.
	requestID string
}

// current is the request that is being served.
type current struct {
	id   string
	sent []string
}

// access is the credential that a route asks for.
type access int

const (
	open     access = iota // none
	withKey                // any key that is accepted
	withRoot               // the admin key
)

// Option says how a fake is started.
type Option func(*Server)

// TLS lets a fake speak https, with a certificate for 127.0.0.1 that CA trusts.
func TLS() Option { return func(s *Server) { s.http.StartTLS() } }

func newServer(d dialect) *Server {
	s := &Server{dialect: d, mux: http.NewServeMux(), now: time.Now, closing: make(chan struct{})}
	s.http = httptest.NewUnstartedServer(http.HandlerFunc(s.serveHTTP))
	s.handle("/", open, func(r *http.Request) reply {
		return s.fail(http.StatusNotFound, "No such route: "+r.Method+" "+r.URL.Path, "")
	})
	return s
}

// start comes after all routes are there.
func (s *Server) start(options []Option) {
	for _, o := range options {
		o(s)
	}
	if s.http.URL == "" {
		s.http.Start()
	}
}

// URL is where the fake listens, such as http://127.0.0.1:4711, without a path.
func (s *Server) URL() string { return s.http.URL }

// CA is the PEM of what signed the certificate; nil without TLS.
func (s *Server) CA() []byte {
	certificate := s.http.Certificate()
	if certificate == nil {
		return nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
}

// Client is a client that trusts the fake.
func (s *Server) Client() *http.Client { return s.http.Client() }

// Close ends the fake. Requests that hang are ended too.
func (s *Server) Close() {
	s.once.Do(func() {
		close(s.closing)
		s.http.Close()
	})
}

// SetNow replaces the clock.
func (s *Server) SetNow(now func() time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = now
}

// Echo lets the provider be careless: every error message quotes, fully, what was sent to
// authenticate.
func (s *Server) Echo(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.echo = on
}

// handle adds a route, in the language of http.ServeMux.
func (s *Server) handle(pattern string, need access, serve func(r *http.Request) reply) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if need != open {
			if refusal := s.dialect.admit(r, need); refusal != nil {
				refusal.write(w)
				return
			}
		}
		serve(r).write(w)
	})
}

func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	// The body is read before the lock is taken, so that a slow client holds up nobody.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer, f := s.answer(r)
	switch {
	case f != nil && (f.kind == hang || f.kind == stall):
		select {
		case <-r.Context().Done():
		case <-s.closing:
		}
		cut(w)
	case f != nil && f.kind == lose:
		cut(w)
	default:
		for name, values := range answer.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes()) // the client may be gone
	}
}

// answer serves a request into memory, unless a fault keeps it from being served.
func (s *Server) answer(r *http.Request) (*httptest.ResponseRecorder, *fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = current{id: fmt.Sprintf("req_%06d", len(s.requests)+1), sent: s.dialect.credentials(r)}
	log := s.record(r)
	f := s.nextFault(r)
	answer := httptest.NewRecorder()
	if name := s.dialect.requestID; name != "" {
		answer.Header().Set(name, s.current.id)
	}
	switch {
	case f == nil || f.kind == lose || f.kind == stall:
		s.mux.ServeHTTP(answer, r)
	case f.kind == refuse:
		for name, values := range f.header {
			answer.Header()[name] = values
		}
		if answer.Header().Get("Content-Type") == "" {
			answer.Header().Set("Content-Type", "application/json")
		}
		answer.WriteHeader(f.status)
		_, _ = answer.WriteString(strings.ReplaceAll(f.body, SentCredential, strings.Join(s.current.sent, " "))) // into memory
	}
	if f == nil || f.kind == refuse {
		log.Status = answer.Code
	}
	return answer, f
}

// fail is an error of the provider's own shape.
func (s *Server) fail(status int, message, code string) reply {
	if s.echo && len(s.current.sent) > 0 {
		message += " (authenticated with " + strings.Join(s.current.sent, " ") + ")"
	}
	return reply{status: status, body: s.dialect.failure(status, message, code)}
}
