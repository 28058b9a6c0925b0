package encryption

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

// everyForm is a role of each key type, with and without derivation.
func everyForm(t *testing.T, run func(t *testing.T, f *fixture, kt keyType, derived bool)) {
	for _, kt := range keyTypes {
		for _, derived := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, derived=%t", kt.name, derived), func(t *testing.T) {
				f := newFixture(t, option.Values{"key_type": kt.name, "derived": derived})
				run(t, f, kt, derived)
			})
		}
	}
}

// drawItem draws what a ciphertext is made of. A context is needed where keys are derived.
func drawItem(t *rapid.T) EncryptItem {
	encoded := func(name string, least int) string {
		return base64.StdEncoding.EncodeToString(rapid.SliceOfN(rapid.Byte(), least, 300).Draw(t, name))
	}
	return EncryptItem{Plaintext: encoded("plaintext", 0), Context: encoded("context", 1), AssociatedData: encoded("associated data", 0)}
}

// What transit's own policies do with the same keys is what counts: both directions,
// every version, and what a rewrap and a rewritten row hold.
func TestTransitAndWeDecryptEachOther(t *testing.T) {
	everyForm(t, func(t *testing.T, f *fixture, kt keyType, derived bool) {
		f.add(t, rotation.Current)
		f.add(t, rotation.Current)
		f.add(t, rotation.Standby)
		transit := f.transit(kt.keysutil, derived)
		rewriter, err := New().Rewriter(f.live)
		require.NoError(t, err)
		require.Equal(t, "vault:v3:", rewriter.Done())
		require.Equal(t, 3, rewriter.Version())
		rapid.Check(t, func(rt *rapid.T) {
			item := drawItem(rt)
			ours := f.encrypt(t, item)
			require.NoError(rt, ours.Err)
			require.Equal(rt, 3, ours.KeyVersion)
			require.True(rt, strings.HasPrefix(ours.Ciphertext, "vault:v3:"))
			as := DecryptItem{Ciphertext: ours.Ciphertext, Context: item.Context, AssociatedData: item.AssociatedData}
			require.Equal(rt, item.Plaintext, transitDecrypt(t, transit, as))

			as.Ciphertext = transitEncrypt(t, transit, rapid.IntRange(1, 4).Draw(rt, "version"), item)
			require.Equal(rt, Decrypted{Plaintext: item.Plaintext}, use[[]Decrypted](t, f, DecryptRequest{Items: []DecryptItem{as}})[0])

			rewrapped := use[[]Encrypted](t, f, RewrapRequest{Items: []RewrapItem{{DecryptItem: as}}})[0]
			require.NoError(rt, rewrapped.Err)
			require.Equal(rt, 3, rewrapped.KeyVersion)
			row, err := rewriter.Rewrite([]byte(as.Ciphertext), unb64(t, as.Context), unb64(t, as.AssociatedData))
			require.NoError(rt, err)
			for _, moved := range []string{rewrapped.Ciphertext, string(row)} {
				require.True(rt, strings.HasPrefix(moved, rewriter.Done()))
				as.Ciphertext = moved
				require.Equal(rt, item.Plaintext, transitDecrypt(t, transit, as))
			}
		})
	})
}

func TestDataKeys(t *testing.T) {
	everyForm(t, func(t *testing.T, f *fixture, _ keyType, _ bool) {
		seen := map[string]bool{}
		for _, bits := range []int{128, 256, 512} {
			request := DataKeyRequest{Bits: bits, Context: b64("c"), AssociatedData: b64("a")}
			k := use[*DataKey](t, f, request)
			require.Len(t, unb64(t, k.Plaintext), bits/8)
			require.False(t, seen[k.Plaintext])
			seen[k.Plaintext] = true
			back, err := f.decrypt(t, DecryptItem{Ciphertext: k.Ciphertext, Context: b64("c"), AssociatedData: b64("a")})
			require.NoError(t, err)
			require.Equal(t, k.Plaintext, b64(back))

			request.WrappedOnly = true
			k = use[*DataKey](t, f, request)
			require.Empty(t, k.Plaintext)
			back, err = f.decrypt(t, DecryptItem{Ciphertext: k.Ciphertext, Context: b64("c"), AssociatedData: b64("a")})
			require.NoError(t, err)
			require.Len(t, back, bits/8)
		}
	})
}

func TestEveryCiphertextIsAnother(t *testing.T) {
	f := newFixture(t, nil)
	seen := map[string]bool{}
	for range 100 {
		seen[f.encrypted(t, "same")] = true
	}
	require.Len(t, seen, 100)
}

