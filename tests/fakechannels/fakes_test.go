package fakechannels_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakechannels"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}

func post(t *testing.T, url, body string, header http.Header) (status int, answer string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	for name, values := range header {
		r.Header[name] = values
	}
	resp, err := client.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(text)
}

func TestSlack(t *testing.T) {
	t.Parallel()
	fake := fakechannels.NewSlack()
	defer fake.Close()
	x := func(n int) string { return strings.Repeat("x", n) }
	header := func(n int) string {
		return fmt.Sprintf(`{"type":"header","text":{"type":"plain_text","text":%q}}`, x(n))
	}
	section := func(n int) string { return fmt.Sprintf(`{"type":"section","text":{"type":"mrkdwn","text":%q}}`, x(n)) }
	field := func(n int) string { return fmt.Sprintf(`{"type":"mrkdwn","text":%q}`, x(n)) }
	list := func(one string, n int) string { return strings.TrimSuffix(strings.Repeat(one+",", n), ",") }
	fields := func(n, length int) string { return `{"type":"section","fields":[` + list(field(length), n) + `]}` }
	for _, c := range []struct {
		blocks string
		fits   bool
	}{
		{header(150), true},
		{header(151), false},
		{header(0), false},
		{`{"type":"header","text":{"type":"mrkdwn","text":"x"}}`, false},
		{section(3000), true},
		{section(3001), false},
		{`{"type":"section"}`, false},
		{fields(10, 2000), true},
		{fields(10, 2001), false},
		{fields(11, 1), false},
		{`{"type":"context","elements":[` + list(field(1), 10) + `]}`, true},
		{`{"type":"context","elements":[]}`, false},
		{`{"type":"poem"}`, false},
		{list(section(1), 50), true},
		{list(section(1), 51), false},
	} {
		status, answer := post(t, fake.WebhookURL(), `{"text":"t","blocks":[`+c.blocks+`]}`, nil)
		require.Equal(t, c.fits, status == 200, "%.60s: %s", c.blocks, fake.Why())
		require.Equal(t, c.fits, answer == "ok", answer)
	}
	require.Len(t, fake.Messages(), 5)

	status, answer := post(t, fake.WebhookURL(), `{"blocks":[`+section(1)+`]}`, nil)
	require.Equal(t, []any{400, "invalid_blocks"}, []any{status, answer}, "no text")
	status, answer = post(t, fake.WebhookURL(), `no JSON`, nil)
	require.Equal(t, []any{400, "invalid_payload"}, []any{status, answer})
	status, answer = post(t, fake.URL()+"/services/other", `{}`, nil)
	require.Equal(t, []any{404, "no_service"}, []any{status, answer})

	status, _ = post(t, fake.WebhookURL(), `{"text":"<!here>","blocks":[{"type":"section","text":{"type":"mrkdwn","text":"<https://x|y> &lt;z&gt;"}}]}`, nil)
	require.Equal(t, 200, status)
	m := fake.Messages()[5]
	require.Equal(t, []string{"<!here>", "<https://x|y>"}, m.Links())
}

func TestPagerDuty(t *testing.T) {
	t.Parallel()
	const key = "0123456789abcdef0123456789abcdef"
	fake := fakechannels.NewPagerDuty(key)
	defer fake.Close()
	type object = map[string]any
	event := func(change func(e, payload object)) string {
		payload := object{"summary": "s", "source": "x", "severity": "error"}
		e := object{"routing_key": key, "event_action": "trigger", "dedup_key": "k", "payload": payload}
		change(e, payload)
		raw, err := json.Marshal(e)
		require.NoError(t, err)
		return string(raw)
	}
	for why, body := range map[string]string{
		"Length of 'routing_key'":   event(func(e, _ object) { e["routing_key"] = "short" }),
		"of no integration":         event(func(e, _ object) { e["routing_key"] = strings.Repeat("0", 32) }),
		"'event_action' is invalid": event(func(e, _ object) { e["event_action"] = "page" }),
		"'dedup_key' is too long":   event(func(e, _ object) { e["dedup_key"] = strings.Repeat("k", 256) }),
		"'dedup_key' is missing":    event(func(e, _ object) { e["event_action"], e["dedup_key"] = "resolve", "" }),
		"summary' is missing":       event(func(_, p object) { p["summary"] = "" }),
		"summary' is too long":      event(func(_, p object) { p["summary"] = strings.Repeat("s", 1025) }),
		"source' is missing":        event(func(_, p object) { delete(p, "source") }),
		"severity' is invalid":      event(func(_, p object) { p["severity"] = "loud" }),
		"timestamp' is none":        event(func(_, p object) { p["timestamp"] = "today" }),
		"not valid JSON":            "{",
	} {
		status, answer := post(t, fake.URL()+"/v2/enqueue", body, nil)
		require.Equal(t, 400, status, why)
		require.Contains(t, answer, why)
	}
	require.Empty(t, fake.Alerts())
	status, answer := post(t, fake.URL()+"/v2/change/enqueue", event(func(object, object) {}), nil)
	require.Equal(t, 400, status, "a change pages nobody: %s", answer)

	for _, action := range []string{"trigger", "trigger", "resolve", "resolve", "trigger"} {
		status, answer = post(t, fake.URL()+"/v2/enqueue", event(func(e, _ object) { e["event_action"] = action }), nil)
		require.Equal(t, 202, status)
		require.JSONEq(t, `{"status":"success","message":"Event processed","dedup_key":"k"}`, answer)
	}
	require.Len(t, fake.OpenAlerts(), 1)
	require.Equal(t, 2, fake.OpenAlerts()[0].Opened)
	require.Equal(t, 3, fake.OpenAlerts()[0].Triggers)
}

