package backend

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

const (
	// maxTargets bounds what one role's job goes through.
	maxTargets = 100
	// lookTimeout bounds the look at a table within a request, dryRunTimeout the count: Vault
	// gives a request 90 seconds.
	lookTimeout   = 30 * time.Second
	dryRunTimeout = 80 * time.Second
)

// keeper loads a role whose versions keep data.
func (e *Engine) keeper(ctx context.Context, role string) (*subject, *dataPolicy, error) {
	s, err := e.loadLive(ctx, role)
	if err != nil {
		return nil, nil, err
	}
	policy, err := dataPolicyOf(e.rotators[s.role.Type], s.role)
	if err == nil && policy == nil {
		err = fault.New(fault.Invalid, "role %q is of type %s, whose versions leave no data to re-encrypt", role, s.role.Type)
	}
	return s, policy, err
}

// TargetNames lists where data of a role lies.
func (e *Engine) TargetNames(ctx context.Context, role string) ([]string, error) {
	if _, _, err := e.keeper(ctx, role); err != nil {
		return nil, err
	}
	return e.store.Targets(ctx, role)
}

// Target returns one of them.
func (e *Engine) Target(ctx context.Context, role, name string) (*reencrypt.Target, error) {
	if _, _, err := e.keeper(ctx, role); err != nil {
		return nil, err
	}
	t, err := e.store.Target(ctx, role, name)
	if err == nil && t == nil {
		return nil, fault.New(fault.NotFound, "role %q has no target %q", role, name)
	}
	return t, err
}

// WriteTarget stores where data of a role lies, once a look at the table found nothing
// wrong. What was counted before knows nothing of it: it is counted anew.
func (e *Engine) WriteTarget(ctx context.Context, role, name string, t *reencrypt.Target) error {
	if err := e.allowed(); err != nil {
		return err
	}
	s, policy, err := e.keeper(ctx, role)
	if err != nil {
		return err
	}
	names, err := e.store.Targets(ctx, role)
	if err != nil {
		return err
	}
	if !slices.Contains(names, name) && len(names) >= maxTargets {
		return fault.New(fault.Conflict, "role %q has %d targets: no more are taken", s.name, maxTargets)
	}
	if _, err := e.look(ctx, role, t); err != nil {
		return err
	}
	// Before the target is stored: whatever was counted did not know of it. Should we die in
	// between, the job goes on by itself, with the target or without.
	if err := e.replan(ctx, role, policy, meanwhile, nil); err != nil {
		return err
	}
	return e.replan(ctx, role, policy, 0, func() error { return e.store.PutTarget(ctx, role, name, t) })
}

// meanwhile is for how long a job is kept from beginning while its targets change.
const meanwhile = 2 * time.Minute

// DeleteTarget forgets where data of a role lies; the rows stay as they are.
func (e *Engine) DeleteTarget(ctx context.Context, role, name string) (existed bool, err error) {
	if err := e.allowed(); err != nil {
		return false, err
	}
	_, policy, err := e.keeper(ctx, role)
	if err != nil {
		return false, err
	}
	t, err := e.store.Target(ctx, role, name)
	if err != nil || t == nil {
		return false, err
	}
	return true, e.replan(ctx, role, policy, 0, func() error { return e.store.DeleteTarget(ctx, role, name) })
}

// replan takes back all that was counted of a role's data, and lets a job begin anew. change
// is made under the same mutex.
func (e *Engine) replan(ctx context.Context, role string, policy *dataPolicy, after time.Duration, change func() error) error {
	id, err := newID()
	if err != nil {
		return err
	}
	_, err = e.update(ctx, role, func(s *subject) error {
		if s.state.Deleted {
			return notFound(role)
		}
		if change != nil {
			if err := change(); err != nil {
				return err
			}
		}
		now := e.clock.Now()
		s.state.Void(policy.DestroyAfter, now)
		if !s.state.HasEarlier() { // all that there is was made by the current one
			s.state.Reencryption = nil
			return nil
		}
		job := s.state.PlanReencryption(id, later(now, s.state.ActivatedTime.Add(policy.After)), now)
		job.At = later(job.At, now.Add(after))
		return nil
	})
	if err == nil {
		e.workers.add(forOne, role)
	}
	return err
}

// look opens a target's table, which refuses what is wrong with it.
func (e *Engine) look(ctx context.Context, role string, t *reencrypt.Target) (reencrypt.Table, error) {
	ctx, done := context.WithTimeout(ctx, lookTimeout)
	defer done()
	db, err := e.database(ctx, role, t.Connection)
	if err != nil {
		return nil, err
	}
	return db.Open(ctx, t)
}

