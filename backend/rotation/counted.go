package rotation

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Found is what a count of a role's data found.
type Found struct {
	// Targets is how many were counted.
	Targets int
	// Versions are the values under each version.
	Versions map[int]int64
	// Foreign are values of which nobody knows what they need.
	Foreign int64
	// Moved tells that the pass before it changed rows, or could not get at some.
	Moved bool
	// Unmovable says what no pass can move, in words; "" where nothing was seen to be so.
	Unmovable string
}

const (
	// recountEvery is the wait before what no pass could move is looked at again,
	// anotherRound the one before rows that came late are.
	recountEvery = 24 * time.Hour
	anotherRound = time.Minute
	// maxStuck is how many rounds in a row may change nothing for the better: a trigger may
	// undo whatever is written.
	maxStuck = 3
)

// Counted commits what a count means for the versions and for the job. since has when each
// version had stopped encrypting as the count began: one that was current again meanwhile
// is not judged.
func (s *State) Counted(f *Found, since map[int]time.Time, destroyAfter time.Duration, now time.Time) {
	job := s.Reencryption
	recount, _ := s.ToRecount(now)
	holding := s.Holding()
	if job.Recount {
		holding = nil // nothing was waited for
	}
	for number, values := range f.Versions {
		if s.Version(number) == nil { // made before Vault was restored from an older state, or by hand
			f.Foreign += values
		}
	}
	before := job.Left
	job.Left = 0
	for _, number := range holding {
		job.Left += f.under(number)
	}
	// What could still be rewritten, by a process that was deposed too, would come under
	// any of the versions: none is cleared before that is over.
	if job.Left == 0 && f.Targets > 0 || job.Left > 0 && !f.Moved && job.Left == before {
		s.clear(holding, f, since, now)
	}
	s.clear(recount, f, since, now)
	for _, number := range recount {
		if v := s.Version(number); v.Cleared == nil || v.Cleared.Time != now {
			v.void(destroyAfter, now)
		}
	}
	missed := s.found(f, destroyAfter, now)
	s.goOn(f, before, missed, now)
}

// under is how many values keep a version: those it made, and those of which nobody knows
// what they are.
func (f *Found) under(version int) int64 { return f.Versions[version] + f.Foreign }

// clear clears those of which nothing is left.
func (s *State) clear(numbers []int, f *Found, since map[int]time.Time, now time.Time) {
	for _, number := range numbers {
		v := s.Version(number)
		if f.under(number) > 0 || !since[number].Equal(v.DeactivatedTime) {
			continue
		}
		v.Cleared = &Clearance{Time: now, Targets: f.Targets}
		s.Emit(Event{
			ID: fmt.Sprintf("version.cleared/%d/%d", number, now.Unix()), Type: "version.cleared", Time: now,
			Data: map[string]string{"version": fmt.Sprint(number)},
		})
	}
}

// found notes values of versions that ended, or that this storage does not know, and says
// so.
func (s *State) found(f *Found, destroyAfter time.Duration, now time.Time) (said string) {
	for _, number := range slices.Sorted(maps.Keys(f.Versions)) {
		v, values := s.Version(number), f.Versions[number]
		if values == 0 || v != nil && v.State != Disabled && v.State != Retired {
			continue
		}
		s.Miss(number, destroyAfter, now)
		state := "is not known here"
		if v != nil {
			state = "is " + string(v.State)
		}
		said += fmt.Sprintf("%d values are of version %d, which %s; ", values, number, state)
	}
	return said
}

// goOn decides between another round, a later one, and the end.
func (s *State) goOn(f *Found, before int64, missed string, now time.Time) {
	job, holding := s.Reencryption, s.Holding()
	if job.Stuck++; job.Left < before || before == 0 {
		job.Stuck = 0
	}
	switch {
	case len(holding) == 0 || job.Recount:
		job.To(Over, now)
		job.Trouble, job.Person = missed, missed != ""
		s.Emit(Event{ID: job.ID + "/reencryption.ended", Type: "reencryption.ended", Time: now, Data: map[string]string{"version": fmt.Sprint(job.Version)}})
	case f.Targets == 0: // until a person says otherwise, or names some
		job.To(Over, now)
		job.Trouble = fmt.Sprintf("the role has no targets: versions %s decrypt until a person retires them", Numbers(holding))
	case (f.Moved || job.Left != before) && job.Stuck < maxStuck: // they came while the pass ran, or were locked
		job.Again(now.Add(anotherRound<<job.Stuck), "rows of earlier versions are left: another pass follows")
	default:
		why := f.Unmovable
		if why == "" {
			why = fmt.Sprintf("%d values stay as they were, pass after pass: a trigger may undo what is written", job.Left)
		}
		job.Again(now.Add(recountEvery), fmt.Sprintf("%s%s; versions %s stay", missed, why, Numbers(holding)))
		job.Person = true
		s.Emit(Event{ID: fmt.Sprintf("%s/reencryption.left/%d", job.ID, job.Round), Type: "reencryption.left", Time: now, Data: map[string]string{"what": job.Trouble}})
	}
}
