package rotation_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

var start = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

const hour = rotation.Duration(time.Hour)

// role is a state with a clock, for tests that tell a story.
type role struct {
	*rotation.State
	t   *testing.T
	now time.Time
}

func newRole(t *testing.T) *role {
	t.Helper()
	return &role{State: &rotation.State{}, t: t, now: start}
}

func (r *role) wait(d time.Duration) { r.now = r.now.Add(d) }

func (r *role) begin(trigger rotation.Trigger) *rotation.Version {
	r.t.Helper()
	n := r.Highest + 1
	id := fmt.Sprintf("r%d", n)
	candidate := &rotation.Version{Number: n, State: rotation.Pending, RotationID: id, CreatedTime: r.now, HasMaterial: true}
	require.NoError(r.t, r.Begin(rotation.Rotation{ID: id, Trigger: trigger, Version: n, Attempt: 1, StartedTime: r.now}, candidate))
	return r.Candidate()
}

func (r *role) again(trigger rotation.Trigger, number int) {
	r.t.Helper()
	require.NoError(r.t, r.Begin(rotation.Rotation{ID: fmt.Sprintf("again-%d", number), Trigger: trigger, Version: number, StartedTime: r.now}, nil))
}

func (r *role) verified() {
	r.t.Helper()
	require.NoError(r.t, r.Reach(rotation.Prepared))
	require.NoError(r.t, r.Reach(rotation.Verified))
}

func (r *role) activate(grace rotation.Duration) {
	r.t.Helper()
	r.verified()
	require.NoError(r.t, r.Activate(r.now, grace))
}

func (r *role) finish() {
	r.t.Helper()
	require.NoError(r.t, r.Finish(r.now, r.now.Add(24*time.Hour)))
}

// rotate does a whole rotation with a grace of an hour.
func (r *role) rotate() {
	r.t.Helper()
	r.begin(rotation.Scheduled)
	r.activate(hour)
	r.finish()
}

func (r *role) retire(number int) {
	r.t.Helper()
	r.BeginRetire(number, r.now)
	require.NoError(r.t, r.DisableDone(number, r.now, 0))
	require.NoError(r.t, r.DestroyDone(number, r.now, ""))
	r.Version(number).Proof = &rotation.Proof{Dead: true}
}

func TestARotationFromBeginToEnd(t *testing.T) {
	t.Parallel()
	r := newRole(t)
	r.Intent, r.Postponed, r.ActionRequired = &rotation.Intent{ID: "x"}, &rotation.Attention{}, "act"
	v := r.begin(rotation.Initial)
	require.Nil(t, r.Intent)
	require.Nil(t, r.Postponed)
	require.Empty(t, r.ActionRequired)
	require.Equal(t, rotation.Pending, v.State)
	require.True(t, r.InFlight.BeforeSwitch())
	require.Nil(t, r.CurrentVersion())

	r.activate(hour)
	require.False(t, r.InFlight.BeforeSwitch())
	require.Equal(t, 1, r.CurrentVersion().Number)
	require.Equal(t, hour, r.CurrentVersion().Grace)
	require.Equal(t, start, r.ActivatedTime)
	r.Failures, r.Blocked = 3, "why"
	r.finish()
	require.Nil(t, r.InFlight)
	require.Equal(t, rotation.Succeeded, r.Last.Outcome)
	require.Equal(t, rotation.RolledOut, r.Last.Phase)
	require.Equal(t, r.now, r.Last.EndedTime)
	require.Equal(t, start.Add(24*time.Hour), r.NextRotation)
	require.Zero(t, r.Failures)
	require.Empty(t, r.Blocked)

	r.wait(time.Minute)
	r.begin(rotation.Scheduled)
	r.activate(hour)
	require.Equal(t, rotation.Retiring, r.Version(1).State)
	require.Zero(t, r.Version(1).RetireAt, "no end is set while the rotation is in flight")
	r.wait(time.Minute)
	r.finish()
	require.Equal(t, r.now.Add(time.Hour), r.Version(1).RetireAt)
	require.Equal(t, 1, r.Last.PreviousVersion)
	var types []string
	for _, e := range r.Events {
		types = append(types, e.Type)
	}
	require.Equal(t, []string{"version.activated", "rotation.succeeded", "version.activated", "rotation.succeeded"}, types)
}

