package kubernetes

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// saying answers everything alike.
func saying(code int, body string) func(http.ResponseWriter, *http.Request, http.HandlerFunc) {
	return func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
		w.WriteHeader(code)
		_, _ = w.Write([]byte(body)) // the client may be gone
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	status := func(reason, message string) string {
		return `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"` + reason + `","message":"` + message + `"}`
	}
	const page = "<html>cAnArY"
	for name, c := range map[string]struct {
		code int
		body string
		kind fault.Kind
		says string
	}{
		"overloaded":        {500, status("InternalError", "etcdserver: request timed out"), fault.Unreachable, "the API server cannot serve now (status 500 InternalError: etcdserver: request timed out)"},
		"not there":         {503, page, fault.Unreachable, "the API server cannot serve now (status 503)"},
		"a gateway's end":   {504, "", fault.Unreachable, "cannot serve now (status 504)"},
		"too many requests": {429, status("TooManyRequests", "slow down"), fault.Unreachable, "cannot serve now (status 429 TooManyRequests: slow down)"},
		"refused":           {401, status("Unauthorized", "Unauthorized"), fault.AuthFailed, "refuses the service account's token (status 401 Unauthorized: Unauthorized)"},
		"a proxy's login":   {401, page, fault.Unreachable, "something answered that is not a Kubernetes API server (status 401)"},
		"a firewall's page": {403, page, fault.Unreachable, "something answered that is not a Kubernetes API server (status 403)"},
		"a redirect":        {302, "", fault.Unreachable, "something answered that is not a Kubernetes API server (status 302)"},
		"no API":            {404, "404 page not found", fault.Unreachable, "something answered that is not a Kubernetes API server (status 404)"},
		"other JSON":        {404, `{"error":"cAnArY"}`, fault.Unreachable, "something answered that is not"},
		"another page":      {200, page, fault.Unreachable, "something answered that is not a Kubernetes API server (status 200)"},
		"forbidden":         {403, status("Forbidden", "no"), fault.Target, "the service account may not get deployments.apps api in namespace default: grant it that (status 403 Forbidden: no)"},
		"missing":           {404, status("NotFound", "no"), fault.Target, "there is no deployment api in namespace default, or no such namespace"},
		"declined":          {400, status("BadRequest", "no"), fault.Target, "the API server declined (status 400 BadRequest: no)"},
		"hostile":           {400, status("x<y>", `a\nb\u0000\u202e `+canary+` `+strings.Repeat("z", 1000)), fault.Target, "declined (status 400: a b"},
		"hostile, cut":      {400, status("cAnArY7f3a9d1e5bcAnArY", "Bearer "+canary[:40]), fault.Target, "declined (status 400"},
		"too long":          {200, strings.Repeat("x", maxBody+1), fault.Target, "the answer was not read: it is longer than 4194304 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			s.around = saying(c.code, c.body)
			k, conn := s.open(t)
			_, err := k.Resolve(t.Context(), conn, "default/deployment/api")
			requireFault(t, err, c.kind, c.says)
			if c.says[:5] != "there" {
				require.Contains(t, err.Error(), "read default/deployment/api: ")
			}
		})
	}
}

func TestNoAnswer(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	w := s.add("default", deployment, "api", nil, nil)
	s.around = func(http.ResponseWriter, *http.Request, http.HandlerFunc) { panic(http.ErrAbortHandler) }
	k, conn := s.open(t)
	_, err := k.Look(t.Context(), conn, w)
	requireFault(t, err, fault.Unreachable, "read default/deployment/api: ")
	requireFault(t, k.Ping(t.Context(), conn), fault.Unreachable, "ask who the service account is: ")
	requireFault(t, k.Ready(t.Context(), conn, "default/deployment/api"), fault.Unreachable, "ask whether the service account may get deployments.apps api in namespace default: ")
	s.Close()
	_, err = k.Resolve(t.Context(), conn, "default/all/app=api")
	requireFault(t, err, fault.Unreachable, "list the deployments of namespace default: ")
	requireFault(t, k.Restart(t.Context(), conn, w, order("one")), fault.Unreachable, "read default/deployment/api: ")
}

// Whoever answers slowly is waited for as long as the caller has time, and no longer.
func TestSlowAnswer(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	w := s.add("default", deployment, "api", nil, nil)
	over := make(chan struct{})
	t.Cleanup(func() { close(over) }) // before the server's own end, which waits for its handlers
	s.around = func(rw http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) {
		_, _ = rw.Write([]byte(`{"kind":"Deployment",`))
		_ = http.NewResponseController(rw).Flush()
		<-over
	}
	k, conn := s.open(t)
	for _, do := range []func(ctx context.Context) error{
		func(ctx context.Context) error { return k.Restart(ctx, conn, w, order("one")) },
		func(ctx context.Context) error { return k.Ping(ctx, conn) },
		func(ctx context.Context) error { return k.Ready(ctx, conn, "default/all/app=api") },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := do(ctx)
		cancel()
		requireFault(t, err, fault.Unreachable, "deadline exceeded")
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
}
