package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// check compares a role with the world outside, after an unseal and daily: does
// the current version still work, and does anything bear a mark we do not know?
// Vault restored from an older snapshot, a clone, or a second mount show here.
func (e *Engine) check(ctx context.Context, s *subject) error {
	found, err := e.survey(ctx, s)
	if err == nil && found == nil {
		found, err = e.verifyCurrent(ctx, s)
	}
	if err == nil && found != nil {
		err = e.diverge(ctx, s, found)
	}
	return e.afterLook(s, lookAtTarget, err)
}

// afterLook notes a comparison once what it found is stored. What could not be reached proves
// nothing; it is looked at again soon.
func (e *Engine) afterLook(s *subject, at int, err error) error {
	switch {
	case err == nil:
		e.memory.looked(s.name, at, e.clock.Now())
		return nil
	case errors.Is(err, errInterrupted), errors.Is(err, errStale), isStorage(err):
		return err
	default:
		wait := e.memory.lookedInVain(s.name, at, e.clock.Now())
		e.logger.Warn("could not compare a role with the world outside", "role", s.name, "error", failureOf(err, nil).Message, "retry_in", wait)
		return nil
	}
}

func (e *Engine) verifyCurrent(ctx context.Context, s *subject) (*rotation.Divergence, error) {
	cur := s.state.CurrentVersion()
	err := e.proven(ctx, s, *cur)
	switch fault.KindOf(err) {
	case "":
		return nil, nil
	case fault.AuthFailed, fault.Target:
		return &rotation.Divergence{Reason: fmt.Sprintf("the current version %d (%s) no longer works: %s", cur.Number, cur.Identifier, err)}, nil
	default:
		return nil, err
	}
}

// proven is nil for a version that works. An error is clean of its material.
func (e *Engine) proven(ctx context.Context, s *subject, v rotation.Version) error {
	kind, err := e.kindOf(s.role.Type)
	if err != nil {
		return err
	}
	t, err := e.target(ctx, s, v)
	if err == nil {
		err = e.effect(ctx, func(ctx context.Context) error { return kind.Verify(ctx, t) })
	}
	if err == nil || errors.Is(err, errInterrupted) || isStorage(err) {
		return err
	}
	return scrubbed(err, materialOf(t))
}

// survey looks for marks of this role that the journal does not know.
func (e *Engine) survey(ctx context.Context, s *subject) (*rotation.Divergence, error) {
	kind, err := e.kindOf(s.role.Type)
	if err != nil {
		return nil, err
	}
	surveyor, ok := kind.(rotator.Surveyor)
	if !ok {
		return nil, nil
	}
	t, err := e.target(ctx, s, rotation.Version{})
	if err != nil {
		return nil, err
	}
	var seen []rotator.Sighting
	if err := e.effect(ctx, func(ctx context.Context) (err error) {
		seen, err = surveyor.Survey(ctx, t)
		return err
	}); err != nil {
		return nil, err
	}
	if found := s.unknown(seen, t.Mark.Instance); found != nil {
		return found, nil
	}
	return s.outdated(seen), nil
}

// outdated finds what the marks of the journal's own versions tell: that the world
// went on without this storage, or that the current version's object was dropped,
// renamed or stripped of its mark by hand.
func (s *subject) outdated(seen []rotator.Sighting) *rotation.Divergence {
	d := &rotation.Divergence{Fence: highestFence(seen)}
	if d.Fence > s.state.Revision {
		d.Reason = "its objects were changed by a later state of this mount: its storage was restored from an older one, or cloned"
		return d
	}
	cur := s.state.CurrentVersion()
	if cur == nil || !cur.KilledTime.IsZero() || s.state.InFlight != nil {
		return nil
	}
	if slices.ContainsFunc(seen, func(o rotator.Sighting) bool { return o.Authentic && o.Mark.RotationID == cur.RotationID }) {
		return nil
	}
	d.Reason = fmt.Sprintf("%s, version %d, does not bear its mark any more: it was dropped, renamed or changed by hand", cur.Identifier, cur.Number)
	return d
}

