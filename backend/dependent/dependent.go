// Package dependent is the contract of what follows a secret once readers get its next
// version: workloads that are restarted, endpoints that are asked whether all is well, and
// places to which the secret is copied. Types of connection fulfil it; the engine drives it
// between the switch of readers and the end of a rotation, and keeps the journal.
//
// Every context has a deadline of seconds: nothing here waits for a rollout. Errors are
// faults without secrets. Unreachable says that there was no answer, and the engine asks
// again until its own deadline; any other fault ends the step. What Restart, Undo and Look
// say names the workload.
package dependent

import (
	"context"
	"errors"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// What more an error may tell of a workload, by errors.Is.
var (
	// ErrGone: it is not there any more, or is another one of its name: of the one that was
	// meant there are no pods.
	ErrGone = errors.New("gone")
	// ErrStalled: the cluster gave up waiting for its new pods, which may come all the same.
	// Just after Undo it may have been said of those that were taken back.
	ErrStalled = errors.New("stalled")
)

// Gone lets errors.Is find ErrGone in an error.
func Gone(err error) error { return marked{err, ErrGone} }

// Stalled lets errors.Is find ErrStalled in an error.
func Stalled(err error) error { return marked{err, ErrStalled} }

type marked struct {
	error
	as error
}

// Unwrap gives the error itself.
func (m marked) Unwrap() error { return m.error }

// Is implements what errors.Is asks.
func (m marked) Is(target error) bool { return target == m.as }

// Restarter is a type of connection through which workloads are restarted.
type Restarter interface {
	// CheckTarget refuses, without the network, a target that is malformed or that the
	// connection does not admit.
	CheckTarget(c *rotator.ConnectionConfig, target string) error
	// Ready tells why the workloads of a target could not be restarted now: one is missing
	// or paused, none matches, a right is missing. It changes nothing.
	Ready(ctx context.Context, conn rotator.Connection, target string) error
	// Resolve lists the workloads of a target, in a stable order, and at least one.
	Resolve(ctx context.Context, conn rotator.Connection, target string) ([]Workload, error)
	// Restart lets the pods of a workload be replaced. For the same order it does so once,
	// however often it is called, whoever restarted the workload meanwhile.
	Restart(ctx context.Context, conn rotator.Connection, w Workload, o Order) error
	// Undo gives a workload back the pod template that it had before an order, so that the
	// pods of then which still run stay: a release that is broken does not keep the way back
	// from completing. Where the template was written anew since, it restarts; where the order
	// never came through it changes nothing, or restarts for an o that goes Everywhere. It does
	// so once for o.
	Undo(ctx context.Context, conn rotator.Connection, w Workload, o Order, undone string) error
	// Look tells how far the replacement of a workload's pods got, beside ErrStalled too.
	Look(ctx context.Context, conn rotator.Connection, w Workload) (Progress, error)
}

// Workload is one object whose pods are replaced, as it stands in the journal.
type Workload struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// UID tells the object from another one of the same name.
	UID string `json:"uid"`
}

// String names the workload to people.
func (w Workload) String() string { return w.Namespace + "/" + w.Kind + "/" + w.Name }

// Order is one restart.
type Order struct {
	// ID is that of the rotation and its direction, and is written onto the workload.
	ID string
	// Time is when the order was journalled.
	Time time.Time
	// Everywhere lets Undo restart also what the order that it undoes never reached.
	Everywhere bool
}

// Progress is how far a workload got.
type Progress struct {
	Done bool
	// Detail says it in a few words: "2 of 3 pods are new and available".
	Detail string
}

// Checker is a type of connection that asks an endpoint whether what depends on a secret is
// well.
type Checker interface {
	// Pace is how often the endpoint is asked until it counts as failed, and at which
	// distance.
	Pace(c *rotator.ConnectionConfig) (attempts int, interval time.Duration, err error)
	// Try asks once. detail says what was seen where it is well; an error, of kind Target or
	// Unreachable, says what is not.
	Try(ctx context.Context, conn rotator.Connection) (detail string, err error)
}

// Mirrorer is a type of connection to which what readers get is copied.
type Mirrorer interface {
	// CheckPath refuses, without the network, a path that is malformed or that the
	// connection does not admit.
	CheckPath(c *rotator.ConnectionConfig, path string) error
	// Ready tells why a copy could not be written now. It changes nothing.
	Ready(ctx context.Context, conn rotator.Connection, path string) error
	// Read gives the latest copy; Version 0 where there never was one.
	Read(ctx context.Context, conn rotator.Connection, path string) (Copy, error)
	// Write puts a copy in the place of the one of that version, and fails with Conflict
	// where the latest is another by now. An Unconfirmed or Unreachable fault says that it
	// may have been written.
	Write(ctx context.Context, conn rotator.Connection, path string, fields secret.Map, instead int) (version int, err error)
}

// Copy is what lies at a path.
type Copy struct {
	// Version is the place's own number.
	Version int
	// Deleted tells that the latest version was removed: it has no fields.
	Deleted bool
	// Fields are the ones that are strings.
	Fields secret.Map
}
