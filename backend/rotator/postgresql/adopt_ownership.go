package postgresql

import (
	"context"
	"fmt"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

// adoptOwnership hands what an imported predecessor owns to the group, and makes it
// a member there, so that both work from the same commit on: one in each database
// that holds something of it. It does so only once nothing else stands in the way.
func (p *prepareRun) adoptOwnership(ctx context.Context, s *postgres.Session) error {
	predecessor, imported, err := importedPredecessor(p.target)
	if predecessor == nil || err != nil || !p.options.AdoptOwnership {
		return err
	}
	if err := checkRights(ctx, p.target, p.object, p.options, true); err != nil {
		return err
	}
	for _, one := range imported {
		if err := p.adoptFrom(ctx, s, predecessor, one.Name); err != nil {
			return fault.In("adopt_ownership", plain(err))
		}
	}
	return nil
}

func (p *prepareRun) adoptFrom(ctx context.Context, s *postgres.Session, predecessor *rotation.Version, user string) error {
	r, err := retirementOf(p.target, predecessor, user)
	if err != nil {
		return err
	}
	u, err := r.own(ctx, s)
	if err != nil || !u.exists {
		return err
	}
	return r.everywhere(ctx, s, u, r.handToGroup)
}

// everywhere acts in each database that holds something of the user, and last where
// the session is, with the objects that all share.
func (r *retirement) everywhere(ctx context.Context, s *postgres.Session, u user, do func(context.Context, *postgres.Session) error) error {
	databases, err := r.databases(ctx, s, u)
	if err != nil {
		return err
	}
	for _, d := range databases {
		if err := r.inDatabase(ctx, d, do); err != nil {
			return err
		}
	}
	if err := s.Exec(ctx, fmt.Sprintf("SET LOCAL lock_timeout = %d", reassignLockTimeout.Milliseconds())); err != nil {
		return err
	}
	return do(ctx, s)
}

// handToGroup hands over what the user owns here, and what it owned goes on being
// its own through the group.
func (r *retirement) handToGroup(ctx context.Context, s *postgres.Session) error {
	owned, err := r.countOwned(ctx, s)
	if err != nil || owned == 0 {
		return err
	}
	if err := r.joinGroup(ctx, s); err != nil {
		return err
	}
	undoUser, err := adopt(ctx, s, r.name())
	if err != nil {
		return err
	}
	if err := r.reassignAll(ctx, s); err != nil {
		return err
	}
	return undoUser(ctx)
}

// joinGroup makes the user a member of the group, with its rights. Up to PostgreSQL 15
// whether a member has them is the member's own attribute.
func (r *retirement) joinGroup(ctx context.Context, s *postgres.Session) error {
	var inherits bool
	if _, err := s.Row(ctx, "SELECT rolinherit FROM pg_roles WHERE rolname = $1", []any{r.name()}, &inherits); err != nil {
		return fault.In("look at the imported user", err)
	}
	if s.Major() < 16 && !inherits {
		return fault.New(fault.Conflict, "the imported user %s is NOINHERIT and would lose what it owns: ALTER ROLE %s INHERIT first", quoted(r.name()), quoted(r.name()))
	}
	member, err := isMember(ctx, s, r.group(), r.name())
	if err != nil || member {
		return err
	}
	return fault.In("make the imported user a member of the group", grantGroup(ctx, s, r.group(), r.name()))
}

// leaveImported hands over what an imported user that stays made since its successor
// took over.
func (r *retirement) leaveImported(ctx context.Context) error {
	if !r.options.AdoptOwnership {
		return nil
	}
	return r.connection.DB.WithLock(ctx, func(ctx context.Context, s *postgres.Session) error {
		u, err := r.own(ctx, s)
		if err != nil || !u.exists {
			return err
		}
		return r.everywhere(ctx, s, u, r.handToGroup)
	})
}
