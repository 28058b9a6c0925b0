package jwt

import (
	"net/url"
	"slices"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// checkRegistered checks the claims whose form RFC 7519 fixes, but for times. In a
// template that was filled in for nobody, values may be empty.
func checkRegistered(field string, claims map[string]any, blank bool) error {
	for _, name := range []string{"iss", "sub", "jti"} {
		if value, given := claims[name]; given && !isName(value, blank) {
			return fault.Field(field, "must have a string as %s, which is a URI if it has a colon (RFC 7519, StringOrURI)", name)
		}
	}
	if value, given := claims["aud"]; given && !isAudience(value, blank) {
		return fault.Field(field, "must have a string or a list of strings as aud, which are URIs if they have a colon (RFC 7519)")
	}
	return nil
}

func isName(value any, blank bool) bool {
	s, ok := value.(string)
	return ok && (s != "" || blank) && stringOrURI(s)
}

func isAudience(value any, blank bool) bool {
	switch v := value.(type) {
	case []any:
		return (len(v) > 0 || blank) && !slices.ContainsFunc(v, func(one any) bool { return !isName(one, blank) })
	case []string:
		return (len(v) > 0 || blank) && !slices.ContainsFunc(v, func(one string) bool { return !isName(one, blank) })
	case nil:
		return blank
	}
	return isName(value, blank)
}

// stringOrURI is the form of iss, sub and aud in RFC 7519: what has a colon is a URI.
func stringOrURI(s string) bool {
	if !strings.Contains(s, ":") {
		return true
	}
	u, err := url.Parse(s)
	return err == nil && u.Scheme != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f })
}
