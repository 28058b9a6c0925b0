package postgres

import (
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"
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
func refusesRow(err error) bool {
	state := stateOf(err)
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
	if name := pgErr.ConstraintName; name != "" && len(name) <= maxConstraint {
		reason += ", constraint " + clean(Ident(name), nil)
	}
	return fmt.Sprintf("%s (SQLSTATE %s)", reason, clean(pgErr.Code, nil))
}
