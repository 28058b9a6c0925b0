package backend

import (
	"context"
	"slices"
	"sync"
)

// priority is the order in which waiting roles are taken.
type priority int

const (
	whenDue    priority = iota // what time asks for
	forMany                    // what a person asked for of many roles at once
	forOne                     // what a person asked for of one role
	priorities = iota
)

// oneSlots are workers beyond the limit that only requests about one role use: they
// wait neither behind a thousand scheduled rotations nor behind an emergency over a
// thousand roles.
const oneSlots = 8

// workers run at most one job per role at a time, and a bounded number in all.
// Goroutines exist only while there is work.
type workers struct {
	ctx   context.Context
	run   func(ctx context.Context, name string)
	limit func() int

	mu      sync.Mutex
	closed  bool
	active  int
	queues  [priorities][]string
	queued  map[string]priority
	running map[string]*job
	turns   int
	idle    chan struct{} // closed and replaced whenever nothing is left to do
}

type job struct {
	cancel context.CancelFunc
	// again asks for another run when this one ends.
	again bool
	next  priority
}

func newWorkers(ctx context.Context, limit func() int, run func(context.Context, string)) *workers {
	return &workers{
		ctx: ctx, run: run, limit: limit,
		queued: map[string]priority{}, running: map[string]*job{}, idle: make(chan struct{}),
	}
}

// add asks for a run of the roles; a higher priority goes first. It returns at once.
func (w *workers) add(p priority, names ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range names {
		w.enqueue(name, p)
	}
	w.spawn()
}

func (w *workers) enqueue(name string, p priority) {
	if w.closed {
		return
	}
	if j := w.running[name]; j != nil {
		j.again, j.next = true, max(j.next, p)
		return
	}
	if before, waits := w.queued[name]; waits && before >= p {
		return
	}
	w.queued[name] = p
	w.queues[p] = append(w.queues[p], name)
}

// interrupt cancels the role's running job, if any. Who wants it to go on adds it.
func (w *workers) interrupt(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if j := w.running[name]; j != nil {
		j.cancel()
	}
}

// spawn starts as many goroutines as there is work and room for.
func (w *workers) spawn() {
	for {
		name, ok := w.take()
		if !ok {
			return
		}
		w.active++
		go w.drain(name) // ends in finish, which close waits for
	}
}

// take finds the next role to run, and claims it.
func (w *workers) take() (string, bool) {
	if w.closed {
		return "", false
	}
	if name, ok := w.pop(&w.queues[forOne], w.limit()+oneSlots); ok {
		return name, true
	}
	order := []priority{forMany, whenDue}
	if w.turns++; w.turns%dueTurn == 0 {
		slices.Reverse(order)
	}
	for _, p := range order {
		if name, ok := w.pop(&w.queues[p], w.limit()); ok {
			return name, true
		}
	}
	return "", false
}

// dueTurn is how often what is due goes before an emergency over many roles: that may
// wait for a dead target, and must not keep all others from being ended and renewed.
const dueTurn = 4

func (w *workers) pop(queue *[]string, room int) (string, bool) {
	for len(*queue) > 0 && w.active < room {
		name := (*queue)[0]
		*queue = (*queue)[1:]
		if _, waits := w.queued[name]; !waits { // taken through another queue
			continue
		}
		delete(w.queued, name)
		w.running[name] = &job{cancel: func() {}}
		return name, true
	}
	return "", false
}

// drain runs a role, then whatever else waits.
func (w *workers) drain(name string) {
	for ok := true; ok; name, ok = w.finish(name) {
		ctx, cancel := context.WithCancel(w.ctx)
		w.mu.Lock()
		w.running[name].cancel = cancel
		w.mu.Unlock()
		w.run(ctx, name)
		cancel()
	}
}

// finish ends a role's run and takes the next one for the same goroutine.
func (w *workers) finish(name string) (next string, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	j := w.running[name]
	delete(w.running, name)
	if j.again {
		w.enqueue(name, j.next)
	}
	w.active--
	if next, ok = w.take(); ok {
		w.active++
		return next, true
	}
	if w.active == 0 && len(w.running) == 0 {
		close(w.idle)
		w.idle = make(chan struct{})
	}
	return "", false
}

// wait returns when nothing is queued or running.
func (w *workers) wait(ctx context.Context) error {
	for {
		w.mu.Lock()
		done := len(w.running) == 0 && len(w.queued) == 0
		idle := w.idle
		w.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-idle:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// close takes no more work, and waits for what runs as long as ctx lasts; the
// workers' own context must have been cancelled.
func (w *workers) close(ctx context.Context) error {
	w.mu.Lock()
	w.closed, w.queues, w.queued = true, [priorities][]string{}, map[string]priority{}
	w.mu.Unlock()
	return w.wait(ctx)
}
