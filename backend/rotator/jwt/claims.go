package jwt

import (
	"encoding/json"
	"fmt"
	"maps"
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
	if err != nil || !finite(value) {
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
