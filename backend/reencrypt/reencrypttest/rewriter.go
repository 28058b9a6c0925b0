package reencrypttest

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
)

// Seal makes a value in transit's form that hides nothing, and tells whether it is read with
// the context and associated data that it was made with.
func Seal(version int, plaintext, context, associatedData []byte) []byte {
	sum := binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(fmt.Appendf(nil, "%q%q%q%d", plaintext, context, associatedData, version)))
	return fmt.Appendf(nil, "vault:v%d:%s", version, base64.StdEncoding.EncodeToString(append(sum, plaintext...)))
}

// ErrUnreadable tells that a value is not what Seal made with the same context and data.
var ErrUnreadable = errors.New("it does not decrypt")

// Unseal reads what Seal made.
func Unseal(value, context, associatedData []byte) (plaintext []byte, version int, err error) {
	version, ok := VersionOf(value)
	if !ok {
		return nil, 0, ErrUnreadable
	}
	raw, err := base64.StdEncoding.DecodeString(string(value[len(fmt.Sprintf("vault:v%d:", version)):]))
	if err != nil || len(raw) < 4 || !slices.Equal(Seal(version, raw[4:], context, associatedData), value) {
		return nil, version, ErrUnreadable
	}
	return raw[4:], version, nil
}

// Rewriter rewrites what Seal made for the version that it is.
type Rewriter int

var _ reencrypt.Rewriter = Rewriter(0)

// Version implements reencrypt.Rewriter.
func (r Rewriter) Version() int { return int(r) }

// Done implements reencrypt.Rewriter.
func (r Rewriter) Done() string { return fmt.Sprintf("vault:v%d:", int(r)) }

// Rewrite implements reencrypt.Rewriter.
func (r Rewriter) Rewrite(value, context, associatedData []byte) ([]byte, error) {
	plaintext, _, err := Unseal(value, context, associatedData)
	if err != nil {
		return nil, err
	}
	return Seal(int(r), plaintext, context, associatedData), nil
}
