package rotation_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

// fill gives every field of a value, at any depth, a content of its own: a field
// that is added later is covered without a word here.
func fill(t *testing.T, v reflect.Value, n *int) {
	t.Helper()
	*n++
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Date(2030, 1, 1, 0, 0, *n, *n, time.UTC)))
		return
	case rotation.Duration:
		v.SetInt(int64(*n) * int64(time.Second)) // stored as whole seconds
		return
	case json.RawMessage:
		v.SetBytes(fmt.Appendf(nil, `{"n":%d}`, *n))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprintf("text %d", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(t, v.Index(0), n)
		fill(t, v.Index(1), n)
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(t, key, n)
		fill(t, value, n)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Struct:
		for i := range v.NumField() {
			require.True(t, v.Type().Field(i).IsExported(), "%s.%s would not be stored", v.Type(), v.Type().Field(i).Name)
			fill(t, v.Field(i), n)
		}
	default:
		require.Fail(t, "no way to fill", "%s", v.Type())
	}
}

// A field that is lost on reload is a promise that is lost with the process.
func TestStateSurvivesStorage(t *testing.T) {
	t.Parallel()
	var before, after rotation.State
	fill(t, reflect.ValueOf(&before).Elem(), new(int))
	raw, err := json.Marshal(before)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &after))
	require.Equal(t, before, after)
}

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
