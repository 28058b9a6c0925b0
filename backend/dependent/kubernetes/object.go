package kubernetes

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/dependent"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// metadata is what the API keeps of every object, as far as it matters here.
type metadata struct {
	Name              string            `json:"name"`
	Namespace         string            `json:"namespace"`
	UID               string            `json:"uid"`
	ResourceVersion   string            `json:"resourceVersion"`
	Generation        int64             `json:"generation"`
	DeletionTimestamp *string           `json:"deletionTimestamp"`
	Annotations       map[string]string `json:"annotations"`
}

// object is a workload of any of the kinds (apps/v1), as far as it matters here.
type object struct {
	kind     string
	Metadata metadata `json:"metadata"`
	Spec     struct {
		Replicas *int64 `json:"replicas"`
		Paused   bool   `json:"paused"` // a Deployment
		// UpdateStrategy is that of the other two.
		UpdateStrategy struct {
			Type          string `json:"type"`
			RollingUpdate *struct {
				Partition int64 `json:"partition"` // a StatefulSet
			} `json:"rollingUpdate"`
		} `json:"updateStrategy"`
		Template struct {
			Metadata metadata `json:"metadata"`
		} `json:"template"`
	} `json:"spec"`
	Status progress `json:"status"`
}

// progress is the status of a workload.
type progress struct {
	ObservedGeneration int64 `json:"observedGeneration"`

	Replicas          int64 `json:"replicas"`
	UpdatedReplicas   int64 `json:"updatedReplicas"`
	ReadyReplicas     int64 `json:"readyReplicas"`
	AvailableReplicas int64 `json:"availableReplicas"`

	Conditions []struct {
		Type   string `json:"type"`
		Reason string `json:"reason"`
	} `json:"conditions"`

	CurrentRevision string `json:"currentRevision"`
	UpdateRevision  string `json:"updateRevision"`

	DesiredNumberScheduled int64 `json:"desiredNumberScheduled"`
	UpdatedNumberScheduled int64 `json:"updatedNumberScheduled"`
	NumberAvailable        int64 `json:"numberAvailable"`
}

// replicas is how many pods are wanted; one where nothing is said.
func (o *object) replicas() int64 {
	if o.Spec.Replicas == nil {
		return 1
	}
	return *o.Spec.Replicas
}

// workload is how the journal names the object.
func (o *object) workload() dependent.Workload {
	return dependent.Workload{Kind: o.kind, Namespace: o.Metadata.Namespace, Name: o.Metadata.Name, UID: o.Metadata.UID}
}

func (o *object) String() string { return o.workload().String() }

// restartable tells why the pods would not be replaced although the template changed.
func (o *object) restartable() error {
	switch {
	case o.Metadata.DeletionTimestamp != nil:
		return fault.New(fault.Target, "%s is being deleted: leave it out of the targets, or wait until it is there again", o)
	case o.kind == deployment && o.Spec.Paused:
		return fault.New(fault.Target, "%s is paused, so that its pods would not be replaced: resume it first (kubectl rollout resume)", o)
	}
	return o.rolls()
}

// rolls tells whether the object's controller replaces pods by itself.
func (o *object) rolls() error {
	if kind := o.Spec.UpdateStrategy.Type; o.kind != deployment && kind != "RollingUpdate" {
		return fault.New(fault.Target, "%s has the update strategy %s, by which pods are not replaced until somebody deletes them: it must be RollingUpdate", o, shown(kind))
	}
	return nil
}

// collection is the path of the objects of a kind in a namespace.
func collection(namespace, kind string) string {
	return "/apis/apps/v1/namespaces/" + url.PathEscape(namespace) + "/" + resource(kind)
}

// path is that of one of them.
func path(namespace, kind, name string) string {
	return collection(namespace, kind) + "/" + url.PathEscape(name)
}

// get reads a workload.
func (c *Connection) get(ctx context.Context, namespace, kind, name string) (*object, error) {
	a, err := c.do(ctx, call{
		action: fmt.Sprintf("read %s/%s/%s", namespace, kind, name), method: http.MethodGet, path: path(namespace, kind, name),
		right: right{verb: "get", namespace: namespace, kind: kind, name: name},
	})
	if err != nil {
		return nil, err
	}
	if a.gone() {
		return nil, dependent.Gone(fault.New(fault.Target, "there is no %s %s in namespace %s, or no such namespace", kind, name, namespace))
	}
	return a.object(namespace, kind, name)
}

