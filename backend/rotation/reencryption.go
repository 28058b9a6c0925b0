package rotation

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Reencryption is the job that lets stored data follow the current version, so that
// earlier ones can end. It belongs to the state, so that what it clears and what it is
// cleared for are committed together; how far each target is lies in documents of its own.
type Reencryption struct {
	ID string `json:"id"`
	// Version is the one that the data is moved to.
	Version int                `json:"version"`
	Phase   ReencryptionPhase  `json:"phase"`
	Control ReencryptionChoice `json:"control,omitempty"`
	// At is when it goes on; a maintenance window may put that off.
	At time.Time `json:"at"`
	// Urgent waives the wait after a rotation, the maintenance window and the bound of rows
	// per second.
	Urgent bool `json:"urgent,omitempty"`
	// Recount tells that it only repeats the count that a destruction waits for.
	Recount bool `json:"recount,omitempty"`
	// Round counts the passes; progress of another round is void.
	Round int `json:"round"`
	// Failures counts those in a row, Trouble is what a person should read, and Person tells
	// that nothing will get better without one.
	Failures int    `json:"failures,omitempty"`
	Trouble  string `json:"trouble,omitempty"`
	Person   bool   `json:"person,omitempty"`
	// Left is how many values the last count found that hold a version, Stuck in how many
	// rounds in a row they did not become fewer.
	Left  int64 `json:"left,omitempty"`
	Stuck int   `json:"stuck,omitempty"`
	// Drains are, by connection, the transactions that must end before anything is counted,
	// and whether each is a prepared one.
	Drains map[string]map[string]bool `json:"drains,omitempty"`
	// Rows and Done are how far the pass was when that was last noted, DataKeys the wrapped
	// data keys among the values.
	Rows     int64 `json:"rows,omitempty"`
	Done     int64 `json:"done,omitempty"`
	DataKeys int64 `json:"data_keys,omitempty"`

	CreatedTime time.Time `json:"created_time"`
	EndedTime   time.Time `json:"ended_time,omitzero"`
}

// ReencryptionPhase is how far the job is.
type ReencryptionPhase string

// The phases, in order. Rows found by the count begin another round.
const (
	Rewriting ReencryptionPhase = "rewriting" // rows are rewritten
	Settling  ReencryptionPhase = "settling"  // what was encrypted last is being stored
	Draining  ReencryptionPhase = "draining"  // transactions that may hold it end
	Counting  ReencryptionPhase = "counting"  // what is left is counted
	Over      ReencryptionPhase = "over"      // nothing is left to be done
)

// ReencryptionChoice is what a person said of the job.
type ReencryptionChoice string

// The choices.
const (
	Goes      ReencryptionChoice = ""
	Paused    ReencryptionChoice = "paused"
	Cancelled ReencryptionChoice = "cancelled"
)

// Runs tells whether the job has anything to do, and may.
func (r *Reencryption) Runs() bool { return r != nil && r.Control == Goes && r.Phase != Over }

// Same tells whether a job is still the one that an act was done for, at the same place.
func (r *Reencryption) Same(was *Reencryption) bool {
	return r != nil && r.ID == was.ID && r.Phase == was.Phase && r.Round == was.Round
}

// To moves the job to a phase: what was in its way is not any more.
func (r *Reencryption) To(phase ReencryptionPhase, at time.Time) {
	r.Phase, r.At, r.Drains = phase, at, nil
	r.Failures, r.Trouble, r.Person = 0, "", false
	if phase == Over {
		r.EndedTime = at
	}
}

// Again begins another pass.
func (r *Reencryption) Again(at time.Time, trouble string) {
	r.To(Rewriting, at)
	r.Round++
	r.Trouble = trouble
}

// Drain waits until transactions have ended.
func (r *Reencryption) Drain(transactions map[string]map[string]bool, at time.Time, what string) {
	r.To(Draining, at)
	r.Drains, r.Trouble = transactions, what
}

// Failed puts the job off.
func (r *Reencryption) Failed(why string, at time.Time) {
	r.Failures++
	r.Trouble, r.At = why, at
}

// PlanReencryption replaces the job by a new one, which begins at a time. What a person
// paused stays so.
func (s *State) PlanReencryption(id string, at, now time.Time) *Reencryption {
	job := &Reencryption{ID: id, Version: s.Current, Phase: Rewriting, Round: 1, At: at, CreatedTime: now}
	for i := range s.Versions {
		if v := &s.Versions[i]; v.Compromised && v.Holds() {
			job.Urgent, job.At = true, now
		}
	}
	if before := s.Reencryption; before != nil && before.Control == Paused && before.Version == s.Current && before.Phase != Over {
		job.Control = Paused
	}
	s.Reencryption = job
	return job
}

// Clearance says that nothing was left of what a version made.
type Clearance struct {
	Time time.Time `json:"time"`
	// Targets is how many were counted; none are where a person said so.
	Targets int `json:"targets"`
}

// Holds tells whether the version must stay for what it made: nothing has cleared it.
func (v *Version) Holds() bool {
	return v.KeepsData && v.Cleared == nil && v.State == Retiring && v.RetireBegun.IsZero()
}

// Holding lists the versions that stay for what they made.
func (s *State) Holding() (numbers []int) {
	for i := range s.Versions {
		if s.Versions[i].Holds() {
			numbers = append(numbers, s.Versions[i].Number)
		}
	}
	return numbers
}

// HasEarlier tells whether there are versions beside the current one that made data, and
// whose keys are kept.
func (s *State) HasEarlier() bool {
	return slices.ContainsFunc(s.Versions, func(v Version) bool { return v.KeepsData && (v.State == Retiring || v.State == Disabled) })
}

