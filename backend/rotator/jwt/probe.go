package jwt

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// Probe implements rotator.Prober: a fresh token of the version must be refused for
// its key, and one of the current version accepted, by the code that answers
// callers, over the same journal.
func (*Rotator) Probe(_ context.Context, t *rotator.Target) (rotator.Proof, error) {
	live, own, err := journal(t)
	if err != nil {
		return rotator.Proof{}, err
	}
	r, err := rulesOf(live)
	if err != nil {
		return rotator.Proof{}, err
	}
	text, err := r.probeToken(&t.Version, own, t.Now)
	if err != nil {
		return rotator.Proof{}, err
	}
	_, why, err := verify(r, live, VerifyRequest{Token: text})
	if err != nil {
		return rotator.Proof{}, err
	}
	if why == nil || !why.ofKey {
		return rotator.Proof{Result: fmt.Sprintf("verify honours the key %s: it is still published", t.Version.Identifier)}, nil
	}
	result := fmt.Sprintf("verify refuses tokens of kid %s (its key %s)", t.Version.Identifier, ended(&t.Version))
	if live.Current == nil {
		return rotator.Proof{Dead: true, Result: result}, nil
	}
	if err := r.probeCurrent(live); err != nil {
		return rotator.Proof{}, err
	}
	return rotator.Proof{Dead: true, Result: fmt.Sprintf("%s; those of kid %s pass", result, live.Current.Version.Identifier)}, nil
}

// probeCurrent proves that the path on which the version was refused lets anything pass.
func (r *rules) probeCurrent(live *rotator.LiveVersions) error {
	k, err := readyKey(live.Current)
	if err != nil {
		return err
	}
	text, err := r.probeToken(&live.Current.Version, k, live.Now)
	if err != nil {
		return err
	}
	_, why, err := verify(r, live, VerifyRequest{Token: text})
	if err != nil {
		return err
	}
	if why != nil {
		return fault.New(fault.Target, "the current version is refused too, which proves nothing: %s", why.reason)
	}
	return nil
}

// journal is what callers could use, seen from a target. The key of the version in
// question is nil where none is kept.
func journal(t *rotator.Target) (live *rotator.LiveVersions, own *key, err error) {
	live = &rotator.LiveVersions{Role: t.Role, Now: t.Now}
	if t.Current != nil {
		k, err := load(&t.Current.Version, t.Current.Material)
		if err != nil {
			return nil, nil, err
		}
		live.Current = &rotator.Live{Version: t.Current.Version, Ready: k}
		live.All = append(live.All, *live.Current)
	}
	itself := rotator.Live{Version: t.Version}
	if !t.Material[privateKey].Empty() {
		if own, err = load(&t.Version, t.Material); err != nil {
			return nil, nil, err
		}
		itself.Ready = own
	}
	add(live, itself)
	for _, v := range t.Others {
		if t.Current == nil || v.Number != t.Current.Version.Number {
			add(live, rotator.Live{Version: v})
		}
	}
	return live, own, nil
}

func add(live *rotator.LiveVersions, one rotator.Live) {
	if published(&one.Version) {
		live.All = append(live.All, one)
		return
	}
	live.Ended = append(live.Ended, one.Version)
}

// probeToken makes a token that nothing but its key speaks against. Where the key is
// destroyed its signature is empty: that a key is not honoured shows before anybody
// looks at what it signed.
func (r *rules) probeToken(v *rotation.Version, k *key, now time.Time) (string, error) {
	claims := map[string]any{"iat": now.Unix(), "exp": now.Add(time.Minute).Unix()}
	if r.Issuer != "" {
		claims["iss"] = r.Issuer
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("encode a token: %w", err)
	}
	if k != nil {
		return k.tokens.compact(payload)
	}
	header, err := json.Marshal(map[string]string{"alg": r.Algorithm, "kid": v.Identifier})
	if err != nil {
		return "", fmt.Errorf("encode a token: %w", err)
	}
	return joined(strict.EncodeToString(header), payload, nil), nil
}
