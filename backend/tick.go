package backend

import (
	"context"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/schedule"
)

// Tick is Vault's periodic call. It returns at once: Vault holds a lock of its own
// for as long as this runs. What is due is handed to workers.
func (e *Engine) Tick(ctx context.Context) error {
	if err := e.Start(ctx); err != nil {
		return err
	}
	e.beat()
	if !e.system.Writable() {
		return nil
	}
	e.access.ask(e.clock.Mono()) // also while paused: reading goes on
	if e.config.Load().Paused {
		return nil
	}
	if !e.summaries.ready() {
		e.nudge() // the watch builds the index, in the background
	}
	e.dispatch()
	return nil
}

// dispatch hands over every role that needs a look by now.
func (e *Engine) dispatch() {
	var roles []string
	for _, name := range e.index.due(e.clock.Now()) {
		if channel, ok := strings.CutPrefix(name, ofChannel); ok {
			e.couriers.add(whenDue, channel)
		} else {
			roles = append(roles, name)
		}
	}
	e.workers.add(whenDue, roles...)
}

// watch is the engine's own timer: it wakes at the next due time, so that nothing
// waits for Vault's minute, and beats so that a pause of the process is noticed.
func (e *Engine) watch() {
	for {
		e.beat()
		writable := e.system.Writable()
		if !writable {
			e.access.ledger.Discard(e.clock.Now()) // nobody ticks here
		}
		if writable && !e.config.Load().Paused {
			if !e.summaries.ready() {
				if err := e.rebuild(e.ctx); err != nil && e.ctx.Err() == nil {
					e.logger.Error("could not list the roles; trying again", "error", err)
				}
			}
			e.dispatch()
		}
		select {
		case <-e.ctx.Done():
			return
		case <-e.wake:
		case <-e.clock.After(e.untilNext()):
		}
	}
}

// minWake keeps a clock that stands still, or a role that is always due, from
// spinning the watch.
const minWake = 10 * time.Millisecond

func (e *Engine) untilNext() time.Duration {
	next := e.index.next()
	if next.IsZero() {
		return heartbeat
	}
	return min(max(next.Sub(e.clock.Now()), minWake), heartbeat)
}

// nudge lets the watch look again: the next due time may have changed.
func (e *Engine) nudge() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// rebuild fills the index and the summaries from storage. Whoever asks meanwhile
// waits for the one that runs: with many roles it takes a while.
func (e *Engine) rebuild(ctx context.Context) error {
	unlock, err := e.locks.lock(ctx, "index of roles")
	if err != nil {
		return err
	}
	defer unlock()
	if e.summaries.ready() {
		return nil
	}
	// First: what leaks is more urgent than to know when the rest is due.
	if err := e.resumeIncidents(ctx); err != nil {
		return err
	}
	if err := e.scheduleRoots(ctx); err != nil {
		return err
	}
	if err := e.scheduleChannels(ctx); err != nil {
		return err
	}
	names, err := e.everyName(ctx)
	if err != nil {
		return err
	}
	epoch := e.summaries.begin()
	for _, name := range names {
		s, err := e.load(ctx, name)
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			// One role's trouble is its own: it is looked at again, and again.
			e.logger.Error("could not read a role", "role", name, "error", err)
			e.index.found(name, e.clock.Now().Add(time.Minute))
			continue
		}
		e.summaries.found(s)
		e.schedule(s)
	}
	e.summaries.complete(epoch)
	return nil
}

// schedule notes when a role that a rebuild read needs its next look; whatever is
// wrong with it is found by the look itself.
func (e *Engine) schedule(s *subject) {
	at := e.clock.Now()
	if v, err := e.view(s); err == nil {
		if d := decide(v); d.act == actNothing {
			at = d.at
		}
	}
	e.index.found(s.name, at)
}

// forgetAll asks for a rebuild: roles changed behind this process's back.
func (e *Engine) forgetAll() {
	e.index.clear()
	e.summaries.reset()
	e.nudge()
}

// forget drops a role that is gone from memory.
func (e *Engine) forget(name string) {
	e.index.forget(name)
	e.summaries.drop(name)
	e.cache.drop(name)
	e.memory.forget(name)
	e.tally.forget(name)
	e.access.ledger.Forget(name)
}

// forgetGone forgets a role that was seen to be gone, unless another one has taken its
// name since: what came with the write of that one is nowhere else.
func (e *Engine) forgetGone(ctx context.Context, name string) {
	unlock, err := e.locks.lock(ctx, name)
	if err != nil {
		return // interrupted: runs again
	}
	defer unlock()
	if _, err := e.load(ctx, name); fault.Is(err, fault.NotFound) {
		e.forget(name)
	}
}

// spread puts the first check of a role, after an unseal, somewhere in a time that
// grows with the number of roles.
func (e *Engine) spread(name string) time.Time {
	const perRole, most = 10 * time.Millisecond, 5 * time.Minute
	window := min(time.Duration(e.summaries.count())*perRole, most)
	return e.clock.Now().Add(schedule.Share(name, window))
}
