package apikey

import (
	"errors"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// What stands in a template for something that the plugin knows. All other names are
// parameters of the connection.
const (
	nameValue        = "name"         // of a key that is made
	idValue          = "id"           // of the key in question, as the provider calls it
	keyValue         = "key"          // the key in question
	adminKeyValue    = "admin_key"    // the connection's own
	adminSecretValue = "admin_secret" // and its second one
)

// belongs says where each of them may stand. Secrets stand in what proves who calls, and
// nowhere else: not in a path, which is logged on its way, nor in a body that is no login.
var belongs = map[string]string{
	nameValue:        "create",
	idValue:          "disable, enable, revoke and replace",
	keyValue:         "key",
	adminKeyValue:    "admin",
	adminSecretValue: "admin",
}

// values are what fills a template.
type values map[string]string

var placeholder = regexp.MustCompile(`\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}`)

// template is a text with {{placeholders}}. There is no more to the language than that:
// what a definition can do is to be seen by reading it.
type template []templatePart

// templatePart is either text or the name of a placeholder.
type templatePart struct{ text, name string }

func parseTemplate(text string) (template, error) {
	var t template
	var literal strings.Builder
	add := func(part templatePart) {
		if part != (templatePart{}) {
			t = append(t, part)
			literal.WriteString(part.text + "\n")
		}
	}
	from := 0
	for _, at := range placeholder.FindAllStringSubmatchIndex(text, -1) {
		add(templatePart{text: text[from:at[0]]})
		add(templatePart{name: text[at[2]:at[3]]})
		from = at[1]
	}
	add(templatePart{text: text[from:]})
	if rest := literal.String(); strings.Contains(rest, "{{") || strings.Contains(rest, "}}") {
		return nil, errors.New("has {{ or }} that is not part of a placeholder such as {{name}}")
	}
	return t, nil
}

// mentions tells whether a placeholder is in the template.
func (t template) mentions(name string) bool {
	return slices.ContainsFunc(t, func(part templatePart) bool { return part.name == name })
}

// fill puts values in the place of their names, each through escape.
func (t template) fill(v values, escape func(string) string) string {
	var out strings.Builder
	for _, part := range t {
		if part.name == "" {
			out.WriteString(part.text)
		} else {
			out.WriteString(escape(v[part.name]))
		}
	}
	return out.String()
}

// asIs is the escape of what is encoded as a whole afterwards, or not at all.
func asIs(s string) string { return s }

// fillHeader fills the value of a header. It is one line of printable ASCII, or refused:
// what follows a line break would be a header of its own.
func (t template) fillHeader(name string, v values) (string, error) {
	value := t.fill(v, asIs)
	if !printable(value) {
		return "", fault.New(fault.Invalid, "the header %s would hold characters that a header cannot", name)
	}
	return value, nil
}

// fillPath fills a path. Each value is escaped, so that it is one segment of the path or
// a part of one; and that servers which unescape too much find no way up in it either.
func (t template) fillPath(v values) (string, error) {
	path := t.fill(v, url.PathEscape)
	if err := checkPath(path); err != nil {
		return "", err
	}
	return path, nil
}

// checkPath refuses a path that is more than a path, or that leads up.
func checkPath(path string) error {
	switch {
	case !strings.HasPrefix(path, "/"):
		return errors.New("must begin with /: it is appended to base_url")
	case strings.Contains(path, "//"):
		return errors.New("must not contain //")
	case strings.Contains(path, "#"):
		return errors.New("must not contain #")
	case !printable(path) || strings.Contains(path, " "):
		return errors.New("must be printable ASCII without spaces: write other characters percent-encoded")
	}
	plain, err := url.PathUnescape(path)
	switch {
	case err != nil:
		return errors.New("has a % that is not followed by two hexadecimal digits")
	case strings.Contains(plain, `\`):
		return errors.New(`must not contain \`)
	}
	// Some proxies unescape once, and the server behind them once more.
	for _, plain := range []string{plain, unescapeAll(plain)} {
		for segment := range strings.FieldsFuncSeq(plain, func(r rune) bool { return r == '/' || r == '\\' }) {
			// Some servers drop what follows a semicolon before they look.
			if segment, _, _ = strings.Cut(segment, ";"); segment == "." || segment == ".." {
				return errors.New("must not have a segment . or .., which leads up")
			}
		}
	}
	return nil
}

var percentEncoded = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)

// unescapeAll unescapes what is percent-encoded, and leaves what only looks like it.
func unescapeAll(text string) string {
	return percentEncoded.ReplaceAllStringFunc(text, func(encoded string) string {
		if plain, err := url.PathUnescape(encoded); err == nil {
			return plain
		}
		return encoded
	})
}

// printable tells whether a text is ASCII without control characters.
func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}
