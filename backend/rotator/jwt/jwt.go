// Package jwt is the kind of secret whose versions are signing keys for JSON Web
// Tokens (RFC 7519). Vault signs and verifies with them and serves the public
// halves as a JSON Web Key Set (RFC 7517); a version's identifier is its kid.
//
// Nothing is outside. The journal itself is the target: a key is published, and
// its tokens are honoured, while its version is standby, current or retiring and
// nothing has ended it. What a rotation must not break is what verifiers have
// cached, so each key is published for the announce period before it signs, and
// for the life of its last token after.
package jwt

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// Type is the type= of the roles.
const Type = "jwt"

// Rotator is the kind of secret.
type Rotator struct{}

var (
	_ rotator.Rotator   = (*Rotator)(nil)
	_ rotator.LiveUser  = (*Rotator)(nil)
	_ rotator.Prober    = (*Rotator)(nil)
	_ rotator.Restorer  = (*Rotator)(nil)
	_ rotator.Announcer = (*Rotator)(nil)
	_ rotator.Gracer    = (*Rotator)(nil)
	_ rotator.Adviser   = (*Rotator)(nil)
	_ rotator.Importer  = (*Rotator)(nil)
	_ rotator.Discloser = (*Rotator)(nil)
)

// New makes the kind.
func New() *Rotator { return &Rotator{} }

// Kind implements rotator.Rotator.
func (*Rotator) Kind() rotator.Kind {
	return rotator.Kind{
		Name: Type, Options: roleOptionSet,
		Period: 7 * 24 * time.Hour, Grace: defaultGrace(defaultTokenTTL, defaultClockSkew),
		Copied:   []string{"kid", "algorithm", "public_key", "public_jwk"}, // never a private key
		Outlives: true, RevokesAtOnce: true,
	}
}

// Plan implements rotator.Rotator.
func (*Rotator) Plan(_ context.Context, t *rotator.Target) (*rotator.Candidate, error) {
	o, err := decodeRole(t.Role)
	if err != nil {
		return nil, err
	}
	a, err := o.algorithm()
	if err != nil {
		return nil, err
	}
	if text := t.Role.Secrets[importKey]; !text.Empty() {
		return planImport(a, o.KeyBits, text)
	}
	bits, err := a.bits(o.KeyBits)
	if err != nil {
		return nil, err
	}
	private, err := generate(a, bits)
	if err != nil {
		return nil, err
	}
	return candidate(a, private, "")
}

// Prepare implements rotator.Rotator. The engine's own write publishes the key: all
// that is needed is that there is one.
func (*Rotator) Prepare(_ context.Context, t *rotator.Target) error {
	_, err := load(&t.Version, t.Material)
	return err
}

// Verify implements rotator.Rotator: what the private half signs must verify with
// the public half that is published under the version's kid.
func (*Rotator) Verify(_ context.Context, t *rotator.Target) error {
	k, err := load(&t.Version, t.Material)
	if err != nil {
		return fault.New(fault.AuthFailed, "version %d cannot sign: %w", t.Version.Number, err)
	}
	if !k.works() {
		return fault.New(fault.AuthFailed, "what the key %s signs does not verify with its public key", k.kid)
	}
	return nil
}

// Retire implements rotator.Rotator: the journal has taken the key out of the set.
func (*Rotator) Retire(context.Context, *rotator.Target, rotator.Stage) (rotator.Progress, error) {
	return rotator.Progress{}, nil
}

// Discard implements rotator.Rotator.
func (*Rotator) Discard(context.Context, *rotator.Target) (rotator.Progress, error) {
	return rotator.Progress{}, nil
}

// Render implements rotator.Rotator. The private key is in it where the role is
// exportable, which it must have been from the beginning; but not once another key has
// taken over: what this one signed now would outlive it.
func (*Rotator) Render(t *rotator.Target) (map[string]any, error) {
	o, err := decodeRole(t.Role)
	if err != nil {
		return nil, err
	}
	k, err := load(&t.Version, t.Material)
	if err != nil {
		return nil, err
	}
	public, err := encodePublic(k.public.Key)
	if err != nil {
		return nil, err
	}
	jwk, err := k.publicMap()
	if err != nil {
		return nil, err
	}
	out := map[string]any{"kid": k.kid, "algorithm": string(k.algorithm.name), "public_key": public, "public_jwk": jwk}
	if o.Exportable && t.Version.State != rotation.Retiring {
		out[privateKey] = t.Material[privateKey].Reveal()
	}
	return out, nil
}

// Discloses implements rotator.Discloser: without exportable no key leaves Vault.
func (*Rotator) Discloses(r *rotator.Role) bool {
	o, err := decodeRole(r)
	return err != nil || o.Exportable
}

// publicMap is the key's entry in the key set.
func (k *key) publicMap() (map[string]any, error) {
	raw, err := json.Marshal(k.public)
	if err != nil {
		return nil, fmt.Errorf("encode the public key: %w", err)
	}
	out := map[string]any{}
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, fmt.Errorf("encode the public key: %w", err)
	}
	return out, nil
}

// Restorable implements rotator.Restorer: a key that is kept can be published again.
func (*Rotator) Restorable(t *rotator.Target) string {
	if t.Material[privateKey].Empty() {
		return "its private key is not kept any more"
	}
	return ""
}

// Load implements rotator.LiveUser.
func (*Rotator) Load(v *rotation.Version, material secret.Map) (any, error) {
	return load(v, material)
}

// Use implements rotator.LiveUser. It answers the requests of this package.
func (*Rotator) Use(ctx context.Context, live *rotator.LiveVersions, request any) (any, error) {
	r, err := rulesOf(live)
	if err != nil {
		return nil, err
	}
	switch request := request.(type) {
	case SignRequest:
		return sign(ctx, r, live, request)
	case VerifyRequest:
		verified, _, err := verify(r, live, request)
		if err != nil {
			return nil, err
		}
		return verified, nil
	case KeySetRequest:
		return keySet(r, live)
	case DiscoveryRequest:
		return discovery(r, live, request)
	default:
		return nil, fault.New(fault.Invalid, "type %s does not answer this", Type)
	}
}
