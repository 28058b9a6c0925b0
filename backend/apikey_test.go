package backend_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
)

// Staged keys and pairs, on fakes of the providers. What happens after a crash is in
// apikey_crash_test.go.

// byHand is a rig over a provider at which a person makes the keys.
type byHand struct {
	*rig
	api *fakeapi.Server
	// make makes a key as a person does.
	make func(name string) (key, id string)
}

func anthropicByHand(t *testing.T) *byHand {
	api := fakeapi.NewAnthropic()
	return newByHand(t, "anthropic", api.Server, option.Values{"base_url": api.URL()}, map[string]string{"admin_key": api.AdminKey()}, api.MakeByHand)
}

func stripeByHand(t *testing.T) *byHand {
	api := fakeapi.NewStripe()
	return newByHand(t, "stripe", api.Server, option.Values{"base_url": api.URL()}, nil, api.MakeByHand)
}

func inPlaceByHand(t *testing.T) *byHand {
	api := fakeapi.NewInPlace()
	definition, err := os.ReadFile("../docs/providers/inplace.json")
	require.NoError(t, err)
	return newByHand(t, "http", api.Server, option.Values{"base_url": api.URL(), "definition": string(definition)},
		map[string]string{"admin_key": api.AdminKey()}, api.MakeByHand)
}

func newByHand(t *testing.T, typ string, api *fakeapi.Server, address option.Values, secrets map[string]string, byPerson func(string) (string, string)) *byHand {
	t.Helper()
	stage := providerStage(t, typ, api, address, secrets)
	b := &byHand{rig: &rig{Play: enginetest.NewPlay(stage, enginetest.NewFaults(enginetest.None, 0)), t: t}, api: api, make: byPerson}
	t.Cleanup(func() {
		b.Close()
		require.Empty(t, b.Violations())
	})
	b.Connect()
	return b
}

func (b *byHand) createRole(values option.Values, key string) (out *backend.RoleWritten, err error) {
	given := option.Values{
		"type": "api-key", "connection": enginetest.ConnectionName, "rotation_period": int64(40 * 24 * 3600), "grace_period": int64(120),
	}
	for name, value := range values {
		given[name] = value
	}
	var secrets secret.Map
	if key != "" {
		secrets = secret.NewMap(map[string]string{"key": key})
	}
	err = b.Act(func(ctx context.Context, e *backend.Engine) (err error) {
		out, err = e.WriteRole(ctx, backend.Write{Name: app, Given: given, Secrets: secrets})
		return err
	})
	return out, err
}

// created makes a role that takes over a key, in a process that has served long enough.
func (b *byHand) created(values option.Values) (key, id string) {
	key, id = b.make("first")
	_, err := b.createRole(values, key)
	require.NoError(b.t, err)
	b.Wait(time.Minute)
	return key, id
}

func (b *byHand) stage(key string, force bool) (out *backend.Staged, err error) {
	err = b.Act(func(ctx context.Context, e *backend.Engine) (err error) {
		out, err = e.Stage(ctx, app, backend.StageRequest{
			Secrets: secret.NewMap(map[string]string{"key": key}), Wait: backend.Wait, Force: force, Actor: backend.Actor{DisplayName: "token-ops"},
		})
		return err
	})
	return out, err
}

func (b *byHand) promote(force bool) (out *rotation.Rotation, err error) {
	err = b.Act(func(ctx context.Context, e *backend.Engine) (err error) {
		out, err = e.Promote(ctx, app, backend.RotateRequest{Wait: backend.Wait, Force: force})
		return err
	})
	return out, err
}

func (b *byHand) version(number int) rotation.Version { return *b.State().Version(number) }

