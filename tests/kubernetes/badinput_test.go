package kubernetes

import (
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/kubernetestest"
)

// What cannot be right is refused when the role is written, and the role stays as it was.
func TestTargetsThatARoleCannotHave(t *testing.T) {
	t.Parallel()
	w := newWorld(t, vault(t))
	w.connectKubernetes("prod", w.rbac(false), "/deployment/api", "/deployment/web")
	w.writeRole("database", nil)
	ns := w.namespace
	for name, refused := range map[string]struct{ rollout, says string }{
		"an unknown kind":        {"prod/" + ns + "/job/api", `rollout: prod/NS/job/api: target "NS/job/api": the kind "job" must be deployment, statefulset or daemonset, or all with a label selector`},
		"a target twice":         {"prod/" + ns + "/deployment/api,prod/" + ns + "/deployment/api", "rollout: names prod/NS/deployment/api twice"},
		"no target":              {"prod", `rollout: "prod" must be a connection and what it leads to, such as prod/default/deployment/api`},
		"an unknown connection":  {"staging/" + ns + "/deployment/api", `rollout: there is no connection "staging": write connections/staging first`},
		"another's connection":   {"main/" + ns + "/deployment/api", `rollout: connection "main" is of type postgresql, which does not restart workloads: use one of type kubernetes`},
		"what is not admitted":   {"prod/" + ns + "/deployment/billing", `rollout: prod/NS/deployment/billing: target "NS/deployment/billing": the connection does not admit it: its allowed_targets are "NS/deployment/api", "NS/deployment/web"`},
		"an unknown namespace":   {"prod/elsewhere/deployment/api", `rollout: prod/elsewhere/deployment/api: target "elsewhere/deployment/api": the connection does not admit it: its allowed_targets are "NS/deployment/api", "NS/deployment/web"`},
		"all without a selector": {"prod/" + ns + "/all/api", `rollout: prod/NS/all/api: target "NS/all/api": all needs a label selector such as app=api; for the one of that name write deployment, statefulset or daemonset`},
	} {
		t.Run(name, func(t *testing.T) {
			_, says := w.attempt("roles/database", map[string]any{"rollout": refused.rollout})
			require.Equal(t, strings.ReplaceAll(refused.says, "NS", ns), says)
			var role struct{ Rollout []string }
			w.read("roles/database", &role)
			require.Empty(t, role.Rollout)
		})
	}
}

