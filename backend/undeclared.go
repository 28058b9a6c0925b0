package backend

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// undeclared are, in memory, the roles that an incident names and that do not know of
// it yet. Storage is the truth, as for the index: a rebuild finds what an earlier
// process left to be declared.
type undeclared struct {
	mu sync.Mutex
	by map[string][]*store.IncidentHeader // role -> incidents, oldest first
	// left counts the roles of an incident that do not know of it. An incident that
	// this process took up once is never taken up again from what storage said earlier.
	left map[string]int
	// waited are roles that have let the others of an incident go first.
	waited map[string]map[string]bool
}

// add takes an incident up.
func (u *undeclared) add(header *store.IncidentHeader) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, known := u.left[header.ID]; known {
		return
	}
	if u.by == nil {
		u.by, u.left, u.waited = map[string][]*store.IncidentHeader{}, map[string]int{}, map[string]map[string]bool{}
	}
	u.left[header.ID] = 0
	for name, mark := range header.Marks {
		if mark.Outstanding() {
			u.left[header.ID]++
			u.by[name] = append(u.by[name], header)
		}
	}
}

// of is the oldest incident that a role does not know of, or nil.
func (u *undeclared) of(role string) *store.IncidentHeader {
	u.mu.Lock()
	defer u.mu.Unlock()
	if waiting := u.by[role]; len(waiting) > 0 {
		return waiting[0]
	}
	return nil
}

// done notes that a role knows of an incident now.
func (u *undeclared) done(role, incident string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	before := len(u.by[role])
	kept := slices.DeleteFunc(u.by[role], func(h *store.IncidentHeader) bool { return h.ID == incident })
	u.left[incident] -= before - len(kept)
	u.by[role] = kept
	if len(kept) == 0 {
		delete(u.by, role)
	}
	if u.left[incident] == 0 {
		delete(u.waited, incident)
	}
}

// letOthersFirst tells a role, once, that others of its incident do not even know of
// it yet.
func (u *undeclared) letOthersFirst(role, incident string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.left[incident] == 0 || u.waited[incident][role] {
		return false
	}
	if u.waited[incident] == nil {
		u.waited[incident] = map[string]bool{}
	}
	u.waited[incident][role] = true
	return true
}

// roles lists all roles that have something to be declared.
func (u *undeclared) roles() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Sorted(maps.Keys(u.by))
}

// resumeIncidents takes up, after a start, what an earlier process did not get to
// declare. A node that must not act leaves that to the one that does.
func (e *Engine) resumeIncidents(ctx context.Context) error {
	if !e.system.Writable() {
		return nil
	}
	ids, err := e.store.Incidents(ctx)
	if err != nil {
		return err
	}
	for _, id := range ids {
		header, err := e.store.IncidentHeader(ctx, id)
		if isStorage(err) {
			return err
		}
		if err != nil { // one record's trouble is its own
			e.logger.Error("could not read the record of an incident: what it declares is not taken up", "incident_id", id, "error", err)
			continue
		}
		if header == nil {
			continue
		}
		e.openIncidents.note(header)
		e.takeUpIncident(header)
		if header.Status != store.IncidentContained { // one may be closed before all is done
			e.undeclared.add(header)
		}
	}
	e.workers.add(forMany, e.undeclared.roles()...)
	return nil
}

// declare lets a role know of an incident: from then on its own state says what is to
// be done. The header named the role before; doing it twice changes nothing.
func (e *Engine) declare(ctx context.Context, s *subject, incident *store.IncidentHeader) error {
	id, err := newID()
	if err != nil {
		return err
	}
	if !s.leaks() && !s.knows(incident.ID) {
		return e.declareGone(ctx, s.name, incident)
	}
	_, err = e.update(ctx, s.name, func(s *subject) error {
		switch {
		case s.knows(incident.ID): // stored before, only its answer was lost
			return errNoChange
		case !s.leaks():
			return errStale
		}
		return e.declareTo(s, incident, id)
	})
	if fault.Is(err, fault.NotFound) {
		return errStale
	}
	if err == nil {
		e.undeclared.done(s.name, incident.ID)
	}
	return err
}

// declareTo marks every version that readers may hold as compromised; whatever was in
// flight gives way. A deleted role needs no replacement: what is left of it ends at
// once.
func (e *Engine) declareTo(s *subject, incident *store.IncidentHeader, rotationID string) error {
	now := e.clock.Now()
	s.dirtyIncidents()
	if s.state.InFlight != nil {
		if err := s.state.Supersede(now); err != nil {
			return err
		}
	}
	if err := s.state.Compromise(incident.ID, now); err != nil {
		return err
	}
	if incident.KillFirst || s.state.Current == 0 {
		s.state.KillNow(now)
	}
	kind := e.rotators[s.role.Type]
	replacedInPlace := changesInPlace(kind, s.role) && mints(kind, s.role) // its end is what makes the next one
	if cur := s.state.CurrentVersion(); cur != nil && incident.KillFirst && !replacedInPlace && !cur.KeepsData {
		cur.KillFirst, cur.Attention = true, nil
	}
	s.state.Blocked, s.state.ActionRequired = "", ""
	s.state.Incidents = append(s.state.Incidents, rotation.IncidentLink{ID: incident.ID, Dirty: true})
	if !s.state.Deleted {
		s.state.Replaced = nil
		s.state.Intent = &rotation.Intent{
			ID: rotationID, Trigger: rotation.Emergency, At: now, Attempt: 1, Reason: incident.Reason, Actor: incident.Actor,
			IncidentID: incident.ID, KillFirst: incident.KillFirst,
		}
	}
	return nil
}

// declareGone records that a role that an incident names is not there any more: a
// person has to look after what it left.
func (e *Engine) declareGone(ctx context.Context, name string, incident *store.IncidentHeader) error {
	if err := e.markIncident(ctx, incident.ID, name, store.IncidentMark{Gone: true}); err != nil {
		return err
	}
	e.logger.Warn("a role of an incident does not exist any more", "role", name, "incident_id", incident.ID)
	e.undeclared.done(name, incident.ID)
	e.waiters.changed()
	return nil
}

// knows tells whether an incident was declared for a role.
func (s *subject) knows(incident string) bool {
	return slices.ContainsFunc(s.state.Incidents, func(l rotation.IncidentLink) bool { return l.ID == incident }) ||
		slices.ContainsFunc(s.state.Versions, func(v rotation.Version) bool { return v.Of(incident) })
}
