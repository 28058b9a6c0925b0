package backend

import (
	"container/heap"
	"sync"
	"time"
)

// index knows, in memory, when each role next needs a look. Storage is the truth:
// the index can always be rebuilt.
type index struct {
	mu      sync.Mutex
	entries map[string]*indexEntry
	heap    dueHeap
}

type indexEntry struct {
	name string
	at   time.Time
	pos  int // in the heap; -1: nothing is due
}

func newIndex() *index { return &index{entries: map[string]*indexEntry{}} }

// set says when the role needs a look; zero means never by itself.
func (x *index) set(name string, at time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.place(name, at)
}

func (x *index) place(name string, at time.Time) {
	e, ok := x.entries[name]
	if !ok {
		e = &indexEntry{name: name, pos: -1}
		x.entries[name] = e
	}
	e.at = at
	switch {
	case at.IsZero() && e.pos >= 0:
		heap.Remove(&x.heap, e.pos)
	case !at.IsZero() && e.pos >= 0:
		heap.Fix(&x.heap, e.pos)
	case !at.IsZero():
		heap.Push(&x.heap, e)
	}
}

// found sets the time of a role that a rebuild came across, unless a worker set it
// meanwhile: that one knows better.
func (x *index) found(name string, at time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, known := x.entries[name]; !known {
		x.place(name, at)
	}
}

// clear empties the index; a rebuild fills it again.
func (x *index) clear() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.entries, x.heap = map[string]*indexEntry{}, nil
}

// forget drops a role that is gone.
func (x *index) forget(name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.place(name, time.Time{})
	delete(x.entries, name)
}

// due takes out the roles that need a look by now. Whoever works on them sets
// their next time.
func (x *index) due(now time.Time) (names []string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for len(x.heap) > 0 && !x.heap[0].at.After(now) {
		e, _ := heap.Pop(&x.heap).(*indexEntry)
		names = append(names, e.name)
	}
	return names
}

// next is the earliest time at which a role needs a look; zero for none.
func (x *index) next() time.Time {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.heap) == 0 {
		return time.Time{}
	}
	return x.heap[0].at
}

type dueHeap []*indexEntry

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].pos, h[j].pos = i, j
}

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) {
	e, _ := x.(*indexEntry)
	e.pos = len(*h)
	*h = append(*h, e)
}

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	e.pos = -1
	*h = (*h)[:last]
	return e
}
