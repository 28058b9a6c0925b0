package access

import (
	"hash/maphash"
	"math/bits"
	"strings"
	"time"
)

// Identity is a reader as Vault authenticated the request.
type Identity struct {
	EntityID    string
	DisplayName string
	// Accessor of the token: never stored, only its hash is.
	Accessor string
	Address  string
}

// The longest text of an identity, in bytes; a longer one is cut.
const (
	maxName = 128
	maxText = 64
)

func (i Identity) cut() Identity {
	i.EntityID, i.DisplayName = clip(i.EntityID, maxText), clip(i.DisplayName, maxName)
	i.Accessor, i.Address = clip(i.Accessor, maxText), clip(i.Address, maxText)
	return i
}

func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return text[:most]
}

// own is a copy that keeps nothing of the request alive.
func (i *Identity) own() Identity {
	return Identity{strings.Clone(i.EntityID), strings.Clone(i.DisplayName), strings.Clone(i.Accessor), strings.Clone(i.Address)}
}

// page is what was read of a role between two flushes. The role's mutex guards it.
type page struct {
	seq     int64
	since   int64 // when its first read was, in nanoseconds
	entries int   // of those that the ledger bounds
	tallies []tally
}

// tally is the reads of one version.
type tally struct {
	version int
	span
	lines []*line
	// crowd finds them once there are more than a few.
	crowd *crowd
	// others is how often those read that found no place, and which hashes they have: the
	// bits that are set are no more than there were readers. nil for nobody.
	others int64
	hashes *[hashWords]uint64
}

const hashWords = 32

// line is what one reader read.
type line struct {
	who Identity
	span
}

// few lines are looked at one by one: most roles have no more readers, and a map is much
// larger than they are.
const few = 4

type crowd struct {
	by map[Identity]*line
	// recent spares those who read often the lookup: hashing four texts is most of what a
	// read costs.
	recent [16]*line
}

// slot is a reader's place among the recent ones: accessors end in random letters.
func (i *Identity) slot() int {
	if n := len(i.Accessor); n > 1 {
		return int(i.Accessor[n-1]^i.Accessor[n-2]<<1) % len(crowd{}.recent)
	}
	return len(i.DisplayName) % len(crowd{}.recent)
}

func (t *tally) find(who *Identity) *line {
	if t.crowd == nil {
		for _, found := range t.lines {
			if found.who == *who {
				return found
			}
		}
		return nil
	}
	recent := &t.crowd.recent[who.slot()]
	if *recent != nil && (*recent).who == *who {
		return *recent
	}
	found := t.crowd.by[*who]
	if found != nil {
		*recent = found
	}
	return found
}

func (t *tally) insert(who *Identity) *line {
	fresh := &line{who: who.own()}
	t.lines = append(t.lines, fresh)
	switch {
	case t.crowd != nil:
		t.crowd.by[fresh.who] = fresh
	case len(t.lines) > few:
		t.crowd = &crowd{by: map[Identity]*line{}}
		for _, known := range t.lines {
			t.crowd.by[known.who] = known
		}
	}
	return fresh
}

// span is how often, first and last in nanoseconds.
type span struct{ reads, first, last int64 }

func (s *span) add(at int64) {
	if s.reads == 0 {
		s.first, s.last = at, at
	}
	s.reads++
	s.first, s.last = min(s.first, at), max(s.last, at)
}

func (p *page) tally(version int) *tally {
	for i := range p.tallies { // one or two
		if p.tallies[i].version == version {
			return &p.tallies[i]
		}
	}
	return nil
}

func (p *page) empty() bool { return p == nil || len(p.tallies) == 0 }

// last is when the page was last written.
func (p *page) last() (at int64) {
	for i := range p.tallies {
		at = max(at, p.tallies[i].last)
	}
	return at
}

// log copies the page. Accessors stand where their hashes belong, until hash puts them there.
func (p *page) log() (l Log) {
	for i := range p.tallies {
		t := &p.tallies[i]
		v := Version{Version: t.version, Reads: t.reads, First: instant(t.first), Last: instant(t.last)}
		for _, one := range t.lines {
			v.Readers = append(v.Readers, Reader{
				EntityID: strings.ToValidUTF8(one.who.EntityID, "?"), DisplayName: strings.ToValidUTF8(one.who.DisplayName, "?"),
				AccessorHash: one.who.Accessor, Address: strings.ToValidUTF8(one.who.Address, "?"),
				Reads: one.reads, First: instant(one.first), Last: instant(one.last),
			})
		}
		v.Others.Reads = t.others
		if t.hashes != nil {
			for _, word := range t.hashes {
				v.Others.Readers += bits.OnesCount64(word)
			}
		}
		l.Versions = append(l.Versions, v)
	}
	return l
}

// hash replaces the accessors of a page's log, once per reader and not per read.
func (l Log) hash(accessor func(string) string) Log {
	for i := range l.Versions {
		for k := range l.Versions[i].Readers {
			if r := &l.Versions[i].Readers[k]; r.AccessorHash != "" {
				r.AccessorHash = accessor(r.AccessorHash)
			}
		}
	}
	return l
}

func instant(nanoseconds int64) time.Time { return time.Unix(0, nanoseconds).UTC() }

// other notes a reader that found no place.
func (t *tally) other(seed maphash.Seed, who *Identity) {
	t.others++
	if t.hashes == nil {
		t.hashes = &[hashWords]uint64{}
	}
	bit := maphash.Comparable(seed, *who) % (64 * hashWords)
	t.hashes[bit/64] |= 1 << (bit % 64)
}
