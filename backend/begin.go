package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// beginScheduled begins the rotation that the schedule asks for.
func (e *Engine) beginScheduled(ctx context.Context, s *subject) error {
	i, err := e.scheduled(ctx, s)
	if err != nil || i == nil {
		return err
	}
	return e.begin(ctx, s, *i)
}

// scheduled is the intent of the schedule; nil for a role whose earlier versions do not
// end, which it blocks.
func (e *Engine) scheduled(ctx context.Context, s *subject) (*rotation.Intent, error) {
	if kept := s.kept(); kept > maxKept {
		return nil, e.block(ctx, s, fmt.Sprintf("%d versions are kept, which is as many as the schedule makes: retire those of which no data is left, and let destroy_after destroy their keys", kept))
	}
	if unsettled := s.unsettled(); unsettled > 3*s.role.Policy.MaxVersions {
		return nil, e.block(ctx, s, fmt.Sprintf("%d earlier versions are not ended and proven dead yet: no more are made by the schedule before that", unsettled))
	}
	return e.unasked()
}

// unasked is an intent that nobody asked for.
func (e *Engine) unasked() (*rotation.Intent, error) {
	id, err := newID()
	return &rotation.Intent{ID: id, Trigger: rotation.Scheduled, Attempt: 1, At: e.clock.Now(), Unasked: true}, err
}

// maxKept bounds the versions that a role keeps for their data: its document must stay well
// below what storage takes, also for what people ask for.
const maxKept = 400

// kept counts versions that stay for what they made, disabled ones too.
func (s *subject) kept() (n int) {
	for i := range s.state.Versions {
		if v := &s.state.Versions[i]; v.KeepsData && v.HasMaterial {
			n++
		}
	}
	return n
}

// unsettled counts versions that still have something to be done outside.
func (s *subject) unsettled() (n int) {
	for i := range s.state.Versions {
		if v := &s.state.Versions[i]; !v.Settled() && !v.KeepsData { // which may well stay for years
			n++
		}
	}
	return n
}

// block stops the schedule of a role until a person looked at it.
func (e *Engine) block(ctx context.Context, s *subject, reason string) error {
	_, err := e.update(ctx, s.name, func(s *subject) error {
		if s.state.InFlight != nil || s.state.Intent != nil || s.state.Deleted {
			return errStale
		}
		s.state.Blocked = reason
		return nil
	})
	return err
}

// begin journals the rotation that fulfils an intent: with a version that exists,
// or with a candidate that is minted now.
func (e *Engine) begin(ctx context.Context, s *subject, i rotation.Intent) error {
	if postponed, err := e.lookBefore(ctx, s, i); postponed || err != nil {
		return err
	}
	if i.Version == 0 {
		i.Version = s.keptFor(i)
	}
	if i.Version == 0 && !i.Reconcile {
		if waits, err := e.takeStandby(ctx, s, &i); waits || err != nil {
			return err
		}
	}
	if i.Version != 0 {
		if v := s.state.Version(i.Version); v != nil && v.Staged {
			if err := e.stillAllowed(ctx, s); err != nil {
				return e.refuse(ctx, s, i, err)
			}
		}
		return e.beginJournal(ctx, s, i, i.Version, nil)
	}
	if i.Trigger == rotation.Import && e.memory.handed(s.name, i.ID) == nil {
		// It came with a request, and is nowhere else: what was made instead would not be it.
		return e.refuse(ctx, s, i, fault.New(fault.Target, "the secret to take over was lost when the process ended: write the role again"))
	}
	candidate, earlier, err := e.mint(ctx, s, i.ID)
	var person *rotator.WaitsForPerson
	var occupied *occupiedError
	switch {
	case errors.As(err, &occupied):
		return e.waitForObject(ctx, s, i, occupied.by)
	case err == nil:
		err := e.beginJournal(ctx, s, i, candidate.Number, candidate, earlier...)
		if err == nil {
			e.memory.hand(s.name, "", nil)
		}
		if fault.Is(err, fault.NotFound) { // deleted meanwhile, by force
			for _, v := range append(earlier, *candidate) {
				err = errors.Join(err, e.store.DeleteMaterial(ctx, s.name, v.Number))
			}
		}
		return err
	case errors.As(err, &person):
		return e.waitForPerson(ctx, s, i, person.What)
	case errors.Is(err, errInterrupted), isStorage(err), errors.Is(err, errStale):
		return err
	default:
		return e.refuse(ctx, s, i, err)
	}
}

// nextNumber is above all that were given, also those that were only seen outside.
func (s *subject) nextNumber() int {
	highest := s.state.Highest
	if d := s.state.Divergence; d != nil {
		highest = max(highest, d.Highest)
	}
	return highest + 1
}

// keptFor is the version that exists and serves an intent which names none: the later of
// one that cannot be undone and one that is staged; 0 for none.
// What is reconciled is numbered above everything seen.
func (s *subject) keptFor(i rotation.Intent) int {
	v := s.state.KeptCandidate()
	if staged := s.state.StagedVersion(); staged != nil && (v == nil || staged.Number > v.Number) {
		v = staged
	}
	if v == nil || i.Reconcile && s.state.Divergence != nil && v.Number <= s.state.Divergence.Highest {
		return 0
	}
	return v.Number
}

