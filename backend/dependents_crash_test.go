package backend_test

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/rotatortest"
)

// surrounded is a play with dependents.
type surrounded struct {
	*enginetest.Play
	around *enginetest.Surroundings
}

// create makes the role with all dependents.
func (p *surrounded) create(extra option.Values) {
	p.ConnectAround(health)
	role := maps.Clone(all)
	role["rollout_timeout"] = int64(40)
	maps.Copy(role, extra)
	p.Create(role)
}

func (p *surrounded) breakRelease(broken bool) {
	p.around.Change(api, func(w *enginetest.Workload) { w.Broken = broken })
}

// rotateInto asks for a rotation until it ended, or is held, in the way that is expected.
func (p *surrounded) rotateInto(reached func(*rotation.State) bool) {
	for range 10 {
		if reached(p.State()) {
			return
		}
		_ = p.Act(func(ctx context.Context, e *backend.Engine) error {
			_, err := e.Rotate(ctx, app, backend.RotateRequest{Wait: backend.Wait})
			return err
		})
		p.Wait(80 * time.Second)
	}
	p.Violate("the rotation did not come where it should")
}

// check says what is not as a rotation leaves it: the pods and the copy have the current
// version, and no order changed a pod template twice.
func (p *surrounded) check() {
	creds, err := p.Engine().Creds(context.Background(), app, backend.Actor{})
	if err != nil {
		p.Violate("dependents: %s", err)
		return
	}
	for _, name := range []string{api, web} {
		w := p.around.Workload(name)
		if w.Holds == nil || w.Holds["password"] != creds.Data["password"] {
			p.Violate("dependents: the pods of %s do not hold the current version", name)
		}
		orders := slices.Sorted(slices.Values(w.Changes))
		if len(slices.Compact(slices.Clone(orders))) != len(orders) {
			p.Violate("dependents: an order restarted %s twice: %v", name, w.Changes)
		}
	}
	copies := p.around.Copies(copyPath)
	if len(copies) == 0 || copies[len(copies)-1]["password"] != creds.Data["password"] {
		p.Violate("dependents: the copy is not the current version")
	}
	for i := 1; i < len(copies); i++ {
		if maps.Equal(copies[i-1], copies[i]) {
			p.Violate("dependents: a copy was written twice")
		}
	}
}

var dependentScenarios = []struct {
	name    string
	atLeast int
	run     func(*surrounded)
}{
	{"rotate", 70, func(p *surrounded) { p.create(nil); p.Rotate(); p.Wait(2 * time.Minute) }},
	{"rotate, all at once", 70, func(p *surrounded) {
		p.create(option.Values{"rollout_order": "parallel"})
		p.Rotate()
		p.Wait(2 * time.Minute)
	}},
	{"a broken release", 170, func(p *surrounded) {
		p.create(nil)
		p.Rotate()
		p.breakRelease(true)
		p.rotateInto(func(s *rotation.State) bool {
			return s.InFlight == nil && s.Last != nil && s.Last.Outcome == rotation.RolledBack
		})
		p.check()
		p.breakRelease(false)
		p.Rotate()
		p.Wait(2 * time.Minute)
	}},
	{"an unwell endpoint", 140, func(p *surrounded) {
		p.create(nil)
		p.around.Unwell(health, "answered 503")
		p.rotateInto(func(s *rotation.State) bool {
			return s.InFlight == nil && s.Last != nil && s.Last.Outcome == rotation.RolledBack
		})
		p.check()
		p.around.Unwell(health, "")
		p.Rotate()
		p.Wait(2 * time.Minute)
	}},
	{"held, rollback", 130, func(p *surrounded) {
		p.create(option.Values{"on_rollout_failure": "hold"})
		p.Rotate()
		before := p.Current()
		p.breakRelease(true)
		p.rotateInto(func(s *rotation.State) bool { return s.InFlight != nil && s.InFlight.Held != "" })
		p.Rollback(before)
		p.Wait(2 * time.Minute)
	}},
	{"emergency in the midst of a rollout", 100, func(p *surrounded) {
		p.create(nil)
		p.breakRelease(true)
		p.rotateInto(func(s *rotation.State) bool {
			return s.InFlight != nil && s.InFlight.StepNamed("rollout", false) != nil || s.Last != nil && s.Last.Outcome == rotation.RolledBack
		})
		p.breakRelease(false)
		p.Emergency(false)
		p.Wait(2 * time.Minute)
	}},
}

// What depends on a secret must follow it after any crash, and be restarted once.
func TestCrashAnywhereWithDependents(t *testing.T) {
	t.Parallel()
	for _, s := range dependentScenarios {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			enginetest.Enumerate(t, surroundedStage, enginetest.Scenario{Name: s.name, AtLeast: s.atLeast, Run: func(p *enginetest.Play) {
				of := &surrounded{Play: p, around: p.Around()}
				s.run(of)
				of.check()
			}})
		})
	}
}

func surroundedStage(*testing.T) *enginetest.Stage {
	stage := memoryStage(rotatortest.NewMemory())
	stage.Around = enginetest.NewSurroundings(api, web)
	stage.Step = 10 * time.Second // rollouts take a while
	return stage
}
