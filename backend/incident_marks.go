package backend

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// incidentMarks are what roles have to say to the headers of their incidents. A
// header names every role of an incident, and thousands may get on at once: whoever
// gets to write it writes for all that wait.
type incidentMarks struct {
	mu      sync.Mutex
	waiting map[string]map[string]store.IncidentMark // by incident and role
}

func (m *incidentMarks) put(incident, role string, mark store.IncidentMark) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.waiting == nil {
		m.waiting = map[string]map[string]store.IncidentMark{}
	}
	if m.waiting[incident] == nil {
		m.waiting[incident] = map[string]store.IncidentMark{}
	}
	m.waiting[incident][role] = mark
}

// take hands all that waits for an incident to one writer.
func (m *incidentMarks) take(incident string) map[string]store.IncidentMark {
	m.mu.Lock()
	defer m.mu.Unlock()
	batch := m.waiting[incident]
	delete(m.waiting, incident)
	return batch
}

// giveBack returns what could not be written; what came in meanwhile is newer.
func (m *incidentMarks) giveBack(incident string, batch map[string]store.IncidentMark) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.Copy(batch, m.waiting[incident])
	if m.waiting == nil {
		m.waiting = map[string]map[string]store.IncidentMark{}
	}
	m.waiting[incident] = batch
}

// incidentLock is held while an incident's header is read, changed and written:
// several roles may share one. No role's lock is held then.
func incidentLock(id string) string { return "incident " + id }

// markIncident lets the header of an incident say how far a role is. It returns when
// that is stored.
func (e *Engine) markIncident(ctx context.Context, id, role string, mark store.IncidentMark) error {
	e.marks.put(id, role, mark)
	unlock, err := e.locks.lock(ctx, incidentLock(id))
	if err != nil {
		return err
	}
	defer unlock()
	batch := e.marks.take(id)
	if len(batch) == 0 {
		return nil // whoever held the lock wrote it too
	}
	if err := e.putMarks(ctx, id, batch); err != nil {
		e.marks.giveBack(id, batch)
		return err
	}
	return nil
}

func (e *Engine) putMarks(ctx context.Context, id string, batch map[string]store.IncidentMark) error {
	header, err := e.store.IncidentHeader(ctx, id)
	if err != nil {
		return err
	}
	if header == nil {
		e.logger.Error("an incident of a role has no record", "incident_id", id)
		return nil
	}
	before := maps.Clone(header.Marks)
	for role, mark := range batch {
		was := header.Marks[role] // what was true once stays true, whoever writes last
		mark.Declared, mark.Contained, mark.Gone = mark.Declared || was.Declared, mark.Contained || was.Contained, mark.Gone || was.Gone
		header.Marks[role] = mark
	}
	if maps.Equal(before, header.Marks) {
		return nil
	}
	if header.ContainedTime.IsZero() && allContained(header) {
		contain(header, e.clock.Now())
	}
	return e.putIncident(ctx, header)
}

// contain notes that every leaked version is proven dead. One that was closed before
// stays closed.
func contain(header *store.IncidentHeader, now time.Time) {
	header.ContainedTime = now
	if header.Status == store.IncidentOpen {
		header.Status = store.IncidentContained
	}
	emitIncident(header, eventContained, now, map[string]string{"status": string(header.Status)})
}

func allContained(header *store.IncidentHeader) bool {
	for _, mark := range header.Marks {
		if !mark.Contained {
			return false
		}
	}
	return true
}
