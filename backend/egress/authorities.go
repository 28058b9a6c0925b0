package egress

import (
	"crypto/x509"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// Authorities reads an option that says who may vouch for a host, in PEM form; nil, for those
// that the system trusts, where it is empty. field is the option's name.
func Authorities(field, pem string) (*x509.CertPool, error) {
	if pem == "" {
		return nil, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(pem)) {
		return nil, fault.Field(field, "holds no certificate in PEM form")
	}
	return pool, nil
}
