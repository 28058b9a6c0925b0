package backend

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// What there is to tell of an incident. An event lies in the header, stored by the Put that
// makes it true; the id is that of the incident and the type, so that it stays the same
// however often it is told.
const (
	eventDeclared     = "emergency.declared"
	eventContained    = "incident.contained"
	eventAcknowledged = "incident.acknowledged"
	eventClosed       = "incident.closed"
	eventEscalated    = "incident.escalated"
)

func emitDeclared(h *store.IncidentHeader) {
	emitIncident(h, eventDeclared, h.OpenedTime, map[string]string{
		"reason": h.Reason, "kill_first": strconv.FormatBool(h.KillFirst),
	})
}

// emitSeverity tells of a change that was counted.
func emitSeverity(h *store.IncidentHeader, before string, now time.Time) {
	e := incidentEvent(h, store.SeverityChanged, now, map[string]string{"before": before})
	e.ID += "/" + strconv.Itoa(h.SeverityChanges)
	h.Emit(e)
}

func emitIncident(h *store.IncidentHeader, typ string, now time.Time, data map[string]string) {
	h.Emit(incidentEvent(h, typ, now, data))
}

func incidentEvent(h *store.IncidentHeader, typ string, now time.Time, data map[string]string) rotation.Event {
	data["incident_id"], data["severity"], data["contacts"] = h.ID, h.Severity, strconv.Itoa(h.Contacts)
	data["roles"] = namesOf(rolesOfIncident(h)) // the first: there may be thousands
	return rotation.Event{ID: h.ID + "/" + typ, Type: typ, Time: now, Data: data}
}

// takeIncidentEvents hands the events of an incident over, the oldest first, and removes
// those that were told with one Put. What is told but not removed, since that Put failed or
// the process died, is told again: its id is the same.
func (e *Engine) takeIncidentEvents(ctx context.Context, id string, told func(*store.IncidentHeader, rotation.Event) error) error {
	var failed error
	err := e.changeIncident(ctx, id, func(h *store.IncidentHeader) error {
		n := 0
		for n < len(h.Events) && failed == nil {
			if failed = told(h, h.Events[n]); failed == nil {
				n++
			}
		}
		if n == 0 {
			return errNoChange
		}
		h.Events = h.Events[n:]
		return nil
	})
	return errors.Join(failed, err)
}
