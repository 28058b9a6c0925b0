package rotationsecrets

import (
	"fmt"
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
		"detected_time":  moment("When the leak was noticed."),
		"opened_time":    moment("When it was declared."),
		"contained_time": moment("When every leaked version was proven dead."),
		"closed_time":    moment("When a person closed it."),
		"roles": list("For each role: name, compromised_versions (version, identifier, revoked_time, sessions_ended, " +
			"proof: time, result), replaced_by, replaced_time."),
		"steps":         list("What was done, in order of time: time, role, action, result, detail."),
		"readers":       list("Who had read what leaked."),
		"notifications": list("Who was told."),
		"notes":         list("What people added: time, actor, text."),
		"next_steps":    list("What a person should do now, in sentences."),
		"conclusion":    text("What was concluded when it was closed."),
	}
}

func renderIncident(i *store.Incident) map[string]any {
	return map[string]any{
		"id":             i.ID,
		"severity":       i.Severity,
		"status":         string(i.Status),
		"reason":         i.Reason,
		"actor":          renderActor(i.Actor),
		"detected_time":  renderTime(i.DetectedTime),
		"opened_time":    renderTime(i.OpenedTime),
		"contained_time": renderTime(i.ContainedTime),
		"closed_time":    renderTime(i.ClosedTime),
		"roles":          renderIncidentRoles(i),
		"steps":          renderIncidentSteps(i),
		"readers":        []any{},
		"notifications":  []any{},
		"notes":          []any{},
		"next_steps":     sentences(keptAlive(i)),
		"conclusion":     nil,
	}
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

// renderIncidentSteps lays the steps of all roles into one order of time.
func renderIncidentSteps(i *store.Incident) []any {
	type roleStep struct {
		role string
		store.IncidentStep
	}
	var steps []roleStep
	for _, name := range slices.Sorted(maps.Keys(i.Roles)) {
		for _, s := range i.Roles[name].Steps {
			steps = append(steps, roleStep{name, s})
		}
	}
	slices.SortStableFunc(steps, func(a, b roleStep) int { return a.Time.Compare(b.Time) })
	out := make([]any, 0, len(steps))
	for _, s := range steps {
		out = append(out, map[string]any{
			"time": renderTime(s.Time), "role": s.role, "action": s.Action, "result": s.Result, "detail": orNull(s.Detail),
		})
	}
	return out
}

// keptAlive says, for each role that is not contained, what keeps the leak alive, and
// for each that is but was not replaced, that its readers fail.
func keptAlive(i *store.Incident) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(i.Roles)) {
		switch r, mark := i.Roles[name], i.Marks[name]; {
		case mark.Gone:
			out = append(out, backend.GoneStep(name))
		case mark.Outstanding() && len(r.Compromised) == 0:
			out = append(out, backend.NotReached(name))
		case (!r.Contained || r.ReplacedBy == 0) && r.Detail != "":
			out = append(out, fmt.Sprintf("%s: %s", name, r.Detail))
		}
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