func TestBeginRefuses(t *testing.T) {
	t.Parallel()
	pending := func(n int) *rotation.Version { return &rotation.Version{Number: n, State: rotation.Pending} }
	for name, tc := range map[string]struct {
		prepare   func(*role)
		version   int
		candidate *rotation.Version
		want      string
	}{
		"while one is in flight":    {func(r *role) { r.begin(rotation.Manual) }, 3, pending(3), "is in flight"},
		"a number used before":      {nil, 1, pending(1), "was used before"},
		"a number that was skipped": {func(r *role) { r.Highest = 9 }, 9, pending(9), "was used before"},
		"another's candidate":       {nil, 3, pending(2), "the candidate is version 2"},
		"a candidate that lives":    {nil, 2, &rotation.Version{Number: 2, State: rotation.Current}, "the candidate is version 2, current"},
		"no such version":           {nil, 7, nil, "no version 7"},
		"the current version":       {nil, 1, nil, `from "current" to "current"`},
		"a discarded version":       {func(r *role) { r.Versions[0].State = rotation.Discarded }, 1, nil, `from "discarded" to "current"`},
		"a deleted role":            {func(r *role) { require.NoError(r.t, r.Delete(r.now)) }, 2, pending(2), "the role is deleted"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRole(t)
			r.rotate()
			if tc.prepare != nil {
				tc.prepare(r)
			}
			before := len(r.Versions)
			err := r.Begin(rotation.Rotation{ID: "x", Version: tc.version}, tc.candidate)
			require.ErrorContains(t, err, tc.want)
			require.Len(t, r.Versions, before)
		})
	}
}

func TestReachKnowsOnlyWhatMovesNothingElse(t *testing.T) {
	t.Parallel()
	r := newRole(t)
	r.begin(rotation.Manual)
	r.verified()
	for _, phase := range []rotation.Phase{"", rotation.Planned, rotation.Active, rotation.RolledOut} {
		require.Error(t, r.Reach(phase), phase)
	}
	require.Equal(t, rotation.Verified, r.InFlight.Phase)
}

func TestFailBeforeTheSwitch(t *testing.T) {
	t.Parallel()
	retry := &rotation.Intent{ID: "retry", Attempt: 2, At: time.Date(2026, 1, 1, 0, 0, 30, 0, time.UTC)}
	for name, tc := range map[string]struct {
		then    rotation.AfterFailure
		blocked string // before
		outcome rotation.Outcome
		undo    bool
		words   string
	}{
		"with a next attempt":      {rotation.AfterFailure{Retry: retry}, "", rotation.Failed, true, "attempt 2 follows at 2026-01-01T00:00:30Z"},
		"irreversible":             {rotation.AfterFailure{Retry: retry, Keep: true}, "", rotation.Failed, false, "attempt 2 follows at 2026-01-01T00:00:30Z"},
		"the last attempt":         {rotation.AfterFailure{Blocked: "ten failed"}, "", rotation.Blocked, true, "nothing more is tried until a person rotates or rolls back"},
		"a rollback":               {rotation.AfterFailure{}, "", rotation.Failed, true, "nothing was changed, and nothing more is tried"},
		"a rollback while blocked": {rotation.AfterFailure{Blocked: "before"}, "before", rotation.Failed, true, "nothing more is tried until a person rotates or rolls back"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, phase := range []rotation.Phase{rotation.Planned, rotation.Prepared, rotation.Verified} {
				r := newRole(t)
				r.rotate()
				r.begin(rotation.Manual)
				r.Blocked = tc.blocked // as it stays while a rollback runs
				r.InFlight.Phase = phase
				require.NoError(t, r.Fail(r.now, rotation.Failure{Kind: "target", Message: "no"}, tc.then))
				require.Nil(t, r.InFlight)
				require.Equal(t, tc.outcome, r.Last.Outcome)
				require.Equal(t, phase, r.Last.Phase, "it says how far it got")
				require.Equal(t, "no", r.Last.Error.Message)
				require.Equal(t, tc.undo, r.Version(2).Undo)
				require.Equal(t, tc.then.Retry, r.Intent)
				require.Equal(t, tc.then.Blocked, r.Blocked)
				require.Equal(t, 1, r.Failures)
				require.Equal(t, 1, r.Current, "readers notice nothing")
				said := r.Events[len(r.Events)-1].Data
				require.Equal(t, []string{string(phase), "no", tc.words}, []string{said["phase"], said["error"], said["then"]})
			}
		})
	}
	t.Run("not after it", func(t *testing.T) {
		t.Parallel()
		r := newRole(t)
		r.begin(rotation.Manual)
		r.activate(hour)
		require.Error(t, r.Fail(r.now, rotation.Failure{}, rotation.AfterFailure{}))
	})
}

func TestRefuse(t *testing.T) {
	t.Parallel()
	r := newRole(t)
	r.rotate()
	require.NoError(t, r.Refuse(rotation.Rotation{ID: "x", Phase: rotation.Planned, Trigger: rotation.Scheduled}, r.now, rotation.Failure{Message: "no plan"}, rotation.AfterFailure{}))
	require.Equal(t, rotation.Failed, r.Last.Outcome)
	require.Equal(t, 1, r.Last.PreviousVersion)
	require.Len(t, r.Versions, 1)
	r.begin(rotation.Manual)
	require.ErrorContains(t, r.Refuse(rotation.Rotation{ID: "y", Phase: rotation.Planned}, r.now, rotation.Failure{}, rotation.AfterFailure{}), "is in flight")
}

// A candidate that existed before is given back as it was found.
func TestAnAbandonedCandidateReturnsToWhatItWas(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		prepare func(*role)
		trigger rotation.Trigger
		state   rotation.VersionState
		undo    bool
	}{
		"pending":                  {nil, rotation.Manual, rotation.Pending, true},
		"rolled back to, retiring": {func(r *role) { r.rotate() }, rotation.Rollback, rotation.Retiring, false},
		"rolled back to, retired":  {func(r *role) { r.rotate(); r.retire(1) }, rotation.Rollback, rotation.Retired, true},
		"rolled back to, disabled": {func(r *role) {
			r.rotate()
			r.BeginRetire(1, r.now)
			require.NoError(r.t, r.DisableDone(1, r.now, 0))
		}, rotation.Rollback, rotation.Disabled, true},
	} {
		for _, how := range []string{"failed", "superseded"} {
			t.Run(name+", "+how, func(t *testing.T) {
				t.Parallel()
				r := newRole(t)
				r.rotate()
				number := 1
				if tc.prepare == nil {
					number = r.begin(tc.trigger).Number
				} else {
					tc.prepare(r)
					r.again(tc.trigger, 1)
				}
				if how == "failed" {
					require.NoError(t, r.Fail(r.now, rotation.Failure{}, rotation.AfterFailure{}))
				} else {
					require.NoError(t, r.Supersede(r.now))
				}
				v := r.Version(number)
				require.Equal(t, tc.state, v.State)
				require.Equal(t, tc.undo, v.Undo)
				if tc.undo {
					require.False(t, v.Settled())
					require.NoError(t, r.UndoDone(number, r.now))
					require.False(t, v.Undo)
				}
			})
		}
	}
	t.Run("standby", func(t *testing.T) {
		t.Parallel()
		r := newRole(t)
		r.rotate()
		r.Versions = append(r.Versions, rotation.Version{Number: 2, State: rotation.Pending, Ahead: true})
		r.Highest, r.Ahead = 2, &rotation.Attention{}
		require.NoError(t, r.StandbyReady(2, r.now, 0))
		require.Nil(t, r.State.Ahead)
		require.Equal(t, 2, r.StandbyVersion().Number)
		r.again(rotation.Manual, 2)
		require.NoError(t, r.Fail(r.now, rotation.Failure{}, rotation.AfterFailure{}))
		require.Equal(t, rotation.Standby, r.Version(2).State)
		require.False(t, r.Version(2).Undo)
	})
}

func TestUndoDoneDiscardsACandidate(t *testing.T) {
	t.Parallel()
	r := newRole(t)
	r.begin(rotation.Manual)
	require.NoError(t, r.Supersede(r.now))
	r.Version(1).Attention = &rotation.Attention{}
	require.NoError(t, r.UndoDone(1, r.now))
	require.Equal(t, rotation.Discarded, r.Version(1).State)
	require.Equal(t, r.now, r.Version(1).RetiredTime)
	require.Nil(t, r.Version(1).Attention)
	require.True(t, r.Settled())
}

func TestRevert(t *testing.T) {
	t.Parallel()
	r := newRole(t)
	r.rotate()
	r.wait(time.Minute)
	r.begin(rotation.Scheduled)
	r.activate(hour)
	r.InFlight.Held = "why"
	r.wait(time.Minute)
	require.NoError(t, r.Revert(r.now, rotation.Failure{Message: "rollout failed"}))
	require.Equal(t, 1, r.Current)
	require.Equal(t, rotation.Retiring, r.Version(2).State)
	require.Empty(t, r.InFlight.Held)
	require.True(t, r.InFlight.Reverting)
	require.Error(t, r.Revert(r.now, rotation.Failure{}), "once is enough")
	require.Error(t, r.Finish(r.now, r.now), "a rotation whose pointer went back did not succeed")
	require.Equal(t, rotation.Active, r.InFlight.Phase)
	require.Zero(t, r.Version(2).RetireAt)

	next := r.NextRotation
	r.wait(time.Minute)
	require.NoError(t, r.FinishReverted(r.now))
	require.Equal(t, rotation.RolledBack, r.Last.Outcome)
	require.Equal(t, "the last rotation was rolled back: rollout failed", r.Blocked)
	require.Equal(t, 1, r.Failures)
	require.Equal(t, next, r.NextRotation)
	require.Equal(t, r.now.Add(time.Hour), r.Version(2).RetireAt, "readers hold the candidate")
	require.Zero(t, r.Version(1).RetireAt)
}

func TestRevertRefuses(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*role){
		"before the switch":          func(r *role) { r.InFlight.Phase = rotation.Verified },
		"a compromised version":      func(r *role) { r.Version(1).Compromised = true },
		"one whose end has begun":    func(r *role) { r.BeginRetire(1, r.now) },
		"one that was disabled":      func(r *role) { require.NoError(r.t, r.DisableDone(1, r.now, 0)) },
		"where no earlier one lives": func(r *role) { r.InFlight.PreviousVersion = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRole(t)
			r.rotate()
			r.begin(rotation.Scheduled)
			r.activate(hour)
			spoil(r)
			require.Error(t, r.Revert(r.now, rotation.Failure{}))
			require.False(t, r.InFlight.Reverting)
			require.Equal(t, 2, r.Current)
			require.Error(t, r.FinishReverted(r.now))
		})
	}
}

func TestRollback(t *testing.T) {
	t.Parallel()
	r := newRole(t)
	r.rotate()
	r.rotate()
	next := r.NextRotation
	r.wait(time.Minute)
	promised := r.Version(1).RetireAt
	r.again(rotation.Rollback, 1)
	r.activate(hour)
	require.Equal(t, 1, r.Current)
	require.Zero(t, r.Version(1).RetireAt, "cleared when the version becomes current again")
	r.finish()
	require.Equal(t, next, r.NextRotation, "a rollback does not move the schedule")
	require.Equal(t, 2, r.Highest)
	require.Equal(t, r.now.Add(time.Hour), r.Version(2).RetireAt)

	// It retires again under a shorter grace: not before what was promised before.
	r.begin(rotation.Manual)
	r.Version(1).Grace = 0
	r.activate(hour)
	r.finish()
	require.Equal(t, promised, r.Version(1).RetireAt)
}

