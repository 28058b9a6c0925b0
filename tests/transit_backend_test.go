package tests

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// A role whose key is a transit engine's: of the Vault that hosts the plugin, and of another.
// Applications call transit; the plugin rotates, rewraps what they stored, and raises
// min_decryption_version when nothing is left. In the middle its process is killed.
func TestTransitBackend(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		mount   string
		another bool
	}{
		"the same Vault": {"transit", false},
		"another Vault":  {"teams/billing/transit", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			vault, clock := newClockedVault(t)
			k := newKeeper(t, "transit", vault, pgtest.Shared(t), clock)
			target := vault
			if c.another {
				target = vaulttest.New(t, vaulttest.Options{WithoutPlugin: true})
			}
			b := &transitBackend{keeper: k, target: target, mount: c.mount}
			b.connect()
			b.run()
			b.emergency()
			b.refuses()
		})
	}
}

type transitBackend struct {
	*keeper
	target *vaulttest.Server // where the key is
	mount  string
}

const transitKeyName = "intelliflow-data"

// ask writes to the Vault in which the key is, as its operator or an application.
func (b *transitBackend) ask(path string, body map[string]any) map[string]any {
	b.t.Helper()
	secret, err := b.target.Client().Logical().WriteWithContext(b.t.Context(), path, body)
	require.NoError(b.t, err, path)
	if secret == nil {
		return nil
	}
	return secret.Data
}

// keyState is what transit says of the key.
func (b *transitBackend) keyState() map[string]any {
	b.t.Helper()
	secret, err := b.target.Client().Logical().ReadWithContext(b.t.Context(), b.mount+"/keys/"+transitKeyName)
	require.NoError(b.t, err)
	return secret.Data
}

// connect lets the plugin log in by an AppRole that has the policy of the documentation.
func (b *transitBackend) connect() {
	b.t.Helper()
	b.ask("sys/mounts/"+b.mount, map[string]any{"type": "transit"})
	b.ask(b.mount+"/keys/"+transitKeyName, nil)
	text, err := os.ReadFile("../deploy/vault/rotation-policy.hcl")
	require.NoError(b.t, err)
	policy := strings.ReplaceAll(string(text), `path "transit/`, `path "`+b.mount+"/")
	policy += fmt.Sprintf("\npath \"%s/status\" { capabilities = [\"read\"] }\n", b.path) // so that it knows of the mount
	b.ask("sys/policies/acl/rotation", map[string]any{"policy": policy})
	b.ask("sys/auth/approle", map[string]any{"type": "approle"})
	b.ask("auth/approle/role/rotation", map[string]any{"token_policies": "rotation", "token_no_default_policy": true, "token_ttl": "1h"})
	id, err := b.target.Client().Logical().ReadWithContext(b.t.Context(), "auth/approle/role/rotation/role-id")
	require.NoError(b.t, err)
	secretID := b.ask("auth/approle/role/rotation/secret-id", nil)["secret_id"]
	b.write("connections/self", map[string]any{
		"type": "vault", "address": b.target.Address(), "allow_insecure_http": true, "role_id": id.Data["role_id"], "secret_id": secretID,
		"allowed_paths": b.mount + "/*," + b.path + "/*", "allowed_roles": b.role + "*",
	})
	require.NotContains(b.t, b.get("connections/self").Text, secretID)
	for _, line := range []string{"token", "policies"} {
		assert.Contains(b.t, b.get("connections/self/check").Text, fmt.Sprintf(`"check":%q`, line))
	}
}

func (b *transitBackend) run() {
	k := b.keeper
	a := k.write("roles/"+b.role, keyRole(map[string]any{"backend": "self/" + b.mount + "/" + transitKeyName}))
	assert.Contains(b.t, strings.Join(a.Warnings, "\n"), "transit has no way to take a version back")
	assert.Equal(b.t, 1, k.status(b.role).Current)
	const rows = 2500
	b.storeByTransit(1, rows)
	k.write("reencrypt/"+b.role+"/targets/cards", cardsTarget(nil))

	k.write("rotate/"+b.role, nil)
	assert.Equal(b.t, 2, k.status(b.role).Current)
	assert.Equal(b.t, "2", fmt.Sprint(b.keyState()["latest_version"]))
	_, err := b.vault.KillPlugin(context.WithoutCancel(b.t.Context()))
	require.NoError(b.t, err)
	k.follows(b.role, 1, "disabled")
	assert.Equal(b.t, map[string]int{"vault:v2": rows}, k.under(), "every row was rewrapped")
	k.passUntil(5*time.Minute, "version 1 to be proven dead", func() (bool, any) {
		v := k.status(b.role).version(1)
		return v.ProvenDead, v
	})
	state := b.keyState()
	assert.Equal(b.t, []string{"2", "2"}, []string{fmt.Sprint(state["latest_version"]), fmt.Sprint(state["min_decryption_version"])}, "rotated once, though the process was killed")
	b.readableByTransit(rows)
}

