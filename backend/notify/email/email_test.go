package email_test

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify/email"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify/notifytest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakechannels"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const password = "pw " + notifytest.Canary

// start gives a server that asks for a login, and a channel that leads to it.
func start(t *testing.T, options ...fakechannels.SMTPOption) (*fakechannels.SMTP, *notify.Channel) {
	t.Helper()
	fake := fakechannels.NewSMTP(append([]fakechannels.SMTPOption{fakechannels.Account("vault", password)}, options...)...)
	t.Cleanup(fake.Close)
	return fake, &notify.Channel{
		Name: "mail",
		Values: option.Values{
			"host": fake.Host(), "port": int64(fake.Port()), "tls_ca": fake.CA(), "username": "vault",
			"from": "Vault <vault@example.com>", "to": []string{"oncall@example.com", "Ops <ops@example.com>"},
		},
		Secrets: secret.NewMap(map[string]string{"password": password}),
	}
}

func send(t *testing.T, c *notify.Channel, m *notify.Message) *notify.Failure {
	t.Helper()
	return notifytest.Fails(t, email.New().Send(t.Context(), c, m))
}

func TestDeclares(t *testing.T) {
	t.Parallel()
	notifytest.Declares(t, email.New(), "email", []string{"password"}, []string{"host", "port", "tls", "allow_insecure_smtp", "tls_ca"})
}

func TestCheck(t *testing.T) {
	t.Parallel()
	good := &notify.Channel{
		Values:  option.Values{"host": "smtp.example.com", "from": "vault@example.com", "to": []string{"oncall@example.com"}, "username": "vault"},
		Secrets: secret.NewMap(map[string]string{"password": password}),
	}
	v := func(name string, value any) option.Values { return option.Values{name: value} }
	many := make([]string, 51)
	for i := range many {
		many[i] = "a@example.com"
	}
	notifytest.Checks(t, email.New(), good, map[string]notifytest.Wrong{
		"no host":            {Values: v("host", ""), Field: "host", Says: "host: is required: the SMTP server, such as smtp.example.com"},
		"a host with a port": {Values: v("host", "smtp.example.com:25"), Field: "host", Says: "must be a name or an IP address, such as smtp.example.com, without a port"},
		"a socket":           {Values: v("host", "unix:///run/smtp"), Field: "host", Says: "must be a name or an IP address"},
		"a port":             {Values: v("port", int64(65536)), Field: "port", Says: "must be from 1 to 65535"},
		"a way of TLS":       {Values: v("tls", "ssl"), Field: "tls", Says: "must be starttls, tls or none"},
		"in clear":           {Values: v("tls", "none"), Field: "tls", Says: "without allow_insecure_smtp=true"},
		"a login in clear":   {Values: option.Values{"tls": "none", "allow_insecure_smtp": true}, Field: "username", Says: "cannot be given with tls=none: the password would travel in clear"},
		"no certificate":     {Values: v("tls_ca", "garbage"), Field: "tls_ca", Says: "holds no certificate in PEM form"},
		"no password":        {Secrets: map[string]string{"password": ""}, Field: "password", Says: "is required with username"},
		"no user":            {Values: v("username", ""), Field: "username", Says: "is required with a password"},
		"no sender":          {Values: v("from", ""), Field: "from", Says: "must be one address, such as vault@example.com"},
		"two senders":        {Values: v("from", "a@example.com, b@example.com"), Field: "from", Says: "must be one address"},
		"a broken sender":    {Values: v("from", "vault@example.com\r\nBcc: x@example.com"), Field: "from", Says: "must be one address"},
		"no domain":          {Values: v("from", "vault@[127.0.0.1]"), Field: "from", Says: "must be one address"},
		"no reader":          {Values: v("to", []string{}), Field: "to", Says: "must name from 1 to 50 addresses"},
		"too many readers":   {Values: v("to", many), Field: "to", Says: "must name from 1 to 50 addresses"},
		"a bad reader":       {Values: v("to", []string{"a@example.com", "nobody"}), Field: "to", Says: "number 2 is none"},
		"a greeting":         {Values: v("hello", "two words"), Field: "hello", Says: "must be a host name, such as vault.example.com"},
	})
	good.Values["host"] = "2001:db8::25"
	require.NoError(t, email.New().Check(good))
}

