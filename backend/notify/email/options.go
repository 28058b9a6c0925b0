package email

import (
	"crypto/x509"
	"net/mail"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/egress"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// The ways of tls.
const (
	startTLS    = "starttls" // asked for once connected; without it nothing is sent
	implicitTLS = "tls"      // from the first byte
	noTLS       = "none"
)

// maxRecipients bounds to: a list of more belongs to the mail system.
const maxRecipients = 50

var optionSet = option.Set{
	{Name: "host", Type: option.String, Address: true, Help: "Name or IP address of the SMTP server."},
	{Name: "port", Type: option.Int, Address: true, Help: "Port of the server. Default: 587, and 465 with tls=tls."},
	{Name: "tls", Type: option.String, Default: startTLS, Address: true, Help: "starttls: encrypted once connected, or nothing is sent. tls: from the first byte. none: in clear, which needs allow_insecure_smtp=true and goes without a password."},
	{Name: "allow_insecure_smtp", Type: option.Bool, Default: false, Address: true, Help: "Admit tls=none: messages then travel in clear."},
	{Name: "tls_ca", Type: option.String, Address: true, Help: "Certificate authority of the server, in PEM form. Default: the system's."},
	{Name: "username", Type: option.String, Help: "Whom to log in as; without it nobody logs in."},
	{Name: "password", Type: option.String, Secret: true, Help: "The password of username."},
	{Name: "from", Type: option.String, Help: "Sender, such as vault@example.com or Vault <vault@example.com>."},
	{Name: "to", Type: option.List, Help: "Recipients, up to 50."},
	{Name: "hello", Type: option.String, Help: "Name by which the server is greeted. Default: the domain of from."},
}

// settings are the decoded and checked options.
type settings struct {
	Host     string   `json:"host"`
	Port     int      `json:"port"`
	TLS      string   `json:"tls"`
	Insecure bool     `json:"allow_insecure_smtp"`
	CA       string   `json:"tls_ca"`
	Username string   `json:"username"`
	From     string   `json:"from"`
	To       []string `json:"to"`
	Hello    string   `json:"hello"`

	password secret.String
	roots    *x509.CertPool
	sender   *mail.Address
	domain   string // of the sender
	readers  []*mail.Address
	step     time.Duration // what each step of a session may take
}

func settingsOf(c *notify.Channel) (*settings, error) {
	s := &settings{}
	if err := optionSet.Decode(c.Values, s); err != nil {
		return nil, err
	}
	s.password = c.Secrets["password"]
	for _, check := range []func() error{s.checkServer, s.checkTLS, s.checkLogin, s.checkPeople} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// hostname is what may be dialled, and stand in a greeting: names as DNS has them.
var hostname = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$`)

func (s *settings) checkServer() error {
	_, notAddress := netip.ParseAddr(s.Host)
	switch {
	case s.Host == "":
		return fault.Field("host", "is required: the SMTP server, such as smtp.example.com")
	case notAddress != nil && !hostname.MatchString(s.Host):
		return fault.Field("host", "must be a name or an IP address, such as smtp.example.com, without a port")
	case s.Port < 0 || s.Port > 65535:
		return fault.Field("port", "must be from 1 to 65535, or 0 for the usual one")
	case s.Hello != "" && !hostname.MatchString(s.Hello):
		return fault.Field("hello", "must be a host name, such as vault.example.com")
	}
	return nil
}

func (s *settings) checkTLS() (err error) {
	switch s.TLS {
	case startTLS, implicitTLS:
	case noTLS:
		if !s.Insecure {
			return fault.Field("tls", "cannot be none, which sends messages in clear, without allow_insecure_smtp=true")
		}
	default:
		return fault.Field("tls", "must be starttls, tls or none")
	}
	if s.Port == 0 {
		s.Port = map[string]int{startTLS: 587, implicitTLS: 465, noTLS: 25}[s.TLS]
	}
	s.roots, err = egress.Authorities("tls_ca", s.CA)
	return err
}

func (s *settings) checkLogin() error {
	switch {
	case s.Username != "" && s.password.Empty():
		return fault.Field("password", "is required with username")
	case s.Username == "" && !s.password.Empty():
		return fault.Field("username", "is required with a password")
	case s.TLS == noTLS && s.Username != "":
		return fault.Field("username", "cannot be given with tls=none: the password would travel in clear")
	}
	return nil
}

func (s *settings) checkPeople() error {
	sender, ok := addressOf(s.From)
	if !ok {
		return fault.Field("from", "must be one address, such as vault@example.com or Vault <vault@example.com>")
	}
	s.sender, s.domain = sender, sender.Address[strings.LastIndexByte(sender.Address, '@')+1:]
	if s.Hello == "" {
		s.Hello = s.domain
	}
	if len(s.To) == 0 || len(s.To) > maxRecipients {
		return fault.Field("to", "must name from 1 to %d addresses", maxRecipients)
	}
	s.readers = nil
	for i, to := range s.To {
		reader, ok := addressOf(to)
		if !ok {
			return fault.Field("to", "must be addresses such as oncall@example.com: number %d is none", i+1)
		}
		s.readers = append(s.readers, reader)
	}
	return nil
}

// addressOf reads an address in ASCII whose domain is a host name.
func addressOf(text string) (*mail.Address, bool) {
	a, err := mail.ParseAddress(text)
	if err != nil || strings.ContainsFunc(a.Address, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, false
	}
	return a, hostname.MatchString(a.Address[strings.LastIndexByte(a.Address, '@')+1:])
}
