package vaultclient_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/vaultclient"
)

func value(text string) vaultclient.Value { return vaultclient.Value{Text: secret.New(text)} }

func TestTransitKey(t *testing.T) {
	s, ctx := sharedVault(t), t.Context()
	mount(t, s, "keys/of/team", "transit", nil)
	c := open(t, rootOf(s))
	key, err := c.TransitKey(ctx, "keys/of/team/cards")
	require.NoError(t, err)
	_, err = key.State(ctx)
	requireFault(t, err, fault.NotFound, "there is no key keys/of/team/cards: make it with vault write -f keys/of/team/keys/cards")
	requireFault(t, key.Rotate(ctx), fault.Target, "(key not found)")

	write(t, s, "keys/of/team/keys/cards", nil)
	state, err := key.State(ctx)
	require.NoError(t, err)
	require.Equal(t, "aes256-gcm96", state.Type)
	require.Equal(t, []int{1, 1}, []int{state.Latest, state.MinDecryption})
	require.True(t, state.Encrypts && state.Decrypts && !state.Derived)
	require.False(t, state.Created[1].IsZero())

	first, err := key.Encrypt(ctx, 1, []vaultclient.Value{value("4111"), value("")})
	require.NoError(t, err)
	require.NoError(t, key.Rotate(ctx))
	second, err := key.Rewrap(ctx, 2, []vaultclient.Value{{Text: first[0].Text}, {Text: first[1].Text}, value("vault:v9:abcd"), value("plain")})
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(second[0].Text.Reveal(), "vault:v2:"))
	require.NotEmpty(t, second[2].Refused)
	require.Contains(t, second[3].Refused, "no prefix")
	require.NoError(t, key.Rotate(ctx))
	pinned, err := key.Rewrap(ctx, 2, []vaultclient.Value{{Text: first[0].Text}})
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(pinned[0].Text.Reveal(), "vault:v2:"), "not the latest: the version that is asked for")

	plain, err := key.Decrypt(ctx, []vaultclient.Value{{Text: second[0].Text}, {Text: second[1].Text}})
	require.NoError(t, err)
	require.Equal(t, []string{"4111", ""}, []string{plain[0].Text.Reveal(), plain[1].Text.Reveal()})

	require.NoError(t, key.SetMinDecryption(ctx, 2))
	old, err := key.Rewrap(ctx, 3, []vaultclient.Value{{Text: first[0].Text}})
	require.NoError(t, err)
	require.Contains(t, old[0].Refused, "too old")
	old, err = key.Decrypt(ctx, []vaultclient.Value{{Text: first[0].Text}})
	require.NoError(t, err)
	require.Contains(t, old[0].Refused, "too old")
	requireFault(t, key.SetMinDecryption(ctx, 9), fault.Target, "cannot set min decryption version of 9, latest key version is 3")
}

func TestTransitContextAndAssociatedData(t *testing.T) {
	s, ctx := sharedVault(t), t.Context()
	mount(t, s, "derived", "transit", nil)
	write(t, s, "derived/keys/k", map[string]any{"derived": true})
	key, err := open(t, rootOf(s)).TransitKey(ctx, "derived/k")
	require.NoError(t, err)
	state, err := key.State(ctx)
	require.NoError(t, err)
	require.True(t, state.Derived)

	made, err := key.Encrypt(ctx, 1, []vaultclient.Value{{Text: secret.New("x"), Context: []byte("row 1")}})
	require.NoError(t, err)
	require.NoError(t, key.Rotate(ctx))
	made, err = key.Rewrap(ctx, 2, []vaultclient.Value{{Text: made[0].Text, Context: []byte("row 1")}})
	require.NoError(t, err)
	wrong, err := key.Rewrap(ctx, 2, []vaultclient.Value{{Text: made[0].Text, Context: []byte("row 2")}})
	require.NoError(t, err)
	require.NotEmpty(t, wrong[0].Refused)

	bound := vaultclient.Value{Text: secret.New("x"), Context: []byte("c"), AssociatedData: []byte("row 7")}
	made, err = key.Encrypt(ctx, 2, []vaultclient.Value{bound})
	require.NoError(t, err)
	lost, err := key.Rewrap(ctx, 2, []vaultclient.Value{{Text: made[0].Text, Context: bound.Context, AssociatedData: bound.AssociatedData}})
	require.NoError(t, err)
	require.NotEmpty(t, lost[0].Refused, "rewrap of transit does not heed associated data: it must not strip a value of it either")
	plain, err := key.Decrypt(ctx, []vaultclient.Value{{Text: made[0].Text, Context: bound.Context, AssociatedData: bound.AssociatedData}})
	require.NoError(t, err)
	require.Equal(t, "x", plain[0].Text.Reveal())
}

func TestBatchesAreBounded(t *testing.T) {
	s, ctx := sharedVault(t), t.Context()
	mount(t, s, "large", "transit", nil)
	write(t, s, "large/keys/k", nil)
	o := rootOf(s)
	seen := counting(&o)
	key, err := open(t, o).TransitKey(ctx, "large/k")
	require.NoError(t, err)
	const most = 700 << 10 // in base64 it is just what Vault takes
	values := []vaultclient.Value{value("first"), value(strings.Repeat("x", most)), value(strings.Repeat("y", most)), value(strings.Repeat("z", 2<<20)), value("last")}
	made, err := key.Encrypt(ctx, 1, values)
	require.NoError(t, err)
	require.Contains(t, made[3].Refused, "it is longer than Vault takes: JSON string value exceeds allowed length")
	made = slices.Delete(made, 3, 4)
	require.Greater(t, seen.of("large/encrypt/k"), 3, "what is too long for a batch goes alone")
	values = values[:0]
	for i := range made {
		values = append(values, vaultclient.Value{Text: made[i].Text})
	}
	plain, err := key.Decrypt(ctx, values)
	require.NoError(t, err)
	require.Equal(t, "last", plain[3].Text.Reveal())
	require.Len(t, plain[2].Text.Reveal(), most)
}
