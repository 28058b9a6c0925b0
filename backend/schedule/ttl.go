package schedule

import "time"

// The bounds of a ttl and of a grace period.
const (
	MinGrace    = 20 * time.Second
	MinPeriod   = time.Minute
	maxFloor    = 30 * time.Second
	inPlacePast = 30 * time.Second
	inPlaceNone = 300 * time.Second
	minRetiring = 2 * time.Second
)

// TTL is for how long a reader may rely on the current version before it reads
// again. It never exceeds a quarter of the grace, so that a rotation nobody
// announced is noticed well before the old version ends.
func TTL(grace time.Duration, next, now time.Time) time.Duration {
	if grace <= 0 {
		return inPlaceTTL(next, now)
	}
	quarter := LongestTTL(grace)
	left := next.Sub(now)
	if next.IsZero() || left <= 0 {
		return quarter
	}
	return max(min(quarter, left), min(maxFloor, quarter)).Truncate(time.Second)
}

func inPlaceTTL(next, now time.Time) time.Duration {
	switch {
	case next.IsZero():
		return inPlaceNone
	case !next.After(now):
		return inPlacePast
	default:
		return max(next.Sub(now), inPlacePast).Truncate(time.Second)
	}
}

// LongestTTL is the longest ttl ever handed out under a grace period.
func LongestTTL(grace time.Duration) time.Duration { return (grace / 4).Truncate(time.Second) }

// RetiringTTL is the ttl of a retiring version read by its own path; ok is false
// when too little of its life is left to hand it out. A credential that was changed
// in place has no earlier version that would work.
func RetiringTTL(grace time.Duration, retireAt, now time.Time) (ttl time.Duration, ok bool) {
	ttl = LongestTTL(grace)
	if !retireAt.IsZero() { // else its end is not even set
		ttl = min(ttl, retireAt.Sub(now)/2).Truncate(time.Second)
	}
	return ttl, ttl >= minRetiring
}

// Margin is what is added to a ttl that may still run before its version may end.
func Margin(grace time.Duration) time.Duration { return min(grace/8, time.Minute) }

// Settle is how long a process must have served readers before it ends a version
// by the clock: whoever read before a crash or a clock jump has read again by then.
func Settle(grace time.Duration) time.Duration { return LongestTTL(grace) + Margin(grace) }
