package backend_test

import (
	"context"
	"net/http"
	"strings"
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

// What went wrong once, or would without a rule that is easily forgotten.

const byHandDefinition = `{"title":"SendGrid","key":{"headers":{"Authorization":"Bearer {{key}}"}},"error":["/errors/0/message"],
	"verify":{"method":"GET","path":"/v3/scopes"},"by_hand":{"make":"make it","end":"end it"}}`

// sendGrid is a role of an API whose keys have ids that nobody can look up.
func sendGrid(t *testing.T) (*byHand, *fakeapi.SendGrid) {
	t.Helper()
	api := fakeapi.NewSendGrid()
	stage := httpStage(t, "sendgrid.json", api.Server)
	b := &byHand{rig: &rig{Play: enginetest.NewPlay(stage, enginetest.NewFaults(enginetest.None, 0)), t: t}, api: api.Server, make: api.MakeByHand}
	t.Cleanup(b.Close)
	return b, api
}

func openAIRole(t *testing.T, values option.Values) (*byHand, *fakeapi.OpenAI) {
	t.Helper()
	api := fakeapi.NewOpenAI()
	b := newByHand(t, "openai", api.Server, option.Values{"base_url": api.BaseURL(), "project": api.Project()},
		map[string]string{"admin_key": api.AdminKey()}, api.MakeByHand)
	_, err := b.createRole(values, "")
	require.NoError(t, err)
	b.Wait(time.Minute)
	return b, api
}

// The one key that works is not thrown away because it could not be proven for a while.
func TestInPlaceKeyThatCannotBeProvenIsKept(t *testing.T) {
	t.Parallel()
	b := inPlaceByHand(t)
	key, _ := b.make("the one")
	_, err := b.createRole(option.Values{"strategy": "in_place", "grace_period": int64(0), "max_attempts": int64(1)}, key)
	require.NoError(t, err)
	b.Leak(true)
	b.api.Fail(-1, fakeapi.On("GET", "/v1/me"), 503, nil, "")
	r, err := b.rotate()
	require.NoError(t, err)
	require.Equal(t, rotation.Blocked, r.Outcome)
	b.api.Heal()
	r, err = b.rotate()
	require.NoError(t, err)
	require.Equal(t, 2, r.Version, "the same key is proven")
	current, _ := b.creds().Data["primary_key"].(string)
	require.True(t, b.api.Works(current))

	b.api.Fail(6, fakeapi.On("GET", "/v1/me"), 503, nil, "")
	_, err = b.rotate()
	require.NoError(t, err)
	b.api.Heal()
	b.emergency(true)
	b.Leak(true)
	b.Wait(time.Hour)
	for _, v := range b.State().Versions {
		require.NotEqual(t, rotation.Pending, v.State)
	}
	current, _ = b.creds().Data["primary_key"].(string)
	require.True(t, b.api.Works(current))
}

// A key in place that is refused for good is not tried for ever: the next rotation makes
// another one.
func TestInPlaceKeyThatIsRefusedIsGivenUp(t *testing.T) {
	t.Parallel()
	b := inPlaceByHand(t)
	key, _ := b.make("the one")
	_, err := b.createRole(option.Values{"strategy": "in_place", "grace_period": int64(0), "max_attempts": int64(1)}, key)
	require.NoError(t, err)
	b.Leak(true)
	b.api.Fail(-1, fakeapi.On("GET", "/v1/me"), 401, nil, b.api.ErrorBody(401, "the key is not valid"))
	r, err := b.rotate()
	require.NoError(t, err)
	require.Equal(t, rotation.Blocked, r.Outcome)
	b.api.Heal()
	r, err = b.rotate()
	require.NoError(t, err)
	require.Equal(t, []any{3, rotation.Succeeded}, []any{r.Version, r.Outcome})
	current, _ := b.creds().Data["primary_key"].(string)
	require.True(t, b.api.Works(current))
}

// After a leak another key is taken, however much its name looks like that of the one that
// leaked: names of keys whose id is not known say little.
func TestKeyAfterALeakIsTaken(t *testing.T) {
	t.Parallel()
	b, _ := sendGrid(t)
	b.Connect()
	key, _ := b.make("first")
	_, err := b.createRole(option.Values{"strategy": "by_hand"}, key)
	require.NoError(t, err)
	b.emergency(false)
	v := b.version(1)
	disk := store.New(&enginetest.Storage{Disk: b.Disk})
	second, _ := b.make("second")
	b.Leak(true)
	staged, err := b.stage(second, false)
	require.NoError(t, err)
	require.Equal(t, rotation.Current, staged.Version.State)
	require.True(t, v.Compromised)
	material, err := disk.Material(t.Context(), app, staged.Version.Number)
	require.NoError(t, err)
	require.Equal(t, second, material["key"].Reveal())
}

// A candidate that cannot be undone is what the next rotation goes on with, whoever asks.
func TestIrreversibleCandidateIsTakenUp(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"irreversible": true})
	r.world.SetRefuse(true)
	out, err := r.rotate()
	require.NoError(t, err)
	require.Equal(t, rotation.Failed, out.Outcome)
	r.world.SetRefuse(false)
	out, err = r.rotate()
	require.NoError(t, err)
	require.Equal(t, 2, out.Version)
	r.Wait(5 * time.Minute)
	require.Len(t, r.world.Users(), 2, "the admin and the current user")
}

