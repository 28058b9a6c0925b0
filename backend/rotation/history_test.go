package rotation_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

// TestAnyLegalHistory lets a role live through random but legal histories, reloads
// included, and looks after each act whether what must never happen did.
func TestAnyLegalHistory(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := &life{State: &rotation.State{}, now: start, promised: map[int]time.Time{}, ended: map[string]bool{}, made: map[int]string{}}
		t.Repeat(map[string]func(*rapid.T){
			"": l.look,
			"time passes": func(t *rapid.T) {
				l.now = l.now.Add(time.Duration(rapid.IntRange(1, 5000).Draw(t, "seconds")) * time.Second)
			},
			"reload":          l.reload,
			"begin":           l.beginFresh,
			"begin standby":   l.beginStandby,
			"begin rollback":  l.beginRollback,
			"refuse":          l.refuse,
			"prepared":        func(t *rapid.T) { l.reach(t, rotation.Planned, rotation.Prepared) },
			"verified":        func(t *rapid.T) { l.reach(t, rotation.Prepared, rotation.Verified) },
			"activate":        l.activate,
			"finish":          l.finish,
			"fail":            l.fail,
			"revert":          l.revert,
			"finish reverted": l.finishReverted,
			"emergency":       l.emergency,
			"raise grace":     l.raiseGrace,
			"retire":          l.retire,
			"destroy":         l.destroy,
			"undo":            l.undo,
			"prove":           l.prove,
			"make ahead":      l.makeAhead,
			"standby ready":   l.standbyReady,
			"trim":            l.trim,
			"delete":          l.delete,
		})
	})
}

type life struct {
	*rotation.State
	now time.Time
	ids int

	promised map[int]time.Time // until when readers may rely on a version
	ended    map[string]bool
	made     map[int]string // the rotation that a number was given to

	// As the last look found them.
	highest, pointer int
	lastEnd          map[int]time.Time
	leaked           map[int]bool
}

func (l *life) id() string {
	l.ids++
	return fmt.Sprintf("id-%d", l.ids)
}

func skipUnless(t *rapid.T, possible bool) {
	if !possible {
		t.Skip("not now")
	}
}

// pick draws a version that qualifies.
func (l *life) pick(t *rapid.T, qualifies func(*rotation.Version) bool) *rotation.Version {
	var numbers []int
	for i := range l.Versions {
		if qualifies(&l.Versions[i]) {
			numbers = append(numbers, l.Versions[i].Number)
		}
	}
	skipUnless(t, len(numbers) > 0)
	return l.Version(rapid.SampledFrom(numbers).Draw(t, "version"))
}

func grace(t *rapid.T) rotation.Duration {
	return rotation.Duration(time.Duration(rapid.IntRange(20, 4000).Draw(t, "grace")) * time.Second)
}

// hold notes what readers of the current version were promised until now.
func (l *life) hold() {
	if cur := l.CurrentVersion(); cur != nil {
		if until := l.now.Add(cur.Grace.Std()); until.After(l.promised[cur.Number]) {
			l.promised[cur.Number] = until
		}
	}
}

func (l *life) mint() *rotation.Version {
	v := &rotation.Version{Number: l.Highest + 1, State: rotation.Pending, RotationID: l.id(), HasMaterial: true, CreatedTime: l.now}
	l.made[v.Number] = v.RotationID
	return v
}

func (l *life) idle() bool { return l.InFlight == nil && !l.Deleted }

func (l *life) beginFresh(t *rapid.T) {
	skipUnless(t, l.idle())
	v := l.mint()
	require.NoError(t, l.Begin(rotation.Rotation{ID: v.RotationID, Trigger: rotation.Manual, Version: v.Number, StartedTime: l.now}, v))
}

func (l *life) beginStandby(t *rapid.T) {
	skipUnless(t, l.idle() && l.StandbyVersion() != nil)
	require.NoError(t, l.Begin(rotation.Rotation{ID: l.id(), Trigger: rotation.Scheduled, Version: l.StandbyVersion().Number}, nil))
}

func (l *life) beginRollback(t *rapid.T) {
	skipUnless(t, l.idle())
	v := l.pick(t, func(v *rotation.Version) bool {
		return !v.Compromised && !v.Undo && (v.State == rotation.Retiring || v.State == rotation.Disabled || v.State == rotation.Retired)
	})
	require.NoError(t, l.Begin(rotation.Rotation{ID: l.id(), Trigger: rotation.Rollback, Version: v.Number}, nil))
}