// A bit of it, or of what it was made with, that is another one: nothing comes back.
func TestNothingThatWasChangedDecrypts(t *testing.T) {
	const wrong = "ciphertext: cannot be decrypted: it was made by another key, with other associated_data or another context, or was changed"
	everyForm(t, func(t *testing.T, f *fixture, _ keyType, derived bool) {
		f.add(t, rotation.Current)
		rapid.Check(t, func(rt *rapid.T) {
			item := drawItem(rt)
			made := f.encrypt(t, item)
			require.NoError(rt, made.Err)
			good := DecryptItem{Ciphertext: made.Ciphertext, Context: item.Context, AssociatedData: item.AssociatedData}
			refused := func(change DecryptItem) {
				_, err := f.decrypt(t, change)
				require.EqualError(rt, err, wrong)
				require.Equal(rt, fault.Invalid, fault.KindOf(err))
			}
			flip := func(text string) string {
				raw := append([]byte{}, unb64(t, text)...)
				if len(raw) == 0 {
					return b64("x")
				}
				raw[rapid.IntRange(0, len(raw)-1).Draw(rt, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(rt, "bit")
				return base64.StdEncoding.EncodeToString(raw)
			}
			other := good
			other.AssociatedData = flip(good.AssociatedData)
			refused(other)
			other = good
			other.Ciphertext = "vault:v2:" + flip(strings.TrimPrefix(good.Ciphertext, "vault:v2:"))
			refused(other)
			other.Ciphertext = "vault:v1:" + strings.TrimPrefix(good.Ciphertext, "vault:v2:")
			refused(other)
			other = good
			other.Context = flip(good.Context)
			if derived {
				refused(other)
			} else if _, err := f.decrypt(t, other); err != nil {
				rt.Fatal("a context has no effect without derivation, as in transit")
			}
		})
	})
}

func TestContextIsRequiredWhereKeysAreDerived(t *testing.T) {
	f := newFixture(t, option.Values{"derived": true})
	const want = "context: is required: the keys of this role are derived from it (derived=true)"
	require.EqualError(t, f.encrypt(t, EncryptItem{Plaintext: b64("x")}).Err, want)
	made := f.encrypt(t, EncryptItem{Plaintext: b64("x"), Context: b64("c")})
	require.NoError(t, made.Err)
	_, err := f.decrypt(t, DecryptItem{Ciphertext: made.Ciphertext})
	require.EqualError(t, err, want)
	_, err = New().Use(context.Background(), f.live, DataKeyRequest{Bits: 256})
	require.EqualError(t, err, want)
}

func TestOnlyTheCurrentVersionEncrypts(t *testing.T) {
	f := newFixture(t, nil)
	f.add(t, rotation.Current)
	f.add(t, rotation.Standby)
	old := EncryptItem{Plaintext: b64("x"), KeyVersion: 2}
	require.NoError(t, f.encrypt(t, old).Err)
	ciphertext := f.encrypted(t, "x")
	const want = "key_version: must be 2, the current version, or left out: earlier versions only decrypt, so that they can end"
	for _, version := range []int{-1, 1, 3, 4} {
		old.KeyVersion = version
		require.EqualError(t, f.encrypt(t, old).Err, want)
		rewrapped := use[[]Encrypted](t, f, RewrapRequest{Items: []RewrapItem{{DecryptItem: DecryptItem{Ciphertext: ciphertext}, KeyVersion: version}}})
		require.EqualError(t, rewrapped[0].Err, want)
		_, err := New().Use(context.Background(), f.live, DataKeyRequest{Bits: 256, KeyVersion: version})
		require.EqualError(t, err, want)
	}
}

// One bad item is answered for itself, and nothing that was given is repeated.
func TestBadItemsAreAnsweredForThemselves(t *testing.T) {
	f := newFixture(t, nil)
	const secret = "hunter2!"
	for field, bad := range map[string]EncryptItem{
		"plaintext": {Plaintext: secret}, "context": {Context: secret}, "associated_data": {AssociatedData: secret},
	} {
		out := use[[]Encrypted](t, f, EncryptRequest{Items: []EncryptItem{{}, bad, {Plaintext: b64("x")}}})
		require.NoError(t, out[0].Err)
		require.EqualError(t, out[1].Err, field+": must be base64")
		require.Empty(t, out[1].Ciphertext)
		require.NoError(t, out[2].Err)
	}
	good := f.encrypted(t, "x")
	out := use[[]Decrypted](t, f, DecryptRequest{Items: []DecryptItem{{Ciphertext: good}, {}, {Ciphertext: good, Context: secret}, {Ciphertext: good}}})
	require.EqualError(t, out[1].Err, "ciphertext: is required")
	require.EqualError(t, out[2].Err, "context: must be base64")
	require.Equal(t, Decrypted{Plaintext: b64("x")}, out[3])
	_, err := New().Use(context.Background(), f.live, DataKeyRequest{Bits: 192})
	require.EqualError(t, err, "bits: must be 128, 256 or 512")
	_, err = New().Use(context.Background(), f.live, "something else")
	require.EqualError(t, err, "type encryption-key does not answer this")
}

func TestNobodyWaitsAnyMore(t *testing.T) {
	f := newFixture(t, nil)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, request := range []any{EncryptRequest{Items: make([]EncryptItem, 1)}, DecryptRequest{Items: make([]DecryptItem, 1)}, RewrapRequest{Items: make([]RewrapItem, 1)}} {
		_, err := New().Use(ctx, f.live, request)
		require.ErrorIs(t, err, context.Canceled)
	}
}

// Any number of goroutines use a version at once; the race detector watches.
func TestManyAtOnce(t *testing.T) {
	everyForm(t, func(t *testing.T, f *fixture, _ keyType, _ bool) {
		before := f.encrypt(t, EncryptItem{Plaintext: b64("x"), Context: b64("c")})
		f.add(t, rotation.Current)
		rewriter, err := New().Rewriter(f.live)
		require.NoError(t, err)
		var all sync.WaitGroup
		failures := make(chan error, 800)
		for range 8 {
			all.Go(func() {
				for range 50 {
					answer, err := New().Use(context.Background(), f.live, EncryptRequest{Items: []EncryptItem{{Plaintext: b64("y"), Context: b64("c")}}})
					if err == nil {
						err = answer.([]Encrypted)[0].Err
					}
					failures <- err
					_, err = rewriter.Rewrite([]byte(before.Ciphertext), []byte("c"), nil)
					failures <- err
				}
			})
		}
		all.Wait()
		close(failures)
		for err := range failures {
			require.NoError(t, err)
		}
	})
}
