package tests

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

func coded(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// TestAnApplicationMovesFromTransit makes a key in transit and takes it over, by its backup
// and by its export. The same requests then have the same answers under both mounts, and
// each decrypts what the other made.
func TestAnApplicationMovesFromTransit(t *testing.T) {
	vault := vaulttest.New(t, vaulttest.Options{}) // its own: it gets a transit engine
	w := newKeys(t, "moving", vault)
	require.NoError(t, vault.EnableSecrets(t.Context(), "transit"))
	logical := vault.Client().Logical()
	write := func(path string, body map[string]any) map[string]any {
		t.Helper()
		secret, err := logical.WriteWithContext(t.Context(), path, body)
		require.NoError(t, err, path)
		if secret == nil {
			return nil
		}
		return secret.Data
	}
	write("transit/keys/cards", map[string]any{"derived": true, "exportable": true, "allow_plaintext_backup": true})
	about := map[string]any{"context": coded("user-1"), "associated_data": coded("row 7")}
	ask := func(fields map[string]any) map[string]any { return with(maps.Clone(about), fields) }
	first := write("transit/encrypt/cards", ask(map[string]any{"plaintext": coded("4111")}))["ciphertext"]

	backup, err := logical.ReadWithContext(t.Context(), "transit/backup/cards")
	require.NoError(t, err)
	exported, err := logical.ReadWithContext(t.Context(), "transit/export/encryption-key/cards")
	require.NoError(t, err)
	export, err := json.Marshal(exported)
	require.NoError(t, err)
	for role, keys := range map[string]map[string]any{"cards": {"backup": backup.Data["backup"]}, "other": {"import_key": string(export)}} {
		write(w.path+"/roles/"+role, with(map[string]any{"type": "encryption-key", "derived": true}, keys))
		ours := write(w.path+"/encrypt/"+role, ask(map[string]any{"plaintext": coded("4222")}))
		for _, mount := range []string{"transit/decrypt/cards", w.path + "/decrypt/" + role} {
			require.Equal(t, map[string]any{"plaintext": coded("4111")}, write(mount, ask(map[string]any{"ciphertext": first})))
			require.Equal(t, map[string]any{"plaintext": coded("4222")}, write(mount, ask(map[string]any{"ciphertext": ours["ciphertext"]})))
		}
	}
	transit := mount{vault.Address(), vault.Token(), "transit"}
	for _, c := range moves(t, first.(string), about) {
		t.Run(c.name, func(t *testing.T) {
			theirs, ours := transit.call(t.Context(), http.MethodPost, c.path, c.body), w.call(t.Context(), http.MethodPost, c.path, c.body)
			require.Equal(t, theirs.Status, ours.Status, "%s", ours.Data)
			require.Equal(t, shape(t, theirs), shape(t, ours))
		})
	}
	wrapsBatches(t, vault.Client(), w.path+"/encrypt/cards", ask(map[string]any{"plaintext": coded("x")}))
}

// A move is a request that is sent to both.
type move struct {
	name, path string
	body       map[string]any
}

func moves(t *testing.T, ciphertext string, about map[string]any) []move {
	t.Helper()
	good, bad := with(maps.Clone(about), map[string]any{"plaintext": coded("x"), "reference": "a"}), with(maps.Clone(about), map[string]any{"plaintext": "!"})
	kept, foreign := with(maps.Clone(about), map[string]any{"ciphertext": ciphertext, "reference": "b"}), with(maps.Clone(about), map[string]any{"ciphertext": "mine"})
	batch := func(items ...any) map[string]any { return map[string]any{"batch_input": items} }
	return []move{
		{"one text", "encrypt/cards", good},
		{"one bad text", "encrypt/cards", bad},
		{"no text", "encrypt/cards", map[string]any{}},
		{"several", "encrypt/cards", batch(good, good)},
		{"several, one bad", "encrypt/cards", batch(good, bad)},
		{"several, all bad", "encrypt/cards", batch(bad, bad)},
		{"one bad, another status", "encrypt/cards", with(batch(good, bad), map[string]any{"partial_failure_response_code": 207})},
		{"all bad, another status", "encrypt/cards", with(batch(bad), map[string]any{"partial_failure_response_code": 207})},
		{"no items", "encrypt/cards", batch()},
		{"one ciphertext", "decrypt/cards", kept},
		{"one foreign", "decrypt/cards", foreign},
		{"several ciphertexts", "decrypt/cards", batch(kept, kept)},
		{"several, one foreign", "decrypt/cards", batch(kept, foreign)},
		{"a data key", "datakey/plaintext/cards", map[string]any{"context": about["context"], "bits": 512}},
		{"a wrapped one", "datakey/wrapped/cards", map[string]any{"context": about["context"]}},
		{"bits that are not", "datakey/wrapped/cards", map[string]any{"context": about["context"], "bits": 7}},
	}
}

// shape is an answer without what chance, or another choice of words, makes of it.
func shape(t *testing.T, a answer) any {
	t.Helper()
	if len(a.Data) == 0 || string(a.Data) == "null" {
		return nil
	}
	var data any
	require.NoError(t, json.Unmarshal(a.Data, &data))
	return blurred("", data)
}

func blurred(name string, value any) any {
	switch v := value.(type) {
	case map[string]any:
		out := map[string]any{}
		for key, member := range v {
			out[key] = blurred(key, member)
		}
		return out
	case []any:
		out := make([]any, 0, len(v))
		for _, member := range v {
			out = append(out, blurred("", member))
		}
		return out
	case string:
		if name == "ciphertext" || name == "error" || name == "plaintext" && len(v) > 30 {
			return len(v) > 0
		}
	}
	return value
}

// wrapsBatches holds that an answer to a batch, which is a text, is wrapped and unwrapped as
// any other.
func wrapsBatches(t *testing.T, client *api.Client, path string, item map[string]any) {
	t.Helper()
	wrapping, err := client.Clone()
	require.NoError(t, err)
	wrapping.SetToken(client.Token())
	wrapping.SetWrappingLookupFunc(func(string, string) string { return "1m" })
	wrapped, err := wrapping.Logical().WriteWithContext(t.Context(), path, map[string]any{"batch_input": []any{item}})
	require.NoError(t, err)
	require.NotNil(t, wrapped.WrapInfo)
	back, err := client.Logical().UnwrapWithContext(t.Context(), wrapped.WrapInfo.Token)
	require.NoError(t, err)
	require.Len(t, back.Data["batch_results"], 1)
}
