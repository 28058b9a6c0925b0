package vaultclient_test

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/vaultclient"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

const (
	login  = "auth/machines/approle/login"
	renew  = "auth/token/renew-self"
	lookup = "auth/token/lookup-self"

	// policy admits nothing that tests ask for.
	policy = `path "nothing" { capabilities = ["read"] }`
)

func TestAppRoleLogsInOnceAndRenews(t *testing.T) {
	s := sharedVault(t)
	o := rootOf(s)
	o.Credential = appRole(t, s, "renews", policy, map[string]any{"token_ttl": "1h", "token_max_ttl": "2h"})
	seen, at := counting(&o), &clock{now: time.Now()}
	o.Now = at.Now
	c := open(t, o)

	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if info, err := c.Token(t.Context()); err != nil || len(info.Policies) == 0 {
				t.Errorf("%+v, %v", info, err)
			}
		})
	}
	all.Wait()
	require.Equal(t, 1, seen.of(login), "one logs in, the others wait for it")
	require.Equal(t, 20, seen.of(lookup))

	at.pass(29 * time.Minute)
	_, err := c.Token(t.Context())
	require.NoError(t, err)
	require.Zero(t, seen.of(renew))
	at.pass(2 * time.Minute)
	for range 3 {
		_, err = c.Token(t.Context())
		require.NoError(t, err)
	}
	require.Equal(t, 1, seen.of(renew), "after half of its life, once")
	at.pass(time.Hour - time.Second)
	_, err = c.Token(t.Context())
	require.NoError(t, err)
	require.Equal(t, 2, seen.of(login), "what is about to end is not used any more")
	require.Equal(t, 1, seen.of(renew))
}