// What cannot be restarted is found when a role names it, or before the switch of readers at the latest: the rotation does
// not begin. A new role may name what does not answer, and what is not there yet.
func TestARotationThatCouldNotBeFollowedDoesNotBegin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, vault(t))
	ctx := t.Context()
	w.connectVault("self")
	for _, app := range []string{"api", "halted"} {
		require.NoError(t, w.kubernetes.Apply(ctx, kubernetestest.Deployment(w.namespace, app, 1)))
		w.awaitRollout(app)
	}
	require.NoError(t, w.kubernetes.Patch(ctx, "Deployment", w.namespace, "halted", kubernetestest.Object{"spec": kubernetestest.Object{"paused": true}}))
	all := kubernetestest.Rule{Groups: []string{"apps"}, Resources: []string{"deployments", "statefulsets", "daemonsets"}, Verbs: []string{"get", "list", "patch"}}
	reads := all
	reads.Verbs = []string{"get"}
	closed := w.closedAddress()
	for name, rules := range map[string][]kubernetestest.Rule{"prod": {all}, "reader": {reads}} {
		token, err := w.kubernetes.ServiceAccount(ctx, w.namespace, name, rules...)
		require.NoError(t, err)
		w.write("connections/"+name, map[string]any{
			"type": "kubernetes", "kubernetes_host": w.kubernetes.Address(), "kubernetes_ca_cert": w.kubernetes.CAPEM(),
			"service_account_jwt": token, "allowed_targets": "*",
		})
	}
	w.write("connections/away", map[string]any{
		"type": "kubernetes", "kubernetes_host": "https://" + closed, "service_account_jwt": "a.b.c", "allowed_targets": "*", "verify_connection": false,
	})
	ns, before := w.namespace, map[string]release{"api": w.release("api"), "halted": w.release("halted")}
	w.writeRole("database", map[string]any{"rollout": "prod/" + ns + "/deployment/api"})
	for i, refused := range []struct {
		name, rollout, says string
		later               bool // for a new role
	}{
		{"an unknown object", "prod/" + ns + "/deployment/billing", "there is no deployment billing in namespace NS, or no such namespace", true},
		{"an unknown namespace", "prod/elsewhere/deployment/api", "the service account may not get and patch deployments.apps api in namespace elsewhere: grant it the verb get and patch", false},
		{"an object of another kind", "prod/" + ns + "/statefulset/api", "there is no statefulset api in namespace NS, or no such namespace", true},
		{"a selector that matches none", "prod/" + ns + "/all/app=billing", "NS/all/app=billing matches no workload: is there such a namespace, and do the objects themselves bear these labels (those of their pods do not count)?", true},
		{"a paused Deployment", "prod/" + ns + "/deployment/halted", "NS/deployment/halted is paused, so that its pods would not be replaced: resume it first (kubectl rollout resume)", false},
		{"too few rights", "reader/" + ns + "/deployment/api", "the service account may not patch deployments.apps api in namespace NS: grant it the verb patch", false},
		{"too few rights for a selector", "reader/" + ns + "/deployment/app=api", "the service account may not list deployments.apps in namespace NS: grant it the verb list", false},
		{"an API server that does not answer", "away/" + ns + "/deployment/api", "connection refused", true},
	} {
		t.Run(refused.name, func(t *testing.T) {
			role := fmt.Sprintf("database-%d", i)
			says := strings.ReplaceAll(refused.says, "NS", ns)
			away := refused.name == "an API server that does not answer"
			wanted := map[string]any{"mirror": w.mirrorOf(role), "rollout": "prod/" + ns + "/deployment/api," + refused.rollout}
			if !away {
				_, refusal := w.attempt("roles/database", map[string]any{"rollout": wanted["rollout"]})
				require.Equal(t, "rollout: "+refused.rollout+": "+says, refusal)
				var stored struct{ Rollout []string }
				w.read("roles/database", &stored)
				require.Equal(t, []string{"prod/" + ns + "/deployment/api"}, stored.Rollout)
			}
			if !refused.later {
				_, refusal := w.attempt("roles/"+role, w.roleFields(wanted))
				require.Equal(t, "rollout: "+refused.rollout+": "+says, refusal)
				return
			}
			w.writeRole(role, wanted)
			fields, copies := w.copied(role)

			_, refusal := w.attempt("rotate/"+role, map[string]any{"wait": "60s"})
			if away {
				require.Contains(t, refusal, "preflight: rollout "+refused.rollout+": ")
				require.Contains(t, refusal, says)
			} else {
				require.Equal(t, "preflight: rollout "+refused.rollout+": "+says, refusal)
			}
			failed := 0
			for _, line := range w.lines("preflight/" + role) {
				if line.Result == "fail" {
					failed++
					require.Equal(t, "rollout "+refused.rollout, line.Check)
					require.Contains(t, line.Detail, says)
				}
			}
			require.Equal(t, 1, failed)

			s := w.status(role)
			require.Equal(t, 1, s.Current)
			require.Nil(t, s.Rotation)
			require.Equal(t, "initial", s.Last.Trigger, "none began")
			now, version := w.copied(role)
			require.Equal(t, fields, now)
			require.Equal(t, copies, version)
			for app, was := range before {
				require.Equal(t, was, w.release(app), app)
			}
		})
	}
}

// closedAddress is one at which nobody listens.
func (w *world) closedAddress() string {
	w.t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(w.t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(w.t, err)
	defer listener.Close()
	return listener.Addr().String()
}
