package backend_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/rotatortest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// told is a rig whose mount has a channel named ops.
type told struct {
	*rig
	channel *enginetest.Channel
}

func newTold(t *testing.T, values option.Values, change ...func(*enginetest.Stage)) *told {
	t.Helper()
	channel := &enginetest.Channel{}
	r := &told{channel: channel}
	r.rig = newRig(t, append(change, func(s *enginetest.Stage) {
		s.Channel = func(*enginetest.Faults) notify.Kind { return channel }
	})...)
	r.WriteChannel("ops", nil)
	r.Create(values)
	r.Wait(time.Minute)
	return r
}

// events are those that a channel was told, in order.
func (r *told) events(channel string) (names []string) {
	for _, m := range r.channel.Told(channel) {
		names = append(names, m.Event)
	}
	return names
}

// last is the last message of an event.
func (r *told) last(channel, event string) *notify.Message {
	r.t.Helper()
	for _, m := range slices.Backward(r.channel.Told(channel)) {
		if m.Event == event {
			return &m
		}
	}
	require.Fail(r.t, "it was not told", "%s: %v", event, r.events(channel))
	return nil
}

func (r *told) config(values option.Values) error {
	return r.Act(func(ctx context.Context, e *backend.Engine) error {
		_, err := e.WriteConfig(ctx, backend.Write{Given: values})
		return err
	})
}

func TestWhatHappensIsTold(t *testing.T) {
	t.Parallel()
	r := newTold(t, nil)
	require.Equal(t, []string{"version.activated", "rotation.succeeded"}, r.events("ops"))
	m := r.last("ops", "rotation.succeeded")
	require.Equal(t, []string{app}, m.Roles)
	require.Equal(t, "app rotated to version 1 (initial)", m.Summary)
	require.Contains(t, m.Source, "/vault-plugin-secrets-rotation/")
	require.Empty(t, m.Alarm)
	r.Restart()
	r.Wait(10 * time.Minute)
	seen := map[string]bool{}
	for _, m := range r.channel.Told("ops") {
		require.False(t, seen[m.ID], "%s was told again though nothing failed", m.Event)
		seen[m.ID] = true
	}
}

func TestAFailureIsToldAtOnceAndIsOverOnce(t *testing.T) {
	t.Parallel()
	r := newTold(t, nil)
	r.world.SetRefuse(true)
	_, err := r.rotate()
	require.NoError(t, err)
	r.Wait(12 * time.Second)
	m := r.last("ops", "rotation.failed")
	require.Equal(t, notify.Error, m.Severity)
	require.Equal(t, "role/app", m.Alarm)
	require.Contains(t, m.Summary, "failed in phase prepared")
	require.Contains(t, m.Summary, "attempt 2 follows at ")
	require.NotNil(t, r.State().Alarm)
	r.world.SetRefuse(false)
	r.waitUntil("it is well", 10*time.Minute, func() bool { return r.State().Alarm == nil })
	r.Wait(30 * time.Second)
	m = r.last("ops", rotation.AlarmOver)
	require.Equal(t, []string{"role/app"}, m.Over)
	require.NotContains(t, r.events("ops"), "role.failing", "the failure itself was told")
}

func TestAlarmsAreRepeatedAndPassedOnUntilAcknowledged(t *testing.T) {
	t.Parallel()
	r := newTold(t, option.Values{"disable_automated_rotation": true, "max_attempts": int64(1)})
	for _, name := range []string{"first", "second", "third"} {
		r.WriteChannel(name, option.Values{"events": []string{"channel.*"}}) // in line, and of no other interest
	}
	require.NoError(t, r.config(option.Values{"contacts": []string{"first", "second", "third"}, "escalate_after": int64(600)}))
	r.world.SetRefuse(true)
	_, err := r.rotate()
	require.NoError(t, err)
	r.Wait(30 * time.Second)
	require.Contains(t, r.events("first"), "role.blocked")
	require.Empty(t, r.events("second"))
	r.Wait(11 * time.Minute)
	require.Equal(t, []string{rotation.AlarmEscalated}, r.events("second"))
	require.Empty(t, r.events("third"))
	require.NotContains(t, r.events("ops"), rotation.AlarmEscalated, "it is for the next in line alone")

	var alarm *rotation.Alarm
	require.NoError(t, r.Act(func(ctx context.Context, e *backend.Engine) (err error) {
		alarm, err = e.Acknowledge(ctx, app, backend.Actor{DisplayName: "ada", Accessor: "accessor-canary"})
		return err
	}))
	require.Equal(t, "ada", alarm.Acknowledged.Actor.DisplayName)
	require.NotContains(t, alarm.Acknowledged.Actor.AccessorHash, "canary")
	r.Wait(time.Hour)
	require.Empty(t, r.events("third"), "somebody looks after it")
	before := len(r.events("ops"))
	r.Wait(24 * time.Hour)
	require.Equal(t, []string{"role.blocked"}, r.events("ops")[before:], "a reminder")
	require.Equal(t, "1", field(r.last("ops", "role.blocked"), "reminder"))

	r.world.SetRefuse(false)
	r.Rotate()
	r.Wait(time.Minute)
	for _, channel := range []string{"ops", "first", "second"} {
		require.Contains(t, r.events(channel), rotation.AlarmOver, channel)
	}
	require.Empty(t, r.events("third"))
	require.ErrorContains(t, r.Act(func(ctx context.Context, e *backend.Engine) error {
		_, err := e.Acknowledge(ctx, app, backend.Actor{})
		return err
	}), "nothing is wrong with role")
}

