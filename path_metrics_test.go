package rotationsecrets

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

// scraped reads metrics, with an Accept header if there is one.
func (m *mount) scraped(path, accept string) (mediaType, text string) {
	m.t.Helper()
	req := m.request(read, path, nil)
	if accept != "" {
		req.Headers = map[string][]string{"Accept": {accept}}
	}
	resp, err := m.backend.HandleRequest(m.t.Context(), req)
	require.NoError(m.t, err)
	require.NoError(m.t, resp.Error())
	require.Equal(m.t, http.StatusOK, resp.Data[logical.HTTPStatusCode])
	require.Equal(m.t, "no-store", resp.Data[logical.HTTPCacheControlHeader])
	return resp.Data[logical.HTTPContentType].(string), string(resp.Data[logical.HTTPRawBody].([]byte))
}

func TestMetrics(t *testing.T) {
	m := newMount(t)
	m.role()
	m.must(read, "creds/app", nil)
	m.must(read, "metrics", nil)
	mediaType, text := m.scraped("metrics", "")
	require.True(t, strings.HasPrefix(mediaType, "application/openmetrics-text; version=1.0.0"), mediaType)
	require.True(t, strings.HasSuffix(text, "# EOF\n"))
	for _, line := range []string{
		`vault_rotation_role_state{role="app",state="ok",type="memory"} 1`,
		`vault_rotation_role_reads_total{role="app",type="memory"} 1`,
		`vault_rotation_role_attempts_total{outcome="succeeded",role="app",type="memory"} 1`,
		`vault_rotation_roles{state="blocked"} 0`,
		`vault_rotation_paused 0`,
	} {
		require.Contains(t, text, line)
	}
	for _, secret := range []string{adminPassword, m.must(read, "creds/app", nil).Data["password"].(string)} {
		require.NotContains(t, text, secret)
	}
	mediaType, text = m.scraped("metrics", "text/plain;version=0.0.4")
	require.True(t, strings.HasPrefix(mediaType, "text/plain; version=0.0.4"), mediaType)
	require.NotContains(t, text, "# EOF")
}

func TestPublicMetricsAreClosedUnlessOpened(t *testing.T) {
	m := newMount(t)
	m.role()
	closed := func() {
		t.Helper()
		sentence := m.fails(http.StatusForbidden, read, "public/metrics", nil)
		require.Contains(t, sentence, "unauthenticated_metrics=true")
		require.NotContains(t, sentence, "app")
	}
	closed()
	m.must(update, "config", map[string]any{"unauthenticated_metrics": true})
	_, text := m.scraped("public/metrics", "")
	require.Contains(t, text, `role="app"`)
	m.must(update, "config", map[string]any{"paused": true})
	require.Equal(t, true, m.must(read, "config", nil).Data["unauthenticated_metrics"], "left out, kept")
	_, text = m.scraped("public/metrics", "")
	require.Contains(t, text, "vault_rotation_paused 1.0\n")
	m.must(update, "config", map[string]any{"unauthenticated_metrics": false})
	closed()
}

// Whoever is not authenticated does not learn what fails inside.
func TestPublicMetricsTellNothingOfFailures(t *testing.T) {
	m := newMount(t)
	m.must(update, "config", map[string]any{"unauthenticated_metrics": true})
	failing := *m
	failing.storage = failingLists{m.storage}
	failing.backend = failing.assemble(&logical.StaticSystemView{})
	require.Contains(t, failing.fails(http.StatusInternalServerError, read, "metrics", nil), "out of order")
	require.NoError(t, failing.backend.Initialize(t.Context(), &logical.InitializationRequest{Storage: failing.storage}))
	require.Equal(t, "the metrics cannot be made now; Vault's log says why",
		failing.fails(http.StatusInternalServerError, read, "public/metrics", nil))
}

// failingLists is storage that cannot list.
type failingLists struct{ logical.Storage }

func (failingLists) List(context.Context, string) ([]string, error) {
	return nil, errors.New("out of order")
}

// Only the active node knows what it handed out.
func TestMetricsAreAskedOfTheActiveNode(t *testing.T) {
	for _, path := range []string{"metrics", publicMetrics} {
		require.True(t, release(t).Route(path).Operations[read].Properties().ForwardPerformanceStandby, path)
	}
}
