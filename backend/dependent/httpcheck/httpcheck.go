// Package httpcheck is the type of connection http-check: an endpoint that tells over HTTP
// whether an application is well. An administrator writes where it is and what it answers
// then, so that whoever writes a role names a connection and cannot probe the network.
package httpcheck

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/dependent"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/egress"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// Type is the type= value.
const Type = "http-check"

// ConnectionKind is the type http-check.
type ConnectionKind struct {
	// Transport wraps the network in tests; nil leaves it.
	Transport func(http.RoundTripper) http.RoundTripper
}

// New returns the type of connection.
func New() *ConnectionKind { return &ConnectionKind{} }

var (
	_ rotator.ConnectionKind = (*ConnectionKind)(nil)
	_ dependent.Checker      = (*ConnectionKind)(nil)
)

// Type implements rotator.ConnectionKind.
func (*ConnectionKind) Type() string { return Type }

// Options implements rotator.ConnectionKind.
func (*ConnectionKind) Options() option.Set { return optionSet }

// CheckConnection implements rotator.ConnectionKind.
func (*ConnectionKind) CheckConnection(c *rotator.ConnectionConfig) (warnings []string, err error) {
	s, err := settingsOf(c)
	if err != nil {
		return nil, err
	}
	if s.target.Scheme == "http" {
		warnings = append(warnings, fmt.Sprintf("allow_insecure_http: whoever stands between Vault and %s can read the token, and say that all is well", s.target.Host))
	}
	return warnings, nil
}

// connection is an open one. Each request has a connection of the network of its own: what
// is asked after a restart must not be answered by the process before it.
type connection struct {
	settings *settings
	client   *egress.Client
}

// Close implements rotator.Connection.
func (c *connection) Close() { c.client.Close() }

// Open implements rotator.ConnectionKind. It does not dial.
func (k *ConnectionKind) Open(c *rotator.ConnectionConfig) (rotator.Connection, error) {
	s, err := settingsOf(c)
	if err != nil {
		return nil, err
	}
	return &connection{settings: s, client: egress.New(egress.Options{
		AllowInsecureHTTP: s.Insecure, AllowedHosts: []string{s.target.Hostname()}, RootCAs: s.roots,
		Timeout: s.timeout(), MaxBody: maxBody, Transport: k.Transport,
	})}, nil
}

func own(conn rotator.Connection) (*connection, error) {
	c, ok := conn.(*connection)
	if !ok || c == nil {
		return nil, fault.New(fault.Internal, "not a connection of type "+Type)
	}
	return c, nil
}

// Pace implements dependent.Checker.
func (*ConnectionKind) Pace(c *rotator.ConnectionConfig) (attempts int, interval time.Duration, err error) {
	s, err := settingsOf(c)
	if err != nil {
		return 0, 0, err
	}
	return s.Attempts, s.interval(), nil
}

// Try implements dependent.Checker.
func (*ConnectionKind) Try(ctx context.Context, conn rotator.Connection) (detail string, err error) {
	c, err := own(conn)
	if err != nil {
		return "", err
	}
	answer, err := c.ask(ctx)
	if err != nil {
		return "", err
	}
	if err := answer.badStatus(); err != nil {
		return "", err
	}
	if err := answer.badBody(); err != nil {
		return "", err
	}
	return answer.String(), nil
}

// Ping implements rotator.ConnectionKind. An application may be unwell while its check is
// written, so that nearly any answer will do: what never becomes right by itself is none, a
// refusal of whoever asks, or a redirect.
func (*ConnectionKind) Ping(ctx context.Context, conn rotator.Connection) error {
	c, err := own(conn)
	if err != nil {
		return err
	}
	answer, err := c.ask(ctx)
	if err != nil {
		return err
	}
	bad := answer.badStatus()
	switch {
	case bad == nil:
		return nil
	case answer.refuses() && c.settings.token.Empty():
		return fault.New(fault.AuthFailed, "%w: it wants to know who asks, write token", bad)
	case answer.refuses():
		return fault.New(fault.AuthFailed, "%w: it does not accept the token", bad)
	case answer.redirects():
		return bad
	}
	return nil
}

// Check implements rotator.ConnectionKind.
func (*ConnectionKind) Check(ctx context.Context, conn rotator.Connection) ([]rotator.Line, error) {
	c, err := own(conn)
	if err != nil {
		return nil, err
	}
	answer, err := c.ask(ctx)
	if err != nil {
		return []rotator.Line{line("answer", err, "")}, nil
	}
	lines := []rotator.Line{
		line("answer", nil, c.settings.target.Host+" answers"),
		line("expected_status", answer.badStatus(), answer.String()),
	}
	if c.settings.pattern == nil || answer.badStatus() != nil {
		return lines, nil
	}
	return append(lines, line("body_match", answer.badBody(), "the body matches")), nil
}

func line(check string, bad error, good string) rotator.Line {
	if bad != nil {
		return rotator.Line{Check: check, Result: rotator.Fail, Detail: bad.Error()}
	}
	return rotator.Line{Check: check, Result: rotator.Pass, Detail: good}
}

const action = "ask the health endpoint"

// answer is what came back. Its body and headers are never quoted: what an application says
// of itself may hold what it uses.
type answer struct {
	*egress.Response
	settings *settings
}

func (c *connection) ask(ctx context.Context) (*answer, error) {
	s := c.settings
	header := http.Header{"User-Agent": {"vault-plugin-secrets-rotation"}, "Cache-Control": {"no-cache"}}
	request := egress.Request{Action: action, Method: s.Method, URL: s.URL, Header: header, Probe: true}
	if !s.token.Empty() {
		header.Set("Authorization", "Bearer "+s.token.Reveal())
		request.Secrets = []secret.String{s.token}
	}
	response, err := c.client.Do(ctx, request)
	if err != nil {
		return nil, err
	}
	return &answer{Response: response, settings: s}, nil
}

// String says what was seen.
func (a *answer) String() string {
	return fmt.Sprintf("%s answered %d", a.settings.target.Host, a.Status)
}

func (a *answer) badStatus() error {
	if a.settings.expected.admit(a.Status) {
		return nil
	}
	said := a.String()
	if a.redirects() {
		said += ", a redirect, which is not followed"
	}
	return fault.New(fault.Target, "%s: %s, expected %s", action, said, a.settings.expected)
}

func (a *answer) badBody() error {
	if a.settings.pattern == nil || a.settings.pattern.Match(a.Body) {
		return nil
	}
	return fault.New(fault.Target, "%s: %s, but the body does not match body_match", action, a)
}

func (a *answer) redirects() bool { return a.Status >= 300 && a.Status < 400 }

func (a *answer) refuses() bool {
	return a.Status == http.StatusUnauthorized || a.Status == http.StatusForbidden
}
