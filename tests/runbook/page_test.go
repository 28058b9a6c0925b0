package runbook

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPagesAreRead(t *testing.T) {
	t.Parallel()
	const f = "```"
	blocks, err := Read("# A page\n" + f + "sh\nfirst\nsecond\n" + f + "\n\n" + f + "text\nkey   value\n" + f + "\n" +
		f + "text\nnobody prints this\n" + f + "\n" + f + "\nnor runs this\n" + f + "\n<!-- meanwhile: it rains -->\nA word.\n" +
		f + "sh until after=25h\nthird\n" + f + "\nA word between them.\n" + f + "text\nnot printed\n" + f + "\n" + f + "sh setup\nzeroth\n" + f + "\n" +
		f + "sh kubernetes\nkubectl get pods\n" + f + "\n")
	require.NoError(t, err)
	require.Equal(t, []Block{
		{Line: 25, Code: "zeroth", Setup: true},
		{Line: 2, Code: "first\nsecond", Prints: []string{"key   value"}},
		{Line: 18, Code: "third", Meanwhile: []string{"it rains"}, Until: true, After: 25 * time.Hour},
		{Line: 28, Code: "kubectl get pods", Kubernetes: true},
	}, blocks)

	for _, bad := range []string{f + "sh\nno end", f + "sh sometimes\nx\n" + f, f + "sh after=soon\nx\n" + f, "<!-- meanwhile: nothing follows -->\n"} {
		_, err := Read(bad)
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
		b := Block{}
		if want != "" {
			b.Prints = strings.Split(want, "\n")
		}
		assert.Equal(t, missing, b.Missing(printed), want)
	}
}
