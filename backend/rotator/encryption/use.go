package encryption

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// each does something for every item. Now and then it looks whether anybody still waits.
func each(ctx context.Context, n int, do func(i int)) error {
	const between = 256
	for i := range n {
		if i%between == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		do(i)
	}
	return nil
}

func encrypt(ctx context.Context, live *rotator.LiveVersions, items []EncryptItem) ([]Encrypted, error) {
	k, err := encrypting(live)
	if err != nil {
		return nil, err
	}
	out := make([]Encrypted, len(items))
	err = each(ctx, len(items), func(i int) { out[i] = k.encrypt(&items[i]) })
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (k *key) encrypt(item *EncryptItem) Encrypted {
	if err := k.asked(item.KeyVersion); err != nil {
		return Encrypted{Err: err}
	}
	plaintext, err := decode("plaintext", item.Plaintext)
	if err != nil {
		return Encrypted{Err: err}
	}
	beside, err := decodeBeside(item.Context, item.AssociatedData)
	if err != nil {
		return Encrypted{Err: err}
	}
	return k.encrypted(plaintext, beside)
}

func (k *key) encrypted(plaintext []byte, beside beside) Encrypted {
	ciphertext, err := k.seal(plaintext, beside.context, beside.associatedData)
	if err != nil {
		return Encrypted{Err: err}
	}
	return Encrypted{Ciphertext: string(ciphertext), KeyVersion: k.version}
}

func decrypt(ctx context.Context, live *rotator.LiveVersions, items []DecryptItem) ([]Decrypted, error) {
	vs := &versions{live: live}
	out := make([]Decrypted, len(items))
	err := each(ctx, len(items), func(i int) {
		plaintext, _, err := vs.decrypt(&items[i])
		if out[i].Err = err; err == nil {
			out[i].Plaintext = base64.StdEncoding.EncodeToString(plaintext)
		}
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (vs *versions) decrypt(item *DecryptItem) (plaintext []byte, beside beside, err error) {
	if item.Ciphertext == "" {
		return nil, beside, fault.Field(ciphertextField, "is required")
	}
	if beside, err = decodeBeside(item.Context, item.AssociatedData); err != nil {
		return nil, beside, err
	}
	plaintext, err = vs.open([]byte(item.Ciphertext), beside.context, beside.associatedData)
	return plaintext, beside, err
}

func rewrap(ctx context.Context, live *rotator.LiveVersions, items []RewrapItem) ([]Encrypted, error) {
	k, err := encrypting(live)
	if err != nil {
		return nil, err
	}
	vs := &versions{live: live}
	out := make([]Encrypted, len(items))
	err = each(ctx, len(items), func(i int) { out[i] = vs.rewrap(k, &items[i]) })
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (vs *versions) rewrap(k *key, item *RewrapItem) Encrypted {
	if err := k.asked(item.KeyVersion); err != nil {
		return Encrypted{Err: err}
	}
	plaintext, beside, err := vs.decrypt(&item.DecryptItem)
	if err != nil {
		return Encrypted{Err: err}
	}
	return k.encrypted(plaintext, beside)
}

func dataKey(live *rotator.LiveVersions, request DataKeyRequest) (*DataKey, error) {
	k, err := encrypting(live)
	if err != nil {
		return nil, err
	}
	if err := k.asked(request.KeyVersion); err != nil {
		return nil, err
	}
	beside, err := decodeBeside(request.Context, request.AssociatedData)
	if err != nil {
		return nil, err
	}
	switch request.Bits {
	case 128, 256, 512:
	default:
		return nil, fault.Field("bits", "must be 128, 256 or 512")
	}
	plaintext := make([]byte, request.Bits/8)
	if _, err := rand.Read(plaintext); err != nil {
		return nil, fmt.Errorf("make a data key: %w", err)
	}
	made := k.encrypted(plaintext, beside)
	if made.Err != nil {
		return nil, made.Err
	}
	out := &DataKey{Ciphertext: made.Ciphertext, KeyVersion: made.KeyVersion}
	if !request.WrappedOnly {
		out.Plaintext = base64.StdEncoding.EncodeToString(plaintext)
	}
	return out, nil
}

// beside is what a ciphertext is made with beside the key.
type beside struct{ context, associatedData []byte }

func decodeBeside(context, associatedData string) (out beside, err error) {
	if out.context, err = decode("context", context); err != nil {
		return out, err
	}
	out.associatedData, err = decode("associated_data", associatedData)
	return out, err
}

// decode reads base64. What is wrong with it is not said: it may be a secret that was
// not encoded.
func decode(field, text string) ([]byte, error) {
	if text == "" {
		return nil, nil
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fault.Field(field, "must be base64")
	}
	return raw, nil
}
