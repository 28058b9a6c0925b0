package rotation

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// State is everything the engine knows about a role beside the operator's
// intent: one document, so that one Put commits a step.
type State struct {
	Versions []Version `json:"versions"`
	// Revision counts the writes of this document. It fences effects on what versions
	// share outside: whoever acts on an older document was deposed.
	Revision int64 `json:"revision,omitempty"`
	// Current is the number of the version that readers get, 0 for none.
	Current int `json:"current"`
	// Highest is the highest number ever given; numbers are never reused.
	Highest int `json:"highest"`

	InFlight *Rotation `json:"in_flight,omitempty"`
	Last     *Rotation `json:"last,omitempty"`
	// Unfollowed is the rotation that another one took the place of before its dependents had
	// followed it, as long as none ended since with which they did.
	Unfollowed *Rotation `json:"unfollowed,omitempty"`

	// ActivatedTime is when the pointer last moved (last_vault_rotation).
	ActivatedTime time.Time `json:"activated_time,omitzero"`
	// SucceededTime is when a rotation last succeeded.
	SucceededTime time.Time `json:"succeeded_time,omitzero"`
	// NextRotation is when the next one is due; zero when none is planned.
	NextRotation time.Time `json:"next_rotation,omitzero"`

	Failures int     `json:"failures,omitempty"`
	Intent   *Intent `json:"intent,omitempty"`
	// Replaced is the attempt whose place the intent took: it comes back should the
	// intent be refused before it begins.
	Replaced *Intent `json:"replaced,omitempty"`
	// Blocked, ActionRequired and Divergence say why the role needs a person.
	Blocked        string      `json:"blocked,omitempty"`
	ActionRequired string      `json:"action_required,omitempty"`
	Divergence     *Divergence `json:"divergence,omitempty"`
	// Postponed is a preflight that found a reason not to begin.
	Postponed *Attention `json:"postponed,omitempty"`
	// Ahead is the back-off of making a standby version.
	Ahead *Attention `json:"ahead,omitempty"`
	// Announce is for how long versions stand by.
	Announce Announce `json:"announce,omitzero"`
	// Acknowledged are foreign rotation ids that an operator has reconciled.
	Acknowledged []string `json:"acknowledged,omitempty"`
	// Base is the highest number of an earlier role of this name.
	Base int `json:"base,omitempty"`
	// Policy is the fingerprint of the operator's policy that NextRotation was
	// derived from.
	Policy string `json:"policy,omitempty"`

	// Reencryption is the job that lets stored data follow; nil where none was ever planned.
	Reencryption *Reencryption `json:"reencryption,omitempty"`

	// Mirror is the copy of the current version elsewhere; nil where there was never one.
	Mirror *Mirror `json:"mirror,omitempty"`

	Incidents []IncidentLink `json:"incidents,omitempty"`
	// Alarm is what is wrong with the role, as people were told of it; nil where nothing is.
	Alarm *Alarm `json:"alarm,omitempty"`
	// WindowCloses is the end of the maintenance window that people were told is open.
	WindowCloses time.Time `json:"window_closes,omitzero"`
	// Foretold is the NextRotation that people were told of ahead.
	Foretold time.Time `json:"foretold,omitzero"`
	// EmittedTime is that of the last event.
	EmittedTime time.Time `json:"emitted_time,omitzero"`
	// Events are not handed to the outbox yet.
	Events []Event `json:"events,omitempty"`
	// Deleted is set in a tombstone: nothing but retirement happens any more.
	Deleted bool `json:"deleted,omitempty"`
}

// Intent is a rotation that is wanted: asked for by a person, or the next attempt
// of one that failed. It is stored before anything else happens.
type Intent struct {
	// ID becomes the rotation's id.
	ID         string    `json:"id"`
	Trigger    Trigger   `json:"trigger"`
	At         time.Time `json:"at"`
	Attempt    int       `json:"attempt"`
	RetryOf    string    `json:"retry_of,omitempty"`
	Reason     string    `json:"reason,omitempty"`
	Actor      Actor     `json:"actor,omitzero"`
	IncidentID string    `json:"incident_id,omitempty"`
	KillFirst  bool      `json:"kill_first,omitempty"`
	Force      bool      `json:"force,omitempty"`
	// Unasked tells that nobody asked. Such an intent is begun at once or not at all, and
	// gives way to one that is stored.
	Unasked bool `json:"unasked,omitempty"`
	// Version is the candidate when it exists already (a rollback); else 0.
	Version int `json:"version,omitempty"`
	// Reconcile ends a divergence when the rotation begins, and not before.
	Reconcile bool `json:"reconcile,omitempty"`
}