func TestRoleWithoutItsFirstKeyWaitsForAPerson(t *testing.T) {
	t.Parallel()
	b := anthropicByHand(t)
	written, err := b.createRole(nil, "")
	require.NoError(t, err)
	require.Nil(t, written.Rotation)
	require.Contains(t, written.Warnings[0], "write stage/app")

	status := b.status()
	require.Equal(t, backend.StateActionRequired, status.State)
	require.Contains(t, status.StateReason, "Anthropic")
	_, err = b.Engine().Creds(t.Context(), app, backend.Actor{})
	requireKind(t, fault.NotFound, err, "no current version yet")

	before := b.State().Revision
	wrong, _ := b.make("expired")
	b.api.ExpireByHand(wrong)
	_, err = b.stage(wrong, false)
	require.ErrorContains(t, err, "nothing was staged")
	require.NotContains(t, err.Error(), wrong)
	require.Equal(t, before, b.State().Revision, "nothing changed")

	key, id := b.make("first")
	staged, err := b.stage(key, false)
	require.NoError(t, err)
	require.Equal(t, rotation.Current, staged.Version.State)
	require.Equal(t, id, staged.Version.Identifier)
	require.Equal(t, key, b.creds().Data["primary_key"])
	require.Equal(t, backend.StateOK, b.status().State)
	require.Equal(t, "token-ops", b.State().Last.Actor.DisplayName)
	require.Equal(t, rotation.Manual, b.State().Last.Trigger)

	again, err := b.stage(key, false)
	require.NoError(t, err)
	require.Equal(t, staged.Version.Number, again.Version.Number, "the same key is the same version")
	require.Len(t, b.State().Versions, 1)
}

func TestStagedKeySoaksFirst(t *testing.T) {
	t.Parallel()
	b := anthropicByHand(t)
	first, firstID := b.created(option.Values{"soak_period": int64(300)})
	second, secondID := b.make("second")
	staged, err := b.stage(second, false)
	require.NoError(t, err)
	require.Equal(t, rotation.Standby, staged.Version.State)
	require.Contains(t, staged.Warnings[0], "takes over at")

	pair := b.creds().Data
	require.Equal(t, []any{first, firstID, second, secondID}, []any{pair["primary_key"], pair["primary_key_id"], pair["secondary_key"], pair["secondary_key_id"]})
	_, err = b.promote(false)
	requireKind(t, fault.Conflict, err, "or at once with force=true")
	_, err = b.rotate()
	requireKind(t, fault.Conflict, err, "or at once with force=true")

	b.waitUntil("it takes over by itself", 6*time.Minute, func() bool { return b.Current() == 2 })
	pair = b.creds().Data
	require.Equal(t, []any{second, first}, []any{pair["primary_key"], pair["secondary_key"]})
}

func TestPersonPromotes(t *testing.T) {
	t.Parallel()
	b := anthropicByHand(t)
	b.created(option.Values{"auto_promote": false})
	_, err := b.promote(false)
	requireKind(t, fault.Conflict, err, "nothing to promote")
	second, _ := b.make("second")
	_, err = b.stage(second, false)
	require.NoError(t, err)
	b.Wait(10 * time.Minute)
	require.Equal(t, 1, b.Current())
	require.Equal(t, backend.StateActionRequired, b.status().State)
	require.Contains(t, b.status().StateReason, "write promote/app")

	r, err := b.promote(false)
	require.NoError(t, err)
	require.Equal(t, rotation.Succeeded, r.Outcome)
	require.Equal(t, 2, b.Current())
	require.NotEqual(t, backend.StateActionRequired, b.status().State)
}

// The secondary that is to end is promised for the ttl as well: it gets shorter, and in
// its last moments the key is not handed out any more.
func TestTTLCoversTheSecondary(t *testing.T) {
	t.Parallel()
	b := anthropicByHand(t)
	first, _ := b.created(nil)
	second, _ := b.make("second")
	_, err := b.stage(second, false)
	require.NoError(t, err)
	end := b.version(1).RetireAt
	require.False(t, end.IsZero())
	shared, alone := 0, 0
	for b.version(1).State == rotation.Retiring && b.version(1).RetireBegun.IsZero() {
		creds := b.creds().Data
		ttl, _ := creds["ttl"].(int64)
		left := end.Sub(b.Clock.Now())
		if creds["secondary_key"] == nil {
			alone++
			require.Less(t, left, 4*time.Second)
		} else {
			shared++
			require.Equal(t, first, creds["secondary_key"])
			require.LessOrEqual(t, time.Duration(ttl)*time.Second, left/2)
		}
		b.Step()
	}
	require.Greater(t, shared, 10)
	b.waitUntil("ended", time.Minute, func() bool { return !b.api.Works(first) })
	require.NotContains(t, b.creds().Data, "secondary_key")
}

