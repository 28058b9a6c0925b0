package enginetest

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// Scenario is what operators do in a play.
type Scenario struct {
	Name    string
	Run     func(p *Play)
	Deleted bool // the role is gone at its end
	// AtLeast is the least number of points the scenario must have: an enumeration
	// that enumerates nothing must not pass.
	AtLeast int
}

// Enumerate gives a scenario once without a fault, and then once for every point
// and every mode, on a fresh stage each time. It returns the number of runs.
func Enumerate(t *testing.T, fresh func(t *testing.T) *Stage, s Scenario, modes ...Mode) (runs int) {
	if len(modes) == 0 {
		modes = Modes
	}
	points, violations := perform(fresh(t), s, NewFaults(None, 0))
	require.Empty(t, violations, "without any fault")
	require.GreaterOrEqual(t, points, s.AtLeast, "points of %q", s.Name)
	for _, mode := range modes {
		for k := 1; k <= points; k++ {
			faults := NewFaults(mode, k)
			_, violations := perform(fresh(t), s, faults)
			require.Empty(t, violations, "%s at point %d (%s)", mode, k, faults.Name(k))
			runs++
		}
	}
	t.Logf("%s: %d points, %d runs", s.Name, points, runs)
	return runs
}

// FindsBug tells whether an enumeration over a stage with a seeded bug turns red.
func FindsBug(t *testing.T, fresh func(t *testing.T) *Stage, s Scenario, modes ...Mode) (found string) {
	points, violations := perform(fresh(t), s, NewFaults(None, 0))
	if len(violations) > 0 {
		return violations[0]
	}
	for _, mode := range modes {
		for k := 1; k <= points; k++ {
			if _, violations := perform(fresh(t), s, NewFaults(mode, k)); len(violations) > 0 {
				return fmt.Sprintf("%s at point %d: %s", mode, k, violations[0])
			}
		}
	}
	return ""
}

func perform(stage *Stage, s Scenario, faults *Faults) (points int, violations []string) {
	p := NewPlay(stage, faults)
	s.Run(p)
	violations = p.End(s.Deleted)
	if faults.mode == Crash && faults.at > 0 && faults.at <= faults.Count() && !p.crashed && !faults.Dead() {
		violations = append(violations, "the process was to die and did not")
	}
	return faults.Count(), violations
}