// Rotation begins the record of the rotation that fulfils the intent.
func (i *Intent) Rotation(version int, now time.Time) Rotation {
	return Rotation{
		ID: i.ID, Trigger: i.Trigger, Phase: Planned, Version: version, Attempt: i.Attempt, RetryOf: i.RetryOf,
		Reason: i.Reason, Actor: i.Actor, StartedTime: now, IncidentID: i.IncidentID, KillFirst: i.KillFirst, Force: i.Force,
	}
}

// Retry is the intent of the attempt after this rotation.
func (r *Rotation) Retry(id string, at time.Time) *Intent {
	return &Intent{
		ID: id, Trigger: r.Trigger, At: at, Attempt: r.Attempt + 1, RetryOf: r.ID, Reason: r.Reason,
		Actor: r.Actor, IncidentID: r.IncidentID, KillFirst: r.KillFirst, Force: r.Force,
	}
}

// Divergence says that the world outside is ahead of our storage.
type Divergence struct {
	Since  time.Time `json:"since"`
	Reason string    `json:"reason"`
	// Highest is the highest version number seen outside.
	Highest int `json:"highest,omitempty"`
	// Seen are the rotation ids outside that the journal does not know.
	Seen []string `json:"seen,omitempty"`
	// Identifiers are the objects that bear them.
	Identifiers []string `json:"identifiers,omitempty"`
	// Fence is the highest fence seen outside.
	Fence int64 `json:"fence,omitempty"`
}

// IncidentLink ties a role to an incident that is not contained yet.
type IncidentLink struct {
	ID string `json:"id"`
	// Dirty asks to carry this role's facts over into the incident document.
	Dirty bool `json:"dirty,omitempty"`
	// Declared and Contained are what the incident's header says of this role: while
	// that stays so the header need not be written.
	Declared  bool `json:"declared,omitempty"`
	Contained bool `json:"contained,omitempty"`
}

// Recorded tells whether nothing of the role has to be carried into an incident any more.
func (s *State) Recorded() bool {
	return !slices.ContainsFunc(s.Incidents, func(l IncidentLink) bool { return l.Dirty })
}

// Event is something people may want to be told, stored in the same Put as what
// it tells of.
type Event struct {
	ID   string    `json:"id"`
	Type string    `json:"type"`
	Time time.Time `json:"time"`
	// Channel is the only one to be told; empty for all that want to know.
	Channel string            `json:"channel,omitempty"`
	Data    map[string]string `json:"data,omitempty"`
}

// Version returns the version of this number, or nil.
func (s *State) Version(number int) *Version {
	i := slices.IndexFunc(s.Versions, func(v Version) bool { return v.Number == number })
	if i < 0 {
		return nil
	}
	return &s.Versions[i]
}

// CurrentVersion returns what readers get, or nil.
func (s *State) CurrentVersion() *Version { return s.Version(s.Current) }

// Candidate returns the version of the rotation in flight, or nil.
func (s *State) Candidate() *Version {
	if s.InFlight == nil {
		return nil
	}
	return s.Version(s.InFlight.Version)
}

