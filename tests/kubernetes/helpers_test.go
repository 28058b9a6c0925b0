package kubernetes

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/kubernetestest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/podrunner"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// A world is a namespace, a mount of the engine and a database with a connection main, none of which
// another test knows.
type world struct {
	t          *testing.T
	kubernetes *kubernetestest.Cluster
	vault      *vaulttest.Server
	postgres   *pgtest.Server

	namespace string
	mount     string
	group     string // may be handed out by the role
}

var worlds atomic.Int64

func newWorld(t *testing.T, vault *vaulttest.Server) *world {
	t.Helper()
	name := fmt.Sprintf("world%d", worlds.Add(1))
	w := &world{t: t, kubernetes: cluster(t), vault: vault, postgres: pgtest.Shared(t), mount: name, group: name + "_app"}
	w.namespace = w.kubernetes.Namespace(t, name)
	require.NoError(t, w.postgres.CreateDatabase(t.Context(), name, ""))
	admin, password := name+"_admin", rand.Text()
	w.postgres.MustExec(t, name,
		fmt.Sprintf("CREATE ROLE %s LOGIN CREATEROLE PASSWORD '%s'", admin, password),
		fmt.Sprintf("CREATE ROLE %s NOLOGIN", w.group),
		fmt.Sprintf("GRANT %s TO %s WITH ADMIN OPTION", w.group, admin),
		fmt.Sprintf("GRANT pg_signal_backend, pg_read_all_stats TO %s", admin),
	)
	require.NoError(t, vault.Mount(t.Context(), w.mount))
	w.write("connections/main", map[string]any{
		"type": "postgresql", "connection_url": w.postgres.TemplateURL(name), "tls_ca": w.postgres.CAPEM(),
		"username": admin, "password": password, "allowed_groups": w.group,
	})
	return w
}

// writeRole writes a role of this world's database, with additional fields.
func (w *world) writeRole(name string, fields map[string]any) {
	w.t.Helper()
	w.write("roles/"+name, w.roleFields(fields))
}

func (w *world) roleFields(fields map[string]any) map[string]any {
	all := map[string]any{
		"type": "postgresql", "connection": "main", "member_of": w.group, "rotation_period": "30d", "grace_period": "20s",
	}
	for field, value := range fields {
		all[field] = value
	}
	return all
}

// write makes a request that must succeed.
func (w *world) write(path string, fields map[string]any) *api.Secret {
	w.t.Helper()
	answer, err := w.vault.Client().Logical().WriteWithContext(w.t.Context(), w.mount+"/"+path, fields)
	require.NoError(w.t, err)
	return answer
}

// read reads what must be there into what the pointer leads to.
func (w *world) read(path string, into any) {
	w.t.Helper()
	answer, err := w.vault.Client().Logical().ReadWithContext(w.t.Context(), w.mount+"/"+path)
	require.NoError(w.t, err)
	require.NotNil(w.t, answer, "%s is not there", path)
	text, err := json.Marshal(answer.Data)
	require.NoError(w.t, err)
	require.NoError(w.t, json.Unmarshal(text, into))
}

// currentVersion is the version of a role that readers get.
func (w *world) currentVersion(role string) int {
	w.t.Helper()
	var status struct {
		Current int `json:"current_version"`
	}
	w.read("status/"+role, &status)
	return status.Current
}

// deploy makes a Deployment, an application that logs in with the role's credential.
func (w *world) deploy(app, role string, replicas int) *podrunner.Runner {
	w.t.Helper()
	deployment := kubernetestest.WithReadiness(kubernetestest.Deployment(w.namespace, app, replicas), kubernetestest.ReadyWhenToldSo)
	require.NoError(w.t, w.kubernetes.Apply(w.t.Context(), deployment))
	runner := podrunner.New(w.t, podrunner.Options{
		Client: w.kubernetes.Client, Namespace: w.namespace, App: app,
		VaultAddress: w.vault.Address(), VaultToken: w.vault.Token(), Path: w.mount + "/creds/" + role,
		PostgresCA: w.postgres.CAPEM(),
	})
	w.awaitRollout(app)
	return runner
}

func (w *world) awaitRollout(deployment string) {
	w.t.Helper()
	require.NoError(w.t, w.kubernetes.AwaitRollout(w.t.Context(), "Deployment", w.namespace, deployment))
}
