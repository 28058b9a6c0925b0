package rotation

import (
	"fmt"
	"slices"
	"time"
)

// BeginRetire journals that the retirement of a version starts, before its
// first effect.
func (s *State) BeginRetire(number int, now time.Time) {
	v := s.Version(number)
	if v.RetireBegun.IsZero() {
		v.RetireBegun = now
	}
}

// RetireNow lets the retirement of a version begin whatever was promised.
func (v *Version) RetireNow(now time.Time) { v.RetireAt, v.RetireBegun, v.Attention = now, now, nil }

// DisableDone records the first stage of a retirement.
func (s *State) DisableDone(number int, destroyAt time.Time, sessions int) error {
	v := s.Version(number)
	if err := v.moveTo(Disabled); err != nil {
		return err
	}
	v.DestroyAt, v.SessionsEnded, v.Attention = destroyAt, v.SessionsEnded+sessions, nil
	return nil
}

// DestroyDone records the end of a version; left says why its object stays
// outside, disabled, when it does.
func (s *State) DestroyDone(number int, now time.Time, left string) error {
	v := s.Version(number)
	if err := v.moveTo(Retired); err != nil {
		return err
	}
	v.RetiredTime, v.Left, v.Attention = now, left, nil
	return nil
}

// UndoDone records that nothing is left of an abandoned candidate.
func (s *State) UndoDone(number int, now time.Time) error {
	v := s.Version(number)
	v.Undo, v.Ahead, v.Attention = false, false, nil
	if v.State != Pending {
		return nil
	}
	v.RetiredTime = now
	return v.moveTo(Discarded)
}

// Delete turns the state into that of a deleted role: what readers hold retires
// after its grace, what leaked and everything else at once.
func (s *State) Delete(now time.Time) error {
	if s.InFlight != nil {
		return fmt.Errorf("delete: rotation %s is in flight", s.InFlight.ID)
	}
	if cur := s.CurrentVersion(); cur != nil {
		if err := cur.moveTo(Retiring); err != nil {
			return err
		}
		cur.DeactivatedTime = now
	}
	if err := s.giveUpAhead(now); err != nil {
		return err
	}
	s.Current, s.Deleted = 0, true
	s.NextRotation, s.Intent, s.Divergence, s.Postponed = time.Time{}, nil, nil, nil
	s.KillNow(now)
	s.startGrace(now)
	s.letGoOfData(now)
	return nil
}

// Settled tells whether nothing of any version is left to be done outside.
func (s *State) Settled() bool {
	for i := range s.Versions {
		if !s.Versions[i].Settled() {
			return false
		}
	}
	return true
}

// Trim forgets settled versions beyond the newest keep, and returns the numbers
// whose material is to be destroyed. The history keeps their rotations.
func (s *State) Trim(keep int) (forgotten []int) {
	extra := len(s.Versions) - keep
	var kept []Version // a list of its own: whoever copied the state may share the old one
	for _, v := range s.Versions {
		if extra > 0 && v.Settled() && !s.referenced(v) {
			forgotten = append(forgotten, v.Number)
			if v.Left != "" { // its object will be seen again
				s.Acknowledged = append(slices.Clip(s.Acknowledged), v.RotationID)
			}
			extra--
			continue
		}
		kept = append(kept, v)
	}
	s.Versions = kept
	return forgotten
}

// referenced tells whether the rotation in flight, or an incident whose record is
// still derived from the state, speaks of a version.
func (s *State) referenced(v Version) bool {
	r := s.InFlight
	return r != nil && (r.Version == v.Number || r.PreviousVersion == v.Number) ||
		slices.ContainsFunc(s.Incidents, func(l IncidentLink) bool { return v.Of(l.ID) })
}
