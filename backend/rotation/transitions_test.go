package rotation

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The tables are written out here once more, so that a change of what is legal
// must be made twice, on purpose.

var (
	phases        = []Phase{"", Planned, Prepared, Verified, Active, RolledOut, "unheard of"}
	outcomes      = []Outcome{"", Succeeded, Failed, RolledBack, Superseded, Blocked, "unheard of"}
	versionStates = []VersionState{"", Pending, Standby, Current, Retiring, Disabled, Retired, Discarded, "unheard of"}
)

type end struct {
	phase   Phase
	outcome Outcome
}

var legalSteps = map[Phase][]end{
	Planned:  {{Prepared, ""}, {Planned, Failed}, {Planned, Blocked}, {Planned, Superseded}},
	Prepared: {{Verified, ""}, {Prepared, Failed}, {Prepared, Blocked}, {Prepared, Superseded}},
	Verified: {{Active, ""}, {Verified, Failed}, {Verified, Blocked}, {Verified, Superseded}},
	Active:   {{RolledOut, Succeeded}, {Active, Superseded}, {Active, RolledBack}},
}

func TestEveryStepOfARotationIsInTheTableOrRefused(t *testing.T) {
	t.Parallel()
	legal := 0
	for _, from := range phases {
		for _, to := range phases {
			for _, outcome := range outcomes {
				r := Rotation{Phase: from}
				err := r.advance(to, outcome)
				if contains(legalSteps[from], end{to, outcome}) {
					legal++
					require.NoError(t, err, "%s -> %s/%s", from, to, outcome)
					require.Equal(t, end{to, outcome}, end{r.Phase, r.Outcome})
					continue
				}
				var refused *TransitionError
				require.ErrorAs(t, err, &refused, "%s -> %s/%s", from, to, outcome)
				require.Equal(t, end{from, ""}, end{r.Phase, r.Outcome}, "a refused step changes nothing")
			}
		}
	}
	require.Len(t, Transitions, legal, "the table has no line that is not legal, and none twice")
}

func TestARotationThatEndedGoesNowhere(t *testing.T) {
	t.Parallel()
	for _, from := range phases {
		for _, ended := range outcomes[1:] {
			for _, to := range phases {
				for _, outcome := range outcomes {
					r := Rotation{Phase: from, Outcome: ended}
					require.Error(t, r.advance(to, outcome), "%s/%s -> %s/%s", from, ended, to, outcome)
					require.Equal(t, end{from, ended}, end{r.Phase, r.Outcome})
				}
			}
		}
	}
}

var legalMoves = map[VersionState][]VersionState{
	Pending:  {Standby, Current, Discarded},
	Standby:  {Current, Pending, Disabled, Retiring},
	Current:  {Retiring},
	Retiring: {Current, Disabled},
	Disabled: {Retired, Current, Standby, Retiring},
	Retired:  {Current, Standby},
}

func TestEveryMoveOfAVersionIsInTheTableOrRefused(t *testing.T) {
	t.Parallel()
	legal := 0
	for _, from := range versionStates {
		for _, to := range versionStates {
			v := Version{State: from}
			err := v.moveTo(to)
			if contains(legalMoves[from], to) {
				legal++
				require.NoError(t, err, "%s -> %s", from, to)
				require.Equal(t, to, v.State)
				continue
			}
			var refused *TransitionError
			require.ErrorAs(t, err, &refused, "%s -> %s", from, to)
			require.Equal(t, from, v.State, "a refused move changes nothing")
		}
	}
	require.Len(t, VersionTransitions, legal)
}

func contains[T comparable](list []T, wanted T) bool {
	for _, x := range list {
		if x == wanted {
			return true
		}
	}
	return false
}

func TestEveryTransitionSaysWhen(t *testing.T) {
	t.Parallel()
	for _, tr := range Transitions {
		require.NotEmpty(t, tr.When, "%v", tr)
	}
	for _, tr := range VersionTransitions {
		require.NotEmpty(t, tr.When, "%v", tr)
	}
}

func TestTransitionErrorSaysWhat(t *testing.T) {
	t.Parallel()
	v := Version{State: Retired}
	require.EqualError(t, v.moveTo(Pending), `illegal transition of a version from "retired" to "pending"`)
}

func TestLiveAndEnded(t *testing.T) {
	t.Parallel()
	live := map[VersionState]bool{Current: true, Retiring: true}
	ended := map[VersionState]bool{Retired: true, Discarded: true}
	for _, s := range versionStates {
		require.Equal(t, live[s], s.Live(), s)
		require.Equal(t, ended[s], s.Ended(), s)
	}
}

func TestSettled(t *testing.T) {
	t.Parallel()
	dead, unprovable, alive := &Proof{Dead: true}, &Proof{Unprovable: true}, &Proof{Result: "not yet"}
	for _, s := range versionStates {
		for _, proof := range []*Proof{nil, alive, unprovable, dead} {
			for _, undo := range []bool{false, true} {
				v := Version{State: s, Proof: proof, Undo: undo}
				proven := proof == dead || proof == unprovable
				require.Equal(t, !undo && (s == Discarded || s == Retired && proven), v.Settled(), "%s, proof %v, undo %v", s, proof, undo)
				require.Equal(t, proof == dead, v.ProvenDead())
			}
		}
	}
}

// Every method that speaks of the rotation in flight refuses when there is none: a
// worker must not bring the process down.
func TestNothingInFlight(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	for name, do := range map[string]func(*State) error{
		"Reach":          func(s *State) error { return s.Reach(Prepared) },
		"Activate":       func(s *State) error { return s.Activate(now, 0) },
		"Finish":         func(s *State) error { return s.Finish(now, now) },
		"Fail":           func(s *State) error { return s.Fail(now, Failure{}, AfterFailure{}) },
		"Supersede":      func(s *State) error { return s.Supersede(now) },
		"Revert":         func(s *State) error { return s.Revert(now, Failure{}) },
		"FinishAsItIs":   func(s *State) error { return s.FinishAsItIs(now, now) },
		"FinishReverted": func(s *State) error { return s.FinishReverted(now) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &State{Versions: []Version{{Number: 1, State: Current}}, Current: 1, Highest: 1}
			var refused *TransitionError
			require.ErrorAs(t, do(s), &refused)
			require.Equal(t, &State{Versions: []Version{{Number: 1, State: Current}}, Current: 1, Highest: 1}, s)
		})
	}
}
