package apikey

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/egress"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// httpProvider is an API as a definition describes it.
type httpProvider struct {
	definition *definition
	// admin and prover differ in what refuses a key. Of the admin key a 403 says that it may
	// not do this, also where the call of verify knows dead keys by it.
	admin, prover *caller
	parameters    values
	adminSecrets  secret.Map
}

func newHTTPProvider(s *settings, client *egress.Client) (*httpProvider, error) {
	d := s.definition
	if d == nil { // only what it can do is asked for
		var err error
		if d, _, err = parseDefinition(s.Definition, s.Parameters); err != nil {
			return nil, err
		}
	}
	title := d.Title
	if title == "" {
		base, err := url.Parse(s.BaseURL)
		if err != nil {
			return nil, fault.New(fault.Internal, "base_url was not checked")
		}
		title = base.Host
	}
	admin := caller{title: title, base: s.BaseURL, client: client, decline: d.decline, refuses: d.refuses(http.StatusUnauthorized), formless: len(d.errors) == 0, isAdmin: true}
	prover := admin
	prover.refuses, prover.isAdmin = d.refuses(d.Verify.Dead...), false
	return &httpProvider{
		definition: d, parameters: s.Parameters, admin: &admin, prover: &prover,
		adminSecrets: secret.Map{adminKeyValue: s.AdminKey, adminSecretValue: s.AdminSecret},
	}, nil
}

func (h *httpProvider) title() string { return h.admin.title }

// abilities implements provider: what the definition has.
func (h *httpProvider) abilities() abilities {
	d := h.definition
	return abilities{
		Create: d.Create != nil, Replace: d.Replace != nil, Disable: d.Disable != nil, Revoke: d.Revoke != nil,
		Identify: d.Verify.id != nil && (d.Revoke != nil || d.Replace != nil), Propagation: d.Verify.propagation,
	}
}

// byHand implements provider.
func (h *httpProvider) byHand() byHand {
	if s := h.definition.ByHand; s != nil {
		return byHand{Make: strings.TrimRight(s.Make, ". "), End: strings.TrimRight(s.End, ". ")}
	}
	return byHand{Make: "make a new key at " + h.title(), End: "end it at " + h.title()}
}

// checkKey implements provider.
func (*httpProvider) checkKey(key secret.String) error { return checkKeyText(key) }

// ping implements provider with the first page of the list. Without a list there is no
// call that proves the admin key and changes nothing.
func (h *httpProvider) ping(ctx context.Context) error {
	if h.definition.List == nil {
		return nil
	}
	_, err := h.walk("").fetch(ctx)
	return err
}

// witness implements provider with the call that ping makes.
func (h *httpProvider) witness(ctx context.Context) (string, error) {
	if h.definition.List == nil {
		return "", errNoWitness
	}
	return theAdminKey, h.ping(ctx)
}

// check implements provider.
func (h *httpProvider) check(ctx context.Context) ([]rotator.Line, error) {
	const key, list = "admin key", "list of keys"
	lines := []rotator.Line{passed("definition", h.summary())}
	switch {
	case h.definition.Admin == nil:
		return append(lines, passed(key, "none: keys are made by hand")), nil
	case h.definition.List == nil:
		return append(lines, rotator.Line{Check: key, Result: rotator.Warn, Detail: "not proven: the definition has no list, and all other calls change something"}), nil
	}
	switch err := h.ping(ctx); fault.KindOf(err) {
	case "":
		return append(lines, passed(key, h.title()+" accepts it"), passed(list, "the admin key may read it, and the definition fits its form")), nil
	case fault.AuthFailed:
		return append(lines, failed(key, err.Error())), nil
	case fault.Target, fault.Invalid:
		return append(lines, failed(list, err.Error())), nil
	default:
		return append(lines, failed("reach "+h.title(), err.Error())), nil
	}
}

// summary says what a definition can do.
func (h *httpProvider) summary() string {
	d := h.definition
	var can []string
	for _, part := range []struct {
		name string
		has  bool
	}{
		{"verify", true},
		{"create", d.Create != nil},
		{"list", d.List != nil},
		{"disable and enable", d.Disable != nil},
		{"revoke", d.Revoke != nil},
		{"replace in place", d.Replace != nil},
		{"make by hand", d.ByHand != nil},
	} {
		if part.has {
			can = append(can, part.name)
		}
	}
	return h.title() + ": " + strings.Join(can, ", ")
}

// create implements provider.
func (h *httpProvider) create(ctx context.Context, name string) (*created, error) {
	return h.make(ctx, "make a key", h.definition.Create, values{nameValue: name}, "")
}

// replace implements provider.
func (h *httpProvider) replace(ctx context.Context, r reference) (*created, error) {
	return h.make(ctx, "replace the key", h.definition.Replace, values{idValue: r.ID}, r.ID)
}

// make makes a call whose answer shows a key, this once.
func (h *httpProvider) make(ctx context.Context, action string, spec *makeSpec, with values, id string) (*created, error) {
	in := h.asAdmin(action, &spec.callSpec, with)
	in.once = true
	if spec.mentionsID && !validID(id) {
		return nil, unknownID(action)
	}
	a, err := h.do(ctx, in)
	switch {
	case err != nil:
		return nil, err
	case spec.succeeded(a):
		if c := spec.read(a, id); c != nil {
			return c, nil
		}
	case a.notMade():
		return nil, a.failed()
	}
	return nil, a.unconfirmed()
}

// read takes the key out of an answer; nil if it cannot be understood. id is that of the
// key before, which may stay.
func (s *makeSpec) read(a *answer, id string) *created {
	document, err := decodeAnswer(a.Body)
	if err != nil {
		return nil
	}
	key, ok := token(s.key.in(document), maxKey)
	if !ok {
		return nil
	}
	if s.id != nil {
		if id, ok = identifier(s.id.in(document)); !ok {
			return nil
		}
	}
	expires, ok := date(s.expires.in(document))
	if !ok || betrays(id, secret.New(key)) {
		return nil
	}
	return &created{Key: secret.New(key), Reference: reference{ID: id, Expires: expires}}
}

// disable implements provider.
func (h *httpProvider) disable(ctx context.Context, r reference) (gone bool, err error) {
	return h.about(ctx, "disable a key", h.definition.Disable, r)
}

// enable implements provider.
func (h *httpProvider) enable(ctx context.Context, r reference) error {
	gone, err := h.about(ctx, "enable a key", h.definition.Enable, r)
	if gone {
		return fault.New(fault.Target, "enable a key at %s: it is gone, and cannot be enabled", h.title())
	}
	return err
}

// revoke implements provider.
func (h *httpProvider) revoke(ctx context.Context, r reference) (gone bool, err error) {
	return h.about(ctx, "revoke a key", h.definition.Revoke, r)
}

// about makes a call about one key. gone tells that the API says that there is none such.
func (h *httpProvider) about(ctx context.Context, action string, spec *callSpec, r reference) (gone bool, err error) {
	if !validID(r.ID) {
		return false, unknownID(action)
	}
	a, err := h.do(ctx, h.asAdmin(action, spec, values{idValue: r.ID}))
	switch {
	case err != nil:
		return false, err
	case spec.succeeded(a):
		return false, nil
	case a.gone():
		return true, nil
	}
	return false, a.failed()
}

func unknownID(action string) error {
	return fault.New(fault.Conflict, "%s: the provider's id of the key is not known", action)
}
