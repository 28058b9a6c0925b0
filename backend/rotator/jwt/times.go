package jwt

import (
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// How long things take here:
//
//	standby                          current                     retiring
//	|<------- announce period ------>|<----- signs tokens ----->|<-- grace -->|
//	|<- cache life ->|<- clock skew ->                          |<- token_ttl ->|<- clock skew ->
//
// Whoever fetched the key set just before a key was announced fetches it again
// within the cache life, before the key signs; and a key is published until its last
// token has run out on the slowest clock.

const (
	defaultTokenTTL  = time.Hour
	defaultClockSkew = time.Minute

	longestAnnounce = 24 * time.Hour // by default
	longestCache    = time.Hour
	leastAnnounce   = 2 * time.Second
	// leastGrace is the engine's own lower bound.
	leastGrace = 20 * time.Second

	maxTokenTTL  = 365 * 24 * time.Hour
	maxClockSkew = time.Hour
)

// honoured is how long after it last signed a key must be published.
func (o *roleOptions) honoured() time.Duration { return o.TokenTTL.Std() + o.ClockSkew.Std() }

// withReaders adds the time in which a reader who holds an exported key still signs:
// its ttl is a quarter of the grace.
func withReaders(d time.Duration) time.Duration {
	return (d*4 + 3*time.Second - 1) / (3 * time.Second) * time.Second
}

func defaultGrace(tokenTTL, clockSkew time.Duration) time.Duration {
	return max(withReaders(tokenTTL+clockSkew), leastGrace)
}

// DefaultGrace implements rotator.Gracer.
func (*Rotator) DefaultGrace(r *rotator.Role) time.Duration {
	o, err := decodeRole(r)
	if err != nil {
		return 0
	}
	return defaultGrace(o.TokenTTL.Std(), o.ClockSkew.Std())
}

// AnnounceAhead implements rotator.Announcer.
func (*Rotator) AnnounceAhead(r *rotator.Role) time.Duration {
	o, err := decodeRole(r)
	if err != nil {
		return 0
	}
	return o.announce(r.Interval)
}

// announce is the effective announce period of a role whose scheduled rotations are at
// least the interval apart (0 when it is not known).
func (o *roleOptions) announce(interval time.Duration) time.Duration {
	if o.AnnouncePeriod > 0 {
		return o.AnnouncePeriod.Std()
	}
	d := longestAnnounce
	if interval > 0 {
		d = min(d, (interval / 4).Truncate(time.Second))
	}
	return max(d, 2*o.ClockSkew.Std(), leastAnnounce)
}

// cacheLife is for how long a verifier may keep the key set. With half the announce
// period the other half is left for clocks that differ.
func (o *roleOptions) cacheLife(interval time.Duration) time.Duration {
	return min(o.announce(interval)/2, longestCache).Truncate(time.Second)
}

func (o *roleOptions) checkTimes(r *rotator.Role) error {
	switch {
	case o.TokenTTL.Std() < time.Second || o.TokenTTL.Std() > maxTokenTTL:
		return fault.Field("token_ttl", "must be from 1s to 365d")
	case o.ClockSkew.Std() < 0 || o.ClockSkew.Std() > maxClockSkew:
		return fault.Field("clock_skew", "must be from 0 to 1h")
	}
	if err := o.checkAnnounce(r.Interval); err != nil {
		return err
	}
	return o.checkGrace(r.Grace)
}

func (o *roleOptions) checkAnnounce(interval time.Duration) error {
	announce := o.announce(interval)
	switch {
	case o.AnnouncePeriod < 0 || o.AnnouncePeriod > 0 && o.AnnouncePeriod.Std() < leastAnnounce:
		return fault.Field("announce_period", "must be at least %s, or 0 for the default", leastAnnounce)
	case announce < 2*o.ClockSkew.Std():
		return fault.Field("announce_period", "must be at least %s, twice clock_skew: else a verifier with cached keys would meet tokens of a key that it does not know", 2*o.ClockSkew.Std())
	case interval <= 0 || announce < interval:
		return nil
	case o.AnnouncePeriod > 0:
		return fault.Field("announce_period", "must be shorter than the time between two rotations, which is %s", interval)
	default:
		return fault.Field("clock_skew", "must be less than half the time between two rotations, which is %s: each key is announced for at least twice clock_skew before it signs", interval)
	}
}

// checkGrace keeps the promise that a token is honoured for its whole life.
func (o *roleOptions) checkGrace(grace time.Duration) error {
	if grace < o.honoured() {
		return fault.Field("grace_period", "must be at least %s (token_ttl and clock_skew together): a token must not outlive its key", o.honoured())
	}
	if least := withReaders(o.honoured()); o.Exportable && grace < least {
		return fault.Field("grace_period", "must be at least %s (4/3 of token_ttl and clock_skew together) where keys are exportable: who has read one signs with it for up to a quarter of the grace", least)
	}
	return nil
}
