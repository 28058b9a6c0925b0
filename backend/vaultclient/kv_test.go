package vaultclient_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/vaultclient"
)

func openKV(t *testing.T, c *vaultclient.Client, path string) *vaultclient.KV {
	t.Helper()
	var kv *vaultclient.KV
	require.Eventually(t, func() (ready bool) {
		var err error
		kv, err = c.KV(t.Context(), path)
		require.NoError(t, err)
		_, err = kv.Read(t.Context())
		if err != nil { // a mount that was just made upgrades itself for a moment
			require.Equal(t, fault.Unreachable, fault.KindOf(err), err.Error())
		}
		return err == nil
	}, 20*time.Second, 20*time.Millisecond)
	return kv
}

// The life of a secret, as a mirror sees it.
func TestLifeOfASecret(t *testing.T) {
	s := sharedVault(t)
	mount(t, s, "team/kv", "kv", map[string]any{"version": "2"})
	kv := openKV(t, open(t, rootOf(s)), "team/kv/app/database")
	require.Equal(t, "team/kv/app/database", kv.Path(), "the mount's own name has a slash")

	read := func() *vaultclient.Secret {
		t.Helper()
		got, err := kv.Read(t.Context())
		require.NoError(t, err)
		return got
	}
	require.Equal(t, &vaultclient.Secret{}, read(), "there never was one")

	fields := secret.NewMap(map[string]string{"username": "u", "password": `p"<é>`})
	version, err := kv.Write(t.Context(), fields, 0)
	require.NoError(t, err)
	require.Equal(t, 1, version)
	got := read()
	require.Equal(t, 1, got.Version)
	require.True(t, fields.Equal(got.Fields))

	_, err = kv.Write(t.Context(), fields, 0)
	requireFault(t, err, fault.Conflict, "write team/kv/app/database: its latest version is not 0 any more: somebody else wrote it")

	write(t, s, "team/kv/data/app/database", map[string]any{"data": map[string]any{"text": "x", "number": 7, "map": map[string]any{"a": "b"}}})
	got = read()
	require.Equal(t, 2, got.Version)
	require.True(t, secret.NewMap(map[string]string{"text": "x"}).Equal(got.Fields), "only texts")

	_, err = s.Client().Logical().DeleteWithContext(t.Context(), "team/kv/data/app/database")
	require.NoError(t, err)
	require.Equal(t, &vaultclient.Secret{Version: 2, Gone: true}, read(), "deleted")
	write(t, s, "team/kv/destroy/app/database", map[string]any{"versions": []int{2}})
	require.Equal(t, &vaultclient.Secret{Version: 2, Gone: true}, read(), "destroyed")

	version, err = kv.Write(t.Context(), fields, 2)
	require.NoError(t, err)
	require.Equal(t, 3, version)
	_, err = s.Client().Logical().DeleteWithContext(t.Context(), "team/kv/metadata/app/database")
	require.NoError(t, err)
	require.Equal(t, &vaultclient.Secret{}, read(), "nothing is known of it any more")
}

func TestMountsThatDoNotFit(t *testing.T) {
	s := sharedVault(t)
	mount(t, s, "old", "kv", map[string]any{"version": "1"})
	mount(t, s, "crypt/er", "transit", nil)
	mount(t, s, "second", "kv", map[string]any{"version": "2"})
	c := open(t, rootOf(s))
	for path, want := range map[string]string{
		"old/app":               "old is a mount of KV version 1, which has no check-and-set",
		"crypt/er/app":          "crypt/er is a mount of type transit, not of KV version 2",
		"second/data/app":       "second/data/app: leave data/ out, as in vault kv get: the path is second/app",
		"crypt/er":              "crypt/er is the mount itself: name what lies in it, such as crypt/er/name",
		"second/../app":         `the path "second/../app" must not have . or .. as a segment`,
		"second//app":           `the path "second//app" must neither begin nor end with a slash, nor have an empty segment`,
		"second/*":              `the path "second/*" must consist of letters, digits and _ - . : @ between slashes`,
		"second":                `the path "second" must name the mount, and what lies in it, such as secret/intelliflow/database`,
		"":                      "a path is missing",
		"second/app?version=1":  "must consist of letters",
		"sys/policies/acl/root": "sys is a mount of type system, not of KV version 2",
	} {
		_, err := c.KV(t.Context(), path)
		requireFault(t, err, fault.Invalid, want)
	}
	_, err := c.KV(t.Context(), "nothing/here")
	requireFault(t, err, fault.Target, "there is no mount at nothing/here, or the token may do nothing there")
	_, err = c.TransitKey(t.Context(), "second/app")
	requireFault(t, err, fault.Invalid, "second is a mount of type kv, not of transit")
	_, err = c.TransitKey(t.Context(), "crypt/er/a/b")
	requireFault(t, err, fault.Invalid, `"a/b" is not the name of a key of crypt/er`)
}

func TestAdmit(t *testing.T) {
	require.NoError(t, vaultclient.Admit([]string{"a/b", "secret/app/*"}, "secret/app/x/y"))
	requireFault(t, vaultclient.Admit(nil, "secret/app"), fault.Invalid, `the connection admits no path: its administrator has to list "secret/app"`)
	requireFault(t, vaultclient.Admit([]string{"secret/app/*"}, "secret/application"), fault.Invalid, `the connection does not admit "secret/application"`)
	requireFault(t, vaultclient.Admit([]string{"*"}, "secret/app/../x"), fault.Invalid, "must not have . or ..")
}
