package secret_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

const canary = "canary-7f3a"

// bytesOf is how fmt shows a list of bytes.
var bytesOf = fmt.Sprintf("%v", []byte(canary))

// hidden is how a careless struct of ours may hold a secret: fmt does not call the
// methods of a field that is not exported.
type hidden struct {
	password secret.String
	material secret.Map
}

type open struct {
	Password secret.String
	Material secret.Map
}

// carriers are all the ways a secret lies about in a program.
func carriers() map[string]any {
	s, m := secret.New(canary), secret.NewMap(map[string]string{"password": canary})
	return map[string]any{
		"string": s, "pointer": &s, "map": m, "slice": []secret.String{s}, "array": [1]secret.String{s}, "any": []any{s, m},
		"hidden": hidden{s, m}, "hidden pointer": &hidden{s, m}, "open": open{s, m}, "open pointer": &open{s, m},
		"nested": map[string]hidden{"a": {s, m}},
	}
}

// leaks tells whether a text shows the canary, plain or in hex, or as bytes.
func leaks(text string) bool {
	return strings.Contains(text, canary) || strings.Contains(strings.ToLower(text), fmt.Sprintf("%x", canary)) ||
		strings.Contains(text, bytesOf)
}

func TestNoFormatShowsASecret(t *testing.T) {
	t.Parallel()
	var formats []string
	for verb := rune('A'); verb <= 'z'; verb++ {
		for _, flags := range []string{"", "#", "+", "# ", "-20", "10.5"} {
			formats = append(formats, "%"+flags+string(verb))
		}
	}
	// A wrong verb, an argument too many and a bad width make fmt print by reflection.
	formats = append(formats, "nothing", "%!", "%[3]d", "%*d", "%.*s")
	for name, carrier := range carriers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, format := range formats {
				require.False(t, leaks(fmt.Sprintf(format, carrier)), "Sprintf(%q)", format)
				require.False(t, leaks(fmt.Sprintf(format, carrier, carrier)), "Sprintf(%q) with an argument too many", format)
				require.False(t, leaks(fmt.Errorf(format, carrier).Error()), "Errorf(%q)", format)
			}
			require.False(t, leaks(fmt.Sprint(carrier)), "Sprint")
			require.False(t, leaks(fmt.Sprintln("a", carrier)), "Sprintln")
		})
	}
}

func TestNoEncodingShowsASecret(t *testing.T) {
	t.Parallel()
	for name, carrier := range carriers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			raw, err := json.Marshal(carrier)
			require.NoError(t, err)
			require.False(t, leaks(string(raw)), "JSON: %s", raw)

			var log bytes.Buffer
			slog.New(slog.NewTextHandler(&log, nil)).Info("text", "value", carrier)
			slog.New(slog.NewJSONHandler(&log, nil)).Info("json", "value", carrier)
			hclog.New(&hclog.LoggerOptions{Output: &log}).Error("text", "value", carrier, "error", fmt.Errorf("failed: %v", carrier))
			hclog.New(&hclog.LoggerOptions{Output: &log, JSONFormat: true}).Error("json", "value", carrier)
			require.Equal(t, 4, strings.Count(log.String(), "\n"), log.String())
			require.False(t, leaks(log.String()), "log: %s", log.String())
		})
	}
}

func TestPlaceholderIsShown(t *testing.T) {
	t.Parallel()
	s := secret.New(canary)
	require.Equal(t, secret.Placeholder, s.String())
	require.Equal(t, "a [redacted] b", fmt.Sprintf("a %s b", s))
	raw, err := json.Marshal(map[string]secret.String{"k": s})
	require.NoError(t, err)
	require.JSONEq(t, `{"k":"[redacted]"}`, string(raw))
	require.Equal(t, secret.Placeholder, s.LogValue().String())
	// One that is not there looks the same: its absence says something, too.
	require.Equal(t, secret.Placeholder, fmt.Sprint(secret.String{}))
}

func TestReveal(t *testing.T) {
	t.Parallel()
	require.Equal(t, canary, secret.New(canary).Reveal())
	require.Empty(t, secret.String{}.Reveal())
	require.True(t, secret.String{}.Empty())
	require.True(t, secret.New("").Empty())
	require.False(t, secret.New("x").Empty())
}

func TestEqual(t *testing.T) {
	t.Parallel()
	require.True(t, secret.New(canary).Equal(secret.New(canary)))
	require.True(t, secret.String{}.Equal(secret.New("")))
	require.False(t, secret.New(canary).Equal(secret.New(canary+"x")))
	require.False(t, secret.New(canary).Equal(secret.String{}))
}

func TestMap(t *testing.T) {
	t.Parallel()
	plain := map[string]string{"a": "1", "b": "2"}
	m := secret.NewMap(plain)
	require.Equal(t, plain, m.Reveal())
	plain["a"] = "changed"
	require.Equal(t, "1", m["a"].Reveal(), "the map is the caller's no more")

	merged := m.Merge(secret.NewMap(map[string]string{"b": "3", "c": "4"}))
	require.Equal(t, map[string]string{"a": "1", "b": "3", "c": "4"}, merged.Reveal())
	require.Equal(t, map[string]string{"a": "1", "b": "2"}, m.Reveal(), "merging changes neither")
	require.Empty(t, secret.Map(nil).Reveal())
	require.Equal(t, map[string]string{"a": "1", "b": "2"}, secret.Map(nil).Merge(m).Reveal())
}

func TestErrorChainsHideToo(t *testing.T) {
	t.Parallel()
	err := errors.Join(errors.New("first"), fmt.Errorf("second: %w", fmt.Errorf("%v", hidden{password: secret.New(canary)})))
	require.False(t, leaks(fmt.Sprintf("%+v", err)))
}
