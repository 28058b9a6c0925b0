package webhook_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify/notifytest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify/webhook"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakechannels"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Two secrets, in whose base64 the canary can be read.
const (
	first  = "whsec_" + notifytest.Canary + "0123456789abcdef"
	second = "whsec_" + notifytest.Canary + "fedcba9876543210"
)

func start(t *testing.T) (*fakechannels.Webhook, *notify.Channel) {
	t.Helper()
	fake := fakechannels.NewWebhook(first)
	t.Cleanup(fake.Close)
	return fake, &notify.Channel{
		Name: "automation", Values: option.Values{"url": fake.URL() + "/vault", "allow_insecure_http": true},
		Secrets: secret.NewMap(map[string]string{"signing_secret": first}),
	}
}

func secrets(now, before string) secret.Map {
	return secret.NewMap(map[string]string{"signing_secret": now, "previous_signing_secret": before})
}

func TestDeclares(t *testing.T) {
	t.Parallel()
	notifytest.Declares(t, webhook.New(), "webhook", []string{"signing_secret", "previous_signing_secret"}, []string{"url", "allow_insecure_http", "tls_ca"})
}

func TestCheck(t *testing.T) {
	t.Parallel()
	good := &notify.Channel{Secrets: secrets(first, ""), Values: option.Values{"url": "https://hooks.example.com/vault?to=ops"}}
	signing := func(text string) map[string]string { return map[string]string{"signing_secret": text} }
	key := func(n int) string { return "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, n)) }
	const form = "must be whsec_ and 24 to 64 bytes in base64"
	notifytest.Checks(t, webhook.New(), good, map[string]notifytest.Wrong{
		"no url":            {Values: option.Values{"url": ""}, Field: "url", Says: "url: is required: where messages are posted to, such as https://hooks.example.com/vault"},
		"http":              {Values: option.Values{"url": "http://hooks.example.com"}, Field: "url", Says: "needs allow_insecure_http=true"},
		"a password":        {Values: option.Values{"url": "https://u:" + notifytest.Canary + "@hooks.example.com"}, Field: "url", Says: "must not hold a user or a password"},
		"no secret":         {Secrets: signing(""), Field: "signing_secret", Says: "is required: whsec_ and 24 to 64 bytes in base64"},
		"no prefix":         {Secrets: signing(strings.TrimPrefix(first, "whsec_")), Field: "signing_secret", Says: form},
		"not base64":        {Secrets: signing(first + "!!"), Field: "signing_secret", Says: form},
		"a line break":      {Secrets: signing(first + "\n"), Field: "signing_secret", Says: form},
		"too short":         {Secrets: signing(key(23)), Field: "signing_secret", Says: form},
		"too long":          {Secrets: signing(key(65)), Field: "signing_secret", Says: form},
		"a bad earlier one": {Secrets: map[string]string{"previous_signing_secret": notifytest.Canary}, Field: "previous_signing_secret", Says: form},
	})
	for _, n := range []int{24, 64} {
		good.Secrets = secrets(key(n), first)
		require.NoError(t, webhook.New().Check(good))
	}
}

func TestEvent(t *testing.T) {
	t.Parallel()
	fake, c := start(t)
	m := notifytest.Message()
	require.NoError(t, webhook.New().Send(t.Context(), c, m))
	require.Equal(t, []fakechannels.CloudEvent{{
		SpecVersion: "1.0", ID: m.ID, Source: m.Source, Type: "vault.rotation.failed", Subject: "billing-db", Time: m.Time, DataContentType: "application/json",
		Data: fakechannels.WebhookEventData{
			Event: "rotation.failed", Severity: "error", Summary: m.Summary, Roles: m.Roles, RoleCount: 1, Alarm: m.Alarm, IncidentID: "inc-1", Link: m.Link,
			Fields: []fakechannels.Field{{Name: "phase", Value: "prepared"}, {Name: "error", Value: "the database refused the login"}},
		},
	}}, fake.Deliveries())
	require.Equal(t, "/vault", fake.Requests()[0].Path)
}

func TestWhateverIsToldIsAnEvent(t *testing.T) {
	t.Parallel()
	fake, c := start(t)
	hostile := notifytest.Hostile()
	hostile.ID = "msg-hostile"
	crowd := notifytest.Crowd()
	huge := notifytest.Message()
	huge.ID = "msg-huge"
	for i := range 5000 {
		huge.Roles = append(huge.Roles, fmt.Sprintf("role-%d", i))
	}
	// Of its long texts the fake reads 1 MiB, which is more than anyone sends.
	hostile.Summary, hostile.Roles, hostile.Fields = hostile.Summary[:5000], nil, hostile.Fields[:10]
	hostile.Fields[0] = notify.Field{}
	for _, m := range []*notify.Message{hostile, notifytest.Empty(), crowd, huge} {
		require.NoError(t, webhook.New().Send(t.Context(), c, m), m.ID)
	}
	events := fake.Events()
	require.Len(t, events, 4)
	require.Equal(t, strings.ToValidUTF8(hostile.Summary, "\ufffd"), events[0].Data.Summary, "nothing is lost")
	require.Equal(t, []string{}, events[1].Data.Roles, "a list, and not null")
	require.Empty(t, events[1].Subject)
	require.Equal(t, crowd.Roles, events[2].Data.Roles)
	require.Empty(t, events[2].Subject, "it is about many")
	require.Len(t, events[3].Data.Roles, 1000)
	require.Equal(t, 5001, events[3].Data.RoleCount)
}

func TestAnIDThatIsNoHeader(t *testing.T) {
	t.Parallel()
	fake, c := start(t)
	f := notifytest.Fails(t, webhook.New().Send(t.Context(), c, notifytest.Hostile()))
	require.True(t, f.Permanent)
	require.Contains(t, f.Reason, "a header holds characters that cannot be sent")
	require.Empty(t, fake.Requests())
}

// A receiver changes over whenever it likes while both secrets are set.
func TestTheSecretRotates(t *testing.T) {
	t.Parallel()
	fake, c := start(t)
	send := func() error { return webhook.New().Send(t.Context(), c, notifytest.Message()) }

	c.Secrets = secrets(second, first)
	require.NoError(t, send(), "it knows the earlier one")
	fake.SetSecret(second)
	require.NoError(t, send(), "it knows the new one")
	require.Len(t, strings.Fields(fake.Requests()[0].Header.Get("Webhook-Signature")), 2)

	c.Secrets = secrets(second, "")
	require.NoError(t, send())
	fake.SetSecret(first)
	f := notifytest.Fails(t, send())
	require.Contains(t, f.Reason, " answered 401: ")
	require.False(t, f.Permanent, "the receiver may be told the secret yet")
}

func TestADeliveryIsDatedWhenItIsMade(t *testing.T) {
	t.Parallel()
	fake, c := start(t)
	long := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	kind := &webhook.Kind{Now: func() time.Time { return long }}
	f := notifytest.Fails(t, kind.Send(t.Context(), c, notifytest.Message()))
	require.Contains(t, f.Reason, " answered 401: the timestamp is not of now")

	fake.SetNow(func() time.Time { return long.Add(4 * time.Minute) })
	require.NoError(t, kind.Send(t.Context(), c, notifytest.Message()))
	require.Equal(t, "1798761600", fake.Requests()[1].Header.Get("Webhook-Timestamp"))
}

func TestTheSameIDWheneverItIsSent(t *testing.T) {
	t.Parallel()
	fake, c := start(t)
	fake.LoseAnswer(1)
	f := notifytest.Fails(t, webhook.New().Send(t.Context(), c, notifytest.Message()))
	require.False(t, f.Permanent)
	require.NoError(t, webhook.New().Send(t.Context(), c, notifytest.Message()))
	require.Len(t, fake.Deliveries(), 2)
	require.Len(t, fake.Events(), 1)
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		reply fakechannels.Reply
		want  notify.Failure
	}{
		"gone":         {fakechannels.Reply{Status: 410}, notify.Failure{Permanent: true, Reason: " answered 410"}},
		"not found":    {fakechannels.Reply{Status: 404}, notify.Failure{Reason: " answered 404"}},
		"bad":          {fakechannels.Reply{Status: 400, Body: "no\nthanks"}, notify.Failure{Reason: " answered 400: no thanks"}},
		"too many":     {fakechannels.Reply{Status: 429, Header: http.Header{"Retry-After": {"5"}}}, notify.Failure{RetryAfter: 5 * time.Second, Reason: " answered 429"}},
		"unavailable":  {fakechannels.Reply{Status: 503, Header: http.Header{"Retry-After": {"120"}}}, notify.Failure{RetryAfter: 2 * time.Minute, Reason: " answered 503"}},
		"a redirect":   {fakechannels.Reply{Status: 308, Header: http.Header{"Location": {"/"}}}, notify.Failure{Reason: " answered 308, a redirect, which is not followed"}},
		"the secret":   {fakechannels.Reply{Status: 500, Body: "expected " + first}, notify.Failure{Reason: " answered 500: expected [redacted]"}},
		"not modified": {fakechannels.Reply{Status: 304}, notify.Failure{Reason: " answered 304, a redirect, which is not followed"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake, channel := start(t)
			fake.Fail(-1, c.reply)
			f := notifytest.Fails(t, webhook.New().Send(t.Context(), channel, notifytest.Message()))
			require.Equal(t, "post an event: "+strings.TrimPrefix(fake.URL(), "http://")+c.want.Reason, f.Reason)
			require.Equal(t, c.want.Permanent, f.Permanent)
			require.Equal(t, c.want.RetryAfter, f.RetryAfter)
			require.Len(t, fake.Requests(), 1)
		})
	}
}

func TestNoAnswerInTime(t *testing.T) {
	t.Parallel()
	fake, c := start(t)
	fake.Hang(1)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, webhook.New().Send(ctx, c, notifytest.Message()), context.DeadlineExceeded)
}