func field(m *notify.Message, name string) string {
	for _, f := range m.Fields {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

func TestOverdueIsToldUntilItIsOver(t *testing.T) {
	t.Parallel()
	r := newTold(t, option.Values{"overdue_after": int64(60)})
	r.world.SetRefuse(true)
	r.waitUntil("overdue", 20*time.Minute, func() bool { a := r.State().Alarm; return a != nil && a.State == "overdue" })
	r.Wait(time.Minute)
	m := r.last("ops", "rotation.overdue")
	require.Equal(t, "role/app", m.Alarm)
	r.world.SetRefuse(false)
	r.waitUntil("it is well", 3*time.Hour, func() bool { return r.State().Alarm == nil })
	r.Wait(time.Minute)
	require.Equal(t, "overdue", field(r.last("ops", rotation.AlarmOver), "was"))
}

func TestRotationsAreForetold(t *testing.T) {
	t.Parallel()
	r := newTold(t, nil)
	require.NoError(t, r.config(option.Values{"notify_before": int64(300)}))
	r.Wait(5 * time.Minute)
	require.Equal(t, r.State().NextRotation.UTC().Format(time.RFC3339), field(r.last("ops", "rotation.upcoming"), "at"))
	count := func() (n int) {
		for _, name := range r.events("ops") {
			if name == "rotation.upcoming" {
				n++
			}
		}
		return n
	}
	require.Equal(t, 1, count())
	r.Wait(10 * time.Minute)
	require.Equal(t, 2, count(), "once for each rotation")
}

func TestADeadChannelIsToldElsewhereAndBlocksNothing(t *testing.T) {
	t.Parallel()
	r := newTold(t, nil)
	r.WriteChannel("oncall", nil)
	r.channel.Fail("ops", errors.New("no route to host"))
	r.Rotate()
	r.Wait(6 * time.Minute)
	m := r.last("oncall", "channel.failing")
	require.Equal(t, []string{"channel/ops", "channel ops does not take messages: no route to host"}, []string{m.Alarm, m.Summary})
	view, err := r.Engine().Channel(context.Background(), "ops")
	require.NoError(t, err)
	require.Positive(t, view.Failures)
	require.Positive(t, view.Waiting)
	page, err := r.Engine().Status(context.Background(), backend.StatusQuery{Limit: 1})
	require.NoError(t, err)
	require.Contains(t, strings.Join(page.Warnings, "; "), "channels that do not take messages: ops")
	metrics, err := r.Engine().Metrics(context.Background())
	require.NoError(t, err)
	require.Len(t, metrics.Channels, 2)
	require.Equal(t, "ops", metrics.Channels[1].Name)
	require.True(t, metrics.Channels[1].Failing)
	require.Equal(t, view.Waiting, metrics.Channels[1].Depth)
	require.False(t, metrics.Channels[1].OldestTime.IsZero())

	r.channel.Fail("ops", nil)
	r.waitUntil("it is told", time.Hour, func() bool { return slices.Contains(r.events("ops"), "rotation.succeeded") && r.waiting("ops") == 0 })
	r.Wait(time.Minute)
	require.Equal(t, []string{"channel/ops"}, r.last("oncall", "channel.recovered").Over)
	require.Equal(t, r.inOrder("oncall"), r.inOrder("ops"), "late, and in the same order")
}

// inOrder are the events of the role that a channel was told.
func (r *told) inOrder(channel string) (names []string) {
	for _, m := range r.channel.Told(channel) {
		if field(&m, "version") == "2" && len(m.Roles) == 1 {
			names = append(names, m.Event)
		}
	}
	return names
}

func (r *told) waiting(channel string) int {
	view, err := r.Engine().Channel(context.Background(), channel)
	require.NoError(r.t, err)
	return view.Waiting
}

func TestAMessageIsGivenUpAfterADayAndOnRecord(t *testing.T) {
	t.Parallel()
	r := newTold(t, option.Values{"disable_automated_rotation": true})
	r.channel.Fail("ops", errors.New("no route to host"))
	r.Rotate()
	r.Wait(time.Minute)
	r.Clock.Advance(25 * time.Hour)
	r.Wait(time.Minute)
	view, err := r.Engine().Channel(context.Background(), "ops")
	require.NoError(t, err)
	require.NotEmpty(t, view.Lost)
	require.Equal(t, len(view.Lost), view.LostTotal)
	require.Equal(t, "it waited for 24h0m0s", view.Lost[0].Reason)
	require.Zero(t, view.Waiting)
}

func TestWhatAServiceRefusesDoesNotBlockWhatWaitsBehind(t *testing.T) {
	t.Parallel()
	r := newTold(t, nil)
	r.channel.Fail("ops", &notify.Failure{Permanent: true, Reason: "invalid payload"})
	_, err := r.rotate()
	require.NoError(t, err)
	attempts := r.channel.Attempts("ops")
	r.waitUntil("it is set aside", 2*time.Hour, func() bool { v, _ := r.Engine().Channel(context.Background(), "ops"); return v.LostTotal > 0 })
	require.GreaterOrEqual(t, r.channel.Attempts("ops")-attempts, 2, "after it had its chances")
	r.channel.Fail("ops", nil)
	r.waitUntil("the rest is told", 24*time.Hour, func() bool { return r.waiting("ops") == 0 })
}

func TestAStormIsOneMessage(t *testing.T) {
	t.Parallel()
	r := newTold(t, option.Values{"disable_automated_rotation": true, "max_attempts": int64(1)})
	names := []string{app}
	for i := range 24 {
		names = append(names, fmt.Sprintf("role-%02d", i))
	}
	r.Add(option.Values{"disable_automated_rotation": true, "max_attempts": int64(1)}, names[1:]...)
	r.Wait(5 * time.Minute)
	before := len(r.channel.Told("ops"))
	r.world.SetRefuse(true)
	for _, name := range names {
		_, err := r.Engine().Rotate(context.Background(), name, backend.RotateRequest{})
		require.NoError(t, err)
	}
	r.Wait(time.Minute)
	var failed []notify.Message
	for _, m := range r.channel.Told("ops")[before:] {
		if m.Event == "rotation.failed" {
			failed = append(failed, m)
		}
	}
	require.Len(t, failed, 1, "%v", r.events("ops")[before:])
	require.Len(t, failed[0].Roles, len(names))
	require.True(t, strings.HasPrefix(failed[0].Alarm, "cause/"), failed[0].Alarm)
	require.Contains(t, failed[0].Summary, "25 roles: rotation of app, role-00, role-01, role-02")

	r.world.SetRefuse(false)
	over := map[string]bool{}
	for _, name := range names {
		_, err := r.Engine().Rotate(context.Background(), name, backend.RotateRequest{})
		require.NoError(t, err)
	}
	r.Wait(5 * time.Minute)
	for _, m := range r.channel.Told("ops")[before:] {
		for _, key := range m.Over {
			over[key] = true
		}
	}
	require.True(t, over[failed[0].Alarm], "the alarm of all is over with the last of them")
}

// What hits all roles at once is one message, though each role has a version of its own in it.
func TestRolesThatDivergeTogetherAreOneMessage(t *testing.T) {
	t.Parallel()
	r := newTold(t, option.Values{"disable_automated_rotation": true})
	var names []string
	for i := range 60 {
		names = append(names, fmt.Sprintf("role-%02d", i))
	}
	r.Add(option.Values{"disable_automated_rotation": true}, names...)
	r.Wait(10 * time.Minute)
	for name := range r.world.Users() {
		r.world.Remove(name)
	}
	r.Leak(true)
	before := len(r.channel.Told("ops"))
	r.Restart()
	messages, roles := 0, 0
	r.waitUntil("all are told", time.Hour, func() bool {
		messages, roles = 0, 0
		for _, m := range r.channel.Told("ops")[before:] {
			if m.Event == "role.diverged" {
				messages, roles = messages+1, roles+len(m.Roles)
			}
		}
		return roles == len(names)+1
	})
	require.Less(t, messages, 5)
}

// endsNothing is a kind whose target cannot be reached to end a version.
type endsNothing struct{ *enginetest.Faulty }

func (endsNothing) Retire(context.Context, *rotator.Target, rotator.Stage) (rotator.Progress, error) {
	return rotator.Progress{}, fault.New(fault.Unreachable, "no route to host")
}

func TestOneCauseIsOneMessageWhateverTheVersion(t *testing.T) {
	t.Parallel()
	var away atomic.Bool
	r := newTold(t, option.Values{"disable_automated_rotation": true}, func(s *enginetest.Stage) {
		kind := s.Rotator
		s.Rotator = func(f *enginetest.Faults) rotator.Rotator {
			if away.Load() {
				return endsNothing{kind(f).(*enginetest.Faulty)}
			}
			return kind(f)
		}
	})
	r.Add(option.Values{"disable_automated_rotation": true}, "billing")
	r.Wait(time.Minute)
	r.Rotate() // the versions that are to be ended are of other numbers
	r.waitUntil("it is ended", time.Hour, func() bool { return r.status().State == backend.StateOK })
	for _, name := range []string{app, "billing"} {
		_, err := r.Engine().Rotate(context.Background(), name, backend.RotateRequest{Wait: backend.Wait})
		require.NoError(t, err)
	}
	away.Store(true)
	r.Restart()
	r.waitUntil("it is told", time.Hour, func() bool { return slices.Contains(r.events("ops"), "role.failing") })
	m := r.last("ops", "role.failing")
	require.Equal(t, []string{app, "billing"}, m.Roles)
	require.Equal(t, "2 roles: app, billing fail: no route to host", m.Summary)
}

// A service may be told of the end of each by a request of its own, all within one attempt.
func TestOneMessageEndsFewAlarms(t *testing.T) {
	t.Parallel()
	once := option.Values{"disable_automated_rotation": true, "max_attempts": int64(1)}
	r := newTold(t, once)
	var names []string
	for i := range 12 {
		names = append(names, fmt.Sprintf("role-%02d", i))
	}
	r.Add(once, names...)
	r.Wait(time.Minute)
	r.world.SetRefuse(true)
	for _, name := range names { // one after another: an alarm for each
		_, err := r.Engine().Rotate(context.Background(), name, backend.RotateRequest{})
		require.NoError(t, err)
		r.Wait(12 * time.Second)
	}
	r.world.SetRefuse(false)
	before := len(r.channel.Told("ops"))
	for _, name := range names {
		_, err := r.Engine().Rotate(context.Background(), name, backend.RotateRequest{})
		require.NoError(t, err)
	}
	r.Wait(time.Minute)
	over := map[string]bool{}
	for _, m := range r.channel.Told("ops")[before:] {
		require.LessOrEqual(t, len(m.Over), 10)
		for _, key := range m.Over {
			over[key] = true
		}
	}
	require.Len(t, over, len(names))
	require.Len(t, r.last("ops", "version.activated").Roles, len(names), "what ends none is told of all")
}

func TestAChannelThatHangsDelaysNothing(t *testing.T) {
	t.Parallel()
	r := newTold(t, nil)
	r.WriteChannel("oncall", nil)
	r.channel.Hang("ops")
	began := time.Now()
	engine := r.Engine()
	out, err := engine.Rotate(context.Background(), app, backend.RotateRequest{Wait: 5 * time.Second})
	require.NoError(t, err)
	require.Equal(t, rotation.Succeeded, out.Outcome)
	require.Less(t, time.Since(began), 5*time.Second)
	require.Eventually(t, func() bool {
		r.Clock.Advance(time.Second)
		_ = engine.Tick(context.Background())
		return slices.Contains(r.events("oncall"), "version.activated")
	}, 10*time.Second, time.Millisecond)
}

func TestChannelsRefuseWhatIsWrong(t *testing.T) {
	t.Parallel()
	r := newTold(t, nil)
	for says, given := range map[string]option.Values{
		`events: "rotation.exploded" is no event: there are access_rate.exceeded`: {"type": "memory", "events": []string{"rotation.exploded"}},
		"severity: must be info, warning, error or critical":                      {"type": "memory", "severity": "loud"},
		"roles: must name something: * for all":                                   {"type": "memory", "roles": []string{}},
		`type: "pigeon" is not a type of channel: use one of memory`:              {"type": "pigeon"},
		"colour: is not a field of type memory":                                   {"type": "memory", "colour": "red"},
	} {
		err := r.Act(func(ctx context.Context, e *backend.Engine) error {
			_, err := e.WriteChannel(ctx, backend.Write{Name: "other", Given: given})
			return err
		})
		requireKind(t, fault.Invalid, err, says)
	}
	requireKind(t, fault.Invalid, r.config(option.Values{"contacts": []string{"nobody"}}), `contacts: names "nobody", which is no channel: write channels/nobody first`)
	requireKind(t, fault.Invalid, r.config(option.Values{"escalate_after": int64(10)}), "escalate_after: must be at least a minute, or 0 for never")
	_, err := r.write(option.Values{"channels": []string{"nobody"}})
	requireKind(t, fault.Invalid, err, `channels: names "nobody", which is no channel`)

	require.NoError(t, r.config(option.Values{"contacts": []string{"ops"}}))
	remove := func() error {
		return r.Act(func(ctx context.Context, e *backend.Engine) error { return e.DeleteChannel(ctx, "ops") })
	}
	requireKind(t, fault.Conflict, remove(), `channel "ops" is named by config`)
	require.NoError(t, r.config(option.Values{"contacts": []string{}}))
	_, err = r.write(option.Values{"channels": []string{"ops"}})
	require.NoError(t, err)
	requireKind(t, fault.Conflict, remove(), "is named by the channels of app")

	var warnings []string
	require.NoError(t, r.Act(func(ctx context.Context, e *backend.Engine) (err error) {
		warnings, err = e.WriteChannel(ctx, backend.Write{Name: "narrow", Given: option.Values{"type": "memory", "roles": []string{"billing-*"}}})
		return err
	}))
	require.Equal(t, []string{`roles: "billing-*" matches none of the 1 roles of this mount yet`}, warnings)
}

func TestARolesOwnChannelsAreTold(t *testing.T) {
	t.Parallel()
	r := newTold(t, nil)
	r.WriteChannel("team", nil)
	_, err := r.write(option.Values{"channels": []string{"team"}})
	require.NoError(t, err)
	r.Wait(30 * time.Second)
	ops, team := len(r.events("ops")), len(r.events("team"))
	r.Rotate()
	r.Wait(30 * time.Second)
	require.Len(t, r.events("ops"), ops)
	require.Greater(t, len(r.events("team")), team)
}

func TestAPausedMountTellsNobody(t *testing.T) {
	t.Parallel()
	r := newTold(t, nil)
	r.channel.Fail("ops", errors.New("away"))
	r.Rotate()
	r.Wait(time.Minute)
	require.NoError(t, r.config(option.Values{"paused": true}))
	r.channel.Fail("ops", nil)
	before := len(r.events("ops"))
	r.Wait(time.Hour)
	require.Len(t, r.events("ops"), before, "it may be a copy of another mount")
	require.NoError(t, r.config(option.Values{"paused": false}))
	r.waitUntil("it is told", time.Hour, func() bool { return len(r.events("ops")) > before })
}

// What is told must be told after any crash, and bear one id however often.
func outboxScenario(channel *enginetest.Channel, world *rotatortest.World) enginetest.Scenario {
	return enginetest.Scenario{Name: "outbox", AtLeast: 60, Run: func(p *enginetest.Play) {
		p.WriteChannel("ops", nil)
		p.Create(nil)
		p.Wait(20 * time.Second)
		world.SetRefuse(true)
		_ = p.Act(func(ctx context.Context, e *backend.Engine) error {
			_, err := e.Rotate(ctx, app, backend.RotateRequest{Wait: backend.Wait})
			return err
		})
		p.Wait(20 * time.Second)
		world.SetRefuse(false)
		p.Wait(5 * time.Minute)
		p.Rotate()
		p.Wait(6 * time.Minute)
		checkTold(p, channel)
	}}
}

func checkTold(p *enginetest.Play, channel *enginetest.Channel) {
	ids, all := map[string]string{}, channel.Told("ops")
	at := func(event, rotationID string) int {
		return slices.IndexFunc(all, func(m notify.Message) bool { return m.Event == event && field(&m, "rotation_id") == rotationID })
	}
	for _, m := range all {
		key := m.Event + " " + field(&m, "rotation_id") + fmt.Sprint(m.Time)
		if ids[key] != "" && ids[key] != m.ID {
			p.Violate("%s was told twice under different ids", key)
		}
		ids[key] = m.ID
	}
	last := -1
	for _, r := range slices.Backward(p.History()) {
		event := map[rotation.Outcome]string{rotation.Succeeded: "rotation.succeeded", rotation.Failed: "rotation.failed", rotation.Blocked: "rotation.failed"}[r.Outcome]
		if event == "" {
			continue
		}
		i := at(event, r.ID)
		if i < 0 {
			p.Violate("%s of rotation %s (%s) was not told", event, r.ID, r.Trigger)
		}
		if i < last {
			p.Violate("rotation %s was told before an earlier one", r.ID)
		}
		last = max(i, last)
	}
	raised, over := false, false
	for _, m := range all {
		raised, over = raised || m.Alarm != "", over || slices.Contains(m.Over, "role/app")
	}
	if raised && !over && p.State().Alarm == nil {
		p.Violate("an alarm was raised and is over, and nobody was told that")
	}
}

func outboxStage(channel *enginetest.Channel, kind *rotatortest.Memory) *enginetest.Stage {
	stage := memoryStage(kind)
	stage.Channel = func(f *enginetest.Faults) notify.Kind { return enginetest.FaultyChannel{Kind: channel, Faults: f} }
	return stage
}

func TestCrashAnywhereInTheOutbox(t *testing.T) {
	t.Parallel()
	var channel *enginetest.Channel
	kind := rotatortest.NewMemory()
	s := enginetest.Scenario{Name: "outbox", AtLeast: 60, Run: func(p *enginetest.Play) { outboxScenario(channel, kind.World).Run(p) }}
	enginetest.Enumerate(t, func(*testing.T) *enginetest.Stage {
		channel, kind = &enginetest.Channel{}, rotatortest.NewMemory()
		return outboxStage(channel, kind)
	}, s)
}

func TestAMendedChannelIsTriedAtOnce(t *testing.T) {
	t.Parallel()
	r := newTold(t, option.Values{"disable_automated_rotation": true})
	r.channel.Fail("ops", errors.New("no such webhook"))
	r.Rotate()
	r.Wait(3 * time.Hour)
	require.Positive(t, r.waiting("ops"))
	r.channel.Fail("ops", nil)
	r.Wait(time.Minute)
	require.Positive(t, r.waiting("ops"), "the next attempt is hours away")
	require.NoError(t, r.Act(func(ctx context.Context, e *backend.Engine) error {
		_, err := e.WriteChannel(ctx, backend.Write{Name: "ops"})
		return err
	}))
	r.Wait(time.Minute)
	require.Zero(t, r.waiting("ops"))
}

// With nothing that waits no message could say that the channel is well again.
func TestAMendedChannelIsWellOnceItTookATest(t *testing.T) {
	t.Parallel()
	r := newTold(t, option.Values{"disable_automated_rotation": true})
	r.WriteChannel("oncall", nil)
	r.channel.Fail("ops", errors.New("no route to host"))
	r.Rotate()
	r.Wait(6 * time.Minute)
	r.Clock.Advance(25 * time.Hour)
	r.Wait(time.Hour)
	require.Zero(t, r.waiting("ops"))
	test := func() error {
		return r.Act(func(ctx context.Context, e *backend.Engine) error { return e.TestChannel(ctx, "ops", backend.Actor{}) })
	}
	require.Error(t, test())
	r.Wait(time.Minute)
	require.NotContains(t, r.events("oncall"), "channel.recovered")

	r.channel.Fail("ops", nil)
	require.NoError(t, test())
	r.Wait(time.Minute)
	require.Equal(t, []string{"channel/ops"}, r.last("oncall", "channel.recovered").Over)
	view, err := r.Engine().Channel(context.Background(), "ops")
	require.NoError(t, err)
	require.Zero(t, view.Failures)
	page, err := r.Engine().Status(context.Background(), backend.StatusQuery{Limit: 1})
	require.NoError(t, err)
	require.Empty(t, page.Warnings)
}

func TestWhatSomeWereToldIsNotToldAgain(t *testing.T) {
	t.Parallel()
	r := newTold(t, option.Values{"disable_automated_rotation": true})
	r.channel.Fail("ops", &notify.Failure{Partial: true, Reason: "1 of 2 recipients were told"})
	before := r.channel.Attempts("ops")
	r.Rotate()
	r.Wait(time.Hour)
	require.Equal(t, 2, r.channel.Attempts("ops")-before, "two events, an attempt for each")
	require.Zero(t, r.waiting("ops"))
	require.NotContains(t, r.events("ops"), "channel.failing")
}

// A channel that cannot be read is told nothing; all else goes on.
func TestOneUnreadableChannelStopsNothing(t *testing.T) {
	t.Parallel()
	r := newTold(t, option.Values{"disable_automated_rotation": true})
	r.WriteChannel("oncall", nil)
	disk := r.Disk.Snapshot()
	disk["channel/ops"] = []byte(`{"schema": 99, "body": {}}`)
	r.Disk.Restore(disk)
	r.Restart()
	r.Rotate()
	r.Wait(time.Minute)
	require.Contains(t, r.events("oncall"), "rotation.succeeded")
	_, err := r.Engine().Status(context.Background(), backend.StatusQuery{Limit: 1})
	require.NoError(t, err)
}

// A message that cannot be read is left out; what waits beside it is told.
func TestOneUnreadableMessageStopsNothing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		content     string
		lost, waits int
		restart     bool
	}{
		"of a newer release":     {`{"schema": 99, "body": {}}`, 0, 1, true},
		"no document":            {`canary`, 1, 0, true},
		"of another form":        {`{"schema": 1, "body": {"event": {"time": "canary"}}}`, 1, 0, true},
		"while the process runs": {`canary`, 1, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newTold(t, option.Values{"disable_automated_rotation": true})
			r.channel.Fail("ops", errors.New("away"))
			r.Rotate()
			r.Wait(10 * time.Second)
			require.Equal(t, 2, r.waiting("ops"))
			disk := r.Disk.Snapshot()
			first := slices.Min(slices.DeleteFunc(slices.Collect(maps.Keys(disk)), func(key string) bool { return !strings.HasPrefix(key, "outbox/ops/") }))
			disk[first] = []byte(c.content)
			r.Disk.Restore(disk)
			r.channel.Fail("ops", nil)
			if c.restart {
				r.Restart()
			}
			before := len(r.events("ops"))
			r.Wait(time.Hour)
			require.Len(t, r.events("ops"), before+1)
			require.Equal(t, c.waits, r.waiting("ops"))
			view, err := r.Engine().Channel(context.Background(), "ops")
			require.NoError(t, err)
			require.Equal(t, c.lost, view.LostTotal)
			require.NotContains(t, fmt.Sprint(view.Deliveries), "canary")
		})
	}
}

