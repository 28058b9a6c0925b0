package slack_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify/notifytest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify/slack"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakechannels"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, options ...fakechannels.Option) *fakechannels.Slack {
	t.Helper()
	fake := fakechannels.NewSlack(options...)
	t.Cleanup(fake.Close)
	return fake
}

func channel(url string) *notify.Channel {
	return &notify.Channel{
		Name: "ops", Values: option.Values{"allow_insecure_http": true}, Secrets: secret.NewMap(map[string]string{"url": url}),
	}
}

func TestDeclares(t *testing.T) {
	t.Parallel()
	notifytest.Declares(t, slack.New(), "slack", []string{"url"}, []string{"allow_insecure_http", "tls_ca"})
}

func TestCheck(t *testing.T) {
	t.Parallel()
	good := &notify.Channel{Secrets: secret.NewMap(map[string]string{"url": "https://hooks.slack.com/services/T/B/X"}), Values: option.Values{}}
	url := func(text string) map[string]string { return map[string]string{"url": text} }
	notifytest.Checks(t, slack.New(), good, map[string]notifytest.Wrong{
		"nothing":           {Secrets: url(""), Field: "url", Says: "url: is required: where messages are posted to, such as https://hooks.slack.com/services/"},
		"a path":            {Secrets: url("/services/" + notifytest.Canary), Field: "url", Says: "must be a URL such as https://"},
		"a line break":      {Secrets: url("https://hooks.slack.com/" + notifytest.Canary + "\n"), Field: "url", Says: "without spaces"},
		"a space":           {Secrets: url(" https://hooks.slack.com/" + notifytest.Canary), Field: "url", Says: "without spaces"},
		"a fragment":        {Secrets: url("https://hooks.slack.com/#" + notifytest.Canary), Field: "url", Says: "or a fragment"},
		"a password":        {Secrets: url("https://u:" + notifytest.Canary + "@hooks.slack.com/"), Field: "url", Says: "must not hold a user or a password"},
		"http":              {Secrets: url("http://hooks.slack.com/" + notifytest.Canary), Field: "url", Says: "must begin with https://: http:// sends messages in clear, and needs allow_insecure_http=true"},
		"another scheme":    {Secrets: url("ftp://hooks.slack.com/" + notifytest.Canary), Field: "url", Says: "must begin with https://"},
		"no host in ASCII":  {Secrets: url("https://höoks.slack.com/" + notifytest.Canary), Field: "url", Says: "in ASCII"},
		"no certificate":    {Values: option.Values{"tls_ca": "garbage"}, Field: "tls_ca", Says: "holds no certificate in PEM form"},
		"an unknown option": {Values: option.Values{"urls": "x"}, Field: "urls", Says: "is not an option of this type"},
	})
	require.NoError(t, slack.New().Check(channel("http://127.0.0.1:1/x")), "http with allow_insecure_http")
}

func TestMessage(t *testing.T) {
	t.Parallel()
	fake := start(t)
	require.NoError(t, slack.New().Send(t.Context(), channel(fake.WebhookURL()), notifytest.Message()))
	require.Len(t, fake.Messages(), 1)
	m := fake.Messages()[0]
	require.Equal(t, "ERROR rotation.failed: The rotation of billing-db failed for the third time.", m.Text)
	var kinds []string
	for _, b := range m.Blocks {
		kinds = append(kinds, b.Type)
	}
	require.Equal(t, []string{"header", "section", "section", "context"}, kinds)
	var texts []string
	for _, text := range m.Texts() {
		texts = append(texts, text.Text)
		require.Equal(t, text.Type == "mrkdwn", text.Verbatim, "Slack looks for links in what is not verbatim")
	}
	require.Equal(t, []string{
		"ERROR rotation.failed", "The rotation of billing-db failed for the third time.", "*role*\nbilling-db", "*phase*\nprepared",
		"*error*\nthe database refused the login", "2026-05-04T12:30:00Z", "from /vault/rotation/3f2a", "incident inc-1",
		"<https://wiki.example.com/runbook?a=1&amp;b=2|more>", "id 01JZ-msg-1",
	}, texts)
}

func TestClosing(t *testing.T) {
	t.Parallel()
	fake := start(t)
	m := notifytest.Message()
	m.Over, m.Alarm = []string{m.Alarm}, ""
	require.NoError(t, slack.New().Send(t.Context(), channel(fake.WebhookURL()), m))
	require.Equal(t, "RESOLVED rotation.failed", fake.Messages()[0].Blocks[0].Text.Text)
}

// The fake enforces the documented limits.
func TestWhateverIsToldFits(t *testing.T) {
	t.Parallel()
	fake := start(t)
	for _, m := range []*notify.Message{notifytest.Hostile(), notifytest.Empty(), notifytest.Crowd()} {
		require.NoError(t, slack.New().Send(t.Context(), channel(fake.WebhookURL()), m), "%s", fake.Why())
	}
	hostile := fake.Messages()[0]
	require.Empty(t, hostile.Links(), "no mention, and no link")
	require.Len(t, hostile.Blocks, 50)
	require.Contains(t, hostile.Blocks[49].Elements[len(hostile.Blocks[49].Elements)-1].Text, "more fields are not shown")
	require.Contains(t, hostile.Blocks[1].Text.Text, "&lt;!channel&gt; &lt;https://evil.example|click&gt; &amp;")

	roles := fake.Messages()[2].Blocks[2].Fields[0].Text
	require.Regexp(t, `^\*roles\*\nteam-000-database, team-001-database, .* and \d+ more$`, roles)
	require.Less(t, len(roles), 320)
}

func TestALinkIsOneOfTheWeb(t *testing.T) {
	t.Parallel()
	for link, want := range map[string]string{
		"https://x.example/a|b<c>?d=1&e=2 3": "<https://x.example/a%7Cb%3Cc%3E?d=1&amp;e=2%203|more>",
		"javascript:alert(1)":                "",
		"!channel":                           "",
		"slack://open":                       "",
	} {
		fake := start(t)
		m := notifytest.Message()
		m.Link = link
		require.NoError(t, slack.New().Send(t.Context(), channel(fake.WebhookURL()), m))
		require.Equal(t, want, strings.Join(fake.Messages()[0].Links(), " "), link)
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	html := http.Header{"Content-Type": {"text/html"}}
	for name, c := range map[string]struct {
		reply fakechannels.Reply
		want  notify.Failure // Reason is what stands in it
	}{
		"a bad payload":        {fakechannels.Reply{Status: 400, Body: "invalid_payload"}, notify.Failure{Permanent: true, Reason: " answered 400: invalid_payload"}},
		"a prohibited action":  {fakechannels.Reply{Status: 403, Body: "action_prohibited"}, notify.Failure{Reason: " answered 403: action_prohibited"}},
		"no such webhook":      {fakechannels.Reply{Status: 404, Body: "no_service\n"}, notify.Failure{Reason: " answered 404: no_service"}},
		"an archived channel":  {fakechannels.Reply{Status: 410, Body: "channel_is_archived"}, notify.Failure{Reason: " answered 410: channel_is_archived"}},
		"too many":             {fakechannels.Reply{Status: 429, Header: http.Header{"Retry-After": {"30"}}, Body: "rate_limited"}, notify.Failure{RetryAfter: 30 * time.Second, Reason: " answered 429: rate_limited"}},
		"its own trouble":      {fakechannels.Reply{Status: 503, Body: "service_unavailable"}, notify.Failure{Reason: " answered 503: service_unavailable"}},
		"a page in between":    {fakechannels.Reply{Status: 404, Header: html, Body: "<h1>Not found</h1>"}, notify.Failure{Reason: " answered 404"}},
		"a redirect":           {fakechannels.Reply{Status: 302, Header: http.Header{"Location": {"https://evil.example"}}}, notify.Failure{Reason: " answered 302, a redirect, which is not followed"}},
		"the secret, repeated": {fakechannels.Reply{Status: 500, Body: "no such hook: " + "/services/" + notifytest.Canary}, notify.Failure{Reason: " answered 500: no such hook: [redacted]"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := start(t)
			fake.Fail(-1, c.reply)
			err := slack.New().Send(t.Context(), channel(fake.URL()+"/services/"+notifytest.Canary), notifytest.Message())
			f := notifytest.Fails(t, err)
			require.Equal(t, "post to Slack: "+strings.TrimPrefix(fake.URL(), "http://")+c.want.Reason, f.Reason)
			require.Equal(t, c.want.Permanent, f.Permanent)
			require.Equal(t, c.want.RetryAfter, f.RetryAfter)
			require.Len(t, fake.Requests(), 1, "when it is sent again is not decided here")
		})
	}
}

func TestRetryAfterAsADate(t *testing.T) {
	t.Parallel()
	fake := start(t)
	fake.Fail(1, fakechannels.Reply{Status: 429, Header: http.Header{"Retry-After": {time.Now().Add(20 * time.Minute).UTC().Format(http.TimeFormat)}}})
	f := notifytest.Fails(t, slack.New().Send(t.Context(), channel(fake.WebhookURL()), notifytest.Message()))
	require.InDelta(t, 20*time.Minute, f.RetryAfter, float64(time.Minute))
}

func TestNoAnswer(t *testing.T) {
	t.Parallel()
	fake := start(t)
	secret := channel(fake.URL() + "/services/" + notifytest.Canary)

	fake.LoseAnswer(1)
	f := notifytest.Fails(t, slack.New().Send(t.Context(), secret, notifytest.Message()))
	require.False(t, f.Permanent)
	require.Contains(t, f.Reason, "the answer was lost")

	fake.Hang(1)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := slack.New().Send(ctx, secret, notifytest.Message())
	require.ErrorIs(t, err, context.DeadlineExceeded, "the cause is kept")
	require.False(t, notifytest.Fails(t, err).Permanent)

	fake.Close()
	f = notifytest.Fails(t, slack.New().Send(t.Context(), secret, notifytest.Message()))
	require.Contains(t, f.Reason, "connection refused")
}

func TestNotWhereNothingMayBeSent(t *testing.T) {
	t.Parallel()
	f := notifytest.Fails(t, slack.New().Send(t.Context(), channel("http://169.254.169.254/latest/"+notifytest.Canary), notifytest.Message()))
	require.Contains(t, f.Reason, "the egress policy refuses the address 169.254.169.254")
}

func TestTLS(t *testing.T) {
	t.Parallel()
	fake := start(t, fakechannels.TLS())
	c := channel(fake.WebhookURL())
	c.Values = option.Values{}
	f := notifytest.Fails(t, slack.New().Send(t.Context(), c, notifytest.Message()))
	require.Contains(t, f.Reason, "failed to verify certificate")
	require.False(t, f.Permanent, "a certificate may be put right")
	c.Values["tls_ca"] = fake.CA()
	require.NoError(t, slack.New().Send(t.Context(), c, notifytest.Message()))
	require.Len(t, fake.Messages(), 1)
}
