package kubernetes

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/dependent"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// canary is a token that must turn up nowhere.
const canary = "eyJhbGciOiJSUzI1NiJ9.cAnArY7f3a9d1e5bcAnArY.c2lnbmF0dXJl-cAnArY"

const account = "system:serviceaccount:vault:rotation"

// server imitates an API server, as far as apps/v1 workloads and reviews of rights go.
type server struct {
	*httptest.Server
	mu       sync.Mutex
	tokens   map[string]string // who bears them
	rules    []rule
	objects  map[string]map[string]any // "default/deployment/api"
	version  int64
	requests []string       // "PATCH /apis/...?... {body}"
	changes  map[string]int // of the pod template
	// around stands before the handler, if set. It may answer itself, or let serve do it.
	around func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc)
	// expired makes cursors of lists invalid.
	expired bool
}

// rule is one of RBAC. Without names it is for all.
type rule struct {
	Namespace string
	Verbs     []string `yaml:"verbs"`
	Groups    []string `yaml:"apiGroups"`
	Resources []string `yaml:"resources"`
	Names     []string `yaml:"resourceNames"`
}

var everything = rule{Namespace: "default", Verbs: []string{"get", "list", "patch"}, Groups: []string{"apps"}, Resources: []string{"deployments", "statefulsets", "daemonsets"}}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{
		tokens: map[string]string{canary: account}, rules: []rule{everything},
		objects: map[string]map[string]any{}, changes: map[string]int{}, version: 1000,
	}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

func (s *server) ca() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

// config is a connection to the server that admits everything.
func (s *server) config() *rotator.ConnectionConfig {
	return &rotator.ConnectionConfig{
		Name:    "prod",
		Values:  option.Values{"kubernetes_host": s.URL, "kubernetes_ca_cert": s.ca(), "allowed_targets": []string{"*"}},
		Secrets: secret.NewMap(map[string]string{"service_account_jwt": canary}),
	}
}

// open opens a connection as the engine does.
func (s *server) open(t *testing.T) (*ConnectionKind, rotator.Connection) {
	t.Helper()
	k := New()
	k.RetryWait = time.Millisecond
	conn, err := k.Open(s.config())
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	return k, conn
}

// add puts a workload there. change is merged over what a new one has.
func (s *server) add(ns, kind, name string, labels map[string]string, change map[string]any) dependent.Workload {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	o := map[string]any{
		"apiVersion": "apps/v1", "kind": map[string]string{deployment: "Deployment", statefulSet: "StatefulSet", daemonSet: "DaemonSet"}[kind],
		"metadata": map[string]any{
			"name": name, "namespace": ns, "uid": fmt.Sprintf("uid-%d", s.version), "resourceVersion": fmt.Sprint(s.version),
			"generation": 1, "labels": labels, "managedFields": []any{},
		},
		"spec": map[string]any{
			"replicas": 3, "template": map[string]any{"metadata": map[string]any{"creationTimestamp": nil, "labels": labels}},
			"updateStrategy": map[string]any{"type": "RollingUpdate"},
		},
		"status": map[string]any{"observedGeneration": 1},
	}
	if kind == deployment {
		delete(o["spec"].(map[string]any), "updateStrategy")
	}
	if kind == daemonSet {
		delete(o["spec"].(map[string]any), "replicas")
	}
	merge(o, plain(change))
	s.objects[ns+"/"+kind+"/"+name] = plain(o)
	return dependent.Workload{Kind: kind, Namespace: ns, Name: name, UID: fmt.Sprintf("uid-%d", s.version)}
}

// edit changes an object by hand, as a controller or a person does.
func (s *server) edit(w dependent.Workload, change map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apply(w.String(), plain(change))
}

func (s *server) remove(w dependent.Workload) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, w.String())
}

// changed is how often the pod template of a workload was changed.
func (s *server) changed(w dependent.Workload) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changes[w.String()]
}

func (s *server) annotations(w dependent.Workload) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	out, _ := dig(s.objects[w.String()], "spec", "template", "metadata", "annotations").(map[string]any)
	return maps.Clone(out)
}

// seen are the requests that begin with a method, and forgets them.
func (s *server) seen(method string) (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.requests {
		if strings.HasPrefix(r, method) {
			out = append(out, r)
		}
	}
	s.requests = nil
	return out
}

