package egress

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// call is a request that was admitted.
type call struct {
	Request
	url    *url.URL
	host   string // as it is called in errors: with the port, if the URL has one
	header http.Header
	// place is the host with its port, and bearer stands for the secrets of the request.
	place  string
	bearer bearer
}

// admit refuses what must not be sent. The URL is never quoted: a key may stand anywhere
// in it.
func (c *Client) admit(r Request) (*call, error) {
	invalid := func(format string, args ...any) error {
		return fault.New(fault.Invalid, "%s: %w", r.Action, fault.New(fault.Invalid, format, args...))
	}
	u, err := url.Parse(r.URL)
	switch {
	case err != nil || u.Opaque != "" || u.Hostname() == "" || !ascii(u.Host):
		return nil, invalid("the URL must be absolute, with a host in ASCII")
	case u.User != nil:
		return nil, invalid("the URL must not hold a user or a password")
	case u.Scheme == "http" && !c.options.AllowInsecureHTTP:
		return nil, invalid("the URL must begin with https://")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, invalid("the URL must begin with https://")
	case !HostAllowed(c.options.AllowedHosts, u.Hostname()):
		return nil, invalid("%s is not among the allowed hosts", r.Text(u.Host))
	case !token(r.Method):
		return nil, invalid("the method is not one of HTTP")
	}
	// Looked at here, since the transport's own error would come after the request counts as
	// attempted. A key that was stored with its newline ends here.
	for name, values := range r.Header {
		if !token(name) || strings.ContainsFunc(strings.Join(values, ""), unsendable) {
			return nil, invalid("a header holds characters that cannot be sent, such as a line break")
		}
	}
	header := r.Header.Clone()
	if header == nil {
		header = http.Header{}
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	return &call{
		Request: r, url: u, host: strings.ToLower(u.Host), header: header,
		place: net.JoinHostPort(strings.ToLower(u.Hostname()), port), bearer: bearerOf(r.Secrets),
	}, nil
}

// fault makes an error that says what was attempted, and where.
func (k *call) fault(kind fault.Kind, format string, args ...any) error {
	return fault.New(kind, "%s: %s: %w", k.Action, k.host, fault.New(kind, format, args...))
}

// HostAllowed tells whether a host is named by a list: exactly, or below *.example.com.
// Case does not matter, nor does the way an IP address is written. A port is no part of
// either.
func HostAllowed(allowed []string, host string) bool {
	if host == "" || !ascii(host) {
		return false
	}
	address, _ := netip.ParseAddr(host)
	for _, pattern := range allowed {
		if strings.EqualFold(pattern, host) {
			return true
		}
		if address.IsValid() {
			named, err := netip.ParseAddr(strings.Trim(pattern, "[]"))
			if err == nil && named == address {
				return true
			}
			continue
		}
		if below(pattern, host) {
			return true
		}
	}
	return false
}

// below tells whether a pattern is *.example.com and host a name under example.com.
func below(pattern, host string) bool {
	suffix, ok := strings.CutPrefix(pattern, "*")
	if !ok || len(suffix) < 2 || suffix[0] != '.' || len(host) <= len(suffix) {
		return false
	}
	return host[0] != '.' && strings.EqualFold(host[len(host)-len(suffix):], suffix)
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > '~' || r <= ' ' })
}

// token tells whether a text may be a method or the name of a header (RFC 9110, 5.6.2).
func token(s string) bool {
	return s != "" && ascii(s) && !strings.ContainsAny(s, `"(),/:;<=>?@[\]{}`)
}

func unsendable(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }
