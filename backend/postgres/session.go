package postgres

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// MaxIdentifier is the most bytes an identifier may have; the server cuts longer
// ones, so that two names may become one.
const MaxIdentifier = 63

// Session runs statements. Its errors are faults without secrets.
type Session struct {
	q       querier
	conn    *pgx.Conn
	secrets []secret.String
}

type querier interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Ident quotes an identifier, by the driver's own means.
func Ident(name string) string { return pgx.Identifier{name}.Sanitize() }

// Literal quotes a text, by the driver's own means.
func (s *Session) Literal(text string) (string, error) {
	escaped, err := s.conn.PgConn().EscapeString(text)
	if err != nil {
		return "", classify(err, s.secrets...)
	}
	return "'" + escaped + "'", nil
}

// Exec runs one statement.
func (s *Session) Exec(ctx context.Context, sql string, args ...any) error {
	progress(ctx, 0)
	_, err := s.q.Exec(ctx, sql, args...)
	return classify(err, s.secrets...)
}

// Row reads the first row of a query into dest, and tells whether there was one.
func (s *Session) Row(ctx context.Context, sql string, args []any, dest ...any) (found bool, err error) {
	progress(ctx, 0)
	rows, err := s.q.Query(ctx, sql, args...)
	if err != nil {
		return false, classify(err, s.secrets...)
	}
	defer rows.Close()
	if rows.Next() {
		found = true
		if err := rows.Scan(dest...); err != nil {
			return true, classify(err, s.secrets...)
		}
	}
	rows.Close()
	return found, classify(rows.Err(), s.secrets...)
}

// Each calls row for each row of a query, with the function that reads it.
func (s *Session) Each(ctx context.Context, sql string, args []any, row func(scan func(dest ...any) error) error) error {
	progress(ctx, 0)
	rows, err := s.q.Query(ctx, sql, args...)
	if err != nil {
		return classify(err, s.secrets...)
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows.Scan); err != nil {
			return classify(err, s.secrets...)
		}
	}
	return classify(rows.Err(), s.secrets...)
}

// Major is the server's major version, such as 16; 0 when it does not say.
func (s *Session) Major() int {
	version := s.conn.PgConn().ParameterStatus("server_version")
	end := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(version)
	}
	major, _ := strconv.Atoi(version[:end])
	return major
}

// quietSettings are what makes a server write a statement into its log.
var quietSettings = [][2]string{
	{"log_statement", "none"},
	{"log_min_duration_statement", "-1"},
	{"log_min_error_statement", "panic"},
}

// ExecSecret runs a statement that holds a verifier, inside a transaction. Where
// the session has the right to (a superuser, or one granted SET on the settings),
// the statement is kept out of the server's log; elsewhere the log may hold the
// verifier, but never a password.
func (s *Session) ExecSecret(ctx context.Context, sql string, hidden secret.String) error {
	return s.quietly(ctx, hidden, func() error { return s.Exec(ctx, sql) })
}

// ExecForeignSecret is ExecForeign for a statement that holds a verifier, as
// ExecSecret is for Exec.
func (s *Session) ExecForeignSecret(ctx context.Context, sql string, hidden secret.String) error {
	return s.quietly(ctx, hidden, func() error { return s.ExecForeign(ctx, sql) })
}

func (s *Session) quietly(ctx context.Context, hidden secret.String, do func() error) error {
	s.secrets = append(s.secrets, hidden)
	quiet, err := s.maySilence(ctx)
	if err != nil {
		return err
	}
	if !quiet {
		return do()
	}
	for _, setting := range quietSettings {
		if err := s.Exec(ctx, "SET LOCAL "+setting[0]+" = '"+setting[1]+"'"); err != nil {
			return err
		}
	}
	if err := do(); err != nil {
		return err
	}
	for _, setting := range quietSettings {
		if err := s.Exec(ctx, "SET LOCAL "+setting[0]+" TO DEFAULT"); err != nil {
			return err
		}
	}
	return nil
}

func (s *Session) maySilence(ctx context.Context) (quiet bool, err error) {
	privileges := "false"
	if s.Major() >= 15 {
		privileges = "true"
		for _, setting := range quietSettings {
			privileges += " AND has_parameter_privilege('" + setting[0] + "', 'SET')"
		}
	}
	_, err = s.Row(ctx, "SELECT rolsuper OR ("+privileges+") FROM pg_roles WHERE rolname = current_user", nil, &quiet)
	return quiet, err
}

