// Package secret holds values that must not be printed by accident.
//
// A value is shown only where the code says Reveal: every other way to turn it
// into text (fmt verbs, JSON, log fields) yields a fixed placeholder, so that a
// careless log line or error cannot leak it.
package secret

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
)

// Placeholder is what every accidental rendering of a secret shows.
const Placeholder = "[redacted]"

// String is a secret text. Its values are compared with Equal, never with ==.
type String struct {
	// Behind a pointer, since fmt prints by reflection where it may not call
	// Format: a field that is not exported, or a verb that does not fit. It then
	// shows an address.
	value *string
}

// New wraps a plain text.
func New(plain string) String { return String{value: &plain} }

// Reveal returns the plain text. Each call is a place where the secret leaves.
func (s String) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// Empty tells whether there is no secret at all.
func (s String) Empty() bool { return s.Reveal() == "" }

// Equal compares in constant time for values of equal length.
func (s String) Equal(other String) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

// String implements fmt.Stringer with the placeholder.
func (s String) String() string { return Placeholder }

// Format covers every fmt verb, %#v and %x included.
func (s String) Format(f fmt.State, _ rune) { _, _ = fmt.Fprint(f, Placeholder) }

// MarshalJSON renders the placeholder; storage uses Map.Reveal explicitly.
func (s String) MarshalJSON() ([]byte, error) { return json.Marshal(Placeholder) }

// LogValue implements slog.LogValuer.
func (s String) LogValue() slog.Value { return slog.StringValue(Placeholder) }

// Map is a set of named secrets: the material of a version, or the secret
// options of a connection.
type Map map[string]String

// NewMap wraps plain texts.
func NewMap(plain map[string]string) Map {
	m := make(Map, len(plain))
	for k, v := range plain {
		m[k] = New(v)
	}
	return m
}

// Reveal returns the plain texts, for storage alone.
func (m Map) Reveal() map[string]string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = v.Reveal()
	}
	return out
}

// Merge returns m with the entries of over laid on top.
func (m Map) Merge(over Map) Map {
	out := make(Map, len(m)+len(over))
	maps.Copy(out, m)
	maps.Copy(out, over)
	return out
}

// Equal tells whether two sets hold the same secrets; values are compared in constant time.
func (m Map) Equal(other Map) bool {
	equal := len(m) == len(other)
	for name, value := range m {
		of, there := other[name]
		equal = value.Equal(of) && there && equal
	}
	return equal
}
