package postgresql

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// Retire implements rotator.Rotator. Disable takes login and password away, so
// that the server itself answers 28P01 from then on, and ends the sessions.
// Destroy hands what the user owns to its group and drops the user; a standing or
// an imported one stays, disabled.
func (*Rotator) Retire(ctx context.Context, t *rotator.Target, stage rotator.Stage) (rotator.Progress, error) {
	r, err := newRetirement(t)
	if err != nil {
		return rotator.Progress{}, err
	}
	return r.run(ctx, stage)
}

// Discard implements rotator.Rotator. A user of that name that is not ours means
// that Prepare refused it: there is nothing of ours.
func (*Rotator) Discard(ctx context.Context, t *rotator.Target) (rotator.Progress, error) {
	r, err := newRetirement(t)
	if err != nil {
		return rotator.Progress{}, err
	}
	if len(r.object.Imported) > 0 {
		return rotator.Progress{}, r.putBack(ctx)
	}
	progress, err := r.run(ctx, rotator.Destroy)
	if r.foreign != nil {
		return boundedProgress(rotator.Progress{Left: r.foreign.Error()}), nil
	}
	return progress, err
}

func (r *retirement) run(ctx context.Context, stage rotator.Stage) (rotator.Progress, error) {
	progress, gone, err := r.disableAll(ctx)
	if err == nil && gone && r.object.Strategy == inPlace && r.target.Version.Compromised {
		if stage == rotator.Disable {
			progress.SessionsEnded, err = r.endLeakedSessions(ctx)
			return progress, err
		}
		r.endLeakedOnReplicas(ctx, &progress)
		return boundedProgress(progress), nil
	}
	if err != nil || gone || progress.NotYet != "" {
		return progress, err
	}
	r.onReplicas(ctx, stage, &progress)
	if progress.NotYet != "" || stage == rotator.Disable {
		return boundedProgress(progress), nil
	}
	switch {
	case r.object.standing():
		err = settle(r.revokeStanding(ctx), &progress)
	case len(r.object.Imported) > 0 && !r.options.DropImported:
		progress.Left = "the user was there before the role, so it stays, disabled: with drop_imported=true it would have been dropped"
		err = settle(r.leaveImported(ctx), &progress)
	default:
		err = r.destroy(ctx, &progress)
	}
	return boundedProgress(progress), err
}

// disableAll takes the login of the version's user and, where two were taken over
// together, of the other one while that still has the same password.
func (r *retirement) disableAll(ctx context.Context) (p rotator.Progress, gone bool, err error) {
	for _, one := range r.object.Imported {
		if one.Name == r.name() {
			continue
		}
		other := *r
		target := *r.target
		target.Version.Identifier, other.target = one.Name, &target
		also, _, err := other.disable(ctx)
		p.SessionsEnded += also.SessionsEnded
		if err != nil || also.NotYet != "" {
			p.NotYet, p.AskAgain = also.NotYet, also.AskAgain
			return p, false, err
		}
	}
	main, gone, err := r.disable(ctx)
	main.SessionsEnded += p.SessionsEnded
	return main, gone, err
}

// retirement ends one user.
type retirement struct {
	target     *rotator.Target
	connection *Connection
	object     object
	options    *roleOptions
	// foreign is set when a user of the name is not ours.
	foreign error
}

func newRetirement(t *rotator.Target) (*retirement, error) {
	connection, err := open(t)
	if err != nil {
		return nil, err
	}
	o, err := objectOf(&t.Version)
	if err != nil {
		return nil, err
	}
	options, err := decodeRole(t.Role)
	if err != nil {
		return nil, err
	}
	return &retirement{target: t, connection: connection, object: o, options: options}, nil
}

// group is who inherits from the user.
func (r *retirement) group() string {
	if len(r.object.Imported) > 0 {
		return r.options.MemberOf
	}
	return r.object.Group
}

func (r *retirement) name() string { return r.target.Version.Identifier }

// own finds the user and refuses one that is not ours.
func (r *retirement) own(ctx context.Context, s *postgres.Session) (user, error) {
	u, err := findUser(ctx, s, r.target)
	if err == nil && u.exists && u.foreign != "" {
		r.foreign = u.refuse(r.name())
		return u, r.foreign
	}
	return u, err
}

// Bounds of ending sessions.
const (
	sessionsDeadline = 10 * time.Second
	sessionsPoll     = 50 * time.Millisecond
	askAgainSessions = 5 * time.Second
)

// disableTries bounds how often a user is disabled anew that kept a lock of its own.
const disableTries = 3

// disable takes login and password away. Whoever holds the credential can hold
// locks with it, that of its own role among them (by ALTER ROLE ... PASSWORD, which
// everybody may, in a transaction left open): its sessions are then ended first.
func (r *retirement) disable(ctx context.Context) (p rotator.Progress, gone bool, err error) {
	seen := map[int32]bool{}
	for try := 1; ; try++ {
		gone, err = r.takeLogin(ctx)
		if err == nil || try == disableTries || !postgres.TimedOut(err) && !postgres.Concurrent(err) {
			break
		}
		if r.givesBack() { // its sessions are those of the current version
			continue
		}
		if err := r.terminate(ctx, seen); err != nil {
			return p, false, fault.In("end the sessions of a user that cannot be disabled meanwhile", err)
		}
	}
	if err != nil || gone {
		return p, gone, err
	}
	ended, left, err := r.endSessions(ctx, seen)
	p.SessionsEnded = ended
	if err == nil && left > 0 {
		p.NotYet = fmt.Sprintf("the user is disabled, but %d of its sessions have not ended yet", left)
		p.AskAgain = askAgainSessions
	}
	return p, false, err
}

