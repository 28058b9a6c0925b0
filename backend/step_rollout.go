package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/dependent"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

// rolloutStep restarts what read the secret when it began, and waits until all of it has
// completed. On the way back it undoes that.
type rolloutStep struct{ engine *Engine }

const stepRollout = "rollout"

func (*rolloutStep) name() string { return stepRollout }

func (*rolloutStep) applies(s *subject, r *rotation.Rotation) bool {
	return !isFirst(r.Trigger) && (len(s.role.Policy.Rollout) > 0 || r.StepNamed(stepRollout, false) != nil || s.undone(r) != nil)
}

// rolloutCursor is how far the workloads got. They are journalled before the first one is
// restarted.
type rolloutCursor struct {
	Workloads []rolledWorkload `json:"workloads"`
	// Unlisted are targets that are still to be listed, the next one first.
	Unlisted []string `json:"unlisted,omitempty"`
	// Undoes is the order whose effect is taken back, "" for none.
	Undoes string `json:"undoes,omitempty"`
	// Missed says which target could not be listed, where the others must not wait for it.
	Missed string `json:"missed,omitempty"`
}

type rolledWorkload struct {
	dependent.Workload
	Connection string `json:"connection"`
	Target     string `json:"target"` // by which it was found
	Ordered    bool   `json:"ordered,omitempty"`
	// Unreached is one that the restart which is taken back never came to.
	Unreached bool `json:"unreached,omitempty"`
	Done      bool `json:"done,omitempty"`
}

// maxWorkloads bounds the journal of a rollout.
const maxWorkloads = 200

func (st *rolloutStep) run(ctx context.Context, r stepRun) (stepProgress, error) {
	c, err := readCursor[rolloutCursor](r.cursor)
	if err != nil {
		return stepProgress{}, err
	}
	known := 0
	if c != nil {
		known = len(c.Workloads)
	} else if c, err = r.planned(); err != nil {
		return stepProgress{}, err
	}
	silent, err := st.listAll(ctx, r, c)
	if err == nil && len(c.Workloads) > maxWorkloads {
		err = tooMany(len(c.Workloads))
	}
	if err != nil {
		return stepProgress{}, err
	}
	found, detail := len(c.Workloads) > known, ""
	if !found && (silent == nil || r.onlyForward) {
		detail, err = st.roll(ctx, r, c)
	}
	cursor, broken := writeCursor(c)
	switch {
	case broken != nil:
		return stepProgress{}, broken
	case found:
		return stepProgress{detail: fmt.Sprintf("%d workloads are restarted", len(c.Workloads)), cursor: cursor}, nil
	case err != nil && !answerless(err) && (silent == nil || r.late || r.sequential()):
		return stepProgress{}, err
	case err != nil: // what failed keeps no target from its turn
		return r.again(cursor, err)
	case silent != nil:
		return r.again(cursor, silent)
	case c.done() && c.Missed != "":
		return stepProgress{}, fault.New(fault.Target, "%s", c.Missed)
	case c.done():
		return stepProgress{done: true, detail: c.summary(), cursor: cursor}, nil
	case r.late:
		return stepProgress{}, tooLong(r.most, detail)
	default:
		return stepProgress{detail: detail, cursor: cursor, pollAfter: pollAfter(st.engine.clock.Now().Sub(r.started))}, nil
	}
}

// planned is what is to be restarted, or what was and is to be undone.
func (r stepRun) planned() (*rolloutCursor, error) {
	if before := r.undone(r.rotation); before != nil {
		return r.planBack(before)
	}
	return &rolloutCursor{Unlisted: r.role.Policy.Rollout}, nil
}

// listAll lists the targets that are still to be listed. silent says why some are left, which
// are listed at the next look. Where nothing can go back what pods hold is dead, or about to be:
// no target waits for another, and one that refuses is missed.
func (st *rolloutStep) listAll(ctx context.Context, r stepRun, c *rolloutCursor) (silent, err error) {
	bounded, done := context.WithTimeout(ctx, halfLook) // the rest is for those that are listed
	defer done()
	targets := c.Unlisted
	c.Unlisted = nil
	for i, target := range targets {
		if bounded.Err() != nil {
			c.Unlisted = slices.Concat(targets[i:], c.Unlisted)
			return fault.New(fault.Unreachable, "%s: there was no time left for it", target), nil
		}
		err := outOfTime(bounded, st.list(bounded, r, c, target))
		switch {
		case err == nil, r.nothingLeft(c, err):
			continue
		case isStorage(err):
			return nil, err
		}
		err = fault.New(fault.KindOf(err), "%s: %w", target, err)
		switch {
		case answerless(err):
			c.Unlisted, silent = append(c.Unlisted, target), err
		case !r.onlyForward: // else what pods hold is dead, or about to be: the others must not wait
			return nil, err
		case c.Missed == "":
			c.Missed = failureOf(err, nil).Message
		}
	}
	return silent, nil
}

