package mark_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/mark"
)

func TestNamesBearMarks(t *testing.T) {
	t.Parallel()
	key := mark.Key("a key")
	m := mark.Mark{Instance: "4d1f0a52-8f4e-4a55-9d3a-0d3b8f1f0c11", Role: "open-ai.main", Version: 12, RotationID: "7a1e0f7e-8d0b-4b6e-a4d7-2a1f0c9b8e77"}
	name := key.Name(m)
	require.True(t, strings.HasPrefix(name, mark.NamePrefix("open-ai.main")))
	require.Contains(t, name, m.RotationID)
	require.LessOrEqual(t, len(name), 100)

	found, mac, err := mark.ParseName(name)
	require.NoError(t, err)
	require.Equal(t, mark.Mark{Instance: "4d1f0a52", Role: m.Role, Version: 12, RotationID: m.RotationID}, found)
	require.True(t, key.VerifyName(found, mac))
	require.True(t, key.VerifyName(m, mac))
	require.False(t, mark.Key("another").VerifyName(found, mac))

	for _, change := range []func(*mark.Mark){
		func(m *mark.Mark) { m.Role = "other" },
		func(m *mark.Mark) { m.Version = 13 },
		func(m *mark.Mark) { m.Instance = "ffffffff" },
		func(m *mark.Mark) { m.RotationID = "8a1e0f7e-8d0b-4b6e-a4d7-2a1f0c9b8e77" },
	} {
		other := found
		change(&other)
		require.False(t, key.VerifyName(other, mac))
	}
}

func TestNamesThatAreNotMarks(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"", "vault:", "my key", "vault:role:v1:inst:rot", "vault:role:v1:inst:rot:mac:more", "vault:role:1:inst:rot:mac",
		"vault:role:v0:inst:rot:mac", "vault:role:v01:inst:rot:mac", "vault::v1:inst:rot:mac", "vault:role:v1:inst:rot:",
		"other:role:v1:inst:rot:mac", "vault:" + strings.Repeat("r", 200) + ":v1:inst:rot:mac",
	} {
		_, _, err := mark.ParseName(name)
		require.ErrorIs(t, err, mark.ErrNotAMark, name)
	}
}
