package kubernetes

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/kubernetestest"
)

var vaultCommands = regexp.MustCompile(`(?s)\$ (vault write .*?)\n\$ (vault read .*?)\n(\[.*?\n\])`)

// The quick start of the page is true, and its check prints what the page says, of an account that may
// not restart web. What kubectl does there, and the manifest, the runbook's journey does.
func TestTheQuickStartOfThePage(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t, vault(t)), t.Context()
	right := func(name string, verbs ...string) kubernetestest.Rule {
		return kubernetestest.Rule{Groups: []string{"apps"}, Resources: []string{"deployments"}, Names: []string{name}, Verbs: verbs}
	}
	token, err := w.kubernetes.ServiceAccount(ctx, w.namespace, "vault-rotation", right("api", "get", "patch"), right("web", "get"))
	require.NoError(t, err)
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", "kubernetes.md"))
	require.NoError(t, err)
	page := strings.NewReplacer(
		"https://10.0.0.1:6443", w.kubernetes.Address(), "rotation/connections/", w.mount+"/connections/",
		"default/deployment/", w.namespace+"/deployment/", "namespace default", "namespace "+w.namespace,
		"serviceaccount:vault:", "serviceaccount:"+w.namespace+":",
	).Replace(string(raw))
	found := vaultCommands.FindStringSubmatch(page)
	require.NotNil(t, found, "the page has no such commands any more")

	command, dir := w.vault.Command(ctx), t.TempDir()
	require.NoError(t, os.Symlink(command.Path, filepath.Join(dir, "vault")))
	for name, content := range map[string]string{"token": token + "\n", "ca.pem": w.kubernetes.CAPEM()} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	run := func(code string) []byte {
		shell := exec.CommandContext(ctx, "bash", "-euc", code)
		shell.Dir, shell.Env = dir, append(command.Env, "PATH="+dir+":/usr/bin:/bin")
		printed, err := shell.Output()
		require.NoError(t, err, "%s\n%s", code, printed)
		return printed
	}
	run(found[1])
	await(t, "the account's rights", func() (bool, any) {
		lines := w.lines("connections/prod/check")
		return len(lines) == 3 && lines[1].Result == "pass", lines
	})
	var want, is []checkLine
	require.NoError(t, json.Unmarshal([]byte(found[3]), &want))
	require.NoError(t, json.Unmarshal(run(found[2]), &is))
	require.Equal(t, want, is)
}
