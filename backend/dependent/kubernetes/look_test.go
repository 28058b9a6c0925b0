package kubernetes

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/dependent"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

type fields = map[string]any

func conditions(reason string) []any {
	return []any{fields{"type": "Available", "reason": "ProgressDeadlineExceeded"}, fields{"type": "Progressing", "reason": reason}}
}

func TestLook(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		kind         string
		spec, status fields
		generation   int
		done         bool
		detail       string
	}{
		"deployment, not seen yet":              {deployment, nil, fields{"updatedReplicas": 3, "replicas": 3, "availableReplicas": 3, "observedGeneration": 6}, 7, false, "its controller has not seen the change yet"},
		"deployment, failed before the restart": {deployment, nil, fields{"conditions": conditions("ProgressDeadlineExceeded"), "observedGeneration": 6}, 7, false, "its controller has not seen the change yet"},
		"deployment, begins":                    {deployment, nil, fields{"updatedReplicas": 1, "replicas": 4, "availableReplicas": 3, "observedGeneration": 7}, 7, false, "1 of 3 pods are new, 3 available, 3 old left"},
		"deployment, old ones left":             {deployment, nil, fields{"updatedReplicas": 3, "replicas": 4, "availableReplicas": 4, "observedGeneration": 7}, 7, false, "3 of 3 pods are new, 4 available, 1 old left"},
		"deployment, not available":             {deployment, nil, fields{"updatedReplicas": 3, "replicas": 3, "availableReplicas": 2, "observedGeneration": 7}, 7, false, "3 of 3 pods are new, 2 available"},
		"deployment, done":                      {deployment, nil, fields{"updatedReplicas": 3, "replicas": 3, "availableReplicas": 3, "observedGeneration": 7, "conditions": conditions("NewReplicaSetAvailable")}, 7, true, "3 of 3 pods are new, 3 available"},
		"deployment, seen later":                {deployment, nil, fields{"updatedReplicas": 3, "replicas": 3, "availableReplicas": 3, "observedGeneration": 9}, 7, true, "3 of 3 pods are new, 3 available"},
		"deployment, scaled to nothing":         {deployment, fields{"replicas": 0}, fields{"observedGeneration": 7}, 7, true, "0 of 0 pods are new, 0 available"},
		"deployment, one by default":            {deployment, fields{"replicas": nil}, fields{"observedGeneration": 7}, 7, false, "0 of 1 pods are new, 0 available"},
		"deployment, paused meanwhile":          {deployment, fields{"paused": true}, fields{"updatedReplicas": 1, "replicas": 3, "availableReplicas": 3, "observedGeneration": 7}, 7, false, "1 of 3 pods are new, 3 available, 2 old left; it is paused: resume it (kubectl rollout resume)"},
		"deployment, paused at once":            {deployment, fields{"paused": true}, fields{"observedGeneration": 6}, 7, false, "its controller has not seen the change yet; it is paused: resume it (kubectl rollout resume)"},
		"deployment, paused when done":          {deployment, fields{"paused": true}, fields{"updatedReplicas": 3, "replicas": 3, "availableReplicas": 3, "observedGeneration": 7}, 7, true, "3 of 3 pods are new, 3 available"},
		"stateful set, never seen":              {statefulSet, nil, fields{"observedGeneration": nil, "readyReplicas": 3}, 1, false, "its controller has not seen the change yet"},
		"stateful set, not seen yet":            {statefulSet, nil, fields{"observedGeneration": 1, "readyReplicas": 3, "updateRevision": "a", "currentRevision": "a"}, 2, false, "its controller has not seen the change yet"},
		"stateful set, not ready":               {statefulSet, fields{"updateStrategy": fields{"rollingUpdate": fields{"partition": 0}}}, fields{"observedGeneration": 2, "readyReplicas": 2, "updatedReplicas": 3, "updateRevision": "b", "currentRevision": "b"}, 2, false, "3 of 3 pods are new, 2 ready"},
		"stateful set, old ones left":           {statefulSet, fields{"updateStrategy": fields{"rollingUpdate": fields{"partition": 0}}}, fields{"observedGeneration": 2, "readyReplicas": 3, "updatedReplicas": 2, "updateRevision": "b", "currentRevision": "a"}, 2, false, "2 of 3 pods are new, 3 ready"},
		"stateful set, done":                    {statefulSet, fields{"updateStrategy": fields{"rollingUpdate": fields{"partition": 0}}}, fields{"observedGeneration": 2, "readyReplicas": 3, "updatedReplicas": 3, "updateRevision": "b", "currentRevision": "b"}, 2, true, "3 of 3 pods are new, 3 ready"},
		"stateful set, partition left":          {statefulSet, fields{"updateStrategy": fields{"rollingUpdate": fields{"partition": 1}}}, fields{"observedGeneration": 2, "readyReplicas": 3, "updatedReplicas": 1, "updateRevision": "b", "currentRevision": "a"}, 2, false, "1 of 3 pods are new, 3 ready; its partition keeps 1 as they are"},
		"stateful set, partition done":          {statefulSet, fields{"updateStrategy": fields{"rollingUpdate": fields{"partition": 1}}}, fields{"observedGeneration": 2, "readyReplicas": 3, "updatedReplicas": 2, "updateRevision": "b", "currentRevision": "a"}, 2, true, "2 of 3 pods are new, 3 ready; its partition keeps 1 as they are"},
		"stateful set, revisions differ":        {statefulSet, nil, fields{"observedGeneration": 2, "readyReplicas": 3, "updatedReplicas": 2, "updateRevision": "b", "currentRevision": "a"}, 2, false, "2 of 3 pods are new, 3 ready"},
		"stateful set, revisions alike":         {statefulSet, nil, fields{"observedGeneration": 2, "readyReplicas": 3, "updatedReplicas": 3, "updateRevision": "b", "currentRevision": "b"}, 2, true, "3 of 3 pods are new, 3 ready"},
		"daemon set, not seen yet":              {daemonSet, nil, fields{"observedGeneration": 1, "desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberAvailable": 2}, 2, false, "its controller has not seen the change yet"},
		"daemon set, old ones left":             {daemonSet, nil, fields{"observedGeneration": 2, "desiredNumberScheduled": 3, "updatedNumberScheduled": 2, "numberAvailable": 3}, 2, false, "2 of 3 pods are new, 3 available"},
		"daemon set, not available":             {daemonSet, nil, fields{"observedGeneration": 2, "desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberAvailable": 2}, 2, false, "3 of 3 pods are new, 2 available"},
		"daemon set, done":                      {daemonSet, nil, fields{"observedGeneration": 2, "desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberAvailable": 3}, 2, true, "3 of 3 pods are new, 3 available"},
		"daemon set, on no node":                {daemonSet, nil, fields{"observedGeneration": 2}, 2, true, "0 of 0 pods are new, 0 available"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			if c.spec == nil {
				c.spec = fields{}
			}
			w := s.add("default", c.kind, "x", nil, fields{"metadata": fields{"generation": c.generation}, "spec": c.spec, "status": c.status})
			k, conn := s.open(t)
			got, err := k.Look(t.Context(), conn, w)
			require.NoError(t, err)
			require.Equal(t, dependent.Progress{Done: c.done, Detail: c.detail}, got)
		})
	}
}

func TestLookFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		kind   string
		change fields
		do     func(s *server, w *dependent.Workload)
		says   string
	}{
		"deleted":       {deployment, nil, func(s *server, w *dependent.Workload) { s.remove(*w) }, "there is no deployment x in namespace default"},
		"being deleted": {deployment, fields{"metadata": fields{"deletionTimestamp": "2026-05-04T10:00:00Z"}}, nil, "default/deployment/x is being deleted"},
		"made again":    {statefulSet, nil, func(s *server, _ *dependent.Workload) { s.add("default", statefulSet, "x", nil, nil) }, "default/statefulset/x was deleted and made again"},
		"does not roll": {statefulSet, fields{"spec": fields{"updateStrategy": fields{"type": "OnDelete"}}}, nil, `has the update strategy "OnDelete"`},
		"no right": {
			daemonSet, nil, func(s *server, _ *dependent.Workload) { s.set(func(s *server) { s.rules = nil }) },
			"read default/daemonset/x: the service account may not get daemonsets.apps x in namespace default: grant it that (status 403 Forbidden: daemonsets.apps",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			w := s.add("default", c.kind, "x", nil, c.change)
			if c.do != nil {
				c.do(s, &w)
			}
			k, conn := s.open(t)
			got, err := k.Look(t.Context(), conn, w)
			requireFault(t, err, fault.Target, c.says)
			require.Zero(t, got)
		})
	}
}

// What the cluster gave up on may be of the release that was taken back: progress comes with it.
func TestLookAtWhatStalled(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	w := s.add("default", deployment, "x", nil, fields{"status": fields{"conditions": conditions("ProgressDeadlineExceeded"), "updatedReplicas": 1, "replicas": 4, "availableReplicas": 3}})
	k, conn := s.open(t)
	got, err := k.Look(t.Context(), conn, w)
	requireFault(t, err, fault.Target, "default/deployment/x: its new pods did not become available within its progressDeadlineSeconds (1 of 3 pods are new, 3 available, 3 old left)")
	require.ErrorIs(t, err, dependent.ErrStalled)
	require.NotErrorIs(t, err, dependent.ErrGone)
	require.Equal(t, dependent.Progress{Detail: "1 of 3 pods are new, 3 available, 3 old left"}, got)
}

// An answer that is not the object proves nothing: it would seem to be done.
func TestLookAtWhatIsNoWorkload(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	w := s.add("default", deployment, "x", nil, nil)
	k, conn := s.open(t)
	for _, body := range []any{
		fields{},
		[]any{},
		"text", nil,
		fields{"metadata": fields{"name": "y", "namespace": "default", "uid": w.UID, "resourceVersion": "1", "generation": 1}},
		fields{"metadata": fields{"name": "x", "namespace": "other", "uid": w.UID, "resourceVersion": "1", "generation": 1}},
		fields{"metadata": fields{"name": "x", "namespace": "default", "uid": w.UID, "resourceVersion": "1"}},
		fields{"metadata": fields{"name": "x", "namespace": "default", "uid": "a b", "resourceVersion": "1", "generation": 1}},
		fields{"metadata": fields{"name": "x", "namespace": "default", "uid": w.UID, "resourceVersion": "1", "generation": "many " + canary}},
	} {
		s.set(func(s *server) {
			s.around = func(rw http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) { respond(rw, 200, body) }
		})
		_, err := k.Look(t.Context(), conn, w)
		requireFault(t, err, fault.Unreachable, "read default/deployment/x: something answered that is not a Kubernetes API server (status 200)")
	}
}
