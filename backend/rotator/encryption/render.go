package encryption

import (
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// Render implements rotator.Rotator. Readers learn which versions there are, by the
// names that transit gives them. The key itself is in it where the role is exportable,
// also that of an earlier version: whoever takes the keys elsewhere needs them all.
func (*Rotator) Render(t *rotator.Target) (map[string]any, error) {
	o, err := decodeRole(t.Role)
	if err != nil {
		return nil, err
	}
	about, err := aboutKey(&t.Version, t.Material)
	if err != nil {
		return nil, err
	}
	latest, least := t.Version.Number, t.Version.Number
	for i := range t.Others {
		v := &t.Others[i]
		if v.State == rotation.Current {
			latest = v.Number
		}
		if v.State != rotation.Standby && decrypts(v) {
			least = min(least, v.Number)
		}
	}
	out := map[string]any{"key_type": about.KeyType, "derived": about.Derived, "latest_version": latest, "min_decryption_version": least}
	if o.Exportable {
		out[keyMaterial] = t.Material[keyMaterial].Reveal()
	}
	return out, nil
}

// Discloses implements rotator.Discloser: without exportable no key leaves Vault.
func (*Rotator) Discloses(r *rotator.Role) bool {
	o, err := decodeRole(r)
	return err != nil || o.Exportable
}

// aboutKey is what is told of the key of a version, which must be there to be used.
func aboutKey(v *rotation.Version, material secret.Map) (object, error) {
	if remote := transitVersionOf(v); remote != nil {
		return remote.object, nil
	}
	k, err := load(v, material)
	if err != nil {
		return object{}, err
	}
	return object{KeyType: k.keyType.name, Derived: k.derived}, nil
}