func TestWebhook(t *testing.T) {
	t.Parallel()
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	fake := fakechannels.NewWebhook(secret)
	defer fake.Close()
	signer, err := standardwebhooks.NewWebhook(secret)
	require.NoError(t, err)
	now := time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)
	fake.SetNow(func() time.Time { return now })

	const good = `{"specversion":"1.0","id":"m1","source":"/vault","type":"t"}`
	deliver := func(body, mediaType string, at time.Time) (int, string) {
		signature, err := signer.Sign("m1", at, []byte(body))
		require.NoError(t, err)
		return post(t, fake.URL(), body, http.Header{
			"Content-Type": {mediaType}, "Webhook-Id": {"m1"}, "Webhook-Timestamp": {fmt.Sprint(at.Unix())}, "Webhook-Signature": {signature},
		})
	}
	const cloudEvents = "application/cloudevents+json"
	for _, c := range []struct {
		body, mediaType string
		at              time.Time
		status          int
	}{
		{good, cloudEvents, now, 204},
		{good, cloudEvents, now.Add(5 * time.Minute), 204},
		{good, cloudEvents, now.Add(-301 * time.Second), 401},
		{good, cloudEvents, now.Add(301 * time.Second), 401},
		{good, "application/json", now, 400},
		{`{"specversion":"1.0","id":"m1","source":"/vault"}`, cloudEvents, now, 400},
		{`{"specversion":"1.0","id":"m2","source":"/vault","type":"t"}`, cloudEvents, now, 400},
		{`[]`, cloudEvents, now, 400},
	} {
		status, answer := deliver(c.body, c.mediaType, c.at)
		require.Equal(t, c.status, status, "%s %s", c.body, answer)
	}
	require.Len(t, fake.Deliveries(), 2)
	require.Len(t, fake.Events(), 1)

	status, _ := post(t, fake.URL(), good, http.Header{"Content-Type": {cloudEvents}})
	require.Equal(t, 401, status, "it is not signed")
	fake.SetSecret("whsec_" + strings.Repeat("A", 32))
	status, _ = deliver(good, cloudEvents, now)
	require.Equal(t, 401, status, "by another")
}

func TestFaults(t *testing.T) {
	t.Parallel()
	fake := fakechannels.NewSlack()
	defer fake.Close()
	const message = `{"text":"t","blocks":[]}`
	fake.Fail(1, fakechannels.Reply{Status: 429, Header: http.Header{"Retry-After": {"1"}}, Body: "slow down"})
	status, answer := post(t, fake.WebhookURL(), message, nil)
	require.Equal(t, []any{429, "slow down"}, []any{status, answer})
	status, _ = post(t, fake.WebhookURL(), message, nil)
	require.Equal(t, 200, status)

	fake.LoseAnswer(1)
	resp, err := client.Post(fake.WebhookURL(), "application/json", strings.NewReader(message))
	if err == nil {
		require.NoError(t, resp.Body.Close())
	}
	require.Error(t, err)
	require.Len(t, fake.Messages(), 2, "it was served")

	fake.Fail(-1, fakechannels.Reply{Status: 500})
	fake.Heal()
	status, _ = post(t, fake.WebhookURL(), message, nil)
	require.Equal(t, 200, status)
	require.Equal(t, []int{429, 200, 0, 200}, []int{
		fake.Requests()[0].Status, fake.Requests()[1].Status, fake.Requests()[2].Status, fake.Requests()[3].Status,
	})
}
