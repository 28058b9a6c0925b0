package rotatortest_test

import (
	"testing"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/rotatortest"
)

func TestMemoryConforms(t *testing.T) {
	for name, values := range map[string]option.Values{"own users": {}, "standing users": {"standing": true}} {
		t.Run(name, func(t *testing.T) { conforms(t, values) })
	}
}

func conforms(t *testing.T, values option.Values) {
	rotatortest.Run(t, func(*testing.T) *rotatortest.Subject {
		kind := rotatortest.NewMemory()
		return &rotatortest.Subject{
			Rotator: kind,
			Role:    &rotator.Role{Name: "app", Values: values},
			Works: func(_ *testing.T, rendered map[string]any) bool {
				user, _ := rendered["username"].(string)
				password, _ := rendered["password"].(string)
				return kind.World.Login(user, password) == nil
			},
			Exists: func(_ *testing.T, identifier string) bool {
				u, found := kind.World.Users()[identifier]
				return found && u.Enabled
			},
			Forge: func(_ *testing.T, identifier string) {
				kind.World.Put(identifier, rotatortest.User{Password: "foreign", Enabled: true})
			},
		}
	})
}
