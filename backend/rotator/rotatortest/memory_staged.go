package rotatortest

import (
	"context"
	"crypto/rand"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// Versions whose secret the target makes, and those that stand by as the second of a pair.

// Mints implements rotator.Minter.
func (m *Memory) Mints(r *rotator.Role) bool {
	decoded, err := decode(r)
	return err == nil && decoded.Minted
}

// Mint implements rotator.Minter: a second call for the same version would be refused,
// since nobody could have the first password.
func (m *Memory) Mint(_ context.Context, t *rotator.Target) (*rotator.Candidate, error) {
	name, password := t.Version.Identifier, rand.Text()
	err := m.World.change(func(users map[string]*User) error {
		if users[name] != nil {
			return fault.New(fault.Target, "user %q exists: it was made twice", name)
		}
		users[name] = &User{Password: password, Enabled: true, Comment: t.MarkKey.Sign(t.Mark, name)}
		return nil
	})
	return &rotator.Candidate{Identifier: name, Material: secret.NewMap(map[string]string{"password": password})}, err
}

// Soak implements rotator.Soaker.
func (m *Memory) Soak(r *rotator.Role) rotator.Soak {
	decoded, err := decode(r)
	if err != nil {
		return rotator.Soak{}
	}
	return rotator.Soak{Period: decoded.Soak.Std(), Auto: decoded.Auto, Ahead: decoded.Announce == 0}
}

// RenderSecond implements rotator.Pairer.
func (m *Memory) RenderSecond(t *rotator.Target) (map[string]any, error) {
	if decoded, err := decode(t.Role); err != nil || !decoded.Minted {
		return nil, err
	}
	return map[string]any{"second_username": t.Version.Identifier, "second_password": t.Material["password"].Reveal()}, nil
}
