package rotationsecrets

import (
	"maps"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/access"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// What the documentation shows as answers: rendered by the code that renders the
// real ones, so that the two cannot drift apart.

const (
	exampleIncidentID = "20260301T100000Z-5f2c9a1e"
	exampleRotationID = "0c5e7a52-93d1-4c1e-8f0b-2a6d3b9e4f17"
	exampleSigned     = "eyJhbGciOi..."
	examplePlaintext  = "NDExMS0xMTExLTExMTEtMTExMQ=="
	exampleCiphertext = "vault:v4:TMGfYgbOPYzc3T0vuNxq..."
	exampleDataKey    = "mjHMvxkJPIxvsBvHBHnqxxeHcEU8IKgXc1bYYWHkfzU="
	exampleKeyID      = "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s"
)

var exampleTime = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)

func exampleRotation(trigger rotation.Trigger) map[string]any {
	r := rotation.Rotation{
		ID: exampleRotationID, Trigger: trigger, Phase: rotation.RolledOut, Outcome: rotation.Succeeded,
		Version: 4, PreviousVersion: 3, Attempt: 1,
		Actor:       rotation.Actor{EntityID: "7d2e3f6a-1b1c-4b5e-9a55-0f4de2c1a9b3", DisplayName: "oidc-alice", AccessorHash: "9b1f..."},
		StartedTime: exampleTime, EndedTime: exampleTime.Add(time.Second),
	}
	switch trigger {
	case rotation.Initial:
		r.Version, r.PreviousVersion = 1, 0
	case rotation.Rollback:
		r.Version, r.PreviousVersion = 3, 4
	case rotation.Emergency:
		r.IncidentID = exampleIncidentID
	default:
	}
	return renderRotation(&r)
}

func exampleVersion() map[string]any {
	return renderVersion(&rotation.Version{
		Number: 3, State: rotation.Retired, Identifier: "database_v3_w7m1p0",
		CreatedTime: exampleTime.Add(-720 * time.Hour), ActivatedTime: exampleTime.Add(-720 * time.Hour),
		RetireAt: exampleTime.Add(time.Hour), RetiredTime: exampleTime.Add(time.Hour),
		Proof: &rotation.Proof{Dead: true},
	}, nil)
}

var exampleStatus = map[string]any{
	"roles": []any{map[string]any{
		"name": "database", "type": "postgresql", "state": "grace", "current_version": 4,
		"last_vault_rotation": "2026-03-01T10:00:00Z", "next_rotation": "2026-03-31T10:00:00Z",
		"overdue_seconds": 0, "last_error": nil,
	}},
	"counts": map[string]any{
		"diverged": 0, "blocked": 0, "action_required": 0, "overdue": 0, "failing": 0, "rotating": 0, "due": 0, "grace": 1, "ok": 0,
	},
	"next": nil,
}

var exampleCalendar = map[string]any{
	"entries": []any{
		map[string]any{"time": "2026-03-01T11:00:00Z", "role": "database", "type": "postgresql", "what": "retirement", "detail": "version 3 (database_v3_w7m1p0) ends"},
		map[string]any{"time": "2026-03-05T02:00:00Z", "role": "llm", "type": "api-key", "what": "rotation", "detail": "by the schedule"},
	},
	"until": "2026-03-08T10:00:00Z", "truncated": false,
}

