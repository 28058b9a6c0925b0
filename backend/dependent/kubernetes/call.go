package kubernetes

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/egress"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// call is one call of the API.
type call struct {
	action string // "read default/deployment/api", for errors
	method string
	path   string
	query  url.Values
	accept string // "" for plain JSON
	body   any    // sent as JSON, if any
	// patches is set for a strategic merge patch. It is sent once: its caller settles what
	// became of it.
	patches bool
	// right is what the call needs, where RBAC may withhold it.
	right right
}

// answer is what came of a call.
type answer struct {
	*egress.Response
	call    call
	request egress.Request
	// status is what the API server says of a failure in its own form; nil for a success, and
	// for what came from something else.
	status *status
}

// status is the API's form of a failure (meta/v1 Status).
type status struct {
	Kind    string `json:"kind"`
	Status  string `json:"status"`
	Message string `json:"message"`
	Reason  string `json:"reason"`
}

// do makes a call. A token of the pod that is refused is read again, and the call is made again
// with another one: the former one was refused before anything was done.
func (c *Connection) do(ctx context.Context, in call) (*answer, error) {
	client, token, err := c.credential.use(secret.String{})
	if err != nil {
		return nil, fault.In(in.action, err)
	}
	a, err := c.send(ctx, client, token, in)
	if err != nil || a.Status != http.StatusUnauthorized {
		return a, err
	}
	client, fresh, err := c.credential.use(token)
	if err != nil || fresh.Equal(token) {
		return a, nil // that the token is refused tells more than why there is no other
	}
	return c.send(ctx, client, fresh, in)
}

func (c *Connection) send(ctx context.Context, client *egress.Client, token secret.String, in call) (*answer, error) {
	r := egress.Request{
		Action: in.action, Method: in.method, URL: c.base + in.path, Header: http.Header{},
		Once: in.patches, Secrets: []secret.String{token},
	}
	if len(in.query) > 0 {
		r.URL += "?" + in.query.Encode()
	}
	r.Header.Set("Authorization", "Bearer "+token.Reveal())
	r.Header.Set("User-Agent", manager)
	r.Header.Set("Accept", "application/json")
	if in.accept != "" {
		r.Header.Set("Accept", in.accept)
	}
	if in.body != nil {
		body, err := json.Marshal(in.body)
		if err != nil {
			return nil, fault.New(fault.Internal, "%s: %w", in.action, err)
		}
		r.Body = body
		r.Header.Set("Content-Type", "application/json")
		if in.patches {
			r.Header.Set("Content-Type", "application/strategic-merge-patch+json")
		}
	}
	resp, err := client.Do(ctx, r)
	if err != nil {
		return nil, err
	}
	a := &answer{Response: resp, call: in, request: r}
	if !a.ok() {
		var s status
		if json.Unmarshal(resp.Body, &s) == nil && s.Kind == "Status" {
			a.status = &s
		}
	}
	return a, nil
}

func (a *answer) ok() bool { return a.Status >= 200 && a.Status < 300 }

// gone tells that the API server knows no such thing.
func (a *answer) gone() bool { return a.Status == http.StatusNotFound && a.status != nil }

// read decodes a success; anything else is what failed.
func (a *answer) read(out any) error {
	if !a.ok() {
		return a.failed()
	}
	if json.Unmarshal(a.Body, out) != nil {
		return a.foreign() // the decoder's own words may quote the answer
	}
	return nil
}

// failed is the error of an answer that is no success. What a gateway says in between proves
// nothing of a workload, and may be another thing a moment later.
func (a *answer) failed() error {
	switch {
	case a.Status == http.StatusTooManyRequests || a.Status >= 500:
		return fault.New(fault.Unreachable, "%s: the API server cannot serve now (%s)", a.call.action, a.said())
	case a.status == nil:
		return a.foreign()
	case a.Status == http.StatusUnauthorized:
		return fault.New(fault.AuthFailed, "%s: the API server refuses the service account's token (%s)", a.call.action, a.said())
	case a.Status == http.StatusForbidden && a.call.right.verb != "":
		return fault.New(fault.Target, "%s: the service account may not %s: grant it that (%s)", a.call.action, a.call.right, a.said())
	}
	return fault.New(fault.Target, "%s: the API server declined (%s)", a.call.action, a.said())
}

// foreign is the error of an answer that is not of the API's form.
func (a *answer) foreign() error {
	return fault.New(fault.Unreachable, "%s: something answered that is not a Kubernetes API server (status %d)", a.call.action, a.Status)
}

var reasonWord = regexp.MustCompile(`^[A-Za-z]{1,64}$`)

// said is what an answer says in a few words: its status, the reason, and a piece of the
// message, which whoever made an object may have written.
func (a *answer) said() string {
	out := fmt.Sprint("status ", a.Status)
	if a.status == nil {
		return out
	}
	if reasonWord.MatchString(a.status.Reason) {
		out += " " + a.request.Text(a.status.Reason)
	}
	if text := a.request.Text(a.status.Message); text != "" {
		out += ": " + text
	}
	return out
}

// printable tells whether a text is of printable ASCII, without spaces.
func printable(text string) bool {
	for _, r := range text {
		if r <= ' ' || r > '~' {
			return false
		}
	}
	return true
}
