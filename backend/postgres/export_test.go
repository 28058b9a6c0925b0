package postgres

import (
	"encoding/base64"
	"sync"
	"testing"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// VerifierWithSalt is Verifier with a known salt, in base64.
func VerifierWithSalt(password, salt string) (string, error) {
	raw, err := base64.StdEncoding.DecodeString(salt)
	if err != nil {
		return "", err
	}
	v, err := verifier(secret.New(password), raw)
	return v.Reveal(), err
}

// ForgetDriverConfig makes the driver's configuration anew for one test.
func ForgetDriverConfig(t testing.TB) {
	before := driverConfig
	driverConfig = sync.OnceValues(newDriverConfig)
	t.Cleanup(func() { driverConfig = before })
}
