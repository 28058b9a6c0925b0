package postgresql

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// An imported user was given its rights by hand. Before its first successor takes
// over, whatever it may use has to be usable by the successor too.

// reachByInheritance are the roles whose rights a role has without further ado.
const reachByInheritance = `
WITH RECURSIVE reach(oid) AS (
	SELECT oid FROM pg_roles WHERE rolname = $2
	UNION
	SELECT m.roleid FROM pg_auth_members m JOIN reach ON m.member = reach.oid %s
),
old AS (SELECT oid FROM pg_roles WHERE rolname = $1),
held AS (
	SELECT s.* FROM pg_shdepend s, old WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = old.oid
		AND (s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) OR s.dbid = 0 AND %t)
)`

// lacking are queries for what $1 may use here and $2 may not, each a list of
// descriptions. What is held comes from pg_shdepend, in all classes that there are
// or will be; whether it is given to others too, from each class's own list.
var lacking = []string{
	// What it owns. Default privileges and user mappings are nobody's property.
	`SELECT pg_describe_object(h.classid, h.objid, h.objsubid) || ' (owner)' FROM held h, old
	WHERE h.deptype = 'o' AND h.classid NOT IN ('pg_default_acl'::regclass, 'pg_user_mapping'::regclass) AND old.oid NOT IN (SELECT oid FROM reach)`,
	// What was granted to it. A right to a table is one to its columns.
	`, acls(classid, objid, objsubid, owner, own, effective) AS (
		SELECT 'pg_class'::regclass::oid, oid, 0, relowner, relacl, relacl FROM pg_class
		UNION ALL SELECT 'pg_class'::regclass, a.attrelid, a.attnum, c.relowner, a.attacl, a.attacl || c.relacl FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE a.attacl IS NOT NULL
		UNION ALL SELECT 'pg_proc'::regclass, oid, 0, proowner, proacl, proacl FROM pg_proc
		UNION ALL SELECT 'pg_namespace'::regclass, oid, 0, nspowner, nspacl, nspacl FROM pg_namespace
		UNION ALL SELECT 'pg_type'::regclass, oid, 0, typowner, typacl, typacl FROM pg_type
		UNION ALL SELECT 'pg_language'::regclass, oid, 0, lanowner, lanacl, lanacl FROM pg_language
		UNION ALL SELECT 'pg_foreign_server'::regclass, oid, 0, srvowner, srvacl, srvacl FROM pg_foreign_server
		UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid, 0, fdwowner, fdwacl, fdwacl FROM pg_foreign_data_wrapper
		UNION ALL SELECT 'pg_largeobject'::regclass, oid, 0, lomowner, lomacl, lomacl FROM pg_largeobject_metadata
		UNION ALL SELECT 'pg_database'::regclass, oid, 0, datdba, datacl, datacl FROM pg_database
		UNION ALL SELECT 'pg_tablespace'::regclass, oid, 0, spcowner, spcacl, spcacl FROM pg_tablespace
	)
	SELECT pg_describe_object(h.classid, h.objid, h.objsubid) || ' (' || string_agg(DISTINCT g.privilege_type, ', ') || ')'
	FROM old, held h JOIN acls a USING (classid, objid, objsubid) CROSS JOIN aclexplode(a.own) g
	WHERE h.deptype = 'a' AND g.grantee = old.oid AND a.owner NOT IN (SELECT oid FROM reach)
		AND NOT EXISTS (SELECT FROM aclexplode(a.effective) e WHERE e.privilege_type = g.privilege_type AND (e.grantee = 0 OR e.grantee IN (SELECT oid FROM reach)))
	GROUP BY h.classid, h.objid, h.objsubid`,
	// What row security shows to it alone.
	`SELECT pg_describe_object(h.classid, h.objid, h.objsubid) FROM held h JOIN pg_policy p ON p.oid = h.objid AND h.classid = 'pg_policy'::regclass
	WHERE h.deptype = 'r' AND NOT p.polroles && (SELECT array_agg(oid) FROM reach)`,
	// Remote servers that know it alone.
	`SELECT 'user mapping on server ' || quote_ident(u.srvname) FROM old JOIN pg_user_mappings u ON u.umuser = old.oid
	WHERE NOT EXISTS (SELECT FROM pg_user_mappings o WHERE o.srvid = u.srvid AND (o.umuser = 0 OR o.umuser = (SELECT oid FROM pg_roles WHERE rolname = $2)))`,
	// What others get of the objects that it makes.
	`SELECT 'default privileges for ' || CASE d.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions' WHEN 'T' THEN 'types' WHEN 'n' THEN 'schemas' ELSE d.defaclobjtype::text END
		|| coalesce(' in schema ' || quote_ident(n.nspname), '') || ' (' || g.privilege_type || ' to ' || coalesce(quote_ident(pg_get_userbyid(nullif(g.grantee, 0))), 'PUBLIC') || ')'
	FROM old JOIN pg_default_acl d ON d.defaclrole = old.oid LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace CROSS JOIN aclexplode(d.defaclacl) g
	WHERE g.grantee <> old.oid AND g.grantee NOT IN (SELECT oid FROM reach) AND NOT EXISTS (
		SELECT FROM pg_default_acl o CROSS JOIN aclexplode(o.defaclacl) e WHERE o.defaclrole = (SELECT oid FROM pg_roles WHERE rolname = $2)
			AND o.defaclobjtype = d.defaclobjtype AND o.defaclnamespace = d.defaclnamespace AND e.grantee = g.grantee AND e.privilege_type = g.privilege_type)`,
}

