package fakechannels

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/http/httptest"
	"net/mail"
	"slices"
	"sync"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// SMTPStep is where a session may be refused, or hang.
type SMTPStep string

// The steps of a session. At StepGreeting nothing but hanging can be asked for.
const (
	StepGreeting  SMTPStep = "greeting"
	StepLogin     SMTPStep = "AUTH"
	StepSender    SMTPStep = "MAIL"
	StepRecipient SMTPStep = "RCPT"
	StepMail      SMTPStep = "DATA"
)

// SMTP is a server to which mail is submitted.
type SMTP struct {
	server      *smtp.Server
	listener    net.Listener
	certificate tls.Certificate
	implicit    bool
	plain       bool
	username    string
	password    string
	closing     chan struct{}
	once        sync.Once
	served      sync.WaitGroup

	mu       sync.Mutex
	mails    []Mail
	logins   int
	sessions int
	refusals map[SMTPStep]map[string]*smtp.SMTPError // by recipient, "" for any
	hanging  SMTPStep
}

// Mail is a mail that was taken.
type Mail struct {
	// From and To are the envelope's.
	From string
	To   []string
	// Hello is how the client named itself, Username who was logged in, and TLS whether it all was
	// encrypted.
	Hello, Username string
	TLS             bool
	// Header is as it was sent, Subject and Body are decoded.
	Header  mail.Header
	Subject string
	Body    string
	Raw     string
}

// SMTPOption says how the server is started.
type SMTPOption func(*SMTP)

// ImplicitTLS lets the server speak TLS from the first byte, and not offer STARTTLS.
func ImplicitTLS() SMTPOption { return func(s *SMTP) { s.implicit = true } }

// NoTLS lets the server offer no TLS at all, and no login.
func NoTLS() SMTPOption { return func(s *SMTP) { s.plain = true } }

// Account lets the server ask for a login before it takes mail.
func Account(username, password string) SMTPOption {
	return func(s *SMTP) { s.username, s.password = username, password }
}

// NewSMTP starts a server on loopback that offers STARTTLS.
func NewSMTP(options ...SMTPOption) *SMTP {
	s := &SMTP{closing: make(chan struct{}), refusals: map[SMTPStep]map[string]*smtp.SMTPError{}, certificate: borrowed()}
	for _, o := range options {
		o(s)
	}
	s.server = smtp.NewServer(smtp.BackendFunc(s.session))
	s.server.Domain = "fake.example.com"
	s.server.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.server.MaxRecipients = 100
	config := &tls.Config{Certificates: []tls.Certificate{s.certificate}, MinVersion: tls.VersionTLS12}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err) // as httptest does
	}
	s.listener = &greeter{Listener: listener, s: s}
	switch {
	case s.implicit:
		s.listener = tls.NewListener(s.listener, config)
	case !s.plain:
		s.server.TLSConfig = config
	}
	s.served.Go(func() { _ = s.server.Serve(s.listener) }) // ends by Close
	return s
}

// borrowed is the certificate for 127.0.0.1 that net/http/httptest brings.
func borrowed() tls.Certificate {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	return server.TLS.Certificates[0]
}

// Host is the server's address.
func (*SMTP) Host() string { return "127.0.0.1" }

// Port is where it listens.
func (s *SMTP) Port() int { return s.listener.Addr().(*net.TCPAddr).Port }

// CA is the PEM of what signed its certificate.
func (s *SMTP) CA() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.certificate.Certificate[0]}))
}

// Close ends the server and its sessions.
func (s *SMTP) Close() {
	s.once.Do(func() {
		close(s.closing)
		_ = s.server.Close()
		_ = s.listener.Close() // again, where the server had not begun to serve yet
		s.served.Wait()
	})
}

// Mails are those that were taken, oldest first.
func (s *SMTP) Mails() []Mail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.mails)
}

// Logins says how many logins were tried.
func (s *SMTP) Logins() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logins
}

// Sessions says how many clients introduced themselves.
func (s *SMTP) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions
}

// Refuse lets a step fail with a code and a text until Heal.
func (s *SMTP) Refuse(step SMTPStep, code int, text string) { s.refuse(step, "", code, text) }

// RefuseRecipient lets one recipient be refused.
func (s *SMTP) RefuseRecipient(address string, code int, text string) {
	s.refuse(StepRecipient, address, code, text)
}

