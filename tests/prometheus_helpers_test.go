package tests

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
)

// deployed reads a file that operators take over.
func deployed(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{"..", "deploy"}, path...)...))
	require.NoError(t, err)
	return string(text)
}

// prometheusTools asks once for the folder of prometheus, promtool and alertmanager.
var prometheusTools = sync.OnceValues(func() (string, error) {
	out, err := exec.Command(filepath.Join("..", "scripts", "ensure-prometheus")).Output()
	return strings.TrimSpace(string(out)), err
})

func prometheusTool(t *testing.T, name string) string {
	t.Helper()
	folder, err := prometheusTools()
	require.NoError(t, err, "scripts/ensure-prometheus says what is missing")
	return filepath.Join(folder, name)
}

// promtool runs it and returns what it said.
func promtool(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), prometheusTool(t, "promtool"), args...).CombinedOutput()
	return string(out), err
}

// serve runs a server on loopback until the test ends, and returns its address once it is ready.
func serve(t *testing.T, binary string, args func(address string) []string) (url string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())

	logFile := filepath.Join(t.TempDir(), "log")
	log, err := os.Create(logFile)
	require.NoError(t, err)
	defer log.Close()
	cmd := exec.CommandContext(t.Context(), binary, args(address)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait() // how it ended is in its log
	}()
	t.Cleanup(func() { // the test's context is over by now
		<-exited
		if text, err := os.ReadFile(logFile); err == nil && t.Failed() {
			t.Logf("the end of the log of %s:\n%s", filepath.Base(binary), lastLines(string(text), 30))
		}
	})
	await.Until(t, binary+" to be ready", func() (bool, any) {
		status, err := getJSON(t.Context(), "http://"+address+"/-/ready", nil)
		return status == http.StatusOK, err
	})
	return "http://" + address
}

// getJSON gets a JSON document, if one is wanted.
func getJSON(ctx context.Context, url string, into any) (status int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	response, err := httpClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	if into != nil {
		err = json.NewDecoder(response.Body).Decode(into)
	}
	return response.StatusCode, err
}

// A prometheus is a server of it that scrapes.
type prometheus struct {
	t   *testing.T
	url string
}

// query asks for an instant vector.
func (p prometheus) query(expression string) (samples []sample, err error) {
	var answer struct {
		Status, Error string
		Data          struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any
			}
		}
	}
	if _, err := getJSON(p.t.Context(), p.url+"/api/v1/query?query="+url.QueryEscape(expression), &answer); err != nil {
		return nil, err
	}
	if answer.Status != "success" {
		return nil, fmt.Errorf("query %s: %s", expression, answer.Error)
	}
	for _, r := range answer.Data.Result {
		samples = append(samples, sample{r.Metric, fmt.Sprint(r.Value[1])})
	}
	return samples, nil
}

type sample struct {
	labels map[string]string
	value  string
}

// awaitValue waits until an expression has one value and no other.
func (p prometheus) awaitValue(expression, value string) {
	p.t.Helper()
	await.Until(p.t, expression+" to be "+value, func() (bool, any) {
		got, err := p.query(expression)
		return err == nil && len(got) == 1 && got[0].value == value, fmt.Sprint(got, err)
	})
}

// An alert is what Alertmanager sends on.
type alert struct {
	Status      string            `json:"status"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

// A pager takes the alerts that Alertmanager sends.
type pager struct {
	mu     sync.Mutex
	alerts []alert
	url    string
}

func newPager(t *testing.T) *pager {
	p := &pager{}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var body struct{ Alerts []alert }
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Errorf("Alertmanager sent what is no JSON: %v", err)
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.alerts = append(p.alerts, body.Alerts...)
	}))
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

// of lists the alerts of a name that came with a status.
func (p *pager) of(name, status string) (out []alert) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.alerts {
		if a.Labels["alertname"] == name && a.Status == status {
			out = append(out, a)
		}
	}
	return out
}

// newAlertmanager sends what comes to the pager, at once.
func newAlertmanager(t *testing.T, pager *pager) (url string) {
	t.Helper()
	folder := t.TempDir()
	config := filepath.Join(folder, "alertmanager.yml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
route: {receiver: pager, group_by: [alertname, role], group_wait: 0s, group_interval: 1s}
receivers: [{name: pager, webhook_configs: [{url: %q, send_resolved: true}]}]
`, pager.url), 0o600))
	return serve(t, prometheusTool(t, "alertmanager"), func(address string) []string {
		return []string{
			"--config.file=" + config, "--storage.path=" + filepath.Join(folder, "data"),
			"--web.listen-address=" + address, "--cluster.listen-address=", // alone
		}
	})
}

var pendingFor = regexp.MustCompile(`(?m)^( +for:) .*$`)

// newPrometheus runs deploy/prometheus as it is, but for where, how often and for how long. What is
// given replaces what the scrape configuration says.
func newPrometheus(t *testing.T, alertmanager string, replace map[string]string, more string) prometheus {
	t.Helper()
	folder := t.TempDir()
	scrape := deployed(t, "prometheus", "scrape.yml")
	for old, fresh := range replace {
		require.Equal(t, 1, strings.Count(scrape, old), "deploy/prometheus/scrape.yml has %q", old)
		scrape = strings.ReplaceAll(scrape, old, fresh)
	}
	config := fmt.Sprintf(`
global: {evaluation_interval: 1s}
alerting: {alertmanagers: [{static_configs: [{targets: [%q]}]}]}
%s
%s`, strings.TrimPrefix(alertmanager, "http://"), scrape, more)
	rules := pendingFor.ReplaceAllString(deployed(t, "prometheus", "rules.yml"), "$1 0s")
	require.NoError(t, os.WriteFile(filepath.Join(folder, "rules.yml"), []byte(rules), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "prometheus.yml"), []byte(config), 0o600))
	said, err := promtool(t, "check", "config", filepath.Join(folder, "prometheus.yml"))
	require.NoError(t, err, said)
	return prometheus{t, serve(t, prometheusTool(t, "prometheus"), func(address string) []string {
		return []string{
			"--config.file=" + filepath.Join(folder, "prometheus.yml"), "--storage.tsdb.path=" + filepath.Join(folder, "data"),
			"--web.listen-address=" + address, "--log.level=warn",
		}
	})}
}
