package backend_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

func (r *rig) preflight() map[string]rotator.Line {
	r.t.Helper()
	ctx, done := context.WithTimeout(context.Background(), time.Minute)
	defer done()
	require.NoError(r.t, r.Engine().Quiesce(ctx)) // what came before is no work of preflight
	before := r.Disk.Snapshot()
	lines, err := r.Engine().Preflight(context.Background(), app)
	require.NoError(r.t, err)
	require.Equal(r.t, before, r.Disk.Snapshot(), "preflight changes nothing")
	out, order := map[string]rotator.Line{}, []string{}
	for _, line := range lines {
		out[line.Check] = line
		order = append(order, line.Check)
	}
	require.Equal(r.t, []string{"target", "current version", "earlier version", "rollback plan", "channels", "window", "nothing in flight"}, order)
	return out
}

func (r *rig) line(check string, result rotator.Result, says string) {
	r.t.Helper()
	line := r.preflight()[check]
	require.Equal(r.t, result, line.Result, line.Detail)
	require.Contains(r.t, line.Detail, says)
}

func TestPreflightOfARoleThatIsWell(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"grace_period": int64(300)})
	r.line("target", rotator.Pass, "reachable")
	r.line("current version", rotator.Pass, "version 1 (")
	r.line("earlier version", rotator.Warn, "there is no version before 1")
	r.line("rollback plan", rotator.Pass, "stays valid for 5m0s; rollback would verify it")
	r.line("channels", rotator.Warn, "no channel is told should the rotation fail")
	r.line("window", rotator.Pass, "there is no window; the next rotation is due at ")
	r.line("nothing in flight", rotator.Pass, "no rotation is in flight")
}

func TestPreflightTellsWhatARollbackWouldDo(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.Rotate()
	r.Wait(2 * time.Second)
	r.line("earlier version", rotator.Pass, "lives until "+r.State().Versions[0].RetireAt.Format(time.RFC3339))
	r.Wait(3 * time.Minute)
	r.line("earlier version", rotator.Pass, "has ended: rollback would make it valid again from its kept material")
	r.emergency(false)
	r.Wait(time.Minute)
	r.line("earlier version", rotator.Warn, "it is compromised")
}

func TestPreflightOfOneCredentialInPlace(t *testing.T) {
	t.Parallel()
	r := created(t, inPlace)
	r.line("rollback plan", rotator.Pass, "with a gap for whoever reads in between")
}

func TestPreflightTriesTheCurrentVersion(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.world.SetRefuse(true)
	r.line("current version", rotator.Warn, "could not be proven to work: the check query failed")
	r.line("target", rotator.Pass, "")
	r.world.SetRefuse(false)
	r.world.SetDown(true)
	r.line("target", rotator.Fail, "")
	r.line("current version", rotator.Warn, "could not be proven to work: ")
	r.world.SetDown(false)

	r.Leak(true)
	name := r.marked()[0]
	user := r.world.Users()[name]
	r.world.Remove(name)
	r.line("current version", rotator.Warn, "does not work: ")
	r.world.Put(name, user)

	r.world.SetRefuse(true)
	r.emergency(true)
	r.Leak(true)
	r.line("current version", rotator.Warn, "was ended in an emergency, and has no successor yet")
	r.line("rollback plan", rotator.Warn, "is compromised, and no rollback goes to it")
	r.line("nothing in flight", rotator.Warn, "(emergency) waits until")
	r.world.SetRefuse(false)
	r.Wait(5 * time.Minute)
	r.Leak(false)
}

func TestPreflightTellsWhenTheWindowOpens(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	_, err := r.write(option.Values{"rotation_schedule": "0 3 * * *", "rotation_window": int64(3600)})
	require.NoError(t, err)
	now := r.Clock.Now()
	opens := time.Date(now.Year(), now.Month(), now.Day(), 3, 0, 0, 0, time.UTC)
	if !opens.After(now) {
		opens = opens.AddDate(0, 0, 1)
	}
	r.Leak(true)
	r.Clock.Advance(opens.Add(-time.Hour).Sub(now))
	r.line("window", rotator.Warn, "the window is closed, and opens at "+opens.Format(time.RFC3339))
	r.Clock.Advance(90 * time.Minute)
	r.line("window", rotator.Pass, "the window is open")
	_, err = r.write(option.Values{"disable_automated_rotation": true})
	require.NoError(t, err)
	r.line("window", rotator.Pass, "only people rotate, at any time")
}

func TestPreflightTellsWhatIsInTheWay(t *testing.T) {
	t.Parallel()
	r := created(t, option.Values{"max_attempts": int64(1)})
	r.world.SetRefuse(true)
	_, err := r.rotate()
	require.NoError(t, err)
	r.waitUntil("blocked", time.Minute, func() bool { return r.status().State == backend.StateBlocked })
	r.line("nothing in flight", rotator.Warn, "the role is blocked")
	r.world.SetRefuse(false)
	r.Leak(true)
	r.world.Remove(r.marked()[0])
	r.waitUntil("diverged", 25*time.Hour, func() bool { return r.status().State == backend.StateDiverged })
	r.line("nothing in flight", rotator.Fail, "reconcile/app")
	_, err = r.Engine().Preflight(context.Background(), "nobody")
	requireKind(t, fault.NotFound, err, "no role")
}

// What warns does not keep a rotation from beginning; what fails does, and counts no attempt.
func TestPreflightThatWarnsStopsNothing(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.line("earlier version", rotator.Warn, "")
	r.Rotate()
	r.Wait(time.Minute)
	current := r.Current()
	r.world.SetDown(true)
	r.Wait(15 * time.Minute)
	require.Equal(t, current, r.Current())
	require.NotNil(t, r.State().Postponed)
	require.Contains(t, r.status().StateReason, "preflight: target")
	require.Zero(t, r.State().Failures)
	require.Nil(t, r.State().Last.Error, "no attempt was made")
	r.world.SetDown(false)
	r.waitUntil("rotated", time.Hour, func() bool { return r.Current() > current })
}
