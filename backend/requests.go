package backend

import (
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// Actor is who asks: as Vault authenticated the request.
type Actor struct {
	EntityID    string
	DisplayName string
	// Accessor of the token; only its HMAC is ever stored.
	Accessor string
	// Address is where the request came from, as Vault saw it.
	Address string
}

// Write is an operator's write of a role, a connection or the configuration:
// only what was given. What is left out keeps its stored value.
type Write struct {
	Name string
	// Given are the values by option name, type and connection included.
	Given option.Values
	// Secrets are the secret options that were given.
	Secrets secret.Map
	Actor   Actor
}

// Wait is how long a request waits for its rotation unless it says otherwise.
const Wait = 10 * time.Second

// RotateRequest asks for a rotation now.
type RotateRequest struct {
	Actor Actor
	Wait  time.Duration
	Force bool
	// Resume goes on with a rotation that is held for an operator.
	Resume bool
}

// RollbackRequest asks to make an earlier version current again.
type RollbackRequest struct {
	Actor Actor
	Wait  time.Duration
	Force bool
	// Version is 0 for the highest eligible one below current.
	Version int
}

// RetireRequest asks to end a retiring version before its time.
type RetireRequest struct {
	// Version is 0 for the oldest retiring one.
	Version int
	Wait    time.Duration
	Force   bool
}

// EmergencyRequest declares that a secret leaked.
type EmergencyRequest struct {
	Actor     Actor
	Reason    string
	Severity  string
	KillFirst bool
	Wait      time.Duration
}

// Creds is what a reader gets.
type Creds struct {
	Data     map[string]any
	Warnings []string
}

// RoleWritten is the answer to a role write.
type RoleWritten struct {
	Role     *store.Role
	Warnings []string
	// Rotation is the initial one, nil for an update.
	Rotation *rotation.Rotation
}

// EmergencyResult is the answer to a declared emergency.
type EmergencyResult struct {
	Rotation   *rotation.Rotation
	IncidentID string
	Status     store.IncidentStatus
	Killed     []Killed
	NextSteps  []string
	// Failed is what went wrong, in one sentence, "" for nothing.
	Failed string
}

// BulkEmergencyRequest declares that the secrets of many roles leaked.
type BulkEmergencyRequest struct {
	EmergencyRequest
	Scope EmergencyScope
	// Confirm is the number of roles that whoever asks expects to hit.
	Confirm int
}

// EmergencyScope says which roles an emergency is about: those of a connection, or
// those whose names match a glob.
type EmergencyScope struct {
	Connection string
	Roles      string
}

// BulkEmergencyResult is the answer to an emergency over many roles.
type BulkEmergencyResult struct {
	IncidentID string
	Status     store.IncidentStatus
	Roles      map[string]*EmergencyResult
	// Failed has, for each role with which something went wrong, a sentence.
	Failed map[string]string
}

// LeakedRole is a role that an emergency would hit.
type LeakedRole struct {
	Name       string
	Type       string
	Connection string
	// State is empty for a deleted role of which something is left.
	State RoleState
	// Versions are those that would be ended.
	Versions []rotation.Version
}

// Killed is one leaked version's end.
type Killed struct {
	Version       int
	SessionsEnded int
	ProvenDead    bool
}

// RoleState is a role's state in a word.
type RoleState string

// The states of a role; of those that hold, the first in this order is told.
const (
	StateDiverged       RoleState = "diverged"
	StateBlocked        RoleState = "blocked"
	StateActionRequired RoleState = "action_required"
	StateOverdue        RoleState = "overdue"
	StateFailing        RoleState = "failing"
	StateRotating       RoleState = "rotating"
	StateDue            RoleState = "due"
	StateGrace          RoleState = "grace"
	StateOK             RoleState = "ok"
)

// RoleStates lists the states, the most urgent first.
var RoleStates = []RoleState{StateDiverged, StateBlocked, StateActionRequired, StateOverdue, StateFailing, StateRotating, StateDue, StateGrace, StateOK}

// StatusQuery selects a page of roles.
type StatusQuery struct {
	Limit int
	After string
	State RoleState
}

// StatusPage is every role at a glance, the most urgent first.
type StatusPage struct {
	Roles  []RoleSummary
	Counts map[RoleState]int
	Next   string
	// Warnings tell what no role's state does: a paused mount, deleted roles that
	// are not gone yet.
	Warnings []string
}

// RoleSummary is one role at a glance.
type RoleSummary struct {
	Name           string
	Type           string
	State          RoleState
	CurrentVersion int
	ActivatedTime  time.Time
	NextRotation   time.Time
	Overdue        time.Duration
	LastError      string
}

// RoleStatus is one role in full.
type RoleStatus struct {
	RoleSummary
	Connection          string
	StateReason         string
	ConsecutiveFailures int
	Rotation            *rotation.Rotation
	LastRotation        *rotation.Rotation
	Versions            []rotation.Version
	// InUse has, for each retiring version, who still uses it.
	InUse         map[int][]rotator.Use
	OpenIncidents []string
	// Mirror is the copy elsewhere, nil where there is none.
	Mirror *rotation.Mirror
	// RevokedIDs are the identifiers of versions that leaked, for kinds whose versions
	// are used here; nil for others.
	RevokedIDs []string
}

// ConnectionView is a stored connection without its secrets.
type ConnectionView struct {
	Name        string
	Type        string
	Values      option.Values // common and own options, defaults included
	RotatedTime time.Time
}
