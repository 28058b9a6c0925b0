package backend

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// checkStep asks, once all was restarted, whether what depends on the secret is well.
type checkStep struct{ engine *Engine }

const stepChecks = "checks"

func (*checkStep) name() string { return stepChecks }

func (*checkStep) applies(s *subject, r *rotation.Rotation) bool {
	return !isFirst(r.Trigger) && len(s.role.Policy.Checks)+len(s.role.Policy.ExpectSessions) > 0
}

// checkCursor is what passed, and what is asked again.
type checkCursor struct {
	Checks map[string]*tried `json:"checks"`
	// Sessions tells that all expected sessions were seen.
	Sessions bool `json:"sessions,omitempty"`
}

// tried is how an endpoint fared.
type tried struct {
	Attempts int       `json:"attempts,omitempty"`
	Passed   bool      `json:"passed,omitempty"`
	Detail   string    `json:"detail,omitempty"`
	At       time.Time `json:"at,omitzero"` // when it is asked next
}

// run fails where something is not well. On the way back it says so and goes on: the pointer
// is where it was, and a person looks after the role in any case.
func (st *checkStep) run(ctx context.Context, r stepRun) (stepProgress, error) {
	progress, err := st.ask(ctx, r)
	if err == nil || !r.rotation.Reverting || isStorage(err) {
		return progress, err
	}
	return stepProgress{done: true, detail: "not well after going back either: " + failureOf(err, nil).Message, cursor: r.cursor}, nil
}

func (st *checkStep) ask(ctx context.Context, r stepRun) (stepProgress, error) {
	c, err := readCursor[checkCursor](r.cursor)
	if err != nil {
		return stepProgress{}, err
	}
	if c == nil {
		c = &checkCursor{Checks: map[string]*tried{}}
	}
	p := r.role.Policy
	var waiting, passed []string
	for _, name := range p.Checks {
		if c.Checks[name] == nil {
			c.Checks[name] = &tried{}
		}
		one := c.Checks[name]
		if err := st.try(ctx, r, name, one); err != nil {
			return stepProgress{}, err
		}
		if one.Passed {
			passed = append(passed, fmt.Sprintf("%s: %s", name, one.Detail))
			continue
		}
		waiting = append(waiting, fmt.Sprintf("%s: attempt %d: %s", name, one.Attempts, one.Detail))
	}
	missing, err := st.sessions(ctx, r, c)
	if err != nil {
		return stepProgress{}, err
	}
	if missing != "" {
		waiting = append(waiting, missing)
		if r.late {
			return stepProgress{}, tooLong(r.most, missing)
		}
	} else if len(p.ExpectSessions) > 0 {
		passed = append(passed, "every expected application has a session under "+r.version.Identifier)
	}
	cursor, err := writeCursor(c)
	if len(waiting) == 0 {
		return stepProgress{done: true, detail: joinDetails(passed), cursor: cursor}, err
	}
	return stepProgress{detail: joinDetails(waiting), cursor: cursor, pollAfter: pollEvery}, err
}

// maxPace is the longest wait between two attempts; more is left only where the clock was set back.
const maxPace = 5 * time.Minute

// try asks one endpoint, if it is its turn.
func (st *checkStep) try(ctx context.Context, r stepRun, name string, one *tried) error {
	now := st.engine.clock.Now()
	wait := one.At.Sub(now)
	if one.Passed || ctx.Err() != nil || wait > 0 && wait <= maxPace { // the rest is asked the next time
		return nil
	}
	through, err := st.engine.checker(ctx, name, r.name)
	if err != nil {
		return err
	}
	attempts, interval, err := through.kind.Pace(through.config())
	if err != nil {
		return err
	}
	detail, err := st.engine.tryCheck(ctx, through)
	switch {
	case isStorage(err):
		return err
	case err != nil && ctx.Err() != nil: // it had no time of its own
		one.Detail = failureOf(err, nil).Message
		return nil
	}
	one.Attempts++
	one.Passed, one.Detail = err == nil, detail
	if err == nil {
		return nil
	}
	one.Detail, one.At = failureOf(err, nil).Message, now.Add(interval)
	if one.Attempts >= attempts {
		return fault.New(fault.Target, "check %s failed %d times, the last with: %s", name, one.Attempts, one.Detail)
	}
	return nil
}

// sessions says which expected applications have no session under the current version.
func (st *checkStep) sessions(ctx context.Context, r stepRun, c *checkCursor) (missing string, err error) {
	expected := r.role.Policy.ExpectSessions
	if len(expected) == 0 || c.Sessions {
		return "", nil
	}
	if ctx.Err() != nil {
		return "there was no time left to look for sessions", nil
	}
	kind, err := st.engine.kindOf(r.role.Type)
	if err != nil {
		return "", err
	}
	tells, ok := kind.(rotator.InUser)
	if !ok {
		return "", fault.New(fault.Invalid, "expect_sessions is not possible for type %s", r.role.Type)
	}
	t, err := st.engine.target(ctx, r.subject, r.version)
	if err = outOfTime(ctx, err); answerless(err) {
		return "the sessions could not be seen: " + failureOf(err, nil).Message, nil
	}
	if err != nil {
		return "", err
	}
	uses, err := tells.InUse(ctx, t)
	if answerless(err) {
		return "the sessions could not be seen: " + failureOf(err, materialOf(t)).Message, nil
	}
	if err != nil {
		return "", err
	}
	var absent []string
	for _, name := range expected {
		if !slices.ContainsFunc(uses, func(u rotator.Use) bool { return u.ApplicationName == name }) {
			absent = append(absent, name)
		}
	}
	if c.Sessions = len(absent) == 0; c.Sessions {
		return "", nil
	}
	return fmt.Sprintf("no session of %s under %s", strings.Join(absent, ", "), r.version.Identifier), nil
}
