package rotationsecrets

import (
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

func reencryptionFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"state":        text("idle (nothing is planned), waiting, rewriting, settling, draining, counting, paused, cancelled, failing, action_required or done."),
		"state_reason": text("What it waits for, or what went wrong, in one sentence."),
		"version":      number("The version that the data is moved to."),
		"round":        number("Which pass over the targets this is, from 1."),
		"urgent":       flag("Whether waits, window and rate are waived: by run, or by an emergency."),
		"starts_at":    moment("When it goes on, if it waits for a time."),
		"started_time": moment("When the job was planned."),
		"ended_time":   moment("When nothing was left to be done."),
		"targets":      object("By target: state (waiting, rewriting, done), rows_total, rows_done, rows_changed, rows_busy, rows_unreadable, unreadable [{key, column, reason}] (the first 100), rows_per_second, seconds_left, versions (values by version, as last counted), foreign, error."),
		"versions":     object("By version: state, cleared_time (when a count found nothing of it), destroy_at, missed_time (when somebody last had need of it after its end)."),
	}
}

func renderReencryption(s *backend.ReencryptionStatus) map[string]any {
	out := map[string]any{
		"state": "idle", "state_reason": nil, "version": nil, "round": nil, "urgent": false,
		"starts_at": nil, "started_time": nil, "ended_time": nil,
	}
	if job := s.Job; job != nil {
		out["state"], out["state_reason"] = reencryptionState(s), orNull(job.Trouble)
		out["version"], out["round"], out["urgent"] = job.Version, job.Round, job.Urgent
		out["starts_at"], out["started_time"], out["ended_time"] = renderTime(s.Opens), renderTime(job.CreatedTime), renderTime(job.EndedTime)
	}
	targets := map[string]any{}
	for name, t := range s.Targets {
		targets[name] = renderTargetStatus(s.Job, t)
	}
	versions := map[string]any{}
	for i := range s.Versions {
		if v := &s.Versions[i]; v.KeepsData {
			versions[fmt.Sprint(v.Number)] = renderKeptVersion(v)
		}
	}
	out["targets"], out["versions"] = targets, versions
	return out
}

func renderKeptVersion(v *rotation.Version) map[string]any {
	out := map[string]any{
		"state": string(v.State), "cleared_time": nil, "destroy_at": renderTime(v.DestroyAt), "missed_time": renderTime(v.MissedTime),
	}
	if v.Cleared != nil {
		out["cleared_time"] = renderTime(v.Cleared.Time)
	}
	return out
}

// reencryptionState is the job's state in a word.
func reencryptionState(s *backend.ReencryptionStatus) string {
	job := s.Job
	switch {
	case job.Phase == rotation.Over:
		return "done"
	case job.Control != rotation.Goes:
		return string(job.Control)
	case job.Person:
		return "action_required"
	case job.Failures > 0:
		return "failing"
	case !s.Opens.IsZero() && job.Phase == rotation.Rewriting:
		return "waiting"
	default:
		return string(job.Phase)
	}
}

func renderTargetStatus(job *rotation.Reencryption, t backend.TargetStatus) map[string]any {
	out := map[string]any{
		"state": "waiting", "rows_total": nil, "rows_done": 0, "rows_changed": 0, "rows_busy": 0, "rows_unreadable": 0, "unreadable": []any{},
		"rows_per_second": 0, "seconds_left": nil, "versions": map[string]any{}, "foreign": 0, "error": nil,
	}
	if t.Progress == nil {
		return out
	}
	out["error"] = orNull(t.Progress.Failure)
	renderCounted(out, t.Progress)
	p := t.Progress.Progress
	// While another pass is waited for, what the last one could not rewrite is what people have to mend.
	if job != nil && p.Version == job.Version {
		out["rows_busy"], out["rows_unreadable"], out["unreadable"] = p.Busy, p.Unreadable, renderUnreadable(p.UnreadableKeys)
	}
	if !t.Current {
		return out
	}
	out["state"] = "rewriting"
	if p.Ended {
		out["state"] = "done"
	}
	out["rows_total"], out["rows_done"], out["rows_changed"] = p.Total, p.Passed, p.Changed
	out["rows_per_second"] = int64(p.Rate())
	if left := p.Left(); left > 0 {
		out["seconds_left"] = int64(left / time.Second)
	}
	return out
}

func renderCounted(out map[string]any, p *store.TargetProgress) {
	if p.Counted != nil {
		out["versions"], out["foreign"] = renderVersionCounts(p.Counted), p.Counted.Foreign
	}
}

func renderVersionCounts(c *reencrypt.Counts) map[string]any {
	out := map[string]any{}
	for version, values := range c.Versions {
		out[fmt.Sprint(version)] = values
	}
	return out
}

func renderUnreadable(rows []reencrypt.Unreadable) []any {
	out := make([]any, 0, len(rows))
	for _, r := range rows {
		out = append(out, map[string]any{"key": []string(r.Key), "column": r.Column, "reason": r.Reason})
	}
	return out
}

func renderDryRun(d backend.DryRun) map[string]any {
	return map[string]any{
		"rows": d.Counts.Rows, "versions": renderVersionCounts(&d.Counts), "foreign": d.Counts.Foreign,
		"triggers": orEmpty(d.Facts.Triggers), "partitions": d.Facts.Partitions, "bytes": d.Facts.Bytes, "error": orNull(d.Failure),
	}
}

func exampleDryRun() map[string]any {
	return renderDryRun(backend.DryRun{
		Counts: reencrypt.Counts{Rows: 1000000, Versions: map[int]int64{1: 999990, 2: 10}},
		Facts:  reencrypt.Facts{Triggers: []string{"cards_audit"}, Bytes: 184549376},
	})
}

func exampleReencryption() map[string]any {
	job := &rotation.Reencryption{Version: 2, Phase: rotation.Rewriting, Round: 1, CreatedTime: exampleTime, At: exampleTime}
	progress := reencrypt.Progress{Version: 2, Total: 1000000, Passed: 250000, Changed: 249990, StartedTime: exampleTime, Spent: 10 * time.Second}
	return renderReencryption(&backend.ReencryptionStatus{
		Job: job,
		Targets: map[string]backend.TargetStatus{"cards": {Target: &exampleTarget, Current: true, Progress: &store.TargetProgress{
			Progress: progress, Counted: &reencrypt.Counts{Rows: 1000000, Versions: map[int]int64{1: 999990, 2: 10}},
		}}},
		Versions: []rotation.Version{
			{Number: 1, State: rotation.Retiring, KeepsData: true}, {Number: 2, State: rotation.Current, KeepsData: true},
		},
	})
}
