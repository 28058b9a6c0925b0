package backend

import (
	"context"
	"errors"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/schedule"
)

// disable is the first stage of a version's end. That it begins is journalled
// before the effect: from then on nobody is given this version again.
func (e *Engine) disable(ctx context.Context, s *subject, number int) error {
	v := s.state.Version(number)
	if v.RetireBegun.IsZero() {
		if waits, err := e.waitsForIdle(ctx, s, v); waits || err != nil {
			return err
		}
		_, err := e.update(ctx, s.name, func(s *subject) error {
			v, err := s.version(number, rotation.Retiring)
			if err != nil {
				return err
			}
			if s.state.InFlight != nil && !v.Compromised { // began meanwhile
				return errStale
			}
			s.state.BeginRetire(number, e.clock.Now())
			return nil
		})
		return err
	}
	progress, failed, err := e.end(ctx, s, v, rotator.Disable)
	if err != nil {
		return err
	}
	data, err := dataPolicyOf(e.rotators[s.role.Type], s.role)
	if err != nil {
		return err
	}
	_, err = e.update(ctx, s.name, func(s *subject) error {
		v, err := s.version(number, rotation.Retiring)
		if err != nil {
			return err
		}
		now := e.clock.Now()
		s.dirtyIncidents()
		if e.notDone(v, progress, failed) {
			v.SessionsEnded += progress.SessionsEnded
			return nil
		}
		if err := s.state.DisableDone(number, now.Add(progress.DestroyAfter), progress.SessionsEnded); err != nil || data == nil || s.state.Deleted {
			return err
		}
		v.DestroyFrom = now
		s.state.KeepUntil(data.DestroyAfter, true)
		return nil
	})
	return err
}

// destroy is the second stage: nothing of the version is left outside, or a
// sentence says what is and why.
func (e *Engine) destroy(ctx context.Context, s *subject, number int) error {
	v := s.state.Version(number)
	progress, failed, err := e.end(ctx, s, v, rotator.Destroy)
	if err != nil {
		return err
	}
	_, err = e.update(ctx, s.name, func(s *subject) error {
		v, err := s.version(number, rotation.Disabled)
		if err != nil {
			return err
		}
		if !s.state.Deleted && !v.MayDestroy() { // somebody had need of it meanwhile
			return errStale
		}
		s.dirtyIncidents()
		v.SessionsEnded += progress.SessionsEnded
		if e.notDone(v, progress, failed) {
			return nil
		}
		return s.state.DestroyDone(number, e.clock.Now(), progress.Left)
	})
	return err
}

// end calls Retire. failed is the target's answer, err our own trouble.
func (e *Engine) end(ctx context.Context, s *subject, v *rotation.Version, stage rotator.Stage) (progress rotator.Progress, failed, err error) {
	return e.ending(ctx, s, v, func(ctx context.Context, kind rotator.Rotator, t *rotator.Target) (rotator.Progress, error) {
		return kind.Retire(ctx, t, stage)
	})
}

func (e *Engine) ending(ctx context.Context, s *subject, v *rotation.Version,
	call func(context.Context, rotator.Rotator, *rotator.Target) (rotator.Progress, error),
) (progress rotator.Progress, failed, err error) {
	kind, err := e.kindOf(s.role.Type)
	if err != nil {
		return progress, nil, err
	}
	t, err := e.target(ctx, s, *v)
	if err == nil {
		err = e.effect(ctx, func(ctx context.Context) (err error) {
			progress, err = call(ctx, kind, t)
			return err
		})
	}
	if errors.Is(err, errInterrupted) || isStorage(err) {
		return progress, nil, err
	}
	if err != nil {
		err = errors.New(failureOf(err, materialOf(t)).Message)
	}
	return progress, err, nil
}

// notDone records the back-off of an effect on a version that is still to be done.
func (e *Engine) notDone(v *rotation.Version, progress rotator.Progress, failed error) bool {
	now := e.clock.Now()
	switch {
	case failed != nil:
		v.Attention = attention(v.Attention, now, failed.Error(), 0, true)
	case progress.NotYet != "":
		v.Attention = attention(v.Attention, now, progress.NotYet, progress.AskAgain, false)
		v.Attention.Person = progress.Person
	default:
		return false
	}
	return true
}

