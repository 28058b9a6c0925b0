package backend

import "time"

// Clock tells the time; tests inject their own.
type Clock interface {
	// Now is the wall clock, in UTC.
	Now() time.Time
	// Mono is a monotonic time since some fixed point: it shows when the wall
	// clock jumped.
	Mono() time.Duration
	// After fires once d has passed.
	After(d time.Duration) <-chan time.Time
}

type realClock struct{ start time.Time }

func newRealClock() realClock { return realClock{start: time.Now()} }

func (c realClock) Now() time.Time                         { return time.Now().UTC() }
func (c realClock) Mono() time.Duration                    { return time.Since(c.start) }
func (c realClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// service measures, by monotonic time, for how long this process has served
// readers without a pause: what was handed out before a crash, a long seal or a
// clock jump has been read again by then.
type service struct {
	since, lastMono time.Duration
	lastWall        time.Time
}

// A gap in the heartbeat, or between the two clocks, that counts as a pause.
const (
	heartbeat   = 30 * time.Second
	longestGap  = 4 * heartbeat
	longestJump = 10 * time.Second
)

// beat notes that the process is alive, and returns for how long it has served, and whether the
// wall clock was set back since the last beat.
func (s *service) beat(c Clock) (served time.Duration, setBack bool) {
	mono, wall := c.Mono(), c.Now()
	gap := mono - s.lastMono
	jump := wall.Round(0).Sub(s.lastWall.Round(0)) - gap
	first := s.lastWall.IsZero()
	if first || gap > longestGap || jump.Abs() > longestJump {
		s.since = mono
	}
	s.lastMono, s.lastWall = mono, wall
	return mono - s.since, !first && jump < -longestJump
}
