package postgres_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"flag"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

var (
	benchRows    = flag.Int("reencrypt.rows", 100_000, "rows of BenchmarkReencrypt")
	benchWorkers = flag.Int("reencrypt.workers", 0, "workers of BenchmarkReencrypt; 0: the default")
	benchBatch   = flag.Int("reencrypt.batch", 0, "rows of a page in BenchmarkReencrypt; 0: the default")
)

// gcm rewrites as a kind of secret does: it decrypts, and encrypts under another key.
type gcm struct {
	version  int
	from, to cipher.AEAD
}

func newGCM(t testing.TB, version int) *gcm {
	aead := func() cipher.AEAD {
		key := make([]byte, 32)
		_, _ = rand.Read(key)
		block, err := aes.NewCipher(key)
		require.NoError(t, err)
		a, err := cipher.NewGCM(block)
		require.NoError(t, err)
		return a
	}
	return &gcm{version: version, from: aead(), to: aead()}
}

func seal(version int, a cipher.AEAD, plaintext []byte) []byte {
	nonce := make([]byte, a.NonceSize(), a.NonceSize()+len(plaintext)+a.Overhead())
	_, _ = rand.Read(nonce)
	raw := a.Seal(nonce, nonce, plaintext, nil)
	return base64.StdEncoding.AppendEncode(fmt.Appendf(nil, "vault:v%d:", version), raw)
}

func (g *gcm) Version() int { return g.version }
func (g *gcm) Done() string { return fmt.Sprintf("vault:v%d:", g.version) }

func (g *gcm) Rewrite(value, _, _ []byte) ([]byte, error) {
	_, text, _ := strings.Cut(strings.TrimPrefix(string(value), "vault:"), ":")
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(raw) < g.from.NonceSize() {
		return nil, errors.New("it is no ciphertext")
	}
	plaintext, err := g.from.Open(nil, raw[:g.from.NonceSize()], raw[g.from.NonceSize():], nil)
	if err != nil {
		return nil, errors.New("it does not decrypt")
	}
	return seal(g.version, g.to, plaintext), nil
}

// BenchmarkReencrypt is a pass over a table next to bare updates of the same rows with
// other values of the same length, in the same batches, one after another. The metric
// pass/bare is how many rows a second the one does for each of the other. Both begin with
// the same table, vacuumed and without dead rows.
func BenchmarkReencrypt(b *testing.B) {
	s := pgtest.New(b, pgtest.Options{Settings: map[string]string{"log_statement": "none", "autovacuum": "off", "shared_buffers": "256MB", "max_wal_size": "4GB"}})
	r := newRowsRigOn(b, s)
	g := newGCM(b, 2)
	n := *benchRows
	r.exec(`CREATE TABLE customers (id bigint PRIMARY KEY, name text, card text)`)
	r.grant("customers")
	fill := func() {
		r.exec("TRUNCATE customers")
		r.fill(b, g, n)
		r.exec("VACUUM (FREEZE, ANALYZE) customers", "CHECKPOINT")
	}
	target := &reencrypt.Target{Table: "public.customers", KeyColumns: []string{"id"}, Columns: []string{"card"}}
	var pass, bare time.Duration
	var peak uint64
	for b.Loop() {
		fill()
		bare += r.bare(b, n)
		fill()
		took, heap := r.benchPass(b, target, g, n)
		pass, peak = pass+took, max(peak, heap)
		begin := time.Now()
		require.Equal(b, map[int]int64{2: int64(n)}, r.count(r.open(target))[0].Versions)
		b.ReportMetric(float64(time.Since(begin).Milliseconds()), "ms/count")
	}
	rows := float64(b.N * n)
	b.ReportMetric(rows/pass.Seconds(), "rows/s")
	b.ReportMetric(rows/bare.Seconds(), "bare-rows/s")
	b.ReportMetric(bare.Seconds()/pass.Seconds(), "pass/bare")
	b.ReportMetric(float64(peak)/1e6, "heap-MB")
}

// fill writes rows under version 1.
func (r *rowsRig) fill(b *testing.B, g *gcm, n int) {
	conn := r.session()
	defer conn.Close(b.Context())
	i := 0
	_, err := conn.CopyFrom(b.Context(), pgx.Identifier{"customers"}, []string{"id", "name", "card"}, pgx.CopyFromFunc(func() ([]any, error) {
		if i++; i > n {
			return nil, nil
		}
		return []any{i, "a customer", string(seal(1, g.from, fmt.Appendf(nil, "4111111111111111 of %d", i)))}, nil
	}))
	require.NoError(b, err)
}

// bare updates all rows in batches of keys.
func (r *rowsRig) bare(b *testing.B, n int) time.Duration {
	conn := r.session()
	defer conn.Close(b.Context())
	begin := time.Now()
	for from := 1; from <= n; from += reencrypt.DefaultBatch {
		tag, err := conn.Exec(b.Context(), "UPDATE customers SET card = 'vault:v2:' || substr(card, 10) WHERE id >= $1 AND id < $2", from, from+reencrypt.DefaultBatch)
		require.NoError(b, err)
		require.Equal(b, int64(min(reencrypt.DefaultBatch, n-from+1)), tag.RowsAffected())
	}
	return time.Since(begin)
}

// benchPass runs a pass, and watches the heap.
func (r *rowsRig) benchPass(b *testing.B, target *reencrypt.Target, g *gcm, n int) (took time.Duration, peak uint64) {
	runtime.GC()
	var most atomic.Uint64
	ctx, stop := context.WithCancel(b.Context())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				most.Store(max(most.Load(), m.HeapInuse))
			}
		}
	}()
	p := &reencrypt.Pass{
		Table: r.open(target), Target: target, Rewriter: g, Total: int64(n), Now: time.Now, Workers: *benchWorkers, Batch: *benchBatch,
		Save: func(context.Context, reencrypt.Progress) error { return nil },
	}
	begin := time.Now()
	got, err := p.Run(b.Context(), reencrypt.Progress{})
	took = time.Since(begin)
	stop()
	<-watched
	require.NoError(b, err)
	require.Equal(b, int64(n), got.Changed)
	return took, most.Load()
}
