package tests

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The runbook as a test reads it. A fence of ```sh is run by bash, all in one go, and fails when one of
// its commands does. Words behind sh say more:
//
//	setup        it is run before all others
//	after=25h    so much time goes by before it
//	until        it is repeated, and time goes by, until it prints what is expected
//	kubernetes   it is run where there is a cluster, and not here
//
// A fence of ```text right behind it is what it prints, line by line: lines may be missing in between,
// blanks count as one, and ... stands for anything within a line. A comment <!-- meanwhile: ... --> names
// what happens outside before the next command, which the test does.

// shellBlock is a fence of commands.
type shellBlock struct {
	line      int
	code      string
	prints    []string
	meanwhile []string
	setup     bool
	until     bool
	elsewhere bool // Kubernetes
	after     time.Duration
}

var (
	fenceLine     = regexp.MustCompile("^(?: *)```(.*)$")
	meanwhileLine = regexp.MustCompile(`^<!-- meanwhile: (.+) -->$`)
)

// readPage finds the blocks of a page, those of the setup first.
func readPage(text string) (blocks []shellBlock, err error) {
	var meanwhile []string
	lines := strings.Split(text, "\n")
	follows := false // nothing but blank lines since the last block
	for i := 0; i < len(lines); i++ {
		if found := meanwhileLine.FindStringSubmatch(lines[i]); found != nil {
			meanwhile = append(meanwhile, found[1])
		}
		opening := fenceLine.FindStringSubmatch(lines[i])
		if opening == nil {
			follows = follows && strings.TrimSpace(lines[i]) == ""
			continue
		}
		start := i + 1
		for i++; i < len(lines) && fenceLine.FindStringSubmatch(lines[i]) == nil; i++ {
		}
		if i == len(lines) {
			return nil, fmt.Errorf("line %d: the fence has no end", start)
		}
		inside := outdented(lines[start:i], len(lines[start-1])-len(strings.TrimLeft(lines[start-1], " ")))
		words := strings.Fields(opening[1])
		switch {
		case follows && slices.Equal(words, []string{"text"}):
			blocks[len(blocks)-1].prints = inside
			follows = false
		case len(words) > 0 && words[0] == "sh":
			b := shellBlock{line: start, code: strings.Join(inside, "\n"), meanwhile: meanwhile}
			if err := b.read(words[1:]); err != nil {
				return nil, fmt.Errorf("line %d: %w", start, err)
			}
			blocks, meanwhile, follows = append(blocks, b), nil, true
		default:
			follows = false
		}
	}
	if meanwhile != nil {
		return nil, fmt.Errorf("no command follows what happens meanwhile: %s", meanwhile)
	}
	slices.SortStableFunc(blocks, func(a, b shellBlock) int {
		switch {
		case a.setup == b.setup:
			return 0
		case a.setup:
			return -1
		}
		return 1
	})
	return blocks, nil
}

// outdented takes the blanks away by which a fence in a list is moved to the right.
func outdented(lines []string, by int) (out []string) {
	for _, line := range lines {
		out = append(out, strings.TrimPrefix(line, strings.Repeat(" ", by)))
	}
	return out
}

func (b *shellBlock) read(words []string) (err error) {
	for _, word := range words {
		switch name, value, _ := strings.Cut(word, "="); name {
		case "setup":
			b.setup = true
		case "until":
			b.until = true
		case "kubernetes":
			b.elsewhere = true
		case "after":
			if b.after, err = time.ParseDuration(value); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%q says nothing of how a block is run", word)
		}
	}
	return nil
}

// missing is the first line that was to be printed and was not; empty if there is none.
func (b *shellBlock) missing(printed string) string {
	at, lines := 0, strings.Split(printed, "\n")
	for _, want := range b.prints {
		form := lineForm(want)
		for at < len(lines) && !form.MatchString(oneBlank(lines[at])) {
			at++
		}
		if at == len(lines) {
			return want
		}
		at++
	}
	return ""
}

func oneBlank(line string) string { return strings.Join(strings.Fields(line), " ") }

func lineForm(want string) *regexp.Regexp {
	parts := strings.Split(oneBlank(want), "...")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".*") + "$")
}

func readRunbook(t *testing.T) (text string, blocks []shellBlock) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("..", "docs", "runbook.md"))
	require.NoError(t, err)
	blocks, err = readPage(string(raw))
	require.NoError(t, err)
	return string(raw), blocks
}

func TestPagesAreRead(t *testing.T) {
	t.Parallel()
	const f = "```"
	blocks, err := readPage("# A page\n" + f + "sh\nfirst\nsecond\n" + f + "\n\n" + f + "text\nkey   value\n" + f + "\n" +
		f + "text\nnobody prints this\n" + f + "\n" + f + "\nnor runs this\n" + f + "\n<!-- meanwhile: it rains -->\nA word.\n" +
		f + "sh until after=25h\nthird\n" + f + "\nA word between them.\n" + f + "text\nnot printed\n" + f + "\n" + f + "sh setup\nzeroth\n" + f + "\n" +
		f + "sh kubernetes\nkubectl get pods\n" + f + "\n")
	require.NoError(t, err)
	require.Equal(t, []shellBlock{
		{line: 25, code: "zeroth", setup: true},
		{line: 2, code: "first\nsecond", prints: []string{"key   value"}},
		{line: 18, code: "third", meanwhile: []string{"it rains"}, until: true, after: 25 * time.Hour},
		{line: 28, code: "kubectl get pods", elsewhere: true},
	}, blocks)

	for _, bad := range []string{f + "sh\nno end", f + "sh sometimes\nx\n" + f, f + "sh after=soon\nx\n" + f, "<!-- meanwhile: nothing follows -->\n"} {
		_, err := readPage(bad)
		assert.Error(t, err, bad)
	}
}

func TestWhatIsPrintedIsCompared(t *testing.T) {
	t.Parallel()
	const printed = "Key       Value\n---       -----\nkilled    [map[proven_dead:true version:1]]\nstatus    contained\nversion   2\n"
	for want, missing := range map[string]string{
		"":                                   "",
		"status contained":                   "",
		"killed [...version:1]]\nversion 2":  "",
		"killed ...\n...\nversion 2":         "",
		"status open":                        "status open",
		"status":                             "status",
		"tatus contained":                    "tatus contained",
		"version 2\nstatus contained":        "status contained",
		"status contained\nstatus contained": "status contained",
		"killed .*":                          "killed .*",
	} {
		b := shellBlock{}
		if want != "" {
			b.prints = strings.Split(want, "\n")
		}
		assert.Equal(t, missing, b.missing(printed), want)
	}
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