// SettledAt tells from when on nothing that any of the versions encrypted is still on its way.
func (s *State) SettledAt(numbers []int, settle time.Duration) (at time.Time) {
	for _, n := range numbers {
		if v := s.Version(n); v != nil && v.DeactivatedTime.Add(settle).After(at) {
			at = v.DeactivatedTime.Add(settle)
		}
	}
	return at
}

// destroyAt is when the material of a disabled version is due to be destroyed; zero for
// never.
func (v *Version) destroyAt(after time.Duration) time.Time {
	if after == 0 || v.DestroyFrom.IsZero() {
		return time.Time{}
	}
	return v.DestroyFrom.Add(after)
}

// KeepUntil lets the ends of the disabled versions' material follow the policy; false where
// they do already. adopt is false to look only.
func (s *State) KeepUntil(after time.Duration, adopt bool) (differs bool) {
	for i := range s.Versions {
		v := &s.Versions[i]
		if !v.KeepsData || v.State != Disabled || v.DestroyAt.Equal(v.destroyAt(after)) {
			continue
		}
		differs = true
		if adopt {
			v.DestroyAt = v.destroyAt(after)
		}
	}
	return differs
}

// MayDestroy tells whether the material of a disabled version may be destroyed: nothing
// needs it, as of a count made when that was due.
func (v *Version) MayDestroy() bool {
	return !v.KeepsData || !v.DestroyAt.IsZero() && v.clearedSince(v.DestroyAt)
}

func (v *Version) clearedSince(t time.Time) bool {
	return v.Cleared != nil && !v.Cleared.Time.Before(t)
}

// ToRecount lists the versions whose destruction waits for another count, and, while none
// does, when the first will.
func (s *State) ToRecount(now time.Time) (numbers []int, next time.Time) {
	for i := range s.Versions {
		v := &s.Versions[i]
		if !v.KeepsData || v.State != Disabled || v.Undo || v.DestroyAt.IsZero() || v.clearedSince(v.DestroyAt) {
			continue
		}
		switch {
		case !v.DestroyAt.After(now):
			numbers = append(numbers, v.Number)
		case next.IsZero() || v.DestroyAt.Before(next):
			next = v.DestroyAt
		}
	}
	return numbers, next
}

// Void takes the clearances back: what versions made is there again, or may be. None is
// destroyed before the wait is over again.
func (s *State) Void(destroyAfter time.Duration, now time.Time) {
	for i := range s.Versions {
		s.Versions[i].void(destroyAfter, now)
	}
}

func (v *Version) void(destroyAfter time.Duration, now time.Time) {
	if !v.KeepsData || v.State == Retiring && !v.RetireBegun.IsZero() {
		return
	}
	v.Cleared = nil
	if v.State == Disabled {
		v.DestroyFrom = now
		v.DestroyAt = v.destroyAt(destroyAfter)
	}
}

// maxLeap bounds how far numbers are raised by what anybody may have written.
const maxLeap = 10_000

// Miss records that somebody had need of a version that ended: its clearance is void. A
// number above all that were given is of a version that this storage forgot: it is not given
// again to another key.
func (s *State) Miss(number int, destroyAfter time.Duration, now time.Time) {
	v := s.Version(number)
	switch {
	case v != nil && (v.State == Disabled || v.State == Retired):
		v.void(destroyAfter, now)
		v.MissedTime = now
	case number > s.Highest && number-s.Highest <= maxLeap:
		s.Highest = number
	default:
		return
	}
	s.Emit(Event{
		ID: fmt.Sprintf("version.missed/%d/%d", number, now.Unix()), Type: "version.missed", Time: now,
		Data: map[string]string{"version": fmt.Sprint(number)},
	})
}

// Reopen lets a disabled version be put to use again, beside the current one: data that it
// made came back. It stays until that has followed.
func (s *State) Reopen(number int, now time.Time) error {
	v := s.Version(number)
	if v == nil || !v.KeepsData || v.State != Disabled || !v.HasMaterial {
		return fmt.Errorf("reopen version %d: it is not disabled", number)
	}
	if err := v.moveTo(Retiring); err != nil {
		return err
	}
	v.RetireBegun, v.RetireAt, v.DestroyAt, v.DestroyFrom = time.Time{}, now, time.Time{}, time.Time{}
	v.DeactivatedTime, v.MissedTime = now, time.Time{} // whoever restores it may store it until it has settled
	v.Cleared, v.Proof, v.Attention = nil, nil, nil
	for _, incident := range v.Incidents { // which is not contained any more
		s.link(incident)
	}
	s.Reencryption = nil // planned anew
	return nil
}

// link ties the role to an incident again.
func (s *State) link(incident string) {
	for i := range s.Incidents {
		if s.Incidents[i].ID == incident {
			s.Incidents[i].Dirty = true
			return
		}
	}
	s.Incidents = append(s.Incidents, IncidentLink{ID: incident, Dirty: true})
}

// letGoOfData ends, with their role, the versions that stay for what they made: nothing
// counts that any more. Numbers under which nothing was ever encrypted are given again, so
// that an import that failed can be tried once more under those that it brings along.
func (s *State) letGoOfData(now time.Time) {
	for i := range s.Versions {
		v := &s.Versions[i]
		if v.KeepsData && s.ActivatedTime.IsZero() {
			s.Highest = s.Base
		}
		if v.Holds() {
			v.RetireNow(now)
		}
		v.KeepsData = false
	}
}

// Numbers lists versions in words.
func Numbers(numbers []int) string {
	texts := make([]string, 0, len(numbers))
	for _, n := range numbers {
		texts = append(texts, fmt.Sprint(n))
	}
	return strings.Join(texts, ", ")
}
