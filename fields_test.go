package rotationsecrets

import (
	"encoding/json"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// twoKinds is a vocabulary in which every option type, and a shared option, occurs.
func twoKinds() vocabulary {
	return vocabulary{
		secrets:   "Never shown again.",
		noun:      "role",
		selectors: option.Set{{Name: "type", Type: option.String, Help: "Kind."}},
		common:    option.Set{{Name: "period", Type: option.Duration, Default: int64(60), Help: "Common."}},
		kinds: map[string]option.Set{
			"cat": {
				{Name: "lives", Type: option.Int, Default: int64(9), Help: "How many."},
				{Name: "tame", Type: option.Bool, Help: "Whether."},
				{Name: "toys", Type: option.List, Help: "Which."},
				{Name: "orders", Type: option.Lines, Help: "What to say."},
				{Name: "traits", Type: option.Map, Help: "Traits."},
				{Name: "chip", Type: option.String, Secret: true, Help: "Chip."},
			},
			"dog": {
				{Name: "breed", Type: option.String, Immutable: true, Address: true, Help: "Breed."},
				{Name: "chip", Type: option.String, Secret: true, Help: "Chip of a dog."},
			},
		},
	}
}

func collect(v vocabulary, kind string, raw map[string]any) (option.Values, secret.Map, error) {
	return v.collect(kind, &framework.FieldData{Raw: raw, Schema: v.fields()})
}

func TestFieldsAreDerived(t *testing.T) {
	f := twoKinds().fields()
	require.Equal(t, framework.TypeDurationSecond, f["period"].Type)
	require.Equal(t, int64(60), f["period"].Default)
	require.Empty(t, f["period"].DisplayAttrs.Group)
	require.Equal(t, "cat", f["lives"].DisplayAttrs.Group)
	require.Equal(t, framework.TypeKVPairs, f["traits"].Type)
	require.True(t, f["chip"].DisplayAttrs.Sensitive)
	require.Equal(t, "cat, dog", f["chip"].DisplayAttrs.Group)
	require.Contains(t, f["chip"].Description, "Never shown again")
	require.Contains(t, f["chip"].Description, "For type dog: Chip of a dog.")
	require.Contains(t, f["breed"].Description, "Cannot be changed later.")
	require.Contains(t, f["breed"].Description, "Changing it requires the secrets again.")
}

func TestKindsThatDisagreeOnAFieldDoNotAssemble(t *testing.T) {
	v := twoKinds()
	v.kinds["dog"] = append(v.kinds["dog"], option.Option{Name: "lives", Type: option.String})
	require.Panics(t, func() { v.fields() })
	v = twoKinds()
	v.kinds["dog"] = append(v.kinds["dog"], option.Option{Name: "period", Type: option.Duration})
	require.Panics(t, func() { v.fields() }, "a common option is nobody's own")
}

// Values arrive as their options' Go forms, whatever form JSON or the CLI gave them.
func TestCollect(t *testing.T) {
	values, secrets, err := collect(twoKinds(), "cat", map[string]any{
		"name": "tom", "type": "cat", "period": "30d", "lives": json.Number("8"), "tame": "true",
		"toys": "ball, mouse", "orders": []any{"sit, please", "stay"}, "traits": []any{"color=red"}, "chip": "c4n4ry",
	})
	require.NoError(t, err)
	require.Equal(t, option.Values{
		"type": "cat", "period": int64(30 * 86400), "lives": int64(8), "tame": true,
		"toys": []string{"ball", "mouse"}, "orders": []string{"sit, please", "stay"}, "traits": map[string]string{"color": "red"},
	}, values)
	require.Equal(t, "c4n4ry", secrets["chip"].Reveal())
}

func TestCollectKeepsWhatIsLeftOutApart(t *testing.T) {
	values, secrets, err := collect(twoKinds(), "cat", map[string]any{"name": "tom", "lives": nil})
	require.NoError(t, err)
	require.Empty(t, values, "neither defaults nor nulls are given")
	require.Empty(t, secrets)
}

func TestCollectRefusesOptionsOfOtherTypes(t *testing.T) {
	_, _, err := collect(twoKinds(), "dog", map[string]any{"lives": 3})
	require.EqualError(t, err, "lives: is an option of type cat; this role is of type dog")
	require.True(t, fault.Is(err, fault.Invalid))
	_, _, err = collect(twoKinds(), "bird", nil)
	require.EqualError(t, err, "type: names no type of role; there are: cat, dog")
}

func TestPublicValues(t *testing.T) {
	got := twoKinds().public("cat", option.Values{"toys": []string{"ball"}})
	require.Equal(t, map[string]any{
		"period": int64(60), "lives": int64(9), "tame": nil, "toys": []string{"ball"}, "orders": nil, "traits": nil,
	}, got, "defaults are there, secrets are not")
}