// DryRun is what a target holds, and what a person should know before it is rewritten.
type DryRun struct {
	Counts reencrypt.Counts
	Facts  reencrypt.Facts
	// Failure is why it could not be looked at, "" for no reason.
	Failure string
}

// DryRunReencryption counts every target's values by version, and touches nothing.
func (e *Engine) DryRunReencryption(ctx context.Context, role string) (map[string]DryRun, error) {
	if _, _, err := e.keeper(ctx, role); err != nil {
		return nil, err
	}
	targets, err := e.targets(ctx, role)
	if err != nil {
		return nil, err
	}
	ctx, done := context.WithTimeout(ctx, dryRunTimeout)
	defer done()
	out := map[string]DryRun{}
	for i := range targets {
		t := &targets[i]
		look, err := e.dryRun(ctx, role, t)
		if isStorage(err) {
			return nil, err
		}
		if err != nil {
			look.Failure = failureOf(err, nil).Message
		}
		out[t.name] = look
	}
	return out, nil
}

func (e *Engine) dryRun(ctx context.Context, role string, t *target) (out DryRun, err error) {
	db, err := e.database(ctx, role, t.doc.Connection)
	if err != nil {
		return out, err
	}
	table, err := db.Open(ctx, t.doc)
	if err != nil {
		return out, err
	}
	if out.Facts, err = table.Facts(ctx); err != nil {
		return out, err
	}
	counts, err := db.Count(ctx, []reencrypt.Table{table})
	if err == nil {
		out.Counts = counts[0]
	}
	return out, err
}

// RunReencryption lets the data follow now, whatever it waited for; waives says what that
// was. Without a job it makes one.
func (e *Engine) RunReencryption(ctx context.Context, role string) (waives []string, err error) {
	if err := e.allowed(); err != nil {
		return nil, err
	}
	_, policy, err := e.keeper(ctx, role)
	if err != nil {
		return nil, err
	}
	id, err := newID()
	if err != nil {
		return nil, err
	}
	_, err = e.update(ctx, role, func(s *subject) error {
		waives, err = e.runNow(s, policy, id)
		return err
	})
	if err == nil {
		e.workers.add(forOne, role)
	}
	return waives, err
}

func (e *Engine) runNow(s *subject, policy *dataPolicy, id string) (waives []string, err error) {
	st, now := s.state, e.clock.Now()
	if st.Deleted || st.Current == 0 {
		return nil, notFound(s.name)
	}
	if st.InFlight != nil {
		return nil, conflictInFlight(st.InFlight)
	}
	job := st.Reencryption
	if job == nil || job.Version != st.Current || job.Phase == rotation.Over {
		job = st.PlanReencryption(id, st.ActivatedTime.Add(policy.After), now)
	}
	if job.Phase == rotation.Rewriting {
		if job.At.After(now) && job.Round == 1 {
			waives = append(waives, fmt.Sprintf("reencrypt_after, until %s: after a restore of Vault from an older snapshot, the rows rewritten from now on could not be read", job.At.Format(timeFormat)))
		}
		if opens := policy.window.OpensAt(now); opens.After(now) {
			waives = append(waives, fmt.Sprintf("the maintenance window, which opens at %s", opens.Format(timeFormat)))
		}
		if policy.RowsPerSecond > 0 {
			waives = append(waives, fmt.Sprintf("max_rows_per_second, %d", policy.RowsPerSecond))
		}
		job.At = now
	}
	job.Urgent, job.Control, job.Stuck = true, rotation.Goes, 0
	job.Failures, job.Trouble, job.Person = 0, "", false
	return waives, nil
}

// ControlReencryption pauses, resumes or cancels the job. What was rewritten stays so.
func (e *Engine) ControlReencryption(ctx context.Context, role string, choice rotation.ReencryptionChoice) error {
	if err := e.allowed(); err != nil {
		return err
	}
	if _, _, err := e.keeper(ctx, role); err != nil {
		return err
	}
	_, err := e.update(ctx, role, func(s *subject) error {
		job := s.state.Reencryption
		switch {
		case job == nil || job.Phase == rotation.Over:
			return fault.New(fault.Conflict, "no re-encryption of %s is planned or runs", role)
		case job.Control == rotation.Cancelled && choice != rotation.Cancelled:
			return fault.New(fault.Conflict, "the re-encryption of %s was cancelled: write reencrypt/%s/run", role, role)
		case job.Control == choice:
			return errNoChange
		}
		job.Control = choice
		if choice == rotation.Goes {
			job.At = later(e.clock.Now(), job.At)
		}
		s.dirtyIncidents()
		return nil
	})
	if err != nil {
		return err
	}
	e.workers.add(forOne, role)
	return nil
}

