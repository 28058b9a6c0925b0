package backend

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/schedule"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// memory is what this process knows of roles beside storage, and may lose.
type memory struct {
	mu    sync.Mutex
	roles map[string]*remembered
}

type remembered struct {
	looks  [looksAt]look   // comparisons with the world outside
	sent   map[string]bool // events handed over, not yet out of the document
	faults int             // storage failures in a row
	issued map[int]time.Time
	// given are the secrets that came with the write of a new role, for the rotation
	// that takes them over: they are stored as material or not at all.
	given    secret.Map
	givenFor string
	// minted is what the target made for the rotation of an id, until it is stored: the
	// only copy there is.
	minted    *rotator.Candidate
	mintedFor string
	// wanted are versions that ended and that somebody had need of, to be recorded; told is
	// when that was done last.
	wanted map[int]missedVersion
	told   map[int]time.Time
}

func (m *memory) with(name string, do func(*remembered)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.roles == nil {
		m.roles = map[string]*remembered{}
	}
	r, ok := m.roles[name]
	if !ok {
		r = &remembered{}
		m.roles[name] = r
	}
	do(r)
}

func (m *memory) forget(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.roles, name)
}

// What a role is compared with, in the world outside.
const (
	lookAtTarget = iota
	lookAtCopy
	looksAt
)

// look is how the comparison of a role with one thing outside stands in this process.
type look struct {
	first  time.Time // when the first one is due; chosen once
	last   time.Time
	failed int // in a row that found nothing out
}

// dueAt is when to compare next.
func (l look) dueAt() time.Time {
	if l.last.IsZero() {
		return l.first
	}
	return l.last.Add(checkEvery)
}

// looks are a role's comparisons; those that never were are due when choose says.
func (m *memory) looks(name string, choose func(name string) time.Time) (all [looksAt]look) {
	m.with(name, func(r *remembered) {
		for i := range r.looks {
			if r.looks[i].first.IsZero() {
				r.looks[i].first = choose(name)
			}
		}
		all = r.looks
	})
	return all
}

func (m *memory) looked(name string, at int, now time.Time) {
	m.with(name, func(r *remembered) { r.looks[at].last, r.looks[at].failed = now, 0 })
}

// lookedInVain counts a comparison that found nothing out; the wait before the next one grows with them.
func (m *memory) lookedInVain(name string, at int, now time.Time) (wait time.Duration) {
	const most = 5 * time.Minute
	m.with(name, func(r *remembered) {
		l := &r.looks[at]
		l.failed++
		wait = min(schedule.Backoff(l.failed+1), most)
		l.last = now.Add(wait - checkEvery)
	})
	return wait
}

// forgetLooks lets every role be compared with the world outside again.
func (m *memory) forgetLooks() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.roles {
		r.looks = [looksAt]look{}
	}
}

// delivered tells whether this process handed an event over already.
func (m *memory) delivered(name, event string) (sent bool) {
	m.with(name, func(r *remembered) { sent = r.sent[event] })
	return sent
}

func (m *memory) setDelivered(name, event string) {
	m.with(name, func(r *remembered) {
		if r.sent == nil || len(r.sent) > maxRememberedEvents {
			r.sent = map[string]bool{}
		}
		r.sent[event] = true
	})
}

const maxRememberedEvents = 256

// fault counts a storage failure; the wait grows with them.
func (m *memory) fault(name string) (wait time.Duration) {
	m.with(name, func(r *remembered) {
		wait = min(time.Second<<min(r.faults, 6), time.Minute)
		r.faults++
	})
	return wait
}

func (m *memory) healthy(name string) { m.with(name, func(r *remembered) { r.faults = 0 }) }

// issue notes until when a ttl of a version read by its own path may run.
func (m *memory) issue(name string, version int, now, until time.Time) {
	m.with(name, func(r *remembered) {
		if r.issued == nil {
			r.issued = map[int]time.Time{}
		}
		maps.DeleteFunc(r.issued, func(_ int, over time.Time) bool { return over.Before(now) })
		if until.After(r.issued[version]) {
			r.issued[version] = until
		}
	})
}

// hand keeps the secrets of an import for the rotation of this id.
func (m *memory) hand(name, rotation string, secrets secret.Map) {
	m.with(name, func(r *remembered) { r.given, r.givenFor = secrets, rotation })
}

// takeBack forgets the secrets of an import that does not come about. Those of any other
// rotation stay.
func (m *memory) takeBack(name, rotation string) {
	m.with(name, func(r *remembered) {
		if r.givenFor == rotation {
			r.given, r.givenFor = nil, ""
		}
	})
}

// handed returns them, nil for any other rotation and after a restart.
func (m *memory) handed(name, rotation string) (secrets secret.Map) {
	m.with(name, func(r *remembered) {
		if r.givenFor == rotation {
			secrets = r.given
		}
	})
	return secrets
}

func (m *memory) issuedUntil(name string, version int) (until time.Time) {
	m.with(name, func(r *remembered) { until = r.issued[version] })
	return until
}

// keepMinted keeps what the target made until it is stored; nil once it is.
func (m *memory) keepMinted(name, rotation string, made *rotator.Candidate) {
	m.with(name, func(r *remembered) { r.minted, r.mintedFor = made, rotation })
}

// minted is what the target made for a rotation and could not be stored yet, or nil.
func (m *memory) minted(name, rotation string) (made *rotator.Candidate) {
	m.with(name, func(r *remembered) {
		if r.mintedFor == rotation {
			made = r.minted
		}
	})
	return made
}

// missedVersion is one that ended and that somebody had need of.
type missedVersion struct {
	version int
	// made tells, given the version's key, whether it made what was asked about; nil where
	// nobody can tell.
	made func(ready any) bool
}

// miss notes that somebody had need of a version that ended; false where that was told a
// short while ago.
func (m *memory) miss(name string, missed missedVersion, now time.Time) (fresh bool) {
	m.with(name, func(r *remembered) {
		_, waits := r.wanted[missed.version]
		if fresh = !waits && now.Sub(r.told[missed.version]) >= toldFor && len(r.wanted) < maxWanted; !fresh {
			return
		}
		if r.wanted == nil {
			r.wanted = map[int]missedVersion{}
		}
		r.wanted[missed.version] = missed
	})
	return fresh
}

const (
	// toldFor is for how long nothing more is told of the same need: whoever asks in a loop
	// is told of once.
	toldFor = time.Hour
	// maxWanted bounds what is kept of whoever asks for all sorts of versions.
	maxWanted = 16
)

// missed are the versions of which it is to be recorded.
func (m *memory) missed(name string) (all []missedVersion) {
	m.with(name, func(r *remembered) { all = slices.Collect(maps.Values(r.wanted)) })
	return all
}

func (m *memory) recordedMissed(name string, all []missedVersion, now time.Time) {
	m.with(name, func(r *remembered) {
		maps.DeleteFunc(r.told, func(_ int, at time.Time) bool { return now.Sub(at) >= toldFor })
		if r.told == nil {
			r.told = map[int]time.Time{}
		}
		for _, v := range all {
			delete(r.wanted, v.version)
			r.told[v.version] = now
		}
	})
}