func exampleRoleStatus() map[string]any {
	retiring := renderVersion(&rotation.Version{
		Number: 3, State: rotation.Retiring, Identifier: "database_v3_w7m1p0", CreatedTime: exampleTime.Add(-720 * time.Hour),
		ActivatedTime: exampleTime.Add(-720 * time.Hour), RetireAt: exampleTime.Add(time.Hour),
	}, renderUses([]rotator.Use{{ApplicationName: "billing", ClientAddr: "10.1.4.7", Count: 2}}))
	current := renderVersion(&rotation.Version{
		Number: 4, State: rotation.Current, Identifier: "database_v4_k3x9q2", CreatedTime: exampleTime, ActivatedTime: exampleTime,
	}, nil)
	return map[string]any{
		"name": "database", "type": "postgresql", "connection": "main",
		"state": "grace", "state_reason": "version 3 lives until 2026-03-01T11:00:00Z", "current_version": 4,
		"last_vault_rotation": "2026-03-01T10:00:00Z", "next_rotation": "2026-03-31T10:00:00Z", "overdue_seconds": 0,
		"consecutive_failures": 0, "rotation": nil, "last_rotation": exampleRotation(rotation.Scheduled),
		"versions": []any{retiring, current}, "open_incidents": []any{},
		"mirror": renderMirror(&rotation.Mirror{Path: "self/secret/intelliflow/database", Copy: 7, Version: 4, WrittenTime: exampleTime}),
	}
}

func exampleJWK() map[string]any {
	return map[string]any{
		"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": exampleKeyID,
		"x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
	}
}

func exampleAccess() map[string]any {
	last := exampleTime.Add(42 * time.Minute)
	billing := access.Reader{
		EntityID: "7d2e3f6a-1b1c-4b5e-9a55-0f4de2c1a9b3", DisplayName: "kubernetes-billing", AccessorHash: "9b1f...",
		Address: "10.1.4.7", Reads: 3, First: exampleTime, Last: last,
	}
	return renderAccess(&backend.AccessReport{
		Role: "database", LastMinute: 1, Threshold: 1000, FlushedTime: last, Complete: true,
		Versions: []access.Version{{Version: 4, Reads: 3, First: billing.First, Last: last, Readers: []access.Reader{billing}}},
	})
}

func exampleHistory() map[string]any {
	return map[string]any{"rotations": []any{exampleRotation(rotation.Scheduled)}, "next": nil}
}

var exampleIncident = map[string]any{
	"id": exampleIncidentID, "severity": "high", "status": "contained", "reason": "password seen in a log",
	"actor":         map[string]any{"entity_id": "7d2e3f6a-1b1c-4b5e-9a55-0f4de2c1a9b3", "display_name": "oidc-alice", "accessor_hash": "9b1f..."},
	"detected_time": "2026-03-01T10:00:00Z", "opened_time": "2026-03-01T10:00:00Z",
	"contained_time": "2026-03-01T10:00:02Z", "closed_time": nil,
	"roles": []any{map[string]any{
		"name": "database", "replaced_by": 4, "replaced_time": "2026-03-01T10:00:01Z", "more_readers": 0,
		"compromised_versions": []any{map[string]any{
			"version": 3, "identifier": "database_v3_w7m1p0", "revoked_time": "2026-03-01T10:00:02Z", "sessions_ended": 2,
			"proof": map[string]any{"time": "2026-03-01T10:00:02Z", "result": `PostgreSQL refused "database_v3_w7m1p0" (SQLSTATE 28P01) and accepted "database_v4_k3x9q2" a moment later, primary only`},
		}},
	}},
	"steps": []any{map[string]any{
		"time": "2026-03-01T10:00:01Z", "role": "database", "action": "replace", "result": "done", "detail": "version 4 is current",
	}},
	"acknowledged": map[string]any{"time": "2026-03-01T10:04:00Z", "actor": map[string]any{"entity_id": nil, "display_name": "oidc-bob", "accessor_hash": "51c0..."}},
	"readers":      []any{}, "notifications": []any{},
	"notes": []any{map[string]any{
		"time": "2026-03-01T10:20:00Z", "actor": map[string]any{"entity_id": nil, "display_name": "oidc-bob", "accessor_hash": "51c0..."}, "text": "the log is purged",
	}},
	"next_steps": []any{}, "conclusion": nil, "closing": nil, "report": nil,
}

func exampleIncidentHead() map[string]any {
	out := map[string]any{}
	for name := range incidentHeadFields() {
		out[name] = exampleIncident[name]
	}
	return out
}

// optional is a copy of a schema in which nothing is required.
func optional(fields map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	out := maps.Clone(fields)
	for name, field := range out {
		loose := *field
		loose.Required = false
		out[name] = &loose
	}
	return out
}
