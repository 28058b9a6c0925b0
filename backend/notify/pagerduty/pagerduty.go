// Package pagerduty pages people by PagerDuty's Events API v2: what lasts opens an alert and
// closes it again, and what only happens is a change event, which pages nobody.
package pagerduty

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify/post"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

const (
	defaultURL = "https://events.pagerduty.com"
	alertPath  = "/v2/enqueue"
	changePath = "/v2/change/enqueue"
)

var optionSet = append(option.Set{
	{Name: "url", Type: option.String, Default: defaultURL, Address: true, Help: "The Events API's host, such as https://events.eu.pagerduty.com for accounts in the EU."},
	{Name: "routing_key", Type: option.String, Secret: true, Help: "Integration key of the service's Events API v2 integration: 32 letters and digits."},
}, post.Options...)

// Kind is the type pagerduty.
type Kind struct{ client string }

// New returns the kind. version is the plugin's, which an alert tells.
func New(version string) *Kind { return &Kind{client: "vault-plugin-secrets-rotation " + version} }

var _ notify.Kind = (*Kind)(nil)

// Type implements notify.Kind.
func (*Kind) Type() string { return "pagerduty" }

// MaxEnded implements notify.EndsOneByOne.
func (*Kind) MaxEnded() int { return 10 }

// Help implements notify.Kind.
func (*Kind) Help() string {
	return "Opens and resolves alerts of a PagerDuty service, and tells it of changes."
}

// Options implements notify.Kind.
func (*Kind) Options() option.Set { return optionSet }

var routingKey = regexp.MustCompile(`^[A-Za-z0-9]{32}$`)

// Check implements notify.Kind.
func (*Kind) Check(c *notify.Channel) error {
	p, err := placeOf(c)
	if err != nil {
		return err
	}
	if err := p.Check(defaultURL); err != nil {
		return err
	}
	key := c.Secrets["routing_key"].Reveal()
	switch u, err := url.Parse(p.URL); {
	case err != nil || u.Path != "" || u.RawQuery != "" || u.ForceQuery:
		return fault.Field("url", "must be a host alone, such as %s: the path is added", defaultURL)
	case key == "":
		return fault.Field("routing_key", "is required: the integration key of the service's Events API v2 integration")
	case !routingKey.MatchString(key):
		return fault.Field("routing_key", "must be 32 letters and digits")
	}
	return nil
}

func placeOf(c *notify.Channel) (*post.Place, error) {
	p := &post.Place{}
	if err := optionSet.Decode(c.Values, p); err != nil {
		return nil, err
	}
	p.URL = strings.TrimRight(p.URL, "/")
	return p, nil
}

// Send implements notify.Kind.
func (k *Kind) Send(ctx context.Context, c *notify.Channel, m *notify.Message) error {
	p, err := placeOf(c)
	if err != nil {
		return err
	}
	for _, alarm := range m.Over {
		e := eventOf(m)
		e.alert("resolve", m, alarm)
		if err := send(ctx, c, p, e, alertPath); err != nil {
			return err
		}
	}
	e := eventOf(m)
	pages := m.Severity.AtLeast(notify.Warning)
	switch {
	case pages && m.Alarm != "":
		k.trigger(e, m, m.Alarm)
		return send(ctx, c, p, e, alertPath)
	case len(m.Over) > 0:
		return nil
	case pages: // it happened once, and nothing will end it: a person resolves the alert
		k.trigger(e, m, "message/"+m.ID)
		return send(ctx, c, p, e, alertPath)
	default:
		return send(ctx, c, p, e, changePath)
	}
}

func send(ctx context.Context, c *notify.Channel, p *post.Place, e *event, path string) error {
	key := c.Secrets["routing_key"]
	e.RoutingKey = key.Reveal()
	body, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode an event for PagerDuty: %w", err)
	}
	answer, err := p.Send(ctx, post.Delivery{
		Action: "tell PagerDuty", Path: path, ContentType: "application/json", Body: body, Secrets: []secret.String{key},
	})
	if err != nil {
		return err
	}
	if answer.OK() {
		return nil
	}
	return answer.Failure(answer.Status == http.StatusBadRequest)
}
