// Package fakechannels imitates the services that people are told through, over real HTTP and SMTP on
// loopback: what they document, the limits above all, with controls for what a test cannot ask of them.
// Each records what it took, for tests to assert on.
//
// All methods may be called from any goroutine.
package fakechannels

import (
	"bytes"
	"encoding/pem"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"time"
)

// maxBody bounds what is read of a request.
const maxBody = 1 << 20

// Server is what the fakes that speak HTTP share.
type Server struct {
	http    *httptest.Server
	serve   func(r *Request) Reply
	closing chan struct{}
	once    sync.Once

	// One request is served at a time: mu covers what follows, and the state of the service.
	mu       sync.Mutex
	now      func() time.Time
	faults   []*fault
	requests []Request
}

// Request is a request that arrived, served or not.
type Request struct {
	Method, Path string
	Header       http.Header
	Body         []byte
	// Status is what was answered; 0 if nothing was.
	Status int
}

// Reply is an answer.
type Reply struct {
	Status int
	Header http.Header
	Body   string
}

// Option says how a fake is started.
type Option func(*Server)

// TLS lets a fake speak https, with a certificate for 127.0.0.1 that CA vouches for.
func TLS() Option { return func(s *Server) { s.http.StartTLS() } }

func (s *Server) start(serve func(r *Request) Reply, options []Option) {
	s.serve, s.now, s.closing = serve, time.Now, make(chan struct{})
	s.http = httptest.NewUnstartedServer(http.HandlerFunc(s.serveHTTP))
	s.http.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // tests break handshakes on purpose
	for _, o := range options {
		o(s)
	}
	if s.http.URL == "" {
		s.http.Start()
	}
}

// URL is where the fake listens, such as http://127.0.0.1:4711, without a path.
func (s *Server) URL() string { return s.http.URL }

// CA is the PEM of what signed the certificate; empty without TLS.
func (s *Server) CA() string {
	if c := s.http.Certificate(); c != nil {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	return ""
}

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

// Requests are those that arrived so far, oldest first.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// fault is what befalls the next requests.
type fault struct {
	left  int // below zero: until Heal
	reply Reply
	hang  bool
	lose  bool
}

// Fail answers the next n requests so, without serving them; below zero all until Heal.
func (s *Server) Fail(n int, reply Reply) { s.add(&fault{left: n, reply: reply}) }

// Hang leaves the next n requests without an answer, unserved, until the client gives up.
func (s *Server) Hang(n int) { s.add(&fault{left: n, hang: true}) }

// LoseAnswer serves the next n requests, and then closes their connections in place of an answer.
func (s *Server) LoseAnswer(n int) { s.add(&fault{left: n, lose: true}) }

// Heal drops all that is left of Fail, Hang and LoseAnswer.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

func (s *Server) add(f *fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, f)
}

// next takes the oldest fault that is left.
func (s *Server) next() *fault {
	for _, f := range s.faults {
		if f.left != 0 {
			f.left--
			return f
		}
	}
	return nil
}

func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	// Read before the lock is taken, so that a slow client holds up nobody.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, "too long", http.StatusRequestEntityTooLarge)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	reply, f := s.answer(&Request{Method: r.Method, Path: r.URL.Path, Header: r.Header.Clone(), Body: body})
	if f != nil && f.hang {
		select {
		case <-r.Context().Done():
		case <-s.closing:
		}
	}
	if f != nil && (f.hang || f.lose) {
		panic(http.ErrAbortHandler) // closes the connection
	}
	for name, values := range reply.Header {
		w.Header()[http.CanonicalHeaderKey(name)] = values
	}
	w.WriteHeader(reply.Status)
	_, _ = io.WriteString(w, reply.Body) // the client may be gone
}

func (s *Server) answer(r *Request) (Reply, *fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.next()
	var reply Reply
	switch {
	case f == nil:
		reply = s.serve(r)
		r.Status = reply.Status
	case f.lose:
		s.serve(r)
	case !f.hang:
		reply = f.reply
		r.Status = reply.Status
	}
	s.requests = append(s.requests, *r)
	return reply, f
}

// plain is an answer in plain text.
func plain(status int, body string) Reply {
	return Reply{Status: status, Header: http.Header{"Content-Type": {"text/plain; charset=utf-8"}}, Body: body}
}