// Nor is a message told again and again for a record of it that cannot be written.
func TestOneUnreadableRecordStopsNothing(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{"of a newer release": `{"schema": 99, "body": {}}`, "no document": "canary"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newTold(t, option.Values{"disable_automated_rotation": true})
			r.WriteChannel("oncall", nil)
			id := r.openIncident()
			disk := r.Disk.Snapshot()
			key := "told/" + id + "/ops"
			require.Contains(t, disk, key)
			disk[key] = []byte(content)
			r.Disk.Restore(disk)
			require.NoError(t, r.writeIncident(id, backend.IncidentWrite{Acknowledge: of(true), Actor: backend.Actor{DisplayName: "ada"}}))
			r.Wait(10 * time.Minute)
			for _, channel := range []string{"ops", "oncall"} {
				acknowledged := slices.DeleteFunc(r.events(channel), func(event string) bool { return event != "incident.acknowledged" })
				require.Len(t, acknowledged, 1, channel)
				require.Zero(t, r.waiting(channel))
			}
			r.Leak(false)
		})
	}
}

// What a message raises and ends is decided once: it stays so when it is sent again.
func TestTheEndOfAlarmsSurvivesALostAnswer(t *testing.T) {
	t.Parallel()
	r := newTold(t, option.Values{"disable_automated_rotation": true})
	r.Add(option.Values{"disable_automated_rotation": true}, "billing")
	r.Wait(time.Minute)
	r.world.SetRefuse(true)
	for _, name := range []string{app, "billing"} { // one after another: an alarm for each
		_, err := r.Engine().Rotate(context.Background(), name, backend.RotateRequest{})
		require.NoError(t, err)
		r.Wait(12 * time.Second)
	}
	require.Equal(t, "role/billing", r.last("ops", "rotation.failed").Alarm)
	r.channel.Fail("ops", errors.New("the answer was lost"))
	r.Wait(2 * time.Minute) // their second attempts fail, perhaps together
	r.channel.Fail("ops", nil)
	r.Wait(10 * time.Minute)
	r.world.SetRefuse(false)
	r.Wait(time.Hour)
	open := map[string]bool{}
	for _, m := range r.channel.Told("ops") {
		if m.Alarm != "" {
			open[m.Alarm] = true
		}
		for _, key := range m.Over {
			delete(open, key)
		}
	}
	require.Empty(t, open, "an alarm that nothing ends")
}

