package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// describe declares a metric.
func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(Prefix+name, help, labels, nil)
}

// Of the mount.
var (
	paused     = describe("paused", "1 while config has paused=true: nothing acts.")
	roles      = describe("roles", "Roles by state, those that are left out below included.", "state")
	leftOut    = describe("roles_left_out", "Roles without metrics of their own, since there are too many. The most urgent have some.")
	deleted    = describe("deleted_roles", "Deleted roles whose last versions are being ended.")
	incidents  = describe("incidents", "Incidents that are not closed: open while the leak may live on, contained when every leaked version is proven dead.", "status")
	oldestOpen = describe("oldest_open_incident_timestamp_seconds", "When the first of the open incidents was opened.")
	durations  = describe("duration_seconds", "How long rotations took that ended since the process started, from their beginning to their end.", "type", "trigger", "outcome")
	depth      = describe("outbox_depth", "Messages that wait to be delivered.", "channel")
	oldest     = describe("outbox_oldest_timestamp_seconds", "When the first message came up that waits to be delivered.", "channel")
	failing    = describe("channel_failing", "1 while it does not take messages.", "channel")
)

// Of a role, with further labels.
var (
	roleState         = describe("role_state", "1 for the role's state; there is no other line.", "role", "type", "state")
	rolePhase         = describe("role_phase", "1 for the phase of the rotation in flight.", "role", "type", "phase")
	roleAttempts      = describe("role_attempts_total", "Rotations that ended since the process started.", "role", "type", "outcome")
	reencryptionPhase = describe("role_reencryption_phase", "1 for the phase of the re-encryption.", "role", "type", "phase")
)

// A roleMetric is one value of a role; ok is false where it has none.
type roleMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*Role) (value float64, ok bool)
}

func roleGauge(name, help string, value func(*Role) (float64, bool)) roleMetric {
	return roleMetric{describe(name, help, "role", "type"), prometheus.GaugeValue, value}
}

// roleMetrics are all metrics of a role that have one value.
var roleMetrics = []roleMetric{
	roleGauge("role_overdue_seconds", "By how much the role's rotation is late, by the engine's clock.",
		func(r *Role) (float64, bool) { return r.Overdue.Seconds(), true }),
	roleGauge("role_overdue_after_seconds", "From which lateness on the role counts as overdue.",
		func(r *Role) (float64, bool) { return r.OverdueAfter.Seconds(), true }),
	roleGauge("role_next_rotation_timestamp_seconds", "When the next rotation is due.",
		func(r *Role) (float64, bool) { return timestamp(r.NextRotation) }),
	roleGauge("role_last_success_timestamp_seconds", "When a rotation last succeeded.",
		func(r *Role) (float64, bool) { return timestamp(r.LastSuccess) }),
	roleGauge("role_last_duration_seconds", "How long the last rotation took that ended.",
		func(r *Role) (float64, bool) { return r.LastDuration.Seconds(), r.LastDuration > 0 }),
	roleGauge("role_consecutive_failures", "Attempts that failed since the last success.",
		func(r *Role) (float64, bool) { return float64(r.Failures), true }),
	roleGauge("role_current_version", "The version that readers get; 0 for none.",
		func(r *Role) (float64, bool) { return float64(r.CurrentVersion), true }),
	roleGauge("role_live_versions", "Versions that readers may hold: the current one and those that retire.",
		func(r *Role) (float64, bool) { return float64(r.LiveVersions), true }),
	roleGauge("role_unproven_versions", "Versions whose end has begun and that are not proven dead.",
		func(r *Role) (float64, bool) { return float64(r.UnprovenVersions), true }),
	roleGauge("role_grace_end_timestamp_seconds", "When the first of the retiring versions ends.",
		func(r *Role) (float64, bool) { return timestamp(r.GraceEnd) }),
	roleGauge("role_old_version_in_use", "Who was last seen to use a version in the last quarter of its grace; there is a line only then.",
		func(r *Role) (float64, bool) {
			if r.OldInUse == nil {
				return 0, false
			}
			return float64(*r.OldInUse), true
		}),
	{
		describe("role_reads_total", "Reads of credentials since the process started.", "role", "type"), prometheus.CounterValue,
		func(r *Role) (float64, bool) { return float64(r.Reads), true },
	},
	roleGauge("role_access_rate_threshold", "Reads a minute above which people are told; there is no line where they never are.",
		func(r *Role) (float64, bool) { return float64(r.AccessRateThreshold), r.AccessRateThreshold > 0 }),
	reencryptionGauge("paused", "1 when a person paused or cancelled the re-encryption.",
		func(r *Reencryption) float64 { return bit(r.Paused) }),
	reencryptionGauge("rows", "Rows that the pass has to look at.",
		func(r *Reencryption) float64 { return float64(r.Rows) }),
	reencryptionGauge("rows_done", "Rows that the pass has looked at, as last noted.",
		func(r *Reencryption) float64 { return float64(r.Done) }),
	reencryptionGauge("values_left", "Values that the last count found under earlier versions.",
		func(r *Reencryption) float64 { return float64(r.Left) }),
	reencryptionGauge("failures", "Failures of the re-encryption in a row.",
		func(r *Reencryption) float64 { return float64(r.Failures) }),
}

