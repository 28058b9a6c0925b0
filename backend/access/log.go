// Package access keeps account of who read which secret: a ledger in memory that is cheap
// to write and bounded, and the log into which it is merged for good. It reads no clock and
// knows no storage.
package access

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Bounds of a Log: as JSON it stays below 1 MiB whatever readers are called.
const (
	MaxVersions = 20
	// MaxReaders are named for one version, MaxNamed for all versions of a role together.
	MaxReaders = 64
	MaxNamed   = 400
)

// Log is who read the versions of a role's secret. Versions are in order of their numbers.
type Log struct {
	Versions []Version `json:"versions"`
}

// Version is the reads of one version: all of them, which those of Readers and Others add
// up to.
type Version struct {
	Version int       `json:"version"`
	Reads   int64     `json:"reads"`
	First   time.Time `json:"first_time"`
	Last    time.Time `json:"last_time"`
	// Readers are those that are named, whoever read most first.
	Readers []Reader `json:"readers"`
	Others  Others   `json:"others,omitzero"`
}

// Reader is somebody who read.
type Reader struct {
	EntityID    string `json:"entity_id,omitempty"`
	DisplayName string `json:"display_name,omitempty"`
	// AccessorHash is that of the token. It is empty for a token without an accessor, and
	// where the reads of one reader's several tokens were put together.
	AccessorHash string    `json:"accessor_hash,omitempty"`
	Address      string    `json:"address,omitempty"`
	Reads        int64     `json:"reads"`
	First        time.Time `json:"first_time"`
	Last         time.Time `json:"last_time"`
}

// Others are the readers beyond those that are named: how many there were at least, and
// what they read together.
type Others struct {
	Readers int   `json:"readers_at_least"`
	Reads   int64 `json:"reads"`
}

// Name is what people call the reader, and where from it came.
func (r *Reader) Name() string {
	name := cmp.Or(r.DisplayName, r.EntityID, "a token without a name")
	if r.Address == "" {
		return name
	}
	return name + " at " + r.Address
}

// Of returns the reads of a version; nil where there were none.
func (l *Log) Of(version int) *Version {
	i, found := l.search(version)
	if !found {
		return nil
	}
	return &l.Versions[i]
}

func (l *Log) search(version int) (int, bool) {
	return slices.BinarySearchFunc(l.Versions, version, func(v Version, n int) int { return v.Version - n })
}

// Merge adds the reads of another log. What no longer fits is the name of readers, longest
// unseen first, whose reads go to Others; and, beyond MaxVersions, whole versions.
func (l *Log) Merge(more Log) {
	for _, v := range more.Versions {
		i, found := l.search(v.Version)
		if !found {
			l.Versions = slices.Insert(l.Versions, i, Version{Version: v.Version, First: v.First, Last: v.Last, Readers: []Reader{}})
		}
		l.Versions[i].add(v)
	}
	for len(l.Versions) > MaxVersions {
		i := l.unseen(func(*Version) bool { return true })
		l.Versions = slices.Delete(l.Versions, i, i+1)
	}
	for l.named() > MaxNamed {
		v := &l.Versions[l.unseen(func(v *Version) bool { return len(v.Readers) > 0 })]
		v.keep(max(0, len(v.Readers)-(l.named()-MaxNamed)))
	}
}

func (l *Log) named() (n int) {
	for i := range l.Versions {
		n += len(l.Versions[i].Readers)
	}
	return n
}

// unseen finds, of some versions, the one that nobody read for longest.
func (l *Log) unseen(of func(*Version) bool) int {
	found := -1
	for i := range l.Versions {
		if v := &l.Versions[i]; of(v) && (found < 0 || v.Last.Before(l.Versions[found].Last)) {
			found = i
		}
	}
	return found
}

func (v *Version) add(more Version) {
	v.Reads += more.Reads
	v.First, v.Last = earlier(v.First, more.First), later(v.Last, more.Last)
	for _, r := range more.Readers {
		v.addReader(r)
	}
	v.Others.Reads += more.Others.Reads
	v.Others.Readers = max(v.Others.Readers, more.Others.Readers) // who of them were the same, nobody knows
	if len(v.Readers) > MaxReaders {
		v.foldTokens()
		v.keep(MaxReaders)
	}
	slices.SortFunc(v.Readers, byReads)
}

func (v *Version) addReader(r Reader) {
	i := slices.IndexFunc(v.Readers, func(known Reader) bool { return known.AccessorHash == r.AccessorHash && known.same(&r) })
	if i < 0 {
		v.Readers = append(v.Readers, r)
		return
	}
	v.Readers[i].add(&r)
}

// same tells whether two readers differ in their tokens at most.
func (r *Reader) same(as *Reader) bool {
	return r.EntityID == as.EntityID && r.DisplayName == as.DisplayName && r.Address == as.Address
}

func (r *Reader) add(more *Reader) {
	r.Reads += more.Reads
	r.First, r.Last = earlier(r.First, more.First), later(r.Last, more.Last)
}

// foldTokens puts together what one reader read with several tokens: whoever logs in for
// each read must not drive the others out.
func (v *Version) foldTokens() {
	var folded []Reader
	for _, r := range v.Readers {
		i := slices.IndexFunc(folded, func(known Reader) bool { return known.same(&r) })
		if i < 0 {
			folded = append(folded, r)
			continue
		}
		folded[i].AccessorHash = ""
		folded[i].add(&r)
	}
	v.Readers = folded
}

// keep names the most readers that read last, and counts the rest among the others.
func (v *Version) keep(most int) {
	if len(v.Readers) <= most {
		return
	}
	slices.SortStableFunc(v.Readers, func(a, b Reader) int { return b.Last.Compare(a.Last) })
	for _, r := range v.Readers[most:] {
		v.Others.Reads += r.Reads
	}
	v.Others.Readers = max(v.Others.Readers, len(v.Readers)-most)
	v.Readers = slices.Delete(v.Readers, most, len(v.Readers))
	slices.SortFunc(v.Readers, byReads)
}

// byReads sorts whoever read most first; the rest makes the order certain.
func byReads(a, b Reader) int {
	return cmp.Or(cmp.Compare(b.Reads, a.Reads), a.First.Compare(b.First), strings.Compare(a.DisplayName, b.DisplayName),
		strings.Compare(a.EntityID, b.EntityID), strings.Compare(a.Address, b.Address), strings.Compare(a.AccessorHash, b.AccessorHash))
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
