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
		// rapid draws what stands first most often: that leads through whole rotations.
		acts := []func() act{
			l.activate, l.finish, l.beginRollback, l.reach, l.beginFresh, l.revert, l.finishReverted, l.supersede, l.retire, l.destroy,
			l.undo, l.prove, l.timePasses, l.raiseGrace, l.makeAhead, l.standbyReady, l.beginStandby, l.fail, l.refuse, l.reload,
			l.emergency, l.trim, l.bringBack, l.withdraw, l.announceFor, l.stage, l.delete,
		}
		for range rapid.IntRange(20, 150).Draw(t, "length") {
			var possible []act
			for _, a := range acts {
				if a := a(); a.do != nil {
					for range max(a.weight, 1) {
						possible = append(possible, a)
					}
				}
			}
			a := rapid.SampledFrom(possible).Draw(t, "act")
			a.do(t)
			l.look(t)
		}
	})
}

// act is something that may happen now; do is nil when it may not.
type act struct {
	name   string
	weight int // 1 if zero
	do     func(t *rapid.T)
}

// String names it in the output of a failed run.
func (a act) String() string { return a.name }

// when is an act that is possible under a condition.
func when(possible bool, name string, weight int, do func(*rapid.T)) act {
	if !possible {
		return act{}
	}
	return act{name, weight, do}
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

// one is an act on a version that qualifies, drawn when it happens.
func (l *life) one(name string, weight int, qualifies func(*rotation.Version) bool, do func(*rapid.T, *rotation.Version)) act {
	var numbers []int
	for i := range l.Versions {
		if qualifies(&l.Versions[i]) {
			numbers = append(numbers, l.Versions[i].Number)
		}
	}
	return when(len(numbers) > 0, name, weight, func(t *rapid.T) {
		do(t, l.Version(rapid.SampledFrom(numbers).Draw(t, "version")))
	})
}

func grace(t *rapid.T) rotation.Duration {
	return rotation.Duration(rapid.SampledFrom([]time.Duration{20 * time.Second, 5 * time.Minute, time.Hour}).Draw(t, "grace"))
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

func (l *life) timePasses() act {
	return when(true, "time passes", 2, func(t *rapid.T) {
		l.now = l.now.Add(rapid.SampledFrom([]time.Duration{time.Second, 25 * time.Second, 6 * time.Minute, 2 * time.Hour}).Draw(t, "time"))
	})
}

func (l *life) reload() act {
	return when(true, "reload", 1, func(t *rapid.T) {
		raw, err := json.Marshal(l.State)
		require.NoError(t, err)
		var again rotation.State
		require.NoError(t, json.Unmarshal(raw, &again))
		back, err := json.Marshal(again)
		require.NoError(t, err)
		require.JSONEq(t, string(raw), string(back))
		l.State = &again
	})
}

func (l *life) beginFresh() act {
	return when(l.idle(), "begin", 2, func(t *rapid.T) {
		v := l.mint()
		require.NoError(t, l.Begin(rotation.Rotation{ID: v.RotationID, Trigger: rotation.Manual, Version: v.Number, StartedTime: l.now}, v))
	})
}

func (l *life) beginStandby() act {
	return when(l.idle() && l.StandbyVersion() != nil, "begin with the standby", 2, func(t *rapid.T) {
		require.NoError(t, l.Begin(rotation.Rotation{ID: l.id(), Trigger: rotation.Scheduled, Version: l.StandbyVersion().Number}, nil))
	})
}

func (l *life) beginRollback() act {
	return l.one("begin a rollback", 2, func(v *rotation.Version) bool {
		ended := v.State == rotation.Disabled || v.State == rotation.Retired
		return l.idle() && !v.Compromised && !v.Undo && (v.State == rotation.Retiring || ended || v.Returns && v.State == rotation.Standby)
	}, func(t *rapid.T, v *rotation.Version) {
		require.NoError(t, l.Begin(rotation.Rotation{ID: l.id(), Trigger: rotation.Rollback, Version: v.Number}, nil))
	})
}

func (l *life) refuse() act {
	return when(l.idle(), "refuse", 1, func(t *rapid.T) {
		require.NoError(t, l.Refuse(rotation.Rotation{ID: l.id(), Trigger: rotation.Manual, Phase: rotation.Planned}, l.now, rotation.Failure{}, rotation.AfterFailure{}))
	})
}

func (l *life) phase() rotation.Phase {
	if l.InFlight == nil {
		return ""
	}
	return l.InFlight.Phase
}

func (l *life) reach() act {
	next := map[rotation.Phase]rotation.Phase{rotation.Planned: rotation.Prepared, rotation.Prepared: rotation.Verified}[l.phase()]
	return when(next != "", "reach", 8, func(t *rapid.T) { require.NoError(t, l.Reach(next)) })
}

func (l *life) activate() act {
	return when(l.phase() == rotation.Verified, "activate", 8, func(t *rapid.T) {
		l.hold()
		require.NoError(t, l.Activate(l.now, grace(t)))
	})
}

func (l *life) finish() act {
	return when(l.phase() == rotation.Active && !l.InFlight.Reverting, "finish", 4, func(t *rapid.T) {
		require.NoError(t, l.Finish(l.now, l.now.Add(time.Hour)))
	})
}

func (l *life) fail() act {
	return when(l.InFlight != nil && l.InFlight.BeforeSwitch(), "fail", 1, func(t *rapid.T) {
		then := rotation.AfterFailure{}
		if rapid.Bool().Draw(t, "blocked") {
			then.Blocked = "blocked"
		}
		require.NoError(t, l.Fail(l.now, rotation.Failure{Message: "no"}, then))
	})
}

func (l *life) revert() act {
	possible := l.phase() == rotation.Active && !l.InFlight.Reverting
	if possible {
		previous := l.Version(l.InFlight.PreviousVersion)
		possible = previous != nil && previous.State == rotation.Retiring && !previous.Compromised && previous.RetireBegun.IsZero()
	}
	return when(possible, "revert", 2, func(t *rapid.T) {
		l.hold()
		require.NoError(t, l.Revert(l.now, rotation.Failure{Message: "no"}))
	})
}

func (l *life) finishReverted() act {
	return when(l.phase() == rotation.Active && l.InFlight.Reverting, "finish reverted", 4, func(t *rapid.T) {
		require.NoError(t, l.FinishReverted(l.now))
	})
}

// supersede is a person's: a held rotation is given up for a rollback.
func (l *life) supersede() act {
	return when(l.InFlight != nil, "supersede", 2, func(t *rapid.T) { require.NoError(t, l.Supersede(l.now)) })
}

func (l *life) emergency() act {
	return when(!l.Deleted, "emergency", 1, func(t *rapid.T) {
		if l.InFlight != nil {
			require.NoError(t, l.Supersede(l.now))
		}
		require.NoError(t, l.Compromise(l.id(), l.now))
		if rapid.Bool().Draw(t, "kill first") {
			l.KillNow(l.now)
		}
	})
}

func (l *life) raiseGrace() act {
	return when(l.Current != 0, "raise grace", 1, func(t *rapid.T) {
		l.CurrentVersion().Grace = max(l.CurrentVersion().Grace, grace(t))
	})
}

func (l *life) retire() act {
	return l.one("retire", 3, func(v *rotation.Version) bool {
		due := v.State == rotation.Retiring && !v.RetireAt.IsZero() && !v.RetireAt.After(l.now)
		return due && (l.InFlight == nil || v.Compromised && l.InFlight.Version != v.Number)
	}, func(t *rapid.T, v *rotation.Version) {
		if !v.Compromised {
			require.False(t, l.now.Before(l.promised[v.Number]), "version %d ends before %s", v.Number, l.promised[v.Number])
		}
		l.BeginRetire(v.Number, l.now)
		require.NoError(t, l.DisableDone(v.Number, l.now, 1))
	})
}

func (l *life) destroy() act {
	return l.one("destroy", 2, func(v *rotation.Version) bool {
		return v.State == rotation.Disabled && !v.Undo && !v.Ahead && (l.InFlight == nil || l.InFlight.Version != v.Number)
	}, func(t *rapid.T, v *rotation.Version) {
		require.NoError(t, l.DestroyDone(v.Number, l.now, rapid.SampledFrom([]string{"", "left"}).Draw(t, "left")))
	})
}

func (l *life) undo() act {
	return l.one("undo", 2, func(v *rotation.Version) bool {
		return v.Undo && (l.InFlight == nil || l.InFlight.Version != v.Number)
	}, func(t *rapid.T, v *rotation.Version) { require.NoError(t, l.UndoDone(v.Number, l.now)) })
}

func (l *life) prove() act {
	return l.one("prove", 2, func(v *rotation.Version) bool {
		return v.State == rotation.Retired && !v.Undo && v.Proof == nil
	}, func(t *rapid.T, v *rotation.Version) {
		v.Proof = &rotation.Proof{Time: l.now, Dead: rapid.Bool().Draw(t, "dead")}
	})
}

func (l *life) makeAhead() act {
	return when(l.idle() && l.Current != 0 && l.StandbyVersion() == nil, "make ahead", 1, func(*rapid.T) {
		v := l.mint()
		v.Ahead = true
		l.Versions, l.Highest = append(l.Versions, *v), v.Number
	})
}

func (l *life) standbyReady() act {
	return l.one("standby ready", 2, func(v *rotation.Version) bool {
		return l.idle() && v.Ahead && !v.Undo && (v.Returns || l.StandbyVersion() == nil)
	}, func(t *rapid.T, v *rotation.Version) {
		require.NoError(t, l.StandbyReady(v.Number, l.now, grace(t)))
		require.False(t, v.ReadyAt.Before(l.now))
	})
}

// bringBack is a rollback that waits until its version was announced.
func (l *life) bringBack() act {
	return l.one("bring back", 1, func(v *rotation.Version) bool {
		return l.idle() && !v.Compromised && !v.Undo && (v.State == rotation.Disabled || v.State == rotation.Retired)
	}, func(t *rapid.T, v *rotation.Version) {
		v.BringBack()
		l.Intent = &rotation.Intent{ID: l.id(), Trigger: rotation.Rollback, Version: v.Number}
		require.NotEqual(t, v, l.AbandonedReturn())
	})
}

func (l *life) withdraw() act {
	v := l.AbandonedReturn()
	return when(v != nil, "withdraw", 3, func(t *rapid.T) { require.NoError(t, l.Withdraw(v.Number, l.now)) })
}

// stage is a person's, or the schedule's: the second of a pair, which readers are told of.
func (l *life) stage() act {
	return when(l.idle(), "stage", 1, func(t *rapid.T) {
		if old := l.StandbyVersion(); old != nil && old.Staged {
			l.promised[old.Number] = l.now.Add(old.Grace.Std())
		}
		v := l.mint()
		v.Grace = grace(t)
		require.NoError(t, l.Stage(*v, l.now, l.now.Add(grace(t).Std())))
		require.True(t, l.StandbyVersion().Staged)
	})
}

func (l *life) announceFor() act {
	return when(true, "announce", 1, func(t *rapid.T) { l.AnnounceFor(l.now, grace(t)) })
}

func (l *life) trim() act {
	return when(true, "trim", 1, func(t *rapid.T) {
		for _, number := range l.Trim(rapid.IntRange(2, 6).Draw(t, "keep")) {
			require.Nil(t, l.Version(number))
			require.NotEqual(t, l.Current, number)
		}
	})
}

// delete comes late: an early end makes a dull history.
func (l *life) delete() act {
	return when(l.idle() && l.Highest > 6, "delete", 1, func(t *rapid.T) {
		l.hold()
		require.NoError(t, l.Delete(l.now))
	})
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
