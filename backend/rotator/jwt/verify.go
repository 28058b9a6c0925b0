package jwt

import (
	"fmt"
	"slices"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// refusal is why a token is not good.
type refusal struct {
	reason string
	// ofKey tells that no token of the key it names would be.
	ofKey bool
}

func refuse(format string, args ...any) *refusal {
	return &refusal{reason: fmt.Sprintf(format, args...)}
}

// refuseKey refuses whatever a version's key signed.
func refuseKey(v *rotation.Version) *refusal {
	return &refusal{reason: fmt.Sprintf("the token's key %s %s", v.Identifier, ended(v)), ofKey: true}
}

// verify tells whether a token is good. Only what is no token at all is an error.
func verify(r *rules, live *rotator.LiveVersions, request VerifyRequest) (*Verified, *refusal, error) {
	t, err := parseToken(request.Token)
	if err != nil {
		return nil, nil, err
	}
	out := &Verified{}
	claims, why, err := accept(live, t, out)
	if err != nil {
		return nil, nil, err
	}
	if why == nil {
		why = r.acceptClaims(claims, request.Audience, live.Now)
	}
	if why != nil {
		out.Reason = why.reason
		return out, why, nil
	}
	out.Active, out.Claims = true, claims
	return out, nil, nil
}

// accept finds the key that a token names, and checks its signature.
func accept(live *rotator.LiveVersions, t *token, out *Verified) (map[string]any, *refusal, error) {
	if why := t.acceptHeader(); why != nil {
		return nil, why, nil
	}
	found, why := honoured(live, t.param("kid"), out)
	if why != nil {
		return nil, why, nil
	}
	k, err := readyKey(found)
	if err != nil {
		return nil, nil, err
	}
	// The key says how it signs; what the token says must be the same, and decides
	// nothing.
	if alg := t.param("alg"); alg != string(k.algorithm.name) {
		return nil, refuse("the token says alg %s, but its key signs with %s alone", quoted(alg), k.algorithm.name), nil
	}
	payload, ok := k.open(t.text)
	if !ok {
		return nil, refuse("the token's signature is not that of the key %s", k.kid), nil
	}
	claims, ok := decodeObject(payload)
	if !ok {
		return nil, refuse("the token's claims are not a JSON object"), nil
	}
	return claims, nil, nil
}

// acceptHeader refuses what could lead to another key than the role's, or change how
// the token's bytes are to be read.
func (t *token) acceptHeader() *refusal {
	if name := t.has("crit", "b64", "zip", "enc"); name != "" {
		return refuse("the token has the header parameter %s, which is not supported", name)
	}
	if name := t.has("jwk", "jku", "x5u", "x5c"); name != "" {
		return refuse("the token brings a key of its own (%s): only those of the role count", name)
	}
	if t.param("kid") == "" {
		return refuse("the token has no kid, so that its key is not known")
	}
	return nil
}

// published tells whether a version's key is in the key set and its tokens are
// honoured.
func published(v *rotation.Version) bool {
	return (v.State == rotation.Standby || v.State == rotation.Current || v.State == rotation.Retiring) &&
		!v.Compromised && v.KilledTime.IsZero() && v.RetireBegun.IsZero()
}

// honoured finds the published version of a kid, and notes it in the answer.
func honoured(live *rotator.LiveVersions, kid string, out *Verified) (*rotator.Live, *refusal) {
	note := func(v *rotation.Version) { out.KeyID, out.Version = v.Identifier, v.Number }
	for i := range live.All {
		v := &live.All[i].Version
		if v.Identifier != kid {
			continue
		}
		note(v)
		if !published(v) {
			return nil, refuseKey(v)
		}
		return &live.All[i], nil
	}
	for i := range live.Ended {
		if v := &live.Ended[i]; v.Identifier == kid {
			note(v)
			return nil, refuseKey(v)
		}
	}
	return nil, &refusal{reason: fmt.Sprintf("the key %s is not one of this role", quoted(kid)), ofKey: true}
}

// ended says what became of a version's key that is not published.
func ended(v *rotation.Version) string {
	switch {
	case v.Compromised:
		return "was compromised and is revoked"
	case v.State == rotation.Pending && !v.Undo:
		return "is not in use yet"
	case v.State == rotation.Discarded, v.State == rotation.Pending:
		return "was given up before it was used"
	default:
		return "was retired"
	}
}

// acceptClaims checks what the claims say of the token itself.
func (r *rules) acceptClaims(claims map[string]any, audience string, now time.Time) *refusal {
	if why := r.acceptTimes(claims, now); why != nil {
		return why
	}
	if r.Issuer != "" && claims["iss"] != r.Issuer {
		return refuse("the token's iss is not the role's issuer")
	}
	if audience != "" && !isFor(claims["aud"], audience) {
		return refuse("the token is not for the audience %s", quoted(audience))
	}
	return nil
}

// acceptTimes allows for clocks that differ, which its key's life allows for too.
func (r *rules) acceptTimes(claims map[string]any, now time.Time) *refusal {
	skew := r.ClockSkew.Std()
	expire, why := timeOf(claims, "exp")
	switch {
	case why != nil:
		return why
	case expire.IsZero():
		return refuse("the token has no exp")
	case !now.Before(expire.Add(skew)):
		return refuse("the token ended at %s", expire.Format(time.RFC3339))
	}
	for _, c := range []struct{ name, sentence string }{
		{"nbf", "the token is not valid before %s"}, {"iat", "the token was made in the future, at %s"},
	} {
		at, why := timeOf(claims, c.name)
		if why != nil {
			return why
		}
		if at.After(now.Add(skew)) {
			return refuse(c.sentence, at.Format(time.RFC3339))
		}
	}
	return nil
}

// timeOf reads a time of the token, zero when it has none.
func timeOf(claims map[string]any, name string) (time.Time, *refusal) {
	value, given := claims[name]
	if !given {
		return time.Time{}, nil
	}
	at, _, err := numericDate(name, value)
	if err != nil {
		return at, refuse("the token's %s is not a time in seconds since 1970", name)
	}
	return at, nil
}

// isFor tells whether an audience is among those of a token.
func isFor(aud any, audience string) bool {
	if list, ok := aud.([]any); ok {
		return slices.Contains(list, any(audience))
	}
	return aud == audience
}
