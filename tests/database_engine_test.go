package tests

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// A static role of Vault's own database engine moves here as the documentation says, while an
// application that reads by the ttl opens new connections all the time: none is refused.
func TestMoveInFromVaultsDatabaseEngine(t *testing.T) {
	t.Parallel()
	vault := vaulttest.New(t, vaulttest.Options{}) // its own: it gets a plugin of Vault's
	w := newWorld(t, "moving", vault, pgtest.Shared(t))
	user := w.role + "_crm"
	w.superuser(
		fmt.Sprintf("CREATE ROLE %s LOGIN", user),
		fmt.Sprintf("GRANT %s TO %s", w.group, user),
		fmt.Sprintf("ALTER ROLE %s SET role = '%s'", user, w.group),
		fmt.Sprintf("GRANT %s TO %s WITH ADMIN OPTION", user, w.admin),
	)
	require.NoError(t, vault.RegisterDatabasePlugin(t.Context(), databasePlugin, ensureDatabasePlugin(t)))
	_, err := vault.CLI(t.Context(), "secrets", "enable", "database")
	require.NoError(t, err)
	theirs := &world{mount: mount{vault.Address(), vault.Token(), "database"}, t: t}
	theirs.write("config/main", map[string]any{
		"plugin_name": databasePlugin, "allowed_roles": "*", "connection_url": w.postgres.TemplateURL(w.database),
		"username": w.admin, "password": w.password, "tls_ca": w.postgres.CAPEM(),
	})
	theirs.write("static-roles/crm", map[string]any{"db_name": "main", "username": user, "rotation_period": "24h"})
	var static credential
	require.NoError(t, unmarshal(theirs.get("static-creds/crm"), &static))

	w.write("roles/"+w.role, w.roleFields(map[string]any{"username": user, "username_prefix": w.role, "password": static.Password}))
	crowd := w.startClients(clients)
	crowd.await(t, 1)
	first := w.current(w.role)
	require.Equal(t, []string{static.Username, static.Password}, []string{first.Username, first.Password}, "who reads there and who reads here have the same")
	a := theirs.call(t.Context(), http.MethodDelete, "static-roles/crm", nil)
	require.True(t, a.ok(), "%s", a.sentence())
	require.NoError(t, w.login(t.Context(), first.URL))

	for range 2 {
		crowd.await(t, w.awaitRotation(w.role))
	}
	await.Until(t, "the user that the database engine had to end", func() (bool, any) {
		v := w.status(w.role).version(first.Version)
		return v.State == "retired" && v.ProvenDead, v
	})
	crowd.stop()
	require.Empty(t, crowd.failures())
	require.Equal(t, "false", w.postgres.MustQuery(t, w.database, "SELECT rolcanlogin::text FROM pg_roles WHERE rolname = $1", user))
}
