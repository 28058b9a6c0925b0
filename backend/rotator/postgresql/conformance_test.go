package postgresql_test

import (
	"testing"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/postgresql"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/rotatortest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// TestConforms runs the contract's own suite as both kinds of administrator, for
// users that we make, for those that statements make, and for two that stand.
func TestConforms(t *testing.T) {
	for admin, superuser := range admins {
		t.Run(admin, func(t *testing.T) {
			rotatortest.Run(t, func(t *testing.T) *rotatortest.Subject { return subject(newFixture(t, superuser)) })
		})
		t.Run(admin+", statements", func(t *testing.T) {
			rotatortest.Run(t, func(t *testing.T) *rotatortest.Subject { return subject(customFixture(t, superuser, granting())) })
		})
		t.Run(admin+", standing users", func(t *testing.T) {
			rotatortest.Run(t, func(t *testing.T) *rotatortest.Subject {
				f := standingFixture(t, superuser)
				s := subject(f)
				s.Exists = func(_ *testing.T, identifier string) bool { return f.mayLogIn(identifier) }
				return s
			})
		})
	}
}

func subject(f *fixture) *rotatortest.Subject {
	return &rotatortest.Subject{
		Rotator: postgresql.New(), Role: f.role, Conn: f.conn,
		Works: func(_ *testing.T, rendered map[string]any) bool {
			user, _ := rendered["username"].(string)
			password, _ := rendered["password"].(string)
			conn, err := f.server.Connect(f.ctx(), user, password, f.database)
			if err != nil {
				return false
			}
			return conn.Close(f.ctx()) == nil
		},
		Exists: func(_ *testing.T, identifier string) bool { return f.exists(identifier) },
		Forge: func(t *testing.T, identifier string) {
			f.server.MustExec(t, "postgres", "CREATE ROLE "+pgtest.Ident(identifier)+" LOGIN PASSWORD 'foreign'")
		},
	}
}
