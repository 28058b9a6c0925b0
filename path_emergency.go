package rotationsecrets

import (
	"context"
	"fmt"
	"maps"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

func (b *Backend) emergencyPaths() []*framework.Path {
	return []*framework.Path{b.emergencyPath(), b.bulkEmergencyPath()}
}

// declaringFields are what every declaration of an emergency takes.
func declaringFields(more map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	fields := map[string]*framework.FieldSchema{
		"wait":   waitField(),
		"reason": {Type: framework.TypeString, Description: "What happened, for the record. Required."},
		"severity": {
			Type: framework.TypeString, Default: "high", AllowedValues: []any{"low", "medium", "high", "critical"},
			Description: "How grave it is, for the record and for those who are told: low, medium, high or critical.",
		},
		"kill_first": {
			Type:        framework.TypeBool,
			Description: "End what leaked before a replacement exists: readers fail until it does.",
		},
	}
	maps.Copy(fields, more)
	return fields
}

// emergencyRequest reads them.
func emergencyRequest(req *logical.Request, data *framework.FieldData) (backend.EmergencyRequest, error) {
	wait, err := wait(data)
	return backend.EmergencyRequest{
		Actor: actor(req), Wait: wait,
		Reason: data.Get("reason").(string), Severity: data.Get("severity").(string), KillFirst: data.Get("kill_first").(bool),
	}, err
}

func (b *Backend) emergencyPath() *framework.Path {
	return &framework.Path{
		Pattern: pattern("emergency/:name"),
		Fields:  declaringFields(map[string]*framework.FieldSchema{"name": nameField("role")}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: mutates(framework.PathOperation{
				Callback:     b.emergency,
				Summary:      "Declare a role's secret leaked.",
				DisplayAttrs: operation("declare", "emergency"),
				Examples:     []framework.RequestExample{example("", map[string]any{"reason": "password seen in a log"})},
				Responses:    answers("A Rotation, and what became of the leaked versions.", emergencyFields(), exampleEmergency()),
			}),
		},
		HelpSynopsis: "Declare a role's secret leaked: replace it and end it at once.",
		HelpDescription: `
Makes a new version, switches readers to it, then ends every other live version at
once with its sessions, and proves each one dead: no grace. All of them are marked
compromised and never rolled back to. With kill_first=true they end before the new
version is made.

The answer is 200 also when the leak is not contained yet: "status" is then open,
"next_steps" says what to do, and the engine goes on by itself. incidents/:id holds
the record. Of a deleted role what is left is ended at once: there is no rotation
then, and its fields are null.`,
	}
}

func emergencyFields() map[string]*framework.FieldSchema {
	fields := rotationFields()
	fields["incident_id"] = text("Id of the record of this emergency; see incidents/:id.")
	fields["status"] = text("open while the leak may live on, contained once every leaked version is proven dead.")
	fields["killed"] = list("What leaked and was ended: version, sessions_ended, proven_dead.")
	fields["next_steps"] = list("What a person should do now, in sentences.")
	return fields
}

func exampleEmergency() map[string]any {
	out := exampleRotation(rotation.Emergency)
	maps.Copy(out, map[string]any{
		"incident_id": exampleIncidentID, "status": "contained", "reason": "password seen in a log", "next_steps": []any{},
		"killed": []any{map[string]any{"version": 3, "sessions_ended": 2, "proven_dead": true}},
	})
	return out
}

func (b *Backend) emergency(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	request, err := emergencyRequest(req, data)
	if err != nil {
		return nil, err
	}
	result, err := b.engine.Emergency(ctx, named(data), request)
	if err != nil {
		return nil, err
	}
	resp := &logical.Response{Data: renderEmergency(result)}
	if result.Status == store.IncidentOpen {
		resp.AddWarning(fmt.Sprintf("incident %s is open: what leaked may still work; see next_steps", result.IncidentID))
	}
	return resp, nil
}

func renderEmergency(e *backend.EmergencyResult) map[string]any {
	killed := make([]any, 0, len(e.Killed))
	for _, k := range e.Killed {
		killed = append(killed, map[string]any{
			"version": k.Version, "sessions_ended": k.SessionsEnded, "proven_dead": k.ProvenDead,
		})
	}
	out := renderRotation(e.Rotation)
	out["incident_id"] = e.IncidentID
	out["status"] = string(e.Status)
	out["killed"] = killed
	out["next_steps"] = sentences(e.NextSteps)
	return out
}