func (s *server) set(change func(s *server)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// apply merges a change; a change of the spec is a new generation. The caller holds mu.
func (s *server) apply(key string, change map[string]any) {
	o := s.objects[key]
	before := plain(o)
	merge(o, change)
	if reflect.DeepEqual(before, plain(o)) {
		return // nothing is written
	}
	m := o["metadata"].(map[string]any)
	if !reflect.DeepEqual(before["spec"], plain(o)["spec"]) {
		m["generation"] = m["generation"].(float64) + 1
	}
	if !reflect.DeepEqual(dig(before, "spec", "template"), dig(plain(o), "spec", "template")) {
		s.changes[key]++
	}
	s.version++
	m["resourceVersion"] = fmt.Sprint(s.version)
}

// merge is a strategic merge patch of objects: null takes a field away.
func merge(into, change map[string]any) {
	for name, value := range change {
		inner, isMap := value.(map[string]any)
		if value == nil {
			delete(into, name)
			continue
		}
		if !isMap {
			into[name] = value
			continue
		}
		if _, ok := into[name].(map[string]any); !ok {
			into[name] = map[string]any{}
		}
		merge(into[name].(map[string]any), inner)
	}
}

// plain is a copy in JSON's own types.
func plain(o map[string]any) map[string]any {
	raw, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	out := map[string]any{}
	if err := json.Unmarshal(raw, &out); err != nil {
		panic(err)
	}
	return out
}

func dig(o any, names ...string) any {
	for _, name := range names {
		m, _ := o.(map[string]any)
		o = m[name]
	}
	return o
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	s.mu.Lock()
	s.requests = append(s.requests, strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Method, r.URL.RequestURI(), body)))
	around := s.around
	s.mu.Unlock()
	handle := func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.handle(w, r, body)
	}
	if around != nil {
		around(w, r, handle)
		return
	}
	handle(w, r)
}

var appsPath = regexp.MustCompile(`^/apis/apps/v1/namespaces/([^/]+)/([a-z]+)s(?:/([^/]+))?$`)

