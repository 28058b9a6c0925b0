package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/schedule"
)

// drainEvery is the wait before transactions are looked at again.
const drainEvery = 15 * time.Second

// planReencryption makes the job by which data follows the current version, or repeats the
// count that a destruction waits for.
func (e *Engine) planReencryption(ctx context.Context, s *subject) error {
	policy, err := dataPolicyOf(e.rotators[s.role.Type], s.role)
	if err != nil {
		return err
	}
	id, err := newID()
	if err != nil {
		return err
	}
	_, err = e.update(ctx, s.name, func(s *subject) error {
		st, now := s.state, e.clock.Now()
		held, recount, _ := dataWork(st, now)
		switch {
		case st.Deleted || st.InFlight != nil || st.Current == 0:
			return errStale
		case held:
			st.PlanReencryption(id, st.ActivatedTime.Add(policy.After), now)
		case recount:
			job := st.PlanReencryption(id, now, now)
			job.Phase, job.Recount = rotation.Counting, true
		default:
			return errStale
		}
		s.dirtyIncidents()
		return nil
	})
	return err
}

// keepUntil lets the ends of disabled versions' material follow a changed destroy_after.
func (e *Engine) keepUntil(ctx context.Context, s *subject) error {
	_, err := e.update(ctx, s.name, func(s *subject) error {
		policy, err := dataPolicyOf(e.rotators[s.role.Type], s.role)
		if err != nil {
			return err
		}
		if !s.state.KeepUntil(policy.DestroyAfter, true) {
			return errStale
		}
		return nil
	})
	return err
}

// recordMissed notes which versions somebody had need of after their end, where that can be
// believed: whoever may ask can make up a ciphertext.
func (e *Engine) recordMissed(ctx context.Context, s *subject) error {
	policy, err := dataPolicyOf(e.rotators[s.role.Type], s.role)
	if err != nil {
		return err
	}
	var believed []int
	missed := e.memory.missed(s.name)
	for _, m := range missed {
		believe, err := e.believes(ctx, s, m)
		if err != nil {
			return err
		}
		if believe {
			believed = append(believed, m.version)
		}
	}
	now := e.clock.Now()
	if len(believed) > 0 {
		_, err = e.update(ctx, s.name, func(s *subject) error {
			for _, number := range believed {
				s.state.Miss(number, policy.DestroyAfter, now)
			}
			s.dirtyIncidents()
			return nil
		})
		if err != nil {
			return err
		}
		e.logger.Warn("somebody asked to decrypt what versions made that ended: data of theirs is still there", "role", s.name, "versions", believed)
	}
	e.memory.recordedMissed(s.name, missed, now)
	return nil
}

// believes tries the key of a version that ended, where it is kept.
func (e *Engine) believes(ctx context.Context, s *subject, m missedVersion) (bool, error) {
	v := s.state.Version(m.version)
	if v == nil || !v.HasMaterial || m.made == nil {
		return true, nil // nobody can tell
	}
	material, err := e.material(ctx, s.name, m.version)
	if err != nil {
		return false, err
	}
	user, err := e.liveUser(s.name, s.role.Type)
	if err != nil {
		return false, err
	}
	ready, err := user.Load(v, material)
	return err != nil || m.made(ready), nil //nolint:nilerr // nobody can tell
}

// errEnough ends a run of the job: it goes on later, or not at all.
var errEnough = errors.New("enough for now")

// reencrypt goes on with a role's job until it has to wait.
func (e *Engine) reencrypt(ctx context.Context, name string) {
	for {
		job, err := e.reencryptOnce(ctx, name)
		switch {
		case err == nil, errors.Is(err, errStale):
		case errors.Is(err, errEnough), ctx.Err() != nil, fault.Is(err, fault.NotFound):
			return
		default:
			if job == nil || e.postponeReencryption(ctx, name, job, err) != nil {
				e.logger.Error("could not go on with a re-encryption", "role", name, "error", failureOf(err, nil).Message)
				return // the role is looked at again, and with it the job
			}
		}
	}
}

// reencryptOnce does the phase at which the job is, if it is time for it.
func (e *Engine) reencryptOnce(ctx context.Context, name string) (*rotation.Reencryption, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if e.config.Load().Paused || !e.system.Writable() {
		return nil, errEnough
	}
	s, err := e.load(ctx, name)
	if err != nil {
		return nil, err
	}
	v, err := e.view(s)
	if err != nil {
		return nil, err
	}
	v.runsData = false // it is we who run
	if d := ruleData(v); d.at.IsZero() || d.at.After(v.now) {
		return nil, errEnough
	}
	job := s.state.Reencryption
	e.logger.Debug("re-encryption goes on", "role", name, "phase", string(job.Phase), "round", job.Round)
	switch job.Phase {
	case rotation.Rewriting:
		err = e.rewrite(ctx, s, v.data)
	case rotation.Settling:
		err = e.settle(ctx, s, v.data)
	case rotation.Draining:
		err = e.drain(ctx, s)
	case rotation.Counting:
		err = e.count(ctx, s, v.data)
	default:
		err = fmt.Errorf("a re-encryption in phase %q", job.Phase)
	}
	return job, err
}

