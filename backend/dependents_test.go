package backend_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// The dependents of the tests: two workloads, an endpoint, and a place for a copy.
const (
	api       = "default/deployment/api"
	web       = "default/deployment/web"
	apiTarget = enginetest.AroundName + "/" + api
	webTarget = enginetest.AroundName + "/" + web
	health    = "health"
	copyPath  = "secret/app"
	mirror    = enginetest.AroundName + "/" + copyPath
)

// dependents is a rig with surroundings.
type dependents struct {
	*rig
	around *enginetest.Surroundings
}

// withDependents is a rig whose role exists, and has dependents.
func withDependents(t *testing.T, role option.Values, change ...func(*enginetest.Stage)) *dependents {
	t.Helper()
	d := &dependents{around: enginetest.NewSurroundings(api, web)}
	d.rig = newRig(t, append(change, func(s *enginetest.Stage) { s.Around = d.around })...)
	d.ConnectAround(health)
	d.Create(role)
	d.Wait(time.Minute)
	return d
}

// steps are those of the last rotation, or of the one in flight, as words.
func (d *dependents) steps() (out []string) {
	r := d.State().InFlight
	if r == nil {
		r = d.State().Last
	}
	for _, s := range r.Steps {
		back := ""
		if s.Back {
			back = " back"
		}
		out = append(out, fmt.Sprintf("%s%s %s", s.Name, back, s.State))
	}
	return out
}

func (d *dependents) ended(outcome rotation.Outcome) {
	d.t.Helper()
	d.waitUntil("the rotation ended", time.Hour, func() bool { return d.State().InFlight == nil })
	require.Equal(d.t, outcome, d.State().Last.Outcome, d.State().Last.Error)
}

func (d *dependents) held(says string) {
	d.t.Helper()
	d.waitUntil("held", time.Hour, func() bool { return d.State().InFlight != nil && d.State().InFlight.Held != "" })
	require.Contains(d.t, d.State().InFlight.Held, says)
	require.Equal(d.t, backend.StateActionRequired, d.status().State)
}

func (d *dependents) resume() {
	d.t.Helper()
	require.NoError(d.t, d.Act(func(ctx context.Context, e *backend.Engine) error {
		_, err := e.Rotate(ctx, app, backend.RotateRequest{Resume: true})
		return err
	}))
}

var all = option.Values{
	"rollout": []string{apiTarget, webTarget}, "checks": []string{health}, "mirror": mirror,
}

func TestDependentsFollow(t *testing.T) {
	t.Parallel()
	d := withDependents(t, all)
	require.Empty(t, d.around.Workload(api).Changes, "a first version has no dependents")
	require.Len(t, d.around.Copies(copyPath), 1)
	require.Equal(t, d.creds().Data["password"], d.around.Copies(copyPath)[0]["password"])
	_, err := d.rotate()
	require.NoError(t, err)
	d.ended(rotation.Succeeded)
	require.Equal(t, []string{"mirror done", "rollout done", "checks done"}, d.steps())
	for _, name := range []string{api, web} {
		w := d.around.Workload(name)
		require.Equal(t, []string{d.State().Last.ID}, w.Changes)
		require.Equal(t, d.creds().Data["password"], w.Holds["password"])
	}
	latest := d.around.Copies(copyPath)[1]
	require.Equal(t, d.creds().Data["username"], latest["username"])
	require.Equal(t, "2", latest["version"])
	require.Equal(t, d.State().Last.ID, latest["rotation_id"])
	require.Equal(t, 1, d.around.Tries(health))
}

func TestOneAfterAnotherOrAllAtOnce(t *testing.T) {
	t.Parallel()
	for order, changed := range map[string]int{"sequential": 0, "parallel": 1} {
		t.Run(order, func(t *testing.T) {
			t.Parallel()
			d := withDependents(t, option.Values{"rollout": []string{apiTarget, webTarget}, "rollout_order": order})
			d.around.Change(api, func(w *enginetest.Workload) { w.Broken = true })
			_, err := d.rotate()
			require.NoError(t, err)
			d.Wait(time.Minute)
			require.Len(t, d.around.Workload(api).Changes, 1)
			require.Len(t, d.around.Workload(web).Changes, changed)
			require.Contains(t, d.State().InFlight.StepNamed("rollout", false).Detail, "0 of 1 pods are new")
			d.around.Change(api, func(w *enginetest.Workload) { w.Broken = false })
			d.ended(rotation.Succeeded)
			require.Len(t, d.around.Workload(web).Changes, 1)
		})
	}
}

