package rotatortest_test

import (
	"testing"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/rotatortest"
)

func TestMemoryConforms(t *testing.T) {
	rotatortest.Run(t, func(*testing.T) *rotatortest.Subject {
		kind := rotatortest.NewMemory()
		return &rotatortest.Subject{
			Rotator: kind,
			Role:    &rotator.Role{Name: "app", Values: option.Values{}},
			Works: func(_ *testing.T, rendered map[string]any) bool {
				user, _ := rendered["username"].(string)
				password, _ := rendered["password"].(string)
				return kind.World.Login(user, password) == nil
			},
			Exists: func(_ *testing.T, identifier string) bool {
				_, found := kind.World.Users()[identifier]
				return found
			},
			Forge: func(_ *testing.T, identifier string) {
				kind.World.Put(identifier, rotatortest.User{Password: "foreign", Enabled: true})
			},
		}
	})
}
