package encryption

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

// A version that ended is named, and reported once for each request.
func TestVersionsThatEnded(t *testing.T) {
	for name, c := range map[string]struct {
		change func(v *rotation.Version)
		want   string
		missed bool
	}{
		"disabled":       {state(rotation.Disabled), "is disabled: reencrypt/:name/reopen lets it decrypt again while its key is kept", true},
		"retired":        {state(rotation.Retired), "is retired: its key is destroyed", true},
		"about to end":   {func(v *rotation.Version) { v.RetireBegun = at }, "is disabled: reencrypt/:name/reopen lets it decrypt again while its key is kept", true},
		"given up":       {state(rotation.Discarded), "was given up before it was used", false},
		"to be given up": {func(v *rotation.Version) { v.State, v.Undo = rotation.Pending, true }, "was given up before it was used", false},
		"a candidate":    {state(rotation.Pending), "is not in use yet", false},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, nil)
			old := f.encrypted(t, "x")
			f.add(t, rotation.Current)
			item := DecryptItem{Ciphertext: old}
			back, err := f.decrypt(t, item)
			require.NoError(t, err)
			require.Equal(t, "x", back)

			f.end(1, c.change)
			want := "ciphertext: names version 1, which " + c.want
			for i, out := range use[[]Decrypted](t, f, DecryptRequest{Items: []DecryptItem{item, item}}) {
				require.EqualError(t, out.Err, want, i)
				require.Equal(t, fault.Invalid, fault.KindOf(out.Err))
			}
			require.EqualError(t, use[[]Encrypted](t, f, RewrapRequest{Items: []RewrapItem{{DecryptItem: item}}})[0].Err, want)
			if c.missed {
				require.Equal(t, []int{1, 1}, f.missed, "once for each request")
			} else {
				require.Empty(t, f.missed)
			}

			f.missed = nil
			rewriter, err := New().Rewriter(f.live)
			require.NoError(t, err)
			_, err = rewriter.Rewrite([]byte(old), nil, nil)
			require.EqualError(t, err, want)
			require.Empty(t, f.missed, "the job counts by itself")
			f.live.Missed = nil
			_, err = f.decrypt(t, item)
			require.EqualError(t, err, want, "nobody need listen")
		})
	}
}

func TestVersionsThatNeverWere(t *testing.T) {
	f := newFixture(t, nil)
	f.add(t, rotation.Current)
	f.add(t, rotation.Current)
	payload := f.encrypted(t, "x")[len("vault:v3:"):]
	f.end(1, state(rotation.Retired))
	for version, want := range map[string]string{
		"4":         "ciphertext: names version 4, which this role does not have yet: its highest is 3",
		"999999999": "ciphertext: names version 999999999, which this role does not have yet: its highest is 3",
	} {
		_, err := f.decrypt(t, DecryptItem{Ciphertext: "vault:v" + version + ":" + payload})
		require.EqualError(t, err, want)
	}
	require.ElementsMatch(t, []int{4, 999999999}, f.missed, "storage may have forgotten it")
	f.missed, f.live.Ended = nil, nil
	_, err := f.decrypt(t, DecryptItem{Ciphertext: "vault:v1:" + payload})
	require.EqualError(t, err, "ciphertext: names version 1, which this role does not have: it ended long ago, or never was")
	require.Empty(t, f.missed)
}

// What leaked still decrypts, and a version that an emergency ended does nothing any more.
func TestEmergencies(t *testing.T) {
	f := newFixture(t, nil)
	old := DecryptItem{Ciphertext: f.encrypted(t, "x")}
	f.live.Current.Version.Compromised = true
	f.encrypted(t, "until it is replaced")
	_, err := f.decrypt(t, old)
	require.NoError(t, err)

	f.live.Current.Version.KilledTime = at
	_, err = f.decrypt(t, old)
	require.EqualError(t, err, "ciphertext: names version 1, which was ended by an emergency")
	require.Empty(t, f.missed, "the journal has not ended it yet")
	_, err = New().Use(context.Background(), f.live, EncryptRequest{Items: make([]EncryptItem, 1)})
	require.EqualError(t, err, "the key of version 1 was ended by an emergency and encrypts nothing: its replacement is being made")
	require.Equal(t, fault.Conflict, fault.KindOf(err))
}

func TestRoleThatWasDeleted(t *testing.T) {
	f := newFixture(t, nil)
	old := DecryptItem{Ciphertext: f.encrypted(t, "x")}
	f.live.All[0].Version.State = rotation.Retiring
	f.point()
	_, err := f.decrypt(t, old)
	require.NoError(t, err, "until the version ends")
	for _, request := range []any{EncryptRequest{Items: make([]EncryptItem, 1)}, RewrapRequest{Items: []RewrapItem{{DecryptItem: old}}}, DataKeyRequest{Bits: 256}} {
		_, err := New().Use(context.Background(), f.live, request)
		require.EqualError(t, err, `role "app" is deleted: nothing is encrypted any more`)
		require.Equal(t, fault.NotFound, fault.KindOf(err))
	}
	_, err = New().Rewriter(f.live)
	require.Equal(t, fault.NotFound, fault.KindOf(err))
}
