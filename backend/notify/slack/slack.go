// Package slack tells people in a Slack channel, by an incoming webhook.
package slack

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"

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

// word is what Slack says of a payload that will never do, such as invalid_payload.
var word = regexp.MustCompile(`^[a-z_]{2,60}\s*$`)

// refused tells whether it was Slack that refused the message for good. A webhook that is
// gone, or a room that is archived, may be put right: another URL is written then.
func refused(a *post.Answer) bool { return a.Status == http.StatusBadRequest && word.Match(a.Body) }
