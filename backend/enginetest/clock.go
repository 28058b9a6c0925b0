// Package enginetest drives an Engine through crashes: a clock that only tests
// move, storage and rotators in which every write and every call outside is a
// point where the process can fail, lose an answer, or die.
package enginetest

import (
	"sync"
	"time"
)

// Clock stands still until it is advanced.
type Clock struct {
	mu     sync.Mutex
	now    time.Time
	mono   time.Duration
	timers []timer
}

type timer struct {
	at time.Duration
	c  chan time.Time
}

// NewClock starts at a fixed time.
func NewClock() *Clock {
	return &Clock{now: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), mono: time.Hour}
}

// Now implements backend.Clock.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Mono implements backend.Clock.
func (c *Clock) Mono() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mono
}

// After implements backend.Clock.
func (c *Clock) After(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := timer{at: c.mono + d, c: make(chan time.Time, 1)}
	if d <= 0 {
		t.c <- c.now
		return t.c
	}
	c.timers = append(c.timers, t)
	return t.c
}

// Advance moves both clocks on.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now, c.mono = c.now.Add(d), c.mono+d
	kept := c.timers[:0]
	for _, t := range c.timers {
		if t.at <= c.mono {
			t.c <- c.now
		} else {
			kept = append(kept, t)
		}
	}
	c.timers = kept
}

// Jump moves the wall clock alone, as an operator or a time server does.
func (c *Clock) Jump(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Shared is a value that a test and an engine's workers both touch.
type Shared[T any] struct {
	mu sync.Mutex
	v  T
}

// Set replaces the value.
func (s *Shared[T]) Set(v T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.v = v
}

// Get returns the value.
func (s *Shared[T]) Get() T {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.v
}
