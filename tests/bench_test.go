package tests

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// BenchmarkReadCredentials compares reading a rotated credential with reading a
// KV v2 secret of the same Vault, in turns: only the ratio means anything on a
// machine whose speed changes from minute to minute.
func BenchmarkReadCredentials(b *testing.B) {
	vault := vaulttest.New(b, vaulttest.Options{})
	benchRole(b, vault)
	kv := caller{vault: vault, path: "kv/data/app"}
	rotated := caller{vault: vault, path: "rotation/creds/app"}
	kv.burst(b, time.Second) // warm
	rotated.burst(b, time.Second)
	b.ResetTimer()
	var kvReads, reads float64
	for b.Loop() {
		kvReads += kv.burst(b, time.Second)
		reads += rotated.burst(b, time.Second)
	}
	b.ReportMetric(kvReads/float64(b.N), "kv-reads/s")
	b.ReportMetric(reads/float64(b.N), "creds-reads/s")
	b.ReportMetric(reads/kvReads, "creds/kv")
}

// benchRole mounts the plugin with one role, and a KV v2 secret of the same size.
func benchRole(b *testing.B, vault *vaulttest.Server) {
	ctx, done := context.WithTimeout(b.Context(), 5*time.Minute)
	defer done()
	mountPlugin(b, vault)
	db := pgtest.Shared(b)
	db.MustExec(b, "postgres", "DROP ROLE IF EXISTS bench_group", "CREATE ROLE bench_group")
	client := vault.Client()
	write := func(path string, data map[string]any) {
		_, err := client.Logical().WriteWithContext(ctx, path, data)
		require.NoError(b, err, path)
	}
	write("rotation/connections/main", map[string]any{
		"type": "postgresql", "connection_url": db.TemplateURL("postgres"), "username": pgtest.Superuser, "password": db.SuperuserPassword(), "tls_ca": db.CAPEM(),
	})
	write("rotation/roles/app", map[string]any{"type": "postgresql", "connection": "main", "member_of": "bench_group"})
	require.NoError(b, client.Sys().MountWithContext(ctx, "kv", &api.MountInput{Type: "kv", Options: map[string]string{"version": "2"}}))
	creds, err := client.Logical().ReadWithContext(ctx, "rotation/creds/app")
	require.NoError(b, err)
	write("kv/data/app", map[string]any{"data": creds.Data})
}

// mountPlugin builds the plugin and mounts it.
func mountPlugin(b *testing.B, vault *vaulttest.Server) {
	ctx, done := context.WithTimeout(b.Context(), 5*time.Minute)
	defer done()
	binary, err := vaulttest.BuildPlugin(ctx)
	require.NoError(b, err)
	require.NoError(b, vault.RegisterPlugin(ctx, binary))
	require.NoError(b, vault.Mount(ctx, "rotation"))
}

// caller reads one path of a Vault over HTTP, or writes to it when it has a body.
type caller struct {
	vault *vaulttest.Server
	path  string
	body  []byte
}

// readers is how many clients call at the same time.
const readers = 8

// burst calls for a while from several clients and returns the calls a second.
func (r caller) burst(b *testing.B, d time.Duration) float64 {
	ctx, done := context.WithTimeout(b.Context(), d)
	defer done()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: readers}}
	defer client.CloseIdleConnections()
	var count atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for range readers {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := r.once(ctx, client); err == nil {
					count.Add(1)
				} else if ctx.Err() == nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return float64(count.Load()) / time.Since(start).Seconds()
}

// calls calls so often from two clients for each processor, which waste nothing on
// each other, and returns the calls a second.
func (r caller) calls(b *testing.B, n int) float64 {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: readers}}
	defer client.CloseIdleConnections()
	var left atomic.Int64
	left.Store(int64(n))
	var wg sync.WaitGroup
	start := time.Now()
	for range 2 * runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := r.once(b.Context(), client); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return float64(n) / time.Since(start).Seconds()
}

func (r caller) once(ctx context.Context, client *http.Client) error {
	method := http.MethodGet
	if r.body != nil {
		method = http.MethodPost
	}
	request, err := http.NewRequestWithContext(ctx, method, r.vault.Address()+"/v1/"+r.path, bytes.NewReader(r.body))
	if err != nil {
		return err
	}
	request.Header.Set("X-Vault-Token", r.vault.Token())
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", r.path, response.Status)
	}
	return nil
}
