package vault_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/dependent"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/dependent/vault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

const canary = "canary-4b8e2f7a-secret"

func config(values option.Values, secrets map[string]string) *rotator.ConnectionConfig {
	all := option.Values{"address": "https://vault.example.com:8200", "role_id": "r", "allowed_paths": []string{"secret/app/*"}}
	for name, value := range values {
		all[name] = value
	}
	if secrets == nil {
		secrets = map[string]string{"secret_id": canary}
	}
	return &rotator.ConnectionConfig{Name: "self", Values: all, Secrets: secret.NewMap(secrets)}
}

func TestConnectionsThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		values  option.Values
		secrets map[string]string
		want    string
	}{
		{option.Values{"address": ""}, nil, "address: is required: the URL of the Vault, such as https://vault.example.com:8200"},
		{option.Values{"address": "http://vault:8200"}, nil, "address: must begin with https://: http:// sends tokens in clear, and needs allow_insecure_http=true"},
		{option.Values{"address": "vault:8200"}, nil, "address: must be a URL such as https://vault.example.com:8200, without user, query and fragment"},
		{option.Values{"address": "https://u:p@vault"}, nil, "address: must be a URL such as https://vault.example.com:8200, without user, query and fragment"},
		{option.Values{"address": "https://vault/?x"}, nil, "address: must be a URL such as https://vault.example.com:8200, without user, query and fragment"},
		{option.Values{"address": "https://vault/v1/"}, nil, "address: must end before /v1: the URL of the Vault, such as https://vault.example.com:8200"},
		{option.Values{"address": "ftp://vault"}, nil, "address: must begin with https://"},
		{option.Values{"auth": "kubernetes"}, nil, "auth: must be approle or token"},
		{option.Values{"auth": "token"}, nil, "token: is required with auth=token"},
		{option.Values{"auth": "token"}, map[string]string{"token": canary + "\n"}, "token: holds characters that no token has, such as a line break or a blank"},
		{option.Values{"role_id": ""}, nil, "role_id: is required with auth=approle"},
		{nil, map[string]string{}, "secret_id: is required with auth=approle"},
		{nil, map[string]string{"secret_id": canary + " "}, "secret_id: holds characters that no secret id has, such as a line break or a blank"},
		{option.Values{"auth_mount": "../token"}, nil, "auth_mount: must be the path of the auth method below auth/, such as approle"},
		{option.Values{"auth_mount": ""}, nil, "auth_mount: must be the path of the auth method below auth/, such as approle"},
		{option.Values{"namespace": "a b"}, nil, "namespace: must be names of namespaces between slashes, such as team/prod"},
		{option.Values{"ca_cert": "x"}, nil, "ca_cert: holds no certificate in PEM form"},
		{option.Values{"tls_server_name": "https://vault"}, nil, "tls_server_name: must be the name of a host"},
		{option.Values{"allowed_paths": []string{"secret"}}, nil, `allowed_paths: has "secret", which fits no path: a mount and what lies in it, with * for anything, such as secret/intelliflow/*`},
		{option.Values{"allowed_paths": []string{"secret/../*"}}, nil, `allowed_paths: has "secret/../*", which fits no path: a mount and what lies in it, with * for anything, such as secret/intelliflow/*`},
		{option.Values{"allowed_paths": []string{""}}, nil, `allowed_paths: has "", which fits no path: a mount and what lies in it, with * for anything, such as secret/intelliflow/*`},
	} {
		_, err := vault.NewConnectionKind().CheckConnection(config(c.values, c.secrets))
		require.EqualError(t, err, c.want)
		require.Equal(t, fault.Invalid, fault.KindOf(err))
	}
}

func TestWarnings(t *testing.T) {
	warnings, err := vault.NewConnectionKind().CheckConnection(config(nil, nil))
	require.NoError(t, err)
	require.Empty(t, warnings)
	warnings, err = vault.NewConnectionKind().CheckConnection(config(
		option.Values{"address": "http://127.0.0.1:8200", "allow_insecure_http": true, "auth": "token", "allowed_paths": []string{"*"}},
		map[string]string{"token": canary, "secret_id": "s"},
	))
	require.NoError(t, err)
	require.Equal(t, []string{
		"allow_insecure_http: tokens and secrets travel in clear to http://127.0.0.1:8200",
		"auth=token: what belongs to the other way to log in is kept, and not used",
		"allowed_paths has *: whoever may write a role may have it write to whatever this connection may",
	}, warnings)
	warnings, err = vault.NewConnectionKind().CheckConnection(config(option.Values{"allowed_paths": []string{}}, nil))
	require.NoError(t, err)
	require.Len(t, warnings, 1)
}

// The secrets follow neither another address, nor another namespace, nor a change of who
// vouches for the host.
func TestAddressOptions(t *testing.T) {
	set := vault.NewConnectionKind().Options()
	for _, name := range []string{"address", "namespace", "allow_insecure_http", "ca_cert", "tls_server_name", "auth_mount"} {
		require.True(t, set.Named(name).Address, name)
	}
	for _, name := range []string{"token", "secret_id"} {
		require.True(t, set.Named(name).Secret, name)
	}
}

