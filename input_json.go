package rotationsecrets

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// readJSON wants an object or a list, itself or as JSON text, and leaves it in its
// place. The framework would take much else for one (a list of objects for an
// object, an object for a list of one).
func readJSON(values map[string]any, name string, want framework.FieldType) error {
	value := values[name]
	if text, isText := value.(string); isText {
		var err error
		if value, err = parseJSON(text); err != nil {
			return fault.Field(name, "must be %s", form(want)) // the parser's error would repeat a part of the text
		}
	}
	_, isObject := value.(map[string]any)
	_, isList := value.([]any)
	switch {
	case value == nil: // JSON null: not given
	case isObject != (want == framework.TypeMap), isList != (want == framework.TypeSlice):
		return fault.Field(name, "must be %s", form(want))
	case inexact(value):
		return fault.Field(name, "has a number of 2^53 or more, which Vault does not pass on exactly: give the whole as JSON text, or the number as a text")
	}
	values[name] = value
	return nil
}

// parseJSON reads one JSON value. Its numbers stay as they are written.
func parseJSON(text string) (value any, err error) {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one value")
	}
	return value, nil
}

// inexact tells whether a number may have lost its last digits on its way: the
// plugin protocol makes each number of a request a float64. A text is passed on
// as it is, and its numbers with it.
func inexact(value any) bool {
	switch v := value.(type) {
	case float64:
		return math.Abs(v) >= 1<<53
	case map[string]any:
		for _, member := range v {
			if inexact(member) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(v, inexact)
	}
	return false
}

// itemOf checks an object in a list as a request is checked: its fields, and their
// form. at says which one it is.
func itemOf(at string, value any, fields map[string]*framework.FieldSchema) (*framework.FieldData, error) {
	values, isObject := value.(map[string]any)
	if !isObject {
		return nil, fault.Field(at, "must be a JSON object with %s", strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		schema, known := fields[name]
		if !known {
			return nil, inside(at, unknown(name, "an item", slices.Collect(maps.Keys(fields))))
		}
		if err := checkForm(values, name, schema); err != nil {
			return nil, inside(at, err)
		}
	}
	return &framework.FieldData{Raw: values, Schema: fields}, nil
}

// inside says in which part of a request the field is that an error names.
func inside(at string, err error) error {
	var f *fault.Error
	if errors.As(err, &f) && f.Field != "" {
		return fault.Field(at+"."+f.Field, "%s", f.Message)
	}
	return err
}
