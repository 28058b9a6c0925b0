package tests

import (
	"encoding/base64"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// encryptBatch is how many small items one request of a batch has.
const encryptBatch = 1000

// BenchmarkEncrypt compares encrypting small texts, one at a time and 1,000 at once, and
// decrypting 1,000 at once, with the same requests to transit in the same Vault, in turns.
func BenchmarkEncrypt(b *testing.B) {
	vault := vaulttest.New(b, vaulttest.Options{LogLevel: "info"})
	mountPlugin(b, vault)
	require.NoError(b, vault.EnableSecrets(b.Context(), "transit"))
	for _, keyType := range []string{"aes256-gcm96", "chacha20-poly1305"} {
		b.Run(keyType, func(b *testing.B) { benchEncrypt(b, vault, keyType) })
	}
}

func benchEncrypt(b *testing.B, vault *vaulttest.Server, keyType string) {
	logical := vault.Client().Logical()
	for path, body := range map[string]map[string]any{
		"rotation/roles/" + keyType: {"type": "encryption-key", "key_type": keyType}, "transit/keys/" + keyType: {"type": keyType},
	} {
		_, err := logical.WriteWithContext(b.Context(), path, body)
		require.NoError(b, err)
	}
	item := map[string]any{"plaintext": base64.StdEncoding.EncodeToString([]byte("a card number or so: 4111-1111"))}
	var singles, encrypts, decrypts [2]caller // ours, transit's
	for i, mount := range []string{"rotation", "transit"} {
		made, err := logical.WriteWithContext(b.Context(), mount+"/encrypt/"+keyType, item)
		require.NoError(b, err)
		singles[i] = caller{vault: vault, path: mount + "/encrypt/" + keyType, body: encoded(b, item)}
		encrypts[i] = batchCaller(b, vault, mount+"/encrypt/"+keyType, item)
		decrypts[i] = batchCaller(b, vault, mount+"/decrypt/"+keyType, map[string]any{"ciphertext": made.Data["ciphertext"]})
		for _, c := range []caller{singles[i], encrypts[i], decrypts[i]} {
			c.calls(b, readers) // warm
		}
	}
	var single, encrypt, decrypt [2]float64
	b.ResetTimer()
	for b.Loop() {
		for i := range 2 {
			single[i] += singles[i].burst(b, time.Second)
			encrypt[i] += encryptBatch * encrypts[i].calls(b, 5*readers)
			decrypt[i] += encryptBatch * decrypts[i].calls(b, 5*readers)
		}
	}
	n := float64(b.N)
	b.ReportMetric(single[0]/n, "single/s")
	b.ReportMetric(encrypt[0]/n, "encrypt/s")
	b.ReportMetric(decrypt[0]/n, "decrypt/s")
	b.ReportMetric(single[0]/single[1], "single/transit")
	b.ReportMetric(encrypt[0]/encrypt[1], "encrypt/transit")
	b.ReportMetric(decrypt[0]/decrypt[1], "decrypt/transit")
	b.ReportMetric(0, "ns/op")
}

func batchCaller(b *testing.B, vault *vaulttest.Server, path string, item map[string]any) caller {
	items := make([]any, encryptBatch)
	for i := range items {
		items[i] = item
	}
	return caller{vault: vault, path: path, body: encoded(b, map[string]any{"batch_input": items})}
}

func encoded(b *testing.B, body map[string]any) []byte {
	raw, err := json.Marshal(body)
	require.NoError(b, err)
	return raw
}