func TestARoleThatWasNeverMadeIsToldToNobodyElse(t *testing.T) {
	t.Parallel()
	r := newTold(t, nil)
	r.world.SetRefuse(true)
	err := r.Act(func(ctx context.Context, e *backend.Engine) error {
		_, err := e.WriteRole(ctx, backend.Write{Name: "billing", Given: option.Values{"type": "memory", "connection": "main", "rotation_period": int64(600), "grace_period": int64(40)}})
		return err
	})
	require.Error(t, err)
	r.Wait(time.Minute)
	require.NotContains(t, r.events("ops"), "rotation.failed", "whoever wrote it was answered")
}

func TestAFailingChannelThatIsRemovedFailsNoMore(t *testing.T) {
	t.Parallel()
	r := newTold(t, option.Values{"disable_automated_rotation": true})
	r.WriteChannel("oncall", option.Values{"events": []string{"incident.*"}})
	require.NoError(t, r.config(option.Values{"contacts": []string{"oncall"}, "channels": []string{"ops"}}))
	r.channel.Fail("ops", errors.New("away"))
	r.Rotate()
	r.Wait(10 * time.Minute)
	require.Equal(t, []string{"channel.failing"}, r.events("oncall"), "a contact is told, whatever else it wants to know")
	require.NoError(t, r.config(option.Values{"channels": []string{}}))
	require.NoError(t, r.Act(func(ctx context.Context, e *backend.Engine) error { return e.DeleteChannel(ctx, "ops") }))
	r.Wait(time.Minute)
	require.Equal(t, []string{"channel.failing", "channel.recovered"}, r.events("oncall"))
}

