package rotationsecrets

import (
	"context"
	"fmt"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

func (b *Backend) bulkEmergencyPath() *framework.Path {
	return &framework.Path{
		Pattern: pattern("emergency"),
		Fields: declaringFields(map[string]*framework.FieldSchema{
			"connection": {Type: framework.TypeString, Description: "Hit the roles of this connection. Either this or roles."},
			"roles":      {Type: framework.TypeString, Description: "Hit the roles whose names match this glob, in which * stands for anything. Either this or connection."},
			"confirm":    {Type: framework.TypeInt, Description: "How many roles are to be hit, as dry_run=true counts them. Required, but for a dry run."},
			"dry_run":    {Type: framework.TypeBool, Description: "Change nothing: answer which roles would be hit, and how many. Needs no reason."},
		}),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: mutates(framework.PathOperation{
				Callback:     b.bulkEmergency,
				Summary:      "Declare the secrets of many roles leaked.",
				DisplayAttrs: operation("declare", "bulk-emergency"),
				Examples: []framework.RequestExample{
					example("Look first:", map[string]any{"connection": "main", "dry_run": true}),
					example("Then confirm the number:", map[string]any{"connection": "main", "confirm": 1, "reason": "backup of the database stolen"}),
				},
				Responses: answers("What became of each role.", bulkEmergencyFields(), exampleBulkEmergency()),
			}),
		},
		HelpSynopsis: "Declare the secrets of many roles leaked, as one incident.",
		HelpDescription: fmt.Sprintf(`
Does for every role of a connection, or with a matching name, what emergency/:name
does for one. There is one incident for all; its record names every role before the
first is touched, so that a crash leaves none out. Deleted roles whose last versions
still work are among them: those end at once.

With dry_run=true nothing changes: "roles" and "count" say who would be hit. Give
the count as confirm; where it is not the number of roles any more the answer is
409 with the right one, and nothing changes.

The answer is 200 also when some leak lives on. "roles" has for each role what
emergency/:name would answer; "failed" has a sentence for each with which something
went wrong. Who was not reached within the wait is worked on afterwards, a bounded
number at a time. At most %d roles in one emergency.`, store.MaxIncidentRoles),
	}
}

func bulkEmergencyFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"incident_id": text("Id of the record of this emergency; see incidents/:id. Null for a dry run."),
		"status":      text("open while some leak may live on, contained once every leaked version is proven dead. Null for a dry run."),
		"dry_run":     flag("Whether nothing was changed."),
		"count":       number("How many roles are hit: what confirm has to be."),
		"roles": object("By name, what became of each role: a Rotation, incident_id, status, killed, next_steps. In a dry run: " +
			"type, connection, state (null for a deleted role) and the versions that would be ended (version, state, identifier)."),
		"failed": object("By name, for each role with which something went wrong: what, in a sentence."),
	}
}

func exampleBulkEmergency() map[string]any {
	return map[string]any{
		"incident_id": exampleIncidentID, "status": "contained", "dry_run": false, "count": 1,
		"roles": map[string]any{"database": exampleEmergency()}, "failed": map[string]any{},
	}
}

func (b *Backend) bulkEmergency(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	request, err := emergencyRequest(req, data)
	if err != nil {
		return nil, err
	}
	scope := backend.EmergencyScope{Connection: data.Get("connection").(string), Roles: data.Get("roles").(string)}
	confirm, confirmed := data.GetOk("confirm")
	switch dry := data.Get("dry_run").(bool); {
	case dry && confirmed:
		return nil, fault.Field("confirm", "cannot be given together with dry_run=true: look first, then confirm")
	case dry:
		return b.bulkEmergencyDryRun(ctx, scope)
	case !confirmed:
		return nil, fault.Field("confirm", "is required: the number of roles to be hit, as dry_run=true counts them")
	}
	result, err := b.engine.BulkEmergency(ctx, backend.BulkEmergencyRequest{EmergencyRequest: request, Scope: scope, Confirm: confirm.(int)})
	if err != nil {
		return nil, err
	}
	return bulkEmergencyResponse(result), nil
}

func bulkEmergencyResponse(result *backend.BulkEmergencyResult) *logical.Response {
	roles, failed, open := map[string]any{}, map[string]any{}, 0
	for name, one := range result.Roles {
		roles[name] = renderEmergency(one)
		if one.Status == store.IncidentOpen {
			open++
		}
	}
	for name, sentence := range result.Failed {
		failed[name] = sentence
	}
	resp := &logical.Response{Data: map[string]any{
		"incident_id": result.IncidentID, "status": string(result.Status), "dry_run": false, "count": len(roles),
		"roles": roles, "failed": failed,
	}}
	if open > 0 {
		resp.AddWarning(fmt.Sprintf("incident %s is open: what leaked of %d of %d roles may still work; see their next_steps", result.IncidentID, open, len(roles)))
	}
	return resp
}

func (b *Backend) bulkEmergencyDryRun(ctx context.Context, scope backend.EmergencyScope) (*logical.Response, error) {
	hit, err := b.engine.EmergencyDryRun(ctx, scope)
	if err != nil {
		return nil, err
	}
	roles := make(map[string]any, len(hit))
	for _, role := range hit {
		roles[role.Name] = map[string]any{
			"type": role.Type, "connection": orNull(role.Connection), "state": orNull(string(role.State)), "versions": renderLeaking(role.Versions),
		}
	}
	return &logical.Response{Data: map[string]any{
		"incident_id": nil, "status": nil, "dry_run": true, "count": len(hit), "roles": roles, "failed": map[string]any{},
	}}, nil
}

func renderLeaking(versions []rotation.Version) []any {
	out := make([]any, 0, len(versions))
	for _, v := range versions {
		out = append(out, map[string]any{"version": v.Number, "state": string(v.State), "identifier": orNull(v.Identifier)})
	}
	return out
}
