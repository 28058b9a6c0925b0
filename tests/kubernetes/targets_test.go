package kubernetes

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/kubernetestest"
)

// A label selector means workloads of every kind, and all of them roll at once where the role wants that.
// The account has the rights that the manifest grants for selectors.
func TestALabelSelectorRollsEveryKind(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t, vault(t)), t.Context()
	objects := map[string]kubernetestest.Object{
		"Deployment": kubernetestest.Deployment(w.namespace, "front", 2), "StatefulSet": kubernetestest.StatefulSet(w.namespace, "queue", 2),
		"DaemonSet": kubernetestest.DaemonSet(w.namespace, "agent"),
	}
	other := kubernetestest.Deployment(w.namespace, "other", 1)
	require.NoError(t, w.kubernetes.Apply(ctx, other))
	name := func(kind string) string { return objects[kind]["metadata"].(kubernetestest.Object)["name"].(string) }
	before := map[string]int{}
	for kind, object := range objects {
		object["metadata"].(kubernetestest.Object)["labels"] = kubernetestest.Object{"app": "crm"}
		require.NoError(t, w.kubernetes.Apply(ctx, object))
		require.NoError(t, w.kubernetes.AwaitRollout(ctx, kind, w.namespace, name(kind)))
		is, err := w.kubernetes.Workload(ctx, kind, w.namespace, name(kind))
		require.NoError(t, err)
		before[kind] = is.Metadata.Generation
	}
	w.write("connections/prod", map[string]any{
		"type": "kubernetes", "kubernetes_host": w.kubernetes.Address(), "kubernetes_ca_cert": w.kubernetes.CAPEM(),
		"service_account_jwt": w.rbac(true), "allowed_targets": w.namespace + "/*",
	})
	w.writeRole("database", map[string]any{"rollout": w.target("/all/app=crm"), "rollout_order": "parallel"})
	await.Until(t, "the account's rights", func() (bool, any) {
		lines := w.lines("preflight/database")
		for _, line := range lines {
			if line.Result == "fail" {
				return false, line
			}
		}
		return true, lines
	})

	ended := w.ended("database", w.begin("rotate/database", nil))
	require.Equal(t, "succeeded", ended.Outcome, "%+v", ended)
	require.Equal(t, "3 workloads were restarted and have completed", ended.step("rollout").Detail)
	for kind := range objects {
		is, err := w.kubernetes.Workload(ctx, kind, w.namespace, name(kind))
		require.NoError(t, err)
		require.True(t, is.Complete(), "%s: %+v", kind, is.Status)
		require.Equal(t, before[kind]+1, is.Metadata.Generation, "%s: one change", kind)
		require.True(t, strings.HasPrefix(is.Spec.Template.Metadata.Annotations["vault-plugin-secrets-rotation/rotation"], ended.ID), kind)
	}
	is, err := w.kubernetes.Workload(ctx, "Deployment", w.namespace, "other")
	require.NoError(t, err)
	require.Equal(t, 1, is.Metadata.Generation, "it has other labels")
}

// In parallel, a workload that does not come up does not keep the others from being restarted; in
// sequence it does, as the runbook's journey shows.
func TestParallelRolloutsDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	w, ctx := newWorld(t, vault(t)), t.Context()
	w.connectKubernetes("prod", w.rbac(false), "/deployment/api", "/deployment/web")
	slow := kubernetestest.WithReadiness(kubernetestest.Deployment(w.namespace, "api", 1), kubernetestest.ReadyUntilRestart)
	for name, object := range map[string]kubernetestest.Object{"api": slow, "web": kubernetestest.Deployment(w.namespace, "web", 1)} {
		require.NoError(t, w.kubernetes.Apply(ctx, object))
		w.awaitRollout(name)
	}
	before := map[string]release{"api": w.release("api"), "web": w.release("web")}
	w.writeRole("database", map[string]any{"rollout": w.target("/deployment/api") + "," + w.target("/deployment/web"), "rollout_order": "parallel"})

	ended := w.ended("database", w.begin("rotate/database", nil))
	require.Equal(t, "rolled_back", ended.Outcome, "%+v", ended)
	require.Equal(t, []string{"rollout failed", "rollout done"}, ended.states())
	for app, was := range before {
		w.awaitRollout(app)
		now := w.release(app)
		require.Equal(t, was.generation+2, now.generation, "%s: there and back", app)
		require.Equal(t, was.hash, now.hash, app)
		require.Equal(t, was.restarts, now.restarts, app)
	}
}