func TestCheckPath(t *testing.T) {
	k := vault.NewConnectionKind()
	require.NoError(t, k.CheckPath(config(nil, nil), "secret/app/database"))
	require.ErrorContains(t, k.CheckPath(config(nil, nil), "secret/other"), `the connection does not admit "secret/other"`)
	require.ErrorContains(t, k.CheckPath(config(option.Values{"allowed_paths": nil}, nil), "secret/app/x"), "the connection admits no path")
	require.ErrorContains(t, k.CheckPath(config(nil, nil), "secret/app/../other"), "must not have . or ..")
}

func opened(t *testing.T, c *rotator.ConnectionConfig) rotator.Connection {
	t.Helper()
	conn, err := vault.NewConnectionKind().Open(c)
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	return conn
}

// A copy is written, read, and recognised, in a real Vault.
func TestMirror(t *testing.T) {
	s, k, ctx := vaulttest.New(t, vaulttest.Options{WithoutPlugin: true}), vault.NewConnectionKind(), t.Context()
	admin := s.Client().Logical()
	write := func(path string, data map[string]any) {
		t.Helper()
		_, err := admin.WriteWithContext(ctx, path, data)
		require.NoError(t, err)
	}
	write("sys/mounts/secret", map[string]any{"type": "kv", "options": map[string]any{"version": "2"}})
	write("sys/mounts/transit", map[string]any{"type": "transit"})
	write("transit/keys/intelliflow-data", nil)
	policy, err := os.ReadFile("../../../deploy/vault/rotation-policy.hcl")
	require.NoError(t, err)
	write("sys/policies/acl/rotation", map[string]any{"policy": string(policy)})
	answer, err := admin.WriteWithContext(ctx, "auth/token/create", map[string]any{"policies": []string{"rotation"}, "period": "1h"})
	require.NoError(t, err)

	c := config(option.Values{
		"address": s.Address(), "allow_insecure_http": true, "auth": "token",
		"allowed_paths": []string{"secret/intelliflow/database", "secret/other", "transit/*", "transit/intelliflow-data", "nowhere/x"},
	}, map[string]string{"token": answer.Auth.ClientToken})
	conn := opened(t, c)
	require.NoError(t, k.Ping(ctx, conn))
	const path = "secret/intelliflow/database"
	require.Eventually(t, func() bool {
		_, err := k.Read(ctx, conn, path)
		return err == nil
	}, 20*time.Second, 20*time.Millisecond, "a mount that was just made upgrades itself")
	require.NoError(t, k.Ready(ctx, conn, path))
	require.ErrorContains(t, k.Ready(ctx, conn, "secret/other"), "the token may not read, nor create, nor update secret/data/other")
	require.ErrorContains(t, k.Ready(ctx, conn, "transit/x"), "transit is a mount of type transit, not of KV version 2")
	require.ErrorContains(t, k.Ready(ctx, conn, "nowhere/x"), "the token may do nothing there")
	require.ErrorContains(t, k.Ready(ctx, conn, "secret/forbidden"), "does not admit", "also what is stored already goes by what the connection admits now")

	got, err := k.Read(ctx, conn, path)
	require.NoError(t, err)
	require.Equal(t, dependent.Copy{}, got)
	fields := secret.NewMap(map[string]string{"username": "app", "password": canary})
	version, err := k.Write(ctx, conn, path, fields, 0)
	require.NoError(t, err)
	require.Equal(t, 1, version)
	got, err = k.Read(ctx, conn, path)
	require.NoError(t, err)
	require.Equal(t, 1, got.Version)
	require.True(t, fields.Equal(got.Fields))
	_, err = k.Write(ctx, conn, path, fields, 0)
	require.Equal(t, fault.Conflict, fault.KindOf(err))
	_, err = admin.DeleteWithContext(ctx, "secret/data/intelliflow/database")
	require.NoError(t, err)
	got, err = k.Read(ctx, conn, path)
	require.NoError(t, err)
	require.Equal(t, dependent.Copy{Version: 1, Deleted: true}, got)

	lines, err := k.Check(ctx, conn)
	require.NoError(t, err)
	require.Equal(t, []string{
		"token pass", "policies pass", "secret/intelliflow/database pass", "secret/other fail", "transit/* pass", "transit/intelliflow-data pass", "nowhere/x fail",
	}, results(lines))

	c.Secrets = secret.NewMap(map[string]string{"token": s.Token()})
	lines, err = k.Check(ctx, opened(t, c))
	require.NoError(t, err)
	require.Contains(t, lines, rotator.Line{Check: "policies", Result: rotator.Warn, Detail: "root: the token may do anything; give the connection a policy of its own"})
	c.Secrets = secret.NewMap(map[string]string{"token": canary})
	lines, err = k.Check(ctx, opened(t, c))
	require.NoError(t, err)
	require.Equal(t, []string{"token fail"}, results(lines))
	require.NotContains(t, lines[0].Detail, canary)
	require.Equal(t, fault.AuthFailed, fault.KindOf(k.Ping(ctx, opened(t, c))))

	require.NoError(t, s.Stop(context.WithoutCancel(ctx)))
	require.Equal(t, fault.Unreachable, fault.KindOf(k.Ping(ctx, conn)))
	lines, err = k.Check(ctx, conn)
	require.NoError(t, err)
	require.Equal(t, []string{"reach Vault fail"}, results(lines))
}

func results(lines []rotator.Line) (out []string) {
	for _, l := range lines {
		out = append(out, l.Check+" "+string(l.Result))
	}
	return out
}
