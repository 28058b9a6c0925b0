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
	"syscall"
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

// heapFloor is what the plugin reserves, too, for the collector to run less often.
const heapFloor = 32 << 20

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
// the same table, vacuumed and without dead rows. Beside it stand the seconds of a
// processor for a million rows, of the server and of ours, which other work disturbs less.
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
	var pass, bare spent
	var peak uint64
	for b.Loop() {
		fill()
		bare.add(s, func() { r.bare(b, n) })
		fill()
		pass.add(s, func() { peak = max(peak, r.benchPass(b, target, g, n)) })
		begin := time.Now()
		require.Equal(b, map[int]int64{2: int64(n)}, r.count(r.open(target))[0].Versions)
		b.ReportMetric(float64(time.Since(begin).Milliseconds()), "ms/count")
	}
	rows := float64(b.N * n)
	b.ReportMetric(rows/pass.wall.Seconds(), "rows/s")
	b.ReportMetric(rows/bare.wall.Seconds(), "bare-rows/s")
	b.ReportMetric(bare.wall.Seconds()/pass.wall.Seconds(), "pass/bare")
	b.ReportMetric(pass.server.Seconds()*1e6/rows, "server-s/M")
	b.ReportMetric(pass.own.Seconds()*1e6/rows, "own-s/M")
	b.ReportMetric(bare.server.Seconds()*1e6/rows, "bare-server-s/M")
	b.ReportMetric(float64(peak)/1e6, "heap-MB")
}

// spent is the time that something took: by the clock, and of the processors.
type spent struct{ wall, server, own time.Duration }

func (t *spent) add(s *pgtest.Server, do func()) {
	server, own, begin := s.CPU(), ownCPU(), time.Now()
	do()
	t.wall += time.Since(begin)
	t.server, t.own = t.server+s.CPU()-server, t.own+ownCPU()-own
}

func ownCPU() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
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
func (r *rowsRig) bare(b *testing.B, n int) {
	conn := r.session()
	defer conn.Close(b.Context())
	for from := 1; from <= n; from += reencrypt.DefaultBatch {
		tag, err := conn.Exec(b.Context(), "UPDATE customers SET card = 'vault:v2:' || substr(card, 10) WHERE id >= $1 AND id < $2", from, from+reencrypt.DefaultBatch)
		require.NoError(b, err)
		require.Equal(b, int64(min(reencrypt.DefaultBatch, n-from+1)), tag.RowsAffected())
	}
}

// benchPass runs a pass, and watches the heap.
func (r *rowsRig) benchPass(b *testing.B, target *reencrypt.Target, g *gcm, n int) (peak uint64) {
	defer runtime.KeepAlive(make([]byte, heapFloor))
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
				most.Store(max(most.Load(), m.HeapInuse-heapFloor))
			}
		}
	}()
	p := &reencrypt.Pass{
		Table: r.open(target), Target: target, Rewriter: g, Total: int64(n), Now: time.Now, Workers: *benchWorkers, Batch: *benchBatch,
		Save: func(context.Context, reencrypt.Progress) error { return nil },
	}
	got, err := p.Run(b.Context(), reencrypt.Progress{})
	stop()
	<-watched
	require.NoError(b, err)
	require.Equal(b, int64(n), got.Changed)
	return most.Load()
}
