package fakeapi

import (
	"net/http"
	"slices"
)

// Credential is what a request came with.
type Credential string

// What there is.
const (
	NoCredential      Credential = "none"
	AdminCredential   Credential = "admin"
	KeyCredential     Credential = "key"
	UnknownCredential Credential = "unknown" // of no key that ever was
)

// Request is a request that arrived, served or not.
type Request struct {
	Method, Path string
	// Route is the pattern that it met, such as "GET /v1/models"; "/" for none.
	Route      string
	Credential Credential
	// Status is what was answered; 0 if nothing was.
	Status int
}

// Requests are those that arrived so far, oldest first.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Counts says how often each route was asked for.
func (s *Server) Counts() map[string]int {
	counts := map[string]int{}
	for _, r := range s.Requests() {
		counts[r.Route]++
	}
	return counts
}

// ForgetRequests starts Requests and Counts anew.
func (s *Server) ForgetRequests() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = nil
}

func (s *Server) record(r *http.Request) *Request {
	_, route := s.mux.Handler(r)
	s.requests = append(s.requests, Request{Method: r.Method, Path: r.URL.Path, Route: route, Credential: s.credentialKind()})
	return &s.requests[len(s.requests)-1]
}

// credentialKind says whose credential it is, in force or not.
func (s *Server) credentialKind() Credential {
	kind := NoCredential
	for _, sent := range s.current.sent {
		switch r := s.byValue(sent); {
		case r != nil && r.kind == rootKey:
			return AdminCredential
		case r != nil:
			kind = KeyCredential
		case kind == NoCredential:
			kind = UnknownCredential
		}
	}
	return kind
}