func TestAnIncidentIsPassedOnAndItsMessagesAreOnRecord(t *testing.T) {
	t.Parallel()
	r := newTold(t, option.Values{"disable_automated_rotation": true})
	for _, name := range []string{"first", "second", "third"} {
		r.WriteChannel(name, option.Values{"events": []string{"channel.*"}})
	}
	require.NoError(t, r.config(option.Values{"contacts": []string{"first", "second", "third"}, "escalate_after": int64(600)}))
	id := r.openIncident()
	declared := r.last("first", "emergency.declared")
	require.Equal(t, []string{"incident/" + id, id}, []string{declared.Alarm, declared.IncidentID})
	require.Equal(t, "emergency (high) of app: found in a log", declared.Summary)
	require.Empty(t, r.events("second"))
	r.Wait(11 * time.Minute)
	require.Contains(t, r.events("second"), "incident.escalated")
	require.NoError(t, r.writeIncident(id, backend.IncidentWrite{Acknowledge: of(true), Actor: backend.Actor{DisplayName: "ada"}}))
	r.Wait(30 * time.Minute)
	require.NotContains(t, r.events("third"), "incident.escalated", "somebody looks after it")

	r.channel.Fail("ops", errors.New("no route to host"))
	r.world.SetRefuse(false)
	r.waitUntil("contained", 2*time.Hour, func() bool { return !r.incident(id).ContainedTime.IsZero() })
	r.Wait(2 * time.Minute)
	for _, channel := range []string{"first", "second"} {
		require.Equal(t, []string{"incident/" + id}, r.last(channel, "incident.contained").Over, channel)
	}
	require.NotContains(t, r.events("third"), "incident.contained", "it never heard of the leak")
	fates := map[string]string{}
	for _, told := range r.incident(id).Told {
		for _, e := range told.Events {
			fates[told.Channel+" "+e.Type] = e.Status
		}
	}
	require.Equal(t, "delivered", fates["first emergency.declared"])
	require.Equal(t, "delivered", fates["second incident.escalated"])
	require.Equal(t, "waiting", fates["ops incident.contained"], "it stands behind what failed, and was perhaps never tried")
	r.Leak(false)
}

