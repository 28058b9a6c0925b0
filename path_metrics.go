package rotationsecrets

import (
	"context"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/metrics"
)

const publicMetrics = "public/metrics"

func (b *Backend) metricsPaths() []*framework.Path {
	const help = `
The answer is the text alone, without Vault's envelope: OpenMetrics 1.0, or
Prometheus' older text where the client asks for it and the mount hands its header
on (vault secrets tune -passthrough-request-headers=Accept). Counters begin at 0
with each process of the plugin. At most 5000 roles have metrics of their own, the
most urgent first; how many have none is vault_rotation_roles_left_out.`
	return []*framework.Path{
		metricsPath("metrics", b.metrics, "read", framework.Path{
			HelpSynopsis: "Metrics of the mount and its roles, for Prometheus.", HelpDescription: help,
		}),
		metricsPath(publicMetrics, b.publicMetrics, "read-public", framework.Path{
			HelpSynopsis: "The same metrics without a token, where config has unauthenticated_metrics=true.",
			HelpDescription: help + `
Anybody who reaches Vault can read them then, and they name every role. 403 while
unauthenticated_metrics is false, which is the default.`,
		}),
	}
}

func metricsPath(name string, read framework.OperationFunc, verb string, p framework.Path) *framework.Path {
	p.Pattern = pattern(name)
	p.Operations = map[logical.Operation]framework.OperationHandler{
		logical.ReadOperation: asksActive(framework.PathOperation{
			Callback:     read,
			Summary:      "Read metrics.",
			DisplayAttrs: operation(verb, "metrics"),
			Examples:     []framework.RequestExample{example("", nil)},
			Responses: map[int][]framework.Response{http.StatusOK: {{
				Description: "The metrics, as the body itself: OpenMetrics text.",
				MediaType:   "application/openmetrics-text",
				Fields:      map[string]*framework.FieldSchema{},
			}}},
		}),
	}
	return &p
}

func (b *Backend) metrics(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	snapshot, err := b.engine.Metrics(ctx)
	if err != nil {
		return nil, err
	}
	mediaType, body, err := metrics.Encode(snapshot, req.Headers["Accept"])
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		logical.HTTPStatusCode:         http.StatusOK,
		logical.HTTPContentType:        mediaType,
		logical.HTTPRawBody:            body,
		logical.HTTPCacheControlHeader: "no-store",
	}}, nil
}

// publicMetrics answers anybody, once an operator has said so. What fails inside is told to
// the log alone.
func (b *Backend) publicMetrics(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	if !b.engine.UnauthenticatedMetrics() {
		return nil, logical.CodedError(http.StatusForbidden,
			"metrics are not public here: read metrics with a token, or have an operator write config with unauthenticated_metrics=true")
	}
	resp, err := b.metrics(ctx, req, data)
	if err != nil {
		b.Logger().Warn("public metrics could not be made", "error", err)
		return nil, logical.CodedError(http.StatusInternalServerError, "the metrics cannot be made now; Vault's log says why")
	}
	return resp, nil
}
