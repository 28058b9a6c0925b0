package backend_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// rotateHeld makes a rotation that is held.
func (d *dependents) rotateHeld(says string) {
	d.t.Helper()
	_, err := d.rotate()
	require.NoError(d.t, err)
	d.held(says)
}

// podsHold tells that the pods of a workload have what readers get.
func (d *dependents) podsHold(workload string) {
	d.t.Helper()
	require.Equal(d.t, d.creds().Data["password"], d.around.Workload(workload).Holds["password"])
}

// A rollback of a rollback restarts: the one before restored templates, and ordered nothing.
func TestARollbackOfARollbackRestarts(t *testing.T) {
	t.Parallel()
	d := withDependents(t, option.Values{"rollout": []string{apiTarget}, "checks": []string{health}, "on_rollout_failure": "hold"})
	d.around.Unwell(health, "answered 503")
	d.rotateHeld("step checks failed")
	_, err := d.rollback(0)
	require.NoError(t, err)
	d.held("step checks failed")
	require.Equal(t, 1, d.Current())
	d.around.Unwell(health, "")
	_, err = d.rollback(2)
	require.NoError(t, err)
	d.ended(rotation.Succeeded)
	require.Equal(t, 2, d.Current())
	d.podsHold(api)
}

// Pods that began while the candidate was current hold it: it does not end before they let go.
func TestWhatWentBackEndsOnceNobodyUsesIt(t *testing.T) {
	t.Parallel()
	d := withDependents(t, option.Values{"rollout": []string{apiTarget}, "grace_period": int64(60)})
	d.around.Change(api, func(w *enginetest.Workload) { w.Broken = true })
	_, err := d.rotate()
	require.NoError(t, err)
	name := d.State().Version(2).Identifier
	user := d.world.Users()[name]
	user.Sessions = 1
	d.world.Put(name, user)
	d.ended(rotation.RolledBack)
	d.Wait(10 * time.Minute)
	require.Equal(t, rotation.Retiring, d.State().Version(2).State)
	d.emergency(false)
	d.Wait(10 * time.Second)
	require.NotEqual(t, rotation.Retiring, d.State().Version(2).State, "what leaked waits for nobody")
}

// In an emergency what pods hold is dead already: neither the copy nor another workload keeps
// them from their restart.
func TestAnEmergencyRestartsAllItCan(t *testing.T) {
	t.Parallel()
	t.Run("behind a copy", func(t *testing.T) {
		t.Parallel()
		d := withDependents(t, option.Values{"mirror": mirror, "rollout": []string{apiTarget, webTarget}})
		d.around.Put(copyPath, map[string]string{"password": "theirs"})
		d.emergency(false)
		d.held("is not overwritten")
		d.podsHold(web)
		_, err := d.write(option.Values{"mirror_force": true})
		require.NoError(t, err)
		d.resume()
		d.ended(rotation.Succeeded)
		require.Len(t, d.around.Workload(web).Changes, 2, "its pods may have read what the copy held before")
	})
	t.Run("beside a target that is not there", func(t *testing.T) {
		t.Parallel()
		d := withDependents(t, option.Values{"rollout": []string{apiTarget, webTarget}})
		d.around.Change(api, func(w *enginetest.Workload) { w.Gone = true })
		d.emergency(false)
		d.held("step rollout failed: around/default/deployment/api: there is no default/deployment/api")
		d.podsHold(web)
		d.around.Change(api, func(w *enginetest.Workload) { w.Gone = false })
		d.resume()
		d.ended(rotation.Succeeded)
		d.podsHold(api)
		require.Len(t, d.around.Workload(web).Changes, 1)
	})
	t.Run("beside a broken workload", func(t *testing.T) {
		t.Parallel()
		d := withDependents(t, option.Values{"rollout": []string{apiTarget, webTarget}})
		d.around.Change(api, func(w *enginetest.Workload) { w.Broken = true })
		out := d.emergency(false)
		d.held("step rollout failed")
		d.podsHold(web)
		d.Wait(time.Minute)
		doc, err := d.Engine().Incident(context.Background(), out.IncidentID)
		require.NoError(t, err)
		require.Contains(t, doc.Roles[app].Detail, "what depends on app has not followed: step rollout failed")
		d.around.Change(api, func(w *enginetest.Workload) { w.Broken = false })
		d.resume()
		d.ended(rotation.Succeeded)
		d.Wait(time.Minute)
		doc, err = d.Engine().Incident(context.Background(), out.IncidentID)
		require.NoError(t, err)
		require.Empty(t, doc.Roles[app].Detail)
		require.Empty(t, d.status().OpenIncidents)
	})
}

