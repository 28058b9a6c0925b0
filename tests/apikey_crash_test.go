package tests

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

var (
	makesAccount = fakeapi.On(http.MethodPost, "/v1/organization/projects/*/service_accounts")
	endsAccount  = fakeapi.On(http.MethodDelete, "/v1/organization/projects/*/service_accounts/*")
)

// The call that makes a key is answered, and the answer is lost: the rotation says so, the key that
// nobody knows is found by its name and ended, and the next attempt makes another. Readers notice
// nothing.
func TestAPIKeyLostAnswer(t *testing.T) {
	t.Parallel()
	api := started(t, fakeapi.NewOpenAI())
	w := newPairs(t, "lost", sharedVault(t), toOpenAI(api, nil))
	late := w.role + "-late"
	for _, role := range []string{w.role, late} {
		w.write("roles/"+role, pairFields(map[string]any{"grace_period": "1h"}))
	}

	// One that appears in the list only after a while is found by a later look. Nobody asks again:
	// the next attempt comes by itself.
	api.AppearLate(appearsAfter)
	api.LoseAnswer(1, makesAccount)
	w.denied(http.StatusBadRequest, "rotate/"+late, nil, "the answer was lost, and the request may have been served")
	api.AppearLate(0)
	assert.Len(t, api.Accounts(), 3, "the orphan is not to be seen yet")

	before := w.pair(w.role)
	api.LoseAnswer(1, makesAccount)
	w.denied(http.StatusBadRequest, "rotate/"+w.role, nil, "rotation", "failed", "make a service account with a key at OpenAI", "the answer was lost")
	now := w.pair(w.role)
	before.TTL, now.TTL = 0, 0
	assert.Equal(t, before, now)
	s := w.status(w.role)
	assert.Equal(t, "failing", s.State)
	assert.Equal(t, 1, s.Failures)
	assert.Contains(t, s.Reason, "the answer was lost")
	w.awaitAccounts(api, w.role, 1)
	assert.True(t, api.Works(before.Primary), "the key in use is not touched")

	r := w.rotation("rotate/"+w.role, nil)
	assert.Equal(t, "succeeded", r.Outcome)
	assert.Equal(t, 1, r.Previous)
	assert.Equal(t, before.Primary, w.pair(w.role).Secondary)
	assert.True(t, api.Works(w.pair(w.role).Primary))
	assert.Equal(t, []string{fmt.Sprintf("manual succeeded %d", r.Version), "manual failed 2", "initial succeeded 1"}, w.told(w.role))
	w.awaitAccounts(api, w.role, 2)

	w.lostAtCreation(api)

	await.Until(t, "the next attempt", func() (bool, any) {
		s := w.status(late)
		return s.Current > 1, s
	})
	w.awaitAccounts(api, late, 2)
	pair := w.pair(late)
	assert.True(t, api.Works(pair.Primary) && api.Works(pair.Secondary))
}

// appearsAfter is less than the wait between two looks.
const appearsAfter = 8 * time.Second

// lostAtCreation loses the answer that has the first key of a role: there is no role, and no key, and
// the same write at once makes both.
func (w *world) lostAtCreation(api *fakeapi.OpenAI) {
	w.t.Helper()
	role := w.role + "-new"
	api.LoseAnswer(1, makesAccount)
	w.denied(http.StatusBadRequest, "roles/"+role, pairFields(nil), "role "+role+" was not created", "the answer was lost")
	for _, path := range []string{"roles/", "creds/", "status/"} {
		w.gone(path + role)
	}
	r := w.rotation("roles/"+role, pairFields(nil))
	assert.Equal(w.t, "succeeded", r.Outcome)
	assert.Equal(w.t, "initial", r.Trigger)
	assert.True(w.t, api.Works(w.pair(role).Primary))
	w.awaitAccounts(api, role, 1)
}

// awaitAccounts waits until a role has this many service accounts.
func (w *world) awaitAccounts(api *fakeapi.OpenAI, role string, n int) {
	w.t.Helper()
	await.Until(w.t, fmt.Sprintf("%d service accounts of %s", n, role), func() (bool, any) {
		of := accountsOf(api, role)
		return len(of) == n, of
	})
}

