package fakeapi

import (
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"path"
)

// SentCredential stands, in the body of Fail, for what the request authenticates with.
const SentCredential = "{credential}"

type faultKind int

const (
	refuse faultKind = iota
	lose
	hang
	stall
)

// fault is what befalls the next requests that match.
type fault struct {
	kind   faultKind
	left   int // below zero: until Heal
	match  func(*http.Request) bool
	status int
	header http.Header
	body   string
}

// Fail answers the next n matching requests so, without serving them: 429 with Retry-After, 500,
// 529. A nil match is all requests, and an n below zero all until Heal. ErrorBody gives a body in
// the provider's shape. match runs while the fake is locked: it must not call it.
func (s *Server) Fail(n int, match func(*http.Request) bool, status int, header http.Header, body string) {
	s.addFault(&fault{kind: refuse, left: n, match: match, status: status, header: header.Clone(), body: body})
}

// LoseAnswer serves the next n matching requests, and then resets their connections in place of an
// answer. Go's client sends a GET again by itself when a connection that was used before is reset so;
// nothing else.
func (s *Server) LoseAnswer(n int, match func(*http.Request) bool) {
	s.addFault(&fault{kind: lose, left: n, match: match})
}

// Hang leaves the next n matching requests without an answer, unserved, until the client gives up.
func (s *Server) Hang(n int, match func(*http.Request) bool) {
	s.addFault(&fault{kind: hang, left: n, match: match})
}

// Stall serves the next n matching requests, and then keeps their answers back until the client gives
// up, or ends.
func (s *Server) Stall(n int, match func(*http.Request) bool) {
	s.addFault(&fault{kind: stall, left: n, match: match})
}

// Heal drops all that is left of Fail, LoseAnswer, Hang and Stall.
func (s *Server) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// On matches requests by method ("" for any) and by path, in the language of path.Match:
// On("DELETE", "/v1/organization/projects/*/service_accounts/*").
func On(method, pattern string) func(*http.Request) bool {
	return func(r *http.Request) bool {
		matched, err := path.Match(pattern, r.URL.Path)
		return err == nil && matched && (method == "" || method == r.Method)
	}
}

// ErrorBody is an error in the provider's shape, for Fail. message may hold SentCredential.
func (s *Server) ErrorBody(status int, message string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, err := json.Marshal(s.dialect.failure(status, message, ""))
	if err != nil {
		panic(err) // a shape of our own
	}
	return string(body)
}

func (s *Server) addFault(f *fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, f)
}

// nextFault takes the oldest fault that a request meets.
func (s *Server) nextFault(r *http.Request) *fault {
	for _, f := range s.faults {
		if f.left == 0 || f.match != nil && !f.match(r) {
			continue
		}
		f.left--
		return f
	}
	return nil
}

// cut resets the connection: with unsent data given up, the peer sees a reset and not an orderly end.
func cut(w http.ResponseWriter) {
	hijacker, ok := w.(http.Hijacker)
	if !ok {
		panic(http.ErrAbortHandler) // HTTP/2, which the fakes do not speak
	}
	conn, _, err := hijacker.Hijack()
	if err != nil {
		return
	}
	raw := conn
	if encrypted, ok := conn.(*tls.Conn); ok {
		raw = encrypted.NetConn()
	}
	if tcp, ok := raw.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a plain close is second best
	}
	_ = raw.Close() // that is the point
}
