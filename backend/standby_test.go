package backend_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/rotatortest"
)

// announced is a role whose next version stands by for three minutes before it may be
// used, and does so.
func announced(t *testing.T) *rig {
	r := created(t, option.Values{"announce": int64(180)})
	r.waitUntil("standby", time.Minute, func() bool { return r.State().StandbyVersion() != nil })
	return r
}

// ready waits until the version that stands by may be used, and returns it.
func (r *rig) ready() rotation.Version {
	r.waitUntil("ready", 5*time.Minute, func() bool {
		s := r.State().StandbyVersion()
		return s != nil && !s.ReadyAt.After(r.Clock.Now())
	})
	return *r.State().StandbyVersion()
}

// enabled tells whether the target accepts a version.
func (r *rig) enabled(version int) bool {
	u, exists := r.world.Users()[r.State().Version(version).Identifier]
	return exists && u.Enabled
}

// retired is a role whose first version has retired.
func retired(t *testing.T) *rig {
	r := announced(t)
	r.ready()
	r.Rotate()
	r.waitUntil("retired", 5*time.Minute, func() bool { return r.State().Version(1).State == rotation.Retired })
	return r
}

// What is asked now is asked while the clock stands still.

func (r *rig) rotateNow(request backend.RotateRequest) (*rotation.Rotation, error) {
	return r.Engine().Rotate(context.Background(), app, request)
}

func (r *rig) emergencyNow(request backend.EmergencyRequest) (*backend.EmergencyResult, error) {
	return r.Engine().Emergency(context.Background(), app, request)
}

func (r *rig) rollbackNow(version int, force bool) (*rotation.Rotation, error) {
	return r.Engine().Rollback(context.Background(), app, backend.RollbackRequest{Wait: backend.Wait, Version: version, Force: force})
}

func TestRotationWaitsForTheAnnouncement(t *testing.T) {
	t.Parallel()
	r := announced(t)
	standby := *r.State().StandbyVersion()
	require.Equal(t, 3*time.Minute, standby.ReadyAt.Sub(standby.AnnouncedTime))
	_, err := r.rotateNow(backend.RotateRequest{})
	requireKind(t, fault.Conflict, err, fmt.Sprintf("version 2 is announced, and may take over at %s: rotate then, or at once with force=true", standby.ReadyAt.Format(time.RFC3339)))
	require.Equal(t, 1, r.Current())
	require.Nil(t, r.State().Intent, "a refused request leaves nothing")
	require.Zero(t, r.State().Failures)

	out, err := r.rotateNow(backend.RotateRequest{Wait: backend.Wait, Force: true})
	require.NoError(t, err)
	require.Equal(t, standby.Number, out.Version)
	require.True(t, r.Clock.Now().Before(standby.ReadyAt))
}

func TestScheduledRotationWaitsForTheAnnouncement(t *testing.T) {
	t.Parallel()
	r := announced(t)
	r.ready()
	// One that is made late: the schedule's time comes before it was announced.
	_, err := r.rotateNow(backend.RotateRequest{Wait: backend.Wait})
	require.NoError(t, err)
	_, err = r.write(option.Values{"rotation_period": int64(60)})
	require.NoError(t, err)
	r.waitUntil("standby", time.Minute, func() bool { return r.State().StandbyVersion() != nil })
	standby := *r.State().StandbyVersion()
	r.waitUntil("rotated", 10*time.Minute, func() bool { return r.Current() == standby.Number })
	require.False(t, r.State().ActivatedTime.Before(standby.ReadyAt))
	require.Equal(t, rotation.Scheduled, r.State().Last.Trigger)
}

func TestEmergencyDoesNotWaitForTheAnnouncement(t *testing.T) {
	t.Parallel()
	r := announced(t)
	r.Leak(true)
	out, err := r.emergencyNow(backend.EmergencyRequest{Reason: "leaked", Wait: backend.Wait})
	require.NoError(t, err)
	require.Equal(t, 2, out.Rotation.Version, "what stands by is ready, and did not leak")
	require.True(t, r.State().Version(1).ProvenDead())
	r.Leak(false)
}

