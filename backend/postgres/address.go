// Package postgres is the one place that speaks to PostgreSQL: addresses, TLS,
// pools, quoting, locks, SCRAM verifiers and the meaning of errors. Nothing else
// imports the driver.
package postgres

import (
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// The placeholders of a connection_url.
const (
	UsernamePlaceholder = "{{username}}"
	PasswordPlaceholder = "{{password}}"
)

// addressField is the option every error about an address names.
const addressField = "connection_url"

// maxAddress bounds a connection_url, in bytes.
const maxAddress = 4096

// Host is one host of an address.
type Host struct {
	Name string // DNS name or IP address, without brackets
	Port uint16
}

// Address is where a cluster is, without any credential.
type Address struct {
	Hosts    []Host
	Database string
	// SSLMode is libpq's; empty when it was not given, which means prefer.
	SSLMode            string
	TargetSessionAttrs string
	ChannelBinding     string
	ApplicationName    string
}

// ParseAddress reads a connection_url in either form that libpq knows (a
// postgresql:// URL or keyword=value pairs; see
// https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING),
// with one host or several. It is our own parser and not the driver's, because
// the driver's fills what is missing from the environment, the home directory and
// the files of the machine that runs Vault, and accepts parameters that name such
// files. Errors are Invalid and never quote the input: a mistyped password may
// stand anywhere in it.
func ParseAddress(connectionURL string) (*Address, error) {
	if len(connectionURL) > maxAddress {
		return nil, fault.Field(addressField, "must be at most %d bytes", maxAddress)
	}
	if strings.ContainsFunc(connectionURL, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return nil, fault.Field(addressField, "must not contain control characters")
	}
	var (
		p   *parameters
		err error
	)
	if rest, isURL := cutScheme(connectionURL); isURL {
		p, err = parseURL(rest)
	} else {
		p, err = parsePairs(connectionURL)
	}
	if err != nil {
		return nil, err
	}
	return p.address()
}

func cutScheme(s string) (rest string, found bool) {
	for _, scheme := range []string{"postgresql://", "postgres://"} {
		if rest, found = strings.CutPrefix(s, scheme); found {
			return rest, true
		}
	}
	return s, false
}

// parameters are a connection_url as written, before it is judged.
type parameters struct {
	hosts, ports   []string
	user, password string
	others         map[string]string
}

// refusals says why a parameter that libpq knows is not accepted here.
var refusals = map[string]string{
	"passfile":        "would read a file of the machine that runs Vault; give the password in password",
	"sslcert":         "would read a file of the machine that runs Vault; give the certificate in tls_certificate",
	"sslkey":          "would read a file of the machine that runs Vault; give the key in private_key",
	"sslrootcert":     "would read a file of the machine that runs Vault; give the authority's certificate in tls_ca",
	"sslpassword":     "is not accepted; give an unencrypted key in private_key",
	"sslcrl":          "would read a file of the machine that runs Vault",
	"sslcrldir":       "would read a file of the machine that runs Vault",
	"service":         "would read a file of the machine that runs Vault; write the host and database here",
	"servicefile":     "would read a file of the machine that runs Vault; write the host and database here",
	"options":         "is not accepted: it would change the sessions of the plugin",
	"connect_timeout": "is not accepted here; use the option connect_timeout",
	"require_auth":    "is not accepted here; use the option allow_weak_auth",
	"ssl":             "is not accepted; write sslmode=verify-full",
}

var (
	sslModes       = []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}
	sessionTargets = []string{"any", "read-write", "primary"}
	bindings       = []string{"disable", "prefer", "require"}
)

