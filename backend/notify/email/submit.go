package email

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"strconv"
	"time"

	gomail "github.com/wneessen/go-mail"
	"github.com/wneessen/go-mail/smtp"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/egress"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

const (
	// stepTimeout bounds the way to a session, and each command in it.
	stepTimeout = 15 * time.Second
	// submitTimeout bounds all of it, for a server that is slow at each of many recipients.
	submitTimeout = time.Minute
)

const opening = "open a session"

// submit sends a mail in one session, to all recipients that the server takes.
func (s *settings) submit(ctx context.Context, msg *gomail.Msg) error {
	within, cancel := context.WithTimeout(ctx, submitTimeout)
	defer cancel()
	session, hangUp, err := s.open(within)
	if err != nil {
		return s.failure(ctx, opening, err)
	}
	defer hangUp()
	step := func(what string, act func() error) error {
		err := session.UpdateDeadline(s.step)
		if err == nil {
			err = act()
		}
		return s.failure(ctx, what, err)
	}
	if err := step("name the sender", func() error { return session.Mail(path(s.sender.Address)) }); err != nil {
		return err
	}
	var refused []*notify.Failure
	for _, to := range s.readers {
		if err := step("name the recipient "+to.Address, func() error { return session.Rcpt(path(to.Address)) }); err != nil {
			refused = append(refused, notify.FailureOf(err))
		}
	}
	if len(refused) == len(s.readers) {
		return noneOf(refused)
	}
	if err := step("hand the mail over", func() error { return write(session, msg) }); err != nil {
		return err
	}
	// The mail is with the server: what becomes of the farewell changes nothing.
	_ = step("end the session", session.Quit)
	return someOf(refused, len(s.readers))
}

func path(address string) string { return "<" + address + ">" }

func write(session *smtp.Client, msg *gomail.Msg) error {
	w, err := session.Data()
	if err != nil {
		return err
	}
	if _, err := msg.WriteTo(w); err != nil {
		return err
	}
	return w.Close()
}

// noneOf is the failure where no recipient was taken: another attempt helps if one of them was
// refused for now only.
func noneOf(refused []*notify.Failure) error {
	for _, f := range refused {
		if !f.Permanent {
			return f
		}
	}
	return refused[0]
}

// someOf is the failure where some recipients were not taken. Another attempt would tell
// the others again and again.
func someOf(refused []*notify.Failure, all int) error {
	if len(refused) == 0 {
		return nil
	}
	return &notify.Failure{
		Partial: true, Reason: fmt.Sprintf("%d of %d recipients were told; %s", all-len(refused), all, refused[0].Reason), Err: refused[0],
	}
}

// open connects, encrypts and logs in. The connection is ours and not the library's, which
// leaves it open after an error, and looks at the context only while it dials.
func (s *settings) open(ctx context.Context) (session *smtp.Client, hangUp func(), err error) {
	conn, err := egress.Dial(ctx, s.server())
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	hangUp = func() {
		stop()
		_ = conn.Close() // whatever was to be said has been
	}
	dialled := func(ctx context.Context, _, _ string) (net.Conn, error) {
		if s.TLS != implicitTLS {
			return conn, nil
		}
		encrypted := tls.Client(conn, s.tlsConfig())
		return encrypted, encrypted.HandshakeContext(ctx)
	}
	client, err := gomail.NewClient(s.Host, s.clientOptions(dialled)...)
	if err == nil {
		session, err = client.DialToSMTPClientWithContext(ctx)
	}
	if err != nil {
		hangUp()
		return nil, nil, err
	}
	return session, hangUp, nil
}

func (s *settings) clientOptions(dial gomail.DialContextFunc) []gomail.Option {
	policy := gomail.NoTLS // also where all is encrypted already
	if s.TLS == startTLS {
		policy = gomail.TLSMandatory
	}
	options := []gomail.Option{
		gomail.WithPort(s.Port), gomail.WithTimeout(s.step), gomail.WithHELO(s.Hello), gomail.WithTLSPolicy(policy),
		gomail.WithTLSConfig(s.tlsConfig()), gomail.WithDialContextFunc(dial),
	}
	if s.Username != "" {
		options = append(options, gomail.WithUsername(s.Username), gomail.WithPassword(s.password.Reveal()),
			// The library's own order prefers NTLM and CRAM-MD5 to a password under TLS.
			gomail.WithOpportunisticSMTPAuth(gomail.SMTPAuthSCRAMSHA256, gomail.SMTPAuthPlain, gomail.SMTPAuthLogin))
	}
	return options
}

func (s *settings) tlsConfig() *tls.Config {
	return &tls.Config{ServerName: s.Host, RootCAs: s.roots, MinVersion: tls.VersionTLS12}
}

func (s *settings) server() string { return net.JoinHostPort(s.Host, strconv.Itoa(s.Port)) }

// failure says what a step's error means; nil for none.
func (s *settings) failure(ctx context.Context, step string, err error) error {
	if err == nil {
		return nil
	}
	quoted := egress.Request{Secrets: []secret.String{s.password}}
	reason := fmt.Sprintf("send mail through %s: %s: ", s.server(), step)
	var (
		said *textproto.Error
		late net.Error
	)
	switch ended := ctx.Err(); {
	case ended != nil:
		return &notify.Failure{Reason: reason + ended.Error(), Err: ended}
	case errors.As(err, &said):
		reason += fmt.Sprintf("the server answered %d: %s", said.Code, quoted.Text(said.Msg))
		return &notify.Failure{Permanent: final(step, said.Code), Reason: reason}
	case errors.Is(err, net.ErrClosed): // by us, when all of it took too long
		return &notify.Failure{Reason: reason + fmt.Sprintf("it was not done within %s", submitTimeout)}
	case errors.As(err, &late) && late.Timeout():
		return &notify.Failure{Reason: reason + fmt.Sprintf("it took longer than %s", s.step)}
	}
	return &notify.Failure{Reason: reason + quoted.Text(err.Error()), Err: err}
}

// final tells whether a server that answers so will do so again (RFC 5321, 4.2.1). One that does
// not even greet may be another tomorrow; of what opens a session only a refused login is final
// (53x, RFC 4954, 6), since asking again may lock the account.
func final(step string, code int) bool {
	return code >= 500 && (step != opening || code/10 == 53)
}
