package tests

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// signing is an algorithm here, in Vault's transit engine, and without any Vault.
type signing struct {
	algorithm string
	batch     int            // how many tokens one request of a batch asks for
	transit   map[string]any // of its key, and of a request
	request   map[string]any
	bare      func(b *testing.B) func(message []byte) error
}

var signings = []signing{
	{"RS256", 50, map[string]any{"type": "rsa-4096"}, map[string]any{"signature_algorithm": "pkcs1v15"}, bareRSA(false)},
	{"PS256", 50, map[string]any{"type": "rsa-4096"}, map[string]any{"signature_algorithm": "pss"}, bareRSA(true)},
	{"ES256", 1000, map[string]any{"type": "ecdsa-p256"}, map[string]any{"marshaling_algorithm": "jws"}, bareECDSA},
	{"EdDSA", 1000, map[string]any{"type": "ed25519"}, map[string]any{}, bareEd25519},
}

// BenchmarkSignTokens compares signing tokens, one at a time and in batches, with
// transit's sign of as many bytes in the same Vault, and with the bare cryptography on
// all processors, in turns.
func BenchmarkSignTokens(b *testing.B) {
	vault := vaulttest.New(b, vaulttest.Options{LogLevel: "info"})
	mountPlugin(b, vault)
	require.NoError(b, vault.EnableSecrets(b.Context(), "transit"))
	for _, s := range signings {
		b.Run(s.algorithm, func(b *testing.B) { s.run(b, vault) })
	}
}

func (s signing) run(b *testing.B, vault *vaulttest.Server) {
	client := vault.Client()
	_, err := client.Logical().WriteWithContext(b.Context(), "rotation/roles/"+s.algorithm, map[string]any{
		"type": "jwt", "algorithm": s.algorithm, "allowed_claims": "sub,aud",
	})
	require.NoError(b, err)
	_, err = client.Logical().WriteWithContext(b.Context(), "transit/keys/"+s.algorithm, s.transit)
	require.NoError(b, err)
	claims := map[string]any{"sub": "user-1", "aud": "crm"}
	message := make([]byte, 250) // the length of such a token's header and claims
	item := map[string]any{"input": base64.StdEncoding.EncodeToString(message)}
	ours := [2]caller{
		s.caller(b, vault, "rotation/sign/", map[string]any{"claims": claims}, nil),
		s.caller(b, vault, "rotation/sign/", nil, map[string]any{"claims": claims}),
	}
	transit := [2]caller{s.caller(b, vault, "transit/sign/", with(with(map[string]any{}, item), s.request), nil), s.caller(b, vault, "transit/sign/", s.request, item)}
	bare := s.bare(b)
	awaitStandby(b, vault, s.algorithm) // making it takes a processor for a while
	for _, c := range []caller{ours[0], ours[1], transit[0], transit[1]} {
		c.calls(b, readers) // warm
	}
	b.ResetTimer()
	var tokens, signatures [2]float64
	var alone float64
	for b.Loop() {
		tokens[0] += ours[0].burst(b, time.Second)
		signatures[0] += transit[0].burst(b, time.Second)
		tokens[1] += float64(s.batch) * ours[1].calls(b, 2*readers)
		signatures[1] += float64(s.batch) * transit[1].calls(b, 2*readers)
		alone += onAllProcessors(b, time.Second, func() error { return bare(message) })
	}
	n := float64(b.N)
	b.ReportMetric(tokens[0]/n, "single/s")
	b.ReportMetric(tokens[1]/n, "batch/s")
	b.ReportMetric(alone/n, "bare/s")
	b.ReportMetric(tokens[0]/signatures[0], "single/transit")
	b.ReportMetric(tokens[1]/signatures[1], "batch/transit")
	b.ReportMetric(tokens[1]/alone, "batch/bare")
	b.ReportMetric(0, "ns/op")
}

// caller asks for one signature, or for a batch when there is an item.
func (s signing) caller(b *testing.B, vault *vaulttest.Server, path string, fields, item map[string]any) caller {
	body := with(map[string]any{}, fields)
	if item != nil {
		items := make([]any, s.batch)
		for i := range items {
			items[i] = item
		}
		body["batch_input"] = items
	}
	raw, err := json.Marshal(body)
	require.NoError(b, err)
	return caller{vault: vault, path: path + s.algorithm, body: raw}
}

// onAllProcessors does something for a while on every processor, and returns how often a
// second.
func onAllProcessors(b *testing.B, d time.Duration, do func() error) float64 {
	ctx, done := context.WithTimeout(b.Context(), d)
	defer done()
	var count atomic.Int64
	var workers sync.WaitGroup
	start := time.Now()
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for ctx.Err() == nil {
				if err := do(); err != nil {
					b.Error(err)
					return
				}
				count.Add(1)
			}
		})
	}
	workers.Wait()
	return float64(count.Load()) / time.Since(start).Seconds()
}

func bareRSA(pss bool) func(b *testing.B) func([]byte) error {
	return func(b *testing.B) func([]byte) error {
		key, err := rsa.GenerateKey(rand.Reader, 4096)
		require.NoError(b, err)
		return func(message []byte) error {
			digest := sha256.Sum256(message)
			if pss {
				_, err := rsa.SignPSS(rand.Reader, key, crypto.SHA256, digest[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
				return err
			}
			_, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
			return err
		}
	}
}

func bareECDSA(b *testing.B) func([]byte) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(b, err)
	return func(message []byte) error {
		digest := sha256.Sum256(message)
		_, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
		return err
	}
}

func bareEd25519(b *testing.B) func([]byte) error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(b, err)
	return func(message []byte) error {
		ed25519.Sign(key, message)
		return nil
	}
}

// awaitStandby waits until the next key of a role was made.
func awaitStandby(b *testing.B, vault *vaulttest.Server, role string) {
	m := mount{vault.Address(), vault.Token(), "rotation"}
	for !bytes.Contains(m.call(b.Context(), http.MethodGet, "status/"+role, nil).Data, []byte(`"standby"`)) {
		wait(b, 50*time.Millisecond)
	}
}

// BenchmarkSigningEmergency declares that an RSA key of 4096 bits leaked, each time with
// the next one announced: from the request until the answer that the leak is contained.
func BenchmarkSigningEmergency(b *testing.B) {
	vault := vaulttest.New(b, vaulttest.Options{LogLevel: "info"})
	mountPlugin(b, vault)
	m := mount{vault.Address(), vault.Token(), "rotation"}
	write := func(path string, body map[string]any) answer {
		a := m.call(b.Context(), http.MethodPut, path, body)
		require.True(b, a.ok(), "%s: %d %s", path, a.Status, a.sentence())
		return a
	}
	write("roles/session", map[string]any{"type": "jwt", "algorithm": "RS256", "key_bits": 4096})
	var took time.Duration
	for b.Loop() {
		b.StopTimer()
		awaitStandby(b, vault, "session")
		b.StartTimer()
		start := time.Now()
		a := write("emergency/session", map[string]any{"reason": "benchmark"})
		took += time.Since(start)
		require.Contains(b, string(a.Data), `"status":"contained"`)
	}
	b.ReportMetric(float64(took.Milliseconds())/float64(b.N), "ms/emergency")
}
