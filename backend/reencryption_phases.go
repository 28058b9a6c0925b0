package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/schedule"
)

// recountEvery is the wait before what no pass could move is looked at again, drainEvery
// the one before transactions are, anotherRound the one before rows that came late are.
const (
	recountEvery = 24 * time.Hour
	drainEvery   = 15 * time.Second
	anotherRound = time.Minute
)

// planReencryption makes the job by which data follows the current version, or repeats the
// count that a destruction waits for.
func (e *Engine) planReencryption(ctx context.Context, s *subject) error {
	kind, err := e.kindOf(s.role.Type)
	if err != nil {
		return err
	}
	policy, err := dataPolicyOf(kind, s.role)
	if err != nil {
		return err
	}
	id, err := newID()
	if err != nil {
		return err
	}
	_, err = e.update(ctx, s.name, func(s *subject) error {
		st, now := s.state, e.clock.Now()
		job := &rotation.Reencryption{ID: id, Version: st.Current, Phase: rotation.Rewriting, Round: 1, CreatedTime: now, Urgent: s.dataLeaked()}
		held := len(st.Holding()) > 0 && (st.Reencryption == nil || st.Reencryption.Version != st.Current)
		recount, _ := st.ToRecount(now)
		switch {
		case st.Deleted || st.InFlight != nil || st.Current == 0:
			return errStale
		case held && job.Urgent:
			job.At = now
		case held:
			job.At = st.ActivatedTime.Add(policy.After)
		case len(recount) > 0:
			job.At, job.Phase = now, rotation.Counting
		default:
			return errStale
		}
		st.Reencryption = job
		s.dirtyIncidents()
		return nil
	})
	return err
}

// dataLeaked tells whether a version that leaked is held by its data.
func (s *subject) dataLeaked() bool {
	return slices.ContainsFunc(s.state.Versions, func(v rotation.Version) bool { return v.Compromised && v.Holds() })
}

// recordMissed notes which versions somebody had need of after their end.
func (e *Engine) recordMissed(ctx context.Context, s *subject) error {
	kind, err := e.kindOf(s.role.Type)
	if err != nil {
		return err
	}
	policy, err := dataPolicyOf(kind, s.role)
	if err != nil {
		return err
	}
	missed, now := e.memory.missed(s.name), e.clock.Now()
	_, err = e.update(ctx, s.name, func(s *subject) error {
		for _, number := range missed {
			s.state.Miss(number, policy.DestroyAfter, now)
		}
		s.dirtyIncidents()
		return nil
	})
	if err == nil {
		e.memory.recordedMissed(s.name, missed, now)
		e.logger.Warn("somebody asked to decrypt what versions made that ended: data of theirs is still there", "role", s.name, "versions", missed)
	}
	return err
}

// errEnough ends a run of the job: it goes on later, or not at all.
var errEnough = errors.New("enough for now")

// reencrypt goes on with a role's job until it has to wait.
func (e *Engine) reencrypt(ctx context.Context, name string) {
	for {
		err := e.reencryptOnce(ctx, name)
		switch {
		case err == nil, errors.Is(err, errStale):
		case errors.Is(err, errEnough), ctx.Err() != nil, fault.Is(err, fault.NotFound):
			return
		default:
			if e.postponeReencryption(ctx, name, err) != nil {
				e.logger.Error("could not go on with a re-encryption", "role", name, "error", failureOf(err, nil).Message)
				return // the role is looked at again, and with it the job
			}
		}
	}
}

// reencryptOnce does the phase at which the job is, if it is time for it.
func (e *Engine) reencryptOnce(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if e.config.Load().Paused || !e.system.Writable() {
		return errEnough
	}
	s, err := e.load(ctx, name)
	if err != nil {
		return err
	}
	v, err := e.view(s)
	if err != nil {
		return err
	}
	v.runsData = false // it is we who run
	if d := ruleData(v); d.at.IsZero() || d.at.After(v.now) {
		return errEnough
	}
	job := s.state.Reencryption
	e.logger.Debug("re-encryption goes on", "role", name, "phase", string(job.Phase), "round", job.Round)
	switch job.Phase {
	case rotation.Rewriting:
		return e.rewrite(ctx, s, v.data)
	case rotation.Settling:
		return e.settle(ctx, s, v.data)
	case rotation.Draining:
		return e.drain(ctx, s)
	case rotation.Counting:
		return e.count(ctx, s, v.data)
	default:
		return fmt.Errorf("a re-encryption in phase %q", job.Phase)
	}
}

