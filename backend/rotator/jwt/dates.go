package jwt

import (
	"encoding/json"
	"math"
	"strconv"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

const maxDate = 253402300799 // the last second of the year 9999

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
