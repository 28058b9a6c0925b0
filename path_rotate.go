package rotationsecrets

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

func (b *Backend) rotatePaths() []*framework.Path {
	return []*framework.Path{b.rotatePath(), b.rollbackPath(), b.retirePath()}
}

// forceField is that of requests for a rotation.
func forceField() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type: framework.TypeBool,
		Description: "Go on where a type would refuse or wait for the sake of readers: with two standing users, the version in the way " +
			"is ended at once. Elsewhere there is nothing to waive.",
	}
}

func (b *Backend) rotatePath() *framework.Path {
	return &framework.Path{
		Pattern: pattern("rotate/:name"),
		Fields: map[string]*framework.FieldSchema{
			"name":  nameField("role"),
			"wait":  waitField(),
			"force": forceField(),
			"resume": {
				Type:        framework.TypeBool,
				Description: "Go on with the rotation in flight that is held for an operator, instead of beginning one.",
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: mutates(framework.PathOperation{
				Callback:     b.rotate,
				Summary:      "Rotate a role's secret now.",
				DisplayAttrs: operation("rotate", "role"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses:    rotationAnswer(rotation.Manual),
			}),
		},
		HelpSynopsis: "Rotate a role's secret now.",
		HelpDescription: `
Makes a new version, proves it, switches readers to it, and lets the old one live
until its grace is over. A role that is blocked is unblocked by it. While a
rotation is in flight the answer is 409 with its phase. One that failed or was
rolled back while the request waited is a 400 with its id; one that outlasts the
wait is answered with its phase, and goes on.`,
	}
}

func (b *Backend) rollbackPath() *framework.Path {
	return &framework.Path{
		Pattern: pattern("rollback/:name"),
		Fields: map[string]*framework.FieldSchema{
			"name":  nameField("role"),
			"wait":  waitField(),
			"force": forceField(),
			"version": {
				Type:        framework.TypeInt,
				Description: "The version to go back to; by default the highest eligible one below the current one.",
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: mutates(framework.PathOperation{
				Callback:     b.rollback,
				Summary:      "Make an earlier version current again.",
				DisplayAttrs: operation("rollback", "role"),
				Examples: []framework.RequestExample{
					example("", nil),
					example("To a version of your choice:", map[string]any{"version": 3}),
				},
				Responses: rotationAnswer(rotation.Rollback),
			}),
		},
		HelpSynopsis: "Make an earlier version of a role's secret current again.",
		HelpDescription: `
The version is proven to work before readers get it. Refused, with the reason, for
one that is compromised, and for one that the target cannot bring back. The
version rolled back from lives until its grace is over. A role that is blocked is
unblocked by it; next_rotation stays what it was, unless it has passed. A second
rollback goes one further back, not forward: name the version to return to. One
that is held because not all dependents followed ends as it is by another one.`,
	}
}

func (b *Backend) retirePath() *framework.Path {
	return &framework.Path{
		Pattern: pattern("retire/:name"),
		Fields: map[string]*framework.FieldSchema{
			"name":    nameField("role"),
			"wait":    waitField(),
			"version": {Type: framework.TypeInt, Description: "The retiring version to end; by default the oldest."},
			"force":   {Type: framework.TypeBool, Description: "End it although a ttl that was handed out may still run."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: mutates(framework.PathOperation{
				Callback:     b.retire,
				Summary:      "End a retiring version before its time.",
				DisplayAttrs: operation("retire", "role-version"),
				Examples:     []framework.RequestExample{example("", map[string]any{"version": 3})},
				Responses:    answers("The Version.", versionFields(), exampleVersion()),
			}),
		},
		HelpSynopsis: "End a retiring version before its grace is over.",
		HelpDescription: `
Refused while a ttl that some reader was given may still run, unless force=true.
The current version cannot be retired. Of an API key that a person has to end at the
provider, this looks at once whether it is refused by now.`,
	}
}

func rotationAnswer(trigger rotation.Trigger) map[int][]framework.Response {
	return answers("The Rotation.", rotationFields(), exampleRotation(trigger))
}

func (b *Backend) rotate(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	wait, err := wait(data)
	if err != nil {
		return nil, err
	}
	r, err := b.engine.Rotate(ctx, named(data), backend.RotateRequest{
		Actor: actor(req), Wait: wait, Force: data.Get("force").(bool), Resume: data.Get("resume").(bool),
	})
	return rotationResponse(named(data), r, err)
}

func (b *Backend) rollback(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	wait, err := wait(data)
	if err != nil {
		return nil, err
	}
	version, err := versionNumber(data)
	if err != nil {
		return nil, err
	}
	r, err := b.engine.Rollback(ctx, named(data), backend.RollbackRequest{
		Actor: actor(req), Wait: wait, Force: data.Get("force").(bool), Version: version,
	})
	return rotationResponse(named(data), r, err)
}

func (b *Backend) retire(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	wait, err := wait(data)
	if err != nil {
		return nil, err
	}
	version, err := versionNumber(data)
	if err != nil {
		return nil, err
	}
	v, err := b.engine.Retire(ctx, named(data), backend.RetireRequest{
		Wait: wait, Force: data.Get("force").(bool), Version: version,
	})
	if err != nil {
		return nil, err
	}
	resp := &logical.Response{Data: renderVersion(v, nil)}
	if v.Attention != nil {
		resp.AddWarning(fmt.Sprintf("version %d is not ended yet: %s", v.Number, v.Attention.Reason))
	}
	return resp, nil
}

// rotationResponse answers with a rotation, or refuses when it ended badly while
// the request waited.
func rotationResponse(role string, r *rotation.Rotation, err error) (*logical.Response, error) {
	if err != nil {
		return nil, err
	}
	if err := endedBadly(role, r); err != nil {
		return nil, err
	}
	resp := &logical.Response{Data: renderRotation(r)}
	switch {
	case r.Outcome == rotation.Superseded:
		resp.AddWarning(fmt.Sprintf("rotation %s was superseded by an emergency or a rollback; see status/%s", r.ID, role))
	case r.Held != "":
		resp.AddWarning(fmt.Sprintf("rotation %s is held for an operator: %s", r.ID, r.Held))
	case !r.NotBefore.IsZero():
		resp.AddWarning(fmt.Sprintf("version %d is announced first and takes over at %s; with force=true at once", r.Version, r.NotBefore.UTC().Format(time.RFC3339)))
	case r.Outcome == "":
		resp.AddWarning(fmt.Sprintf("rotation %s goes on in phase %q; see status/%s", r.ID, r.Phase, role))
	}
	return resp, nil
}

func endedBadly(role string, r *rotation.Rotation) error {
	verb, known := map[rotation.Outcome]string{
		rotation.Failed:     "failed",
		rotation.RolledBack: "was rolled back",
		rotation.Blocked:    "failed, and the role is blocked until an operator rotates or rolls back",
	}[r.Outcome]
	if !known {
		return nil
	}
	why := "no reason was recorded"
	if r.Error != nil {
		why = r.Error.Message
	}
	f := fault.New(fault.Target, "rotation %s of %q %s: %s", r.ID, role, verb, why)
	f.Data = renderRotation(r)
	return f
}