func (s *server) handle(w http.ResponseWriter, r *http.Request, body []byte) {
	user := s.tokens[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
	if user == "" {
		refuse(w, 401, "Unauthorized", "Unauthorized")
		return
	}
	switch r.URL.Path {
	case "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews":
		s.reviewAccess(w, body)
		return
	case "/apis/authentication.k8s.io/v1/selfsubjectreviews":
		respond(w, 201, map[string]any{"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1", "status": map[string]any{"userInfo": map[string]any{"username": user}}})
		return
	}
	at := appsPath.FindStringSubmatch(r.URL.Path)
	if at == nil || !slices.Contains(kinds, at[2]) {
		http.Error(w, "404 page not found", http.StatusNotFound)
		return
	}
	verb := map[string]string{http.MethodGet: "get", http.MethodPatch: "patch"}[r.Method]
	if at[3] == "" {
		verb = "list"
	}
	if !s.allows(at[1], verb, at[2]+"s", at[3]) {
		refuse(w, 403, "Forbidden", fmt.Sprintf("%ss.apps %q is forbidden: User %q cannot %s resource \"%ss\" in API group \"apps\" in the namespace %q", at[2], at[3], user, verb, at[2], at[1]))
		return
	}
	if verb == "list" {
		s.list(w, r, at[1], at[2])
		return
	}
	key := at[1] + "/" + at[2] + "/" + at[3]
	o := s.objects[key]
	switch {
	case o == nil:
		refuse(w, 404, "NotFound", fmt.Sprintf("%ss.apps %q not found", at[2], at[3]))
		return
	case verb == "patch":
		if !s.patch(w, r, key, body) {
			return
		}
	}
	respond(w, 200, o)
}

func (s *server) patch(w http.ResponseWriter, r *http.Request, key string, body []byte) bool {
	var change map[string]any
	o := s.objects[key]
	switch {
	case r.Header.Get("Content-Type") != "application/strategic-merge-patch+json":
		refuse(w, 415, "UnsupportedMediaType", "the body of the request was in an unknown format")
		return false
	case json.Unmarshal(body, &change) != nil || r.URL.Query().Get("fieldManager") == "":
		refuse(w, 400, "BadRequest", "the body or the field manager is missing")
		return false
	}
	if v := dig(change, "metadata", "resourceVersion"); v != nil && v != dig(o, "metadata", "resourceVersion") {
		refuse(w, 409, "Conflict", "Operation cannot be fulfilled: the object has been modified; please apply your changes to the latest version and try again")
		return false
	}
	if v := dig(change, "metadata", "uid"); v != nil && v != dig(o, "metadata", "uid") {
		refuse(w, 422, "Invalid", "metadata.uid: field is immutable")
		return false
	}
	s.apply(key, change)
	return true
}

func (s *server) allows(ns, verb, resource, name string) bool {
	return slices.ContainsFunc(s.rules, func(r rule) bool {
		return r.Namespace == ns && slices.Contains(r.Verbs, verb) && slices.Contains(r.Groups, "apps") &&
			slices.Contains(r.Resources, resource) && (len(r.Names) == 0 || slices.Contains(r.Names, name))
	})
}

func (s *server) reviewAccess(w http.ResponseWriter, body []byte) {
	var in map[string]any
	if json.Unmarshal(body, &in) != nil {
		refuse(w, 400, "BadRequest", "no JSON")
		return
	}
	at := func(name string) string {
		text, _ := dig(in, "spec", "resourceAttributes", name).(string)
		return text
	}
	in["status"] = map[string]any{"allowed": at("group") == "apps" && s.allows(at("namespace"), at("verb"), at("resource"), at("name"))}
	respond(w, 201, in)
}

// list gives what a selector matches, in pages, as names alone if these were asked for.
func (s *server) list(w http.ResponseWriter, r *http.Request, ns, kind string) {
	query := r.URL.Query()
	var keys []string
	for key, o := range s.objects {
		if strings.HasPrefix(key, ns+"/"+kind+"/") && selected(query.Get("labelSelector"), dig(o, "metadata", "labels")) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	from, limit := 0, len(keys)
	if n, err := strconv.Atoi(query.Get("limit")); err == nil && n > 0 {
		limit = n
	}
	if after := query.Get("continue"); after != "" {
		if s.expired {
			refuse(w, 410, "Expired", "The provided continue parameter is too old")
			return
		}
		from, _ = strconv.Atoi(strings.TrimPrefix(after, "after+/="))
	}
	to := min(from+limit, len(keys))
	meta := map[string]any{"resourceVersion": fmt.Sprint(s.version)}
	if to < len(keys) {
		meta["continue"] = fmt.Sprint("after+/=", to)
	}
	out := map[string]any{"kind": "List", "metadata": meta, "items": nil}
	var items []any
	for _, key := range keys[from:to] {
		o := s.objects[key]
		if strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadataList") {
			o = map[string]any{"kind": "PartialObjectMetadata", "metadata": o["metadata"]}
			out["kind"] = "PartialObjectMetadataList"
		}
		items = append(items, o)
	}
	out["items"] = items // null where there are none, as it is of names alone
	respond(w, 200, out)
}

var setBased = regexp.MustCompile(`^(\S+) (in|notin) \((.*)\)$`)

// selected evaluates a selector in the API's own form, by other means than those under test.
func selected(selector string, labels any) bool {
	has, _ := labels.(map[string]any)
	depth, from := 0, 0
	for i := 0; i <= len(selector); i++ {
		if i < len(selector) {
			depth += strings.Count(selector[i:i+1], "(") - strings.Count(selector[i:i+1], ")")
			if selector[i] != ',' || depth > 0 {
				continue
			}
		}
		if !holds(selector[from:i], has) {
			return false
		}
		from = i + 1
	}
	return true
}

func holds(one string, has map[string]any) bool {
	if m := setBased.FindStringSubmatch(one); m != nil {
		value, _ := has[m[1]].(string)
		return slices.Contains(strings.Split(m[3], ","), value) == (m[2] == "in")
	}
	if key, value, ok := strings.Cut(one, "!="); ok {
		return has[key] != value
	}
	if key, value, ok := strings.Cut(one, "="); ok {
		return has[key] == strings.TrimPrefix(value, "=")
	}
	_, there := has[strings.TrimPrefix(one, "!")]
	return there != strings.HasPrefix(one, "!")
}

func respond(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // the client may be gone
}

// refuse answers in the API's form of a failure.
func refuse(w http.ResponseWriter, code int, reason, message string) {
	respond(w, code, map[string]any{
		"kind": "Status", "apiVersion": "v1", "metadata": map[string]any{}, "status": "Failure", "message": message, "reason": reason, "code": code,
	})
}

// losing serves a request and drops its answer.
func losing(serve http.HandlerFunc, r *http.Request) {
	serve(httptest.NewRecorder(), r)
	panic(http.ErrAbortHandler)
}

// requireFault asserts an error's kind and a part of its sentence, and that it is one: bounded, on
// one line, without the token in it or in what it wraps.
func requireFault(t *testing.T, err error, kind fault.Kind, part string) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, kind, fault.KindOf(err), err)
	require.Contains(t, err.Error(), part)
	require.Less(t, len(err.Error()), 1024)
	require.NotContains(t, err.Error(), "\n")
	for next := err; next != nil; {
		require.NotContains(t, next.Error(), "cAnArY")
		u, ok := next.(interface{ Unwrap() error })
		if !ok {
			return
		}
		next = u.Unwrap()
	}
}
