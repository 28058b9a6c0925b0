package jwt

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-uuid"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

const (
	claimsField = "claims"
	// maxClaimsBytes bounds the claims as JSON; the token is bounded too.
	maxClaimsBytes = 16 << 10

	maxDate = 253402300799 // the last second of the year 9999
)

// form makes the claims of the tokens of one request.
type form struct {
	*rules
	now time.Time
	// longest is the longest life a token may have.
	longest time.Duration
	// template are the claims that every token has.
	template map[string]any
}

// fill makes the claims of one token.
func (f *form) fill(item *SignItem) (claims map[string]any, expire time.Time, err error) {
	if err := f.refuse(item.Claims); err != nil {
		return nil, expire, err
	}
	claims = make(map[string]any, len(f.template)+len(item.Claims)+4)
	maps.Copy(claims, f.template)
	maps.Copy(claims, item.Claims)
	claims["iat"] = f.now.Unix()
	if expire, err = f.fillTimes(claims, item.TTL); err != nil {
		return nil, expire, err
	}
	if err := f.fillNames(claims); err != nil {
		return nil, expire, err
	}
	return claims, expire, checkRegistered(claimsField, claims, false)
}

// refuse says everything at once that the caller may not set.
func (f *form) refuse(claims map[string]any) error {
	var refused []string
	for name := range claims {
		if _, set := f.template[name]; set || !f.claims[name] {
			refused = append(refused, name)
		}
	}
	slices.Sort(refused)
	for i, name := range refused {
		if _, set := f.template[name]; set {
			return fault.Field(claimsField, "must not set %s: the role's claims_template does", quoted(name))
		}
		if name == "iat" {
			return fault.Field(claimsField, "must not set iat: it is set here to when the token is made")
		}
		refused[i] = quoted(name)
	}
	if refused == nil {
		return nil
	}
	return fault.Field(claimsField, "%s not allowed by the role; its allowed_claims are %s", listed(refused), namesOrNone(f.AllowedClaims))
}

// fillTimes sets exp, and checks it and nbf.
func (f *form) fillTimes(claims map[string]any, ttl time.Duration) (expire time.Time, err error) {
	latest := time.Unix(f.now.Unix(), 0).Add(f.longest).UTC()
	given, expGiven := claims["exp"]
	switch {
	case expGiven && ttl != 0:
		return expire, fault.Field("ttl", "and the claim exp exclude each other: give one of them")
	case expGiven:
		if expire, err = f.fillExpire(claims, given, latest); err != nil {
			return expire, err
		}
	case ttl != 0 && ttl < time.Second:
		return expire, fault.Field("ttl", "must be at least 1s")
	case ttl > f.longest:
		return expire, fault.Field("ttl", "must be at most %s, the longest life of this role's tokens", f.longest)
	default:
		expire = latest
		if ttl != 0 {
			expire = time.Unix(f.now.Unix(), 0).Add(ttl.Truncate(time.Second)).UTC()
		}
		claims["exp"] = expire.Unix()
	}
	return expire, fillNotBefore(claims, expire)
}

func (f *form) fillExpire(claims map[string]any, given any, latest time.Time) (expire time.Time, err error) {
	if expire, claims["exp"], err = numericDate("exp", given); err != nil {
		return expire, err
	}
	if !expire.After(f.now) {
		return expire, fault.Field(claimsField, "must have an exp in the future: it is now %d", f.now.Unix())
	}
	if expire.After(latest) {
		return expire, fault.Field(claimsField, "must have an exp of at most %d (%s): this role's tokens live for at most %s", latest.Unix(), latest.Format(time.RFC3339), f.longest)
	}
	return expire, nil
}

func fillNotBefore(claims map[string]any, expire time.Time) error {
	given, ok := claims["nbf"]
	if !ok {
		return nil
	}
	notBefore, number, err := numericDate("nbf", given)
	if err != nil {
		return err
	}
	if !notBefore.Before(expire) {
		return fault.Field(claimsField, "must have an nbf before its exp, which is %d", expire.Unix())
	}
	claims["nbf"] = number
	return nil
}

// fillNames sets jti and iss.
func (f *form) fillNames(claims map[string]any) error {
	if _, given := claims["jti"]; !given {
		id, err := uuid.GenerateUUID()
		if err != nil {
			return fmt.Errorf("make a jti: %w", err)
		}
		claims["jti"] = id
	}
	if f.Issuer == "" {
		return nil
	}
	if given, ok := claims["iss"]; ok && given != f.Issuer {
		return fault.Field(claimsField, "must have the role's issuer as iss, or none: it is %s", quoted(f.Issuer))
	}
	claims["iss"] = f.Issuer
	return nil
}

// numericDate reads a time as RFC 7519 writes it, in seconds since 1970, and gives the
// number that the token is to have.
func numericDate(name string, value any) (at time.Time, number any, err error) {
	seconds, ok := toFloat(value)
	switch {
	case !ok:
		return at, nil, fault.Field(claimsField, "must have a number as %s: seconds since 1970 (RFC 7519, NumericDate)", name)
	case seconds < 0:
		return at, nil, fault.Field(claimsField, "must not have an %s before 1970", name)
	case seconds > maxDate:
		return at, nil, fault.Field(claimsField, "must have an %s in seconds and before the year 10000: this looks like milliseconds", name)
	}
	whole, fraction := math.Modf(seconds)
	at = time.Unix(int64(whole), int64(fraction*1e9)).UTC()
	if fraction == 0 {
		return at, int64(whole), nil
	}
	return at, seconds, nil
}

// toFloat takes what JSON numbers are decoded to.
func toFloat(value any) (float64, bool) {
	var f float64
	switch v := value.(type) {
	case json.Number:
		var err error
		if f, err = strconv.ParseFloat(string(v), 64); err != nil {
			return 0, false
		}
	case float64:
		f = v
	case int64:
		f = float64(v)
	case int:
		f = float64(v)
	default:
		return 0, false
	}
	return f, !math.IsNaN(f) && !math.IsInf(f, 0)
}

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

// quoted shows a name that somebody else wrote, as much of it as a sentence bears.
func quoted(name string) string {
	if len(name) > maxNameBytes {
		name = strings.ToValidUTF8(name[:maxNameBytes], "") + "..."
	}
	return strconv.Quote(name)
}

// maxListed bounds how many names a sentence lists.
const maxListed = 20

// listed makes the beginning of a sentence of quoted names.
func listed(names []string) string {
	verb := " are"
	if len(names) == 1 {
		verb = " is"
	}
	if len(names) > maxListed {
		return fmt.Sprintf("%s and %d more are", strings.Join(names[:maxListed], ", "), len(names)-maxListed)
	}
	return strings.Join(names, ", ") + verb
}

func namesOrNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