func (p *parameters) address() (*Address, error) {
	if p.user != "" && p.user != UsernamePlaceholder {
		return nil, fault.Field(addressField, "must not contain a user name: write %s and give the name in username", UsernamePlaceholder)
	}
	if p.password != "" && p.password != PasswordPlaceholder {
		return nil, fault.Field(addressField, "must not contain a password: write %s and give the password in password", PasswordPlaceholder)
	}
	a := &Address{}
	for name, value := range p.others {
		if err := a.set(name, value); err != nil {
			return nil, err
		}
	}
	if a.Database == "" {
		return nil, fault.Field(addressField, "must name the database")
	}
	if strings.Contains(a.Database, "{{") || strings.Contains(a.ApplicationName, "{{") {
		return nil, fault.Field(addressField, "may contain %s and %s only in the place of user and password", UsernamePlaceholder, PasswordPlaceholder)
	}
	return a, p.fillHosts(a)
}

// set takes over one parameter, or says why not.
func (a *Address) set(name, value string) error {
	known := map[string]struct {
		to     *string
		values []string
	}{
		"dbname":               {&a.Database, nil},
		"application_name":     {&a.ApplicationName, nil},
		"sslmode":              {&a.SSLMode, sslModes},
		"target_session_attrs": {&a.TargetSessionAttrs, sessionTargets},
		"channel_binding":      {&a.ChannelBinding, bindings},
	}
	parameter, isKnown := known[name]
	switch {
	case isKnown && parameter.values != nil && !slices.Contains(parameter.values, value):
		return fault.Field(addressField, "%s must be one of %s", name, strings.Join(parameter.values, ", "))
	case isKnown:
		*parameter.to = value
		return nil
	case refusals[name] != "":
		return fault.Field(addressField, "the parameter %s %s", name, refusals[name])
	}
	return fault.Field(addressField, "contains a parameter that is not known; known are sslmode, target_session_attrs, channel_binding and application_name")
}

// hostName is what a DNS name or an address may consist of: in particular no
// slash, which would make it a unix socket of the machine that runs Vault.
var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?$`)

func (p *parameters) fillHosts(a *Address) error {
	if len(p.hosts) == 0 {
		return fault.Field(addressField, "must name a host")
	}
	if len(p.ports) > 1 && len(p.ports) != len(p.hosts) {
		return fault.Field(addressField, "must have one port, or as many as hosts")
	}
	for i, name := range p.hosts {
		switch {
		case name == "":
			return fault.Field(addressField, "must name a host")
		case strings.HasPrefix(name, "/") || strings.HasPrefix(name, "@"):
			return fault.Field(addressField, "must not name a unix socket: it would be one of the machine that runs Vault")
		case net.ParseIP(name) == nil && !hostName.MatchString(name):
			return fault.Field(addressField, "contains a host that is neither a name nor an address")
		}
		h := Host{Name: name, Port: 5432}
		port := ""
		if len(p.ports) == 1 {
			port = p.ports[0]
		} else if len(p.ports) > 1 {
			port = p.ports[i]
		}
		if port != "" {
			n, err := strconv.ParseUint(port, 10, 16)
			if err != nil || n == 0 {
				return fault.Field(addressField, "contains a port that is not a number from 1 to 65535 (a special character of a name must be written as %%XX)")
			}
			h.Port = uint16(n)
		}
		a.Hosts = append(a.Hosts, h)
	}
	return nil
}

// URL is the address with a user's credential, for clients: everything is
// escaped, and what concerns the plugin alone (application_name) is left out.
func (a *Address) URL(user, password string) string {
	hosts := make([]string, len(a.Hosts))
	for i, h := range a.Hosts {
		hosts[i] = net.JoinHostPort(h.Name, strconv.Itoa(int(h.Port)))
	}
	query := url.Values{}
	for name, value := range map[string]string{
		"sslmode": a.SSLMode, "target_session_attrs": a.TargetSessionAttrs, "channel_binding": a.ChannelBinding,
	} {
		if value != "" {
			query.Set(name, value)
		}
	}
	out := "postgresql://" + escape(user) + ":" + escape(password) + "@" + strings.Join(hosts, ",") + "/" + escape(a.Database)
	if len(query) > 0 {
		out += "?" + query.Encode()
	}
	return out
}

// escape leaves only RFC 3986's unreserved characters as they are.
func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