// Readers of the time before the switch hold a ttl of the old grace, though its end
// had not been set when the version came back under a shorter one.
func TestAShorterGraceDoesNotBreakAnEarlierPromise(t *testing.T) {
	t.Parallel()
	r := newRole(t)
	r.rotate()
	r.begin(rotation.Scheduled)
	r.activate(hour)
	deactivated := r.now
	require.NoError(t, r.Supersede(r.now)) // held, and given up for a rollback
	r.wait(time.Second)
	r.again(rotation.Rollback, 1)
	r.activate(rotation.Duration(20 * time.Second))
	r.finish()
	r.wait(time.Second)
	r.begin(rotation.Manual)
	r.activate(rotation.Duration(20 * time.Second))
	r.finish()
	require.False(t, r.Version(1).RetireAt.Before(deactivated.Add(time.Hour)))
}

func TestCompromiseMarksWhatCouldBeReadOrBroughtBack(t *testing.T) {
	t.Parallel()
	s := &rotation.State{Versions: []rotation.Version{
		{Number: 1, State: rotation.Retired},
		{Number: 2, State: rotation.Disabled},
		{Number: 3, State: rotation.Retiring},
		{Number: 4, State: rotation.Current},
		{Number: 5, State: rotation.Pending},
		{Number: 6, State: rotation.Discarded},
		{Number: 7, State: rotation.Standby},
		{Number: 8, State: rotation.Retiring, Compromised: true, Incidents: []string{"earlier"}},
		{Number: 9, State: rotation.Retired, Compromised: true, Incidents: []string{"earlier"}},
		{Number: 10, State: rotation.Retired, Compromised: true, Incidents: []string{"earlier"}, Proof: &rotation.Proof{Dead: true}},
	}}
	require.NoError(t, s.Compromise("now", start))
	got := map[int][]string{}
	for _, v := range s.Versions {
		require.Equal(t, v.Compromised, len(v.Incidents) > 0)
		require.Equal(t, v.Compromised && v.Number != 10, v.Of("now"), v.Number)
		if v.Compromised {
			got[v.Number] = v.Incidents
		}
	}
	// What leaked before, and may live still, keeps the later incident open too.
	require.Equal(t, map[int][]string{
		2: {"now"}, 3: {"now"}, 4: {"now"}, 8: {"earlier", "now"}, 9: {"earlier", "now"}, 10: {"earlier"},
	}, got)
}

func TestAnEmergencyEndsWhatLeakedAtTheSwitch(t *testing.T) {
	t.Parallel()
	r := newRole(t)
	r.rotate()
	r.rotate()
	r.begin(rotation.Scheduled)
	require.NoError(t, r.Supersede(r.now))
	require.NoError(t, r.Compromise("i", start))
	r.wait(time.Minute)
	// The replacement may come from a person, after the emergency's own attempts failed.
	r.begin(rotation.Manual)
	r.activate(hour)
	require.Equal(t, r.now, r.Version(1).RetireAt, "it had the rest of its grace")
	require.Equal(t, r.now, r.Version(2).RetireAt)
	require.True(t, r.Version(3).Undo)
	r.finish()
	require.Equal(t, r.now, r.Version(2).RetireAt)
}

func TestKillNow(t *testing.T) {
	t.Parallel()
	past := start.Add(-time.Minute)
	s := &rotation.State{Versions: []rotation.Version{
		{Number: 1, State: rotation.Retiring, Compromised: true},
		{Number: 2, State: rotation.Retiring, Compromised: true, RetireAt: start.Add(time.Hour)},
		{Number: 3, State: rotation.Retiring, Compromised: true, RetireAt: past},
		{Number: 4, State: rotation.Retiring, RetireAt: start.Add(time.Hour)},
		{Number: 5, State: rotation.Current, Compromised: true},
	}, Current: 5}
	s.KillNow(start)
	var ends []time.Time
	for _, v := range s.Versions {
		ends = append(ends, v.RetireAt)
	}
	require.Equal(t, []time.Time{start, start, past, start.Add(time.Hour), {}}, ends)
}

