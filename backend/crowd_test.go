package backend_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/metrics"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/rotatortest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

const model = "model"

// crowd is storage in which one role, the model, lies under very many names. Its
// documents are made when they are asked for, so that the heap shows what the engine
// keeps and nothing else.
type crowd struct {
	store.Storage
	names []string
	calls atomic.Int64
	// blocked is the key at which a read waits for release.
	blocked string
	once    sync.Once
	reached chan struct{}
	release chan struct{}
}

func (c *crowd) Get(ctx context.Context, key string) ([]byte, error) {
	c.calls.Add(1)
	if key == c.blocked {
		c.once.Do(func() { close(c.reached) })
		select {
		case <-c.release:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	folder, rest, _ := strings.Cut(key, "/")
	name, version, _ := strings.Cut(rest, "/")
	if !strings.HasPrefix(name, "crowd-") {
		return c.Storage.Get(ctx, key)
	}
	if version != "" {
		version = "/" + version
	}
	raw, err := c.Storage.Get(ctx, folder+"/"+model+version)
	return bytes.ReplaceAll(raw, []byte(`"`+model+`"`), []byte(`"`+name+`"`)), err
}

func (c *crowd) Put(ctx context.Context, key string, value []byte) error {
	c.calls.Add(1)
	return c.Storage.Put(ctx, key, value)
}

func (c *crowd) List(ctx context.Context, prefix string) ([]string, error) {
	c.calls.Add(1)
	names, err := c.Storage.List(ctx, prefix)
	if prefix == "role/" {
		names = append(names, c.names...)
	}
	return names, err
}

// calm is a kind that finds its versions in order: those of a crowd are not there.
type calm struct{ rotator.Rotator }

// Verify implements rotator.Rotator.
func (calm) Verify(context.Context, *rotator.Target) error { return nil }

// newCrowd makes the model in a first process, and lets a second one wake up to the
// whole crowd.
func newCrowd(t testing.TB, size int, change func(*crowd)) (*backend.Engine, *crowd) {
	kind := rotatortest.NewMemory()
	c := &crowd{Storage: &enginetest.Storage{Disk: enginetest.NewDisk()}, reached: make(chan struct{}), release: make(chan struct{})}
	process := func() *backend.Engine {
		e := backend.New(backend.Options{
			Storage: c, System: &enginetest.System{}, Clock: enginetest.NewClock(),
			Rotators: []rotator.Rotator{calm{kind}}, Connections: []rotator.ConnectionKind{rotatortest.MemoryConnection{World: kind.World}},
		})
		require.NoError(t, e.Start(t.Context()))
		return e
	}
	first := process()
	_, err := first.WriteConnection(t.Context(), backend.Write{
		Name: "main", Given: option.Values{"type": rotatortest.MemoryType, "address": "memory://target"},
		Secrets: secret.NewMap(map[string]string{"password": "admin"}),
	})
	require.NoError(t, err)
	_, err = first.WriteRole(t.Context(), backend.Write{Name: model, Given: option.Values{
		"type": rotatortest.MemoryType, "connection": "main", "rotation_period": int64(86400), "grace_period": int64(3600),
	}})
	require.NoError(t, err)
	first.Close()
	for i := range size {
		c.names = append(c.names, fmt.Sprintf("crowd-%06d", i))
	}
	change(c)
	second := process()
	t.Cleanup(second.Close)
	return second, c
}

// awaitRest waits until the index is whole and nobody asks storage for anything.
func (c *crowd) awaitRest(t testing.TB, e *backend.Engine) {
	var calls int64
	require.Eventually(t, func() bool {
		page, err := e.Status(t.Context(), backend.StatusQuery{Limit: 1})
		require.NoError(t, err)
		before := calls
		calls = c.calls.Load()
		return page.Counts[backend.StateOK] == len(c.names)+1 && calls == before && e.Quiesce(t.Context()) == nil
	}, 5*time.Minute, 100*time.Millisecond)
}

// A node that took over serves credentials before it knows what there is to do.
// BenchmarkManyRoles has ten times as many.
func TestManyRolesAreIndexedInTheBackground(t *testing.T) {
	const size = 10_000
	before := heapMB()
	e, c := newCrowd(t, size, func(c *crowd) { c.blocked = fmt.Sprintf("state/crowd-%06d", size/2) })
	<-c.reached // half of the index is there, and the rest hangs
	for _, name := range []string{model, "crowd-000001", fmt.Sprintf("crowd-%06d", size-1)} {
		creds, err := e.Creds(t.Context(), name, backend.Actor{})
		require.NoError(t, err)
		require.Equal(t, 1, creds.Data["version"])
	}
	require.NoError(t, e.Tick(t.Context()), "Vault does not wait for it either")
	close(c.release)
	c.awaitRest(t, e)

	calls := c.calls.Load()
	for range 100 {
		require.NoError(t, e.Tick(t.Context()))
	}
	snapshot, err := e.Metrics(t.Context())
	require.NoError(t, err)
	require.Equal(t, calls, c.calls.Load(), "an idle tick over all of them touches no storage, nor do metrics")
	require.Len(t, snapshot.Roles, metrics.MaxRoles)
	require.Equal(t, size+1-metrics.MaxRoles, snapshot.LeftOut)
	require.Equal(t, size+1, snapshot.States[string(backend.StateOK)], "counted all the same")
	require.Less(t, heapMB()-before, 30.0, "a twelfth of what the whole process may take for ten times as many")
}

// heapMB is what is alive on the heap.
func heapMB() float64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return float64(stats.HeapAlloc) / (1 << 20)
}

// residentMB is what the process, storage and this test included, takes of the
// machine's memory; 0 where the system does not tell (see proc(5), statm).
func residentMB() float64 {
	raw, err := os.ReadFile("/proc/self/statm")
	fields := strings.Fields(string(raw))
	if err != nil || len(fields) < 2 {
		return 0
	}
	pages, err := strconv.Atoi(fields[1])
	if err != nil {
		return 0
	}
	return float64(pages*os.Getpagesize()) / (1 << 20)
}

// BenchmarkManyRoles is Vault's periodic call over 100,000 roles of which none is due,
// and what they take on the heap: known to the index alone, and with the credentials
// of each one read.
func BenchmarkManyRoles(b *testing.B) {
	const size = 100_000
	before := heapMB()
	start := time.Now()
	e, c := newCrowd(b, size, func(*crowd) {})
	c.awaitRest(b, e)
	indexed := time.Since(start)
	calls := c.calls.Load()
	for b.Loop() {
		require.NoError(b, e.Tick(b.Context()))
	}
	require.Equal(b, calls, c.calls.Load())
	b.ReportMetric(indexed.Seconds(), "index-s")
	b.ReportMetric(heapMB()-before, "index-MB")
	for _, name := range c.names {
		_, err := e.Creds(b.Context(), name, backend.Actor{})
		require.NoError(b, err)
	}
	b.ReportMetric(heapMB()-before, "all-read-MB")
	b.ReportMetric(residentMB(), "resident-MB")
	runtime.KeepAlive(e)
}
