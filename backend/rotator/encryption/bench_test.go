package encryption

import (
	"testing"

	"github.com/hashicorp/vault/sdk/helper/keysutil"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

var benched = map[string]option.Values{
	"aes256-gcm96":         {},
	"chacha20-poly1305":    {"key_type": "chacha20-poly1305"},
	"aes256-gcm96 derived": {"derived": true},
}

const benchText = "a card number or so: 4111-1111" // 30 bytes

// BenchmarkEncrypt1000 encrypts a batch of 1,000 small items; transit is what keysutil
// alone takes for them.
func BenchmarkEncrypt1000(b *testing.B) {
	items := make([]EncryptItem, 1000)
	for i := range items {
		items[i] = EncryptItem{Plaintext: b64(benchText), Context: b64("user-1")}
	}
	for name, values := range benched {
		f := newFixture(b, values)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				use[[]Encrypted](b, f, EncryptRequest{Items: items})
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(items)), "ns/item")
		})
	}
	transit := newFixture(b, nil).transit(keysutil.KeyType_AES256_GCM96, false)
	b.Run("transit", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			for i := range items {
				_, err := transit.Encrypt(0, nil, nil, items[i].Plaintext)
				require.NoError(b, err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(items)), "ns/item")
	})
}

func BenchmarkDecrypt1000(b *testing.B) {
	for name, values := range benched {
		f := newFixture(b, values)
		made := f.encrypt(b, EncryptItem{Plaintext: b64(benchText), Context: b64("user-1")})
		items := make([]DecryptItem, 1000)
		for i := range items {
			items[i] = DecryptItem{Ciphertext: made.Ciphertext, Context: b64("user-1")}
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				use[[]Decrypted](b, f, DecryptRequest{Items: items})
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(items)), "ns/item")
		})
	}
}

// BenchmarkRewrite is what a row costs, on all processors.
func BenchmarkRewrite(b *testing.B) {
	for name, values := range benched {
		f := newFixture(b, values)
		made := f.encrypt(b, EncryptItem{Plaintext: b64(benchText), Context: b64("user-1")})
		f.add(b, rotation.Current)
		rewriter, err := New().Rewriter(f.live)
		require.NoError(b, err)
		value, about := []byte(made.Ciphertext), []byte("user-1")
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := rewriter.Rewrite(value, about, nil); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

// BenchmarkLoad is what readying a version costs, once for a role's snapshot.
func BenchmarkLoad(b *testing.B) {
	f := newFixture(b, nil)
	l := f.live.All[0]
	for b.Loop() {
		if _, err := New().Load(&l.Version, l.Material); err != nil {
			b.Fatal(err)
		}
	}
}
