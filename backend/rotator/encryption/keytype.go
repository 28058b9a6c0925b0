package encryption

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/helper/keysutil"
	"golang.org/x/crypto/chacha20poly1305"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// keyType is a cipher, by transit's name. All are authenticated (AEAD), with a nonce of
// 96 bits and a tag of 128.
type keyType struct {
	name     string
	keysutil keysutil.KeyType
	bytes    int // of a key
}

const nonceBytes, tagBytes = 12, 16

// The default stands first. AES-128 is here for keys that come from transit.
var keyTypes = []keyType{
	{"aes256-gcm96", keysutil.KeyType_AES256_GCM96, 32},
	{"chacha20-poly1305", keysutil.KeyType_ChaCha20_Poly1305, 32},
	{"aes128-gcm96", keysutil.KeyType_AES128_GCM96, 16},
}

// keyTypeNamed returns nil for one that is not known.
func keyTypeNamed(name string) *keyType {
	i := slices.IndexFunc(keyTypes, func(t keyType) bool { return t.name == name })
	if i < 0 {
		return nil
	}
	return &keyTypes[i]
}

func keyTypeNames() string {
	names := make([]string, len(keyTypes))
	for i, t := range keyTypes {
		names[i] = t.name
	}
	return strings.Join(names, ", ")
}

// generate makes a new key.
func (t *keyType) generate() ([]byte, error) {
	key := make([]byte, t.bytes)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("generate a key for %s: %w", t.name, err)
	}
	return key, nil
}

// cipher readies a key. The ciphers of the standard library hold no state between two
// uses, so that any number of goroutines may use one.
func (t *keyType) cipher(raw []byte) (*readyCipher, error) {
	aead, err := t.aead(raw)
	if err != nil { // a key of another size
		return nil, fault.New(fault.Internal, "the key is not one for %s: %w", t.name, err)
	}
	return &readyCipher{aead}, nil
}

func (t *keyType) aead(raw []byte) (cipher.AEAD, error) {
	if t.keysutil == keysutil.KeyType_ChaCha20_Poly1305 {
		return chacha20poly1305.New(raw)
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}
