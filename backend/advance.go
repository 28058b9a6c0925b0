package backend

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/schedule"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// maxActs bounds one run of a role, so that a fault of ours cannot spin for ever.
const maxActs = 200

// afterPanic is the wait before a role is looked at again.
const afterPanic = 10 * time.Minute

// survive is deferred around work on one thing: a fault of ours over it must not end the
// others. entry is its place in the index.
func (e *Engine) survive(what, name, entry string) {
	if panicked := recover(); panicked != nil {
		e.logger.Error("gave up on a "+what+" for now", what, name, "panic", panicked, "stack", string(debug.Stack()))
		e.index.set(entry, e.clock.Now().Add(afterPanic))
	}
}

// work is one run of a role: it does what is due, one act after another, until
// nothing is, and notes when to look again. One role's failure is its own.
func (e *Engine) work(ctx context.Context, name string) {
	defer e.survive("role", name, name)
	if connection, ok := strings.CutPrefix(name, ofConnection); ok {
		e.workOnRoots(ctx, connection)
		return
	}
	if incident, ok := strings.CutPrefix(name, ofIncidents); ok {
		e.workOnIncident(ctx, incident)
		return
	}
	ctx = withRun(ctx)
	for range maxActs {
		next, err := e.workOnce(ctx, name)
		switch {
		case err == nil && next == nil:
			continue
		case err == nil:
			e.memory.healthy(name)
			e.index.set(name, *next)
			e.nudge()
			return
		case errors.Is(err, errStale):
			continue
		case ctx.Err() != nil:
			return // interrupted: runs again at once, or goes on in the next process
		case fault.Is(err, fault.NotFound):
			e.forgetGone(ctx, name)
			return
		case errors.Is(err, errLetOthersFirst):
			e.workers.add(forMany, name)
			return
		case errors.Is(err, errPassedOver):
			e.index.forget(name) // a rebuild finds it again
			return
		default:
			wait := e.memory.fault(name)
			e.logger.Error("could not go on with a role", "role", name, "error", err, "retry_in", wait)
			e.index.set(name, e.clock.Now().Add(wait))
			e.nudge()
			return
		}
	}
	e.logger.Error("a role did not come to rest", "role", name)
	e.index.set(name, e.clock.Now().Add(time.Minute))
}

// workOnce does the one thing that is due, or says when to look again.
func (e *Engine) workOnce(ctx context.Context, name string) (next *time.Time, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s, err := e.resumeRun(ctx, name)
	incident := e.undeclared.of(name)
	if gone := fault.Is(err, fault.NotFound) && incident != nil; err != nil && !gone {
		return nil, err
	}
	if e.config.Load().Paused || !e.system.Writable() {
		return nil, errPassedOver
	}
	if s == nil {
		return nil, e.declareGone(ctx, name, incident)
	}
	v, err := e.view(s)
	if err != nil {
		return nil, err
	}
	d := decide(v)
	if d.act == actNothing {
		e.summaries.set(s) // should the index have failed to read it
		return &d.at, nil
	}
	e.logger.Debug("acting", "role", name, "act", string(d.act), "version", d.version)
	return nil, e.perform(ctx, s, d)
}

// view gathers what decide looks at.
func (e *Engine) view(s *subject) (view, error) {
	policy, err := e.policyOf(s.role)
	if err != nil {
		return view{}, err
	}
	kind, err := e.kindOf(s.role.Type)
	if err != nil {
		return view{}, err
	}
	v := view{
		role: s.role, state: s.state, now: e.clock.Now(), policy: policy, print: fingerprint(s.role.Policy),
		undeclared: e.undeclared.of(s.name),
		served:     e.beat(), looks: e.memory.looks(s.name, e.spread), buried: s.buried,
	}
	v.announce, v.soak = announceAhead(kind, s.role), soakOf(kind, s.role)
	if v.data, err = dataPolicyOf(kind, s.role); err != nil {
		return view{}, err
	}
	if v.data != nil {
		v.runsData, v.missed = e.reencryptions.busy(s.name), len(e.memory.missed(s.name)) > 0
	}
	if s.role.Policy.Mirror != "" {
		if v.mirrorPrint, err = fieldsPrint(s.role.Policy); err != nil {
			return view{}, err
		}
	}
	v.telling = e.telling(s, kind, v.now)
	for _, ev := range s.state.Events {
		if !e.memory.delivered(s.name, ev.ID) {
			v.undelivered++
		}
	}
	return v, nil
}

