package apikey

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/egress"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// openAIKind is the connection type openai: keys of one project.
var openAIKind = providerKind{
	typ:     "openai",
	baseURL: "https://api.openai.com/v1",
	options: option.Set{
		// The ids of keys and service accounts that the journal holds are the project's.
		{Name: "project", Type: option.String, Address: true, Immutable: true, Help: "Id of the project in which keys are made, such as proj_abc (OpenAI dashboard: Settings, Project, General)."},
		{Name: "organization", Type: option.String, Address: true, Help: "Id of the organization that the admin key acts for (header OpenAI-Organization). Default: the one it belongs to."},
	},
	check: checkOpenAI,
	open:  func(s *settings, client *egress.Client) (provider, error) { return newOpenAI(s, client), nil },
	// Who owns the project is the admin key's to say: organization chooses among its own.
	anchors: func(s *settings) map[string]string { return map[string]string{"project": s.Project} },
}

// openAIAdminPrefix begins all admin keys, and no other.
const openAIAdminPrefix = "sk-admin-"

func checkOpenAI(s *settings) error {
	switch {
	case s.AdminKey.Empty():
		return fault.Field("admin_key", "is required: an admin key of the organization (OpenAI dashboard: Settings, Organization, Admin keys)")
	case !strings.HasPrefix(s.AdminKey.Reveal(), openAIAdminPrefix) || checkKeyText(s.AdminKey) != nil:
		return fault.Field("admin_key", "must be an admin key: they begin with %s", openAIAdminPrefix)
	case s.Project == "":
		return fault.Field("project", "is required: the id of the project in which keys are made, such as proj_abc")
	case !validID(s.Project):
		return fault.Field("project", "must be the id of a project, such as proj_abc")
	case s.Organization != "" && !validID(s.Organization):
		return fault.Field("organization", "must be the id of an organization, such as org-abc")
	}
	return nil
}

// openAI is the Administration API of OpenAI. A key is made with a service account of its
// own, which bears the name: keys have none that could be chosen there, and those of a
// service account end with it alone.
type openAI struct {
	unable
	caller  caller
	project string
}

var (
	_ provider = (*openAI)(nil)
	_ rootKeys = (*openAI)(nil)
)

func newOpenAI(s *settings, client *egress.Client) *openAI {
	return &openAI{project: s.Project, caller: caller{
		title: "OpenAI", base: s.BaseURL, client: client, admin: s.AdminKey,
		authorize: func(h http.Header, key secret.String) {
			h.Set("Authorization", "Bearer "+key.Reveal())
			// A key that is verified says itself where it belongs.
			if s.Organization != "" && key.Equal(s.AdminKey) {
				h.Set("OpenAI-Organization", s.Organization)
			}
		},
		decline: readOpenAIError,
		// Not each 401 refuses the key: one that lacks a scope gets it, too.
		refuses: func(status int, d *declined) bool {
			return status == http.StatusUnauthorized && d != nil && d.Code == "invalid_api_key"
		},
	}}
}

