package rotationsecrets

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// system shows the engine the part of Vault's system view that it needs. For an
// external plugin each call is a call to Vault's own process.
type system struct{ view logical.SystemView }

// recentState answers ReplicationState from memory for a moment. The framework asks
// for it before every operation, and over the plugin protocol that is a call into
// Vault's process: a seventh of what reading credentials costs. The engine itself
// asks the uncached view; a node that changed its part a moment ago is stopped by
// storage, which refuses its writes.
type recentState struct {
	logical.SystemView
	mu    sync.Mutex
	state consts.ReplicationState
	asked time.Time
}

// stateAge is for how long a replication state is taken for true.
const stateAge = time.Second

// ReplicationState implements logical.SystemView.
func (r *recentState) ReplicationState() consts.ReplicationState {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); r.asked.IsZero() || now.Sub(r.asked) > stateAge { //nolint:forbidigo // Vault's own view of itself
		r.state, r.asked = r.SystemView.ReplicationState(), now
	}
	return r.state
}

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

// ReadsElsewhere tells whether the cluster may have performance standbys, which answer
// reads by themselves. Only Vault Enterprise does.
func (s system) ReadsElsewhere(ctx context.Context) bool {
	env, err := s.view.PluginEnv(ctx)
	return err != nil || env == nil || strings.Contains(env.VaultVersion+"+"+env.VaultVersionMetadata, "+ent")
}

// GeneratePasswordFromPolicy asks Vault for a password of a named policy.
func (s system) GeneratePasswordFromPolicy(ctx context.Context, policy string) (string, error) {
	password, err := s.view.GeneratePasswordFromPolicy(ctx, policy)
	if err != nil {
		return "", fault.New(fault.Target, "Vault made no password from the password policy %q: %w", policy, err)
	}
	return password, nil
}
