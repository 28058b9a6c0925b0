package apikey_test

import (
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/apikey"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/rotatortest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
)

func TestConformanceOpenAI(t *testing.T) {
	t.Parallel()
	rotatortest.Run(t, func(t *testing.T) *rotatortest.Subject {
		api := fakeapi.NewOpenAI()
		t.Cleanup(api.Close)
		values := option.Values{"base_url": api.BaseURL(), "project": api.Project(), "allow_insecure_http": true}
		return subject(t, "openai", values, map[string]string{"admin_key": api.AdminKey()}, api.Server)
	})
}

func TestConformanceHTTP(t *testing.T) {
	t.Parallel()
	for file, fake := range map[string]func() *fakeapi.Server{ // keys that can be brought back, and keys that cannot
		"openrouter.json": func() *fakeapi.Server { return fakeapi.NewOpenRouter().Server },
		"sendgrid.json":   func() *fakeapi.Server { return fakeapi.NewSendGrid().Server },
	} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			definition, err := os.ReadFile("../../../docs/providers/" + file)
			require.NoError(t, err)
			rotatortest.Run(t, func(t *testing.T) *rotatortest.Subject {
				api := fake()
				t.Cleanup(api.Close)
				values := option.Values{"base_url": api.URL(), "definition": string(definition), "allow_insecure_http": true}
				return subject(t, "http", values, map[string]string{"admin_key": api.AdminKey()}, api)
			})
		})
	}
}

// subject is a role with strategy create on a connection to a fake.
func subject(t *testing.T, typ string, values option.Values, secrets map[string]string, api *fakeapi.Server) *rotatortest.Subject {
	t.Helper()
	role := &rotator.Role{
		Name: "app", Values: option.Values{"strategy": "create"}, Connection: "main", ConnectionType: typ, ConnectionValues: values,
		Grace: time.Hour, Interval: 24 * time.Hour,
	}
	require.NoError(t, apikey.New().CheckRole(nil, role))
	return &rotatortest.Subject{
		Rotator: apikey.New(), Role: role, Conn: openConnection(t, typ, values, secrets),
		Works: func(t *testing.T, rendered map[string]any) bool {
			t.Helper()
			key, ok := rendered["primary_key"].(string)
			require.True(t, ok)
			return api.Works(key)
		},
		Exists: func(_ *testing.T, identifier string) bool {
			return slices.ContainsFunc(api.Keys(), func(k fakeapi.Key) bool { return k.ID == identifier || k.Name == identifier })
		},
	}
}

// openConnection opens a connection of a type, and closes it with the test.
func openConnection(t *testing.T, typ string, values option.Values, secrets map[string]string) rotator.Connection {
	t.Helper()
	kind := kindOf(t, typ)
	config := &rotator.ConnectionConfig{Name: "main", Values: values, Secrets: secret.NewMap(secrets)}
	_, err := kind.CheckConnection(config)
	require.NoError(t, err)
	conn, err := kind.Open(config)
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	require.NoError(t, kind.Ping(t.Context(), conn))
	return conn
}

func kindOf(t *testing.T, typ string) *apikey.ConnectionKind {
	t.Helper()
	for _, kind := range apikey.NewConnectionKinds() {
		if kind.Type() == typ {
			kind.Transport = func(http.RoundTripper) http.RoundTripper { return &http.Transport{DisableKeepAlives: true} }
			return kind
		}
	}
	t.Fatalf("no type %q", typ)
	return nil
}