// changeJob commits a step of the job, unless it is another one by now, or stands elsewhere.
func (e *Engine) changeJob(ctx context.Context, name string, was *rotation.Reencryption, change func(*subject, *rotation.Reencryption) error) error {
	_, err := e.update(ctx, name, func(s *subject) error {
		job := s.state.Reencryption
		if !job.Same(was) || s.state.Current != job.Version {
			return errEnough
		}
		return change(s, job)
	})
	return err
}

// postponeReencryption records why the job does not go on now.
func (e *Engine) postponeReencryption(ctx context.Context, name string, was *rotation.Reencryption, cause error) error {
	if isStorage(cause) {
		return cause
	}
	why := failureOf(cause, nil)
	return e.changeJob(ctx, name, was, func(s *subject, job *rotation.Reencryption) error {
		now := e.clock.Now()
		job.Failed(why.Message, now.Add(schedule.Backoff(job.Failures+2)))
		if job.Failures == 1 {
			s.state.Emit(rotation.Event{
				ID: fmt.Sprintf("%s/reencryption.failing/%d", job.ID, now.Unix()), Type: "reencryption.failing", Time: now, Data: map[string]string{"error": why.Message},
			})
		}
		s.dirtyIncidents()
		return nil
	})
}

// settledAt is from when on what versions encrypted last is no more on its way. The clock of
// the wall may have jumped, or be another node's: this process must have served for as long.
func (e *Engine) settledAt(s *subject, numbers []int, policy *dataPolicy) time.Time {
	now := e.clock.Now()
	at := s.state.SettledAt(numbers, policy.Settle)
	for _, n := range numbers {
		since := min(policy.Settle, now.Sub(s.state.Version(n).DeactivatedTime))
		at = later(at, now.Add(since-e.beat()))
	}
	return at
}

// settle waits until what the versions encrypted last has been stored, and what was read of
// rows before they were rewritten has been decrypted, or stored again. From then on only a
// transaction that lives may still bring some of it.
func (e *Engine) settle(ctx context.Context, s *subject, policy *dataPolicy) error {
	living, err := e.transactions(ctx, s)
	if err != nil {
		return err
	}
	drains := map[string]map[string]bool{}
	for connection, each := range living {
		drains[connection] = ids(each)
	}
	return e.changeJob(ctx, s.name, s.state.Reencryption, func(s *subject, job *rotation.Reencryption) error {
		now := e.clock.Now()
		if at := e.settledAt(s, s.state.Holding(), policy); at.After(now) {
			job.At = at
			return nil
		}
		job.Drain(drains, now, "")
		return nil
	})
}

// drain waits until the transactions that lived then have ended.
func (e *Engine) drain(ctx context.Context, s *subject) error {
	living, err := e.transactions(ctx, s)
	if err != nil {
		return err
	}
	left, what := map[string]map[string]bool{}, []string{}
	for connection, known := range s.state.Reencryption.Drains {
		still := undrained(known, living[connection])
		left[connection] = ids(still)
		for _, t := range still {
			what = append(what, fmt.Sprintf("%s on connection %s", t.What, connection))
		}
	}
	slices.Sort(what)
	return e.changeJob(ctx, s.name, s.state.Reencryption, func(_ *subject, job *rotation.Reencryption) error {
		now := e.clock.Now()
		if len(what) == 0 {
			job.To(rotation.Counting, now)
			return nil
		}
		job.Drain(left, now.Add(drainEvery), "waits for transactions that may still bring what earlier versions encrypted: "+joinFirst(what, 5))
		return nil
	})
}

// ids are those of transactions, and whether each is a prepared one.
func ids(transactions []reencrypt.Transaction) map[string]bool {
	out := map[string]bool{}
	for _, t := range transactions {
		out[t.ID] = t.Prepared
	}
	return out
}

// undrained are those of the known transactions that live still. One of a session that is
// gone may have been prepared, and lives on under another name: then every prepared one is
// waited for.
func undrained(known map[string]bool, living []reencrypt.Transaction) (left []reencrypt.Transaction) {
	now := ids(living)
	gone := false
	for id, prepared := range known {
		_, lives := now[id]
		gone = gone || !lives && !prepared
	}
	for _, t := range living {
		if _, waited := known[t.ID]; waited || gone && t.Prepared {
			left = append(left, t)
		}
	}
	return left
}

// count looks whether anything is left of what the versions made that are to end.
func (e *Engine) count(ctx context.Context, s *subject, policy *dataPolicy) error {
	found, err := e.countTargets(ctx, s)
	if err != nil {
		return err
	}
	since := map[int]time.Time{}
	for i := range s.state.Versions {
		since[s.state.Versions[i].Number] = s.state.Versions[i].DeactivatedTime
	}
	return e.changeJob(ctx, s.name, s.state.Reencryption, func(s *subject, job *rotation.Reencryption) error {
		now := e.clock.Now()
		if at := e.settledAt(s, s.state.Holding(), policy); at.After(now) && !job.Recount { // a version was reopened meanwhile
			job.To(rotation.Settling, at)
			return nil
		}
		s.state.Counted(found, since, policy.DestroyAfter, now)
		s.dirtyIncidents()
		return nil
	})
}
