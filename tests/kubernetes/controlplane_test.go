package kubernetes

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/kubernetestest"
)

// What the other tests stand on: the control plane rolls what is restarted, as kubectl's users know it.

func TestEveryKindOfWorkloadRollsWhenItIsRestarted(t *testing.T) {
	k, ctx := cluster(t), t.Context()
	namespace := k.Namespace(t, "rolls")
	for kind, object := range map[string]kubernetestest.Object{
		"Deployment":  kubernetestest.Deployment(namespace, "api", 2),
		"StatefulSet": kubernetestest.StatefulSet(namespace, "queue", 2),
		"DaemonSet":   kubernetestest.DaemonSet(namespace, "agent"),
	} {
		t.Run(kind, func(t *testing.T) {
			name := object["metadata"].(kubernetestest.Object)["name"].(string)
			require.NoError(t, k.Apply(ctx, object))
			require.NoError(t, k.AwaitRollout(ctx, kind, namespace, name))
			before, err := k.Workload(ctx, kind, namespace, name)
			require.NoError(t, err)

			require.NoError(t, k.Restart(ctx, kind, namespace, name))
			require.NoError(t, k.AwaitRollout(ctx, kind, namespace, name))
			after, err := k.Workload(ctx, kind, namespace, name)
			require.NoError(t, err)
			require.Equal(t, before.Metadata.Generation+1, after.Metadata.Generation, "one change")
			require.NotEmpty(t, after.Spec.Template.Metadata.Annotations[kubernetestest.RestartedAt])
		})
	}
	templates, err := k.Templates(ctx, namespace, "api")
	require.NoError(t, err)
	require.Equal(t, 2, templates, "the first one, and the restarted one")
}

func TestRolloutOfABrokenReleaseIsGivenUp(t *testing.T) {
	k, ctx := cluster(t), t.Context()
	namespace := k.Namespace(t, "broken")
	deployment := kubernetestest.WithReadiness(kubernetestest.Deployment(namespace, "api", 2), kubernetestest.ReadyUntilRestart)
	require.NoError(t, k.Apply(ctx, deployment))
	require.NoError(t, k.AwaitRollout(ctx, "Deployment", namespace, "api"))

	require.NoError(t, k.Restart(ctx, "Deployment", namespace, "api"))
	await.Until(t, "the roll-out to be given up", func() (bool, any) {
		w, err := k.Workload(ctx, "Deployment", namespace, "api")
		require.NoError(t, err)
		require.False(t, w.Complete())
		require.GreaterOrEqual(t, w.Status.AvailableReplicas, 2, "pods of the release that works stay")
		return w.Condition("Progressing").Reason == "ProgressDeadlineExceeded", w.Status
	})
}

func TestAServiceAccountMayDoWhatItsRulesSay(t *testing.T) {
	k, ctx := cluster(t), t.Context()
	namespace := k.Namespace(t, "rights")
	require.NoError(t, k.Apply(ctx, kubernetestest.Deployment(namespace, "api", 1)))
	rule := kubernetestest.Rule{Groups: []string{"apps"}, Resources: []string{"deployments"}, Verbs: []string{"get"}}
	token, err := k.ServiceAccount(ctx, namespace, "vault", rule)
	require.NoError(t, err)
	account := k.As(token)

	_, err = account.Workload(ctx, "Deployment", namespace, "api")
	require.NoError(t, err)
	err = account.Restart(ctx, "Deployment", namespace, "api")
	require.True(t, kubernetestest.HasCode(err, http.StatusForbidden), "%v", err)

	rule.Verbs = append(rule.Verbs, "patch")
	_, err = k.ServiceAccount(ctx, namespace, "vault", rule)
	require.NoError(t, err)
	await.Until(t, "the new rules to be known", func() (bool, any) {
		err := account.Restart(ctx, "Deployment", namespace, "api")
		return err == nil, err
	})

	require.NoError(t, k.Delete(ctx, "ServiceAccount", namespace, "vault"))
	await.Until(t, "the token to be refused", func() (bool, any) {
		_, err := account.Workload(ctx, "Deployment", namespace, "api")
		return kubernetestest.HasCode(err, http.StatusUnauthorized), err
	})
}

func TestAManifestIsAppliedAsItIsWritten(t *testing.T) {
	k, ctx := cluster(t), t.Context()
	namespace := k.Namespace(t, "manifest")
	require.NoError(t, k.ApplyManifest(ctx, fmt.Sprintf(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: vault, namespace: %[1]s}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: vault, namespace: %[1]s}
rules:
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get]
`, namespace)))
	require.NoError(t, k.Get(ctx, "Role", namespace, "vault", nil))
	_, err := k.Token(ctx, namespace, "vault", time.Hour)
	require.NoError(t, err)
}