// Whoever changes a copy and leaves our id in it, or begins its numbers anew, is noticed.
func TestAChangedCopyIsNotOurs(t *testing.T) {
	t.Parallel()
	t.Run("patched", func(t *testing.T) {
		t.Parallel()
		d := withDependents(t, option.Values{"mirror": mirror})
		patched := d.around.Copies(copyPath)[0]
		patched["password"] = "by hand"
		d.around.Put(copyPath, patched)
		_, err := d.rotate()
		require.ErrorContains(t, err, "version 2 there was written by somebody else after ours, 1")
	})
	t.Run("wiped and written", func(t *testing.T) {
		t.Parallel()
		d := withDependents(t, option.Values{"mirror": mirror})
		d.around.Wipe(copyPath)
		d.around.Put(copyPath, map[string]string{"password": "theirs"})
		_, err := d.rotate()
		require.ErrorContains(t, err, "is not the one that we wrote")
	})
}

func TestACopyGoesWhereOneWasRemoved(t *testing.T) {
	t.Parallel()
	d := withDependents(t, nil)
	d.around.Put(copyPath, map[string]string{"password": "old"})
	d.around.Put(copyPath, nil)
	_, err := d.write(option.Values{"mirror": mirror})
	require.NoError(t, err)
	d.waitUntil("it is written", time.Minute, func() bool { return len(d.around.Copies(copyPath)) == 2 })
	d.Wait(10 * time.Second)
	require.Empty(t, d.State().Mirror.Trouble())
}

// A path that changes while the copy is on its way is one that holds nothing yet.
func TestThePathChangesWhileTheCopyIsWritten(t *testing.T) {
	t.Parallel()
	d := withDependents(t, option.Values{"mirror": mirror})
	done := false
	d.around.OnWrite = func() {
		if !done {
			done = true
			_, err := d.Engine().WriteRole(context.Background(), backend.Write{Name: app, Given: option.Values{"mirror": enginetest.AroundName + "/secret/other"}})
			require.NoError(t, err)
		}
	}
	_, err := d.rotate()
	require.NoError(t, err)
	d.ended(rotation.Succeeded)
	require.Equal(t, "2", d.around.Copies("secret/other")[0]["version"])
	require.Equal(t, enginetest.AroundName+"/secret/other", d.State().Mirror.Path)
	require.Empty(t, d.State().Mirror.Trouble())
}

// What is gone has nothing to take back, and what cannot follow keeps nobody else.
func TestTheWayBackIsNoTrap(t *testing.T) {
	t.Parallel()
	t.Run("a workload that is gone", func(t *testing.T) {
		t.Parallel()
		d := withDependents(t, option.Values{"rollout": []string{apiTarget}})
		d.around.Change(api, func(w *enginetest.Workload) { w.Broken = true })
		_, err := d.rotate()
		require.NoError(t, err)
		d.around.Change(api, func(w *enginetest.Workload) { w.Gone = true })
		d.ended(rotation.RolledBack)
	})
	t.Run("a foreign copy", func(t *testing.T) {
		t.Parallel()
		d := withDependents(t, option.Values{"rollout": []string{apiTarget}, "mirror": mirror})
		d.around.Change(api, func(w *enginetest.Workload) { w.Broken = true })
		_, err := d.rotate()
		require.NoError(t, err)
		d.waitUntil("it is copied", time.Minute, func() bool { return len(d.around.Copies(copyPath)) == 2 })
		d.Wait(10 * time.Second)
		d.around.Put(copyPath, map[string]string{"password": "theirs"})
		d.held("step mirror failed")
		require.Empty(t, d.around.Workload(api).Template, "the workload went back all the same")
		_, err = d.rollback(0)
		require.NoError(t, err)
		require.Equal(t, rotation.RolledBack, d.State().Last.Outcome)
		require.Equal(t, 1, d.Current())
		require.Equal(t, backend.StateBlocked, d.status().State)
	})
}