// changeJob commits a step of the job, unless it is another one by now, or stands elsewhere.
func (e *Engine) changeJob(ctx context.Context, name string, was *rotation.Reencryption, change func(*subject, *rotation.Reencryption) error) error {
	_, err := e.update(ctx, name, func(s *subject) error {
		job := s.state.Reencryption
		if job == nil || job.ID != was.ID || job.Phase != was.Phase || job.Round != was.Round || s.state.Current != job.Version {
			return errEnough
		}
		return change(s, job)
	})
	return err
}

// postponeReencryption records why the job does not go on now.
func (e *Engine) postponeReencryption(ctx context.Context, name string, cause error) error {
	if isStorage(cause) {
		return cause
	}
	why := failureOf(cause, nil)
	_, err := e.update(ctx, name, func(s *subject) error {
		job := s.state.Reencryption
		if !job.Runs() {
			return errNoChange
		}
		job.Failures++
		job.Trouble, job.At = why.Message, e.clock.Now().Add(schedule.Backoff(job.Failures+1))
		if job.Failures == 1 {
			s.state.Emit(rotation.Event{
				ID: fmt.Sprintf("%s/reencryption.failing/%d", job.ID, e.clock.Now().Unix()), Type: "reencryption.failing", Time: e.clock.Now(),
				Data: map[string]string{"error": why.Message},
			})
		}
		s.dirtyIncidents()
		return nil
	})
	return err
}

// settle waits until what the versions encrypted last has been stored. From then on only
// a transaction that lives may still bring some of it.
func (e *Engine) settle(ctx context.Context, s *subject, policy *dataPolicy) error {
	job := s.state.Reencryption
	drains, err := e.transactions(ctx, s)
	if err != nil {
		return err
	}
	return e.changeJob(ctx, s.name, job, func(s *subject, job *rotation.Reencryption) error {
		now := e.clock.Now()
		if at := s.state.SettledAt(s.state.Holding(), policy.Settle); at.After(now) { // a version was reopened
			job.At = at
			return nil
		}
		job.Phase, job.At, job.Trouble, job.Failures = rotation.Draining, now, "", 0
		job.Drains = map[string][]string{}
		for connection, living := range drains {
			for _, t := range living {
				job.Drains[connection] = append(job.Drains[connection], t.ID)
			}
		}
		return nil
	})
}

// drain waits until the transactions that lived then have ended.
func (e *Engine) drain(ctx context.Context, s *subject) error {
	job := s.state.Reencryption
	now, err := e.transactions(ctx, s)
	if err != nil {
		return err
	}
	left, what := map[string][]string{}, []string{}
	for connection, ids := range job.Drains {
		for _, t := range now[connection] {
			if slices.Contains(ids, t.ID) {
				left[connection] = append(left[connection], t.ID)
				what = append(what, fmt.Sprintf("%s on connection %s", t.What, connection))
			}
		}
	}
	slices.Sort(what)
	return e.changeJob(ctx, s.name, job, func(s *subject, job *rotation.Reencryption) error {
		job.Drains, job.Failures = left, 0
		if len(what) == 0 {
			job.Phase, job.At, job.Trouble, job.Drains = rotation.Counting, e.clock.Now(), "", nil
			return nil
		}
		job.At = e.clock.Now().Add(drainEvery)
		job.Trouble = "waits for transactions that may still bring what earlier versions encrypted: " + joinFirst(what, 5)
		return nil
	})
}

