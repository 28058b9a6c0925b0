package postgresql

import (
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// Render implements rotator.Rotator. Of several hosts, host and port name the
// first; connection_url has them all.
func (*Rotator) Render(t *rotator.Target) (map[string]any, error) {
	password, err := passwordOf(t.Material)
	if err != nil {
		return nil, err
	}
	connection, err := decodeConnection(t.Role.ConnectionValues)
	if err != nil {
		return nil, err
	}
	address, err := postgres.ParseAddress(connection.ConnectionURL)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"username":       t.Version.Identifier,
		"password":       password.Reveal(),
		"host":           address.Hosts[0].Name,
		"port":           int(address.Hosts[0].Port),
		"database":       address.Database,
		"connection_url": address.URL(t.Version.Identifier, password.Reveal()),
	}, nil
}
