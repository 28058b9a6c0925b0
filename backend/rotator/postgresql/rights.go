package postgresql

import (
	"context"
	"fmt"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// An imported user was given its rights by hand. Before its first successor takes
// over, whatever it may use has to be usable by the successor too.

// heldHere begins every query: reach are the roles whose rights $2 has without
// further ado, held is what the server notes of $1 in this database and, if asked to,
// in those objects that all databases share.
const heldHere = `
WITH RECURSIVE reach(oid) AS (
	SELECT oid FROM pg_roles WHERE rolname = $2
	UNION
	SELECT m.roleid FROM pg_auth_members m JOIN reach ON m.member = reach.oid JOIN pg_roles r ON r.oid = m.member WHERE %s
),
old AS (SELECT oid FROM pg_roles WHERE rolname = $1),
held AS (
	SELECT s.* FROM pg_shdepend s, old WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = old.oid
		AND (s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) OR s.dbid = 0 AND %t)
		AND ` + notTemporary + `
)
`

// lackingOwner lists what $1 owns here. Default privileges and user mappings are
// nobody's property.
const lackingOwner = `
SELECT pg_describe_object(h.classid, h.objid, h.objsubid) || ' (owner)' FROM held h, old
WHERE h.deptype = 'o' AND h.classid NOT IN ('pg_default_acl'::regclass, 'pg_user_mapping'::regclass) AND old.oid NOT IN (SELECT oid FROM reach)`

// lackingMembership lists what $1 reaches through other roles, everywhere.
const lackingMembership = `
SELECT 'membership in ' || quote_ident(g.rolname) FROM old JOIN pg_auth_members m ON m.member = old.oid JOIN pg_roles g ON g.oid = m.roleid
WHERE g.oid NOT IN (SELECT oid FROM reach)`

// aclsOf are the grants on all classes of objects that have any. A right to a table
// is one to its columns. %s takes those of later servers.
const aclsOf = `
, acls(classid, objid, objsubid, owner, own, effective) AS (
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
	UNION ALL SELECT 'pg_tablespace'::regclass, oid, 0, spcowner, spcacl, spcacl FROM pg_tablespace%s
)`

const parameterACLs = `
	UNION ALL SELECT 'pg_parameter_acl'::regclass, oid, 0, 10::oid, paracl, paracl FROM pg_parameter_acl`

// lackingGrants lists what was granted to $1, right by right.
const lackingGrants = aclsOf + `
SELECT pg_describe_object(h.classid, h.objid, h.objsubid) || ' (' || string_agg(DISTINCT g.privilege_type, ', ') || ')'
FROM old, held h JOIN acls a USING (classid, objid, objsubid) CROSS JOIN aclexplode(a.own) g
WHERE h.deptype = 'a' AND g.grantee = old.oid AND a.owner NOT IN (SELECT oid FROM reach)
	AND NOT EXISTS (SELECT FROM aclexplode(a.effective) e WHERE e.privilege_type = g.privilege_type AND (e.grantee = 0 OR e.grantee IN (SELECT oid FROM reach)))
GROUP BY h.classid, h.objid, h.objsubid
UNION ALL
SELECT pg_describe_object(h.classid, h.objid, h.objsubid) || ' (what was granted cannot be compared)' FROM held h
WHERE h.deptype = 'a' AND h.classid <> 'pg_default_acl'::regclass AND NOT EXISTS (SELECT FROM acls a WHERE a.classid = h.classid)`

// lacking are the further queries, each for one database.
var lacking = []string{
	// What row security shows to it alone.
	`SELECT pg_describe_object(h.classid, h.objid, h.objsubid) FROM held h JOIN pg_policy p ON p.oid = h.objid AND h.classid = 'pg_policy'::regclass
	WHERE h.deptype = 'r' AND NOT p.polroles && (SELECT array_agg(oid) FROM reach)`,
	// Remote servers that know it alone.
	`SELECT 'user mapping on server ' || quote_ident(u.srvname) FROM old JOIN pg_user_mappings u ON u.umuser = old.oid
	WHERE NOT EXISTS (SELECT FROM pg_user_mappings o WHERE o.srvid = u.srvid AND (o.umuser = 0 OR o.umuser = (SELECT oid FROM pg_roles WHERE rolname = $2)))`,
	// What others get of the objects that it will make.
	`SELECT 'default privileges for its ' || ` + kindOfDefault + ` || ' (' || g.privilege_type || ' to ' || ` + granteeOfDefault + ` || ')'
	FROM old JOIN pg_default_acl d ON d.defaclrole = old.oid LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace CROSS JOIN aclexplode(d.defaclacl) g
	WHERE g.grantee <> old.oid AND g.grantee NOT IN (SELECT oid FROM reach) AND NOT EXISTS (
		SELECT FROM pg_default_acl o CROSS JOIN aclexplode(o.defaclacl) e WHERE o.defaclrole = (SELECT oid FROM pg_roles WHERE rolname = $2)
			AND o.defaclobjtype = d.defaclobjtype AND o.defaclnamespace = d.defaclnamespace AND e.grantee = g.grantee AND e.privilege_type = g.privilege_type)`,
	// What it gets of the objects that others will make.
	`SELECT 'default privileges for ' || ` + kindOfDefault + ` || ' of ' || quote_ident(pg_get_userbyid(d.defaclrole)) || ' (' || g.privilege_type || ')'
	FROM old, pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace CROSS JOIN aclexplode(d.defaclacl) g
	WHERE g.grantee = old.oid AND d.defaclrole <> old.oid AND d.defaclrole NOT IN (SELECT oid FROM reach) AND NOT EXISTS (
		SELECT FROM aclexplode(d.defaclacl) e WHERE e.privilege_type = g.privilege_type AND (e.grantee = 0 OR e.grantee IN (SELECT oid FROM reach)))`,
}

const (
	kindOfDefault = `CASE d.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions' WHEN 'T' THEN 'types' WHEN 'n' THEN 'schemas' ELSE d.defaclobjtype::text END
		|| coalesce(' in schema ' || quote_ident(n.nspname), '')`
	granteeOfDefault = `CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END`
)

// maxLacking bounds what is read of each query.
const maxLacking = 100

// importedPredecessor is the imported version that a candidate is to succeed, nil
// for none: later successors have what the first one had.
func importedPredecessor(t *rotator.Target) (*rotation.Version, []importedUser, error) {
	current := currentOf(t)
	if current == nil {
		return nil, nil, nil
	}
	o, err := objectOf(current)
	if err != nil || len(o.Imported) == 0 {
		return nil, nil, err
	}
	return current, o.Imported, nil
}

// comparison is between one imported user and what its successor acts as.
type comparison struct {
	old, successor string
	adopts         bool // what is owned will be handed over
}

// missing is what one successor could not use.
type missing struct {
	comparison
	things []string
}

// compareRights lists what the imported predecessor may use and its successor may
// not. The successor acts as the group, or, without one, as itself; of two users that
// were taken over together each has to be able to do what the other can. One that does
// not exist yet is compared once it does.
func compareRights(ctx context.Context, t *rotator.Target, user, group string, adopts bool) (all []missing, err error) {
	predecessor, imported, err := importedPredecessor(t)
	if predecessor == nil || err != nil {
		return nil, err
	}
	for _, one := range imported {
		c := comparison{old: one.Name, successor: group, adopts: adopts}
		switch {
		case group != "":
		case one.Name != user:
			c.successor = user
		default:
			c.successor = predecessor.Identifier
		}
		things, err := c.run(ctx, t, predecessor)
		if err != nil {
			return nil, fault.In("compare the rights of the imported user with its successor's", err)
		}
		if len(things) > 0 {
			all = append(all, missing{c, things})
		}
	}
	return all, nil
}

// retirementOf is about another version of a target, at one of its users.
func retirementOf(t *rotator.Target, v *rotation.Version, user string) (*retirement, error) {
	other := *t
	other.Version, other.Material = *v, nil
	other.Version.Identifier = user
	return newRetirement(&other)
}

func (c *comparison) run(ctx context.Context, t *rotator.Target, predecessor *rotation.Version) (things []string, err error) {
	r, err := retirementOf(t, predecessor, c.old)
	if err != nil || c.successor == "" || c.successor == c.old {
		return nil, err
	}
	err = r.connection.DB.Read(ctx, func(ctx context.Context, s *postgres.Session) error {
		u, err := r.own(ctx, s)
		if err != nil || !u.exists {
			return err
		}
		if successor, err := readUser(ctx, s, t.MarkKey, c.successor); err != nil || !successor.exists {
			return err
		}
		databases, err := r.databases(ctx, s, u)
		if err != nil {
			return err
		}
		if things, err = c.here(ctx, s, true); err != nil {
			return err
		}
		for _, d := range databases {
			err := r.inDatabase(ctx, d, func(ctx context.Context, s *postgres.Session) error {
				more, err := c.here(ctx, s, false)
				for _, one := range more {
					things = append(things, one+" in database "+quoted(d.name))
				}
				return err
			})
			if err != nil {
				return plain(err)
			}
		}
		return nil
	})
	return things, err
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
func (c *comparison) here(ctx context.Context, s *postgres.Session, shared bool) (things []string, err error) {
	inherits, parameters := "r.rolinherit", ""
	if s.Major() >= 15 {
		parameters = parameterACLs
	}
	if s.Major() >= 16 {
		inherits = "m.inherit_option"
	}
	queries := append([]string{fmt.Sprintf(lackingGrants, parameters)}, lacking...)
	if !c.adopts {
		queries = append(queries, lackingOwner)
	}
	if shared {
		queries = append(queries, lackingMembership)
	}
	for _, query := range queries {
		sql := fmt.Sprintf(heldHere, inherits, shared) + query + fmt.Sprintf(" ORDER BY 1 LIMIT %d", maxLacking)
		err := s.Each(ctx, sql, []any{c.old, c.successor}, func(scan func(...any) error) error {
			var one string
			if err := scan(&one); err != nil {
				return err
			}
			things = append(things, one)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return things, nil
}

// sentence says what a successor could not use, and how to mend it.
func (m *missing) sentence(strategy string, most int) string {
	listed := m.things[:min(len(m.things), most)]
	text := fmt.Sprintf("%s would lose what the imported user %s may use: %s", quoted(m.successor), quoted(m.old), strings.Join(listed, "; "))
	if more := len(m.things) - len(listed); more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	text += ": grant it to " + quoted(m.successor)
	if !m.adopts && strategy != inPlace {
		text += ", or hand over what is owned with adopt_ownership=true"
	}
	return text
}

// Bounds of what is listed, where it is kept and where it is only answered.
const (
	fewLacking  = 8
	manyLacking = 50
)

// checkRights fails a candidate that could not use what its imported predecessor can.
func checkRights(ctx context.Context, t *rotator.Target, o object, options *roleOptions, adopts bool) error {
	all, err := compareRights(ctx, t, t.Version.Identifier, o.Group, adopts)
	if err != nil || len(all) == 0 {
		return err
	}
	return fault.New(fault.Conflict, "%s", all[0].sentence(options.Strategy, fewLacking))
}

// lookRights is the line of a preflight, for a role whose version is an imported one.
func lookRights(ctx context.Context, t *rotator.Target, o *roleOptions) ([]rotator.Line, error) {
	predecessor, _, err := importedPredecessor(t)
	if predecessor == nil || err != nil {
		return nil, err
	}
	user := ""
	if o.standing() {
		if user, err = o.nextName(t); err != nil {
			return nil, err
		}
	}
	all, err := compareRights(ctx, t, user, o.MemberOf, o.AdoptOwnership)
	switch {
	case fault.Is(err, fault.Conflict):
		return []rotator.Line{failed("rights", err)}, nil
	case err != nil:
		return nil, err
	}
	lines := []rotator.Line{passed("rights", "the successor may use what the imported user may, as far as it exists already")}
	for i := range all {
		lines = append(lines[:i], rotator.Line{Check: "rights", Result: rotator.Fail, Detail: all[i].sentence(o.Strategy, manyLacking)})
	}
	return lines, nil
}
