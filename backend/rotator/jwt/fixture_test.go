package jwt

import (
	"context"
	"crypto"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// at is when the tests take place.
var at = time.Date(2026, 3, 1, 12, 0, 0, 500_000_000, time.UTC)

// made are keys that were made once, by family and number: RSA keys take long.
var made sync.Map

func testKey(tb testing.TB, a *algorithm, number int) crypto.Signer {
	type id struct {
		sort   string
		number int
	}
	sort := string(a.name)
	if a.rsa() {
		sort = "RSA"
	}
	if k, ok := made.Load(id{sort, number}); ok {
		return k.(crypto.Signer)
	}
	bits := a.sizes[0]
	if a.rsa() {
		bits = 2048
	}
	k, err := generate(a, bits)
	require.NoError(tb, err)
	made.Store(id{sort, number}, k)
	return k
}

// fixture is a role with versions, as the engine hands them out.
type fixture struct {
	role *rotator.Role
	live *rotator.LiveVersions
	keys []*key
}

// newFixture has one current version.
func newFixture(tb testing.TB, values option.Values) *fixture {
	f := &fixture{role: &rotator.Role{Name: "app", Values: values, Grace: 24 * time.Hour, Interval: 7 * 24 * time.Hour}}
	f.live = &rotator.LiveVersions{Role: f.role, Now: at}
	f.add(tb, rotation.Current)
	return f
}

// add makes the next version in a state; what is current retires.
func (f *fixture) add(tb testing.TB, state rotation.VersionState) *key {
	o, err := decodeRole(f.role)
	require.NoError(tb, err)
	a, err := o.algorithm()
	require.NoError(tb, err)
	return f.addKey(tb, state, a, testKey(tb, a, len(f.keys)))
}

func (f *fixture) addKey(tb testing.TB, state rotation.VersionState, a *algorithm, private crypto.Signer) *key {
	minted, err := candidate(a, private, "")
	require.NoError(tb, err)
	v := rotation.Version{
		Number: len(f.keys) + 1, State: state, Identifier: minted.Identifier, Object: minted.Object, HasMaterial: true,
		Grace: rotation.Duration(f.role.Grace),
	}
	ready, err := New().Load(&v, minted.Material)
	require.NoError(tb, err)
	f.keys = append(f.keys, ready.(*key))
	if state == rotation.Current && f.live.Current != nil {
		f.live.Current.Version.State = rotation.Retiring
	}
	f.live.All = append(f.live.All, rotator.Live{Version: v, Material: minted.Material, Ready: ready})
	f.point()
	return ready.(*key)
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

// version gives a version among the live ones, to be changed.
func (f *fixture) version(number int) *rotation.Version {
	for i := range f.live.All {
		if v := &f.live.All[i].Version; v.Number == number {
			return v
		}
	}
	return nil
}

func (f *fixture) use(request any) (any, error) {
	return New().Use(context.Background(), f.live, request)
}

// sign makes one token, or says why not.
func (f *fixture) sign(item SignItem) Signed {
	answer, err := f.use(SignRequest{Items: []SignItem{item}})
	if err != nil {
		return Signed{Err: err}
	}
	return answer.([]Signed)[0]
}

func (f *fixture) signed(tb testing.TB, item SignItem) string {
	out := f.sign(item)
	require.NoError(tb, out.Err)
	return out.Token
}

func (f *fixture) verify(tb testing.TB, token string) *Verified {
	answer, err := f.use(VerifyRequest{Token: token})
	require.NoError(tb, err)
	return answer.(*Verified)
}

func (f *fixture) document(tb testing.TB, request any) *Document {
	answer, err := f.use(request)
	require.NoError(tb, err)
	return answer.(*Document)
}

// forge signs claims with a key under headers of anyone's choice.
func forge(tb testing.TB, k *key, headers map[string]string, claims any) string {
	s, err := k.signerWith(headers)
	require.NoError(tb, err)
	raw, ok := claims.(string)
	if !ok {
		encoded, err := json.Marshal(claims)
		require.NoError(tb, err)
		raw = string(encoded)
	}
	token, err := s.compact([]byte(raw))
	require.NoError(tb, err)
	return token
}