// What retired is not known outside any more: it stands by again before it is used.
func TestRollbackToARetiredVersionIsAnnounced(t *testing.T) {
	t.Parallel()
	r := retired(t)
	r.ready()

	_, err := r.rollback(1)
	require.NoError(t, err)
	r.waitUntil("standing by", time.Minute, func() bool { return r.State().Version(1).State == rotation.Standby })
	back := *r.State().Version(1)
	require.Equal(t, 2, r.Current())
	require.True(t, r.enabled(1), "it works before anybody gets it")
	require.NotNil(t, r.State().StandbyVersion(), "beside the next one")
	require.NotEqual(t, 1, r.State().StandbyVersion().Number)

	r.waitUntil("rolled back", 5*time.Minute, func() bool { return r.Current() == 1 })
	require.False(t, r.State().ActivatedTime.Before(back.ReadyAt))
	require.Equal(t, rotation.Rollback, r.State().Last.Trigger)
	require.False(t, r.State().Version(1).Returns)

	t.Run("at once with force", func(t *testing.T) {
		r.waitUntil("retired", 5*time.Minute, func() bool { return r.State().Version(2).State == rotation.Retired })
		_, err := r.rollback(2)
		require.NoError(t, err)
		require.Equal(t, 1, r.Current())
		out, err := r.rollbackNow(2, true)
		require.NoError(t, err)
		require.Equal(t, rotation.Succeeded, out.Outcome)
		require.Equal(t, 2, r.Current())
	})
}

// A rollback that waits gives way to whoever asks for something else, and what it
// brought back is ended again.
func TestRollbackThatWaitsGivesWay(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]func(r *rig) error{
		"rotate": func(r *rig) error {
			_, err := r.rotateNow(backend.RotateRequest{Wait: backend.Wait, Force: true})
			return err
		},
		"emergency": func(r *rig) error {
			r.Leak(true)
			_, err := r.emergencyNow(backend.EmergencyRequest{Reason: "leaked", Wait: backend.Wait})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := retired(t)
			_, err := r.rollback(1)
			require.NoError(t, err)
			r.waitUntil("standing by", time.Minute, func() bool { return r.State().Version(1).State == rotation.Standby })
			require.NoError(t, ask(r))
			require.Equal(t, 3, r.Current(), "the next one, not the one that was on its way back")
			r.waitUntil("ended again", time.Minute, func() bool {
				v := r.State().Version(1)
				return v.State == rotation.Retired && v.ProvenDead()
			})
			require.False(t, r.enabled(1))
			r.Leak(false)
		})
	}
}

// A request that is refused leaves the rollback that waits as it was.
func TestRefusedRequestLeavesTheRollbackThatWaits(t *testing.T) {
	t.Parallel()
	r := retired(t)
	_, err := r.rollback(1)
	require.NoError(t, err)
	r.waitUntil("standing by", time.Minute, func() bool { return r.State().Version(1).State == rotation.Standby })
	if s := r.State().StandbyVersion(); s != nil && s.ReadyAt.After(r.Clock.Now()) {
		_, err = r.rotateNow(backend.RotateRequest{Wait: backend.Wait})
		requireKind(t, fault.Conflict, err, "is announced")
	}
	r.waitUntil("rolled back", 5*time.Minute, func() bool { return r.Current() == 1 })
}

// Whoever looked before the time was made shorter comes back within the longer one.
func TestShorterAnnouncementHoldsWhatWasPromised(t *testing.T) {
	t.Parallel()
	r := announced(t)
	r.ready()
	changed := r.Clock.Now()
	_, err := r.write(option.Values{"announce": int64(20)})
	require.NoError(t, err)
	r.Step()
	r.Rotate()
	r.waitUntil("the next", time.Minute, func() bool { return r.State().StandbyVersion() != nil })
	require.False(t, r.State().StandbyVersion().ReadyAt.Before(changed.Add(3*time.Minute)))
}

func TestStandbyVersionsAreSeenByUse(t *testing.T) {
	t.Parallel()
	r := announced(t)
	use := func(request any) (any, error) { return r.Engine().Use(context.Background(), app, request) }
	answer, err := use(rotatortest.Seal("hello"))
	require.NoError(t, err)
	require.Equal(t, 1, answer.(rotatortest.Open).Version, "what stands by does not make")
	_, err = r.Engine().VersionCreds(context.Background(), app, 2, backend.Actor{})
	requireKind(t, fault.NotFound, err, "no live version 2")
}