func TestABrokenReleaseGoesBack(t *testing.T) {
	t.Parallel()
	d := withDependents(t, all)
	_, err := d.rotate()
	require.NoError(t, err)
	d.ended(rotation.Succeeded)
	holds, template := d.around.Workload(api).Holds, d.around.Workload(api).Template
	d.around.Change(api, func(w *enginetest.Workload) { w.Broken = true })
	_, err = d.rotate()
	require.NoError(t, err)
	d.waitUntil("a version was copied", time.Minute, func() bool { return len(d.around.Copies(copyPath)) == 3 })
	d.ended(rotation.RolledBack)
	require.Equal(t, []string{"mirror done", "rollout failed", "mirror back done", "rollout back done", "checks back done"}, d.steps())
	require.Contains(t, d.State().Last.Error.Message, "step rollout failed: not done after 10m0s: default/deployment/api: 0 of 1 pods are new")
	require.Equal(t, 2, d.Current())
	require.Equal(t, holds, d.around.Workload(api).Holds)
	require.Equal(t, template, d.around.Workload(api).Template, "the pod template is as it was")
	require.Len(t, d.around.Workload(web).Changes, 1, "what was never restarted is left alone")
	copies := d.around.Copies(copyPath)
	require.Equal(t, "2", copies[len(copies)-1]["version"], "the copy went back too")
	require.Equal(t, rotation.Retiring, d.State().Version(3).State, "readers hold it: it has its grace")
	require.False(t, d.State().Version(3).RetireAt.IsZero())
	require.Equal(t, backend.StateBlocked, d.status().State)
	d.Wait(3 * time.Minute)
	require.Equal(t, rotation.Retired, d.State().Version(3).State)
	d.around.Change(api, func(w *enginetest.Workload) { w.Broken = false })
	_, err = d.rotate()
	require.NoError(t, err)
	d.ended(rotation.Succeeded)
}

func TestAFailedCheckGoesBack(t *testing.T) {
	t.Parallel()
	d := withDependents(t, all)
	d.around.Unwell(health, "answered 503")
	_, err := d.rotate()
	require.NoError(t, err)
	d.ended(rotation.RolledBack)
	require.Contains(t, d.State().Last.Error.Message, "check health failed 3 times, the last with: answered 503")
	require.Equal(t, 1, d.Current())
	last := d.State().Last
	require.Contains(t, last.StepNamed("checks", true).Detail, "not well after going back either")
	require.Len(t, d.around.Workload(web).Changes, 2, "restarted, and back")
	require.Equal(t, d.creds().Data["password"], d.around.Workload(web).Holds["password"])
}

func TestSessionsThatAreExpected(t *testing.T) {
	t.Parallel()
	d := withDependents(t, option.Values{"expect_sessions": []string{"app"}, "rollout_timeout": int64(30)})
	appears := func() {
		d.Wait(10 * time.Second)
		name := d.State().CurrentVersion().Identifier
		user := d.world.Users()[name]
		user.Sessions = 1
		d.world.Put(name, user)
	}
	_, err := d.rotate()
	require.NoError(t, err)
	require.Contains(t, d.State().InFlight.StepNamed("checks", false).Detail, "no session of app under")
	appears()
	d.ended(rotation.Succeeded)
	_, err = d.rotate()
	require.NoError(t, err)
	d.ended(rotation.RolledBack)
	require.Contains(t, d.State().Last.Error.Message, "not done after 30s: no session of app under")
	_, err = d.write(option.Values{"expect_sessions": []string{"app", "batch"}})
	require.NoError(t, err)
	_, err = d.rotate()
	require.NoError(t, err)
	d.waitUntil("the new version is looked at", time.Minute, func() bool { return d.Current() == 4 })
	appears()
	d.ended(rotation.RolledBack)
	require.Contains(t, d.State().Last.Error.Message, "no session of batch under")
}

