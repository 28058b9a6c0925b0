package backend

import (
	"context"
	"fmt"
	"reflect"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// openIncident stores what an emergency is about to do before anything of it is done.
// From here on it goes on by itself, in this process or the next.
func (e *Engine) openIncident(ctx context.Context, r EmergencyRequest, roles ...*subject) (*store.IncidentHeader, error) {
	by, err := e.actor(ctx, r.Actor)
	if err != nil {
		return nil, err
	}
	id, err := newID()
	if err != nil {
		return nil, err
	}
	now := e.clock.Now()
	header := &store.IncidentHeader{
		ID: fmt.Sprintf("%s-%s", now.Format("20060102T150405Z"), id[:8]), Severity: r.Severity, Status: store.IncidentOpen,
		Reason: r.Reason, Actor: by, DetectedTime: now, OpenedTime: now, KillFirst: r.KillFirst,
		Contacts: min(1, len(e.config.Load().Contacts)), Marks: map[string]store.IncidentMark{},
	}
	for _, s := range roles {
		header.Marks[s.name] = store.IncidentMark{}
	}
	// Stored by the Put that declares it, so that no crash, and no change of a channel or a role
	// while it lasts, lets somebody hear half of it.
	if header.Channels, err = e.channelsOf(ctx, roles); err != nil {
		return nil, err
	}
	emitDeclared(header)
	if err := e.putIncident(ctx, header); err != nil {
		return nil, err
	}
	e.undeclared.add(header)
	return header, nil
}

// rouse lets workers go on with an emergency, whatever step they are at.
func (e *Engine) rouse(p priority, roles ...string) {
	for _, name := range roles {
		e.workers.interrupt(name)
	}
	e.workers.add(p, roles...)
}

// dirtyIncidents asks to carry changed facts over, in the Put that changes them.
func (s *subject) dirtyIncidents() {
	for i := range s.state.Incidents {
		s.state.Incidents[i].Dirty = true
	}
}

// recordIncidents carries a role's facts over into its incidents. Each write is
// derived from the role's state alone, so doing it twice changes nothing.
func (e *Engine) recordIncidents(ctx context.Context, s *subject) error {
	recorded := map[string]*store.IncidentRole{}
	for _, link := range s.state.Incidents {
		if !link.Dirty {
			continue
		}
		facts := s.incidentFacts(link.ID)
		if err := e.recordIncident(ctx, s.name, link, facts); err != nil {
			return err
		}
		recorded[link.ID] = facts
	}
	_, err := e.update(ctx, s.name, func(s *subject) error {
		kept := s.state.Incidents[:0]
		for _, link := range s.state.Incidents {
			if facts, ok := recorded[link.ID]; ok {
				link.Declared, link.Contained = true, facts.Contained
				// What changed since is carried over by the next run.
				link.Dirty = !reflect.DeepEqual(facts, s.incidentFacts(link.ID))
			}
			if link.Dirty || !s.contained(link.ID) || !s.replaced(link.ID) || s.stillFollows(link.ID) {
				kept = append(kept, link)
			}
		}
		s.state.Incidents = kept
		return nil
	})
	return err
}

// stillFollows tells whether dependents are still to follow the rotation of an incident.
func (s *subject) stillFollows(incident string) bool {
	r := s.state.InFlight
	return r != nil && r.IncidentID == incident
}

// replaced tells whether readers no longer get a version that leaked.
func (s *subject) replaced(incident string) bool {
	cur := s.state.CurrentVersion()
	return cur == nil || !cur.Of(incident)
}

// recordIncident writes a role's facts, and then the header if it has to say something
// else of the role: a crash in between leaves the link dirty, and both are written
// again.
func (e *Engine) recordIncident(ctx context.Context, role string, link rotation.IncidentLink, facts *store.IncidentRole) error {
	before, err := e.store.IncidentRole(ctx, link.ID, role)
	if err != nil {
		return err
	}
	written := *facts
	keepReplacement(before, &written)
	if err := e.addReaders(ctx, role, before, &written); err != nil {
		return err
	}
	if err := e.store.PutIncidentRole(ctx, link.ID, role, &written); err != nil {
		return err
	}
	if link.Declared && link.Contained == written.Contained {
		return nil
	}
	return e.markIncident(ctx, link.ID, role, store.IncidentMark{Declared: true, Contained: written.Contained})
}

// keepReplacement leaves what replaced the leaked versions as it was first written:
// later rotations are not of this incident.
func keepReplacement(before, facts *store.IncidentRole) {
	if before != nil && before.ReplacedBy != 0 {
		facts.ReplacedBy, facts.ReplacedTime = before.ReplacedBy, before.ReplacedTime
	}
}

// incidentFacts derives what an incident means for a role from its state.
func (s *subject) incidentFacts(id string) *store.IncidentRole {
	facts := &store.IncidentRole{Contained: s.contained(id)}
	for i := range s.state.Versions {
		v := &s.state.Versions[i]
		if !v.Of(id) {
			continue
		}
		leaked := store.IncidentVersion{Version: v.Number, Identifier: v.Identifier, SessionsEnded: v.SessionsEnded, Proof: v.Proof}
		switch {
		case !v.KilledTime.IsZero():
			leaked.RevokedTime = v.KilledTime
		case !v.RetireBegun.IsZero():
			leaked.RevokedTime = v.RetireBegun
		}
		facts.Compromised = append(facts.Compromised, leaked)
		facts.Steps = append(facts.Steps, versionSteps(v)...)
	}
	if cur := s.state.CurrentVersion(); cur != nil && s.replaced(id) {
		facts.ReplacedBy, facts.ReplacedTime = cur.Number, cur.ActivatedTime
		facts.Steps = append(facts.Steps, store.IncidentStep{
			Time: cur.ActivatedTime, Action: "replace", Result: "done", Detail: fmt.Sprintf("version %d (%s) is current", cur.Number, cur.Identifier),
		})
	}
	if last := s.state.Last; last != nil && last.IncidentID == id && last.Error != nil {
		facts.Steps = append(facts.Steps, store.IncidentStep{Time: last.EndedTime, Action: "replace", Result: "failed", Detail: last.Error.Message})
	}
	if steps := s.nextSteps(id); len(steps) > 0 {
		facts.Detail = joinFirst(steps, 5)
	}
	return facts
}

func versionSteps(v *rotation.Version) (steps []store.IncidentStep) {
	name := fmt.Sprintf("version %d (%s)", v.Number, v.Identifier)
	if !v.KilledTime.IsZero() {
		steps = append(steps, store.IncidentStep{Time: v.KilledTime, Action: "kill first", Result: "done", Detail: name})
	}
	if !v.RetireBegun.IsZero() {
		result := "done"
		if v.Attention != nil {
			result = "not done: " + v.Attention.Reason
		}
		steps = append(steps, store.IncidentStep{Time: v.RetireBegun, Action: "revoke", Result: result, Detail: fmt.Sprintf("%s, %d sessions ended", name, v.SessionsEnded)})
	}
	if v.Proof != nil {
		steps = append(steps, store.IncidentStep{Time: v.Proof.Time, Action: "prove dead", Result: v.Proof.Result, Detail: name})
	}
	return steps
}
