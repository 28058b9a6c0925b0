package rotationsecrets

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/jwt"
)

const discoveryDocument = "/.well-known/openid-configuration"

// unauthenticated lists the paths that anyone may ask, in the form of Vault's
// router: they hold what verifiers of tokens need, and metrics, which refuse
// everybody until an operator opens them.
func unauthenticated() []string {
	return []string{"jwks/+", "oidc/+" + discoveryDocument, publicMetrics}
}

func (b *Backend) jwksPaths() []*framework.Path {
	return []*framework.Path{b.keySetPath(), b.discoveryPath()}
}

func (b *Backend) keySetPath() *framework.Path {
	return &framework.Path{
		Pattern: pattern("jwks/:name"),
		Fields:  map[string]*framework.FieldSchema{"name": nameField("role")},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: reads(framework.PathOperation{
				Callback:     b.keySet,
				Summary:      "Fetch a role's public keys.",
				DisplayAttrs: operation("read", "key-set"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses: document("The keys, as the body itself: a JSON Web Key Set.", map[string]*framework.FieldSchema{
					"keys": sometimes(framework.TypeSlice, "A JSON Web Key for each version that signs, may sign next, or signed a token that may still be valid."),
				}, map[string]any{"keys": []any{exampleJWK()}}),
			}),
		},
		HelpSynopsis: "The public keys of a role (JWKS, RFC 7517), for verifiers of its tokens.",
		HelpDescription: `
The answer is the document alone, without Vault's envelope, so that verifiers fetch it
by its URL. Cache-Control says for how long they may keep it; it is short enough for
them to have the key of the next scheduled rotation before that signs. 404 when there
is no role of type jwt of that name.`,
	}
}

func (b *Backend) discoveryPath() *framework.Path {
	about := func(description string) *framework.FieldSchema { return sometimes(framework.TypeString, description) }
	return &framework.Path{
		Pattern: pattern("oidc/:name" + discoveryDocument),
		Fields:  map[string]*framework.FieldSchema{"name": nameField("role")},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: reads(framework.PathOperation{
				Callback:     b.discovery,
				Summary:      "Fetch a role's discovery document.",
				DisplayAttrs: operation("read", "discovery-document"),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses: document("The document, as the body itself: OpenID Connect Discovery 1.0.", map[string]*framework.FieldSchema{
					"issuer":   about("The role's issuer."),
					"jwks_uri": about("Where jwks/:name is, at the mount's external_url."),
				}, map[string]any{
					"issuer":   "https://vault.example.com:8200/v1/rotation/oidc/session",
					"jwks_uri": "https://vault.example.com:8200/v1/rotation/jwks/session",
				}),
			}),
		},
		HelpSynopsis: "The OpenID discovery document of a role, for verifiers that find the keys by the issuer.",
		HelpDescription: `
The answer is the document alone, without Vault's envelope. Verifiers look for it at
the token's issuer: give the role the issuer that this path's URL begins with, as in
the answer below.
404 when there is no role of type jwt of that name, when it has no issuer, and while
the mount's config has no external_url.`,
	}
}

// document declares an answer that is a JSON document of its own.
func document(description string, fields map[string]*framework.FieldSchema, example map[string]any) map[int][]framework.Response {
	out := answers(description, fields, example)
	out[http.StatusOK][0].MediaType = "application/json"
	return out
}

func (b *Backend) keySet(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	return b.publish(ctx, named(data), jwt.KeySetRequest{},
		fault.New(fault.NotFound, "there are no keys under this name"))
}

func (b *Backend) discovery(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	none := fault.New(fault.NotFound, "there is no discovery document under this name: it takes a role of type jwt with an issuer, "+
		"and external_url in the mount's config")
	external := b.engine.ExternalURL()
	if external == "" {
		return nil, none
	}
	at := url.URL{Path: "/v1/" + req.MountPoint + "jwks/" + named(data)}
	return b.publish(ctx, named(data), jwt.DiscoveryRequest{KeySetURL: external + at.EscapedPath()}, none)
}

// publish answers anyone with a role's document. Whoever is not authenticated learns
// nothing about names but which of them publish one: all others get the same 404,
// and what fails inside is told to the log alone.
func (b *Backend) publish(ctx context.Context, role string, request any, none error) (*logical.Response, error) {
	doc, err := use[*jwt.Document](ctx, b.engine, role, request)
	switch {
	case fault.Is(err, fault.NotFound), fault.Is(err, fault.Invalid):
		return nil, none
	case err != nil:
		b.Logger().Warn("a public document could not be made", "role", role, "error", err)
		return nil, fault.New(fault.Internal, "the document cannot be made now; Vault's log says why")
	}
	return &logical.Response{Data: map[string]any{
		logical.HTTPStatusCode: http.StatusOK,
		// RFC 7517 has a media type of its own, which fewer verifiers accept.
		logical.HTTPContentType:        "application/json",
		logical.HTTPRawBody:            doc.JSON,
		logical.HTTPCacheControlHeader: fmt.Sprintf("public, max-age=%d", int64(doc.MaxAge/time.Second)),
	}}, nil
}
