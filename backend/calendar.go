package backend

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/schedule"
)

// The calendar is made of the summaries in memory (status.go): reading it touches no
// storage, however many roles there are. What a role's document says for sure is kept there
// as it changes; what follows from its schedule is worked out here.

// What may come up.
const (
	UpcomingRotation     = "rotation"
	UpcomingPromotion    = "promotion"
	UpcomingRetirement   = "retirement"
	UpcomingDestruction  = "destruction"
	UpcomingReencryption = "re-encryption"
	UpcomingMaintenance  = "maintenance window"
)

// What bounds one reading of the calendar: days ahead, and entries.
const (
	MaxCalendarDays = 366
	MaxCalendar     = 1000
)

// Upcoming is an entry of the calendar.
type Upcoming struct {
	Time   time.Time
	Role   string
	Type   string
	What   string
	Detail string
}

// Calendar is what comes up until a time, the earliest first. What is late stands there
// with the time at which it was due.
type Calendar struct {
	Entries []Upcoming
	Until   time.Time
	// Truncated tells that there are more than MaxCalendar: the later ones are left out.
	Truncated bool
}

// coming is what a summary keeps for the calendar.
type coming struct {
	typ   string
	fixed []comingAt
	// next is the next rotation by the schedule, zero for none; those after it follow from
	// period or cron, and jitter.
	next           time.Time
	period, jitter time.Duration
	cron           string
	// stands says what keeps the schedule from going on by itself, "" for nothing.
	stands string
	// maintenance is when data that is to follow may be touched.
	maintenance string
	window      time.Duration
}

// comingAt is one thing that is due once.
type comingAt struct {
	at           time.Time
	what, detail string
}

// coming derives from a role's documents what comes up.
func (s *subject) coming() *coming {
	out := &coming{typ: s.role.Type}
	for i := range s.state.Versions {
		if c, ok := s.comingOf(&s.state.Versions[i]); ok {
			out.fixed = append(out.fixed, c)
		}
	}
	if job := s.state.Reencryption; job.Runs() && !s.state.Deleted {
		out.fixed = append(out.fixed, comingAt{job.At, UpcomingReencryption, fmt.Sprintf("data goes on to follow version %d (%s)", job.Version, job.Phase)})
		if s.keeper != nil && !job.Urgent {
			if p, err := s.keeper.DataPolicy(roleView(s.role, nil)); err == nil {
				out.maintenance, out.window = p.Schedule, p.Window
			}
		}
	}
	if i := s.state.Intent; i != nil && !s.state.Deleted {
		out.fixed = append(out.fixed, comingAt{i.At, UpcomingRotation, fmt.Sprintf("attempt %d (%s)", i.Attempt, i.Trigger)})
	}
	if !s.state.Deleted && !s.role.Policy.Disabled && !s.state.NextRotation.IsZero() {
		p := s.role.Policy
		out.next, out.stands = s.state.NextRotation, s.standsStill()
		out.period, out.jitter, out.cron = p.Period.Std(), p.Jitter.Std(), p.Schedule
	}
	return out
}

// comingOf is what comes up for a version; false for nothing.
func (s *subject) comingOf(v *rotation.Version) (comingAt, bool) {
	what := fmt.Sprintf("version %d (%s) ", v.Number, v.Identifier)
	switch {
	case v.State == rotation.Retiring && !v.RetireAt.IsZero() && !v.Holds():
		return comingAt{v.RetireAt, UpcomingRetirement, what + "ends"}, true
	case v.State == rotation.Disabled && !v.DestroyAt.IsZero():
		return comingAt{v.DestroyAt, UpcomingDestruction, what + "is destroyed, and cannot be brought back afterwards"}, true
	case v.State != rotation.Standby || v.ReadyAt.IsZero() || s.state.Deleted:
		return comingAt{}, false
	case v.Staged && s.promotes:
		return comingAt{v.ReadyAt, UpcomingPromotion, what + "may be promoted by a person"}, true
	case v.Staged:
		return comingAt{v.ReadyAt, UpcomingPromotion, what + "takes over"}, true
	default:
		return comingAt{v.ReadyAt, UpcomingPromotion, what + "has been announced for long enough to take over"}, true
	}
}

// standsStill says why the schedule does not go on by itself.
func (s *subject) standsStill() string {
	switch {
	case s.state.Divergence != nil:
		return "diverged: nothing changes before reconcile"
	case s.state.Blocked != "":
		return "blocked: only people rotate it"
	case s.state.ActionRequired != "":
		return "a person has to act first"
	default:
		return ""
	}
}

