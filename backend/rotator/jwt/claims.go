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
	// template are the claims that the role's template sets for who asks.
	template map[string]any
	// common is what all tokens have in common, as JSON.
	common []byte
}

// fill makes the claims of one token. They are put together as text: an encoder that
// has to find out what they are would take a good part of the time that an elliptic curve does.
func (f *form) fill(item *SignItem) (claims []byte, expire time.Time, err error) {
	if err := f.refuse(item.Claims); err != nil {
		return nil, expire, err
	}
	if err := checkRegistered(claimsField, item.Claims, false); err != nil {
		return nil, expire, err
	}
	expire, exp, err := f.expire(item)
	if err != nil {
		return nil, expire, err
	}
	claims = make([]byte, 0, len(f.common)+256)
	claims = append(claims, f.common...)
	claims = append(claims, `,"exp":`...)
	if claims, err = appendValue(claims, "exp", exp); err != nil {
		return nil, expire, err
	}
	if claims, err = f.appendGiven(claims, item.Claims, expire); err != nil {
		return nil, expire, err
	}
	if claims, err = appendID(claims, item.Claims); err != nil {
		return nil, expire, err
	}
	return append(claims, '}'), expire, nil
}

// fillCommon writes what all tokens have in common.
func (f *form) fillCommon() (err error) {
	out := strconv.AppendInt([]byte(`{"iat":`), f.now.Unix(), 10)
	common := maps.Clone(f.template)
	if f.Issuer != "" {
		if common == nil {
			common = map[string]any{}
		}
		common["iss"] = f.Issuer
	}
	for _, name := range slices.Sorted(maps.Keys(common)) {
		out = append(out, asMember(name)...)
		if out, err = appendValue(out, name, common[name]); err != nil {
			return err
		}
	}
	f.common = out
	return nil
}

// appendGiven writes what the caller sets, but for exp.
func (f *form) appendGiven(out []byte, given map[string]any, expire time.Time) (_ []byte, err error) {
	for name, value := range given {
		switch name {
		case "exp":
			continue
		case "iss":
			if f.Issuer == "" {
				break
			}
			if value != f.Issuer {
				return nil, fault.Field(claimsField, "must have the role's issuer as iss, or none: it is %s", quoted(f.Issuer))
			}
			continue
		case "nbf":
			if value, err = notBefore(value, expire); err != nil {
				return nil, err
			}
		}
		out = append(out, f.claims[name]...)
		if out, err = appendValue(out, name, value); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// appendID writes a jti where the caller gives none.
func appendID(out []byte, given map[string]any) ([]byte, error) {
	if _, ok := given["jti"]; ok {
		return out, nil
	}
	id, err := uuid.GenerateUUID()
	if err != nil {
		return nil, fmt.Errorf("make a jti: %w", err)
	}
	return append(append(append(out, `,"jti":"`...), id...), '"'), nil
}

// appendValue writes one value.
func appendValue(out []byte, name string, value any) ([]byte, error) {
	if n, ok := value.(int64); ok {
		return strconv.AppendInt(out, n, 10), nil
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return nil, fault.Field(claimsField, "have a value that cannot be written as JSON: %s", quoted(name))
	}
	return append(out, raw...), nil
}

// asMember is how a further member of an object begins.
func asMember(name string) string {
	raw, err := json.Marshal(name)
	if err != nil { // no text is like that
		return ""
	}
	return "," + string(raw) + ":"
}

// refuse says everything at once that the caller may not set.
func (f *form) refuse(claims map[string]any) error {
	var refused []string
	for name := range claims {
		if _, set := f.template[name]; set || f.claims[name] == "" {
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

// expire is when a token is to end, and the number that says so in it.
func (f *form) expire(item *SignItem) (expire time.Time, exp any, err error) {
	now := time.Unix(f.now.Unix(), 0).UTC() // iat has no fractions
	given, expGiven := item.Claims["exp"]
	switch {
	case expGiven && item.TTL != 0:
		return expire, nil, fault.Field("ttl", "and the claim exp exclude each other: give one of them")
	case expGiven:
		return f.givenExpire(given, now.Add(f.longest))
	case item.TTL == 0:
		expire = now.Add(f.longest)
	case item.TTL < time.Second:
		return expire, nil, fault.Field("ttl", "must be at least 1s")
	case item.TTL > f.longest:
		return expire, nil, fault.Field("ttl", "must be at most %s, the longest life of this role's tokens", f.longest)
	default:
		expire = now.Add(item.TTL.Truncate(time.Second))
	}
	return expire, expire.Unix(), nil
}

func (f *form) givenExpire(given any, latest time.Time) (expire time.Time, exp any, err error) {
	expire, exp, err = numericDate("exp", given)
	switch {
	case err != nil:
		return expire, nil, err
	case !expire.After(f.now):
		return expire, nil, fault.Field(claimsField, "must have an exp in the future: it is now %d", f.now.Unix())
	case expire.After(latest):
		return expire, nil, fault.Field(claimsField, "must have an exp of at most %d (%s): this role's tokens live for at most %s", latest.Unix(), stamp(latest), f.longest)
	}
	return expire, exp, nil
}

// notBefore checks an nbf and gives the number that the token is to have.
func notBefore(given any, expire time.Time) (any, error) {
	begin, number, err := numericDate("nbf", given)
	if err != nil {
		return nil, err
	}
	if !begin.Before(expire) {
		return nil, fault.Field(claimsField, "must have an nbf before its exp, which is %d", expire.Unix())
	}
	return number, nil
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