func (e *Engine) perform(ctx context.Context, s *subject, d decision) error {
	switch d.act {
	case actDeclare:
		return e.declare(ctx, s, d.incident)
	case actBury:
		return e.bury(ctx, s)
	case actPolicy:
		return e.adoptPolicy(ctx, s)
	case actKill:
		return e.killCurrent(ctx, s, d.version)
	case actDisable:
		return e.disable(ctx, s, d.version)
	case actDestroy:
		return e.destroy(ctx, s, d.version)
	case actProve:
		return e.prove(ctx, s, d.version)
	case actIncident:
		return e.recordIncidents(ctx, s)
	case actAdvance:
		return e.advance(ctx, s)
	case actUndo:
		return e.undo(ctx, s, d.version)
	case actBegin:
		if e.undeclared.letOthersFirst(s.name, s.state.Intent.IncidentID) {
			return errLetOthersFirst
		}
		return e.begin(ctx, s, *s.state.Intent)
	case actSchedule:
		return e.beginScheduled(ctx, s)
	case actWithdraw:
		return e.withdraw(ctx, s, d.version)
	case actAhead:
		return e.makeAhead(ctx, s)
	case actStage:
		return e.stageScheduled(ctx, s)
	case actPromote:
		return e.promoteStaged(ctx, s, d.version)
	case actKeep:
		return e.keepUntil(ctx, s)
	case actMissed:
		return e.recordMissed(ctx, s)
	case actPlanData:
		return e.planReencryption(ctx, s)
	case actData:
		e.reencryptions.start(s.name, s.state.Reencryption.ID)
		return nil
	case actCheck:
		return e.check(ctx, s)
	case actCopy:
		return e.lookAtCopy(ctx, s)
	case actMirror:
		return e.mirror(ctx, s)
	case actTrim:
		return e.trim(ctx, s)
	case actAlarm:
		return e.reviewAlarm(ctx, s)
	case actWindow:
		return e.tellWindow(ctx, s)
	case actForetell:
		return e.foretell(ctx, s)
	case actUse:
		return e.askUse(ctx, s, d.version)
	case actEvents:
		return e.handOver(ctx, s)
	default:
		return fmt.Errorf("no such act: %s", d.act)
	}
}

// advance takes the rotation in flight one step further, whatever triggered it.
// The next effect outside happens only after the Put of the step before.
func (e *Engine) advance(ctx context.Context, s *subject) error {
	switch s.state.InFlight.Phase {
	case rotation.Planned:
		return e.prepare(ctx, s)
	case rotation.Prepared, rotation.Verified:
		return e.verifyAndSwitch(ctx, s)
	case rotation.Active:
		return e.advanceSteps(ctx, s)
	default:
		return fmt.Errorf("rotation %s in flight in phase %q", s.state.InFlight.ID, s.state.InFlight.Phase)
	}
}

type effectOnTarget func(rotator.Rotator, context.Context, *rotator.Target) error

// prepare makes the candidate valid at the target.
func (e *Engine) prepare(ctx context.Context, s *subject) error {
	r := s.state.InFlight
	kind, err := e.kindOf(s.role.Type)
	if err != nil {
		return err
	}
	if mints(kind, s.role) && !s.state.Candidate().HasMaterial {
		return e.mintCandidate(ctx, s, kind)
	}
	if !readyAlready(kind, s) {
		if failed, err := e.onCandidate(ctx, s, kind, rotator.Rotator.Prepare); failed || err != nil {
			return err
		}
	}
	_, err = e.update(ctx, s.name, func(s *subject) error {
		if err := s.inFlight(r); err != nil {
			return err
		}
		return s.state.Reach(rotation.Prepared)
	})
	return err
}

// verifyAndSwitch proves that the candidate works and switches readers to it: one Put
// moves the pointer and the phase, and ends the rotation where no step follows. A crash
// before it only proves once more.
func (e *Engine) verifyAndSwitch(ctx context.Context, s *subject) error {
	r := s.state.InFlight
	kind, err := e.kindOf(s.role.Type)
	if err != nil {
		return err
	}
	policy, err := e.policyOf(s.role)
	if err != nil {
		return err
	}
	if failed, err := e.onCandidate(ctx, s, kind, rotator.Rotator.Verify); failed || err != nil {
		return err
	}
	_, err = e.update(ctx, s.name, func(s *subject) error {
		if err := s.inFlight(r); err != nil {
			return err
		}
		s.dirtyIncidents()
		now := e.clock.Now()
		if err := s.activate(now); err != nil || e.hasSteps(s, s.state.InFlight) {
			return err
		}
		return s.state.Finish(now, e.nextRotation(s, policy, now))
	})
	if err == nil && r.Trigger != rotation.Initial && r.Trigger != rotation.Import {
		// Looked at a moment ago. A new role still has to be: somebody else may keep
		// one of its name.
		e.memory.looked(s.name, lookAtTarget, e.clock.Now())
	}
	return err
}

// activate moves the pointer to the candidate, which was verified.
func (s *subject) activate(now time.Time) error {
	if s.state.InFlight.Phase == rotation.Prepared {
		if err := s.state.Reach(rotation.Verified); err != nil {
			return err
		}
	}
	return s.state.Activate(now, s.role.Policy.Grace)
}

