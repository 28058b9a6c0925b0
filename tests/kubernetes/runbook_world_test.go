package kubernetes

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/kubernetestest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/podrunner"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// A runbook is a world in which the Deployments api and web log in with the role database, which knows
// all that depends on it.
type runbook struct {
	*world
	api, web *podrunner.Runner
}

func newRunbook(t *testing.T, vault *vaulttest.Server, fields map[string]any) *runbook {
	t.Helper()
	r := &runbook{world: newWorld(t, vault)}
	r.connectKubernetes("prod", r.rbac(false), "/deployment/api", "/deployment/web")
	r.connectVault("self")
	r.writeRole("database", map[string]any{"mirror": r.mirrorOf("database")}) // its first version
	r.api, r.web = r.deploy("api", "database", 2), r.deploy("web", "database", 2)
	r.givenUpAfter("api", patient)
	r.givenUpAfter("web", patient)
	for name, app := range map[string]*podrunner.Runner{"api-health": r.api, "web-health": r.web} {
		r.write("connections/"+name, map[string]any{
			"type": "http-check", "url": app.URL() + "/health", "allow_insecure_http": true, "interval": "1s",
		})
	}
	all := map[string]any{
		"mirror": r.mirrorOf("database"), "rollout": r.target("/deployment/api") + "," + r.target("/deployment/web"), "rollout_timeout": "5m",
		"checks": "api-health,web-health", "expect_sessions": "api,web",
	}
	for field, value := range fields {
		all[field] = value
	}
	r.writeRole("database", all)
	return r
}

// rbac applies the manifest of deploy/ to this world's namespace, with what only selectors need or
// without, and gives the token that it makes.
func (w *world) rbac(selectors bool) (token string) {
	w.t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "kubernetes", "rbac.yaml"))
	require.NoError(w.t, err)
	accounts := w.kubernetes.Namespace(w.t, "vault")
	manifest := strings.NewReplacer("namespace: vault", "namespace: "+accounts, "namespace: default", "namespace: "+w.namespace).Replace(string(text))
	var documents []string
	for _, document := range strings.Split(manifest, "---\n") {
		if selectors || !strings.Contains(document, "vault-rotation-selectors") {
			documents = append(documents, document)
		}
	}
	require.NoError(w.t, w.kubernetes.ApplyManifest(w.t.Context(), strings.Join(documents, "---\n")))
	await.Until(w.t, "the token of the manifest", func() (bool, any) {
		var secret struct {
			Data map[string]string `json:"data"`
		}
		err := w.kubernetes.Get(w.t.Context(), "Secret", accounts, "vault-rotation", &secret)
		require.NoError(w.t, err)
		raw, err := base64.StdEncoding.DecodeString(secret.Data["token"])
		require.NoError(w.t, err)
		token = string(raw)
		return token != "", secret.Data
	})
	return token
}

// connectKubernetes writes a connection that admits targets of this world's namespace, and waits until
// the API server knows of the account's rights.
func (w *world) connectKubernetes(name, token string, targets ...string) {
	w.t.Helper()
	for i := range targets {
		targets[i] = w.namespace + targets[i]
	}
	w.write("connections/"+name, map[string]any{
		"type": "kubernetes", "kubernetes_host": w.kubernetes.Address(), "kubernetes_ca_cert": w.kubernetes.CAPEM(),
		"service_account_jwt": token, "allowed_targets": targets,
	})
	await.Until(w.t, "the account's rights", func() (bool, any) {
		lines := w.lines("connections/" + name + "/check")
		for _, line := range lines {
			if line.Result != "pass" {
				return false, lines
			}
		}
		return len(lines) == 1+len(targets), lines
	})
}

type checkLine struct{ Check, Result, Detail string }

func (w *world) lines(path string) []checkLine {
	w.t.Helper()
	var answer struct{ Lines []checkLine }
	w.read(path, &answer)
	return answer.Lines
}

