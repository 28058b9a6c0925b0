package kubernetestest

import (
	"context"
	"fmt"
	"time"
)

// ReadinessLabel says, in a pod template, when the template's pods become ready. Without it they are
// at once.
const ReadinessLabel = "kubernetestest/readiness"

// Values of ReadinessLabel.
const (
	// NeverReady pods run and never become ready.
	NeverReady = "never"
	// ReadyUntilRestart pods are ready until the template is restarted as kubectl does it: those that
	// come then never are. It is a release that is broken and was not rolled out yet.
	ReadyUntilRestart = "until-restart"
	// ReadyWhenToldSo pods become ready by SetReady; package podrunner calls it.
	ReadyWhenToldSo = "when-told-so"
)

// RestartedAt is the annotation by which kubectl restarts what a template makes.
const RestartedAt = "kubectl.kubernetes.io/restartedAt"

// A Workload is a Deployment, a StatefulSet or a DaemonSet, as far as tests look at it.
type Workload struct {
	Metadata Metadata `json:"metadata"`
	Spec     struct {
		Replicas *int `json:"replicas"`
		Template struct {
			Metadata Metadata `json:"metadata"`
		} `json:"template"`
	} `json:"spec"`
	Status struct {
		ObservedGeneration int         `json:"observedGeneration"`
		Replicas           int         `json:"replicas"`
		UpdatedReplicas    int         `json:"updatedReplicas"`
		ReadyReplicas      int         `json:"readyReplicas"`
		AvailableReplicas  int         `json:"availableReplicas"`
		CurrentRevision    string      `json:"currentRevision"`
		UpdateRevision     string      `json:"updateRevision"`
		Desired            int         `json:"desiredNumberScheduled"`
		Updated            int         `json:"updatedNumberScheduled"`
		Available          int         `json:"numberAvailable"`
		Conditions         []Condition `json:"conditions"`
	} `json:"status"`
}

// Metadata is what all objects have.
type Metadata struct {
	Name        string            `json:"name"`
	UID         string            `json:"uid"`
	Generation  int               `json:"generation"` // counts changes of the spec; 1 is the first one
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	Deleted     *time.Time        `json:"deletionTimestamp"`
}

// A Condition is one thing that a status tells.
type Condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Condition is the condition of this type, or one without a status.
func (w Workload) Condition(kind string) Condition {
	for _, c := range w.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return Condition{Type: kind}
}

// Complete tells whether all pods are of the newest template and available, and none is left of another.
func (w Workload) Complete() bool {
	s := w.Status
	if s.ObservedGeneration < w.Metadata.Generation {
		return false
	}
	if w.Spec.Replicas == nil { // a DaemonSet
		return s.Desired > 0 && s.Updated == s.Desired && s.Available == s.Desired
	}
	wanted := *w.Spec.Replicas
	return s.Replicas == wanted && s.UpdatedReplicas == wanted && s.AvailableReplicas == wanted && s.CurrentRevision == s.UpdateRevision
}

// Workload reads a Deployment, StatefulSet or DaemonSet.
func (c *Client) Workload(ctx context.Context, kind, namespace, name string) (w Workload, err error) {
	return w, c.Get(ctx, kind, namespace, name, &w)
}

// Templates is how many different pod templates a Deployment has had: one more for each that was rolled
// out, up to those that its history keeps.
func (c *Client) Templates(ctx context.Context, namespace, deployment string) (int, error) {
	w, err := c.Workload(ctx, "Deployment", namespace, deployment)
	if err != nil {
		return 0, err
	}
	var sets struct {
		Items []struct {
			Metadata struct {
				Owners []struct {
					UID string `json:"uid"`
				} `json:"ownerReferences"`
			} `json:"metadata"`
		} `json:"items"`
	}
	if err := c.List(ctx, "ReplicaSet", namespace, "", &sets); err != nil {
		return 0, err
	}
	count := 0
	for _, set := range sets.Items {
		for _, owner := range set.Metadata.Owners {
			if owner.UID == w.Metadata.UID {
				count++
			}
		}
	}
	return count, nil
}

// Restart restarts what a template makes, as `kubectl rollout restart` does.
func (c *Client) Restart(ctx context.Context, kind, namespace, name string) error {
	return c.Patch(ctx, kind, namespace, name, Object{"spec": Object{"template": Object{"metadata": Object{"annotations": Object{
		RestartedAt: time.Now().UTC().Format(time.RFC3339Nano),
	}}}}})
}

// SetReady tells that a pod with ReadyWhenToldSo is ready, or no longer is.
func (c *Client) SetReady(ctx context.Context, namespace, pod string, ready bool) error {
	status := "False"
	if ready {
		status = "True"
	}
	return c.PatchStatus(ctx, "Pod", namespace, pod, Object{"conditions": []Object{
		{"type": "Ready", "status": status}, {"type": "ContainersReady", "status": status},
	}})
}

// AwaitRollout waits until a Deployment, StatefulSet or DaemonSet is complete.
func (c *Cluster) AwaitRollout(ctx context.Context, kind, namespace, name string) error {
	what := fmt.Sprintf("the %s %s/%s to be rolled out", kind, namespace, name)
	return c.await(ctx, what, func(ctx context.Context) error {
		w, err := c.Workload(ctx, kind, namespace, name)
		if err == nil && !w.Complete() {
			err = fmt.Errorf("generation %d, %+v", w.Metadata.Generation, w.Status)
		}
		return err
	})
}

// Deployment is one that runs this many pods with the label app=name. A broken roll-out of it is given
// up after five seconds.
func Deployment(namespace, name string, replicas int) Object {
	object := workload("Deployment", namespace, name)
	spec := object["spec"].(Object)
	spec["replicas"], spec["progressDeadlineSeconds"] = replicas, 5
	return object
}

// StatefulSet is one that runs this many pods with the label app=name.
func StatefulSet(namespace, name string, replicas int) Object {
	object := workload("StatefulSet", namespace, name)
	spec := object["spec"].(Object)
	spec["replicas"], spec["serviceName"] = replicas, name
	return object
}

// DaemonSet is one that runs a pod with the label app=name on each node.
func DaemonSet(namespace, name string) Object { return workload("DaemonSet", namespace, name) }

func workload(kind, namespace, name string) Object {
	labels := Object{"app": name}
	return Object{
		"apiVersion": "apps/v1", "kind": kind,
		"metadata": Object{"namespace": namespace, "name": name, "labels": labels},
		"spec": Object{
			"selector": Object{"matchLabels": labels},
			"template": Object{
				"metadata": Object{"labels": Object{"app": name}},
				"spec":     Object{"containers": []Object{{"name": name, "image": "example.test/" + name}}},
			},
		},
	}
}

// WithReadiness sets ReadinessLabel in a workload's template, and returns the workload.
func WithReadiness(object Object, value string) Object {
	template := object["spec"].(Object)["template"].(Object)
	template["metadata"].(Object)["labels"].(Object)[ReadinessLabel] = value
	return object
}
