package mark_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/mark"
)

var key = mark.Key("0123456789abcdef0123456789abcdef")

func TestRoundTrip(t *testing.T) {
	id := strings.Repeat("f", 36)
	for _, m := range []mark.Mark{
		{Instance: "i", Role: "database", Version: 7, RotationID: "r"},
		{Instance: id, Role: strings.Repeat("x", 128), Version: 1 << 30, RotationID: id}, // the longest that can be
	} {
		text := key.Sign(m, "object")
		require.LessOrEqual(t, len(text), mark.MaxBytes)
		got, mac, err := mark.Parse(text)
		require.NoError(t, err)
		require.Equal(t, m, got)
		require.True(t, key.Verify(got, mac, "object"))
		require.False(t, key.Verify(got, mac, "another"))
		require.False(t, mark.Key("another key").Verify(got, mac, "object"))
	}
}

func TestParseRefuses(t *testing.T) {
	good := key.Sign(mark.Mark{Instance: "i", Role: "r", Version: 1, RotationID: "x"}, "o")
	for name, text := range map[string]string{
		"nothing":          "",
		"another text":     "a comment",
		"another prefix":   strings.Replace(good, ":1 ", ":2 ", 1),
		"a field too many": good + " more=1",
		"a field too few":  good[:strings.LastIndex(good, " ")],
		"an empty field":   strings.Replace(good, "role=r", "role=", 1),
		"no number":        strings.Replace(good, "version=1", "version=one", 1),
		"version zero":     strings.Replace(good, "version=1", "version=0", 1),
		"a long field":     strings.Replace(good, "role=r", "role="+strings.Repeat("r", 129), 1),
		"a long mac":       good + strings.Repeat("A", 100),
		"a long number":    strings.Replace(good, "version=1", "version="+strings.Repeat("0", 200)+"1", 1),
		"long altogether":  strings.NewReplacer("instance=i", "instance="+strings.Repeat("i", 128), "role=r", "role="+strings.Repeat("r", 128), "rotation=x", "rotation="+strings.Repeat("x", 128), "version=1", "version="+strings.Repeat("0", 60)+"1").Replace(good),
	} {
		_, _, err := mark.Parse(text)
		require.ErrorIs(t, err, mark.ErrNotAMark, name)
	}
}
