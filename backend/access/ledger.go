package access

import (
	"cmp"
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Limits bound a Ledger.
type Limits struct {
	// Roles is how many roles it follows at the same time.
	Roles int
	// Entries is how many readers and versions it tells apart, in all roles together.
	Entries int
	// CoolDown is for how long nothing more is told of a role whose rate was too high.
	CoolDown time.Duration
}

// DefaultLimits are enough for 100,000 roles that a few read each. Such a role takes about
// 0.7 kB until what was read is stored.
var DefaultLimits = Limits{Roles: 100_000, Entries: 300_000, CoolDown: 15 * time.Minute}

// Ledger counts reads in memory until they are stored. A read costs a lookup and the mutex
// of its role, held for a few dozen nanoseconds. It is safe for concurrent use.
//
// What was read is on a role's open page. Take closes it for storage, Stored says that it
// arrived. A Put whose answer was lost counts nothing twice: the mark of the page is stored
// with it.
type Ledger struct {
	limits  Limits
	boot    string
	seed    maphash.Seed
	roles   sync.Map // name -> *role
	known   atomic.Int64
	entries atomic.Int64
	pages   atomic.Int64
	missed  atomic.Int64
}

// role is what memory holds of a role.
type role struct {
	mu      sync.Mutex
	gone    bool // forgotten: whoever still holds it must look again
	window  window
	alerted time.Time
	// open is written, taken is on its way to storage, and stored is the one before, for
	// the readers of the last minute.
	open, taken, stored *page
}

// Mark tells the pages of all processes apart. Those of one process have growing numbers.
type Mark struct {
	Boot string `json:"boot"`
	Page int64  `json:"page"`
}

// Covers tells whether a log with this mark has what is on the other's page.
func (m Mark) Covers(other Mark) bool { return m.Boot == other.Boot && m.Page >= other.Page }

// Batch is a page as it is merged into a Log.
type Batch struct {
	Mark Mark
	Log  Log
}

// Read is one read of a role's secret.
type Read struct {
	Role    string
	Version int
	// Also is the version that was handed out with it, as the second of a pair; else 0.
	Also   int
	Reader Identity
	Time   time.Time
	// Threshold is how many reads a minute are not told of; 0 for any number.
	Threshold int
}

// Crossing is a rate that became higher than its threshold.
type Crossing struct {
	Role      string
	Rate      int // reads within a minute
	Threshold int
	Time      time.Time
}

// NewLedger makes an empty one. boot is unique to the process.
func NewLedger(boot string, limits Limits) *Ledger {
	return &Ledger{limits: limits, boot: boot, seed: maphash.MakeSeed()}
}

// Record counts a read. It tells of a rate above the threshold at once, and not again
// within the cool-down.
func (l *Ledger) Record(r *Read) *Crossing {
	for {
		known := l.role(r.Role)
		if known == nil {
			l.missed.Add(1)
			return nil
		}
		known.mu.Lock()
		if known.gone {
			known.mu.Unlock()
			continue
		}
		rate := known.window.add(r.Time.Unix())
		crossed := r.Threshold > 0 && rate > r.Threshold && known.alert(r.Time, l.limits.CoolDown)
		l.count(known, r)
		known.mu.Unlock()
		if !crossed {
			return nil
		}
		return &Crossing{Role: r.Role, Rate: rate, Threshold: r.Threshold, Time: r.Time}
	}
}

// alert tells whether the cool-down is over, and begins it anew. A clock that went back
// ends it too.
func (r *role) alert(at time.Time, coolDown time.Duration) bool {
	since := at.Sub(r.alerted)
	if !r.alerted.IsZero() && since < coolDown && since >= -slack*time.Second {
		return false
	}
	r.alerted = at
	return true
}

// role finds or makes what memory holds of a role; nil where there is no place.
func (l *Ledger) role(name string) *role {
	if known := l.find(name); known != nil {
		return known
	}
	if l.known.Add(1) > int64(l.limits.Roles) {
		l.known.Add(-1)
		return nil
	}
	found, raced := l.roles.LoadOrStore(name, &role{})
	if raced {
		l.known.Add(-1)
	}
	known, _ := found.(*role)
	return known
}

func (l *Ledger) find(name string) *role {
	found, _ := l.roles.Load(name)
	known, _ := found.(*role)
	return known
}

// count writes a read to the open page; the role is locked.
func (l *Ledger) count(known *role, r *Read) {
	if known.open == nil {
		known.open = &page{seq: l.pages.Add(1), since: r.Time.UnixNano()}
	}
	who := r.Reader.cut()
	l.countVersion(known.open, r.Version, &who, r.Time.UnixNano())
	if r.Also != 0 {
		l.countVersion(known.open, r.Also, &who, r.Time.UnixNano())
	}
}

func (l *Ledger) countVersion(p *page, version int, who *Identity, at int64) {
	t := p.tally(version)
	if t == nil {
		if !l.reserve(p) {
			l.missed.Add(1)
			return
		}
		p.tallies = append(p.tallies, tally{version: version})
		t = &p.tallies[len(p.tallies)-1]
	}
	t.add(at)
	if found := l.place(p, t, who); found != nil {
		found.add(at)
		return
	}
	t.other(l.seed, who)
}

// place finds a reader's line, or makes one; nil where there is no room. As long as half of
// the room is free, each token has its own; then each reader, whatever its token.
func (l *Ledger) place(p *page, t *tally, who *Identity) *line {
	if found := t.find(who); found != nil {
		return found
	}
	if len(t.lines) >= MaxReaders/2 {
		person := *who
		person.Accessor = ""
		if found := t.find(&person); found != nil {
			return found
		}
		who = &person
	}
	if len(t.lines) >= MaxReaders || !l.reserve(p) {
		return nil
	}
	return t.insert(who)
}

// reserve takes one entry of those that the ledger bounds.
func (l *Ledger) reserve(p *page) bool {
	if l.entries.Add(1) > int64(l.limits.Entries) {
		l.entries.Add(-1)
		return false
	}
	p.entries++
	return true
}

func (l *Ledger) release(p *page) {
	if p != nil {
		l.entries.Add(int64(-p.entries))
	}
}

// Due names up to most roles of which something is not stored yet, the one that waits for
// longest first.
func (l *Ledger) Due(most int) []string {
	type waiting struct {
		name  string
		since int64
	}
	var all []waiting
	l.each(func(name string, r *role) {
		for _, p := range []*page{r.taken, r.open} {
			if !p.empty() {
				all = append(all, waiting{name, p.since})
				return
			}
		}
	})
	slices.SortFunc(all, func(a, b waiting) int { return cmp.Or(cmp.Compare(a.since, b.since), cmp.Compare(a.name, b.name)) })
	names := make([]string, 0, min(most, len(all)))
	for _, w := range all[:min(most, len(all))] {
		names = append(names, w.name)
	}
	return names
}

// each looks at every role, locked.
func (l *Ledger) each(do func(name string, r *role)) {
	l.roles.Range(func(key, value any) bool {
		name, _ := key.(string)
		r, _ := value.(*role)
		r.mu.Lock()
		defer r.mu.Unlock()
		if !r.gone {
			do(name, r)
		}
		return true
	})
}

// with looks at one role, locked, if memory holds it.
func (l *Ledger) with(name string, do func(*role)) {
	if r := l.find(name); r != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if !r.gone {
			do(r)
		}
	}
}