func TestMail(t *testing.T) {
	t.Parallel()
	for tls, options := range map[string][]fakechannels.SMTPOption{"starttls": nil, "tls": {fakechannels.ImplicitTLS()}} {
		t.Run(tls, func(t *testing.T) {
			t.Parallel()
			fake, c := start(t, options...)
			c.Values["tls"] = tls
			require.NoError(t, email.New().Send(t.Context(), c, notifytest.Message()))
			require.Len(t, fake.Mails(), 1)
			m := fake.Mails()[0]
			require.Equal(t, "vault@example.com", m.From)
			require.Equal(t, []string{"oncall@example.com", "ops@example.com"}, m.To)
			require.Equal(t, "vault", m.Username)
			require.True(t, m.TLS)
			require.Equal(t, "example.com", m.Hello)
			require.Equal(t, "[ERROR] The rotation of billing-db failed for the third time.", m.Subject)
			require.Equal(t, `The rotation of billing-db failed for the third time.

role: billing-db
phase: prepared
error: the database refused the login

event: rotation.failed
time: 2026-05-04T12:30:00Z
source: /vault/rotation/3f2a
incident: inc-1
id: 01JZ-msg-1
more: https://wiki.example.com/runbook?a=1&b=2
`, strings.TrimRight(m.Body, "\n")+"\n")
			require.Equal(t, "<01JZ-msg-1@example.com>", m.Header.Get("Message-Id"))
			require.Equal(t, "auto-generated", m.Header.Get("Auto-Submitted"))
			require.Equal(t, `"Vault" <vault@example.com>`, m.Header.Get("From"))
			date, err := m.Header.Date()
			require.NoError(t, err)
			require.True(t, date.Equal(notifytest.Message().Time))
			require.Contains(t, m.Header.Get("Content-Type"), "text/plain")
		})
	}
}

func TestClosing(t *testing.T) {
	t.Parallel()
	fake, c := start(t)
	c.Values["hello"] = "vault.internal.example.com"
	m := notifytest.Message()
	m.Over, m.Alarm, m.Summary = []string{m.Alarm}, "", ""
	require.NoError(t, email.New().Send(t.Context(), c, m))
	require.Equal(t, "[RESOLVED] rotation.failed", fake.Mails()[0].Subject)
	require.Equal(t, "vault.internal.example.com", fake.Mails()[0].Hello)
}

func TestInClear(t *testing.T) {
	t.Parallel()
	fake := fakechannels.NewSMTP(fakechannels.NoTLS())
	defer fake.Close()
	_, c := start(t)
	c.Values["host"], c.Values["port"], c.Secrets = fake.Host(), int64(fake.Port()), nil
	delete(c.Values, "username")
	f := send(t, c, notifytest.Message())
	require.Contains(t, f.Reason, "does not support STARTTLS")
	require.Empty(t, fake.Mails(), "starttls is no wish, it is a condition")

	c.Values["tls"], c.Values["allow_insecure_smtp"] = "none", true
	require.NoError(t, email.New().Send(t.Context(), c, notifytest.Message()))
	require.False(t, fake.Mails()[0].TLS)
}

func TestNothingCanBeInjected(t *testing.T) {
	t.Parallel()
	fake, c := start(t)
	require.NoError(t, email.New().Send(t.Context(), c, notifytest.Hostile()))
	require.Len(t, fake.Mails(), 1, "a dot on a line of its own does not end it")
	m := fake.Mails()[0]
	require.Equal(t, []string{"oncall@example.com", "ops@example.com"}, m.To)
	var names []string
	for name := range m.Header {
		names = append(names, name)
	}
	require.ElementsMatch(t, []string{
		"Date", "Mime-Version", "Message-Id", "Subject", "Auto-Submitted", "From", "To", "Content-Transfer-Encoding", "Content-Type",
	}, names)
	require.Regexp(t, `^<[0-9a-f]{64}@example\.com>$`, m.Header.Get("Message-Id"))
	require.True(t, strings.HasPrefix(m.Subject, "[CRITICAL] <!channel> <https://evil.example|click> & Bcc: victim@example.com . "), m.Subject)
	require.LessOrEqual(t, len([]rune(m.Subject)), 180)
	require.Contains(t, m.Body, "600 more fields are not shown")
	for line := range strings.Lines(m.Raw) {
		require.LessOrEqual(t, len(line), 1000)
	}
}

