package metrics_test

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/metrics"
)

var noon = time.Date(2030, 1, 31, 12, 0, 0, 0, time.UTC)

// full has something to tell of everything.
func full() *metrics.Snapshot {
	inUse := 3
	ended := metrics.Ending{Type: "jwt", Trigger: "manual", Outcome: "failed"}
	ended.Durations.Observe(700 * time.Millisecond)
	ended.Durations.Observe(48 * time.Hour)
	return &metrics.Snapshot{
		Paused: true, States: map[string]int{"overdue": 1, "ok": 0}, LeftOut: 7, Deleted: 2,
		Incidents: metrics.Incidents{Open: 1, Contained: 4, OldestOpen: noon.Add(-time.Hour)},
		Endings:   []metrics.Ending{ended},
		Channels:  []metrics.Channel{{Name: "on-call", Depth: 5, OldestTime: noon.Add(-time.Minute), Failing: true}},
		Roles: []metrics.Role{{
			Name: "app", Type: "postgresql", State: "overdue", Phase: "verified", AccessRateThreshold: 1000, Overdue: 8 * 24 * time.Hour, OverdueAfter: 7 * 24 * time.Hour,
			NextRotation: noon, LastSuccess: noon.Add(-time.Hour), LastDuration: 1500 * time.Millisecond, Failures: 2, CurrentVersion: 9,
			LiveVersions: 2, UnprovenVersions: 1, GraceEnd: noon.Add(time.Minute), OldInUse: &inUse,
			Attempts: map[string]uint64{"succeeded": 11, "failed": 0}, Reads: 1234,
			Reencryption: &metrics.Reencryption{Phase: "rewriting", Paused: true, Rows: 100, Done: 40, Left: 60, Failures: 1},
		}},
	}
}

// parse reads the older text form, which there is an official reader of.
func parse(t *testing.T, s *metrics.Snapshot) map[string]*dto.MetricFamily {
	t.Helper()
	mediaType, body, err := metrics.Encode(s, []string{"text/plain"})
	require.NoError(t, err)
	require.Contains(t, mediaType, "text/plain; version=0.0.4")
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	require.NoError(t, err)
	return families
}

// values lists what a family says, as name{labels} value.
func values(families map[string]*dto.MetricFamily) (all []string) {
	for name, family := range families {
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			value := m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			all = append(all, fmt.Sprintf("%s{%s} %v", strings.TrimPrefix(name, metrics.Prefix), strings.Join(labels, ","), value))
		}
	}
	slices.Sort(all)
	return all
}

func TestEverythingIsTold(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{
		"channel_failing{channel=on-call} 1",
		"deleted_roles{} 2",
		"duration_seconds{outcome=failed,trigger=manual,type=jwt} 2",
		"incidents{status=contained} 4",
		"incidents{status=open} 1",
		"oldest_open_incident_timestamp_seconds{} 1.8960876e+09",
		"outbox_depth{channel=on-call} 5",
		"outbox_oldest_timestamp_seconds{channel=on-call} 1.89609114e+09",
		"paused{} 1",
		"role_access_rate_threshold{role=app,type=postgresql} 1000",
		"role_attempts_total{outcome=failed,role=app,type=postgresql} 0",
		"role_attempts_total{outcome=succeeded,role=app,type=postgresql} 11",
		"role_consecutive_failures{role=app,type=postgresql} 2",
		"role_current_version{role=app,type=postgresql} 9",
		"role_grace_end_timestamp_seconds{role=app,type=postgresql} 1.89609126e+09",
		"role_last_duration_seconds{role=app,type=postgresql} 1.5",
		"role_last_success_timestamp_seconds{role=app,type=postgresql} 1.8960876e+09",
		"role_live_versions{role=app,type=postgresql} 2",
		"role_next_rotation_timestamp_seconds{role=app,type=postgresql} 1.8960912e+09",
		"role_old_version_in_use{role=app,type=postgresql} 3",
		"role_overdue_after_seconds{role=app,type=postgresql} 604800",
		"role_overdue_seconds{role=app,type=postgresql} 691200",
		"role_phase{phase=verified,role=app,type=postgresql} 1",
		"role_reads_total{role=app,type=postgresql} 1234",
		"role_reencryption_failures{role=app,type=postgresql} 1",
		"role_reencryption_paused{role=app,type=postgresql} 1",
		"role_reencryption_phase{phase=rewriting,role=app,type=postgresql} 1",
		"role_reencryption_rows_done{role=app,type=postgresql} 40",
		"role_reencryption_rows{role=app,type=postgresql} 100",
		"role_reencryption_values_left{role=app,type=postgresql} 60",
		"role_state{role=app,state=overdue,type=postgresql} 1",
		"role_unproven_versions{role=app,type=postgresql} 1",
		"roles_left_out{} 7",
		"roles{state=ok} 0",
		"roles{state=overdue} 1",
	}, values(parse(t, full())))
}

