package jwt

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

func probed(f *fixture, change func(t *rotator.Target)) (rotator.Proof, error) {
	dead, current := f.live.All[0], f.live.All[1]
	t := &rotator.Target{
		Role: f.role, Version: dead.Version, Material: dead.Material, Now: at,
		Current: &rotator.Live{Version: current.Version, Material: current.Material}, Others: []rotation.Version{current.Version},
	}
	change(t)
	return New().Probe(context.Background(), t)
}

func TestProbe(t *testing.T) {
	f := newFixture(t, option.Values{"algorithm": "ES256", "issuer": "https://issuer.example"})
	f.add(t, rotation.Current)
	old, current := f.keys[0].kid, f.keys[1].kid
	retired := "verify refuses tokens of kid " + old + " (its key was retired); those of kid " + current + " pass"
	for name, c := range map[string]struct {
		change func(t *rotator.Target)
		want   rotator.Proof
	}{
		"retiring":               {func(*rotator.Target) {}, rotator.Proof{Result: "verify honours the key " + old + ": it is still published"}},
		"standby":                {func(t *rotator.Target) { t.Version.State = rotation.Standby }, rotator.Proof{Result: "verify honours the key " + old + ": it is still published"}},
		"retirement begun":       {func(t *rotator.Target) { t.Version.RetireBegun = at }, rotator.Proof{Dead: true, Result: retired}},
		"retired":                {func(t *rotator.Target) { t.Version.State = rotation.Retired }, rotator.Proof{Dead: true, Result: retired}},
		"retired, key is gone":   {func(t *rotator.Target) { t.Version.State, t.Material = rotation.Retired, nil }, rotator.Proof{Dead: true, Result: retired}},
		"of a role that is gone": {func(t *rotator.Target) { t.Version.State, t.Current = rotation.Retired, nil }, rotator.Proof{Dead: true, Result: "verify refuses tokens of kid " + old + " (its key was retired)"}},
		"compromised":            {func(t *rotator.Target) { t.Version.Compromised = true }, rotator.Proof{Dead: true, Result: "verify refuses tokens of kid " + old + " (its key was compromised and is revoked); those of kid " + current + " pass"}},
	} {
		proof, err := probed(f, c.change)
		require.NoError(t, err, name)
		require.Equal(t, c.want, proof, name)
	}
	_, err := probed(f, func(t *rotator.Target) { t.Version.State, t.Current.Version.Compromised = rotation.Retired, true })
	require.EqualError(t, err, "the current version is refused too, which proves nothing: the token's key "+current+" was compromised and is revoked")
	require.Equal(t, fault.Target, fault.KindOf(err))
	_, err = probed(f, func(t *rotator.Target) { t.Material = nil })
	require.ErrorContains(t, err, "was not loaded")
	_, err = probed(f, func(t *rotator.Target) { t.Version.State, t.Current.Material = rotation.Retired, nil })
	require.ErrorContains(t, err, "is not kept any more")
}

func TestAdvice(t *testing.T) {
	r := &rotator.Role{Name: "app", Values: option.Values{"announce_period": 1200}, Interval: 7 * 24 * time.Hour}
	leaked := []rotation.Version{{Number: 1, Identifier: "old", RetireBegun: at.Add(-11 * time.Minute)}, {Number: 2, Identifier: "leaked", KilledTime: at.Add(-time.Minute)}}
	current := rotation.Version{Number: 3, Identifier: "new", ActivatedTime: at}
	require.Equal(t, []string{
		"verifiers that fetched the keys before 2026-03-01T11:59:00Z may accept tokens of kid leaked until 2026-03-01T12:09:00Z: let them fetch jwks/app again now",
		"kid new signs before every verifier can know it: those that do not fetch the keys again for a kid they do not know refuse its tokens until 2026-03-01T12:10:00Z",
	}, New().Advice(r, leaked, current, at))
	require.Len(t, New().Advice(r, leaked, current, at.Add(9*time.Minute)), 1)
	require.Empty(t, New().Advice(r, leaked, current, at.Add(10*time.Minute)))
	current.AnnouncedTime = at.Add(-4 * time.Minute)
	require.Contains(t, New().Advice(r, leaked, current, at)[1], "refuse its tokens until 2026-03-01T12:06:00Z")
	current.AnnouncedTime = at.Add(-10 * time.Minute)
	require.Len(t, New().Advice(r, leaked, current, at), 1, "whoever fetched before has fetched since")
	require.Empty(t, New().Advice(r, nil, rotation.Version{}, at))
}
