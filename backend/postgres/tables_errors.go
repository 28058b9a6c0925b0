package postgres

import (
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
)

// stateOf is the SQLSTATE of an error of the driver, or "".
func stateOf(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

// isBusy tells whether rows, or the table, are held by somebody else.
func isBusy(err error) bool {
	return slices.Contains([]string{CodeLockNotAvailable, codeDeadlock, codeSerialization}, stateOf(err))
}

// systemClasses are the classes of what goes wrong whatever a row holds. All others say
// that a type, a constraint or a trigger does not take a value, and triggers may raise
// what they like.
var systemClasses = []string{"08", "0A", "25", "26", "28", "2D", "3B", "3D", "3F", "40", "42", "53", "55", "57", "58", "72", "F0", "XX"}

// refusesRow tells whether an error is about the values of single rows.
func refusesRow(err error) bool { return refuses(stateOf(err)) }

func refuses(state string) bool {
	return len(state) == 5 && !slices.Contains(systemClasses, state[:2])
}

const (
	codeTooLong   = "22001"
	codeCheck     = "23514"
	classTrigger  = "P0"
	maxConstraint = 2 * MaxIdentifier
)

// refusal says why a row was refused. The server's sentence may quote the row, and that of
// a trigger may say anything.
func refusal(err error) string {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return "PostgreSQL refused the new value"
	}
	reason := "PostgreSQL refused the new value"
	switch {
	case pgErr.Code == codeTooLong:
		reason = "the new value is longer than the column takes"
	case pgErr.Code == codeCheck:
		reason = "a CHECK constraint refused the new value"
	case pgErr.Code[:2] == classTrigger:
		reason = "a trigger refused the new value"
	}
	// Inside a trigger, what is called a constraint may be anything.
	if name := pgErr.ConstraintName; name != "" && len(name) <= maxConstraint && pgErr.Where == "" {
		reason += ", constraint " + clean(Ident(name), nil)
	}
	return fmt.Sprintf("%s (SQLSTATE %s)", reason, clean(pgErr.Code, nil))
}

// conditions are PostgreSQL's names of the errors that rows may meet.
var conditions = map[string]string{
	"08000": "connection_exception", "08003": "connection_does_not_exist", "08006": "connection_failure", "0A000": "feature_not_supported",
	"25006": "read_only_sql_transaction", "25P02": "in_failed_sql_transaction", "25P03": "idle_in_transaction_session_timeout",
	"3F000": "invalid_schema_name", CodeNoPrivilege: "insufficient_privilege", codeNoTable: "undefined_table", codeNoColumn: "undefined_column",
	codeNoFunction: "undefined_function", codeNoObject: "undefined_object", "42804": "datatype_mismatch", "42601": "syntax_error",
	codeSerialization: "serialization_failure", codeDeadlock: "deadlock_detected", CodeLockNotAvailable: "lock_not_available",
	"53100": "disk_full", "53200": "out_of_memory", "53300": "too_many_connections", "54000": "program_limit_exceeded",
	"55000": "object_not_in_prerequisite_state", codeQueryCanceled: "query_canceled", codeAdminShutdown: "admin_shutdown",
	codeCrashShutdown: "crash_shutdown", codeCannotConnectNow: "cannot_connect_now", "58030": "io_error",
	codeInternal: "internal_error", "XX001": "data_corrupted", "XX002": "index_corrupted",
}

const (
	codeNoTable    = "42P01"
	codeNoColumn   = "42703"
	codeNoFunction = "42883"
	codeNoObject   = "42704"
)

// harmless are the server's own functions whose sentences, about the statement itself, name
// tables, columns and settings, and never hold what is in a row. What a trigger raises has
// another one, and what the server raises inside of a trigger may quote anything.
var harmless = map[string]string{
	"aclcheck_error": CodeNoPrivilege, "check_enable_rls": CodeNoPrivilege, "parserOpenTable": codeNoTable, "errorMissingColumn": codeNoColumn,
	"ProcessInterrupts": codeQueryCanceled, "PreventCommandIfReadOnly": codeReadOnly,
}

// rowsError classifies an error of a statement about rows.
func (db *DB) rowsError(err error) error { return withoutRows(classify(err, db.config.Password)) }

// withoutRows puts a sentence of ours in the place of the server's, which may quote a row,
// or be whatever a trigger says.
func withoutRows(err error) error {
	var e *Error
	if !errors.As(err, &e) || harmless[e.Routine] == e.Code && !e.within {
		return err
	}
	reason := conditions[e.Code]
	switch {
	case refuses(e.Code):
		reason = "it does not take a value of a row or key"
	case reason == "":
		reason = "it failed"
	}
	if e.within {
		reason += ", in a trigger or another function that the table has"
		if slices.Contains([]string{codeNoTable, codeNoFunction, codeNoObject, "3F000"}, e.Code) {
			reason += ": these run with search_path=pg_catalog, so the names in them must have their schema, or the function a search_path of its own"
		}
	}
	return fault.New(fault.KindOf(err), "PostgreSQL: %w", &Error{Code: e.Code, Message: reason, Routine: e.Routine, within: e.within})
}

// codesCursor are what the server says of a text that is no value of a key's type.
var codesCursor = []string{"22P02", "22003", "22007", "22008", "22026"}

// cursorError tells of a page whose beginning is no key of the table.
func cursorError(after reencrypt.Key, err error) error {
	if after != nil && slices.Contains(codesCursor, Code(err)) {
		return &fault.Error{Kind: fault.Target, Message: err.Error(), Err: errors.Join(reencrypt.ErrCursor, err)}
	}
	return err
}

func errCursor() error {
	return fault.New(fault.Target, "key_columns are not as many as before: %w", reencrypt.ErrCursor)
}