func TestAFailedStepHolds(t *testing.T) {
	t.Parallel()
	hold := func(t *testing.T) *dependents {
		d := withDependents(t, all)
		_, err := d.write(option.Values{"on_rollout_failure": "hold"})
		require.NoError(t, err)
		d.around.Change(api, func(w *enginetest.Workload) { w.Broken = true })
		_, err = d.rotate()
		require.NoError(t, err)
		d.held("step rollout failed")
		require.Equal(t, 2, d.Current())
		_, err = d.rotate()
		requireKind(t, fault.Conflict, err, "held")
		return d
	}
	t.Run("resume", func(t *testing.T) {
		t.Parallel()
		d := hold(t)
		d.around.Change(api, func(w *enginetest.Workload) { w.Broken = false })
		d.resume()
		d.ended(rotation.Succeeded)
		require.Len(t, d.around.Workload(api).Changes, 1, "what was restarted is watched, and not restarted again")
	})
	t.Run("rollback", func(t *testing.T) {
		t.Parallel()
		d := hold(t)
		_, err := d.rollback(0)
		require.NoError(t, err)
		d.ended(rotation.Succeeded)
		require.Equal(t, 1, d.Current())
		require.Empty(t, d.around.Workload(api).Template, "the pod template is as it was")
		require.Empty(t, d.around.Workload(web).Changes)
	})
	t.Run("emergency", func(t *testing.T) {
		t.Parallel()
		d := hold(t)
		d.around.Change(api, func(w *enginetest.Workload) { w.Broken = false })
		out := d.emergency(false)
		d.ended(rotation.Succeeded)
		require.NotEmpty(t, out.IncidentID)
		require.Equal(t, 3, d.Current())
		require.Equal(t, d.creds().Data["password"], d.around.Workload(web).Holds["password"])
	})
}

func TestAnEmergencyNeverGoesBack(t *testing.T) {
	t.Parallel()
	d := withDependents(t, all)
	d.around.Change(api, func(w *enginetest.Workload) { w.Broken = true })
	out := d.emergency(false)
	d.held("step rollout failed")
	require.Equal(t, 2, d.Current())
	require.True(t, d.State().Version(1).Compromised)
	require.Equal(t, store.IncidentContained, out.Status, "the leak ended before dependents had followed")
	d.around.Change(api, func(w *enginetest.Workload) { w.Broken = false })
	d.resume()
	d.ended(rotation.Succeeded)
}

func TestARollbackRestartsDependents(t *testing.T) {
	t.Parallel()
	d := withDependents(t, all)
	d.Rotate()
	d.Rollback(1)
	require.Len(t, d.around.Workload(api).Changes, 2)
	require.Equal(t, d.creds().Data["password"], d.around.Workload(api).Holds["password"])
	copies := d.around.Copies(copyPath)
	require.Equal(t, "1", copies[len(copies)-1]["version"])
}

func TestDependentsThatCannotFollowPostpone(t *testing.T) {
	t.Parallel()
	d := withDependents(t, all)
	for _, c := range []struct {
		says string
		on   func(on bool)
	}{
		{"nothing answers", d.around.SetAway},
		{"default/deployment/web is paused", func(on bool) {
			d.around.Change(web, func(w *enginetest.Workload) { w.Paused = on })
		}},
	} {
		c.on(true)
		_, err := d.rotate()
		requireKind(t, fault.Target, err, "preflight: ")
		require.ErrorContains(t, err, c.says)
		require.Nil(t, d.State().InFlight)
		require.Equal(t, 1, d.Current())
		c.on(false)
	}
	_, err := d.rotate()
	require.NoError(t, err)
	d.ended(rotation.Succeeded)
}

