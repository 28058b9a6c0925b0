package apikey

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// definitionField is the option that holds a definition.
const definitionField = "definition"

// maxDefinitionBytes bounds a definition as JSON.
const maxDefinitionBytes = 64 << 10

// definition says how an API makes, lists, verifies and ends keys. docs/http-provider.md
// is its reference. What is not exported is compiled from what is, see http_compile.go.
type definition struct {
	Title   string `json:"title"`    // in sentences
	BaseURL string `json:"base_url"` // where the connection has none of its own

	Admin *authSpec `json:"admin"` // what goes on all calls but verify
	Key   *authSpec `json:"key"`   // what goes on verify

	Create  *makeSpec   `json:"create"`
	Replace *makeSpec   `json:"replace"`
	List    *listSpec   `json:"list"`
	Verify  *verifySpec `json:"verify"`
	Disable *callSpec   `json:"disable"`
	Enable  *callSpec   `json:"enable"`
	Revoke  *callSpec   `json:"revoke"`

	Error  []string    `json:"error"` // where the API says what is wrong; the first that is there counts
	ByHand *byHandSpec `json:"by_hand"`

	errors []*pointer
}

// authSpec is what proves who calls.
type authSpec struct {
	Headers map[string]string `json:"headers"`
	Query   map[string]string `json:"query"`
	Basic   *basicSpec        `json:"basic"`

	headers, query     []pair
	username, password template
}

type basicSpec struct {
	Username string `json:"username"`
	Password string `json:"password"`
}

// callSpec is one call.
type callSpec struct {
	Method  string            `json:"method"`
	Path    string            `json:"path"`
	Query   map[string]string `json:"query"`
	Headers map[string]string `json:"headers"`
	Body    json.RawMessage   `json:"body"`
	Form    map[string]string `json:"form"`
	Success []int             `json:"success"`

	path                 template
	query, headers, form []pair
	body                 any
}

// pair is a named template. A name may occur more than once in a query.
type pair struct {
	name  string
	value template
}

// makeSpec is a call that answers with a new key.
type makeSpec struct {
	callSpec
	Key     string `json:"key"`
	ID      string `json:"id"`
	Expires string `json:"expires"`

	key, id, expires *pointer
	mentionsID       bool
}

// verifySpec is a call with the key in question.
type verifySpec struct {
	callSpec
	Forbidden   []int      `json:"forbidden"`
	Dead        []int      `json:"dead"`
	State       *stateSpec `json:"state"`
	ID          string     `json:"id"`
	Propagation string     `json:"propagation"`

	id          *pointer
	propagation time.Duration
}

// stateSpec is for an API that accepts a key and then says that it does not count.
type stateSpec struct {
	Pointer string   `json:"pointer"`
	Alive   []string `json:"alive"`
	Dead    []string `json:"dead"`

	at *pointer
}

// listSpec is a call that answers with keys, all of them or a page.
type listSpec struct {
	callSpec
	Items   string    `json:"items"`
	Name    string    `json:"name"`
	ID      string    `json:"id"`
	Created string    `json:"created"`
	Page    *pageSpec `json:"page"`
	Prefix  string    `json:"prefix_parameter"`

	items, name, id, created *pointer
}

type pageSpec struct {
	Style         string `json:"style"`
	Parameter     string `json:"parameter"`
	Start         *int   `json:"start"`
	Size          int    `json:"size"`
	SizeParameter string `json:"size_parameter"`
	Next          string `json:"next"`
	More          string `json:"more"`

	start      int
	next, more *pointer
}

type byHandSpec struct {
	Make string `json:"make"`
	End  string `json:"end"`
}

// parseDefinition reads a definition and checks it as a whole, so that what is wrong with
// it is said when the connection is written, and not at the first rotation in the night.
func parseDefinition(text string, parameters map[string]string) (*definition, []string, error) {
	if text == "" {
		return nil, nil, fault.Field(definitionField, "is required: a JSON document that says how the API makes, verifies and ends keys")
	}
	if len(text) > maxDefinitionBytes {
		return nil, nil, fault.Field(definitionField, "must not be longer than %d bytes", maxDefinitionBytes)
	}
	d := &definition{}
	if err := decodeStrictly(text, d); err != nil {
		return nil, nil, fault.Field(definitionField, "%v", err)
	}
	c := &compiler{parameters: parameters, mentioned: map[string]bool{}}
	c.definition(d)
	c.unused()
	if c.err != nil {
		return nil, nil, c.err
	}
	return d, c.warnings, nil
}

// decodeStrictly decodes exactly one JSON document in which every field is known, and
// stands once: of two that contradict each other, a reader of the definition would have
// seen one, and the decoder taken the other.
func decodeStrictly(text string, out any) error {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(out); err != nil {
		return decodingError(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("must be one JSON document, and nothing after it")
	}
	twice := json.NewDecoder(strings.NewReader(text))
	return refuseTwice(twice, "", false)
}

func decodingError(err error) error {
	var syntax *json.SyntaxError
	var typed *json.UnmarshalTypeError
	switch {
	case errors.As(err, &typed) && typed.Field == "":
		return fmt.Errorf("must be a JSON object, and is of type %s", typed.Value)
	case errors.As(err, &typed):
		// The path holds the Go names of embedded structs, which are no part of the document.
		return fmt.Errorf("%s must not be a %s", strings.ReplaceAll(typed.Field, "callSpec.", ""), typed.Value)
	case errors.As(err, &syntax):
		return fmt.Errorf("is not JSON: %w, at byte %d", syntax, syntax.Offset)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("is not JSON: it ends too early")
	}
	return fmt.Errorf("%.200s", strings.TrimPrefix(err.Error(), "json: "))
}

// foreign are the fields below which names are the API's, which may tell upper case from
// lower. All others are ours, and are found in either case.
var foreign = []string{"body", "form", "query"}

// refuseTwice reads one value, and refuses an object in it that has a name twice.
func refuseTwice(dec *json.Decoder, at string, exact bool) error {
	next, err := dec.Token()
	if err != nil {
		return decodingError(err)
	}
	switch next {
	case json.Delim('{'):
		seen := map[string]bool{}
		for dec.More() {
			name, err := dec.Token()
			if err != nil {
				return decodingError(err)
			}
			field, _ := name.(string)
			key := field
			if !exact {
				key = strings.ToLower(field)
			}
			if seen[key] {
				return fmt.Errorf("%.200s: is given twice", join(at, field))
			}
			seen[key] = true
			if err := refuseTwice(dec, join(at, field), exact || slices.Contains(foreign, key)); err != nil {
				return err
			}
		}
	case json.Delim('['):
		for dec.More() {
			if err := refuseTwice(dec, at, exact); err != nil {
				return err
			}
		}
	default:
		return nil
	}
	_, err = dec.Token() // the end of the object, or array
	return err
}

// join appends a name to a place within the definition.
func join(at, name string) string {
	if at == "" {
		return name
	}
	return at + "." + name
}

// decodeBody reads the JSON value of a body.
func decodeBody(raw json.RawMessage) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var body any
	err := dec.Decode(&body)
	return body, err
}
