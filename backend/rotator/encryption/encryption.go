// Package encryption is the kind of secret whose versions are symmetric keys that
// encrypt inside Vault. Ciphertexts have the form, and keys the use, that Vault's
// transit engine gives them, so that both decrypt what the other made with a key.
//
// Nothing is outside but what applications stored: the journal itself is the target. Only
// of a role with a backend is the key elsewhere, with a transit engine: transit*.go.
// The current version encrypts; all that live decrypt. A version's key is lost with it,
// so the engine lets the data follow before a version ends (rotator.DataKeeper), and
// Vault refuses a version from the moment on at which its retirement begins.
package encryption

import (
	"context"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// Type is the type= of the roles.
const Type = "encryption-key"

// Rotator is the kind of secret.
type Rotator struct{}

var (
	_ rotator.Rotator    = (*Rotator)(nil)
	_ rotator.DataKeeper = (*Rotator)(nil)
	_ rotator.Prober     = (*Rotator)(nil)
	_ rotator.Restorer   = (*Rotator)(nil)
	_ rotator.Importer   = (*Rotator)(nil)
	_ rotator.Warner     = (*Rotator)(nil)
	_ rotator.Discloser  = (*Rotator)(nil)

	// Of roles whose keys are those of a transit engine (transit.go).
	_ rotator.Connector    = (*Rotator)(nil)
	_ rotator.Irreversible = (*Rotator)(nil)
	_ rotator.OnlyForward  = (*Rotator)(nil)
	_ rotator.Preflighter  = (*Rotator)(nil)
)

// New makes the kind.
func New() *Rotator { return &Rotator{} }

// Kind implements rotator.Rotator.
func (*Rotator) Kind() rotator.Kind {
	return rotator.Kind{
		Name: Type, Options: roleOptionSet,
		Period: 365 * 24 * time.Hour, Grace: 24 * time.Hour,
		Copied: []string{"latest_version", "key_type"},
	}
}

// Plan implements rotator.Rotator.
func (*Rotator) Plan(ctx context.Context, t *rotator.Target) (*rotator.Candidate, error) {
	o, err := decodeRole(t.Role)
	if err != nil {
		return nil, err
	}
	if o.Backend != "" {
		return planTransit(ctx, t)
	}
	kt, err := o.keyType()
	if err != nil {
		return nil, err
	}
	if imports(t.Role) {
		return planImport(o, kt, t.Role.Secrets)
	}
	raw, err := kt.generate()
	if err != nil {
		return nil, err
	}
	return candidate(kt, o.Derived, raw)
}

// Prepare implements rotator.Rotator. The engine's own write puts the key to use: all
// that is needed is that there is one.
func (*Rotator) Prepare(ctx context.Context, t *rotator.Target) error {
	if hasBackend(t.Role) {
		return prepareTransit(ctx, t)
	}
	_, err := load(&t.Version, t.Material)
	return err
}

// Verify implements rotator.Rotator: what the key encrypts it must decrypt, and
// nothing that was changed.
func (*Rotator) Verify(ctx context.Context, t *rotator.Target) error {
	if hasBackend(t.Role) {
		return verifyTransit(ctx, t)
	}
	k, err := load(&t.Version, t.Material)
	if err != nil {
		return fault.New(fault.AuthFailed, "version %d cannot encrypt: %w", t.Version.Number, err)
	}
	if !k.works() {
		return fault.New(fault.AuthFailed, "what the key of version %d encrypts does not decrypt with it", t.Version.Number)
	}
	return nil
}

// Retire implements rotator.Rotator: the journal has taken the key out of use, and the
// engine destroys it in its time.
func (*Rotator) Retire(ctx context.Context, t *rotator.Target, stage rotator.Stage) (rotator.Progress, error) {
	if hasBackend(t.Role) {
		return retireTransit(ctx, t, stage)
	}
	return rotator.Progress{}, nil
}

// Discard implements rotator.Rotator.
func (*Rotator) Discard(ctx context.Context, t *rotator.Target) (rotator.Progress, error) {
	if hasBackend(t.Role) {
		return discardTransit(ctx, t)
	}
	return rotator.Progress{}, nil
}

// Restorable implements rotator.Restorer: a key that is kept can decrypt again.
func (r *Rotator) Restorable(t *rotator.Target) string {
	if why := r.NoWayBack(t.Role); why != "" {
		return why
	}
	if t.Material[keyMaterial].Empty() {
		return "its key is not kept any more"
	}
	return ""
}

// Load implements rotator.LiveUser.
func (*Rotator) Load(v *rotation.Version, material secret.Map) (any, error) {
	if remote := transitVersionOf(v); remote != nil {
		return remote, nil
	}
	return load(v, material)
}

// Use implements rotator.LiveUser. It answers the requests of this package.
func (*Rotator) Use(ctx context.Context, live *rotator.LiveVersions, request any) (any, error) {
	if b := backendOf(live.Role); b != nil {
		return nil, fault.New(fault.Invalid, "the keys of role %q are those of transit, and only that uses them: call transit of connection %q directly, with the key %s", live.Role.Name, b.connection, b.path)
	}
	switch request := request.(type) {
	case EncryptRequest:
		return encrypt(ctx, live, request.Items)
	case DecryptRequest:
		return decrypt(ctx, live, request.Items)
	case RewrapRequest:
		return rewrap(ctx, live, request.Items)
	case DataKeyRequest:
		return dataKey(live, request)
	default:
		return nil, fault.New(fault.Invalid, "type %s does not answer this", Type)
	}
}
