package backend

import (
	"context"
	"errors"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// Where the target mints the secret, its answer is the only copy there is. That the call
// begins is journalled before; what it gave is stored as material before the journal says
// so, and kept by the process while storage fails. Whoever finds the first without the
// second gives the version up: it is looked for by its mark, and the next attempt runs
// under another id.

// mints tells whether the target mints the secrets of a role.
func mints(kind rotator.Rotator, role *store.Role) bool {
	m, ok := kind.(rotator.Minter)
	return ok && m.Mints(roleView(role, nil))
}

// errLost says that the answer of an earlier call was lost.
var errLost = fault.New(fault.Unconfirmed, "the process ended while the target was asked for the secret: whatever it made is looked for and removed")

// mintCandidate lets the target make the secret of the rotation in flight.
func (e *Engine) mintCandidate(ctx context.Context, s *subject, kind rotator.Rotator) error {
	r := s.state.InFlight
	err := e.mintMaterial(ctx, s, kind, *s.state.Candidate(), func(s *subject) error { return s.inFlight(r) })
	if failure := (*mintError)(nil); errors.As(err, &failure) {
		return e.failRotation(ctx, s, failure.cause, nil)
	}
	return err
}

// mintAhead does it for a version that is to stand by.
func (e *Engine) mintAhead(ctx context.Context, s *subject, kind rotator.Rotator, ahead *rotation.Version) error {
	err := e.mintMaterial(ctx, s, kind, *ahead, func(s *subject) error {
		if s.state.InFlight != nil {
			return errStale
		}
		return nil
	})
	if failure := (*mintError)(nil); errors.As(err, &failure) {
		return e.failAhead(ctx, s, ahead, failureOf(failure.cause, nil))
	}
	return err
}

// mintError is the target's answer, or what was left of it; other errors are our own.
type mintError struct{ cause error }

// Error implements error.
func (m *mintError) Error() string { return m.cause.Error() }

// mintMaterial asks the target for a pending version's secret and stores it. still tells,
// under the role's mutex, whether that is wanted yet.
func (e *Engine) mintMaterial(ctx context.Context, s *subject, kind rotator.Rotator, v rotation.Version, still func(*subject) error) error {
	made := e.memory.minted(s.name, v.RotationID) // while storage failed
	if v.Lost() && made == nil {
		return &mintError{errLost}
	}
	change := func(change func(*rotation.Version) error) error {
		_, err := e.update(ctx, s.name, func(s *subject) error {
			if err := still(s); err != nil {
				return err
			}
			now, err := s.version(v.Number, rotation.Pending)
			if err != nil || now.Undo || now.HasMaterial {
				return errStale
			}
			return change(now)
		})
		return err
	}
	if made == nil {
		err := change(func(v *rotation.Version) error { v.MintBegun = e.clock.Now(); return nil })
		if err != nil {
			return err
		}
		if made, err = e.askForSecret(ctx, s, kind, v); err != nil {
			return err
		}
	}
	err := change(func(v *rotation.Version) error {
		v.Identifier, v.Object, v.HasMaterial = made.Identifier, made.Object, true
		return e.store.PutMaterial(ctx, s.name, v.Number, made.Material)
	})
	if !isStorage(err) { // stored, or not wanted any more
		e.memory.keepMinted(s.name, "", nil)
	}
	return err
}

func (e *Engine) askForSecret(ctx context.Context, s *subject, kind rotator.Rotator, v rotation.Version) (*rotator.Candidate, error) {
	minter, ok := kind.(rotator.Minter)
	if !ok {
		return nil, fault.New(fault.Internal, "type %s mints nothing at its target", s.role.Type)
	}
	t, err := e.target(ctx, s, v)
	if err != nil {
		if isStorage(err) {
			return nil, err
		}
		return nil, &mintError{err}
	}
	var candidate *rotator.Candidate
	err = e.effect(ctx, func(ctx context.Context) (err error) {
		candidate, err = minter.Mint(ctx, t)
		return err
	})
	if err != nil && !errors.Is(err, errInterrupted) {
		err = &mintError{err}
	}
	if candidate != nil { // also where we are to stop: it is the only copy
		e.memory.keepMinted(s.name, v.RotationID, candidate)
	}
	return candidate, err
}

// notMinted notes that a version was not made: what the target declined for sure leaves
// nothing to be looked for.
func notMinted(v *rotation.Version, why rotation.Failure) {
	if v != nil && v.Lost() && why.Kind != string(fault.Unconfirmed) {
		v.MintBegun = time.Time{}
	}
}

// soakOf is how a role's staged versions take over.
func soakOf(kind rotator.Rotator, role *store.Role) rotator.Soak {
	if s, ok := kind.(rotator.Soaker); ok {
		return s.Soak(roleView(role, nil))
	}
	return rotator.Soak{}
}
