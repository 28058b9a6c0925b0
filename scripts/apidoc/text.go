package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	rotationsecrets "github.com/intelliflow/vault-plugin-secrets-rotation"
)

const mount = "rotation/"

// command is the vault command of an example.
func command(verb, path string, data map[string]any) string {
	words := []string{"vault", verb, mount + filled(path)}
	if verb == "write" && len(data) == 0 {
		words = slices.Insert(words, 2, "-f")
	}
	for _, name := range inOrder(data) {
		words = append(words, fmt.Sprintf("%s=%s", name, quoted(fmt.Sprint(data[name]))))
	}
	const width = 100
	if line := strings.Join(words, " "); len(line) <= width {
		return line
	}
	return strings.Join(words[:3], " ") + " \\\n    " + strings.Join(words[3:], " \\\n    ")
}

// fetch is the command for a document that comes without Vault's envelope.
func fetch(_, path string, _ map[string]any) string {
	return "curl $VAULT_ADDR/v1/" + mount + filled(path)
}

// filled puts names into the places that vary.
func filled(path string) string {
	name := "database"
	switch kind, _, _ := strings.Cut(path, "/"); kind {
	case "connections":
		name = "main"
	case "encrypt", "decrypt", "rewrap", "datakey", "reencrypt":
		name = "customer-data"
	case "sign", "verify", "jwks", "oidc":
		name = "session"
	}
	return strings.NewReplacer(":name", name, ":id", "20260301T100000Z-5f2c9a", ":version", "3", ":target", "cards").Replace(path)
}

// inOrder sorts an example's fields, what they are about first.
func inOrder(data map[string]any) []string {
	rank := map[string]int{"type": -2, "connection": -1}
	return slices.SortedFunc(maps.Keys(data), func(a, b string) int {
		if rank[a] != rank[b] {
			return rank[a] - rank[b]
		}
		return strings.Compare(a, b)
	})
}

// quoted protects a value from the shell.
func quoted(value string) string {
	if strings.ContainsAny(value, " '\"$&;<>|{}()*?!#\\") {
		return "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
	}
	return value
}

func indented(data map[string]any) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(data); err != nil {
		panic(err) // an example is made of plain values
	}
	return strings.TrimSpace(b.String())
}

// anchor is what GitHub makes of a heading.
func anchor(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			return r
		default:
			return -1
		}
	}, strings.ToLower(heading))
}

func typeName(t framework.FieldType) string {
	switch t {
	case framework.TypeDurationSecond:
		return "duration"
	case framework.TypeInt64:
		return "int"
	case framework.TypeKVPairs:
		return "key=value"
	case framework.TypeCommaStringSlice, framework.TypeStringSlice, framework.TypeSlice:
		return "list"
	default:
		return t.String()
	}
}

func defaultOf(f *framework.FieldSchema) string {
	if f.Default == nil {
		return ""
	}
	switch v := f.DefaultOrZero().(type) {
	case int:
		if f.Type == framework.TypeDurationSecond {
			return code(rotationsecrets.Brief(time.Duration(v) * time.Second))
		}
		return code(fmt.Sprint(v))
	case []string:
		return code(strings.Join(v, ","))
	default:
		return code(fmt.Sprint(v))
	}
}

func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + text + "`"
}

// cell makes a text fit into a table.
func cell(text string) string {
	return strings.NewReplacer("|", "\\|", "<", "&lt;").Replace(oneLine(text))
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
