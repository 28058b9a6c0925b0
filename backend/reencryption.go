package backend

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/schedule"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// Where versions made data that lies elsewhere, the data follows the current version, and
// only then do the earlier ones end. The job that sees to it is part of the role's state
// (rotation.Reencryption); decide says when it goes on. Since it may run for hours it has a
// goroutine of its own, beside the workers, whom it would keep from the role.
//
//	rewriting -> settling -> draining -> counting -> over
//	    ^                                   |
//	    +------- rows are left -------------+
//
// Each phase begins with what storage says and ends with one Put, so that the next process
// goes on where this one ended.

// dataPolicy is how data follows, with its window parsed.
type dataPolicy struct {
	rotator.DataPolicy
	window schedule.Maintenance
}

// dataPolicyOf is nil where versions leave no data.
func dataPolicyOf(kind rotator.Rotator, role *store.Role) (*dataPolicy, error) {
	keeper, ok := kind.(rotator.DataKeeper)
	if !ok {
		return nil, nil
	}
	p, err := keeper.DataPolicy(roleView(role, nil))
	if err != nil {
		return nil, err
	}
	out := &dataPolicy{DataPolicy: p}
	if p.Schedule == "" {
		return out, nil
	}
	if out.window.Cron, err = schedule.ParseCron(p.Schedule); err != nil {
		return nil, fault.Field("maintenance_schedule", "%s", err)
	}
	out.window.Window = p.Window
	return out, nil
}

// opensAt is when a job that goes on at a time may do so.
func (p *dataPolicy) opensAt(r *rotation.Reencryption, at time.Time) time.Time {
	if r.Urgent || r.Phase == rotation.Settling || r.Phase == rotation.Draining { // which touch nothing
		return at
	}
	return p.window.OpensAt(at)
}

// dataWork is what is to be planned: that data follows, or that a count is repeated; and
// from when on the latter will be.
func dataWork(s *rotation.State, now time.Time) (held, recount bool, next time.Time) {
	job := s.Reencryption
	held = len(s.Holding()) > 0 && (job == nil || job.Version != s.Current)
	due, next := s.ToRecount(now)
	return held, len(due) > 0 && (job == nil || job.Phase == rotation.Over), next
}

// rulePlanData plans that data follows, where a version is held by it, and the count before
// a version's material is destroyed.
func rulePlanData(v view) decision {
	if v.data == nil || v.state.Deleted || v.state.InFlight != nil || v.state.Current == 0 {
		return decision{}
	}
	held, recount, next := dataWork(v.state, v.now)
	if held || recount {
		return v.due(actPlanData)
	}
	return decision{act: actPlanData, at: next}
}

// ruleKeep lets the ends of disabled versions' material follow a changed destroy_after,
// before any of it is destroyed.
func ruleKeep(v view) decision {
	if v.data != nil && !v.state.Deleted && v.state.KeepUntil(v.data.DestroyAfter, false) {
		return v.due(actKeep)
	}
	return decision{}
}

// ruleData lets the job go on.
func ruleData(v view) decision {
	s := v.state
	if v.data == nil || v.runsData || s.Deleted || !s.Reencryption.Runs() || s.Reencryption.Version != s.Current {
		return decision{}
	}
	return decision{act: actData, at: v.data.opensAt(s.Reencryption, later(v.now, s.Reencryption.At))}
}

// ruleMissed records that somebody had need of a version that ended, before it is destroyed.
func ruleMissed(v view) decision {
	if v.missed && !v.state.Deleted {
		return v.due(actMissed)
	}
	return decision{}
}

// reencryptions are the jobs that run in this process, each in a goroutine of its own.
type reencryptions struct {
	engine *Engine

	mu      sync.Mutex
	closed  bool
	running map[string]*reencryptionRun
	turned  map[string]bool // away, for want of room
	idle    chan struct{}   // closed and replaced whenever a run ends
}

type reencryptionRun struct {
	job    string // its id
	cancel context.CancelFunc
}

// maxReencryptions bounds how many roles' data is on its way at a time.
const maxReencryptions = 4

func newReencryptions(e *Engine) *reencryptions {
	return &reencryptions{engine: e, running: map[string]*reencryptionRun{}, turned: map[string]bool{}, idle: make(chan struct{})}
}

// busy tells whether a role's job runs, or has no room to.
func (r *reencryptions) busy(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.running[name] != nil || r.turned[name]
}

// start lets a role's job go on, unless one does.
func (r *reencryptions) start(name, job string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.running[name] != nil {
		return
	}
	if len(r.running) >= maxReencryptions {
		r.turned[name] = true
		return
	}
	ctx, cancel := context.WithCancel(r.engine.ctx)
	r.running[name] = &reencryptionRun{job: job, cancel: cancel}
	go r.run(ctx, name) // ends in finish, which close waits for
}

func (r *reencryptions) run(ctx context.Context, name string) {
	defer r.finish(name)
	defer func() {
		if panicked := recover(); panicked != nil { // a fault of ours over one role must not end the others
			r.engine.logger.Error("gave up on a re-encryption for now", "role", name, "panic", panicked, "stack", string(debug.Stack()))
		}
	}()
	r.engine.reencrypt(ctx, name)
}

// finish ends a run; the role is looked at again, and those that had no room.
func (r *reencryptions) finish(name string) {
	r.mu.Lock()
	r.running[name].cancel()
	delete(r.running, name)
	waiting := []string{name}
	for turned := range r.turned {
		waiting = append(waiting, turned)
	}
	clear(r.turned)
	close(r.idle)
	r.idle = make(chan struct{})
	closed := r.closed
	r.mu.Unlock()
	if !closed {
		r.engine.workers.add(whenDue, waiting...)
	}
}

// reconsider ends the run of a role whose job is another one by now, or none: so that no row
// is encrypted by what leaked, or is not wanted any more. What goes on does so from storage.
func (r *reencryptions) reconsider(s *subject) {
	r.mu.Lock()
	defer r.mu.Unlock()
	run, job := r.running[s.name], s.state.Reencryption
	if run != nil && (s.state.Deleted || !job.Runs() || job.ID != run.job || job.Version != s.state.Current) {
		run.cancel()
	}
}

// interruptAll ends every run: the mount is paused.
func (r *reencryptions) interruptAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, run := range r.running {
		run.cancel()
	}
}

// wait returns when no job runs; ran tells whether any did.
func (r *reencryptions) wait(ctx context.Context) (ran bool, err error) {
	for {
		r.mu.Lock()
		busy, idle := len(r.running) > 0, r.idle
		r.mu.Unlock()
		if !busy {
			return ran, nil
		}
		ran = true
		select {
		case <-idle:
		case <-ctx.Done():
			return ran, fmt.Errorf("wait for re-encryptions: %w", ctx.Err())
		}
	}
}

// close starts no more, and waits for those that run as long as ctx lasts; the engine's own
// context must have been cancelled.
func (r *reencryptions) close(ctx context.Context) error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	_, err := r.wait(ctx)
	return err
}