func TestManyRoles(t *testing.T) {
	t.Parallel()
	fake, c := start(t)
	require.NoError(t, email.New().Send(t.Context(), c, notifytest.Crowd()))
	require.Regexp(t, `\n500 roles: team-000-database, .* and \d+ more\n`, fake.Mails()[0].Body)
	require.NoError(t, email.New().Send(t.Context(), c, notifytest.Empty()))
	require.Equal(t, "[INFO] config.written", fake.Mails()[1].Subject)
}

func TestTheSameMessageIDWheneverItIsSent(t *testing.T) {
	t.Parallel()
	fake, c := start(t)
	for range 2 {
		require.NoError(t, email.New().Send(t.Context(), c, notifytest.Hostile()))
	}
	id := func(m fakechannels.Mail) string { return m.Header.Get("Message-Id") }
	require.Equal(t, id(fake.Mails()[0]), id(fake.Mails()[1]))
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	const quote = "not for " + password
	for name, c := range map[string]struct {
		refuse func(s *fakechannels.SMTP)
		want   notify.Failure
	}{
		"the login":            {func(s *fakechannels.SMTP) { s.Refuse(fakechannels.StepLogin, 535, quote) }, notify.Failure{Permanent: true, Reason: "open a session: the server answered 535: 5.0.0 not for [redacted]"}},
		"the login, for now":   {func(s *fakechannels.SMTP) { s.Refuse(fakechannels.StepLogin, 454, "later") }, notify.Failure{Reason: "open a session: the server answered 454: 4.0.0 later"}},
		"the sender":           {func(s *fakechannels.SMTP) { s.Refuse(fakechannels.StepSender, 550, "not you") }, notify.Failure{Permanent: true, Reason: "name the sender: the server answered 550: 5.0.0 not you"}},
		"all readers":          {func(s *fakechannels.SMTP) { s.Refuse(fakechannels.StepRecipient, 550, "nobody") }, notify.Failure{Permanent: true, Reason: "name the recipient oncall@example.com: the server answered 550: 5.0.0 nobody"}},
		"all readers, for now": {func(s *fakechannels.SMTP) { s.Refuse(fakechannels.StepRecipient, 450, "greylisted") }, notify.Failure{Reason: "name the recipient oncall@example.com: the server answered 450: 4.0.0 greylisted"}},
		"one for now": {func(s *fakechannels.SMTP) {
			s.RefuseRecipient("oncall@example.com", 550, "nobody")
			s.RefuseRecipient("ops@example.com", 452, "full")
		}, notify.Failure{Reason: "name the recipient ops@example.com: the server answered 452: 4.0.0 full"}},
		"the mail":          {func(s *fakechannels.SMTP) { s.Refuse(fakechannels.StepMail, 554, "spam") }, notify.Failure{Permanent: true, Reason: "hand the mail over: the server answered 554: 5.0.0 spam"}},
		"the mail, for now": {func(s *fakechannels.SMTP) { s.Refuse(fakechannels.StepMail, 451, "busy") }, notify.Failure{Reason: "hand the mail over: the server answered 451: 4.0.0 busy"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake, channel := start(t)
			c.refuse(fake)
			f := send(t, channel, notifytest.Message())
			require.Equal(t, "send mail through "+net.JoinHostPort(fake.Host(), strconv.Itoa(fake.Port()))+": "+c.want.Reason, f.Reason)
			require.Equal(t, c.want.Permanent, f.Permanent)
			require.Empty(t, fake.Mails())
			require.Equal(t, 1, fake.Logins(), "when it is sent again is not decided here")
		})
	}
}

