package mark

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
)

// Where an object outside has nothing but a name to bear a mark, and the name has to be
// short, the mark is the name: vault:<role>:v<version>:<instance>:<rotation id>:<mac>,
// with the first bytes of the instance's id and of the HMAC.
const (
	namePrefix    = "vault:"
	shortInstance = 8
	shortMAC      = 11 // base64: 66 bits
	maxNameBytes  = 256
)

// NamePrefix begins the names of all objects of a role.
func NamePrefix(role string) string { return namePrefix + role + ":" }

// Name renders a mark as a name.
func (k Key) Name(m Mark) string {
	return NamePrefix(m.Role) + fmt.Sprintf("v%d:%s:%s:%s", m.Version, m.ShortInstance(), m.RotationID, k.nameMAC(m))
}

// VerifyName tells whether the mark that ParseName found was made with this key.
func (k Key) VerifyName(m Mark, mac string) bool {
	return hmac.Equal([]byte(mac), []byte(k.nameMAC(m)))
}

// nameMAC covers what the name says, and is none of a mark that Sign renders.
func (k Key) nameMAC(m Mark) string {
	h := hmac.New(sha256.New, k)
	h.Write(fmt.Appendf(nil, "name\x00%s\x00%s\x00%d\x00%s", m.ShortInstance(), m.Role, m.Version, m.RotationID))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))[:shortMAC]
}

// ShortInstance is the part of the instance's id that stands in a name.
func (m Mark) ShortInstance() string { return m.Instance[:min(len(m.Instance), shortInstance)] }

// ParseName reads a mark, whose Instance is the short one, and its MAC, which is not
// verified yet.
func ParseName(text string) (m Mark, mac string, err error) {
	rest, found := strings.CutPrefix(text, namePrefix)
	fields := strings.Split(rest, ":")
	if !found || len(text) > maxNameBytes || len(fields) != 5 {
		return Mark{}, "", ErrNotAMark
	}
	for _, value := range fields {
		if value == "" || len(value) > maxField {
			return Mark{}, "", ErrNotAMark
		}
	}
	version, isVersion := strings.CutPrefix(fields[1], "v")
	m = Mark{Role: fields[0], Instance: fields[2], RotationID: fields[3]}
	if m.Version, err = strconv.Atoi(version); err != nil || !isVersion || m.Version < 1 || strconv.Itoa(m.Version) != version {
		return Mark{}, "", ErrNotAMark
	}
	return m, fields[4], nil
}
