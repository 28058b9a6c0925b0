package postgresql

import (
	"context"
	"fmt"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/mark"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// user is a version's role as it stands in the cluster.
type user struct {
	exists  bool
	oid     uint32
	comment string // at most maxComment bytes and one
	limit   int    // CONNECTION LIMIT
	expires bool   // has a VALID UNTIL
	// mark is the one it bears; zero unless it is authentic.
	mark mark.Mark
	// foreign says why the user must not be touched; empty when it is the
	// version's own.
	foreign string
}

// maxComment bounds, in bytes, the comment of a user that is taken over: it is kept.
const maxComment = 1024

const userQuery = `
SELECT r.oid, r.rolsuper, r.rolname = current_user OR r.rolname = session_user, coalesce(left(shobj_description(r.oid, 'pg_authid'), $2), ''),
	r.rolconnlimit, coalesce(r.rolvaliduntil, 'infinity') <> 'infinity'
FROM pg_roles r WHERE r.rolname = $1`

// readUser looks for a user, and reads its mark. Nobody's are superusers and the
// connection's own, and whoever bears no mark, or a forged one: everybody who may
// create roles may write a comment on one.
func readUser(ctx context.Context, s *postgres.Session, key mark.Key, name string) (user, error) {
	var (
		u          user
		super, own bool
	)
	exists, err := s.Row(ctx, userQuery, []any{name, maxComment + 1}, &u.oid, &super, &own, &u.comment, &u.limit, &u.expires)
	if err != nil || !exists {
		return u, fault.In("look for the user", err)
	}
	u.exists = true
	m, mac, parseErr := mark.Parse(u.comment)
	switch {
	case super:
		u.foreign = "it is a superuser"
	case own:
		u.foreign = "it is the connection's own user"
	case parseErr != nil:
		u.foreign = unmarked
	case !key.Verify(m, mac, name):
		u.foreign = "its mark is not authentic"
	default:
		u.mark = m
	}
	return u, nil
}

// unmarked is why most users are not ours.
const unmarked = "it does not carry our mark"

// findUser looks for the version's user. Only a user that carries our mark, with
// the version's own rotation id and an authentic MAC, is ours; a standing user is
// its role's, whichever version it serves.
func findUser(ctx context.Context, s *postgres.Session, t *rotator.Target) (user, error) {
	o, err := objectOf(&t.Version)
	if err != nil {
		return user{}, err
	}
	u, err := readUser(ctx, s, t.MarkKey, t.Version.Identifier)
	if err != nil || !u.exists || u.foreign != "" {
		return u, err
	}
	switch {
	case !o.standing() && (t.Version.RotationID == "" || u.mark.RotationID != t.Version.RotationID):
		u.foreign = "its mark is that of another rotation"
	case o.standing() && u.mark.Role != t.Role.Name:
		u.foreign = fmt.Sprintf("it is a user of the role %q", u.mark.Role)
	case o.standing():
		return u, u.fenced(t)
	}
	return u, nil
}

// fenced refuses the effects of a process that was deposed, or of a storage that
// was restored: a later one has changed the user.
func (u user) fenced(t *rotator.Target) error {
	if u.mark.Fence <= t.Fence {
		return nil
	}
	return fault.New(fault.Conflict, "the user %s was changed by a later state of this mount, for version %d: it was not touched", quoted(t.Version.Identifier), u.mark.Version)
}

// refuse makes the error for a user that is not ours.
func (u user) refuse(name string) error {
	return fault.New(fault.Conflict, "the user %s exists, but %s: it was not touched", quoted(name), u.foreign)
}

// writeMark replaces the comment of a user by a mark.
func writeMark(ctx context.Context, s *postgres.Session, t *rotator.Target, m mark.Mark, name string) error {
	return fault.In("mark the user", comment(ctx, s, name, t.MarkKey.Sign(m, name)))
}

// comment sets the comment of a user; an empty one removes it.
func comment(ctx context.Context, s *postgres.Session, name, text string) error {
	literal, err := s.Literal(text)
	if err != nil {
		return err
	}
	return s.Exec(ctx, "COMMENT ON ROLE "+postgres.Ident(name)+" IS "+literal)
}
