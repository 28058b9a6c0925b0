package postgresql

import (
	"context"
	"fmt"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// Preflight implements rotator.Preflighter: it looks, and changes nothing.
func (*Rotator) Preflight(ctx context.Context, t *rotator.Target) ([]rotator.Line, error) {
	connection, err := open(t)
	if err != nil {
		return nil, err
	}
	options, err := decodeRole(t.Role)
	if err != nil {
		return nil, err
	}
	if err := connection.DB.Ping(ctx); err != nil {
		return []rotator.Line{failed("target", err)}, nil
	}
	lines := []rotator.Line{passed("target", "PostgreSQL answers and accepts the connection's own user")}
	err = connection.DB.Read(ctx, func(ctx context.Context, s *postgres.Session) error {
		if len(options.Settings) > 0 {
			line, err := options.lookSettings(ctx, s, connection.options)
			if err != nil {
				return err
			}
			lines = append(lines, line)
		}
		for _, look := range []func(context.Context, *postgres.Session, *rotator.Target, *roleOptions, *connectionOptions) (rotator.Line, error){
			lookUsers, lookGroup,
		} {
			line, err := look(ctx, s, t, options, connection.options)
			if err != nil {
				return err
			}
			lines = append(lines, line)
		}
		return nil
	})
	if err != nil {
		return lines, err
	}
	lines, err = lookRights(ctx, t, options, lines)
	return append(lines, connection.replicaWarnings(ctx)...), err
}

// lookUsers finds out whether the next user can be made, or changed where it stands.
func lookUsers(ctx context.Context, s *postgres.Session, t *rotator.Target, o *roleOptions, _ *connectionOptions) (rotator.Line, error) {
	line, err := lookCreate(ctx, s)
	if err != nil || line.Result == rotator.Fail {
		return line, err
	}
	for _, name := range o.standingNames() {
		u, err := readUser(ctx, s, t.MarkKey, name)
		if err != nil {
			return rotator.Line{}, err
		}
		if reason := o.standingRefused(u, t); reason != "" {
			return rotator.Line{Check: "users", Result: rotator.Fail, Detail: fmt.Sprintf("the user %s %s", quoted(name), reason)}, nil
		}
		if !u.exists || s.Major() < 16 {
			continue
		}
		may := false
		const query = "SELECT rolsuper OR pg_has_role($1, 'MEMBER WITH ADMIN OPTION') FROM pg_roles WHERE rolname = current_user"
		if _, err := s.Row(ctx, query, []any{name}, &may); err != nil {
			return rotator.Line{}, in("look at the users", err)
		}
		if !may {
			return rotator.Line{Check: "users", Result: rotator.Fail, Detail: fmt.Sprintf(
				"the connection's user lacks ADMIN on %s, which PostgreSQL 16 and later require to change it: GRANT %s TO <user> WITH ADMIN TRUE, INHERIT FALSE, SET FALSE", quoted(name), quoted(name))}, nil
		}
	}
	return line, nil
}

// standingRefused says why a standing user could not be used; a new role may still
// bring the password of one that is not ours.
func (o *roleOptions) standingRefused(u user, t *rotator.Target) string {
	switch {
	case !u.exists && o.MemberOf == "" && len(o.CreationStatements) == 0:
		return "does not exist, and without member_of it is not known what it would be: make it, or name its group"
	case !u.exists, u.foreign == unmarked && t.Current == nil && len(t.Others) == 0:
		return ""
	case u.foreign != "":
		return "exists, but " + u.foreign
	case u.mark.Role != t.Role.Name:
		return fmt.Sprintf("belongs to the role %q", u.mark.Role)
	}
	return ""
}

func lookGroup(ctx context.Context, s *postgres.Session, _ *rotator.Target, o *roleOptions, c *connectionOptions) (rotator.Line, error) {
	if o.MemberOf == "" {
		return passed("group", "none: the users have what they need, or creation_statements give it"), nil
	}
	if err := checkGroup(ctx, s, o.MemberOf, c); err != nil {
		return failed("group", err), nil
	}
	members := len(o.standingNames()) > 0
	for _, name := range o.standingNames() {
		member, err := isMember(ctx, s, o.MemberOf, name)
		if err != nil {
			return rotator.Line{}, err
		}
		members = members && member
	}
	if members {
		return passed("group", fmt.Sprintf("the users are members of %s", quoted(o.MemberOf))), nil
	}
	return lookGrant(ctx, s, o.MemberOf)
}

// lookRights adds what an imported user may use and its successor may not.
func lookRights(ctx context.Context, t *rotator.Target, o *roleOptions, lines []rotator.Line) ([]rotator.Line, error) {
	predecessor, err := importedPredecessor(t)
	if predecessor == nil || err != nil {
		return lines, err
	}
	successor := o.MemberOf
	if successor == "" && o.Strategy == alternate {
		successor, err = o.nextName(t)
	}
	if err != nil || successor == "" || o.AdoptOwnership {
		return lines, err // it will be seen once the candidate exists
	}
	missing, err := compareRights(ctx, t, successor)
	switch {
	case fault.Is(err, fault.Conflict):
		return append(lines, failed("rights", err)), nil
	case err != nil:
		return lines, err
	case len(missing) > 0:
		return append(lines, failed("rights", lackingError(predecessor.Identifier, successor, missing, o.AdoptOwnership))), nil
	}
	return append(lines, passed("rights", fmt.Sprintf("%s may use what the imported user %s may", quoted(successor), quoted(predecessor.Identifier)))), nil
}

func lookCreate(ctx context.Context, s *postgres.Session) (rotator.Line, error) {
	var may bool
	_, err := s.Row(ctx, "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user", nil, &may)
	if err != nil || may {
		return passed("create", "the connection's user may create roles"), in("look at the connection's own user", err)
	}
	return rotator.Line{Check: "create", Result: rotator.Fail, Detail: "the connection's user lacks CREATEROLE"}, nil
}

// lookGrant finds out whether the group can be given away: with CREATEROLE up to
// PostgreSQL 15, with ADMIN on the group from 16 on.
func lookGrant(ctx context.Context, s *postgres.Session, group string) (rotator.Line, error) {
	query := "SELECT true WHERE $1 <> ''"
	if s.Major() >= 16 {
		query = "SELECT rolsuper OR pg_has_role($1, 'MEMBER WITH ADMIN OPTION') FROM pg_roles WHERE rolname = current_user"
	}
	var may bool
	if _, err := s.Row(ctx, query, []any{group}, &may); err != nil {
		return rotator.Line{}, in("look at the group", err)
	}
	if !may {
		return rotator.Line{Check: "group", Result: rotator.Fail, Detail: fmt.Sprintf(
			"the connection's user lacks ADMIN on the group, which PostgreSQL 16 and later require: GRANT %s TO <user> WITH ADMIN TRUE", quoted(group))}, nil
	}
	return passed("group", fmt.Sprintf("%s exists and can be granted", quoted(group))), nil
}

func passed(check, detail string) rotator.Line {
	return rotator.Line{Check: check, Result: rotator.Pass, Detail: detail}
}

func failed(check string, err error) rotator.Line {
	return rotator.Line{Check: check, Result: rotator.Fail, Detail: err.Error()}
}