// killCurrent ends the leaked version that readers still get: kill_first.
func (e *Engine) killCurrent(ctx context.Context, s *subject, number int) error {
	v := s.state.Version(number)
	progress, failed, err := e.end(ctx, s, v, rotator.Disable)
	if err != nil {
		return err
	}
	_, err = e.update(ctx, s.name, func(s *subject) error {
		v, err := s.version(number, rotation.Current)
		if err != nil {
			return err
		}
		s.dirtyIncidents()
		v.SessionsEnded += progress.SessionsEnded
		if !e.notDone(v, progress, failed) {
			v.KilledTime = e.clock.Now()
		}
		return nil
	})
	return err
}

// prove asks the target whether it really refuses a version that was ended.
func (e *Engine) prove(ctx context.Context, s *subject, number int) error {
	kind, err := e.kindOf(s.role.Type)
	if err != nil {
		return err
	}
	v := s.state.Version(number)
	proof, alive := rotation.Proof{Unprovable: true, Result: "this type of secret has no way to prove it"}, false
	prober, provable := kind.(rotator.Prober)
	if provable {
		t, err := e.target(ctx, s, *v)
		var answer rotator.Proof
		if err == nil {
			err = e.effect(ctx, func(ctx context.Context) (err error) {
				answer, err = prober.Probe(ctx, t)
				return err
			})
		}
		switch {
		case errors.Is(err, errInterrupted), isStorage(err):
			return err
		case err != nil:
			proof = rotation.Proof{Result: "not proven: " + failureOf(err, nil).Message}
		default:
			proof = rotation.Proof{Dead: answer.Dead, Result: answer.Result, Unprovable: answer.Unprovable}
			alive = answer.Alive
		}
	}
	proof.Time = e.clock.Now()
	_, err = e.update(ctx, s.name, func(s *subject) error {
		v, err := s.version(number, v.State)
		if err != nil {
			return err
		}
		s.dirtyIncidents()
		if proof.Since = proof.Time; v.Proof != nil && !v.Proof.Since.IsZero() {
			proof.Since = v.Proof.Since
		}
		proof.Unprovable = proof.Unprovable && (!provable || s.state.Deleted) // else a successor may be the witness
		v.Proof = &proof
		if alive { // its end took no hold, or did not last
			v.Undo = v.State == rotation.Disabled || v.State == rotation.Retired
			v.KilledTime = time.Time{}
			v.Attention = attention(v.Attention, proof.Time, proof.Result, 0, false)
		}
		return nil
	})
	return err
}

// undo discards what an abandoned candidate left outside. A version that a
// rollback tried to bring back is ended again.
func (e *Engine) undo(ctx context.Context, s *subject, number int) error {
	v := s.state.Version(number)
	progress, failed, err := e.ending(ctx, s, v, func(ctx context.Context, kind rotator.Rotator, t *rotator.Target) (rotator.Progress, error) {
		switch v.State {
		case rotation.Disabled:
			return kind.Retire(ctx, t, rotator.Disable)
		case rotation.Retired:
			if p, err := kind.Retire(ctx, t, rotator.Disable); err != nil || p.NotYet != "" {
				return p, err
			}
			return kind.Retire(ctx, t, rotator.Destroy)
		default:
			return kind.Discard(ctx, t)
		}
	})
	if err != nil {
		return err
	}
	_, err = e.update(ctx, s.name, func(s *subject) error {
		v := s.state.Version(number)
		if v == nil || !v.Undo {
			return errStale
		}
		if e.notDone(v, progress, failed) {
			return nil
		}
		if progress.Left != "" {
			v.Left = progress.Left
		}
		if v.Lost() { // stored in vain, should the journal not have learned of it
			if err := e.store.DeleteMaterial(ctx, s.name, number); err != nil {
				return err
			}
		}
		return s.state.UndoDone(number, e.clock.Now())
	})
	return err
}