// onCandidate does one effect on the candidate; a failure is recorded.
func (e *Engine) onCandidate(ctx context.Context, s *subject, kind rotator.Rotator, effect effectOnTarget) (failed bool, err error) {
	t, err := e.target(ctx, s, *s.state.Candidate())
	if err == nil {
		err = e.effect(ctx, func(ctx context.Context) error { return effect(kind, ctx, t) })
	}
	if err == nil || errors.Is(err, errInterrupted) || isStorage(err) {
		return false, err
	}
	return true, e.failRotation(ctx, s, err, t)
}

// readyAlready tells whether the candidate needs no Prepare: it lives, or stands by.
func readyAlready(kind rotator.Rotator, s *subject) bool {
	v := s.state.Candidate()
	lives := v.State == rotation.Retiring && v.RetireBegun.IsZero() || v.State == rotation.Standby || v.State == rotation.Current
	return lives && !changesInPlace(kind, s.role)
}

// failRotation records a failure before the switch, and what follows it.
func (e *Engine) failRotation(ctx context.Context, s *subject, cause error, t *rotator.Target) error {
	r := s.state.InFlight
	why := failureOf(cause, materialOf(t))
	id, err := newID()
	if err != nil {
		return err
	}
	_, err = e.update(ctx, s.name, func(s *subject) error {
		if err := s.inFlight(r); err != nil {
			return err
		}
		now := e.clock.Now()
		notMinted(s.state.Candidate(), why)
		then := e.afterFailure(s, s.state.InFlight, why, id)
		s.dirtyIncidents()
		if err := s.state.Fail(now, why, then); err != nil {
			return err
		}
		if v := s.state.Version(r.Version); v != nil && e.broken(s, v, why) {
			if err := s.state.DropStandby(); err != nil { // else every attempt would take it
				return err
			}
		}
		if r.Trigger == rotation.Initial || r.Trigger == rotation.Import {
			return s.state.Delete(now)
		}
		return nil
	})
	e.logger.Warn("a rotation failed", "role", s.name, "rotation_id", r.ID, "phase", string(r.Phase), "attempt", r.Attempt, "error", why.Message)
	return err
}

// broken tells a standby version that will not do better the next time from a target
// that did not answer. What a person handed in is given up only when it is refused.
func (e *Engine) broken(s *subject, v *rotation.Version, why rotation.Failure) bool {
	switch {
	case v.State != rotation.Standby || v.Returns:
		return false
	case v.Staged:
		return why.Kind == string(fault.AuthFailed)
	default:
		return saysOfVersion(why) && announceAhead(e.rotators[s.role.Type], s.role) > 0
	}
}

// saysOfVersion tells whether a failure is about the version, and not about a target that
// did not answer.
func saysOfVersion(why rotation.Failure) bool {
	return why.Kind == string(fault.AuthFailed) || why.Kind == string(fault.Target)
}

// afterFailure decides between a next attempt, waiting for a person, and nothing:
// a role that never was makes no second attempt, nor does a rollback.
func (e *Engine) afterFailure(s *subject, r *rotation.Rotation, why rotation.Failure, nextID string) rotation.AfterFailure {
	switch {
	case r.Trigger == rotation.Initial, r.Trigger == rotation.Import:
		return rotation.AfterFailure{}
	case r.Trigger == rotation.Rollback:
		return rotation.AfterFailure{Blocked: s.state.Blocked}
	case why.Kind == string(fault.Unconfirmed) && changesInPlace(e.rotators[s.role.Type], s.role):
		return rotation.AfterFailure{Blocked: fmt.Sprintf("the answer that had the new secret was lost, and the earlier one may be refused: %s; rotate again, or hand a new one in with stage/%s", why.Message, s.name)}
	case r.Attempt >= s.role.Policy.MaxAttempts:
		return rotation.AfterFailure{GiveUp: saysOfVersion(why), Blocked: fmt.Sprintf("%d attempts failed, the last with: %s", r.Attempt, why.Message)}
	}
	then := rotation.AfterFailure{Retry: r.Retry(nextID, e.clock.Now().Add(schedule.Backoff(r.Attempt+1)))}
	if irreversible(e.rotators[s.role.Type], s.role) {
		then.Keep, then.Retry.Version = true, r.Version
	}
	return then
}

// irreversible tells whether what a role's rotations do at the target cannot be undone.
func irreversible(kind rotator.Rotator, role *store.Role) bool {
	i, ok := kind.(rotator.Irreversible)
	return ok && i.PrepareIsIrreversible(roleView(role, nil))
}

// noWayBack is why no earlier version of a role becomes current again; "" where one may.
func noWayBack(kind rotator.Rotator, role *store.Role) string {
	if f, ok := kind.(rotator.OnlyForward); ok {
		return f.NoWayBack(roleView(role, nil))
	}
	return ""
}

// retryAfter is the wait after so many attempts of an effect on a version.
func retryAfter(attempts int) time.Duration { return schedule.Backoff(attempts + 1) }
