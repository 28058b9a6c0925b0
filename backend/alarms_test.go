package backend_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// unresolved are the alarms that a channel was told of and not of the end.
func (r *told) unresolved(channel string) (keys []string) {
	open := map[string]bool{}
	for _, m := range r.channel.Told(channel) {
		if m.Alarm != "" {
			open[m.Alarm] = true
		}
		for _, over := range m.Over {
			delete(open, over)
		}
	}
	for key := range open {
		keys = append(keys, key)
	}
	return keys
}

// A process that dies right after it recorded a failure, and a failover that takes so long that the
// next attempt is due at once and succeeds: people hear of the end all the same.
func TestAnAlarmBeginsWithItsEvent(t *testing.T) {
	t.Parallel()
	var process enginetest.Shared[string]
	process.Set("alive")
	r := newTold(t, option.Values{"disable_automated_rotation": true}, func(s *enginetestStage) {
		s.Storage = func(inner store.Storage) store.Storage { return diesAfter{inner, `"type":"rotation.failed"`, &process} }
	})
	r.world.SetRefuse(true)
	_, err := r.Engine().Rotate(context.Background(), app, backend.RotateRequest{})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return process.Get() == "dead" }, time.Minute, time.Millisecond)
	r.Clock.Advance(2 * time.Minute)
	r.world.SetRefuse(false)
	process.Set("the next")
	r.Restart()
	r.Wait(time.Hour)
	require.Contains(t, r.events("ops"), "rotation.failed")
	require.Contains(t, r.events("ops"), "role.recovered")
	require.Empty(t, r.unresolved("ops"))
}

// diesAfter stores nothing more once a state was stored that says something, until the next process.
type diesAfter struct {
	store.Storage
	says    string
	process *enginetest.Shared[string]
}

func (d diesAfter) Put(ctx context.Context, key string, value []byte) error {
	if d.process.Get() == "dead" {
		return enginetest.ErrInjected
	}
	err := d.Storage.Put(ctx, key, value)
	if d.process.Get() == "alive" && strings.HasPrefix(key, "state/") && strings.Contains(string(value), d.says) {
		d.process.Set("dead")
	}
	return err
}

// unanswered cannot tell whether a version is dead.
type unanswered struct{ *enginetest.Faulty }

func (unanswered) Probe(context.Context, *rotator.Target) (rotator.Proof, error) {
	return rotator.Proof{}, fault.New(fault.Unreachable, "no route to host")
}

func TestAnEndThatIsNotProvenIsTold(t *testing.T) {
	t.Parallel()
	r := newTold(t, option.Values{"disable_automated_rotation": true}, func(s *enginetestStage) {
		inner := s.Rotator
		s.Rotator = func(f *enginetest.Faults) rotator.Rotator { return unanswered{inner(f).(*enginetest.Faulty)} }
	})
	r.Rotate()
	r.Wait(10 * time.Minute)
	require.NotContains(t, r.events("ops"), "role.failing", "it may take a while")
	r.Wait(15 * time.Minute)
	require.Contains(t, r.last("ops", "role.failing").Summary, "no route to host")
	require.Equal(t, backend.StateFailing, r.status().State)
}

// A crossing of another day pages again, though nobody closed the first alert.
func TestARateThatIsTooHighPagesEachDay(t *testing.T) {
	t.Parallel()
	r := newTold(t, option.Values{"disable_automated_rotation": true, "access_rate_threshold": int64(3)})
	for range 2 {
		for range 10 {
			r.creds()
		}
		r.Wait(time.Hour)
		r.Clock.Advance(36 * time.Hour)
	}
	require.Len(t, r.unresolved("ops"), 2)
}

// That an operator lets a rotation go on is not its success.
func TestAnAlarmLastsUntilTheRotationHasEnded(t *testing.T) {
	t.Parallel()
	channel := &enginetest.Channel{}
	d := withDependents(t, option.Values{"rollout": []string{apiTarget}, "on_rollout_failure": "hold"}, func(s *enginetestStage) {
		s.Channel = func(*enginetest.Faults) notify.Kind { return channel }
	})
	d.WriteChannel("ops", nil)
	r := &told{rig: d.rig, channel: channel}
	d.around.Change(api, func(w *enginetest.Workload) { w.Broken = true })
	d.rotateHeld("step rollout failed")
	d.Wait(time.Minute)
	require.Len(t, r.unresolved("ops"), 1)
	d.resume()
	d.Wait(time.Minute)
	require.NotContains(t, r.events("ops"), "role.recovered")
	d.around.Change(api, func(w *enginetest.Workload) { w.Broken = false })
	d.Wait(time.Hour)
	require.Contains(t, r.events("ops"), "role.recovered")
	require.Empty(t, r.unresolved("ops"))
}

// Where the clock was set back nothing waits for as long as it was ahead.
func TestNoMessageWaitsForAClockThatWasAhead(t *testing.T) {
	t.Parallel()
	r := newTold(t, option.Values{"disable_automated_rotation": true})
	r.Leak(true) // nobody's ttl follows a clock that jumps
	r.Clock.Jump(24 * time.Hour)
	r.Rotate()
	r.Wait(time.Minute)
	r.Clock.Jump(-24 * time.Hour)
	before := len(r.events("ops"))
	r.Rotate()
	r.Wait(time.Minute)
	require.Contains(t, r.events("ops")[before:], "rotation.succeeded")
}

// That a rotation was put off before is no reason not to tell that it cannot begin.
func TestWhatCannotBeginIsToldAlsoAfterItWasPutOff(t *testing.T) {
	t.Parallel()
	r := newTold(t, option.Values{"standing": true, "wait_for_idle": true, "max_grace_period": int64(24 * 3600), "rotation_period": int64(120)})
	r.Rotate()
	r.open(r.State().Version(1).Identifier, 3)
	r.waitUntil("it is put off", 10*time.Minute, func() bool { return r.State().Postponed != nil })
	r.open(r.State().Version(1).Identifier, 0)
	r.world.SetDown(true)
	r.waitUntil("it is told", 2*time.Hour, func() bool { return slices.Contains(r.events("ops"), "rotation.postponed") })
}

// A leak that the filters of all channels keep from people is told to those that take such news.
func TestALeakIsHeardBySomebody(t *testing.T) {
	t.Parallel()
	r := newTold(t, option.Values{"disable_automated_rotation": true})
	r.WriteChannel("ops", option.Values{"roles": []string{"billing-*"}})
	r.WriteChannel("consumer", option.Values{"events": []string{"version.activated"}})
	r.emergency(false)
	r.Wait(time.Minute)
	require.Contains(t, r.events("ops"), "emergency.declared")
	require.NotContains(t, r.events("consumer"), "emergency.declared")
}