// count looks whether anything is left of what the versions made that are to end. What it
// finds begins another round; nothing found clears them.
func (e *Engine) count(ctx context.Context, s *subject, policy *dataPolicy) error {
	job := s.state.Reencryption
	found, err := e.countTargets(ctx, s)
	if err != nil {
		return err
	}
	since := map[int]time.Time{}
	for i := range s.state.Versions {
		since[s.state.Versions[i].Number] = s.state.Versions[i].DeactivatedTime
	}
	return e.changeJob(ctx, s.name, job, func(s *subject, job *rotation.Reencryption) error {
		st, now := s.state, e.clock.Now()
		holding := st.Holding()
		recount, _ := st.ToRecount(now)
		if at := st.SettledAt(holding, policy.Settle); at.After(now) { // a version was reopened meanwhile
			job.Phase, job.At = rotation.Settling, at
			return nil
		}
		s.dirtyIncidents()
		before := job.Left
		job.Person = false
		job.Failures, job.Trouble, job.Left = 0, "", 0
		for _, number := range holding {
			job.Left += found.under(number)
		}
		// What could still be rewritten, by a process that was deposed too, would come under
		// any of the versions: none is cleared before that is over.
		found.moved = job.Left > 0 && (found.moved || job.Left != before)
		for _, number := range slices.Concat(holding, recount) {
			v := st.Version(number)
			left := found.under(number)
			switch {
			case !since[number].Equal(v.DeactivatedTime): // was current since
				return errStale
			case v.State == rotation.Retiring && (found.moved || found.targets == 0):
			case left == 0:
				if err := st.Clear(number, found.targets, now); err != nil {
					return err
				}
			case v.State == rotation.Disabled: // it is not destroyed before another wait is over
				st.Void(number, policy.DestroyAfter, now)
			default: // it stays
			}
		}
		for i := range st.Versions { // data came back that had gone
			v := &st.Versions[i]
			if values := found.versions[v.Number]; values > 0 && v.State == rotation.Disabled {
				st.Miss(v.Number, policy.DestroyAfter, now)
				job.Trouble = fmt.Sprintf("%d values are of version %d, which does not decrypt any more: write reencrypt/%s/reopen with version=%d", values, v.Number, s.name, v.Number)
			}
		}
		return e.afterCount(s, job, found)
	})
}

// afterCount decides between another round, a later one, and the end.
func (e *Engine) afterCount(s *subject, job *rotation.Reencryption, found *found) error {
	now := e.clock.Now()
	switch {
	case len(s.state.Holding()) == 0:
		job.Phase, job.EndedTime = rotation.Over, now
		s.state.Emit(rotation.Event{ID: job.ID + "/reencryption.ended", Type: "reencryption.ended", Time: now, Data: map[string]string{"version": fmt.Sprint(job.Version)}})
	case found.targets == 0: // until a person says otherwise, or names some
		job.Phase, job.EndedTime = rotation.Over, now
		job.Trouble = fmt.Sprintf("the role has no targets: versions %s decrypt until retire/%s ends them", joinNumbers(s.state.Holding()), s.name)
	case found.moved: // they came while the pass ran, or were locked
		job.Phase, job.Round, job.At = rotation.Rewriting, job.Round+1, now.Add(anotherRound)
		job.Trouble = "rows of earlier versions are left: another pass follows"
	default:
		job.Phase, job.Round, job.At = rotation.Rewriting, job.Round+1, now.Add(recountEvery)
		job.Trouble = fmt.Sprintf("%s; versions %s stay: mend the rows and write reencrypt/%s/run", found.unmovable, joinNumbers(s.state.Holding()), s.name)
		job.Person = true
		s.state.Emit(rotation.Event{
			ID: fmt.Sprintf("%s/reencryption.left/%d", job.ID, job.Round), Type: "reencryption.left", Time: now, Data: map[string]string{"what": found.unmovable},
		})
	}
	return nil
}

func joinNumbers(numbers []int) string {
	texts := make([]string, 0, len(numbers))
	for _, n := range numbers {
		texts = append(texts, fmt.Sprint(n))
	}
	return strings.Join(texts, ", ")
}