// heard are the events of an incident that a channel was told, in order.
func (r *told) heard(channel, incident string) (names []string) {
	for _, m := range r.channel.Told(channel) {
		if m.IncidentID == incident {
			names = append(names, m.Event)
		}
	}
	return names
}

func TestAnIncidentIsToldToTheOwnersOfItsRoles(t *testing.T) {
	t.Parallel()
	r := newTold(t, option.Values{"disable_automated_rotation": true})
	r.WriteChannel("team", nil)
	r.WriteChannel("pager", option.Values{"severity": "critical"})
	r.WriteChannel("billing", option.Values{"roles": []string{"billing-*"}})
	r.WriteChannel("chief", option.Values{"roles": []string{"billing-*"}})
	require.NoError(t, r.config(option.Values{"channels": []string{"ops", "billing"}, "contacts": []string{"chief"}}))
	_, err := r.write(option.Values{"channels": []string{"team", "pager", "billing"}})
	require.NoError(t, err)
	id := r.openIncident()

	// Who heard of the leak hears the rest, and nobody else, whatever is written meanwhile.
	_, err = r.write(option.Values{"channels": []string{"ops"}})
	require.NoError(t, err)
	r.WriteChannel("late", nil)
	require.NoError(t, r.writeIncident(id, backend.IncidentWrite{Acknowledge: of(true)}))
	r.world.SetRefuse(false)
	r.waitUntil("contained", 2*time.Hour, func() bool { return !r.incident(id).ContainedTime.IsZero() })
	require.NoError(t, r.closeIncident(id, backend.IncidentClose{Conclusion: "the logger redacts it now"}))
	r.Restart()
	r.Wait(time.Minute)
	alarm := []string{"emergency.declared", "incident.contained", "incident.closed"}
	require.Equal(t, []string{"emergency.declared", "incident.acknowledged", "incident.contained", "incident.closed"}, r.heard("team", id))
	require.Equal(t, alarm[:2], r.heard("pager", id), "its alarm ends, and what follows is no more than its severity lets through")
	require.Equal(t, alarm[:2], r.heard("chief", id), "contacts are told whatever their filters")
	for _, channel := range []string{"ops", "billing", "late"} {
		require.Empty(t, r.heard(channel, id), channel)
	}
	r.Leak(false)
}

