package backend

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// IncidentSummary is an incident at a glance.
type IncidentSummary struct {
	ID string
	// Status is empty where the record cannot be read; so is the rest then.
	Status       store.IncidentStatus
	Severity     string
	OpenedTime   time.Time
	Roles        int
	Acknowledged bool
}

// Incidents lists the incidents: open ones first, then contained and closed ones, each the
// newest first. It reads the header of each.
func (e *Engine) Incidents(ctx context.Context) ([]IncidentSummary, error) {
	ids, err := e.store.Incidents(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]IncidentSummary, 0, len(ids))
	for _, id := range ids {
		h, err := e.store.IncidentHeader(ctx, id)
		switch {
		case isStorage(err):
			return nil, err
		case err != nil: // one record's trouble is its own
			e.logger.Error("could not read the record of an incident", "incident_id", id, "error", err)
			out = append(out, IncidentSummary{ID: id})
		case h != nil:
			out = append(out, IncidentSummary{
				ID: id, Status: h.Status, Severity: h.Severity, OpenedTime: h.OpenedTime, Roles: len(h.Marks), Acknowledged: h.Acknowledged != nil,
			})
		}
	}
	slices.SortFunc(out, func(a, b IncidentSummary) int {
		return cmp.Or(cmp.Compare(incidentUrgency(a.Status), incidentUrgency(b.Status)), strings.Compare(b.ID, a.ID))
	})
	return out, nil
}

// incidentUrgency puts a record that cannot be read first.
func incidentUrgency(s store.IncidentStatus) int {
	return slices.Index([]store.IncidentStatus{"", store.IncidentOpen, store.IncidentContained, store.IncidentClosed}, s)
}

// Incident returns the record of an emergency.
func (e *Engine) Incident(ctx context.Context, id string) (*store.Incident, error) {
	doc, err := e.store.Incident(ctx, id)
	if err != nil {
		return nil, err
	}
	if doc == nil {
		return nil, noIncident(id)
	}
	return doc, e.addWaiting(ctx, doc)
}

func noIncident(id string) error { return fault.New(fault.NotFound, "there is no incident %q", id) }

// IncidentSteps says, for each role that is not contained, what keeps the leak alive, and
// for each that is but was not replaced, that its readers fail.
func IncidentSteps(i *store.Incident) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(i.Roles)) {
		if step := incidentStep(name, i.Marks[name], i.Roles[name]); step != "" {
			out = append(out, step)
		}
	}
	return out
}

func incidentStep(name string, mark store.IncidentMark, facts *store.IncidentRole) string {
	switch {
	case mark.Gone:
		return GoneStep(name)
	case mark.Outstanding() && len(facts.Compromised) == 0:
		return NotReached(name)
	case (!facts.Contained || facts.ReplacedBy == 0) && facts.Detail != "":
		return fmt.Sprintf("%s: %s", name, facts.Detail)
	default:
		return ""
	}
}

// notContained says in a sentence what of an incident may live on. It reads the facts of a
// few roles, however many there are.
func (e *Engine) notContained(ctx context.Context, h *store.IncidentHeader) (string, error) {
	const most = 3
	var left []string
	for _, name := range slices.Sorted(maps.Keys(h.Marks)) {
		mark := h.Marks[name]
		switch {
		case mark.Contained:
		case len(left) >= most:
			left = append(left, name)
		default:
			facts, err := e.store.IncidentRole(ctx, h.ID, name)
			if err != nil {
				return "", err
			}
			if facts == nil {
				facts = &store.IncidentRole{}
			}
			left = append(left, cmp.Or(incidentStep(name, mark, facts), name+" is being ended"))
		}
	}
	return joinFirst(left, most), nil
}