// target is what a role writes for a workload of this world.
func (w *world) target(workload string) string { return "prod/" + w.namespace + workload }

// mirrorOf is where the copy of a role lies.
func (w *world) mirrorOf(role string) string { return "self/" + w.kv() + "/" + role }

func (w *world) kv() string { return w.mount + "-secret/intelliflow" }

// connectVault mounts KV version 2, and lets the engine write there with the policy of deploy/.
func (w *world) connectVault(name string) {
	w.t.Helper()
	ctx, client, account := w.t.Context(), w.vault.Client(), w.mount
	mount, _, _ := strings.Cut(w.kv(), "/")
	require.NoError(w.t, client.Sys().MountWithContext(ctx, mount, &api.MountInput{Type: "kv", Options: map[string]string{"version": "2"}}))
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "vault", "rotation-policy.hcl"))
	require.NoError(w.t, err)
	policy := strings.ReplaceAll(string(text), "secret/data/intelliflow/", mount+"/data/intelliflow/")
	require.NoError(w.t, client.Sys().PutPolicyWithContext(ctx, account, policy))
	auth := account + "-approle"
	require.NoError(w.t, client.Sys().EnableAuthWithOptionsWithContext(ctx, auth, &api.EnableAuthOptions{Type: "approle"}))
	role := "auth/" + auth + "/role/rotation"
	_, err = client.Logical().WriteWithContext(ctx, role, map[string]any{"token_policies": account, "token_no_default_policy": true, "token_ttl": "1h", "token_max_ttl": "24h"})
	require.NoError(w.t, err)
	id, err := client.Logical().ReadWithContext(ctx, role+"/role-id")
	require.NoError(w.t, err)
	secret, err := client.Logical().WriteWithContext(ctx, role+"/secret-id", nil)
	require.NoError(w.t, err)
	w.write("connections/"+name, map[string]any{
		"type": "vault", "address": w.vault.Address(), "allow_insecure_http": true, "auth_mount": auth,
		"role_id": id.Data["role_id"], "secret_id": secret.Data["secret_id"], "allowed_paths": w.kv() + "/*",
	})
}

// copied is what lies in KV for a role, and as which version of KV.
func (w *world) copied(role string) (fields map[string]any, version int) {
	w.t.Helper()
	mount, folder, _ := strings.Cut(w.kv(), "/")
	secret, err := w.vault.Client().KVv2(mount).Get(w.t.Context(), folder+"/"+role)
	require.NoError(w.t, err)
	return secret.Data, secret.VersionMetadata.Version
}

// isCopied checks that KV has what readers of the engine get.
func (w *world) isCopied(role string) {
	w.t.Helper()
	var creds struct {
		Version                            int
		Username, Password, Database, Host string
		URL                                string `json:"connection_url"`
		Port                               int
	}
	w.read("creds/"+role, &creds)
	fields, _ := w.copied(role)
	require.NotEmpty(w.t, fields["rotation_id"])
	delete(fields, "rotation_id")
	require.Equal(w.t, map[string]any{
		"version": fmt.Sprint(creds.Version), "username": creds.Username, "password": creds.Password, "database": creds.Database,
		"host": creds.Host, "port": fmt.Sprint(creds.Port), "connection_url": creds.URL,
	}, fields)
}

// A release is what a Deployment is at one moment: how often its spec was changed, what pods are made
// of, and which ones there are.
type release struct {
	generation int
	hash       string
	restarts   map[string]string // annotations of the template
}

func (w *world) release(app string) release {
	w.t.Helper()
	d, err := w.kubernetes.Workload(w.t.Context(), "Deployment", w.namespace, app)
	require.NoError(w.t, err)
	return release{d.Metadata.Generation, w.newest(app, d), d.Spec.Template.Metadata.Annotations}
}

