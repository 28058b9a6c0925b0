package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// step is a named act between the switch of readers and the end of a rotation:
// mirror, rollout, checks. It is polled, so that ten minutes of waiting hold
// neither a lock nor a worker, and it keeps a cursor in the journal, so that a
// crash resumes and does not repeat.
type step interface {
	name() string
	// applies tells whether the role wants this step in such a rotation.
	applies(s *subject, r *rotation.Rotation) bool
	// run begins the step, or looks how far it got when the cursor is set. It is
	// idempotent for the same cursor. An error fails the step.
	run(ctx context.Context, r stepRun) (stepProgress, error)
}

// steps are run in this order.
func (e *Engine) builtinSteps() []step {
	return []step{&mirrorStep{e}, &rolloutStep{e}, &checkStep{e}}
}

// stepRun is what a step is told.
type stepRun struct {
	*subject
	rotation *rotation.Rotation
	// version is the one that readers now get.
	version rotation.Version
	cursor  string
	started time.Time
	// most is how long it may take: late tells that the step has failed if it is not done now.
	most time.Duration
	late bool
	// onlyForward tells that nothing goes back should it fail, and dead that what dependents hold
	// works no longer.
	onlyForward, dead bool
	// toldOfUse tells that a version which readers left ends once nobody uses it, since its kind
	// can say so. Of others nobody knows which pods hold it.
	toldOfUse bool
}

// stepProgress is how far a step got.
type stepProgress struct {
	done   bool
	detail string
	cursor string
	// pollAfter is when to look again, if not done; 0: at once.
	pollAfter time.Duration
	// change is stored with it.
	change func(*subject) error
}

// What to do when a step fails.
const (
	onFailureRollback = "rollback"
	onFailureHold     = "hold"
)

// A step looks how far its dependents got every few seconds at first, and less often later;
// what did not answer is left alone for a while.
const (
	pollEvery      = 3 * time.Second
	pollSlowly     = 15 * time.Second
	pollAnswerless = 15 * time.Second
	maxPoll        = time.Minute
)

// pollAfter is when to look again after a step that has run for so long.
func pollAfter(since time.Duration) time.Duration {
	if since < 2*time.Minute {
		return pollEvery
	}
	return pollSlowly
}

// advanceSteps begins or polls the next step that is not done; when all are, the
// rotation ends.
func (e *Engine) advanceSteps(ctx context.Context, s *subject) error {
	r := s.state.InFlight
	for _, step := range e.steps {
		if !step.applies(s, r) {
			continue
		}
		record := r.StepNamed(step.name(), r.Reverting)
		if record != nil && record.State != rotation.StepRunning {
			continue // done, or failed and passed over
		}
		return e.runStep(ctx, s, step, record)
	}
	return e.endRotation(ctx, s)
}

// hasSteps tells whether anything follows the switch.
func (e *Engine) hasSteps(s *subject, r *rotation.Rotation) bool {
	return slices.ContainsFunc(e.steps, func(step step) bool { return step.applies(s, r) })
}

// beginStep journals a step before its first effect, as everything is.
func (e *Engine) beginStep(ctx context.Context, s *subject, step step, now time.Time) error {
	r := s.state.InFlight
	_, err := e.update(ctx, s.name, func(s *subject) error {
		if err := s.inFlight(r); err != nil {
			return err
		}
		s.state.InFlight.Steps = append(s.state.InFlight.Steps, rotation.Step{
			Name: step.name(), State: rotation.StepRunning, StartedTime: now, Back: r.Reverting,
		})
		return nil
	})
	return err
}

// bound is how long a step may take.
func (e *Engine) bound(s *subject, step step) time.Duration {
	most, r := rolloutTimeout(s.role.Policy), s.state.InFlight
	rollout := r.StepNamed(stepRollout, r.Reverting)
	waits := len(s.role.Policy.Rollout) > 0 && (rollout == nil || rollout.State == rotation.StepRunning)
	if step.name() == stepMirror && waits && e.holdDead(s) { // what is to be restarted must not wait for it
		most = min(most, copyBeforeDead)
	}
	return most
}

// copyBeforeDead is how long workloads that hold what is dead wait for a copy that they may read.
const copyBeforeDead = 30 * time.Second

func (e *Engine) runStep(ctx context.Context, s *subject, step step, record *rotation.Step) error {
	r := s.state.InFlight
	now := e.clock.Now()
	if record == nil {
		return e.beginStep(ctx, s, step, now)
	}
	most, started := e.bound(s, step), record.StartedTime
	if started.After(now) { // the clock was set back: its time counts from here
		started = now
	}
	run := stepRun{
		subject: s, rotation: r, version: *s.state.CurrentVersion(), cursor: record.Cursor, started: started, most: most,
		onlyForward: e.onlyForward(s), dead: e.holdDead(s),
		// Time in which no process of ours looked is nobody's fault.
		late: !now.Before(started.Add(most)) && e.beat() >= most,
	}
	_, run.toldOfUse = e.rotators[s.role.Type].(rotator.InUser)
	var progress stepProgress
	failed := e.effect(ctx, func(ctx context.Context) (err error) {
		progress, err = step.run(ctx, run)
		return err
	})
	if errors.Is(failed, errInterrupted) || isStorage(failed) {
		return failed
	}
	back, failing := errStale, time.Time{} // nobody asked
	if failed != nil && e.goesBack(s) {
		if failing, back = e.provePrevious(ctx, s, record, now); errors.Is(back, errInterrupted) || isStorage(back) {
			return back
		}
		if !failing.IsZero() {
			detail := fmt.Sprintf("%s; whether version %d still works is not known yet: %s", failureOf(failed, nil).Message, r.PreviousVersion, back)
			progress, failed = stepProgress{detail: detail, cursor: record.Cursor, pollAfter: pollAnswerless, change: progress.change}, nil
		}
	}
	_, err := e.update(ctx, s.name, func(s *subject) error {
		if err := s.inFlight(r); err != nil {
			return err
		}
		rec := s.state.InFlight.StepNamed(step.name(), r.Reverting)
		if rec == nil || rec.Cursor != record.Cursor || !rec.StartedTime.Equal(record.StartedTime) {
			return errStale // held and resumed meanwhile
		}
		rec.StartedTime = started
		if progress.change != nil {
			if err := progress.change(s); err != nil {
				return err
			}
		}
		if failed != nil {
			return e.stepFailed(s, rec, failed, back)
		}
		rec.Detail, rec.Cursor, rec.PollAt, rec.FailingTime = progress.detail, progress.cursor, e.clock.Now().Add(progress.pollAfter), failing
		if progress.done {
			rec.State, rec.EndedTime, rec.PollAt = rotation.StepDone, e.clock.Now(), time.Time{}
			if step.name() == stepMirror {
				restartAgain(s.state.InFlight, rec)
			}
		}
		return nil
	})
	return err
}

// provePrevious tells why a rotation whose step failed may not go back to the version before, nil
// where that one works. While it is not known, and is to be asked again, failing is since when.
func (e *Engine) provePrevious(ctx context.Context, s *subject, record *rotation.Step, now time.Time) (failing time.Time, why error) {
	why = e.proven(ctx, s, *s.state.Version(s.state.InFlight.PreviousVersion))
	since := record.FailingTime
	if since.IsZero() || since.After(now) { // the clock was set back
		since = now
	}
	if unseen(why) && (now.Before(since.Add(unseenFor)) || e.beat() < unseenFor) {
		failing = since
	}
	return failing, why
}

// stepFailed lets the pointer go back to the version that still lives, or holds
// the rotation for a person: where the operator wants that, where no uncompromised
// earlier version lives, and in a rollback. back is why the earlier version is not proven.
func (e *Engine) stepFailed(s *subject, rec *rotation.Step, failed, back error) error {
	now := e.clock.Now()
	rec.State, rec.EndedTime, rec.FailingTime, rec.Detail = rotation.StepFailed, now, time.Time{}, failureOf(failed, nil).Message
	r := s.state.InFlight
	why := failureOfStep(rec, fault.KindOf(failed))
	s.dirtyIncidents()
	switch {
	case e.goesBack(s) && back == nil:
		return s.state.Revert(now, *why)
	case e.goesBack(s) && errors.Is(back, errStale): // the role wants it since a moment ago
		return back
	case e.goesBack(s):
		why.Message = fmt.Sprintf("%s; readers keep version %d, since version %d is not proven to work: %s", why.Message, r.Version, r.PreviousVersion, back)
		hold(r, why)
	case rec.Name == stepMirror && e.onlyForward(s): // the pods must not wait for it: it is held at the end
	default:
		hold(r, why)
	}
	return nil
}

// onlyForward tells whether nothing can go back from a rotation whose step failed now: it went
// back already, goes to an earlier version itself, or leaves none behind that could take over.
func (e *Engine) onlyForward(s *subject) bool {
	r := s.state.InFlight
	return r.Reverting || r.Trigger == rotation.Rollback || isFirst(r.Trigger) || noWayBack(e.rotators[s.role.Type], s.role) != "" || e.holdDead(s)
}

