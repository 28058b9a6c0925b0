package pagerduty_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify/notifytest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify/pagerduty"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakechannels"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// key is a routing key: the canary, and as much again.
const key = notifytest.Canary + "0123456789abcdef"

func start(t *testing.T) (*fakechannels.PagerDuty, *notify.Channel) {
	t.Helper()
	fake := fakechannels.NewPagerDuty(key)
	t.Cleanup(fake.Close)
	return fake, &notify.Channel{
		Name: "oncall", Values: option.Values{"url": fake.URL(), "allow_insecure_http": true}, Secrets: secret.NewMap(map[string]string{"routing_key": key}),
	}
}

func send(t *testing.T, c *notify.Channel, m *notify.Message) {
	t.Helper()
	require.NoError(t, pagerduty.New("v1.2.3").Send(t.Context(), c, m))
}

func TestDeclares(t *testing.T) {
	t.Parallel()
	kind := pagerduty.New("v1.2.3")
	notifytest.Declares(t, kind, "pagerduty", []string{"routing_key"}, []string{"url", "allow_insecure_http", "tls_ca"})
	require.Equal(t, "https://events.pagerduty.com", kind.Options().Named("url").Default)
}

func TestCheck(t *testing.T) {
	t.Parallel()
	good := &notify.Channel{Secrets: secret.NewMap(map[string]string{"routing_key": key}), Values: option.Values{}}
	notifytest.Checks(t, pagerduty.New(""), good, map[string]notifytest.Wrong{
		"no key":         {Secrets: map[string]string{"routing_key": ""}, Field: "routing_key", Says: "routing_key: is required: the integration key"},
		"a short key":    {Secrets: map[string]string{"routing_key": key[1:]}, Field: "routing_key", Says: "must be 32 letters and digits"},
		"a broken key":   {Secrets: map[string]string{"routing_key": key[1:] + "\n"}, Field: "routing_key", Says: "must be 32 letters and digits"},
		"another's path": {Values: option.Values{"url": "https://events.pagerduty.com/v2/enqueue"}, Field: "url", Says: "must be a host alone, such as https://events.pagerduty.com: the path is added"},
		"a query":        {Values: option.Values{"url": "https://events.pagerduty.com?x"}, Field: "url", Says: "must be a host alone"},
		"http":           {Values: option.Values{"url": "http://events.pagerduty.com"}, Field: "url", Says: "must begin with https://"},
		"no certificate": {Values: option.Values{"tls_ca": "garbage"}, Field: "tls_ca", Says: "holds no certificate in PEM form"},
	})
	good.Values["url"] = "https://events.eu.pagerduty.com/"
	require.NoError(t, pagerduty.New("").Check(good))
}

func TestAnAlarmOpensOneAlertAndClosesIt(t *testing.T) {
	t.Parallel()
	fake, c := start(t)
	m := notifytest.Message()
	send(t, c, m)
	m.ID, m.Severity = "01JZ-msg-2", notify.Critical
	send(t, c, m) // it lasts

	require.Len(t, fake.OpenAlerts(), 1)
	a := fake.OpenAlerts()[0]
	require.Equal(t, "/vault/rotation/3f2a#failing/billing-db", a.DedupKey)
	require.Equal(t, 2, a.Triggers)
	require.Equal(t, fakechannels.PagerDutyEvent{
		RoutingKey: key, EventAction: "trigger", DedupKey: a.DedupKey, Client: "vault-plugin-secrets-rotation v1.2.3", ClientURL: m.Link,
		Links: []fakechannels.PagerDutyLink{{Href: m.Link, Text: "more"}},
		Payload: fakechannels.PagerDutyPayload{
			Summary: m.Summary, Source: m.Source, Severity: "critical", Timestamp: "2026-05-04T12:30:00Z", Component: "billing-db", Class: "rotation.failed",
			CustomDetails: map[string]any{
				"event": "rotation.failed", "id": "01JZ-msg-2", "roles": "billing-db", "incident": "inc-1",
				"phase": "prepared", "error": "the database refused the login",
			},
		},
	}, a.Last)

	m.Over, m.Alarm, m.Severity = []string{m.Alarm}, "", notify.Info
	send(t, c, m)
	send(t, c, m) // delivered twice
	require.Empty(t, fake.OpenAlerts())
	require.Len(t, fake.Alerts(), 1)
	require.Empty(t, fake.Changes())
}

func TestAlarmsOfOthersAreOthers(t *testing.T) {
	t.Parallel()
	fake, c := start(t)
	for _, of := range []string{"/vault/a", "/vault/b"} {
		m := notifytest.Message()
		m.Source = of
		send(t, c, m)
		m.Alarm += "2"
		send(t, c, m)
	}
	require.Len(t, fake.OpenAlerts(), 4)
}

func TestWhatHappensOncePagesBySeverity(t *testing.T) {
	t.Parallel()
	fake, c := start(t)
	m := notifytest.Message()
	m.Event, m.Severity, m.Alarm = "version.missed", notify.Warning, ""
	send(t, c, m)
	send(t, c, m) // delivered twice
	m.ID = "01JZ-msg-2"
	send(t, c, m)
	require.Len(t, fake.OpenAlerts(), 2, "each is news of its own")
	require.Equal(t, "/vault/rotation/3f2a#message/01JZ-msg-1", fake.OpenAlerts()[0].DedupKey)
	require.Equal(t, 2, fake.OpenAlerts()[0].Triggers)
	require.Empty(t, fake.Changes())

	m.Over = []string{"incident/1"}
	send(t, c, m)
	require.Len(t, fake.Alerts(), 2, "the end of an alarm pages nobody, however severe")
}

