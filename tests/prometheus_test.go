package tests

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
)

// The alert rules do what their tests say, and without any one of them the tests fail.
func TestAlertRules(t *testing.T) {
	t.Parallel()
	said, err := promtool(t, "check", "rules", filepath.Join("..", "deploy", "prometheus", "rules.yml"))
	require.NoError(t, err, said)
	said, err = promtool(t, "test", "rules", filepath.Join("..", "deploy", "prometheus", "rules_test.yml"))
	require.NoError(t, err, said)

	rules, cases := deployed(t, "prometheus", "rules.yml"), deployed(t, "prometheus", "rules_test.yml")
	alerts := regexp.MustCompile(`(?m)^      - alert: (\w+)$`).FindAllStringSubmatch(rules, -1)
	require.Len(t, alerts, 10)
	folder := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(folder, "rules_test.yml"), []byte(cases), 0o600))
	for _, found := range alerts {
		renamed := strings.ReplaceAll(rules, "alert: "+found[1]+"\n", "alert: Another\n")
		require.NoError(t, os.WriteFile(filepath.Join(folder, "rules.yml"), []byte(renamed), 0o600))
		said, err := promtool(t, "test", "rules", filepath.Join(folder, "rules_test.yml"))
		require.Error(t, err, "nothing tests the alert %s", found[1])
		require.Contains(t, said, found[1])
	}
}

// Grafana's own types take the dashboard, each part of it, with nothing unknown or left out.
func TestDashboardLoads(t *testing.T) {
	t.Parallel()
	plugins.RegisterDefaultPlugins()
	text := []byte(deployed(t, "grafana", "dashboard.json"))
	var strict, d dashboard.Dashboard                        //nolint:staticcheck // the next form is not yet what every Grafana imports
	if err := strict.UnmarshalJSONStrict(text); err != nil { // a list, also when it is empty
		require.Empty(t, err.Error())
	}
	require.NoError(t, json.Unmarshal(text, &d))
	require.NoError(t, d.Validate())
	ids := map[uint32]bool{}
	for _, p := range d.Panels {
		require.False(t, ids[*p.Panel.Id], "panel %d is there twice", *p.Panel.Id)
		ids[*p.Panel.Id] = true
		require.NotEmpty(t, *p.Panel.Title)
		require.NotEmpty(t, p.Panel.Targets, *p.Panel.Title)
	}
}

// expressions are the queries of the dashboard, with everything chosen.
func expressions(t *testing.T) (all []string) {
	t.Helper()
	var d struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	require.NoError(t, json.Unmarshal([]byte(deployed(t, "grafana", "dashboard.json")), &d))
	chosen := strings.NewReplacer("$mount", ".*", "$role", ".*", "$__rate_interval", "1m")
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			all = append(all, chosen.Replace(target.Expr))
		}
	}
	return all
}

// scraped reads metrics as any client does.
func (m mount) scraped(t *testing.T, path, accept string) (status int, mediaType, text string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, m.address+"/v1/"+m.path+"/"+path, nil)
	require.NoError(t, err)
	if m.token != "" {
		request.Header.Set("X-Vault-Token", m.token)
	}
	if accept != "" {
		request.Header.Set("Accept", accept)
	}
	response, err := httpClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, response.Header.Get("Content-Type"), string(body)
}

// Metrics ask for a token; without one they are there only once an operator has said so. Vault hands
// the plugin no Accept header unless the mount is tuned to.
func TestWhoMayReadMetrics(t *testing.T) {
	t.Parallel()
	w := newKeys(t, "scrape", sharedVault(t))
	w.write("roles/"+w.role, keyFields(nil))
	anybody := w.mount
	anybody.token = ""

	status, _, text := anybody.scraped(t, "metrics", "")
	require.Equal(t, http.StatusForbidden, status, text)
	status, _, text = anybody.scraped(t, "public/metrics", "")
	require.Equal(t, http.StatusForbidden, status, text)
	require.Contains(t, text, "unauthenticated_metrics=true")
	require.NotContains(t, text, w.role+`"`)

	const older = "text/plain;version=0.0.4"
	line := `vault_rotation_role_state{role="` + w.role + `"`
	for _, accept := range []string{"", older} {
		status, mediaType, text := w.scraped(t, "metrics", accept)
		require.Equal(t, http.StatusOK, status, text)
		require.True(t, strings.HasPrefix(mediaType, "application/openmetrics-text; version=1.0.0"), mediaType)
		require.Contains(t, text, line)
		require.True(t, strings.HasSuffix(text, "# EOF\n"))
	}
	require.NoError(t, w.vault.Client().Sys().TuneMountAllowNilWithContext(t.Context(), w.path, api.TuneMountConfigInput{PassthroughRequestHeaders: &[]string{"Accept"}}))
	_, mediaType, _ := w.scraped(t, "metrics", older)
	require.True(t, strings.HasPrefix(mediaType, "text/plain; version=0.0.4"), mediaType)

	w.write("config", map[string]any{"unauthenticated_metrics": true})
	status, _, text = anybody.scraped(t, "public/metrics", "")
	require.Equal(t, http.StatusOK, status, text)
	require.Contains(t, text, line)
	status, _, _ = anybody.scraped(t, "metrics", "")
	require.Equal(t, http.StatusForbidden, status, "this one asks for a token all the same")
}