// What a role does not have is left out rather than told as 0, which is a time of 1970.
func TestWhatIsNotThereIsNotTold(t *testing.T) {
	t.Parallel()
	told := values(parse(t, &metrics.Snapshot{Roles: []metrics.Role{{Name: "app", Type: "jwt", State: "ok"}}}))
	for _, line := range told {
		for _, part := range []string{"timestamp", "phase", "reencryption", "in_use", "last_duration", "channel", "outbox"} {
			require.NotContains(t, line, part)
		}
	}
	require.Contains(t, told, "role_reads_total{role=app,type=jwt} 0")
	require.Contains(t, told, "role_overdue_seconds{role=app,type=jwt} 0")
}

func TestNamesAndHelpPassTheOfficialLinter(t *testing.T) {
	t.Parallel()
	_, body, err := metrics.Encode(full(), []string{"text/plain"})
	require.NoError(t, err)
	problems, err := promlint.New(bytes.NewReader(body)).Lint()
	require.NoError(t, err)
	require.Empty(t, problems)
}

func TestOpenMetricsUnlessTheClientAsksForTheOlderText(t *testing.T) {
	t.Parallel()
	for accept, open := range map[string]bool{
		"": true,
		"application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1": true,
		"text/plain;version=0.0.4": false,
		"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,text/plain;q=0.5": false,
		"text/html": false,
	} {
		var headers []string
		if accept != "" {
			headers = []string{accept}
		}
		mediaType, body, err := metrics.Encode(full(), headers)
		require.NoError(t, err)
		require.Equal(t, open, strings.HasPrefix(mediaType, "application/openmetrics-text; version=1.0.0"), "%s: %s", accept, mediaType)
		require.Equal(t, open, strings.HasSuffix(string(body), "# EOF\n"), accept)
		require.Contains(t, string(body), `vault_rotation_role_attempts_total{outcome="succeeded",role="app",type="postgresql"} 11`)
	}
	_, body, err := metrics.Encode(full(), nil)
	require.NoError(t, err)
	require.Contains(t, string(body), "# TYPE vault_rotation_role_attempts counter\n", "OpenMetrics names a counter without its suffix")
}

// However many there are, what is told stays bounded.
func TestRolesAndChannelsAreCapped(t *testing.T) {
	t.Parallel()
	s := &metrics.Snapshot{}
	for i := range metrics.MaxRoles + 1 {
		s.Roles = append(s.Roles, metrics.Role{Name: fmt.Sprint("app-", i), Type: "jwt", State: "ok"})
	}
	for i := range metrics.MaxChannels + 1 {
		s.Channels = append(s.Channels, metrics.Channel{Name: fmt.Sprint("channel-", i)})
	}
	families := parse(t, s)
	require.Len(t, families["vault_rotation_role_state"].GetMetric(), metrics.MaxRoles)
	require.Len(t, families["vault_rotation_outbox_depth"].GetMetric(), metrics.MaxChannels)
}

func TestDurationsFallIntoBuckets(t *testing.T) {
	t.Parallel()
	h := parse(t, full())["vault_rotation_duration_seconds"].GetMetric()[0].GetHistogram()
	require.InEpsilon(t, 0.7+48*3600, h.GetSampleSum(), 1e-9)
	for _, b := range h.GetBucket() {
		want := uint64(0)
		switch {
		case math.IsInf(b.GetUpperBound(), 1):
			want = 2
		case b.GetUpperBound() >= 0.7:
			want = 1
		}
		require.Equal(t, want, b.GetCumulativeCount(), "up to %v s", b.GetUpperBound())
	}
	var d metrics.Durations
	d.Observe(-time.Second)
	require.Zero(t, d.Sum, "a clock that was set back takes nothing away")
	require.EqualValues(t, 1, d.Count)
}

// A label holds whatever a name holds.
func TestNamesAreEscaped(t *testing.T) {
	t.Parallel()
	s := &metrics.Snapshot{Roles: []metrics.Role{{Name: "a\"b\\c\nd", Type: "jwt", State: "ok"}}}
	require.Equal(t, "a\"b\\c\nd", parse(t, s)["vault_rotation_role_state"].GetMetric()[0].GetLabel()[0].GetValue())
}

func BenchmarkEncode(b *testing.B) {
	s := &metrics.Snapshot{}
	for i := range metrics.MaxRoles {
		role := full().Roles[0]
		role.Name = fmt.Sprint("app-", i)
		s.Roles = append(s.Roles, role)
	}
	for b.Loop() {
		_, body, err := metrics.Encode(s, nil)
		require.NoError(b, err)
		b.SetBytes(int64(len(body)))
	}
}
