package encryption

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// Probe implements rotator.Prober: what the version encrypted must be refused because
// of its version, and what the current one encrypts accepted, by the code that answers
// callers, over the same journal.
func (*Rotator) Probe(ctx context.Context, t *rotator.Target) (rotator.Proof, error) {
	if hasBackend(t.Role) {
		return probeTransit(ctx, t)
	}
	live, own, err := journal(t)
	if err != nil {
		return rotator.Proof{}, err
	}
	number := t.Version.Number
	ciphertext, err := probeCiphertext(number, own)
	if err != nil {
		return rotator.Proof{}, err
	}
	err = opens(ctx, live, ciphertext)
	var refused versionRefused
	switch {
	case err == nil:
		return rotator.Proof{Result: fmt.Sprintf("decrypt gives back what version %d encrypted", number)}, nil
	case !errors.As(err, &refused):
		return rotator.Proof{}, err
	}
	result := fmt.Sprintf("decrypt refuses what version %d encrypted (it %s)", number, ended(&t.Version))
	if live.Current == nil {
		return rotator.Proof{Dead: true, Result: result}, nil
	}
	if err := probeCurrent(ctx, live); err != nil {
		return rotator.Proof{}, err
	}
	return rotator.Proof{Dead: true, Result: fmt.Sprintf("%s; what version %d encrypts is decrypted", result, live.Current.Version.Number)}, nil
}

// probeCurrent proves that the path on which the version was refused lets anything pass.
func probeCurrent(ctx context.Context, live *rotator.LiveVersions) error {
	k, err := readyKey(live.Current)
	if err != nil {
		return err
	}
	ciphertext, err := probeCiphertext(k.version, k)
	if err != nil {
		return err
	}
	if err := opens(ctx, live, ciphertext); err != nil {
		return fault.New(fault.Target, "the current version is refused too, which proves nothing: %w", err)
	}
	return nil
}

// probeContext is what probes derive keys from, where keys are derived.
const probeContext = "cHJvYmU="

// probeCiphertext makes what nothing but its version speaks against. Where the key is
// destroyed there are only zeros in it: that a version is refused shows before anybody
// looks at what it encrypted.
func probeCiphertext(number int, k *key) (string, error) {
	if k == nil {
		return string(compose(prefixOf(number), make([]byte, nonceBytes+tagBytes))), nil
	}
	made := k.encrypt(&EncryptItem{Plaintext: probeContext, Context: probeContext})
	return made.Ciphertext, made.Err
}

// opens asks as a caller would.
func opens(ctx context.Context, live *rotator.LiveVersions, ciphertext string) error {
	out, err := decrypt(ctx, live, []DecryptItem{{Ciphertext: ciphertext, Context: probeContext}})
	if err != nil {
		return err
	}
	return out[0].Err
}

// journal is what callers could use, seen from a target. The key of the version in
// question is nil where none is kept.
func journal(t *rotator.Target) (live *rotator.LiveVersions, own *key, err error) {
	live = &rotator.LiveVersions{Role: t.Role, Now: t.Now}
	if !t.Material[keyMaterial].Empty() {
		if own, err = load(&t.Version, t.Material); err != nil {
			return nil, nil, err
		}
	}
	add(live, rotator.Live{Version: t.Version, Ready: own})
	for _, v := range t.Others {
		if t.Current == nil || v.Number != t.Current.Version.Number {
			add(live, rotator.Live{Version: v})
		}
	}
	if t.Current != nil {
		k, err := load(&t.Current.Version, t.Current.Material)
		if err != nil {
			return nil, nil, err
		}
		live.Current = &rotator.Live{Version: t.Current.Version, Material: t.Current.Material, Ready: k}
		live.All = append(live.All, *live.Current)
	}
	slices.SortFunc(live.All, func(a, b rotator.Live) int { return a.Version.Number - b.Version.Number })
	slices.SortFunc(live.Ended, func(a, b rotation.Version) int { return a.Number - b.Number })
	return live, own, nil
}

func add(live *rotator.LiveVersions, one rotator.Live) {
	if decrypts(&one.Version) {
		live.All = append(live.All, one)
		return
	}
	live.Ended = append(live.Ended, one.Version)
}
