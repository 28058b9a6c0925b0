package postgres

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"

	"github.com/xdg-go/scram"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// scramIterations is PostgreSQL's own default (scram_iterations) and RFC 7677's
// minimum. A pooler passes SCRAM on only if both of its sides agree on it.
const scramIterations = 4096

// scramSaltBytes is what PostgreSQL itself uses.
const scramSaltBytes = 16

// Verifier makes what PostgreSQL stores for a password:
//
//	SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>
//
// as RFC 5802 section 3 and RFC 5803 define it, over the password prepared by
// SASLprep (RFC 4013). The server stores such a string as it is, so that the plain
// password never reaches it, nor its log. It is still a secret: it admits guesses.
func Verifier(password secret.String) (secret.String, error) {
	salt := make([]byte, scramSaltBytes)
	if _, err := rand.Read(salt); err != nil {
		return secret.String{}, fmt.Errorf("make a salt: %w", err)
	}
	return verifier(password, salt)
}

func verifier(password secret.String, salt []byte) (secret.String, error) {
	// Like the server, use a password as it is when SASLprep refuses it.
	client, err := scram.SHA256.NewClient("", password.Reveal(), "")
	if err != nil {
		client, err = scram.SHA256.NewClientUnprepped("", password.Reveal(), "")
	}
	if err != nil {
		return secret.String{}, fmt.Errorf("prepare a SCRAM verifier: %T", err) // the text may quote the password
	}
	stored, err := client.GetStoredCredentialsWithError(scram.KeyFactors{Salt: string(salt), Iters: scramIterations})
	if err != nil {
		return secret.String{}, fmt.Errorf("make a SCRAM verifier: %T", err)
	}
	b64 := base64.StdEncoding.EncodeToString
	return secret.New(fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", scramIterations, b64(salt), b64(stored.StoredKey), b64(stored.ServerKey))), nil
}
