package tests

import (
	"maps"
	"net/http"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
)

// Of a signing key and of an encryption key only what is public is copied, also where readers of creds/ get the key
// itself.
func TestMirrorOfKeysIsPublic(t *testing.T) {
	t.Parallel()
	w := newKeys(t, "mirrorkeys", sharedVault(t))
	kv := newPlace(w, w.vault, "team")
	w.write("connections/self", kv.connection(nil))
	for name, c := range map[string]struct {
		fields  map[string]any
		private string // the field of creds/ that must not be copied
		copied  []string
	}{
		"signing": {
			keyFields(map[string]any{"exportable": true}), "private_key",
			[]string{"algorithm", "kid", "public_jwk", "public_key", "rotation_id", "version"},
		},
		"encryption": {
			map[string]any{"type": "encryption-key", "exportable": true},
			"key",
			[]string{"key_type", "latest_version", "rotation_id", "version"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			role := w.role + "-" + name
			w.write("roles/"+role, with(c.fields, map[string]any{"mirror": kv.to("self", name)}))
			held := w.get("creds/" + role).fields()
			require.NotEmpty(t, held[c.private], "readers get it")
			found := kv.copied(name)
			require.Equal(t, 1, found.Version)
			assert.Equal(t, c.copied, slices.Sorted(maps.Keys(found.Fields)))
			assert.Equal(t, "1", found.Fields["version"])
			for _, value := range found.Fields {
				assert.NotContains(t, value, "PRIVATE")
				assert.NotContains(t, value, `"d"`)
			}
			w.write("rotate/"+role, map[string]any{"force": true})
			await.Until(t, "the next copy", func() (bool, any) {
				found = kv.copied(name)
				return found.Version == 2, found.Version
			})
			assert.Equal(t, c.copied, slices.Sorted(maps.Keys(found.Fields)))
			assert.Equal(t, "2", found.Fields["version"])

			a := w.call(t.Context(), http.MethodPut, "roles/"+role, map[string]any{"mirror_fields": map[string]any{"key": "{{." + c.private + "}}"}})
			assert.Equal(t, http.StatusBadRequest, a.Status)
			assert.Contains(t, a.sentence(), "mirror_fields: key: the template cannot be filled in: it may use one of ")
		})
	}
}
