package backend

import (
	"context"
	"fmt"
	"slices"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// Rollback makes an earlier version current again: the pointer alone while that
// one lives, else the kind brings it back from its kept material; it is verified
// in any case. A held rotation is given up for it, and ends where it is if it went back already.
func (e *Engine) Rollback(ctx context.Context, name string, r RollbackRequest) (*rotation.Rotation, error) {
	if ended, err := e.endWayBack(ctx, name, r); ended != nil || err != nil {
		return ended, err
	}
	return e.request(ctx, name, r.Actor, r.Wait, admitHeld, func(s *subject, i *rotation.Intent) error {
		if s.state.Divergence != nil {
			return conflictDiverged(s)
		}
		if waiting := s.state.Intent; waiting != nil && waiting.Trigger == rotation.Emergency {
			return fault.New(fault.Conflict, "an emergency waits for its next attempt at %s: write rotate/%s to make it now", waiting.At.Format(timeFormat), name)
		}
		number, err := e.rollbackTo(ctx, s, r.Version)
		if err != nil {
			return err
		}
		if s.state.InFlight != nil {
			if err := s.state.Supersede(e.clock.Now()); err != nil {
				return err
			}
		}
		i.Trigger, i.Version, i.Force = rotation.Rollback, number, r.Force
		return e.announceReturn(s, number, r.Force)
	})
}

// endWayBack ends a rotation that is held on its way back, or is a rollback: the pointer is where
// this one would set it, and what could not follow is left to the person who says so.
func (e *Engine) endWayBack(ctx context.Context, name string, r RollbackRequest) (ended *rotation.Rotation, err error) {
	_, err = e.update(ctx, name, func(s *subject) error {
		held := s.state.InFlight
		back := held != nil && held.Held != "" && (held.Reverting || held.Trigger == rotation.Rollback)
		if !back || s.state.Deleted || r.Version != 0 && r.Version != s.state.Current {
			return errNoChange
		}
		if err := e.allowed(); err != nil {
			return err
		}
		policy, err := e.policyOf(s.role)
		if err != nil {
			return err
		}
		s.dirtyIncidents()
		now := e.clock.Now()
		if held.Reverting {
			err = s.state.FinishReverted(now)
		} else {
			err = s.state.FinishAsItIs(now, e.nextRotation(s, policy, now))
		}
		ended = s.state.Last
		return err
	})
	if err != nil {
		return nil, e.unsure(name, err)
	}
	if ended != nil {
		e.workers.add(forOne, name)
	}
	return ended, nil
}

// announceReturn lets a version that nobody outside knows any more stand by before it
// is used again, where the kind announces and whoever asks can wait.
func (e *Engine) announceReturn(s *subject, number int, force bool) error {
	v := s.state.Version(number)
	if force || announceAhead(e.rotators[s.role.Type], s.role) == 0 {
		return nil
	}
	switch v.State {
	case rotation.Disabled, rotation.Retired:
		v.BringBack()
	case rotation.Retiring:
		if !v.RetireBegun.IsZero() {
			return fault.New(fault.Conflict, "version %d is being ended just now: write again in a moment", number)
		}
	default: // it lives, or stands by already
	}
	return nil
}

// rollbackTo finds the version to go back to: the named one if it is eligible, or
// the highest eligible below the current one.
func (e *Engine) rollbackTo(ctx context.Context, s *subject, number int) (int, error) {
	if number != 0 {
		if number < 0 {
			return 0, fault.Field("version", "must be the number of a version, 1 or more")
		}
		v := s.state.Version(number)
		if v == nil {
			return 0, fault.Field("version", "%s has no version %d that could be brought back", s.name, number)
		}
		if reason := e.notEligible(ctx, s, v); reason != "" {
			return 0, fault.New(fault.Conflict, "cannot roll back to version %d: %s", number, reason)
		}
		return number, nil
	}
	var reasons []string
	for _, v := range slices.Backward(s.state.Versions) {
		if v.Number >= s.state.Current {
			continue
		}
		reason := e.notEligible(ctx, s, &v)
		if leaked := s.leakedAfter(v.Number); reason == "" && leaked != 0 {
			reason = fmt.Sprintf("it ended before version %d leaked, and may have leaked too: name it with version=%d if you are sure that it did not", leaked, v.Number)
		}
		if reason == "" {
			return v.Number, nil
		}
		reasons = append(reasons, fmt.Sprintf("version %d: %s", v.Number, reason))
	}
	if len(reasons) == 0 {
		return 0, fault.New(fault.Conflict, "there is no version before %d to roll back to", s.state.Current)
	}
	return 0, fault.New(fault.Conflict, "no earlier version can be rolled back to: %s", joinFirst(reasons, 5))
}

// leakedAfter is the number of a version after this one that leaked, 0 for none.
func (s *subject) leakedAfter(number int) int {
	for i := range s.state.Versions {
		if v := &s.state.Versions[i]; v.Compromised && v.Number > number {
			return v.Number
		}
	}
	return 0
}

// notEligible is why a version cannot become current again, "" if it can.
func (e *Engine) notEligible(ctx context.Context, s *subject, v *rotation.Version) string {
	switch never := noWayBack(e.rotators[s.role.Type], s.role); {
	case v.Number == s.state.Current:
		return "it is the current version"
	case never != "":
		return never
	case v.Compromised:
		return "it is compromised"
	case v.State == rotation.Pending || v.State == rotation.Discarded:
		return "it never was current"
	case v.Undo:
		return "it is being undone"
	case v.State == rotation.Standby && !v.Returns:
		return "it never was current: rotate makes it so"
	case v.ActivatedTime.IsZero():
		return "it never was current"
	case !v.HasMaterial:
		return "its material was destroyed"
	case v.State == rotation.Retiring && v.RetireBegun.IsZero(), v.State == rotation.Standby:
		return ""
	}
	restorer, ok := e.rotators[s.role.Type].(rotator.Restorer)
	if !ok {
		return "its retirement has begun, and this type cannot bring a version back"
	}
	material, err := e.store.Material(ctx, s.name, v.Number)
	if err != nil {
		return "its material could not be read"
	}
	conn, err := e.store.Connection(ctx, s.role.Connection)
	if err != nil {
		return "its connection could not be read"
	}
	return restorer.Restorable(&rotator.Target{Role: roleView(s.role, conn), Version: *v, Others: s.others(v.Number), Material: material, Now: e.clock.Now()})
}

func joinFirst(texts []string, most int) string {
	out := ""
	for i, text := range texts {
		if i == most {
			return out + fmt.Sprintf("; and %d more", len(texts)-most)
		}
		if i > 0 {
			out += "; "
		}
		out += text
	}
	return out
}
