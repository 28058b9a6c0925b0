// Package schedule decides when something is due. It is pure: every function
// takes the time it is asked about.
package schedule

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Policy is when a role rotates. Exactly one of Period and Cron is set.
type Policy struct {
	Period time.Duration
	Cron   *Cron
	// Window is how long after a cron time a rotation may still begin; 0: any time.
	Window time.Duration
	// Jitter spreads roles that share a schedule; each role's offset is fixed.
	Jitter time.Duration
	// OverdueAfter is the lateness from which a closed window is ignored.
	OverdueAfter time.Duration
	// Disabled means that only people rotate this role.
	Disabled bool
}

// Cron is a parsed five-field schedule in UTC.
type Cron struct {
	text string
	spec cron.Schedule
}

// maxOccurrences bounds the search for the shortest gap of a schedule.
const maxOccurrences = 1000

var cronFields = []string{"minute", "hour", "day of month", "month", "weekday"}

// ParseCron reads minute, hour, day of month, month, day of week. Times are UTC,
// whatever the machine's zone. No error repeats the text: it may be a secret in
// the wrong place.
func ParseCron(text string) (*Cron, error) {
	fields := strings.Fields(text)
	if len(fields) != len(cronFields) || strings.Contains(text, "=") {
		return nil, fmt.Errorf("must be five cron fields in UTC (%s), such as 0 2 * * *", strings.Join(cronFields, ", "))
	}
	parser := cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)
	for i, field := range fields {
		alone := []string{"*", "*", "*", "*", "*"}
		alone[i] = field
		if _, err := parser.Parse(strings.Join(alone, " ")); err != nil {
			return nil, fmt.Errorf("has a field %d (%s) that is no cron expression in its range", i+1, cronFields[i])
		}
	}
	spec, err := parser.Parse(text)
	if err != nil {
		return nil, errors.New("is no cron expression")
	}
	if s, ok := spec.(*cron.SpecSchedule); ok {
		s.Location = time.UTC
	}
	c := &Cron{text: text, spec: spec}
	if c.Next(time.Unix(0, 0)).IsZero() {
		return nil, errors.New("names no date that ever comes")
	}
	return c, nil
}

// String returns the schedule as it was written.
func (c *Cron) String() string { return c.text }

// Next is the first time strictly after t, in UTC; zero when there is none
// within five years.
func (c *Cron) Next(t time.Time) time.Time { return c.spec.Next(t.UTC()) }

// ShortestGap is the least time between two occurrences.
func (c *Cron) ShortestGap() time.Duration {
	// A leap year's start, so that February 29th is within reach.
	t := c.Next(time.Date(2027, 12, 31, 23, 59, 0, 0, time.UTC))
	gap := time.Duration(math.MaxInt64)
	for range maxOccurrences {
		next := c.Next(t)
		if next.IsZero() {
			break
		}
		gap = min(gap, next.Sub(t))
		t = next
	}
	return gap
}

// Interval is the rotation period, or the shortest gap of the cron schedule.
func (p Policy) Interval() time.Duration {
	if p.Cron != nil {
		return p.Cron.ShortestGap()
	}
	return p.Period
}

// Next is when a role that was rotated at a time is due again. The jitter makes a
// period shorter, never longer than the policy, and a cron time later, within
// its window.
func (p Policy) Next(rotated time.Time, role string) time.Time {
	switch {
	case p.Disabled:
		return time.Time{}
	case p.Cron != nil:
		next := p.Cron.Next(rotated)
		if next.IsZero() {
			return next
		}
		return next.Add(Share(role, p.Jitter))
	default:
		return rotated.Add(p.Period - Share(role, p.Jitter)).UTC()
	}
}

// Share is a role's fixed part of a time that roles are spread over, in whole
// seconds.
func Share(role string, of time.Duration) time.Duration {
	seconds := uint64(of / time.Second)
	if seconds == 0 {
		return 0
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(role))
	return time.Duration(h.Sum64()%seconds) * time.Second
}

// BeginAt is the earliest time from now on at which a rotation that is due at
// next may begin; not after now means at once, zero means never. A missed window
// is caught up in the next one; being overdue overrides windows.
func (p Policy) BeginAt(next, now time.Time) time.Time {
	if p.Disabled || next.IsZero() {
		return time.Time{}
	}
	if p.Window == 0 || p.Cron == nil || now.Before(next) || p.open(now) {
		return next
	}
	opens := p.Cron.Next(now)
	if overdue := next.Add(p.OverdueAfter); opens.IsZero() || overdue.Before(opens) {
		return overdue
	}
	return opens
}

// Open tells whether the schedule lets a rotation begin at t: it has no window, or one that
// is open.
func (p Policy) Open(t time.Time) bool { return p.Window == 0 || p.Cron == nil || p.open(t) }

// open tells whether t lies within a window.
func (p Policy) open(t time.Time) bool {
	opened := p.Cron.Next(t.Add(-p.Window))
	return !opened.IsZero() && !opened.After(t)
}

// Overdue is by how much now is past next; zero when it is not.
func Overdue(next, now time.Time) time.Duration {
	if next.IsZero() || now.Before(next) {
		return 0
	}
	return now.Sub(next)
}

// Backoff is the wait before the given attempt (2 for the first retry): 30 s,
// doubling, at most an hour.
func Backoff(attempt int) time.Duration {
	const first, most = 30 * time.Second, time.Hour
	if attempt < 2 {
		return 0
	}
	if doublings := attempt - 2; doublings < 7 {
		return min(first<<doublings, most)
	}
	return most
}
