package jwt

import (
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// rules are a role's options, ready for many requests.
type rules struct {
	*roleOptions
	role    *rotator.Role
	claims  map[string]bool // that callers may set
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
	r := &rules{roleOptions: o, role: live.Role, claims: setOf(o.AllowedClaims), headers: setOf(o.AllowedHeaders)}
	if k != nil {
		k.rules.Store(r)
	}
	return r, nil
}

func setOf(names []string) map[string]bool {
	out := make(map[string]bool, len(names))
	for _, name := range names {
		out[name] = true
	}
	return out
}