// Time in which Vault was sealed is nobody's fault.
func TestAnOutageOfOursIsNoFailure(t *testing.T) {
	t.Parallel()
	d := withDependents(t, option.Values{"rollout": []string{apiTarget, webTarget}})
	d.around.Change(api, func(w *enginetest.Workload) { w.Broken = true })
	_, err := d.rotate()
	require.NoError(t, err)
	d.Wait(20 * time.Second)
	d.around.Change(api, func(w *enginetest.Workload) { w.Broken = false })
	d.Clock.Advance(15 * time.Minute)
	d.Restart()
	d.ended(rotation.Succeeded)
}

func TestReadersHearThatThePointerWentBack(t *testing.T) {
	t.Parallel()
	d := withDependents(t, option.Values{"checks": []string{health}})
	d.around.Unwell(health, "answered 503")
	_, err := d.rotate()
	require.NoError(t, err)
	d.ended(rotation.RolledBack)
	d.Wait(10 * time.Second)
	var versions []string
	for _, e := range d.published.Get() {
		if e.Type == "version.activated" {
			versions = append(versions, e.Data["version"])
		}
	}
	require.Equal(t, []string{"1", "2", "1"}, versions)
}

// What a held rotation restarted is taken back also where the role names it no more.
func TestARolloutThatWasTakenOffIsTakenBack(t *testing.T) {
	t.Parallel()
	d := withDependents(t, option.Values{"rollout": []string{webTarget, apiTarget}, "on_rollout_failure": "hold"})
	d.around.Change(api, func(w *enginetest.Workload) { w.Broken = true })
	d.rotateHeld("step rollout failed")
	_, err := d.write(option.Values{"rollout": []string{}})
	require.NoError(t, err)
	_, err = d.rollback(0)
	require.NoError(t, err)
	d.ended(rotation.Succeeded)
	d.podsHold(web)
}

// Dependents that were left between two versions are not forgotten.
func TestDependentsThatWereLeftAreToldOf(t *testing.T) {
	t.Parallel()
	d := withDependents(t, option.Values{"rollout": []string{apiTarget, webTarget}, "on_rollout_failure": "hold", "grace_period": int64(60), "rotation_period": int64(30 * 24 * 3600)})
	d.around.Change(web, func(w *enginetest.Workload) { w.Holds = d.creds().Data })
	d.around.Change(api, func(w *enginetest.Workload) { w.Broken = true })
	d.rotateHeld("step rollout failed")
	d.world.SetRefuse(true)
	_, _ = d.rollback(0)
	d.waitUntil("the rollback failed", time.Minute, func() bool { return d.State().InFlight == nil })
	d.world.SetRefuse(false)
	require.Equal(t, backend.StateActionRequired, d.status().State)
	require.Contains(t, d.status().StateReason, "some of it may hold version 2, some version 1")
	_, err := d.write(option.Values{"on_rollout_failure": "rollback"})
	require.NoError(t, err)
	_, err = d.rotate()
	require.NoError(t, err)
	d.Wait(time.Minute)
	d.around.Change(api, func(w *enginetest.Workload) { w.Broken = false })
	d.ended(rotation.Succeeded)
	d.podsHold(web)
}

// A template must not cost more than its text.
func TestTemplatesThatComputeAreRefused(t *testing.T) {
	t.Parallel()
	d := withDependents(t, nil)
	for _, text := range []string{
		`{{range 400000000}}{{end}}`, `{{if eq .username "x"}}a{{end}}`, `{{printf "%099999d" 1}}`, `{{$a := .username}}`,
		`{{define "x"}}{{template "x"}}{{end}}{{template "x"}}`, `{{with .username}}{{.}}{{end}}`, `{{.username.x}}`, `{{.}}`, `{{len .}}`,
		`{{.username | printf "%s%s" .password}}`, "{{.username}}" + strings.Repeat("x", 4<<10),
	} {
		_, err := d.write(option.Values{"mirror": mirror, "mirror_fields": map[string]string{"x": text}})
		require.ErrorContains(t, err, "mirror_fields: x: ", text)
	}
	_, err := d.write(option.Values{"mirror": mirror, "mirror_fields": map[string]string{"x": "{{.username}}:{{.password | urlquery}}@{{urlquery .version}}{{/* of ours */}}"}})
	require.NoError(t, err)
}