// highestFence is that of the authentic marks.
func highestFence(seen []rotator.Sighting) (fence int64) {
	for _, sight := range seen {
		if sight.Authentic {
			fence = max(fence, sight.Mark.Fence)
		}
	}
	return fence
}

// unknown judges sightings: nil when the journal explains them all. A mark with a
// forged HMAC under our own name is nobody's, and changes nothing.
func (s *subject) unknown(seen []rotator.Sighting, instance string) *rotation.Divergence {
	d := &rotation.Divergence{Fence: highestFence(seen)}
	var ours, foreign []string
	for _, sight := range seen {
		known := slices.Contains(s.state.Acknowledged, sight.Mark.RotationID) ||
			slices.ContainsFunc(s.state.Versions, func(v rotation.Version) bool { return v.RotationID == sight.Mark.RotationID })
		switch {
		case known, sight.Mark.Instance == instance && !sight.Authentic:
			continue
		case sight.Authentic && sight.Mark.Version <= s.state.Base: // of an earlier role of this name
			continue
		case sight.Authentic && sight.Mark.Fence > 0 && s.forgot(sight.Mark.Version): // its object outlived it
			continue
		case sight.Authentic:
			ours = append(ours, sight.Identifier)
			d.Highest = max(d.Highest, sight.Mark.Version)
		default:
			foreign = append(foreign, sight.Identifier)
		}
		d.Seen = append(d.Seen, sight.Mark.RotationID)
		d.Identifiers = append(d.Identifiers, sight.Identifier)
	}
	var reasons []string
	if len(ours) > 0 {
		reasons = append(reasons, fmt.Sprintf("this mount made %s, up to version %d, which its storage does not know: it was restored from an older state, or cloned", joinFirst(ours, 10), d.Highest))
	}
	if len(foreign) > 0 {
		reasons = append(reasons, fmt.Sprintf("another mount keeps a role of this name at the same target: %s", joinFirst(foreign, 10)))
	}
	if len(reasons) == 0 {
		return nil
	}
	d.Reason = strings.Join(reasons, "; ")
	return d
}

// forgot tells whether a version is older than all that the journal still knows.
func (s *subject) forgot(version int) bool {
	return !slices.ContainsFunc(s.state.Versions, func(v rotation.Version) bool { return v.Number <= version })
}

// diverge stops all change for a role until a person has reconciled it.
func (e *Engine) diverge(ctx context.Context, s *subject, found *rotation.Divergence) error {
	var dropped *rotation.Intent
	_, err := e.update(ctx, s.name, func(s *subject) error {
		if s.state.InFlight != nil || s.state.Deleted || s.state.Divergence != nil {
			return errStale
		}
		now := e.clock.Now()
		found.Since = now
		s.state.Divergence = found
		if i := s.state.Intent; i != nil && i.Trigger != rotation.Emergency {
			dropped, s.state.Intent = i, nil
		}
		return nil
	})
	if err != nil {
		return err
	}
	e.logger.Error("a role diverged from its target; nothing changes until reconcile", "role", s.name, "reason", found.Reason)
	if dropped != nil {
		e.waiters.refused(dropped.ID, fault.New(fault.Conflict, "the role is diverged: %s; write reconcile/%s with action=remint", found.Reason, s.name))
	}
	return nil
}

func conflictDiverged(s *subject) error {
	return fault.New(fault.Conflict, "the role is diverged: %s; write reconcile/%s with action=remint", s.state.Divergence.Reason, s.name)
}

// Reconcile mends a diverged role, once its rotation begins: what was seen outside is acknowledged and left
// alone, and a fresh version, numbered above everything seen, becomes current.
func (e *Engine) Reconcile(ctx context.Context, name string, r RotateRequest) (*rotation.Rotation, error) {
	return e.request(ctx, name, r.Actor, r.Wait, admitNone, func(s *subject, i *rotation.Intent) error {
		d := s.state.Divergence
		if d == nil {
			return fault.New(fault.Conflict, "%s is not diverged: there is nothing to reconcile", name)
		}
		if !s.hasten(i) {
			i.Trigger, i.Reason = rotation.Manual, "reconcile: "+d.Reason
		}
		i.Reconcile = true
		s.state.CatchUp()
		return nil
	})
}