// A Prometheus with the configuration and the rules of deploy/ scrapes the plugin in a Vault, and a
// role that is a week late comes to people through Alertmanager, until it has rotated.
func TestPrometheusTellsOfAnOverdueRole(t *testing.T) {
	t.Parallel()
	vault, clock := newClockedVault(t)
	w := newKeys(t, "prom", vault)
	w.write("roles/weekly", keyFields(nil))
	w.write("roles/yearly", keyFields(map[string]any{"rotation_period": "365d"}))

	pager := newPager(t)
	target := strings.TrimPrefix(vault.Address(), "http://")
	p := newPrometheus(t, newAlertmanager(t, pager), map[string]string{
		"vault.example.com:8200":      target,
		"mount: rotation\n":           "mount: " + w.path + "\n",
		"/v1/rotation/metrics\n":      "/v1/" + w.path + "/metrics\n",
		"scheme: https":               "scheme: http",
		"scrape_interval: 15s":        "scrape_interval: 1s",
		"/etc/prometheus/vault-token": scraperToken(t, w),
	}, `
  - job_name: public
    scrape_interval: 1s
    metrics_path: /v1/`+w.path+`/public/metrics
    static_configs: [{targets: ["`+target+`"]}]
`)
	p.awaitValue(`up{job="vault-rotation"}`, "1")
	p.awaitValue(`up{job="public"}`, "0")
	p.awaitValue(`vault_rotation_role_state{job="vault-rotation", mount="`+w.path+`", role="weekly", type="jwt", state="ok"}`, "1")
	w.write("config", map[string]any{"unauthenticated_metrics": true})
	p.awaitValue(`up{job="public"}`, "1")
	p.awaitValue(`vault_rotation_role_live_versions{job="public", role="yearly"}`, "1")
	for _, expression := range expressions(t) {
		_, err := p.query(expression)
		require.NoError(t, err)
	}

	w.write("config", map[string]any{"paused": true}) // else it would not be late
	require.NoError(t, clock.move(15*24*time.Hour))
	p.awaitValue(`vault_rotation_role_state{job="vault-rotation", state="overdue"}`, "1")
	await.Until(t, "Alertmanager to tell of it", func() (bool, any) {
		return len(pager.of("VaultRotationOverdue", "firing")) > 0, pager.of("VaultRotationOverdue", "firing")
	})
	for _, a := range pager.of("VaultRotationOverdue", "firing") {
		require.Equal(t, "weekly", a.Labels["role"], "the other one is not late")
		require.Equal(t, "critical", a.Labels["severity"])
		require.Regexp(t, `^Role weekly is 8d 0h \d+m \d+s late with its rotation\.$`, a.Annotations["summary"])
	}

	w.write("config", map[string]any{"paused": false})
	p.awaitValue(`vault_rotation_role_current_version{job="vault-rotation", role="weekly"}`, "2")
	await.Until(t, "Alertmanager to tell that it is over", func() (bool, any) {
		return len(pager.of("VaultRotationOverdue", "resolved")) > 0, pager.of("VaultRotationOverdue", "resolved")
	})
}

// scraperToken is a file with a token that may read metrics and nothing else.
func scraperToken(t *testing.T, w *world) (file string) {
	t.Helper()
	client := w.vault.Client()
	policy := `path "` + w.path + `/metrics" { capabilities = ["read"] }`
	require.NoError(t, client.Sys().PutPolicyWithContext(t.Context(), "metrics-"+w.path, policy))
	secret, err := client.Auth().Token().CreateWithContext(t.Context(), &api.TokenCreateRequest{
		Policies: []string{"metrics-" + w.path}, NoDefaultPolicy: true, Period: "24h",
	})
	require.NoError(t, err)
	file = filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte(secret.Auth.ClientToken), 0o600))
	return file
}