// A shorter grace does not take back what readers of the pair were promised.
func TestGraceOfASecondaryIsKept(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.Create(option.Values{"minted": true, "soak_period": int64(600), "rotation_period": int64(7200), "grace_period": int64(4000)})
	r.waitUntil("staged", 3*time.Hour, func() bool { return r.State().StandbyVersion() != nil })
	r.Step()
	require.NotNil(t, r.creds().Data["second_username"])
	_, err := r.write(option.Values{"grace_period": int64(20)})
	require.NoError(t, err)
	_, err = r.rotateBy(backend.RotateRequest{Force: true})
	require.NoError(t, err)
	_, err = r.rotateBy(backend.RotateRequest{})
	require.NoError(t, err)
	require.Equal(t, 3, r.Current())
	r.Wait(10 * time.Minute) // the play's reader complains of a broken promise
}

// The staged key of a role that was restored from a snapshot, or is blocked, can be handed
// in again: the role goes on by it.
func TestStagedKeyHandedInAgainGoesOn(t *testing.T) {
	t.Parallel()
	t.Run("restored", func(t *testing.T) {
		t.Parallel()
		b := anthropicByHand(t)
		b.created(option.Values{"auto_promote": false})
		second, _ := b.make("second")
		_, err := b.stage(second, false)
		require.NoError(t, err)
		backup := b.Disk.Snapshot()
		_, err = b.promote(false)
		require.NoError(t, err)
		b.Wait(20 * time.Minute)
		b.Leak(true)
		b.Disk.Restore(backup)
		b.Restart()
		b.waitUntil("diverged", 20*time.Minute, func() bool { return b.status().State == backend.StateDiverged })
		_, err = b.stage(second, false)
		require.NoError(t, err)
		require.Equal(t, 2, b.Current())
		require.Nil(t, b.State().Divergence)
	})
	t.Run("blocked", func(t *testing.T) {
		t.Parallel()
		b := anthropicByHand(t)
		b.created(option.Values{"max_attempts": int64(1), "soak_period": int64(60)})
		second, _ := b.make("second")
		_, err := b.stage(second, false)
		require.NoError(t, err)
		b.api.Fail(-1, fakeapi.On("GET", "/v1/models"), 503, nil, "")
		b.waitUntil("blocked", 5*time.Minute, func() bool { return b.State().Blocked != "" })
		b.api.Heal()
		_, err = b.stage(second, false)
		require.NoError(t, err)
		require.Equal(t, 2, b.Current())
	})
}

// That a person is waited for shows whatever happened since.
func TestStagedKeyThatWaitsShows(t *testing.T) {
	t.Parallel()
	b := anthropicByHand(t)
	b.created(option.Values{"soak_period": int64(120), "rotation_period": int64(3600), "grace_period": int64(600)})
	second, _ := b.make("second")
	_, err := b.stage(second, false)
	require.NoError(t, err)
	_, err = b.write(option.Values{"auto_promote": false})
	require.NoError(t, err)
	b.Wait(10 * time.Minute)
	require.Equal(t, backend.StateActionRequired, b.status().State)
	_, err = b.promote(false)
	require.NoError(t, err)
	third, _ := b.make("third")
	_, err = b.stage(third, false)
	require.NoError(t, err)
	_, err = b.rollback(1)
	require.NoError(t, err)
	require.Equal(t, backend.StateActionRequired, b.status().State)
}

// One connection that this release cannot read stops no role of others.
func TestUnreadableConnectionIsItsOwn(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	disk := r.Disk.Snapshot()
	disk["connection/other"] = []byte(`{"schema":99,"data":{}}`)
	r.Disk.Restore(disk)
	r.Restart()
	before := r.Current()
	r.Wait(15 * time.Minute)
	require.Greater(t, r.Current(), before)
}

