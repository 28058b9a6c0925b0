// Package fault is the one typed error of the engine. Root maps its Kind to a
// Vault response in a single place; everything below root only chooses a Kind
// and writes a sentence.
package fault

import (
	"errors"
	"fmt"
)

// Kind classifies an error by what the caller can do about it.
type Kind string

// The kinds, and what root makes of them.
const (
	Invalid     Kind = "invalid"     // wrong input: 400, nothing was changed
	Target      Kind = "target"      // the system outside failed or refused: 400
	Unreachable Kind = "unreachable" // the system outside could not be reached: 400
	Unconfirmed Kind = "unconfirmed" // a create may have happened, its answer was lost: 400
	AuthFailed  Kind = "auth_failed" // the target's own authentication failure: 400
	NotFound    Kind = "not_found"   // 404
	Conflict    Kind = "conflict"    // the state forbids it now: 409
	Internal    Kind = "internal"    // our own fault: 500
)

// Error carries a kind, the field it speaks of (for Invalid) and a sentence.
type Error struct {
	Kind    Kind
	Field   string // the input field, when one is at fault
	Message string // one sentence, without secrets
	Data    map[string]any
	Err     error // the cause, if any; its text already stands in Message
}

// Error implements error.
func (e *Error) Error() string {
	msg := e.Message
	if e.Field != "" {
		msg = e.Field + ": " + msg
	}
	return msg
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// New makes an error of a kind; %w in the format keeps the cause, or causes.
func New(kind Kind, format string, args ...any) *Error {
	wrapped := fmt.Errorf(format, args...)
	cause := errors.Unwrap(wrapped)
	if _, several := wrapped.(interface{ Unwrap() []error }); several {
		cause = wrapped
	}
	return &Error{Kind: kind, Message: wrapped.Error(), Err: cause}
}

// Field makes an Invalid error about one input field.
func Field(field, format string, args ...any) *Error {
	return &Error{Kind: Invalid, Field: field, Message: fmt.Sprintf(format, args...)}
}

// In says in which step an error happened, and keeps its kind.
func In(step string, err error) error {
	if err == nil {
		return nil
	}
	var f *Error
	if !errors.As(err, &f) {
		return fmt.Errorf("%s: %w", step, err)
	}
	return &Error{Kind: f.Kind, Field: f.Field, Message: step + ": " + f.Message, Err: err}
}

// KindOf returns the kind of the outermost fault in err's chain, Internal when
// there is none, and "" for nil.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	var f *Error
	if errors.As(err, &f) {
		return f.Kind
	}
	return Internal
}

// Is tells whether err is a fault of this kind.
func Is(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }
