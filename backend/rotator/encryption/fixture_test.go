package encryption

import (
	"context"
	"encoding/base64"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/keysutil"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// at is when the tests take place.
var at = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// fixture is a role with versions, as the engine hands them out.
type fixture struct {
	role *rotator.Role
	live *rotator.LiveVersions
	// raw are the keys of all versions, by number.
	raw map[int][]byte
	// missed are the versions that were reported as needed.
	missed []int
}

// newFixture has one current version.
func newFixture(tb testing.TB, values option.Values) *fixture {
	f := &fixture{role: &rotator.Role{Name: "app", Values: values, Grace: 24 * time.Hour}, raw: map[int][]byte{}}
	f.live = &rotator.LiveVersions{Role: f.role, Now: at, Missed: func(version int, _ func(any) bool) { f.missed = append(f.missed, version) }}
	f.add(tb, rotation.Current)
	return f
}

// add makes the next version in a state; what is current retires.
func (f *fixture) add(tb testing.TB, state rotation.VersionState) rotator.Live {
	minted, err := New().Plan(context.Background(), &rotator.Target{Role: f.role})
	require.NoError(tb, err)
	v := rotation.Version{Number: len(f.raw) + 1, State: state, Identifier: minted.Identifier, Object: minted.Object, HasMaterial: true}
	ready, err := New().Load(&v, minted.Material)
	require.NoError(tb, err)
	raw, err := base64.StdEncoding.DecodeString(minted.Material[keyMaterial].Reveal())
	require.NoError(tb, err)
	f.raw[v.Number] = raw
	if state == rotation.Current && f.live.Current != nil {
		f.live.Current.Version.State = rotation.Retiring
	}
	l := rotator.Live{Version: v, Material: minted.Material, Ready: ready}
	f.live.All = append(f.live.All, l)
	f.point()
	return l
}

// point lets Current be the last version that is.
func (f *fixture) point() {
	f.live.Current = nil
	for i := range f.live.All {
		if f.live.All[i].Version.State == rotation.Current {
			f.live.Current = &f.live.All[i]
		}
	}
}

// end moves a version to those that ended.
func (f *fixture) end(number int, change func(v *rotation.Version)) {
	for i := range f.live.All {
		if v := f.live.All[i].Version; v.Number == number {
			change(&v)
			f.live.Ended = append(f.live.Ended, v)
			f.live.All = append(f.live.All[:i:i], f.live.All[i+1:]...)
			break
		}
	}
	f.point()
}

func state(s rotation.VersionState) func(v *rotation.Version) {
	return func(v *rotation.Version) { v.State, v.HasMaterial = s, s != rotation.Retired }
}

func use[T any](tb testing.TB, f *fixture, request any) T {
	answer, err := New().Use(context.Background(), f.live, request)
	require.NoError(tb, err)
	require.IsType(tb, *new(T), answer)
	return answer.(T)
}

func (f *fixture) encrypt(tb testing.TB, item EncryptItem) Encrypted {
	return use[[]Encrypted](tb, f, EncryptRequest{Items: []EncryptItem{item}})[0]
}

func (f *fixture) encrypted(tb testing.TB, plaintext string) string {
	out := f.encrypt(tb, EncryptItem{Plaintext: b64(plaintext)})
	require.NoError(tb, out.Err)
	return out.Ciphertext
}

func (f *fixture) decrypt(tb testing.TB, item DecryptItem) (string, error) {
	out := use[[]Decrypted](tb, f, DecryptRequest{Items: []DecryptItem{item}})[0]
	if out.Err != nil {
		require.Empty(tb, out.Plaintext)
		return "", out.Err
	}
	plaintext, err := base64.StdEncoding.DecodeString(out.Plaintext)
	require.NoError(tb, err)
	return string(plaintext), nil
}

func b64(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// transit is a key as Vault's transit engine holds it, with all of its versions.
func (f *fixture) transit(kt keysutil.KeyType, derived bool) *keysutil.Policy {
	p := keysutil.NewPolicy(keysutil.PolicyConfig{Name: "app", Type: kt, Derived: derived, KDF: keysutil.Kdf_hkdf_sha256, Exportable: true, AllowPlaintextBackup: true})
	p.Keys = map[string]keysutil.KeyEntry{}
	for number, raw := range f.raw {
		p.Keys[strconv.Itoa(number)] = keysutil.KeyEntry{Key: raw}
		p.LatestVersion = max(p.LatestVersion, number)
	}
	p.MinDecryptionVersion = 1
	return p
}

// associated is how transit hands associated data to a policy.
type associated string

func (a associated) GetAssociatedData() ([]byte, error) {
	return base64.StdEncoding.DecodeString(string(a))
}

func transitEncrypt(tb testing.TB, p *keysutil.Policy, version int, item EncryptItem) string {
	out, err := p.EncryptWithFactory(version, unb64(tb, item.Context), nil, item.Plaintext, associated(item.AssociatedData))
	require.NoError(tb, err)
	return out
}

func transitDecrypt(tb testing.TB, p *keysutil.Policy, item DecryptItem) string {
	out, err := p.DecryptWithFactory(unb64(tb, item.Context), nil, item.Ciphertext, associated(item.AssociatedData))
	require.NoError(tb, err)
	return out
}

func unb64(tb testing.TB, text string) []byte {
	raw, err := base64.StdEncoding.DecodeString(text)
	require.NoError(tb, err)
	return raw
}
