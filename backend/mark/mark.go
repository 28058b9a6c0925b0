// Package mark is what we write on an object outside (a comment on a database
// user, the name of an API key) so that it can be recognised as ours later, and
// so that nobody else can make us believe it is.
package mark

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Prefix begins every mark; a search for objects of ours looks for it.
const Prefix = "vault-rotation:1"

// Mark says which rotation of which role made an object.
type Mark struct {
	Instance   string // the mount's own id
	Role       string
	Version    int
	RotationID string
	// Fence orders the effects on an object that several versions share: an effect
	// whose fence is below the mark's comes from a process that was deposed. 0 where
	// each version has an object of its own.
	Fence int64
}

// Key authenticates marks; it lives in Vault's storage only.
type Key []byte

// Sign renders a mark for the object of this name. The name is covered by the
// HMAC-SHA256, so that a mark copied onto another object does not verify.
func (k Key) Sign(m Mark, object string) string {
	return m.text() + " mac=" + k.mac(m, object)
}

// Verify tells whether the mark that Parse found on the object is ours.
func (k Key) Verify(m Mark, mac, object string) bool {
	return hmac.Equal([]byte(mac), []byte(k.mac(m, object)))
}

func (m Mark) text() string {
	text := fmt.Sprintf("%s instance=%s role=%s version=%d rotation=%s", Prefix, m.Instance, m.Role, m.Version, m.RotationID)
	if m.Fence > 0 {
		text += fmt.Sprintf(" fence=%d", m.Fence)
	}
	return text
}

func (k Key) mac(m Mark, object string) string {
	h := hmac.New(sha256.New, k)
	h.Write([]byte(m.text() + "\x00" + object))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// MaxBytes bounds a mark, and maxField each of its values: whoever may write a
// comment must not be able to make us keep any amount of it.
const (
	MaxBytes = 512
	maxField = 128
)

// ErrNotAMark is returned by Parse for text of any other form.
var ErrNotAMark = errors.New("not a mark")

// Parse reads a mark and its MAC, which is not verified yet.
func Parse(text string) (m Mark, mac string, err error) {
	rest, found := strings.CutPrefix(text, Prefix+" ")
	if !found || len(text) > MaxBytes {
		return Mark{}, "", ErrNotAMark
	}
	fields := strings.Split(rest, " ")
	var version, fence string
	wanted := []struct {
		key string
		to  *string
	}{{"instance", &m.Instance}, {"role", &m.Role}, {"version", &version}, {"rotation", &m.RotationID}, {"fence", &fence}, {"mac", &mac}}
	if len(fields) == len(wanted)-1 { // most objects need no fence
		wanted = slices.Delete(wanted, 4, 5)
		fence = "0"
	}
	if len(fields) != len(wanted) {
		return Mark{}, "", ErrNotAMark
	}
	for i, dst := range wanted {
		value, ok := strings.CutPrefix(fields[i], dst.key+"=")
		if !ok || value == "" || len(value) > maxField {
			return Mark{}, "", ErrNotAMark
		}
		*dst.to = value
	}
	if m.Version, err = strconv.Atoi(version); err != nil || m.Version < 1 || strconv.Itoa(m.Version) != version {
		return Mark{}, "", ErrNotAMark
	}
	if m.Fence, err = strconv.ParseInt(fence, 10, 64); err != nil || m.Fence < 0 || strconv.FormatInt(m.Fence, 10) != fence || m.Fence == 0 && len(fields) == 6 {
		return Mark{}, "", ErrNotAMark
	}
	return m, mac, nil
}
