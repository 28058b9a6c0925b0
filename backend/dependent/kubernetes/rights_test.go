package kubernetes

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// Before Kubernetes 1.28 nobody tells who one is: a review of a right proves the token, too.
func TestPingOfOlderServers(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.around = func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
		if r.URL.Path == "/apis/authentication.k8s.io/v1/selfsubjectreviews" {
			http.Error(w, "404 page not found", http.StatusNotFound)
			return
		}
		serve(w, r)
	}
	k, conn := s.open(t)
	require.NoError(t, k.Ping(t.Context(), conn))
	s.set(func(s *server) { s.rules = nil })
	require.NoError(t, k.Ping(t.Context(), conn), "whatever it may do")
	s.set(func(s *server) { s.tokens = nil })
	requireFault(t, k.Ping(t.Context(), conn), fault.AuthFailed, "refuses the service account's token")
}

func TestPingOfSomethingElse(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	k, conn := s.open(t)
	for _, c := range []struct {
		body any
		kind fault.Kind
		says string
	}{
		{fields{"kind": "SelfSubjectReview", "status": fields{"userInfo": fields{"username": "system:anonymous"}}}, fault.AuthFailed, "was not shown the token: something before it removes it"},
		{fields{"kind": "SelfSubjectReview"}, fault.Unreachable, "not a Kubernetes API server"},
		{fields{"kind": "Other", "status": fields{"userInfo": fields{"username": "x"}}}, fault.Unreachable, "not a Kubernetes API server"},
		{"ok", fault.Unreachable, "not a Kubernetes API server"},
	} {
		s.set(func(s *server) {
			s.around = func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) { respond(w, 201, c.body) }
		})
		requireFault(t, k.Ping(t.Context(), conn), c.kind, "ask who the service account is: ")
		requireFault(t, k.Ping(t.Context(), conn), c.kind, c.says)
	}
	s.set(func(s *server) {
		s.around = func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
			respond(w, 201, fields{"kind": "SelfSubjectAccessReview", "status": fields{}})
		}
	})
	requireFault(t, k.Ready(t.Context(), conn, "default/deployment/api"), fault.Unreachable, "not a Kubernetes API server")
}

func TestCheck(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	some := func(verbs ...string) rule {
		return rule{"default", verbs, everything.Groups, everything.Resources, nil}
	}
	named := rule{"default", []string{"get", "patch"}, everything.Groups, []string{"deployments"}, []string{"api"}}
	token := rotator.Line{Check: "token", Result: rotator.Pass, Detail: "the API server accepts it: it is " + account}
	line := func(check string, result rotator.Result, detail string) rotator.Line {
		return rotator.Line{Check: check, Result: result, Detail: detail}
	}
	const deployments, sets, daemons = "deployments.apps in namespace default", "statefulsets.apps in namespace default", "daemonsets.apps in namespace default"
	const allOfThem = "the service account may get, patch and list them"
	for name, c := range map[string]struct {
		targets []string
		rules   []rule
		want    []rotator.Line
	}{
		"everything":           {[]string{"default/*"}, []rule{everything}, []rotator.Line{line(deployments, rotator.Pass, allOfThem), line(sets, rotator.Pass, allOfThem), line(daemons, rotator.Pass, allOfThem)}},
		"each once":            {[]string{"default/deployment/a*", "default/deployment/*"}, []rule{everything}, []rotator.Line{line(deployments, rotator.Pass, allOfThem)}},
		"one by name":          {[]string{"default/deployment/api"}, []rule{named}, []rotator.Line{line("deployments.apps api in namespace default", rotator.Pass, "the service account may get and patch it")}},
		"another by name":      {[]string{"default/deployment/web"}, []rule{named}, []rotator.Line{line("deployments.apps web in namespace default", rotator.Fail, "the service account may not get and patch: grant it the verb get and patch")}},
		"names alone":          {[]string{"default/deployment/*"}, []rule{some("get", "patch")}, []rotator.Line{line(deployments, rotator.Pass, "the service account may get and patch them; not list, which only label selectors need")}},
		"some by name":         {[]string{"default/deployment/*"}, []rule{named}, []rotator.Line{line(deployments, rotator.Warn, "the service account may not get and patch all of them: it must be granted that for each that roles name")}},
		"a selector":           {[]string{"default/deployment/app=api"}, []rule{some("get", "patch")}, []rotator.Line{line(deployments, rotator.Fail, "the service account may get and patch them, but not list: grant it the verb list, which label selectors need")}},
		"a selector, no patch": {[]string{"default/deployment/app=api"}, []rule{some("get", "list")}, []rotator.Line{line(deployments, rotator.Fail, "the service account may not patch: grant it the verb patch")}},
		"any namespace":        {[]string{"*"}, nil, []rotator.Line{line(`allowed_targets "*"`, rotator.Warn, "which namespaces are meant is not known, so that rights in them are not looked at")}},
		"nothing":              {nil, nil, []rotator.Line{line("allowed_targets", rotator.Warn, "is empty: no role can restart anything through this connection")}},
	} {
		s.set(func(s *server) { s.rules = c.rules })
		config := s.config()
		config.Values["allowed_targets"] = c.targets
		k, conn := opened(t, config)
		lines, err := k.Check(t.Context(), conn)
		require.NoError(t, err)
		require.Equal(t, append([]rotator.Line{token}, c.want...), lines, name)
	}
	require.Empty(t, s.seen("PATCH"))

	k, conn := s.open(t)
	s.set(func(s *server) { s.tokens = nil })
	lines, err := k.Check(t.Context(), conn)
	require.NoError(t, err)
	require.Len(t, lines, 1)
	require.Equal(t, rotator.Fail, lines[0].Result)
	require.Contains(t, lines[0].Detail, "the API server refuses the service account's token")
	s.Close()
	lines, err = k.Check(t.Context(), conn)
	require.NoError(t, err)
	require.Equal(t, "reach", lines[0].Check)
	require.Equal(t, rotator.Fail, lines[0].Result)
}
