// Package rotatortest has the conformance suite that every rotator runs, and a
// kind of secret that lives in memory, with which the engine itself is tested.
package rotatortest

import (
	"maps"
	"sync"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// World is the target of the in-memory kind: users with passwords. It outlives
// engines, as a database does.
type World struct {
	mu    sync.Mutex
	users map[string]*User
	// Down makes the target unreachable.
	down bool
	// refuse lets logins of new users fail, for rotations that cannot be verified.
	refuse bool
	// busy lets nothing be ended yet.
	busy bool
}

// User is one object in the world.
type User struct {
	Password string
	Enabled  bool
	Comment  string
	Sessions int
}

// NewWorld makes an empty one.
func NewWorld() *World { return &World{users: map[string]*User{}} }

// SetDown makes the target unreachable, or reachable again.
func (w *World) SetDown(down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = down
}

// SetRefuse makes Verify fail.
func (w *World) SetRefuse(refuse bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refuse = refuse
}

// SetBusy makes Retire answer "not yet".
func (w *World) SetBusy(busy bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.busy = busy
}

// Users is a copy of what exists.
func (w *World) Users() map[string]User {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[string]User{}
	for name, u := range w.users {
		out[name] = *u
	}
	return out
}

// Put makes or replaces a user by hand.
func (w *World) Put(name string, u User) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.users[name] = &u
}

// Remove drops a user by hand.
func (w *World) Remove(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.users, name)
}

// Login tells whether the target accepts a user's password: nil, AuthFailed, or
// Unreachable.
func (w *World) Login(name, password string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		return errDown
	}
	u := w.users[name]
	if u == nil || !u.Enabled || u.Password != password {
		return fault.New(fault.AuthFailed, "user %q was refused", name)
	}
	return nil
}

var errDown = fault.New(fault.Unreachable, "the target does not answer")

// Snapshot copies the world; Restore brings it back to that.
func (w *World) Snapshot() map[string]User { return maps.Clone(w.Users()) }

// change runs one act on the users, as one transaction.
func (w *World) change(act func(users map[string]*User) error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		return errDown
	}
	return act(w.users)
}
