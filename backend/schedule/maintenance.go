package schedule

import "time"

// Maintenance is when heavy work may be done; without a schedule, at any time.
type Maintenance struct {
	Cron   *Cron
	Window time.Duration
}

// OpensAt is the earliest time, t or later, at which the window is open; zero when it
// never is again.
func (m Maintenance) OpensAt(t time.Time) time.Time {
	if m.Cron == nil || m.open(t) {
		return t
	}
	return m.Cron.Next(t)
}

// ClosesAt is when a window that is open at t closes; zero for never. Windows that overlap
// are one.
func (m Maintenance) ClosesAt(t time.Time) time.Time {
	if m.Cron == nil || !m.open(t) {
		return time.Time{}
	}
	closes := m.lastOpening(t).Add(m.Window)
	for range maxOccurrences {
		next := m.Cron.Next(closes.Add(-m.Window))
		if next.IsZero() || next.After(closes) {
			return closes
		}
		closes = next.Add(m.Window)
	}
	return closes
}

// open tells whether t lies within a window. Its end belongs to it no more.
func (m Maintenance) open(t time.Time) bool { return !m.lastOpening(t).IsZero() }

// lastOpening is the start of a window within which t lies, zero for none.
func (m Maintenance) lastOpening(t time.Time) time.Time {
	opened := m.Cron.Next(t.Add(-m.Window))
	if opened.IsZero() || opened.After(t) {
		return time.Time{}
	}
	return opened
}