// newest is the hash of the template by which a Deployment makes pods: that of the ReplicaSet with the
// highest revision.
func (w *world) newest(app string, d kubernetestest.Workload) (hash string) {
	w.t.Helper()
	var sets struct {
		Items []struct{ Metadata kubernetestest.Metadata }
	}
	require.NoError(w.t, w.kubernetes.List(w.t.Context(), "ReplicaSet", w.namespace, "app="+app, &sets))
	const revision = "deployment.kubernetes.io/revision"
	for _, set := range sets.Items {
		if set.Metadata.Annotations[revision] == d.Metadata.Annotations[revision] {
			hash = set.Metadata.Labels["pod-template-hash"]
		}
	}
	require.NotEmpty(w.t, hash)
	return hash
}

// serves tells that an application's pods are these, by name, and all have read this version.
func (w *world) serves(app *podrunner.Runner, version int) (names []string) {
	w.t.Helper()
	await.Until(w.t, "all pods to be ready", func() (bool, any) { r := app.Ready(); return len(r) == 2, r })
	for name, health := range app.Ready() {
		require.Equal(w.t, version, health.Version, "%s: %+v", name, health)
		names = append(names, name)
	}
	return names
}

// clients ask both applications all the time, as their users do. The end of it says whether a login was refused.
func (r *runbook) clients() (stop func()) {
	ctx, cancel := context.WithCancel(r.t.Context())
	var asking sync.WaitGroup
	apps := []*podrunner.Runner{r.api, r.web}
	before := []podrunner.Counts{r.api.Counts(), r.web.Counts()}
	for _, app := range apps {
		asking.Go(func() {
			ticker := time.NewTicker(50 * time.Millisecond)
			defer ticker.Stop()
			for ctx.Err() == nil {
				app.Ask(ctx)
				select {
				case <-ticker.C:
				case <-ctx.Done():
				}
			}
		})
	}
	var once sync.Once
	end := func() { once.Do(func() { cancel(); asking.Wait() }) }
	r.t.Cleanup(end)
	return func() {
		r.t.Helper()
		end()
		for i, app := range apps {
			counts := app.Counts()
			require.Equal(r.t, before[i].Refused, counts.Refused, "%+v", counts)
			require.Equal(r.t, before[i].Failed, counts.Failed, "%+v", counts)
			require.Equal(r.t, before[i].Unavailable, counts.Unavailable, "%+v", counts)
			require.Greater(r.t, counts.Healthy, before[i].Healthy+20, "%+v", counts)
		}
	}
}

// How long a release may take: on a loaded machine, and one that is known to be broken.
const (
	patient   = 600
	impatient = 5
)

func (w *world) givenUpAfter(app string, seconds int) {
	w.t.Helper()
	change := kubernetestest.Object{"spec": kubernetestest.Object{"progressDeadlineSeconds": seconds}}
	require.NoError(w.t, w.kubernetes.Patch(w.t.Context(), "Deployment", w.namespace, app, change))
}

// breakFrom lets a release of api come that cannot work with a version, and is soon given up.
func (r *runbook) breakFrom(version int) {
	r.t.Helper()
	r.api.BreakFrom(version)
	r.givenUpAfter("api", impatient)
}

// mend takes the pods away that never became ready, as a person does once the release is mended.
func (w *world) mend(name string, app *podrunner.Runner) {
	w.t.Helper()
	app.BreakFrom(0)
	w.givenUpAfter(name, patient)
	var pods struct {
		Items []struct{ Metadata kubernetestest.Metadata }
	}
	require.NoError(w.t, w.kubernetes.List(w.t.Context(), "Pod", w.namespace, "app="+name, &pods))
	ready, taken := app.Ready(), 0
	for _, pod := range pods.Items {
		if _, well := ready[pod.Metadata.Name]; !well {
			require.NoError(w.t, w.kubernetes.Delete(w.t.Context(), "Pod", w.namespace, pod.Metadata.Name))
			taken++
		}
	}
	require.Positive(w.t, taken, "no pod was broken")
}
