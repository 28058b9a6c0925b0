package postgresql

import (
	"context"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
)

// predefinedPrefix begins the names of PostgreSQL's own roles.
const predefinedPrefix = "pg_"

// reachQuery lists every role whose power a member of a group has, or could take:
// the group itself and all it is a member of, directly or not, with whatever
// options: a membership without INHERIT and SET still gives ADMIN.
const reachQuery = `
WITH RECURSIVE reach(oid) AS (
	SELECT oid FROM pg_roles WHERE rolname = $1
	UNION
	SELECT m.roleid FROM pg_auth_members m JOIN reach ON m.member = reach.oid
)
SELECT r.rolname::text, r.rolcanlogin, r.rolsuper, r.rolcreaterole, r.rolreplication, r.rolbypassrls,
	r.rolname = current_user OR r.rolname = session_user
FROM reach JOIN pg_roles r USING (oid) ORDER BY r.rolname <> $1, r.rolname`

// checkGroup refuses a group that would give a role's writer the power of an
// administrator. Errors are Invalid and name member_of.
func checkGroup(ctx context.Context, s *postgres.Session, group string, c *connectionOptions) error {
	if err := checkGroupName(group, c); err != nil {
		return err
	}
	found := false
	err := s.Each(ctx, reachQuery, []any{group}, func(scan func(...any) error) error {
		var name string
		var login, super, createRole, replication, bypass, own bool
		if err := scan(&name, &login, &super, &createRole, &replication, &bypass, &own); err != nil {
			return err
		}
		via := ""
		if name != group {
			via = "through membership in " + quoted(name) + ", "
		}
		found = true
		for _, power := range []struct {
			has  bool
			what string
		}{
			{super, "is a superuser"},
			{own, "has the power of the connection's own user"},
			{createRole, "may create roles (CREATEROLE)"},
			{replication, "may replicate (REPLICATION)"},
			{bypass, "bypasses row security (BYPASSRLS)"},
			{len(name) >= len(predefinedPrefix) && name[:len(predefinedPrefix)] == predefinedPrefix, "is a predefined role of PostgreSQL"},
			{login && name == group && len(c.AllowedGroups) == 0, "is a login role, not a group; where that is meant, name it in the connection's allowed_groups"},
		} {
			if power.has {
				return fault.Field("member_of", "the group %s must not be used: %sit %s", quoted(group), via, power.what)
			}
		}
		return nil
	})
	if err == nil && !found {
		return fault.Field("member_of", "there is no role %s in the cluster", quoted(group))
	}
	return err
}
