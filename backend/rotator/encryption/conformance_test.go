package encryption_test

import (
	"context"
	"encoding/base64"
	"slices"
	"strconv"
	"testing"

	"github.com/hashicorp/vault/sdk/helper/keysutil"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/encryption"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/rotatortest"
)

// TestConforms runs the contract's own suite. A reader takes the exported key to
// transit, and asks for what transit encrypted with it.
func TestConforms(t *testing.T) {
	for name, values := range map[string]option.Values{
		"AES":     {"exportable": true},
		"ChaCha":  {"key_type": "chacha20-poly1305", "exportable": true},
		"derived": {"derived": true, "exportable": true, "destroy_after": 3600},
	} {
		t.Run(name, func(t *testing.T) {
			rotatortest.Run(t, func(*testing.T) *rotatortest.Subject {
				return &rotatortest.Subject{
					Rotator: encryption.New(),
					Role:    &rotator.Role{Name: "app", Values: values},
					Honours: honours,
				}
			})
		})
	}
}

var keyTypes = map[string]keysutil.KeyType{"aes256-gcm96": keysutil.KeyType_AES256_GCM96, "chacha20-poly1305": keysutil.KeyType_ChaCha20_Poly1305}

// honours tells whether what the key encrypts under the number of any version is
// decrypted. Which number is its own the rendered data does not say: under another's it
// is refused in any case.
func honours(t *testing.T, live *rotator.LiveVersions, rendered map[string]any) bool {
	raw, err := base64.StdEncoding.DecodeString(rendered["key"].(string))
	require.NoError(t, err)
	transit := keysutil.NewPolicy(keysutil.PolicyConfig{Type: keyTypes[rendered["key_type"].(string)], Derived: rendered["derived"].(bool), KDF: keysutil.Kdf_hkdf_sha256})
	transit.Keys = map[string]keysutil.KeyEntry{}
	var numbers []int
	for _, l := range live.All {
		numbers = append(numbers, l.Version.Number)
	}
	for _, v := range live.Ended {
		numbers = append(numbers, v.Number)
	}
	transit.LatestVersion = slices.Max(numbers)
	var request encryption.DecryptRequest
	for _, number := range numbers {
		transit.Keys[strconv.Itoa(number)] = keysutil.KeyEntry{Key: raw}
		ciphertext, err := transit.EncryptWithFactory(number, []byte("context"), nil, "cmVhZGVy")
		require.NoError(t, err)
		request.Items = append(request.Items, encryption.DecryptItem{Ciphertext: ciphertext, Context: base64.StdEncoding.EncodeToString([]byte("context"))})
	}
	answer, err := encryption.New().Use(context.Background(), live, request)
	require.NoError(t, err)
	return slices.ContainsFunc(answer.([]encryption.Decrypted), func(d encryption.Decrypted) bool {
		require.Equal(t, d.Err == nil, d.Plaintext == "cmVhZGVy")
		return d.Err == nil
	})
}
