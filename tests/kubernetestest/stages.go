package kubernetestest

import "fmt"

// node is a node before its kubelet, which kwok plays, has told of itself.
func node(name string) Object {
	return Object{
		"apiVersion": "v1", "kind": "Node",
		"metadata": Object{"name": name, "labels": Object{"kubernetes.io/hostname": name}},
	}
}

// becomesReady is asked of each pod in kwok's language, jq.
const becomesReady = `.metadata as $pod | ($pod.labels[%q] // "") as $when ` +
	`| if $when == %q or $when == %q or ($when == %q and ($pod.annotations[%q] // "") != "") then "no" else "yes" end`

// stages tell kwok what becomes of nodes and pods. A node is ready at once, and large enough for every
// test. A pod runs as soon as it has a node, ready or not as its ReadinessLabel says, and is gone as soon
// as it is deleted.
func stages() string {
	const node = `
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata:
  name: node-ready
spec:
  resourceRef:
    apiGroup: v1
    kind: Node
  selector:
    matchExpressions:
    - key: '.status.conditions.[] | select( .type == "Ready" ) | .status'
      operator: NotIn
      values: ["True"]
  next:
    statusTemplate: |
      {{ $now := Now }}
      addresses: [{type: InternalIP, address: 127.0.0.1}]
      allocatable: {cpu: "64", memory: 256Gi, pods: "1000"}
      capacity: {cpu: "64", memory: 256Gi, pods: "1000"}
      conditions:
      - {type: Ready, status: "True", reason: KubeletReady, lastHeartbeatTime: {{ $now | Quote }}, lastTransitionTime: {{ $now | Quote }}}
---`
	const stage = `
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata:
  name: pod-ready-%[1]s
spec:
  resourceRef:
    apiGroup: v1
    kind: Pod
  selector:
    matchExpressions:
    - key: .metadata.deletionTimestamp
      operator: DoesNotExist
    - key: .status.phase
      operator: In
      values: [Pending]
    - key: >-
        %[2]s
      operator: In
      values: ["%[1]s"]
  next:
    statusTemplate: |
      {{ $now := Now }}
      phase: Running
      startTime: {{ $now | Quote }}
      conditions:
      - {type: Initialized, status: "True", lastTransitionTime: {{ $now | Quote }}}
      - {type: ContainersReady, status: %[3]q, lastTransitionTime: {{ $now | Quote }}}
      - {type: Ready, status: %[3]q, lastTransitionTime: {{ $now | Quote }}}
---`
	const end = `
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata:
  name: pod-delete
spec:
  resourceRef:
    apiGroup: v1
    kind: Pod
  selector:
    matchExpressions:
    - key: .metadata.deletionTimestamp
      operator: Exists
  next:
    delete: true
`
	question := fmt.Sprintf(becomesReady, ReadinessLabel, NeverReady, ReadyWhenToldSo, ReadyUntilRestart, RestartedAt)
	return node + fmt.Sprintf(stage, "yes", question, "True") + fmt.Sprintf(stage, "no", question, "False") + end
}