// A new admin key that is not accepted is not said to be in use.
func TestRefusedAdminKeyIsNotTaken(t *testing.T) {
	t.Parallel()
	b, api := openAIRole(t, nil)
	old := api.AdminKey()
	api.Fail(-1, func(r *http.Request) bool {
		return r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/service_accounts") && !strings.HasSuffix(r.Header.Get("Authorization"), old)
	}, 401, nil, `{"error":{"message":"Incorrect API key provided","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}`)
	_, err := b.Engine().RotateRoot(t.Context(), enginetest.ConnectionName)
	requireKind(t, fault.AuthFailed, err, "the one before stays in use")
	api.Heal()
	require.True(t, api.Works(old))
	b.waitUntil("the other one ends", 26*time.Hour, func() bool { b.Clock.Advance(10 * time.Minute); return len(api.AdminKeys()) == 1 })
	require.True(t, api.Works(old))
}

// An admin key that two connections have is not ended by one of them.
func TestAdminKeyOfTwoConnectionsStays(t *testing.T) {
	t.Parallel()
	b, api := openAIRole(t, nil)
	_, err := b.Engine().WriteConnection(t.Context(), backend.Write{
		Name: "other", Given: option.Values{"type": "openai", "base_url": api.BaseURL(), "project": api.Project(), "allow_insecure_http": true},
		Secrets: secret.NewMap(map[string]string{"admin_key": api.AdminKey()}),
	})
	require.NoError(t, err)
	_, err = b.Engine().RotateRoot(t.Context(), enginetest.ConnectionName)
	requireKind(t, fault.Conflict, err, "connection other has the same credential")
	require.Len(t, api.AdminKeys(), 1)
}

// A refusal without a success beside it proves nothing: a gateway may refuse everything.
func TestRefusalWithoutAWitnessProvesNothing(t *testing.T) {
	t.Parallel()
	api := fakeapi.NewStripe()
	b := newByHand(t, "stripe", api.Server, option.Values{"base_url": api.URL()}, nil, api.MakeByHand)
	key, _ := b.created(nil)
	api.Fail(-1, fakeapi.On("GET", "/v1/balance"), 401, nil, api.ErrorBody(401, "Invalid API Key provided: sk_test_****"))
	b.emergency(true)
	b.Leak(true)
	b.Wait(10 * time.Minute)
	require.Equal(t, store.IncidentOpen, b.Incidents()[0].Status)
	v := b.version(1)
	require.False(t, v.ProvenDead())
	api.Heal()
	b.Wait(10 * time.Minute)
	require.Equal(t, backend.StateActionRequired, b.status().State, "it still has to be ended")

	api.ExpireByHand(key)
	second, _ := b.make("second")
	_, err := b.stage(second, false)
	require.NoError(t, err)
	b.waitUntil("contained", 20*time.Minute, func() bool { return b.Incidents()[0].Status == store.IncidentContained })
	require.Equal(t, rotation.Emergency, b.State().Last.Trigger)
	require.NotEmpty(t, b.State().Last.IncidentID)
}

// A key that its provider says not to know, and accepts, is not ended: the call went to
// the wrong place.
func TestKeyThatIsNotThereAndWorksIsNotEnded(t *testing.T) {
	t.Parallel()
	b, api := sendGrid(t)
	b.Create(nil)
	leaked, _ := b.creds().Data["primary_key"].(string)
	api.Fail(4, fakeapi.On("DELETE", "/v3/api_keys/*"), 404, nil, api.ErrorBody(404, "not found"))
	b.emergency(false)
	b.Leak(true)
	require.True(t, api.Works(leaked))
	require.NotEqual(t, backend.StateOK, b.status().State)
	b.waitUntil("it ends", time.Hour, func() bool { return !api.Works(leaked) })
	b.waitUntil("contained", time.Hour, func() bool { return b.Incidents()[0].Status == store.IncidentContained })
}

// A definition that lost a call leaves its roles with a sentence, not with a crash.
func TestDefinitionThatLostItsCalls(t *testing.T) {
	t.Parallel()
	b, api := sendGrid(t)
	b.Create(nil)
	_, err := b.Engine().WriteConnection(t.Context(), backend.Write{
		Name: enginetest.ConnectionName, Given: option.Values{"definition": byHandDefinition, "base_url": api.URL()},
		Secrets: secret.NewMap(map[string]string{"admin_key": api.AdminKey()}),
	})
	require.NoError(t, err)
	r, err := b.rotate()
	require.NoError(t, err)
	require.Equal(t, rotation.Failed, r.Outcome)
	require.Contains(t, r.Error.Message, "no call any more")
}

// Whoever cannot prove that an id is of their key cannot have it ended.
func TestUncheckedIDIsRefused(t *testing.T) {
	t.Parallel()
	b, _ := sendGrid(t)
	b.Create(nil)
	mine, _ := b.make("mine")
	_, victim := b.make("somebody else's")
	_, err := b.Engine().WriteRole(t.Context(), backend.Write{
		Name: "mine", Given: option.Values{"type": "api-key", "connection": enginetest.ConnectionName},
		Secrets: secret.NewMap(map[string]string{"key": mine, "key_id": victim}),
	})
	require.ErrorContains(t, err, "key_id: cannot be checked")
}

