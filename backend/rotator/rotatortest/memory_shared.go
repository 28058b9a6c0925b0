package rotatortest

import (
	"crypto/rand"
	"fmt"
	"slices"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/mark"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// Users that several versions share: two that take turns, or one whose password
// changes in place.

func (r memoryRole) shared() bool { return r.Standing || r.InPlace }

// Imports implements rotator.Importer.
func (m *Memory) Imports(r *rotator.Role) bool {
	_, given := r.Secrets["password"]
	return given
}

// takenOver marks a user that was there before, if it logs in with what we were given.
func takenOver(users map[string]*User, t *rotator.Target) bool {
	u := users[t.Version.Identifier]
	if u == nil || u.Comment != "" || !u.Enabled || u.Password != t.Material["password"].Reveal() {
		return false
	}
	u.Comment = t.MarkKey.Sign(t.Mark, t.Version.Identifier)
	return true
}

// giveBack takes our mark off a user that was there before.
func (m *Memory) giveBack(t *rotator.Target) (p rotator.Progress, err error) {
	err = m.World.change(func(users map[string]*User) error {
		u, err := ours(users, t)
		if err != nil {
			p.Left = err.Error()
			return nil
		}
		if u != nil {
			u.Comment = ""
		}
		return nil
	})
	return p, err
}

func planShared(t *rotator.Target, r memoryRole) *rotator.Candidate {
	name := fmt.Sprintf("%s_%s_a", r.Prefix, t.Role.Name)
	current := slices.IndexFunc(t.Others, func(v rotation.Version) bool { return v.State == rotation.Current })
	if r.Standing && current >= 0 && t.Others[current].Identifier == name {
		name = fmt.Sprintf("%s_%s_b", r.Prefix, t.Role.Name)
	}
	return &rotator.Candidate{Identifier: name, Material: secret.NewMap(map[string]string{"password": rand.Text()})}
}

// sharedUser finds the target's user, whose versions it is of by now.
func sharedUser(users map[string]*User, t *rotator.Target) (u *User, found mark.Mark, err error) {
	name := t.Version.Identifier
	if u = users[name]; u == nil {
		return nil, found, nil
	}
	found, mac, err := mark.Parse(u.Comment)
	switch {
	case err != nil || !t.MarkKey.Verify(found, mac, name) || found.Role != t.Role.Name:
		return nil, found, fault.New(fault.Target, "user %q is not ours", name)
	case found.Fence > t.Fence:
		return nil, found, fault.New(fault.Conflict, "user %q was changed by a later leader", name)
	}
	return u, found, nil
}

func (m *Memory) prepareShared(t *rotator.Target) error {
	return m.World.change(func(users map[string]*User) error {
		u, _, err := sharedUser(users, t)
		if err != nil {
			return err
		}
		if u == nil {
			u = &User{}
			users[t.Version.Identifier] = u
		}
		u.give(t, t.Mark, t.Material)
		return nil
	})
}

// give makes a version's password the user's.
func (u *User) give(t *rotator.Target, m mark.Mark, material secret.Map) {
	m.Fence = t.Fence
	u.Comment = t.MarkKey.Sign(m, t.Version.Identifier)
	u.Password, u.Enabled = material["password"].Reveal(), true
}

func (m *Memory) retireShared(t *rotator.Target, r memoryRole) (p rotator.Progress, err error) {
	err = m.World.change(func(users map[string]*User) error {
		u, found, err := sharedUser(users, t)
		if err != nil || u == nil {
			return err
		}
		if found.RotationID != t.Version.RotationID { // it moved on; what comes late is fenced off
			found.Fence = t.Fence
			u.Comment = t.MarkKey.Sign(found, t.Version.Identifier)
			return nil
		}
		if r.InPlace && t.Current != nil {
			current := t.Current.Version
			u.give(t, mark.Mark{Instance: found.Instance, Role: found.Role, Version: current.Number, RotationID: current.RotationID}, t.Current.Material)
			return nil
		}
		found.Fence = t.Fence
		p.SessionsEnded = u.Sessions
		u.Comment, u.Enabled, u.Sessions = t.MarkKey.Sign(found, t.Version.Identifier), false, 0
		return nil
	})
	return p, err
}