// list adds the workloads of a target.
func (st *rolloutStep) list(ctx context.Context, r stepRun, c *rolloutCursor, target string) error {
	bounded, done := context.WithTimeout(ctx, oneTimeout)
	defer done()
	connection, rest, err := splitPlace("rollout", target, exampleTarget)
	if err != nil {
		return err
	}
	through, conn, err := st.engine.openTarget(bounded, r.name, connection, rest)
	if err != nil {
		return err
	}
	found, err := through.Resolve(bounded, conn, rest)
	if err == nil {
		c.add(connection, rest, found)
	}
	return err
}

// oneTimeout bounds what one workload takes of a look at all, and halfLook what all takes that
// something else must not wait for.
const (
	oneTimeout = 12 * time.Second
	halfLook   = effectTimeout / 2
)

// outOfTime tells an error of ours that comes of the end of a step's own time, which proves
// nothing, from one of Vault's storage.
func outOfTime(ctx context.Context, err error) error {
	if ctx.Err() != nil && isStorage(err) {
		return fault.New(fault.Unreachable, "there was no time left for it: %w", ctx.Err())
	}
	return err
}

// add adds workloads, each once.
func (c *rolloutCursor) add(connection, target string, found []dependent.Workload) {
	for _, w := range found {
		known := func(one rolledWorkload) bool { return one.Workload == w && one.Connection == connection }
		if !slices.ContainsFunc(c.Workloads, known) {
			c.Workloads = append(c.Workloads, rolledWorkload{Workload: w, Connection: connection, Target: target, Unreached: c.Undoes != ""})
		}
	}
}

// undone is the rotation whose rollout is taken back: the one in flight, on its way back, or
// one that this rollback ended while it was held. Where another one was left before its
// dependents had followed, what pods hold is not known: they are restarted instead.
func (s *subject) undone(r *rotation.Rotation) *rotation.Rotation {
	u := s.state.Unfollowed
	switch {
	case r.Reverting && u == nil:
		return r
	case r.Reverting, r.Trigger != rotation.Rollback, u == nil, u.Reverting:
		return nil
	case u.Version != r.PreviousVersion || u.PreviousVersion != r.Version || !restarted(u):
		return nil
	default:
		return u
	}
}

// restarted tells whether the rollout of a rotation restarted workloads, rather than took
// back what another one had restarted.
func restarted(r *rotation.Rotation) bool {
	record := r.StepNamed(stepRollout, false)
	if record == nil {
		return false
	}
	c, err := readCursor[rolloutCursor](record.Cursor)
	return err == nil && c != nil && c.Undoes == ""
}

// restartsThrough tells whether a rotation in flight restarts workloads through a connection,
// or one that was left did, which is still to be taken back.
func (s *subject) restartsThrough(connection string) (bool, error) {
	for _, r := range []*rotation.Rotation{s.state.InFlight, s.state.Unfollowed} {
		if r == nil {
			continue
		}
		for _, step := range r.Steps {
			if step.Name != stepRollout {
				continue
			}
			c, err := readCursor[rolloutCursor](step.Cursor)
			if err != nil {
				return false, err
			}
			if c != nil && c.goesThrough(connection) {
				return true, nil
			}
		}
	}
	return false, nil
}

func (c *rolloutCursor) goesThrough(connection string) bool {
	listed := slices.ContainsFunc(c.Workloads, func(w rolledWorkload) bool { return w.Connection == connection })
	return listed || slices.ContainsFunc(c.Unlisted, func(target string) bool { return strings.HasPrefix(target, connection+"/") })
}

// planBack takes up all workloads of a rollout. What it did not even list holds what it held,
// but for pods that began since: they have to follow where nobody tells of them.
func (r stepRun) planBack(before *rotation.Rotation) (*rolloutCursor, error) {
	back := &rolloutCursor{Undoes: forwardID(before)}
	c := &rolloutCursor{Unlisted: r.role.Policy.Rollout}
	if record := before.StepNamed(stepRollout, false); record != nil && record.Cursor != "" {
		var err error
		if c, err = readCursor[rolloutCursor](record.Cursor); err != nil {
			return nil, err
		}
	}
	for _, w := range c.Workloads {
		w.Unreached, w.Ordered, w.Done = !w.Ordered, false, false
		back.Workloads = append(back.Workloads, w)
	}
	if !r.toldOfUse {
		back.Unlisted = c.Unlisted
	}
	return back, nil
}