// object reads an answer that is one workload. One that is not whole would seem to be done.
func (a *answer) object(namespace, kind, name string) (*object, error) {
	o := &object{kind: kind}
	if err := a.read(o); err != nil {
		return nil, err
	}
	m := o.Metadata
	if m.Name != name || m.Namespace != namespace || !uid.MatchString(m.UID) || m.ResourceVersion == "" || m.Generation < 1 {
		return nil, a.foreign()
	}
	return o, nil
}

// same reads the workload that the journal names, and no other of that name.
func (c *Connection) same(ctx context.Context, w dependent.Workload) (*object, error) {
	if err := checkWorkload(w); err != nil {
		return nil, err
	}
	o, err := c.get(ctx, w.Namespace, w.Kind, w.Name)
	if err != nil {
		return nil, err
	}
	if o.Metadata.UID != w.UID {
		return nil, dependent.Gone(fault.New(fault.Target, "%s was deleted and made again since the restart began: rotate again to restart the new one", w))
	}
	return o, nil
}

const (
	pageSize = 100
	maxPages = 100
	// maxWorkloads bounds what one target may mean.
	maxWorkloads = 200
	// namesOnly asks for what a list is made of, without what makes it long.
	namesOnly = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
)

// list finds the workloads of a target that has a selector, in a stable order. There may be none.
func (c *Connection) list(ctx context.Context, t *target) ([]dependent.Workload, error) {
	var out []dependent.Workload
	seen := map[string]bool{}
	for _, kind := range t.kinds {
		after := ""
		for page := 1; ; page++ {
			a, err := c.page(ctx, t, kind, after)
			if err != nil {
				return nil, err
			}
			found, next, err := a.names(t, kind)
			if err != nil {
				return nil, err
			}
			for _, w := range found {
				if !seen[w.UID] {
					seen[w.UID], out = true, append(out, w)
				}
			}
			if len(out) > maxWorkloads {
				return nil, fault.New(fault.Target, "%s matches more than %d workloads: narrow the selector", t, maxWorkloads)
			}
			if next == "" {
				break
			}
			if next == after || page == maxPages {
				return nil, fault.New(fault.Target, "%s: the API server gives a list whose pages lead nowhere", a.call.action)
			}
			after = next
		}
	}
	slices.SortFunc(out, func(a, b dependent.Workload) int { return strings.Compare(a.String(), b.String()) })
	return out, nil
}

func (c *Connection) page(ctx context.Context, t *target, kind, after string) (*answer, error) {
	query := url.Values{"labelSelector": {t.selector}, "limit": {strconv.Itoa(pageSize)}}
	if after != "" {
		query.Set("continue", after)
	}
	a, err := c.do(ctx, call{
		action: fmt.Sprintf("list the %s of namespace %s", resource(kind), t.namespace), method: http.MethodGet,
		path: collection(t.namespace, kind), query: query, accept: namesOnly,
		right: right{verb: "list", namespace: t.namespace, kind: kind},
	})
	if err == nil && a.Status == http.StatusGone && a.status != nil {
		return nil, fault.New(fault.Unreachable, "%s: the list changed while it was read (%s)", a.call.action, a.said())
	}
	return a, err
}

// names reads a page of a list.
func (a *answer) names(t *target, kind string) (out []dependent.Workload, next string, err error) {
	var in struct {
		Kind     string `json:"kind"`
		Metadata struct {
			Continue string `json:"continue"`
		} `json:"metadata"`
		Items []struct {
			Metadata metadata `json:"metadata"`
		} `json:"items"`
	}
	if err := a.read(&in); err != nil {
		return nil, "", err
	}
	if !strings.HasSuffix(in.Kind, "List") { // an empty one may have null for its items
		return nil, "", a.foreign()
	}
	for _, item := range in.Items {
		o := object{kind: kind, Metadata: item.Metadata}
		if w := o.workload(); w.Namespace != t.namespace || checkWorkload(w) != nil {
			return nil, "", fault.New(fault.Target, "%s: the API server lists what was not asked for, or has a name that cannot be used", a.call.action)
		}
		out = append(out, o.workload())
	}
	return out, in.Metadata.Continue, nil
}
