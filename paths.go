package rotationsecrets

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// captures are the parts of a path that vary, and what Vault's router matches
// them with.
var captures = map[string]string{
	":name":    framework.GenericNameRegex("name"),
	":target":  framework.GenericNameRegex("target"),
	":id":      framework.GenericNameRegex("id"),
	":version": `(?P<version>\d+)`,
}

// pattern turns "roles/:name" into what Vault's router wants.
func pattern(path string) string {
	path = strings.ReplaceAll(path, ".", `\.`)
	for name, expression := range captures {
		path = strings.ReplaceAll(path, name, expression)
	}
	return path
}

// PathName turns a path's pattern back into the form that people read, such as
// "roles/:name".
func PathName(p *framework.Path) string {
	path := strings.TrimSuffix(strings.Trim(p.Pattern, "^$"), "/?")
	for name, expression := range captures {
		path = strings.ReplaceAll(path, expression, name)
	}
	return strings.ReplaceAll(path, `\.`, ".")
}

// lists is the pattern of a path that only lists.
func lists(path string) string { return path + "/?" }

// listPath lists the names of all things of a sort, in alphabetical order.
func listPath(of string, all func(context.Context) ([]string, error), shown ...string) *framework.Path {
	return &framework.Path{
		Pattern: lists(of),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ListOperation: reads(framework.PathOperation{
				Callback: func(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
					keys, err := all(ctx)
					if err != nil {
						return nil, err
					}
					return logical.ListResponse(keys), nil
				},
				Summary:      "List the " + of + ".",
				DisplayAttrs: operation("list", of),
				Examples:     []framework.RequestExample{example("", nil)},
				Responses:    names(of, shown...),
			}),
		},
		HelpSynopsis:    "List the " + of + ".",
		HelpDescription: "Lists the names of all " + of + ", in alphabetical order.",
	}
}

// mutates declares an operation with effects: it runs on the active node of the
// cluster that owns the mount's storage, and nowhere else.
func mutates(op framework.PathOperation) *framework.PathOperation {
	op.ForwardPerformanceStandby, op.ForwardPerformanceSecondary = true, true
	return &op
}

// asksActive declares a read that only the active node can answer well: it holds
// the connections, and must know what was handed out.
func asksActive(op framework.PathOperation) *framework.PathOperation {
	op.ForwardPerformanceStandby = true
	return &op
}

func reads(op framework.PathOperation) *framework.PathOperation { return &op }

// operation names an operation in OpenAPI: rotation-<verb>-<suffix>.
func operation(verb, suffix string) *framework.DisplayAttributes {
	return &framework.DisplayAttributes{OperationPrefix: "rotation", OperationVerb: verb, OperationSuffix: suffix}
}

// answers declares what an operation answers.
func answers(description string, fields map[string]*framework.FieldSchema, example map[string]any) map[int][]framework.Response {
	r := framework.Response{Description: description, Fields: fields}
	if example != nil {
		r.Example = &logical.Response{Data: example}
	}
	return map[int][]framework.Response{http.StatusOK: {r}}
}

// done is the answer of a write that has nothing to tell.
func done() map[int][]framework.Response {
	return answers("Done.", map[string]*framework.FieldSchema{}, nil)
}

// names is the answer of a list.
func names(of string, example ...string) map[int][]framework.Response {
	return answers("The names of all "+of+"; 404 when there is none.", map[string]*framework.FieldSchema{
		"keys": {Type: framework.TypeStringSlice, Required: true, Description: "Names, in alphabetical order."},
	}, map[string]any{"keys": example})
}

// example is a request as the documentation shows it.
func example(description string, data map[string]any) framework.RequestExample {
	return framework.RequestExample{Description: description, Data: data}
}

func nameField(of string) *framework.FieldSchema {
	return &framework.FieldSchema{
		Type:        framework.TypeString,
		Required:    true,
		Description: fmt.Sprintf("Name of the %s: letters, digits, underscore, hyphen and dot, at most %d.", of, maxName),
	}
}

// maxWait stays below the 90 seconds after which Vault ends a request.
const maxWait = time.Minute

func waitField() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type:    framework.TypeDurationSecond,
		Default: int(backend.Wait / time.Second),
		Description: "How long to wait for the end, at most 60s. The work goes on when the time is over, " +
			"or when the client hangs up.",
	}
}

// wait reads the field of that name.
func wait(data *framework.FieldData) (time.Duration, error) {
	n := data.Get("wait").(int)
	w := time.Duration(n) * time.Second
	if w > maxWait {
		return 0, fault.Field("wait", "is longer than a request may last; the longest is %s", maxWait)
	}
	return w, nil
}

// versionNumber reads an optional version; 0 when none is given.
func versionNumber(data *framework.FieldData) (int, error) {
	n := data.Get("version").(int)
	if n < 0 {
		return 0, fault.Field("version", "must be a version number: 1 or more")
	}
	return n, nil
}

// pageLimit reads the field "limit".
func pageLimit(data *framework.FieldData, most int) (int, error) {
	n := data.Get("limit").(int)
	if n < 1 || n > most {
		return 0, fault.Field("limit", "must be 1 to %d", most)
	}
	return n, nil
}

// deleteTakes refuses what is given to a delete beside the named fields: Vault
// has one set of fields for all operations of a path.
func deleteTakes(req *logical.Request, fields ...string) error {
	for name := range req.Data {
		if !slices.Contains(fields, name) {
			return fault.Field(name, "has no meaning in a delete")
		}
	}
	return nil
}

// given tells whether a request has a field; JSON null is none.
func given(data *framework.FieldData, name string) bool { return data.Raw[name] != nil }

func named(data *framework.FieldData) string { return data.Get("name").(string) }

// actor is who asks, as Vault authenticated the request.
func actor(req *logical.Request) backend.Actor {
	a := backend.Actor{EntityID: req.EntityID, DisplayName: req.DisplayName, Accessor: req.ClientTokenAccessor}
	if req.Connection != nil {
		a.Address = req.Connection.RemoteAddr
	}
	return a
}

// Brief writes a duration as operators do: 30d, 1h, 90s.
func Brief(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d >= day && d%day == 0:
		return fmt.Sprintf("%dd", d/day)
	case d >= time.Hour && d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d >= time.Minute && d%time.Minute == 0:
		return fmt.Sprintf("%dm", d/time.Minute)
	default:
		return fmt.Sprintf("%ds", d/time.Second)
	}
}
