package backend

import (
	"context"
	"fmt"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// A staged version is the second of a pair: it is valid and proven, readers are told of
// it beside the current one, and it takes over when it has soaked, or when a person says
// so. A person hands it in where the target has no call that makes it; else the schedule
// makes it, where the role asks for a soak or for a person.

// StageRequest hands in a secret that a person made at the target.
type StageRequest struct {
	Actor   Actor
	Secrets secret.Map
	Wait    time.Duration
	// Force gives up a staged version that has not taken over yet.
	Force bool
}

// Staged is the answer to a StageRequest.
type Staged struct {
	Version  *rotation.Version
	Warnings []string
}

// Stage takes a secret over that exists at the target: proven first, it then stands by
// until it is promoted. What is wrong changes nothing; the same secret again is answered
// with the version that it became.
func (e *Engine) Stage(ctx context.Context, name string, r StageRequest) (*Staged, error) {
	if err := e.allowed(); err != nil {
		return nil, err
	}
	by, err := e.actor(ctx, r.Actor)
	if err != nil {
		return nil, err
	}
	s, err := e.loadLive(ctx, name)
	if err != nil {
		return nil, err
	}
	kind, err := e.kindOf(s.role.Type)
	if err != nil {
		return nil, err
	}
	v, material, err := e.lookAtStaged(ctx, s, kind, r)
	if err != nil {
		return nil, err
	}
	number, known, err := e.alreadyHanded(ctx, s, material)
	if err != nil {
		return nil, err
	}
	if known {
		err = e.stageAgain(ctx, name, number, by)
	} else if err = e.heldElsewhere(ctx, s, material); err == nil {
		v.StagedBy = &by
		number, err = e.keepStaged(ctx, s, kind, *v, material, r.Force)
	}
	if err != nil {
		return nil, e.unsure(name, err)
	}
	e.workers.add(forOne, name)
	return e.stagedOutcome(ctx, name, number, r.Wait)
}

// lookAtStaged asks the kind what the secret is, and the target whether it works.
func (e *Engine) lookAtStaged(ctx context.Context, s *subject, kind rotator.Rotator, r StageRequest) (*rotation.Version, secret.Map, error) {
	stager, ok := kind.(rotator.Stager)
	if !ok {
		return nil, nil, fault.New(fault.Invalid, "role %s is of type %s, which takes no secret by hand", s.name, s.role.Type)
	}
	if reason := stager.Stages(roleView(s.role, nil)); reason != "" {
		return nil, nil, fault.New(fault.Conflict, "role %s takes no secret by hand: %s", s.name, reason)
	}
	if err := s.admitsStaged(); err != nil {
		return nil, nil, err
	}
	if err := e.stillAllowed(ctx, s); err != nil {
		return nil, nil, err
	}
	id, err := newID()
	if err != nil {
		return nil, nil, err
	}
	v := &rotation.Version{
		Number: s.nextNumber(), State: rotation.Pending, RotationID: id, CreatedTime: e.clock.Now(), Grace: s.role.Policy.Grace,
	}
	t, err := e.target(ctx, s, *v)
	if err != nil {
		return nil, nil, err
	}
	t.Role.Secrets = r.Secrets
	var candidate *rotator.Candidate
	err = e.effect(ctx, func(ctx context.Context) (err error) {
		if candidate, err = stager.Stage(ctx, t); err != nil {
			return err
		}
		t.Version.Identifier, t.Version.Object, t.Material = candidate.Identifier, candidate.Object, candidate.Material
		return kind.Verify(ctx, t)
	})
	if err != nil {
		return nil, nil, fault.New(fault.KindOf(err), "nothing was staged: %s", scrub(err.Error(), r.Secrets))
	}
	v.Identifier, v.Object, v.HasMaterial = candidate.Identifier, candidate.Object, true
	return v, candidate.Material, nil
}

// admitsStaged refuses where a staged version would disturb. One that is handed in by a
// person reconciles a role that is diverged, as a version minted by reconcile does.
func (s *subject) admitsStaged() error {
	switch {
	case s.state.Deleted:
		return notFound(s.name)
	case s.state.InFlight != nil:
		return conflictInFlight(s.state.InFlight)
	default:
		return nil
	}
}

// alreadyHanded finds the version that has this secret already: one that stands by, or
// took over since, is the answer; any other is no candidate.
func (e *Engine) alreadyHanded(ctx context.Context, s *subject, material secret.Map) (number int, known bool, err error) {
	for i := range s.state.Versions {
		v := &s.state.Versions[i]
		if !v.HasMaterial {
			continue
		}
		stored, err := e.store.Material(ctx, s.name, v.Number)
		if err != nil {
			return 0, false, err
		}
		if !stored.Equal(material) {
			continue
		}
		if v.StagedBy != nil && !v.Compromised && (v.State == rotation.Standby || v.State == rotation.Current) {
			return v.Number, true, nil
		}
		return 0, false, fault.New(fault.Conflict, "this secret is version %d of %s, which is %s: hand in another one", v.Number, s.name, v.State)
	}
	return 0, false, nil
}

// heldElsewhere refuses a secret that another role of the type has: one of the two would
// end it while the other's readers use it.
func (e *Engine) heldElsewhere(ctx context.Context, s *subject, material secret.Map) error {
	names, err := e.everyName(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == s.name || !e.summaries.mayBe(name, s.role.Type) {
			continue
		}
		other, err := e.load(ctx, name)
		switch {
		case isStorage(err):
			return err
		case fault.Is(err, fault.NotFound), err == nil && other.role.Type != s.role.Type:
			continue
		case err != nil: // one role's trouble is its own
			e.logger.Error("could not read a role", "role", name, "error", err)
			continue
		}
		for _, v := range other.state.Versions {
			if !v.HasMaterial || v.Settled() {
				continue
			}
			held, err := e.store.Material(ctx, name, v.Number)
			if err != nil {
				return err
			}
			if held.Equal(material) {
				return fault.New(fault.Conflict, "this secret is in the hands of another role of type %s, which ends it in its own time", s.role.Type)
			}
		}
	}
	return nil
}

// keepStaged stores a proven secret: material, then the Put that lets it stand by.
func (e *Engine) keepStaged(ctx context.Context, seen *subject, kind rotator.Rotator, v rotation.Version, material secret.Map, force bool) (int, error) {
	_, err := e.update(ctx, seen.name, func(s *subject) error {
		if err := s.admitsStaged(); err != nil {
			return err
		}
		if s.state.Highest >= v.Number { // another request was faster
			return fault.New(fault.Conflict, "role %s changed meanwhile: look at it and stage again", s.name)
		}
		if old := s.state.StandbyVersion(); old != nil && !force {
			return fault.New(fault.Conflict, "version %d (%s) is staged already: promote it with promote/%s, or give it up with force=true", old.Number, old.Identifier, s.name)
		}
		if i := s.state.Intent; i != nil {
			if i.Attempt == 1 && i.Trigger != rotation.Emergency {
				planned := i.Rotation(i.Version, i.At)
				return conflictInFlight(&planned)
			}
			s.state.Intent = nil // an attempt that waits: this is what it waits for
		}
		now := e.clock.Now()
		soak := soakOf(kind, s.role)
		ready := now.Add(soak.Period)
		if cur := s.state.CurrentVersion(); cur == nil || cur.Compromised { // nothing is worth waiting for
			ready = now
		}
		if err := e.store.PutMaterial(ctx, s.name, v.Number, material); err != nil {
			return err
		}
		if err := s.state.Stage(v, now, ready); err != nil {
			return err
		}
		e.tellStaged(s, s.state.StagedVersion())
		s.letStagedGoOn(v.RotationID, v.Number, now, *v.StagedBy)
		return nil
	})
	return v.Number, err
}

// stageAgain lets a version that was handed in before go on, where something stopped it.
func (e *Engine) stageAgain(ctx context.Context, name string, number int, by rotation.Actor) error {
	id, err := newID()
	if err != nil {
		return err
	}
	_, err = e.update(ctx, name, func(s *subject) error {
		if err := s.admitsStaged(); err != nil {
			return err
		}
		v := s.state.Version(number)
		stopped := s.state.Blocked != "" || s.state.Divergence != nil || s.state.Postponed != nil || s.state.Intent != nil
		if v == nil || v.State != rotation.Standby || !stopped {
			return errNoChange
		}
		s.letStagedGoOn(id, number, e.clock.Now(), by)
		return nil
	})
	return err
}

// letStagedGoOn takes away what keeps a staged version from taking over. It reconciles a
// role that is diverged, if its number is above everything seen.
func (s *subject) letStagedGoOn(id string, number int, now time.Time, by rotation.Actor) {
	s.state.Blocked, s.state.Postponed = "", nil
	if i := s.state.Intent; i != nil && i.Attempt > 1 {
		i.At = now
	}
	d := s.state.Divergence
	if d == nil || number <= d.Highest {
		return
	}
	s.state.CatchUp()
	s.state.Intent = &rotation.Intent{
		ID: id, Trigger: rotation.Manual, At: now, Attempt: 1, Version: number, Reconcile: true, Actor: by, Reason: "reconcile: " + d.Reason,
	}
	s.replacesLeaked(s.state.Intent)
}

// tellStaged tells of a version that now stands by.
func (e *Engine) tellStaged(s *subject, v *rotation.Version) {
	s.state.ActionRequired = ""
	s.state.Emit(rotation.Event{ID: v.RotationID + "/version.staged", Type: "version.staged", Time: e.clock.Now()})
}

// stagedOutcome waits until a staged version took over, as far as that is near.
func (e *Engine) stagedOutcome(ctx context.Context, name string, number int, wait time.Duration) (*Staged, error) {
	s, err := e.await(ctx, name, wait, func(s *subject) bool {
		v := s.state.Version(number)
		return v == nil || !s.takesOver(v, e.clock.Now())
	})
	if err != nil {
		return nil, err
	}
	v := s.state.Version(number)
	if v == nil {
		return nil, fault.New(fault.Conflict, "version %d of %s is gone already: see history/%s", number, name, name)
	}
	out := &Staged{Version: v}
	if v.State == rotation.Standby {
		out.Warnings = append(out.Warnings, s.waitsFor(v))
	}
	return out, nil
}

// takesOver tells whether a staged version is about to become current, or is just becoming
// so.
func (s *subject) takesOver(v *rotation.Version, now time.Time) bool {
	wanted := s.state.Intent
	switch {
	case s.state.InFlight != nil:
		return true
	case v.State != rotation.Standby || s.state.Postponed != nil:
		return false
	case wanted != nil:
		return wanted.Version == v.Number && wanted.Attempt == 1 && !wanted.At.After(now)
	default:
		return !s.promotes && !v.ReadyAt.After(now)
	}
}

// waitsFor says why a staged version is not current yet.
func (s *subject) waitsFor(v *rotation.Version) string {
	switch {
	case s.state.Postponed != nil:
		return fmt.Sprintf("version %d is staged; it could not be promoted yet: %s", v.Number, s.state.Postponed.Reason)
	case s.state.Intent != nil && s.state.Last != nil && s.state.Last.Error != nil:
		return fmt.Sprintf("version %d is staged; it could not be promoted yet: %s", v.Number, s.state.Last.Error.Message)
	case s.promotes:
		return fmt.Sprintf("version %d is staged, and waits for promote/%s", v.Number, s.name)
	default:
		return fmt.Sprintf("version %d is staged, and takes over at %s", v.Number, v.ReadyAt.Format(timeFormat))
	}
}

// promoteStaged lets a staged version take over, once nobody has to be asked.
func (e *Engine) promoteStaged(ctx context.Context, s *subject, number int) error {
	i, err := e.unasked()
	if err != nil {
		return err
	}
	i.Version = number
	if by := s.state.Version(number).StagedBy; by != nil {
		i.Trigger, i.Actor = rotation.Manual, *by
	}
	s.replacesLeaked(i)
	return e.begin(ctx, s, *i)
}

// replacesLeaked makes a rotation that a person's secret makes possible the one of the
// emergency that waits for it.
func (s *subject) replacesLeaked(i *rotation.Intent) {
	cur := s.state.CurrentVersion()
	if cur == nil || !cur.Compromised || len(s.state.Incidents) == 0 {
		return
	}
	i.Trigger, i.IncidentID = rotation.Emergency, s.state.Incidents[len(s.state.Incidents)-1].ID
}

// Promote lets a staged version take over now.
func (e *Engine) Promote(ctx context.Context, name string, r RotateRequest) (*rotation.Rotation, error) {
	return e.request(ctx, name, r.Actor, r.Wait, admitNone, func(s *subject, i *rotation.Intent) error {
		if s.state.Divergence != nil {
			return conflictDiverged(s)
		}
		staged := s.state.StagedVersion()
		if staged == nil {
			return fault.New(fault.Conflict, "no version of %s is staged: there is nothing to promote", name)
		}
		if err := s.soaked(e.clock.Now(), r.Force); err != nil {
			return err
		}
		i.Trigger, i.Version, i.Force = rotation.Manual, staged.Number, r.Force
		s.replacesLeaked(i)
		return nil
	})
}

// soaked refuses to let a staged version take over before its time.
func (s *subject) soaked(now time.Time, force bool) error {
	staged := s.state.StagedVersion()
	if staged == nil || force || !staged.ReadyAt.After(now) {
		return nil
	}
	return fault.New(fault.Conflict, "version %d is staged, and may take over at %s: promote it then, or at once with force=true", staged.Number, staged.ReadyAt.Format(timeFormat))
}

// stageScheduled makes the version that the schedule asks for stand by first.
func (e *Engine) stageScheduled(ctx context.Context, s *subject) error {
	i, err := e.scheduled(ctx, s)
	if err != nil || i == nil {
		return err
	}
	if postponed, err := e.lookBefore(ctx, s, *i); postponed || err != nil {
		return err
	}
	return e.planAhead(ctx, s, true)
}