// Begin journals a rotation. A version with a new number is added as its
// candidate; otherwise the candidate is the version that has the number
// (a rollback, a standby).
func (s *State) Begin(r Rotation, candidate *Version) error {
	existing := s.Version(r.Version)
	switch {
	case s.InFlight != nil:
		return fmt.Errorf("begin rotation %s: rotation %s is in flight", r.ID, s.InFlight.ID)
	case s.Deleted:
		return fmt.Errorf("begin rotation %s: the role is deleted", r.ID)
	case candidate != nil && candidate.Number <= s.Highest && (!candidate.Counted || existing != nil):
		return fmt.Errorf("begin rotation %s: version %d was used before", r.ID, candidate.Number)
	case candidate != nil && (candidate.Number != r.Version || candidate.State != Pending):
		return fmt.Errorf("begin rotation %s of version %d: the candidate is version %d, %s", r.ID, r.Version, candidate.Number, candidate.State)
	case candidate == nil && existing == nil:
		return fmt.Errorf("begin rotation %s: no version %d", r.ID, r.Version)
	case candidate == nil && !existing.State.mayBecome(Current):
		return &TransitionError{What: "version", From: string(existing.State), To: string(Current)}
	}
	if candidate != nil {
		s.Versions = append(s.Versions, *candidate)
		s.Highest = max(s.Highest, candidate.Number)
	}
	s.CatchUp()
	if err := s.reconcile(r.Version, r.StartedTime); err != nil {
		return err
	}
	for i := range s.Versions { // of an attempt that is not repeated
		if v := &s.Versions[i]; v.State == Pending && v.Number != r.Version && !v.Ahead && !v.kept() {
			v.Undo = true
		}
	}
	s.wishBegins(r.Trigger)
	r.Phase, r.PreviousVersion = Planned, s.Current
	s.InFlight = &r
	return nil
}

// advance moves the rotation in flight to a phase, or ends it with an outcome, if
// there is one and the table allows it.
func (s *State) advance(to Phase, outcome Outcome) error {
	if s.InFlight == nil {
		return &TransitionError{What: "rotation", From: "none in flight", To: string(to) + "/" + string(outcome)}
	}
	return s.InFlight.advance(to, outcome)
}

// phase is that of the rotation in flight, "" for none.
func (s *State) phase() Phase {
	if s.InFlight == nil {
		return ""
	}
	return s.InFlight.Phase
}

// Reach moves the rotation in flight to Prepared or Verified.
func (s *State) Reach(phase Phase) error {
	if phase != Prepared && phase != Verified { // the others move more than the phase
		return &TransitionError{What: "rotation", From: string(s.phase()), To: string(phase)}
	}
	return s.advance(phase, "")
}

// Activate moves the pointer and the phase together: the switch of readers. What
// leaked has waited for this and ends at once, whatever triggered the rotation: it
// may be a manual one, after those of an emergency failed.
func (s *State) Activate(now time.Time, grace Duration) error {
	if err := s.advance(Active, ""); err != nil {
		return err
	}
	left := s.CurrentVersion()
	if err := s.moveTo(s.InFlight.Version, now, grace); err != nil {
		return err
	}
	if u := s.Unfollowed; u != nil && s.InFlight.Trigger == Rollback && left != nil && left.Number == u.Version && left.Number != s.Current {
		left.AwaitIdle = true // some of its dependents may have begun with it
	}
	s.KillNow(now)
	if d := s.Divergence; d != nil && len(d.Seen) == 0 {
		s.Divergence = nil // it was the old version that no longer worked
	}
	s.event("version.activated", now, nil)
	return nil
}

// moveTo makes a version current, and what was current retiring. The end of
// grace is not set here: it runs from the end of the rotation.
func (s *State) moveTo(number int, now time.Time, grace Duration) error {
	if old := s.CurrentVersion(); old != nil && old.Number != number {
		if err := old.moveTo(Retiring); err != nil {
			return err
		}
		old.DeactivatedTime = now
		if old.Compromised {
			old.RetireAt = now
		}
	}
	v := s.Version(number)
	if v == nil {
		return fmt.Errorf("move the pointer: no version %d", number)
	}
	// Whoever read it in its earlier time keeps what was promised then, also where
	// the grace is shorter now: its end, or, had none been set yet, the least one.
	for _, promised := range []time.Time{v.RetireAt, v.DeactivatedTime.Add(v.Grace.Std())} {
		if v.State == Retiring && promised.After(v.RetireFloor) {
			v.RetireFloor = promised
		}
	}
	if err := v.moveTo(Current); err != nil {
		return err
	}
	if v.Staged { // readers of the pair were promised by the grace of that time
		grace = max(grace, v.Grace)
	}
	v.ActivatedTime, v.Grace = now, grace
	v.RetireAt, v.RetireBegun, v.RetiredTime, v.DestroyAt, v.DeactivatedTime = time.Time{}, time.Time{}, time.Time{}, time.Time{}, time.Time{}
	v.KillFirst, v.KilledTime, v.Undo, v.Ahead, v.Returns, v.Staged, v.Proof, v.Left, v.Attention = false, time.Time{}, false, false, false, false, nil, "", nil
	v.Cleared, v.MissedTime, v.DestroyFrom, v.AwaitIdle = nil, time.Time{}, time.Time{}, false
	s.Current, s.ActivatedTime = number, now
	return nil
}

