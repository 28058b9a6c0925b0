package postgres

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/xdg-go/scram"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

func TestVerifierOfRFC7677(t *testing.T) {
	// RFC 7677 section 3: user "user", password "pencil".
	salt, err := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	require.NoError(t, err)
	v, err := verifier(secret.New("pencil"), salt)
	require.NoError(t, err)
	require.Equal(t, "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=", v.Reveal())
}

func TestVerifiersDiffer(t *testing.T) {
	a, err := Verifier(secret.New("same"))
	require.NoError(t, err)
	b, err := Verifier(secret.New("same"))
	require.NoError(t, err)
	require.False(t, a.Equal(b))
}

// The refused password must not stand in the error.
func TestUnpreparablePasswords(t *testing.T) {
	for _, password := range []string{"bell\a", "\u0627\u0031x", "\u200b", strings.Repeat("x", 512)} {
		_, prepared := scram.SHA256.NewClient("", password, "")
		v, err := Verifier(secret.New(password))
		if prepared == nil {
			require.NoError(t, err)
			continue
		}
		require.NoError(t, err, "PostgreSQL falls back to the password as it is")
		require.NotContains(t, v.Reveal(), password)
	}
}
