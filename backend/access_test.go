package backend_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/access"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// reads lets somebody read the role so many times. The play itself reads too, as nobody.
func (r *rig) reads(who string, times int) {
	r.t.Helper()
	for range times {
		_, err := r.Engine().Creds(context.Background(), app, backend.Actor{
			EntityID: "entity of " + who, DisplayName: who, Accessor: "accessor of " + who, Address: "10.0.0.1",
		})
		require.NoError(r.t, err)
	}
}

func (r *rig) access() *backend.AccessReport {
	r.t.Helper()
	a, err := r.Engine().Access(context.Background(), app)
	require.NoError(r.t, err)
	return a
}

// readsOf are the reads of a version by name, and adds up all of them.
func (r *rig) readsOf(version int) map[string]int64 {
	r.t.Helper()
	out := map[string]int64{}
	for _, v := range r.access().Versions {
		sum := v.Others.Reads
		for _, reader := range v.Readers {
			sum += reader.Reads
			if v.Version == version {
				out[reader.DisplayName] += reader.Reads
			}
		}
		require.Equal(r.t, v.Reads, sum)
	}
	return out
}

// storedAccess is what lies on the disk; nil for nothing.
func (r *rig) storedAccess(role string) *store.AccessLog {
	r.t.Helper()
	log, err := store.New(&enginetest.Storage{Disk: r.Disk}).AccessLog(context.Background(), role)
	require.NoError(r.t, err)
	return log
}

func (r *rig) flush() {
	r.t.Helper()
	r.Clock.Advance(time.Minute)
	require.NoError(r.t, r.Engine().Tick(context.Background()))
	require.NoError(r.t, r.Engine().Quiesce(context.Background()))
}

func TestWhoReadASecretIsTold(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.reads("alice", 3)
	r.reads("bob", 1)
	r.Rotate()
	r.reads("alice", 2)
	_, err := r.Engine().VersionCreds(context.Background(), app, 1, backend.Actor{DisplayName: "late"})
	require.NoError(t, err)
	for _, stored := range []bool{false, true} {
		if stored {
			r.flush()
		}
		one, two := r.readsOf(1), r.readsOf(2)
		require.EqualValues(t, 3, one["alice"])
		require.EqualValues(t, 1, one["bob"])
		require.EqualValues(t, 1, one["late"])
		require.EqualValues(t, 2, two["alice"])
		require.NotContains(t, two, "bob")
	}
	a := r.access()
	require.True(t, a.Complete)
	require.Empty(t, a.Note)
	require.Equal(t, 1000, a.Threshold)
	require.Equal(t, r.Clock.Now(), a.FlushedTime)
	alice, err := r.Engine().ReadersOf(context.Background(), app, 2)
	require.NoError(t, err)
	for _, reader := range alice {
		if reader.DisplayName == "alice" {
			require.Equal(t, "entity of alice", reader.EntityID)
			require.Equal(t, "10.0.0.1", reader.Address)
			require.Len(t, reader.AccessorHash, 64)
		}
	}
	none, err := r.Engine().ReadersOf(context.Background(), app, 9)
	require.NoError(t, err)
	require.Empty(t, none)
	_, err = r.Engine().Access(context.Background(), "nobody")
	requireKind(t, fault.NotFound, err, "there is no role")
	for key, raw := range r.Disk.Snapshot() {
		require.NotContains(t, string(raw), "accessor of alice", key)
	}
}

// A pair is one read of two versions: who has the second one is known when it leaks.
func TestWhoGotTheSecondOfAPairIsTold(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"minted": true, "rotation_period": int64(7200), "grace_period": int64(3600)})
	r.Rotate()
	r.reads("alice", 2)
	require.EqualValues(t, 2, r.readsOf(1)["alice"])
	require.EqualValues(t, 2, r.readsOf(2)["alice"])
}

func TestReadsThatDiscloseNothingAreNotCounted(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"public": true})
	r.reads("alice", 1)
	a := r.access()
	require.Empty(t, a.Versions)
	require.Zero(t, a.LastMinute)
	require.False(t, a.Complete)
	require.Contains(t, a.Note, "readers of this role get no secret")
}

func TestAFlushIsOneWriteForEachRoleThatWasRead(t *testing.T) {
	t.Parallel()
	puts := &accessFaults{}
	r := created(t, nil, puts.stage)
	r.Add(nil, "idle")
	r.flush()
	before := puts.puts.Load()
	r.reads("alice", 100)
	for range 5 {
		require.NoError(t, r.Engine().Tick(context.Background()))
		require.NoError(t, r.Engine().Quiesce(context.Background()))
	}
	require.Equal(t, before, puts.puts.Load(), "at most once a minute, however often it ticks")
	r.flush()
	require.Equal(t, before+1, puts.puts.Load())
	r.flush()
	require.Equal(t, before+1, puts.puts.Load(), "nothing was read meanwhile")
	require.Nil(t, r.storedAccess("idle"))
}

