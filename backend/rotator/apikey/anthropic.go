package apikey

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/egress"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// anthropicKind is the connection type anthropic: keys that people make in the console.
var anthropicKind = providerKind{
	typ:     "anthropic",
	baseURL: "https://api.anthropic.com",
	options: option.Set{
		{Name: "workspace", Type: option.String, Help: "Id of the workspace whose keys may be handed in, such as wrkspc_01abc. Default: all of the organization."},
	},
	check: checkAnthropic,
	open:  func(s *settings, client *egress.Client) (provider, error) { return newAnthropic(s, client), nil },
}

// anthropicAdminPrefix begins all admin keys, and no other.
const anthropicAdminPrefix = "sk-ant-admin"

func checkAnthropic(s *settings) error {
	switch {
	case s.AdminKey.Empty():
		return fault.Field("admin_key", "is required: an admin key of the organization (Anthropic Console: Settings, Admin keys)")
	case !strings.HasPrefix(s.AdminKey.Reveal(), anthropicAdminPrefix) || checkKeyText(s.AdminKey) != nil:
		return fault.Field("admin_key", "must be an admin key: they begin with %s", anthropicAdminPrefix)
	case s.Workspace != "" && !validID(s.Workspace):
		return fault.Field("workspace", "must be the id of a workspace, such as wrkspc_01abc")
	}
	return nil
}

// anthropic is the Admin API of Anthropic. It has no call that makes a key.
type anthropic struct {
	unable
	caller    caller
	workspace string
}

var _ provider = (*anthropic)(nil)

func newAnthropic(s *settings, client *egress.Client) *anthropic {
	return &anthropic{workspace: s.Workspace, caller: caller{
		title: "Anthropic", base: s.BaseURL, client: client, admin: s.AdminKey,
		authorize: func(h http.Header, key secret.String) {
			h.Set("X-Api-Key", key.Reveal())
			h.Set("Anthropic-Version", "2023-06-01")
		},
		decline: readAnthropicError,
		refuses: func(status int, d *declined) bool {
			return status == http.StatusUnauthorized && d != nil && d.Type == "authentication_error"
		},
	}}
}