// lackingMembership is what it reaches through other roles, everywhere.
const lackingMembership = `SELECT 'membership in ' || quote_ident(g.rolname) FROM old JOIN pg_auth_members m ON m.member = old.oid JOIN pg_roles g ON g.oid = m.roleid
	WHERE g.oid NOT IN (SELECT oid FROM reach)`

// maxLacking bounds what is listed of each database and sort.
const maxLacking = 20

// importedPredecessor is the imported version that a candidate is to succeed, nil
// for none: later successors have what the first one had.
func importedPredecessor(t *rotator.Target) (*rotation.Version, error) {
	for i := range t.Others {
		v := &t.Others[i]
		if v.State != rotation.Current || v.Identifier == t.Version.Identifier {
			continue
		}
		o, err := objectOf(v)
		if err != nil || len(o.Imported) == 0 {
			return nil, err
		}
		return v, nil
	}
	return nil, nil
}

// comparison is between an imported user and what its successor acts as.
type comparison struct {
	retirement *retirement
	successor  string
}

// compareRights lists what an imported predecessor may use, and a successor that
// acts as a role may not.
func compareRights(ctx context.Context, t *rotator.Target, successor string) (missing []string, err error) {
	predecessor, err := importedPredecessor(t)
	if predecessor == nil || err != nil || successor == "" {
		return nil, err
	}
	r, err := retirementOf(t, predecessor)
	if err != nil {
		return nil, err
	}
	c := &comparison{retirement: r, successor: successor}
	err = r.connection.DB.Read(ctx, func(ctx context.Context, s *postgres.Session) error {
		u, err := r.own(ctx, s)
		if err != nil || !u.exists {
			return err
		}
		databases, err := r.databases(ctx, s, u)
		if err != nil {
			return err
		}
		if missing, err = c.here(ctx, s, append(slices.Clone(lacking), lackingMembership), true); err != nil {
			return err
		}
		for _, d := range databases {
			err := r.inDatabase(ctx, d, func(ctx context.Context, s *postgres.Session) error {
				more, err := c.here(ctx, s, lacking, false)
				for _, one := range more {
					missing = append(missing, one+" in database "+quoted(d.name))
				}
				return err
			})
			if err != nil {
				return plain(err)
			}
		}
		return nil
	})
	return missing, in("compare the rights of the imported user with its successor's", err)
}

// retirementOf is about another version of a target.
func retirementOf(t *rotator.Target, v *rotation.Version) (*retirement, error) {
	other := *t
	other.Version, other.Material = *v, nil
	return newRetirement(&other)
}

// plain makes a fault of what would put off a retirement.
func plain(err error) error {
	switch err.(type) { //nolint:errorlint // made by us, never wrapped
	case *leftError, *notYetError:
		return fault.New(fault.Conflict, "%w", err)
	}
	return err
}

// here compares in the session's database and, if asked to, what all databases share.
func (c *comparison) here(ctx context.Context, s *postgres.Session, queries []string, shared bool) (missing []string, err error) {
	inherits := ""
	if s.Major() >= 16 {
		inherits = "AND m.inherit_option"
	}
	for _, query := range queries {
		sql := fmt.Sprintf(reachByInheritance, inherits, shared) + "\n" + query + fmt.Sprintf(" LIMIT %d", maxLacking)
		err := s.Each(ctx, sql, []any{c.retirement.name(), c.successor}, func(scan func(...any) error) error {
			var one string
			if err := scan(&one); err != nil {
				return err
			}
			missing = append(missing, one)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return missing, nil
}

// lackingError says what a successor could not use, and how to mend it.
func lackingError(imported, successor string, missing []string, adopts bool) error {
	const most = 8
	listed := missing[:min(len(missing), most)]
	text := strings.Join(listed, "; ")
	if more := len(missing) - len(listed); more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	hint := "grant it to " + quoted(successor)
	if !adopts {
		hint += ", or hand over what is owned with adopt_ownership=true"
	}
	return fault.New(fault.Conflict, "%s would lose what the imported user %s may use: %s: %s", quoted(successor), quoted(imported), text, hint)
}

// checkRights fails a candidate that could not use what its imported predecessor can.
func checkRights(ctx context.Context, t *rotator.Target, o object, adopts bool) error {
	successor := o.Group
	if successor == "" {
		successor = t.Version.Identifier
	}
	missing, err := compareRights(ctx, t, successor)
	if err != nil || len(missing) == 0 {
		return err
	}
	predecessor, err := importedPredecessor(t)
	if err != nil {
		return err
	}
	return lackingError(predecessor.Identifier, successor, missing, adopts)
}

// adoptOwnership hands what an imported predecessor owns to the group, and makes
// it a member there, so that both work from the same commit on: one in each
// database that holds something of it.
func (p *prepareRun) adoptOwnership(ctx context.Context, s *postgres.Session) error {
	predecessor, err := importedPredecessor(p.target)
	if predecessor == nil || err != nil || !p.options.AdoptOwnership {
		return err
	}
	r, err := retirementOf(p.target, predecessor)
	if err != nil {
		return err
	}
	u, err := r.own(ctx, s)
	if err != nil || !u.exists {
		return err
	}
	databases, err := r.databases(ctx, s, u)
	if err != nil {
		return err
	}
	for _, d := range databases {
		if !d.owned {
			continue
		}
		if err := r.inDatabase(ctx, d, r.handToGroup); err != nil {
			return in("adopt_ownership", plain(err))
		}
	}
	return in("adopt_ownership", plain(r.handToGroup(ctx, s)))
}

// handToGroup hands over what the user owns here, and what it owns goes on being
// its own through the group.
func (r *retirement) handToGroup(ctx context.Context, s *postgres.Session) error {
	owned, err := r.countOwned(ctx, s)
	if err != nil || owned == 0 {
		return err
	}
	member, err := isMember(ctx, s, r.group(), r.name())
	if err == nil && !member {
		err = in("make the imported user a member of the group", grantGroup(ctx, s, r.group(), r.name()))
	}
	if err != nil {
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
