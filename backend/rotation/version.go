package rotation

import (
	"encoding/json"
	"slices"
	"time"
)

// VersionState is where a version stands in its life.
type VersionState string

// The states of a version.
const (
	Pending   VersionState = "pending"   // a candidate; nobody reads it
	Standby   VersionState = "standby"   // valid, announced or staged ahead, not used yet
	Current   VersionState = "current"   // what readers get
	Retiring  VersionState = "retiring"  // valid until RetireAt
	Disabled  VersionState = "disabled"  // refused by the target, but can be brought back
	Retired   VersionState = "retired"   // ended
	Discarded VersionState = "discarded" // a candidate that never became current, undone
)

// VersionTransition is one legal change of a version's state.
type VersionTransition struct {
	From, To VersionState
	// When says in a few words what causes it; see Transition.When.
	When string
}

// VersionTransitions lists every legal change of a version's state.
var VersionTransitions = []VersionTransition{
	{Pending, Standby, "made ahead, and verified"},
	{Pending, Current, "switch of readers"},
	{Pending, Discarded, "Discard done"},
	{Standby, Current, "switch of readers"},
	{Standby, Pending, "given up before it was used, to be discarded"},
	{Current, Retiring, "another version took over, or the role was deleted"},
	{Retiring, Current, "rollback, or a step failed"},
	{Retiring, Disabled, "retire_at passed or emergency, disabled at the target"},
	{Disabled, Retired, "destroyed at the target"},
	{Disabled, Current, "rollback, Prepare brought it back"},
	{Disabled, Retiring, "reopened, data that it made came back"},
	{Disabled, Standby, "rollback that is announced first, brought back and verified"},
	{Retired, Current, "rollback, Prepare made it anew"},
	{Retired, Standby, "rollback that is announced first, made anew and verified"},
	{Standby, Disabled, "rollback given up while it was announced, to be ended again"},
	{Standby, Retiring, "staged, given up or leaked after readers of a pair were told of it"},
}

// mayBecome asks the table.
func (s VersionState) mayBecome(next VersionState) bool {
	return slices.ContainsFunc(VersionTransitions, func(t VersionTransition) bool { return t.From == s && t.To == next })
}

// Live tells whether a reader may hold this version and it must keep working.
func (s VersionState) Live() bool { return s == Current || s == Retiring }

// Ended tells whether nothing of the version should be left outside.
func (s VersionState) Ended() bool { return s == Retired || s == Discarded }

// Version is one generation of a role's secret. It holds no secret itself.
type Version struct {
	Number      int          `json:"version"`
	State       VersionState `json:"state"`
	Compromised bool         `json:"compromised,omitempty"`
	// RotationID is the rotation that made the version; it stands in the mark on
	// the object outside, and is what permits us to remove that object.
	RotationID string `json:"rotation_id"`
	// Identifier names the object outside: user, key id, kid.
	Identifier string `json:"identifier,omitempty"`
	// Object is what the rotator needs to find and end the object later,
	// whatever the role says by then. Never secret.
	Object json.RawMessage `json:"object,omitempty"`

	CreatedTime   time.Time `json:"created_time"`
	ActivatedTime time.Time `json:"activated_time,omitzero"`
	// DeactivatedTime is when it last stopped being current.
	DeactivatedTime time.Time `json:"deactivated_time,omitzero"`
	RetireAt        time.Time `json:"retire_at,omitzero"`
	RetiredTime     time.Time `json:"retired_time,omitzero"`

	// Grace is the largest grace in force since the version last became current:
	// a reader may hold a ttl derived from any of them.
	Grace Duration `json:"grace,omitempty"`

	// UseAsked is when it was last asked who still uses the version, near its end.
	UseAsked time.Time `json:"use_asked,omitzero"`
	// RetireFloor is the latest RetireAt ever promised; a later one is never earlier.
	RetireFloor time.Time `json:"retire_floor,omitzero"`

	// Undo asks to undo Prepare: the version was prepared, wholly or in part, by
	// a rotation that did not make it current.
	Undo bool `json:"undo,omitempty"`
	// MintBegun is journalled before the target is asked to mint the secret. Without
	// material afterwards the answer was lost: there may be an object that bears the mark.
	MintBegun time.Time `json:"mint_begun,omitzero"`
	// Irreversible tells that what Prepare or minting did cannot be undone: with material, a
	// candidate that failed is kept for the next rotation, whatever asks for that.
	Irreversible bool `json:"irreversible,omitempty"`
	// Counted tells that the target counts versions by itself, and that the number is its own:
	// it may be below the highest that was given, or seen, here.
	Counted bool `json:"counted,omitempty"`
	// Staged marks a version that stands by as the second of a pair, which readers are
	// told of, until it is promoted. StagedBy is who handed it in, if a person did.
	Staged   bool   `json:"staged,omitempty"`
	StagedBy *Actor `json:"staged_by,omitempty"`
	// Ahead marks a version that is on its way to standby, outside any rotation.
	Ahead bool `json:"ahead,omitempty"`
	// Returns marks a version that was current once and is, or is to be, announced again
	// before a rollback makes it so; it serves nothing but that rollback.
	Returns bool `json:"returns,omitempty"`
	// AnnouncedTime is when it came to stand by, ReadyAt from when on an ordinary
	// rotation may make it current.
	AnnouncedTime time.Time `json:"announced_time,omitzero"`
	ReadyAt       time.Time `json:"ready_at,omitzero"`
	// HasMaterial tells whether the secret bytes are still kept.
	HasMaterial bool `json:"has_material,omitempty"`

	// RetireBegun is journalled before the first effect of a retirement; from
	// then on the version can only be brought back by Prepare.
	RetireBegun time.Time `json:"retire_begun,omitzero"`
	// AwaitIdle tells that its end is put off while somebody uses it, whatever the role says:
	// readers got it before its rotation went back, or was rolled back.
	AwaitIdle bool `json:"await_idle,omitempty"`
	// KillFirst asks to end it at the target while it still is current.
	KillFirst bool `json:"kill_first,omitempty"`
	// KilledTime is when an emergency with kill_first ended it at the target while
	// it still was current.
	KilledTime time.Time `json:"killed_time,omitzero"`
	// DestroyAt is the earliest time of the second stage of a retirement; zero for never.
	DestroyAt time.Time `json:"destroy_at,omitzero"`
	// DestroyFrom is when the wait for that began, of a version that keeps data.
	DestroyFrom time.Time `json:"destroy_from,omitzero"`
	// KeepsData tells that what it made lies elsewhere and is lost with it: it does not end
	// before Cleared says that nothing is left of that. MissedTime is when somebody last had
	// need of it after its end.
	KeepsData  bool       `json:"keeps_data,omitempty"`
	Cleared    *Clearance `json:"cleared,omitempty"`
	MissedTime time.Time  `json:"missed_time,omitzero"`
	// Incidents are the emergencies that declared it compromised.
	Incidents     []string `json:"incidents,omitempty"`
	SessionsEnded int      `json:"sessions_ended,omitempty"`
	Proof         *Proof   `json:"proof,omitempty"`
	// Left says why the object stays outside, disabled, for a person to end.
	Left string `json:"left,omitempty"`
	// Attention is the back-off of a retirement or discard that did not go through.
	Attention *Attention `json:"attention,omitempty"`
}

