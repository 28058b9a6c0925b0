package rotation

import (
	"fmt"
	"time"
)

// StandbyVersion returns the next version that is ready ahead, or nil. One that
// stands by for a rollback is not it.
func (s *State) StandbyVersion() *Version {
	return s.find(func(v *Version) bool { return v.State == Standby && !v.Returns })
}

// StagedVersion returns the version that stands by as the second of a pair, or nil.
func (s *State) StagedVersion() *Version {
	if v := s.StandbyVersion(); v != nil && v.Staged {
		return v
	}
	return nil
}

// AheadVersion returns the version that is on its way to standby, or nil: one for a
// rollback first, since somebody waits for it.
func (s *State) AheadVersion() *Version {
	if v := s.find(func(v *Version) bool { return v.Ahead && !v.Undo && v.Returns }); v != nil {
		return v
	}
	return s.find(func(v *Version) bool { return v.Ahead && !v.Undo })
}

// AbandonedReturn returns a version that stands by, or is about to, for a rollback
// that nobody wants any more, or nil.
func (s *State) AbandonedReturn() *Version {
	return s.find(func(v *Version) bool {
		return v.Returns && !s.Wanted(v.Number) && (s.InFlight == nil || s.InFlight.Version != v.Number)
	})
}

// Wanted tells whether a rotation that has not begun is about a version.
func (s *State) Wanted(number int) bool {
	wants := func(i *Intent) bool { return i != nil && i.Version == number }
	return wants(s.Intent) || wants(s.Replaced)
}

func (s *State) find(matches func(*Version) bool) *Version {
	for i := range s.Versions {
		if matches(&s.Versions[i]) {
			return &s.Versions[i]
		}
	}
	return nil
}

// Announce keeps the times of versions that stand by: how long they do under the
// policy in force, and until when the promise of an earlier, longer one holds.
type Announce struct {
	Ahead Duration  `json:"ahead"`
	Floor time.Time `json:"floor,omitzero"`
}

// AnnounceFor adopts how long versions stand by from now on. Whoever looked a moment
// ago was told to come back within the earlier time, which may be longer.
func (s *State) AnnounceFor(now time.Time, ahead Duration) {
	if floor := now.Add(s.Announce.Ahead.Std()); ahead < s.Announce.Ahead && floor.After(s.Announce.Floor) {
		s.Announce.Floor = floor
	}
	s.Announce.Ahead = ahead
}

// StandbyReady records that a version made or brought back ahead stands by, and from
// when on it may be used.
func (s *State) StandbyReady(number int, now time.Time, ahead Duration) error {
	v := s.Version(number)
	if err := v.moveTo(Standby); err != nil {
		return err
	}
	v.Ahead, v.Attention, v.AnnouncedTime = false, nil, now
	if !v.Staged { // whose time is a policy, not a promise
		ahead = max(ahead, s.Announce.Ahead)
	}
	v.ReadyAt = now.Add(ahead.Std())
	if s.Announce.Floor.After(v.ReadyAt) {
		v.ReadyAt = s.Announce.Floor
	}
	if v.Returns {
		v.RetireAt, v.RetireBegun, v.RetiredTime, v.DestroyAt, v.Proof = time.Time{}, time.Time{}, time.Time{}, time.Time{}, nil
		return nil
	}
	s.Ahead = nil
	return nil
}

// BringBack asks to let an ended version stand by for a rollback.
func (v *Version) BringBack() { v.Ahead, v.Returns, v.Attention = true, true, nil }

// Withdraw ends a version again that stands by, or is about to, for a rollback.
func (s *State) Withdraw(number int, now time.Time) error {
	v := s.Version(number)
	if v.State == Standby {
		if err := v.moveTo(Disabled); err != nil {
			return err
		}
		v.DestroyAt = now
	}
	v.Ahead, v.Returns, v.Undo, v.Proof, v.Attention = false, false, true, nil, nil
	return nil
}

// DropStandby gives up the version that stands by, if any: it is undone.
func (s *State) DropStandby() error {
	v := s.StandbyVersion()
	if v == nil {
		return nil
	}
	v.Undo = true
	return v.moveTo(Pending)
}

// giveUpStandby is DropStandby for one that works: readers of a pair may hold it, and
// keep it for a grace, which the caller sets.
func (s *State) giveUpStandby(now time.Time) error {
	v := s.StagedVersion()
	if v == nil {
		return s.DropStandby()
	}
	v.DeactivatedTime = now
	return v.moveTo(Retiring)
}

// Stage adds a version that exists at the target and was proven: it stands by, as the
// second of a pair, until it is promoted at ready or later. An earlier one that still
// stands by is given up.
func (s *State) Stage(v Version, now, ready time.Time) error {
	if v.Number <= s.Highest {
		return fmt.Errorf("stage version %d: it was used before", v.Number)
	}
	if err := s.giveUpStandby(now); err != nil {
		return err
	}
	v.State, v.Staged, v.AnnouncedTime, v.ReadyAt = Standby, true, now, ready
	s.Versions, s.Highest = append(s.Versions, v), v.Number
	s.ActionRequired = ""
	if s.InFlight == nil {
		s.startGrace(now)
	}
	return nil
}

// giveUpAhead asks to undo everything that was made, or is being made, ahead.
func (s *State) giveUpAhead(now time.Time) error {
	if err := s.giveUpStandby(now); err != nil {
		return err
	}
	for i := range s.Versions {
		v := &s.Versions[i]
		if v.Returns {
			if err := s.Withdraw(v.Number, now); err != nil {
				return err
			}
		}
		v.Undo = v.Undo || v.State == Pending
	}
	return nil
}
