package rotationsecrets

import (
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// maxName bounds every name in a path, in characters.
const maxName = 128

// addressesPath tells whether an operation is a request to one of our paths, and
// not one of the calls by which Vault drives the mount.
func addressesPath(op logical.Operation) bool {
	switch op {
	case logical.CreateOperation, logical.UpdateOperation, logical.ReadOperation,
		logical.ListOperation, logical.DeleteOperation:
		return true
	default:
		return false
	}
}

// checkInput refuses what no handler should see, each with a sentence that names
// the field: names out of bounds, fields that the path does not have (Vault would
// only warn, after the deed), and values of another form. No sentence repeats a
// value: it may be a secret in the wrong place. Objects and lists that came as JSON
// text, which is all that the command line can give, are read into the request.
func (b *Backend) checkInput(req *logical.Request) error {
	if err := checkSegments(req.Path); err != nil {
		return err
	}
	if len(req.Data) == 0 {
		return nil // reading credentials ends here: its path is looked up once only
	}
	path := b.Route(req.Path)
	if path == nil {
		return nil // the framework answers 404
	}
	given := slices.Sorted(maps.Keys(req.Data))
	for _, name := range given {
		schema, known := path.Fields[name]
		switch {
		case known:
			if err := checkForm(req.Data, name, schema); err != nil {
				return err
			}
		case req.Operation != logical.ReadOperation && req.Operation != logical.ListOperation:
			return unknownField(path, name)
		}
	}
	return nil
}

// checkSegments bounds the names in a path. Vault's storage refuses "..".
func checkSegments(path string) error {
	for segment := range strings.SplitSeq(path, "/") {
		if len(segment) > maxName {
			return fault.Field("name", "has %d characters; at most %d are allowed", len(segment), maxName)
		}
		if strings.Contains(segment, "..") {
			return fault.Field("name", "may not contain two dots in a row")
		}
	}
	return nil
}

func checkForm(values map[string]any, name string, schema *framework.FieldSchema) error {
	if schema.Type == framework.TypeMap || schema.Type == framework.TypeSlice {
		return readJSON(values, name, schema.Type)
	}
	data := framework.FieldData{Raw: values, Schema: map[string]*framework.FieldSchema{name: schema}}
	if _, _, err := data.GetOkErr(name); err != nil {
		return fault.Field(name, "must be %s", form(schema.Type))
	}
	return nil
}

// form says what a value of a type looks like.
func form(t framework.FieldType) string {
	switch t {
	case framework.TypeDurationSecond:
		return "a duration that is not negative: seconds, or a number with a unit such as 30d, 12h or 90s"
	case framework.TypeInt, framework.TypeInt64:
		return "a whole number"
	case framework.TypeBool:
		return "true or false"
	case framework.TypeKVPairs:
		return "pairs of key=value, one at a time, or a JSON object of strings"
	case framework.TypeCommaStringSlice:
		return "a list of texts: separated by commas, or a JSON array"
	case framework.TypeMap:
		return `a JSON object such as {"sub": "user-1"}`
	case framework.TypeSlice:
		return `a JSON list such as [{...}, {...}]`
	case framework.TypeStringSlice:
		return "one text or more: the field repeated, or a JSON array"
	default:
		return "a text"
	}
}

// unknownField names the field and what was probably meant.
func unknownField(path *framework.Path, name string) error {
	var fields []string
	for field := range path.Fields {
		if !strings.Contains(path.Pattern, "<"+field+">") {
			fields = append(fields, field)
		}
	}
	return unknown(name, PathName(path), fields)
}

// unknown names a field that whole does not have, and what was probably meant of
// those that it has.
func unknown(name, whole string, fields []string) error {
	const most = 64
	shown := name
	if len(shown) > most {
		shown = shown[:most] + "..."
	}
	slices.Sort(fields)
	where := "is not a field of " + whole
	switch near := nearest(name, fields); {
	case near != "":
		return fault.Field(shown, "%s; did you mean %s?", where, near)
	case len(fields) == 0:
		return fault.Field(shown, "%s, which takes none", where)
	default:
		return fault.Field(shown, "%s, which takes %s", where, strings.Join(fields, ", "))
	}
}

// nearest is the known name that is at most a few keystrokes away, or "".
func nearest(name string, known []string) string {
	best, fewest := "", 1+len(name)/3
	for _, k := range known {
		if d := keystrokes(name, k); d <= fewest && (best == "" || d < fewest) {
			best, fewest = k, d
		}
	}
	return best
}

// keystrokes is the edit distance of two names (Wagner and Fischer).
func keystrokes(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
