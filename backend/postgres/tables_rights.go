package postgres

import (
	"context"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// powersQuery tells whether the session's user may do more than others, by itself or as a
// role that it may become.
const powersQuery = `
SELECT session_user::text, EXISTS (SELECT FROM pg_roles r WHERE pg_has_role(session_user, r.oid, 'MEMBER')
	AND (r.rolsuper OR r.rolcreaterole OR r.rolbypassrls OR r.rolreplication
		OR r.rolname IN ('pg_execute_server_program', 'pg_write_server_files', 'pg_read_server_files')))`

// codeQuery looks for what an UPDATE of the columns runs, on a table and its partitions, by
// functions of others who are no superusers. What triggers, constraints, indexes and
// generated columns use is listed as what they depend on; the server's own functions are
// not. Copies of a parent's triggers count as internal up to PostgreSQL 14.
const codeQuery = `
WITH rel AS (SELECT $1::oid AS oid UNION SELECT relid FROM pg_partition_tree($1)),
used AS (
	SELECT 'trigger' AS what, tg.tgname AS name, 'pg_trigger'::regclass AS class, tg.oid AS object
	FROM pg_trigger tg WHERE tg.tgrelid IN (SELECT oid FROM rel) AND (NOT tg.tgisinternal OR tg.tgparentid <> 0)
		AND tg.tgenabled IN ('O', 'A') AND tg.tgtype & 16 <> 0
		AND (tg.tgattr::text = '' OR EXISTS (SELECT FROM pg_attribute a
			WHERE a.attrelid = tg.tgrelid AND a.attnum = ANY (tg.tgattr) AND a.attname = ANY ($2::text[])))
	UNION ALL
	SELECT 'constraint', co.conname, 'pg_constraint'::regclass, co.oid FROM pg_constraint co WHERE co.contype = 'c' AND co.conrelid IN (SELECT oid FROM rel)
	UNION ALL
	SELECT 'constraint', co.conname, 'pg_constraint'::regclass, co.oid FROM pg_constraint co
	WHERE co.contype = 'c' AND co.contypid IN (
		WITH RECURSIVE types AS (
			SELECT a.atttypid AS oid FROM pg_attribute a WHERE a.attrelid IN (SELECT oid FROM rel) AND a.attnum > 0 AND NOT a.attisdropped
			UNION SELECT t.typbasetype FROM types JOIN pg_type t ON t.oid = types.oid WHERE t.typtype = 'd'
		) SELECT oid FROM types)
	UNION ALL
	SELECT 'index', c.relname, 'pg_class'::regclass, i.indexrelid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid IN (SELECT oid FROM rel)
	UNION ALL
	SELECT 'generated column', a.attname, 'pg_attrdef'::regclass, d.oid
	FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum WHERE d.adrelid IN (SELECT oid FROM rel) AND a.attgenerated <> ''
	UNION ALL -- up to PostgreSQL 14 the column itself depends on them, and not its expression
	SELECT 'generated column', a.attname, 'pg_class'::regclass, a.attrelid
	FROM pg_attribute a WHERE a.attrelid IN (SELECT oid FROM rel) AND a.attnum > 0 AND a.attgenerated <> ''
),
functions AS (
	SELECT u.what, u.name, CASE d.refclassid WHEN 'pg_proc'::regclass THEN d.refobjid WHEN 'pg_operator'::regclass THEN o.oprcode ELSE m.amproc END AS oid
	FROM used u JOIN pg_depend d ON d.classid = u.class AND d.objid = u.object
		LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
		LEFT JOIN pg_opclass c ON d.refclassid = 'pg_opclass'::regclass AND c.oid = d.refobjid
		LEFT JOIN pg_amproc m ON m.amprocfamily = c.opcfamily
	WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_opclass'::regclass)
)
SELECT f.what, f.name::text, r.rolname::text
FROM functions f JOIN pg_proc p ON p.oid = f.oid JOIN pg_roles r ON r.oid = p.proowner
WHERE NOT r.rolsuper AND r.rolname <> session_user
ORDER BY f.what DESC, f.name LIMIT 1`

// code refuses a table that runs what somebody else wrote where the connection's user may
// do more than that somebody. It may come later; with a user who may do nothing, nothing
// comes of it.
func (o *opening) code(ctx context.Context) error {
	var user, what, name, owner string
	var powerful bool
	if _, err := o.s.Row(ctx, powersQuery, nil, &user, &powerful); err != nil {
		return in("look at the rights of the connection's user", err)
	}
	if !powerful {
		return nil
	}
	found, err := o.s.Row(ctx, codeQuery, []any{o.table.oid, o.target.Columns}, &what, &name, &owner)
	if err != nil {
		return in("look at what the table runs", err)
	}
	if found {
		return fault.Field("table", "has the %s %s, whose code, of %s, would run with the rights of %s, which are more than its owner's: use a connection whose user may do nothing but SELECT and UPDATE",
			what, Ident(name), Ident(owner), Ident(user))
	}
	return nil
}
