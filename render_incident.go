package rotationsecrets

import (
	"maps"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

func incidentFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"id":             text("Id of the incident."),
		"severity":       text("How grave it is."),
		"status":         text("open, contained (every leaked version is proven dead) or closed."),
		"reason":         text("What happened, in the words of whoever declared it."),
		"actor":          object("Who declared it: entity_id, display_name, accessor_hash."),
		"acknowledged":   object("Who said first that they see to it: time, actor."),
		"detected_time":  moment("When the leak was noticed."),
		"opened_time":    moment("When it was declared."),
		"contained_time": moment("When every leaked version was proven dead."),
		"closed_time":    moment("When a person closed it."),
		"roles": list("For each role: name, compromised_versions (version, identifier, revoked_time, sessions_ended, " +
			"proof: time, result), replaced_by, replaced_time, more_readers (how many there are beside those in readers)."),
		"steps": list("What was done, in order of time: time, role, action, result, detail."),
		"readers": list("Who had read what leaked, at most 50 for each role: role, version, entity_id, display_name, accessor_hash, " +
			"address, reads, first_time, last_time."),
		"notifications": list("Who was told: channel, delivered, undelivered, last_time, events (id, type, role, status: waiting, " +
			"delivered, expired or refused, time, attempts, detail; the first 100)."),
		"notes":      list("What people added: time, actor, text."),
		"next_steps": list("What a person should do now, in sentences."),
		"conclusion": text("What was concluded when it was closed."),
		"closing":    object("Who closed it, and whether that was forced: actor, forced, reason."),
		"report":     text("The record as a document in Markdown; only with format=markdown."),
	}
}

// incidentHeadFields are those of an incident that writing to it answers.
func incidentHeadFields() map[string]*framework.FieldSchema {
	all, out := incidentFields(), map[string]*framework.FieldSchema{}
	for _, name := range []string{"id", "severity", "status", "acknowledged", "contained_time", "closed_time", "conclusion"} {
		out[name] = all[name]
	}
	return out
}

func renderIncidentHead(h *store.IncidentHeader) map[string]any {
	return map[string]any{
		"id":             h.ID,
		"severity":       h.Severity,
		"status":         string(h.Status),
		"acknowledged":   renderAcknowledged(h.Acknowledged),
		"contained_time": renderTime(h.ContainedTime),
		"closed_time":    renderTime(h.ClosedTime),
		"conclusion":     renderConclusion(h),
	}
}

func renderIncidentSummary(i backend.IncidentSummary) map[string]any {
	if i.Status == "" {
		return map[string]any{"status": nil, "severity": nil, "opened_time": nil, "roles": nil, "acknowledged": nil}
	}
	return map[string]any{
		"status": string(i.Status), "severity": i.Severity, "opened_time": renderTime(i.OpenedTime), "roles": i.Roles, "acknowledged": i.Acknowledged,
	}
}

func renderAcknowledged(a *rotation.Acknowledgement) any {
	if a == nil {
		return nil
	}
	return map[string]any{"time": renderTime(a.Time), "actor": renderActor(a.Actor)}
}

func renderConclusion(h *store.IncidentHeader) any {
	if h.Closing == nil {
		return nil
	}
	return h.Closing.Conclusion
}

func renderClosing(c *store.IncidentClosing) any {
	if c == nil {
		return nil
	}
	return map[string]any{"actor": renderActor(c.Actor), "forced": c.Forced, "reason": orNull(c.Reason)}
}

func renderIncident(i *store.Incident) map[string]any {
	out := renderIncidentHead(&i.IncidentHeader)
	maps.Copy(out, map[string]any{
		"reason":        i.Reason,
		"actor":         renderActor(i.Actor),
		"detected_time": renderTime(i.DetectedTime),
		"opened_time":   renderTime(i.OpenedTime),
		"roles":         renderIncidentRoles(i),
		"steps":         renderIncidentSteps(i),
		"readers":       renderReaders(i),
		"notifications": renderTold(i.Told),
		"notes":         renderNotes(i.Notes),
		"next_steps":    sentences(backend.IncidentSteps(i)),
		"closing":       renderClosing(i.Closing),
		"report":        nil,
	})
	return out
}

