package rotation_test

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

func TestEmptyStateSurvivesStorage(t *testing.T) {
	t.Parallel()
	var after rotation.State
	raw, err := json.Marshal(rotation.State{})
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &after))
	require.Equal(t, rotation.State{}, after)
	require.JSONEq(t, `{"versions":null,"current":0,"highest":0}`, string(raw), "what is not there takes no room")
}

// Two fields of the same name would overwrite each other.
func TestJSONNamesAreTheirOwn(t *testing.T) {
	t.Parallel()
	for _, doc := range []any{rotation.State{}, rotation.Version{}, rotation.Rotation{}, rotation.Intent{}, rotation.Step{}} {
		seen := map[string]string{}
		for f := range reflect.TypeOf(doc).Fields() {
			name := f.Tag.Get("json")
			require.NotEmpty(t, name, "%T.%s has no stored name", doc, f.Name)
			require.Empty(t, seen[name], "%T.%s", doc, f.Name)
			seen[name] = f.Name
		}
	}
}

func TestDurationIsStoredAsSeconds(t *testing.T) {
	t.Parallel()
	raw, err := json.Marshal(rotation.Duration(90*time.Minute + 400*time.Millisecond))
	require.NoError(t, err)
	require.Equal(t, "5400", string(raw))

	var d rotation.Duration
	require.NoError(t, json.Unmarshal([]byte("5400"), &d))
	require.Equal(t, 90*time.Minute, d.Std())
	require.Equal(t, int64(5400), d.Seconds())
	require.Equal(t, "1h30m0s", d.String())
	for _, wrong := range []string{`"1h"`, `1.5`, `{}`} {
		require.Error(t, json.Unmarshal([]byte(wrong), &d), wrong)
	}
}
