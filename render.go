package rotationsecrets

import (
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// The objects that several paths answer. Every key is always there; one that does
// not apply is null. Times are RFC 3339 in UTC, durations whole seconds.

func renderTime(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format(time.RFC3339)
}

// orNull turns a zero value into null.
func orNull[T comparable](v T) any {
	var zero T
	if v == zero {
		return nil
	}
	return v
}

// orEmpty keeps an empty list from being null.
func orEmpty(texts []string) []string {
	if texts == nil {
		return []string{}
	}
	return texts
}

func renderRotation(r *rotation.Rotation) map[string]any {
	if r == nil {
		r = &rotation.Rotation{}
	}
	steps := make([]any, 0, len(r.Steps))
	for _, s := range r.Steps {
		steps = append(steps, renderStep(s))
	}
	out := map[string]any{
		"rotation_id":      orNull(r.ID),
		"trigger":          orNull(string(r.Trigger)),
		"phase":            orNull(string(r.Phase)),
		"outcome":          orNull(string(r.Outcome)),
		"version":          orNull(r.Version),
		"previous_version": orNull(r.PreviousVersion),
		"attempt":          orNull(r.Attempt),
		"retry_of":         orNull(r.RetryOf),
		"reason":           orNull(r.Reason),
		"actor":            renderActor(r.Actor),
		"started_time":     renderTime(r.StartedTime),
		"ended_time":       renderTime(r.EndedTime),
		"error":            nil,
		"steps":            steps,
		"incident_id":      orNull(r.IncidentID),
	}
	if r.Error != nil {
		out["error"] = map[string]any{"kind": r.Error.Kind, "message": r.Error.Message}
	}
	return out
}

// optionalRotation is null when there is none.
func optionalRotation(r *rotation.Rotation) any {
	if r == nil {
		return nil
	}
	return renderRotation(r)
}

func renderStep(s rotation.Step) map[string]any {
	return map[string]any{
		"name":         s.Name,
		"state":        string(s.State),
		"detail":       orNull(s.Detail),
		"started_time": renderTime(s.StartedTime),
		"ended_time":   renderTime(s.EndedTime),
	}
}

func renderActor(a rotation.Actor) any {
	if a == (rotation.Actor{}) {
		return nil
	}
	return map[string]any{
		"entity_id":     orNull(a.EntityID),
		"display_name":  orNull(a.DisplayName),
		"accessor_hash": orNull(a.AccessorHash),
	}
}

func renderUses(uses []rotator.Use) []any {
	out := make([]any, 0, len(uses))
	for _, u := range uses {
		out = append(out, map[string]any{
			"application_name": u.ApplicationName, "client_addr": u.ClientAddr, "count": u.Count,
		})
	}
	return out
}

// renderVersion renders a version; inUse is null when nobody was asked who uses it.
func renderVersion(v *rotation.Version, inUse any) map[string]any {
	return map[string]any{
		"version":        v.Number,
		"state":          string(v.State),
		"compromised":    v.Compromised,
		"created_time":   renderTime(v.CreatedTime),
		"ready_at":       renderTime(readyAt(v)),
		"activated_time": renderTime(v.ActivatedTime),
		"retire_at":      renderTime(v.RetireAt),
		"retired_time":   renderTime(v.RetiredTime),
		"proven_dead":    v.ProvenDead(),
		"identifier":     orNull(v.Identifier),
		"in_use":         inUse,
	}
}

// readyAt is from when on a version that stands by may take over.
func readyAt(v *rotation.Version) time.Time {
	if v.State != rotation.Standby {
		return time.Time{}
	}
	return v.ReadyAt
}

func renderLines(lines []rotator.Line) map[string]any {
	out := make([]any, 0, len(lines))
	for _, l := range lines {
		out = append(out, map[string]any{"check": l.Check, "result": string(l.Result), "detail": l.Detail})
	}
	return map[string]any{"lines": out}
}

func renderConfig(c store.Config) map[string]any {
	return map[string]any{
		"paused":                   c.Paused,
		"max_concurrent_rotations": c.MaxConcurrentRotations,
		"overdue_after":            c.OverdueAfter.Seconds(),
		"history_limit":            c.HistoryLimit,
		"access_rate_threshold":    c.AccessRateThreshold,
		"external_url":             orNull(c.ExternalURL),
		"channels":                 orEmpty(c.Channels),
		"contacts":                 orEmpty(c.Contacts),
		"escalate_after":           c.EscalateAfter.Seconds(),
		"notify_before":            c.NotifyBefore.Seconds(),
		"unauthenticated_metrics":  c.UnauthenticatedMetrics,
	}
}

// renderPolicy gives a role's policy by the names of its fields.
func renderPolicy(p store.Policy) map[string]any {
	var threshold any
	if p.AccessRateThreshold != nil { // 0 is one
		threshold = *p.AccessRateThreshold
	}
	return map[string]any{
		"rotation_period":            orNull(p.Period.Seconds()),
		"rotation_schedule":          orNull(p.Schedule),
		"rotation_window":            orNull(p.Window.Seconds()),
		"next_rotation":              orNull(p.NextRotation),
		"jitter":                     p.Jitter.Seconds(),
		"disable_automated_rotation": p.Disabled,
		"grace_period":               p.Grace.Seconds(),
		"wait_for_idle":              p.WaitForIdle,
		"max_grace_period":           p.MaxGrace.Seconds(),
		"max_versions":               p.MaxVersions,
		"max_attempts":               p.MaxAttempts,
		"overdue_after":              orNull(p.OverdueAfter.Seconds()),
		"access_rate_threshold":      threshold,
		"on_rollout_failure":         orNull(p.OnRolloutFailure),
		"rollout":                    orEmpty(p.Rollout),
		"rollout_order":              orNull(p.RolloutOrder),
		"rollout_timeout":            orNull(p.RolloutTimeout.Seconds()),
		"checks":                     orEmpty(p.Checks),
		"expect_sessions":            orEmpty(p.ExpectSessions),
		"mirror":                     orNull(p.Mirror),
		"mirror_fields":              p.MirrorFields,
		"mirror_force":               p.MirrorForce,
		"channels":                   orEmpty(p.Channels),
		"custom_metadata":            p.CustomMetadata,
	}
}

// Object is an answer that several paths have in common, for the documentation.
type Object struct {
	Name, About string
	Fields      map[string]*framework.FieldSchema
}

// Objects lists the common answers.
func Objects() []Object {
	return []Object{
		{"Rotation", "The journalled act by which a version becomes current.", rotationFields()},
		{"Version", "One generation of a role's secret; never the secret itself.", versionFields()},
		{"Line", "One line of a check.", lineFields()},
	}
}
