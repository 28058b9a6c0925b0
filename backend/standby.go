package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// A kind may keep the next version ready ahead, so that those outside who must know it
// before it is used have time to learn it: a standby version. It is not a rotation, and
// stands in nobody's way.

// announceAhead is for how long a role's versions stand by; 0 where none does.
func announceAhead(kind rotator.Rotator, role *store.Role) time.Duration {
	a, ok := kind.(rotator.Announcer)
	if !ok {
		return 0
	}
	return a.AnnounceAhead(roleView(role, nil))
}

// takeStandby makes the version that stands by the candidate, also one that is not
// announced yet when nobody can wait. A further attempt that does not wait takes fresh
// material. Where the kind announces, an ordinary rotation is put off until the version
// has stood by for long enough.
func (e *Engine) takeStandby(ctx context.Context, s *subject, i *rotation.Intent) (waits bool, err error) {
	kind, err := e.kindOf(s.role.Type)
	if err != nil {
		return false, err
	}
	announced := announceAhead(kind, s.role)
	for _, staged := range []*rotation.Version{s.state.StandbyVersion(), s.state.AheadVersion()} {
		if staged != nil && staged.Staged && !staged.Lost() { // also one that is still on its way
			i.Version = staged.Number
			return false, nil
		}
	}
	urgent := announced == 0 || i.Force || i.Trigger == rotation.Emergency || s.state.Current == 0
	next := s.state.StandbyVersion()
	if next == nil && urgent && announced > 0 {
		next = s.state.AheadVersion()
	}
	if next != nil && (!urgent || i.Attempt == 1) && !next.Returns {
		i.Version = next.Number
	}
	if urgent {
		return false, nil
	}
	if until, reason := s.announcedFrom(announced, e.clock.Now()); reason != "" {
		return true, e.waitForStandby(ctx, s, *i, until, reason)
	}
	return false, nil
}

// announcedFrom is from when on an ordinary rotation of a kind that announces may begin,
// and, if that is still to come, why.
func (s *subject) announcedFrom(announced time.Duration, now time.Time) (until time.Time, reason string) {
	next := s.state.StandbyVersion()
	switch {
	case announced == 0 || s.state.Current == 0 || next != nil && !next.ReadyAt.After(now):
		return now, ""
	case next == nil:
		until = now.Add(announced)
		return until, "the next version is still being made, and may take over at about " + until.Format(timeFormat)
	default:
		return next.ReadyAt, fmt.Sprintf("version %d is announced, and may take over at %s", next.Number, next.ReadyAt.Format(timeFormat))
	}
}

// notAnnounced refuses a rotation that would have to wait.
func notAnnounced(reason string) error {
	return fault.New(fault.Conflict, "%s: rotate then, or at once with force=true", reason)
}

// waitForStandby puts a rotation off until the version that stands by may be used.
func (e *Engine) waitForStandby(ctx context.Context, s *subject, i rotation.Intent, until time.Time, reason string) error {
	refused := false
	_, err := e.update(ctx, s.name, func(s *subject) error {
		if s.state.InFlight != nil || s.state.Deleted || !s.wants(i) {
			return errStale
		}
		refused = s.putOff(i, e.clock.Now(), until, reason, true)
		return nil
	})
	if err == nil && refused {
		e.waiters.refused(i.ID, notAnnounced(reason))
	}
	return err
}