func TestAPausedMountKeepsAccountOfReads(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	_, err := r.Engine().WriteConfig(context.Background(), backend.Write{Given: option.Values{"paused": true}})
	require.NoError(t, err)
	r.reads("alice", 1)
	r.flush()
	require.Equal(t, r.Clock.Now(), r.storedAccess(app).FlushedTime)
	require.EqualValues(t, 1, r.readsOf(1)["alice"])
}

func TestReadersSurviveARestart(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.reads("alice", 2)
	r.Restart() // ends in order: what waits is stored
	require.EqualValues(t, 2, r.readsOf(1)["alice"])
	r.reads("alice", 3)
	r.flush()
	r.Restart()
	require.EqualValues(t, 5, r.readsOf(1)["alice"])
}

func TestACrashLosesWhatWasReadSinceTheLastFlush(t *testing.T) {
	t.Parallel()
	disk := &accessFaults{}
	r := created(t, nil, disk.stage)
	r.reads("alice", 2)
	r.flush()
	r.reads("alice", 40)
	disk.refuse.Store(true)
	r.Restart()
	disk.refuse.Store(false)
	require.EqualValues(t, 2, r.readsOf(1)["alice"])
}

// Storage that is away for a while loses nothing, and an answer of it that is lost counts
// nothing twice.
func TestReadsAreCountedOnceWhateverStorageDoes(t *testing.T) {
	t.Parallel()
	disk := &accessFaults{}
	r := created(t, option.Values{"rotation_period": int64(7200)}, disk.stage)
	want := int64(0)
	for round, fails := range []*atomic.Bool{&disk.refuse, &disk.lose, &disk.lose, &disk.refuse} {
		r.reads("alice", round+1)
		want += int64(round + 1)
		fails.Store(true)
		r.flush()
		require.Equal(t, want, r.readsOf(1)["alice"])
		r.reads("alice", 1)
		want++
		fails.Store(false)
		require.Equal(t, want, r.readsOf(1)["alice"])
		r.flush()
		r.flush()
		require.Equal(t, want, r.readsOf(1)["alice"])
	}
	r.Restart()
	require.Equal(t, want, r.readsOf(1)["alice"], "all of it is stored")
}

// accessFaults is a storage whose writes of readers fail when they are told to.
type accessFaults struct {
	refuse, lose atomic.Bool
	puts         atomic.Int64
}

func (f *accessFaults) stage(s *enginetestStage) {
	s.Storage = func(inner store.Storage) store.Storage { return accessFaultsStorage{inner, f} }
}

type accessFaultsStorage struct {
	store.Storage
	faults *accessFaults
}

func (s accessFaultsStorage) Put(ctx context.Context, key string, value []byte) error {
	if !strings.HasPrefix(key, "access/") {
		return s.Storage.Put(ctx, key, value)
	}
	s.faults.puts.Add(1)
	if s.faults.refuse.Load() {
		return errors.New("refused")
	}
	err := s.Storage.Put(ctx, key, value)
	if s.faults.lose.Load() {
		return errors.New("the answer is lost")
	}
	return err
}

// Who read a deleted role's secret is known for as long as it may leak, and then forgotten.
func TestReadersGoWithTheRole(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.reads("alice", 2)
	r.flush()
	_, err := r.Engine().DeleteRole(context.Background(), app, false)
	require.NoError(t, err)
	r.Step()
	require.EqualValues(t, 2, r.readsOf(1)["alice"])
	r.waitUntil("gone", 5*time.Minute, func() bool { return r.Disk.Snapshot()["state/"+app] == nil && r.storedAccess(app) == nil })
	_, err = r.Engine().Access(context.Background(), app)
	requireKind(t, fault.NotFound, err, "there is no role")
	r.flush()
	r.Create(nil)
	require.NotContains(t, r.readsOf(2), "alice")
	require.Empty(t, r.readsOf(1))

	r.reads("alice", 2)
	_, err = r.Engine().DeleteRole(context.Background(), app, true)
	require.NoError(t, err)
	r.flush()
	require.Nil(t, r.storedAccess(app), "what memory still had is not stored for a role that is gone")
}

