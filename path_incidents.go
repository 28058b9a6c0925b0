package rotationsecrets

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

func (b *Backend) incidentPaths() []*framework.Path {
	return []*framework.Path{b.incidentsPath(), b.incidentPath(), b.incidentClosePath()}
}

func (b *Backend) incidentsPath() *framework.Path {
	return &framework.Path{
		Pattern: lists("incidents"),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: reads(framework.PathOperation{
				Callback:     b.listIncidents,
				Summary:      "List the incidents.",
				DisplayAttrs: operation("list", "incidents"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses: answers("The ids of all incidents; 404 when there is none.", map[string]*framework.FieldSchema{
					"keys":     {Type: framework.TypeStringSlice, Required: true, Description: "Ids: open ones first, then contained, then closed ones; each the newest first."},
					"key_info": object("For each id: status, severity, opened_time, roles (how many), acknowledged. All null for a record that cannot be read."),
				}, map[string]any{
					"keys": []string{exampleIncidentID}, "key_info": map[string]any{exampleIncidentID: map[string]any{
						"status": "open", "severity": "high", "opened_time": "2026-03-01T10:00:00Z", "roles": 1, "acknowledged": false,
					}},
				}),
			}),
		},
		HelpSynopsis:    "List the incidents, open ones first.",
		HelpDescription: "An incident is the record of an emergency. Ids begin with their time.",
	}
}

func incidentID() *framework.FieldSchema {
	return &framework.FieldSchema{Type: framework.TypeString, Required: true, Description: "Id of the incident, as emergency/:name answered it."}
}

func (b *Backend) incidentPath() *framework.Path {
	return &framework.Path{
		Pattern: pattern("incidents/:id"),
		Fields: map[string]*framework.FieldSchema{
			"id": incidentID(),
			"format": {
				Type: framework.TypeString, Default: formatJSON, Query: true, AllowedValues: []any{formatJSON, formatMarkdown},
				Description: `Of a read: "markdown" adds a report for people to the answer.`,
			},
			"severity": {
				Type: framework.TypeString, AllowedValues: []any{"low", "medium", "high", "critical"},
				Description: "How grave it is after all: low, medium, high or critical.",
			},
			"note":        {Type: framework.TypeString, Description: "What there is to add to the record, at most 4096 bytes; 100 notes are kept. The newest one written again adds nothing."},
			"acknowledge": {Type: framework.TypeBool, Description: "True: somebody sees to it. The first who said so stays on record."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: reads(framework.PathOperation{
				Callback:     b.readIncident,
				Summary:      "Read the record of an emergency.",
				DisplayAttrs: operation("read", "incident"),
				Examples: []framework.RequestExample{
					example("", nil),
					example("With a report in Markdown:", map[string]any{"format": formatMarkdown}),
				},
				Responses: answers("The record.", incidentFields(), exampleIncident),
			}),
			logical.UpdateOperation: mutates(framework.PathOperation{
				Callback:     b.writeIncident,
				Summary:      "Add a note to an incident, acknowledge it, or change its severity.",
				DisplayAttrs: operation("write", "incident"),
				Examples:     []framework.RequestExample{example("", map[string]any{"acknowledge": true, "note": "the log is purged"})},
				Responses:    answers("The incident at a glance.", incidentHeadFields(), exampleIncidentHead()),
			}),
		},
		HelpSynopsis: "The record of an emergency.",
		HelpDescription: `
What leaked, by version and identifier; when it was revoked and how that was proven;
what replaced it; who had read it; who was told; and every step on the way. It holds
no secret. With format=markdown "report" is the same as a document for people:
vault read -field=report rotation/incidents/ID format=markdown.

A closed incident takes notes only (409).`,
	}
}

func (b *Backend) incidentClosePath() *framework.Path {
	return &framework.Path{
		Pattern: pattern("incidents/:id/close"),
		Fields: map[string]*framework.FieldSchema{
			"id":         incidentID(),
			"conclusion": {Type: framework.TypeString, Description: "What happened, what was done, and what is left to do, at most 4096 bytes. Required."},
			"force":      {Type: framework.TypeBool, Description: "Close it although what leaked may live on. What leaked is ended all the same."},
			"reason":     {Type: framework.TypeString, Description: "Why it is closed before it is contained, at most 1000 bytes. Required with force then."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: mutates(framework.PathOperation{
				Callback:     b.closeIncident,
				Summary:      "Close an incident.",
				DisplayAttrs: operation("close", "incident"),
				Examples:     []framework.RequestExample{example("", map[string]any{"conclusion": "the logger redacts passwords now"})},
				Responses:    answers("The incident at a glance.", incidentHeadFields(), exampleIncidentHead()),
			}),
		},
		HelpSynopsis: "Close an incident, with what was concluded.",
		HelpDescription: `
One that is not contained is refused (409) with what is left, unless force=true and a
reason are given. It stays closed when what leaked is proven dead later; contained_time
says when that was.`,
	}
}

// The forms in which an incident is read.
const (
	formatJSON     = "json"
	formatMarkdown = "markdown"
)

func (b *Backend) listIncidents(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	incidents, err := b.engine.Incidents(ctx)
	if err != nil {
		return nil, err
	}
	ids, info := make([]string, 0, len(incidents)), make(map[string]any, len(incidents))
	for _, i := range incidents {
		ids = append(ids, i.ID)
		info[i.ID] = renderIncidentSummary(i)
	}
	return logical.ListResponseWithInfo(ids, info), nil
}

func (b *Backend) readIncident(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	format := data.Get("format").(string)
	if format != formatJSON && format != formatMarkdown {
		return nil, fault.Field("format", "must be %s or %s", formatJSON, formatMarkdown)
	}
	i, err := b.engine.Incident(ctx, data.Get("id").(string))
	if err != nil {
		return nil, err
	}
	out := renderIncident(i)
	if format == formatMarkdown {
		out["report"] = incidentReport(i)
	}
	return &logical.Response{Data: out}, nil
}

func (b *Backend) writeIncident(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if given(data, "format") {
		return nil, fault.Field("format", "has no meaning in a write")
	}
	w := backend.IncidentWrite{Actor: actor(req), Severity: optionalText(data, "severity"), Note: optionalText(data, "note")}
	if given(data, "acknowledge") {
		acknowledge := data.Get("acknowledge").(bool)
		w.Acknowledge = &acknowledge
	}
	h, err := b.engine.WriteIncident(ctx, data.Get("id").(string), w)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: renderIncidentHead(h)}, nil
}

// optionalText is nil where a field was not given.
func optionalText(data *framework.FieldData, name string) *string {
	if !given(data, name) {
		return nil
	}
	text := data.Get(name).(string)
	return &text
}

func (b *Backend) closeIncident(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	h, err := b.engine.CloseIncident(ctx, data.Get("id").(string), backend.IncidentClose{
		Actor: actor(req), Conclusion: data.Get("conclusion").(string), Force: data.Get("force").(bool), Reason: data.Get("reason").(string),
	})
	if err != nil {
		return nil, err
	}
	resp := &logical.Response{Data: renderIncidentHead(h)}
	if h.ContainedTime.IsZero() {
		resp.AddWarning("it was closed before it was contained: what leaked may still work, and is ended all the same")
	}
	return resp, nil
}
