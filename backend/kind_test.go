package backend_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/rotatortest"
)

// What kinds may do beside the plain swap, reached through the in-memory kind.

func TestLiveVersionsArePutToUse(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	use := func(request any) (any, error) { return r.Engine().Use(context.Background(), app, request) }
	answer, err := use(rotatortest.Seal("hello"))
	require.NoError(t, err)
	sealed, ok := answer.(rotatortest.Open)
	require.True(t, ok)
	require.Equal(t, 1, sealed.Version)
	r.Rotate()
	answer, err = use(rotatortest.Seal("hello"))
	require.NoError(t, err)
	require.Equal(t, 2, answer.(rotatortest.Open).Version, "the current version makes")
	answer, err = use(sealed)
	require.NoError(t, err)
	require.Equal(t, rotatortest.Seal("hello"), answer, "a retiring one still undoes what it made")
	r.Wait(2 * time.Minute)
	_, err = use(sealed)
	requireKind(t, fault.Invalid, err, "no live version")
	_, err = r.Engine().Use(context.Background(), "nobody", sealed)
	requireKind(t, fault.NotFound, err, "no role")
}

func TestNotYetIsAskedAgain(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.Rotate()
	r.world.SetBusy(true)
	r.waitUntil("told not yet", 2*time.Minute, func() bool { return r.State().Version(1).Attention != nil })
	v := r.State().Version(1)
	require.Equal(t, rotation.Retiring, v.State)
	require.Equal(t, "somebody is busy", v.Attention.Reason)
	require.False(t, v.Attention.Failing, "waiting is no failure")
	require.Equal(t, backend.StateGrace, r.status().State)
	r.Wait(5 * time.Minute)
	require.Greater(t, r.State().Version(1).Attention.Attempts, 3)
	r.world.SetBusy(false)
	r.Wait(time.Minute)
	require.Equal(t, rotation.Retired, r.State().Version(1).State)
}

func TestIrreversiblePrepareGoesForward(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"irreversible": true})
	r.world.SetRefuse(true)
	out, err := r.rotate()
	require.NoError(t, err)
	require.Equal(t, rotation.Failed, out.Outcome)
	r.world.SetRefuse(false)
	r.waitUntil("the same candidate", 5*time.Minute, func() bool { return r.Current() == out.Version })
	require.Equal(t, out.ID, r.State().Last.RetryOf)
	require.Equal(t, 2, r.State().Highest, "no other version was made")
	r.Wait(2 * time.Minute)
	require.Len(t, r.marked(), 1)
}

func TestInPlaceHasNoGrace(t *testing.T) {
	t.Parallel()
	r := connected(t)
	_, err := r.write(role(option.Values{"in_place": true, "grace_period": int64(60)}))
	requireKind(t, fault.Invalid, err, "grace_period: must be 0")
	_, err = r.write(role(option.Values{"in_place": true, "grace_period": int64(0)}))
	require.NoError(t, err)
	require.Equal(t, int64(r.State().NextRotation.Sub(r.Clock.Now()).Seconds()), r.creds().Data["ttl"], "until the next rotation")
	_, err = r.write(option.Values{"disable_automated_rotation": true})
	require.NoError(t, err)
	r.Step()
	require.Equal(t, int64(300), r.creds().Data["ttl"])
}

func TestTwoStagesOfAnEnd(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"destroy_after": int64(300)})
	r.Rotate()
	r.waitUntil("disabled", 2*time.Minute, func() bool { return r.State().Version(1).State == rotation.Disabled })
	r.Wait(10 * time.Second)
	require.True(t, r.State().Version(1).ProvenDead(), "proven as soon as it is refused")
	require.Len(t, r.marked(), 2)
	r.Wait(6 * time.Minute)
	require.Equal(t, rotation.Retired, r.State().Version(1).State)
	require.Len(t, r.marked(), 1)
}