func renderReaders(i *store.Incident) []any {
	out := []any{}
	for _, r := range readersOf(i) {
		one := renderReader(r.Reader)
		one["role"], one["version"] = r.Role, r.Version
		out = append(out, one)
	}
	return out
}

// readersOf are the readers of all roles, by role.
func readersOf(i *store.Incident) (out []store.IncidentReader) {
	for _, name := range slices.Sorted(maps.Keys(i.Roles)) {
		for _, r := range i.Roles[name].Readers {
			r.Role = name
			out = append(out, r)
		}
	}
	return out
}

func renderTold(told []store.IncidentTold) []any {
	out := []any{}
	for _, t := range told {
		events := make([]any, 0, len(t.Events))
		for _, e := range t.Events {
			events = append(events, map[string]any{
				"id": e.ID, "type": e.Type, "role": orNull(e.Role), "status": e.Status, "time": renderTime(e.Time), "attempts": e.Attempts, "detail": orNull(e.Detail),
			})
		}
		out = append(out, map[string]any{
			"channel": t.Channel, "delivered": t.Delivered, "undelivered": t.Undelivered, "last_time": renderTime(t.Last), "events": events,
		})
	}
	return out
}

func renderNotes(notes []store.IncidentNote) []any {
	out := []any{}
	for _, n := range notes {
		out = append(out, map[string]any{"time": renderTime(n.Time), "actor": renderActor(n.Actor), "text": n.Text})
	}
	return out
}

func renderIncidentRoles(i *store.Incident) []any {
	out := make([]any, 0, len(i.Roles))
	for _, name := range slices.Sorted(maps.Keys(i.Roles)) {
		r := i.Roles[name]
		versions := make([]any, 0, len(r.Compromised))
		for _, v := range r.Compromised {
			versions = append(versions, map[string]any{
				"version":        v.Version,
				"identifier":     orNull(v.Identifier),
				"revoked_time":   renderTime(v.RevokedTime),
				"sessions_ended": v.SessionsEnded,
				"proof":          renderProof(v.Proof),
			})
		}
		out = append(out, map[string]any{
			"name":                 name,
			"compromised_versions": versions,
			"replaced_by":          orNull(r.ReplacedBy),
			"replaced_time":        renderTime(r.ReplacedTime),
			"more_readers":         r.MoreReaders,
		})
	}
	return out
}

func renderProof(p *rotation.Proof) any {
	if p == nil {
		return nil
	}
	return map[string]any{"time": renderTime(p.Time), "result": p.Result}
}

// roleStep is an act, and the role it was done for; none for the incident itself.
type roleStep struct {
	role string
	store.IncidentStep
}

// stepsOf lays the steps of all roles into one order of time.
func stepsOf(i *store.Incident) (steps []roleStep) {
	for _, name := range slices.Sorted(maps.Keys(i.Roles)) {
		for _, s := range i.Roles[name].Steps {
			steps = append(steps, roleStep{name, s})
		}
	}
	slices.SortStableFunc(steps, func(a, b roleStep) int { return a.Time.Compare(b.Time) })
	return steps
}

func renderIncidentSteps(i *store.Incident) []any {
	out := []any{}
	for _, s := range stepsOf(i) {
		out = append(out, map[string]any{
			"time": renderTime(s.Time), "role": s.role, "action": s.Action, "result": s.Result, "detail": orNull(s.Detail),
		})
	}
	return out
}

// sentences renders a list that is empty rather than null.
func sentences(s []string) []any {
	out := make([]any, 0, len(s))
	for _, text := range s {
		out = append(out, text)
	}
	return out
}
