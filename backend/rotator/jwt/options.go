package jwt

import (
	"slices"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

var roleOptionSet = option.Set{
	{Name: "algorithm", Type: option.String, Default: "RS256", Immutable: true, Help: "How tokens are signed: RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512 or EdDSA (Ed25519)."},
	{Name: "key_bits", Type: option.Int, Help: "Size of the keys of the RSA algorithms: 2048, 3072 or 4096, which is the default; it cannot be changed. An imported key keeps its own size, which must be this one if it is given. The size of the other keys follows from the algorithm."},
	{Name: "token_ttl", Type: option.Duration, Default: int64(defaultTokenTTL / time.Second), Help: "The longest life of a token, and the life of one for which nothing else was asked; from 1s to 365d."},
	{Name: "announce_period", Type: option.Duration, Default: int64(0), Help: "How long a key is published before it signs. Verifiers may cache the keys for half of it, and at most 1h. Default: the lesser of 24h and a quarter of the time between two rotations, and at least twice clock_skew."},
	{Name: "clock_skew", Type: option.Duration, Default: int64(defaultClockSkew / time.Second), Help: "How far the clocks of verifiers may differ; at most 1h."},
	{Name: "allowed_claims", Type: option.List, Help: "The claims that callers may set. Default: none. iat, exp and jti are set anyway; exp, nbf and jti may be left to callers by being named here, iat may not."},
	{Name: "claims_template", Type: option.String, Help: "A JSON object of claims that every token has. It may hold identity placeholders, which become JSON values and stand without quotes: {\"sub\": {{identity.entity.id}}}. Callers cannot change what it sets."},
	{Name: "allowed_headers", Type: option.List, Default: []string{"typ"}, Help: "The header parameters that callers may set. Those that say how a token is to be verified are never among them."},
	{Name: "issuer", Type: option.String, Help: "The iss of every token, without which verify refuses it. For OpenID discovery, the URL under which it is found."},
	{Name: "exportable", Type: option.Bool, Default: false, Immutable: true, Help: "Readers of creds get the private key, and sign by themselves."},
	{Name: importKey, Type: option.String, Secret: true, Help: "An existing private key that becomes version 1: PEM (PKCS#8, PKCS#1, SEC1) or a JWK, whose kid is kept. It must be one for the algorithm."},
}

// importKey is the option that brings a key along.
const importKey = "import_key"

type roleOptions struct {
	Algorithm      string            `json:"algorithm"`
	KeyBits        int64             `json:"key_bits"`
	TokenTTL       rotation.Duration `json:"token_ttl"`
	AnnouncePeriod rotation.Duration `json:"announce_period"`
	ClockSkew      rotation.Duration `json:"clock_skew"`
	AllowedClaims  []string          `json:"allowed_claims"`
	ClaimsTemplate string            `json:"claims_template"`
	AllowedHeaders []string          `json:"allowed_headers"`
	Issuer         string            `json:"issuer"`
	Exportable     bool              `json:"exportable"`
}

// Bounds of what a role may carry.
const (
	maxAllowedClaims  = 64
	maxAllowedHeaders = 16
	maxNameBytes      = 128
	maxIssuerBytes    = 512
	maxTemplateBytes  = 4096
)

func decodeRole(r *rotator.Role) (*roleOptions, error) {
	var o roleOptions
	if err := roleOptionSet.Decode(r.Values, &o); err != nil {
		return nil, err
	}
	return &o, nil
}

// CheckRole implements rotator.Rotator.
func (*Rotator) CheckRole(before, after *rotator.Role) error {
	o, err := decodeRole(after)
	if err != nil {
		return err
	}
	a, err := o.algorithm()
	if err != nil {
		return err
	}
	for _, check := range []func() error{
		func() error { return o.checkBits(a, before) },
		func() error { return o.checkTimes(after) },
		o.checkIssuer,
		o.checkAllowedClaims,
		o.checkTemplate,
		o.checkAllowedHeaders,
		func() error { return checkImport(a, o.KeyBits, after.Secrets[importKey]) },
	} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (o *roleOptions) algorithm() (*algorithm, error) {
	a := algorithmNamed(o.Algorithm)
	if a == nil {
		return nil, fault.Field("algorithm", "is not known; valid is %s", algorithmNames())
	}
	return a, nil
}

// checkBits refuses a size that is not of the algorithm, or another one than before:
// keys are told apart by nothing else that a verifier was set up for. That the default
// was written out is no change.
func (o *roleOptions) checkBits(a *algorithm, before *rotator.Role) error {
	bits, err := a.bits(o.KeyBits)
	if err != nil || before == nil {
		return err
	}
	was, err := decodeRole(before)
	if err != nil {
		return err
	}
	if known, err := a.bits(was.KeyBits); err == nil && known != bits {
		return fault.Field("key_bits", "is %d and cannot be changed once the role exists: make another role", known)
	}
	return nil
}

func (o *roleOptions) checkIssuer() error {
	switch {
	case o.Issuer == "":
		return nil
	case len(o.Issuer) > maxIssuerBytes:
		return fault.Field("issuer", "must be at most %d bytes", maxIssuerBytes)
	case !stringOrURI(o.Issuer):
		return fault.Field("issuer", "must be a URI, since it has a colon (RFC 7519, StringOrURI)")
	}
	return nil
}

func (o *roleOptions) checkAllowedClaims() error {
	if err := checkNames("allowed_claims", o.AllowedClaims, maxAllowedClaims); err != nil {
		return err
	}
	if slices.Contains(o.AllowedClaims, "iat") {
		return fault.Field("allowed_claims", "must not have iat: when a token was made is always set here")
	}
	for _, name := range o.AllowedClaims {
		if meant := lookalike(name, registeredClaims); meant != "" {
			return fault.Field("allowed_claims", "must not have %s, which many programs take for %s", quoted(name), meant)
		}
	}
	return nil
}

// registeredClaims are those of RFC 7519.
var registeredClaims = []string{"aud", "exp", "iat", "iss", "jti", "nbf", "sub"}

// lookalike finds the name from which another differs in nothing but case, "" for none:
// a program that reads names without regard to it takes the one for the other.
func lookalike(name string, names []string) string {
	for _, n := range names {
		if n != name && strings.EqualFold(n, name) {
			return n
		}
	}
	return ""
}

// fixedHeaders say how a token is to be verified, or would change what its bytes
// mean: whoever chooses them chooses the key.
var fixedHeaders = []string{"alg", "kid", "jwk", "jku", "x5u", "x5c", "x5t", "x5t#S256", "crit", "b64", "enc", "zip"}

func (o *roleOptions) checkAllowedHeaders() error {
	if err := checkNames("allowed_headers", o.AllowedHeaders, maxAllowedHeaders); err != nil {
		return err
	}
	for _, name := range o.AllowedHeaders {
		if slices.Contains(fixedHeaders, name) || lookalike(name, fixedHeaders) != "" {
			return fault.Field("allowed_headers", "must not have %s: it says how a token is to be verified", name)
		}
	}
	return nil
}

func checkNames(field string, names []string, most int) error {
	if len(names) > most {
		return fault.Field(field, "must be at most %d names", most)
	}
	for _, name := range names {
		if strings.TrimSpace(name) == "" || len(name) > maxNameBytes {
			return fault.Field(field, "must be names of 1 to %d bytes", maxNameBytes)
		}
	}
	return nil
}