func TestAnIncidentOfManyRolesNamesThem(t *testing.T) {
	t.Parallel()
	r := newTold(t, option.Values{"disable_automated_rotation": true})
	r.WriteChannel("billing", option.Values{"roles": []string{"billing-*"}})
	r.WriteChannel("team", nil)
	require.NoError(t, r.config(option.Values{"channels": []string{"ops", "billing"}}))
	_, err := r.write(option.Values{"channels": []string{"team"}})
	require.NoError(t, err)
	roles := []string{app}
	for i := range 11 {
		roles = append(roles, fmt.Sprintf("billing-%02d", i))
	}
	r.Add(option.Values{"disable_automated_rotation": true}, roles[1:]...)
	r.Wait(10 * time.Minute)
	_, err = r.bulk(everyRole(len(roles)))
	require.NoError(t, err)
	r.Wait(time.Minute)
	for _, channel := range []string{"ops", "billing", "team"} {
		m := r.last(channel, "emergency.declared")
		require.Equal(t, roles, m.Roles, channel)
		require.Equal(t, "emergency (high) of "+strings.Join(roles[:10], ", ")+" and 2 more: a backup was stolen", m.Summary)
		require.Empty(t, field(m, "roles"), "channels show them in their own way")
		require.Contains(t, r.last(channel, "incident.contained").Summary, " and 2 more is contained")
	}
}

