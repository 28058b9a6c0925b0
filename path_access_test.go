package rotationsecrets

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/rotatortest"
)

func TestAccess(t *testing.T) {
	m := newMount(t)
	m.role()
	none := m.must(read, "access/app", nil).Data
	require.Empty(t, none["versions"])
	require.Nil(t, none["flushed_time"])
	for range 2 {
		req := m.request(read, "creds/app", nil)
		req.Connection = &logical.Connection{RemoteAddr: "10.1.4.7", RemotePort: 4711}
		_, err := m.backend.HandleRequest(t.Context(), req)
		require.NoError(t, err)
	}
	m.must(read, "creds/app/versions/1", nil)

	got := m.must(read, "access/app", nil).Data
	require.Equal(t, "app", got["role"])
	require.Equal(t, 3, got["reads_last_minute"])
	require.Equal(t, 1000, got["threshold"])
	versions := got["versions"].([]any)
	require.Len(t, versions, 1)
	version := versions[0].(map[string]any)
	require.Equal(t, 1, version["version"])
	require.EqualValues(t, 3, version["reads"])
	require.Equal(t, map[string]any{"readers_at_least": 0, "reads": int64(0)}, version["others"])
	readers := version["readers"].([]any)
	require.Len(t, readers, 2, "by address too")
	first := readers[0].(map[string]any)
	require.Equal(t, "entity-1", first["entity_id"])
	require.Equal(t, "alice", first["display_name"])
	require.Equal(t, "10.1.4.7", first["address"])
	require.EqualValues(t, 2, first["reads"])
	require.Len(t, first["accessor_hash"], 64)
	require.Nil(t, readers[1].(map[string]any)["address"], "a request without a connection")

	require.NoError(t, m.backend.PeriodicFunc(t.Context(), &logical.Request{Storage: m.storage}))
	require.Eventually(t, func() bool { return m.must(read, "access/app", nil).Data["flushed_time"] != nil }, 10*time.Second, time.Millisecond)
	require.Equal(t, versions, m.must(read, "access/app", nil).Data["versions"])
	m.fails(http.StatusNotFound, read, "access/nobody", nil)
}

// Only Vault Enterprise has nodes that answer reads beside the active one; where Vault does
// not say what it is, that is not taken for certain.
func TestAccessSaysWhetherItIsComplete(t *testing.T) {
	for version, complete := range map[string]bool{"1.21.0": true, "1.21.0+ent": false, "1.21.0+ent.hsm": false} {
		m := newMount(t)
		m.role()
		node := m.on(&logical.StaticSystemView{PluginEnvironment: &logical.PluginEnvironment{VaultVersion: version}})
		got := node.must(read, "access/app", nil).Data
		require.Equal(t, complete, got["complete"], version)
		require.Equal(t, complete, got["note"] == nil, version)
	}
	for metadata, complete := range map[string]bool{"": true, "ent": false} {
		view := system{&logical.StaticSystemView{PluginEnvironment: &logical.PluginEnvironment{VaultVersion: "1.21.0", VaultVersionMetadata: metadata}}}
		require.Equal(t, complete, !view.ReadsElsewhere(t.Context()), metadata)
	}
	require.True(t, system{&logical.StaticSystemView{}}.ReadsElsewhere(t.Context()))
}

func TestAccessRateThresholdOfARole(t *testing.T) {
	m := newMount(t)
	m.role()
	require.Nil(t, m.must(read, "roles/app", nil).Data["access_rate_threshold"], "the mount's")
	for _, threshold := range []int{0, 7} {
		m.must(update, "roles/app", map[string]any{"access_rate_threshold": threshold})
		require.Equal(t, threshold, m.must(read, "roles/app", nil).Data["access_rate_threshold"])
		require.Equal(t, orNull(threshold), m.must(read, "access/app", nil).Data["threshold"])
	}
	m.must(update, "roles/app", map[string]any{"access_rate_threshold": -1})
	require.Nil(t, m.must(read, "roles/app", nil).Data["access_rate_threshold"])
}

// BenchmarkReadsOnAccount is the plugin's whole part of a read, Vault left out: 16 clients
// read one role, with and without the ledger in turn. The second is a role whose readers
// get nothing secret.
func BenchmarkReadsOnAccount(b *testing.B) {
	backend := accountBackend(b)
	const clients, each = 16, 100
	batch := func(role string) time.Duration {
		var running sync.WaitGroup
		start := time.Now()
		for client := range clients {
			running.Go(func() {
				for range each {
					_, err := backend.HandleRequest(context.Background(), &logical.Request{
						Operation: read, Path: "creds/" + role, EntityID: fmt.Sprintf("7d2e3f6a-1b1c-4b5e-9a55-0f4de2c1a9%02d", client),
						DisplayName: "kubernetes-billing", ClientTokenAccessor: fmt.Sprintf("hmac-accessor-of-token-%d", client),
						Connection: &logical.Connection{RemoteAddr: "10.1.4.7"},
					})
					if err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		running.Wait()
		return time.Since(start)
	}
	var ratios []float64
	var with time.Duration
	roles, took := []string{"open", "app"}, map[string]time.Duration{}
	for b.Loop() {
		for _, role := range roles {
			took[role] = batch(role)
		}
		slices.Reverse(roles) // neither is always the second
		with += took["app"]
		ratios = append(ratios, float64(took["open"])/float64(took["app"]))
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/2], "with/without")
	b.ReportMetric(float64(len(ratios)*clients*each)/with.Seconds(), "reads/s")
	b.ReportMetric(0, "ns/op")
}

func accountBackend(b *testing.B) *Backend {
	b.Helper()
	memory, storage := rotatortest.NewMemory(), &logical.InmemStorage{}
	backend, err := assemble(b.Context(), &logical.BackendConfig{Logger: hclog.NewNullLogger(), System: &logical.StaticSystemView{}, StorageView: storage},
		kinds{rotators: []rotator.Rotator{memory}, connections: []rotator.ConnectionKind{rotatortest.MemoryConnection{World: memory.World}}})
	require.NoError(b, err)
	b.Cleanup(func() { backend.Cleanup(context.Background()) })
	require.NoError(b, backend.Initialize(b.Context(), &logical.InitializationRequest{Storage: storage}))
	for _, write := range []struct {
		path string
		data map[string]any
	}{
		{"connections/main", map[string]any{"type": "memory", "address": "here", "password": adminPassword}},
		{"roles/app", map[string]any{"type": "memory", "connection": "main"}},
		{"roles/open", map[string]any{"type": "memory", "connection": "main", "public": true}},
	} {
		resp, err := backend.HandleRequest(b.Context(), &logical.Request{Operation: create, Path: write.path, Data: write.data, Storage: storage})
		require.NoError(b, err)
		require.NoError(b, resp.Error())
	}
	return backend
}
