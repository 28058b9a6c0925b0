package jwt

import (
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// rules are a role's options, ready for many requests.
type rules struct {
	*roleOptions
	role *rotator.Role
	// claims and headers are those that callers may set; claims with how JSON writes
	// their names.
	claims  map[string]string
	headers map[string]bool
}

// rulesOf reads the role's options, or takes those that were read before: decoding
// takes as long as an elliptic curve's signature. They are kept with the key, and so
// no longer than the role's snapshot is.
func rulesOf(live *rotator.LiveVersions) (*rules, error) {
	var k *key
	if live.Current != nil {
		k, _ = live.Current.Ready.(*key)
	}
	if k != nil {
		if known := k.rules.Load(); known != nil && known.role == live.Role {
			return known, nil
		}
	}
	o, err := decodeRole(live.Role)
	if err != nil {
		return nil, err
	}
	r := &rules{roleOptions: o, role: live.Role, claims: map[string]string{}, headers: map[string]bool{}}
	for _, name := range o.AllowedClaims {
		r.claims[name] = asMember(name)
	}
	for _, name := range o.AllowedHeaders {
		r.headers[name] = true
	}
	if k != nil {
		k.rules.Store(r)
	}
	return r, nil
}
