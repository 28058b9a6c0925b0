package postgres

import (
	"strings"
	"unicode/utf8"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// TableName is a table with its schema, each as the catalog has it.
type TableName struct{ Schema, Table string }

// String is the name as SQL writes it.
func (n TableName) String() string { return Ident(n.Schema) + "." + Ident(n.Table) }

// ParseTableName reads a name as SQL writes it, its schema included: what a name without
// one means would change with settings. Errors are Invalid and speak of the field table.
func ParseTableName(text string) (TableName, error) {
	parts, ok := splitName(text, false)
	if !ok || len(parts) != 2 {
		return TableName{}, fault.Field("table", `must be schema.table, as SQL writes it: in double quotes what is not lower case letters, digits and underscores, such as public."Order"`)
	}
	for _, part := range parts {
		if len(part) > MaxIdentifier {
			return TableName{}, fault.Field("table", "has a name of more than %d bytes, of which PostgreSQL knows none", MaxIdentifier)
		}
	}
	return TableName{Schema: parts[0], Table: parts[1]}, nil
}

// ParseTablePattern reads a name in which asterisks stand for anything within the schema's
// name, or within the table's. In double quotes, where they would stand for themselves, they
// are refused.
func ParseTablePattern(text string) (TableName, bool) {
	parts, ok := splitName(text, true)
	if !ok || len(parts) != 2 {
		return TableName{}, false
	}
	return TableName{Schema: parts[0], Table: parts[1]}, true
}

// splitName splits a dotted name into parts without their quotes. Parts without quotes are
// folded to lower case, as the server does: letters of ASCII alone.
func splitName(text string, pattern bool) (parts []string, ok bool) {
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return nil, false
	}
	for {
		text = strings.TrimLeft(text, nameSpace)
		part, rest, ok := cutQuoted(text)
		if !strings.HasPrefix(text, `"`) {
			part, rest, ok = cutPlain(text, pattern)
		} else if pattern && strings.Contains(part, "*") {
			return nil, false
		}
		if !ok || part == "" {
			return nil, false
		}
		parts = append(parts, part)
		rest = strings.TrimLeft(rest, nameSpace)
		if rest == "" {
			return parts, true
		}
		if text, ok = strings.CutPrefix(rest, "."); !ok {
			return nil, false
		}
	}
}

// nameSpace may stand around the dot of a name.
const nameSpace = " \t\n\r\f\v"

// cutQuoted takes a name in double quotes, in which two stand for one.
func cutQuoted(text string) (name, rest string, ok bool) {
	text, ok = strings.CutPrefix(text, `"`)
	for ok {
		var part string
		if part, text, ok = strings.Cut(text, `"`); !ok {
			break
		}
		name += part
		if !strings.HasPrefix(text, `"`) {
			return name, text, true
		}
		name, text = name+`"`, text[1:]
	}
	return "", "", false
}

// cutPlain takes a name without quotes.
func cutPlain(text string, pattern bool) (name, rest string, ok bool) {
	end := len(text) - len(strings.TrimLeftFunc(text, func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '$' || r >= utf8.RuneSelf || pattern && r == '*'
	}))
	name = strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, text[:end])
	if name == "" || name[0] == '$' || name[0] >= '0' && name[0] <= '9' && !pattern {
		return "", "", false
	}
	return name, text[end:], true
}
