package vaultclient

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/egress"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// call is one request to Vault.
type call struct {
	// action says what is attempted, for errors: "rotate transit/cards".
	action string
	method string
	path   string // below /v1/, not escaped
	body   any    // nil for none
	// once is set for what must not be done twice.
	once bool
	// secrets are those of the body.
	secrets []secret.String
}

// do makes a call with the client's token, and reads the field data of the answer into out.
// Where Vault refuses the token itself another one is got, once: the call was not served.
func (c *Client) do(ctx context.Context, in call, out any) error {
	t, err := c.tokens.get(ctx)
	if err != nil {
		return fault.In(in.action, err)
	}
	data, err := c.send(ctx, in, t.value)
	if r := refusalIn(err); r != nil && r.status == http.StatusForbidden {
		next, replaceErr := c.tokens.replace(ctx, t, r)
		if replaceErr != nil {
			return fault.In(in.action, replaceErr)
		}
		if next != nil {
			data, err = c.send(ctx, in, next.value)
		}
	}
	if err != nil || out == nil {
		return err
	}
	return decode(in, data.Data, out)
}

const tokenHeader = "X-Vault-Token" //nolint:gosec // a name, no credential

// reply is the form of Vault's answers.
type reply struct {
	Data json.RawMessage `json:"data"`
	Auth *auth           `json:"auth"`
}

// send makes a call with a token, or with none. A status of 400 and above is an error that
// has a refusal in its chain.
func (c *Client) send(ctx context.Context, in call, token secret.String) (*reply, error) {
	r := egress.Request{
		Action: in.action, Method: in.method, URL: c.base + "/v1/" + escaped(in.path), Once: in.once,
		Header: http.Header{"X-Vault-Request": {"true"}}, Secrets: slices.Clone(in.secrets),
	}
	if !token.Empty() {
		r.Header.Set(tokenHeader, token.Reveal())
		r.Secrets = append(r.Secrets, token)
	}
	if c.namespace != "" {
		r.Header.Set("X-Vault-Namespace", c.namespace)
	}
	if in.body != nil {
		raw, err := json.Marshal(in.body)
		if err != nil {
			return nil, fault.New(fault.Internal, "%s: the request cannot be encoded", in.action)
		}
		r.Body = raw
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(ctx, r)
	if err != nil {
		return nil, err
	}
	return c.read(r, resp)
}

func escaped(path string) string {
	segments := strings.Split(path, "/")
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	return strings.Join(segments, "/")
}

// read tells Vault's answers from its refusals, and from what is not Vault's.
func (c *Client) read(r egress.Request, resp *egress.Response) (*reply, error) {
	switch {
	case resp.Status == http.StatusNoContent:
		return &reply{}, nil
	case resp.Status != http.StatusOK:
		return nil, c.refused(r, resp)
	}
	var out reply
	if json.Unmarshal(resp.Body, &out) == nil && (out.Data != nil || out.Auth != nil) {
		return &out, nil
	}
	kind := fault.Target
	if r.Once {
		kind = fault.Unconfirmed
	}
	return nil, fault.New(kind, "%s: %s answered 200, but not in the form of a Vault: is address the URL of one?", r.Action, c.base)
}

func decode(in call, data json.RawMessage, out any) error {
	if data != nil && json.Unmarshal(data, out) == nil {
		return nil
	}
	kind := fault.Target
	if in.once {
		kind = fault.Unconfirmed
	}
	return fault.New(kind, "%s: Vault's answer does not have the documented form", in.action)
}

// refusal is Vault's answer to what it does not do.
type refusal struct {
	status int
	// text is what it says, fit for a sentence.
	text string
	// vaults tells that the answer has the form of one of Vault's, and silent that it has, and
	// says nothing: that of what is not there.
	vaults, silent bool
	body           []byte
}

func (r *refusal) Error() string { return r.text }

// says tells whether a phrase of Vault's is among its errors.
func (r *refusal) says(phrase string) bool {
	return r.vaults && strings.Contains(string(r.body), phrase)
}

func refusalIn(err error) *refusal {
	var r *refusal
	if errors.As(err, &r) {
		return r
	}
	return nil
}

// absent tells of a path at which there is nothing, by Vault's own answer.
func (r *refusal) absent() bool {
	return r != nil && r.status == http.StatusNotFound && r.silent
}

// refused makes an error of an answer that is not 200: what it is, what Vault says, and for
// some what would be right.
func (c *Client) refused(r egress.Request, resp *egress.Response) error {
	why := &refusal{status: resp.Status, body: resp.Body}
	var in struct {
		Errors *[]string `json:"errors"`
	}
	// What is not there and has a past is answered with data in the place of errors.
	var data reply
	switch {
	case json.Unmarshal(resp.Body, &in) == nil && in.Errors != nil:
		why.vaults, why.silent, why.text = true, len(*in.Errors) == 0, r.Text(strings.Join(*in.Errors, "; "))
	case json.Unmarshal(resp.Body, &data) == nil && data.Data != nil:
		why.vaults = true
	}
	kind, hint := meaning(why, r.Header.Get(tokenHeader) != "")
	said := ""
	if why.text != "" {
		said = " (" + why.text + ")"
	}
	return &fault.Error{
		Kind: kind, Err: why,
		Message: r.Action + ": " + c.base + " answered " + statusText(resp.Status) + said + hint,
	}
}

// meaning gives what a status says of the next try.
func meaning(r *refusal, withToken bool) (kind fault.Kind, hint string) {
	switch s := r.status; {
	case s >= 300 && s < 400:
		return fault.Unreachable, ": it sends clients elsewhere, as a standby does, and redirects are not followed: let address be that of the active node, or one that is balanced to it"
	case s == http.StatusServiceUnavailable && r.says("sealed"):
		return fault.Unreachable, ": it is sealed"
	case s == http.StatusTooManyRequests || s == http.StatusPreconditionFailed || s >= 500:
		return fault.Unreachable, ""
	case !r.vaults:
		return fault.Target, ": that is not a Vault's answer: is address the URL of one?"
	case s == http.StatusForbidden && withToken && !r.says("invalid token"):
		return fault.Target, ": the policies of the token do not allow it"
	}
	return fault.Target, ""
}

func statusText(status int) string {
	if text := http.StatusText(status); text != "" {
		return strconv.Itoa(status) + " " + text
	}
	return strconv.Itoa(status)
}