// Proof is the last attempt to prove a version dead.
type Proof struct {
	Time   time.Time `json:"time"`
	Dead   bool      `json:"dead"`
	Result string    `json:"result"`
	// Since is when it was first asked for in vain.
	Since time.Time `json:"since,omitzero"`
	// Unprovable is set where the kind has no way to prove it.
	Unprovable bool `json:"unprovable,omitempty"`
}

// Attention records why an effect on a version is still to be done.
type Attention struct {
	Attempts int       `json:"attempts"`
	At       time.Time `json:"at"`
	Reason   string    `json:"reason"`
	// Failing tells a failure from a plain "not yet".
	Failing bool `json:"failing,omitempty"`
	// Person tells that it waits for a person's act at the target.
	Person bool `json:"person,omitempty"`
}

// ProvenDead tells whether the target itself refused the version while the
// current one was accepted on the same path.
func (v *Version) ProvenDead() bool { return v.Proof != nil && v.Proof.Dead }

// Unproven tells whether the end of the version has begun and it is not proven dead.
func (v *Version) Unproven() bool {
	switch v.State {
	case Current:
		return !v.KilledTime.IsZero() && !v.ProvenDead()
	case Retiring, Disabled, Retired:
		return !v.RetireBegun.IsZero() && !v.ProvenDead() && (v.Proof == nil || !v.Proof.Unprovable)
	default:
		return false
	}
}

// provenWithin is how long the proof of an end may take before people are told.
const provenWithin = 15 * time.Minute

// Doubted tells whether the proof of the version's end has been asked for in vain for too long.
func (v *Version) Doubted() bool {
	return v.Unproven() && v.Proof != nil && !v.Proof.Since.IsZero() && v.Proof.Time.Sub(v.Proof.Since) > provenWithin
}

// Lost tells that the target was asked to mint the secret and its answer is not known.
func (v *Version) Lost() bool { return !v.MintBegun.IsZero() && !v.HasMaterial }

// Of tells whether an emergency declared the version compromised.
func (v *Version) Of(incident string) bool { return slices.Contains(v.Incidents, incident) }

// Settled tells whether nothing remains to be done outside for the version.
func (v *Version) Settled() bool {
	return !v.Undo && !v.Ahead && (v.State == Discarded || v.State == Retired && v.Proof != nil && (v.Proof.Dead || v.Proof.Unprovable))
}

// moveTo changes the state if the table allows it.
func (v *Version) moveTo(next VersionState) error {
	if !v.State.mayBecome(next) {
		return &TransitionError{What: "version", From: string(v.State), To: string(next)}
	}
	v.State = next
	return nil
}
