package encryption

import (
	"context"
	"testing"

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
		Current: &rotator.Live{Version: current.Version, Material: current.Material},
		Others:  []rotation.Version{current.Version, {Number: 3, State: rotation.Discarded}},
	}
	change(t)
	return New().Probe(context.Background(), t)
}

func TestProbe(t *testing.T) {
	for _, derived := range []bool{false, true} {
		f := newFixture(t, option.Values{"derived": derived})
		f.add(t, rotation.Current)
		const retired = "decrypt refuses what version 1 encrypted (it is retired: its key is destroyed)"
		const passes = "; what version 2 encrypts is decrypted"
		const disabled = "decrypt refuses what version 1 encrypted (it is disabled: reencrypt/:name/reopen lets it decrypt again while its key is kept)"
		for name, c := range map[string]struct {
			change func(t *rotator.Target)
			want   rotator.Proof
		}{
			"retiring":               {func(*rotator.Target) {}, rotator.Proof{Result: "decrypt gives back what version 1 encrypted"}},
			"leaked":                 {func(t *rotator.Target) { t.Version.Compromised = true }, rotator.Proof{Result: "decrypt gives back what version 1 encrypted"}},
			"retirement begun":       {func(t *rotator.Target) { t.Version.RetireBegun = at }, rotator.Proof{Dead: true, Result: disabled + passes}},
			"disabled":               {func(t *rotator.Target) { t.Version.State = rotation.Disabled }, rotator.Proof{Dead: true, Result: disabled + passes}},
			"retired, key is kept":   {func(t *rotator.Target) { t.Version.State = rotation.Retired }, rotator.Proof{Dead: true, Result: retired + passes}},
			"retired, key is gone":   {func(t *rotator.Target) { t.Version.State, t.Material = rotation.Retired, nil }, rotator.Proof{Dead: true, Result: retired + passes}},
			"of a role that is gone": {func(t *rotator.Target) { t.Version.State, t.Current = rotation.Retired, nil }, rotator.Proof{Dead: true, Result: retired}},
		} {
			proof, err := probed(f, c.change)
			require.NoError(t, err, name)
			require.Equal(t, c.want, proof, name)
		}
		_, err := probed(f, func(t *rotator.Target) { t.Version.State, t.Current.Version.KilledTime = rotation.Retired, at })
		require.EqualError(t, err, "the current version is refused too, which proves nothing: ciphertext: names version 2, which was ended by an emergency")
		require.Equal(t, fault.Target, fault.KindOf(err))
		_, err = probed(f, func(t *rotator.Target) { t.Material = nil })
		require.ErrorContains(t, err, "was not loaded")
		_, err = probed(f, func(t *rotator.Target) { t.Version.State, t.Current.Material = rotation.Retired, nil })
		require.ErrorContains(t, err, "is not kept any more")
	}
}

func TestRender(t *testing.T) {
	f := newFixture(t, option.Values{"exportable": true})
	for range 3 {
		f.add(t, rotation.Current)
	}
	f.add(t, rotation.Standby)
	f.live.All[1].Version.RetireBegun = at
	target := func(number int) *rotator.Target {
		l := f.live.All[number-1]
		t := &rotator.Target{Role: f.role, Version: l.Version, Material: l.Material}
		for _, other := range f.live.All {
			if other.Version.Number != number {
				t.Others = append(t.Others, other.Version)
			}
		}
		return t
	}
	want := map[string]any{"key_type": "aes256-gcm96", "derived": false, "latest_version": 4, "min_decryption_version": 1}
	for _, number := range []int{1, 3, 4} {
		want["key"] = b64(string(f.raw[number]))
		got, err := New().Render(target(number))
		require.NoError(t, err)
		require.Equal(t, want, got, number)
	}
	f.live.All[0].Version.State = rotation.Disabled
	f.role.Values = option.Values{}
	got, err := New().Render(target(4))
	require.NoError(t, err)
	require.Equal(t, map[string]any{"key_type": "aes256-gcm96", "derived": false, "latest_version": 4, "min_decryption_version": 3}, got)
}

func TestKeysThatCannotBeUsed(t *testing.T) {
	f := newFixture(t, nil)
	l := f.live.All[0]
	for name, c := range map[string]struct {
		change func(t *rotator.Target)
		want   string
	}{
		"gone":        {func(t *rotator.Target) { t.Material = nil }, "the key of version 1 is not kept any more"},
		"damaged":     {func(t *rotator.Target) { t.Version.Object = []byte("{") }, "what is stored of the key of version 1 cannot be read"},
		"of no type":  {func(t *rotator.Target) { t.Version.Object = []byte(`{"key_type":"rot13"}`) }, "the key of version 1 cannot be read"},
		"of another":  {func(t *rotator.Target) { t.Version.Object = []byte(`{"key_type":"aes128-gcm96"}`) }, "the key of version 1 cannot be read"},
		"not encoded": {func(t *rotator.Target) { t.Material = secretOf("hunter2") }, "the key of version 1 cannot be read"},
	} {
		target := &rotator.Target{Role: f.role, Version: l.Version, Material: l.Material}
		require.NoError(t, New().Verify(context.Background(), target))
		require.Empty(t, New().Restorable(target))
		c.change(target)
		require.EqualError(t, New().Prepare(context.Background(), target), c.want, name)
		err := New().Verify(context.Background(), target)
		require.EqualError(t, err, "version 1 cannot encrypt: "+c.want)
		require.Equal(t, fault.AuthFailed, fault.KindOf(err))
	}
	require.Equal(t, "its key is not kept any more", New().Restorable(&rotator.Target{}))
}
