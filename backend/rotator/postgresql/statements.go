package postgresql

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// The placeholders of custom statements, as in Vault's database engine.
const (
	namePlaceholder       = "{{name}}"
	passwordPlaceholder   = "{{password}}"
	expirationPlaceholder = "{{expiration}}"
)

var placeholder = regexp.MustCompile(`\{\{\s*[A-Za-z_]\w*\s*\}\}`)

// neverExpires is {{expiration}} of a version that lives: who ends it is the engine.
const neverExpires = "infinity"

// customStatements is one of a role's lists of statements.
type customStatements struct {
	field      string
	statements []string
	// known are the placeholders that may occur, required those that must.
	known, required []string
}

var (
	allPlaceholders      = []string{namePlaceholder, passwordPlaceholder, expirationPlaceholder}
	loginPlaceholders    = []string{namePlaceholder, passwordPlaceholder}
	deadlinePlaceholders = []string{namePlaceholder, expirationPlaceholder}
)

func (o *roleOptions) creation() customStatements {
	return customStatements{"creation_statements", o.CreationStatements, allPlaceholders, loginPlaceholders}
}

func (o *roleOptions) rotation() customStatements {
	return customStatements{"rotation_statements", o.RotationStatements, allPlaceholders, loginPlaceholders}
}

func (o *roleOptions) revocation() customStatements {
	return customStatements{"revocation_statements", o.RevocationStatements, deadlinePlaceholders, []string{namePlaceholder}}
}

// checkCustom refuses custom statements that can be seen to be wrong without the
// server, and options that they take the place of.
func (o *roleOptions) checkCustom(c *connectionOptions) error {
	for _, custom := range []customStatements{o.creation(), o.rotation(), o.revocation()} {
		if err := custom.check(c); err != nil {
			return err
		}
	}
	switch {
	case o.Strategy == inPlace && len(o.RevocationStatements) > 0:
		return fault.Field("revocation_statements", "have no use with strategy=in_place: the user goes on with the next password")
	case len(o.CreationStatements) == 0 && len(o.RotationStatements) > 0 && !o.standing():
		return fault.Field("rotation_statements", "need creation_statements: without, a user that comes back is brought to what the role says")
	case len(o.CreationStatements) > 0 && len(o.Settings) > 0:
		return fault.Field("settings", "must not be given with creation_statements, which make the user as a whole")
	case len(o.CreationStatements) > 0 && o.ConnectionLimit != noConnectionLimit:
		return fault.Field("connection_limit", "must not be given with creation_statements, which make the user as a whole")
	}
	return nil
}

func (s customStatements) check(c *connectionOptions) error {
	if err := checkStatements(s.field, s.statements, c, "it runs in one together with our mark"); err != nil || len(s.statements) == 0 {
		return err
	}
	for i, statement := range s.statements {
		for _, found := range placeholder.FindAllString(statement, -1) {
			if !slices.Contains(s.known, found) {
				return fault.Field(s.field, "statement %d has a placeholder that is not known here: %s; valid is %s", i+1, bounded(found), strings.Join(s.known, ", "))
			}
		}
	}
	for _, required := range s.required {
		if !slices.ContainsFunc(s.statements, func(statement string) bool { return strings.Contains(statement, required) }) {
			return fault.Field(s.field, "must mention %s", required)
		}
	}
	return nil
}

// custom runs custom statements for one user.
type custom struct {
	connection *Connection
	user       string
	verifier   secret.String
	expiration string
}

// run substitutes and runs statements in the transaction, and puts back whatever of
// the session they changed, so that what follows is done by the administrator and
// means what it says.
//
// Substitution is plain text, so the values must need no quoting: names are plain
// and verifiers are Base64 with a few signs.
func (c *custom) run(ctx context.Context, s *postgres.Session, list customStatements) error {
	if err := list.check(c.connection.options); err != nil {
		return err
	}
	if !userName.MatchString(c.user) {
		return fault.Field(list.field, "cannot be used for the user %s: its name is not plain and would need quoting", quoted(c.user))
	}
	fill := strings.NewReplacer(namePlaceholder, c.user, passwordPlaceholder, c.verifier.Reveal(), expirationPlaceholder, c.expiration)
	for i, statement := range list.statements {
		run := s.ExecForeign
		if strings.Contains(statement, passwordPlaceholder) {
			run = func(ctx context.Context, sql string) error { return s.ExecForeignSecret(ctx, sql, c.verifier) }
		}
		if err := run(ctx, fill.Replace(statement)); err != nil {
			return customError(list.field, i+1, err)
		}
	}
	// A temporary table must not pose as a table of the server's own.
	for _, reset := range []string{"RESET SESSION AUTHORIZATION", "RESET ROLE", "RESET ALL", "SET LOCAL search_path TO pg_catalog, pg_temp"} {
		if err := fault.In(list.field, s.Exec(ctx, reset)); err != nil {
			return err
		}
	}
	return nil
}

// brokenVerifier is one that the server cut, as it does with long identifiers, so
// that it was not recognised as the secret.
var brokenVerifier = regexp.MustCompile(`SCRAM-SHA-256\$\S*`)

func customError(field string, number int, err error) error {
	kind := fault.Conflict
	if fault.Is(err, fault.Unreachable) || postgres.Environmental(err) {
		kind = fault.Unreachable
	}
	message := brokenVerifier.ReplaceAllString(err.Error(), secret.Placeholder)
	// What the server said decides what follows; its text goes along redacted.
	if said := new(postgres.Error); errors.As(err, &said) {
		err = &postgres.Error{Code: said.Code, Message: brokenVerifier.ReplaceAllString(said.Message, secret.Placeholder), Routine: said.Routine}
	}
	return &fault.Error{Kind: kind, Message: fmt.Sprintf("%s: statement %d: %s", field, number, message), Err: err}
}