// A connection does not lead elsewhere while keys of its roles would go there.
func TestConnectionDoesNotLeadElsewhere(t *testing.T) {
	t.Parallel()
	b := stripeByHand(t)
	b.created(nil)
	_, err := b.Engine().WriteConnection(t.Context(), backend.Write{Name: enginetest.ConnectionName, Given: option.Values{"base_url": "http://127.0.0.1:1"}})
	requireKind(t, fault.Conflict, err, "base_url")
	require.ErrorContains(t, err, app)
}

// beingProven is a role whose next key was made by the schedule and is just being proven:
// the provider does not answer.
func beingProven(t *testing.T) (*byHand, *fakeapi.OpenAI) {
	t.Helper()
	b, api := openAIRole(t, option.Values{"soak_period": int64(600), "rotation_period": int64(7200)})
	b.waitUntil("nearly due", 3*time.Hour, func() bool { return b.State().NextRotation.Sub(b.Clock.Now()) < 9*time.Second })
	api.Hang(1, fakeapi.On("GET", "/v1/models"))
	b.Clock.Advance(10 * time.Second)
	require.NoError(t, b.Engine().Tick(t.Context()))
	require.Eventually(t, func() bool { v := b.State().AheadVersion(); return v != nil && v.HasMaterial }, 10*time.Second, 10*time.Millisecond)
	return b, api
}

// What is made ahead when an emergency comes is its replacement, and nothing takes over
// from that by itself.
func TestEmergencyTakesWhatIsMadeAhead(t *testing.T) {
	t.Parallel()
	b, api := beingProven(t)
	out := b.emergency(false)
	require.Equal(t, 2, out.Rotation.Version)
	b.Wait(30 * time.Minute)
	require.Equal(t, 2, b.Current())
	require.Len(t, api.Keys(), 1)
}

// A version that is on its way when soaking is switched off is not forgotten.
func TestVersionAheadOutlivesThePolicy(t *testing.T) {
	t.Parallel()
	b, _ := beingProven(t)
	_, err := b.Engine().WriteRole(t.Context(), backend.Write{Name: app, Given: option.Values{"soak_period": int64(0)}})
	require.NoError(t, err)
	b.Restart()
	b.waitUntil("it takes over", time.Hour, func() bool { return b.Current() == 2 })
	require.NotEqual(t, backend.StateFailing, b.status().State)
}

// The search for a key whose answer was lost goes on under another role of the name,
// whatever that one does.
func TestLostKeyIsFoundUnderAnotherRole(t *testing.T) {
	t.Parallel()
	b, api := openAIRole(t, nil)
	write := func(name, strategy string, secrets secret.Map) error {
		return b.Act(func(ctx context.Context, e *backend.Engine) error {
			_, err := e.WriteRole(ctx, backend.Write{
				Name: name, Given: option.Values{"type": "api-key", "connection": enginetest.ConnectionName, "strategy": strategy}, Secrets: secrets,
			})
			return err
		})
	}
	api.AppearLate(time.Hour)
	api.LoseAnswer(1, fakeapi.On("POST", "/v1/organization/projects/*/service_accounts"))
	require.ErrorContains(t, write("other", "create", nil), "was not created")
	api.AppearLate(0)
	require.NoError(t, write("other", "by_hand", nil), "the name is free at once")
	require.Len(t, api.Keys(), 2)
	b.waitUntil("it is found", 26*time.Hour, func() bool { b.Clock.Advance(10 * time.Minute); return len(api.Keys()) == 1 })
	_, err := b.Engine().DeleteRole(t.Context(), "other", false)
	require.NoError(t, err)
}

// Of a deleted role whose key a person has to end the status tells, and retire looks.
func TestDeletedRoleSaysWhatAPersonHasToDo(t *testing.T) {
	t.Parallel()
	b := stripeByHand(t)
	key, _ := b.created(nil)
	_, err := b.Engine().DeleteRole(t.Context(), app, false)
	require.NoError(t, err)
	b.Wait(5 * time.Minute)
	page, err := b.Engine().Status(t.Context(), backend.StatusQuery{})
	require.NoError(t, err)
	require.Contains(t, page.Warnings[0], "retire/app")
	b.api.ExpireByHand(key)
	_, err = b.Engine().Retire(t.Context(), app, backend.RetireRequest{Version: 1, Wait: backend.Wait})
	require.NoError(t, err)
	b.waitUntil("gone", time.Minute, func() bool {
		page, err := b.Engine().Status(t.Context(), backend.StatusQuery{})
		return err == nil && len(page.Warnings) == 0
	})
}
