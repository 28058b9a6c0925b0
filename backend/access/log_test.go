package access

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

func at(seconds int) time.Time { return epoch.Add(time.Duration(seconds) * time.Second) }

// one is a log of one reader's reads of version 1.
func one(name, token string, reads, second int) Log {
	r := Reader{DisplayName: name, AccessorHash: token, Reads: int64(reads), First: at(second), Last: at(second)}
	return Log{Versions: []Version{{Version: 1, Reads: r.Reads, First: r.First, Last: r.Last, Readers: []Reader{r}}}}
}

// adds up the reads that are named and those that are not.
func adds(v *Version) int64 {
	sum := v.Others.Reads
	for _, r := range v.Readers {
		sum += r.Reads
	}
	return sum
}

func TestMergeNamesWhoeverReadMostFirst(t *testing.T) {
	t.Parallel()
	var l Log
	l.Merge(one("alice", "a", 2, 5))
	l.Merge(one("bob", "b", 3, 7))
	l.Merge(one("alice", "a", 4, 6))
	require.Equal(t, Log{Versions: []Version{{
		Version: 1, Reads: 9, First: at(5), Last: at(7),
		Readers: []Reader{
			{DisplayName: "alice", AccessorHash: "a", Reads: 6, First: at(5), Last: at(6)},
			{DisplayName: "bob", AccessorHash: "b", Reads: 3, First: at(7), Last: at(7)},
		},
	}}}, l)
	require.Same(t, &l.Versions[0], l.Of(1))
	require.Nil(t, l.Of(2))
}

// A pod that crashes and logs in again for each read is one reader, and drives nobody out.
func TestTokensOfOneReaderArePutTogetherWhereThereAreTooMany(t *testing.T) {
	t.Parallel()
	var l Log
	l.Merge(one("alice", "hers", 1, 0))
	for i := range 10 * MaxReaders {
		l.Merge(one("pod", fmt.Sprint("token", i), 1, i))
	}
	v := l.Of(1)
	require.Zero(t, v.Others)
	require.LessOrEqual(t, len(v.Readers), MaxReaders)
	require.Equal(t, "pod", v.Readers[0].DisplayName)
	require.Empty(t, v.Readers[0].AccessorHash)
	last := v.Readers[len(v.Readers)-1]
	require.Contains(t, v.Readers, Reader{DisplayName: "alice", AccessorHash: "hers", Reads: 1, First: at(0), Last: at(0)})
	require.NotEmpty(t, last.DisplayName)
	require.Equal(t, v.Reads, adds(v))
}

func TestWhoeverWasSeenLastIsNamed(t *testing.T) {
	t.Parallel()
	var l Log
	for i := range 2 * MaxReaders {
		l.Merge(one(fmt.Sprint("reader", i), "", 1, i))
	}
	v := l.Of(1)
	require.Len(t, v.Readers, MaxReaders)
	require.Equal(t, "reader64", v.Readers[0].DisplayName, "those before were seen longer ago")
	require.EqualValues(t, MaxReaders, v.Others.Reads)
	require.GreaterOrEqual(t, v.Others.Readers, 1)
	require.LessOrEqual(t, v.Others.Readers, MaxReaders, "at least means that there were no fewer")
}

// Whatever is merged in whatever order: no read is lost or invented, and the bounds hold.
func TestMergeAddsUp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var l Log
		want := map[int]int64{}
		for range rapid.IntRange(1, 40).Draw(t, "merges") {
			version := rapid.IntRange(1, MaxVersions).Draw(t, "version")
			v := Version{Version: version, First: epoch, Last: epoch}
			for i := range rapid.IntRange(0, MaxReaders).Draw(t, "readers") {
				n := int64(rapid.IntRange(1, 5).Draw(t, "reads"))
				v.Readers = append(v.Readers, Reader{
					EntityID: fmt.Sprint(rapid.IntRange(0, 100).Draw(t, "entity")), AccessorHash: fmt.Sprint(i),
					Reads: n, First: epoch, Last: at(rapid.IntRange(0, 100).Draw(t, "last")),
				})
				v.Reads += n
			}
			v.Others = Others{Readers: 1, Reads: int64(rapid.IntRange(1, 5).Draw(t, "others"))}
			v.Reads += v.Others.Reads
			want[version] += v.Reads
			l.Merge(Log{Versions: []Version{v}})
		}
		require.LessOrEqual(t, l.named(), MaxNamed)
		require.Len(t, l.Versions, len(want))
		for i := range l.Versions {
			v := &l.Versions[i]
			require.Equal(t, want[v.Version], v.Reads)
			require.Equal(t, v.Reads, adds(v))
			require.LessOrEqual(t, len(v.Readers), MaxReaders)
		}
	})
}

func TestALogStaysSmallWhateverReadersAreCalled(t *testing.T) {
	t.Parallel()
	var l Log
	for version := range 3 * MaxVersions {
		all := Version{Version: version, Last: at(version)}
		for i := range 2 * MaxReaders {
			who := Identity{
				EntityID: fmt.Sprint(i, strings.Repeat("<", 1000)), DisplayName: fmt.Sprint(i, strings.Repeat("\x01", 1000)),
				Address: fmt.Sprint(i, strings.Repeat("&", 1000)),
			}.cut()
			all.Reads++
			all.Readers = append(all.Readers, Reader{
				EntityID: who.EntityID, DisplayName: who.DisplayName, Address: who.Address, AccessorHash: strings.Repeat("f", 64), Reads: 1, Last: at(version),
			})
		}
		l.Merge(Log{Versions: []Version{all}})
	}
	require.Len(t, l.Versions, MaxVersions)
	require.Equal(t, 2*MaxVersions, l.Versions[0].Version, "the ones that nobody read for longest went")
	require.Equal(t, MaxNamed, l.named())
	require.Len(t, l.Versions[MaxVersions-1].Readers, MaxReaders, "names of the latest stay")
	raw, err := json.Marshal(l)
	require.NoError(t, err)
	require.Less(t, len(raw), 900_000)
}

func TestNames(t *testing.T) {
	t.Parallel()
	for want, r := range map[string]Reader{
		"alice at 10.0.0.1":      {EntityID: "e", DisplayName: "alice", Address: "10.0.0.1"},
		"e":                      {EntityID: "e"},
		"a token without a name": {},
	} {
		require.Equal(t, want, r.Name())
	}
}
