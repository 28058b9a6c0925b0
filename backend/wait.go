package backend

import (
	"context"
	"sync"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

// waiters are requests that wait for the end of a rotation. A client that hangs up
// only stops waiting.
type waiters struct {
	mu sync.Mutex
	by map[string]chan result
	// change is closed, and replaced, whenever a role's documents changed.
	change chan struct{}
}

type result struct {
	rotation *rotation.Rotation
	err      error
}

// expect registers interest in a rotation before it is dispatched.
func (w *waiters) expect(id string) <-chan result {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.by == nil {
		w.by = map[string]chan result{}
	}
	c := make(chan result, 1)
	w.by[id] = c
	return c
}

func (w *waiters) forget(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.by, id)
}

func (w *waiters) ended(r *rotation.Rotation)       { w.resolve(r.ID, result{rotation: r}) }
func (w *waiters) refused(id string, because error) { w.resolve(id, result{err: because}) }

func (w *waiters) resolve(id string, r result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c, ok := w.by[id]; ok {
		c <- r
		delete(w.by, id)
	}
}

// next returns what is closed at the next change of any role.
func (w *waiters) next() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.change == nil {
		w.change = make(chan struct{})
	}
	return w.change
}

// changed wakes whoever waits for a change.
func (w *waiters) changed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.change != nil {
		close(w.change)
		w.change = nil
	}
}

// outcome waits for a rotation that was asked for. After the wait it answers with
// how far the rotation got.
func (e *Engine) outcome(ctx context.Context, name, id string, wait time.Duration, expected <-chan result) (*rotation.Rotation, error) {
	defer e.waiters.forget(id)
	select {
	case r := <-expected:
		return r.rotation, r.err
	case <-e.clock.After(wait):
	case <-ctx.Done():
		return nil, fault.New(fault.Conflict, "stopped waiting for rotation %s, which goes on: %w", id, ctx.Err())
	case <-e.ctx.Done():
		return nil, fault.New(fault.Conflict, "rotation %s goes on after this node's restart", id)
	}
	s, err := e.load(ctx, name)
	if err != nil {
		return nil, err
	}
	return s.rotationOf(id, e.clock.Now())
}

// rotationOf finds a rotation by id: in flight, just ended, or still only wanted.
func (s *subject) rotationOf(id string, now time.Time) (*rotation.Rotation, error) {
	switch {
	case s.state.InFlight != nil && s.state.InFlight.ID == id:
		return s.state.InFlight, nil
	case s.state.Last != nil && s.state.Last.ID == id:
		return s.state.Last, nil
	case s.state.Intent != nil && s.state.Intent.ID == id:
		r := s.state.Intent.Rotation(0, now)
		r.PreviousVersion = s.state.Current
		return &r, nil
	default:
		return nil, fault.New(fault.Conflict, "rotation %s was overtaken by another one: see history/%s", id, s.name)
	}
}

// await looks at a role at each change, until it is as wanted or the wait is over.
func (e *Engine) await(ctx context.Context, name string, wait time.Duration, done func(*subject) bool) (*subject, error) {
	over := e.clock.After(wait)
	for {
		changed := e.waiters.next()
		s, err := e.load(ctx, name)
		if err != nil || done(s) {
			return s, err
		}
		select {
		case <-changed:
		case <-over:
			return s, nil
		case <-ctx.Done():
			return s, nil
		case <-e.ctx.Done():
			return s, nil
		}
	}
}