func reencryptionGauge(name, help string, value func(*Reencryption) float64) roleMetric {
	return roleGauge("role_reencryption_"+name, help, func(r *Role) (float64, bool) {
		if r.Reencryption == nil {
			return 0, false
		}
		return value(r.Reencryption), true
	})
}

// timestamp is a time as Prometheus has it; none for the zero time.
func timestamp(t time.Time) (float64, bool) {
	return float64(t.UnixMilli()) / 1000, !t.IsZero()
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// collector exposes one snapshot.
type collector struct{ snapshot *Snapshot }

// Describe implements prometheus.Collector. Nothing is described beforehand: the registry
// checks what is collected instead.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	s := c.snapshot
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	gauge(paused, bit(s.Paused))
	for state, n := range s.States {
		gauge(roles, float64(n), state)
	}
	gauge(leftOut, float64(s.LeftOut))
	gauge(deleted, float64(s.Deleted))
	gauge(incidents, float64(s.Incidents.Open), "open")
	gauge(incidents, float64(s.Incidents.Contained), "contained")
	if at, ok := timestamp(s.Incidents.OldestOpen); ok {
		gauge(oldestOpen, at)
	}
	for i := range s.Endings {
		out <- s.Endings[i].metric()
	}
	for _, ch := range s.Channels[:min(len(s.Channels), MaxChannels)] {
		gauge(depth, float64(ch.Depth), ch.Name)
		gauge(failing, bit(ch.Failing), ch.Name)
		if at, ok := timestamp(ch.OldestTime); ok {
			gauge(oldest, at, ch.Name)
		}
	}
	for i := range s.Roles[:min(len(s.Roles), MaxRoles)] {
		s.Roles[i].collect(out)
	}
}

func (r *Role) collect(out chan<- prometheus.Metric) {
	add := func(desc *prometheus.Desc, kind prometheus.ValueType, value float64, more ...string) {
		out <- prometheus.MustNewConstMetric(desc, kind, value, append([]string{r.Name, r.Type}, more...)...)
	}
	add(roleState, prometheus.GaugeValue, 1, r.State)
	if r.Phase != "" {
		add(rolePhase, prometheus.GaugeValue, 1, r.Phase)
	}
	if r.Reencryption != nil {
		add(reencryptionPhase, prometheus.GaugeValue, 1, r.Reencryption.Phase)
	}
	for outcome, n := range r.Attempts {
		add(roleAttempts, prometheus.CounterValue, float64(n), outcome)
	}
	for _, m := range roleMetrics {
		if value, ok := m.value(r); ok {
			add(m.desc, m.kind, value)
		}
	}
}

func (e *Ending) metric() prometheus.Metric {
	upTo := make(map[float64]uint64, len(buckets))
	for i, bound := range buckets {
		upTo[bound] = e.Durations.upTo[i]
	}
	return prometheus.MustNewConstHistogram(durations, e.Durations.Count, e.Durations.Sum, upTo, e.Type, e.Trigger, e.Outcome)
}