// A copy that cannot be read once is looked at again within a minute, not the next day.
func TestACopyIsLookedAtAgainSoon(t *testing.T) {
	t.Parallel()
	d := withDependents(t, option.Values{"mirror": mirror})
	d.around.Put(copyPath, map[string]string{"password": "theirs"})
	d.around.SetAway(true)
	d.Restart()
	d.Wait(10 * time.Second)
	require.Empty(t, d.State().Mirror.Foreign, "nothing answers yet")
	d.around.SetAway(false)
	d.Wait(40 * time.Second)
	require.Contains(t, d.State().Mirror.Foreign, "written by somebody else")
}

// What was to be written over by force, and was not, is somebody else's once the force is taken back.
func TestForceThatIsTakenBackOverwritesNothing(t *testing.T) {
	t.Parallel()
	d := withDependents(t, nil)
	d.around.Put(copyPath, map[string]string{"password": "theirs"})
	d.around.SetReadOnly(true)
	_, err := d.write(option.Values{"mirror": mirror, "mirror_force": true})
	require.NoError(t, err)
	d.waitUntil("about to be written", time.Minute, func() bool { return d.State().Mirror != nil && len(d.State().Mirror.Meant) > 0 })
	_, err = d.write(option.Values{"mirror_force": false})
	require.NoError(t, err)
	d.around.SetReadOnly(false)
	d.Restart()
	d.Wait(30 * time.Minute)
	require.Len(t, d.around.Copies(copyPath), 1, "what somebody else wrote stays")
	require.Equal(t, backend.StateFailing, d.status().State)
}

// Where nothing can go back, what does not answer for a while is asked again as it is anywhere
// else, and keeps nothing else from its restart.
func TestATargetThatDoesNotAnswerForAWhile(t *testing.T) {
	t.Parallel()
	forAWhile := func(t *testing.T, begin func(d *dependents)) {
		t.Helper()
		d := withDependents(t, option.Values{"rollout": []string{apiTarget, webTarget}})
		_, err := d.rotate()
		require.NoError(t, err)
		d.ended(rotation.Succeeded)
		d.around.Change(api, func(w *enginetest.Workload) { w.Away = true })
		begin(d)
		d.Wait(5 * time.Minute)
		d.podsHold(web)
		require.Equal(t, "around/default/deployment/api: nothing answers", d.State().InFlight.StepNamed("rollout", false).Detail)
		d.around.Change(api, func(w *enginetest.Workload) { w.Away = false })
		d.ended(rotation.Succeeded)
		d.podsHold(api)
		require.Len(t, d.around.Workload(web).Changes, 2)
	}
	t.Run("in an emergency", func(t *testing.T) {
		t.Parallel()
		forAWhile(t, func(d *dependents) { d.emergency(false) })
	})
	t.Run("in a rollback", func(t *testing.T) {
		t.Parallel()
		forAWhile(t, func(d *dependents) {
			_, err := d.rollback(0)
			require.NoError(d.t, err)
		})
	})
	t.Run("for longer than it may", func(t *testing.T) {
		t.Parallel()
		d := withDependents(t, option.Values{"rollout": []string{apiTarget, webTarget}})
		d.around.Change(api, func(w *enginetest.Workload) { w.Away = true })
		d.around.Change(web, func(w *enginetest.Workload) { w.Paused = true })
		d.emergency(false)
		d.Wait(5 * time.Minute)
		require.Empty(t, d.State().InFlight.Held, "what failed keeps no target from its turn")
		d.held("step rollout failed: is paused")
		d.around.Change(web, func(w *enginetest.Workload) { w.Paused = false })
		d.resume()
		d.held("step rollout failed: not done after 10m0s: around/default/deployment/api: nothing answers")
		d.podsHold(web)
	})
}

