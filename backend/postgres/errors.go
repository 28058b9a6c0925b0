package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// SQLSTATEs that callers decide by. See
// https://www.postgresql.org/docs/current/errcodes-appendix.html.
const (
	CodeInvalidPassword     = "28P01"
	CodeInvalidAuth         = "28000"
	CodeNoSuchDatabase      = "3D000"
	CodeNoPrivilege         = "42501"
	CodeLockNotAvailable    = "55P03"
	CodeDependentsExist     = "2BP01"
	CodeFeatureNotSupported = "0A000"
	codeUniqueViolation     = "23505"
	codeSerialization       = "40001"
	codeDeadlock            = "40P01"
	codeInternal            = "XX000"
	codeCannotConnectNow    = "57P03"
	codeAdminShutdown       = "57P01"
	codeCrashShutdown       = "57P02"
	codeReadOnly            = "25006"
	codePoolerRefusal       = "08P01" // PgBouncer, of a database it does not know
	codeQueryCanceled       = "57014"
	classConnection         = "08"
	classResourceShortage   = "53"
	roleCheckRoutine        = "InitializeSessionUserId"
	maxMessage              = 500
	concurrentUpdateMarker  = "concurrently"
)

// Error is what the server said, without anything that could hold a secret: no
// statement, detail, hint or context.
type Error struct {
	Code    string // SQLSTATE
	Message string
	Routine string // the server's function that raised it; never localised
	// within tells that it was raised by what a statement set off, such as a trigger.
	within bool
}

// Error implements error.
func (e *Error) Error() string { return e.Message + " (SQLSTATE " + e.Code + ")" }

// Code returns the SQLSTATE in err's chain, or "".
func Code(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// classify turns an error of the driver into a fault whose text is free of the
// secrets given, and whose chain holds at most an *Error or the context's error:
// the driver's own errors carry the configuration, password included.
func classify(err error, secrets ...secret.String) error {
	if err == nil {
		return nil
	}
	var known *fault.Error
	if errors.As(err, &known) {
		return err
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return fromServer(pgErr, secrets)
	}
	text := clean(driverText(err), secrets)
	for _, cause := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, cause) {
			return &fault.Error{Kind: fault.Unreachable, Message: "PostgreSQL did not answer in time: " + text, Err: cause}
		}
	}
	switch {
	case isTrust(err):
		return fault.New(fault.Target, "PostgreSQL's certificate is not trusted: %s", text)
	case strings.Contains(text, "require_auth"):
		return fault.New(fault.Target, "PostgreSQL asked for the password in a way that is not accepted (SCRAM-SHA-256 is; see allow_weak_auth): %s", text)
	case isNetwork(err) && isConnect(err):
		return fault.New(fault.Unreachable, "%s", text)
	case isNetwork(err):
		return fault.New(fault.Unreachable, "the connection to PostgreSQL was lost: %s", text)
	default:
		return fault.New(fault.Target, "PostgreSQL could not be used: %s", text)
	}
}

// fromServer chooses the kind by SQLSTATE and, where that is ambiguous, by the
// routine that raised the error; never by the message, which may be localised.
//
// 28P01 is always a refused password. 28000 is said for a role that may not log
// in or does not exist (raised in InitializeSessionUserId), but also by pg_hba.conf
// and for a failed authentication by other means (a certificate, ident), which say
// nothing about the credential.
func fromServer(pgErr *pgconn.PgError, secrets []secret.String) error {
	e := &Error{
		Code: clean(pgErr.Code, nil), Message: clean(pgErr.Message, secrets), Routine: pgErr.Routine,
		within: pgErr.Where != "" || pgErr.InternalQuery != "",
	}
	kind := fault.Target
	switch {
	case e.Code == CodeInvalidPassword,
		e.Code == CodeInvalidAuth && e.Routine == roleCheckRoutine:
		kind = fault.AuthFailed
	case e.Code == codeCannotConnectNow, e.Code == codeAdminShutdown, e.Code == codeCrashShutdown,
		strings.HasPrefix(e.Code, classConnection), strings.HasPrefix(e.Code, classResourceShortage):
		kind = fault.Unreachable
	}
	return fault.New(kind, "PostgreSQL: %w", e)
}

