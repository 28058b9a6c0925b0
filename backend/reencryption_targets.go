package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

const (
	// countTimeout bounds one count, which reads every row of the targets of a connection.
	countTimeout = 2 * time.Hour
	// noteEvery is how often the role's own document says how far the data is.
	noteEvery = time.Minute
)

// target is one of a role's, with how far it is: nil where it never began.
type target struct {
	name     string
	doc      *reencrypt.Target
	progress *store.TargetProgress
}

// targets are all of a role's, by name.
func (e *Engine) targets(ctx context.Context, role string) ([]target, error) {
	names, err := e.store.Targets(ctx, role)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var out []target
	for _, name := range names {
		t := target{name: name}
		if t.doc, err = e.store.Target(ctx, role, name); err != nil {
			return nil, err
		}
		if t.progress, err = e.store.Progress(ctx, role, name); err != nil {
			return nil, err
		}
		if t.doc != nil {
			out = append(out, t)
		}
	}
	return out, nil
}

// of tells whether the progress is that of a job's round.
func (t *target) of(job *rotation.Reencryption) bool {
	return t.progress != nil && t.progress.Job == job.ID && t.progress.Round == job.Round
}

// database opens the one in which targets on a connection lie.
func (e *Engine) database(ctx context.Context, role, connection string) (reencrypt.Database, error) {
	doc, err := e.connectionNamed(ctx, connection)
	if err != nil {
		return nil, err
	}
	if err := admitted(doc, role); err != nil {
		return nil, err
	}
	kind, err := e.connectionKind(doc.Type)
	if err != nil {
		return nil, err
	}
	holder, ok := kind.(rotator.DataHolder)
	if !ok {
		return nil, fault.Field("connection", "%q is of type %s, in which no data can be re-encrypted", connection, doc.Type)
	}
	conn, err := e.connections.open(ctx, doc)
	if err != nil {
		return nil, err
	}
	return holder.Database(conn)
}

// rewrite takes the pass on, over all targets. One target's trouble does not keep the
// others from going on.
func (e *Engine) rewrite(ctx context.Context, s *subject, policy *dataPolicy) error {
	job := s.state.Reencryption
	targets, err := e.targets(ctx, s.name)
	if err != nil {
		return err
	}
	open, end := e.whileOpen(ctx, policy, job)
	defer end()
	var failed []error
	for i := range targets {
		err := e.rewriteTarget(open, s, policy, &targets[i])
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case open.Err() != nil: // the window closed
			return errEnough
		case err == nil:
		case isStorage(err), errors.Is(err, errStale), errors.Is(err, errEnough):
			return err
		default:
			failed = append(failed, fault.In("target "+targets[i].name, err))
		}
	}
	if len(failed) > 0 {
		return errors.Join(failed...)
	}
	if err := e.noteProgress(ctx, s.name, job); err != nil {
		return err
	}
	return e.changeJob(ctx, s.name, job, func(s *subject, job *rotation.Reencryption) error {
		// From now on, and not from the rotation, which may be long ago: somebody may have read
		// a row a moment before it was rewritten, and has yet to decrypt what stood there.
		job.To(rotation.Settling, e.clock.Now().Add(policy.Settle))
		s.dirtyIncidents()
		return nil
	})
}

// whileOpen ends with the maintenance window, by the engine's clock.
func (e *Engine) whileOpen(ctx context.Context, policy *dataPolicy, job *rotation.Reencryption) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	now := e.clock.Now()
	closes := policy.window.ClosesAt(now)
	if job.Urgent || closes.IsZero() {
		return ctx, cancel
	}
	timer, over := e.clock.After(closes.Sub(now)), make(chan struct{})
	go func() { // ends with the context
		defer close(over)
		select {
		case <-timer:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(); <-over }
}

// rewriteTarget takes the pass over one target on, to its end.
func (e *Engine) rewriteTarget(ctx context.Context, s *subject, policy *dataPolicy, t *target) error {
	job := s.state.Reencryption
	if t.of(job) && t.progress.Progress.Ended {
		return nil
	}
	rewriter, err := e.rewriter(ctx, s)
	if err != nil {
		return err
	}
	db, err := e.database(ctx, s.name, t.doc.Connection)
	if err != nil {
		return e.targetFailed(ctx, s.name, job, t, err)
	}
	table, err := db.Open(ctx, t.doc)
	if err != nil {
		return e.targetFailed(ctx, s.name, job, t, err)
	}
	if !t.of(job) {
		if err := e.beginTarget(ctx, s.name, job, t, db, table); err != nil {
			return e.targetFailed(ctx, s.name, job, t, err)
		}
	}
	pass := &reencrypt.Pass{Table: table, Target: t.doc, Rewriter: rewriter, Now: e.clock.Now, Save: e.saving(s.name, job, t), Wanted: e.stillWanted(s.name, job)}
	if !job.Urgent {
		pass.RowsPerSecond = policy.RowsPerSecond
	}
	_, err = pass.Run(ctx, t.progress.Progress)
	if err != nil {
		return e.targetFailed(ctx, s.name, job, t, err)
	}
	return nil
}