// Where a rotation may yet go back, nothing is restarted before all that is to be is known.
func TestNothingIsRestartedBeforeAllIsListed(t *testing.T) {
	t.Parallel()
	d := withDependents(t, option.Values{"mirror": mirror, "rollout": []string{apiTarget, webTarget}})
	d.around.OnWrite = func() {
		d.around.Change(web, func(w *enginetest.Workload) { w.Away = true })
	}
	_, err := d.rotate()
	require.NoError(t, err)
	d.Wait(5 * time.Minute)
	require.Empty(t, d.around.Workload(api).Changes)
	d.around.Change(web, func(w *enginetest.Workload) { w.Away = false })
	d.ended(rotation.Succeeded)
	d.podsHold(api)
	d.podsHold(web)
}

// What the cluster said of the release that is taken back does not end the way back.
func TestTheWayBackOfWhatStalled(t *testing.T) {
	t.Parallel()
	stalled := func(t *testing.T) *dependents {
		t.Helper()
		d := withDependents(t, option.Values{"rollout": []string{apiTarget}})
		d.around.Change(api, func(w *enginetest.Workload) { w.Stalled = true })
		_, err := d.rotate()
		require.NoError(t, err)
		d.Wait(time.Minute)
		require.True(t, d.State().InFlight.Reverting)
		require.Contains(t, d.State().InFlight.Error.Message, "step rollout failed: default/deployment/api: its new pods did not become available")
		require.Empty(t, d.State().InFlight.Held)
		return d
	}
	t.Run("for a moment", func(t *testing.T) {
		t.Parallel()
		d := stalled(t)
		d.around.Change(api, func(w *enginetest.Workload) { w.Stalled = false })
		d.ended(rotation.RolledBack)
	})
	t.Run("for good", func(t *testing.T) {
		t.Parallel()
		stalled(t).held("step rollout failed: not done after 10m0s: default/deployment/api: 0 of 1 pods are new")
	})
}

// A clock that is set back makes nobody wait for as long as it was ahead.
func TestTheClockIsSetBackAmidAStep(t *testing.T) {
	t.Parallel()
	t.Run("an endpoint is asked again", func(t *testing.T) {
		t.Parallel()
		d := withDependents(t, option.Values{"checks": []string{health}, "grace_period": int64(3600), "rotation_period": int64(30 * 24 * 3600)})
		d.around.Unwell(health, "answered 503")
		_, err := d.rotateNow(backend.RotateRequest{})
		require.NoError(t, err)
		d.waitUntil("it was asked", time.Minute, func() bool { return d.around.Tries(health) > 0 })
		d.around.Unwell(health, "")
		d.Clock.Jump(-24 * time.Hour)
		d.Wait(2 * time.Minute)
		require.Nil(t, d.State().InFlight)
		require.Equal(t, 2, d.Current())
	})
	t.Run("a step does not take longer", func(t *testing.T) {
		t.Parallel()
		d := withDependents(t, option.Values{"expect_sessions": []string{"app"}, "on_rollout_failure": "hold"})
		_, err := d.rotate()
		require.NoError(t, err)
		d.Clock.Jump(-24 * time.Hour)
		d.Wait(15 * time.Minute)
		require.Contains(t, d.State().InFlight.Held, "not done after 10m0s: no session of app")
	})
}

// Targets are asked beside each other, so that many of them, far away, fit into one look.
func TestTargetsAreAskedBesideEachOther(t *testing.T) {
	t.Parallel()
	d := withDependents(t, option.Values{"rollout": []string{apiTarget, webTarget}})
	asked := make(chan struct{})
	d.around.OnReady = func() { // each waits for the other
		select {
		case asked <- struct{}{}:
		case <-asked:
		case <-time.After(10 * time.Second):
			t.Error("one target waits for the other")
		}
	}
	d.around.Change(web, func(w *enginetest.Workload) { w.Paused = true })
	lines, err := d.Engine().Preflight(context.Background(), app)
	require.NoError(t, err)
	found := map[string]rotator.Result{}
	for _, line := range lines {
		found[line.Check] = line.Result
	}
	require.Equal(t, rotator.Pass, found["rollout "+apiTarget])
	require.Equal(t, rotator.Fail, found["rollout "+webTarget])
	_, err = d.rotate()
	requireKind(t, fault.Target, err, "preflight: rollout around/default/deployment/web: default/deployment/web is paused")
}

