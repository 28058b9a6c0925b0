package backend

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

// allowed refuses requests that act while the mount is paused.
func (e *Engine) allowed() error {
	if e.config.Load().Paused {
		return fault.New(fault.Conflict, "this mount is paused: nothing acts until config has paused=false")
	}
	return nil
}

// actor is who asked, with the token's accessor hashed.
func (e *Engine) actor(ctx context.Context, a Actor) (rotation.Actor, error) {
	out := rotation.Actor{EntityID: a.EntityID, DisplayName: a.DisplayName}
	if a.Accessor == "" {
		return out, nil
	}
	hash, err := e.accessorHash(ctx)
	if err != nil {
		return out, err
	}
	out.AccessorHash = hash(a.Accessor)
	return out, nil
}

// accessorHash gives the hash under which tokens' accessors are stored and shown.
func (e *Engine) accessorHash(ctx context.Context) (func(accessor string) string, error) {
	identity, err := e.identity(ctx)
	if err != nil {
		return nil, err
	}
	return func(accessor string) string {
		h := hmac.New(sha256.New, identity.HMACKey)
		h.Write([]byte("accessor\x00" + accessor))
		return hex.EncodeToString(h.Sum(nil))
	}, nil
}

// Rotate makes a new version current now, or lets a held rotation resume. It
// answers with the rotation, which may still be in flight after the wait.
func (e *Engine) Rotate(ctx context.Context, name string, r RotateRequest) (*rotation.Rotation, error) {
	if r.Resume {
		return e.resumeHeld(ctx, name, r)
	}
	return e.request(ctx, name, r.Actor, r.Wait, admitNone, func(s *subject, i *rotation.Intent) error {
		if s.state.Divergence != nil {
			return conflictDiverged(s)
		}
		if s.hasten(i) {
			return nil
		}
		i.Trigger, i.Force = rotation.Manual, r.Force
		if err := s.soaked(e.clock.Now(), r.Force); err != nil {
			return err
		}
		if r.Force {
			return nil
		}
		if _, reason := s.announcedFrom(announceAhead(e.rotators[s.role.Type], s.role), e.clock.Now()); reason != "" {
			return notAnnounced(reason)
		}
		return nil
	})
}

// hasten turns an intent into the next attempt of an emergency that waits for one:
// an ordinary rotation must not take its place.
func (s *subject) hasten(i *rotation.Intent) bool {
	waiting := s.state.Intent
	if waiting == nil || waiting.Trigger != rotation.Emergency {
		return false
	}
	id, now := i.ID, i.At
	*i = *waiting
	i.ID, i.At = id, now
	return true
}

// unsure lets a worker look at a role whose Put failed: it may have gone through,
// only its answer was lost.
func (e *Engine) unsure(name string, err error) error {
	if isStorage(err) {
		e.workers.add(forOne, name)
	}
	return err
}

// admit says which rotation in flight a request may end.
type admit bool

const (
	admitNone admit = false
	admitHeld admit = true // one that is held for an operator
)

// request stores the intent of a rotation, lets a worker run, and waits.
func (e *Engine) request(ctx context.Context, name string, who Actor, wait time.Duration, may admit, fill func(*subject, *rotation.Intent) error) (*rotation.Rotation, error) {
	if err := e.allowed(); err != nil {
		return nil, err
	}
	by, err := e.actor(ctx, who)
	if err != nil {
		return nil, err
	}
	id, err := newID()
	if err != nil {
		return nil, err
	}
	expected := e.waiters.expect(id)
	_, err = e.update(ctx, name, func(s *subject) error {
		if s.state.Deleted {
			return notFound(name)
		}
		if r := s.state.InFlight; r != nil && (r.Held == "" || may == admitNone) {
			return conflictInFlight(r)
		}
		if wanted := s.state.Intent; wanted != nil && wanted.Attempt == 1 && !s.announces(wanted) {
			// Asked for, and about to begin: whoever asked was given its id. Only what
			// waits for its time gives way: a retry, a rollback to what is announced first.
			planned := wanted.Rotation(wanted.Version, wanted.At)
			return conflictInFlight(&planned)
		}
		intent := &rotation.Intent{ID: id, At: e.clock.Now(), Attempt: 1, Actor: by}
		if err := fill(s, intent); err != nil {
			return err
		}
		s.state.Replaced, s.state.Intent = s.state.Intent, intent
		return nil
	})
	if err != nil {
		e.waiters.forget(id)
		return nil, e.unsure(name, err)
	}
	e.workers.add(forOne, name)
	return e.outcome(ctx, name, id, wait, expected)
}

// announces tells whether a rollback waits until its version was announced.
func (s *subject) announces(i *rotation.Intent) bool {
	v := s.state.Version(i.Version)
	return v != nil && v.Returns && !i.Force
}

// resumeHeld lets a held rotation try its failed step again.
func (e *Engine) resumeHeld(ctx context.Context, name string, r RotateRequest) (*rotation.Rotation, error) {
	if err := e.allowed(); err != nil {
		return nil, err
	}
	var expected <-chan result
	var id string
	_, err := e.update(ctx, name, func(s *subject) error {
		held := s.state.InFlight
		if s.state.Deleted {
			return notFound(name)
		}
		if held == nil || held.Held == "" {
			return fault.New(fault.Conflict, "no rotation of %s is held: there is nothing to resume", name)
		}
		id = held.ID
		expected = e.waiters.expect(id)
		resume(held)
		s.dirtyIncidents()
		return nil
	})
	if err != nil {
		if id != "" {
			e.waiters.forget(id)
		}
		return nil, e.unsure(name, err)
	}
	e.workers.add(forOne, name)
	return e.outcome(ctx, name, id, r.Wait, expected)
}
