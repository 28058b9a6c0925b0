package backend_test

import (
	"testing"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/mark"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/rotatortest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// memoryStage is a stage for the in-memory kind.
func memoryStage(kind *rotatortest.Memory) *enginetest.Stage {
	return &enginetest.Stage{
		Rotator: func(f *enginetest.Faults) rotator.Rotator { return enginetest.NewFaulty(kind, f) },
		Connection: func(f *enginetest.Faults) rotator.ConnectionKind {
			return enginetest.FaultyConnection{ConnectionKind: rotatortest.MemoryConnection{World: kind.World}, Faults: f}
		},
		Address: option.Values{"address": "memory://target"},
		Secrets: secret.NewMap(map[string]string{"password": "the-admin-canary"}),
		Login: func(rendered map[string]any) error {
			user, _ := rendered["username"].(string)
			password, _ := rendered["password"].(string)
			if second, ok := rendered["second_username"].(string); ok {
				other, _ := rendered["second_password"].(string)
				if err := kind.World.Login(second, other); err != nil {
					return err
				}
			}
			return kind.World.Login(user, password)
		},
		Objects: func() (names []string, err error) {
			for name, u := range kind.World.Users() {
				// A standing user stays, disabled, when its version has ended.
				if m, _, err := mark.Parse(u.Comment); err == nil && (m.Fence == 0 || u.Enabled) {
					names = append(names, name)
				}
			}
			return names, nil
		},
		Step: 4 * time.Second,
	}
}

func freshMemory(*testing.T) *enginetest.Stage { return memoryStage(rotatortest.NewMemory()) }

// inPlace are the options of a role whose one credential changes where it stands.
var inPlace = option.Values{"in_place": true, "grace_period": int64(0)}

// minted are the options of a role whose target makes the secrets.
var minted = option.Values{"minted": true}

// scenarios are the whole life of a role, in pieces.
var scenarios = []enginetest.Scenario{
	{Name: "create", AtLeast: 9, Run: func(p *enginetest.Play) { p.Create(nil) }},
	{Name: "rotate", AtLeast: 20, Run: func(p *enginetest.Play) { p.Create(nil); p.Rotate(); p.Wait(2 * time.Minute) }},
	{Name: "scheduled", AtLeast: 20, Run: func(p *enginetest.Play) { p.Create(nil); p.Wait(12 * time.Minute) }},
	{Name: "rollback to a living version", AtLeast: 25, Run: func(p *enginetest.Play) {
		p.Create(nil)
		first := p.Current()
		p.Rotate()
		p.Rollback(first)
		p.Wait(2 * time.Minute)
	}},
	{Name: "rollback to a retired version", AtLeast: 28, Run: func(p *enginetest.Play) {
		p.Create(nil)
		first := p.Current()
		p.Rotate()
		p.Wait(2 * time.Minute)
		p.Rollback(first)
		p.Wait(2 * time.Minute)
	}},
	{Name: "emergency", AtLeast: 25, Run: func(p *enginetest.Play) { p.Create(nil); p.Rotate(); p.Emergency(false); p.Wait(time.Minute) }},
	{Name: "emergency, kill first", AtLeast: 25, Run: func(p *enginetest.Play) { p.Create(nil); p.Rotate(); p.Emergency(true); p.Wait(time.Minute) }},
	{Name: "emergency, closed", AtLeast: 30, Run: func(p *enginetest.Play) {
		p.Create(nil)
		p.Emergency(false)
		p.CloseIncidents()
		p.Wait(time.Minute)
	}},
	{Name: "bulk emergency, closed before it is contained", AtLeast: 60, Run: func(p *enginetest.Play) {
		p.Create(nil)
		p.Add(nil, "billing", "shop")
		p.DeclareOverAll()
		p.CloseIncidents()
		p.Wait(2 * time.Minute)
		p.Leak(false)
	}},
	{Name: "bulk emergency", AtLeast: 70, Run: func(p *enginetest.Play) {
		p.Create(nil)
		p.Add(nil, "billing", "shop")
		p.BulkEmergency(false)
		p.Wait(time.Minute)
	}},
	{Name: "bulk emergency, kill first", AtLeast: 50, Run: func(p *enginetest.Play) {
		p.Create(option.Values{"standing": true})
		p.Add(nil, "billing")
		p.Rotate()
		p.BulkEmergency(true)
		p.Wait(time.Minute)
	}},
	{Name: "bulk emergency with a deleted role", AtLeast: 60, Run: func(p *enginetest.Play) {
		p.Create(nil)
		p.Add(option.Values{"grace_period": int64(599)}, "left")
		p.DeleteOther("left")
		p.BulkEmergency(false)
		p.Wait(time.Minute)
	}},
	{Name: "delete", AtLeast: 15, Deleted: true, Run: func(p *enginetest.Play) { p.Create(nil); p.Rotate(); p.Delete(); p.Wait(2 * time.Minute) }},
	{Name: "standby", AtLeast: 20, Run: func(p *enginetest.Play) {
		p.Create(option.Values{"announce": int64(60)})
		p.Wait(20 * time.Second)
		p.Rotate()
		p.Wait(2 * time.Minute)
	}},
	{Name: "standby, emergency", AtLeast: 25, Run: func(p *enginetest.Play) {
		p.Create(option.Values{"announce": int64(120)})
		p.Wait(20 * time.Second)
		p.Emergency(false)
		p.Wait(time.Minute)
	}},
	{Name: "rollback that is announced", AtLeast: 40, Run: func(p *enginetest.Play) {
		p.Create(option.Values{"announce": int64(60)})
		first := p.Current()
		p.Wait(80 * time.Second)
		p.Rotate()
		p.Wait(2 * time.Minute)
		p.AskRollback(first)
		p.Wait(3 * time.Minute)
	}},
	{Name: "rollback that is announced, emergency", AtLeast: 50, Run: func(p *enginetest.Play) {
		p.Create(option.Values{"announce": int64(200)})
		first := p.Current()
		p.Wait(220 * time.Second)
		p.Rotate()
		p.Wait(90 * time.Second)
		p.AskRollback(first)
		p.Wait(20 * time.Second)
		p.Emergency(false)
		p.Wait(time.Minute)
	}},
	{Name: "standing users", AtLeast: 40, Run: func(p *enginetest.Play) {
		p.Create(option.Values{"standing": true})
		first := p.Current()
		p.Rotate()
		p.Wait(2 * time.Minute)
		p.Rollback(first)
		p.Wait(2 * time.Minute)
		p.Rotate()
		p.Wait(2 * time.Minute)
	}},
	{Name: "standing users, emergency, kill first", AtLeast: 25, Run: func(p *enginetest.Play) {
		p.Create(option.Values{"standing": true})
		p.Rotate()
		p.Emergency(true)
		p.Wait(time.Minute)
	}},
	{Name: "standing users, emergency", AtLeast: 25, Run: func(p *enginetest.Play) {
		p.Create(option.Values{"standing": true})
		p.Rotate()
		p.Emergency(false)
		p.Wait(time.Minute)
	}},
	{Name: "in place", AtLeast: 30, Run: func(p *enginetest.Play) {
		p.Create(inPlace)
		first := p.Current()
		p.Rotate()
		p.Wait(time.Minute)
		p.Rollback(first)
		p.Wait(time.Minute)
	}},
	{Name: "in place, emergency", AtLeast: 20, Run: func(p *enginetest.Play) { p.Create(inPlace); p.Emergency(false); p.Wait(time.Minute) }},
	{Name: "in place, delete", AtLeast: 15, Deleted: true, Run: func(p *enginetest.Play) { p.Create(inPlace); p.Delete(); p.Wait(time.Minute) }},
	{Name: "minted by the target", AtLeast: 25, Run: func(p *enginetest.Play) {
		p.Create(minted)
		first := p.Current()
		p.Rotate()
		p.Rollback(first)
		p.Wait(2 * time.Minute)
	}},
	{Name: "minted by the target, emergency", AtLeast: 25, Run: func(p *enginetest.Play) {
		p.Create(minted)
		p.Rotate()
		p.Emergency(false)
		p.Wait(time.Minute)
	}},
	{Name: "minted by the target, delete", AtLeast: 15, Deleted: true, Run: func(p *enginetest.Play) { p.Create(minted); p.Rotate(); p.Delete(); p.Wait(2 * time.Minute) }},
	{Name: "staged by the schedule", AtLeast: 25, Run: func(p *enginetest.Play) {
		p.Create(option.Values{"minted": true, "soak_period": int64(60)})
		p.Wait(14 * time.Minute)
	}},
	{Name: "staged by the schedule, emergency", AtLeast: 25, Run: func(p *enginetest.Play) {
		p.Create(option.Values{"minted": true, "soak_period": int64(300)})
		p.Wait(11 * time.Minute)
		p.Emergency(false)
		p.Wait(time.Minute)
	}},
	{Name: "rotate root", AtLeast: 10, Run: func(p *enginetest.Play) { p.Create(nil); p.RotateRoot(); p.Rotate(); p.Wait(2 * time.Minute) }},
}

// enumerate gives each scenario on a stage, side by side.
func enumerate(t *testing.T, stage func(*testing.T) *enginetest.Stage, scenarios []enginetest.Scenario) {
	t.Helper()
	for _, s := range scenarios {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			enginetest.Enumerate(t, stage, s)
		})
	}
}

// TestCrashAnywhere lets every storage write and every call outside fail, lose its
// answer, and be the last act of the process; afterwards all five promises hold.
func TestCrashAnywhere(t *testing.T) {
	t.Parallel()
	enumerate(t, freshMemory, scenarios)
}