// Readers of the pair were told of the staged key, so it leaked too.
func TestEmergencyEndsTheStagedKeyToo(t *testing.T) {
	t.Parallel()
	b := anthropicByHand(t)
	first, _ := b.created(option.Values{"auto_promote": false})
	second, _ := b.make("second")
	_, err := b.stage(second, false)
	require.NoError(t, err)

	result := b.emergency(false)
	require.Equal(t, store.IncidentOpen, result.Status)
	require.True(t, b.version(1).Compromised)
	require.True(t, b.version(2).Compromised)
	b.waitUntil("the staged key ends", time.Minute, func() bool { return !b.api.Works(second) })
	require.True(t, b.api.Works(first), "readers have no other key yet")
	require.Equal(t, backend.StateActionRequired, b.status().State)

	b.Leak(true)
	third, _ := b.make("third")
	_, err = b.stage(third, false)
	require.NoError(t, err)
	_, err = b.promote(false)
	require.NoError(t, err)
	b.Leak(false)
	b.waitUntil("the leaked key ends", time.Minute, func() bool { return !b.api.Works(first) })
	b.waitUntil("contained", time.Minute, func() bool { return len(b.State().Incidents) == 0 })
	require.Equal(t, store.IncidentContained, b.Incidents()[0].Status)
	require.Equal(t, third, b.creds().Data["primary_key"])
}

func TestStageByForceKeepsThePromise(t *testing.T) {
	t.Parallel()
	b := anthropicByHand(t)
	b.created(option.Values{"auto_promote": false})
	second, _ := b.make("second")
	_, err := b.stage(second, false)
	require.NoError(t, err)
	third, _ := b.make("third")
	_, err = b.stage(third, false)
	requireKind(t, fault.Conflict, err, "version 2")
	require.Len(t, b.State().Versions, 2)

	_, err = b.stage(third, true)
	require.NoError(t, err)
	require.Equal(t, rotation.Retiring, b.version(2).State)
	require.False(t, b.version(2).RetireAt.Before(b.Clock.Now().Add(time.Minute)))
	require.Equal(t, third, b.creds().Data["secondary_key"])
	b.waitUntil("it ends after its grace", 5*time.Minute, func() bool { return !b.api.Works(second) })
	_, err = b.rollback(2)
	requireKind(t, fault.Conflict, err, "")
}

// Of what only a person can end the role waits for the person, and the provider's own
// refusal is the end.
func TestKeyThatAPersonEnds(t *testing.T) {
	t.Parallel()
	b := stripeByHand(t)
	first, _ := b.created(nil)
	second, _ := b.make("second")
	_, err := b.stage(second, false)
	require.NoError(t, err)
	b.waitUntil("a person is asked for", 5*time.Minute, func() bool { return b.status().State == backend.StateActionRequired })
	require.Contains(t, b.status().StateReason, "retire/app")
	require.NotContains(t, b.status().StateReason, first)
	require.NotContains(t, b.creds().Data, "secondary_key", "its grace is over")

	b.api.LingerAfterExpiry(3 * time.Minute)
	b.api.ExpireByHand(first)
	v, err := b.Engine().Retire(t.Context(), app, backend.RetireRequest{Wait: backend.Wait})
	require.NoError(t, err)
	require.Equal(t, rotation.Retiring, v.State)
	require.Contains(t, v.Attention.Reason, "may live for some minutes")
	b.waitUntil("dead", 5*time.Minute, func() bool { v := b.version(1); return v.ProvenDead() })
	require.Equal(t, backend.StateOK, b.status().State)
	_, err = b.rollback(1)
	requireKind(t, fault.Conflict, err, "by hand")
}

