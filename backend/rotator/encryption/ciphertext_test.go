package encryption

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

func TestCiphertextsOfAnotherForm(t *testing.T) {
	payload := base64.StdEncoding.EncodeToString(make([]byte, nonceBytes+tagBytes))
	const (
		form   = "ciphertext: is not of this form: vault:v<version>:<base64>"
		number = "ciphertext: names no version: after vault:v there must be a number and a colon"
		zero   = "ciphertext: names a version with a zero before it"
	)
	for text, want := range map[string]string{
		"hunter2":                             form,
		"vault:v1":                            form,
		"vault:v12345":                        form,
		"Vault:v1:" + payload:                 form,
		" vault:v1:" + payload:                form,
		"vault:1:" + payload:                  form,
		"vault:v:" + payload:                  number,
		"vault:v-1:" + payload:                number,
		"vault:v+1:" + payload:                number,
		"vault:v 1:" + payload:                number,
		"vault:v1.0:" + payload:               number,
		"vault:v1_0:" + payload:               number,
		"vault:v0x1:" + payload:               number,
		"vault:v\u0661:" + payload:            number,
		"vault:v01:" + payload:                zero,
		"vault:v00:" + payload:                zero,
		"vault:v0:" + payload:                 "ciphertext: names version 0, as the very first releases of transit wrote: let transit rewrap it first",
		"vault:v1000000000:" + payload:        "ciphertext: names a version that no key has: it has 10 digits",
		"vault:v18446744073709551617:x":       "ciphertext: names a version that no key has: it has 20 digits",
		"vault:v1:":                           "ciphertext: is too short: 0 bytes after vault:v1:, where the cipher alone needs 28",
		"vault:v1:" + payload[:36]:            "ciphertext: is too short: 27 bytes after vault:v1:, where the cipher alone needs 28",
		"vault:v1:hunter2":                    "ciphertext: is not base64 after vault:v1:",
		"vault:v1:" + payload[:37]:            "ciphertext: is not base64 after vault:v1:",
		"vault:v1:" + payload + ":":           "ciphertext: is not base64 after vault:v1:",
		"vault:v1:v2:" + payload:              "ciphertext: is not base64 after vault:v1:",
		"vault:v1:" + strings.Repeat("_", 40): "ciphertext: is not base64 after vault:v1:",
	} {
		f := newFixture(t, nil)
		_, err := f.decrypt(t, DecryptItem{Ciphertext: text})
		require.EqualError(t, err, want, text)
		require.Equal(t, fault.Invalid, fault.KindOf(err))
		require.NotContains(t, err.Error(), "hunter2")
	}
}

// FuzzParse holds that whatever is taken apart has one form alone, and that nothing
// else comes through.
func FuzzParse(f *testing.F) {
	payload := base64.StdEncoding.EncodeToString(make([]byte, nonceBytes+tagBytes))
	for _, seed := range []string{"vault:v1:" + payload, "vault:v01:" + payload, "vault:v0:" + payload, "vault:v999999999:" + payload, "vault:v1:" + payload + "\n", "", "vault:v", "vault:v:"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, ciphertext []byte) {
		before := bytes.Clone(ciphertext)
		version, sealed, err := parse(ciphertext)
		require.Equal(t, before, ciphertext, "it is the caller's")
		if err != nil {
			require.Equal(t, fault.Invalid, fault.KindOf(err))
			require.Zero(t, sealed)
			return
		}
		require.True(t, version >= 1 && version <= maxVersion)
		require.GreaterOrEqual(t, len(sealed), nonceBytes+tagBytes)
		require.True(t, bytes.HasPrefix(ciphertext, []byte(prefixOf(version))), "what counts by the beginning sees it")
		again, back, err := parse(compose(prefixOf(version), sealed))
		require.NoError(t, err)
		require.Equal(t, version, again)
		require.Equal(t, sealed, back)
	})
}