// takeLogin ends the version at its user. gone tells that nobody is left who could
// hold a session of it.
func (r *retirement) takeLogin(ctx context.Context) (gone bool, err error) {
	take := func(ctx context.Context, s *postgres.Session) error {
		u, err := r.own(ctx, s)
		gone = err == nil && !u.exists
		switch {
		case err != nil || gone:
			return err
		case r.object.standing():
			gone, err = r.takeStanding(ctx, s, u)
			return err
		}
		return fault.In("disable the user", s.Exec(ctx, "ALTER ROLE "+postgres.Ident(r.name())+" NOLOGIN PASSWORD NULL"))
	}
	err = r.connection.DB.Urgent(ctx, take)
	return gone, err
}

// endSessions ends the user's sessions and waits, within bounds, until they are
// gone: revoking rights does not end them, and they keep what they had.
func (r *retirement) endSessions(ctx context.Context, seen map[int32]bool) (ended int, left int, err error) {
	deadline := time.NewTimer(sessionsDeadline)
	defer deadline.Stop()
	for {
		left, err = r.countSessions(ctx, nil)
		if err != nil || left == 0 {
			return len(seen), 0, err
		}
		if err := r.terminate(ctx, seen); err != nil {
			return 0, left, fault.In("end the user's sessions", err)
		}
		for tries := 0; tries < 20 && left > 0; tries++ {
			select {
			case <-deadline.C:
				return max(0, len(seen)-left), left, nil
			case <-ctx.Done():
				return max(0, len(seen)-left), left, nil
			case <-time.After(sessionsPoll):
			}
			if left, err = r.countSessions(ctx, nil); err != nil {
				return 0, left, err
			}
		}
	}
}

// countSessions counts the user's sessions, or those of them that are among only.
func (r *retirement) countSessions(ctx context.Context, only []int32) (n int, err error) {
	err = r.connection.DB.Read(ctx, func(ctx context.Context, s *postgres.Session) error {
		n, err = countSessions(ctx, s, r.name(), only)
		return err
	})
	return n, err
}

func countSessions(ctx context.Context, s *postgres.Session, user string, only []int32) (n int, err error) {
	_, err = s.Row(ctx, "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND ($2::int[] IS NULL OR pid = ANY ($2))", []any{user, only}, &n)
	return n, fault.In("count the user's sessions", err)
}

// endLeakedSessions ends every session of a user whose leaked password was replaced
// in place: which of them were opened with it cannot be told. It signals them once,
// lest readers of the new password are cut off again.
func (r *retirement) endLeakedSessions(ctx context.Context) (ended int, err error) {
	seen := map[int32]bool{}
	if err := r.terminate(ctx, seen); err != nil {
		return 0, fault.In("end the user's sessions", err)
	}
	ended = len(seen)
	those := slices.Collect(maps.Keys(seen))
	waiting, cancel := context.WithTimeout(ctx, sessionsDeadline)
	defer cancel()
	for left := len(those); left > 0 && pause(waiting); {
		if left, err = r.countSessions(waiting, those); err != nil {
			return ended, err
		}
	}
	return ended, nil
}

// terminate needs the rights of the user, or pg_signal_backend. An administrator
// who is no superuser takes the rights inside a transaction that is rolled back;
// the signals sent stay sent.
func (r *retirement) terminate(ctx context.Context, seen map[int32]bool) error {
	return r.connection.DB.UrgentTrial(ctx, func(ctx context.Context, s *postgres.Session) error {
		if u, err := r.own(ctx, s); err != nil || !u.exists {
			return err
		}
		if _, err := adopt(ctx, s, r.name()); err != nil {
			return err
		}
		return signalSessions(ctx, s, r.name(), seen)
	})
}

// signalSessions ends the sessions of a user on one server, and notes them. A probe of
// our own that is just going away is no reader's session.
func signalSessions(ctx context.Context, s *postgres.Session, user string, seen map[int32]bool) error {
	return s.Each(ctx, "SELECT pid, coalesce(application_name = $2, false), pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1",
		[]any{user, postgres.ApplicationName}, func(scan func(...any) error) error {
			var pid int32
			var ours, sent bool
			if err := scan(&pid, &ours, &sent); err != nil {
				return err
			}
			if !ours {
				seen[pid] = true
			}
			return nil
		})
}

// left tells whether an error means that a person has to act: more of the same
// would not help.
func left(err error) bool {
	switch postgres.Code(err) {
	case postgres.CodeNoPrivilege, postgres.CodeDependentsExist, postgres.CodeFeatureNotSupported:
		return fault.Is(err, fault.Target)
	}
	return false
}