// tellsNobody is a kind that cannot say who uses a version.
func tellsNobody(s *enginetest.Stage) {
	whole := s.Rotator
	s.Rotator = func(f *enginetest.Faults) rotator.Rotator { return struct{ rotator.Rotator }{whole(f)} }
}

// Pods that began while the candidate was current hold it. Where nobody can say so its end does
// not wait for them: they follow on the way back, also where the rollout never came.
func TestTheWayBackReachesPodsThatBeganMeanwhile(t *testing.T) {
	t.Parallel()
	began := func(d *dependents) {
		read, err := d.Engine().Creds(context.Background(), app, backend.Actor{})
		assert.NoError(d.t, err)
		assert.EqualValues(d.t, 2, read.Data["version"])
		d.around.Change(web, func(w *enginetest.Workload) { w.Holds = read.Data })
	}
	t.Run("after a workload that is broken", func(t *testing.T) {
		t.Parallel()
		d := withDependents(t, option.Values{"rollout": []string{apiTarget, webTarget}}, tellsNobody)
		d.around.Change(api, func(w *enginetest.Workload) { w.Broken = true })
		_, err := d.rotate()
		require.NoError(t, err)
		d.waitUntil("readers get version 2", time.Minute, func() bool { return d.Current() == 2 })
		began(d)
		d.ended(rotation.RolledBack)
		require.Empty(t, d.around.Workload(api).Template, "the pods of before stayed")
		d.podsHold(web)
		require.Equal(t, []string{d.State().Last.ID + "/back"}, d.around.Workload(web).Changes)
	})
	t.Run("after a copy that failed", func(t *testing.T) {
		t.Parallel()
		d := withDependents(t, option.Values{"mirror": mirror, "rollout": []string{apiTarget, webTarget}}, tellsNobody)
		d.around.OnWrite = func() {
			d.around.OnWrite = nil
			began(d) // while the copy is written, and not before the pointer goes back again
			d.around.Put(copyPath, map[string]string{"password": "theirs"})
			d.around.Change(api, func(w *enginetest.Workload) { w.Gone = true })
		}
		_, err := d.rotate()
		require.NoError(t, err)
		d.waitUntil("web is back", time.Hour, func() bool { return len(d.around.Workload(web).Changes) == 1 })
		d.Wait(time.Minute)
		require.Equal(t, 1, d.Current())
		d.podsHold(web)
		require.Equal(t, rotation.StepDone, d.State().InFlight.StepNamed("rollout", true).State, "what is gone holds nobody up")
	})
}

// What a role names anew is asked at its write: what refuses leaves the role as it was, and what
// does not answer keeps nobody from writing it.
func TestWhatARoleNamesIsAskedWhenItIsWritten(t *testing.T) {
	t.Parallel()
	nowhere := enginetest.AroundName + "/default/deployment/nowhere"
	sentence := "rollout: " + nowhere + ": there is no default/deployment/nowhere"
	t.Run("of a role that exists", func(t *testing.T) {
		t.Parallel()
		d := withDependents(t, option.Values{"rollout": []string{apiTarget}})
		before := d.Disk.Snapshot()
		_, err := d.write(option.Values{"rollout": []string{apiTarget, nowhere}})
		requireKind(t, fault.Invalid, err, sentence)
		_, err = d.write(option.Values{"mirror": enginetest.AroundName + "/secret/v1/app"})
		requireKind(t, fault.Invalid, err, "mirror: around/secret/v1/app: is a mount of KV version 1")
		require.Equal(t, before, d.Disk.Snapshot(), "nothing has changed")
		d.around.Change(api, func(w *enginetest.Workload) { w.Paused = true })
		_, err = d.write(option.Values{"grace_period": int64(90)})
		require.NoError(t, err, "what it names already is no reason against a change")
		d.around.SetAway(true)
		out, err := d.write(option.Values{"rollout": []string{apiTarget, webTarget}, "mirror": mirror})
		require.NoError(t, err)
		require.Contains(t, out.Warnings, "rollout: "+webTarget+": ready: nothing answers; preflight/app asks again")
		require.Contains(t, out.Warnings, "mirror: "+mirror+": ready: nothing answers; preflight/app asks again")
		d.around.SetAway(false)
		d.Wait(time.Minute)
	})
	t.Run("of a new one", func(t *testing.T) {
		t.Parallel()
		d := withDependents(t, nil)
		out, err := d.Engine().WriteRole(context.Background(), backend.Write{Name: "other", Given: role(option.Values{"rollout": []string{nowhere}})})
		require.NoError(t, err, "what is to be restarted may need the secret to begin")
		require.Contains(t, out.Warnings, sentence+"; preflight/other asks again")
		d.around.Change(api, func(w *enginetest.Workload) { w.Paused = true })
		_, err = d.Engine().WriteRole(context.Background(), backend.Write{Name: "third", Given: role(option.Values{"rollout": []string{apiTarget}})})
		requireKind(t, fault.Invalid, err, "rollout: "+apiTarget+": default/deployment/api is paused")
		_, err = d.Engine().Role(context.Background(), "third")
		requireKind(t, fault.NotFound, err, "third")
	})
}