// ReopenVersion lets a disabled version decrypt again, beside the current one: data that it
// made came back, from a backup or a table nobody had named. That data follows like any.
func (e *Engine) ReopenVersion(ctx context.Context, role string, number int) (*rotation.Version, error) {
	if err := e.allowed(); err != nil {
		return nil, err
	}
	if _, _, err := e.keeper(ctx, role); err != nil {
		return nil, err
	}
	var reopened rotation.Version
	_, err := e.update(ctx, role, func(s *subject) error {
		v := s.state.Version(number)
		switch {
		case v == nil:
			return fault.Field("version", "%s has no version %d", role, number)
		case s.state.InFlight != nil:
			return conflictInFlight(s.state.InFlight)
		case v.State == rotation.Retired || !v.HasMaterial:
			return fault.New(fault.Conflict, "the material of version %d was destroyed: what it encrypted cannot be read any more", number)
		case v.State != rotation.Disabled:
			return fault.New(fault.Conflict, "version %d is %s: only a disabled one can be reopened", number, v.State)
		}
		if err := s.state.Reopen(number, e.clock.Now()); err != nil {
			return err
		}
		reopened = *v
		return nil
	})
	if err != nil {
		return nil, err
	}
	e.workers.add(forOne, role)
	return &reopened, nil
}

// ReencryptionStatus is how far the data of a role is.
type ReencryptionStatus struct {
	// Job is nil where none was ever planned.
	Job *rotation.Reencryption
	// Opens is when it goes on, zero when it does not wait for a time.
	Opens    time.Time
	Targets  map[string]TargetStatus
	Versions []rotation.Version
}

// TargetStatus is one target, and how far it is: nil where it never began.
type TargetStatus struct {
	Target   *reencrypt.Target
	Progress *store.TargetProgress
	// Current tells that the progress is that of the job's present round.
	Current bool
}

// Reencryption tells how far the data of a role is.
func (e *Engine) Reencryption(ctx context.Context, role string) (*ReencryptionStatus, error) {
	s, policy, err := e.keeper(ctx, role)
	if err != nil {
		return nil, err
	}
	targets, err := e.targets(ctx, role)
	if err != nil {
		return nil, err
	}
	out := &ReencryptionStatus{Job: s.state.Reencryption, Targets: map[string]TargetStatus{}, Versions: s.state.Versions}
	for i := range targets {
		t := &targets[i]
		out.Targets[t.name] = TargetStatus{Target: t.doc, Progress: t.progress, Current: out.Job != nil && t.of(out.Job)}
	}
	if now := e.clock.Now(); out.Job.Runs() {
		if opens := policy.opensAt(out.Job, later(now, out.Job.At)); opens.After(now) {
			out.Opens = opens
		}
	}
	return out, nil
}

// following says in words how far the data is.
func (s *subject) following() string {
	job := s.state.Reencryption
	if job == nil || job.Phase == rotation.Over {
		return "nothing is planned"
	}
	out := string(job.Phase)
	if job.Phase == rotation.Rewriting && job.Rows > 0 {
		out += fmt.Sprintf(", %d of %d rows", job.Done, job.Rows)
	}
	if job.Control != rotation.Goes {
		out += ", " + string(job.Control)
	}
	if job.Trouble != "" {
		out += " (" + job.Trouble + ")"
	}
	return out
}

// dataSteps says what keeps a leaked version alive, and what re-encryption cannot contain.
func (s *subject) dataSteps(v *rotation.Version) (steps []string) {
	if v.State == rotation.Current {
		return []string{fmt.Sprintf("the leak lives on: %s still encrypts with version %d (%s), since no replacement could be verified yet%s", s.name, v.Number, v.Identifier, s.nextAttempt())}
	}
	steps = append(steps, fmt.Sprintf("version %d (%s) of %s decrypts until its data has followed: %s; see reencrypt/%s", v.Number, v.Identifier, s.name, s.following(), s.name))
	job := s.state.Reencryption
	if job != nil && job.DataKeys > 0 {
		steps = append(steps, fmt.Sprintf("%d wrapped data keys of %s may be known to whoever has version %d: wrapping them anew does not contain that; make new data keys, and encrypt anew what they protect", job.DataKeys, s.name, v.Number))
	}
	return steps
}
