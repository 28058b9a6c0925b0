package kubernetestest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// An Object is what the API reads and writes, as JSON has it.
type Object = map[string]any

// A Client talks to the API server as one user. Any number of goroutines may use it.
type Client struct {
	address string
	token   string // "" for a user with a certificate
	http    *http.Client
}

// An Error is an answer of the API server that is none of success.
type Error struct {
	Code    int    `json:"code"`
	Reason  string `json:"reason"` // one word: NotFound, Forbidden, ...
	Message string `json:"message"`
}

func (e *Error) Error() string { return fmt.Sprintf("%d %s: %s", e.Code, e.Reason, e.Message) }

// HasCode tells whether the API server answered with this HTTP status.
func HasCode(err error, code int) bool {
	var answer *Error
	return errors.As(err, &answer) && answer.Code == code
}

func (c *Cluster) administrator() (*Client, error) {
	certificate, key, err := c.authority.Client("kubernetestest", administrators)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, err
	}
	return c.client(pair), nil
}

func (c *Cluster) client(certificates ...tls.Certificate) *Client {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.authority.PEM)
	return &Client{address: c.Address(), http: &http.Client{
		Timeout: stopTimeout,
		Transport: &http.Transport{
			TLSClientConfig:   &tls.Config{RootCAs: roots, Certificates: certificates, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2: true,
		},
	}}
}

// As gives a client that bears the token instead of a certificate.
func (c *Cluster) As(token string) *Client {
	client := c.client()
	client.token = token
	return client
}

// Kinds and where the API has them.
var resources = map[string]string{
	"Namespace":          "/api/v1/namespaces",
	"Node":               "/api/v1/nodes",
	"Pod":                "/api/v1/namespaces/%s/pods",
	"ServiceAccount":     "/api/v1/namespaces/%s/serviceaccounts",
	"ConfigMap":          "/api/v1/namespaces/%s/configmaps",
	"Secret":             "/api/v1/namespaces/%s/secrets",
	"ResourceQuota":      "/api/v1/namespaces/%s/resourcequotas",
	"Deployment":         "/apis/apps/v1/namespaces/%s/deployments",
	"StatefulSet":        "/apis/apps/v1/namespaces/%s/statefulsets",
	"DaemonSet":          "/apis/apps/v1/namespaces/%s/daemonsets",
	"ReplicaSet":         "/apis/apps/v1/namespaces/%s/replicasets",
	"ControllerRevision": "/apis/apps/v1/namespaces/%s/controllerrevisions",
	"Role":               "/apis/rbac.authorization.k8s.io/v1/namespaces/%s/roles",
	"RoleBinding":        "/apis/rbac.authorization.k8s.io/v1/namespaces/%s/rolebindings",
	"ClusterRole":        "/apis/rbac.authorization.k8s.io/v1/clusterroles",
	"ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
}

// path is where the objects of a kind are, or with a name, one of them.
func path(kind, namespace string, names ...string) (string, error) {
	pattern, known := resources[kind]
	if !known {
		return "", fmt.Errorf("the kind %q is not among those that this client knows", kind)
	}
	if strings.Contains(pattern, "%s") {
		if namespace == "" {
			return "", fmt.Errorf("a %s needs a namespace", kind)
		}
		pattern = fmt.Sprintf(pattern, url.PathEscape(namespace))
	}
	for _, name := range names {
		pattern += "/" + url.PathEscape(name)
	}
	return pattern, nil
}

// Get reads an object into what the pointer leads to; nil is only told whether it is there.
func (c *Client) Get(ctx context.Context, kind, namespace, name string, into any) error {
	return c.named(ctx, http.MethodGet, "", nil, into, kind, namespace, name)
}

// List reads the objects with these labels ("app=api", "" for all) into what the pointer leads to: a
// struct with the field Items.
func (c *Client) List(ctx context.Context, kind, namespace, selector string, into any) error {
	address, err := path(kind, namespace)
	if err != nil {
		return err
	}
	return c.do(ctx, http.MethodGet, address+"?labelSelector="+url.QueryEscape(selector), "", nil, into)
}

// Create makes an object that is not there.
func (c *Client) Create(ctx context.Context, object Object) error {
	kind, namespace, _ := identify(object)
	address, err := path(kind, namespace)
	if err != nil {
		return err
	}
	return c.do(ctx, http.MethodPost, address, "application/json", object, nil)
}

// Apply makes an object, or changes the one that is there, as `kubectl apply --server-side` does.
func (c *Client) Apply(ctx context.Context, object Object) error {
	kind, namespace, name := identify(object)
	address, err := path(kind, namespace, name)
	if err != nil {
		return err
	}
	return c.do(ctx, http.MethodPatch, address+"?force=true&fieldManager=kubernetestest", "application/apply-patch+yaml", object, nil)
}

