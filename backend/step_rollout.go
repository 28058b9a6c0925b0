package backend

import (
	"context"
	"fmt"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/dependent"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// rolloutStep restarts what read the secret when it began, and waits until all of it has
// completed. On the way back it undoes that.
type rolloutStep struct{ engine *Engine }

const stepRollout = "rollout"

func (*rolloutStep) name() string { return stepRollout }

func (*rolloutStep) applies(role *store.Role, r *rotation.Rotation) bool {
	return !isFirst(r.Trigger) && (len(role.Policy.Rollout) > 0 || r.StepNamed(stepRollout, false) != nil)
}

// rolloutCursor is how far the workloads got. They are journalled before the first one is
// restarted.
type rolloutCursor struct {
	Workloads []rolledWorkload `json:"workloads"`
	// Undoes is the order whose effect is taken back, "" for none.
	Undoes string `json:"undoes,omitempty"`
}

type rolledWorkload struct {
	dependent.Workload
	Connection string `json:"connection"`
	Ordered    bool   `json:"ordered,omitempty"`
	Done       bool   `json:"done,omitempty"`
}

// maxWorkloads bounds the journal of a rollout.
const maxWorkloads = 200

func (st *rolloutStep) run(ctx context.Context, r stepRun) (stepProgress, error) {
	c, err := readCursor[rolloutCursor](r.cursor)
	if err != nil {
		return stepProgress{}, err
	}
	planned := c != nil
	if !planned {
		if c, err = st.plan(ctx, r); err != nil {
			return st.again(r, r.cursor, err)
		}
	}
	detail := ""
	if planned {
		detail, err = st.roll(ctx, r, c)
	}
	cursor, broken := writeCursor(c)
	switch {
	case broken != nil:
		return stepProgress{}, broken
	case err != nil:
		return st.again(r, cursor, err)
	case c.done():
		return stepProgress{done: true, detail: c.summary(), cursor: cursor}, nil
	case !planned:
		return stepProgress{detail: fmt.Sprintf("%d workloads are restarted", len(c.Workloads)), cursor: cursor}, nil
	case !st.engine.clock.Now().Before(r.deadline):
		return stepProgress{}, tooLong(r.role.Policy, detail)
	default:
		return stepProgress{detail: detail, cursor: cursor, pollAfter: pollEvery}, nil
	}
}

// again asks later what did not answer, until the deadline.
func (st *rolloutStep) again(r stepRun, cursor string, err error) (stepProgress, error) {
	if !answerless(err) {
		return stepProgress{}, err
	}
	detail := failureOf(err, nil).Message
	if !st.engine.clock.Now().Before(r.deadline) {
		return stepProgress{}, tooLong(r.role.Policy, detail)
	}
	return stepProgress{detail: detail, cursor: cursor, pollAfter: pollEvery}, nil
}

// plan lists what is to be restarted, or what was and is to be undone.
func (st *rolloutStep) plan(ctx context.Context, r stepRun) (*rolloutCursor, error) {
	if before := r.undone(); before != nil {
		return planBack(before)
	}
	c := &rolloutCursor{}
	for _, target := range r.role.Policy.Rollout {
		connection, rest, err := splitPlace("rollout", target, exampleTarget)
		if err != nil {
			return nil, err
		}
		through, conn, err := st.open(ctx, r, connection, rest)
		if err != nil {
			return nil, err
		}
		found, err := through.Resolve(ctx, conn, rest)
		if err != nil {
			return nil, fault.New(fault.KindOf(err), "%s: %w", target, err)
		}
		c.add(connection, found)
	}
	if len(c.Workloads) > maxWorkloads {
		return nil, fault.New(fault.Target, "rollout names %d workloads: at most %d are restarted in one rotation", len(c.Workloads), maxWorkloads)
	}
	return c, nil
}

// add adds workloads, each once.
func (c *rolloutCursor) add(connection string, found []dependent.Workload) {
	known := map[rolledWorkload]bool{}
	for _, w := range c.Workloads {
		known[w] = true
	}
	for _, w := range found {
		if one := (rolledWorkload{Workload: w, Connection: connection}); !known[one] {
			c.Workloads = append(c.Workloads, one)
		}
	}
}

// undone is the rotation whose rollout is taken back: the one in flight, on its way back, or
// one that a rollback ended while it was held.
func (r stepRun) undone() *rotation.Rotation {
	if r.back {
		return r.rotation
	}
	u := r.state.Unfollowed
	if u == nil || r.rotation.Trigger != rotation.Rollback || u.Reverting || u.StepNamed(stepRollout, false) == nil ||
		u.Version != r.rotation.PreviousVersion || u.PreviousVersion != r.rotation.Version {
		return nil
	}
	return u
}

// planBack takes up all workloads of a rollout: one that was not restarted by it may have
// been by somebody else. Where it restarted none there is nothing to take back.
func planBack(before *rotation.Rotation) (*rolloutCursor, error) {
	back := &rolloutCursor{Undoes: orderID(before, false)}
	record := before.StepNamed(stepRollout, false)
	if record == nil {
		return back, nil
	}
	c, err := readCursor[rolloutCursor](record.Cursor)
	if err != nil || c == nil {
		return back, err
	}
	for _, w := range c.Workloads {
		back.Workloads = append(back.Workloads, rolledWorkload{Workload: w.Workload, Connection: w.Connection})
	}
	return back, nil
}

// orderID is what a restart is known by. A held rotation that resumes watches what it
// restarted.
func orderID(r *rotation.Rotation, back bool) string {
	if back {
		return r.ID + "/back"
	}
	return r.ID
}

// roll restarts what is to be, and looks how far all got. What it learned is in the cursor
// also when it returns an error.
func (st *rolloutStep) roll(ctx context.Context, r stepRun, c *rolloutCursor) (detail string, err error) {
	var waiting []string
	order := dependent.Order{ID: orderID(r.rotation, r.back), Time: r.started}
	for i := range c.Workloads {
		w := &c.Workloads[i]
		if w.Done {
			continue
		}
		progress, err := st.one(ctx, r, c, w, order)
		if err != nil {
			return "", fault.New(fault.KindOf(err), "%s: %w", w.Workload, err)
		}
		if w.Done = progress.Done; w.Done {
			continue
		}
		waiting = append(waiting, fmt.Sprintf("%s: %s", w.Workload, progress.Detail))
		if rolloutOrder(r.role.Policy) == orderSequential {
			break
		}
	}
	return joinDetails(waiting), nil
}

func (st *rolloutStep) one(ctx context.Context, r stepRun, c *rolloutCursor, w *rolledWorkload, order dependent.Order) (dependent.Progress, error) {
	through, conn, err := st.open(ctx, r, w.Connection, "")
	if err != nil {
		return dependent.Progress{}, err
	}
	if !w.Ordered {
		if c.Undoes != "" {
			err = through.Undo(ctx, conn, w.Workload, order, c.Undoes)
		} else {
			err = through.Restart(ctx, conn, w.Workload, order)
		}
		if err != nil {
			return dependent.Progress{}, err
		}
		w.Ordered = true
	}
	return through.Look(ctx, conn, w.Workload)
}

// open opens the connection to a target, as long as it admits that.
func (st *rolloutStep) open(ctx context.Context, r stepRun, connection, target string) (dependent.Restarter, rotator.Connection, error) {
	through, err := st.engine.restarter(ctx, connection, r.name)
	if err != nil {
		return nil, nil, err
	}
	if target != "" {
		if err := through.kind.CheckTarget(through.config(), target); err != nil {
			return nil, nil, err
		}
	}
	conn, err := st.engine.connections.open(ctx, through.doc)
	return through.kind, conn, err
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
