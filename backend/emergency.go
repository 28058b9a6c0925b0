package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// Severities of an incident.
var severities = []string{"low", "medium", "high", "critical"}

// Emergency declares that a role's secret leaked. The record is opened, every
// version that readers may hold is marked compromised, and whatever was in flight
// gives way. By default a new version comes first and the others die the moment
// readers have it; with kill_first they die before.
func (e *Engine) Emergency(ctx context.Context, name string, r EmergencyRequest) (*EmergencyResult, error) {
	if err := e.allowed(); err != nil {
		return nil, err
	}
	if strings.TrimSpace(r.Reason) == "" {
		return nil, fault.Field("reason", "is required: say in a sentence what leaked and how it was noticed")
	}
	if r.Severity == "" {
		r.Severity = "high"
	}
	if !slices.Contains(severities, r.Severity) {
		return nil, fault.Field("severity", "must be one of %s", strings.Join(severities, ", "))
	}
	s, err := e.loadLive(ctx, name)
	if err != nil {
		return nil, err
	}
	if s.state.Current == 0 {
		return nil, fault.New(fault.Conflict, "role %s has no version yet that could have leaked", name)
	}
	by, err := e.actor(ctx, r.Actor)
	if err != nil {
		return nil, err
	}
	incident, err := e.openIncident(ctx, r, by, name)
	if err != nil {
		return nil, err
	}
	return e.declare(ctx, name, r, by, incident.ID)
}

// declare stores the intent of an emergency rotation, and waits for its result.
func (e *Engine) declare(ctx context.Context, name string, r EmergencyRequest, by rotation.Actor, incident string) (*EmergencyResult, error) {
	id, err := newID()
	if err != nil {
		return nil, err
	}
	expected := e.waiters.expect(id)
	_, err = e.update(ctx, name, func(s *subject) error {
		if s.state.Deleted || s.state.Current == 0 {
			return notFound(name)
		}
		now := e.clock.Now()
		if s.state.InFlight != nil {
			if err := s.state.Supersede(now); err != nil {
				return err
			}
		}
		s.state.Compromise(incident)
		if r.KillFirst {
			s.state.KillNow(now)
			if cur := s.state.CurrentVersion(); cur != nil {
				cur.KillFirst, cur.Attention = true, nil
			}
		}
		s.state.Blocked, s.state.ActionRequired = "", ""
		s.state.Incidents = append(s.state.Incidents, rotation.IncidentLink{ID: incident, Dirty: true})
		s.state.Intent = &rotation.Intent{
			ID: id, Trigger: rotation.Emergency, At: now, Attempt: 1, Reason: r.Reason, Actor: by, IncidentID: incident, KillFirst: r.KillFirst,
		}
		s.state.Emit(rotation.Event{
			ID: incident + "/" + name, Type: "emergency.declared", Time: now,
			Data: map[string]string{"incident_id": incident, "reason": r.Reason, "severity": r.Severity},
		})
		return nil
	})
	if err != nil {
		e.waiters.forget(id)
		if !isStorage(err) { // nothing was stored of it but the record
			err = errors.Join(err, e.store.DeleteIncident(ctx, incident))
		}
		return nil, e.unsure(name, err)
	}
	e.workers.interrupt(name)
	e.workers.add(true, name)
	return e.emergencyResult(ctx, name, id, incident, r, expected)
}

// emergencyResult waits until the leak is contained, the replacement failed, or
// the wait is over. It is not an error when the leak lives on: the answer says so.
func (e *Engine) emergencyResult(ctx context.Context, name, id, incident string, r EmergencyRequest, expected <-chan result) (*EmergencyResult, error) {
	deadline := e.clock.Now().Add(r.Wait)
	out := &EmergencyResult{IncidentID: incident, Status: store.IncidentOpen}
	var err error
	if out.Rotation, err = e.outcome(ctx, name, id, r.Wait, expected); err != nil {
		out.NextSteps = append(out.NextSteps, err.Error())
	}
	left := max(deadline.Sub(e.clock.Now()), 0)
	s, err := e.await(ctx, name, left, func(s *subject) bool { return s.contained(incident) || s.replacementFailed(id) })
	if err != nil {
		return nil, err
	}
	if out.Rotation == nil {
		out.Rotation, _ = s.rotationOf(id, e.clock.Now())
	}
	for i := range s.state.Versions {
		if v := &s.state.Versions[i]; v.Of(incident) {
			out.Killed = append(out.Killed, Killed{Version: v.Number, SessionsEnded: v.SessionsEnded, ProvenDead: v.ProvenDead()})
		}
	}
	if s.contained(incident) {
		out.Status = store.IncidentContained
	}
	out.NextSteps = append(out.NextSteps, s.nextSteps(incident)...)
	return out, nil
}

func (s *subject) replacementFailed(id string) bool {
	last := s.state.Last
	return last != nil && last.ID == id && last.Outcome != rotation.Succeeded
}

// contained tells whether every version that leaked is proven dead.
func (s *subject) contained(incident string) bool {
	for i := range s.state.Versions {
		if v := &s.state.Versions[i]; v.Of(incident) && !v.ProvenDead() {
			return false
		}
	}
	return true
}

// nextSteps says, for a role of an incident, what keeps the leak alive and what a
// person can do.
func (s *subject) nextSteps(incident string) (steps []string) {
	for i := range s.state.Versions {
		v := &s.state.Versions[i]
		if !v.Of(incident) {
			continue
		}
		switch {
		case v.ProvenDead() && v.State == rotation.Current:
			steps = append(steps, fmt.Sprintf("readers of %s fail: version %d (%s) was ended, and no replacement could be verified yet%s", s.name, v.Number, v.Identifier, s.nextAttempt()))
		case v.ProvenDead():
		case v.State == rotation.Current && !v.KillFirst:
			steps = append(steps, fmt.Sprintf("the leak lives on: version %d (%s) of %s still works, since no replacement could be verified yet; to end it before there is one, write emergency/%s with kill_first=true", v.Number, v.Identifier, s.name, s.name))
		case v.Attention != nil:
			steps = append(steps, fmt.Sprintf("version %d (%s) of %s is not proven dead: %s; it is tried again at %s", v.Number, v.Identifier, s.name, v.Attention.Reason, v.Attention.At.Format(timeFormat)))
		case v.Proof != nil:
			steps = append(steps, fmt.Sprintf("version %d (%s) of %s is not proven dead: %s", v.Number, v.Identifier, s.name, v.Proof.Result))
		default:
			steps = append(steps, fmt.Sprintf("version %d (%s) of %s is being ended", v.Number, v.Identifier, s.name))
		}
		if v.Left != "" {
			steps = append(steps, fmt.Sprintf("%s stays at the target, disabled, for a person to remove: %s", v.Identifier, v.Left))
		}
	}
	if d := s.state.Divergence; d != nil {
		steps = append(steps, fmt.Sprintf("%s is diverged: %s; what its storage does not know is left alone: end it by hand if it leaked too", s.name, d.Reason))
	}
	if s.state.Blocked != "" {
		steps = append(steps, fmt.Sprintf("%s is blocked: %s; write rotate/%s once that is mended", s.name, s.state.Blocked, s.name))
	}
	if s.state.ActionRequired != "" {
		steps = append(steps, s.state.ActionRequired)
	}
	return steps
}

// nextAttempt says when a replacement is tried again, if that is planned.
func (s *subject) nextAttempt() string {
	if s.state.Intent == nil {
		return ""
	}
	return "; it is tried again at " + s.state.Intent.At.Format(timeFormat)
}

const timeFormat = time.RFC3339
