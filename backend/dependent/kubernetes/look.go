package kubernetes

import (
	"context"
	"fmt"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/dependent"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// Look implements dependent.Restarter. What is done, and what failed, is what kubectl rollout
// status says; beyond that, an object that is no more the one that was restarted has failed.
// A controller that finds the release of before again does not always take back at once what it
// said of the broken one, and shows it under the new observedGeneration: that is ErrStalled.
func (*ConnectionKind) Look(ctx context.Context, conn rotator.Connection, w dependent.Workload) (dependent.Progress, error) {
	c, err := own(conn)
	if err != nil {
		return dependent.Progress{}, err
	}
	o, err := c.same(ctx, w)
	if err != nil {
		return dependent.Progress{}, err
	}
	if o.Metadata.DeletionTimestamp != nil {
		return dependent.Progress{}, fault.New(fault.Target, "%s is being deleted", o)
	}
	if err := o.rolls(); err != nil {
		return dependent.Progress{}, err
	}
	return o.progress()
}

// progress judges an object by the rules of its kind.
func (o *object) progress() (dependent.Progress, error) {
	// Until its controller has seen the change, the status is that of the time before.
	if s := o.Status; s.ObservedGeneration == 0 || s.ObservedGeneration < o.Metadata.Generation {
		return dependent.Progress{Detail: "its controller has not seen the change yet" + o.pause()}, nil
	}
	switch o.kind {
	case deployment:
		return o.deployment()
	case statefulSet:
		return o.statefulSet(), nil
	default:
		return o.daemonSet(), nil
	}
}

func (o *object) deployment() (dependent.Progress, error) {
	s, wanted := o.Status, o.replicas()
	detail := fmt.Sprintf("%d of %d pods are new, %d available", s.UpdatedReplicas, wanted, s.AvailableReplicas)
	if old := s.Replicas - s.UpdatedReplicas; old > 0 {
		detail += fmt.Sprintf(", %d old left", old)
	}
	for _, c := range s.Conditions {
		if c.Type == "Progressing" && c.Reason == "ProgressDeadlineExceeded" {
			return dependent.Progress{Detail: detail}, dependent.Stalled(fault.New(fault.Target, "%s: its new pods did not become available within its progressDeadlineSeconds (%s)", o, detail))
		}
	}
	done := s.UpdatedReplicas >= wanted && s.Replicas <= s.UpdatedReplicas && s.AvailableReplicas >= s.UpdatedReplicas
	if !done {
		detail += o.pause()
	}
	return dependent.Progress{Done: done, Detail: detail}, nil
}

// pause says what keeps a rollout from going on, if somebody paused it.
func (o *object) pause() string {
	if o.kind == deployment && o.Spec.Paused {
		return "; it is paused: resume it (kubectl rollout resume)"
	}
	return ""
}

func (o *object) statefulSet() dependent.Progress {
	s, wanted := o.Status, o.replicas()
	detail := fmt.Sprintf("%d of %d pods are new, %d ready", s.UpdatedReplicas, wanted, s.ReadyReplicas)
	done := s.ReadyReplicas >= wanted
	if rolling := o.Spec.UpdateStrategy.RollingUpdate; rolling != nil {
		done = done && s.UpdatedReplicas >= wanted-rolling.Partition
		if kept := min(rolling.Partition, wanted); kept > 0 {
			detail += fmt.Sprintf("; its partition keeps %d as they are", kept)
		}
	} else {
		done = done && s.UpdateRevision == s.CurrentRevision
	}
	return dependent.Progress{Done: done, Detail: detail}
}

func (o *object) daemonSet() dependent.Progress {
	s := o.Status
	return dependent.Progress{
		Done:   s.UpdatedNumberScheduled >= s.DesiredNumberScheduled && s.NumberAvailable >= s.DesiredNumberScheduled,
		Detail: fmt.Sprintf("%d of %d pods are new, %d available", s.UpdatedNumberScheduled, s.DesiredNumberScheduled, s.NumberAvailable),
	}
}