// Finish ends the rotation in flight as succeeded. next is the new
// NextRotation; a rollback leaves the old one.
func (s *State) Finish(now, next time.Time) error {
	r := s.InFlight
	if r != nil && r.Reverting {
		return &TransitionError{What: "rotation", From: "reverting", To: string(Succeeded)}
	}
	if err := s.advance(RolledOut, Succeeded); err != nil {
		return err
	}
	// A rollback leaves it, unless it has passed: what was rolled back would
	// otherwise come again at once.
	if r.Trigger != Rollback || !s.NextRotation.IsZero() && !s.NextRotation.After(now) {
		s.NextRotation = next
	}
	s.Failures, s.Blocked, s.Ahead = 0, "", nil
	s.SucceededTime, s.Unfollowed = now, nil
	s.end(now)
	for kept := s.KeptCandidate(); kept != nil; kept = s.KeptCandidate() { // another one took its place
		kept.Undo = true
	}
	s.startGrace(now)
	s.event("rotation.succeeded", now, nil)
	return nil
}

// FinishAsItIs ends a rollback that not all of its dependents followed. The end of
// what they may still hold waits until nobody uses it, as far as it may.
func (s *State) FinishAsItIs(now, next time.Time) error {
	if err := s.Finish(now, next); err != nil {
		return err
	}
	if left := s.Version(s.Last.PreviousVersion); left != nil {
		left.AwaitIdle = true
	}
	return nil
}

// startGrace gives every retiring version without one its end of grace; what
// leaked has none.
func (s *State) startGrace(now time.Time) {
	for i := range s.Versions {
		v := &s.Versions[i]
		if v.State != Retiring || !v.RetireAt.IsZero() {
			continue
		}
		if v.Compromised {
			v.RetireAt = now
			continue
		}
		v.RetireAt = now.Add(v.Grace.Std())
		if v.RetireFloor.After(v.RetireAt) {
			v.RetireAt = v.RetireFloor
		}
	}
}

// AfterFailure is what follows a rotation that failed: at most one of a next
// attempt and a reason why there is none.
type AfterFailure struct {
	Retry   *Intent
	Blocked string
	// Keep leaves the candidate to the next attempt: it cannot be undone.
	Keep bool
	// GiveUp lets go of a candidate that would be kept: it will not do better.
	GiveUp bool
}

// words say what is done about the failure.
func (a AfterFailure) words() string {
	switch {
	case a.Retry != nil:
		return fmt.Sprintf("attempt %d follows at %s", a.Retry.Attempt, a.Retry.At.UTC().Format(time.RFC3339))
	case a.Blocked != "":
		return "nothing more is tried until a person rotates or rolls back"
	default:
		return "nothing was changed, and nothing more is tried"
	}
}

// Fail ends the rotation in flight before the switch; the candidate is undone.
func (s *State) Fail(now time.Time, why Failure, then AfterFailure) error {
	r, outcome := s.InFlight, Failed
	if then.Retry == nil && then.Blocked != "" && s.Blocked == "" {
		outcome = Blocked
	}
	if err := s.advance(s.phase(), outcome); err != nil {
		return err
	}
	r.Error = &why
	if !then.Keep {
		s.abandonCandidate()
	}
	if v := s.Candidate(); then.GiveUp && v != nil && v.kept() {
		v.Undo = true
	}
	s.Failures++
	s.Intent, s.Blocked = then.Retry, then.Blocked
	s.end(now)
	if r.Trigger == Initial || r.Trigger == Import { // whoever wrote the role is answered, and there is none
		return nil
	}
	s.event("rotation.failed", now, map[string]string{"phase": string(r.Phase), "error": why.Message, "attempt": fmt.Sprint(r.Attempt), "then": then.words()})
	return nil
}

