package metrics_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	metricName = regexp.MustCompile(`vault_rotation_[a-z_]+`)
	documented = regexp.MustCompile("(?m)^\\| `(vault_rotation_[a-z_]+)` \\|")
)

func names(t *testing.T, pattern *regexp.Regexp, path ...string) (all []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{"..", ".."}, path...)...))
	require.NoError(t, err)
	for _, found := range pattern.FindAllStringSubmatch(string(text), -1) {
		all = append(all, found[len(found)-1])
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Rules and dashboard speak of metrics that there are, and the documentation of all of them.
func TestDeployedFilesNameMetricsThatThereAre(t *testing.T) {
	t.Parallel()
	var exposed, queried []string
	for name, family := range parse(t, full()) {
		exposed, queried = append(exposed, name), append(queried, name)
		if family.GetMetric()[0].Histogram != nil {
			queried = append(queried, name+"_bucket", name+"_sum", name+"_count")
		}
	}
	slices.Sort(exposed)
	for _, file := range []string{"prometheus/rules.yml", "prometheus/rules_test.yml", "grafana/dashboard.json"} {
		named := names(t, metricName, "deploy", file)
		require.Greater(t, len(named), 7, "%s: the test no longer finds the names", file)
		for _, name := range named {
			require.Contains(t, queried, name, file)
		}
	}
	require.Equal(t, exposed, names(t, documented, "docs", "operations.md"))
}
