package jwt

import (
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

func encoded(kind string, der []byte, err error) string {
	if err != nil {
		panic(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func pkcs8(k any) string {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	return encoded("PRIVATE KEY", der, err)
}

func TestImportsOfEveryForm(t *testing.T) {
	rsaKey := testKey(t, algorithmNamed("RS256"), 0).(*rsa.PrivateKey)
	ecKey := testKey(t, algorithmNamed("ES256"), 0).(*ecdsa.PrivateKey)
	sec1, err := x509.MarshalECPrivateKey(ecKey)
	parameters := "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
	for name, c := range map[string]struct{ algorithm, text, kid string }{
		"PKCS#8":              {"PS384", pkcs8(rsaKey), ""},
		"PKCS#1":              {"RS256", encoded("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(rsaKey), nil), ""},
		"SEC1":                {"ES256", encoded("EC PRIVATE KEY", sec1, err), ""},
		"OpenSSL's own":       {"ES256", parameters + encoded("EC PRIVATE KEY", sec1, err), ""},
		"lines of Windows":    {"ES256", strings.ReplaceAll(pkcs8(ecKey), "\n", "\r\n"), ""},
		"Ed25519":             {"EdDSA", pkcs8(testKey(t, algorithmNamed("EdDSA"), 0)), ""},
		"JWK":                 {"RS256", rfc7517RSA, "2011-04-29"},
		"JWK without a kid":   {"EdDSA", rfc8037Ed, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"},
		"JWK with a new name": {"EdDSA", strings.Replace(rfc8037Ed, `{`, `{"alg":"Ed25519","key_ops":["sign"],"kid":"a key, of old",`, 1), "a key, of old"},
	} {
		t.Run(name, func(t *testing.T) {
			r := &rotator.Role{
				Name: "app", Values: option.Values{"algorithm": c.algorithm},
				Secrets: secret.NewMap(map[string]string{"import_key": c.text}), Grace: 24 * 3600e9,
			}
			require.True(t, New().Imports(r))
			require.NoError(t, New().CheckRole(nil, r))
			target := &rotator.Target{Role: r}
			minted, err := New().Plan(context.Background(), target)
			require.NoError(t, err)
			target.Version.Identifier, target.Version.Object, target.Material = minted.Identifier, minted.Object, minted.Material
			require.NoError(t, New().Verify(context.Background(), target))
			k, err := load(&target.Version, target.Material)
			require.NoError(t, err)
			if c.kid == "" {
				c.kid, err = thumbprintOf(k.private.Public())
				require.NoError(t, err)
			}
			require.Equal(t, c.kid, minted.Identifier)
			require.Equal(t, c.kid, k.kid)
		})
	}
}

func TestImportsThatAreRefused(t *testing.T) {
	rsaKey := testKey(t, algorithmNamed("RS256"), 0).(*rsa.PrivateKey)
	ecKey := testKey(t, algorithmNamed("ES256"), 0).(*ecdsa.PrivateKey)
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	require.NoError(t, err)
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	require.NoError(t, err)
	public, err := x509.MarshalPKIXPublicKey(ecKey.Public())
	sealed := encoded("ENCRYPTED PRIVATE KEY", []byte("x"), nil)
	legacy := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}, Bytes: []byte("x")}))
	const unreadable = "import_key: is not a private key that can be read: give a private key as PEM (PKCS#8, PKCS#1 or SEC1) or as a JWK"
	const otherX = `"x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqvAD4"`
	for _, c := range []struct{ name, algorithm, text, want string }{
		{"nonsense", "RS256", "swordfish-swordfish", "import_key: is neither PEM nor a JWK: give a private key as PEM (PKCS#8, PKCS#1 or SEC1) or as a JWK"},
		{"huge", "RS256", strings.Repeat("x", 20000), "import_key: must be at most 16384 bytes"},
		{"cut off", "RS256", pkcs8(rsaKey)[:800], "import_key: is not valid PEM: give a private key as PEM (PKCS#8, PKCS#1 or SEC1) or as a JWK"},
		{"two keys", "RS256", pkcs8(rsaKey) + pkcs8(ecKey), "import_key: holds more than one thing: give the private key alone"},
		{"passphrase", "RS256", sealed, "import_key: is encrypted with a passphrase: decrypt it first (openssl pkey)"},
		{"old passphrase", "RS256", legacy, "import_key: is encrypted with a passphrase: decrypt it first (openssl pkey)"},
		{"public PEM", "ES256", encoded("PUBLIC KEY", public, err), "import_key: is a public key: it is the private one that signs"},
		{"certificate", "ES256", encoded("CERTIFICATE", public, err), "import_key: is a public key: it is the private one that signs"},
		{"OpenSSH", "EdDSA", encoded("OPENSSH PRIVATE KEY", []byte("x"), nil), unreadable},
		{"not DER", "EdDSA", encoded("PRIVATE KEY", []byte("x"), nil), unreadable},
		{"X25519", "EdDSA", pkcs8(x25519), "import_key: is a key for key agreement, which signs nothing"},
		{"EC for RSA", "RS256", pkcs8(ecKey), "import_key: is an EC key on the curve P-256; RS256 takes RSA keys of 2048, 3072 or 4096 bits"},
		{"RSA for EC", "ES256", pkcs8(rsaKey), "import_key: is an RSA key of 2048 bits; ES256 takes EC keys of 256 bits on the curve P-256"},
		{"another curve", "ES384", pkcs8(ecKey), "import_key: is an EC key on the curve P-256; ES384 takes EC keys of 384 bits on the curve P-384"},
		{"unknown curve", "ES256", pkcs8(p224), "import_key: is an EC key on the curve P-224; ES256 takes EC keys of 256 bits on the curve P-256"},
		{"Ed25519 for EC", "ES256", rfc8037Ed, "import_key: is an Ed25519 key; ES256 takes EC keys of 256 bits on the curve P-256"},
		{"symmetric", "RS256", `{"kty":"oct","k":"c3dvcmRmaXNo","kid":"1"}`, "import_key: is a symmetric key: who verifies with it could sign as well; RS256 takes RSA keys of 2048, 3072 or 4096 bits"},
		{"public JWK", "RS256", rfc7638, "import_key: is a public key: it is the private one that signs"},
		{"set", "ES256", `{"keys":[` + rfc7517EC + `]}`, "import_key: is a set of keys: give the one to import"},
		{"bad JSON", "ES256", rfc7517EC[:50], "import_key: is not valid JSON, or not that of a JWK"},
		{"incomplete JWK", "EdDSA", `{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}`, "import_key: is not a private key that can be read: as a JWK it needs all that RFC 7518 or RFC 8037 names for its kty"},
		{"other alg", "RS512", rfc7517RSA, "import_key: says that it is for another algorithm than RS512 (alg)"},
		{"for encryption", "ES256", strings.Replace(rfc7517EC, `"sig"`, `"enc"`, 1), "import_key: says that it is not for signing (use or key_ops)"},
		{"no signing", "ES256", strings.Replace(rfc7517EC, `"use":"sig"`, `"key_ops":["verify"]`, 1), "import_key: says that it is not for signing (use or key_ops)"},
		{"kid with a line", "ES256", strings.Replace(rfc7517EC, `"kid":"1"`, `"kid":"1\n2"`, 1), "import_key: has a kid that cannot be kept: it must have 1 to 256 printable ASCII characters"},
		{"empty kid", "ES256", strings.Replace(rfc7517EC, `"kid":"1"`, `"kid":""`, 1), "import_key: has a kid that cannot be kept: it must have 1 to 256 printable ASCII characters"},
		{"not on the curve", "ES256", strings.Replace(rfc7517EC, `"x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4"`, otherX, 1), "import_key: is not a private key that can be read: as a JWK it needs all that RFC 7518 or RFC 8037 names for its kty"},
		{"halves of two keys", "EdDSA", strings.Replace(rfc8037Ed, "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A", "TM0Imyj_ltqdtsNG7BFOD1uKMZ81q6Yk2oz27U-4pvs", 1), "import_key: is not a private key that can be read: as a JWK it needs all that RFC 7518 or RFC 8037 names for its kty"},
		{"halves of two keys on a curve", "ES256", strings.Replace(rfc7517EC, "870MB6gfuTJ4HtUn", "870MB6gfuTJ4HtUx", 1), "import_key: does not fit together: what its private half signs does not verify with its public half"},
		{"a factor that is none", "RS256", strings.Replace(rfc7517RSA, "GyM_p6JrXySiz1to", "GyM_p6JrXySiz1tp", 1), "import_key: is not a private key that can be read: as a JWK it needs all that RFC 7518 or RFC 8037 names for its kty"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &rotator.Role{
				Name: "app", Values: option.Values{"algorithm": c.algorithm},
				Secrets: secret.NewMap(map[string]string{"import_key": c.text}), Grace: 24 * 3600e9,
			}
			err := New().CheckRole(nil, r)
			require.EqualError(t, err, c.want)
			require.Equal(t, fault.Invalid, fault.KindOf(err))
			_, planned := New().Plan(context.Background(), &rotator.Target{Role: r})
			require.EqualError(t, planned, c.want)
		})
	}
}

func TestImportOfAnotherSize(t *testing.T) {
	text := pkcs8(testKey(t, algorithmNamed("RS256"), 0))
	_, err := parseImport(algorithmNamed("RS256"), 4096, text)
	require.EqualError(t, err, "key_bits: is 4096, but the key to import has 2048 bits: leave key_bits out to take it as it is")
	_, err = parseImport(algorithmNamed("RS256"), 2048, text)
	require.NoError(t, err)
}

func TestWeakRSAIsRefused(t *testing.T) {
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	_, err = parseImport(algorithmNamed("RS256"), 0, pkcs8(weak))
	require.EqualError(t, err, "import_key: is an RSA key of 1024 bits; RS256 takes RSA keys of 2048, 3072 or 4096 bits")
}

// TestMaterialOfAnotherVersion is what Verify is for: a kid under which another key
// signs.
func TestMaterialOfAnotherVersion(t *testing.T) {
	a := algorithmNamed("ES256")
	var targets []*rotator.Target
	for i := range 2 {
		minted, err := candidate(a, testKey(t, a, i), "")
		require.NoError(t, err)
		target := &rotator.Target{Role: &rotator.Role{}, Material: minted.Material}
		target.Version.Number, target.Version.Identifier, target.Version.Object = i+1, minted.Identifier, minted.Object
		targets = append(targets, target)
	}
	require.NoError(t, New().Verify(context.Background(), targets[0]))
	targets[0].Material = targets[1].Material
	err := New().Verify(context.Background(), targets[0])
	require.Equal(t, fault.AuthFailed, fault.KindOf(err))
	require.EqualError(t, err, "version 1 cannot sign: the private key of version 1 is not the one with the kid "+targets[0].Version.Identifier)

	targets[1].Version.Object, err = json.Marshal(object{Algorithm: "RS256", KeyBits: 2048})
	require.NoError(t, err)
	require.EqualError(t, New().Prepare(context.Background(), targets[1]), "the private key of version 2 is an EC key on the curve P-256, and not one of 2048 bits for RS256")
	targets[1].Material = nil
	require.Equal(t, "its private key is not kept any more", New().Restorable(targets[1]))
	require.EqualError(t, New().Prepare(context.Background(), targets[1]), "the private key of version 2 is not kept any more")
	targets[1].Material = secret.NewMap(map[string]string{"private_key": "nonsense"})
	require.EqualError(t, New().Prepare(context.Background(), targets[1]), "the private key of version 2 cannot be read")
}

// go-jose tells names apart by case, encoding/json does not: what is checked is what
// counts.
func TestImportChecksWhatCounts(t *testing.T) {
	for text, want := range map[string]string{
		`"kid":"bad\n[INFO] forged","KID":"ok",`: "has a kid that cannot be kept",
		`"use":"enc","USE":"sig",`:               "says that it is not for signing",
		`"alg":"ES512","ALG":"EdDSA",`:           "says that it is for another algorithm than EdDSA",
	} {
		err := checkImport(algorithmNamed("EdDSA"), 0, secret.New(strings.Replace(rfc8037Ed, `{`, "{"+text, 1)))
		require.ErrorContains(t, err, want, text)
	}
}
