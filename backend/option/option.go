// Package option lets every kind of role, connection and channel declare the
// settings it understands, once: root derives Vault's fields and help from the
// declaration, and the kind decodes the values strictly into a struct of its own.
package option

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// Type is the form of an option's value, in Vault's terms.
type Type string

// The types and the Go form of a value: string; int64; bool; int64 seconds;
// []string (comma-separated, or repeated); []string (in order, each value one
// entry, commas kept); map[string]string.
const (
	String   Type = "string"
	Int      Type = "int"
	Bool     Type = "bool"
	Duration Type = "duration"
	List     Type = "list"
	Lines    Type = "lines"
	Map      Type = "map"
)

// Option declares one setting.
type Option struct {
	Name string
	Type Type
	// Default is used when the operator gives no value; nil means the zero value.
	Default any
	Help    string
	// Secret values are never echoed, and are stored apart.
	Secret bool
	// Immutable options cannot change once the role or connection exists.
	Immutable bool
	// Sole values may each be of one role alone: two that have the same harm each other.
	Sole bool
	// Address marks what a secret must not follow: changing it requires the
	// secret options again. Of a List each entry is an address, and leaving some out
	// is no change: no secret is sent where it was not sent before.
	Address bool
}

// Set is everything a kind declares.
type Set []Option

// Values are the public (not secret) values by name, as JSON can hold them.
type Values map[string]any

// Named returns the option of this name, or nil.
func (s Set) Named(name string) *Option {
	i := slices.IndexFunc(s, func(o Option) bool { return o.Name == name })
	if i < 0 {
		return nil
	}
	return &s[i]
}

// WithDefaults returns values with the default of every public option that has one
// and was not given. The values themselves are left as they are.
func (s Set) WithDefaults(values Values) Values {
	out := maps.Clone(values)
	if out == nil {
		out = Values{}
	}
	for _, o := range s {
		if _, given := out[o.Name]; !given && !o.Secret && o.Default != nil {
			out[o.Name] = o.Default
		}
	}
	return out
}

// Changed names the options with the given property whose value differs between
// two sets of values.
func (s Set) Changed(before, after Values, property func(Option) bool) []string {
	before, after = s.WithDefaults(before), s.WithDefaults(after)
	var names []string
	for _, o := range s {
		if property(o) && !equal(orNone(before[o.Name]), orNone(after[o.Name])) {
			names = append(names, o.Name)
		}
	}
	return names
}

// Moved names the options that hold another address than before.
func (s Set) Moved(before, after Values) (names []string) {
	for _, name := range s.Changed(before, after, func(o Option) bool { return o.Address }) {
		if s.Named(name).Type != List || !within(after[name], before[name]) {
			names = append(names, name)
		}
	}
	return names
}

// within tells whether all entries of a list are among those of another.
func within(part, whole any) bool {
	var of, all []string
	for _, list := range []struct {
		value any
		out   *[]string
	}{{part, &of}, {whole, &all}} {
		raw, err := json.Marshal(list.value)
		if err != nil || json.Unmarshal(raw, list.out) != nil {
			return false
		}
	}
	return !slices.ContainsFunc(of, func(entry string) bool { return !slices.Contains(all, entry) })
}

// orNone is nil for a zero value: an empty text, list or map, 0 and false are the
// same as nothing at all where an option has no other default.
func orNone(value any) any {
	if v := reflect.ValueOf(value); v.IsValid() && !v.IsZero() {
		if kind := v.Kind(); kind != reflect.Slice && kind != reflect.Map || v.Len() > 0 {
			return value
		}
	}
	return nil
}

// equal compares by JSON form: stored values come back as other Go types.
func equal(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// Decode fills the struct that out points to, by its json tags, with defaults
// applied. A name the struct does not know is refused.
func (s Set) Decode(values Values, out any) error {
	for name := range values {
		if s.Named(name) == nil {
			return fault.Field(name, "is not an option of this type")
		}
	}
	raw, err := json.Marshal(s.WithDefaults(values))
	if err != nil {
		return fmt.Errorf("encode options: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(out); err != nil {
		return fault.New(fault.Invalid, "options do not fit their declared types: %w", err)
	}
	return nil
}