// readOpenAIError reads {"error":{"message","type","param","code"}}; code may be null.
func readOpenAIError(body []byte) *declined {
	var in struct {
		Error *struct {
			Message string  `json:"message"`
			Type    string  `json:"type"`
			Code    *string `json:"code"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &in) != nil || in.Error == nil || in.Error.Message == "" && in.Error.Code == nil {
		return nil
	}
	d := &declined{Type: in.Error.Type, Message: in.Error.Message}
	if in.Error.Code != nil {
		d.Code = *in.Error.Code
	}
	return d
}

func (*openAI) title() string { return "OpenAI" }

func (*openAI) abilities() abilities { return abilities{Create: true, Identify: true, Revoke: true} }

// checkKey refuses an admin key: applications have no use for one, and it may do anything.
func (*openAI) checkKey(key secret.String) error {
	if err := checkKeyText(key); err != nil {
		return err
	}
	if strings.HasPrefix(key.Reveal(), openAIAdminPrefix) {
		return fault.Field("key", "is an admin key: hand in a key of the project")
	}
	return nil
}

func (o *openAI) byHand() byHand {
	return byHand{
		Make: fmt.Sprintf("make a new key of project %s in the OpenAI dashboard (Settings, Project, API keys)", o.project),
		End:  fmt.Sprintf("delete it in the OpenAI dashboard (Settings, Project %s, API keys)", o.project),
	}
}

// under is a path of the project.
func (o *openAI) under(path string) string {
	return "/organization/projects/" + segment(o.project) + path
}

// administer makes a call with the admin key.
func (o *openAI) administer(ctx context.Context, in call) (*answer, error) {
	in.key = o.caller.admin
	return o.caller.do(ctx, in)
}

// ping implements provider with GET /organization/projects/{project}/service_accounts.
func (o *openAI) ping(ctx context.Context) error {
	_, err := o.firstAccount(ctx)
	return err
}

// witness implements provider with the call that ping makes.
func (o *openAI) witness(ctx context.Context) (string, error) { return theAdminKey, o.ping(ctx) }

// firstAccount asks for one service account: whether the project has any is all the same.
func (o *openAI) firstAccount(ctx context.Context) (*answer, error) {
	a, err := o.administer(ctx, call{
		action: "list the service accounts of project " + o.project, method: http.MethodGet,
		path: o.under("/service_accounts"), query: url.Values{"limit": {"1"}},
	})
	if err != nil {
		return nil, err
	}
	_, err = readOpenAIPage[openAIAccount](a)
	return a, err
}

// check implements provider with the one call that ping makes: what is refused, and with
// which status, tells what is missing.
func (o *openAI) check(ctx context.Context) ([]rotator.Line, error) {
	const key, project, list = "admin key", "project", "service accounts"
	a, err := o.firstAccount(ctx)
	switch {
	case err == nil:
		return []rotator.Line{
			passed(key, "OpenAI accepts it"), passed(project, o.project+" exists"),
			passed(list, "the admin key may list those of the project"),
		}, nil
	case a == nil:
		return []rotator.Line{failed("reach OpenAI", err.Error())}, nil
	case fault.Is(err, fault.AuthFailed):
		return []rotator.Line{failed(key, err.Error())}, nil
	case a.gone():
		return []rotator.Line{
			passed(key, "OpenAI accepts it"),
			failed(project, fmt.Sprintf("the organization of the admin key has no project %s: %v", o.project, err)),
		}, nil
	case o.forbidden(a):
		return []rotator.Line{passed(key, "OpenAI accepts it"), failed(list, err.Error())}, nil
	}
	return []rotator.Line{failed(list, err.Error())}, nil
}

// verify implements provider with GET /models. What a key may do does not count: OpenAI
// says "401" and "429" of keys that it accepts, too.
func (o *openAI) verify(ctx context.Context, key secret.String) (string, error) {
	a, err := o.caller.do(ctx, call{action: "verify a key", method: http.MethodGet, path: "/models", key: key})
	if err != nil {
		return "", err
	}
	switch {
	case a.ok():
		if _, err := readOpenAIPage[struct{}](a); err != nil {
			return "", a.unproven()
		}
		return "200", nil
	case o.lacksScope(a):
		return "401 missing scopes", nil
	case o.forbidden(a):
		return "403", nil
	case a.Status == http.StatusTooManyRequests && a.declined != nil &&
		(a.declined.Code == outOfQuota || a.declined.Type == outOfQuota):
		return "429 " + outOfQuota, nil
	}
	return "", a.unproven()
}

// outOfQuota is the code of a 429 that was given for want of money: the key was accepted.
const outOfQuota = "insufficient_quota"

// lacksScope tells the 401 of a valid key. It has no code, or one that says so; and
// without a code the message has to, since a call that bears no key at all gets no code
// either.
func (*openAI) lacksScope(a *answer) bool {
	if a.Status != http.StatusUnauthorized || a.declined == nil {
		return false
	}
	return a.declined.Code == "missing_scope" ||
		a.declined.Code == "" && strings.Contains(strings.ToLower(a.declined.Message), "scope")
}

// forbidden tells that a key was accepted and may not do what was asked. Who is turned
// away for where the call comes from was not asked for a key.
func (o *openAI) forbidden(a *answer) bool {
	return o.lacksScope(a) || a.Status == http.StatusForbidden && a.declined != nil &&
		a.declined.Type != "request_forbidden" && !strings.HasPrefix(a.declined.Code, "unsupported_country")
}

// create implements provider with POST /organization/projects/{project}/service_accounts.
func (o *openAI) create(ctx context.Context, name string) (*created, error) {
	a, err := o.administer(ctx, call{
		action: "make a service account with a key", method: http.MethodPost, path: o.under("/service_accounts"),
		body: map[string]string{"name": name}, once: true,
	})
	if err != nil {
		return nil, err
	}
	if a.notMade() {
		return nil, a.failed()
	}
	var in struct {
		ID  string        `json:"id"`
		Key *openAINewKey `json:"api_key"`
	}
	if !a.ok() || json.Unmarshal(a.Body, &in) != nil || !validID(in.ID) || in.Key == nil || !validID(in.Key.ID) {
		return nil, a.unconfirmed()
	}
	key := secret.New(in.Key.Value)
	if o.checkKey(key) != nil || betrays(in.Key.ID, key) || betrays(in.ID, key) {
		return nil, a.unconfirmed()
	}
	return &created{Key: key, Reference: reference{ID: in.Key.ID, Owner: in.ID, Expires: instant(in.Key.ExpiresAt)}}, nil
}

// openAINewKey is a key as OpenAI shows it once.
type openAINewKey struct {
	ID    string `json:"id"`
	Value string `json:"value"`
	// ExpiresAt is null where no policy of the organization bounds the life of keys.
	ExpiresAt int64 `json:"expires_at"`
}

type openAIAccount struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	CreatedAt int64  `json:"created_at"`
}

// find implements provider with GET /organization/projects/{project}/service_accounts.
func (o *openAI) find(ctx context.Context, prefix string) ([]found, error) {
	accounts, err := listOpenAI[openAIAccount](ctx, o, "list the service accounts of project "+o.project, o.under("/service_accounts"), nil)
	if err != nil {
		return nil, err
	}
	var out []found
	for _, account := range accounts {
		if !strings.HasPrefix(account.Name, prefix) {
			continue
		}
		if !validID(account.ID) {
			return nil, fault.New(fault.Target, "OpenAI lists a service account with an id that cannot be used")
		}
		out = append(out, found{Name: account.Name, Reference: reference{Owner: account.ID}, Created: instant(account.CreatedAt)})
	}
	return out, nil
}

// revoke implements provider with DELETE of the service account, whose key goes with it;
// of the key itself, where it belongs to a person.
func (o *openAI) revoke(ctx context.Context, r reference) (gone bool, err error) {
	switch {
	case r.Owner != "":
		return o.delete(ctx, "delete service account "+r.Owner, o.under("/service_accounts"), r.Owner)
	case r.ID != "":
		return o.delete(ctx, "delete key "+r.ID, o.under("/api_keys"), r.ID)
	}
	return false, fault.New(fault.Internal, "a key of OpenAI without an id cannot be deleted")
}

// delete makes a DELETE of what has an id in a list. What is gone is done.
func (o *openAI) delete(ctx context.Context, action, list, id string) (gone bool, err error) {
	if !validID(id) {
		return false, fault.New(fault.Internal, "%s: the id cannot be used", action)
	}
	a, err := o.administer(ctx, call{action: action, method: http.MethodDelete, path: list + "/" + segment(id)})
	if err != nil {
		return false, err
	}
	if a.gone() && !leadsNowhere(a) {
		err := unconfirmedAbsence(a, o.listed(ctx, list))
		return err == nil, err
	}
	var in struct {
		Deleted bool `json:"deleted"`
	}
	if err := a.read(&in); err != nil {
		return false, err
	}
	if !in.Deleted {
		return false, a.unclear()
	}
	return false, nil
}

// leadsNowhere tells the 404 of a path that is none of OpenAI's, which has the same form.
func leadsNowhere(a *answer) bool {
	return a.declined != nil && (a.declined.Code == "unknown_url" || strings.HasPrefix(a.declined.Message, "Invalid URL"))
}

// listed proves that a list is there, and may be read. A 404 of something in it comes as
// well where the project is not the admin key's, or base_url leads elsewhere.
func (o *openAI) listed(ctx context.Context, list string) error {
	a, err := o.administer(ctx, call{action: "look whether the list is there", method: http.MethodGet, path: list, query: url.Values{"limit": {"1"}}})
	if err != nil {
		return err
	}
	_, err = readOpenAIPage[struct{}](a)
	return err
}

// readOpenAIPage reads {"object":"list","data":[...],"last_id","has_more"}. A list without
// data is none: it would seem to be empty.
func readOpenAIPage[T any](a *answer) (*page[T], error) {
	var in struct {
		Object string `json:"object"`
		Data   []T    `json:"data"`
		LastID string `json:"last_id"`
		More   bool   `json:"has_more"`
	}
	if err := a.read(&in); err != nil {
		return nil, err
	}
	if in.Object != "list" || in.Data == nil {
		return nil, a.unclear()
	}
	return &page[T]{items: in.Data, more: in.More, last: in.LastID}, nil
}

// listOpenAI reads a list of the Administration API to its end.
func listOpenAI[T any](ctx context.Context, o *openAI, action, path string, query url.Values) ([]T, error) {
	return collect(o.title(), func(after string) (*page[T], error) {
		q := url.Values{"limit": {strconv.Itoa(pageSize)}}
		for name, values := range query {
			q[name] = values
		}
		if after != "" {
			q.Set("after", after)
		}
		a, err := o.administer(ctx, call{action: action, method: http.MethodGet, path: path, query: q})
		if err != nil {
			return nil, err
		}
		return readOpenAIPage[T](a)
	})
}
