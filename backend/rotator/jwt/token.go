package jwt

import (
	"encoding/base64"
	"encoding/json"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

const (
	tokenField    = "token"
	maxTokenBytes = 16 << 10
)

// strict refuses encodings that differ in bits which mean nothing: a token has one
// form only.
var strict = base64.RawURLEncoding.Strict()

// token is a compact JWS (RFC 7515, section 7.1) that was taken apart, and believed
// in nothing.
type token struct {
	text   string
	header map[string]json.RawMessage
}

// parseToken refuses what is no compact JWS at all.
func parseToken(text string) (*token, error) {
	if len(text) > maxTokenBytes {
		return nil, fault.Field(tokenField, "is %d bytes: a token has at most %d", len(text), maxTokenBytes)
	}
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return nil, malformed("three parts with a dot between them")
	}
	var decoded [3][]byte
	for i, part := range parts {
		var err error
		if decoded[i], err = strict.DecodeString(part); err != nil || strings.ContainsAny(part, "\r\n") {
			return nil, malformed("base64url without padding in each part")
		}
	}
	t := &token{text: text}
	if err := json.Unmarshal(decoded[0], &t.header); err != nil || t.header == nil {
		return nil, malformed("a JSON object as its header")
	}
	return t, nil
}

func malformed(wanted string) error {
	return fault.Field(tokenField, "is not a compact JWS (RFC 7515), which has %s", wanted)
}

// param gives a header parameter that is a text, "" for none or another.
func (t *token) param(name string) (value string) {
	if json.Unmarshal(t.header[name], &value) != nil {
		return ""
	}
	return value
}

// has tells which of some header parameters the token has.
func (t *token) has(names ...string) string {
	for _, name := range names {
		if _, ok := t.header[name]; ok {
			return name
		}
	}
	return ""
}
