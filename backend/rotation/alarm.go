package rotation

import (
	"fmt"
	"time"
)

// Alarm is what is wrong with a role for as long as it is: a role has one at most. It is
// raised, told again and again, handed from one contact to the next until somebody
// acknowledges it, and ends by itself once the role is well.
type Alarm struct {
	// State is the word that status has for it.
	State  string    `json:"state"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since"`
	// ToldTime is when people were last told, and Reminders how often again.
	ToldTime  time.Time `json:"told_time"`
	Reminders int       `json:"reminders,omitempty"`
	// Contacts are how many in line were told, and PassedTime when the last was.
	Contacts     int              `json:"contacts,omitempty"`
	PassedTime   time.Time        `json:"passed_time,omitzero"`
	Acknowledged *Acknowledgement `json:"acknowledged,omitempty"`
}

// Acknowledgement is a person's word that they look after something.
type Acknowledgement struct {
	Time  time.Time `json:"time"`
	Actor Actor     `json:"actor"`
}

// AlarmPolicy is how an alarm is told.
type AlarmPolicy struct {
	// Remind is the time between two reminders.
	Remind time.Duration
	// Contacts are the channels in line; the first is told at once, each of the others when
	// nobody acknowledged within Escalate. An Escalate of 0 lets it stay with the first.
	Contacts []string
	Escalate time.Duration
}

// The events of an alarm. What raises it is named by its state.
const (
	AlarmOver      = "role.recovered"
	AlarmEscalated = "alarm.escalated"
)

// AlarmCause is the field of an alarm's events that holds the cause of a Trouble.
const AlarmCause = "cause"

// Trouble is what status says of a role: the state in a word, and the reason.
type Trouble struct {
	State, Reason string
	// Cause is the reason without what is the role's own in it, such as the number of a
	// version: it is the same for all roles that one cause hits. "" where there is none.
	Cause string
}

// alarmEvents name what is told when a state begins. That a rotation fails, or is postponed,
// is an event of its own, told with each attempt.
var alarmEvents = map[string]string{
	"diverged": "role.diverged", "blocked": "role.blocked", "action_required": "action.required",
	"overdue": "rotation.overdue", "failing": "role.failing",
}

// Alarming tells whether a state in a word is one that people are told of.
func Alarming(state string) bool { return alarmEvents[state] != "" }

// ReviewAlarm compares the alarm with the state that the role is in, and tells what is to be
// told of it by now. told says that the beginning of this state was told by an event of its
// own. It reports whether anything changed.
func (s *State) ReviewAlarm(is Trouble, told bool, p AlarmPolicy, now time.Time) (changed bool) {
	a := s.Alarm
	switch {
	case a == nil && !Alarming(is.State):
		return false
	case a == nil:
		s.Alarm = &Alarm{State: is.State, Reason: is.Reason, Since: now, ToldTime: now, PassedTime: now, Contacts: min(1, len(p.Contacts))}
		if !told {
			s.tellAlarm(alarmEvents[is.State], "", now, map[string]string{AlarmCause: is.Cause})
		}
		return true
	case !Alarming(is.State):
		s.tellAlarm(AlarmOver, "", now, map[string]string{"was": a.State})
		s.Alarm = nil
		return true
	case a.State != is.State:
		// Whoever acknowledged the one has not heard of the other.
		a.State, a.Reason, a.ToldTime, a.Reminders, a.PassedTime, a.Acknowledged = is.State, is.Reason, now, 0, now, nil
		if !told {
			s.tellAlarm(alarmEvents[is.State], "", now, map[string]string{AlarmCause: is.Cause})
		}
		return true
	}
	return s.passOn(p, now) || s.remind(is, p, now)
}

// passOn tells the next contact in line of what nobody acknowledged.
func (s *State) passOn(p AlarmPolicy, now time.Time) bool {
	a := s.Alarm
	if at := p.PassOnAt(a.Contacts, a.PassedTime, a.Acknowledged); at.IsZero() || now.Before(at) {
		return false
	}
	next := p.Contacts[a.Contacts]
	a.Contacts++
	a.PassedTime = now
	s.tellAlarm(AlarmEscalated, next, now, map[string]string{"unacknowledged_since": a.Since.UTC().Format(time.RFC3339)})
	return true
}

// PassOnAt is when the next contact in line is to be told, given how many were and when the
// last of them; zero for never.
func (p AlarmPolicy) PassOnAt(told int, last time.Time, by *Acknowledgement) time.Time {
	if by != nil || p.Escalate <= 0 || told >= len(p.Contacts) {
		return time.Time{}
	}
	return last.Add(p.Escalate)
}

func (s *State) remind(is Trouble, p AlarmPolicy, now time.Time) bool {
	a := s.Alarm
	if now.Before(a.ToldTime.Add(p.Remind)) {
		return false
	}
	a.Reason, a.ToldTime = is.Reason, now
	a.Reminders++
	s.tellAlarm(alarmEvents[a.State], "", now, map[string]string{
		AlarmCause: is.Cause, "reminder": fmt.Sprint(a.Reminders), "since": a.Since.UTC().Format(time.RFC3339),
	})
	return true
}

// AlarmAt is when the alarm is to be looked at again though the role stays as it is.
func (s *State) AlarmAt(p AlarmPolicy) time.Time {
	if s.Alarm == nil {
		return time.Time{}
	}
	at := s.Alarm.ToldTime.Add(p.Remind)
	if pass := p.PassOnAt(s.Alarm.Contacts, s.Alarm.PassedTime, s.Alarm.Acknowledged); !pass.IsZero() && pass.Before(at) {
		at = pass
	}
	return at
}

func (s *State) tellAlarm(kind, channel string, now time.Time, data map[string]string) {
	all := map[string]string{"state": s.Alarm.State, "reason": s.Alarm.Reason, "contacts": fmt.Sprint(s.Alarm.Contacts)}
	for name, value := range data {
		if value != "" {
			all[name] = value
		}
	}
	s.Emit(Event{ID: fmt.Sprintf("%d/%s/%d", s.Alarm.Since.UnixNano(), kind, now.UnixNano()), Type: kind, Time: now, Channel: channel, Data: all})
}