// The plugin's process is killed while a call is under way, before the provider served it or after
// that: the next process finds out. No key that nobody knows is left, and none in use is ended.
func TestAPIKeyKilled(t *testing.T) {
	t.Parallel()
	k := &killed{api: started(t, fakeapi.NewOpenAI())}
	k.world = newPairs(t, "killed", vaulttest.New(t, vaulttest.Options{}), toOpenAI(k.api, nil))
	k.write("roles/"+k.role, pairFields(map[string]any{"grace_period": "1h"}))
	for _, c := range []struct {
		name   string
		before bool // the provider has served it
		match  func(*http.Request) bool
		path   string
		body   map[string]any
	}{
		{"made and not stored", false, makesAccount, "rotate/" + k.role, nil},
		{"about to be made", true, makesAccount, "rotate/" + k.role, nil},
		{"ended and not noted", false, endsAccount, "retire/" + k.role, map[string]any{"force": true}},
		{"about to be ended", true, endsAccount, "retire/" + k.role, map[string]any{"force": true}},
		{"a leak, made and not stored", false, makesAccount, "emergency/" + k.role, map[string]any{"reason": "an exercise"}},
		{"a leak, about to be ended", true, endsAccount, "emergency/" + k.role, map[string]any{"reason": "an exercise"}},
	} {
		if !t.Run(c.name, func(t *testing.T) {
			k.t = t
			if c.path != "rotate/"+k.role {
				k.awaitRotation(k.role) // a version to be ended
			}
			held := k.pair(k.role)
			k.during(c.before, c.match, c.path, c.body)
			if c.path != "emergency/"+k.role {
				assert.True(t, k.api.Works(held.Primary), "the key in use")
			}
			k.settles()
		}) {
			t.FailNow()
		}
	}
	k.t = t
	k.firstKey()
}

type killed struct {
	*world
	api *fakeapi.OpenAI
}

// during makes a request, and kills the plugin's process while the call that it leads to is kept from
// being answered.
func (k *killed) during(before bool, match func(*http.Request) bool, path string, body map[string]any) {
	k.t.Helper()
	k.api.ForgetRequests()
	if before {
		k.api.Hang(1, match)
	} else {
		k.api.Stall(1, match)
	}
	asked := make(chan answer, 1)
	go func() { asked <- k.call(k.t.Context(), http.MethodPut, path, body) }()
	await.Until(k.t, "the call to be under way", func() (bool, any) {
		seen := k.api.Requests()
		for _, r := range seen {
			if r.Status == 0 {
				return true, nil
			}
		}
		return false, seen
	})
	n, err := k.vault.KillPlugin(k.t.Context())
	require.NoError(k.t, err)
	require.Equal(k.t, 1, n)
	a := <-asked
	assert.False(k.t, a.ok(), "the process died before it could answer: %s", a.Text)
	k.api.Heal()
}

// settles rotates until a new key is current, ends all others, and looks at what is left.
func (k *killed) settles() {
	k.t.Helper()
	k.awaitRotation(k.role)
	await.Until(k.t, "the role to be well, with one key", func() (bool, any) {
		s := k.status(k.role)
		for _, v := range s.Versions {
			if v.State == "retiring" {
				k.call(k.t.Context(), http.MethodPut, "retire/"+k.role, map[string]any{"version": v.Version, "force": true})
			}
		}
		accounts := accountsOf(k.api, k.role)
		return s.State == "ok" && len(s.OpenIncidents) == 0 && len(accounts) == 1, fmt.Sprintf("%s: %s; %v; %v", s.State, s.Reason, accounts, s.Versions)
	})
	now := k.pair(k.role)
	assert.True(k.t, k.api.Works(now.Primary))
	assert.Empty(k.t, now.Secondary)
	keys := k.api.Keys()
	require.Len(k.t, keys, 1)
	assert.Equal(k.t, now.PrimaryID, keys[0].ID)
}

// firstKey kills the process while the first key of a role is made: there is a role that is well, or
// none and no key; the same write then makes both.
func (k *killed) firstKey() {
	k.t.Helper()
	role := k.role + "-new"
	k.during(false, makesAccount, "roles/"+role, pairFields(nil))
	await.Until(k.t, "the role to be made", func() (bool, any) {
		a := k.call(k.t.Context(), http.MethodPut, "roles/"+role, pairFields(nil))
		return a.ok() && k.status(role).Current > 0, a.Text
	})
	k.awaitAccounts(k.api, role, 1)
	assert.True(k.t, k.api.Works(k.pair(role).Primary))
	assert.Equal(k.t, "ok", k.status(role).State)
}