func TestAContactThatIsNamedLateIsToldOfAnOpenIncident(t *testing.T) {
	t.Parallel()
	r := newTold(t, option.Values{"disable_automated_rotation": true})
	id := r.openIncident()
	for _, name := range []string{"first", "second"} {
		r.WriteChannel(name, option.Values{"events": []string{"channel.*"}})
	}
	require.NoError(t, r.config(option.Values{"contacts": []string{"first", "second"}, "escalate_after": int64(600)}))
	r.waitUntil("the first is told", 11*time.Minute, func() bool { return slices.Contains(r.events("first"), "incident.escalated") })
	require.Empty(t, r.events("second"), "its turn comes when the first did not answer either")
	require.NoError(t, r.writeIncident(id, backend.IncidentWrite{Acknowledge: of(true)}))
	r.world.SetRefuse(false)
	r.waitUntil("the end is told", 2*time.Hour, func() bool { return slices.Contains(r.events("first"), "incident.contained") })
	require.Empty(t, r.events("second"))
	r.Leak(false)
}

// What happens to an incident must be told after any crash, and be on its record.
func TestCrashAnywhereInTheOutboxOfAnIncident(t *testing.T) {
	t.Parallel()
	var channel *enginetest.Channel
	s := enginetest.Scenario{Name: "outbox, emergency", AtLeast: 60, Run: func(p *enginetest.Play) {
		p.WriteChannel("ops", nil)
		p.WriteChannel("elsewhere", nil)
		p.Create(option.Values{"channels": []string{"ops"}})
		p.Emergency(false)
		p.Wait(time.Minute)
		p.CloseIncidents()
		p.Wait(6 * time.Minute)
		for _, i := range p.Incidents() {
			checkIncidentTold(p, channel, i)
		}
	}}
	enginetest.Enumerate(t, func(*testing.T) *enginetest.Stage {
		channel = &enginetest.Channel{}
		return outboxStage(channel, rotatortest.NewMemory())
	}, s)
}

func checkIncidentTold(p *enginetest.Play, channel *enginetest.Channel, i *store.Incident) {
	ids := map[string]map[string]bool{}
	for _, m := range channel.Told("ops") {
		if m.IncidentID == i.ID {
			if ids[m.Event] == nil {
				ids[m.Event] = map[string]bool{}
			}
			ids[m.Event][m.ID] = true
		}
	}
	for _, event := range []string{"emergency.declared", "incident.contained", "incident.closed"} {
		if len(ids[event]) != 1 {
			p.Violate("%s of %s was told under %d ids", event, i.ID, len(ids[event]))
		}
	}
	for _, m := range channel.Told("elsewhere") {
		if m.IncidentID != "" {
			p.Violate("%s was told to a channel that its role does not name", m.Event)
		}
	}
	delivered := 0
	for _, told := range i.Told {
		delivered += told.Delivered
	}
	if delivered < 3 {
		p.Violate("incident %s has %d messages on record as delivered", i.ID, delivered)
	}
}

// lateOutbox is the bug of writing an event to the outbox after it left its document.
type lateOutbox struct {
	store.Storage
	mu    sync.Mutex
	waits map[string][]byte
}

func (l *lateOutbox) Put(ctx context.Context, key string, value []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if strings.HasPrefix(key, "outbox/") {
		l.waits[key] = value
		return nil
	}
	if err := l.Storage.Put(ctx, key, value); err != nil {
		return err
	}
	for waiting, content := range l.waits {
		if err := l.Storage.Put(ctx, waiting, content); err != nil {
			return nil // it is lost, and nobody knows
		}
		delete(l.waits, waiting)
	}
	return nil
}

func (l *lateOutbox) Get(ctx context.Context, key string) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if content, ok := l.waits[key]; ok {
		return content, nil
	}
	return l.Storage.Get(ctx, key)
}

func TestOutboxEnumerationFindsAnEventThatLeavesTooEarly(t *testing.T) {
	t.Parallel()
	var channel *enginetest.Channel
	kind := rotatortest.NewMemory()
	s := enginetest.Scenario{Name: "outbox", Run: func(p *enginetest.Play) { outboxScenario(channel, kind.World).Run(p) }}
	found := enginetest.FindsBug(t, func(*testing.T) *enginetest.Stage {
		channel, kind = &enginetest.Channel{}, rotatortest.NewMemory()
		stage := outboxStage(channel, kind)
		stage.Storage = func(s store.Storage) store.Storage { return &lateOutbox{Storage: s, waits: map[string][]byte{}} }
		return stage
	}, s, enginetest.Crash)
	require.Contains(t, found, "was not told")
	t.Log(found)
}
