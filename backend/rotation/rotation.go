// Package rotation holds the vocabulary of the engine and its legal transitions:
// versions, rotations, and the state document of a role. It is pure: no clock, no
// storage, no network, and nothing but the standard library.
package rotation

import (
	"fmt"
	"slices"
	"time"
)

// Trigger is what started a rotation.
type Trigger string

// The triggers.
const (
	Initial   Trigger = "initial"
	Scheduled Trigger = "scheduled"
	Manual    Trigger = "manual"
	Emergency Trigger = "emergency"
	Rollback  Trigger = "rollback"
	Import    Trigger = "import"
)

// Phase is how far a rotation got.
type Phase string

// The phases, in order.
const (
	Planned   Phase = "planned"    // intent and material are stored; nothing happened outside
	Prepared  Phase = "prepared"   // the candidate is valid at the target
	Verified  Phase = "verified"   // the candidate was proven to work
	Active    Phase = "active"     // readers get it
	RolledOut Phase = "rolled_out" // dependents follow; the rotation has ended
)

// Outcome is how a rotation ended; empty while it is in flight.
type Outcome string

// The outcomes.
const (
	Succeeded  Outcome = "succeeded"
	Failed     Outcome = "failed"
	RolledBack Outcome = "rolled_back"
	Superseded Outcome = "superseded"
	Blocked    Outcome = "blocked"
)

// Transition is one legal step of a rotation: to a next phase, or to an outcome
// (which ends it) in the phase it then stands in.
type Transition struct {
	From    Phase
	To      Phase
	Outcome Outcome
	// When says in a few words what causes it; the diagram in
	// docs/architecture.md is generated from this table.
	When string
}

// Transitions lists every legal step of a rotation.
var Transitions = []Transition{
	{Planned, Prepared, "", "Prepare done"},
	{Prepared, Verified, "", "Verify done"},
	{Verified, Active, "", "one Put moves pointer and phase"},
	{Active, RolledOut, Succeeded, "steps done, the old version's retire_at set"},
	{Planned, Planned, Failed, "Prepare failed, candidate undone"},
	{Prepared, Prepared, Failed, "Verify failed, candidate undone"},
	{Verified, Verified, Failed, "given up before the switch"},
	{Planned, Planned, Blocked, "last attempt failed"},
	{Prepared, Prepared, Blocked, "last attempt failed"},
	{Verified, Verified, Blocked, "last attempt failed"},
	{Planned, Planned, Superseded, "emergency"},
	{Prepared, Prepared, Superseded, "emergency"},
	{Verified, Verified, Superseded, "emergency"},
	{Active, Active, Superseded, "emergency, or rollback of a held one"},
	{Active, Active, RolledBack, "a step failed, pointer and dependents are back"},
}

// TransitionError is a change of state that the tables do not allow: a fault of
// the engine, never of its input.
type TransitionError struct{ What, From, To string }

// Error implements error.
func (e *TransitionError) Error() string {
	return fmt.Sprintf("illegal transition of a %s from %q to %q", e.What, e.From, e.To)
}

// Actor is who asked for a rotation.
type Actor struct {
	EntityID    string `json:"entity_id,omitempty"`
	DisplayName string `json:"display_name,omitempty"`
	// AccessorHash is an HMAC-SHA256 of the token accessor, in hex.
	AccessorHash string `json:"accessor_hash,omitempty"`
}

// Failure is why a rotation failed, without secrets.
type Failure struct {
	Kind    string `json:"kind"`
	Message string `json:"message"`
}

// StepState is how far a step between active and rolled_out got.
type StepState string

// The states of a step.
const (
	StepRunning StepState = "running"
	StepDone    StepState = "done"
	StepFailed  StepState = "failed"
)

// Step is one named act of a rotation, such as rollout or mirror.
type Step struct {
	Name        string    `json:"name"`
	State       StepState `json:"state"`
	Detail      string    `json:"detail,omitempty"`
	StartedTime time.Time `json:"started_time"`
	EndedTime   time.Time `json:"ended_time,omitzero"`
	// Cursor is the step's own bookmark, so that a crash resumes and does not repeat.
	Cursor string `json:"cursor,omitempty"`
	// Back marks a step that follows the pointer back to the earlier version.
	Back bool `json:"back,omitempty"`
	// Again marks a copy that is tried, or was written, after the restart of what may read it:
	// that is restarted once more.
	Again bool `json:"again,omitempty"`
	// FailingTime is since when it has failed, as long as it is not known whether the version
	// to go back to works.
	FailingTime time.Time `json:"failing_time,omitzero"`
	// PollAt is when to look again.
	PollAt time.Time `json:"poll_at,omitzero"`
}

// Rotation is the journalled act by which a version becomes current.
type Rotation struct {
	ID              string    `json:"rotation_id"`
	Trigger         Trigger   `json:"trigger"`
	Phase           Phase     `json:"phase"`
	Outcome         Outcome   `json:"outcome,omitempty"`
	Version         int       `json:"version"`
	PreviousVersion int       `json:"previous_version,omitempty"`
	Attempt         int       `json:"attempt"`
	RetryOf         string    `json:"retry_of,omitempty"`
	Reason          string    `json:"reason,omitempty"`
	Actor           Actor     `json:"actor,omitzero"`
	StartedTime     time.Time `json:"started_time"`
	EndedTime       time.Time `json:"ended_time,omitzero"`
	Error           *Failure  `json:"error,omitempty"`
	Steps           []Step    `json:"steps,omitempty"`
	IncidentID      string    `json:"incident_id,omitempty"`

	// KillFirst tells how the emergency was declared.
	KillFirst bool `json:"kill_first,omitempty"`
	// Force is what the request said, for kinds that would otherwise wait.
	Force bool `json:"force,omitempty"`
	// Reverting is set once a step failed and the pointer went back.
	Reverting bool `json:"reverting,omitempty"`
	// Held says why the rotation waits for an operator.
	Held string `json:"held,omitempty"`
	// NotBefore is, in an answer about a rotation that has not begun, when it will.
	NotBefore time.Time `json:"not_before,omitzero"`
}

// advance moves to a phase, or ends with an outcome, if the table allows it.
func (r *Rotation) advance(to Phase, outcome Outcome) error {
	legal := slices.ContainsFunc(Transitions, func(t Transition) bool {
		return t.From == r.Phase && t.To == to && t.Outcome == outcome
	})
	if !legal || r.Outcome != "" {
		return &TransitionError{What: "rotation", From: string(r.Phase) + "/" + string(r.Outcome), To: string(to) + "/" + string(outcome)}
	}
	r.Phase, r.Outcome = to, outcome
	return nil
}

// BeforeSwitch tells whether readers do not see the candidate yet.
func (r *Rotation) BeforeSwitch() bool { return r.Phase != Active && r.Phase != RolledOut }

// StepNamed returns the step of this name and direction, or nil.
func (r *Rotation) StepNamed(name string, back bool) *Step {
	for i := range r.Steps {
		if r.Steps[i].Name == name && r.Steps[i].Back == back {
			return &r.Steps[i]
		}
	}
	return nil
}
