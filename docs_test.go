package rotationsecrets_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	rotationsecrets "github.com/intelliflow/vault-plugin-secrets-rotation"
)

// Documentation that people copy from must stay true: links lead somewhere, and
// every command and policy names a path, an operation and fields that exist.

var (
	fence    = regexp.MustCompile("(?ms)^```.*?^```$")
	link     = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	heading  = regexp.MustCompile(`(?m)^#{1,6} +(.+)$`)
	linkText = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	notSlug  = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

func TestLinksInDocumentationLeadSomewhere(t *testing.T) {
	pages := pages(t)
	checked := 0
	for file, text := range pages {
		for _, found := range link.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			target, anchor, _ := strings.Cut(found[1], "#")
			if strings.Contains(target, ":") { // another site
				continue
			}
			checked++
			path := file
			if target != "" {
				path = filepath.Join(filepath.Dir(file), target)
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: the link %s leads nowhere", file, found[1])
				continue
			}
			if text, isPage := pages[path]; anchor != "" && isPage && !slices.Contains(anchors(text), anchor) {
				t.Errorf("%s: the link %s: there is no such heading", file, found[1])
			}
		}
	}
	require.Greater(t, checked, 50, "the test no longer finds the links")
}

// anchors are what GitHub makes of a page's headings.
func anchors(text string) (all []string) {
	seen := map[string]int{}
	for _, found := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		plain := linkText.ReplaceAllString(found[1], "$1")
		slug := strings.ReplaceAll(notSlug.ReplaceAllString(strings.ToLower(plain), ""), " ", "-")
		n := seen[slug]
		seen[slug]++
		if n > 0 {
			slug += "-" + strconv.Itoa(n)
		}
		all = append(all, slug)
	}
	return all
}

var (
	command = regexp.MustCompile("vault (read|write|list|delete) ([^`\n]*)")
	ours    = regexp.MustCompile(`^rotation(-[a-z])?/(.+)$`)
	hole    = regexp.MustCompile(`<[a-z]+>|\$[A-Za-z_]+`) // <role>, $role, $INCIDENT
	given   = regexp.MustCompile(`^([a-z_]+)=`)
	policy  = regexp.MustCompile(`(?s)path "rotation/([^"]+)"\s*\{\s*capabilities = \[([^\]]*)\]`)
)

var verbs = map[string][]logical.Operation{
	"read":   {logical.ReadOperation},
	"write":  {logical.UpdateOperation},
	"update": {logical.UpdateOperation},
	"create": {logical.UpdateOperation},
	"list":   {logical.ListOperation},
	"delete": {logical.DeleteOperation},
}

func TestCommandsInDocumentationExist(t *testing.T) {
	b, checked := mounted(t), 0
	for file, text := range pages(t) {
		text = strings.ReplaceAll(text, "\\\n", " ")
		for _, found := range command.FindAllStringSubmatch(text, -1) {
			words := strings.Fields(hole.ReplaceAllString(found[2], "x"))
			words = slices.DeleteFunc(words, func(w string) bool { return strings.HasPrefix(w, "-") })
			if len(words) == 0 {
				continue
			}
			name := ours.FindStringSubmatch(strings.Trim(words[0], `"');`))
			if name == nil {
				continue // a path of Vault's own
			}
			checked++
			path := b.Route(name[2])
			if path == nil || !offers(path, verbs[found[1]]) {
				t.Errorf("%s: vault %s %s: there is no such path or operation", file, found[1], name[0])
				continue
			}
			for _, word := range words[1:] {
				field := given.FindStringSubmatch(word)
				if field != nil && path.Fields[field[1]] == nil {
					t.Errorf("%s: vault %s %s: there is no field %s", file, found[1], name[0], field[1])
				}
			}
		}
	}
	require.Greater(t, checked, 80, "the test no longer finds the commands")
}

func TestPoliciesInDocumentationFit(t *testing.T) {
	b, checked := mounted(t), 0
	for file, text := range pages(t) {
		for _, found := range policy.FindAllStringSubmatch(text, -1) {
			for capability := range strings.SplitSeq(found[2], ",") {
				checked++
				capability = strings.Trim(capability, ` "`)
				if !slices.ContainsFunc(b.Paths, func(p *framework.Path) bool { return allows(found[1], capability, p) }) {
					t.Errorf("%s: policy for rotation/%s: nothing there takes %s", file, found[1], capability)
				}
			}
		}
	}
	require.Greater(t, checked, 20, "the test no longer finds the policies")
}

// allows tells whether a policy's capability means anything for a path.
func allows(pattern, capability string, p *framework.Path) bool {
	name, prefix := rotationsecrets.PathName(p), strings.TrimSuffix(pattern, "*")
	switch {
	case !offers(p, verbs[capability]):
		return false
	case prefix == pattern:
		pattern = strings.ReplaceAll(pattern, "+", "x") // any one name
		return p.Pattern != "" && regexp.MustCompile("^"+strings.Trim(p.Pattern, "^$")+"$").MatchString(pattern)
	default: // vault list asks for the path with a slash at its end
		return strings.HasPrefix(name+"/", prefix)
	}
}

func TestReadmeHasAnExampleOfEveryPath(t *testing.T) {
	readme := pages(t)["README.md"]
	for _, p := range mounted(t).Paths {
		require.Contains(t, readme, "| [`"+rotationsecrets.PathName(p)+"`](docs/api.md#")
	}
}

func offers(p *framework.Path, ops []logical.Operation) bool {
	return slices.ContainsFunc(ops, func(op logical.Operation) bool { return p.Operations[op] != nil })
}

func mounted(t *testing.T) *rotationsecrets.Backend {
	t.Helper()
	mount, err := rotationsecrets.Factory(t.Context(), &logical.BackendConfig{
		System:      logical.StaticSystemView{},
		StorageView: &logical.InmemStorage{},
	})
	require.NoError(t, err)
	t.Cleanup(func() { mount.Cleanup(context.Background()) })
	return mount.(*rotationsecrets.Backend)
}

// pages are the project's Markdown files.
func pages(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	require.NoError(t, filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != "." && (strings.HasPrefix(entry.Name(), ".") || slices.Contains([]string{"bin", "dist", "testdata"}, entry.Name())):
			return fs.SkipDir
		case filepath.Ext(path) != ".md":
			return nil
		}
		text, err := os.ReadFile(path)
		all[path] = string(text)
		return err
	}))
	return all
}
