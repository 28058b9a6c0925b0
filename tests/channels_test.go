package tests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakechannels"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

const (
	routingKey    = "0123456789abcdef0123456789abcdef"
	signingSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
)

// newsroom is a mount whose channels are services that speak as the real ones do.
type newsroom struct {
	*world
	slack     *fakechannels.Slack
	pagerduty *fakechannels.PagerDuty
	webhook   *fakechannels.Webhook
	mail      *fakechannels.SMTP
}

func newNewsroom(t *testing.T) *newsroom {
	n := &newsroom{
		world:     newWorld(t, "newsroom", vaulttest.New(t, vaulttest.Options{}), pgtest.Shared(t)),
		slack:     fakechannels.NewSlack(fakechannels.TLS()),
		pagerduty: fakechannels.NewPagerDuty(routingKey, fakechannels.TLS()),
		webhook:   fakechannels.NewWebhook(signingSecret, fakechannels.TLS()),
		mail:      fakechannels.NewSMTP(fakechannels.Account("vault", "the-mail-canary")),
	}
	t.Cleanup(n.slack.Close)
	t.Cleanup(n.pagerduty.Close)
	t.Cleanup(n.webhook.Close)
	t.Cleanup(n.mail.Close)
	n.write("channels/ops", map[string]any{"type": "slack", "url": n.slack.WebhookURL(), "tls_ca": n.slack.CA()})
	n.write("channels/oncall", map[string]any{
		"type": "pagerduty", "url": n.pagerduty.URL(), "tls_ca": n.pagerduty.CA(), "routing_key": routingKey, "severity": "error",
	})
	n.write("channels/siem", map[string]any{"type": "webhook", "url": n.webhook.URL() + "/vault", "tls_ca": n.webhook.CA(), "signing_secret": signingSecret})
	n.write("channels/mail", map[string]any{
		"type": "email", "host": n.mail.Host(), "port": n.mail.Port(), "tls_ca": n.mail.CA(), "username": "vault", "password": "the-mail-canary",
		"from": "vault@example.com", "to": "security@example.com", "severity": "error",
	})
	for _, channel := range []string{"ops", "oncall", "siem", "mail"} {
		n.write("channels/"+channel+"/test", nil)
	}
	return n
}

// received tells whether the receiver of webhooks has an event of the role.
func (n *newsroom) received(event string) (found *fakechannels.CloudEvent) {
	for _, e := range n.webhook.Events() {
		if e.Data.Event == event && slices.Contains(e.Data.Roles, n.role) {
			found = &e
		}
	}
	return found
}

func (n *newsroom) awaitEvent(event string) *fakechannels.CloudEvent {
	n.t.Helper()
	var found *fakechannels.CloudEvent
	await.Until(n.t, event, func() (bool, any) {
		found = n.received(event)
		return found != nil, fmt.Sprint(len(n.webhook.Events()), " events")
	})
	return found
}

// A failure reaches Slack, PagerDuty, a webhook and mail; what lasts opens one alert, and its end
// resolves it. The plugin is killed with a message on its way, whose answer is lost: it comes again
// under the same id. No secret is told.
func TestChannelsAreTold(t *testing.T) {
	t.Parallel()
	n := newNewsroom(t)
	n.write("connections/main", map[string]any{"allow_custom_statements": true})
	n.write("roles/"+n.role, n.roleFields(map[string]any{"verification_statements": []string{"SELECT count(*) FROM orders"}}))
	n.awaitEvent("rotation.succeeded")
	assert.Empty(t, n.pagerduty.Alerts(), "a success pages nobody")

	n.superuser("ALTER TABLE orders RENAME TO orders_away")
	await.Until(t, "an empty outbox", func() (bool, any) {
		a := n.get("channels/siem")
		return a.fields()["waiting"] == json.Number("0"), a.Text
	})
	n.webhook.LoseAnswer(1)
	assert.Equal(t, http.StatusBadRequest, n.call(t.Context(), "PUT", "rotate/"+n.role, nil).Status)
	failed := n.awaitEvent("rotation.failed")
	killed, err := n.vault.KillPlugin(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, killed)
	assert.Contains(t, failed.Data.Summary, "failed in phase prepared")
	assert.Contains(t, failed.Data.Summary, "attempt 2 follows at ")
	assert.Equal(t, "vault.rotation.failed", failed.Type)
	await.Until(t, "an alert", func() (bool, any) { return len(n.pagerduty.OpenAlerts()) == 1, n.pagerduty.Alerts() })
	await.Until(t, "a mail", func() (bool, any) {
		return slices.ContainsFunc(n.mail.Mails(), func(m fakechannels.Mail) bool { return strings.Contains(m.Subject, n.role) }), n.mail.Mails()
	})
	await.Until(t, "the post in Slack", func() (bool, any) {
		return slices.ContainsFunc(n.slack.Messages(), func(m fakechannels.SlackMessage) bool {
			return strings.Contains(m.Text, "rotation of "+n.role+" failed")
		}), n.slack.Why()
	})
	await.Until(t, "the lost message again", func() (bool, any) {
		count := map[string]int{}
		for _, d := range n.webhook.Deliveries() {
			count[d.ID]++
		}
		for _, times := range count {
			if times == 2 {
				return true, nil
			}
		}
		return false, count
	})

	before := n.current(n.role).Version
	n.superuser("ALTER TABLE orders_away RENAME TO orders")
	n.awaitAbove(n.role, before) // the next attempt may have begun by itself
	n.awaitEvent("role.recovered")
	await.Until(t, "the alert's end", func() (bool, any) { return len(n.pagerduty.OpenAlerts()) == 0, n.pagerduty.OpenAlerts() })
	n.tellNoSecret()
}

