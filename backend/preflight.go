package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// The checks of preflight that are the engine's own, in the order in which they are told.
// The kind's come first: "target" (does it answer, and accept the administrator), then
// what it knows of rights.
//
// Before a rotation only what may fail is looked at, which are the lines of the kind, the mirror
// and the rollout: the others cannot stop it, and who asked for preflight reads them. So a
// scheduled rotation pays for no further call.
const (
	checkTarget   = "target"
	checkCurrent  = "current version"
	checkEarlier  = "earlier version"
	checkRollback = "rollback plan"
	checkChannels = "channels"
	checkWindow   = "window"
	checkInFlight = "nothing in flight"
)

// preflightTimeout bounds each question that a reader of preflight waits for. A rotation gives
// its dependents longer.
const preflightTimeout = 20 * time.Second

// Preflight is the checklist before a rotation, run now. It changes nothing.
func (e *Engine) Preflight(ctx context.Context, name string) ([]rotator.Line, error) {
	s, err := e.loadLive(ctx, name)
	if err != nil {
		return nil, err
	}
	lines, err := e.boundedKindLines(ctx, s)
	if err != nil {
		return nil, err
	}
	current, err := e.currentLine(ctx, s)
	if err != nil {
		return nil, err
	}
	window, err := e.windowLine(s)
	if err != nil {
		return nil, err
	}
	channels, err := e.channelLine(ctx, s.role)
	if err != nil {
		return nil, err
	}
	dependents, err := e.dependentLines(ctx, s, false, preflightTimeout)
	if err != nil {
		return nil, err
	}
	checks, err := e.checkLines(ctx, s)
	if err != nil {
		return nil, err
	}
	lines = append(lines, current, e.earlierLine(ctx, s), e.rollbackLine(s))
	lines = append(append(lines, dependents...), checks...)
	return append(lines, channels, window, s.inFlightLine()), nil
}

func (e *Engine) boundedKindLines(ctx context.Context, s *subject) ([]rotator.Line, error) {
	bounded, done := context.WithTimeout(ctx, preflightTimeout)
	defer done()
	lines, err := e.kindLines(bounded, s)
	if errors.Is(err, errInterrupted) && ctx.Err() == nil {
		return []rotator.Line{{Check: checkTarget, Result: rotator.Fail, Detail: fmt.Sprintf("did not answer within %s", preflightTimeout)}}, nil
	}
	return lines, err
}

// kindLines asks the kind whether a rotation can go well. A target that cannot be asked is
// a line too; an error is one of ours.
func (e *Engine) kindLines(ctx context.Context, s *subject) ([]rotator.Line, error) {
	lines, err := e.askKind(ctx, s)
	if err == nil || errors.Is(err, errInterrupted) || isStorage(err) {
		return lines, err
	}
	return []rotator.Line{{Check: checkTarget, Result: rotator.Fail, Detail: failureOf(err, nil).Message}}, nil
}

func (e *Engine) askKind(ctx context.Context, s *subject) (lines []rotator.Line, err error) {
	kind, err := e.kindOf(s.role.Type)
	if err != nil {
		return nil, err
	}
	p, ok := kind.(rotator.Preflighter)
	if !ok {
		return nil, nil
	}
	t, err := e.target(ctx, s, rotation.Version{Number: s.state.Highest + 1})
	if err != nil {
		return nil, err
	}
	err = e.effect(ctx, func(ctx context.Context) (err error) {
		lines, err = p.Preflight(ctx, t)
		return err
	})
	return lines, err
}

// currentLine proves the current version as a reader would use it.
func (e *Engine) currentLine(ctx context.Context, s *subject) (rotator.Line, error) {
	line := rotator.Line{Check: checkCurrent, Result: rotator.Warn}
	cur := s.state.CurrentVersion()
	switch {
	case cur == nil:
		line.Detail = "there is none: readers get nothing"
		return line, nil
	case !cur.KilledTime.IsZero():
		line.Detail = fmt.Sprintf("version %d (%s) was ended in an emergency, and has no successor yet", cur.Number, cur.Identifier)
		return line, nil
	}
	kind, err := e.kindOf(s.role.Type)
	if err != nil {
		return line, err
	}
	bounded, done := context.WithTimeout(ctx, preflightTimeout)
	defer done()
	t, err := e.target(bounded, s, *cur)
	if err == nil {
		err = e.effect(bounded, func(ctx context.Context) error { return kind.Verify(ctx, t) })
	}
	what := fmt.Sprintf("version %d (%s)", cur.Number, cur.Identifier)
	switch {
	case err == nil && cur.Compromised:
		line.Detail = what + " works, and is compromised"
	case err == nil:
		line.Result, line.Detail = rotator.Pass, what+" works"
	case isStorage(err), ctx.Err() != nil:
		return line, err
	case errors.Is(err, errInterrupted):
		line.Detail = fmt.Sprintf("%s could not be tried within %s", what, preflightTimeout)
	case fault.Is(err, fault.AuthFailed), fault.Is(err, fault.Target):
		line.Detail = what + " does not work: " + failureOf(err, materialOf(t)).Message
	default:
		line.Detail = what + " could not be proven to work: " + failureOf(err, materialOf(t)).Message
	}
	return line, nil
}

