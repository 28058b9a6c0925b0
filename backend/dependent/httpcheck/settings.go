package httpcheck

import (
	"crypto/x509"
	"net/http"
	"net/url"
	"regexp"
	"regexp/syntax"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/egress"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

const example = "https://api.example.com/health"

var optionSet = option.Set{
	{Name: "url", Type: option.String, Address: true, Help: "Which endpoint is asked, such as " + example + ". It is shown when the connection is read, and must hold no secret."},
	{Name: "method", Type: option.String, Default: http.MethodGet, Help: "GET or HEAD."},
	{Name: "token", Type: option.String, Secret: true, Help: "What is sent as Authorization: Bearer, to an endpoint that wants to know who asks."},
	{Name: "expected_status", Type: option.List, Default: []string{"200"}, Help: "Statuses that say that all is well, such as 200,204 or 2xx or 200-299. No redirect is followed: a 3xx is an answer."},
	{Name: "body_match", Type: option.String, Help: "Regular expression (RE2) that is searched for in the first MiB of the body. Default: any body will do."},
	{Name: "attempts", Type: option.Int, Default: int64(10), Help: "How often the endpoint is asked until it counts as failed, from 1 to 100."},
	{Name: "interval", Type: option.Duration, Default: int64(6), Help: "Time between two attempts, from 1 second to 5 minutes."},
	{Name: "timeout", Type: option.Duration, Default: int64(5), Help: "How long one attempt may take, from 1 to 15 seconds."},
	{Name: "tls_ca", Type: option.String, Address: true, Help: "Certificate authority of the host in url, in PEM form. Default: the system's."},
	{Name: "allow_insecure_http", Type: option.Bool, Default: false, Address: true, Help: "Admit http:// in url: the token then travels in clear, and an answer may be forged."},
}

// Bounds.
const (
	maxBody     = 1 << 20
	maxAttempts = 100
	maxInterval = 5 * time.Minute
	// maxTimeout is below what the engine gives to one question.
	maxTimeout = 15 * time.Second
	// maxPattern bounds the compiled body_match, in instructions: so many steps a byte of the
	// body may take, and nothing ends a search.
	maxPattern = 1000
)

// settings are the decoded options, and what follows from them.
type settings struct {
	URL      string   `json:"url"`
	Method   string   `json:"method"`
	Expected []string `json:"expected_status"`
	Match    string   `json:"body_match"`
	Attempts int      `json:"attempts"`
	Interval int64    `json:"interval"`
	Timeout  int64    `json:"timeout"`
	CA       string   `json:"tls_ca"`
	Insecure bool     `json:"allow_insecure_http"`

	token    secret.String
	target   *url.URL
	expected statuses
	pattern  *regexp.Regexp // nil for any body
	roots    *x509.CertPool // nil for the system's
}

func (s *settings) interval() time.Duration { return time.Duration(s.Interval) * time.Second }
func (s *settings) timeout() time.Duration  { return time.Duration(s.Timeout) * time.Second }

// settingsOf decodes and checks a connection.
func settingsOf(c *rotator.ConnectionConfig) (*settings, error) {
	s := &settings{token: c.Secrets["token"]}
	if err := optionSet.Decode(c.Values, s); err != nil {
		return nil, err
	}
	for _, check := range []func() error{s.checkURL, s.checkPace, s.checkToken, s.readStatuses, s.readPattern, s.readCA} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *settings) checkURL() error {
	u, err := url.Parse(s.URL)
	switch {
	case s.URL == "":
		return fault.Field("url", "is required: which endpoint is asked, such as %s", example)
	case err != nil || u.Opaque != "" || u.Hostname() == "" || strings.ContainsFunc(s.URL, unsendable) || strings.Contains(s.URL, "#"):
		return fault.Field("url", "must be a URL such as %s, in ASCII and without spaces or a fragment", example)
	case u.User != nil:
		return fault.Field("url", "must not hold a user or a password: it is shown when the connection is read")
	case u.Scheme == "http" && !s.Insecure:
		return fault.Field("url", "must begin with https://: http:// can be read and forged on its way, and needs allow_insecure_http=true")
	case u.Scheme != "http" && u.Scheme != "https":
		return fault.Field("url", "must begin with https://")
	}
	s.target = u
	return nil
}

func unsendable(r rune) bool { return r <= ' ' || r > '~' }

func (s *settings) checkPace() error {
	switch {
	case s.Method != http.MethodGet && s.Method != http.MethodHead:
		return fault.Field("method", "must be GET or HEAD")
	case s.Attempts < 1 || s.Attempts > maxAttempts:
		return fault.Field("attempts", "must be from 1 to %d", maxAttempts)
	case s.Interval < 1 || s.Interval > int64(maxInterval/time.Second):
		return fault.Field("interval", "must be from 1s to 5m")
	case s.Timeout < 1 || s.Timeout > int64(maxTimeout/time.Second):
		return fault.Field("timeout", "must be from 1s to 15s")
	}
	return nil
}

func (s *settings) checkToken() error {
	if strings.ContainsFunc(s.token.Reveal(), unsendable) {
		return fault.Field("token", "must be one bearer token in ASCII, without spaces and line breaks")
	}
	return nil
}

func (s *settings) readStatuses() (err error) {
	s.expected, err = parseStatuses(s.Expected)
	return err
}

func (s *settings) readPattern() error {
	if s.Match == "" {
		return nil
	}
	if s.Method == http.MethodHead {
		return fault.Field("body_match", "needs method=GET: an answer to HEAD has no body")
	}
	parsed, err := syntax.Parse(s.Match, syntax.Perl)
	if err != nil {
		return fault.Field("body_match", "is not a regular expression as RE2 knows them: %v", err)
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil || len(program.Inst) > maxPattern {
		return fault.Field("body_match", "is too large: use fewer or smaller repetitions")
	}
	s.pattern, err = regexp.Compile(s.Match)
	return err
}

func (s *settings) readCA() (err error) {
	s.roots, err = egress.Authorities("tls_ca", s.CA)
	return err
}
