// Package rotator is the contract that every kind of secret fulfils, and the
// conformance suite (rotatortest) that proves it does.
//
// There is no Activate and no Rollback here: moving the pointer belongs to the
// engine, so that the author of a rotator cannot get it wrong. A rotator only
// makes, proves and ends versions at the target.
package rotator

import (
	"context"
	"encoding/json"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/mark"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// Rotator makes, proves and ends the versions of one kind of secret.
//
// All methods but Plan are idempotent: the engine calls them again after a
// crash, a failure or a lost answer, with the same Target. Every context has a
// deadline. Errors are faults (package fault) without secrets; AuthFailed is
// reserved for the target's own authentication failure of the version in
// question, and Unreachable for "no answer", which proves nothing.
type Rotator interface {
	// Kind describes the type and declares its options.
	Kind() Kind

	// CheckRole refuses role options that can be seen to be wrong without the
	// target. before is nil for a new role.
	CheckRole(before, after *Role) error

	// Plan mints the candidate: its material, identifier and object. It has no
	// effect outside. It may return *WaitsForPerson.
	Plan(ctx context.Context, t *Target) (*Candidate, error)

	// Prepare makes the candidate valid at the target. It first looks whether an
	// earlier, interrupted call already did. For a rollback it brings back a
	// version that Retire ended, from its kept material, or refuses.
	// An Unconfirmed error says that something may exist outside that only
	// Discard can find.
	Prepare(ctx context.Context, t *Target) error

	// Verify proves that the version works, as a reader would use it.
	Verify(ctx context.Context, t *Target) error

	// Retire ends a version: stage Disable can be undone by Prepare, stage
	// Destroy is final. A version that is already gone is done, not an error.
	Retire(ctx context.Context, t *Target, stage Stage) (Progress, error)

	// Discard undoes Prepare, however far it got, the answer lost included.
	Discard(ctx context.Context, t *Target) (Progress, error)

	// Render gives what readers see of a live version, beside the fields that
	// every kind answers. It makes no call outside.
	Render(t *Target) (map[string]any, error)
}

// Kind describes a type of secret.
type Kind struct {
	// Name is the role's type= value.
	Name string
	// ConnectionTypes lists the types a role's connection may have; empty when
	// the kind needs no connection.
	ConnectionTypes []string
	// Options are the role options of this kind alone.
	Options option.Set
	// Period and Grace are the defaults.
	Period, Grace time.Duration
	// Copied are the fields of what Render gives that a copy elsewhere may hold.
	Copied []string
	// Outlives tells that versions make what is still in use when nobody reads them any
	// more: tokens. No version ends before its grace is over unless that is forced.
	Outlives bool
	// RevokesAtOnce tells that a version is refused from the moment on at which an
	// emergency declares that it leaked: the journal itself is the target.
	RevokesAtOnce bool
}

// Role is the policy as a rotator sees it.
type Role struct {
	Name   string
	Values option.Values
	// Secrets came with the write of the role and are never stored with it: CheckRole
	// sees them, and Plan does in the rotation that takes over a secret (see Importer).
	Secrets secret.Map
	// Connection is the stored name; its values are public ones.
	Connection       string
	ConnectionType   string
	ConnectionValues option.Values
	Grace            time.Duration
	Interval         time.Duration // the least time between two scheduled rotations
}

// Live is a version with its material: the current one beside an effect on another,
// or one that is put to use.
type Live struct {
	Version  rotation.Version
	Material secret.Map
	// Ready is what LiveUser.Load made of it; nil elsewhere.
	Ready any
}

// Target is everything an effect may need.
type Target struct {
	Role *Role
	// Conn is what the connection type's Open returned; nil without a connection.
	Conn Connection
	// Version is the one the effect is about, with its material (nil once
	// destroyed). Plan sees Number and RotationID set, the rest empty.
	Version  rotation.Version
	Material secret.Map
	// Mark identifies the version's object; MarkKey signs and verifies marks.
	Mark    mark.Mark
	MarkKey mark.Key
	// Current is the version that readers get now, nil when there is none, when it
	// is the one in question, or when an emergency ended it before its successor.
	Current *Live
	// Others are all further versions that the journal knows, the current one among
	// them, by ascending number.
	Others []rotation.Version
	// Fence grows with each write of the role's journal. A kind in which versions
	// share an object writes it into the object's mark with each effect, and refuses
	// an effect below the mark's: it comes from a process that was deposed.
	Fence int64
	// Passwords makes passwords from a Vault password policy.
	Passwords PasswordPolicy
	Now       time.Time
}

// PasswordPolicy generates a password from a named Vault policy.
type PasswordPolicy interface {
	GeneratePasswordFromPolicy(ctx context.Context, policy string) (string, error)
}

// Candidate is what Plan mints.
type Candidate struct {
	Identifier string
	Object     json.RawMessage
	Material   secret.Map
	// Number is the version's number where an import or the target brings it along; 0: the
	// next one.
	Number int
	// Counted tells that the target counts versions by itself. Earlier are then those that it
	// made and the journal does not have, whatever numbers were given since.
	Counted bool
	// Earlier are versions that come along beside the one that becomes current,
	// by ascending number: they are put to use like others that retire.
	Earlier []Candidate
}

// Stage is one of the two ways a retirement goes.
type Stage string

// The stages.
const (
	Disable Stage = "disable"
	Destroy Stage = "destroy"
)

// Progress is how far Retire or Discard got.
type Progress struct {
	// NotYet, when not empty, says why the act is not done; the engine asks again
	// after AskAgain.
	NotYet   string
	AskAgain time.Duration
	// SessionsEnded counts the sessions this call ended.
	SessionsEnded int
	// DestroyAfter delays the second stage of a retirement.
	DestroyAfter time.Duration
	// Left, when not empty, says why the object stays outside, disabled: nothing
	// more will be tried, and a person is told.
	Left string
	// Person tells that NotYet waits for a person's act at the target: the role is then
	// action_required.
	Person bool
}

// WaitsForPerson is returned by Plan when a person has to act first. The role is
// then action_required and no attempt is counted.
type WaitsForPerson struct{ What string }

// Error implements error.
func (w *WaitsForPerson) Error() string { return w.What }

// Prober proves a version dead: the target's own authentication failure for it,
// and a success of the current version on the same path a moment later. A wrong
// URL or a closed firewall is an error, not a proof.
type Prober interface {
	Probe(ctx context.Context, t *Target) (Proof, error)
}

// Proof is the result of a probe.
type Proof struct {
	Dead   bool
	Result string // one sentence, with the target's own code
	// Alive tells that the target accepted the version: ending it is done again.
	Alive bool
	// Unprovable tells that the target refuses it, and that nothing is left which it could
	// accept on the same path.
	Unprovable bool
}

// InUser tells who still uses a version.
type InUser interface {
	InUse(ctx context.Context, t *Target) ([]Use, error)
}

// Use is a client of a version.
type Use struct {
	ApplicationName string `json:"application_name"`
	ClientAddr      string `json:"client_addr"`
	Count           int    `json:"count"`
}

// Preflighter looks before Plan whether a rotation can go well. Only a line with
// Result fail stops it; no attempt is counted then.
type Preflighter interface {
	Preflight(ctx context.Context, t *Target) ([]Line, error)
}

// Line is one line of a check.
type Line struct {
	Check  string `json:"check"`
	Result Result `json:"result"`
	Detail string `json:"detail"`
}

// Result is the outcome of one line.
type Result string

// The results.
const (
	Pass Result = "pass"
	Warn Result = "warn"
	Fail Result = "fail"
)

// Surveyor lists what marks stand on objects of this role at the target,
// whoever made them: it lets the engine notice that the world is ahead of it. A current
// version that can bear no mark, since a person made it, counts as seen.
type Surveyor interface {
	Survey(ctx context.Context, t *Target) ([]Sighting, error)
}

// Sighting is one marked object.
type Sighting struct {
	Mark       mark.Mark
	Identifier string
	// Authentic tells whether the mark's HMAC is ours.
	Authentic bool
}

// Restorer tells whether Prepare can bring back a version that is not live any
// more. A rotator without it can restore nothing once retirement began.
type Restorer interface {
	// Restorable returns "" or the reason why not.
	Restorable(t *Target) string
}

// Announcer keeps a standby version ready ahead of the next rotation. A version that
// rolls back after its retirement stands by for as long before it is used again.
type Announcer interface {
	// AnnounceAhead says how long before it is used the next version must be
	// ready; zero means no standby is kept.
	AnnounceAhead(r *Role) time.Duration
}

// Gracer is implemented by kinds whose default grace follows from the role's own
// options.
type Gracer interface {
	DefaultGrace(r *Role) time.Duration
}

// Discloser is implemented by kinds whose readers do not always get the secret itself.
// Only reads that disclose one are kept account of.
type Discloser interface {
	Discloses(r *Role) bool
}

// HandEnded is implemented by kinds some of whose versions only a person can end.
type HandEnded interface {
	EndedByHand(v *rotation.Version) bool
}

// Adviser knows what is left to people once an emergency has replaced a version:
// sentences for the answer, none without need.
type Adviser interface {
	Advice(r *Role, leaked []rotation.Version, current rotation.Version, now time.Time) []string
}

// Irreversible is implemented by kinds whose Prepare cannot be undone: a retry
// then resumes the same candidate.
type Irreversible interface {
	PrepareIsIrreversible(r *Role) bool
}

// OnlyForward is implemented by kinds some of whose versions are counted and kept by the
// target itself: none becomes current again, and they outlive their role.
type OnlyForward interface {
	// NoWayBack is why no earlier version of a role becomes current again; "" where one may.
	NoWayBack(r *Role) string
}

// Connector is implemented by kinds whose own options may name the connection of a role.
type Connector interface {
	// ConnectionOf gives its name, and the types that it may have; "" where the options name
	// none.
	ConnectionOf(values option.Values) (name string, types []string)
}

// InPlace is implemented by kinds that change one credential where it stands:
// no grace, and a gap by nature. Prepare ends the current version, and Discard, or
// Retire of a version that a rollback tried to bring back, makes the current one
// valid again.
type InPlace interface {
	InPlace(r *Role) bool
}

// Importer is implemented by kinds whose roles can take over a secret that exists
// already: Plan then makes the first version of it.
type Importer interface {
	// Imports tells whether the write that makes a role brings such a secret along.
	Imports(r *Role) bool
}

// Minter is implemented by kinds whose target mints the secret itself. Plan then gives
// no material, and Mint takes the place of the first Prepare. That it begins is
// journalled, and what it gives is stored before anything else is done.
type Minter interface {
	// Mints tells whether the versions of a role are made so.
	Mints(r *Role) bool
	// Mint makes the secret, on an object that bears the mark, by one call that nobody
	// repeats. An Unconfirmed error, like an end of the process, leaves an object that
	// only Discard can find: the next attempt runs under another id.
	Mint(ctx context.Context, t *Target) (*Candidate, error)
}

// Stager is implemented by kinds whose secrets a person may make at the target and
// hand in.
type Stager interface {
	// Stages returns "" or the reason why a role takes no such secret.
	Stages(r *Role) string
	// Stage makes a candidate of the secret in the role's Secrets. It looks, and has no
	// effect outside.
	Stage(ctx context.Context, t *Target) (*Candidate, error)
}

// Soaker is implemented by kinds whose next version may stand by as the second of a pair
// before it takes over.
type Soaker interface {
	Soak(r *Role) Soak
}

// Soak says how a version that stands by takes over.
type Soak struct {
	// Period is how long it stands by at least.
	Period time.Duration
	// Auto tells that it then takes over by itself; else a person promotes it.
	Auto bool
	// Ahead tells that the schedule makes the next version stand by first, whenever it
	// has to soak or wait for a person: no person hands it in.
	Ahead bool
}

// Waits tells whether the schedule makes the next version stand by first.
func (s Soak) Waits() bool { return s.Ahead && (s.Period > 0 || !s.Auto) }

// Pairer is implemented by kinds whose readers are given the other live version beside
// the current one: the one that stands by, else the one that retires.
type Pairer interface {
	// RenderSecond gives what is added to what Render gives of the current version, nil for
	// nothing.
	RenderSecond(t *Target) (map[string]any, error)
}

// LiveUser puts live versions to use inside Vault: signs with them, encrypts. It
// makes no call outside, and runs beside any rotation.
type LiveUser interface {
	// Load readies a version for use: what it returns is Live.Ready for as long as the
	// version stays as it is, so that no request parses key material again.
	Load(v *rotation.Version, material secret.Map) (ready any, err error)

	// Use answers a request of the kind's own making; request and answer are types
	// that the kind and its paths share.
	Use(ctx context.Context, live *LiveVersions, request any) (answer any, err error)
}

// LiveVersions are what may be put to use: the current version makes, the others
// may still check or undo what they made.
type LiveVersions struct {
	Role *Role
	// Current is nil once the role was deleted: nothing is made then.
	Current *Live
	// All are the current, the retiring and the standby versions, by ascending number.
	// A compromised one is among them until its retirement begins.
	All []Live
	// Ended are all others that the journal remembers, in that order.
	Ended []rotation.Version
	// Ahead is for how long versions stand by, as far as the journal has adopted it: no
	// more may be promised to those who look, whatever the role says by now. 0: unknown.
	Ahead time.Duration
	// Missed is told of a version among Ended that somebody had need of, since data that it
	// made is still there, and of one above all that there are. made tells, given what Load
	// makes of the version, whether that is true: anybody can name one. It returns at once.
	Missed func(version int, made func(ready any) bool)
	Now    time.Time
	// Conn is the role's connection, where it has one. It is set for Rewriter alone: Use makes
	// no call outside.
	Conn Connection
}

// DataKeeper is implemented by kinds whose versions made data that lies elsewhere and is
// lost with them. No version of such a kind ends before nothing is left of what it made:
// the engine lets the data follow the current version, counts, and only then retires. Their
// last stage is the end of the material, which the engine destroys after DestroyAfter.
type DataKeeper interface {
	LiveUser
	// DataPolicy says when and how the data of a role follows.
	DataPolicy(r *Role) (DataPolicy, error)
	// Rewriter rewrites what any of the versions made into what the current one makes.
	Rewriter(live *LiveVersions) (reencrypt.Rewriter, error)
}

// DataPolicy is how data follows a new version.
type DataPolicy struct {
	// After is the wait before the first row is rewritten, Settle the one after the last, and
	// after a version encrypted last: within it what was encrypted is stored, and what was
	// read decrypted.
	After, Settle time.Duration
	// DestroyAfter is the wait between a version's end and that of its material; 0: it is
	// kept for ever.
	DestroyAfter time.Duration
	// Schedule (five cron fields, UTC) and Window are when rows may be rewritten; without
	// them, at any time.
	Schedule string
	Window   time.Duration
	// RowsPerSecond bounds the rows of a target that are rewritten; 0: no bound.
	RowsPerSecond int
}

// DataHolder is implemented by connection types in whose target such data may lie.
type DataHolder interface {
	Database(conn Connection) (reencrypt.Database, error)
}

// Defaulter is implemented by kinds some of whose options, where they are left out,
// follow from the connection: they are stored with a new role.
type Defaulter interface {
	Defaults(r *Role) (option.Values, error)
}

// Warner adds sentences to the answer of a role write.
type Warner interface {
	Warnings(r *Role) []string
}

// Connection is an open connection. The engine keeps one per stored connection
// and closes it when the stored one changes or the mount ends.
type Connection interface {
	Close()
}

// ConnectionKind is a type of connection.
type ConnectionKind interface {
	// Type is the type= value.
	Type() string
	Options() option.Set
	// CheckConnection refuses options that can be seen to be wrong without the
	// network, and gives warnings for those that are accepted with a doubt.
	CheckConnection(c *ConnectionConfig) (warnings []string, err error)
	// Open prepares a connection; it may dial lazily.
	Open(c *ConnectionConfig) (Connection, error)
	// Ping proves that the connection's own credential works: AuthFailed when
	// the target refused it, Unreachable when it did not answer.
	Ping(ctx context.Context, conn Connection) error
	// Check says line by line what the credential may do.
	Check(ctx context.Context, conn Connection) ([]Line, error)
}

// Anchored is implemented by connection types to whose target the secrets of roles are sent
// as they are, or at which ids mean something only there: while a role uses a connection,
// what Anchor gives does not change.
type Anchored interface {
	// Anchor is where the secrets go, without the connection's own.
	Anchor(c *ConnectionConfig) (string, error)
}

// RootRotator is a connection type whose own credential can be rotated.
type RootRotator interface {
	// NewRoot mints the new secret options. No effect outside.
	NewRoot(ctx context.Context, c *ConnectionConfig, passwords PasswordPolicy) (secret.Map, error)
	// SetRoot makes them valid at the target, through the open connection.
	SetRoot(ctx context.Context, conn Connection, next secret.Map) error
}

// RootMinter is a connection type whose target mints the connection's own credential.
type RootMinter interface {
	// RootID is the target's id of the credential in use, by which it is ended later.
	RootID(ctx context.Context, conn Connection) (string, error)
	// MintRoot makes another one of the same power, that bears the name, by one call that
	// nobody repeats, and waits until the target knows it. Unconfirmed: there may be one.
	MintRoot(ctx context.Context, conn Connection, name string) (secret.Map, error)
	// EndRoot ends a credential that is not in use any more: the one of this id, or, where
	// id is empty, those that bear the name. One that is gone is done.
	EndRoot(ctx context.Context, conn Connection, id, name string) error
}

// ConnectionConfig is a stored connection as its kind sees it.
type ConnectionConfig struct {
	Name    string
	Values  option.Values
	Secrets secret.Map
}