// Concurrent tells whether a transaction met another one each time it was tried.
func Concurrent(err error) bool { return concurrent(err) }

// concurrent tells whether the same transaction may succeed when tried again.
// "tuple concurrently updated" is an internal error of the server, which are
// never localised.
func concurrent(err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case codeSerialization, codeDeadlock, codeUniqueViolation:
		return true
	case codeInternal:
		return strings.Contains(e.Message, concurrentUpdateMarker)
	}
	return false
}

// TimedOut tells whether the server gave up a statement because of a lock or of
// statement_timeout: it may succeed later.
func TimedOut(err error) bool {
	code := Code(err)
	return code == CodeLockNotAvailable || code == codeQueryCanceled || code == codeDeadlock
}

// Environmental tells whether the server's answer speaks of its own state or of
// bounds, and not of what was asked.
func Environmental(err error) bool {
	code := Code(err)
	return code == codeReadOnly || TimedOut(err)
}

// NotTheCredential makes Unreachable of what the server, or the driver, says about
// anything but the credential that a session was opened with: a certificate that is
// not trusted, pg_hba.conf, a way to ask for the password that is not accepted, a
// database that is absent or closed, a standby, a timeout.
func NotTheCredential(err error) error {
	if !fault.Is(err, fault.Target) {
		return err
	}
	return &fault.Error{Kind: fault.Unreachable, Message: err.Error(), Err: err}
}

func isTrust(err error) bool {
	var (
		verification *tls.CertificateVerificationError
		authority    x509.UnknownAuthorityError
		host         x509.HostnameError
		invalid      x509.CertificateInvalidError
	)
	return errors.As(err, &verification) || errors.As(err, &authority) || errors.As(err, &host) || errors.As(err, &invalid)
}

func isConnect(err error) bool {
	var connect *pgconn.ConnectError
	return errors.As(err, &connect)
}

func isNetwork(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, pgconn.ErrConnClosed)
}

// driverText says what went wrong with each host, once: the driver repeats the user
// name, and the host for each way to try it.
func driverText(err error) string {
	var connect *pgconn.ConnectError
	if !errors.As(err, &connect) || connect.Unwrap() == nil {
		return err.Error()
	}
	var sentences []string
	for _, one := range attempts(connect.Unwrap()) {
		if sentence := attemptText(one); !slices.Contains(sentences, sentence) {
			sentences = append(sentences, sentence)
		}
	}
	return strings.Join(sentences, "; ")
}

// attempts are the errors that were joined.
func attempts(err error) (all []error) {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	for _, one := range joined.Unwrap() {
		all = append(all, attempts(one)...)
	}
	return all
}

// attemptText rewrites the driver's "address (host): cause".
func attemptText(err error) string {
	var (
		lookup  *net.DNSError
		op      *net.OpError
		syscall *os.SyscallError
	)
	if errors.As(err, &lookup) {
		return "could not look up " + lookup.Name + ": " + lookup.Err
	}
	text := err.Error()
	address, rest, ok := strings.Cut(text, " (")
	host, cause, found := strings.Cut(rest, "): ")
	if !ok || !found {
		return text
	}
	switch {
	case isDone(err):
		cause = "no answer"
	case errors.As(err, &op) && op.Op == "dial" && op.Err != nil:
		cause = op.Err.Error()
		if errors.As(op.Err, &syscall) {
			cause = syscall.Err.Error()
		}
	}
	if name, _, err := net.SplitHostPort(address); err == nil && name != host {
		address += " (" + host + ")"
	}
	return "could not connect to " + address + ": " + cause
}

// credentialPattern matches what PostgreSQL stores for a password.
var credentialPattern = regexp.MustCompile(`SCRAM-SHA-256\$\S+|md5[0-9a-fA-F]{32}`)

// clean makes one bounded line of a foreign text and hides what is secret in it.
func clean(text string, secrets []secret.String) string {
	for _, s := range secrets {
		if !s.Empty() {
			text = strings.ReplaceAll(text, s.Reveal(), secret.Placeholder)
		}
	}
	text = credentialPattern.ReplaceAllString(text, secret.Placeholder)
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + "..."
	}
	return text
}
