package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// subject is a role as it lies in storage: the operator's intent and the state.
// For a deleted role both come from its tombstone.
type subject struct {
	name  string
	role  *store.Role
	state *rotation.State
	// buried tells that the documents lie in the tombstone already.
	buried bool
	// revokes tells that a leak of it ends with its declaration, promotes that a person lets
	// staged versions take over.
	revokes, promotes bool
	// hand is set where only a person can end some versions.
	hand rotator.HandEnded
	// keeper is set where versions made data that follows them.
	keeper rotator.DataKeeper
}

// subject puts a role's documents together with what its kind says of it.
func (e *Engine) subject(name string, role *store.Role, state *rotation.State, buried bool) *subject {
	s := &subject{name: name, role: role, state: state, buried: buried}
	if kind, known := e.rotators[role.Type]; known {
		s.revokes, s.promotes = kind.Kind().RevokesAtOnce, !soakOf(kind, role).Auto
		s.hand, _ = kind.(rotator.HandEnded)
		s.keeper, _ = kind.(rotator.DataKeeper)
	}
	return s
}

// load reads a role. A role without a state is the rest of a creation that was
// interrupted before anything happened: there is no such role.
func (e *Engine) load(ctx context.Context, name string) (*subject, error) {
	role, err := e.store.Role(ctx, name)
	if err != nil {
		return nil, err
	}
	if role != nil {
		state, err := e.store.State(ctx, name)
		if err != nil {
			return nil, err
		}
		if state != nil {
			return e.subject(name, role, state, false), nil
		}
	}
	tombstone, err := e.store.Tombstone(ctx, name)
	if err != nil {
		return nil, err
	}
	if tombstone != nil && tombstone.Pending != nil {
		return e.subject(name, &tombstone.Pending.Role, &tombstone.Pending.State, true), nil
	}
	return nil, notFound(name)
}

func notFound(name string) error { return fault.New(fault.NotFound, "there is no role %q", name) }

// loadLive is load for requests: a deleted role is not found.
func (e *Engine) loadLive(ctx context.Context, name string) (*subject, error) {
	s, err := e.load(ctx, name)
	if err == nil && s.state.Deleted {
		return nil, notFound(name)
	}
	return s, err
}

// update is the way a role's state changes, but for its making and its burial: under
// the role's mutex the state is read afresh, changed, and stored with one Put.
// change has no effect outside; when it returns errNoChange nothing is stored.
func (e *Engine) update(ctx context.Context, name string, change func(*subject) error) (*subject, error) {
	unlock, err := e.locks.lock(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	s, err := e.load(ctx, name)
	if err != nil {
		return nil, err
	}
	last := s.state.Last
	if err := change(s); err != nil {
		if errors.Is(err, errNoChange) {
			return s, nil
		}
		return nil, err
	}
	if err := e.save(ctx, s, last); err != nil {
		return s, err
	}
	e.keep(ctx, s)
	return s, nil
}

// save commits a subject. The record of a rotation that ends with this Put is
// written first: should we die in between, the rotation ends again, under the
// same key.
func (e *Engine) save(ctx context.Context, s *subject, lastBefore *rotation.Rotation) error {
	ended := s.state.Last != nil && (lastBefore == nil || lastBefore.ID != s.state.Last.ID)
	if ended && !s.buried {
		if err := e.store.PutHistory(ctx, s.name, s.state.Last); err != nil {
			return err
		}
	}
	s.state.Events = slices.DeleteFunc(s.state.Events, func(ev rotation.Event) bool { return e.memory.delivered(s.name, ev.ID) })
	e.alarmed(s)
	// Also after an error: the Put may have gone through, only its answer was lost.
	defer e.cache.drop(s.name)
	defer e.reencryptions.reconsider(s)
	if err := e.put(ctx, s); err != nil {
		return err
	}
	e.summaries.set(s)
	e.waiters.changed()
	if ended {
		e.tally.ended(s.name, s.role.Type, s.state.Last)
		e.waiters.ended(s.state.Last)
		if err := e.store.TrimHistory(ctx, s.name, e.config.Load().HistoryLimit); err != nil {
			e.logger.Warn("could not trim the history", "role", s.name, "error", err)
		}
	}
	return nil
}

func (e *Engine) put(ctx context.Context, s *subject) error {
	s.state.Revision++
	if s.buried {
		return e.store.PutTombstone(ctx, s.name, &store.Tombstone{
			Highest: s.state.Highest, Revision: s.state.Revision, Pending: &store.Pending{Role: *s.role, State: *s.state},
		})
	}
	return e.store.PutState(ctx, s.name, s.state)
}

// inFlight re-checks, under the lock, that the rotation an effect was done for is
// still the one in flight, in the same phase.
func (s *subject) inFlight(r *rotation.Rotation) error {
	now := s.state.InFlight
	if now == nil || now.ID != r.ID || now.Phase != r.Phase || now.Reverting != r.Reverting {
		return errStale
	}
	return nil
}

// version re-checks that a version is still in the state an effect was done for.
func (s *subject) version(number int, state rotation.VersionState) (*rotation.Version, error) {
	v := s.state.Version(number)
	if v == nil || v.State != state {
		return nil, errStale
	}
	return v, nil
}

// conflictInFlight is the answer to a request that must not disturb a rotation.
func conflictInFlight(r *rotation.Rotation) error {
	held := ""
	if r.Held != "" {
		held = fmt.Sprintf(" and is held (%s): it admits rotate with resume=true, rollback and emergency", r.Held)
	}
	return fault.New(fault.Conflict, "rotation %s (%s) is in flight in phase %s%s", r.ID, r.Trigger, r.Phase, held)
}
