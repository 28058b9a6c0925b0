package backend

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// Severities of an incident.
var severities = []string{"low", "medium", "high", "critical"}

// Emergency declares that a role's secret leaked. The record is opened, every
// version that readers may hold is marked compromised, and whatever was in flight
// gives way. By default a new version comes first and the others die the moment
// readers have it; with kill_first they die before. Of a deleted role what is left
// dies at once.
func (e *Engine) Emergency(ctx context.Context, name string, r EmergencyRequest) (*EmergencyResult, error) {
	if err := e.allowed(); err != nil {
		return nil, err
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	s, err := e.load(ctx, name)
	if err != nil {
		return nil, err
	}
	if !s.leaks() {
		return nil, fault.New(fault.Conflict, "role %s has no version that could have leaked", name)
	}
	if r.KillFirst && s.decrypts() {
		return nil, fault.Field("kill_first", "would make what %s encrypted unreadable: a leaked version decrypts until its data has followed", name)
	}
	incident, err := e.openIncident(ctx, r, s)
	if err != nil {
		return nil, err
	}
	// Who asks is given the rotation's id at once. What goes wrong, a worker tries again.
	if err := e.declare(ctx, s, incident); err != nil {
		e.logger.Warn("could not declare an emergency at once", "role", name, "incident_id", incident.ID, "error", err)
	}
	e.rouse(forOne, name)
	return e.emergencyResult(ctx, name, incident.ID, e.clock.Now().Add(r.Wait))
}

// check refuses what is wrong, and fills in the default.
func (r *EmergencyRequest) check() error {
	if strings.TrimSpace(r.Reason) == "" {
		return fault.Field("reason", "is required: say in a sentence what leaked and how it was noticed")
	}
	if len(r.Reason) > maxMessage { // it is stored with every role
		return fault.Field("reason", "must be at most %d bytes: say the rest in the incident", maxMessage)
	}
	if r.Severity == "" {
		r.Severity = "high"
	}
	if !slices.Contains(severities, r.Severity) {
		return fault.Field("severity", "must be one of %s", strings.Join(severities, ", "))
	}
	return nil
}

// emergencyResult waits until the leak is contained, the replacement failed, or the
// deadline has passed. It is not an error when the leak lives on: the answer says so.
func (e *Engine) emergencyResult(ctx context.Context, name, incident string, deadline time.Time) (*EmergencyResult, error) {
	s, err := e.await(ctx, name, max(deadline.Sub(e.clock.Now()), 0), func(s *subject) bool { return s.answered(incident) })
	if fault.Is(err, fault.NotFound) {
		return e.resultOfGone(ctx, name, incident)
	}
	if err != nil {
		return nil, err
	}
	out := &EmergencyResult{IncidentID: incident, Status: store.IncidentOpen, Rotation: s.rotationFor(incident, e.clock.Now())}
	if !s.knows(incident) {
		out.NextSteps = []string{NotReached(name)}
		return out, nil
	}
	for i := range s.state.Versions {
		if v := &s.state.Versions[i]; v.Of(incident) {
			out.Killed = append(out.Killed, Killed{Version: v.Number, SessionsEnded: v.SessionsEnded, ProvenDead: v.ProvenDead()})
		}
	}
	if s.contained(incident) {
		out.Status = store.IncidentContained
	}
	out.NextSteps, out.Failed = append(s.nextSteps(incident), e.advice(s, incident)...), s.trouble(incident, out.Rotation)
	return out, nil
}

// advice is what the kind knows to be left to people once a successor took over.
func (e *Engine) advice(s *subject, incident string) []string {
	adviser, ok := e.rotators[s.role.Type].(rotator.Adviser)
	cur := s.state.CurrentVersion()
	if !ok || cur == nil || cur.Compromised {
		return nil
	}
	leaked := slices.DeleteFunc(slices.Clone(s.state.Versions), func(v rotation.Version) bool { return !v.Of(incident) })
	return adviser.Advice(roleView(s.role, nil), leaked, *cur, e.clock.Now())
}

// resultOfGone answers for a role that is not there any more, from the record: it was
// deleted before, and all that was left of it ended; or it went by force.
func (e *Engine) resultOfGone(ctx context.Context, name, incident string) (*EmergencyResult, error) {
	facts, err := e.store.IncidentRole(ctx, incident, name)
	if err != nil {
		return nil, err
	}
	out := &EmergencyResult{IncidentID: incident, Status: store.IncidentOpen}
	if facts != nil {
		for _, v := range facts.Compromised {
			out.Killed = append(out.Killed, Killed{Version: v.Version, SessionsEnded: v.SessionsEnded, ProvenDead: v.Proof != nil && v.Proof.Dead})
		}
		if facts.Contained {
			out.Status = store.IncidentContained
			return out, nil
		}
	}
	out.Failed = GoneStep(name)
	out.NextSteps = []string{out.Failed}
	return out, nil
}

// GoneStep says what is to be done about a role of an incident that does not exist any
// more.
func GoneStep(name string) string {
	return fmt.Sprintf("role %s does not exist any more: if it was deleted with force=true, end what it left at the target by hand", name)
}

// NotReached says that a role's turn has not come.
func NotReached(name string) string {
	return fmt.Sprintf("%s was not reached yet: the engine goes on by itself", name)
}

// rotationFor finds the rotation by which an emergency replaces a role's secret: in
// flight, about to begin, or ended. A deleted role has none, and a later emergency or a
// person's rotation may have taken its place.
func (s *subject) rotationFor(incident string, now time.Time) *rotation.Rotation {
	switch st := s.state; {
	case st.InFlight != nil && st.InFlight.IncidentID == incident:
		return st.InFlight
	case st.Intent != nil && st.Intent.IncidentID == incident && st.Intent.Attempt == 1:
		r := st.Intent.Rotation(0, now)
		r.PreviousVersion = st.Current
		return &r
	case st.Last != nil && st.Last.IncidentID == incident:
		return st.Last
	default:
		return nil
	}
}

// answered tells whether there is something to tell about an emergency: what leaked is
// dead, or it will not be before somebody or some time helps.
func (s *subject) answered(incident string) bool {
	if !s.knows(incident) {
		return false
	}
	r := s.rotationFor(incident, time.Time{})
	switch {
	case r == nil:
		return s.contained(incident) || s.state.ActionRequired != ""
	case r.Outcome == "":
		return r.Held != ""
	case r.Outcome == rotation.Succeeded:
		return s.contained(incident) && s.recorded(incident)
	default:
		return true
	}
}

// trouble is what went wrong for a role in an emergency, in one sentence; "" for
// nothing, or nothing yet.
func (s *subject) trouble(incident string, r *rotation.Rotation) string {
	if r != nil && r.Outcome != rotation.Succeeded && r.Error != nil {
		return r.Error.Message
	}
	for i := range s.state.Versions {
		if v := &s.state.Versions[i]; v.Of(incident) && !v.ProvenDead() && v.Attention != nil && v.Attention.Failing {
			return fmt.Sprintf("version %d: %s", v.Number, v.Attention.Reason)
		}
	}
	if s.state.Blocked != "" {
		return s.state.Blocked
	}
	return s.state.ActionRequired
}

// recorded tells whether the incident's record says what happened here.
func (s *subject) recorded(incident string) bool {
	return !slices.ContainsFunc(s.state.Incidents, func(l rotation.IncidentLink) bool { return l.ID == incident && l.Dirty })
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
		case v.Holds() || v.KeepsData && v.State == rotation.Current:
			steps = append(steps, s.dataSteps(v)...)
		case v.State == rotation.Current && s.revokes:
			steps = append(steps, fmt.Sprintf("version %d (%s) of %s is revoked, and nothing replaces it before a version could be verified%s", v.Number, v.Identifier, s.name, s.nextAttempt()))
		case v.State == rotation.Current && !v.KillFirst && s.hand != nil && s.hand.EndedByHand(v):
			steps = append(steps, fmt.Sprintf("the leak lives on: version %d (%s) of %s works until a person ends it at the provider, which no call can; readers need another one first: write stage/%s", v.Number, v.Identifier, s.name, s.name))
		case v.State == rotation.Current && !v.KillFirst:
			steps = append(steps, fmt.Sprintf("the leak lives on: version %d (%s) of %s still works, since no replacement could be verified yet; to end it before there is one, write emergency/%s with kill_first=true", v.Number, v.Identifier, s.name, s.name))
		case v.State == rotation.Retiring && v.RetireBegun.IsZero() && v.Attention == nil && s.replacementWaits():
			steps = append(steps, fmt.Sprintf("version %d (%s) of %s ends as soon as a replacement took over%s; to end it now, write retire/%s with version=%d", v.Number, v.Identifier, s.name, s.nextAttempt(), s.name, v.Number))
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
	if r := s.state.InFlight; r != nil && r.Held != "" && r.IncidentID == incident {
		steps = append(steps, fmt.Sprintf("what depends on %s has not followed: %s; once that is mended, write rotate/%s with resume=true", s.name, r.Held, s.name))
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
	if staged := s.promotable(); staged != "" {
		steps = append(steps, staged)
	}
	return steps
}

// replacementWaits tells whether what leaked is still what readers get.
func (s *subject) replacementWaits() bool {
	cur := s.state.CurrentVersion()
	return cur != nil && cur.Compromised
}

// nextAttempt says when a replacement is tried again, if that is planned.
func (s *subject) nextAttempt() string {
	if s.state.Intent == nil {
		return ""
	}
	return "; it is tried again at " + s.state.Intent.At.Format(timeFormat)
}

const timeFormat = time.RFC3339
