package backend

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// cache holds what readers get, ready to hand out: a read takes no lock of a role
// and makes no storage call.
type cache struct {
	snapshots sync.Map // role name -> *snapshot
	// epochs count changes of roles: a fill that began before one is thrown away.
	// Several names may share a count; asking for names that do not exist must not
	// grow anything.
	epochs [1 << 10]atomic.Uint64
	seed   maphash.Seed
	all    atomic.Uint64
}

// snapshot is a role as readers see it; it never changes.
type snapshot struct {
	kind     string
	deleted  bool // what is left of a deleted role: nobody reads it, but it may be used
	current  *rendered
	versions map[int]*rendered // current and retiring
	// second is what readers of the current version are given of the other one of a pair;
	// nil where there is none.
	second  *rendered
	next    time.Time
	inPlace bool
	// discloses tells whether readers get a secret; threshold is the role's own for the rate
	// of reads, mountsThreshold where it has none.
	discloses bool
	threshold int
	// live is for kinds that put versions to use, nil for others.
	live     *rotator.LiveVersions
	warnings []string
}

// rendered is one version's answer, but for ttl.
type rendered struct {
	version  int
	state    string
	grace    time.Duration
	retireAt time.Time
	data     map[string]any
}

func newCache() *cache { return &cache{seed: maphash.MakeSeed()} }

func (c *cache) get(name string) *snapshot {
	v, ok := c.snapshots.Load(name)
	if !ok {
		return nil
	}
	s, _ := v.(*snapshot)
	return s
}

type epoch struct{ role, all uint64 }

func (c *cache) counter(name string) *atomic.Uint64 {
	return &c.epochs[maphash.String(c.seed, name)%uint64(len(c.epochs))]
}

// begin notes the epoch before a fill reads storage.
func (c *cache) begin(name string) epoch {
	return epoch{role: c.counter(name).Load(), all: c.all.Load()}
}

// fill keeps a snapshot unless the role changed since begin.
func (c *cache) fill(name string, since epoch, s *snapshot) {
	if c.begin(name) != since {
		return
	}
	c.snapshots.Store(name, s)
	if c.begin(name) != since { // changed while it was stored
		c.snapshots.CompareAndDelete(name, s)
	}
}

// drop forgets a role: it changed.
func (c *cache) drop(name string) {
	c.counter(name).Add(1)
	c.snapshots.Delete(name)
}

// dropAll forgets every role: something they share changed.
func (c *cache) dropAll() {
	c.all.Add(1)
	c.snapshots.Clear()
}
