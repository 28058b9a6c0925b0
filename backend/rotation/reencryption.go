package rotation

import (
	"fmt"
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
	// Round counts the passes; progress of another round is void.
	Round int `json:"round"`
	// Failures counts those in a row, Trouble is what a person should read.
	Failures int    `json:"failures,omitempty"`
	Trouble  string `json:"trouble,omitempty"`
	// Left is how many values the last count found that hold a version; Person tells that no
	// pass can move them.
	Left   int64 `json:"left,omitempty"`
	Person bool  `json:"person,omitempty"`
	// Drains are, by connection, the transactions that must end before anything is counted.
	Drains map[string][]string `json:"drains,omitempty"`
	// Rows and Done are how far the pass was when that was last noted, DataKeys the wrapped
	// data keys among the values.
	Rows     int64 `json:"rows,omitempty"`
	Done     int64 `json:"done,omitempty"`
	DataKeys int64 `json:"data_keys,omitempty"`

	CreatedTime time.Time `json:"created_time"`
	StartedTime time.Time `json:"started_time,omitzero"`
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

// toRecount tells whether a version is to be destroyed once a count has been repeated.
func (v *Version) toRecount(now time.Time) bool {
	return v.KeepsData && v.State == Disabled && !v.Undo && !v.DestroyAt.IsZero() && !v.DestroyAt.After(now) && !v.clearedSince(v.DestroyAt)
}

func (v *Version) clearedSince(t time.Time) bool {
	return v.Cleared != nil && !v.Cleared.Time.Before(t)
}

// MayDestroy tells whether the material of a disabled version may be destroyed: nothing
// needs it, as of a count made when that was due.
func (v *Version) MayDestroy() bool { return !v.KeepsData || v.clearedSince(v.DestroyAt) }

// ToRecount lists the versions whose destruction waits for another count, and, while none
// does, when the first will.
func (s *State) ToRecount(now time.Time) (numbers []int, next time.Time) {
	for i := range s.Versions {
		v := &s.Versions[i]
		switch {
		case v.toRecount(now):
			numbers = append(numbers, v.Number)
		case v.toRecount(v.DestroyAt) && (next.IsZero() || v.DestroyAt.Before(next)):
			next = v.DestroyAt
		}
	}
	return numbers, next
}

// Clear records that a count found nothing of a version that retires, or is to be
// destroyed.
func (s *State) Clear(number, targets int, now time.Time) error {
	v := s.Version(number)
	if v == nil || !v.KeepsData || v.State != Retiring && v.State != Disabled {
		return fmt.Errorf("clear version %d: it neither retires nor is disabled", number)
	}
	v.Cleared = &Clearance{Time: now, Targets: targets}
	s.Emit(Event{
		ID: fmt.Sprintf("%s/version.cleared/%d/%d", v.RotationID, number, now.Unix()), Type: "version.cleared", Time: now,
		Data: map[string]string{"version": fmt.Sprint(number)},
	})
	return nil
}

// Void takes the clearance of a version back: what it made is there again, or may be. It is
// not destroyed before the wait is over again; 0: never.
func (s *State) Void(number int, destroyAfter time.Duration, now time.Time) {
	v := s.Version(number)
	if v == nil || !v.KeepsData || !v.RetireBegun.IsZero() && v.State == Retiring {
		return
	}
	v.Cleared = nil
	if v.State == Disabled {
		v.DestroyAt = time.Time{}
		if destroyAfter > 0 {
			v.DestroyAt = now.Add(destroyAfter)
		}
	}
}

// Miss records that somebody had need of a version that ended: its clearance is void.
func (s *State) Miss(number int, destroyAfter time.Duration, now time.Time) {
	v := s.Version(number)
	if v == nil || v.State != Disabled && v.State != Retired {
		return
	}
	if v.State == Disabled {
		s.Void(number, destroyAfter, now)
	}
	v.MissedTime = now
	s.Emit(Event{
		ID: fmt.Sprintf("%s/version.missed/%d/%d", v.RotationID, number, now.Unix()), Type: "version.missed", Time: now,
		Data: map[string]string{"version": fmt.Sprint(number)},
	})
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
	v.RetireBegun, v.RetireAt, v.DestroyAt = time.Time{}, now, time.Time{}
	v.DeactivatedTime, v.MissedTime = now, time.Time{} // whoever restores it may store it until it has settled
	v.Cleared, v.Proof, v.Attention = nil, nil, nil
	s.Reencryption = nil // planned anew
	return nil
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
