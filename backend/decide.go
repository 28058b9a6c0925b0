package backend

import (
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/schedule"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// act is one thing to do for a role.
type act string

const (
	actNothing  act = ""
	actDeclare  act = "declare"      // let the role know of an incident
	actBury     act = "bury"         // move a deleted role into its tombstone
	actPolicy   act = "policy"       // derive times anew from a changed policy
	actKill     act = "kill current" // end the current version before its successor
	actDisable  act = "disable"      // first stage of a retirement
	actDestroy  act = "destroy"      // second stage
	actProve    act = "prove dead"
	actIncident act = "incident" // carry facts over into the incident
	actAdvance  act = "advance"  // next step of the rotation in flight
	actUndo     act = "undo"     // undo an abandoned candidate
	actBegin    act = "begin"    // begin the rotation that is wanted
	actSchedule act = "schedule" // begin the rotation that is due
	actWithdraw act = "withdraw" // end what stands by for a rollback that nobody wants any more
	actAhead    act = "ahead"    // make, or bring back, a standby version
	actStage    act = "stage"    // make the second of a pair, that the schedule asks for
	actPromote  act = "promote"  // let the staged version take over
	actCheck    act = "check"    // does the target match?
	actCopy     act = "look at the copy"
	actPlanData act = "plan re-encryption"
	actData     act = "re-encrypt" // let stored data follow, in the background
	actKeep     act = "adopt destroy_after"
	actMissed   act = "missed a version" // somebody had need of one that ended
	actMirror   act = "mirror"           // copy the current version elsewhere
	actTrim     act = "trim"             // destroy material that is too old
	actAlarm    act = "alarm"            // tell what is wrong, or no more
	actForetell act = "foretell"         // tell ahead of a rotation
	actWindow   act = "window"           // tell that a maintenance window opened, or closed
	actUse      act = "who uses it"      // ask who uses a version that is about to end
	actEvents   act = "events"           // hand over events
)

// decision is what to do, and from when on; a zero time means never.
type decision struct {
	act     act
	version int
	at      time.Time
	// incident is the one to be declared: what memory says may change meanwhile.
	incident *store.IncidentHeader
}

// view is all that decide looks at.
type view struct {
	role   *store.Role
	state  *rotation.State
	now    time.Time
	policy schedule.Policy
	print  string // fingerprint of the policy
	// mirrorPrint is that of what the copy is to hold.
	mirrorPrint string
	// served is for how long this process has served readers.
	served time.Duration
	// looks are this process's comparisons of the role with the world outside.
	looks [looksAt]look
	// announce is for how long a version stands by before it is used; 0: none does.
	announce time.Duration
	// soak is how a staged version takes over.
	soak rotator.Soak
	// data is how stored data follows, nil where there is none; runsData that this process
	// is at it, or has no room to be.
	data     *dataPolicy
	runsData bool
	// missed are versions that ended and that somebody had need of.
	missed bool
	buried bool
	// undeclared is the incident that the role does not know of yet, or nil.
	undeclared *store.IncidentHeader
	// telling is what people are told of the role.
	telling telling
	// undelivered counts events that were not handed over yet.
	undelivered int
}

// checkEvery is how often a role is compared with the world outside.
const checkEvery = 24 * time.Hour

// rules are asked in this order: of all that is due, the first is done. What ends
// a leak comes before everything else and before the record of it, a rotation in flight
// before new work.
var rules = []func(view) decision{
	ruleDeclare, ruleBury, rulePolicy, ruleKillCurrent, ruleKill, ruleProve, ruleAdvance,
	ruleWithdraw, ruleUndo, ruleMissed, ruleKeep, ruleRetire, ruleIntent, rulePromote, ruleStage, ruleSchedule, ruleIncident, ruleAhead, ruleMirror,
	rulePlanData, ruleData, ruleCheck, ruleCopy, ruleTrim, ruleUse, ruleForetell, ruleWindow, ruleAlarm, ruleEvents,
}

// decide returns what is due now, or else the earliest time to look again.
func decide(v view) decision {
	var earliest time.Time
	for _, rule := range rules {
		d := rule(v)
		if d.at.IsZero() {
			continue
		}
		if !d.at.After(v.now) {
			return d
		}
		if earliest.IsZero() || d.at.Before(earliest) {
			earliest = d.at
		}
	}
	return decision{at: earliest}
}

func (v view) due(a act) decision { return decision{act: a, at: v.now} }

// dueFor makes an effect on a version wait for the back-off of the last attempt.
func (v view) dueFor(a act, ver *rotation.Version, at time.Time) decision {
	if ver.Attention != nil && ver.Attention.At.After(at) {
		at = ver.Attention.At
	}
	return decision{act: a, version: ver.Number, at: at}
}

// first returns the earliest decision of all versions that pass.
func (v view) first(pick func(*rotation.Version) decision) decision {
	var best decision
	for i := range v.state.Versions {
		d := pick(&v.state.Versions[i])
		if !d.at.IsZero() && (best.at.IsZero() || d.at.Before(best.at)) {
			best = d
		}
	}
	return best
}

func ruleDeclare(v view) decision {
	if v.undeclared != nil {
		return decision{act: actDeclare, at: v.now, incident: v.undeclared}
	}
	return decision{}
}

func ruleBury(v view) decision {
	if v.state.Deleted && (!v.buried || v.state.Settled() && v.state.Recorded() && v.state.Alarm == nil && v.undelivered == 0) {
		return v.due(actBury)
	}
	return decision{}
}

func rulePolicy(v view) decision {
	cur := v.state.CurrentVersion()
	adopted := v.state.Policy == v.print && v.state.Announce.Ahead.Std() == v.announce
	if v.state.Deleted || cur == nil || adopted && cur.Grace >= v.role.Policy.Grace {
		return decision{}
	}
	return v.due(actPolicy)
}

// ruleKillCurrent is kill_first: the leaked version dies while it is still what
// readers get. What fails is tried again, and its successor is made meanwhile.
func ruleKillCurrent(v view) decision {
	cur := v.state.CurrentVersion()
	if cur == nil || !cur.KillFirst || !cur.KilledTime.IsZero() {
		return decision{}
	}
	return v.dueFor(actKill, cur, v.now)
}

// ruleKill ends leaked versions at once, also while a rotation is in flight.
func ruleKill(v view) decision {
	return v.first(func(ver *rotation.Version) decision {
		if !ver.Compromised || ver.Undo {
			return decision{}
		}
		return v.retirement(ver, ver.RetireAt)
	})
}

// retirement is the next stage of a version's end. A candidate of the rotation in
// flight is left alone.
func (v view) retirement(ver *rotation.Version, end time.Time) decision {
	if v.state.InFlight != nil && v.state.InFlight.Version == ver.Number {
		return decision{}
	}
	switch {
	case ver.Holds(): // what it made is still there, or may be
		return decision{}
	case ver.State == rotation.Retiring && !end.IsZero():
		return v.dueFor(actDisable, ver, end)
	case ver.State == rotation.Disabled && ver.MayDestroy():
		return v.dueFor(actDestroy, ver, ver.DestroyAt)
	default:
		return decision{}
	}
}

// ruleProve looks for the proof of death as soon as a version was disabled.
func ruleProve(v view) decision {
	return v.first(func(ver *rotation.Version) decision {
		killed := ver.State == rotation.Current && !ver.KilledTime.IsZero()
		ended := ver.State == rotation.Disabled || ver.State == rotation.Retired
		if ver.Undo || ver.Ahead || ver.Proof != nil && (ver.Proof.Dead || ver.Proof.Unprovable) || !killed && !ended {
			return decision{}
		}
		at := v.now
		if ver.Proof != nil {
			at = ver.Proof.Time.Add(proofInterval)
		}
		return decision{act: actProve, version: ver.Number, at: at}
	})
}

// proofInterval is the wait between two attempts to prove a version dead.
const proofInterval = time.Minute

func ruleIncident(v view) decision {
	for _, link := range v.state.Incidents {
		if link.Dirty {
			return v.due(actIncident)
		}
	}
	return decision{}
}

func ruleAdvance(v view) decision {
	r := v.state.InFlight
	if r == nil || r.Held != "" {
		return decision{}
	}
	at := v.now
	for i := range r.Steps {
		step := &r.Steps[i]
		ahead := step.PollAt.Sub(v.now) // far ahead only where the clock was set back
		if step.State == rotation.StepRunning && step.Back == r.Reverting && ahead > 0 && ahead <= maxPoll {
			at = step.PollAt
		}
	}
	return decision{act: actAdvance, at: at}
}

func ruleWithdraw(v view) decision {
	if ver := v.state.AbandonedReturn(); ver != nil && !v.state.Deleted {
		return decision{act: actWithdraw, version: ver.Number, at: v.now}
	}
	return decision{}
}

func ruleUndo(v view) decision {
	return v.first(func(ver *rotation.Version) decision {
		if !ver.Undo || v.state.InFlight != nil && v.state.InFlight.Version == ver.Number {
			return decision{}
		}
		return v.dueFor(actUndo, ver, v.now)
	})
}

// ruleRetire ends versions whose grace is over, but not before whoever read them
// from an earlier process has had time to read again.
func ruleRetire(v view) decision {
	// Reconciling may need the object of a version that is to end.
	reconciling := v.state.Intent != nil && v.state.Intent.Reconcile
	if v.state.InFlight != nil || v.frozen() && !reconciling {
		return decision{}
	}
	return v.first(func(ver *rotation.Version) decision {
		if ver.Compromised || ver.Undo || ver.Ahead || v.state.Wanted(ver.Number) {
			return decision{}
		}
		end := ver.RetireAt
		if settled := v.now.Add(schedule.Settle(ver.Grace.Std()) - v.served); ver.RetireBegun.IsZero() && !end.IsZero() && settled.After(end) {
			end = settled
		}
		return v.retirement(ver, end)
	})
}

// frozen tells that the world outside is ahead of us: nothing changes until a
// person has reconciled.
func (v view) frozen() bool { return v.state.Divergence != nil }

func ruleIntent(v view) decision {
	i := v.state.Intent
	if i == nil || v.state.InFlight != nil || v.state.Deleted {
		return decision{}
	}
	if v.frozen() && i.Trigger != rotation.Emergency && !i.Reconcile {
		return decision{}
	}
	ver := v.state.Version(i.Version)
	switch {
	case ver == nil || !ver.Returns || i.Force:
		return decision{act: actBegin, at: i.At}
	case ver.Ahead:
		return v.dueFor(actAhead, ver, i.At)
	default: // announced before it is used again
		return decision{act: actBegin, at: later(i.At, ver.ReadyAt)}
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// rulePromote lets a staged version take over once it has soaked, unless a person is to
// say so.
func rulePromote(v view) decision {
	s, staged := v.state, v.state.StagedVersion()
	if staged == nil || !v.soak.Auto || s.InFlight != nil || s.Intent != nil || s.Deleted || v.frozen() || s.Blocked != "" {
		return decision{}
	}
	at := staged.ReadyAt
	if s.Postponed != nil {
		at = later(at, s.Postponed.At)
	}
	return decision{act: actPromote, version: staged.Number, at: at}
}

// ruleStage makes the next version stand by, when it is due, where it has to soak first
// or to wait for a person.
func ruleStage(v view) decision {
	s := v.state
	var backOff time.Time
	if s.Ahead != nil {
		backOff = s.Ahead.At
	}
	if begun := s.AheadVersion(); begun != nil && begun.Staged && s.InFlight == nil && !s.Deleted && !v.frozen() {
		return decision{act: actAhead, at: later(v.now, backOff)}
	}
	if !v.soak.Waits() || s.StandbyVersion() != nil {
		return decision{}
	}
	at := v.dueAt()
	if at.IsZero() {
		return decision{}
	}
	return decision{act: actStage, at: later(at, backOff)}
}

// dueAt is when the schedule asks for the next version; zero while it asks for none.
func (v view) dueAt() time.Time {
	s := v.state
	if s.InFlight != nil || s.Intent != nil || s.Deleted || s.Blocked != "" || s.ActionRequired != "" || v.frozen() || s.Current == 0 {
		return time.Time{}
	}
	at := v.policy.BeginAt(s.NextRotation, v.now)
	if !at.IsZero() && s.Postponed != nil {
		at = later(at, s.Postponed.At)
	}
	return at
}

func ruleSchedule(v view) decision {
	s, at := v.state, v.dueAt()
	if at.IsZero() || v.soak.Waits() || s.StagedVersion() != nil { // which takes over in its own time
		return decision{}
	}
	if v.announce > 0 {
		standby := s.StandbyVersion()
		if standby == nil {
			return decision{} // it is made first
		}
		at = later(at, standby.ReadyAt)
	}
	return decision{act: actSchedule, at: at}
}

// ruleAhead keeps a standby version ready, outside any rotation.
func ruleAhead(v view) decision {
	s := v.state
	if v.announce == 0 || s.InFlight != nil || s.Deleted || s.Current == 0 || v.frozen() || s.StandbyVersion() != nil {
		return decision{}
	}
	at := v.now
	if s.Ahead != nil && s.Ahead.At.After(at) {
		at = s.Ahead.At
	}
	return decision{act: actAhead, at: at}
}

func ruleCheck(v view) decision {
	cur := v.state.CurrentVersion()
	if v.state.InFlight != nil || v.state.Deleted || cur == nil || cur.Compromised || v.frozen() {
		return decision{}
	}
	return decision{act: actCheck, at: v.looks[lookAtTarget].dueAt()}
}

func ruleTrim(v view) decision {
	if v.state.InFlight != nil || v.buried {
		return decision{}
	}
	for i := range v.state.Versions {
		ver := &v.state.Versions[i]
		if expired(ver) {
			return v.due(actTrim)
		}
	}
	copied := *v.state
	if len(copied.Trim(v.role.Policy.MaxVersions)) > 0 {
		return v.due(actTrim)
	}
	return decision{}
}

func ruleEvents(v view) decision {
	if v.undelivered > 0 {
		return v.due(actEvents)
	}
	return decision{}
}
