package tests

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/runbook"
)

func readRunbook(t *testing.T) (text string, blocks []runbook.Block) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "docs", "runbook.md"))
	require.NoError(t, err)
	blocks, err = runbook.Read(string(raw))
	require.NoError(t, err)
	return string(raw), blocks
}

var (
	apiHeading = regexp.MustCompile(`(?m)^## ([a-z][^ \n]*)$`)
	usedPath   = regexp.MustCompile(`rotation/([a-z][^ \n"'\x60;,)]*)`)
	apiName    = regexp.MustCompile(`:[a-z]+`)
)

// notOperators are the paths that a runbook does without: they are what applications ask for, or only
// list names.
var notOperators = []string{
	"creds/:name/versions/:version", "oidc/:name/.well-known/openid-configuration",
	"encrypt/:name", "decrypt/:name", "rewrap/:name", "datakey/plaintext/:name", "datakey/wrapped/:name",
	"connections", "channels", "roles", "incidents", "reencrypt/:name/targets", "reencrypt/:name/cancel", "reencrypt/:name/reopen",
	"reconcile/:name", "metrics", "public/metrics",
}

// The runbook has a use for each path of the API that is an operator's, and names none that there is not.
func TestRunbookKnowsTheAPI(t *testing.T) {
	t.Parallel()
	page, _ := readRunbook(t)
	api, err := os.ReadFile(filepath.Join("..", "docs", "api.md"))
	require.NoError(t, err)
	unused := map[string]*regexp.Regexp{}
	for _, found := range apiHeading.FindAllStringSubmatch(string(api), -1) {
		unused[found[1]] = regexp.MustCompile("^" + apiName.ReplaceAllString(regexp.QuoteMeta(found[1]), "[^/]+") + "$")
	}
	require.Greater(t, len(unused), 40, "the test no longer finds the paths")
	known := maps.Clone(unused)
	for _, found := range usedPath.FindAllStringSubmatch(page, -1) {
		there := false
		for name, form := range known {
			if form.MatchString(found[1]) {
				there = true
				delete(unused, name)
			}
		}
		assert.True(t, there, "rotation/%s is no path of docs/api.md", found[1])
	}
	for _, name := range notOperators {
		assert.Contains(t, known, name, "there is no such path any more")
		assert.Contains(t, unused, name, "the runbook has a use for it: take it off the list")
		delete(unused, name)
	}
	assert.Empty(t, unused, "the runbook has no use for these paths")
}
