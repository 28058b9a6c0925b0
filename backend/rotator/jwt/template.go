package jwt

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/helper/identitytpl"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// A claims template is JSON with identity placeholders, as in Vault's own OIDC
// provider: a placeholder stands where a value stands and yields JSON.

const templateField = "claims_template"

// ownClaims are made here or follow from other options.
var ownClaims = []string{"exp", "iat", "iss", "jti", "nbf"}

func (o *roleOptions) checkTemplate() error {
	if o.ClaimsTemplate == "" {
		return nil
	}
	if len(o.ClaimsTemplate) > maxTemplateBytes {
		return fault.Field(templateField, "must be at most %d bytes", maxTemplateBytes)
	}
	filled, err := fillBlank(o.ClaimsTemplate)
	if err != nil {
		return err
	}
	claims, ok := decodeObject([]byte(filled))
	if !ok {
		return fault.Field(templateField, "must be a JSON object; placeholders become JSON values and stand without quotes: {\"sub\": {{identity.entity.id}}}")
	}
	if err := checkTemplateNames(claims); err != nil {
		return err
	}
	set := slices.Collect(maps.Keys(claims))
	for _, name := range o.AllowedClaims {
		if slices.Contains(set, name) || lookalike(name, set) != "" {
			return fault.Field("allowed_claims", "must not have %s, which claims_template sets", name)
		}
	}
	return checkRegistered(templateField, claims, true)
}

// checkTemplateNames refuses claims that are not the template's to set. An empty name
// is that of a placeholder: whoever asks would choose the claim.
func checkTemplateNames(claims map[string]any) error {
	for _, name := range slices.Sorted(maps.Keys(claims)) {
		switch {
		case name == "" || len(name) > maxNameBytes:
			return fault.Field(templateField, "must name its claims, with at most %d bytes; only their values may be placeholders", maxNameBytes)
		case name == "iss":
			return fault.Field(templateField, "must not set iss: it is the role's issuer")
		case slices.Contains(ownClaims, name):
			return fault.Field(templateField, "must not set %s: it is made for each token", name)
		case lookalike(name, registeredClaims) != "":
			return fault.Field(templateField, "must not set %s, which many programs take for %s", quoted(name), lookalike(name, registeredClaims))
		case lookalike(name, slices.Collect(maps.Keys(claims))) != "":
			return fault.Field(templateField, "must not set two claims whose names differ in case alone: %s", quoted(name))
		}
	}
	return nil
}

// fillBlank fills a template in for nobody, which shows placeholders that Vault does
// not know.
func fillBlank(text string) (string, error) {
	in := identitytpl.PopulateStringInput{String: text, Mode: identitytpl.JSONTemplating, Now: time.Unix(0, 0)}
	blank(&in.Entity)
	_, filled, err := identitytpl.PopulateString(in)
	switch {
	case err == nil:
		return filled, nil
	case errors.Is(err, identitytpl.ErrUnbalancedTemplatingCharacter):
		return "", fault.Field(templateField, "has braces that do not match: write placeholders like {{identity.entity.id}}, and a space between braces that close objects")
	case errors.Is(err, identitytpl.ErrNoGroupsAttachedToToken):
		return "", fault.Field(templateField, "must not have placeholders of identity.groups: identity.entity.groups.names lists the groups of who asks")
	default:
		return "", fault.Field(templateField, "has a placeholder that is not known: see Vault's identity templates (identity.entity..., time.now...)")
	}
}

// blank sets a pointer to a zero value, of a type that only Vault's SDK has a name for.
func blank[T any](p **T) { *p = new(T) }

// templateClaims are the claims that the role's template sets for who asks.
func (r *rules) templateClaims(populate func(string) (string, error)) (map[string]any, error) {
	filled := r.ClaimsTemplate
	if filled == "" {
		return nil, nil
	}
	if strings.Contains(filled, "{{") {
		if populate == nil {
			return nil, fault.New(fault.Invalid, "the role's claims_template needs an identity, which the caller has not")
		}
		var err error
		if filled, err = populate(filled); err != nil {
			return nil, fault.New(fault.KindOf(err), "the role's claims_template cannot be filled in for the caller: %w", err)
		}
	}
	claims, ok := decodeObject([]byte(filled))
	if !ok {
		return nil, fault.New(fault.Invalid, "the role's claims_template is no JSON object when it is filled in for the caller")
	}
	if err := checkTemplateNames(claims); err != nil {
		return nil, err
	}
	return claims, checkRegistered(templateField, claims, false)
}

// decodeObject reads one JSON object and nothing after it, with its numbers as they
// are written; but none that no program could read.
func decodeObject(raw []byte) (map[string]any, bool) {
	var out map[string]any
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&out); err != nil || out == nil {
		return nil, false
	}
	_, err := dec.Token()
	return out, errors.Is(err, io.EOF) && finite(out)
}

// finite tells whether every number of a value is one that a floating point number can
// hold, as programs read them (RFC 8259, section 6).
func finite(value any) bool {
	switch v := value.(type) {
	case json.Number:
		_, err := v.Float64()
		return err == nil
	case map[string]any:
		for _, member := range v {
			if !finite(member) {
				return false
			}
		}
	case []any:
		return !slices.ContainsFunc(v, func(one any) bool { return !finite(one) })
	}
	return true
}
