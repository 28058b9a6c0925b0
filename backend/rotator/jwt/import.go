package jwt

import (
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// A role may begin with a key that exists, so that verifiers who know it go on
// verifying. What people paste here is refused in our own words: a parser's error
// may quote it.

const (
	maxImportBytes = 16 << 10
	maxKidBytes    = 256
	wantedFormats  = "give a private key as PEM (PKCS#8, PKCS#1 or SEC1) or as a JWK"
)

// imported is an existing private key, and the kid it brings along, if any.
type imported struct {
	private crypto.Signer
	kid     string
}

// Imports implements rotator.Importer.
func (*Rotator) Imports(r *rotator.Role) bool { return !r.Secrets[importKey].Empty() }

func checkImport(a *algorithm, askedBits int64, text secret.String) error {
	if text.Empty() {
		return nil
	}
	_, err := parseImport(a, askedBits, text.Reveal())
	return err
}

func planImport(a *algorithm, askedBits int64, text secret.String) (*rotator.Candidate, error) {
	in, err := parseImport(a, askedBits, text.Reveal())
	if err != nil {
		return nil, err
	}
	return candidate(a, in.private, in.kid)
}

// parseImport reads a key and refuses one that is not for the algorithm, or of
// another size than was asked for.
func parseImport(a *algorithm, askedBits int64, text string) (*imported, error) {
	in, err := readImport(a, strings.TrimSpace(text))
	if err != nil {
		return nil, err
	}
	bits, ok := a.take(in.private.Public())
	if !ok {
		return nil, fault.Field(importKey, "is %s; %s takes %s", describe(in.private.Public()), a.name, a.keys())
	}
	if askedBits != 0 && int64(bits) != askedBits {
		return nil, fault.Field("key_bits", "is %d, but the key to import has %d bits: leave key_bits out to take it as it is", askedBits, bits)
	}
	if k, ok := in.private.(*rsa.PrivateKey); ok && len(k.Primes) != 2 {
		return nil, fault.Field(importKey, "is an RSA key of %d primes, which verifiers do not know: it must have two", len(k.Primes))
	}
	k, err := newKey("import", a, bits, in.private)
	if err != nil {
		return nil, err
	}
	if !k.works() {
		return nil, fault.Field(importKey, "does not fit together: what its private half signs does not verify with its public half")
	}
	return in, nil
}

func readImport(a *algorithm, text string) (*imported, error) {
	switch {
	case len(text) > maxImportBytes:
		return nil, fault.Field(importKey, "must be at most %d bytes", maxImportBytes)
	case strings.HasPrefix(text, "{"):
		return readJWK(a, text)
	case strings.Contains(text, "-----BEGIN "):
		return readPEM(text)
	default:
		return nil, fault.Field(importKey, "is neither PEM nor a JWK: %s", wantedFormats)
	}
}

// readPEM reads the one private key of a PEM file. The curve's parameters, which
// OpenSSL writes before it, say nothing more.
func readPEM(text string) (*imported, error) {
	block, rest := pem.Decode([]byte(text))
	if block != nil && block.Type == "EC PARAMETERS" {
		block, rest = pem.Decode(rest)
	}
	switch {
	case block == nil:
		return nil, fault.Field(importKey, "is not valid PEM: %s", wantedFormats)
	case strings.TrimSpace(string(rest)) != "":
		return nil, fault.Field(importKey, "holds more than one thing: give the private key alone")
	case block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
		return nil, fault.Field(importKey, "is encrypted with a passphrase: decrypt it first (openssl pkey)")
	case strings.HasSuffix(block.Type, "PUBLIC KEY") || strings.HasSuffix(block.Type, "CERTIFICATE"):
		return nil, fault.Field(importKey, "is a public key: it is the private one that signs")
	}
	parsed, known := parsePrivate(block)
	if !known {
		return nil, fault.Field(importKey, "is not a private key that can be read: %s", wantedFormats)
	}
	private, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fault.Field(importKey, "is a key for key agreement, which signs nothing")
	}
	return &imported{private: private}, nil
}

// parsePrivate reads a private key in the form that the block names.
func parsePrivate(block *pem.Block) (parsed any, ok bool) {
	var err error
	switch block.Type {
	case pemPrivate:
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, false
	}
	return parsed, err == nil
}

// readJWK reads a private key in the form of RFC 7517, and keeps its kid.
func readJWK(a *algorithm, text string) (*imported, error) {
	var about struct {
		Keys    json.RawMessage `json:"keys"`
		Type    string          `json:"kty"`
		Ops     []string        `json:"key_ops"`
		KeyID   *string         `json:"kid"`
		Private json.RawMessage `json:"d"`
	}
	if err := json.Unmarshal([]byte(text), &about); err != nil {
		return nil, fault.Field(importKey, "is not valid JSON, or not that of a JWK")
	}
	switch {
	case about.Keys != nil:
		return nil, fault.Field(importKey, "is a set of keys: give the one to import")
	case about.Type == "oct":
		return nil, fault.Field(importKey, "is a symmetric key: who verifies with it could sign as well; %s takes %s", a.name, a.keys())
	case about.Private == nil:
		return nil, fault.Field(importKey, "is a public key: it is the private one that signs")
	case about.Ops != nil && !slices.Contains(about.Ops, "sign"):
		return nil, notForSigning()
	case about.KeyID != nil && !plainKid(*about.KeyID):
		return nil, fault.Field(importKey, "has a kid that cannot be kept: it must have 1 to %d printable ASCII characters", maxKidBytes)
	}
	var parsed jose.JSONWebKey
	if err := json.Unmarshal([]byte(text), &parsed); err != nil {
		return nil, fault.Field(importKey, "is not a private key that can be read: as a JWK it needs all that RFC 7518 or RFC 8037 names for its kty")
	}
	private, ok := parsed.Key.(crypto.Signer)
	// What go-jose read counts: it tells names apart by case, which the look above does not.
	switch {
	case !ok:
		return nil, fault.Field(importKey, "is not a private key that signs")
	case parsed.Algorithm != "" && parsed.Algorithm != string(a.name) && (parsed.Algorithm != "Ed25519" || a.name != jose.EdDSA):
		return nil, fault.Field(importKey, "says that it is for another algorithm than %s (alg)", a.name)
	case parsed.Use != "" && parsed.Use != "sig":
		return nil, notForSigning()
	case parsed.KeyID != "" && !plainKid(parsed.KeyID):
		return nil, fault.Field(importKey, "has a kid that cannot be kept: it must have 1 to %d printable ASCII characters", maxKidBytes)
	}
	return &imported{private: private, kid: parsed.KeyID}, nil
}

func notForSigning() error {
	return fault.Field(importKey, "says that it is not for signing (use or key_ops)")
}

func plainKid(kid string) bool {
	return kid != "" && len(kid) <= maxKidBytes && !strings.ContainsFunc(kid, func(r rune) bool { return r < ' ' || r > '~' })
}
