package kubernetes

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/dependent"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

func TestReady(t *testing.T) {
	t.Parallel()
	api := map[string]string{"app": "api"}
	paused := fields{"spec": fields{"paused": true}}
	for name, c := range map[string]struct {
		target string
		rules  []rule
		says   string // "" for ready
	}{
		"a name":                 {"default/deployment/api", nil, ""},
		"a selector":             {"default/all/app=api", nil, ""},
		"a selector of one kind": {"default/daemonset/app in (api,web)", nil, ""},
		"missing":                {"default/deployment/web", nil, "there is no deployment web in namespace default, or no such namespace"},
		"other namespace":        {"other/deployment/api", nil, "the service account may not get and patch deployments.apps api in namespace other: grant it the verb get and patch"},
		"paused":                 {"default/deployment/halted", nil, "default/deployment/halted is paused"},
		"one is paused":          {"default/all/app=halted", nil, "default/deployment/halted is paused"},
		"none matches":           {"default/all/app=nobody", nil, "default/all/app=nobody matches no workload: is there such a namespace, and do the objects themselves bear these labels"},
		"none of the kind":       {"default/statefulset/app=api", nil, "default/statefulset/app=api matches no workload"},
		"not admitted":           {"default/deployments/api", nil, `the kind "deployments" must be`},
		"may only read": {
			"default/deployment/api",
			[]rule{{"default", []string{"get", "list"}, everything.Groups, everything.Resources, nil}},
			"the service account may not patch deployments.apps api in namespace default: grant it the verb patch",
		},
		"may not list": {
			"default/deployment/app=api",
			[]rule{{"default", []string{"get", "patch"}, everything.Groups, everything.Resources, nil}},
			"the service account may not list deployments.apps in namespace default: grant it the verb list",
		},
		"by name":                 {"default/deployment/api", []rule{{"default", []string{"get", "patch"}, everything.Groups, everything.Resources, []string{"api"}}}, ""},
		"by another name":         {"default/deployment/api", []rule{{"default", []string{"get", "patch"}, everything.Groups, everything.Resources, []string{"web"}}}, "the service account may not get and patch deployments.apps api"},
		"a selector, by name":     {"default/deployment/app=api", []rule{{"default", []string{"list"}, everything.Groups, everything.Resources, nil}, {"default", []string{"get", "patch"}, everything.Groups, everything.Resources, []string{"api"}}}, ""},
		"a selector, not by name": {"default/deployment/app=api", []rule{{"default", []string{"list", "get"}, everything.Groups, everything.Resources, nil}, {"default", []string{"patch"}, everything.Groups, everything.Resources, []string{"web"}}}, "the service account may not patch deployments.apps api in namespace default"},
		"core group":              {"default/deployment/api", []rule{{"default", everything.Verbs, []string{"extensions"}, everything.Resources, nil}}, "may not get and patch"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			if c.rules != nil {
				s.rules = c.rules
			}
			s.add("default", deployment, "api", api, nil)
			s.add("default", daemonSet, "agent", api, nil)
			s.add("default", deployment, "halted", map[string]string{"app": "halted"}, paused)
			k, conn := s.open(t)
			err := k.Ready(t.Context(), conn, c.target)
			require.Empty(t, s.seen("PATCH"))
			switch {
			case c.says == "":
				require.NoError(t, err)
			case name == "not admitted":
				requireFault(t, err, fault.Invalid, c.says)
			default:
				requireFault(t, err, fault.Target, c.says)
			}
		})
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	api, web := map[string]string{"app": "api", "example.com/tier": "back"}, map[string]string{"app": "web"}
	b := s.add("default", deployment, "b", api, nil)
	a := s.add("default", deployment, "a", api, nil)
	db := s.add("default", statefulSet, "db", api, nil)
	agent := s.add("default", daemonSet, "agent", web, nil)
	s.add("default2", deployment, "c", api, nil)
	k, conn := s.open(t)
	for target, want := range map[string][]dependent.Workload{
		"default/deployment/a":                                {a},
		"default/all/app=api":                                 {a, b, db},
		"default/deployment/app==api":                         {a, b},
		"default/all/app in (web, api), !example.com/tier":    {agent},
		"default/all/example.com/tier=back,app notin (a,web)": {a, b, db},
		"default/all/app!=web":                                {a, b, db},
	} {
		got, err := k.Resolve(t.Context(), conn, target)
		require.NoError(t, err, target)
		require.Equal(t, want, got, target)
	}
	s.seen("")
	_, err := k.Resolve(t.Context(), conn, "default/all/app=nobody")
	requireFault(t, err, fault.Target, "default/all/app=nobody matches no workload")
	gets := s.seen("GET")
	require.Len(t, gets, 3)
	require.Contains(t, gets[0], "?labelSelector=app%3Dnobody&limit=100")
	_, err = k.Resolve(t.Context(), conn, "other/all/app=api")
	requireFault(t, err, fault.Target, "list the deployments of namespace other: the service account may not list deployments.apps in namespace other: grant it that (status 403 Forbidden: ")
	_, err = k.Resolve(t.Context(), conn, "default/deployment/nobody")
	requireFault(t, err, fault.Target, "there is no deployment nobody in namespace default")
}

