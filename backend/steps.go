package backend

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// Step is a named act between the switch of readers and the end of a rotation:
// mirror, rollout, checks. It is polled, so that ten minutes of waiting hold
// neither a lock nor a worker, and it keeps a cursor in the journal, so that a
// crash resumes and does not repeat.
type Step interface {
	Name() string
	// Applies tells whether the role wants this step.
	Applies(role *store.Role) bool
	// Run begins the step, or looks how far it got when the cursor is set. It is
	// idempotent for the same cursor. An error fails the step.
	Run(ctx context.Context, r StepRun) (StepProgress, error)
}

// StepRun is what a step is told.
type StepRun struct {
	Role     *store.Role
	Rotation *rotation.Rotation
	// Version is the one that readers now get; its material is not given.
	Version rotation.Version
	// Back is set when the pointer went back and dependents have to follow.
	Back   bool
	Cursor string
	// Started is when the step began.
	Started time.Time
}

// StepProgress is how far a step got.
type StepProgress struct {
	Done   bool
	Detail string
	Cursor string
	// PollAfter is when to look again, if not done.
	PollAfter time.Duration
}

// What to do when a step fails.
const (
	onFailureRollback = "rollback"
	onFailureHold     = "hold"
)

// minPoll bounds how often a step is polled.
const minPoll = time.Second

// advanceSteps begins or polls the next step that is not done; when all are, the
// rotation ends.
func (e *Engine) advanceSteps(ctx context.Context, s *subject) error {
	r := s.state.InFlight
	for _, step := range e.steps {
		if !step.Applies(s.role) {
			continue
		}
		done := r.StepNamed(step.Name(), r.Reverting)
		if done != nil && done.State == rotation.StepDone {
			continue
		}
		return e.runStep(ctx, s, step, done)
	}
	return e.endRotation(ctx, s)
}

// hasSteps tells whether anything follows the switch.
func (e *Engine) hasSteps(role *store.Role) bool {
	return slices.ContainsFunc(e.steps, func(step Step) bool { return step.Applies(role) })
}

func (e *Engine) runStep(ctx context.Context, s *subject, step Step, record *rotation.Step) error {
	r := s.state.InFlight
	now := e.clock.Now()
	if record == nil {
		// Journalled before its first effect, as everything is.
		_, err := e.update(ctx, s.name, func(s *subject) error {
			if err := s.inFlight(r); err != nil {
				return err
			}
			s.state.InFlight.Steps = append(s.state.InFlight.Steps, rotation.Step{
				Name: step.Name(), State: rotation.StepRunning, StartedTime: now, Back: r.Reverting,
			})
			return nil
		})
		return err
	}
	run := StepRun{
		Role: s.role, Rotation: r, Version: *s.state.CurrentVersion(), Back: r.Reverting,
		Cursor: record.Cursor, Started: record.StartedTime,
	}
	effect, done := context.WithTimeout(ctx, effectTimeout)
	defer done()
	progress, failed := step.Run(effect, run)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	_, err := e.update(ctx, s.name, func(s *subject) error {
		if err := s.inFlight(r); err != nil {
			return err
		}
		rec := s.state.InFlight.StepNamed(step.Name(), r.Reverting)
		if failed != nil {
			return e.stepFailed(s, rec, failed)
		}
		rec.Detail, rec.Cursor = progress.Detail, progress.Cursor
		rec.PollAt = e.clock.Now().Add(max(progress.PollAfter, minPoll))
		if progress.Done {
			rec.State, rec.EndedTime, rec.PollAt = rotation.StepDone, e.clock.Now(), time.Time{}
		}
		return nil
	})
	return err
}

// stepFailed lets the pointer go back to the version that still lives, or holds
// the rotation for a person: where the operator wants that, where no uncompromised
// earlier version lives, and in a rollback.
func (e *Engine) stepFailed(s *subject, rec *rotation.Step, failed error) error {
	now := e.clock.Now()
	rec.State, rec.EndedTime, rec.Detail = rotation.StepFailed, now, failed.Error()
	r := s.state.InFlight
	why := rotation.Failure{Kind: string(fault.KindOf(failed)), Message: fmt.Sprintf("step %s failed: %s", rec.Name, failed)}
	// What was changed in place has no earlier version that lives.
	inPlace := changesInPlace(e.rotators[s.role.Type], s.role)
	if previous := s.state.Version(r.PreviousVersion); s.role.Policy.OnRolloutFailure == onFailureRollback && !r.Reverting && !inPlace &&
		r.Trigger != rotation.Rollback && previous != nil && previous.State == rotation.Retiring && !previous.Compromised && previous.RetireBegun.IsZero() {
		return s.state.Revert(now, why)
	}
	r.Error, r.Held = &why, why.Message
	return nil
}

// endRotation ends a rotation whose steps are done.
func (e *Engine) endRotation(ctx context.Context, s *subject) error {
	r := s.state.InFlight
	policy, err := e.policyOf(s.role)
	if err != nil {
		return err
	}
	_, err = e.update(ctx, s.name, func(s *subject) error {
		if err := s.inFlight(r); err != nil {
			return err
		}
		now := e.clock.Now()
		if r.Reverting {
			return s.state.FinishReverted(now)
		}
		s.dirtyIncidents()
		return s.state.Finish(now, e.nextRotation(s, policy, now))
	})
	return err
}

// resume lets a held rotation go on: its failed step runs again from the start.
func resume(r *rotation.Rotation) {
	r.Held, r.Error = "", nil
	kept := r.Steps[:0]
	for _, step := range r.Steps {
		if step.State != rotation.StepFailed {
			kept = append(kept, step)
		}
	}
	r.Steps = kept
}