// Calendar lists what comes up in the next days.
func (e *Engine) Calendar(ctx context.Context, days int) (*Calendar, error) {
	if days < 1 || days > MaxCalendarDays {
		return nil, fault.Field("days", "must be 1 to %d", MaxCalendarDays)
	}
	if !e.summaries.ready() {
		if err := e.rebuild(ctx); err != nil {
			return nil, err
		}
	}
	now := e.clock.Now()
	c := &calendarMaker{now: now, until: now.Add(time.Duration(days) * 24 * time.Hour), crons: map[string]*schedule.Cron{}}
	for name, role := range e.summaries.upcoming() {
		c.add(name, role)
	}
	heap.Init(&c.next)
	out := &Calendar{Until: c.until}
	for len(c.next) > 0 {
		if len(out.Entries) == MaxCalendar {
			out.Truncated = true
			break
		}
		out.Entries = append(out.Entries, c.take())
	}
	return out, nil
}

// calendarMaker merges what comes up for all roles, so that no more is worked out than is
// told.
type calendarMaker struct {
	now, until time.Time
	next       upcomingHeap
	crons      map[string]*schedule.Cron // parsed once for all roles that share one
}

// source is an entry, and what follows it; nil for nothing.
type source struct {
	Upcoming
	follows func(time.Time) time.Time
}

// put adds what comes up within the days.
func (c *calendarMaker) put(s source) {
	if !s.Time.IsZero() && !s.Time.After(c.until) {
		c.next = append(c.next, s)
	}
}

// take takes the earliest, and puts what follows it in its place.
func (c *calendarMaker) take() Upcoming {
	first := c.next[0]
	if first.follows != nil {
		if at := first.follows(first.Time); !at.IsZero() && !at.After(c.until) {
			c.next[0].Time, c.next[0].Detail = at, c.next[0].repeated()
			heap.Fix(&c.next, 0)
			return first.Upcoming
		}
	}
	heap.Pop(&c.next)
	return first.Upcoming
}

// repeated is the detail of what follows: when it comes depends on what comes before.
func (s source) repeated() string {
	if s.What == UpcomingRotation {
		return "by the schedule, if those before it go well"
	}
	return s.Detail
}

func (c *calendarMaker) add(name string, role *coming) {
	window := schedule.Maintenance{Cron: c.cron(role.maintenance), Window: role.window}
	for _, f := range role.fixed {
		if f.what == UpcomingReencryption {
			f.at = window.OpensAt(later(c.now, f.at))
		}
		c.put(source{Upcoming: Upcoming{f.at, name, role.typ, f.what, f.detail}})
	}
	if window.Cron != nil {
		c.put(source{
			Upcoming: Upcoming{window.Cron.Next(c.now), name, role.typ, UpcomingMaintenance, fmt.Sprintf("opens for %s: data may follow", role.window)},
			follows:  window.Cron.Next,
		})
	}
	c.addRotations(name, role)
}

// addRotations adds the next rotation, and those that the schedule lets follow it.
func (c *calendarMaker) addRotations(name string, role *coming) {
	if role.next.IsZero() {
		return
	}
	first := source{Upcoming: Upcoming{role.next, name, role.typ, UpcomingRotation, "by the schedule"}}
	if role.next.Before(c.now) {
		first.Detail += ", and late"
	}
	p := schedule.Policy{Period: role.period, Jitter: role.jitter, Cron: c.cron(role.cron)}
	switch {
	case role.stands != "":
		first.Detail += "; " + role.stands
	case p.Cron != nil || p.Period > 0:
		first.follows = func(t time.Time) time.Time { return p.Next(later(c.now, t), name) }
	}
	c.put(first)
}

// cron is nil for none, and for one that cannot be read.
func (c *calendarMaker) cron(text string) *schedule.Cron {
	if text == "" {
		return nil
	}
	cron, known := c.crons[text]
	if !known {
		cron, _ = schedule.ParseCron(text)
		c.crons[text] = cron
	}
	return cron
}

// upcomingHeap orders by time, then by role and what it is.
type upcomingHeap []source

func (h upcomingHeap) Len() int { return len(h) }
func (h upcomingHeap) Less(i, j int) bool {
	a, b := &h[i], &h[j]
	return cmp.Or(a.Time.Compare(b.Time), strings.Compare(a.Role, b.Role), strings.Compare(a.What, b.What), strings.Compare(a.Detail, b.Detail)) < 0
}
func (h upcomingHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *upcomingHeap) Push(x any) {
	s, _ := x.(source)
	*h = append(*h, s)
}

// Pop implements heap.Interface.
func (h *upcomingHeap) Pop() any {
	last := len(*h) - 1
	s := (*h)[last]
	*h = slices.Delete(*h, last, last+1)
	return s
}
