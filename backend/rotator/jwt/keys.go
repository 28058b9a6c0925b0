package jwt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/go-jose/go-jose/v4"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// privateKey names the one secret of a version: a private key as PKCS#8 in PEM.
const privateKey = "private_key"

const pemPrivate, pemPublic = "PRIVATE KEY", "PUBLIC KEY"

// object is what a version remembers of its key. It goes on working by that,
// whatever the role says later.
type object struct {
	Algorithm string `json:"algorithm"`
	KeyBits   int    `json:"key_bits"`
	// Thumbprint (RFC 7638) is set where the kid is another: an imported key kept its own.
	Thumbprint string `json:"thumbprint,omitempty"`
}

// key is a version's key, ready for use.
type key struct {
	kid       string
	algorithm *algorithm
	bits      int
	private   crypto.Signer
	// public is the key's entry in the key set (RFC 7517).
	public jose.JSONWebKey
	// tokens signs under the default header.
	tokens *tokenSigner
	// rules are those of the role that used the key last.
	rules atomic.Pointer[rules]
}

// generate makes a new private key.
func generate(a *algorithm, bits int) (key crypto.Signer, err error) {
	switch {
	case a.rsa():
		key, err = rsa.GenerateKey(rand.Reader, bits)
	case a.curve != nil:
		key, err = ecdsa.GenerateKey(a.curve, rand.Reader)
	default:
		_, key, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		return nil, fmt.Errorf("generate a key for %s: %w", a.name, err)
	}
	return key, nil
}

// candidate describes a private key as a new version; kid is "" where the key's
// thumbprint is to be its name.
func candidate(a *algorithm, private crypto.Signer, kid string) (*rotator.Candidate, error) {
	thumbprint, err := thumbprintOf(private.Public())
	if err != nil {
		return nil, err
	}
	bits, ok := a.take(private.Public())
	if !ok {
		return nil, fmt.Errorf("%s is not a key for %s", describe(private.Public()), a.name)
	}
	o := object{Algorithm: string(a.name), KeyBits: bits}
	if kid == "" {
		kid = thumbprint
	} else if kid != thumbprint {
		o.Thumbprint = thumbprint
	}
	raw, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode the version's object: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("encode a key for %s: %w", a.name, err)
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: pemPrivate, Bytes: der}))
	return &rotator.Candidate{Identifier: kid, Object: raw, Material: secret.NewMap(map[string]string{privateKey: text})}, nil
}

// thumbprintOf is the RFC 7638 thumbprint of a public key, SHA-256 in base64url.
func thumbprintOf(public crypto.PublicKey) (string, error) {
	sum, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("thumbprint: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(sum), nil
}

// load reads the key of a version from its material.
func load(v *rotation.Version, material secret.Map) (*key, error) {
	if material[privateKey].Empty() {
		return nil, fault.New(fault.Target, "the private key of version %d is not kept any more", v.Number)
	}
	var o object
	if err := json.Unmarshal(v.Object, &o); err != nil {
		return nil, fault.New(fault.Internal, "what is stored of the key of version %d cannot be read", v.Number)
	}
	a := algorithmNamed(o.Algorithm)
	private, ok := decodePrivate(material[privateKey].Reveal())
	if a == nil || !ok {
		return nil, fault.New(fault.Target, "the private key of version %d cannot be read", v.Number)
	}
	bits, ok := a.take(private.Public())
	if !ok || bits != o.KeyBits {
		return nil, fault.New(fault.Target, "the private key of version %d is %s, and not one of %d bits for %s", v.Number, describe(private.Public()), o.KeyBits, a.name)
	}
	if err := o.checkIdentity(v, private.Public()); err != nil {
		return nil, err
	}
	return newKey(v.Identifier, a, bits, private)
}

// checkIdentity refuses a key that is not the one its version names: what another
// key signs would bear a kid under which verifiers know this one.
func (o *object) checkIdentity(v *rotation.Version, public crypto.PublicKey) error {
	want := v.Identifier
	if o.Thumbprint != "" {
		want = o.Thumbprint
	}
	thumbprint, err := thumbprintOf(public)
	if err != nil {
		return err
	}
	if thumbprint != want {
		return fault.New(fault.Target, "the private key of version %d is not the one with the kid %s", v.Number, v.Identifier)
	}
	return nil
}

func newKey(kid string, a *algorithm, bits int, private crypto.Signer) (*key, error) {
	k := &key{
		kid: kid, algorithm: a, bits: bits, private: private,
		public: jose.JSONWebKey{Key: private.Public(), KeyID: kid, Algorithm: string(a.name), Use: "sig"},
	}
	tokens, err := k.signerWith(map[string]string{"typ": "JWT"})
	if err != nil {
		return nil, err
	}
	k.tokens = tokens
	return k, nil
}

// decodePrivate reads what candidate wrote.
func decodePrivate(text string) (crypto.Signer, bool) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != pemPrivate || strings.TrimSpace(string(rest)) != "" {
		return nil, false
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, false
	}
	signer, ok := parsed.(crypto.Signer)
	return signer, ok
}

// encodePublic writes a public key as PKIX in PEM.
func encodePublic(public crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("encode the public key: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: der})), nil
}

// works proves that what the private half signs, the public half verifies.
func (k *key) works() bool {
	const probe = "does this key work?"
	jws, err := k.tokens.Sign([]byte(probe))
	if err != nil {
		return false
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		return false
	}
	payload, ok := k.open(token)
	return ok && string(payload) == probe
}

// open verifies a compact JWS, under the key's own algorithm alone, and gives its
// payload.
func (k *key) open(token string) ([]byte, bool) {
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{k.algorithm.name})
	if err != nil {
		return nil, false
	}
	payload, err := jws.Verify(k.public.Key)
	return payload, err == nil
}

// readyKey is what Load made of a version.
func readyKey(l *rotator.Live) (*key, error) {
	k, ok := l.Ready.(*key)
	if !ok || k == nil {
		return nil, fmt.Errorf("version %d was not loaded: %T", l.Version.Number, l.Ready)
	}
	return k, nil
}
