package apikey

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// The kinds are registered, with options that say what they are for.
func TestVendorKinds(t *testing.T) {
	t.Parallel()
	types := map[string]bool{}
	for _, k := range NewConnectionKinds() {
		types[k.Type()] = true
		for _, o := range k.Options() {
			require.True(t, strings.HasSuffix(o.Help, "."), "%s: %s", o.Name, o.Help)
		}
	}
	for _, typ := range []string{"openai", "anthropic", "stripe"} {
		require.True(t, types[typ], typ)
	}
}

// What refuses a key is compared with what accepts the connection's own, where there is one.
func TestVendorWitness(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	ai, p := openAIAt(t)
	claude, q := anthropicAt(t, "")
	for _, p := range []provider{p, q} {
		witness, err := p.witness(ctx)
		require.NoError(t, err)
		require.Equal(t, "the admin key", witness)
	}
	keys := []string{ai.AdminKey(), claude.AdminKey()}
	ai.ExpireByHand(keys[0])
	claude.ExpireByHand(keys[1])
	for _, p := range []provider{p, q} {
		_, err := p.witness(ctx)
		requireFault(t, err, fault.AuthFailed, "the admin key is refused", keys...)
	}
	pay, r := stripeAt(t)
	_, err := r.witness(ctx)
	require.ErrorIs(t, err, errNoWitness)
	require.Empty(t, pay.Requests())
}

// Nobody who answers says nothing of a key.
func TestVendorsUnreachable(t *testing.T) {
	t.Parallel()
	ctx, key, r := context.Background(), secret.New("sk_test_CANARY"), reference{ID: "key_1", Owner: "svc_1"}
	for name, c := range map[string]struct {
		kind   providerKind
		admin  string
		values option.Values
	}{
		"openai":    {openAIKind, testAdminKey, option.Values{"project": "proj_abc"}},
		"anthropic": {anthropicKind, testAnthropicAdmin, nil},
		"stripe":    {stripeKind, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := openProvider(t, c.kind, nobody, c.admin, c.values)
			_, err := p.verify(ctx, key)
			requireFault(t, err, fault.Unreachable, "verify a key at "+p.title(), "CANARY")
			requireFault(t, p.ping(ctx), fault.Unreachable, p.title(), "CANARY")
			if p.abilities().Identify {
				_, err = p.identify(ctx, key, "key_1")
				requireFault(t, err, fault.Unreachable, p.title(), "CANARY")
				requireFault(t, only(p.revoke(ctx, r)), fault.Unreachable, p.title(), "CANARY")
			}
			if p.abilities().Create {
				_, err = p.create(ctx, "n")
				requireFault(t, err, fault.Unreachable, p.title(), "CANARY")
				_, err = p.find(ctx, "n")
				requireFault(t, err, fault.Unreachable, p.title(), "CANARY")
			}
		})
	}
}
