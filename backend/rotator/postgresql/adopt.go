package postgresql

import (
	"context"
	"fmt"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
)

// undo takes back a membership that adopt gave.
type undo func(context.Context) error

func nothingToUndo(context.Context) error { return nil }

// adopt gives the administrator the rights of a role, within the transaction:
// REASSIGN OWNED, DROP OWNED and ending sessions need them. A superuser has them.
//
// Up to PostgreSQL 15 membership gives them, and CREATEROLE may give membership.
// From 16 on a role's creator has ADMIN on it but neither INHERIT nor SET, and may
// grant itself both.
func adopt(ctx context.Context, s *postgres.Session, role string) (undo, error) {
	step := "take the rights of " + quoted(role)
	var has bool
	rights := "pg_has_role($1, 'USAGE')"
	if s.Major() >= 16 {
		rights += " AND pg_has_role($1, 'SET')"
	}
	if _, err := s.Row(ctx, "SELECT "+rights, []any{role}, &has); err != nil || has {
		return nothingToUndo, fault.In(step, err)
	}
	if s.Major() < 16 {
		return adoptMember(ctx, s, role, step)
	}
	return adoptOptions(ctx, s, role, step)
}

func adoptMember(ctx context.Context, s *postgres.Session, role, step string) (undo, error) {
	var member bool
	const query = `SELECT EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles u ON u.oid = m.member
		WHERE g.rolname = $1 AND u.rolname = current_user)`
	if _, err := s.Row(ctx, query, []any{role}, &member); err != nil || member {
		return nothingToUndo, fault.In(step, err) // a NOINHERIT administrator: nothing a grant would change
	}
	if err := s.Exec(ctx, "GRANT "+postgres.Ident(role)+" TO CURRENT_USER"); err != nil {
		return nil, fault.In(step, err)
	}
	return func(ctx context.Context) error {
		return fault.In("give back the rights of "+quoted(role), s.Exec(ctx, "REVOKE "+postgres.Ident(role)+" FROM CURRENT_USER"))
	}, nil
}

// adoptOptions restores, when it is undone, a grant that the administrator had
// already given itself with other options.
func adoptOptions(ctx context.Context, s *postgres.Session, role, step string) (undo, error) {
	var inherit, set bool
	const query = `SELECT m.inherit_option, m.set_option FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
		JOIN pg_roles u ON u.oid = m.member WHERE g.rolname = $1 AND u.rolname = current_user AND m.grantor = m.member`
	before, err := s.Row(ctx, query, []any{role}, &inherit, &set)
	if err != nil {
		return nil, fault.In(step, err)
	}
	grant := "GRANT " + postgres.Ident(role) + " TO CURRENT_USER WITH INHERIT %t, SET %t"
	if err := s.Exec(ctx, fmt.Sprintf(grant, true, true)); err != nil {
		return nil, fault.In(step, err)
	}
	return func(ctx context.Context) error {
		statement := "REVOKE " + postgres.Ident(role) + " FROM CURRENT_USER"
		if before {
			statement = fmt.Sprintf(grant, inherit, set)
		}
		return fault.In("give back the rights of "+quoted(role), s.Exec(ctx, statement))
	}, nil
}