// trim destroys material that nothing will ask for again, and forgets versions
// beyond the role's max_versions.
func (e *Engine) trim(ctx context.Context, s *subject) error {
	_, err := e.update(ctx, s.name, func(s *subject) error {
		if s.state.InFlight != nil {
			return errStale
		}
		for _, number := range s.expired() {
			if err := e.store.DeleteMaterial(ctx, s.name, number); err != nil {
				return err
			}
			s.state.Version(number).HasMaterial = false
		}
		for _, number := range s.state.Trim(s.role.Policy.MaxVersions) {
			if err := e.store.DeleteMaterial(ctx, s.name, number); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// expired tells whether a version's material can be of no use any more.
func expired(v *rotation.Version) bool {
	return v.HasMaterial && v.Settled() && (v.Compromised || v.KeepsData || v.State == rotation.Discarded && v.Left == "")
}

// expired lists such versions.
func (s *subject) expired() (numbers []int) {
	for i := range s.state.Versions {
		v := &s.state.Versions[i]
		if expired(v) {
			numbers = append(numbers, v.Number)
		}
	}
	return numbers
}

// Retire ends a retiring version before its time.
func (e *Engine) Retire(ctx context.Context, name string, r RetireRequest) (*rotation.Version, error) {
	if err := e.allowed(); err != nil {
		return nil, err
	}
	var number int
	var last rotation.Version
	_, err := e.update(ctx, name, func(s *subject) error { // of a deleted role too: a person may have to end what it left
		if s.state.InFlight != nil {
			return conflictInFlight(s.state.InFlight)
		}
		if s.state.Divergence != nil {
			return conflictDiverged(s)
		}
		v, err := s.retirable(r.Version)
		if err != nil {
			return err
		}
		now := e.clock.Now()
		if err := e.dataAllows(ctx, s, v, r.Force, now); err != nil {
			return err
		}
		if until := e.ttlsEnd(s, v); !r.Force && !v.Compromised && v.RetireBegun.IsZero() && until.After(now) {
			return fault.New(fault.Conflict, "version %d may be in use until %s by readers that were promised so: retire it then, or with force=true", v.Number, until.Format(time.RFC3339))
		}
		number = v.Number
		v.RetireNow(now)
		last = *v
		return nil
	})
	if err != nil {
		return nil, e.unsure(name, err)
	}
	e.workers.add(forOne, name)
	s, err := e.await(ctx, name, r.Wait, func(s *subject) bool {
		v := s.state.Version(number)
		return v == nil || v.Settled() || v.Attention != nil || v.State == rotation.Disabled && v.ProvenDead() && (v.DestroyAt.IsZero() || v.DestroyAt.After(e.clock.Now()))
	})
	if err != nil && !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	if err == nil {
		if v := s.state.Version(number); v != nil {
			return v, nil
		}
	}
	last.State, last.RetiredTime = rotation.Retired, e.clock.Now() // it is gone, and so is its record
	return &last, nil
}

// dataAllows refuses to end a version while what it made may be stored somewhere, unless
// that is forced. Where the role has no targets, a person says that nothing is left.
func (e *Engine) dataAllows(ctx context.Context, s *subject, v *rotation.Version, force bool, now time.Time) error {
	policy, err := dataPolicyOf(e.rotators[s.role.Type], s.role)
	if err != nil || policy == nil || force || !v.Holds() {
		return err
	}
	names, err := e.store.Targets(ctx, s.name)
	if err != nil {
		return err
	}
	if len(names) > 0 {
		return fault.New(fault.Conflict, "version %d is needed until no target holds anything that it made, which reencrypt/%s tells; with force=true it decrypts no more from now on, until reencrypt/%s/reopen", v.Number, s.name, s.name)
	}
	if at := v.DeactivatedTime.Add(policy.Settle); at.After(now) {
		return fault.New(fault.Conflict, "what version %d encrypted may still be on its way until %s (settle_period): retire it then, or with force=true", v.Number, at.Format(timeFormat))
	}
	return nil
}

// retirable finds the version to retire: the named one, or the oldest retiring.
func (s *subject) retirable(number int) (*rotation.Version, error) {
	var oldest *rotation.Version
	for i := range s.state.Versions {
		v := &s.state.Versions[i]
		if v.State != rotation.Retiring || number != 0 && v.Number != number {
			continue
		}
		if oldest == nil || v.Number < oldest.Number {
			oldest = v
		}
	}
	if oldest != nil {
		return oldest, nil
	}
	if number == 0 {
		return nil, fault.New(fault.Conflict, "no version of %s is retiring", s.name)
	}
	v := s.state.Version(number)
	if v == nil {
		return nil, fault.Field("version", "%s has no version %d", s.name, number)
	}
	return nil, fault.New(fault.Conflict, "version %d of %s is %s: only a retiring version can be retired", number, s.name, v.State)
}

// ttlsEnd is until when a reader may rely on a retiring version: whoever read it
// while it was current, by its own path, or from an earlier process; or on what it made.
func (e *Engine) ttlsEnd(s *subject, v *rotation.Version) time.Time {
	grace := v.Grace.Std()
	end := v.DeactivatedTime.Add(schedule.Settle(grace))
	if kind, known := e.rotators[s.role.Type]; known && kind.Kind().Outlives {
		end = v.DeactivatedTime.Add(grace)
	}
	if issued := e.memory.issuedUntil(s.name, v.Number); issued.After(end) {
		end = issued
	}
	if settled := e.clock.Now().Add(schedule.Settle(grace) - e.beat()); settled.After(end) {
		end = settled
	}
	return end
}
