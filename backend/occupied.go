package backend

import (
	"context"
	"fmt"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

// Where versions share objects outside (two standing users that take turns), a
// candidate may want the object of a version that readers still hold. It is not
// touched before that version has ended.

// occupiedError says whose object a candidate would take.
type occupiedError struct{ by rotation.Version }

// Error implements error.
func (o *occupiedError) Error() string {
	return fmt.Sprintf("%s still serves version %d", o.by.Identifier, o.by.Number)
}

// occupant is the version that holds an object outside and may be in use.
func (s *subject) occupant(identifier string) *rotation.Version {
	for i := range s.state.Versions {
		v := &s.state.Versions[i]
		if v.Identifier == identifier && (v.State.Live() || v.State == rotation.Standby) {
			return v
		}
	}
	return nil
}

// recheckObject is the wait where no better time is known.
const recheckObject = 5 * time.Second

// waitForObject ends a request for a rotation with the time from which on it is
// possible, or, with force and in an emergency, which both end what readers hold,
// ends the version in the way at once. What nobody waits for, the schedule or a
// further attempt, is put off until then.
func (e *Engine) waitForObject(ctx context.Context, s *subject, i rotation.Intent, by rotation.Version) error {
	var refused error
	_, err := e.update(ctx, s.name, func(s *subject) error {
		if s.state.InFlight != nil || s.state.Deleted || !s.wants(i) {
			return errStale
		}
		v, err := s.version(by.Number, by.State)
		if err != nil {
			return err
		}
		now := e.clock.Now()
		if (i.Force || i.Trigger == rotation.Emergency) && v.State == rotation.Retiring && v.RetireBegun.IsZero() {
			v.RetireNow(now)
			return nil
		}
		until, reason := freeFrom(v, now)
		if s.putOff(i, now, until, reason, v.RetireAt.After(now) || v.Attention != nil) {
			refused = fault.New(fault.Conflict, "%s: rotate then, or with force=true, which ends version %d at once", reason, v.Number)
		}
		return nil
	})
	if err == nil && refused != nil {
		e.waiters.refused(i.ID, refused)
	}
	return err
}

// putOff lets a rotation that cannot begin yet wait. Whoever asked for it, without
// force, is refused instead where that helps them: it tells so.
func (s *subject) putOff(i rotation.Intent, now, until time.Time, reason string, helps bool) (refused bool) {
	switch {
	case i.Trigger == rotation.Manual && i.Attempt == 1 && !i.Force && helps:
		s.state.Intent, s.state.Replaced = s.state.Replaced, nil
		return true
	case s.state.Intent != nil:
		s.state.Intent.At = until
	default:
		s.state.Postponed = attention(nil, now, reason, until.Sub(now), false)
	}
	return false
}

// freeFrom is when the object of a version may be free, and why not before.
func freeFrom(v *rotation.Version, now time.Time) (until time.Time, reason string) {
	until, reason = v.RetireAt, fmt.Sprintf("%s serves version %d until %s", v.Identifier, v.Number, v.RetireAt.Format(timeFormat))
	if v.Attention != nil {
		until, reason = v.Attention.At, fmt.Sprintf("%s still serves version %d: %s", v.Identifier, v.Number, v.Attention.Reason)
	}
	if !until.After(now) {
		until = now.Add(recheckObject)
	}
	return until, reason
}
