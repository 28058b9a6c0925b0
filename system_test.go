package rotationsecrets

import (
	"errors"
	"testing"

	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

func TestWritable(t *testing.T) {
	for name, c := range map[string]struct {
		view logical.StaticSystemView
		want bool
	}{
		"active":                               {logical.StaticSystemView{}, true},
		"being unmounted":                      {logical.StaticSystemView{TaintedVal: true}, false},
		"disaster recovery secondary":          {logical.StaticSystemView{ReplicationStateVal: consts.ReplicationDRSecondary}, false},
		"performance standby":                  {logical.StaticSystemView{ReplicationStateVal: consts.ReplicationPerformanceStandby}, false},
		"performance secondary":                {logical.StaticSystemView{ReplicationStateVal: consts.ReplicationPerformanceSecondary}, false},
		"performance secondary, a local mount": {logical.StaticSystemView{ReplicationStateVal: consts.ReplicationPerformanceSecondary, LocalMountVal: true}, true},
		"standby of a local mount": {logical.StaticSystemView{
			ReplicationStateVal: consts.ReplicationPerformanceSecondary | consts.ReplicationPerformanceStandby, LocalMountVal: true,
		}, false},
	} {
		require.Equal(t, c.want, system{c.view}.Writable(), name)
	}
}

func TestPasswordPolicy(t *testing.T) {
	view := logical.StaticSystemView{PasswordPolicies: map[string]logical.PasswordGenerator{
		"good": func() (string, error) { return "generated", nil },
		"bad":  func() (string, error) { return "", errors.New("no such rule") },
	}}
	password, err := system{view}.GeneratePasswordFromPolicy(t.Context(), "good")
	require.NoError(t, err)
	require.Equal(t, "generated", password)
	_, err = system{view}.GeneratePasswordFromPolicy(t.Context(), "bad")
	require.True(t, fault.Is(err, fault.Target))
	require.ErrorContains(t, err, `"bad"`)
}

// A standby forwards whatever changes something, and reads credentials itself.
func TestStandbyForwards(t *testing.T) {
	m := newMount(t)
	m.role()
	standby := m.on(&logical.StaticSystemView{ReplicationStateVal: consts.ReplicationPerformanceStandby})
	for path, op := range map[string]logical.Operation{
		"rotate/app": update, "roles/app": remove, "connections/main": update, "config": update,
		"creds/app/versions/1": read, "status/app": read,
	} {
		resp, err := standby.handle(op, path, nil)
		require.Nil(t, resp, path)
		require.Equal(t, logical.ErrReadOnly, err, path)
	}
	standby.must(read, "creds/app", nil)

	secondary := m.on(&logical.StaticSystemView{ReplicationStateVal: consts.ReplicationPerformanceSecondary})
	_, err := secondary.handle(update, "emergency/app", map[string]any{"reason": "leak"})
	require.Equal(t, logical.ErrReadOnly, err)
}
