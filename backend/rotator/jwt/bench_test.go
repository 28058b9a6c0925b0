package jwt

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
)

// BenchmarkSign compares tokens with the bare cryptography of the standard library:
// ratio is how many tokens are made in the time of as many signatures, on one
// processor for single ones and on all for batches.
func BenchmarkSign(b *testing.B) {
	for _, name := range []string{"RS256", "PS256", "ES256", "ES384", "EdDSA"} {
		b.Run(name, func(b *testing.B) { benchmarkSign(b, name) })
	}
}

func benchmarkSign(b *testing.B, name string) {
	f := newFixture(b, option.Values{"algorithm": name, "allowed_claims": []string{"sub", "aud"}, "issuer": "https://issuer.example"})
	item := SignItem{Claims: map[string]any{"sub": "service-a", "aud": []any{"https://api.example"}}, TTL: time.Minute}
	token := f.signed(b, item)
	message := token[:strings.LastIndexByte(token, '.')]
	bare := bareSigner(f.keys[0].private, f.keys[0].algorithm, []byte(message))
	for _, n := range []int{1, 100} {
		request := SignRequest{Items: make([]SignItem, n)}
		for i := range request.Items {
			request.Items[i] = item
		}
		b.Run(fmt.Sprintf("batch=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			// In turns, so that both meet the same neighbours on the machine.
			var tokens, signatures stopwatch
			for b.Loop() {
				var err error
				tokens.measure(func() { _, err = f.use(request) })
				require.NoError(b, err)
				signatures.measure(func() { err = inParallel(context.Background(), n, func(int) { bare() }) })
				require.NoError(b, err)
			}
			b.ReportMetric(float64(tokens.wall.Nanoseconds())/float64(b.N*n), "ns/token")
			b.ReportMetric(float64(signatures.wall)/float64(tokens.wall), "ratio")
			b.ReportMetric(float64(signatures.cpu)/float64(tokens.cpu), "cpu-ratio")
		})
	}
}

// stopwatch adds up the time on the wall, and that of the processors, which neighbours
// on the machine change less.
type stopwatch struct{ wall, cpu time.Duration }

func (w *stopwatch) measure(do func()) {
	cpu, wall := cpuTime(), time.Now()
	do()
	w.wall += time.Since(wall)
	w.cpu += cpuTime() - cpu
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// bareSigner signs what a token's signature is over.
func bareSigner(private crypto.Signer, a *algorithm, message []byte) func() {
	digest := func() []byte {
		h := crypto.SHA256.New()
		if a.name == "ES384" {
			h = crypto.SHA384.New()
		}
		h.Write(message)
		return h.Sum(nil)
	}
	switch k := private.(type) {
	case *rsa.PrivateKey:
		if a.name[0] == 'P' {
			return func() {
				_, _ = rsa.SignPSS(rand.Reader, k, crypto.SHA256, digest(), &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
			}
		}
		return func() { _, _ = rsa.SignPKCS1v15(rand.Reader, k, crypto.SHA256, digest()) }
	case *ecdsa.PrivateKey:
		return func() { _, _ = ecdsa.SignASN1(rand.Reader, k, digest()) }
	case ed25519.PrivateKey:
		return func() { _ = ed25519.Sign(k, message) }
	}
	panic("no such key")
}

// BenchmarkVerify is one token a time.
func BenchmarkVerify(b *testing.B) {
	for _, name := range []string{"RS256", "ES256", "EdDSA"} {
		b.Run(name, func(b *testing.B) {
			f := newFixture(b, option.Values{"algorithm": name})
			request := VerifyRequest{Token: f.signed(b, SignItem{})}
			for b.Loop() {
				answer, err := f.use(request)
				require.NoError(b, err)
				require.True(b, answer.(*Verified).Active)
			}
		})
	}
}