func TestRetirementInTwoStages(t *testing.T) {
	t.Parallel()
	r := newRole(t)
	r.rotate()
	r.rotate()
	r.wait(time.Hour)
	begun := r.now
	r.BeginRetire(1, r.now)
	r.wait(time.Minute)
	r.BeginRetire(1, r.now)
	v := r.Version(1)
	require.Equal(t, begun, v.RetireBegun, "it begins once")
	require.Error(t, r.DestroyDone(1, r.now, ""), "not before it was disabled")
	v.Attention = &rotation.Attention{}
	require.NoError(t, r.DisableDone(1, r.now.Add(time.Hour), 2))
	require.Equal(t, 2, v.SessionsEnded)
	require.Equal(t, r.now.Add(time.Hour), v.DestroyAt)
	require.Nil(t, v.Attention)
	require.Error(t, r.DisableDone(1, r.now, 0))
	require.NoError(t, r.DestroyDone(1, r.now, "a database admits nobody"))
	require.Equal(t, rotation.Retired, v.State)
	require.Equal(t, "a database admits nobody", v.Left)
	require.False(t, r.Settled(), "not proven dead yet")
	v.Proof = &rotation.Proof{Dead: true}
	require.False(t, r.Settled(), "the current one lives")
}

func TestDelete(t *testing.T) {
	t.Parallel()
	r := newRole(t)
	r.rotate()
	r.rotate()
	r.begin(rotation.Manual)
	require.ErrorContains(t, r.Delete(r.now), "in flight")
	require.NoError(t, r.Supersede(r.now))
	r.Versions = append(r.Versions, rotation.Version{Number: 4, State: rotation.Standby})
	r.Intent, r.Divergence, r.Postponed = &rotation.Intent{}, &rotation.Divergence{}, &rotation.Attention{}
	first := r.Version(1).RetireAt
	r.wait(time.Minute)
	require.NoError(t, r.Delete(r.now))
	require.True(t, r.Deleted)
	require.Zero(t, r.Current)
	require.Zero(t, r.NextRotation)
	require.Nil(t, r.Intent)
	require.Nil(t, r.Divergence)
	require.Nil(t, r.Postponed)
	require.Equal(t, first, r.Version(1).RetireAt)
	require.Equal(t, r.now.Add(time.Hour), r.Version(2).RetireAt, "readers hold it")
	for _, n := range []int{3, 4} {
		require.Equal(t, rotation.Pending, r.Version(n).State)
		require.True(t, r.Version(n).Undo)
	}
	require.False(t, r.Settled())
}

func TestDeletingGivesNoGraceToWhatLeaked(t *testing.T) {
	t.Parallel()
	r := newRole(t)
	r.rotate()
	r.rotate()
	require.NoError(t, r.Compromise("i", start))
	r.wait(time.Minute)
	require.NoError(t, r.Delete(r.now))
	require.Equal(t, r.now, r.Version(1).RetireAt)
	require.Equal(t, r.now, r.Version(2).RetireAt)
}

