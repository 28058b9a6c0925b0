package option_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
)

var set = option.Set{
	{Name: "host", Type: option.String, Address: true},
	{Name: "port", Type: option.Int, Default: int64(5432), Address: true},
	{Name: "verify", Type: option.Bool, Default: true},
	{Name: "timeout", Type: option.Duration, Default: int64(5)},
	{Name: "groups", Type: option.List, Default: []string{"*"}},
	{Name: "statements", Type: option.Lines},
	{Name: "settings", Type: option.Map, Immutable: true},
	{Name: "password", Type: option.String, Secret: true, Default: "never"},
}

func TestMoved(t *testing.T) {
	t.Parallel()
	set := option.Set{{Name: "host", Type: option.String, Address: true}, {Name: "replicas", Type: option.List, Address: true}, {Name: "groups", Type: option.List}}
	before := option.Values{"host": "db", "replicas": []any{"a", "b"}, "groups": []any{"g"}} // as storage gives them back
	for _, c := range []struct {
		replicas []string
		moved    bool
	}{{[]string{"a", "b"}, false}, {[]string{"b"}, false}, {[]string{"b", "a"}, false}, {nil, false}, {[]string{"a", "c"}, true}, {[]string{"a", "b", "c"}, true}} {
		moved := set.Moved(before, option.Values{"host": "db", "replicas": c.replicas, "groups": []string{"other"}})
		require.Equal(t, c.moved, len(moved) == 1, "%v", c.replicas)
	}
	require.Equal(t, []string{"replicas"}, set.Moved(option.Values{"host": "db"}, option.Values{"host": "db", "replicas": []string{"a"}}))
	require.Equal(t, []string{"host"}, set.Moved(before, option.Values{"host": "other"}), "leaving all out")
}

type settings struct {
	Host       string            `json:"host"`
	Port       int               `json:"port"`
	Verify     bool              `json:"verify"`
	Timeout    int64             `json:"timeout"`
	Groups     []string          `json:"groups"`
	Statements []string          `json:"statements"`
	Settings   map[string]string `json:"settings"`
}

func TestNamed(t *testing.T) {
	t.Parallel()
	require.Equal(t, option.Int, set.Named("port").Type)
	require.Nil(t, set.Named("Port"))
	require.Nil(t, option.Set(nil).Named("port"))
}

func TestWithDefaults(t *testing.T) {
	t.Parallel()
	given := option.Values{"host": "db", "verify": false}
	require.Equal(t, option.Values{"host": "db", "port": int64(5432), "verify": false, "timeout": int64(5), "groups": []string{"*"}}, set.WithDefaults(given))
	require.Equal(t, option.Values{"host": "db", "verify": false}, given, "what was given stays as it is")
	require.NotContains(t, set.WithDefaults(nil), "password", "a secret is not a value")
}

func TestDecode(t *testing.T) {
	t.Parallel()
	var got settings
	require.NoError(t, set.Decode(option.Values{
		"host": "db", "port": int64(1), "verify": false, "timeout": int64(9), "groups": []string{"a", "b"},
		"statements": []string{"SELECT 1, 2"}, "settings": map[string]string{"k": "v"},
	}, &got))
	require.Equal(t, settings{"db", 1, false, 9, []string{"a", "b"}, []string{"SELECT 1, 2"}, map[string]string{"k": "v"}}, got)

	got = settings{}
	require.NoError(t, set.Decode(nil, &got))
	require.Equal(t, settings{Port: 5432, Verify: true, Timeout: 5, Groups: []string{"*"}}, got)
}

// Values come back from storage as JSON's types.
func TestDecodeAfterStorage(t *testing.T) {
	t.Parallel()
	values := option.Values{"port": int64(1 << 40), "timeout": int64(90 * 24 * 3600), "groups": []string{"a"}, "settings": map[string]string{"k": "v"}}
	raw, err := json.Marshal(values)
	require.NoError(t, err)
	var stored option.Values
	require.NoError(t, json.Unmarshal(raw, &stored))
	var before, after settings
	require.NoError(t, set.Decode(values, &before))
	require.NoError(t, set.Decode(stored, &after))
	require.Equal(t, before, after)
	require.Empty(t, set.Changed(values, stored, func(option.Option) bool { return true }), "and they are no change")
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		values      option.Values
		field, want string
	}{
		"an unknown name":                    {option.Values{"hots": "db"}, "hots", "hots: is not an option of this type"},
		"a name but for its case":            {option.Values{"Host": "db"}, "Host", "Host: is not an option of this type"},
		"text for a number":                  {option.Values{"port": "canary"}, "", "options do not fit their declared types"},
		"a fraction":                         {option.Values{"port": 1.5}, "", "options do not fit their declared types"},
		"a text for a list":                  {option.Values{"groups": "a,b"}, "", "options do not fit their declared types"},
		"a declared name the struct ignores": {option.Values{"password": "canary"}, "", "options do not fit their declared types"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := set.Decode(tc.values, &settings{})
			require.ErrorContains(t, err, tc.want)
			require.NotContains(t, err.Error(), "canary", "it may be a secret in the wrong place")
			var f *fault.Error
			require.ErrorAs(t, err, &f)
			require.Equal(t, fault.Invalid, f.Kind)
			require.Equal(t, tc.field, f.Field)
		})
	}
	require.ErrorContains(t, set.Decode(option.Values{"host": func() {}}, &settings{}), "encode options")
}

func TestChanged(t *testing.T) {
	t.Parallel()
	all := func(option.Option) bool { return true }
	for name, tc := range map[string]struct {
		before, after option.Values
		property      func(option.Option) bool
		want          []string
	}{
		"nothing":                         {option.Values{"host": "a"}, option.Values{"host": "a"}, all, nil},
		"a value":                         {option.Values{"host": "a"}, option.Values{"host": "b"}, all, []string{"host"}},
		"given for the first time":        {nil, option.Values{"host": "b"}, all, []string{"host"}},
		"the default, written out":        {nil, option.Values{"port": int64(5432), "verify": true, "groups": []any{"*"}}, all, nil},
		"other than the default":          {nil, option.Values{"verify": false}, all, []string{"verify"}},
		"nothing, written out":            {nil, option.Values{"host": "", "statements": []string{}, "settings": map[string]string{}}, all, nil},
		"nothing, back from storage":      {option.Values{"settings": map[string]any{}}, option.Values{"settings": nil}, all, nil},
		"an empty list is no default":     {nil, option.Values{"groups": []string{}}, all, []string{"groups"}},
		"the order of a list":             {option.Values{"groups": []string{"a", "b"}}, option.Values{"groups": []string{"b", "a"}}, all, []string{"groups"}},
		"a property that it has not":      {option.Values{"host": "a"}, option.Values{"host": "b"}, func(o option.Option) bool { return o.Immutable }, nil},
		"a property that it has":          {option.Values{"host": "a"}, option.Values{"host": "b", "verify": false}, func(o option.Option) bool { return o.Address }, []string{"host"}},
		"in the order of the declaration": {nil, option.Values{"verify": false, "host": "b"}, all, []string{"host", "verify"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tc.want, set.Changed(tc.before, tc.after, tc.property))
		})
	}
}