// rewriter rewrites what the versions made that are used now into what the current one
// makes.
func (e *Engine) rewriter(ctx context.Context, s *subject) (reencrypt.Rewriter, error) {
	keeper, ok := e.rotators[s.role.Type].(rotator.DataKeeper)
	if !ok {
		return nil, fmt.Errorf("type %s keeps no data", s.role.Type)
	}
	snap, err := e.snapshot(ctx, s.name)
	if err != nil {
		return nil, err
	}
	live := e.liveNow(s.name, snap)
	if s.role.Connection != "" {
		doc, err := e.connectionNamed(ctx, s.role.Connection)
		if err != nil {
			return nil, err
		}
		if live.Conn, err = e.connections.open(ctx, doc); err != nil {
			return nil, err
		}
	}
	rewriter, err := keeper.Rewriter(live)
	if err == nil && rewriter.Version() != s.state.Reencryption.Version {
		return nil, errStale
	}
	return rewriter, err
}

// beginTarget counts what is there before the first row is rewritten.
func (e *Engine) beginTarget(ctx context.Context, role string, job *rotation.Reencryption, t *target, db reencrypt.Database, table reencrypt.Table) error {
	now := e.clock.Now()
	bounded, done := context.WithTimeout(ctx, countTimeout)
	defer done()
	counts, err := db.Count(bounded, []reencrypt.Table{table})
	if err != nil {
		return err
	}
	t.progress = &store.TargetProgress{
		Job: job.ID, Round: job.Round, Counted: &counts[0],
		Progress: reencrypt.Progress{Version: job.Version, Total: counts[0].Rows, StartedTime: now},
	}
	return e.store.PutProgress(ctx, role, t.name, t.progress)
}

// saving stores how far a pass is, unless the job is not that any more.
func (e *Engine) saving(role string, job *rotation.Reencryption, t *target) func(context.Context, reencrypt.Progress) error {
	noted := e.clock.Mono()
	return func(ctx context.Context, p reencrypt.Progress) error {
		snap, err := e.snapshot(ctx, role)
		if err != nil {
			return err
		}
		if snap.current == nil || snap.current.version != job.Version {
			return errStale
		}
		t.progress.Progress, t.progress.Failure = p, ""
		if err := e.store.PutProgress(ctx, role, t.name, t.progress); err != nil {
			return err
		}
		if e.clock.Mono()-noted < noteEvery {
			return nil
		}
		noted = e.clock.Mono()
		return e.noteProgress(ctx, role, job)
	}
}

// stillWanted asks storage, and not what this process knows, whether a job is the one to run.
func (e *Engine) stillWanted(role string, job *rotation.Reencryption) func(context.Context) error {
	return func(ctx context.Context) error {
		s, err := e.load(ctx, role)
		if err != nil {
			return err
		}
		if now := s.state.Reencryption; !now.Runs() || !now.Same(job) || s.state.Current != job.Version || !e.system.Writable() {
			return errEnough
		}
		return nil
	}
}

// targetFailed notes why a target does not go on; what ends the run itself is none of it.
func (e *Engine) targetFailed(ctx context.Context, role string, job *rotation.Reencryption, t *target, cause error) error {
	if ctx.Err() != nil || isStorage(cause) || errors.Is(cause, errStale) || errors.Is(cause, errEnough) {
		return cause
	}
	if !t.of(job) {
		t.progress = &store.TargetProgress{Progress: reencrypt.Progress{Version: job.Version}}
	}
	t.progress.Failure = failureOf(cause, nil).Message
	if err := e.store.PutProgress(ctx, role, t.name, t.progress); err != nil {
		return err
	}
	return cause
}

// noteProgress carries how far the data is over into the role's own document.
func (e *Engine) noteProgress(ctx context.Context, role string, was *rotation.Reencryption) error {
	targets, err := e.targets(ctx, role)
	if err != nil {
		return err
	}
	return e.changeJob(ctx, role, was, func(s *subject, job *rotation.Reencryption) error {
		before := *job
		job.Rows, job.Done, job.DataKeys = 0, 0, 0
		for i := range targets {
			t := &targets[i]
			if !t.of(job) {
				continue
			}
			job.Rows, job.Done = job.Rows+t.progress.Progress.Total, job.Done+t.progress.Progress.Passed
			if t.doc.Content == reencrypt.DataKey && t.progress.Counted != nil {
				for _, values := range t.progress.Counted.Versions {
					job.DataKeys += values
				}
			}
		}
		if before.Rows == job.Rows && before.Done == job.Done && before.DataKeys == job.DataKeys {
			return errNoChange
		}
		s.dirtyIncidents()
		return nil
	})
}

