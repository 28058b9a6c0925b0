package rotationsecrets

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (b *Backend) incidentPaths() []*framework.Path {
	return []*framework.Path{
		{
			Pattern: lists("incidents"),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: reads(framework.PathOperation{
					Callback:     b.listIncidents,
					Summary:      "List the incidents.",
					DisplayAttrs: operation("list", "incidents"),
					Examples:     []framework.RequestExample{example("", nil)},
					Responses:    names("incidents, oldest first", exampleIncidentID),
				}),
			},
			HelpSynopsis:    "List the incidents.",
			HelpDescription: "An incident is the record of an emergency. Ids begin with their time.",
		},
		{
			Pattern: pattern("incidents/:id"),
			Fields: map[string]*framework.FieldSchema{
				"id": {Type: framework.TypeString, Required: true, Description: "Id of the incident, as emergency/:name answered it."},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: reads(framework.PathOperation{
					Callback:     b.readIncident,
					Summary:      "Read the record of an emergency.",
					DisplayAttrs: operation("read", "incident"),
					Examples:     []framework.RequestExample{example("", nil)},
					Responses:    answers("The record.", incidentFields(), exampleIncident),
				}),
			},
			HelpSynopsis: "The record of an emergency.",
			HelpDescription: `
What leaked, by version and identifier; when it was revoked and how that was proven;
what replaced it; and every step on the way. It holds no secret.`,
		},
	}
}

func (b *Backend) listIncidents(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	ids, err := b.engine.IncidentIDs(ctx)
	if err != nil {
		return nil, err
	}
	return logical.ListResponse(ids), nil
}

func (b *Backend) readIncident(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	i, err := b.engine.Incident(ctx, data.Get("id").(string))
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: renderIncident(i)}, nil
}