func TestTrim(t *testing.T) {
	t.Parallel()
	dead := &rotation.Proof{Dead: true}
	versions := func() []rotation.Version {
		return []rotation.Version{
			{Number: 1, State: rotation.Retired, Proof: dead, RotationID: "r1"},
			{Number: 2, State: rotation.Retired, RotationID: "r2"}, // not proven dead
			{Number: 3, State: rotation.Discarded, RotationID: "r3"},
			{Number: 4, State: rotation.Retired, Proof: dead, Left: "owns tables", RotationID: "r4"},
			{Number: 5, State: rotation.Retiring, RotationID: "r5"},
			{Number: 6, State: rotation.Current, RotationID: "r6"},
		}
	}
	numbers := func(vs []rotation.Version) (out []int) {
		for _, v := range vs {
			out = append(out, v.Number)
		}
		return out
	}
	for name, tc := range map[string]struct {
		keep              int
		change            func(*rotation.State)
		forgotten, kept   []int
		acknowledgedAsToo []string
	}{
		"room enough":                            {6, nil, nil, []int{1, 2, 3, 4, 5, 6}, nil},
		"the oldest go":                          {5, nil, []int{1}, []int{2, 3, 4, 5, 6}, nil},
		"what is not settled":                    {4, nil, []int{1, 3}, []int{2, 4, 5, 6}, nil},
		"what is left outside is known for good": {0, nil, []int{1, 3, 4}, []int{2, 5, 6}, []string{"r4"}},
		"the rotation in flight": {
			0, func(s *rotation.State) { s.InFlight = &rotation.Rotation{Version: 1, PreviousVersion: 3} },
			[]int{4},
			[]int{1, 2, 3, 5, 6},
			[]string{"r4"},
		},
		"an open incident": {0, func(s *rotation.State) {
			s.Incidents = []rotation.IncidentLink{{ID: "open"}}
			s.Version(1).Incidents, s.Version(3).Incidents = []string{"open"}, []string{"over"}
		}, []int{3, 4}, []int{1, 2, 5, 6}, []string{"r4"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &rotation.State{Versions: versions(), Current: 6, Highest: 6}
			if tc.change != nil {
				tc.change(s)
			}
			shared := *s
			before := append([]rotation.Version(nil), s.Versions...)
			require.Equal(t, tc.forgotten, s.Trim(tc.keep))
			require.Equal(t, tc.kept, numbers(s.Versions))
			require.Equal(t, tc.acknowledgedAsToo, s.Acknowledged)
			require.Equal(t, before, shared.Versions, "a copy of the state that shares the list sees no change")
			require.Empty(t, s.Trim(tc.keep), "once is enough")
			require.Equal(t, 6, s.Highest)
		})
	}
}

func TestEventsAreBounded(t *testing.T) {
	t.Parallel()
	s := &rotation.State{}
	for i := range 200 {
		s.Emit(rotation.Event{ID: fmt.Sprint(i)})
		require.LessOrEqual(t, len(s.Events), 64)
	}
	require.Len(t, s.Events, 64)
	require.Equal(t, "136", s.Events[0].ID, "the oldest go")
	require.Equal(t, "199", s.Events[63].ID)
}

func TestIntentAndRetryCarryEverything(t *testing.T) {
	t.Parallel()
	i := &rotation.Intent{
		ID: "a", Trigger: rotation.Emergency, At: start, Attempt: 2, RetryOf: "before", Reason: "leak",
		Actor: rotation.Actor{EntityID: "e"}, IncidentID: "i", KillFirst: true, Force: true,
	}
	r := i.Rotation(7, start)
	require.Equal(t, rotation.Rotation{
		ID: "a", Trigger: rotation.Emergency, Phase: rotation.Planned, Version: 7, Attempt: 2, RetryOf: "before", Reason: "leak",
		Actor: rotation.Actor{EntityID: "e"}, StartedTime: start, IncidentID: "i", KillFirst: true, Force: true,
	}, r)
	next := r.Retry("b", start.Add(time.Minute))
	want := *i
	want.ID, want.At, want.Attempt, want.RetryOf = "b", start.Add(time.Minute), 3, "a"
	require.Equal(t, &want, next)
}

func TestStepNamed(t *testing.T) {
	t.Parallel()
	r := &rotation.Rotation{Steps: []rotation.Step{{Name: "rollout"}, {Name: "rollout", Back: true, Cursor: "back"}}}
	require.Empty(t, r.StepNamed("rollout", false).Cursor)
	require.Equal(t, "back", r.StepNamed("rollout", true).Cursor)
	require.Nil(t, r.StepNamed("mirror", false))
}