// RolledBack runs do inside a transaction that is always rolled back, so that
// what it does leaves nothing.
func (s *Session) RolledBack(ctx context.Context, statementTimeout time.Duration, do func(*Session) error) error {
	tx, err := s.conn.Begin(ctx)
	if err != nil {
		return classify(err, s.secrets...)
	}
	defer func() { _ = tx.Rollback(ctx) }()
	inner := &Session{q: tx, conn: s.conn, secrets: s.secrets}
	if err := inner.Exec(ctx, "SET LOCAL statement_timeout = "+milliseconds(statementTimeout)); err != nil {
		return err
	}
	return do(inner)
}

// Attempt runs do under a savepoint that is always rolled back, and returns its
// error.
func (s *Session) Attempt(ctx context.Context, do func() error) error {
	if err := s.Exec(ctx, "SAVEPOINT attempt"); err != nil {
		return err
	}
	err := do()
	if isDone(err) {
		return err
	}
	if back := s.Exec(ctx, "ROLLBACK TO SAVEPOINT attempt"); back != nil {
		return errors.Join(err, back)
	}
	return err
}

// ErrTransactionEnded tells that a statement ended the transaction it ran in.
var ErrTransactionEnded = errors.New("the statement ended its transaction")

// ExecForeign runs one statement that an operator wrote, inside a transaction, which
// must outlive it. Several at once, which a COMMIT could stand between, are
// refused by the extended protocol, which takes a statement at a time; the rows of
// a query are thrown away. See EndsTransaction for what has to be refused before.
func (s *Session) ExecForeign(ctx context.Context, sql string) error {
	if EndsTransaction(sql) {
		return fault.New(fault.Conflict, "it must not begin or end a transaction: %w", ErrTransactionEnded)
	}
	conn := s.conn.PgConn()
	result := conn.ExecParams(ctx, sql, nil, nil, nil, nil)
	for result.NextRow() {
		continue // nothing is done with a row
	}
	if _, err := result.Close(); err != nil {
		return classify(err, s.secrets...)
	}
	if conn.TxStatus() != inTransaction {
		return fault.New(fault.Conflict, "it ended the transaction that it ran in: %w", ErrTransactionEnded)
	}
	return nil
}

// inTransaction is the protocol's status of an open transaction that did not fail.
const inTransaction = 'T'

// transactionWords begin the statements that control transactions. COMMIT AND CHAIN
// leaves a transaction open, but another one, so that the status does not tell.
var transactionWords = []string{"abort", "begin", "commit", "end", "prepare", "release", "rollback", "savepoint", "start"}

// EndsTransaction tells by a statement's first word whether it controls the
// transaction it runs in. A procedure or a DO block cannot, in one that was begun.
func EndsTransaction(sql string) bool {
	rest := skipToStatement(sql)
	end := strings.IndexFunc(rest, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '_' && (r < '0' || r > '9') && r < 0x80
	})
	if end < 0 {
		end = len(rest)
	}
	return slices.Contains(transactionWords, strings.ToLower(rest[:end]))
}

// skipToStatement leaves out what may stand before a statement: space, comments,
// which nest, and empty statements.
func skipToStatement(sql string) string {
	for {
		sql = strings.TrimLeft(sql, " \t\n\r\f\v;")
		switch {
		case strings.HasPrefix(sql, "--"):
			end := strings.IndexAny(sql, "\r\n")
			if end < 0 {
				return ""
			}
			sql = sql[end:]
		case strings.HasPrefix(sql, "/*"):
			sql = skipComment(sql)
		default:
			return sql
		}
	}
}

func skipComment(sql string) string {
	depth := 0
	for i := 0; i+1 < len(sql); i++ {
		switch sql[i : i+2] {
		case "/*":
			depth++
			i++
		case "*/":
			depth--
			i++
		}
		if depth == 0 {
			return sql[i+1:]
		}
	}
	return ""
}

// Close ends a session that Login opened.
func (s *Session) Close() { closeQuietly(s.conn) }
