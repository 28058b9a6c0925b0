package tests

import (
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// Copies go to a second Vault. While it is sealed or stopped, or does not know the connection any more, no rotation
// begins; who asks for one is told why, and what the schedule wanted follows by itself.
func TestMirrorOutages(t *testing.T) {
	t.Parallel()
	vault, clock := newClockedVault(t)
	w := newWorld(t, "mirroraway", vault, pgtest.Shared(t))
	second := vaulttest.New(t, vaulttest.Options{WithoutPlugin: true})
	o := &mirrorOutage{keeper: &keeper{world: w, clock: clock}, kv: newPlace(w, second, "team"), second: second}
	w.write("connections/second", o.kv.connection(nil))
	w.write("roles/"+w.role, w.roleFields(map[string]any{"mirror": o.kv.to("second", "app"), "grace_period": "1h"}))
	o.follows(1, 1)
	inSteps(t, &journey{world: w}, o, []step[*mirrorOutage]{
		{"sealed", (*mirrorOutage).sealed},
		{"stopped", (*mirrorOutage).stopped},
		{"stopped in an emergency", (*mirrorOutage).stoppedInAnEmergency},
		{"secret id revoked", (*mirrorOutage).secretIDRevoked},
		{"token expired", (*mirrorOutage).tokenExpired},
	})
}

type mirrorOutage struct {
	*keeper
	kv     *place
	second *vaulttest.Server
}

// follows looks whether the copy is of the version that readers get.
func (o *mirrorOutage) follows(version, copied int) {
	o.t.Helper()
	held, c := o.current(o.role), o.kv.copied("app")
	require.Equal(o.t, version, held.Version)
	require.Equal(o.t, copied, c.Version)
	require.Equal(o.t, held.Password, c.Fields["password"], "the copy holds what readers get")
}

// refusesToRotate asks for a rotation that must not begin.
func (o *mirrorOutage) refusesToRotate(says ...string) {
	o.t.Helper()
	before, users := o.status(o.role), o.snapshot()
	a := o.call(o.t.Context(), http.MethodPut, "rotate/"+o.role, nil)
	require.Equal(o.t, http.StatusBadRequest, a.Status, a.Text)
	assert.Contains(o.t, a.sentence(), "preflight: mirror "+o.kv.to("second", "app")+": ")
	for _, part := range says {
		assert.Contains(o.t, a.sentence(), part)
	}
	assert.Equal(o.t, before, o.status(o.role), "nothing began")
	assert.Equal(o.t, users, o.snapshot())
}

func (o *mirrorOutage) rotatesTo(version, copied int) {
	o.t.Helper()
	require.Equal(o.t, "succeeded", o.rotation("rotate/"+o.role, nil).Outcome)
	o.follows(version, copied)
}

func (o *mirrorOutage) sealed() {
	require.NoError(o.t, o.second.Seal(o.t.Context()))
	o.refusesToRotate("answered 503 Service Unavailable (", "): it is sealed")

	// The schedule's own rotation is put off, and then follows.
	o.write("roles/"+o.role, map[string]any{"rotation_period": "2h"})
	o.pass(2 * time.Hour)
	o.passUntil(5*time.Minute, "the schedule's rotation to be postponed", func() (bool, any) {
		s := o.status(o.role)
		return s.State == "failing", s
	})
	s := o.status(o.role)
	assert.Contains(o.t, s.Reason, "it is sealed")
	assert.Equal(o.t, 1, s.Current)
	assert.Nil(o.t, s.Rotation)
	require.NoError(o.t, o.second.Unseal(o.t.Context()))
	o.passUntil(5*time.Minute, "the postponed rotation", func() (bool, any) {
		s := o.status(o.role)
		return s.Current == 2 && s.Rotation == nil, s
	})
	o.write("roles/"+o.role, map[string]any{"rotation_period": "300d"})
	o.follows(2, 2)
}

func (o *mirrorOutage) stopped() {
	require.NoError(o.t, o.second.Stop(o.t.Context()))
	o.refusesToRotate("connection refused")
	require.NoError(o.t, o.second.Restart(o.t.Context()))
	o.rotatesTo(3, 3)
}

// stoppedInAnEmergency shows that no copy keeps a leak alive, and that it follows later.
func (o *mirrorOutage) stoppedInAnEmergency() {
	require.NoError(o.t, o.second.Stop(o.t.Context()))
	o.write("emergency/"+o.role, map[string]any{"reason": "an exercise"})
	await.Until(o.t, "the leak to be contained", func() (bool, any) {
		s := o.status(o.role)
		return s.Current == 4 && s.version(3).ProvenDead, s
	})
	assert.NotNil(o.t, o.status(o.role).Rotation, "the copy is waited for")
	require.NoError(o.t, o.second.Restart(o.t.Context()))
	o.passUntil(5*time.Minute, "the rotation to end", func() (bool, any) {
		s := o.status(o.role)
		return s.Rotation == nil, s
	})
	assert.Equal(o.t, "succeeded", o.outcomes(o.role)[0])
	o.follows(4, 4)
}

func (o *mirrorOutage) secretIDRevoked() {
	_, err := o.second.Client().Logical().WriteWithContext(o.t.Context(), o.kv.appRole()+"/secret-id/destroy", map[string]any{"secret_id": o.kv.secretID})
	require.NoError(o.t, err)
	o.rotatesTo(5, 5) // by the token that it gave before
	require.NoError(o.t, o.second.Client().Sys().RevokePrefixWithContext(o.t.Context(), "auth/"+o.kv.authMount()))
	o.refusesToRotate("log in by auth/"+o.kv.authMount()+": ", "role_id and secret_id must be those of a role at auth_mount, and neither expired nor used up")
	o.kv.newSecretID()
	o.write("connections/second", map[string]any{"secret_id": o.kv.secretID})
	o.rotatesTo(6, 6)
}

func (o *mirrorOutage) tokenExpired() {
	token := func() string {
		return o.kv.write("auth/token/create", map[string]any{"policies": []string{o.kv.name}, "no_default_policy": true, "no_parent": true, "ttl": "1h"}).Auth.ClientToken
	}
	first := token()
	o.write("connections/second", map[string]any{"auth": "token", "token": first})
	o.rotatesTo(7, 7)
	tokens := o.second.Client().Auth().Token()
	_, err := tokens.RenewWithContext(o.t.Context(), first, 1)
	require.NoError(o.t, err)
	await.Until(o.t, "the token to expire", func() (bool, any) {
		var found *api.Secret
		found, err = tokens.LookupWithContext(o.t.Context(), first)
		return err != nil, found
	})
	o.refusesToRotate("the token expired, was revoked, or may not look itself up: write the connection with a new one")
	o.write("connections/second", map[string]any{"token": token()})
	o.rotatesTo(8, 8)
}
