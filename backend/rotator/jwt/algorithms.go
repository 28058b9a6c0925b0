package jwt

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"fmt"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// algorithm is a signature algorithm of RFC 7518 or RFC 8037, and the keys it takes.
type algorithm struct {
	name jose.SignatureAlgorithm
	// curve is that of ES256, ES384 and ES512; nil for the others.
	curve elliptic.Curve
	// sizes in bits: those a key may have, the default first.
	sizes []int
}

var rsaSizes = []int{4096, 2048, 3072}

var algorithms = []algorithm{
	{name: jose.RS256, sizes: rsaSizes},
	{name: jose.RS384, sizes: rsaSizes},
	{name: jose.RS512, sizes: rsaSizes},
	{name: jose.PS256, sizes: rsaSizes},
	{name: jose.PS384, sizes: rsaSizes},
	{name: jose.PS512, sizes: rsaSizes},
	{name: jose.ES256, curve: elliptic.P256(), sizes: []int{256}},
	{name: jose.ES384, curve: elliptic.P384(), sizes: []int{384}},
	{name: jose.ES512, curve: elliptic.P521(), sizes: []int{521}},
	{name: jose.EdDSA, sizes: []int{256}},
}

// algorithmNamed returns nil for one that is not known.
func algorithmNamed(name string) *algorithm {
	i := slices.IndexFunc(algorithms, func(a algorithm) bool { return string(a.name) == name })
	if i < 0 {
		return nil
	}
	return &algorithms[i]
}

func algorithmNames() string {
	names := make([]string, len(algorithms))
	for i, a := range algorithms {
		names[i] = string(a.name)
	}
	return strings.Join(names, ", ")
}

func (a *algorithm) rsa() bool { return len(a.sizes) > 1 }

// bits is the size of a new key, of the asked one if there is one.
func (a *algorithm) bits(asked int64) (int, error) {
	if asked == 0 {
		return a.sizes[0], nil
	}
	if !slices.Contains(a.sizes, int(asked)) {
		return 0, fault.Field("key_bits", "is not a size of keys for %s, which are %s", a.name, a.keys())
	}
	return int(asked), nil
}

// keys says what an algorithm takes.
func (a *algorithm) keys() string {
	switch {
	case a.rsa():
		return "RSA keys of 2048, 3072 or 4096 bits"
	case a.curve != nil:
		return fmt.Sprintf("EC keys of %d bits on the curve %s", a.sizes[0], a.curve.Params().Name)
	default:
		return "Ed25519 keys of 256 bits"
	}
}

// take gives the size of a public key of the algorithm; ok is false when it is one
// of another.
func (a *algorithm) take(public any) (bits int, ok bool) {
	switch k := public.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen(), a.rsa() && slices.Contains(a.sizes, k.N.BitLen())
	case *ecdsa.PublicKey:
		return k.Curve.Params().BitSize, a.curve == k.Curve
	case ed25519.PublicKey:
		return a.sizes[0], a.name == jose.EdDSA && len(k) == ed25519.PublicKeySize
	}
	return 0, false
}

// describe says what a public key is, for whoever brought the wrong one.
func describe(public any) string {
	switch k := public.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("an RSA key of %d bits", k.N.BitLen())
	case *ecdsa.PublicKey:
		return "an EC key on the curve " + k.Curve.Params().Name
	case ed25519.PublicKey:
		return "an Ed25519 key"
	}
	return "a key that signs nothing"
}
