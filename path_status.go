package rotationsecrets

import (
	"context"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// The most that one page holds, so that an answer stays well below what the
// plugin protocol carries.
const (
	maxStatus  = 10000
	maxHistory = 1000
)

func (b *Backend) statusPaths() []*framework.Path {
	return []*framework.Path{b.statusPath(), b.roleStatusPath(), b.calendarPath(), b.historyPath()}
}

func (b *Backend) statusPath() *framework.Path {
	states := make([]any, 0, len(backend.RoleStates))
	for _, s := range backend.RoleStates {
		states = append(states, string(s))
	}
	return &framework.Path{
		Pattern: pattern("status"),
		Fields: map[string]*framework.FieldSchema{
			"limit": {Type: framework.TypeInt, Default: 1000, Query: true, Description: "How many roles to answer at most."},
			"after": {Type: framework.TypeString, Query: true, Description: `Go on after this role: "next" of the page before.`},
			"state": {Type: framework.TypeString, Query: true, AllowedValues: states, Description: "Only roles in this state."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: reads(framework.PathOperation{
				Callback:     b.status,
				Summary:      "See every role at a glance.",
				DisplayAttrs: operation("read", "status"),
				Examples: []framework.RequestExample{
					example("", nil),
					example("Those that need a person first:", map[string]any{"state": "blocked"}),
				},
				Responses: answers("The roles, the most urgent first, and how many are in each state.", statusFields(), exampleStatus),
			}),
		},
		HelpSynopsis: "Every role at a glance, the most urgent first.",
		HelpDescription: `
A role's state is the first that holds of: diverged, blocked, action_required,
overdue, failing, rotating, due, grace, ok. That the mount is paused, and which
deleted roles still have versions that are being ended, is told in warnings.`,
	}
}

func (b *Backend) roleStatusPath() *framework.Path {
	return &framework.Path{
		Pattern: pattern("status/:name"),
		Fields:  map[string]*framework.FieldSchema{"name": nameField("role")},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: asksActive(framework.PathOperation{
				Callback:     b.roleStatus,
				Summary:      "See one role in full.",
				DisplayAttrs: operation("read", "role-status"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses:    answers("The role's state, its versions, and who still uses those that retire.", roleStatusFields(), exampleRoleStatus()),
			}),
		},
		HelpSynopsis: "One role in full: state, rotation in flight, versions.",
		HelpDescription: `
For each retiring version, in_use names who still uses it, as the target sees it.
What an ended version leaves outside for a person to clear is told in a warning.`,
	}
}

func (b *Backend) calendarPath() *framework.Path {
	return &framework.Path{
		Pattern: pattern("calendar"),
		Fields: map[string]*framework.FieldSchema{
			"days": {Type: framework.TypeInt, Default: 30, Query: true, Description: "How many days ahead to look, 1 to 366."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: reads(framework.PathOperation{
				Callback:     b.calendar,
				Summary:      "See what comes up for all roles.",
				DisplayAttrs: operation("read", "calendar"),
				Examples:     []framework.RequestExample{example("", map[string]any{"days": 7})},
				Responses:    answers("What comes up, the earliest first.", calendarFields(), exampleCalendar),
			}),
		},
		HelpSynopsis: "What comes up in the next days, for all roles.",
		HelpDescription: `
Rotations by the schedule, each as if those before it went well; ends of versions that
retire, and of their material; versions that stand by; data that is to follow, and
the maintenance windows in which it may. What is late stands there with the time at
which it was due. At most 1000 entries, the earliest: "truncated" tells that there
are more. It is answered from memory, and touches no storage.`,
	}
}

func (b *Backend) historyPath() *framework.Path {
	return &framework.Path{
		Pattern: pattern("history/:name"),
		Fields: map[string]*framework.FieldSchema{
			"name":   nameField("role"),
			"limit":  {Type: framework.TypeInt, Default: 50, Query: true, Description: "How many rotations to answer at most."},
			"before": {Type: framework.TypeString, Query: true, Description: `Go on before this one: "next" of the page before.`},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: reads(framework.PathOperation{
				Callback:     b.history,
				Summary:      "See a role's past rotations.",
				DisplayAttrs: operation("read", "history"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses:    answers("The rotations, the newest first.", historyFields(), exampleHistory()),
			}),
		},
		HelpSynopsis:    "The rotations of a role that have ended, the newest first.",
		HelpDescription: "As many are kept as history_limit of the mount's config says.",
	}
}

func (b *Backend) status(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	limit, err := pageLimit(data, maxStatus)
	if err != nil {
		return nil, err
	}
	state := backend.RoleState(data.Get("state").(string))
	if state != "" && !slices.Contains(backend.RoleStates, state) {
		return nil, fault.Field("state", "is none of %v", backend.RoleStates)
	}
	page, err := b.engine.Status(ctx, backend.StatusQuery{Limit: limit, After: data.Get("after").(string), State: state})
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: renderStatus(page), Warnings: page.Warnings}, nil
}

func (b *Backend) calendar(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	c, err := b.engine.Calendar(ctx, data.Get("days").(int))
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: renderCalendar(c)}, nil
}

func (b *Backend) roleStatus(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	s, err := b.engine.RoleStatus(ctx, named(data))
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: renderRoleStatus(s), Warnings: leftOutside(s)}, nil
}

func (b *Backend) history(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	limit, err := pageLimit(data, maxHistory)
	if err != nil {
		return nil, err
	}
	records, next, err := b.engine.History(ctx, named(data), data.Get("before").(string), limit)
	if err != nil {
		return nil, err
	}
	rotations := make([]any, 0, len(records))
	for i := range records {
		rotations = append(rotations, renderRotation(&records[i]))
	}
	return &logical.Response{Data: map[string]any{"rotations": rotations, "next": orNull(next)}}, nil
}