// Who can be told is told, once.
func TestOneRecipientIsRefused(t *testing.T) {
	t.Parallel()
	for _, code := range []int{550, 450} {
		fake, c := start(t)
		fake.RefuseRecipient("oncall@example.com", code, "no")
		f := send(t, c, notifytest.Message())
		require.True(t, f.Partial, "another attempt would tell the others again")
		require.Contains(t, f.Reason, "1 of 2 recipients were told; ")
		require.Contains(t, f.Reason, "oncall@example.com")
		require.Equal(t, []string{"ops@example.com"}, fake.Mails()[0].To)
	}
}

func TestAWrongPassword(t *testing.T) {
	t.Parallel()
	fake, c := start(t)
	c.Secrets = secret.NewMap(map[string]string{"password": notifytest.Canary})
	f := send(t, c, notifytest.Message())
	require.True(t, f.Permanent)
	require.Contains(t, f.Reason, "the server answered 535")
	require.Equal(t, 1, fake.Logins())
}

func TestAnUnknownCertificate(t *testing.T) {
	t.Parallel()
	for tls, options := range map[string][]fakechannels.SMTPOption{"starttls": nil, "tls": {fakechannels.ImplicitTLS()}} {
		fake, c := start(t, options...)
		c.Values["tls"] = tls
		delete(c.Values, "tls_ca")
		f := send(t, c, notifytest.Message())
		require.Contains(t, f.Reason, "failed to verify certificate")
		require.False(t, f.Permanent)
		require.Zero(t, fake.Logins(), "the password is not shown to whoever answers")
	}
}

var steps = []fakechannels.SMTPStep{
	fakechannels.StepGreeting, fakechannels.StepLogin, fakechannels.StepSender, fakechannels.StepRecipient, fakechannels.StepMail,
}

func TestEachStepIsBounded(t *testing.T) {
	t.Parallel()
	for _, step := range steps {
		t.Run(string(step), func(t *testing.T) {
			t.Parallel()
			fake, c := start(t)
			fake.Hang(step)
			kind := &email.Kind{StepTimeout: 500 * time.Millisecond}
			f := notifytest.Fails(t, kind.Send(t.Context(), c, notifytest.Message()))
			require.Contains(t, f.Reason, ": it took longer than 500ms")
			require.False(t, f.Permanent)
		})
	}
}

func TestEachStepEndsWithTheContext(t *testing.T) {
	t.Parallel()
	for _, step := range steps {
		t.Run(string(step), func(t *testing.T) {
			t.Parallel()
			fake, c := start(t)
			fake.Hang(step)
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			err := email.New().Send(ctx, c, notifytest.Message())
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.False(t, notifytest.Fails(t, err).Permanent)
		})
	}
}

func TestNobodyThere(t *testing.T) {
	t.Parallel()
	fake, c := start(t)
	fake.Close()
	f := send(t, c, notifytest.Message())
	require.Contains(t, f.Reason, "open a session: no connection: dial tcp ")
	require.Contains(t, f.Reason, "connection refused")
	require.False(t, f.Permanent)
}

func TestNotWhereNothingMayBeSent(t *testing.T) {
	t.Parallel()
	_, c := start(t)
	c.Values["host"] = "169.254.169.254"
	f := send(t, c, notifytest.Message())
	require.Contains(t, f.Reason, "the egress policy refuses the address 169.254.169.254")
}

// A server that says what is none of SMTP.
func TestGarbage(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			_, _ = conn.Write([]byte("SSH-2.0-" + password + "\r\n"))
			err = conn.Close()
		}
		done <- err
	}()
	_, c := start(t)
	c.Values["port"] = int64(listener.Addr().(*net.TCPAddr).Port)
	f := send(t, c, notifytest.Message())
	require.False(t, f.Permanent)
	require.NoError(t, errors.Join(<-done, listener.Close()))
}
