package backend

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

const (
	// maxNote bounds a note, and a conclusion, in bytes; maxNotes how many an incident takes.
	maxNote  = 4096
	maxNotes = 100
	// maxToldConclusion bounds what those who are told read of a conclusion, in characters.
	maxToldConclusion = 300
)

// IncidentWrite is what a person says of an incident; nil for nothing.
type IncidentWrite struct {
	Actor       Actor
	Severity    *string
	Note        *string
	Acknowledge *bool
}

// IncidentClose closes an incident.
type IncidentClose struct {
	Actor      Actor
	Conclusion string
	// Force closes one that is not contained, for a Reason.
	Force  bool
	Reason string
}

// changeIncident is how the header of an incident changes, but for the marks of its roles:
// under the lock that these take too it is read afresh, changed, and stored with one Put.
func (e *Engine) changeIncident(ctx context.Context, id string, change func(*store.IncidentHeader) error) error {
	unlock, err := e.locks.lock(ctx, incidentLock(id))
	if err != nil {
		return err
	}
	defer unlock()
	h, err := e.store.IncidentHeader(ctx, id)
	if err != nil {
		return err
	}
	if h == nil {
		return noIncident(id)
	}
	if err := change(h); err != nil {
		if errors.Is(err, errNoChange) {
			return nil
		}
		return err
	}
	return e.putIncident(ctx, h)
}

// WriteIncident adds to the record of an emergency. A closed one takes notes only.
func (e *Engine) WriteIncident(ctx context.Context, id string, w IncidentWrite) (*store.IncidentHeader, error) {
	if err := w.check(); err != nil {
		return nil, err
	}
	by, err := e.actor(ctx, w.Actor)
	if err != nil {
		return nil, err
	}
	var out *store.IncidentHeader
	err = e.changeIncident(ctx, id, func(h *store.IncidentHeader) error {
		out = h
		if h.Status == store.IncidentClosed && (w.Severity != nil || w.Acknowledge != nil) {
			return fault.New(fault.Conflict, "incident %s was closed at %s: it takes notes only", h.ID, h.ClosedTime.Format(timeFormat))
		}
		if w.Note != nil {
			note := store.IncidentNote{Time: e.clock.Now(), Actor: by, Text: *w.Note}
			if err := e.addNote(ctx, h.ID, note); err != nil {
				return err
			}
		}
		if !w.apply(h, by, e.clock.Now()) {
			return errNoChange
		}
		return nil
	})
	return out, err
}

// check refuses what is wrong whatever the incident is.
func (w *IncidentWrite) check() error {
	switch {
	case w.Severity == nil && w.Note == nil && w.Acknowledge == nil:
		return fault.Field("note", "is missing: give a note, a severity or acknowledge=true")
	case w.Severity != nil && !slices.Contains(severities, *w.Severity):
		return fault.Field("severity", "must be one of %s", strings.Join(severities, ", "))
	case w.Acknowledge != nil && !*w.Acknowledge:
		return fault.Field("acknowledge", "can only be true: that somebody sees to it is not taken back, but a note can say that nobody does")
	case w.Note != nil:
		return checkText("note", *w.Note, "say in a sentence what there is to know")
	default:
		return nil
	}
}

// checkText bounds what people write into a record.
func checkText(field, text, what string) error {
	if strings.TrimSpace(text) == "" {
		return fault.Field(field, "is empty: %s", what)
	}
	if len(text) > maxNote {
		return fault.Field(field, "has %d bytes; at most %d are kept", len(text), maxNote)
	}
	return nil
}

// apply changes the header; false where it says all that already.
func (w *IncidentWrite) apply(h *store.IncidentHeader, by rotation.Actor, now time.Time) (changed bool) {
	if w.Severity != nil && *w.Severity != h.Severity {
		before := h.Severity
		h.Severity = *w.Severity
		h.SeverityChanges++
		emitSeverity(h, before, now)
		changed = true
	}
	if w.Acknowledge != nil && h.Acknowledged == nil { // the first who did stays
		h.Acknowledged = &rotation.Acknowledgement{Time: now, Actor: by}
		emitIncident(h, eventAcknowledged, now, map[string]string{"by": by.DisplayName})
		changed = true
	}
	return changed
}

// addNote stores a note under the next number; the caller holds the incident's lock. The
// newest one written again, by whoever did not get an answer, is there already.
func (e *Engine) addNote(ctx context.Context, id string, note store.IncidentNote) error {
	notes, err := e.store.IncidentNotes(ctx, id)
	if err != nil {
		return err
	}
	if n := len(notes); n > 0 && notes[n-1].Text == note.Text && notes[n-1].Actor == note.Actor {
		return nil
	}
	if len(notes) >= maxNotes {
		return fault.New(fault.Conflict, "incident %s has %d notes, the most that one takes: keep the rest elsewhere", id, maxNotes)
	}
	return e.store.PutIncidentNote(ctx, id, len(notes)+1, &note)
}

// CloseIncident records what a person concluded. One that is not contained needs force and
// a reason; the engine goes on ending what leaked all the same.
func (e *Engine) CloseIncident(ctx context.Context, id string, c IncidentClose) (*store.IncidentHeader, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	by, err := e.actor(ctx, c.Actor)
	if err != nil {
		return nil, err
	}
	var out *store.IncidentHeader
	err = e.changeIncident(ctx, id, func(h *store.IncidentHeader) error {
		out = h
		if h.Status == store.IncidentClosed {
			if h.Closing != nil && h.Closing.Conclusion == c.Conclusion { // only the answer was lost
				return errNoChange
			}
			return fault.New(fault.Conflict, "incident %s was closed at %s: what there is to add is a note", h.ID, h.ClosedTime.Format(timeFormat))
		}
		forced := h.Status != store.IncidentContained
		if err := e.mayClose(ctx, h, &c); err != nil {
			return err
		}
		h.Status, h.ClosedTime = store.IncidentClosed, e.clock.Now()
		h.Closing = &store.IncidentClosing{Actor: by, Conclusion: c.Conclusion, Forced: forced}
		data := map[string]string{"conclusion": cut(c.Conclusion, maxToldConclusion), "forced": "false"}
		if forced {
			h.Closing.Reason, data["forced"], data["reason"] = c.Reason, "true", c.Reason
		}
		emitIncident(h, eventClosed, h.ClosedTime, data)
		return nil
	})
	return out, err
}

func (c *IncidentClose) check() error {
	if err := checkText("conclusion", c.Conclusion, "say what happened, what was done, and what is left to do"); err != nil {
		return err
	}
	if len(c.Reason) > maxMessage {
		return fault.Field("reason", "has %d bytes; at most %d are kept", len(c.Reason), maxMessage)
	}
	return nil
}

// mayClose refuses to close an incident that is not contained, unless a person says why.
func (e *Engine) mayClose(ctx context.Context, h *store.IncidentHeader, c *IncidentClose) error {
	if h.Status == store.IncidentContained {
		return nil
	}
	if c.Force && strings.TrimSpace(c.Reason) != "" {
		return nil
	}
	left, err := e.notContained(ctx, h)
	if err != nil {
		return err
	}
	if c.Force {
		return fault.Field("reason", "is required with force=true: say why incident %s is closed before it is contained: %s", h.ID, left)
	}
	return fault.New(fault.Conflict, "incident %s is not contained: %s; to close it all the same, write force=true and a reason", h.ID, left)
}

// cut shortens a text to so many characters.
func cut(text string, most int) string {
	if utf8.RuneCountInString(text) <= most {
		return text
	}
	return string([]rune(text)[:most-1]) + "…"
}