// holdDead tells whether what dependents hold works no longer, or ends at once, whatever
// triggered the rotation: the version before it, or that before a rotation which they never
// followed.
func (e *Engine) holdDead(s *subject) bool {
	r, u := s.state.InFlight, s.state.Unfollowed
	switch {
	case isFirst(r.Trigger): // nobody holds anything yet
		return false
	case changesInPlace(e.rotators[s.role.Type], s.role):
		return true
	default:
		return !s.lives(r.PreviousVersion) || u != nil && !s.lives(u.PreviousVersion)
	}
}

// lives tells whether whoever read a version may still use it.
func (s *subject) lives(number int) bool {
	v := s.state.Version(number)
	return v != nil && !v.Compromised && (v.State == rotation.Current || v.State == rotation.Retiring && v.RetireBegun.IsZero())
}

func failureOfStep(step *rotation.Step, kind fault.Kind) *rotation.Failure {
	return &rotation.Failure{Kind: string(kind), Message: fmt.Sprintf("step %s failed: %s", step.Name, step.Detail)}
}

// hold lets a rotation wait for a person. Why it went back stays on record beside why it is held.
func hold(r *rotation.Rotation, why *rotation.Failure) {
	if !r.Reverting {
		r.Error = why
	}
	r.Held = why.Message
}

// copyAgain lets the copy that workloads did not wait for be written once more after them, with
// all the time that a step has: what kept it may be over.
func copyAgain(r *rotation.Rotation, now time.Time) bool {
	mirror := r.StepNamed(stepMirror, r.Reverting)
	late := !r.Reverting && r.StepNamed(stepRollout, false) != nil
	if !late || mirror == nil || mirror.State != rotation.StepFailed || mirror.Again {
		return false
	}
	mirror.State, mirror.StartedTime, mirror.EndedTime, mirror.Cursor, mirror.Again = rotation.StepRunning, now, time.Time{}, "", true
	return true
}

// restartAgain lets what was restarted before the copy was written be restarted and asked once
// more: it may have read what the copy held then.
func restartAgain(r *rotation.Rotation, mirror *rotation.Step) {
	if r.Reverting || r.StepNamed(stepRollout, false) == nil {
		return
	}
	mirror.Again = true
	r.Steps = slices.DeleteFunc(r.Steps, func(s rotation.Step) bool { return s.Name == stepRollout || s.Name == stepChecks })
}

// passedOver is the failure of a step that did not keep the others, nil for none.
func passedOver(r *rotation.Rotation) *rotation.Failure {
	for i := range r.Steps {
		if step := &r.Steps[i]; step.State == rotation.StepFailed && step.Back == r.Reverting {
			return failureOfStep(step, fault.Target)
		}
	}
	return nil
}

// unseenFor is for how long the proof of an earlier version is asked for once a step failed,
// where the answer to it proves nothing.
const unseenFor = 5 * time.Minute

// unseen tells an error that proves nothing about a version from one that says that it does
// not work.
func unseen(err error) bool {
	return err != nil && !saysOfVersion(failureOf(err, nil))
}

// goesBack tells whether the rotation in flight is to be reverted once a step failed.
func (e *Engine) goesBack(s *subject) bool {
	return s.role.Policy.OnRolloutFailure == onFailureRollback && !e.onlyForward(s)
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
		s.dirtyIncidents()
		if copyAgain(s.state.InFlight, now) {
			return nil
		}
		if why := passedOver(s.state.InFlight); why != nil && !isFirst(r.Trigger) {
			hold(s.state.InFlight, why)
			return nil
		}
		if r.Reverting {
			return s.state.FinishReverted(now)
		}
		return s.state.Finish(now, e.nextRotation(s, policy, now))
	})
	return err
}

// resume lets a held rotation go on: its failed step runs again from the start. What failed
// before the pointer went back stays on record: the way back follows it.
func resume(r *rotation.Rotation) {
	r.Held = ""
	if !r.Reverting {
		r.Error = nil
	}
	r.Steps = slices.DeleteFunc(r.Steps, func(step rotation.Step) bool {
		return step.State == rotation.StepFailed && step.Back == r.Reverting
	})
}

// again asks later what did not answer, until it is late.
func (r stepRun) again(cursor string, err error) (stepProgress, error) {
	detail := failureOf(err, nil).Message
	if r.late {
		return stepProgress{}, tooLong(r.most, detail)
	}
	return stepProgress{detail: detail, cursor: cursor, pollAfter: pollAnswerless}, nil
}

// readCursor reads what a step left in the journal, and writeCursor leaves it.
func readCursor[C any](text string) (*C, error) {
	if text == "" {
		return nil, nil
	}
	c := new(C)
	if err := json.Unmarshal([]byte(text), c); err != nil {
		return nil, fmt.Errorf("read the cursor of a step: %w", err)
	}
	return c, nil
}

func writeCursor(c any) (string, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("write the cursor of a step: %w", err)
	}
	return string(text), nil
}