// Take closes a role's page for storage; nil when nothing waits. Until Stored it is the same
// page that is taken, so that nothing is lost when storage fails.
func (l *Ledger) Take(name string, accessor func(string) string) (b *Batch) {
	l.with(name, func(r *role) {
		if r.taken == nil && !r.open.empty() {
			r.taken, r.open = r.open, nil
		}
		if r.taken != nil {
			b = l.batch(r.taken)
		}
	})
	if b != nil {
		b.Log = b.Log.hash(accessor)
	}
	return b
}

func (l *Ledger) batch(p *page) *Batch {
	return &Batch{Mark: Mark{Boot: l.boot, Page: p.seq}, Log: p.log()}
}

// Stored says that what was taken is in storage.
func (l *Ledger) Stored(name string) {
	l.with(name, func(r *role) {
		if r.taken != nil {
			l.release(r.stored)
			r.stored, r.taken = r.taken, nil
		}
	})
}

// Waiting is what was read of a role and is not known to be stored, in order.
func (l *Ledger) Waiting(name string, accessor func(string) string) (all []Batch) {
	l.with(name, func(r *role) {
		for _, p := range []*page{r.taken, r.open} {
			if !p.empty() {
				all = append(all, *l.batch(p))
			}
		}
	})
	for i := range all {
		all[i].Log = all[i].Log.hash(accessor)
	}
	return all
}

// Recent are those who read a role in the minute before, whoever read most first.
func (l *Ledger) Recent(name string, at time.Time, accessor func(string) string) []Reader {
	var readers Version
	l.with(name, func(r *role) {
		for _, p := range []*page{r.stored, r.taken, r.open} {
			if p.empty() {
				continue
			}
			for _, v := range p.log().Versions {
				for _, reader := range v.Readers {
					if at.Sub(reader.Last) <= windowSeconds*time.Second {
						readers.addReader(reader)
					}
				}
			}
		}
	})
	slices.SortFunc(readers.Readers, byReads)
	return Log{Versions: []Version{readers}}.hash(accessor).Versions[0].Readers
}

// Rate is how often a role was read in the minute before.
func (l *Ledger) Rate(name string, now time.Time) (rate int) {
	l.with(name, func(r *role) { rate = r.window.count(now.Unix()) })
	return rate
}

// Missed is how many reads were not counted since the process began: more was read at the
// same time than memory holds.
func (l *Ledger) Missed() int64 { return l.missed.Load() }

// Sweep drops what nobody needs any more: pages that are stored and older than a minute, and
// roles that nobody reads.
func (l *Ledger) Sweep(now time.Time) { l.sweep(now, func(*role) {}) }

// Discard is Sweep on a node that must not store: what is older than a minute is dropped.
func (l *Ledger) Discard(now time.Time) {
	l.sweep(now, func(r *role) {
		if !r.open.empty() && now.Sub(instant(r.open.since)) > windowSeconds*time.Second {
			l.release(r.stored)
			r.stored, r.open = r.open, nil
		}
	})
}

func (l *Ledger) sweep(now time.Time, first func(*role)) {
	l.each(func(name string, r *role) {
		first(r)
		if r.stored != nil && now.Sub(instant(r.stored.last())).Abs() > windowSeconds*time.Second {
			l.release(r.stored)
			r.stored = nil
		}
		idle := r.open.empty() && r.taken == nil && r.stored == nil && r.window.count(now.Unix()) == 0
		if idle && (r.alerted.IsZero() || now.Sub(r.alerted).Abs() >= l.limits.CoolDown) {
			l.drop(name, r)
		}
	})
}

// Forget drops a role that is gone, with all that was read of it.
func (l *Ledger) Forget(name string) {
	l.with(name, func(r *role) { l.drop(name, r) })
}

// drop forgets a role that is locked.
func (l *Ledger) drop(name string, r *role) {
	for _, p := range []*page{r.open, r.taken, r.stored} {
		l.release(p)
	}
	r.gone, r.open, r.taken, r.stored = true, nil, nil, nil
	l.roles.CompareAndDelete(name, r)
	l.known.Add(-1)
}
