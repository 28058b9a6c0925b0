package postgresql

import (
	"context"
	"fmt"

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
		for _, look := range []func() (rotator.Line, error){
			func() (rotator.Line, error) { return lookCreate(ctx, s) },
			func() (rotator.Line, error) {
				if options.MemberOf == "" {
					return passed("group", "none: creation_statements say what a user may do"), nil
				}
				if err := checkGroup(ctx, s, options.MemberOf, connection.options); err != nil {
					return failed("group", err), nil
				}
				return lookGrant(ctx, s, options.MemberOf)
			},
		} {
			line, err := look()
			if err != nil {
				return err
			}
			lines = append(lines, line)
		}
		return nil
	})
	return lines, err
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