// earlierLine tells what a rollback would go to now.
func (e *Engine) earlierLine(ctx context.Context, s *subject) rotator.Line {
	number, err := e.rollbackTo(ctx, s, 0)
	if err != nil {
		return rotator.Line{Check: checkEarlier, Result: rotator.Warn, Detail: err.Error()}
	}
	v := s.state.Version(number)
	what := fmt.Sprintf("version %d (%s) ", v.Number, v.Identifier)
	switch {
	case v.State == rotation.Retiring && v.RetireBegun.IsZero() && v.RetireAt.IsZero():
		what += "lives: rollback would verify it and move readers back"
	case v.State == rotation.Retiring && v.RetireBegun.IsZero():
		what += fmt.Sprintf("lives until %s: rollback would verify it and move readers back", v.RetireAt.Format(timeFormat))
	case v.State == rotation.Standby:
		what += fmt.Sprintf("is announced again: rollback would go to it at %s", v.ReadyAt.Format(timeFormat))
	default:
		what += "has ended: rollback would make it valid again from its kept material, verify it, and move readers back"
		if announced := announceAhead(e.rotators[s.role.Type], s.role); announced > 0 {
			what += fmt.Sprintf(" once it was announced for %s", announced)
		}
	}
	return rotator.Line{Check: checkEarlier, Result: rotator.Pass, Detail: what}
}

// rollbackLine states in words what a rollback would do after the rotation.
func (e *Engine) rollbackLine(s *subject) rotator.Line {
	cur := s.state.CurrentVersion()
	switch {
	case cur == nil:
		return rotator.Line{Check: checkRollback, Result: rotator.Warn, Detail: "there is no version to go back to"}
	case cur.Compromised:
		return rotator.Line{Check: checkRollback, Result: rotator.Warn, Detail: fmt.Sprintf("version %d (%s) is compromised, and no rollback goes to it", cur.Number, cur.Identifier)}
	case noWayBack(e.rotators[s.role.Type], s.role) != "":
		return rotator.Line{Check: checkRollback, Result: rotator.Warn, Detail: "the rotation cannot be undone: " + noWayBack(e.rotators[s.role.Type], s.role)}
	case changesInPlace(e.rotators[s.role.Type], s.role):
		return rotator.Line{Check: checkRollback, Result: rotator.Pass, Detail: fmt.Sprintf(
			"the rotation ends version %d (%s); rollback would set it again where it stands, verify it and move readers back, with a gap for whoever reads in between", cur.Number, cur.Identifier)}
	default:
		return rotator.Line{Check: checkRollback, Result: rotator.Pass, Detail: fmt.Sprintf(
			"after the rotation version %d (%s) stays valid for %s; rollback would verify it, make it current again with one write, and end the new version after its own grace", cur.Number, cur.Identifier, cur.Grace)}
	}
}

// windowLine tells whether the schedule would let a rotation begin now. A person may
// rotate at any time.
func (e *Engine) windowLine(s *subject) (rotator.Line, error) {
	policy, err := e.policyOf(s.role)
	if err != nil {
		return rotator.Line{}, err
	}
	now, next := e.clock.Now(), s.state.NextRotation
	line := rotator.Line{Check: checkWindow, Result: rotator.Pass}
	due := "no rotation is planned"
	if !next.IsZero() {
		due = "the next rotation is due at " + next.Format(timeFormat)
	}
	switch {
	case policy.Disabled:
		line.Detail = "automated rotation is disabled: only people rotate, at any time"
	case policy.Window == 0 || policy.Cron == nil:
		line.Detail = "there is no window; " + due
	case policy.Open(now):
		line.Detail = "the window is open; " + due
	default:
		line.Result = rotator.Warn
		line.Detail = fmt.Sprintf("the window is closed, and opens at %s; %s", policy.Cron.Next(now).Format(timeFormat), due)
	}
	return line, nil
}

// inFlightLine tells what a rotation would be in the way of.
func (s *subject) inFlightLine() rotator.Line {
	line := rotator.Line{Check: checkInFlight, Result: rotator.Fail}
	switch i := s.state.Intent; {
	case s.state.InFlight != nil:
		line.Detail = conflictInFlight(s.state.InFlight).Error()
	case s.state.Divergence != nil:
		line.Detail = conflictDiverged(s).Error()
	case s.state.Blocked != "":
		line.Result, line.Detail = rotator.Warn, fmt.Sprintf("the role is blocked: %s; only people rotate it", s.state.Blocked)
	case s.state.ActionRequired != "":
		line.Result, line.Detail = rotator.Warn, s.state.ActionRequired
	case i != nil:
		line.Result, line.Detail = rotator.Warn, fmt.Sprintf("attempt %d of rotation %s (%s) waits until %s; a rotation by hand takes its place", i.Attempt, i.ID, i.Trigger, i.At.Format(timeFormat))
	default:
		line.Result, line.Detail = rotator.Pass, "no rotation is in flight"
	}
	return line
}