func TestAnOutageDuringARolloutIsWaitedOut(t *testing.T) {
	t.Parallel()
	d := withDependents(t, all)
	d.around.Change(api, func(w *enginetest.Workload) { w.Broken = true })
	_, err := d.rotate()
	require.NoError(t, err)
	d.around.SetAway(true)
	d.Wait(2 * time.Minute)
	require.Contains(t, d.State().InFlight.StepNamed("rollout", false).Detail, "nothing answers")
	d.around.SetAway(false)
	d.around.Change(api, func(w *enginetest.Workload) { w.Broken = false })
	d.ended(rotation.Succeeded)
	require.Len(t, d.around.Workload(api).Changes, 1)
}

func TestWhatSomebodyElseWroteIsNotOverwritten(t *testing.T) {
	t.Parallel()
	d := withDependents(t, option.Values{"mirror": mirror})
	d.around.Put(copyPath, map[string]string{"password": "theirs"})
	_, err := d.rotate()
	requireKind(t, fault.Target, err, "was written by somebody else after ours, 1, and is not overwritten unless the role has mirror_force=true")
	require.Equal(t, 1, d.Current())
	d.emergency(false) // which no checklist keeps back
	d.held("is not overwritten")
	require.Len(t, d.around.Copies(copyPath), 2)
	_, err = d.write(option.Values{"mirror_force": true})
	require.NoError(t, err)
	d.resume()
	d.ended(rotation.Succeeded)
	copies := d.around.Copies(copyPath)
	require.Equal(t, "2", copies[len(copies)-1]["version"])
	var told []string
	for _, e := range d.published.Get() {
		if e.Type == "mirror.changed" {
			told = append(told, e.Data["what"]+"; "+e.Data["then"])
		}
	}
	require.Equal(t, []string{
		"version 2 there was written by somebody else after ours, 1; it is left as it is",
	}, told)
}

func TestAForeignChangeIsNoticed(t *testing.T) {
	t.Parallel()
	d := withDependents(t, option.Values{"mirror": mirror, "rotation_period": int64(30 * 24 * 3600)})
	d.around.Put(copyPath, nil)
	d.waitUntil("noticed", 26*time.Hour, func() bool { return d.State().Mirror.Foreign != "" })
	require.Equal(t, "version 1 there was removed by somebody else", d.State().Mirror.Foreign)
	_, err := d.write(option.Values{"mirror_force": true})
	require.NoError(t, err)
	d.waitUntil("written again", time.Minute, func() bool { return len(d.around.Copies(copyPath)) == 2 })
	d.Wait(10 * time.Second)
	require.Empty(t, d.State().Mirror.Foreign)
}

func TestAMirrorThatARoleGetsLater(t *testing.T) {
	t.Parallel()
	d := withDependents(t, nil)
	d.around.Put("secret/by-hand", map[string]string{"password": "theirs"})
	_, err := d.write(option.Values{"mirror": enginetest.AroundName + "/secret/by-hand"})
	require.NoError(t, err)
	d.waitUntil("noticed", time.Minute, func() bool { return d.State().Mirror != nil && d.State().Mirror.Foreign != "" })
	require.Len(t, d.around.Copies("secret/by-hand"), 1)
	_, err = d.write(option.Values{"mirror_force": true, "mirror_fields": map[string]string{"DB_USER": "username", "URL": "postgresql://{{.username}}:{{urlquery .password}}@db/crm"}})
	require.NoError(t, err)
	d.waitUntil("written", time.Minute, func() bool { return len(d.around.Copies("secret/by-hand")) == 2 })
	user, password := d.creds().Data["username"], d.creds().Data["password"]
	written := d.around.Copies("secret/by-hand")[1]
	require.Equal(t, map[string]string{
		"DB_USER": user.(string), "URL": fmt.Sprintf("postgresql://%s:%s@db/crm", user, password), "version": "1", "rotation_id": d.State().Version(1).RotationID,
	}, written)
	_, err = d.write(option.Values{"mirror_fields": map[string]string{"user": "username"}})
	require.NoError(t, err)
	d.waitUntil("written anew", time.Minute, func() bool { return len(d.around.Copies("secret/by-hand")) == 3 })
	_, err = d.write(option.Values{"mirror": "", "mirror_force": false, "mirror_fields": map[string]string{}})
	require.NoError(t, err)
	d.Rotate()
	require.Len(t, d.around.Copies("secret/by-hand"), 3, "the data stays, and is written no more")
}

