package apikey

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/egress"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// ConnectionKind is a type of connection to a provider of API keys.
type ConnectionKind struct {
	kind providerKind
	// Transport wraps the network in tests; nil leaves it.
	Transport func(http.RoundTripper) http.RoundTripper
	// RetryWait is the first wait before a request is repeated; 0 for the usual one.
	RetryWait time.Duration
}

// providerKind is what differs between the types.
type providerKind struct {
	typ     string
	baseURL string     // default; empty where it is required
	options option.Set // beside those that all have
	// complete fills what other options than base_url say of the API, without secrets.
	complete func(s *settings) (warnings []string, err error)
	// check refuses what can be seen to be wrong without the network.
	check func(s *settings) error
	open  func(s *settings, client *egress.Client) (provider, error)
	// anchors are the options that the ids of keys depend on, beside the address.
	anchors func(s *settings) map[string]string
}

// kinds are the types of connection.
var kinds = []providerKind{openAIKind, anthropicKind, stripeKind, httpKind}

// NewConnectionKinds returns the types of connection whose roles are of type api-key.
func NewConnectionKinds() []*ConnectionKind {
	out := make([]*ConnectionKind, 0, len(kinds))
	for _, k := range kinds {
		out = append(out, &ConnectionKind{kind: k})
	}
	return out
}

var (
	_ rotator.ConnectionKind = (*ConnectionKind)(nil)
	_ rotator.Anchored       = (*ConnectionKind)(nil)
)

// sharedOptionSet is what connections of all these types have.
var sharedOptionSet = option.Set{
	{Name: "admin_key", Type: option.String, Secret: true, Help: "The key with which keys are made, listed and ended."},
	{Name: "base_url", Type: option.String, Address: true, Help: "Where the API is, such as https://api.example.com/v1. Default: the provider's own."},
	{Name: "allow_insecure_http", Type: option.Bool, Default: false, Address: true, Help: "Admit http:// in base_url: keys then travel in clear."},
	{Name: "allowed_hosts", Type: option.List, Address: true, Help: "Hosts that requests may go to, exact or as *.example.com. Default: that of base_url alone."},
	{Name: "requests_per_second", Type: option.Int, Default: int64(10), Help: "Most requests a second, all roles together; 0 for no bound."},
}

// settings are the decoded options of a connection of any of the types.
type settings struct {
	AdminKey    secret.String `json:"-"`
	AdminSecret secret.String `json:"-"` // http

	BaseURL      string   `json:"base_url"`
	Insecure     bool     `json:"allow_insecure_http"`
	AllowedHosts []string `json:"allowed_hosts"`
	PerSecond    int      `json:"requests_per_second"`

	Project      string            `json:"project"`      // openai: required
	Organization string            `json:"organization"` // openai
	Workspace    string            `json:"workspace"`    // anthropic: the workspace's id
	Definition   string            `json:"definition"`   // http
	Parameters   map[string]string `json:"parameters"`   // http

	// definition is the parsed one, once complete has run.
	definition *definition
}

// maxPerSecond bounds requests_per_second.
const maxPerSecond = 1000

// decode reads stored values, in which the options common to all connections may stand too.
func (k providerKind) decode(values option.Values) (*settings, error) {
	set, own := k.optionSet(), option.Values{}
	for name, value := range values {
		if o := set.Named(name); o != nil && !o.Secret {
			own[name] = value
		}
	}
	s := &settings{}
	return s, set.Decode(own, s)
}

// abilities are those of a connection with these values: they do not depend on its secrets.
func (k providerKind) abilities(values option.Values) (abilities, error) {
	s, err := k.decode(values)
	if err != nil {
		return abilities{}, err
	}
	p, err := k.open(s, nil)
	if err != nil {
		return abilities{}, err
	}
	return p.abilities(), nil
}

func (k providerKind) optionSet() option.Set { return slices.Concat(sharedOptionSet, k.options) }

// settings decodes and checks a connection.
func (k *ConnectionKind) settings(c *rotator.ConnectionConfig) (s *settings, warnings []string, err error) {
	if s, err = k.kind.decode(c.Values); err != nil {
		return nil, nil, err
	}
	s.AdminKey, s.AdminSecret = c.Secrets["admin_key"], c.Secrets["admin_secret"]
	if s.PerSecond < 0 || s.PerSecond > maxPerSecond {
		return nil, nil, fault.Field("requests_per_second", "must be from 0 to %d", maxPerSecond)
	}
	if warnings, err = k.kind.fill(s); err != nil {
		return nil, nil, err
	}
	if err := k.kind.check(s); err != nil {
		return nil, nil, err
	}
	if err := s.checkBase(); err != nil {
		return nil, nil, err
	}
	if s.Insecure && strings.HasPrefix(s.BaseURL, "http://") {
		warnings = append(warnings, "allow_insecure_http: keys travel in clear to "+s.BaseURL)
	}
	return s, warnings, nil
}

