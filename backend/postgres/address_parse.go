package postgres

import (
	"net/url"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// parseURL reads what follows the scheme:
// [user[:password]@]host[:port][,...]/database[?name=value[&...]].
func parseURL(s string) (*parameters, error) {
	p := &parameters{others: map[string]string{}}
	s, query, _ := strings.Cut(s, "?")
	authority, database, _ := strings.Cut(s, "/")
	// The last @, so that an unescaped one in a password cannot make a part of
	// the password look like a host.
	if at := strings.LastIndex(authority, "@"); at >= 0 {
		user, password, _ := strings.Cut(authority[:at], ":")
		authority = authority[at+1:]
		if err := unescapeInto(map[*string]string{&p.user: user, &p.password: password}); err != nil {
			return nil, err
		}
	}
	if strings.Contains(database, "@") {
		// Most likely a slash in a password that was not escaped.
		return nil, malformed()
	}
	for part := range strings.SplitSeq(authority, ",") {
		host, port, err := splitHost(part)
		if err != nil {
			return nil, err
		}
		p.hosts, p.ports = append(p.hosts, host), append(p.ports, port)
	}
	if database != "" {
		name, err := url.PathUnescape(database)
		if err != nil {
			return nil, malformed()
		}
		p.others["dbname"] = name
	}
	return p, p.parseQuery(query)
}

func splitHost(s string) (host, port string, err error) {
	if rest, bracketed := strings.CutPrefix(s, "["); bracketed {
		host, after, closed := strings.Cut(rest, "]")
		if port, given := strings.CutPrefix(after, ":"); closed && (given || after == "") {
			return host, port, nil
		}
		return "", "", malformed()
	}
	host, port, _ = strings.Cut(s, ":")
	if host, err = url.PathUnescape(host); err != nil || strings.Contains(host, ",") {
		return "", "", malformed()
	}
	return host, port, nil
}

func (p *parameters) parseQuery(query string) error {
	if query == "" {
		return nil
	}
	for pair := range strings.SplitSeq(query, "&") {
		rawName, rawValue, found := strings.Cut(pair, "=")
		var name, value string
		if err := unescapeInto(map[*string]string{&name: rawName, &value: rawValue}); err != nil || !found {
			return malformed()
		}
		switch name {
		case "host", "port", "user", "password", "dbname":
			return fault.Field(addressField, "must have %s in its place in the URL, not among the parameters", name)
		}
		if err := p.set(name, value); err != nil {
			return err
		}
	}
	return nil
}

// set keeps a parameter; a repeated one would mean different things to different
// readers.
func (p *parameters) set(name, value string) error {
	if _, repeated := p.others[name]; repeated {
		return fault.Field(addressField, "contains a parameter more than once")
	}
	p.others[name] = value
	return nil
}

// parsePairs reads keyword=value pairs, with libpq's quotes and backslashes.
func parsePairs(s string) (*parameters, error) {
	p := &parameters{others: map[string]string{}}
	for s = strings.TrimLeft(s, " "); s != ""; s = strings.TrimLeft(s, " ") {
		name, rest, found := strings.Cut(s, "=")
		name = strings.TrimRight(name, " ")
		if !found || name == "" || strings.Contains(name, " ") {
			return nil, fault.Field(addressField, "must be a postgresql:// URL or keyword=value pairs")
		}
		value, after, ok := pairValue(strings.TrimLeft(rest, " "))
		if !ok {
			return nil, malformed()
		}
		if err := p.set(name, value); err != nil {
			return nil, err
		}
		s = after
	}
	take := func(name string) (value string) {
		value = p.others[name]
		delete(p.others, name)
		return value
	}
	p.user, p.password = take("user"), take("password")
	if hosts := take("host"); hosts != "" {
		p.hosts = strings.Split(hosts, ",")
	}
	if ports := take("port"); ports != "" {
		p.ports = strings.Split(ports, ",")
	}
	return p, nil
}

// pairValue cuts one value, quoted or not, off the front of s.
func pairValue(s string) (value, rest string, ok bool) {
	quoted := strings.HasPrefix(s, "'")
	if quoted {
		s = s[1:]
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			i++
			if i == len(s) {
				return "", "", false
			}
			b.WriteByte(s[i])
		case quoted && c == '\'':
			rest = s[i+1:]
			return b.String(), rest, rest == "" || rest[0] == ' '
		case !quoted && c == ' ':
			return b.String(), s[i:], true
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), "", !quoted
}

func unescapeInto(values map[*string]string) (err error) {
	for to, from := range values {
		if *to, err = url.PathUnescape(from); err != nil {
			return malformed()
		}
	}
	return nil
}

func malformed() error {
	return fault.Field(addressField, "is malformed; write it as postgresql://%s:%s@host:5432/database?sslmode=verify-full, with special characters of a name as %%XX",
		UsernamePlaceholder, PasswordPlaceholder)
}
