package postgresql

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

const (
	// reassignLockTimeout bounds the wait for a table: everybody else who wants
	// the table waits behind us.
	reassignLockTimeout = 2 * time.Second
	askAgainBusy        = time.Minute
	askAgainPrepared    = 5 * time.Minute
)

// leftError ends a destruction that a person has to finish; notYetError one that
// has to wait.
type (
	leftError   struct{ why string }
	notYetError struct {
		why   string
		after time.Duration
	}
)

// Error implements error.
func (e *leftError) Error() string { return e.why }

// Error implements error.
func (e *notYetError) Error() string { return e.why }

// destroy hands over what the user owns, database by database, and drops it. Any
// failure leaves the user disabled, and never drops an object.
func (r *retirement) destroy(ctx context.Context, p *rotator.Progress) error {
	err := r.connection.DB.WithLock(ctx, func(ctx context.Context, s *postgres.Session) error {
		u, err := r.own(ctx, s)
		if err != nil || !u.exists {
			return err
		}
		if err := r.noPreparedTransactions(ctx, s); err != nil {
			return err
		}
		if err := r.revoke(ctx); err != nil {
			return err
		}
		// The statements may have dropped it.
		if u, err = r.own(ctx, s); err != nil || !u.exists {
			return err
		}
		if err := r.everywhere(ctx, s, u, r.handOver); err != nil {
			return err
		}
		if err := r.nothingDepends(ctx, s, u); err != nil {
			return err
		}
		return fault.In("drop the user", s.Exec(ctx, "DROP ROLE "+postgres.Ident(r.name())))
	})
	return settle(err, p)
}

// settle turns what a person or time has to mend into progress.
func settle(err error, p *rotator.Progress) error {
	switch e := err.(type) { //nolint:errorlint // made above, never wrapped
	case *leftError:
		p.Left = "the user stays, disabled: " + e.why
		return nil
	case *notYetError:
		p.NotYet, p.AskAgain = "the user is disabled, but not removed yet: "+e.why, e.after
		return nil
	}
	switch {
	case errors.Is(err, postgres.ErrLockHeld):
		p.NotYet, p.AskAgain = "the user is disabled, but not removed yet: "+err.Error(), askAgainBusy
		return nil
	case left(err):
		p.Left = "the user stays, disabled: " + err.Error()
		return nil
	case postgres.TimedOut(err):
		p.NotYet, p.AskAgain = "the user is disabled, but what it owns is in use: "+err.Error(), askAgainBusy
		return nil
	}
	return err
}

func (r *retirement) noPreparedTransactions(ctx context.Context, s *postgres.Session) error {
	var n int
	_, err := s.Row(ctx, "SELECT count(*) FROM pg_prepared_xacts WHERE owner = $1", []any{r.name()}, &n)
	if err == nil && n > 0 {
		return &notYetError{fmt.Sprintf("%d prepared transactions of it wait for COMMIT PREPARED or ROLLBACK PREPARED", n), askAgainPrepared}
	}
	return fault.In("look for prepared transactions", err)
}

// database is one that holds something of the user.
type database struct {
	name  string
	open  bool
	owned bool
}

// pg_shdepend names, for every database, what belongs or is granted to a role.
const databasesQuery = `
SELECT d.datname::text, d.datallowconn, bool_or(s.deptype = 'o')
FROM pg_shdepend s JOIN pg_database d ON d.oid = s.dbid
WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = $1 AND d.datname <> current_database()
GROUP BY 1, 2 ORDER BY 1`

func (r *retirement) databases(ctx context.Context, s *postgres.Session, u user) (all []database, err error) {
	err = s.Each(ctx, databasesQuery, []any{u.oid}, func(scan func(...any) error) error {
		var d database
		if err := scan(&d.name, &d.open, &d.owned); err != nil {
			return err
		}
		all = append(all, d)
		return nil
	})
	return all, fault.In("look for what the user owns", err)
}

// inDatabase acts in one further database, in a transaction of its own there.
func (r *retirement) inDatabase(ctx context.Context, d database, do func(context.Context, *postgres.Session) error) error {
	if !d.open {
		return &leftError{fmt.Sprintf("the database %s admits nobody and holds something of it", quoted(d.name))}
	}
	entered := false
	err := r.connection.DB.InDatabase(ctx, d.name, reassignLockTimeout, func(ctx context.Context, s *postgres.Session) error {
		entered = true
		u, err := r.own(ctx, s)
		if err != nil || !u.exists {
			return err
		}
		return do(ctx, s)
	})
	switch code := postgres.Code(err); {
	case entered || err == nil:
		return err
	case code == postgres.CodeNoSuchDatabase:
		return &notYetError{fmt.Sprintf("the database %s went away", quoted(d.name)), time.Second}
	case code != "" && !fault.Is(err, fault.Unreachable):
		return &leftError{fmt.Sprintf("the database %s holds something of it and does not admit %s: %v",
			quoted(d.name), quoted(r.connection.DB.Username()), err)}
	}
	return err
}

