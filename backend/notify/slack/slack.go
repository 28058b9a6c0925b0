// Package slack tells people in a Slack channel, by an incoming webhook.
package slack

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify/post"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
)

const example = "https://hooks.slack.com/services/T000/B000/XXXX"

// The URL is all that authenticates a message: it is the secret.
var optionSet = append(option.Set{
	{Name: "url", Type: option.String, Secret: true, Help: "URL of the incoming webhook, such as " + example + ". Who has it can post."},
}, post.Options...)

// Kind is the type slack.
type Kind struct{}

// New returns the kind.
func New() *Kind { return &Kind{} }

var _ notify.Kind = (*Kind)(nil)

// Type implements notify.Kind.
func (*Kind) Type() string { return "slack" }

// Help implements notify.Kind.
func (*Kind) Help() string {
	return "Posts to the Slack channel of an incoming webhook, or to what understands the same."
}

// Options implements notify.Kind.
func (*Kind) Options() option.Set { return optionSet }

// Check implements notify.Kind.
func (*Kind) Check(c *notify.Channel) error {
	p, err := placeOf(c)
	if err != nil {
		return err
	}
	return p.Check(example)
}

func placeOf(c *notify.Channel) (*post.Place, error) {
	p := &post.Place{}
	if err := optionSet.Decode(c.Values, p); err != nil {
		return nil, err
	}
	p.URL = c.Secrets["url"].Reveal()
	return p, nil
}

// Send implements notify.Kind.
func (*Kind) Send(ctx context.Context, c *notify.Channel, m *notify.Message) error {
	p, err := placeOf(c)
	if err != nil {
		return err
	}
	body, err := json.Marshal(payloadOf(m))
	if err != nil {
		return fmt.Errorf("encode a message for Slack: %w", err)
	}
	answer, err := p.Send(ctx, post.Delivery{Action: "post to Slack", ContentType: "application/json; charset=utf-8", Body: body})
	if err != nil {
		return err
	}
	if answer.OK() {
		return nil
	}
	return answer.Failure(refused(answer))
}

// refusals are the statuses of a message, or a webhook, that will never do.
var refusals = []int{http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound, http.StatusGone}

// word is what Slack says with them, such as channel_is_archived.
var word = regexp.MustCompile(`^[a-z_]{2,60}\s*$`)

// refused tells whether it was Slack that refused. What stands in between answers 403 and 404
// too, with a page, and may be put right.
func refused(a *post.Answer) bool { return slices.Contains(refusals, a.Status) && word.Match(a.Body) }
