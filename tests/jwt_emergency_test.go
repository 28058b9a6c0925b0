package tests

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An emergency waits for no key, however long one takes to make: the one that was announced takes over,
// which verifiers know already.
func TestJWTEmergencyTakesTheAnnouncedKey(t *testing.T) {
	t.Parallel()
	w := newKeys(t, "leaked", sharedVault(t))
	for _, killFirst := range []bool{false, true} {
		t.Run(fmt.Sprintf("kill_first=%t", killFirst), func(t *testing.T) {
			w.t, w.role = t, fmt.Sprintf("%s-%t", w.path, killFirst)
			w.write("roles/"+w.role, keyFields(map[string]any{"algorithm": "RS256", "key_bits": 4096}))
			next := w.announced(w.role)
			leaked := w.signFor(w.role, "user-1")
			require.Equal(t, []string{leaked.Kid, next.Identifier}, w.kids(w.role))

			began := time.Now()
			e := w.emergency(map[string]any{"reason": "key in a repository", "kill_first": killFirst})
			took := time.Since(began)
			assert.Equal(t, "contained", e.Status, e.NextSteps)
			assert.Equal(t, next.Version, e.Version, "no new key was needed")
			require.NotContains(t, w.kids(w.role), leaked.Kid)
			fresh := w.signFor(w.role, "user-1")
			t.Logf("contained after %s, and a token of the next key after %s", took.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
			assert.Equal(t, next.Identifier, fresh.Kid)
			assert.Equal(t, next.Version, fresh.Version)
			assert.True(t, w.verify(w.role, fresh.Token).Active)
			refused := w.verify(w.role, leaked.Token)
			assert.False(t, refused.Active)
			assert.Contains(t, refused.Reason, "compromised")
			assert.Equal(t, next.Version+1, w.announced(w.role).Version, "there is a next one for the next emergency")
		})
	}
}

// After a leak it can be had twice: what leaked stays revoked when the role rotates on.
func TestJWTLeakedKeyStaysRevoked(t *testing.T) {
	t.Parallel()
	w := newKeys(t, "revoked", sharedVault(t))
	w.write("roles/"+w.role, keyFields(nil))
	var leaked []signedToken
	for range 2 {
		leaked = append(leaked, w.signFor(w.role, "user-1"))
		w.announced(w.role)
		w.emergency(map[string]any{"reason": "again"})
	}
	w.announced(w.role)
	w.rotation("rotate/"+w.role, map[string]any{"force": true})
	kids := w.kids(w.role)
	var revoked []string
	for _, l := range leaked {
		revoked = append(revoked, l.Kid)
		assert.NotContains(t, kids, l.Kid)
		v := w.verify(w.role, l.Token)
		assert.False(t, v.Active)
		assert.Contains(t, v.Reason, "compromised")
		a := w.call(t.Context(), http.MethodPut, "rollback/"+w.role, map[string]any{"version": l.Version, "force": true})
		assert.Equal(t, http.StatusConflict, a.Status, a.sentence())
	}
	assert.Equal(t, revoked, w.keyStatus(w.role).Revoked)
}
