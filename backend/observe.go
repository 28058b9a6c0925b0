package backend

import (
	"context"
	"slices"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/metrics"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

// facts are what metrics tell of a role beside what status shows at a glance.
type facts struct {
	phase       rotation.Phase
	lastSuccess time.Time
	lastTook    time.Duration
	failures    int
	live        int
	unproven    int
	retiring    []retiringVersion
	data        *metrics.Reencryption
}

// retiringVersion is one that readers may hold until its end.
type retiringVersion struct {
	number int
	grace  time.Duration
	end    time.Time
}

// nearlyOver is when the last quarter of a grace begins: whoever keeps to the ttl that came
// with a read has the next version from then on.
func nearlyOver(end time.Time, grace time.Duration) time.Time { return end.Add(-grace / 4) }

func (v retiringVersion) nearlyOver(now time.Time) bool {
	return !now.Before(nearlyOver(v.end, v.grace))
}

// facts derives them from a role's documents.
func (s *subject) facts() facts {
	st := s.state
	out := facts{lastSuccess: st.SucceededTime, failures: st.Failures}
	if st.InFlight != nil {
		out.phase = st.InFlight.Phase
	}
	if st.Last != nil {
		out.lastTook = st.Last.EndedTime.Sub(st.Last.StartedTime)
	}
	for i := range st.Versions {
		v := &st.Versions[i]
		if v.State.Live() {
			out.live++
		}
		if v.Unproven() {
			out.unproven++
		}
		if v.State == rotation.Retiring && v.RetireBegun.IsZero() && !v.RetireAt.IsZero() && !v.KeepsData {
			out.retiring = append(out.retiring, retiringVersion{v.Number, v.Grace.Std(), v.RetireAt})
		}
	}
	if job := st.Reencryption; job != nil {
		out.data = &metrics.Reencryption{
			Phase: string(job.Phase), Paused: job.Control != rotation.Goes,
			Rows: job.Rows, Done: job.Done, Left: job.Left, Failures: job.Failures,
		}
	}
	return out
}

// Metrics is what there is to tell at this moment. But for a rebuild it asks no storage. Who
// uses versions that are about to end is asked in the background, and told the next time.
func (e *Engine) Metrics(ctx context.Context) (out *metrics.Snapshot, err error) {
	if !e.summaries.ready() {
		if err := e.rebuild(ctx); err != nil {
			return nil, err
		}
	}
	now, config := e.clock.Now(), e.config.Load()
	out = &metrics.Snapshot{
		Paused: config.Paused, States: make(map[string]int, len(RoleStates)), Deleted: e.summaries.countEnding(),
		Incidents: e.openIncidents.count(), Endings: e.tally.all(),
	}
	for _, state := range RoleStates {
		out.States[string(state)] = 0
	}
	if out.Channels, err = e.channelMetrics(ctx); err != nil {
		return nil, err
	}
	roles := e.summaries.all()
	for i := range roles {
		roles[i] = roles[i].at(now, config.OverdueAfter.Std())
		out.States[string(roles[i].State)]++
	}
	e.lookWhoUses(roles, now)
	if len(roles) > metrics.MaxRoles {
		slices.SortFunc(roles, byUrgency)
		out.LeftOut = len(roles) - metrics.MaxRoles
		roles = roles[:metrics.MaxRoles]
	}
	out.Roles = make([]metrics.Role, len(roles))
	for i := range roles {
		out.Roles[i] = e.metricsOf(&roles[i], now, config.OverdueAfter.Std())
	}
	return out, nil
}

// channelMetrics tells what waits for each channel.
func (e *Engine) channelMetrics(ctx context.Context) ([]metrics.Channel, error) {
	all, err := e.allChannels(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]metrics.Channel, len(all))
	for i, doc := range all {
		e.outbox.with(doc.Name, func(c *channelQueue) {
			head, _ := c.Oldest()
			out[i] = metrics.Channel{Name: doc.Name, Depth: c.Len(), OldestTime: head.QueuedTime, Failing: c.fares.Told}
		})
	}
	return out, nil
}

func (e *Engine) metricsOf(s *summary, now time.Time, mountOverdue time.Duration) metrics.Role {
	out := metrics.Role{
		Name: s.Name, Type: s.Type, State: string(s.State), Phase: string(s.facts.phase),
		AccessRateThreshold: e.threshold(s.accessThreshold), Overdue: s.Overdue, OverdueAfter: overdueAfter(s.overdueAfter, mountOverdue), NextRotation: s.NextRotation,
		LastSuccess: s.facts.lastSuccess, LastDuration: s.facts.lastTook, Failures: s.facts.failures,
		CurrentVersion: s.CurrentVersion, LiveVersions: s.facts.live, UnprovenVersions: s.facts.unproven,
		Reencryption: s.facts.data,
	}
	for _, v := range s.facts.retiring {
		if out.GraceEnd.IsZero() || v.end.Before(out.GraceEnd) {
			out.GraceEnd = v.end
		}
		if users, asked := e.uses.last(s.Name, v.number); asked && v.nearlyOver(now) {
			if out.OldInUse == nil {
				out.OldInUse = new(int)
			}
			*out.OldInUse += users
		}
	}
	e.tally.tell(&out)
	return out
}

// UnauthenticatedMetrics tells whether anybody may read metrics. It asks no storage.
func (e *Engine) UnauthenticatedMetrics() bool { return e.config.Load().UnauthenticatedMetrics }
