package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

const secretPrefix = "whsec_"

// How long a key must be, in bytes.
const (
	minKey = 24
	maxKey = 64
)

// keysOf reads the secrets of a channel, the one in force first.
func keysOf(c *notify.Channel) ([][]byte, error) {
	if c.Secrets[signingSecret].Empty() {
		return nil, fault.Field(signingSecret, "is required: %s and 24 to 64 bytes in base64", secretPrefix)
	}
	var keys [][]byte
	for _, name := range []string{signingSecret, previousSecret} {
		if c.Secrets[name].Empty() {
			continue
		}
		key, ok := keyOf(c.Secrets[name])
		if !ok {
			return nil, fault.Field(name, "must be %s and %d to %d bytes in base64", secretPrefix, minKey, maxKey)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func keyOf(s secret.String) ([]byte, bool) {
	encoded, prefixed := strings.CutPrefix(s.Reveal(), secretPrefix)
	key, err := base64.StdEncoding.Strict().DecodeString(encoded)
	return key, prefixed && err == nil && len(key) >= minKey && len(key) <= maxKey && !strings.ContainsAny(encoded, "\r\n")
}

// signatures signs what is delivered with each key.
func signatures(keys [][]byte, id, timestamp string, body []byte) string {
	list := make([]string, 0, len(keys))
	for _, key := range keys {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(id + "." + timestamp + "."))
		h.Write(body)
		list = append(list, "v1,"+base64.StdEncoding.EncodeToString(h.Sum(nil)))
	}
	return strings.Join(list, " ")
}
