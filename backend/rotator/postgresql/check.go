package postgresql

import (
	"context"
	"fmt"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// Check implements rotator.ConnectionKind. It does not deduce what the
// administrator may do but tries it, in a transaction that is rolled back: a user
// is made, marked, given each allowed group and made to hand over its objects.
func (*ConnectionKind) Check(ctx context.Context, conn rotator.Connection) ([]rotator.Line, error) {
	c, err := own(conn)
	if err != nil {
		return nil, err
	}
	lines, err := c.check(ctx)
	return append(lines, c.replicaLines(ctx)...), err
}

func (c *Connection) check(ctx context.Context) ([]rotator.Line, error) {
	if err := c.DB.Ping(ctx); err != nil {
		return []rotator.Line{failed("login", err)}, nil
	}
	lines := []rotator.Line{passed("login", "the server accepts the connection's user")}
	err := c.DB.Trial(ctx, func(ctx context.Context, s *postgres.Session) error {
		k := &checker{s: s, connection: c, user: "vault_rotation_check_" + random(lowerAlphabet, randomPart)}
		err := k.run(ctx)
		lines = append(lines[:1], k.lines...)
		return err
	})
	return lines, err
}

type checker struct {
	s          *postgres.Session
	connection *Connection
	user       string
	lines      []rotator.Line
}

// attempt runs one trial; a refusal by the server is a line, and only a lost
// server an error.
func (k *checker) attempt(check, detail string, do func() error) (ok bool, err error) {
	err = do()
	switch {
	case err == nil:
		k.lines = append(k.lines, passed(check, detail))
		return true, nil
	case fault.Is(err, fault.Target), fault.Is(err, fault.Invalid):
		k.lines = append(k.lines, failed(check, err))
		return false, nil
	}
	return false, err
}

// undone is attempt under a savepoint that is always rolled back.
func (k *checker) undone(ctx context.Context, check, detail string, do func() error) error {
	_, err := k.attempt(check, detail, func() error { return k.s.Attempt(ctx, do) })
	return err
}

func (k *checker) run(ctx context.Context) error {
	if err := k.s.Exec(ctx, "SAVEPOINT before_create"); err != nil {
		return err
	}
	created, err := k.attempt("create", "may create login roles"+k.era("by CREATEROLE", "by CREATEROLE; their creator has ADMIN on them"), func() error {
		return k.s.Exec(ctx, "CREATE ROLE "+postgres.Ident(k.user)+" LOGIN CONNECTION LIMIT 1")
	})
	if err != nil {
		return err
	}
	if !created {
		// The rest needs a user to try with.
		return k.s.Exec(ctx, "ROLLBACK TO SAVEPOINT before_create")
	}
	for _, step := range []func(context.Context) error{k.comment, k.groups, k.terminate, k.statistics, k.databases} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// era says which rules of the two eras of role administration apply.
func (k *checker) era(before, since string) string {
	if k.s.Major() >= 16 {
		return fmt.Sprintf(" (PostgreSQL %d: %s)", k.s.Major(), since)
	}
	return fmt.Sprintf(" (PostgreSQL %d: %s)", k.s.Major(), before)
}

func (k *checker) comment(ctx context.Context) error {
	return k.undone(ctx, "comment", "may mark users with a comment"+k.era("by CREATEROLE", "by ADMIN on its own users"), func() error {
		return k.s.Exec(ctx, "COMMENT ON ROLE "+postgres.Ident(k.user)+" IS 'check'")
	})
}

func (k *checker) groups(ctx context.Context) error {
	groups := k.connection.options.AllowedGroups
	if len(groups) == 0 {
		k.lines = append(k.lines, rotator.Line{
			Check: "grant", Result: rotator.Warn,
			Detail: "allowed_groups is not set: roles may name any group without an administrator's power; whether it can be granted shows in each role's preflight",
		})
	}
	for _, group := range groups {
		name := quoted(group)
		err := k.undone(ctx, "grant "+group, "may grant "+name+k.era("by CREATEROLE", "by ADMIN on the group"), func() error {
			if err := checkGroup(ctx, k.s, group, k.connection.options); err != nil {
				return err
			}
			if err := grantGroup(ctx, k.s, group, k.user); err != nil {
				return err
			}
			return setSetting(ctx, k.s, k.user, "role", []string{group})
		})
		if err != nil {
			return err
		}
		err = k.undone(ctx, "reassign "+group, "may hand objects to "+name+k.era("by making itself a member", "by granting itself INHERIT and SET"), func() error {
			for _, role := range []string{k.user, group} {
				if _, err := adopt(ctx, k.s, role); err != nil {
					return err
				}
			}
			return k.s.Exec(ctx, "REASSIGN OWNED BY "+postgres.Ident(k.user)+" TO "+postgres.Ident(group))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (k *checker) terminate(ctx context.Context) error {
	return k.undone(ctx, "terminate", "may end the sessions of its users"+k.era("by making itself a member", "by granting itself INHERIT"), func() error {
		if _, err := adopt(ctx, k.s, k.user); err != nil {
			return err
		}
		var may bool
		if _, err := k.s.Row(ctx, "SELECT pg_has_role($1, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE')", []any{k.user}, &may); err != nil {
			return err
		}
		if !may {
			return fault.New(fault.Target, "the connection's user does not inherit the rights of its roles: ALTER ROLE %s INHERIT, or grant it pg_signal_backend", quoted(k.connection.DB.Username()))
		}
		return nil
	})
}

func (k *checker) statistics(ctx context.Context) error {
	var may bool
	if _, err := k.s.Row(ctx, "SELECT pg_has_role('pg_read_all_stats', 'USAGE')", nil, &may); err != nil {
		return err
	}
	line := passed("statistics", "may see where sessions come from")
	if !may {
		line.Result, line.Detail = rotator.Warn, "lacks pg_read_all_stats: status will name who uses an old credential without the client's address"
	}
	k.lines = append(k.lines, line)
	return nil
}

// databases tells where the administrator may not connect: what a user owns there
// could not be handed over, and the user would stay, disabled.
func (k *checker) databases(ctx context.Context) error {
	const query = `SELECT datname::text FROM pg_database
		WHERE NOT datistemplate AND (NOT datallowconn OR NOT has_database_privilege(oid, 'CONNECT')) ORDER BY 1 LIMIT 20`
	var closed []string
	err := k.s.Each(ctx, query, nil, func(scan func(...any) error) error {
		var name string
		if err := scan(&name); err != nil {
			return err
		}
		closed = append(closed, quoted(name))
		return nil
	})
	if err != nil {
		return err
	}
	line := passed("connect", "may connect to every database; what pg_hba.conf says is not known here")
	if len(closed) > 0 {
		line.Result = rotator.Warn
		line.Detail = "may not connect to " + strings.Join(closed, ", ") + ": a user that owns something there will stay, disabled"
	}
	k.lines = append(k.lines, line)
	return nil
}
