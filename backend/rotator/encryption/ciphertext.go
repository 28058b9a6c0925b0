package encryption

import (
	"bytes"
	"encoding/base64"
	"strconv"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// A ciphertext is what transit makes: vault:v7: and, in base64, nonce, encrypted bytes
// and tag.

const (
	ciphertextField = "ciphertext"
	prefixHead      = "vault:v"
	// maxVersionDigits keeps every number of a version within an int of 32 bits.
	maxVersionDigits = 9
	maxVersion       = 999_999_999
)

// prefixOf is how everything begins that a version encrypts.
func prefixOf(version int) string { return prefixHead + strconv.Itoa(version) + ":" }

func compose(prefix string, sealed []byte) []byte {
	out := make([]byte, 0, len(prefix)+base64.StdEncoding.EncodedLen(len(sealed)))
	return base64.StdEncoding.AppendEncode(append(out, prefix...), sealed)
}

// parse takes a ciphertext apart, and believes in nothing. A version has one way to be
// written: what counts by the beginning of stored values must see each of them.
func parse(ciphertext []byte) (version int, sealed []byte, err error) {
	rest, ok := bytes.CutPrefix(ciphertext, []byte(prefixHead))
	digits, payload, cut := bytes.Cut(rest, []byte(":"))
	if !ok || !cut {
		return 0, nil, fault.Field(ciphertextField, "is not of this form: vault:v<version>:<base64>")
	}
	if version, err = parseVersion(digits); err != nil {
		return 0, nil, err
	}
	sealed = make([]byte, base64.StdEncoding.DecodedLen(len(payload)))
	n, err := base64.StdEncoding.Decode(sealed, payload)
	if err != nil {
		return 0, nil, fault.Field(ciphertextField, "is not base64 after vault:v%d:", version)
	}
	if n < nonceBytes+tagBytes {
		return 0, nil, fault.Field(ciphertextField, "is too short: %d bytes after vault:v%d:, where the cipher alone needs %d", n, version, nonceBytes+tagBytes)
	}
	return version, sealed[:n], nil
}

func parseVersion(digits []byte) (int, error) {
	switch {
	case string(digits) == "0":
		return 0, fault.Field(ciphertextField, "names version 0, as the very first releases of transit wrote: let transit rewrap it first")
	case len(digits) == 0 || bytes.ContainsFunc(digits, func(r rune) bool { return r < '0' || r > '9' }):
		return 0, fault.Field(ciphertextField, "names no version: after vault:v there must be a number and a colon")
	case digits[0] == '0':
		return 0, fault.Field(ciphertextField, "names a version with a zero before it")
	case len(digits) > maxVersionDigits:
		return 0, fault.Field(ciphertextField, "names a version that no key has: it has %d digits", len(digits))
	}
	version := 0
	for _, d := range digits {
		version = version*10 + int(d-'0')
	}
	return version, nil
}