func (s *SMTP) refuse(step SMTPStep, of string, code int, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refusals[step] == nil {
		s.refusals[step] = map[string]*smtp.SMTPError{}
	}
	s.refusals[step][of] = &smtp.SMTPError{Code: code, EnhancedCode: smtp.EnhancedCode{code / 100, 0, 0}, Message: text}
}

// Hang lets sessions that reach a step get no answer there, until Heal or Close.
func (s *SMTP) Hang(step SMTPStep) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hanging = step
}

// Heal takes back Refuse, RefuseRecipient and Hang, for what comes after.
func (s *SMTP) Heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusals, s.hanging = map[SMTPStep]map[string]*smtp.SMTPError{}, ""
}

// at is what becomes of a step.
func (s *SMTP) at(step SMTPStep, of string) error {
	s.mu.Lock()
	hangs := s.hanging == step
	refusals := s.refusals[step]
	refusal := refusals[of]
	if refusal == nil {
		refusal = refusals[""]
	}
	s.mu.Unlock()
	if hangs {
		<-s.closing
	}
	if refusal != nil {
		return refusal
	}
	return nil
}

// greeter holds a connection back before it is greeted.
type greeter struct {
	net.Listener
	s *SMTP
}

func (g *greeter) Accept() (net.Conn, error) {
	conn, err := g.Listener.Accept()
	if err == nil {
		_ = g.s.at(StepGreeting, "") // hangs, if anything
	}
	return conn, err
}

func (s *SMTP) session(c *smtp.Conn) (smtp.Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions++
	return &session{s: s, conn: c}, nil
}

// session is one client's.
type session struct {
	s    *SMTP
	conn *smtp.Conn
	mail Mail
}

var _ smtp.AuthSession = (*session)(nil)

// AuthMechanisms implements smtp.AuthSession.
func (x *session) AuthMechanisms() []string {
	if x.s.username == "" {
		return nil
	}
	return []string{sasl.Plain}
}

// Auth implements smtp.AuthSession.
func (x *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, username, password string) error {
		x.s.mu.Lock()
		x.s.logins++
		x.s.mu.Unlock()
		if err := x.s.at(StepLogin, ""); err != nil {
			return err
		}
		if username != x.s.username || password != x.s.password {
			return smtp.ErrAuthFailed
		}
		x.mail.Username = username
		return nil
	}), nil
}

// Mail implements smtp.Session.
func (x *session) Mail(from string, _ *smtp.MailOptions) error {
	if err := x.s.at(StepSender, ""); err != nil {
		return err
	}
	if x.s.username != "" && x.mail.Username == "" {
		return &smtp.SMTPError{Code: 530, EnhancedCode: smtp.EnhancedCode{5, 7, 0}, Message: "Authentication required"}
	}
	x.mail.From, x.mail.To = from, nil
	return nil
}

// Rcpt implements smtp.Session.
func (x *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if err := x.s.at(StepRecipient, to); err != nil {
		return err
	}
	x.mail.To = append(x.mail.To, to)
	return nil
}

// Data implements smtp.Session.
func (x *session) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if err := x.s.at(StepMail, ""); err != nil {
		return err
	}
	m := x.mail
	m.Hello = x.conn.Hostname()
	_, m.TLS = x.conn.TLSConnectionState()
	if err := m.read(raw); err != nil {
		return &smtp.SMTPError{Code: 554, EnhancedCode: smtp.EnhancedCode{5, 6, 0}, Message: err.Error()}
	}
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	x.s.mails = append(x.s.mails, m)
	return nil
}

// maxMailLine is the longest line that mail may have, without its end (RFC 5322, 2.1.1).
const maxMailLine = 998

// read takes a mail apart, and refuses one that is none.
func (m *Mail) read(raw []byte) error {
	m.Raw = string(raw)
	for line := range bytes.Lines(raw) {
		if len(line) > maxMailLine+2 {
			return errors.New("a line is too long")
		}
	}
	parsed, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	m.Header = parsed.Header
	if m.Subject, err = new(mime.WordDecoder).DecodeHeader(parsed.Header.Get("Subject")); err != nil {
		return err
	}
	body := parsed.Body
	if parsed.Header.Get("Content-Transfer-Encoding") == "quoted-printable" {
		body = quotedprintable.NewReader(body)
	}
	text, err := io.ReadAll(body)
	m.Body = string(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")))
	return err
}

// Reset implements smtp.Session.
func (x *session) Reset() {}

// Logout implements smtp.Session.
func (x *session) Logout() error { return nil }
