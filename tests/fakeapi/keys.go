package fakeapi

import (
	"crypto/rand"
	"fmt"
	"math/big"
	"time"
)

// Key is a key that exists at the provider.
type Key struct {
	ID, Name string
	// Status is "active", or the provider's own word for a key that is refused.
	Status string
	// Owner is what the key belongs to, such as a service account; empty without one.
	Owner string
}

// Made is a key with its value.
type Made struct{ Key, ID string }

const (
	active  = "active"
	expired = "expired"
)

type recordKind int

const (
	plainKey recordKind = iota
	rootKey             // may manage keys
	account             // owns keys, has no value
)

// record is a thing that the provider knows. It stays when it is gone: a cursor may name it, and its
// value may still be accepted for a while.
type record struct {
	Key
	kind    recordKind
	value   string
	place   string // what the provider files it under: a workspace
	gone    bool
	limited bool // may do nothing
	number  int  // its place in the order of creation, from 1

	made, used, expires time.Time
	// From when on it is listed and accepted, and until when it is after its end.
	listedFrom, acceptedFrom, acceptedUntil time.Time
}

// lateness is how far the provider's parts lag behind each other.
type lateness struct{ appear, linger, propagate time.Duration }

// AppearLate lets what is made from now on appear in listings only after d.
func (s *Server) AppearLate(d time.Duration) { s.late(func(l *lateness) { l.appear = d }) }

// LingerAfterExpiry lets keys that end from now on be accepted for d more.
func (s *Server) LingerAfterExpiry(d time.Duration) { s.late(func(l *lateness) { l.linger = d }) }

// PropagateAfter lets keys that are made from now on be refused for d at first.
func (s *Server) PropagateAfter(d time.Duration) { s.late(func(l *lateness) { l.propagate = d }) }

func (s *Server) late(set func(*lateness)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set(&s.lateness)
}

// Works tells whether the provider would accept the key now.
func (s *Server) Works(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted(s.byValue(key))
}

// Keys are all keys that exist, whoever made them, but for those that manage others.
func (s *Server) Keys() []Key { return s.existing(plainKey) }

// AdminKeys are the keys that exist and manage others.
func (s *Server) AdminKeys() []Key { return s.existing(rootKey) }

// AdminKey is an admin key that works: the first one, until it is deleted.
func (s *Server) AdminKey() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.records {
		if r.kind == rootKey && s.accepted(r) {
			return r.value
		}
	}
	return ""
}

// ExpireByHand ends a key for good, as a person does in the dashboard.
func (s *Server) ExpireByHand(key string) {
	s.onKey(key, func(r *record) {
		s.end(r, s.dialect.ended)
		r.gone = s.dialect.ended == ""
	})
}

// ExpireAt lets a key end by itself.
func (s *Server) ExpireAt(key string, at time.Time) {
	s.onKey(key, func(r *record) { r.expires = at })
}

// LimitScopes takes all permissions away from a key: it stays valid, and may do nothing.
func (s *Server) LimitScopes(key string) {
	s.onKey(key, func(r *record) { r.limited = true })
}

// onKey panics on a key that never was, which is a mistake of the test.
func (s *Server) onKey(key string, do func(*record)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.byValue(key)
	if r == nil {
		panic("fakeapi: no such key")
	}
	do(r)
}

func (s *Server) existing(kind recordKind) []Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []Key{}
	for _, r := range s.records {
		if r.kind == kind && !r.gone {
			k := r.Key
			k.Status = s.status(r)
			out = append(out, k)
		}
	}
	return out
}

// add makes a thing, from now on.
func (s *Server) add(r record) *record {
	r.Status, r.made, r.number = active, s.now(), len(s.records)+1
	r.listedFrom, r.acceptedFrom = s.in(s.lateness.appear), s.in(s.lateness.propagate)
	s.records = append(s.records, &r)
	return &r
}

// in is the time d from now; without a d, one before all others, whatever clock SetNow brings later.
func (s *Server) in(d time.Duration) time.Time {
	if d == 0 {
		return time.Time{}
	}
	return s.now().Add(d)
}

// byHand makes a thing as a person does.
func (s *Server) byHand(r record) (key, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	made := s.add(r)
	return made.value, made.ID
}

// end lets a key be refused, with the provider's word for that.
func (s *Server) end(r *record, status string) {
	if r.Status == active {
		r.acceptedUntil = s.in(s.lateness.linger)
	}
	r.Status = status
}

func (s *Server) remove(r *record) {
	s.end(r, "")
	r.gone = true
}

// replace gives a key another value. The earlier one is as that of a key that was removed.
func (s *Server) replace(r *record, value string) {
	earlier := *r
	r.value, r.acceptedFrom = value, s.in(s.lateness.propagate)
	s.records = append(s.records, &earlier)
	s.remove(&earlier)
}

// status counts in that a key may have ended by itself.
func (s *Server) status(r *record) string {
	if r.Status == active && !r.expires.IsZero() && !s.now().Before(r.expires) {
		return expired
	}
	return r.Status
}

func (s *Server) accepted(r *record) bool {
	if r == nil || r.kind == account {
		return false
	}
	now := s.now()
	switch {
	case now.Before(r.acceptedFrom):
		return false
	case r.Status != active:
		return now.Before(r.acceptedUntil)
	case !r.expires.IsZero():
		return now.Before(r.expires.Add(s.lateness.linger))
	}
	return true
}

func (s *Server) byValue(value string) *record {
	for _, r := range s.records {
		if value != "" && r.value == value {
			return r
		}
	}
	return nil
}

// byID finds what exists.
func (s *Server) byID(kind recordKind, id string) *record {
	for _, r := range s.records {
		if r.kind == kind && r.ID == id && !r.gone {
			return r
		}
	}
	return nil
}

// listed are the things that a listing shows now, oldest first.
func (s *Server) listed(want func(*record) bool) []*record {
	var out []*record
	for _, r := range s.records {
		if !r.gone && !s.now().Before(r.listedFrom) && want(r) {
			out = append(out, r)
		}
	}
	return out
}

const alphanumeric = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

func random(prefix string, n int) string { return prefix + randomOf(alphanumeric, n) }

func randomHex(n int) string { return randomOf("0123456789abcdef", n) }

func randomOf(alphabet string, n int) string {
	out := make([]byte, n)
	for i := range out {
		at, err := rand.Int(rand.Reader, big.NewInt(int64(len(alphabet))))
		if err != nil {
			panic(err) // crypto/rand does not fail
		}
		out[i] = alphabet[at.Int64()]
	}
	return string(out)
}

// masked is a key as a careful provider quotes it.
func masked(key string, first, last int, between string) string {
	if len(key) < first+last+4 {
		return "****"
	}
	return fmt.Sprintf("%s%s%s", key[:first], between, key[len(key)-last:])
}