// wishBegins lets go of what waited for a rotation to begin. A rollback does not
// unblock a role before it has succeeded.
func (s *State) wishBegins(t Trigger) {
	s.Intent, s.Replaced, s.Postponed, s.ActionRequired = nil, nil, nil, ""
	if t != Rollback {
		s.Blocked = ""
	}
}

// CatchUp lets the effects of what now begins pass the fences that were seen
// outside: the document itself was restored from an older one.
func (s *State) CatchUp() {
	if s.Divergence != nil {
		s.Revision = max(s.Revision, s.Divergence.Fence)
	}
}

// reconcile ends a divergence, if the wish that now begins asks for it: what was
// seen is acknowledged, and what stood by is given up, since its number may not be
// above everything seen.
func (s *State) reconcile(candidate int, now time.Time) error {
	d := s.Divergence
	if d == nil || s.Intent == nil || !s.Intent.Reconcile {
		return nil
	}
	s.Acknowledged = append(slices.Clip(s.Acknowledged), d.Seen...)
	s.Highest = max(s.Highest, d.Highest)
	s.Divergence = nil
	for i := range s.Versions {
		if v := &s.Versions[i]; v.Ahead && !v.Returns && v.Number != candidate {
			v.Undo = true
		}
	}
	if v := s.StandbyVersion(); v != nil && v.Number == candidate {
		return nil
	}
	return s.giveUpStandby(now)
}

// Refuse records a rotation that failed before it had a candidate.
func (s *State) Refuse(r Rotation, now time.Time, why Failure, then AfterFailure) error {
	if s.InFlight != nil {
		return fmt.Errorf("refuse rotation %s: rotation %s is in flight", r.ID, s.InFlight.ID)
	}
	s.wishBegins(r.Trigger)
	r.PreviousVersion = s.Current
	s.InFlight = &r
	return s.Fail(now, why, then)
}

// Supersede ends the rotation in flight because another one takes over.
func (s *State) Supersede(now time.Time) error {
	if err := s.advance(s.phase(), Superseded); err != nil {
		return err
	}
	if s.InFlight.BeforeSwitch() {
		s.abandonCandidate()
	} else {
		left := *s.InFlight
		left.Steps = slices.Clone(left.Steps)
		s.Unfollowed = &left
	}
	s.end(now)
	return nil
}

// abandonCandidate asks to undo what the rotation in flight prepared. A version
// that existed and was live, or stood by, simply stays what it was.
func (s *State) abandonCandidate() {
	v := s.Candidate()
	if v == nil {
		return
	}
	switch v.State {
	case Pending:
		v.Undo = !v.kept()
	case Disabled, Retired:
		if s.InFlight.Phase != Planned || s.InFlight.Trigger == Rollback {
			v.Undo, v.Proof = true, nil
		}
	default:
	}
}

// kept tells whether a candidate is kept when its rotation fails.
func (v *Version) kept() bool {
	return v.State == Pending && v.Irreversible && v.HasMaterial && !v.Undo && !v.Ahead
}

// KeptCandidate returns the latest candidate of an earlier rotation that cannot be undone
// and waits for the next one, or nil.
func (s *State) KeptCandidate() *Version {
	if s.InFlight != nil {
		return nil
	}
	for i := range slices.Backward(s.Versions) {
		if s.Versions[i].kept() {
			return &s.Versions[i]
		}
	}
	return nil
}