// fill completes settings with what their kind knows.
func (k providerKind) fill(s *settings) (warnings []string, err error) {
	if s.BaseURL == "" {
		s.BaseURL = k.baseURL
	}
	if k.complete == nil {
		return nil, nil
	}
	return k.complete(s)
}

// checkBase refuses a base_url that no key may be sent to.
func (s *settings) checkBase() error {
	base, err := url.Parse(s.BaseURL)
	switch {
	case s.BaseURL == "":
		return fault.Field("base_url", "is required: where the API is, such as https://api.example.com/v1")
	// Looked for in the text: an empty query, or fragment, would begin at the end of each path.
	case err != nil || base.Host == "" || base.User != nil || strings.ContainsAny(s.BaseURL, "?#"):
		return fault.Field("base_url", "must be a URL such as https://api.example.com/v1, without user, query and fragment")
	case base.Scheme != "https" && base.Scheme != "http":
		return fault.Field("base_url", "must begin with https://")
	case base.Scheme == "http" && !s.Insecure:
		return fault.Field("base_url", "must begin with https://: http:// sends keys in clear, and needs allow_insecure_http=true")
	}
	s.BaseURL = strings.TrimRight(s.BaseURL, "/")
	if len(s.AllowedHosts) == 0 {
		s.AllowedHosts = []string{base.Hostname()}
	}
	if !egress.HostAllowed(s.AllowedHosts, base.Hostname()) {
		return fault.Field("allowed_hosts", "does not admit %q, the host of base_url", base.Hostname())
	}
	return nil
}

// Type implements rotator.ConnectionKind.
func (k *ConnectionKind) Type() string { return k.kind.typ }

// Options implements rotator.ConnectionKind.
func (k *ConnectionKind) Options() option.Set { return k.kind.optionSet() }

// CheckConnection implements rotator.ConnectionKind.
func (k *ConnectionKind) CheckConnection(c *rotator.ConnectionConfig) ([]string, error) {
	_, warnings, err := k.settings(c)
	return warnings, err
}

// Anchor implements rotator.Anchored. It gives a text that stays the same for as long as a connection sends keys to the same
// place, and the provider's ids of keys mean the same there: scheme, host, port and path,
// and what else bounds the ids, such as a project. It needs no secret, and holds none.
func (k *ConnectionKind) Anchor(c *rotator.ConnectionConfig) (string, error) {
	s, err := k.kind.decode(c.Values)
	if err != nil {
		return "", err
	}
	if _, err := k.kind.fill(s); err != nil {
		return "", err
	}
	base, err := url.Parse(s.BaseURL)
	if err != nil || base.Hostname() == "" {
		return "", fault.Field("base_url", "must be a URL such as https://api.example.com/v1")
	}
	port := base.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[base.Scheme]
	}
	out := strings.ToLower(base.Scheme + "://" + net.JoinHostPort(base.Hostname(), port))
	out += strings.TrimRight(base.EscapedPath(), "/")
	if k.kind.anchors == nil {
		return out, nil
	}
	named := k.kind.anchors(s)
	for _, name := range slices.Sorted(maps.Keys(named)) {
		out += fmt.Sprintf(" %s=%q", name, named[name])
	}
	return out, nil
}

// Connection is an open connection to a provider.
type Connection struct {
	provider
	client   *egress.Client
	adminKey secret.String
	// withAdminKey is the same provider as one with another admin key reaches it.
	withAdminKey func(secret.String) (provider, error)
}

// Close implements rotator.Connection.
func (c *Connection) Close() { c.client.Close() }

// Open implements rotator.ConnectionKind. It does not dial.
func (k *ConnectionKind) Open(c *rotator.ConnectionConfig) (rotator.Connection, error) {
	s, _, err := k.settings(c)
	if err != nil {
		return nil, err
	}
	client := egress.New(egress.Options{
		AllowInsecureHTTP: s.Insecure, AllowedHosts: s.AllowedHosts, RequestsPerSecond: float64(s.PerSecond), Transport: k.Transport, RetryWait: k.RetryWait,
	})
	p, err := k.kind.open(s, client)
	if err != nil {
		client.Close()
		return nil, err
	}
	other := func(key secret.String) (provider, error) {
		with := *s
		with.AdminKey = key
		return k.kind.open(&with, client)
	}
	return &Connection{provider: p, client: client, adminKey: s.AdminKey, withAdminKey: other}, nil
}

// Ping implements rotator.ConnectionKind.
func (*ConnectionKind) Ping(ctx context.Context, conn rotator.Connection) error {
	c, err := own(conn)
	if err != nil {
		return err
	}
	return c.ping(ctx)
}

// Check implements rotator.ConnectionKind.
func (*ConnectionKind) Check(ctx context.Context, conn rotator.Connection) ([]rotator.Line, error) {
	c, err := own(conn)
	if err != nil {
		return nil, err
	}
	return c.check(ctx)
}

func own(conn rotator.Connection) (*Connection, error) {
	c, ok := conn.(*Connection)
	if !ok || c == nil {
		return nil, fault.New(fault.Internal, "not a connection to a provider of API keys")
	}
	return c, nil
}
