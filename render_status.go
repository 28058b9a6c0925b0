package rotationsecrets

import (
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/jwt"
)

func summaryFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"name":                text("Name of the role."),
		"type":                text("Kind of secret."),
		"state":               text("diverged, blocked, action_required, overdue, failing, rotating, due, grace or ok."),
		"current_version":     number("The version that readers get; null for none."),
		"last_vault_rotation": moment("When that last changed."),
		"next_rotation":       moment("When the next rotation is due; null when none is planned."),
		"overdue_seconds":     number("By how much it is late."),
	}
}

func statusFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"roles": list("The roles: name, type, state, current_version, last_vault_rotation, next_rotation, " +
			"overdue_seconds, last_error."),
		"counts": object("How many roles are in each state."),
		"next":   text(`What to give as "after" for the next page; null on the last one.`),
	}
}

func roleStatusFields() map[string]*framework.FieldSchema {
	fields := summaryFields()
	fields["connection"] = text("Name of the connection.")
	fields["state_reason"] = text("Why the role is in that state.")
	fields["consecutive_failures"] = number("Attempts that failed since the last success.")
	fields["rotation"] = object("The Rotation in flight.")
	fields["last_rotation"] = object("The Rotation that ended last.")
	fields["versions"] = list("Every Version that is kept, by number.")
	fields["mirror"] = object("The copy of the current version elsewhere: path, version (of the role), mirror_version (the place's own), written_time, trouble. Null where there is none.")
	fields["open_incidents"] = list("Ids of the incidents that are not contained.")
	fields["revoked_kids"] = sometimes(framework.TypeSlice, "(type jwt) Ids of keys that leaked: no token of theirs is to be trusted.")
	return fields
}

func historyFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"rotations": list("Each a Rotation."),
		"next":      text(`What to give as "before" for the next page; null on the last one.`),
	}
}

func calendarFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"entries": list("What comes up, the earliest first: time, role, type, what (rotation, promotion, retirement, destruction, " +
			"re-encryption or maintenance window), detail."),
		"until":     moment("How far it looks ahead."),
		"truncated": flag("Whether there is more until then than one answer holds: ask for fewer days."),
	}
}

func renderCalendar(c *backend.Calendar) map[string]any {
	entries := make([]any, 0, len(c.Entries))
	for _, e := range c.Entries {
		entries = append(entries, map[string]any{"time": renderTime(e.Time), "role": e.Role, "type": e.Type, "what": e.What, "detail": e.Detail})
	}
	return map[string]any{"entries": entries, "until": renderTime(c.Until), "truncated": c.Truncated}
}

func renderSummary(s backend.RoleSummary) map[string]any {
	return map[string]any{
		"name":                s.Name,
		"type":                s.Type,
		"state":               string(s.State),
		"current_version":     orNull(s.CurrentVersion),
		"last_vault_rotation": renderTime(s.ActivatedTime),
		"next_rotation":       renderTime(s.NextRotation),
		"overdue_seconds":     int64(s.Overdue / time.Second),
	}
}

func renderStatus(p *backend.StatusPage) map[string]any {
	roles := make([]any, 0, len(p.Roles))
	for _, s := range p.Roles {
		role := renderSummary(s)
		role["last_error"] = orNull(s.LastError)
		roles = append(roles, role)
	}
	counts := make(map[string]any, len(backend.RoleStates))
	for _, state := range backend.RoleStates {
		counts[string(state)] = p.Counts[state]
	}
	return map[string]any{"roles": roles, "counts": counts, "next": orNull(p.Next)}
}

func renderRoleStatus(s *backend.RoleStatus) map[string]any {
	versions := make([]any, 0, len(s.Versions))
	for i := range s.Versions {
		v := &s.Versions[i]
		var inUse any
		if uses, asked := s.InUse[v.Number]; asked {
			inUse = renderUses(uses)
		}
		versions = append(versions, renderVersion(v, inUse))
	}
	out := renderSummary(s.RoleSummary)
	out["connection"] = orNull(s.Connection)
	out["state_reason"] = orNull(s.StateReason)
	out["consecutive_failures"] = s.ConsecutiveFailures
	out["rotation"] = optionalRotation(s.Rotation)
	out["last_rotation"] = optionalRotation(s.LastRotation)
	out["versions"] = versions
	out["mirror"] = renderMirror(s.Mirror)
	out["open_incidents"] = sentences(s.OpenIncidents)
	if s.Type == jwt.Type {
		out["revoked_kids"] = sentences(s.RevokedIDs)
	}
	return out
}

func renderMirror(m *rotation.Mirror) any {
	if m == nil {
		return nil
	}
	return map[string]any{
		"path": m.Path, "version": orNull(m.Version), "mirror_version": orNull(m.Copy), "written_time": renderTime(m.WrittenTime), "trouble": orNull(m.Trouble()),
	}
}

// leftOutside tells of versions whose end waits for a person, does not go through, or
// is not proven.
func leftOutside(s *backend.RoleStatus) []string {
	var out []string
	for _, v := range s.Versions {
		if v.Left != "" {
			out = append(out, fmt.Sprintf("version %d (%s) stays outside, disabled: %s", v.Number, v.Identifier, v.Left))
		}
		if a := v.Attention; a != nil && a.Failing {
			out = append(out, fmt.Sprintf("version %d (%s) could not be ended yet, after %d attempts: %s; next attempt %s",
				v.Number, v.Identifier, a.Attempts, a.Reason, a.At.UTC().Format(time.RFC3339)))
		}
		if p := v.Proof; p != nil && !p.Dead && !p.Unprovable {
			out = append(out, fmt.Sprintf("version %d (%s) was ended, but is not proven dead: %s; it is asked again every minute",
				v.Number, v.Identifier, strings.TrimPrefix(p.Result, "not proven: ")))
		}
	}
	return out
}
