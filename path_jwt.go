package rotationsecrets

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/jwt"
)

// maxBatch bounds what one request asks for, well below what Vault's 90 seconds
// allow with the slowest algorithm.
const maxBatch = 1000

// Neither signing nor verifying writes anything, so that every node of a cluster
// answers, performance standbys included: nothing here is forwarded.
func (b *Backend) jwtPaths() []*framework.Path {
	return []*framework.Path{b.signPath(), b.verifyPath()}
}

func (b *Backend) signPath() *framework.Path {
	fields := signItemFields()
	fields["name"] = nameField("role")
	fields["batch_input"] = &framework.FieldSchema{
		Type: framework.TypeSlice,
		Description: fmt.Sprintf("Sign several tokens at once, at most %d: a list of objects with claims, ttl and headers, "+
			"or its JSON text. Excludes the other fields.", maxBatch),
	}
	return &framework.Path{
		Pattern: pattern("sign/:name"),
		Fields:  fields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: reads(framework.PathOperation{
				Callback:     b.sign,
				Summary:      "Sign a token, or several.",
				DisplayAttrs: operation("sign", "token"),
				Examples: []framework.RequestExample{
					example("", map[string]any{"claims": `{"sub": "user-1", "aud": "crm"}`, "ttl": "5m"}),
					example("Several at once:", map[string]any{"batch_input": `[{"claims": {"sub": "user-1"}}, {"claims": {"sub": "user-2"}}]`}),
				},
				Responses: answers("The token, or batch_results alone for a batch.", signedFields(), map[string]any{
					"token": exampleSigned, "kid": exampleKeyID, "version": 4, "expire_time": "2026-03-01T10:05:00Z",
				}),
			}),
		},
		HelpSynopsis: "Sign tokens (JWT, RFC 7519) with a role's current key.",
		HelpDescription: `
For roles of type jwt. Objects are given as JSON; on the command line as JSON text.
Whole numbers from 2^53 on are exact in JSON text only, since Vault passes the
numbers of an object on as floating point: in an object they are refused.

A batch is answered item by item, in order: {token, kid, version, expire_time}, or
{error}. An item that fails does not fail the others, and the answer is 200 even if
all do. A batch of which an item has another form is refused whole.`,
	}
}

// signItemFields are what one token is made of.
func signItemFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"claims":  {Type: framework.TypeMap, Description: "What the token says: a JSON object. The role decides which claims a request may set."},
		"ttl":     {Type: framework.TypeDurationSecond, Description: "How long the token is valid, up to the role's token_ttl; by default that long."},
		"headers": {Type: framework.TypeMap, Description: "Further header parameters: a JSON object. The role decides which ones a request may set."},
	}
}

func signedFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"token":         sometimes(framework.TypeString, "The token, in compact form."),
		"kid":           sometimes(framework.TypeString, "Id of the key that signed it."),
		"version":       sometimes(framework.TypeInt, "Number of that key's version."),
		"expire_time":   sometimes(framework.TypeTime, "When the token expires."),
		"batch_results": sometimes(framework.TypeSlice, "For a batch: for each item, in order, token, kid, version and expire_time, or error."),
	}
}

func (b *Backend) verifyPath() *framework.Path {
	return &framework.Path{
		Pattern: pattern("verify/:name"),
		Fields: map[string]*framework.FieldSchema{
			"name":     nameField("role"),
			"token":    {Type: framework.TypeString, Description: "The token, in compact form. Required.", DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}},
			"audience": {Type: framework.TypeString, Description: "Who must be among the token's audience (aud)."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: reads(framework.PathOperation{
				Callback:     b.verify,
				Summary:      "Check a token.",
				DisplayAttrs: operation("verify", "token"),
				Examples:     []framework.RequestExample{example("", map[string]any{"token": exampleSigned, "audience": "crm"})},
				Responses: answers("Whether the token is good, and if not, why.", verifiedFields(), map[string]any{
					"active": true, "claims": map[string]any{"sub": "user-1", "aud": "crm", "iat": 1772359200, "exp": 1772359500},
					"kid": exampleKeyID, "version": 4, "reason": nil,
				}),
			}),
		},
		HelpSynopsis: "Check a token against a role's keys: signature, times, and whether its key was revoked.",
		HelpDescription: `
For roles of type jwt. A token that is not good is an answer, not an error: active is
then false, and reason says why. Unlike a verifier that caches the keys of jwks/:name,
this knows of a revoked key at once.

Vault carries the numbers of claims as floating point: from 2^53 on, the last digits
of a whole number are not told exactly.`,
	}
}

func verifiedFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"active":  flag("Whether the token is good."),
		"claims":  object("What the token says; null unless it is good."),
		"kid":     text("Id of the key that signed it; null when that is none of the role's."),
		"version": number("Number of that key's version."),
		"reason":  text("Why it is not good, in one sentence."),
	}
}

func (b *Backend) sign(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	items, batch, err := signItems(data)
	if err != nil {
		return nil, err
	}
	signed, err := use[[]jwt.Signed](ctx, b.engine, named(data), jwt.SignRequest{Items: items, Populate: b.populate(req)})
	switch {
	case err != nil:
		return nil, err
	case len(signed) != len(items):
		return nil, fmt.Errorf("asked for %d tokens, got %d", len(items), len(signed))
	case batch:
		return &logical.Response{Data: map[string]any{"batch_results": renderBatch(signed)}}, nil
	case signed[0].Err != nil:
		return nil, signed[0].Err
	}
	return &logical.Response{Data: renderSigned(signed[0])}, nil
}

// signItems reads what is to be signed, and whether it came as a batch.
func signItems(data *framework.FieldData) (items []jwt.SignItem, batch bool, err error) {
	if !given(data, "batch_input") {
		item, err := signItem(data)
		return []jwt.SignItem{item}, false, err
	}
	fields := signItemFields()
	for name := range fields {
		if given(data, name) {
			return nil, true, fault.Field(name, "cannot be given together with batch_input; it belongs into its items")
		}
	}
	list := data.Get("batch_input").([]any)
	if len(list) < 1 || len(list) > maxBatch {
		return nil, true, fault.Field("batch_input", "has %d items; 1 to %d are allowed", len(list), maxBatch)
	}
	for i, value := range list {
		values, err := itemOf(fmt.Sprintf("batch_input[%d]", i), value, fields)
		if err != nil {
			return nil, true, err
		}
		item, err := signItem(values)
		if err != nil {
			return nil, true, inside(fmt.Sprintf("batch_input[%d]", i), err)
		}
		items = append(items, item)
	}
	return items, true, nil
}

func signItem(data *framework.FieldData) (jwt.SignItem, error) {
	ttl := data.Get("ttl").(int)
	if given(data, "ttl") && ttl < 1 { // 0 would be taken for "not given"
		return jwt.SignItem{}, fault.Field("ttl", "must be at least 1s; without it the token lives as long as the role allows")
	}
	return jwt.SignItem{
		Claims:  data.Get("claims").(map[string]any),
		Headers: data.Get("headers").(map[string]any),
		TTL:     time.Duration(ttl) * time.Second,
	}, nil
}

func renderSigned(s jwt.Signed) map[string]any {
	return map[string]any{"token": s.Token, "kid": s.KeyID, "version": s.Version, "expire_time": renderTime(s.ExpireTime)}
}

func renderBatch(signed []jwt.Signed) []any {
	out := make([]any, 0, len(signed))
	for _, s := range signed {
		if s.Err != nil {
			out = append(out, map[string]any{"error": s.Err.Error()})
			continue
		}
		out = append(out, renderSigned(s))
	}
	return out
}

func (b *Backend) verify(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	token := data.Get("token").(string)
	if token == "" {
		return nil, fault.Field("token", "is required")
	}
	v, err := use[*jwt.Verified](ctx, b.engine, named(data), jwt.VerifyRequest{Token: token, Audience: data.Get("audience").(string)})
	if err != nil {
		return nil, err
	}
	out := map[string]any{
		"active": v.Active, "claims": nil, "kid": orNull(v.KeyID), "version": orNull(v.Version), "reason": orNull(v.Reason),
	}
	if v.Active {
		out["claims"] = v.Claims
	}
	return &logical.Response{Data: out}, nil
}

// use puts a role's versions to use, and gives the answer its type: that of the kind
// whose request it was.
func use[T any](ctx context.Context, engine *backend.Engine, role string, request any) (T, error) {
	answer, err := engine.Use(ctx, role, request)
	if err != nil {
		var none T
		return none, err
	}
	typed, ok := answer.(T)
	if !ok {
		return typed, fmt.Errorf("the answer to a %T is a %T", request, answer)
	}
	return typed, nil
}