// The key that readers get was ended by hand: whoever hands in another one mends that.
func TestStagingReconciles(t *testing.T) {
	t.Parallel()
	b := anthropicByHand(t)
	first, _ := b.created(nil)
	b.Leak(true) // a person broke what readers hold
	b.api.ExpireByHand(first)
	b.waitUntil("noticed", 26*time.Hour, func() bool { b.Clock.Advance(time.Hour); return b.status().State == backend.StateDiverged })
	require.NotEmpty(t, b.creds().Warnings)
	second, _ := b.make("second")
	_, err := b.stage(second, false)
	require.NoError(t, err)
	b.Leak(false)
	require.Equal(t, 2, b.Current())
	require.Nil(t, b.State().Divergence)
}

func TestInPlaceKeyWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	b := inPlaceByHand(t)
	key, _ := b.make("the one")
	_, err := b.createRole(option.Values{"strategy": "in_place", "grace_period": int64(0)}, key)
	require.NoError(t, err)
	b.Leak(true) // of one key that is changed in place nothing is promised
	r, err := b.rotate()
	require.NoError(t, err)
	require.Equal(t, rotation.Succeeded, r.Outcome)
	require.False(t, b.api.Works(key))
	second, _ := b.creds().Data["primary_key"].(string)
	require.True(t, b.api.Works(second))

	b.api.LoseAnswer(1, fakeapi.On("POST", "/v1/key/rotate"))
	r, err = b.rotate()
	require.NoError(t, err)
	require.Equal(t, rotation.Blocked, r.Outcome)
	require.Equal(t, backend.StateBlocked, b.status().State)
	require.Contains(t, b.status().StateReason, "stage/app")
	require.False(t, b.api.Works(second))

	third, _ := b.make("by hand")
	staged, err := b.stage(third, false)
	require.NoError(t, err)
	require.Equal(t, rotation.Current, staged.Version.State)
	require.Equal(t, third, b.creds().Data["primary_key"])
}

// A write of a connection does not forget an admin key that could not be ended yet.
func TestReplacedAdminKeyIsEndedWhateverIsWritten(t *testing.T) {
	t.Parallel()
	api := fakeapi.NewOpenAI()
	old := api.AdminKey()
	b := newByHand(t, "openai", api.Server, option.Values{"base_url": api.BaseURL(), "project": api.Project()},
		map[string]string{"admin_key": old}, api.MakeByHand)
	api.Fail(-1, fakeapi.On("DELETE", "/v1/organization/admin_api_keys/*"), 503, nil, api.ErrorBody(503, "try again"))
	var warnings []string
	require.NoError(t, b.Act(func(ctx context.Context, e *backend.Engine) (err error) {
		warnings, err = e.RotateRoot(ctx, enginetest.ConnectionName)
		return err
	}))
	require.Contains(t, warnings[0], "not ended yet")
	require.True(t, api.Works(old))

	_, err := b.Engine().WriteConnection(t.Context(), backend.Write{Name: enginetest.ConnectionName, Given: option.Values{"allowed_roles": []string{"app"}}})
	require.NoError(t, err)
	api.Heal()
	b.waitUntil("the old admin key ends", 30*time.Minute, func() bool { return len(api.AdminKeys()) == 1 })
	require.False(t, api.Works(old))
}

// Whoever reads a key must not be able to have it ended by a role of their own.
func TestKeyOfAnotherRoleIsNotTaken(t *testing.T) {
	t.Parallel()
	b := anthropicByHand(t)
	key, _ := b.created(nil)
	err := b.Act(func(ctx context.Context, e *backend.Engine) error {
		_, err := e.WriteRole(ctx, backend.Write{
			Name: "mine", Given: option.Values{"type": "api-key", "connection": enginetest.ConnectionName},
			Secrets: secret.NewMap(map[string]string{"key": key}),
		})
		return err
	})
	requireKind(t, fault.Target, err, "another role")
	require.True(t, b.api.Works(key))
}
