package rotationsecrets

import (
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"
)

func TestUnknownFieldsAreRefused(t *testing.T) {
	m := newMount(t)
	for _, c := range []struct {
		name, path string
		op         logical.Operation
		data       map[string]any
		want       string
	}{
		{"near miss", "roles/app", logical.UpdateOperation, map[string]any{"rotation_perod": "1h"}, "rotation_perod: is not a field of roles/:name; did you mean rotation_period?"},
		{"few fields", "rotate/app", logical.UpdateOperation, map[string]any{"immediately": true}, "immediately: is not a field of rotate/:name, which takes force, resume, wait"},
		{"no fields", "connections/main/rotate-root", logical.UpdateOperation, map[string]any{"force": true}, "force: is not a field of connections/:name/rotate-root, which takes none"},
		{"delete", "roles/app", logical.DeleteOperation, map[string]any{"forec": true}, "forec: is not a field of roles/:name; did you mean force?"},
		{"delete, a field of writes", "roles/app", logical.DeleteOperation, map[string]any{"rotation_period": "1h"}, "rotation_period: has no meaning in a delete"},
		{"write, a field of deletes", "roles/app", logical.UpdateOperation, map[string]any{"type": "memory", "force": true}, "force: has no meaning when a role is written"},
		{"long", "config", logical.UpdateOperation, map[string]any{strings.Repeat("x", 100): 1}, strings.Repeat("x", 64) + "...: is not a field of config"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m.refuses(c.op, c.path, c.data, c.want)
		})
	}
}

func TestUnknownQueryOfAReadIsOnlyWarnedOf(t *testing.T) {
	m := newMount(t)
	resp := m.must(logical.ReadOperation, "status", map[string]any{"cachebuster": "1"})
	require.Contains(t, strings.Join(resp.Warnings, "\n"), "cachebuster")
}

func TestMalformedValuesAreRefusedAndNotRepeated(t *testing.T) {
	m := newMount(t)
	const secret = "hunter2"
	for _, c := range []struct {
		path, field string
		value       any
		want        string
	}{
		{"roles/app", "rotation_period", secret, "rotation_period: must be a duration"},
		{"roles/app", "grace_period", "-5m", "grace_period: must be a duration that is not negative"},
		{"roles/app", "grace_period", -5, "grace_period: must be a duration that is not negative"},
		{"roles/app", "rotation_period", "9999999999999d", "rotation_period: must be a duration"},
		{"roles/app", "max_versions", secret, "max_versions: must be a whole number"},
		{"roles/app", "disable_automated_rotation", secret, "disable_automated_rotation: must be true or false"},
		{"roles/app", "custom_metadata", secret, "custom_metadata: must be pairs of key=value"},
		{"roles/app", "type", map[string]any{"a": secret}, "type: must be a text"},
		{"rotate/app", "wait", "soon", "wait: must be a duration"},
		{"rotate/app", "wait", "2m", "wait: is longer than a request may last"},
		{"rollback/app", "version", -1, "version: must be a version number: 1 or more"},
		{"reconcile/app", "action", "ignore", "action: must be remint"},
	} {
		t.Run(c.field+" of "+c.path, func(t *testing.T) {
			sentence := m.refuses(logical.UpdateOperation, c.path, map[string]any{c.field: c.value}, c.want)
			require.NotContains(t, sentence, secret)
		})
	}
}

func TestNamesAreBounded(t *testing.T) {
	m := newMount(t)
	m.refuses(logical.UpdateOperation, "roles/"+strings.Repeat("a", maxName+1), map[string]any{"type": "memory"}, "name: has 129 characters; at most 128 are allowed")
	m.refuses(logical.UpdateOperation, "roles/a..b", map[string]any{"type": "memory"}, "name: may not contain two dots in a row")
	m.answers404(logical.UpdateOperation, "roles/a/b", nil)

	// Vault asks for existence first, and must not stumble there.
	checked, _, err := m.backend.HandleExistenceCheck(t.Context(), m.request(logical.CreateOperation, "roles/a..b", nil))
	require.NoError(t, err)
	require.False(t, checked)
	_, exists, err := m.backend.HandleExistenceCheck(t.Context(), m.request(logical.CreateOperation, "roles/new", map[string]any{"rotation_period": "bad"}))
	require.NoError(t, err)
	require.False(t, exists)
}

func TestNearest(t *testing.T) {
	known := []string{"grace_period", "jitter", "wait"}
	for given, want := range map[string]string{"grace": "", "graceperiod": "grace_period", "jiter": "jitter", "wiat": "wait", "password": ""} {
		require.Equal(t, want, nearest(given, known), given)
	}
}

func TestPathNames(t *testing.T) {
	for _, name := range []string{"config", "connections/:name/check", "creds/:name/versions/:version", "incidents/:id", "oidc/:name/.well-known/openid-configuration"} {
		require.Equal(t, name, PathName(&framework.Path{Pattern: "^" + pattern(name) + "$"}))
	}
	require.Equal(t, "roles", PathName(&framework.Path{Pattern: lists("roles")}))
}
