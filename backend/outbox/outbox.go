// Package outbox is the order of what waits to be told to one channel: what goes next, what
// goes with it, and when. It is pure; the engine stores and sends.
package outbox

import (
	"slices"
	"sort"
	"time"
)

// Entry is one event that waits.
type Entry struct {
	// Key sorts by the time of the event.
	Key  string
	Role string
	// Same is equal for events of several roles that are told in one message; empty for an
	// event that is told alone.
	Same string
	// QueuedTime is when it began to wait.
	QueuedTime time.Time
	// OfAlarm ones raise alarms of their roles, or end them.
	OfAlarm bool
	// Urgent ones do not wait for others of their sort.
	Urgent bool
	// Fixed ones may have been sent already: nothing is added to them.
	Fixed bool
}

// Queue is what waits for one channel, in order. It belongs to whoever holds its lock.
type Queue struct {
	entries []Entry
	sent    []message // of the last minute, oldest first
}

// message is one that went, and of which sort.
type message struct {
	at   time.Time
	same string
}

const (
	// linger is for how long a first event waits for others of its sort: when a target dies,
	// many roles say so within moments.
	linger = 2 * time.Second
	// pace is the least time between two messages, which is what Slack asks for. After burst
	// of one sort it is slow for that sort: what comes meanwhile goes together. After crowd
	// of whatever sorts it is slow for all: people cannot read faster.
	pace  = time.Second
	burst = 5
	crowd = 30
	slow  = 10 * time.Second
	// MaxWait is how far ahead Next is at most, unless the clock was set back.
	MaxWait = linger + slow
	// forgets is for how long a message counts for the pace.
	forgets = time.Minute
	// maxTogether bounds the events of one message.
	maxTogether = 1000
)

// Add puts an entry in its place; one that is there already stays as it is.
func (q *Queue) Add(e Entry) {
	at := sort.Search(len(q.entries), func(i int) bool { return q.entries[i].Key >= e.Key })
	if at < len(q.entries) && q.entries[at].Key == e.Key {
		return
	}
	q.entries = slices.Insert(q.entries, at, e)
}

// Remove takes entries out.
func (q *Queue) Remove(keys ...string) {
	gone := make(map[string]bool, len(keys))
	for _, key := range keys {
		gone[key] = true
	}
	q.entries = slices.DeleteFunc(q.entries, func(e Entry) bool { return gone[e.Key] })
}

// Fix marks an entry as sent, perhaps.
func (q *Queue) Fix(key string) {
	for i := range q.entries {
		if q.entries[i].Key == key {
			q.entries[i].Fixed = true
		}
	}
}

// Resume fixes what a process before this one may have sent alone: whatever was first in line
// at some time. That is not only what is first now, since an event of an earlier time may have
// come in while another was being sent, or waited to be sent again. But then all that stands
// in front of what was sent came in after it: the times at which they were queued tell, and no
// mark has to be stored before a message is sent. (An event whose own Put lasted longer than
// the first one lingered would bear too early a time.)
func (q *Queue) Resume() {
	var earliest time.Time // of those in front
	for i := range q.entries {
		e := &q.entries[i]
		if i == 0 || e.QueuedTime.Before(earliest) {
			e.Fixed, earliest = true, e.QueuedTime
		}
	}
}

// Len is how many wait.
func (q *Queue) Len() int { return len(q.entries) }

// Surplus is what is given up where more than so many wait: the oldest that is not urgent;
// empty where there is room.
func (q *Queue) Surplus(most int) string {
	if len(q.entries) <= most {
		return ""
	}
	for _, e := range q.entries {
		if !e.Urgent {
			return e.Key
		}
	}
	return q.entries[0].Key
}

// Oldest is what waits longest; false where nothing does.
func (q *Queue) Oldest() (Entry, bool) {
	if len(q.entries) == 0 {
		return Entry{}, false
	}
	return q.entries[0], true
}

// Next is when the next message may go; zero where nothing waits.
func (q *Queue) Next() time.Time {
	head, waits := q.Oldest()
	if !waits {
		return time.Time{}
	}
	at := head.QueuedTime
	if !head.Urgent && !head.Fixed && head.Same != "" {
		at = at.Add(linger)
	}
	if paced := q.paced(head); paced.After(at) {
		at = paced
	}
	return at
}

// paced is when what went before lets the next message go. Nothing is slow while something
// urgent waits in line.
func (q *Queue) paced(head Entry) time.Time {
	if len(q.sent) == 0 {
		return time.Time{}
	}
	last := q.sent[len(q.sent)-1].at
	at := last.Add(pace)
	if slices.ContainsFunc(q.entries, func(e Entry) bool { return e.Urgent }) {
		return at
	}
	if len(q.sent) >= crowd {
		return last.Add(slow)
	}
	alike := slices.DeleteFunc(slices.Clone(q.sent), func(m message) bool { return head.Same == "" || m.same != head.Same })
	if n := len(alike); n >= burst {
		if spaced := alike[n-1].at.Add(slow); spaced.After(at) {
			at = spaced
		}
	}
	return at
}

// Sent notes that a message of a sort went.
func (q *Queue) Sent(same string, now time.Time) {
	q.sent = append(slices.DeleteFunc(q.sent, func(m message) bool { return now.Sub(m.at) > forgets }), message{now, same})
	if extra := len(q.sent) - crowd; extra > 0 {
		q.sent = slices.Delete(q.sent, 0, extra)
	}
}

// Together are the entry that goes next, and those that go with it: the same of other
// roles. An entry that some other of its own role stands in front of waits for that one, so
// that each role's events are told in order.
func (q *Queue) Together() []Entry {
	head, waits := q.Oldest()
	if !waits {
		return nil
	}
	batch := []Entry{head}
	if head.Fixed || head.Same == "" {
		return batch
	}
	passed := map[string]bool{head.Role: true}
	for _, e := range q.entries[1:] {
		if len(batch) == maxTogether {
			break
		}
		if e.Same == head.Same && !e.Fixed && !passed[e.Role] {
			batch = append(batch, e)
		}
		passed[e.Role] = true
	}
	return batch
}

// Backoff is the wait after so many attempts that failed: the gaps that the Standard
// Webhooks specification gives. asked is what the service itself asked for.
func Backoff(failures int, asked time.Duration) time.Duration {
	gaps := []time.Duration{5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour}
	return max(gaps[min(max(failures, 1), len(gaps))-1], min(asked, maxAsked))
}

// maxAsked bounds what a service may ask for.
const maxAsked = 24 * time.Hour

// MaxAge is for how long a message waits before it is given up.
const MaxAge = 24 * time.Hour
