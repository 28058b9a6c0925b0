package tests

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// Vault's storage goes back to what it was two rotations ago. Of two roles, one has versions that
// still live, the other's current version has ended meanwhile. Both find out by themselves, touch
// nothing, and are mended by reconcile.
func TestStorageRestored(t *testing.T) {
	t.Parallel()
	vault := vaulttest.New(t, vaulttest.Options{}) // its own: it goes back in time
	w := newWorld(t, "restored", vault, pgtest.Shared(t))
	long, short := w.role+"-long", w.role+"-short"
	w.write("roles/"+long, w.roleFields(map[string]any{"grace_period": "1h"}))
	w.write("roles/"+short, w.roleFields(nil))
	w.awaitRotation(long)
	snapshot, err := vault.SnapshotStorage(t.Context())
	require.NoError(t, err)
	before := w.current(long)
	for range 2 {
		w.awaitRotation(long)
		w.awaitRotation(short)
	}
	last := w.current(long)
	lastShort := w.current(short)
	w.awaitState(short, await.Patience, "ok")
	require.Equal(t, []string{lastShort.Username}, w.users(short))
	users := w.snapshot()

	require.NoError(t, vault.RestoreStorage(t.Context(), snapshot))
	for _, role := range []string{long, short} {
		w.awaitState(role, await.Patience, "diverged")
		w.assertDiverged(role)
	}
	assert.Equal(t, before, withTTL(w.current(long), before.TTL), "readers still get what the storage knows")
	require.NoError(t, w.login(t.Context(), before.URL), "and it still works")
	assert.Equal(t, users, w.snapshot(), "nothing may be touched before a person has decided")

	w.reconcile(long, last)
	w.reconcile(short, lastShort)
	assert.Subset(t, strings.Split(w.snapshot(), "\n"), strings.Split(users, "\n"), "what the other state made stays as it is")
	for _, c := range []credential{before, last, lastShort} {
		require.NoError(t, w.login(t.Context(), c.URL), "%s", c.Username)
	}
	next := w.awaitRotation(long)
	assert.Equal(t, last.Version+2, next, "and the role rotates as before")
}

// A second mount keeps a role of the same name at the same database. Neither touches the other's
// users; whichever is asked to act says what is wrong.
func TestSecondMount(t *testing.T) {
	t.Parallel()
	vault := sharedVault(t)
	first := newWorld(t, "twice", vault, pgtest.Shared(t))
	second := *first
	second.path = first.path + "-again"
	require.NoError(t, vault.Mount(t.Context(), second.path))
	second.write("connections/main", second.connection(nil))

	fields := first.roleFields(map[string]any{"grace_period": "1h"})
	first.write("roles/"+first.role, fields)
	second.write("roles/"+first.role, fields)
	users := first.snapshot()
	mine, other := first.current(first.role), second.current(first.role)
	require.NotEqual(t, mine.Username, other.Username)
	for _, w := range []*world{first, &second} {
		a := w.call(t.Context(), http.MethodPut, "rotate/"+w.role, nil)
		assert.Equal(t, http.StatusConflict, a.Status, a.sentence())
		w.awaitState(w.role, await.Patience, "diverged")
		w.assertDiverged(w.role)
	}
	assert.Equal(t, users, first.snapshot(), "neither mount may touch anything")

	first.reconcile(first.role, mine)
	assert.Subset(t, strings.Split(first.snapshot(), "\n"), strings.Split(users, "\n"), "what was there stays as it is")
	for _, c := range []credential{mine, other, first.current(first.role), second.current(first.role)} {
		require.NoError(t, first.login(t.Context(), c.URL), "%s", c.Username)
	}
	assert.Equal(t, "diverged", second.status(first.role).State, "the other mount was not asked")
}

func (w *world) assertDiverged(role string) {
	w.t.Helper()
	assert.NotEmpty(w.t, w.status(role).Reason)
	read := w.get("creds/" + role)
	require.NotEmpty(w.t, read.Warnings, "readers must be told")
	assert.Contains(w.t, strings.Join(read.Warnings, "\n"), "diverged")
	for _, path := range []string{"rotate/", "rollback/"} {
		a := w.call(w.t.Context(), http.MethodPut, path+role, nil)
		assert.Equal(w.t, http.StatusConflict, a.Status, a.sentence())
		assert.Contains(w.t, a.sentence(), "reconcile/"+role)
	}
}

// reconcile mends a role. seen is a credential that the world outside knew: the new one is above it.
func (w *world) reconcile(role string, seen credential) {
	w.t.Helper()
	r := w.rotation("reconcile/"+role, map[string]any{"action": "remint"})
	assert.Equal(w.t, "succeeded", r.Outcome)
	assert.Equal(w.t, seen.Version+1, r.Version, "numbered above everything that was seen")
	w.awaitState(role, await.Patience, "ok", "grace")
	c := w.current(role)
	assert.Equal(w.t, r.Version, c.Version)
	require.NoError(w.t, w.login(w.t.Context(), c.URL))
	assert.Empty(w.t, w.get("creds/"+role).Warnings)
	assert.True(w.t, slices.Contains(w.users(role), seen.Username), "what was seen outside is left alone")
	again := w.call(w.t.Context(), http.MethodPut, "reconcile/"+role, nil)
	assert.Equal(w.t, http.StatusConflict, again.Status, "there is nothing left to reconcile: %s", again.sentence())
}

func withTTL(c credential, ttl int) credential {
	c.TTL = ttl
	return c
}