func TestResolvePages(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	k, conn := s.open(t)
	fill := func(kind string, from, to int) {
		for i := from; i < to; i++ {
			s.add("default", kind, fmt.Sprintf("w-%03d", i), map[string]string{"app": "api"}, nil)
		}
	}
	fill(deployment, 0, 150)
	fill(statefulSet, 0, 50)
	got, err := k.Resolve(t.Context(), conn, "default/all/app=api")
	require.NoError(t, err)
	require.Len(t, got, maxWorkloads)
	require.IsIncreasing(t, names(got))
	require.Len(t, s.seen("GET"), 4, "two pages, and one of each other kind")

	// Something comes twice, since the list changed between two pages.
	s.set(func(s *server) {
		s.around = func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			if after := r.URL.Query().Get("continue"); after == "after+/=100" {
				r.URL.RawQuery = strings.Replace(r.URL.RawQuery, "%3D100", "%3D090", 1)
			}
			serve(w, r)
		}
	})
	again, err := k.Resolve(t.Context(), conn, "default/all/app=api")
	require.NoError(t, err)
	require.Equal(t, got, again)

	s.set(func(s *server) { s.around, s.expired = nil, true })
	_, err = k.Resolve(t.Context(), conn, "default/all/app=api")
	requireFault(t, err, fault.Unreachable, "list the deployments of namespace default: the list changed while it was read (status 410 Expired")

	s.set(func(s *server) { s.expired = false })
	fill(statefulSet, 50, 51)
	_, err = k.Resolve(t.Context(), conn, "default/all/app=api")
	requireFault(t, err, fault.Target, "default/all/app=api matches more than 200 workloads: narrow the selector")
}

func names(list []dependent.Workload) (out []string) {
	for _, w := range list {
		out = append(out, w.String())
	}
	return out
}

func TestHostileLists(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	k, conn := s.open(t)
	item := func(ns, name, uid string) []any {
		return []any{fields{"metadata": fields{"namespace": ns, "name": name, "uid": uid}}}
	}
	for name, c := range map[string]struct {
		body fields
		kind fault.Kind
		says string
	}{
		"no list":         {fields{"kind": "Deployment", "metadata": fields{}}, fault.Unreachable, "not a Kubernetes API server"},
		"another place":   {fields{"kind": "DeploymentList", "items": item("kube-system", "x", "u")}, fault.Target, "lists what was not asked for, or has a name that cannot be used"},
		"a path":          {fields{"kind": "DeploymentList", "items": item("default", "../../x", "u")}, fault.Target, "lists what was not asked for"},
		"no id":           {fields{"kind": "DeploymentList", "items": item("default", "x", "")}, fault.Target, "lists what was not asked for"},
		"the same cursor": {fields{"kind": "DeploymentList", "items": nil, "metadata": fields{"continue": "x"}}, fault.Target, "gives a list whose pages lead nowhere"},
	} {
		s.set(func(s *server) {
			s.around = func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) { respond(w, 200, c.body) }
		})
		_, err := k.Resolve(t.Context(), conn, "default/all/app=api")
		requireFault(t, err, c.kind, c.says)
		require.Contains(t, err.Error(), "list the deployments of namespace default: ", name)
	}
	n := 0
	s.set(func(s *server) {
		s.around = func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
			n++
			respond(w, 200, fields{"kind": "DeploymentList", "items": nil, "metadata": fields{"continue": fmt.Sprint(n)}})
		}
	})
	_, err := k.Resolve(t.Context(), conn, "default/all/app=api")
	requireFault(t, err, fault.Target, "gives a list whose pages lead nowhere")
	require.Equal(t, maxPages, n)
}
