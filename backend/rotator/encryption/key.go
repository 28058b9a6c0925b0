package encryption

import (
	"bytes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/hashicorp/go-uuid"
	"github.com/hashicorp/vault/sdk/helper/keysutil"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// keyMaterial names the one secret of a version: the raw key in base64.
const keyMaterial = "key"

// object is what a version remembers of its key. It goes on working by that,
// whatever the role says later.
type object struct {
	KeyType string `json:"key_type"`
	Derived bool   `json:"derived,omitempty"`
}

// key is a version's key, ready for use by any number of goroutines.
type key struct {
	version int
	keyType *keyType
	derived bool
	prefix  string // of what it encrypts
	// policy is transit's own, of this key alone: it derives keys. It never meets a storage,
	// and is only read: what is called of it here takes no lock and needs none.
	policy *keysutil.Policy
	// cipher is made once where nothing is derived; nil elsewhere.
	cipher *readyCipher
}

// codec makes and takes apart what transit does, around a cipher that it is given: by a
// type of its own policies it would make one of the key each time, which takes longer
// than to encrypt a short text.
var codec = keysutil.NewPolicy(keysutil.PolicyConfig{Type: keysutil.KeyType_MANAGED_KEY})

// readyCipher hands a cipher to the codec.
type readyCipher struct{ cipher.AEAD }

// GetAEAD implements keysutil.AEADFactory.
func (c *readyCipher) GetAEAD([]byte) (cipher.AEAD, error) { return c.AEAD, nil }

// candidate describes a raw key as a new version. Its identifier is drawn by lot: one
// that followed from the key would let anybody try guesses on an imported, weak one.
func candidate(kt *keyType, derived bool, raw []byte) (*rotator.Candidate, error) {
	id, err := uuid.GenerateUUID()
	if err != nil {
		return nil, fmt.Errorf("make an identifier: %w", err)
	}
	about, err := json.Marshal(object{KeyType: kt.name, Derived: derived})
	if err != nil {
		return nil, fmt.Errorf("encode the version's object: %w", err)
	}
	return &rotator.Candidate{
		Identifier: id, Object: about,
		Material: secret.NewMap(map[string]string{keyMaterial: base64.StdEncoding.EncodeToString(raw)}),
	}, nil
}

// load reads the key of a version from its material.
func load(v *rotation.Version, material secret.Map) (*key, error) {
	if material[keyMaterial].Empty() {
		return nil, fault.New(fault.Target, "the key of version %d is not kept any more", v.Number)
	}
	var o object
	if err := json.Unmarshal(v.Object, &o); err != nil {
		return nil, fault.New(fault.Internal, "what is stored of the key of version %d cannot be read", v.Number)
	}
	kt := keyTypeNamed(o.KeyType)
	raw, err := base64.StdEncoding.DecodeString(material[keyMaterial].Reveal())
	if err != nil || kt == nil || len(raw) != kt.bytes {
		return nil, fault.New(fault.Target, "the key of version %d cannot be read", v.Number)
	}
	return newKey(v.Number, kt, o.Derived, raw)
}

func newKey(version int, kt *keyType, derived bool, raw []byte) (*key, error) {
	policy := keysutil.NewPolicy(keysutil.PolicyConfig{Type: kt.keysutil, Derived: derived, KDF: keysutil.Kdf_hkdf_sha256})
	policy.Keys = map[string]keysutil.KeyEntry{strconv.Itoa(version): {Key: raw}}
	policy.LatestVersion = version
	k := &key{version: version, keyType: kt, derived: derived, prefix: prefixOf(version), policy: policy}
	if derived {
		return k, nil
	}
	var err error
	k.cipher, err = kt.cipher(raw)
	return k, err
}

// under gives the cipher that a context stands for: that of the version's own key, or,
// where keys are derived, of one that HKDF makes of it and the context. Without derivation
// a context has no effect, as in transit.
func (k *key) under(context []byte) (*readyCipher, error) {
	if !k.derived {
		return k.cipher, nil
	}
	if len(context) == 0 {
		return nil, fault.Field("context", "is required: the keys of this role are derived from it (derived=true)")
	}
	raw, err := k.policy.DeriveKey(context, nil, k.version, k.keyType.bytes)
	if err != nil {
		return nil, fault.New(fault.Internal, "no key can be derived of version %d: %w", k.version, err)
	}
	return k.keyType.cipher(raw)
}

// seal encrypts into a ciphertext of transit's form.
func (k *key) seal(plaintext, context, associatedData []byte) ([]byte, error) {
	c, err := k.under(context)
	if err != nil {
		return nil, err
	}
	sealed, err := codec.SymmetricEncryptRaw(k.version, nil, plaintext, keysutil.SymmetricOpts{AdditionalData: associatedData, AEADFactory: c})
	if err != nil {
		return nil, fault.New(fault.Internal, "version %d cannot encrypt: %w", k.version, err)
	}
	return compose(k.prefix, sealed), nil
}

// open decrypts what seal made, without its form. What the cipher says is left out: it
// knows no more than that something is not what it was.
func (k *key) open(sealed, context, associatedData []byte) ([]byte, error) {
	c, err := k.under(context)
	if err != nil {
		return nil, err
	}
	plaintext, err := codec.SymmetricDecryptRaw(nil, sealed, keysutil.SymmetricOpts{AdditionalData: associatedData, AEADFactory: c})
	if err != nil {
		return nil, fault.Field(ciphertextField, "cannot be decrypted: it was made by another key, with other associated_data or another context, or was changed")
	}
	return plaintext, nil
}

// works proves that what the key encrypts it decrypts, and not under other associated data.
func (k *key) works() bool {
	plaintext, context, associated := []byte("does this key work?"), []byte("context"), []byte("associated data")
	sealed, err := k.seal(plaintext, context, associated)
	if err != nil {
		return false
	}
	version, payload, err := parse(sealed)
	if err != nil || version != k.version {
		return false
	}
	back, err := k.open(payload, context, associated)
	if err != nil || !bytes.Equal(back, plaintext) {
		return false
	}
	_, err = k.open(payload, context, nil)
	return err != nil
}

// readyKey is a loaded version's key.
func readyKey(l *rotator.Live) (*key, error) {
	k, ok := l.Ready.(*key)
	if !ok || k == nil {
		return nil, fmt.Errorf("version %d was not loaded: %T", l.Version.Number, l.Ready)
	}
	return k, nil
}