func TestTokenThatWasRevokedIsReplaced(t *testing.T) {
	s := sharedVault(t)
	mount(t, s, "revoked", "kv", map[string]any{"version": "2"})
	openKV(t, open(t, rootOf(s)), "revoked/app")
	o := rootOf(s)
	o.Credential = appRole(t, s, "revoked", `path "revoked/data/*" { capabilities = ["create", "update", "read"] }`, map[string]any{"token_ttl": "1h"})
	seen := counting(&o)
	c := open(t, o)
	kv := openKV(t, c, "revoked/app")

	revokeAll := func() {
		write(t, s, "sys/leases/revoke-prefix/auth/machines/approle/login", map[string]any{"sync": true})
	}
	revokeAll()
	before := seen.of(login)
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if _, err := kv.Read(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	require.Equal(t, before+1, seen.of(login), "all find the same token dead, and one gets the next")

	revokeAll()
	_, err := kv.Write(t.Context(), secret.NewMap(map[string]string{"a": "b"}), 0)
	require.NoError(t, err, "what was refused for the token was not served")
	_, err = c.KV(t.Context(), "elsewhere/app")
	require.Error(t, err)
	require.Equal(t, before+2, seen.of(login), "a token that lives is not replaced because it may not do something")
	revokeAll()
	_, err = c.Token(t.Context())
	require.NoError(t, err)
}

func TestTokenOfTheOperator(t *testing.T) {
	s := sharedVault(t)
	create := func(more map[string]any) (string, vaultclient.Options) {
		t.Helper()
		data := map[string]any{"policies": []string{"default"}}
		for k, v := range more {
			data[k] = v
		}
		answer, err := s.Client().Logical().WriteWithContext(t.Context(), "auth/token/create", data)
		require.NoError(t, err)
		o := rootOf(s)
		o.Credential = vaultclient.Credential{Token: secret.New(answer.Auth.ClientToken)}
		return answer.Auth.ClientToken, o
	}
	canary, o := create(map[string]any{"period": "1h"})
	seen, at := counting(&o), &clock{now: time.Now()}
	o.Now = at.Now
	c := open(t, o)
	for range 5 {
		at.pass(40 * time.Minute)
		info, err := c.Token(t.Context())
		require.NoError(t, err)
		require.True(t, info.Renewable)
	}
	require.Equal(t, 4, seen.of(renew), "a periodic token lives on for as long as it is used")

	write(t, s, "auth/token/revoke", map[string]any{"token": canary})
	_, err := c.Token(t.Context())
	requireFault(t, err, fault.AuthFailed, "the token expired, was revoked, or may not look itself up: write the connection with a new one")
	require.NotContains(t, err.Error(), canary)
	_, err = c.KV(t.Context(), "secret/app")
	requireFault(t, err, fault.AuthFailed, "find the mount of secret/app: look the token up: ")

	_, o = create(map[string]any{"ttl": "1h", "renewable": false})
	seen = counting(&o)
	o.Now = at.Now
	c = open(t, o)
	for range 3 {
		at.pass(20 * time.Minute)
		_, err = c.Token(t.Context())
		require.NoError(t, err)
	}
	require.Zero(t, seen.of(renew), "it cannot be renewed")
}

func TestLoginThatIsRefused(t *testing.T) {
	s := sharedVault(t)
	o := rootOf(s)
	o.Credential = appRole(t, s, "refused", policy, nil)
	const canary = "canary-2d8bb7c4-secret-id"
	o.Credential.SecretID = secret.New(canary)
	_, err := open(t, o).Token(t.Context())
	requireFault(t, err, fault.AuthFailed, "answered 400 Bad Request (invalid role or secret ID); role_id and secret_id must be those of a role at auth_mount")
	require.NotContains(t, err.Error(), canary)
	o.Credential.Mount = "nowhere"
	_, err = open(t, o).Token(t.Context())
	requireFault(t, err, fault.AuthFailed, "log in by auth/nowhere")
}

// The policy that operators paste is enough, and admits nothing else.
func TestLeastPrivilege(t *testing.T) {
	s := sharedVault(t)
	policy, err := os.ReadFile("../../deploy/vault/rotation-policy.hcl")
	require.NoError(t, err)
	mount(t, s, "secret", "kv", map[string]any{"version": "2"})
	mount(t, s, "transit", "transit", nil)
	write(t, s, "transit/keys/intelliflow-data", nil)
	write(t, s, "transit/keys/other", nil)
	o := rootOf(s)
	o.Credential = appRole(t, s, "least", string(policy), map[string]any{"token_ttl": "1h", "token_no_default_policy": true})
	at := &clock{now: time.Now()}
	o.Now = at.Now
	seen := counting(&o)
	c := open(t, o)

	kv := openKV(t, c, "secret/intelliflow/database")
	require.NoError(t, kv.Ready(t.Context()))
	_, err = kv.Write(t.Context(), secret.NewMap(map[string]string{"a": "b"}), 0)
	require.NoError(t, err)
	_, err = kv.Write(t.Context(), secret.NewMap(map[string]string{"a": "c"}), 1)
	require.NoError(t, err)

	at.pass(40 * time.Minute)
	key, err := c.TransitKey(t.Context(), "transit/intelliflow-data")
	require.NoError(t, err)
	require.Equal(t, 1, seen.of(renew))
	require.Equal(t, 1, seen.of(login), "it may renew itself")
	require.NoError(t, key.Ready(t.Context()))
	require.NoError(t, key.Rotate(t.Context()))
	made, err := key.Encrypt(t.Context(), 1, []vaultclient.Value{{Text: secret.New("x")}})
	require.NoError(t, err)
	made, err = key.Rewrap(t.Context(), 2, []vaultclient.Value{{Text: made[0].Text}})
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(made[0].Text.Reveal(), "vault:v2:"))
	require.NoError(t, key.SetMinDecryption(t.Context(), 2))
	_, err = key.Decrypt(t.Context(), []vaultclient.Value{{Text: made[0].Text}})
	requireFault(t, err, fault.Target, "answered 403 Forbidden (1 error occurred: * permission denied): the policies of the token do not allow it")

	kv, err = c.KV(t.Context(), "secret/other")
	require.NoError(t, err)
	requireFault(t, kv.Ready(t.Context()), fault.Target, `its policies need path "secret/data/other" { capabilities = ["create", "read", "update"] }`)
	key, err = c.TransitKey(t.Context(), "transit/other")
	require.NoError(t, err)
	requireFault(t, key.Ready(t.Context()), fault.Target, `its policies lack path "transit/keys/other" { capabilities = ["read"] }; path "transit/keys/other/rotate"`)
}

func TestSealedVault(t *testing.T) {
	s := vaulttest.New(t, vaulttest.Options{WithoutPlugin: true})
	c := open(t, rootOf(s))
	_, err := c.Token(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.Seal(t.Context()))
	_, err = c.Token(t.Context())
	requireFault(t, err, fault.Unreachable, "answered 503 Service Unavailable (Vault is sealed): it is sealed")
	require.NoError(t, s.Kill(context.WithoutCancel(t.Context())))
	_, err = c.Token(t.Context())
	requireFault(t, err, fault.Unreachable, "connection refused")
}