// emergency leaves no row under the version that leaked.
func (b *transitBackend) emergency() {
	e := b.emergencyOf(b.role, map[string]any{"reason": "key seen in a backup"})
	b.passUntil(time.Hour, "the incident to be contained", func() (bool, any) {
		i := b.incident(e.IncidentID)
		return i.Status == "contained", i
	})
	state := b.keyState()
	assert.Equal(b.t, []string{"3", "3"}, []string{fmt.Sprint(state["latest_version"]), fmt.Sprint(state["min_decryption_version"])})
	assert.Equal(b.t, []string{"vault:v3"}, slices.Collect(maps.Keys(b.under())))
}

func (b *transitBackend) refuses() {
	direct := fmt.Sprintf("call transit of connection %q directly, with the key %s/%s", "self", b.mount, transitKeyName)
	for path, body := range map[string]map[string]any{
		"encrypt/": {"plaintext": coded("x")}, "decrypt/": {"ciphertext": "vault:v1:abc"}, "rewrap/": {"ciphertext": "vault:v1:abc"},
		"datakey/plaintext/": nil, "datakey/wrapped/": nil,
	} {
		b.denied(http.StatusBadRequest, path+b.role, body, direct)
	}
	b.denied(http.StatusConflict, "rollback/"+b.role, map[string]any{"version": 2}, "a transit key's latest version cannot go back")
	other := "roles/" + b.role + "2"
	for backend, says := range map[string]string{
		"self/secret/x":                          "the connection does not admit",
		"self/" + b.mount + "/missing":           "the policies of the token do not allow it",
		"none/" + b.mount + "/" + transitKeyName: "there is no connection",
	} {
		b.denied(http.StatusBadRequest, other, keyRole(map[string]any{"backend": backend}), says)
	}
	if b.target == b.vault {
		b.denied(http.StatusBadRequest, other, keyRole(map[string]any{"backend": "self/" + b.path + "/" + b.role}), "not of transit")
	}
	a := b.call(b.t.Context(), http.MethodDelete, "connections/self", nil)
	assert.Equal(b.t, http.StatusConflict, a.Status, a.Text)
	assert.Contains(b.t, a.sentence(), "is in use by "+b.role)
}

// storeByTransit is what the application does.
func (b *transitBackend) storeByTransit(from, to int) {
	b.t.Helper()
	var batch []map[string]any
	for id := from; id <= to; id++ {
		batch = append(batch, map[string]any{"plaintext": coded(cardNumber(id))})
	}
	made := b.ask(b.mount+"/encrypt/"+transitKeyName, map[string]any{"batch_input": batch})["batch_results"].([]any)
	conn := b.app()
	for i, one := range made {
		_, err := conn.Exec(b.t.Context(), "INSERT INTO billing.cards (id, holder, number) VALUES ($1, 'a customer', $2)", from+i, one.(map[string]any)["ciphertext"])
		require.NoError(b.t, err)
	}
}

// readableByTransit asks transit for what every row holds.
func (b *transitBackend) readableByTransit(rows int) {
	b.t.Helper()
	stored := b.stored("number")
	require.Len(b.t, stored, rows)
	var ids []int
	var batch []map[string]any
	for id, value := range stored {
		ids, batch = append(ids, id), append(batch, map[string]any{"ciphertext": value})
	}
	made := b.ask(b.mount+"/decrypt/"+transitKeyName, map[string]any{"batch_input": batch})["batch_results"].([]any)
	for i, one := range made {
		plain, err := base64.StdEncoding.DecodeString(one.(map[string]any)["plaintext"].(string))
		require.NoError(b.t, err)
		require.Equal(b.t, cardNumber(ids[i]), string(plain))
	}
}