// nothingDepends finds what only others can revoke: DROP OWNED removes no
// privilege that the administrator has no say in.
func (r *retirement) nothingDepends(ctx context.Context, s *postgres.Session, u user) error {
	const query = `SELECT coalesce(string_agg(DISTINCT coalesce(d.datname, '(shared objects)'), ', '), '')
		FROM pg_shdepend s LEFT JOIN pg_database d ON d.oid = s.dbid WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = $1`
	var where string
	if _, err := s.Row(ctx, query, []any{u.oid}, &where); err != nil {
		return fault.In("look for what depends on the user", err)
	}
	if where != "" {
		return &leftError{fmt.Sprintf("something was granted to it, and not to its group, that only a superuser can take back, in: %s; run DROP OWNED BY %s there as one",
			where, quoted(r.name()))}
	}
	return nil
}

// ownedHere counts what is owned in the current database or by all of them. Two
// classes cannot be handed over and hold no data: default privileges and user
// mappings.
const ownedHere = `
SELECT count(*) FROM pg_shdepend s
WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = (SELECT oid FROM pg_roles WHERE rolname = $1)
	AND s.deptype = 'o' AND s.dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
	AND s.classid NOT IN ('pg_default_acl'::regclass, 'pg_user_mapping'::regclass) AND ` + notTemporary

// notTemporary leaves out what ends with its session. PostgreSQL 13 notes what it is
// itself made of without a class, which no function can identify, and may ask of that
// too.
const notTemporary = `NOT EXISTS (SELECT FROM pg_identify_object(nullif(s.classid, 0::oid), s.objid, s.objsubid) o WHERE starts_with(o.schema, 'pg_temp'))`

// handOver gives what the user owns here to its group, then removes what was
// granted to it. DROP OWNED would drop what was not handed over, so it runs only
// once nothing is owned any more.
func (r *retirement) handOver(ctx context.Context, s *postgres.Session) error {
	owned, err := r.countOwned(ctx, s)
	if err != nil {
		return err
	}
	undoUser, err := adopt(ctx, s, r.name())
	if err != nil {
		return err
	}
	if owned > 0 {
		if err := r.reassignAll(ctx, s); err != nil {
			return err
		}
	}
	if err := fault.In("remove what was granted to the user", s.Exec(ctx, "DROP OWNED BY "+postgres.Ident(r.name()))); err != nil {
		return err
	}
	return undoUser(ctx)
}

func (r *retirement) countOwned(ctx context.Context, s *postgres.Session) (n int, err error) {
	_, err = s.Row(ctx, ownedHere, []any{r.name()}, &n)
	return n, fault.In("look for what the user owns", err)
}

// reassignAll hands over everything, or fails.
func (r *retirement) reassignAll(ctx context.Context, s *postgres.Session) error {
	if err := r.reassign(ctx, s); err != nil {
		return err
	}
	owned, err := r.countOwned(ctx, s)
	if err == nil && owned > 0 {
		return &leftError{fmt.Sprintf("%d objects of it cannot be handed to its group", owned)}
	}
	return err
}

// reassignSchemas hands schemas over before what lies in them: its new owner must be allowed to
// create there, and REASSIGN OWNED takes objects in the order in which the catalog has them.
func (r *retirement) reassignSchemas(ctx context.Context, s *postgres.Session) error {
	const owned = "SELECT nspname FROM pg_catalog.pg_namespace WHERE nspowner = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = $1) ORDER BY nspname"
	var schemas []string
	err := s.Each(ctx, owned, []any{r.name()}, func(scan func(dest ...any) error) error {
		var name string
		if err := scan(&name); err != nil {
			return err
		}
		schemas = append(schemas, name)
		return nil
	})
	for _, name := range schemas {
		if err == nil {
			err = s.Exec(ctx, "ALTER SCHEMA "+postgres.Ident(name)+" OWNER TO "+postgres.Ident(r.group()))
		}
	}
	return fault.In("hand the schemas of the user to its group", err)
}

// reassign checks the group again: a function handed to what became a superuser
// meanwhile would run with its power.
func (r *retirement) reassign(ctx context.Context, s *postgres.Session) error {
	if r.group() == "" {
		return &leftError{"it owns objects and the role has no member_of to hand them to: let revocation_statements hand them over (REASSIGN OWNED), or do it by hand, in each database"}
	}
	if err := checkGroup(ctx, s, r.group(), r.connection.options); err != nil {
		if fault.Is(err, fault.Invalid) {
			return &leftError{"it owns objects and has no successor: " + err.Error()}
		}
		return err
	}
	undoGroup, err := adopt(ctx, s, r.group())
	if err != nil {
		return err
	}
	if err := r.reassignSchemas(ctx, s); err != nil {
		return err
	}
	statement := "REASSIGN OWNED BY " + postgres.Ident(r.name()) + " TO " + postgres.Ident(r.group())
	if err := fault.In("hand what the user owns to its group", s.Exec(ctx, statement)); err != nil {
		return err
	}
	return undoGroup(ctx)
}
