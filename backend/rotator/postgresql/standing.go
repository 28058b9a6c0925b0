package postgresql

import (
	"context"
	"fmt"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/mark"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// Standing users outlive their versions, so that a version's user may serve
// another one by now: their marks say which, and carry a fence. Each effect first
// changes the user's row, which the server lets one transaction do at a time, then
// compares the mark, and advances it with the same commit: what a deposed leader
// still sends comes before its successor's effect or not at all.

// standingMark is the mark of an effect.
func standingMark(t *rotator.Target, version int, rotationID string) mark.Mark {
	m := t.Mark
	m.Version, m.RotationID, m.Fence = version, rotationID, t.Fence
	return m
}

// prepareStanding gives the version's password to its user, which is made first if
// it is missing. SQL statements of the role run in the connection's own database.
func (p *prepareRun) prepareStanding(ctx context.Context, s *postgres.Session) error {
	if len(p.options.CreationStatements)+len(p.options.RotationStatements) == 0 {
		return p.stand(ctx, s)
	}
	return p.connection.DB.InDatabase(ctx, p.connection.DB.Address().Database, p.connection.options.StatementTimeout.Std(), p.stand)
}

func (p *prepareRun) stand(ctx context.Context, s *postgres.Session) error {
	name := p.target.Version.Identifier
	u, err := findUser(ctx, s, p.target)
	switch {
	case err != nil:
		return err
	case u.foreign == unmarked:
		return fault.New(fault.Conflict, "the user %s exists and does not carry our mark, so it was not touched: give its password with the role to take it over, or remove it", quoted(name))
	case u.foreign != "":
		return u.refuse(name)
	case u.exists:
		err = p.renew(ctx, s)
	default:
		err = p.found(ctx, s)
	}
	if err != nil {
		return err
	}
	if p.object.Group != "" {
		if err := p.ensureGroup(ctx, s); err != nil {
			return err
		}
	}
	if err := fault.In("settings", p.setSettings(ctx, s)); err != nil {
		return err
	}
	return writeMark(ctx, s, p.target, standingMark(p.target, p.target.Version.Number, p.target.Version.RotationID), name)
}

// renew changes the password of a user that exists.
func (p *prepareRun) renew(ctx context.Context, s *postgres.Session) error {
	if err := p.takeRow(ctx, s); err != nil {
		return err
	}
	if len(p.options.RotationStatements) == 0 {
		return fault.In("set the password", p.setLogin(ctx, s))
	}
	if err := p.custom().run(ctx, s, p.options.rotation()); err != nil {
		return err
	}
	return p.harmless(ctx, s, "rotation_statements")
}

// takeRow changes the user, and compares its mark once nobody else can.
func (p *prepareRun) takeRow(ctx context.Context, s *postgres.Session) error {
	name := p.target.Version.Identifier
	if err := fault.In("let the user log in", s.Exec(ctx, "ALTER ROLE "+postgres.Ident(name)+" LOGIN")); err != nil {
		return err
	}
	u, err := findUser(ctx, s, p.target)
	if err == nil && u.foreign != "" {
		return u.refuse(name)
	}
	return err
}

// found makes a user that is missing.
func (p *prepareRun) found(ctx context.Context, s *postgres.Session) error {
	name := p.target.Version.Identifier
	switch {
	case len(p.options.CreationStatements) > 0:
		if err := p.custom().run(ctx, s, p.options.creation()); err != nil {
			return err
		}
		return p.harmless(ctx, s, "creation_statements")
	case p.object.Group == "":
		return fault.New(fault.Conflict, "there is no user %s: make it and give its password with the role, or name its group in member_of, so that it can be made", quoted(name))
	}
	if err := fault.In("create the user", s.Exec(ctx, "CREATE ROLE "+postgres.Ident(name))); err != nil {
		return err
	}
	return fault.In("set the password", p.setLogin(ctx, s))
}

// memberQuery tells whether a user is a member of a group, and may act as it by the
// same grant.
const memberQuery = `SELECT EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles u ON u.oid = m.member
	WHERE g.rolname = $1 AND u.rolname = $2`

// ensureGroup makes the user a member of its group. A membership that an
// administrator with more rights has given is enough.
func (p *prepareRun) ensureGroup(ctx context.Context, s *postgres.Session) error {
	name := p.target.Version.Identifier
	member, err := isMember(ctx, s, p.object.Group, name)
	if err != nil {
		return err
	}
	if !member {
		if err := fault.In("grant the group", grantGroup(ctx, s, p.object.Group, name)); err != nil {
			return err
		}
	}
	return fault.In("make the user act as the group", p.setRole(ctx, s))
}

func isMember(ctx context.Context, s *postgres.Session, group, user string) (member bool, err error) {
	query := memberQuery
	if s.Major() >= 16 {
		query += " AND m.inherit_option AND m.set_option"
	}
	_, err = s.Row(ctx, query+")", []any{group, user}, &member)
	return member, fault.In("look at the user's groups", err)
}

// takeStanding ends the version at its user: what serves another version by now goes
// on, and where one password changes in place the current version's comes back. The
// fence advances in any case, so that nothing of the version comes late. done tells
// that nobody is left who could hold a session of it.
func (r *retirement) takeStanding(ctx context.Context, s *postgres.Session, u user) (done bool, err error) {
	row := fmt.Sprintf("ALTER ROLE %s CONNECTION LIMIT %d", postgres.Ident(r.name()), u.limit) // as it is
	if err := fault.In("take the user", s.Exec(ctx, row)); err != nil {
		return false, err
	}
	if u, err = r.own(ctx, s); err != nil || !u.exists {
		return true, err
	}
	m, current := standingMark(r.target, u.mark.Version, u.mark.RotationID), r.target.Current
	switch {
	case u.mark.RotationID != r.target.Version.RotationID:
		done = true
	case r.givesBack():
		done, m = true, standingMark(r.target, current.Version.Number, current.Version.RotationID)
		err = r.giveBack(ctx, s, current)
	default:
		err = fault.In("disable the user", s.Exec(ctx, "ALTER ROLE "+postgres.Ident(r.name())+" NOLOGIN PASSWORD NULL"))
	}
	if err != nil {
		return false, err
	}
	return done, writeMark(ctx, s, r.target, m, r.name())
}

// givesBack tells that the user has to go on with the current version's password.
func (r *retirement) givesBack() bool {
	return r.object.Strategy == inPlace && r.target.Current != nil
}

// revokeStanding runs the role's revocation_statements for a user that stays.
func (r *retirement) revokeStanding(ctx context.Context) error {
	if len(r.options.RevocationStatements) == 0 {
		return nil
	}
	return r.connection.DB.WithLock(ctx, func(ctx context.Context, _ *postgres.Session) error { return r.revoke(ctx) })
}

// giveBack makes the current version's password the user's again. It needs nothing
// but the right to do so: whatever rotation_statements did beside is theirs.
func (r *retirement) giveBack(ctx context.Context, s *postgres.Session, current *rotator.Live) error {
	back, err := preparation(&rotator.Target{Role: r.target.Role, Conn: r.target.Conn, Version: current.Version, Material: current.Material})
	if err != nil {
		return err
	}
	return fault.In("give the current version's password back", back.setPassword(ctx, s, ""))
}

// laterVersion says why a version cannot come back to a user that has served a
// later one since.
func laterVersion(t *rotator.Target) string {
	for i := range t.Others {
		v := &t.Others[i]
		if v.Identifier == t.Version.Identifier && v.Number > t.Version.Number && !v.ActivatedTime.IsZero() {
			return "its user " + quoted(v.Identifier) + " has served a later version since: only the last version of the other user can come back"
		}
	}
	return ""
}