// prepareCustom makes the user by the role's creation_statements and marks it, in
// one transaction in the connection's own database, where what they grant is. The
// session is thrown away; the cluster's lock is held by the caller.
func (p *prepareRun) prepareCustom(ctx context.Context) error {
	return p.connection.DB.InDatabase(ctx, p.connection.DB.Address().Database, p.connection.options.StatementTimeout.Std(), func(ctx context.Context, s *postgres.Session) error {
		u, err := findUser(ctx, s, p.target)
		if err != nil {
			return err
		}
		if u.exists && u.foreign != "" {
			return u.refuse(p.target.Version.Identifier)
		}
		if u.exists {
			return p.reviveCustom(ctx, s)
		}
		if len(p.options.CreationStatements) == 0 && len(p.object.Imported) > 0 {
			return fault.New(fault.Conflict, "the imported user %s is gone, and only who made it knows what it could do", quoted(p.target.Version.Identifier))
		}
		if len(p.options.CreationStatements) == 0 {
			return fault.New(fault.Conflict, "the user %s is gone and was made by creation_statements, which the role no longer has", quoted(p.target.Version.Identifier))
		}
		if err := p.custom().run(ctx, s, p.options.creation()); err != nil {
			return err
		}
		if err := p.harmless(ctx, s, "creation_statements"); err != nil {
			return err
		}
		return writeMark(ctx, s, p.target, p.target.Mark, p.target.Version.Identifier)
	})
}

// reviveCustom gives its login back to a user that exists: it was made and marked
// in one transaction, so nothing else of it can be missing.
func (p *prepareRun) reviveCustom(ctx context.Context, s *postgres.Session) error {
	if len(p.options.RotationStatements) > 0 {
		if err := p.custom().run(ctx, s, p.options.rotation()); err != nil {
			return err
		}
		return p.harmless(ctx, s, "rotation_statements")
	}
	return fault.In("set the password", p.setPassword(ctx, s, ""))
}

func (p *prepareRun) custom() *custom {
	return &custom{connection: p.connection, user: p.target.Version.Identifier, verifier: p.verifier, expiration: neverExpires}
}

// harmless refuses a user that does not exist or has an administrator's power, so
// that everything is rolled back.
func (p *prepareRun) harmless(ctx context.Context, s *postgres.Session, field string) error {
	name := p.target.Version.Identifier
	found, why, err := powerOf(ctx, s, name)
	switch {
	case err != nil:
		return fault.In("look at what "+field+" made", err)
	case !found:
		return fault.New(fault.Conflict, "%s: they do not make the user %s", field, quoted(name))
	case why != "":
		return fault.New(fault.Conflict, "%s: the user %s is refused and was rolled back: it %s", field, quoted(name), why)
	}
	return nil
}

// serverRoles are the predefined roles whose members can become superusers, by what
// they may do to the server's machine.
var serverRoles = []string{"pg_execute_server_program", "pg_read_server_files", "pg_write_server_files"}

// powerOf says what gives a user an administrator's power, "" for nothing.
func powerOf(ctx context.Context, s *postgres.Session, name string) (found bool, why string, err error) {
	err = s.Each(ctx, reachQuery, []any{name}, func(scan func(...any) error) error {
		var role string
		var login, super, createRole, replication, bypass, own bool
		if err := scan(&role, &login, &super, &createRole, &replication, &bypass, &own); err != nil {
			return err
		}
		found = true
		switch powerful := super || createRole || replication || bypass || own; {
		case why != "" || !powerful && !slices.Contains(serverRoles, role):
		case role != name:
			why = "has the power of an administrator through membership in " + quoted(role)
		default:
			why = "has SUPERUSER, CREATEROLE, REPLICATION or BYPASSRLS"
		}
		return nil
	})
	return found, why, err
}

// revocationTime is {{expiration}} in PostgreSQL's form of a timestamp with time zone.
const revocationTime = "2006-01-02 15:04:05.999999-07"

// revoke runs the role's revocation_statements in the connection's own database.
// They may drop the user; what remains is ended by us. After a crash they run again.
func (r *retirement) revoke(ctx context.Context) error {
	if len(r.options.RevocationStatements) == 0 {
		return nil
	}
	began := r.target.Version.RetireBegun
	if began.IsZero() {
		began = r.target.Now // a candidate that is discarded
	}
	statements := &custom{connection: r.connection, user: r.name(), expiration: began.UTC().Truncate(time.Microsecond).Format(revocationTime)}
	return r.connection.DB.InDatabase(ctx, r.connection.DB.Address().Database, reassignLockTimeout, func(ctx context.Context, s *postgres.Session) error {
		u, err := r.own(ctx, s)
		if err != nil || !u.exists {
			return err
		}
		if r.object.standing() {
			if done, err := r.takeStanding(ctx, s, u); done || err != nil {
				return err
			}
		}
		undoUser, err := adopt(ctx, s, r.name())
		if err != nil {
			return err
		}
		if err := statements.run(ctx, s, r.options.revocation()); err != nil {
			return err
		}
		if u, err = r.own(ctx, s); err != nil || !u.exists {
			return err
		}
		return undoUser(ctx)
	})
}