// readAnthropicError reads {"type":"error","error":{"type","message"},"request_id"}.
func readAnthropicError(body []byte) *declined {
	var in struct {
		Type  string `json:"type"`
		Error *struct {
			Type    string `json:"type"`
			Message string `json:"message"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &in) != nil || in.Type != "error" || in.Error == nil || in.Error.Type == "" {
		return nil
	}
	return &declined{Type: in.Error.Type, Message: in.Error.Message}
}

func (*anthropic) title() string { return "Anthropic" }

func (*anthropic) abilities() abilities {
	return abilities{Identify: true, Disable: true, Revoke: true}
}

// checkKey refuses an admin key: applications have no use for one, and it may do anything.
func (*anthropic) checkKey(key secret.String) error {
	if err := checkKeyText(key); err != nil {
		return err
	}
	if strings.HasPrefix(key.Reveal(), anthropicAdminPrefix) {
		return fault.Field("key", "is an admin key: hand in a key of a workspace")
	}
	return nil
}

func (p *anthropic) byHand() byHand {
	if p.workspace == "" {
		return byHand{
			Make: "make a new key in the Anthropic Console (Settings, API keys)",
			End:  "delete it in the Anthropic Console (Settings, API keys)",
		}
	}
	return byHand{
		Make: fmt.Sprintf("make a new key of workspace %s in the Anthropic Console (Settings, API keys)", p.workspace),
		End:  fmt.Sprintf("delete it in the Anthropic Console (Settings, API keys, workspace %s)", p.workspace),
	}
}

// anthropicKeys is the path of the organization's keys.
const anthropicKeys = "/v1/organizations/api_keys"

// The states of a key. Archived is for good, and expired comes by itself.
const (
	anthropicActive   = "active"
	anthropicInactive = "inactive"
	anthropicArchived = "archived"
	anthropicExpired  = "expired"
)

// anthropicKey is a key as the Admin API shows it.
type anthropicKey struct {
	ID        string     `json:"id"`
	Hint      string     `json:"partial_key_hint"`
	Status    string     `json:"status"`
	ExpiresAt *time.Time `json:"expires_at"`
	// Workspace is null for the default one.
	Workspace *string `json:"workspace_id"`
}

// anthropicAlike is what keys have in common.
var anthropicAlike = alike{begin: regexp.MustCompile(`^sk-ant-[a-z]+[0-9]*-`), end: "AA"}

// administer makes a call with the admin key.
func (p *anthropic) administer(ctx context.Context, in call) (*answer, error) {
	in.key = p.caller.admin
	return p.caller.do(ctx, in)
}

// list reads a page: GET /v1/organizations/api_keys.
func (p *anthropic) list(ctx context.Context, limit int, after string) (*page[anthropicKey], error) {
	q := url.Values{"limit": {strconv.Itoa(limit)}, "status": {anthropicActive}}
	if p.workspace != "" {
		q.Set("workspace_id", p.workspace)
	}
	if after != "" {
		q.Set("after_id", after)
	}
	a, err := p.administer(ctx, call{action: "list the keys of " + p.scope(), method: http.MethodGet, path: anthropicKeys, query: q})
	if err != nil {
		return nil, err
	}
	return readAnthropicPage[anthropicKey](a)
}

// readAnthropicPage reads {"data":[...],"last_id","has_more"}; last_id is null where there
// is none. A list without data is none: it would seem to be empty.
func readAnthropicPage[T any](a *answer) (*page[T], error) {
	var in struct {
		Data   []T    `json:"data"`
		LastID string `json:"last_id"`
		More   *bool  `json:"has_more"`
	}
	if err := a.read(&in); err != nil {
		return nil, err
	}
	if in.Data == nil || in.More == nil {
		return nil, a.unclear()
	}
	return &page[T]{items: in.Data, more: *in.More, last: in.LastID}, nil
}

// scope names in sentences which keys are considered.
func (p *anthropic) scope() string {
	if p.workspace == "" {
		return "the organization"
	}
	return "workspace " + p.workspace
}

// ping implements provider with GET /v1/organizations/api_keys.
func (p *anthropic) ping(ctx context.Context) error {
	_, err := p.list(ctx, 1, "")
	return err
}

// check implements provider with the call that ping makes. Whether the admin key may also
// change keys cannot be learned without changing one: all admin keys may.
func (p *anthropic) check(ctx context.Context) ([]rotator.Line, error) {
	const key, list = "admin key", "keys"
	switch err := p.ping(ctx); fault.KindOf(err) {
	case "":
		return []rotator.Line{passed(key, "Anthropic accepts it"), passed(list, "the admin key may list those of "+p.scope())}, nil
	case fault.Target:
		return []rotator.Line{failed(list, err.Error())}, nil
	case fault.AuthFailed:
		return []rotator.Line{failed(key, err.Error())}, nil
	default:
		return []rotator.Line{failed("reach Anthropic", err.Error())}, nil
	}
}

// verify implements provider with GET /v1/models.
func (p *anthropic) verify(ctx context.Context, key secret.String) (string, error) {
	a, err := p.caller.do(ctx, call{
		action: "verify a key", method: http.MethodGet, path: "/v1/models", query: url.Values{"limit": {"1"}}, key: key,
	})
	if err != nil {
		return "", err
	}
	switch {
	case a.ok():
		if _, err := readAnthropicPage[struct{}](a); err != nil {
			return "", a.unproven()
		}
		return "200", nil
	// Who is turned away for where the call comes from gets a 403 of another type.
	case a.Status == http.StatusForbidden && a.declined != nil && a.declined.Type == "permission_error":
		return "403 permission_error", nil
	}
	return "", a.unproven()
}

// identify implements provider with GET /v1/organizations/api_keys, or of the one key
// whose id is known.
func (p *anthropic) identify(ctx context.Context, key secret.String, id string) (reference, error) {
	if id != "" {
		return p.confirm(ctx, key, id)
	}
	keys, err := collect(p.title(), func(after string) (*page[anthropicKey], error) { return p.list(ctx, pageSize, after) })
	if err != nil {
		return reference{}, err
	}
	var like []string
	var match *anthropicKey
	for i := range keys {
		// The filters of the request are asked for, and not relied upon.
		if k := &keys[i]; k.Status == anthropicActive && p.considers(k) && hintFits(k.Hint, key) && !slices.Contains(like, k.ID) {
			match, like = k, append(like, k.ID)
		}
	}
	switch {
	case len(like) == 0:
		return reference{}, fault.Field("key", "is none of the active keys of %s", p.scope())
	case len(like) > 1:
		return reference{}, fault.Field("key_id", "is required: %d active keys of %s look like this one (%s)", len(like), p.scope(), listed(like))
	case anthropicAlike.told(match.Hint, key) < minTold:
		return reference{}, fault.Field("key_id", "is required: one active key of %s looks like this one (%s), and Anthropic shows too little of it to be sure", p.scope(), listed(like))
	}
	return match.reference(key)
}

// confirm checks what a person says the id of a key is.
func (p *anthropic) confirm(ctx context.Context, key secret.String, id string) (reference, error) {
	if !validID(id) {
		return reference{}, fault.Field("key_id", "must be the id of a key, such as apikey_01abc")
	}
	k, err := p.get(ctx, id)
	switch {
	case err != nil:
		return reference{}, err
	case k == nil || !p.considers(k):
		return reference{}, fault.Field("key_id", "is the id of no key of %s", p.scope())
	case !hintFits(k.Hint, key):
		return reference{}, fault.Field("key_id", "is the id of another key: what Anthropic shows of it does not fit the key")
	case k.Status != anthropicActive:
		return reference{}, fault.Field("key", "is not active at Anthropic")
	}
	return k.reference(key)
}

// considers tells whether the connection is for a key.
func (p *anthropic) considers(k *anthropicKey) bool {
	return p.workspace == "" || k.Workspace != nil && *k.Workspace == p.workspace
}

func (k *anthropicKey) reference(key secret.String) (reference, error) {
	if !validID(k.ID) || betrays(k.ID, key) {
		return reference{}, fault.New(fault.Target, "Anthropic gives an id of the key that cannot be used")
	}
	r := reference{ID: k.ID}
	if k.ExpiresAt != nil {
		r.Expires = instant(k.ExpiresAt.Unix())
	}
	return r, nil
}

// witness implements provider with the call that ping makes.
func (p *anthropic) witness(ctx context.Context) (string, error) { return theAdminKey, p.ping(ctx) }

// get gives one key: GET /v1/organizations/api_keys/{id}; nil if there is none.
func (p *anthropic) get(ctx context.Context, id string) (*anthropicKey, error) {
	return p.readKey(ctx, id, call{action: "look at key " + id, method: http.MethodGet})
}

// readKey makes a call about one key. It answers with the key: another one is no answer.
func (p *anthropic) readKey(ctx context.Context, id string, in call) (*anthropicKey, error) {
	if !validID(id) {
		return nil, fault.New(fault.Internal, "a key of Anthropic is known by an id that cannot be used")
	}
	in.path = anthropicKeys + "/" + segment(id)
	a, err := p.administer(ctx, in)
	if err != nil {
		return nil, err
	}
	if a.gone() && a.declined.Type == "not_found_error" {
		// It comes as well where base_url leads to something else in the form of Anthropic.
		return nil, unconfirmedAbsence(a, p.ping(ctx))
	}
	var k anthropicKey
	if err := a.read(&k); err != nil {
		return nil, err
	}
	if k.ID != id || k.Status == "" {
		return nil, a.unclear()
	}
	return &k, nil
}

// disable implements provider with the status inactive.
func (p *anthropic) disable(ctx context.Context, r reference) (gone bool, err error) {
	return p.settle(ctx, r, "disable", anthropicInactive, anthropicArchived, anthropicExpired)
}

// revoke implements provider with the status archived.
func (p *anthropic) revoke(ctx context.Context, r reference) (gone bool, err error) {
	return p.settle(ctx, r, "archive", anthropicArchived, anthropicExpired)
}

// settle brings a key to a status, unless it is gone or stands as good already. It looks
// first: writing a status over one that is for good must not bring the key back.
func (p *anthropic) settle(ctx context.Context, r reference, verb, status string, asGood ...string) (gone bool, err error) {
	done := func(k *anthropicKey) bool { return k == nil || k.Status == status || slices.Contains(asGood, k.Status) }
	k, err := p.get(ctx, r.ID)
	if err == nil && !done(k) {
		k, err = p.write(ctx, r, verb, status)
	}
	switch {
	case err != nil:
		return false, err
	case !done(k):
		return false, fault.New(fault.Target, "%s key %s at Anthropic: it was accepted, but the key does not show it", verb, r.ID)
	}
	return k == nil, nil
}

// enable implements provider with the status active.
func (p *anthropic) enable(ctx context.Context, r reference) error {
	k, err := p.get(ctx, r.ID)
	if err == nil && k != nil && k.Status == anthropicInactive {
		k, err = p.write(ctx, r, "enable", anthropicActive)
	}
	switch {
	case err != nil:
		return err
	case k == nil:
		return fault.New(fault.Target, "key %s is gone at Anthropic, and cannot be enabled", r.ID)
	case k.Status != anthropicActive:
		return fault.New(fault.Target, "key %s is %s at Anthropic, and cannot be enabled", r.ID, ended(k.Status))
	}
	return nil
}

// ended is a status that a sentence may show.
func ended(status string) string {
	if slices.Contains([]string{anthropicInactive, anthropicArchived, anthropicExpired}, status) {
		return status
	}
	return "not active"
}

// write sets the status of a key: POST /v1/organizations/api_keys/{id}.
func (p *anthropic) write(ctx context.Context, r reference, verb, status string) (*anthropicKey, error) {
	return p.readKey(ctx, r.ID, call{
		action: verb + " key " + r.ID, method: http.MethodPost, body: map[string]string{"status": status},
	})
}