// mint plans a new version and stores its material. Nothing happened outside, and
// until the journal names the version its material is nobody's.
func (e *Engine) mint(ctx context.Context, s *subject, rotationID string) (minted *rotation.Version, earlier []rotation.Version, err error) {
	kind, err := e.kindOf(s.role.Type)
	if err != nil {
		return nil, nil, err
	}
	v := rotation.Version{Number: s.nextNumber(), State: rotation.Pending, RotationID: rotationID, CreatedTime: e.clock.Now()}
	_, v.KeepsData = kind.(rotator.DataKeeper)
	if err := e.stillAllowed(ctx, s); err != nil {
		return nil, nil, err
	}
	t, err := e.target(ctx, s, v)
	if err != nil {
		return nil, nil, err
	}
	t.Role.Secrets = e.memory.handed(s.name, rotationID)
	var planned *rotator.Candidate
	if err := e.effect(ctx, func(ctx context.Context) (err error) {
		planned, err = kind.Plan(ctx, t)
		return err
	}); err != nil {
		return nil, nil, err
	}
	if by := s.occupant(planned.Identifier); by != nil && !changesInPlace(kind, s.role) {
		return nil, nil, &occupiedError{by: *by}
	}
	if _, stages := kind.(rotator.Stager); stages && t.Role.Secrets != nil {
		if err := e.heldElsewhere(ctx, s, planned.Material); err != nil {
			return nil, nil, err
		}
	}
	if earlier, err = e.takeEarlier(ctx, s, &v, planned); err != nil {
		return nil, nil, err
	}
	v.Irreversible, v.Counted = irreversible(kind, s.role), planned.Counted
	v.Identifier, v.Object, v.HasMaterial = planned.Identifier, planned.Object, len(planned.Material) > 0
	if v.HasMaterial { // else the target mints it
		err = e.store.PutMaterial(ctx, s.name, v.Number, planned.Material)
	}
	return &v, earlier, err
}

// takeEarlier stores the versions that an import brings along beside the one that is to
// become current, under the numbers that they have already.
func (e *Engine) takeEarlier(ctx context.Context, s *subject, v *rotation.Version, planned *rotator.Candidate) (earlier []rotation.Version, err error) {
	if planned.Number == 0 {
		return nil, nil
	}
	lowest := planned.Number
	for i := range planned.Earlier {
		lowest = min(lowest, planned.Earlier[i].Number)
	}
	if lowest < v.Number && !planned.Counted {
		return nil, fault.New(fault.Conflict, "a role of the name %q had versions up to %d, whose numbers are not given again, and the import brings version %d: choose another name", s.name, v.Number-1, lowest)
	}
	v.Number = planned.Number
	for i := range planned.Earlier {
		c := &planned.Earlier[i]
		was := *v
		was.Number, was.State, was.Identifier, was.Object, was.HasMaterial = c.Number, rotation.Retiring, c.Identifier, c.Object, true
		was.Grace, was.ActivatedTime, was.DeactivatedTime = s.role.Policy.Grace, v.CreatedTime, v.CreatedTime
		if err := e.store.PutMaterial(ctx, s.name, was.Number, c.Material); err != nil {
			return nil, err
		}
		earlier = append(earlier, was)
	}
	return earlier, nil
}

// stillAllowed refuses new versions where the connection was taken from the role
// since it was written. Ending versions goes on.
func (e *Engine) stillAllowed(ctx context.Context, s *subject) error {
	conn, err := e.store.Connection(ctx, s.role.Connection)
	if err != nil || conn == nil || allowsRole(conn, s.name) {
		return err
	}
	return fault.New(fault.Target, "connection %s no longer allows the role %s: see its allowed_roles", conn.Name, s.name)
}

func (e *Engine) beginJournal(ctx context.Context, s *subject, i rotation.Intent, number int, candidate *rotation.Version, earlier ...rotation.Version) error {
	kind, err := e.kindOf(s.role.Type)
	if err != nil {
		return err
	}
	highest := s.state.Highest
	_, err = e.update(ctx, s.name, func(s *subject) error {
		if s.state.InFlight != nil || s.state.Highest != highest || s.state.Deleted || !s.wants(i) {
			return errStale
		}
		s.dirtyIncidents()
		if len(earlier) > 0 {
			s.state.Versions = slices.Concat(s.state.Versions, earlier) // whoever copied the state may share the old list
			slices.SortFunc(s.state.Versions, func(a, b rotation.Version) int { return a.Number - b.Number })
		}
		if err := s.state.Begin(i.Rotation(number, e.clock.Now()), candidate); err != nil || !readyAlready(kind, s) {
			return err
		}
		return s.state.Reach(rotation.Prepared)
	})
	return err
}

// wants tells whether the intent a run began with still stands.
func (s *subject) wants(i rotation.Intent) bool {
	if i.Unasked {
		return s.state.Intent == nil
	}
	return s.state.Intent != nil && s.state.Intent.ID == i.ID
}