// makeAhead makes a standby version (minted, journalled, prepared, verified), or brings
// back one that a rollback wants announced before it is used again.
func (e *Engine) makeAhead(ctx context.Context, s *subject) error {
	ahead := s.state.AheadVersion()
	if ahead == nil {
		return e.planAhead(ctx, s, false)
	}
	kind, err := e.kindOf(s.role.Type)
	if err != nil {
		return err
	}
	if mints(kind, s.role) && !ahead.HasMaterial && !ahead.Returns {
		return e.mintAhead(ctx, s, kind, ahead)
	}
	t, err := e.target(ctx, s, *ahead)
	if err == nil {
		err = e.effect(ctx, func(ctx context.Context) error {
			if err := kind.Prepare(ctx, t); err != nil {
				return err
			}
			return kind.Verify(ctx, t)
		})
	}
	if errors.Is(err, errInterrupted) || isStorage(err) {
		return err
	}
	if err != nil {
		return e.failAhead(ctx, s, ahead, failureOf(err, materialOf(t)))
	}
	after, err := e.update(ctx, s.name, func(s *subject) error {
		v, stale := s.version(ahead.Number, ahead.State)
		if stale != nil || s.state.InFlight != nil || !v.Ahead || v.Undo {
			return errStale
		}
		standsBy := announceAhead(kind, s.role)
		if v.Staged {
			standsBy = soakOf(kind, s.role).Period
			e.tellStaged(s, v)
		}
		return s.state.StandbyReady(v.Number, e.clock.Now(), rotation.Duration(standsBy))
	})
	if err == nil && ahead.Returns {
		e.tellAnnounced(after, ahead.Number)
	}
	return err
}

// tellAnnounced answers whoever asked for a rollback that now waits for a long time.
func (e *Engine) tellAnnounced(s *subject, number int) {
	i := s.state.Intent
	if i == nil || i.Version != number {
		return
	}
	r := i.Rotation(number, i.At)
	r.PreviousVersion, r.NotBefore = s.state.Current, s.state.Version(number).ReadyAt
	e.waiters.ended(&r)
}

// failAhead undoes a version that was to stand by. The next one is tried later; a
// rollback is not repeated.
func (e *Engine) failAhead(ctx context.Context, s *subject, ahead *rotation.Version, why rotation.Failure) error {
	e.logger.Warn("a version could not be made or brought back ahead", "role", s.name, "version", ahead.Number, "error", why.Message)
	_, err := e.update(ctx, s.name, func(s *subject) error {
		v, stale := s.version(ahead.Number, ahead.State)
		if stale != nil || s.state.InFlight != nil || !v.Ahead || v.Undo {
			return errStale
		}
		now := e.clock.Now()
		if !v.Returns {
			notMinted(v, why)
			s.state.Ahead = attention(s.state.Ahead, now, why.Message, 0, true)
			v.Undo, v.Ahead = true, false
			return nil
		}
		i := s.state.Intent
		if err := s.state.Withdraw(v.Number, now); err != nil || i == nil || i.Version != v.Number {
			return err
		}
		return s.state.Refuse(i.Rotation(v.Number, now), now, why, rotation.AfterFailure{Blocked: s.state.Blocked})
	})
	return err
}

// planAhead mints a version that is to stand by: announced, or as the second of a pair.
func (e *Engine) planAhead(ctx context.Context, s *subject, staged bool) error {
	id, err := newID()
	if err != nil {
		return err
	}
	v, _, err := e.mint(ctx, s, id)
	if errors.Is(err, errInterrupted) || isStorage(err) {
		return err
	}
	if err != nil {
		e.logger.Warn("a version could not be made ahead", "role", s.name, "error", failureOf(err, nil).Message)
	}
	_, updateErr := e.update(ctx, s.name, func(s *subject) error {
		if s.state.InFlight != nil || s.state.Deleted {
			return errStale
		}
		if err != nil {
			s.state.Ahead = attention(s.state.Ahead, e.clock.Now(), failureOf(err, nil).Message, 0, true)
			return nil
		}
		if v.Number <= s.state.Highest {
			return errStale
		}
		v.Ahead, v.Staged = true, staged
		if staged {
			v.Grace = s.role.Policy.Grace
		}
		s.state.Versions = append(s.state.Versions, *v)
		s.state.Highest, s.state.Postponed = v.Number, nil
		return nil
	})
	return updateErr
}

// withdraw ends a version again that stood by for a rollback.
func (e *Engine) withdraw(ctx context.Context, s *subject, number int) error {
	_, err := e.update(ctx, s.name, func(s *subject) error {
		if v := s.state.AbandonedReturn(); v == nil || v.Number != number {
			return errStale
		}
		return s.state.Withdraw(number, e.clock.Now())
	})
	return err
}