// tellNoSecret looks for what must not be told in everything that was.
func (n *newsroom) tellNoSecret() {
	n.t.Helper()
	secrets := map[string]string{
		"the administrator's password": n.password, "the role's password": n.current(n.role).Password,
		"the URL of Slack's webhook": n.slack.WebhookURL(), "the signing secret": signingSecret, "the password of the mail account": "the-mail-canary",
	}
	var told []string
	for _, r := range slices.Concat(n.slack.Requests(), n.webhook.Requests(), n.pagerduty.Requests()) {
		told = append(told, string(r.Body))
	}
	for _, m := range n.mail.Mails() {
		told = append(told, fmt.Sprint(m))
	}
	for _, channel := range []string{"ops", "oncall", "siem", "mail"} {
		told = append(told, n.get("channels/"+channel).Text)
	}
	require.Greater(n.t, len(told), 15)
	for what, secret := range secrets {
		for _, text := range told {
			if strings.Contains(text, secret) { // and no failure prints the text
				n.t.Errorf("%s was told", what)
			}
		}
	}
	for _, channel := range []string{"ops", "oncall"} {
		assert.NotContains(n.t, n.get("channels/"+channel).Text, routingKey)
	}
}

// What is wrong with a channel is said in a sentence, and nothing is written.
func TestBadChannels(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "badchannels", sharedVault(t), pgtest.Shared(t))
	type m = map[string]any
	for name, tc := range map[string]struct {
		fields m
		says   string
	}{
		"no type":            {m{"url": "https://hooks.example.com"}, "type: is required for a new channel: email, pagerduty, slack, webhook"},
		"no such type":       {m{"type": "pigeon"}, "type: names no type of channel"},
		"http":               {m{"type": "webhook", "url": "http://hooks.example.com/x", "signing_secret": signingSecret}, "url: "},
		"no signing secret":  {m{"type": "webhook", "url": "https://hooks.example.com/x"}, "signing_secret: is required"},
		"a wrong one":        {m{"type": "webhook", "url": "https://hooks.example.com/x", "signing_secret": "hunter2-canary"}, "signing_secret: must be"},
		"no such event":      {m{"type": "slack", "url": "https://hooks.slack.com/x", "events": "rotation.exploded"}, `events: "rotation.exploded" is no event`},
		"no such severity":   {m{"type": "slack", "url": "https://hooks.slack.com/x", "severity": "loud"}, "severity: must be info, warning, error or critical"},
		"a short key":        {m{"type": "pagerduty", "routing_key": "short-canary"}, "routing_key: must be 32 letters and digits"},
		"of another type":    {m{"type": "slack", "url": "https://hooks.slack.com/x", "routing_key": routingKey}, "routing_key: is an option of type pagerduty"},
		"mail to nobody":     {m{"type": "email", "host": "smtp.example.com", "from": "vault@example.com"}, "to: "},
		"an unknown field":   {m{"type": "slack", "url": "https://hooks.slack.com/x", "colour": "red"}, "colour: is not a field"},
		"a misspelled field": {m{"type": "slack", "url": "https://hooks.slack.com/x", "severty": "error"}, "did you mean severity?"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := w.call(t.Context(), "PUT", "channels/badchannels", tc.fields)
			assert.Equal(t, http.StatusBadRequest, a.Status, a.Text)
			assert.Contains(t, a.sentence(), tc.says)
			assert.NotContains(t, a.Text, "canary")
			assert.Equal(t, http.StatusNotFound, w.call(t.Context(), "GET", "channels/badchannels", nil).Status)
		})
	}
	assert.Contains(t, w.call(t.Context(), "PUT", "config", m{"contacts": "nobody"}).sentence(), `contacts: names "nobody", which is no channel`)
	assert.Equal(t, http.StatusNotFound, w.call(t.Context(), "PUT", "acknowledge/nobody", nil).Status)
	assert.Equal(t, http.StatusNotFound, w.call(t.Context(), "PUT", "channels/nobody/test", nil).Status)

	// A glob that no role has is written, and warned of.
	written := w.write("channels/narrow", m{"type": "slack", "url": "https://hooks.slack.com/services/none", "roles": "no-such-team-*"})
	assert.Contains(t, strings.Join(written.Warnings, " "), `"no-such-team-*" matches none of the`)
	moved := w.call(t.Context(), "PUT", "channels/narrow", m{"allow_insecure_http": true})
	assert.Equal(t, "url: is required again, because allow_insecure_http changed: a stored secret is not sent to a new address", moved.sentence())
	w.call(t.Context(), "DELETE", "channels/narrow", nil)
}
