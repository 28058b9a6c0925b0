package rotationsecrets

import (
	"context"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// system shows the engine the part of Vault's system view that it needs. For an
// external plugin each call is a call to Vault's own process.
type system struct{ view logical.SystemView }

// Writable tells whether this node may change storage and the world outside:
// it is the active node of the cluster that owns the mount, and the mount is not
// on its way out.
func (s system) Writable() bool {
	state := s.view.ReplicationState()
	switch {
	case s.view.Tainted(),
		state.HasState(consts.ReplicationDRSecondary),
		state.HasState(consts.ReplicationPerformanceStandby):
		return false
	default:
		return s.view.LocalMount() || !state.HasState(consts.ReplicationPerformanceSecondary)
	}
}

// GeneratePasswordFromPolicy asks Vault for a password of a named policy.
func (s system) GeneratePasswordFromPolicy(ctx context.Context, policy string) (string, error) {
	password, err := s.view.GeneratePasswordFromPolicy(ctx, policy)
	if err != nil {
		return "", fault.New(fault.Target, "Vault made no password from the password policy %q: %w", policy, err)
	}
	return password, nil
}
