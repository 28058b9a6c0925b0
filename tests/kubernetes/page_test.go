package kubernetes

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/kubernetestest"
	page "github.com/intelliflow/vault-plugin-secrets-rotation/tests/runbook"
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
	text := strings.NewReplacer(
		"https://10.0.0.1:6443", w.kubernetes.Address(), "rotation/connections/", w.mount+"/connections/",
		"default/deployment/", w.namespace+"/deployment/", "namespace default", "namespace "+w.namespace,
		"serviceaccount:vault:", "serviceaccount:"+w.namespace+":",
	).Replace(string(raw))
	found := vaultCommands.FindStringSubmatch(text)
	require.NotNil(t, found, "the page has no such commands any more")

	run := w.shell(map[string]string{"token": token + "\n", "ca.pem": w.kubernetes.CAPEM()})
	run(found[1])
	await.Until(t, "the account's rights", func() (bool, any) {
		lines := w.lines("connections/prod/check")
		return len(lines) == 3 && lines[1].Result == "pass", lines
	})
	var want, is []checkLine
	require.NoError(t, json.Unmarshal([]byte(found[3]), &want))
	require.NoError(t, json.Unmarshal(run(found[2]), &is))
	require.Equal(t, want, is)
}

// shell runs commands of a page, in a folder with these files and with vault on its path.
func (w *world) shell(files map[string]string, environment ...string) (run func(code string) []byte) {
	w.t.Helper()
	ctx, dir := w.t.Context(), w.t.TempDir()
	command := w.vault.Command(ctx)
	require.NoError(w.t, os.Symlink(command.Path, filepath.Join(dir, "vault")))
	for name, content := range files {
		require.NoError(w.t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	return func(code string) []byte {
		shell := exec.CommandContext(ctx, "bash", "-euc", code)
		shell.Dir, shell.Env = dir, append(append(command.Env, "PATH="+dir+":/usr/bin:/bin"), environment...)
		printed, err := shell.Output()
		require.NoError(w.t, err, "%s\n%s", code, printed)
		return printed
	}
}

// The runbook's commands for who has a cluster do what it says: the two Deployments follow.
func TestTheRunbooksCommandsForKubernetes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, vault(t))
	token := w.rbac(false)
	w.writeRole("database", nil)
	w.deploy("api", "database", 1)
	w.deploy("web", "database", 1)
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", "runbook.md"))
	require.NoError(t, err)
	blocks, err := page.Read(string(raw))
	require.NoError(t, err)
	run := w.shell(map[string]string{"kubernetes-token": token, "kubernetes-ca.pem": w.kubernetes.CAPEM()}, "KUBERNETES_HOST="+w.kubernetes.Address())
	here := strings.NewReplacer("rotation/", w.mount+"/", "default/deployment", w.namespace+"/deployment", "'"+"default/", "'"+w.namespace+"/")
	ran := 0
	id := ""
	for _, block := range blocks {
		if !block.Kubernetes {
			continue
		}
		ran++
		if !block.Setup {
			await.Until(t, "the account's rights", func() (bool, any) {
				lines := w.lines("preflight/database")
				return !slices.ContainsFunc(lines, func(l checkLine) bool { return l.Result == "fail" }), lines
			})
			id = w.begin("rotate/database", nil)
			await.Until(t, "the rollout", func() (bool, any) { return w.currentVersion("database") == 2, nil })
		}
		require.Empty(t, block.Missing(string(run(here.Replace(block.Code)))))
	}
	require.Equal(t, 2, ran)
	ended := w.ended("database", id)
	require.Equal(t, "succeeded", ended.Outcome, "%+v", ended.Error)
	require.Equal(t, "2 workloads were restarted and have completed", ended.step("rollout").Detail)
}