func (l *life) refuse(t *rapid.T) {
	skipUnless(t, l.idle())
	require.NoError(t, l.Refuse(rotation.Rotation{ID: l.id(), Trigger: rotation.Manual, Phase: rotation.Planned}, l.now, rotation.Failure{}, rotation.AfterFailure{}))
}

func (l *life) reach(t *rapid.T, from, to rotation.Phase) {
	skipUnless(t, l.InFlight != nil && l.InFlight.Phase == from)
	require.NoError(t, l.Reach(to))
}

func (l *life) activate(t *rapid.T) {
	skipUnless(t, l.InFlight != nil && l.InFlight.Phase == rotation.Verified)
	l.hold()
	require.NoError(t, l.Activate(l.now, grace(t)))
}

func (l *life) steps() bool { return l.InFlight != nil && l.InFlight.Phase == rotation.Active }

func (l *life) finish(t *rapid.T) {
	skipUnless(t, l.steps() && !l.InFlight.Reverting)
	require.NoError(t, l.Finish(l.now, l.now.Add(time.Hour)))
}

func (l *life) fail(t *rapid.T) {
	skipUnless(t, l.InFlight != nil && l.InFlight.BeforeSwitch())
	then := rotation.AfterFailure{}
	if rapid.Bool().Draw(t, "blocked") {
		then.Blocked = "blocked"
	}
	require.NoError(t, l.Fail(l.now, rotation.Failure{Message: "no"}, then))
}

func (l *life) revert(t *rapid.T) {
	skipUnless(t, l.steps() && !l.InFlight.Reverting)
	previous := l.Version(l.InFlight.PreviousVersion)
	skipUnless(t, previous != nil && previous.State == rotation.Retiring && !previous.Compromised && previous.RetireBegun.IsZero())
	l.hold()
	require.NoError(t, l.Revert(l.now, rotation.Failure{Message: "no"}))
}

func (l *life) finishReverted(t *rapid.T) {
	skipUnless(t, l.steps() && l.InFlight.Reverting)
	require.NoError(t, l.FinishReverted(l.now))
}

func (l *life) emergency(t *rapid.T) {
	skipUnless(t, !l.Deleted)
	if l.InFlight != nil {
		require.NoError(t, l.Supersede(l.now))
	}
	l.Compromise(l.id())
	if rapid.Bool().Draw(t, "kill first") {
		l.KillNow(l.now)
	}
}

func (l *life) raiseGrace(t *rapid.T) {
	cur := l.CurrentVersion()
	skipUnless(t, cur != nil)
	cur.Grace = max(cur.Grace, grace(t))
}

func (l *life) retire(t *rapid.T) {
	v := l.pick(t, func(v *rotation.Version) bool {
		due := v.State == rotation.Retiring && !v.RetireAt.IsZero() && !v.RetireAt.After(l.now)
		return due && (l.InFlight == nil || v.Compromised && l.InFlight.Version != v.Number)
	})
	if !v.Compromised {
		require.False(t, l.now.Before(l.promised[v.Number]), "version %d ends before %s", v.Number, l.promised[v.Number])
	}
	l.BeginRetire(v.Number, l.now)
	require.NoError(t, l.DisableDone(v.Number, l.now, 1))
}

func (l *life) destroy(t *rapid.T) {
	v := l.pick(t, func(v *rotation.Version) bool {
		return v.State == rotation.Disabled && !v.Undo && (l.InFlight == nil || l.InFlight.Version != v.Number)
	})
	require.NoError(t, l.DestroyDone(v.Number, l.now, rapid.SampledFrom([]string{"", "left"}).Draw(t, "left")))
}

func (l *life) undo(t *rapid.T) {
	v := l.pick(t, func(v *rotation.Version) bool {
		return v.Undo && (l.InFlight == nil || l.InFlight.Version != v.Number)
	})
	require.NoError(t, l.UndoDone(v.Number, l.now))
}

func (l *life) prove(t *rapid.T) {
	v := l.pick(t, func(v *rotation.Version) bool { return v.State == rotation.Retired && !v.Undo && v.Proof == nil })
	v.Proof = &rotation.Proof{Time: l.now, Dead: rapid.Bool().Draw(t, "dead")}
}

func (l *life) makeAhead(t *rapid.T) {
	skipUnless(t, l.idle() && l.Current != 0 && l.StandbyVersion() == nil)
	v := l.mint()
	v.Ahead = true
	l.Versions, l.Highest = append(l.Versions, *v), v.Number
}