// forwardID is the order that is given before any way back, and undone on it.
func forwardID(r *rotation.Rotation) string {
	if mirror := r.StepNamed(stepMirror, false); mirror != nil && mirror.Again {
		return r.ID + "/again"
	}
	return r.ID
}

// orderID is what a restart is known by. A held rotation that resumes watches what it
// restarted.
func orderID(r *rotation.Rotation) string {
	if r.Reverting {
		return r.ID + "/back"
	}
	return forwardID(r)
}

// roll restarts what is to be, and looks how far all got. What it learned is in the cursor
// also when it returns an error. One workload's trouble does not keep those that are restarted
// beside it.
func (st *rolloutStep) roll(ctx context.Context, r stepRun, c *rolloutCursor) (detail string, failed error) {
	var waiting []string
	order := dependent.Order{ID: orderID(r.rotation), Time: r.started, Everywhere: !r.toldOfUse}
	for _, w := range r.inTurn(c) {
		// A release that is broken stops at the first on the way back, too.
		waits := w.Unreached && r.ordered()
		if waits && (len(waiting) > 0 || failed != nil) {
			break
		}
		progress, err := st.one(ctx, r, c, w, order)
		if w.Done = progress.Done; w.Done {
			continue
		}
		if err != nil {
			if failed == nil || answerless(failed) {
				failed = err
			}
		} else {
			waiting = append(waiting, fmt.Sprintf("%s: %s", w.Workload, progress.Detail))
		}
		if r.sequential() || waits || ctx.Err() != nil {
			break
		}
	}
	return joinDetails(waiting), failed
}

// inTurn are the workloads that are not done: first what is taken back, then what was never
// reached. Where none of these waits for another, those that are still to be restarted come
// before those that are only looked at.
func (r stepRun) inTurn(c *rolloutCursor) (out []*rolledWorkload) {
	for i := range c.Workloads {
		if w := &c.Workloads[i]; !w.Done {
			out = append(out, w)
		}
	}
	slices.SortStableFunc(out, func(a, b *rolledWorkload) int {
		switch {
		case a.Unreached != b.Unreached:
			return compare(a.Unreached, b.Unreached)
		case r.sequential(), a.Unreached && r.ordered():
			return 0
		default:
			return compare(a.Ordered, b.Ordered)
		}
	})
	return out
}

// compare puts false before true.
func compare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	default:
		return 1
	}
}

// ordered tells whether the role wants workloads to be restarted one after another, and what
// their pods hold still works.
func (r stepRun) ordered() bool { return rolloutOrder(r.role.Policy) == orderSequential && !r.dead }

// sequential tells whether a workload waits for the one before it. None does where what its
// pods hold is dead already.
func (r stepRun) sequential() bool { return r.ordered() && !r.rotation.Reverting }

func (st *rolloutStep) one(outer context.Context, r stepRun, c *rolloutCursor, w *rolledWorkload, order dependent.Order) (p dependent.Progress, err error) {
	ctx, done := context.WithTimeout(outer, oneTimeout)
	defer done()
	through, conn, err := st.engine.openTarget(ctx, r.name, w.Connection, w.Target)
	if err != nil {
		err = outOfTime(ctx, err)
		return p, fault.New(fault.KindOf(err), "%s: %w", w.Workload, err)
	}
	if !w.Ordered {
		switch {
		case r.late && !r.onlyForward:
			return p, tooLong(r.most, fmt.Sprintf("it was not the turn of %s yet", w.Workload))
		case c.Undoes != "":
			err = through.Undo(ctx, conn, w.Workload, order, c.Undoes)
		default:
			err = through.Restart(ctx, conn, w.Workload, order)
		}
	}
	if err == nil {
		w.Ordered = true
		if p, err = through.Look(ctx, conn, w.Workload); c.Undoes != "" && errors.Is(err, dependent.ErrStalled) {
			err = nil // it may have been said of what is taken back: there is rollout_timeout
		}
	}
	if r.nothingLeft(c, err) {
		return dependent.Progress{Done: true}, nil
	}
	return p, err
}

// nothingLeft tells an error about what is gone by now and holds nothing that could be taken back.
func (r stepRun) nothingLeft(c *rolloutCursor, err error) bool {
	return (c.Undoes != "" || r.rotation.Reverting) && errors.Is(err, dependent.ErrGone)
}

func (c *rolloutCursor) done() bool {
	for _, w := range c.Workloads {
		if !w.Done {
			return false
		}
	}
	return true
}

func (c *rolloutCursor) summary() string {
	switch {
	case len(c.Workloads) == 0 && c.Undoes != "":
		return "nothing had been restarted"
	case c.Undoes != "":
		return fmt.Sprintf("%d workloads are back", len(c.Workloads))
	default:
		return fmt.Sprintf("%d workloads were restarted and have completed", len(c.Workloads))
	}
}
