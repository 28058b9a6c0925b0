// Package metrics puts what the engine knows at a moment into the text that Prometheus
// reads. It knows neither storage nor the engine, which fills a Snapshot.
//
// No label is unbounded: roles, types and channels are written by operators, and at most
// MaxRoles and MaxChannels of them are exposed; all other labels are words of a fixed list.
package metrics

import "time"

// Prefix begins every name.
const Prefix = "vault_rotation_"

const (
	// MaxRoles is how many roles have metrics of their own; how many have none is a metric.
	MaxRoles = 5000
	// MaxChannels is the same for channels.
	MaxChannels = 1000
)

// Snapshot is what there is to tell at a moment.
type Snapshot struct {
	Paused bool
	// States counts all roles by state, those without metrics of their own included.
	States map[string]int
	// Roles are at most MaxRoles, LeftOut the number of the others.
	Roles   []Role
	LeftOut int
	// Deleted counts the roles that are deleted and whose last versions are being ended.
	Deleted   int
	Incidents Incidents
	// Endings are the rotations that ended since the process started, those of roles that are
	// gone included.
	Endings []Ending
	// Channels are the places where people are told, with what waits to be delivered.
	Channels []Channel
}

// Role is one role. A zero time is not exposed.
type Role struct {
	Name string
	Type string
	// State is the word of status, Phase that of the rotation in flight, "" for none.
	State string
	Phase string
	// Overdue is by how much the role is late, by the engine's clock; OverdueAfter from which
	// lateness on it counts as overdue.
	Overdue      time.Duration
	OverdueAfter time.Duration
	NextRotation time.Time
	// LastSuccess is when a rotation last succeeded, LastDuration how long the last one took
	// that ended, whatever its outcome.
	LastSuccess  time.Time
	LastDuration time.Duration
	// Failures counts the attempts that failed since the last success.
	Failures       int
	CurrentVersion int
	// LiveVersions counts those that readers may hold, UnprovenVersions those whose end has
	// begun and that are not proven dead.
	LiveVersions     int
	UnprovenVersions int
	// GraceEnd is when the first of the retiring versions ends.
	GraceEnd time.Time
	// OldInUse counts who was last seen to use a version whose grace is nearly over; nil where
	// there is no such version, or nobody could be asked.
	OldInUse *int
	// Attempts counts the rotations that ended since the process started, by every outcome
	// there is: one that never came about is 0, so that its first time is an increase.
	Attempts map[string]uint64
	// Reads counts reads of credentials since the process started; AccessRateThreshold is how
	// many a minute nobody is told of, 0 for any number.
	Reads               uint64
	AccessRateThreshold int
	Reencryption        *Reencryption
}

// Reencryption is how far stored data follows a role's current version.
type Reencryption struct {
	Phase string
	// Paused tells that a person paused or cancelled it.
	Paused bool
	// Rows is how many rows the pass has to look at, Done at how many it has, as last noted.
	Rows int64
	Done int64
	// Left is how many values the last count found that earlier versions made.
	Left     int64
	Failures int
}

// Incidents are those that are not closed.
type Incidents struct {
	Open, Contained int
	// OldestOpen is when the first of the open ones was opened.
	OldestOpen time.Time
}

// Ending is how many rotations of a type, by trigger and outcome, took how long.
type Ending struct {
	Type, Trigger, Outcome string
	Durations              Durations
}

// Channel is one place where people are told.
type Channel struct {
	Name string
	// Depth counts the messages that wait for it, OldestTime is when the first of them came up.
	Depth      int
	OldestTime time.Time
	// Failing tells that it does not take messages, which the other channels are told.
	Failing bool
}

// buckets are upper bounds in seconds: an API call, a slow one, a roll-out, a day of waiting
// for a person.
var buckets = [...]float64{0.1, 0.5, 1, 5, 15, 60, 300, 1800, 3600, 21600, 86400}

// Durations is a histogram. The zero value is empty; a copy is one of its own.
type Durations struct {
	Count uint64
	Sum   float64 // in seconds
	upTo  [len(buckets)]uint64
}

// Observe adds a duration.
func (d *Durations) Observe(took time.Duration) {
	seconds := max(took, 0).Seconds() // a clock may have been set back meanwhile
	d.Count++
	d.Sum += seconds
	for i, bound := range buckets {
		if seconds <= bound {
			d.upTo[i]++
		}
	}
}
