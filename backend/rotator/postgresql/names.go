package postgresql

import (
	"crypto/rand"
	"fmt"
	"math/big"
	"regexp"
	"strings"
	"text/template/parse"

	"github.com/hashicorp/vault/sdk/helper/template"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
)

const (
	lowerAlphabet    = "abcdefghijklmnopqrstuvwxyz0123456789"
	passwordAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	passwordLength   = 40
	randomPart       = 8
)

// userName is what a generated name may look like. It is quoted wherever it is
// used; that it needs no quotes spares every client and every pg_hba.conf.
var userName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.@-]*$`)

// nameData is what a username_template knows.
type nameData struct {
	RoleName   string
	Version    int
	RotationID string
}

// name makes the user name of a version.
func (o *roleOptions) name(data nameData) (string, error) {
	if o.UsernameTemplate != "" {
		return fromTemplate(o.UsernameTemplate, data)
	}
	prefix := o.UsernamePrefix
	if prefix == "" {
		prefix = derivedPrefix(data.RoleName)
	}
	name := fmt.Sprintf("%s_v%d_%s", prefix, data.Version, random(lowerAlphabet, randomPart))
	return name, checkName("username_prefix", name)
}

// checkNames tries the names out, so that a role is refused when it is written
// and not when it rotates.
func (o *roleOptions) checkNames(role string) error {
	if o.UsernameTemplate != "" && o.UsernamePrefix != "" {
		return fault.Field("username_template", "and username_prefix exclude each other")
	}
	if o.UsernamePrefix != "" {
		if len(o.UsernamePrefix) > maxNamePartOfRole {
			return fault.Field("username_prefix", "must be at most %d bytes, so that the user name fits in %d", maxNamePartOfRole, postgres.MaxIdentifier)
		}
		return checkName("username_prefix", o.UsernamePrefix)
	}
	// The longest data that may occur shows the longest name.
	one, err := o.name(nameData{role, 1, "00000000-0000-0000-0000-000000000000"})
	if err != nil {
		return err
	}
	many, err := o.name(nameData{role, 99999, "11111111-1111-1111-1111-111111111111"})
	if err != nil {
		return err
	}
	if one == many {
		return fault.Field("username_template", "must yield another name for each version: use .Version, .RotationID or random")
	}
	return nil
}

func checkName(field, name string) error {
	switch {
	case len(name) > postgres.MaxIdentifier:
		return fault.Field(field, "yields a user name of %d bytes; PostgreSQL allows %d", len(name), postgres.MaxIdentifier)
	case !userName.MatchString(name):
		return fault.Field(field, "yields something that is not a plain user name (a letter or underscore, then letters, digits and _.@-)")
	case strings.HasPrefix(strings.ToLower(name), predefinedPrefix):
		return fault.Field(field, "must not yield a name that begins with %s, which PostgreSQL keeps for itself", predefinedPrefix)
	case strings.EqualFold(name, "public"), strings.EqualFold(name, "none"):
		return fault.Field(field, "yields a name that PostgreSQL reserves")
	}
	return nil
}

// derivedPrefix makes a plain prefix of a role's name.
func derivedPrefix(role string) string {
	plain := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '_':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '_'
	}, role)
	if plain == "" || plain[0] >= '0' && plain[0] <= '9' || strings.HasPrefix(plain, predefinedPrefix) {
		plain = "r_" + plain
	}
	return plain[:min(len(plain), maxNamePartOfRole)]
}

func fromTemplate(text string, data nameData) (string, error) {
	const field = "username_template"
	if err := checkTemplate(text); err != nil {
		return "", err
	}
	t, err := template.NewTemplate(template.Template(text))
	if err != nil {
		return "", fault.Field(field, "is not a valid template")
	}
	name, err := t.Generate(data)
	if err != nil {
		return "", fault.Field(field, "cannot be filled in: it knows .RoleName, .Version and .RotationID")
	}
	return name, checkName(field, name)
}

// templateFunctions are those of Vault's templates whose output is bounded by
// their input, and what has to be known of them to parse a template.
var templateFunctions = map[string]any{
	"random": "", "truncate": "", "truncate_sha256": "", "uppercase": "", "lowercase": "", "replace": "",
	"sha256": "", "base64": "", "unix_time": "", "unix_time_millis": "", "timestamp": "", "uuid": "",
}

// checkTemplate admits values and functions, and nothing that could make a short
// template yield an endless text: no loops, variables or nested templates, no
// printf, and few replacements.
func checkTemplate(text string) error {
	const field = "username_template"
	if len(text) > maxTemplateBytes {
		return fault.Field(field, "must be at most %d bytes", maxTemplateBytes)
	}
	trees, err := parse.Parse("name", text, "", "", templateFunctions)
	if err != nil || len(trees) != 1 {
		return fault.Field(field, "is not a valid template; it knows the functions of Vault's templates, no others")
	}
	replacements := 0
	for _, node := range trees["name"].Root.Nodes {
		switch n := node.(type) {
		case *parse.TextNode:
		case *parse.ActionNode:
			if err := checkPipe(n.Pipe, &replacements); err != nil {
				return err
			}
		default:
			return fault.Field(field, "may only contain values and functions, no conditions or loops")
		}
	}
	return nil
}

func checkPipe(p *parse.PipeNode, replacements *int) error {
	const field = "username_template"
	if len(p.Decl) > 0 {
		return fault.Field(field, "must not declare variables")
	}
	for _, command := range p.Cmds {
		if !boundedReplace(command) {
			return fault.Field(field, "must give replace two texts of at most %d bytes", maxReplaceBytes)
		}
		for _, arg := range command.Args {
			switch n := arg.(type) {
			case *parse.PipeNode:
				if err := checkPipe(n, replacements); err != nil {
					return err
				}
			case *parse.IdentifierNode:
				if n.Ident == "replace" {
					*replacements++
				}
			case *parse.NumberNode:
				if n.IsInt && n.Int64 > maxTemplateBytes {
					return fault.Field(field, "contains a number that is too large")
				}
			}
		}
	}
	if *replacements > maxTemplateReplace {
		return fault.Field(field, "must not use replace more than %d times", maxTemplateReplace)
	}
	return nil
}

// boundedReplace admits replace with two short literals only, so that it cannot
// make a long text of a short one many times over.
func boundedReplace(c *parse.CommandNode) bool {
	function, isFunction := c.Args[0].(*parse.IdentifierNode)
	if !isFunction || function.Ident != "replace" {
		return true
	}
	if len(c.Args) < 3 {
		return false
	}
	for _, arg := range c.Args[1:3] {
		literal, isLiteral := arg.(*parse.StringNode)
		if !isLiteral || len(literal.Text) > maxReplaceBytes {
			return false
		}
	}
	return true
}

// random makes a text of n characters, each equally likely.
func random(alphabet string, n int) string {
	var b strings.Builder
	for range n {
		i, err := rand.Int(rand.Reader, big.NewInt(int64(len(alphabet))))
		if err != nil {
			panic(err) // crypto/rand ends the program rather than fail
		}
		b.WriteByte(alphabet[i.Int64()])
	}
	return b.String()
}