// ApplyManifest applies each document of a YAML text.
func (c *Client) ApplyManifest(ctx context.Context, manifest string) error {
	decoder := yaml.NewDecoder(strings.NewReader(manifest))
	for {
		var object Object
		if err := decoder.Decode(&object); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read the manifest: %w", err)
		}
		if err := c.Apply(ctx, object); err != nil {
			return err
		}
	}
}

// Patch changes an object by a strategic merge patch.
func (c *Client) Patch(ctx context.Context, kind, namespace, name string, patch Object) error {
	return c.named(ctx, http.MethodPatch, "application/strategic-merge-patch+json", patch, nil, kind, namespace, name)
}

// PatchStatus changes an object's status, which a plain Patch does not.
func (c *Client) PatchStatus(ctx context.Context, kind, namespace, name string, status Object) error {
	return c.named(ctx, http.MethodPatch, "application/strategic-merge-patch+json", Object{"status": status}, nil, kind, namespace, name, "status")
}

// Delete removes an object, and in the background what belongs to it.
func (c *Client) Delete(ctx context.Context, kind, namespace, name string) error {
	return c.named(ctx, http.MethodDelete, "application/json", Object{"propagationPolicy": "Background"}, nil, kind, namespace, name)
}

func (c *Client) named(ctx context.Context, method, contentType string, body, into any, kind, namespace string, names ...string) error {
	address, err := path(kind, namespace, names...)
	if err != nil {
		return err
	}
	return c.do(ctx, method, address, contentType, body, into)
}

func identify(object Object) (kind, namespace, name string) {
	kind, _ = object["kind"].(string)
	metadata, _ := object["metadata"].(Object)
	namespace, _ = metadata["namespace"].(string)
	name, _ = metadata["name"].(string)
	return kind, namespace, name
}

// do makes one request, without repeating it.
func (c *Client) do(ctx context.Context, method, address, contentType string, body, into any) error {
	content, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, address, err)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.address+address, nil)
	if err != nil {
		return err
	}
	if body != nil {
		request.Body, request.ContentLength = io.NopCloser(bytes.NewReader(content)), int64(len(content))
		request.Header.Set("Content-Type", contentType)
	}
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode >= http.StatusBadRequest {
		refusal := &Error{Code: response.StatusCode, Message: string(answer)}
		_ = json.Unmarshal(answer, refusal) // some answers are no JSON
		err = refusal
	}
	if err == nil && into != nil {
		err = json.Unmarshal(answer, into)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, address, err)
	}
	return nil
}

// A Rule allows verbs on resources of the groups; with names, on those objects alone.
type Rule struct {
	Groups    []string `json:"apiGroups"`
	Resources []string `json:"resources"`
	Names     []string `json:"resourceNames,omitempty"`
	Verbs     []string `json:"verbs"`
}

// ServiceAccount makes an account that may do in its namespace what the rules say, and returns a token
// for it. Called again, it changes the rules of the account that is there.
func (c *Client) ServiceAccount(ctx context.Context, namespace, name string, rules ...Rule) (token string, err error) {
	metadata := Object{"namespace": namespace, "name": name}
	const group = "rbac.authorization.k8s.io"
	if rules == nil {
		rules = []Rule{} // null is none to the API
	}
	for _, object := range []Object{
		{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
		{"apiVersion": group + "/v1", "kind": "Role", "metadata": metadata, "rules": rules},
		{
			"apiVersion": group + "/v1", "kind": "RoleBinding", "metadata": metadata,
			"subjects": []Object{{"kind": "ServiceAccount", "namespace": namespace, "name": name}},
			"roleRef":  Object{"apiGroup": group, "kind": "Role", "name": name},
		},
	} {
		if err := c.Apply(ctx, object); err != nil {
			return "", err
		}
	}
	return c.Token(ctx, namespace, name, time.Hour)
}

// Token makes a token for a service account that lives this long, ten minutes at least. It is refused
// as soon as the account is deleted.
func (c *Client) Token(ctx context.Context, namespace, name string, lives time.Duration) (string, error) {
	request := Object{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": Object{"expirationSeconds": int(lives.Seconds())}}
	var answer struct {
		Status struct {
			Token string `json:"token"`
		} `json:"status"`
	}
	err := c.named(ctx, http.MethodPost, "application/json", request, &answer, "ServiceAccount", namespace, name, "token")
	return answer.Status.Token, err
}
