package kubernetes

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// right is a verb on the workloads of a kind in a namespace, or on the one of a name.
type right struct{ verb, namespace, kind, name string }

func (r right) String() string { return r.verb + " " + r.object() }

// object is what the verb is for.
func (r right) object() string {
	if r.name == "" {
		return fmt.Sprintf("%s.apps in namespace %s", resource(r.kind), r.namespace)
	}
	return fmt.Sprintf("%s.apps %s in namespace %s", resource(r.kind), r.name, r.namespace)
}

// may asks the API server whether the credential has a right (SelfSubjectAccessReview).
func (c *Connection) may(ctx context.Context, r right) (bool, error) {
	attributes := map[string]string{"verb": r.verb, "group": "apps", "resource": resource(r.kind), "namespace": r.namespace}
	if r.name != "" {
		attributes["name"] = r.name
	}
	a, err := c.do(ctx, call{
		action: "ask whether the service account may " + r.String(), method: http.MethodPost,
		path: "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
		body: map[string]any{
			"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
			"spec": map[string]any{"resourceAttributes": attributes},
		},
	})
	if err != nil {
		return false, err
	}
	var in struct {
		Kind   string `json:"kind"`
		Status struct {
			Allowed *bool `json:"allowed"`
		} `json:"status"`
	}
	if err := a.read(&in); err != nil {
		return false, err
	}
	if in.Kind != "SelfSubjectAccessReview" || in.Status.Allowed == nil {
		return false, a.foreign()
	}
	return *in.Status.Allowed, nil
}

// missing gives those of several verbs that the credential has no right to.
func (c *Connection) missing(ctx context.Context, r right, verbs ...string) (out []string, err error) {
	for _, verb := range verbs {
		r.verb = verb
		allowed, err := c.may(ctx, r)
		if err != nil {
			return nil, err
		}
		if !allowed {
			out = append(out, verb)
		}
	}
	return out, nil
}

// require refuses a credential that lacks any of the verbs.
func (c *Connection) require(ctx context.Context, r right, verbs ...string) error {
	missing, err := c.missing(ctx, r, verbs...)
	if err != nil || len(missing) == 0 {
		return err
	}
	r.verb = strings.Join(missing, " and ")
	return fault.New(fault.Target, "the service account may not %s: grant it the verb %s", r, r.verb)
}

// whoami asks under which name the API server knows the credential, which proves it. Servers
// before Kubernetes 1.28 do not tell; the right that is asked for then does not matter.
func (c *Connection) whoami(ctx context.Context) (string, error) {
	a, err := c.do(ctx, call{
		action: "ask who the service account is", method: http.MethodPost, path: "/apis/authentication.k8s.io/v1/selfsubjectreviews",
		body: map[string]any{"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"},
	})
	if err != nil {
		return "", err
	}
	if a.Status == http.StatusNotFound || a.Status == http.StatusForbidden {
		_, err := c.may(ctx, right{verb: "get", namespace: "default", kind: deployment})
		return "", err
	}
	var in struct {
		Kind   string `json:"kind"`
		Status struct {
			UserInfo struct {
				Username string `json:"username"`
			} `json:"userInfo"`
		} `json:"status"`
	}
	if err := a.read(&in); err != nil {
		return "", err
	}
	switch name := in.Status.UserInfo.Username; {
	case in.Kind != "SelfSubjectReview" || name == "":
		return "", a.foreign()
	case name == "system:anonymous":
		return "", fault.New(fault.AuthFailed, "%s: the API server was not shown the token: something before it removes it", a.call.action)
	default:
		return a.request.Text(name), nil
	}
}

// Ping implements rotator.ConnectionKind.
func (*ConnectionKind) Ping(ctx context.Context, conn rotator.Connection) error {
	c, err := own(conn)
	if err != nil {
		return err
	}
	_, err = c.whoami(ctx)
	return err
}

// Check implements rotator.ConnectionKind: a line for each thing that allowed_targets name.
func (*ConnectionKind) Check(ctx context.Context, conn rotator.Connection) ([]rotator.Line, error) {
	c, err := own(conn)
	if err != nil {
		return nil, err
	}
	const login = "token"
	name, err := c.whoami(ctx)
	switch {
	case fault.Is(err, fault.Unreachable):
		return []rotator.Line{{Check: "reach", Result: rotator.Fail, Detail: err.Error()}}, nil
	case err != nil:
		return []rotator.Line{{Check: login, Result: rotator.Fail, Detail: err.Error()}}, nil
	case name == "":
		name = "the service account"
	}
	lines := []rotator.Line{{Check: login, Result: rotator.Pass, Detail: "the API server accepts it: it is " + name}}
	asked, vague := subjects(c.targets)
	for _, s := range asked {
		line, err := c.line(ctx, s)
		if err != nil {
			return nil, err
		}
		lines = append(lines, line)
	}
	for _, pattern := range vague {
		lines = append(lines, rotator.Line{Check: "allowed_targets " + pattern, Result: rotator.Warn, Detail: "which namespaces are meant is not known, so that rights in them are not looked at"})
	}
	if len(c.targets) == 0 {
		lines = append(lines, rotator.Line{Check: "allowed_targets", Result: rotator.Warn, Detail: "is empty: no role can restart anything through this connection"})
	}
	return lines, nil
}

// line tells which rights to one subject are missing. Only selectors need list.
func (c *Connection) line(ctx context.Context, of subject) (rotator.Line, error) {
	line := rotator.Line{Check: of.object(), Result: rotator.Pass}
	missing, err := c.missing(ctx, of.right, "get", "patch")
	if err != nil {
		return line, err
	}
	lists := of.name == ""
	if lists {
		lacks, err := c.missing(ctx, of.right, "list")
		if err != nil {
			return line, err
		}
		lists = len(lacks) == 0
	}
	switch {
	case len(missing) > 0 && of.name == "" && !of.whole:
		// Rights to objects by name are as good, and cannot be seen without the names.
		line.Result, line.Detail = rotator.Warn, fmt.Sprintf("the service account may not %s all of them: it must be granted that for each that roles name", strings.Join(missing, " and "))
	case len(missing) > 0:
		line.Result, line.Detail = rotator.Fail, fmt.Sprintf("the service account may not %s: grant it the verb %[1]s", strings.Join(missing, " and "))
	case of.name != "":
		line.Detail = "the service account may get and patch it"
	case lists:
		line.Detail = "the service account may get, patch and list them"
	case of.whole:
		line.Result, line.Detail = rotator.Fail, "the service account may get and patch them, but not list: grant it the verb list, which label selectors need"
	default:
		line.Detail = "the service account may get and patch them; not list, which only label selectors need"
	}
	return line, nil
}

// subject is what rights are asked for: a workload, or those of a kind in a namespace.
type subject struct {
	right
	// whole tells that a selector is named, which may mean any of them.
	whole bool
}

// subjects are what patterns name, each once, and the patterns whose namespace is not known.
func subjects(patterns []string) (out []subject, vague []string) {
	for _, pattern := range patterns {
		parts := append(strings.SplitN(pattern, "/", 3), "*", "*")
		if strings.Contains(parts[0], "*") {
			vague = append(vague, shown(pattern))
			continue
		}
		s := subject{right: right{namespace: parts[0]}, whole: selects(parts[2])}
		if isSubdomain(parts[2]) {
			s.name = parts[2]
		}
		for _, kind := range kinds {
			s.kind = kind
			if !strings.Contains(parts[1], "*") && parts[1] != all && parts[1] != kind || slices.Contains(out, s) {
				continue
			}
			out = append(out, s)
		}
	}
	return out, vague
}
