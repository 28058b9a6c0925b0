package backend

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// ofIncidents begins the name under which an incident has its place in the index and among
// the workers; no role may have a space in its name.
const ofIncidents = "incident "

// putIncident stores a header, and lets a worker tell what it has to tell. The caller holds
// the incident's lock, or is the one who makes it.
func (e *Engine) putIncident(ctx context.Context, h *store.IncidentHeader) error {
	err := e.store.PutIncidentHeader(ctx, h)
	if err != nil { // it may have gone through: a rebuild finds it
		e.forgetAll()
		return err
	}
	e.openIncidents.note(h)
	if len(h.Events) > 0 && e.mayAct() {
		e.workers.add(forOne, incidentLock(h.ID))
	}
	return nil
}

// workOnIncident tells what there is to tell of an incident, and whom nobody answers for.
func (e *Engine) workOnIncident(ctx context.Context, id string) {
	if !e.mayAct() {
		e.index.forget(incidentLock(id)) // a rebuild finds it again
		return
	}
	next, err := e.tellOfIncident(ctx, id)
	if err != nil {
		if ctx.Err() != nil {
			return // runs again at once, or goes on in the next process
		}
		e.logger.Error("could not tell of an incident; trying again", "incident_id", id, "error", err)
		next = e.clock.Now().Add(time.Minute)
	}
	e.index.set(incidentLock(id), next)
	e.nudge()
}

func (e *Engine) tellOfIncident(ctx context.Context, id string) (next time.Time, err error) {
	if next, err = e.passIncidentOn(ctx, id); err != nil {
		return next, err
	}
	return next, e.takeIncidentEvents(ctx, id, func(h *store.IncidentHeader, ev rotation.Event) error {
		return e.tell(ctx, about{incident: h}, ev)
	})
}

// passIncidentOn tells the next contact in line of a leak that lives and that nobody
// acknowledged, and returns when the one after is to be told.
func (e *Engine) passIncidentOn(ctx context.Context, id string) (next time.Time, err error) {
	policy := alarmPolicy(e.config.Load())
	err = e.changeIncident(ctx, id, func(h *store.IncidentHeader) error {
		now := e.clock.Now()
		told := h.Contacts
		if h.Status != store.IncidentOpen {
			return errNoChange
		}
		next = policy.PassOnAt(told, later(h.OpenedTime, h.PassedTime), h.Acknowledged)
		if next.IsZero() || now.Before(next) {
			return errNoChange
		}
		next = policy.PassOnAt(told+1, now, nil)
		ev := incidentEvent(h, eventEscalated, now, map[string]string{"reason": h.Reason, "unacknowledged_since": h.OpenedTime.UTC().Format(time.RFC3339)})
		ev.ID, ev.Channel = fmt.Sprintf("%s/%d", ev.ID, told), policy.Contacts[told]
		h.Contacts, h.PassedTime = told+1, now
		h.Emit(ev)
		return nil
	})
	return next, err
}

// incidentOf reads the incident that a message is of, nil for none: an event of thousands of
// roles lies in the outbox of each channel, and the record alone names them all.
func (e *Engine) incidentOf(ctx context.Context, q *store.Queued) (*store.IncidentHeader, error) {
	id := q.Event.Data["incident_id"]
	if id == "" {
		return nil, nil
	}
	h, err := e.store.IncidentHeader(ctx, id)
	if err != nil && !isStorage(err) { // the event says enough to wake people
		e.logger.Error("could not read the record of an incident: what it says is told without", "incident_id", id, "error", err)
		return nil, nil
	}
	return h, err
}

// rolesOfIncident names the roles of an incident, in order.
func rolesOfIncident(h *store.IncidentHeader) []string { return slices.Sorted(maps.Keys(h.Marks)) }

// takeUpIncident lets a worker look after what a header has to tell still.
func (e *Engine) takeUpIncident(h *store.IncidentHeader) {
	if len(h.Events) > 0 || h.Status == store.IncidentOpen && h.Acknowledged == nil {
		e.index.found(incidentLock(h.ID), e.clock.Now())
	}
}

// recordTold writes into an incident's record what became of a message. Only the channel's
// courier calls it.
func (e *Engine) recordTold(ctx context.Context, channel string, q *store.Queued, status, detail string) error {
	id := q.Event.Data["incident_id"]
	if id == "" {
		return nil
	}
	doc, err := e.store.IncidentToldThrough(ctx, id, channel)
	switch is, newer := unreadable(err); {
	case newer: // not ours to write over
		e.logger.Error("what became of a message is not recorded: a newer release wrote the record", "channel", channel, "incident_id", id)
		return nil
	case is: // the message is not sent again for that
		e.logger.Error("a record of what was told of an incident could not be read; it begins anew", "channel", channel, "incident_id", id)
	case err != nil:
		return err
	}
	if doc == nil {
		doc = &store.IncidentTold{Channel: channel}
	}
	noteTold(doc, q, status, detail, e.clock.Now())
	return e.store.PutIncidentTold(ctx, id, doc)
}

// addWaiting puts what waits behind another message, and was never tried, beside what is on
// record: where a channel takes nothing, that is most of it.
func (e *Engine) addWaiting(ctx context.Context, i *store.Incident) error {
	all, err := e.allChannels(ctx)
	if err != nil {
		return err
	}
	for _, channel := range all {
		if err := e.addWaitingFor(ctx, channel.Name, i); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) addWaitingFor(ctx context.Context, channel string, i *store.Incident) error {
	keys, err := e.store.OutboxKeys(ctx, channel)
	if err != nil {
		return err
	}
	first, _ := slices.BinarySearch(keys, store.OutboxKeysFrom(i.OpenedTime))
	at := slices.IndexFunc(i.Told, func(t store.IncidentTold) bool { return t.Channel == channel })
	for _, key := range keys[first:min(len(keys), first+store.MaxToldEvents)] {
		q, err := e.store.Queued(ctx, channel, key)
		if is, _ := unreadable(err); is {
			continue // its courier tells of it
		}
		if err != nil {
			return err
		}
		if q == nil || q.Event.Data["incident_id"] != i.ID {
			continue
		}
		if at < 0 {
			at, i.Told = len(i.Told), append(i.Told, store.IncidentTold{Channel: channel})
		}
		told := &i.Told[at]
		if slices.ContainsFunc(told.Events, func(t store.ToldEvent) bool { return t.ID == q.Event.ID }) {
			continue
		}
		told.Events = append(told.Events, store.ToldEvent{
			ID: q.Event.ID, Type: q.Event.Type, Role: strings.Join(rolesOf(q), ", "), Status: store.ToldWaiting, Time: q.QueuedTime,
		})
	}
	return nil
}

func noteTold(doc *store.IncidentTold, q *store.Queued, status, detail string, now time.Time) {
	i := slices.IndexFunc(doc.Events, func(t store.ToldEvent) bool { return t.ID == q.Event.ID })
	if i < 0 {
		i = len(doc.Events)
		doc.Events = append(doc.Events, store.ToldEvent{ID: q.Event.ID, Type: q.Event.Type, Role: strings.Join(rolesOf(q), ", ")})
	}
	told := &doc.Events[i]
	if told.Status != status {
		switch status {
		case store.ToldDelivered:
			doc.Delivered++
		case store.ToldExpired, store.ToldRefused:
			doc.Undelivered++
		}
	}
	told.Status, told.Detail, told.Time, doc.Last = status, detail, now, now
	told.Attempts++
}
