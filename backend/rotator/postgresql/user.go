package postgresql

import (
	"context"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/mark"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// user is a version's role as it stands in the cluster.
type user struct {
	exists bool
	oid    uint32
	// foreign says why the user must not be touched; empty when it is the
	// version's own.
	foreign string
}

const userQuery = `
SELECT r.oid, r.rolsuper, r.rolname = current_user OR r.rolname = session_user, coalesce(left(shobj_description(r.oid, 'pg_authid'), $2), '')
FROM pg_roles r WHERE r.rolname = $1`

// findUser looks for the version's user. Only a user that carries our mark, with
// the version's own rotation id and an authentic MAC, is ours: everybody who may
// create roles may write a comment on one.
func findUser(ctx context.Context, s *postgres.Session, t *rotator.Target) (user, error) {
	var (
		u          user
		super, own bool
		comment    string
	)
	name := t.Version.Identifier
	exists, err := s.Row(ctx, userQuery, []any{name, mark.MaxBytes + 1}, &u.oid, &super, &own, &comment)
	if err != nil || !exists {
		return u, in("look for the user", err)
	}
	u.exists = true
	m, mac, parseErr := mark.Parse(comment)
	switch {
	case super:
		u.foreign = "it is a superuser"
	case own:
		u.foreign = "it is the connection's own user"
	case parseErr != nil:
		u.foreign = "it does not carry our mark"
	case !t.MarkKey.Verify(m, mac, name):
		u.foreign = "its mark is not authentic"
	case t.Version.RotationID == "" || m.RotationID != t.Version.RotationID:
		u.foreign = "its mark is that of another rotation"
	}
	return u, nil
}

// refuse makes the error for a user that is not ours.
func (u user) refuse(name string) error {
	return fault.New(fault.Conflict, "the user %s exists, but %s: it was not touched", quoted(name), u.foreign)
}