func TestManyReadersAreBounded(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	const readers = 100_000
	before := r.readsOf(1)[""]
	for i := range readers {
		_, err := r.Engine().Creds(context.Background(), app, backend.Actor{EntityID: fmt.Sprint(i), DisplayName: strings.Repeat("n", 300), Accessor: fmt.Sprint(i)})
		require.NoError(t, err)
		if i%25_000 == 0 {
			r.flush()
		}
	}
	r.flush()
	var all access.Version
	for _, v := range r.access().Versions {
		all.Reads += v.Reads
		require.LessOrEqual(t, len(v.Readers), access.MaxReaders)
		require.Greater(t, v.Others.Readers, 1000)
	}
	require.GreaterOrEqual(t, all.Reads, before+readers)
	require.Less(t, len(r.Disk.Snapshot()["access/"+app]), 100_000)
}

func TestAHighRateIsToldAtOnce(t *testing.T) {
	t.Parallel()
	sink := &rateEvents{}
	r := created(t, option.Values{"access_rate_threshold": int64(20), "rotation_period": int64(7200)}, func(s *enginetestStage) { s.Sink = sink })
	exceeded := func() []rotation.Event {
		require.NoError(t, r.Engine().Quiesce(context.Background()))
		return sink.Get()
	}
	r.Wait(2 * time.Minute)
	seen := r.access().LastMinute
	require.Less(t, seen, 20)
	r.reads("bob", 1)
	r.reads("alice", 20-seen-1)
	require.Empty(t, exceeded(), "as many as allowed")
	r.reads("alice", 1)
	found := exceeded()
	require.Len(t, found, 1, "without a tick")
	require.Equal(t, "21", found[0].Data["rate"])
	require.Equal(t, "20", found[0].Data["threshold"])
	require.Contains(t, found[0].Data["readers"], "alice at 10.0.0.1")
	require.Contains(t, found[0].Data["readers"], "bob at 10.0.0.1")
	require.Equal(t, fmt.Sprintf("app/access_rate.exceeded/%d", found[0].Time.UnixNano()), found[0].ID)
	require.Equal(t, 21, r.access().LastMinute)

	r.flush() // the names of the last minute are known although they are stored
	r.reads("alice", 100)
	require.Len(t, exceeded(), 1, "cool-down")
	r.Wait(15 * time.Minute)
	r.reads("alice", 100)
	require.Len(t, exceeded(), 2)

	_, err := r.write(option.Values{"access_rate_threshold": int64(0)})
	require.NoError(t, err)
	r.Wait(16 * time.Minute)
	r.reads("alice", 2000)
	require.Len(t, exceeded(), 2, "0 is never")
	require.Zero(t, r.access().Threshold)

	_, err = r.write(option.Values{"access_rate_threshold": int64(-1)})
	require.NoError(t, err)
	_, err = r.Engine().WriteConfig(context.Background(), backend.Write{Given: option.Values{"access_rate_threshold": int64(30)}})
	require.NoError(t, err)
	require.Equal(t, 30, r.access().Threshold)
	r.reads("alice", 31)
	require.Len(t, exceeded(), 3, "the mount's counts at once")

	_, err = r.write(option.Values{"access_rate_threshold": int64(-2)})
	requireKind(t, fault.Invalid, err, "access_rate_threshold: must be a number of reads a minute, 0 for never, or -1 for the mount's")
	_, err = r.Engine().WriteConfig(context.Background(), backend.Write{Given: option.Values{"access_rate_threshold": int64(-1)}})
	requireKind(t, fault.Invalid, err, "access_rate_threshold: must not be negative")
}

type rateEvents struct {
	enginetest.Shared[[]rotation.Event]
}

func (s *rateEvents) Deliver(_ context.Context, _ string, e rotation.Event) error {
	if e.Type == "access_rate.exceeded" {
		s.Set(append(s.Get(), e))
	}
	return nil
}

// A node that must not act counts, warns and stores nothing.
func TestAStandbyCountsWithoutStoring(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"access_rate_threshold": int64(20)})
	r.flush()
	stored := r.storedAccess(app)
	r.System.SetReadOnly(true)
	r.Restart()
	r.reads("alice", 50)
	require.NoError(t, r.Engine().Quiesce(context.Background()))
	require.Contains(t, r.Log(), "a secret is read more often than its threshold allows: role=app")
	a := r.access()
	require.False(t, a.Complete)
	require.Contains(t, a.Note, "counts are at least: reads that performance standbys answered")
	require.EqualValues(t, 50, r.readsOf(1)["alice"])
	r.Restart()
	require.Equal(t, stored, r.storedAccess(app))
	r.System.SetReadOnly(false)

	r.System.Enterprise = true
	require.Contains(t, r.access().Note, "performance standbys", "the active node cannot know what others answered")
}
