// Package webhook tells programs: it posts CloudEvents 1.0 in JSON, signed as Standard Webhooks
// 1.0 says (https://www.standardwebhooks.com), so that any of their libraries can verify them.
package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify/post"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

const example = "https://hooks.example.com/vault"

const (
	signingSecret  = "signing_secret"
	previousSecret = "previous_signing_secret"
)

var optionSet = append(option.Set{
	{Name: "url", Type: option.String, Address: true, Help: "Where events are posted to, such as " + example + ". It is shown when the channel is read: what proves that an event is ours is its signature."},
	{Name: signingSecret, Type: option.String, Secret: true, Help: "What events are signed with: whsec_ and 24 to 64 bytes in base64."},
	{Name: previousSecret, Type: option.String, Secret: true, Help: "The signing_secret before this one. While it is set events bear the signatures of both, so that a receiver can change over; empty ends that."},
}, post.Options...)

// Kind is the type webhook.
type Kind struct {
	// Now replaces the clock that deliveries are dated by in tests; nil leaves it.
	Now func() time.Time
}

// New returns the kind.
func New() *Kind { return &Kind{} }

var _ notify.Kind = (*Kind)(nil)

// Type implements notify.Kind.
func (*Kind) Type() string { return "webhook" }

// Help implements notify.Kind.
func (*Kind) Help() string {
	return "Posts signed events to a program of yours: CloudEvents, with the signatures of Standard Webhooks."
}

// Options implements notify.Kind.
func (*Kind) Options() option.Set { return optionSet }

// Check implements notify.Kind.
func (*Kind) Check(c *notify.Channel) error {
	p, err := placeOf(c)
	if err != nil {
		return err
	}
	if err := p.Check(example); err != nil {
		return err
	}
	_, err = keysOf(c)
	return err
}

func placeOf(c *notify.Channel) (*post.Place, error) {
	p := &post.Place{}
	return p, optionSet.Decode(c.Values, p)
}

// Send implements notify.Kind.
func (k *Kind) Send(ctx context.Context, c *notify.Channel, m *notify.Message) error {
	p, err := placeOf(c)
	if err != nil {
		return err
	}
	keys, err := keysOf(c)
	if err != nil {
		return err
	}
	body, err := json.Marshal(eventOf(m))
	if err != nil {
		return fmt.Errorf("encode an event: %w", err)
	}
	// The time of this attempt, and not of the event: a receiver refuses what is some minutes old.
	timestamp := strconv.FormatInt(k.now().Unix(), 10)
	header := http.Header{}
	header.Set("Webhook-Id", m.ID)
	header.Set("Webhook-Timestamp", timestamp)
	header.Set("Webhook-Signature", signatures(keys, m.ID, timestamp, body))
	answer, err := p.Send(ctx, post.Delivery{
		Action: "post an event", ContentType: "application/cloudevents+json; charset=utf-8", Header: header, Body: body,
		Secrets: []secret.String{c.Secrets[signingSecret], c.Secrets[previousSecret]},
	})
	if err != nil {
		return err
	}
	if answer.OK() {
		return nil
	}
	// Gone is how a receiver says that it wants no more. All else may be put right.
	return answer.Failure(answer.Status == http.StatusGone)
}