// A fault of ours over one target is no answer, and ends nothing else.
func TestAPanicOverATargetEndsNothingElse(t *testing.T) {
	t.Parallel()
	d := withDependents(t, option.Values{"rollout": []string{apiTarget}})
	var first sync.Once
	d.around.OnReady = func() { first.Do(func() { panic("a fault of ours") }) }
	_, err := d.rotate()
	require.ErrorContains(t, err, "the plugin failed over it: its log has more")
	_, err = d.rotate()
	require.NoError(t, err)
	d.ended(rotation.Succeeded)
}

// What kept a copy that pods did not wait for may be over once they are restarted.
func TestACopyThatNobodyWaitedForIsTriedOnceMore(t *testing.T) {
	t.Parallel()
	d := withDependents(t, option.Values{"rollout": []string{apiTarget}, "mirror": mirror})
	d.around.SetCopiesAway(true)
	d.emergency(false)
	d.waitUntil("the restart", 5*time.Minute, func() bool { return len(d.around.Workload(api).Changes) > 0 })
	d.around.SetCopiesAway(false)
	d.ended(rotation.Succeeded)
	require.Len(t, d.around.Copies(copyPath), 2)
	require.Len(t, d.around.Workload(api).Changes, 2, "its pods may have read what the copy held before")
	d.podsHold(api)
}

// Nor is it tried on and on where the clock was set back meanwhile.
func TestACopyIsTriedOnceMoreOnly(t *testing.T) {
	t.Parallel()
	d := withDependents(t, option.Values{"rollout": []string{apiTarget}, "mirror": mirror})
	d.around.SetCopiesAway(true)
	d.emergency(false)
	d.waitUntil("the second try", 5*time.Minute, func() bool {
		copied := d.State().InFlight.StepNamed("mirror", false)
		return copied != nil && copied.Again
	})
	d.Leak(true) // nobody's ttl follows a clock that jumps
	d.Clock.Jump(-24 * time.Hour)
	d.held("step mirror failed: not done after 10m0s")
}

// A release that is broken stops at the first workload that the rotation had not reached, too.
func TestTheWayBackRestartsWhatWasNotReachedInTurn(t *testing.T) {
	t.Parallel()
	third := apiTarget[:len(apiTarget)-len("api")] + "third"
	d := &dependents{around: enginetest.NewSurroundings(api, web, third[len(enginetest.AroundName)+1:])}
	d.rig = newRig(t, tellsNobody, func(s *enginetest.Stage) { s.Around = d.around })
	d.ConnectAround(health)
	d.Create(option.Values{"rollout": []string{apiTarget, webTarget, third}})
	d.Wait(time.Minute)
	for _, w := range []string{api, web} {
		d.around.Change(w, func(w *enginetest.Workload) { w.Broken = true })
	}
	_, err := d.rotate()
	require.NoError(t, err)
	d.held("step rollout failed")
	require.Equal(t, 1, d.Current())
	require.Len(t, d.around.Workload(web).Changes, 1)
	require.Empty(t, d.around.Workload(third[len(enginetest.AroundName)+1:]).Changes)
}