// Revert moves the pointer back after a step failed; the steps run again.
func (s *State) Revert(now time.Time, why Failure) error {
	r := s.InFlight
	if s.phase() != Active || r.Reverting {
		return &TransitionError{What: "rotation", From: string(s.phase()), To: "reverting"}
	}
	previous := s.Version(r.PreviousVersion)
	if previous == nil || previous.State != Retiring || previous.Compromised || !previous.RetireBegun.IsZero() {
		return &TransitionError{What: "rotation", From: string(r.Phase), To: "reverting"}
	}
	r.Reverting, r.Error, r.Held = true, &why, ""
	if err := s.moveTo(r.PreviousVersion, now, previous.Grace); err != nil {
		return err
	}
	if candidate := s.Version(r.Version); candidate != nil {
		candidate.AwaitIdle = true
	}
	s.Emit(Event{ID: r.ID + "/back/version.activated", Type: "version.activated", Time: now, Data: map[string]string{
		"rotation_id": r.ID, "version": fmt.Sprint(r.PreviousVersion), "trigger": string(r.Trigger), "reason": why.Message,
	}})
	return nil
}

// FinishReverted ends a rotation whose pointer went back: the candidate retires
// after grace, since readers hold it, and the role waits for a person.
func (s *State) FinishReverted(now time.Time) error {
	r := s.InFlight
	if r == nil || !r.Reverting {
		return &TransitionError{What: "rotation", From: string(s.phase()), To: string(RolledBack)}
	}
	if err := s.advance(Active, RolledBack); err != nil {
		return err
	}
	s.Failures++
	s.Unfollowed = nil
	s.Blocked = "the last rotation was rolled back: " + r.Error.Message
	s.end(now)
	s.startGrace(now)
	s.event("rotation.rolled_back", now, map[string]string{"error": r.Error.Message})
	return nil
}

func (s *State) end(now time.Time) {
	s.InFlight.EndedTime = now
	s.InFlight.Held = ""
	for i := range s.InFlight.Steps { // of no use to a record, and long
		s.InFlight.Steps[i].Cursor, s.InFlight.Steps[i].PollAt = "", time.Time{}
	}
	s.Last, s.InFlight = s.InFlight, nil
}

// Compromise marks every live version, and what else could still be brought
// back, as leaked: none of them is ever rolled back to. A version that leaked
// before and is not proven dead belongs to this incident too.
func (s *State) Compromise(incident string, now time.Time) error {
	s.CatchUp()
	if staged := s.StagedVersion(); staged != nil { // readers of a pair were told of it, and none uses it yet
		if err := s.giveUpStandby(now); err != nil {
			return err
		}
		staged.RetireAt = now
	}
	for i := range s.Versions {
		v := &s.Versions[i]
		live := v.State == Current || v.State == Retiring || v.State == Disabled || v.Returns
		if live || v.Compromised && !v.ProvenDead() {
			v.Compromised = true
			if v.State == Retiring && v.RetireBegun.IsZero() { // nobody waits any more until it is idle
				v.Attention = nil
			}
			v.Incidents = append(slices.Clip(v.Incidents), incident)
		}
	}
	return nil
}

// KillNow lets every compromised version that readers may hold, but for the
// current one, end at once.
func (s *State) KillNow(now time.Time) {
	for i := range s.Versions {
		v := &s.Versions[i]
		if v.Compromised && v.State == Retiring && (v.RetireAt.IsZero() || v.RetireAt.After(now)) {
			v.RetireAt = now
		}
	}
}

func (s *State) event(kind string, now time.Time, data map[string]string) {
	r := s.InFlight
	if r == nil {
		r = s.Last
	}
	all := map[string]string{"rotation_id": r.ID, "version": fmt.Sprint(r.Version), "trigger": string(r.Trigger)}
	maps.Copy(all, data)
	s.Emit(Event{ID: r.ID + "/" + kind, Type: kind, Time: now, Data: all})
}

// maxEvents bounds the document should nobody take events away.
const maxEvents = 64

// Emit stores an event with the step it tells of; the oldest go when too many wait. No two
// events of a role are of one moment, so that they can be told in order.
func (s *State) Emit(e Event) {
	if !e.Time.After(s.EmittedTime) {
		e.Time = s.EmittedTime.Add(1)
	}
	s.EmittedTime = e.Time
	s.Events = append(s.Events, e)
	if extra := len(s.Events) - maxEvents; extra > 0 {
		s.Events = slices.Delete(s.Events, 0, extra)
	}
}