func TestPreflightAsksDependents(t *testing.T) {
	t.Parallel()
	d := withDependents(t, all)
	d.around.Unwell(health, "answered 503")
	d.around.Change(web, func(w *enginetest.Workload) { w.Paused = true })
	lines, err := d.Engine().Preflight(context.Background(), app)
	require.NoError(t, err)
	for check, result := range map[string]rotator.Result{
		"rollout " + apiTarget: rotator.Pass, "rollout " + webTarget: rotator.Fail, "mirror " + mirror: rotator.Pass, "check " + health: rotator.Warn,
	} {
		require.Contains(t, resultsOf(lines), fmt.Sprintf("%s: %s", check, result))
	}
}

func resultsOf(lines []rotator.Line) (out []string) {
	for _, l := range lines {
		out = append(out, fmt.Sprintf("%s: %s", l.Check, l.Result))
	}
	return out
}

func TestWrongDependentsAreRefused(t *testing.T) {
	t.Parallel()
	d := withDependents(t, option.Values{"mirror": mirror})
	for says, given := range map[string]option.Values{
		`rollout: names around/default/deployment/api twice`:                                                       {"rollout": []string{apiTarget, apiTarget}},
		`rollout: "api" must be a connection and what it leads to`:                                                 {"rollout": []string{"api"}},
		`rollout: there is no connection "prod"`:                                                                   {"rollout": []string{"prod/default/deployment/api"}},
		`rollout: connection "main" is of type memory, which does not`:                                             {"rollout": []string{"main/default/deployment/api"}},
		`rollout: around/nonsense: must be namespace/kind/name`:                                                    {"rollout": []string{"around/nonsense"}},
		`rollout_order: must be sequential or parallel`:                                                            {"rollout_order": "random"},
		`rollout_timeout: must be from 10s to 24h`:                                                                 {"rollout_timeout": int64(5)},
		`checks: there is no connection "nowhere"`:                                                                 {"checks": []string{"nowhere"}},
		`checks: names health twice`:                                                                               {"checks": []string{health, health}},
		`is not an application_name`:                                                                               {"expect_sessions": []string{"a	b"}},
		`mirror: around/forbidden/x: is not among allowed_paths`:                                                   {"mirror": "around/forbidden/x"},
		`mirror_fields: password: "pass" is not a field: use one of`:                                               {"mirror_fields": map[string]string{"password": "pass"}},
		`mirror_fields: u: is not a template`:                                                                      {"mirror_fields": map[string]string{"u": "{{.username"}},
		`mirror_fields: u: the template cannot be filled in: it may use`:                                           {"mirror_fields": map[string]string{"u": "{{.host}}"}},
		`mirror_fields: version is always in the copy, and cannot be`:                                              {"mirror_fields": map[string]string{"version": "version"}},
		`mirror: is required beside mirror_fields and mirror_force`:                                                {"mirror": "", "mirror_force": true},
		`on_rollout_failure: must be rollback or hold`:                                                             {"on_rollout_failure": "ignore"},
		`mirror_fields: u: the template may hold text and fields, as {{.username}} or {{urlquery .password}}, and`: {"mirror_fields": map[string]string{"u": `{{range $i, $c := .}}{{printf "%070000d" 1}}{{end}}`}},
	} {
		_, err := d.write(given)
		require.ErrorContains(t, err, says)
		requireKind(t, fault.Invalid, err, "")
	}
	err := d.Act(func(ctx context.Context, e *backend.Engine) error {
		_, err := e.WriteRole(ctx, backend.Write{Name: "other", Given: option.Values{"type": "memory", "connection": "main", "mirror": mirror}})
		return err
	})
	requireKind(t, fault.Invalid, err, `is where the role "app" is copied to`)
	err = d.Act(func(ctx context.Context, e *backend.Engine) error {
		return e.DeleteConnection(ctx, enginetest.AroundName)
	})
	requireKind(t, fault.Conflict, err, "in use by app")
}
