package apikey

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// anchorOf gives a connection's anchor, for which no secret is at hand.
func anchorOf(kind providerKind, values option.Values) (string, error) {
	return (&ConnectionKind{kind: kind}).Anchor(&rotator.ConnectionConfig{Name: "api", Values: values})
}

func TestAnchor(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		kind   providerKind
		values option.Values
		want   string
	}{
		{openAIKind, option.Values{"project": "proj_a"}, `https://api.openai.com:443/v1 project="proj_a"`},
		{openAIKind, option.Values{"project": "proj_a", "base_url": "https://api.openai.com/v1/", "organization": "org-1", "requests_per_second": 1}, `https://api.openai.com:443/v1 project="proj_a"`},
		{openAIKind, option.Values{"project": "proj_b", "base_url": "HTTPS://API.openai.com:8443"}, `https://api.openai.com:8443 project="proj_b"`},
		{anthropicKind, nil, "https://api.anthropic.com:443"},
		{anthropicKind, option.Values{"workspace": "wrkspc_1"}, "https://api.anthropic.com:443"},
		{stripeKind, option.Values{"base_url": "http://[::1]/a%20b"}, "http://[::1]:80/a%20b"},
		{httpKind, option.Values{"definition": whole, "parameters": testParameters}, `https://api.acme.test:443 team="payments"`},
		{
			httpKind,
			option.Values{"definition": whole, "base_url": "https://eu.acme.test", "parameters": map[string]string{"team": `a" b="c`, "a": "1"}},
			`https://eu.acme.test:443 a="1" team="a\" b=\"c"`,
		},
	} {
		for range 3 {
			got, err := anchorOf(tc.kind, tc.values)
			require.NoError(t, err)
			require.Equal(t, tc.want, got)
		}
	}
	for _, values := range []option.Values{nil, {"definition": "{}"}, {"definition": whole}, {"definition": changed(t, fields{"base_url": nil}), "parameters": testParameters}} {
		_, err := anchorOf(httpKind, values)
		require.True(t, fault.Is(err, fault.Invalid), err)
	}
}