func TestSuccessesPageNobody(t *testing.T) {
	t.Parallel()
	fake, c := start(t)
	success := notifytest.Message()
	success.Event, success.Severity, success.Alarm = "rotation.succeeded", notify.Info, ""
	quiet := notifytest.Message()
	quiet.Severity = notify.Info
	for _, m := range []*notify.Message{success, quiet} {
		send(t, c, m)
	}
	require.Empty(t, fake.Alerts())
	require.Len(t, fake.Changes(), 2)
	require.Equal(t, fakechannels.PagerDutyEvent{
		RoutingKey: key, Links: []fakechannels.PagerDutyLink{{Href: success.Link, Text: "more"}},
		Payload: fakechannels.PagerDutyPayload{
			Summary: success.Summary, Source: success.Source, Timestamp: "2026-05-04T12:30:00Z",
			CustomDetails: map[string]any{
				"event": "rotation.succeeded", "id": "01JZ-msg-1", "roles": "billing-db", "incident": "inc-1",
				"phase": "prepared", "error": "the database refused the login",
			},
		},
	}, fake.Changes()[0])
}

// The fake enforces the documented limits.
func TestWhateverIsToldFits(t *testing.T) {
	t.Parallel()
	fake, c := start(t)
	hostile := notifytest.Hostile()
	send(t, c, hostile)
	require.Len(t, fake.OpenAlerts(), 1)
	a := fake.OpenAlerts()[0]
	require.Regexp(t, `^sha256:[0-9a-f]{64}$`, a.DedupKey)
	require.Greater(t, utf8.RuneCountInString(a.Last.Payload.Summary), 1000, "the fake admits 1024")
	require.NotContains(t, a.Last.Payload.Summary, "\n")
	require.Empty(t, a.Last.Links)
	require.Len(t, a.Last.Payload.CustomDetails, 50)
	hostile.Over, hostile.Alarm = []string{hostile.Alarm, "another"}, ""
	send(t, c, hostile)
	require.Empty(t, fake.OpenAlerts(), "a digest is as stable")

	send(t, c, notifytest.Empty())
	require.Equal(t, "config.written", fake.Changes()[0].Payload.Summary)
	send(t, c, notifytest.Crowd())
	require.Regexp(t, `^team-000-database, .* and 4\d\d more$`, fake.OpenAlerts()[0].Last.Payload.CustomDetails["roles"])
}

func TestNamesOfDetailsAreTakenOnce(t *testing.T) {
	t.Parallel()
	fake, c := start(t)
	m := notifytest.Message()
	m.Fields = []notify.Field{{Name: "id", Value: "of a rotation"}, {Name: "phase", Value: "first"}, {Name: "phase", Value: "second"}}
	send(t, c, m)
	details := fake.OpenAlerts()[0].Last.Payload.CustomDetails
	require.Equal(t, "01JZ-msg-1", details["id"])
	require.Equal(t, "first", details["phase"])
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		reply fakechannels.Reply
		want  notify.Failure
	}{
		"a bad event": {
			fakechannels.Reply{Status: 400, Body: `{"status":"invalid event","errors":["no ` + key + `"]}`},
			notify.Failure{Permanent: true, Reason: ` answered 400: {"status":"invalid event","errors":["no [redacted]"]}`},
		},
		"too many":    {fakechannels.Reply{Status: 429, Header: http.Header{"Retry-After": {"60"}}}, notify.Failure{RetryAfter: time.Minute, Reason: " answered 429"}},
		"its trouble": {fakechannels.Reply{Status: 500}, notify.Failure{Reason: " answered 500"}},
		"not found":   {fakechannels.Reply{Status: 404}, notify.Failure{Reason: " answered 404"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake, channel := start(t)
			fake.Fail(-1, c.reply)
			f := notifytest.Fails(t, pagerduty.New("").Send(t.Context(), channel, notifytest.Message()))
			require.Equal(t, "tell PagerDuty: "+strings.TrimPrefix(fake.URL(), "http://")+c.want.Reason, f.Reason)
			require.Equal(t, c.want.Permanent, f.Permanent)
			require.Equal(t, c.want.RetryAfter, f.RetryAfter)
			require.Len(t, fake.Requests(), 1)
		})
	}
}

func TestAnotherServicesKey(t *testing.T) {
	t.Parallel()
	fake, c := start(t)
	c.Secrets = secret.NewMap(map[string]string{"routing_key": strings.ToUpper(key)})
	f := notifytest.Fails(t, pagerduty.New("").Send(t.Context(), c, notifytest.Message()))
	require.True(t, f.Permanent)
	require.Contains(t, f.Reason, "'routing_key' is of no integration")
	require.Empty(t, fake.Alerts())
}

func TestNoAnswer(t *testing.T) {
	t.Parallel()
	fake, c := start(t)
	fake.LoseAnswer(1)
	require.False(t, notifytest.Fails(t, pagerduty.New("").Send(t.Context(), c, notifytest.Message())).Permanent)
	require.NoError(t, pagerduty.New("").Send(t.Context(), c, notifytest.Message()))
	require.Equal(t, 2, fake.OpenAlerts()[0].Triggers)
	require.Equal(t, 1, fake.OpenAlerts()[0].Opened, "sent again it is the same alert")

	fake.Hang(1)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, pagerduty.New("").Send(ctx, c, notifytest.Message()), context.DeadlineExceeded)
}