// lookBefore asks, before a first, scheduled or manual rotation, whether the world
// outside is as the journal knows it and whether the rotation can go well. A reason
// against it postpones the schedule, and ends a request: no attempt is counted.
func (e *Engine) lookBefore(ctx context.Context, s *subject, i rotation.Intent) (postponed bool, err error) {
	if i.Trigger == rotation.Emergency || i.Trigger == rotation.Rollback {
		return false, nil
	}
	if i.Trigger != rotation.Initial && i.Trigger != rotation.Import && !i.Reconcile {
		found, err := e.survey(ctx, s)
		if err == nil && found != nil {
			return true, e.diverge(ctx, s, found)
		}
		if errors.Is(err, errInterrupted) || isStorage(err) {
			return false, err
		}
		// What could not be seen now, preflight says in words.
	}
	lines, err := e.kindLines(ctx, s)
	if err != nil {
		return false, err
	}
	dependents, err := e.dependentLines(ctx, s, isFirst(i.Trigger), effectTimeout)
	if err != nil {
		return false, err
	}
	reasons := failures(append(lines, dependents...))
	if reasons == "" {
		return false, nil
	}
	return true, e.postpone(ctx, s, i, reasons)
}

// failures joins the lines that forbid to go on.
func failures(lines []rotator.Line) string {
	var reasons []string
	for _, line := range lines {
		if line.Result == rotator.Fail {
			reasons = append(reasons, line.Check+": "+line.Detail)
		}
	}
	return strings.Join(reasons, "; ")
}

// postpone records that a rotation did not even begin.
func (e *Engine) postpone(ctx context.Context, s *subject, i rotation.Intent, reason string) error {
	refused := fault.New(fault.Target, "preflight: %s", reason)
	_, err := e.update(ctx, s.name, func(s *subject) error {
		if s.state.InFlight != nil || s.state.Deleted || !s.wants(i) {
			return errStale
		}
		now, before := e.clock.Now(), s.state.Postponed
		switch {
		case i.Trigger == rotation.Initial, i.Trigger == rotation.Import:
			return s.state.Delete(now)
		case i.Attempt > 1 || i.Reconcile && i.Version != 0: // a version waits for it
			s.state.Postponed = attention(s.state.Postponed, now, reason, 0, true)
			s.state.Intent.At = s.state.Postponed.At
		case i.Unasked:
			s.state.Postponed = attention(s.state.Postponed, now, reason, 0, true)
		default: // who asked for it is told, and that is all: nothing has changed
			s.state.Intent, s.state.Replaced = s.state.Replaced, nil
			return nil
		}
		if before != nil && before.Failing { // the alarm tells again of what lasts, with the reason that it has then
			return nil
		}
		s.state.Emit(rotation.Event{ID: i.ID + "/rotation.postponed", Type: "rotation.postponed", Time: now, Data: map[string]string{"reason": reason}})
		return nil
	})
	if err == nil {
		e.logger.Warn("a rotation was postponed", "role", s.name, "reason", reason)
		e.waiters.refused(i.ID, refused)
	}
	return err
}

// waitForPerson records that a person has to act before a version can be made. A new
// role stays, and waits for its first secret.
func (e *Engine) waitForPerson(ctx context.Context, s *subject, i rotation.Intent, what string) error {
	_, err := e.update(ctx, s.name, func(s *subject) error {
		if s.state.InFlight != nil || s.state.Deleted || !s.wants(i) {
			return errStale
		}
		s.state.Intent, s.state.ActionRequired, s.state.Blocked = nil, what, ""
		return nil
	})
	if err == nil {
		e.waiters.refused(i.ID, fault.New(fault.Conflict, "a person has to act first: %w", &rotator.WaitsForPerson{What: what}))
	}
	return err
}

// refuse records an attempt that failed before it had a candidate.
func (e *Engine) refuse(ctx context.Context, s *subject, i rotation.Intent, cause error) error {
	id, err := newID()
	if err != nil {
		return err
	}
	why := failureOf(cause, nil)
	_, err = e.update(ctx, s.name, func(s *subject) error {
		if s.state.InFlight != nil || s.state.Deleted || !s.wants(i) {
			return errStale
		}
		now := e.clock.Now()
		r := i.Rotation(0, now)
		s.dirtyIncidents()
		if err := s.state.Refuse(r, now, why, e.afterFailure(s, &r, why, id)); err != nil {
			return err
		}
		if i.Trigger == rotation.Initial || i.Trigger == rotation.Import {
			return s.state.Delete(now)
		}
		return nil
	})
	return err
}

// isStorage tells a failure of Vault's storage, which says nothing of the target.
func isStorage(err error) bool {
	var io *store.IOError
	return errors.As(err, &io)
}

// unreadable tells that a document is there, of which nothing can be made. One of a newer
// release, that one can read.
func unreadable(err error) (is, newer bool) {
	var later *store.NewerSchemaError
	return err != nil && !isStorage(err), errors.As(err, &later)
}