func (l *life) standbyReady(t *rapid.T) {
	skipUnless(t, l.idle() && l.StandbyVersion() == nil)
	v := l.pick(t, func(v *rotation.Version) bool { return v.State == rotation.Pending && v.Ahead && !v.Undo })
	require.NoError(t, l.StandbyReady(v.Number))
}

func (l *life) trim(t *rapid.T) {
	for _, number := range l.Trim(rapid.IntRange(2, 6).Draw(t, "keep")) {
		require.Nil(t, l.Version(number))
		require.NotEqual(t, l.Current, number)
	}
}

func (l *life) delete(t *rapid.T) {
	// Once is enough, and late: an early end makes dull histories.
	skipUnless(t, l.idle() && l.Highest > 4)
	l.hold()
	require.NoError(t, l.Delete(l.now))
}

func (l *life) reload(t *rapid.T) {
	raw, err := json.Marshal(l.State)
	require.NoError(t, err)
	var again rotation.State
	require.NoError(t, json.Unmarshal(raw, &again))
	back, err := json.Marshal(again)
	require.NoError(t, err)
	require.JSONEq(t, string(raw), string(back))
	l.State = &again
}

// look is what must hold at every moment.
func (l *life) look(t *rapid.T) {
	l.lookAtRotations(t)
	current, seen := 0, map[int]bool{}
	lastEnd, leaked := map[int]time.Time{}, map[int]bool{}
	for i := range l.Versions {
		v := &l.Versions[i]
		require.False(t, seen[v.Number], "number %d stands twice", v.Number)
		seen[v.Number] = true
		require.Equal(t, l.made[v.Number], v.RotationID, "number %d was used again", v.Number)
		require.LessOrEqual(t, v.Number, l.Highest)
		if v.State == rotation.Current {
			current++
			require.Equal(t, l.Current, v.Number, "the pointer and the state agree")
			require.Zero(t, v.RetireAt)
			require.Zero(t, v.RetireBegun)
			require.False(t, v.Undo)
			require.False(t, l.leaked[v.Number] && v.Number != l.pointer, "version %d leaked, and came back", v.Number)
		}
		if v.State == rotation.Discarded {
			require.Zero(t, v.ActivatedTime, "what was current is retired, not discarded")
		}
		if v.State == rotation.Retiring && !v.RetireAt.IsZero() && !v.Compromised {
			require.False(t, v.RetireAt.Before(l.promised[v.Number]), "version %d is to end at %s, promised was %s", v.Number, v.RetireAt, l.promised[v.Number])
			require.False(t, v.RetireAt.Before(l.lastEnd[v.Number]), "the end of version %d moved earlier", v.Number)
		}
		lastEnd[v.Number] = l.lastEnd[v.Number]
		if !v.RetireAt.IsZero() && v.State == rotation.Retiring {
			lastEnd[v.Number] = v.RetireAt
		}
		leaked[v.Number] = v.Compromised
		require.False(t, l.leaked[v.Number] && !v.Compromised, "a leak is not forgotten")
	}
	require.LessOrEqual(t, current, 1, "at most one current version")
	require.Equal(t, l.Current != 0, current == 1)
	require.GreaterOrEqual(t, l.Highest, l.highest)
	require.LessOrEqual(t, len(l.Events), 64)
	l.lastEnd, l.leaked, l.highest, l.pointer = lastEnd, leaked, l.Highest, l.Current
}

func (l *life) lookAtRotations(t *rapid.T) {
	if l.Last != nil {
		require.NotEmpty(t, l.Last.Outcome)
		l.ended[l.Last.ID] = true
	}
	if l.InFlight == nil {
		return
	}
	require.False(t, l.ended[l.InFlight.ID], "rotation %s ended before", l.InFlight.ID)
	require.Empty(t, l.InFlight.Outcome)
	require.NotNil(t, l.Candidate(), "the candidate is on record")
	require.False(t, l.Deleted)
	switch {
	case l.InFlight.Reverting:
		require.Equal(t, l.InFlight.PreviousVersion, l.Current)
	case l.InFlight.Phase == rotation.Active:
		require.Equal(t, l.InFlight.Version, l.Current)
	default:
		require.Equal(t, l.InFlight.PreviousVersion, l.Current, "nothing moves the pointer before the switch")
	}
}