// countTargets counts the values of all targets, in one snapshot for each connection.
func (e *Engine) countTargets(ctx context.Context, s *subject) (*rotation.Found, error) {
	targets, err := e.targets(ctx, s.name)
	if err != nil {
		return nil, err
	}
	counted, err := e.countAll(ctx, s.name, targets)
	if err != nil {
		return nil, err
	}
	out := &rotation.Found{Targets: len(targets), Versions: map[int]int64{}}
	var unmovable []string
	for i := range targets {
		t, c := &targets[i], counted[i]
		for version, values := range c.Versions {
			out.Versions[version] += values
		}
		out.Foreign += c.Foreign
		if c.Foreign > 0 {
			unmovable = append(unmovable, fmt.Sprintf("target %s has %d values that are no ciphertext", t.name, c.Foreign))
		}
		if !t.of(s.state.Reencryption) {
			t.progress = &store.TargetProgress{Job: s.state.Reencryption.ID, Round: s.state.Reencryption.Round}
		}
		p := t.progress.Progress
		out.Moved = out.Moved || p.Changed > 0 || p.Busy > 0
		if p.Unreadable > 0 {
			unmovable = append(unmovable, fmt.Sprintf("target %s has %d rows that do not decrypt", t.name, p.Unreadable))
		}
		t.progress.Counted = &c
		if err := e.store.PutProgress(ctx, s.name, t.name, t.progress); err != nil {
			return nil, err
		}
	}
	out.Unmovable = strings.Join(unmovable, "; ")
	return out, nil
}

// countAll counts every target; the answer has their order.
func (e *Engine) countAll(ctx context.Context, role string, targets []target) ([]reencrypt.Counts, error) {
	out := make([]reencrypt.Counts, len(targets))
	for _, connection := range connectionsOf(targets) {
		db, err := e.database(ctx, role, connection)
		if err != nil {
			return nil, err
		}
		var tables []reencrypt.Table
		var places []int
		for i := range targets {
			if targets[i].doc.Connection != connection {
				continue
			}
			table, err := db.Open(ctx, targets[i].doc)
			if err != nil {
				return nil, fault.In("target "+targets[i].name, err)
			}
			tables, places = append(tables, table), append(places, i)
		}
		bounded, done := context.WithTimeout(ctx, countTimeout)
		counts, err := db.Count(bounded, tables)
		done()
		if err != nil {
			return nil, err
		}
		for i, c := range counts {
			out[places[i]] = c
		}
	}
	return out, nil
}

// connectionsOf are those of the targets, each once.
func connectionsOf(targets []target) (names []string) {
	for i := range targets {
		names = append(names, targets[i].doc.Connection)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// dataLiesAt tells whether a target of a role lies on a connection.
func (e *Engine) dataLiesAt(ctx context.Context, s *subject, connection string) (bool, error) {
	if _, keeps := e.rotators[s.role.Type].(rotator.DataKeeper); !keeps {
		return false, nil
	}
	targets, err := e.targets(ctx, s.name)
	return slices.Contains(connectionsOf(targets), connection), err
}

// dataMoved begins the jobs anew whose targets lie on a connection that leads elsewhere now:
// what was rewritten, drained and counted was so at another place.
func (e *Engine) dataMoved(ctx context.Context, connection string) error {
	names, err := e.store.Roles(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		s, policy, err := e.keeper(ctx, name)
		if fault.Is(err, fault.Invalid) || fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return err
		}
		lies, err := e.dataLiesAt(ctx, s, connection)
		if err != nil {
			return err
		}
		if lies {
			if err := e.replan(ctx, name, policy, 0, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// transactions lists, by connection, those that may still store something in a target.
func (e *Engine) transactions(ctx context.Context, s *subject) (map[string][]reencrypt.Transaction, error) {
	targets, err := e.targets(ctx, s.name)
	if err != nil {
		return nil, err
	}
	out := map[string][]reencrypt.Transaction{}
	for _, connection := range connectionsOf(targets) {
		db, err := e.database(ctx, s.name, connection)
		if err != nil {
			return nil, err
		}
		bounded, done := context.WithTimeout(ctx, effectTimeout)
		out[connection], err = db.Transactions(bounded)
		done()
		if err != nil {
			return nil, fault.In("connection "+connection, err)
		}
	}
	return out, nil
}
