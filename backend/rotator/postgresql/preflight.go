package postgresql

import (
	"cmp"
	"context"
	"fmt"
	"slices"

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
	if err := connection.DB.Alive(ctx); err != nil {
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
		users, err := lookUsers(ctx, s, t, options)
		if err != nil {
			return err
		}
		group, err := lookGroup(ctx, s, options, connection.options)
		if err != nil {
			return err
		}
		lines = append(lines, users, group)
		return nil
	})
	if err != nil {
		return lines, err
	}
	rights, err := lookRights(ctx, t, options)
	return append(append(lines, rights...), connection.replicaWarnings(ctx)...), err
}

// lookUsers finds out whether the next user can be made, or changed where it stands.
func lookUsers(ctx context.Context, s *postgres.Session, t *rotator.Target, o *roleOptions) (rotator.Line, error) {
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
	}
	// One that is taken over is changed when its version ends.
	for _, name := range append(slices.Clone(o.standingNames()), o.Username) {
		if refused, err := lookAdmin(ctx, s, name); refused != nil || err != nil {
			return *cmp.Or(refused, &rotator.Line{}), err
		}
	}
	return line, nil
}

// lookAdmin refuses a user that exists and that the administrator may not change; nil
// when there is nothing against it.
func lookAdmin(ctx context.Context, s *postgres.Session, name string) (*rotator.Line, error) {
	if s.Major() < 16 {
		return nil, nil // CREATEROLE is enough
	}
	may := true
	const query = "SELECT a.rolsuper OR pg_has_role(u.oid, 'MEMBER WITH ADMIN OPTION') FROM pg_roles a, pg_roles u WHERE a.rolname = current_user AND u.rolname = $1"
	if _, err := s.Row(ctx, query, []any{name}, &may); err != nil || may {
		return nil, fault.In("look at the users", err)
	}
	return &rotator.Line{Check: "users", Result: rotator.Fail, Detail: fmt.Sprintf(
		"the connection's user lacks ADMIN on %s, which PostgreSQL 16 and later require to change it: GRANT %s TO <user> WITH ADMIN TRUE, INHERIT FALSE, SET FALSE", quoted(name), quoted(name))}, nil
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

func lookGroup(ctx context.Context, s *postgres.Session, o *roleOptions, c *connectionOptions) (rotator.Line, error) {
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

func lookCreate(ctx context.Context, s *postgres.Session) (rotator.Line, error) {
	var may bool
	_, err := s.Row(ctx, "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user", nil, &may)
	if err != nil || may {
		return passed("create", "the connection's user may create roles"), fault.In("look at the connection's own user", err)
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
		return rotator.Line{}, fault.In("look at the group", err)
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
