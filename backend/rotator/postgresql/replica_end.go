package postgresql

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// How a version ends on the replicas. Its user is disabled on the primary, and each
// standby learns of it when it replays that; then nobody can begin a session there, and
// those that are open are ended. The user is not dropped before: a session of a dropped
// user has no name by which it could be found.

// disableWait bounds how long a user that is disabled already waits for its sessions on
// replicas. It is short: what is left is ended in the next stage, and what ends a leak
// must not be kept up by a standby.
const disableWait = 3 * time.Second

// endedOn is how far a version's end got on one replica.
type endedOn struct {
	sessions int
	open     string // what is not over; "" when all is
	waits    bool   // it passes by itself
}

// onReplicas ends the user's sessions on all of them. Only destroying waits for that:
// disabling is done when the primary's is.
func (r *retirement) onReplicas(ctx context.Context, stage rotator.Stage, p *rotator.Progress) {
	within := disableWait
	if stage == rotator.Destroy {
		within = replicaWait
	}
	var open []string
	after := askAgainSessions
	for _, e := range onReplicas(ctx, r.connection, within, r.endOn) {
		p.SessionsEnded += e.sessions
		if e.open != "" {
			open = append(open, e.open)
		}
		if e.open != "" && !e.waits {
			after = askAgainBusy
		}
	}
	if len(open) > 0 && stage == rotator.Destroy {
		p.NotYet, p.AskAgain = "the user is disabled, but not removed yet: "+strings.Join(open, "; "), after
	}
}

// endOn ends the user's sessions on one replica, and waits for it to replay.
func (r *retirement) endOn(ctx context.Context, rep *replica) (e endedOn) {
	seen := map[int32]bool{}
	for {
		lags, left, err := r.endOnce(ctx, rep, seen)
		switch {
		case err != nil && e.open != "" && ctx.Err() != nil:
			return e // the time is over: what it said before counts
		case err != nil && postgres.Code(err) == postgres.CodeNoPrivilege:
			return endedOn{open: rep.mayNotSignal()}
		case err != nil:
			return endedOn{open: rep.failed("end the user's sessions", err).Error()}
		case !lags && left == 0:
			return endedOn{sessions: len(seen)}
		case lags:
			e = endedOn{open: fmt.Sprintf("the standby %s has not replayed yet that the user was disabled", rep.name)}
		default:
			e = endedOn{open: fmt.Sprintf("%d of its sessions on the standby %s have not ended yet", left, rep.name)}
		}
		e.waits, e.sessions = true, max(0, len(seen)-left)
		if !pause(ctx) {
			return e
		}
	}
}

// endOnce looks and acts once. The mark is looked at here too: an address may lead to
// another cluster.
func (r *retirement) endOnce(ctx context.Context, rep *replica, seen map[int32]bool) (lags bool, left int, err error) {
	err = rep.db.Read(ctx, func(ctx context.Context, s *postgres.Session) error {
		u, err := findUser(ctx, s, r.target)
		if err != nil {
			return err
		}
		if u.exists && u.foreign != "" {
			return u.refuse(r.name())
		}
		mayLogin := true // one that is not there is still to be made there
		if _, err := s.Row(ctx, "SELECT rolcanlogin FROM pg_roles WHERE rolname = $1", []any{r.name()}, &mayLogin); err != nil {
			return fault.In("look whether the user is disabled", err)
		}
		if lags = mayLogin; lags {
			return nil
		}
		if err := signalSessions(ctx, s, r.name(), seen); err != nil {
			return err
		}
		left, err = countSessions(ctx, s, r.name(), nil)
		return err
	})
	return lags, left, err
}

// endLeakedOnReplicas ends all sessions of a user whose leaked password was replaced
// in place, once a standby has replayed that: nobody can begin one with it then.
func (r *retirement) endLeakedOnReplicas(ctx context.Context, p *rotator.Progress) {
	var open []string
	for _, e := range onReplicas(ctx, r.connection, replicaWait, r.endLeakedOn) {
		p.SessionsEnded += e.sessions
		if e.open != "" {
			open = append(open, e.open)
		}
	}
	if len(open) > 0 {
		p.NotYet, p.AskAgain = "the leaked password was replaced, but: "+strings.Join(open, "; "), askAgainBusy
	}
}

func (r *retirement) endLeakedOn(ctx context.Context, rep *replica) (e endedOn) {
	for {
		seen, lags := map[int32]bool{}, false
		err := rep.db.Read(ctx, func(ctx context.Context, s *postgres.Session) error {
			u, err := readUser(ctx, s, r.target.MarkKey, r.name())
			if lags = u.exists && u.mark.RotationID == r.target.Version.RotationID; err != nil || lags {
				return err
			}
			return signalSessions(ctx, s, r.name(), seen)
		})
		switch {
		case err != nil && postgres.Code(err) == postgres.CodeNoPrivilege:
			return endedOn{open: rep.mayNotSignal()}
		case err != nil && e.open == "":
			return endedOn{open: rep.failed("end the user's sessions", err).Error()}
		case err == nil && !lags:
			return endedOn{sessions: len(seen)}
		}
		e.open = fmt.Sprintf("the standby %s has not replayed it yet", rep.name)
		if !pause(ctx) {
			return e
		}
	}
}

// deathOn is what one replica adds to a proof.
type deathOn struct {
	isStandby bool
	alive     string // why the version is not dead there
	err       error
}

// probeReplicas asks each replica what Probe asked the primary. covers ends the proof's
// sentence; alive says where the version is not dead.
func (c *Connection) probeReplicas(ctx context.Context, t *rotator.Target, password secret.String) (covers, alive string, err error) {
	if len(c.replicas) == 0 {
		return "primary only", "", nil
	}
	var onPrimary sightOf
	err = c.DB.Read(ctx, func(ctx context.Context, s *postgres.Session) error {
		if err := onPrimary.look(ctx, s, t.Version.Identifier); err != nil {
			return err
		}
		return onPrimary.lookWhose(ctx, s, t)
	})
	if err != nil {
		return "", "", fault.In("look for the user on the primary", err)
	}
	standbys := 0
	var lives []string
	for _, d := range onReplicas(ctx, c, replicaWait, func(ctx context.Context, r *replica) deathOn { return r.probe(ctx, t, password, &onPrimary) }) {
		switch {
		case d.err != nil:
			return "", "", d.err
		case d.alive != "":
			lives = append(lives, d.alive)
		case d.isStandby:
			standbys++
		}
	}
	switch standbys {
	case 0:
		covers = "primary only: no server of replica_urls is a standby"
	case 1:
		covers = "primary and 1 standby"
	default:
		covers = fmt.Sprintf("primary and %d standbys", standbys)
	}
	return covers, strings.Join(lives, "; "), nil
}

// probe asks one replica: the old login, the witness over the same path, and whether a
// session of the old user is left. Where the user is still on the primary but not here,
// its refusal tells that it is unknown yet, and not that it has ended.
func (r *replica) probe(ctx context.Context, t *rotator.Target, password secret.String, onPrimary *sightOf) deathOn {
	user := quoted(t.Version.Identifier)
	s, err := r.db.Login(ctx, t.Version.Identifier, password)
	if err == nil {
		s.Close()
		return deathOn{alive: fmt.Sprintf("the login of %s is still accepted by the standby %s, which has not replayed its end yet", user, r.name)}
	}
	if !fault.Is(err, fault.AuthFailed) {
		return deathOn{err: r.failed("log in as the old version", err)}
	}
	if _, err := accepted(ctx, r.db, t); err != nil {
		return deathOn{err: r.failed("log in as the witness", notAProof(err))}
	}
	var here sightOf
	if err := r.db.Read(ctx, func(ctx context.Context, s *postgres.Session) error { return here.look(ctx, s, t.Version.Identifier) }); err != nil {
		return deathOn{err: r.failed("look for sessions", err)}
	}
	switch {
	case onPrimary.exists && !here.exists:
		return deathOn{alive: fmt.Sprintf("the standby %s has not replayed yet that %s was made", r.name, user)}
	case here.sessions > 0 && !onPrimary.movedOn:
		return deathOn{alive: fmt.Sprintf("%d sessions of %s are open on the standby %s", here.sessions, user, r.name)}
	}
	return deathOn{isStandby: here.isStandby}
}

// sightOf is a user as a server sees it.
type sightOf struct {
	isStandby, exists bool
	sessions          int
	// movedOn tells of a standing user that it serves another version by now, whose
	// sessions these are.
	movedOn bool
}

func (o *sightOf) lookWhose(ctx context.Context, s *postgres.Session, t *rotator.Target) error {
	u, err := readUser(ctx, s, t.MarkKey, t.Version.Identifier)
	o.movedOn = u.mark.Fence > 0 && u.mark.RotationID != t.Version.RotationID
	return err
}

func (o *sightOf) look(ctx context.Context, s *postgres.Session, user string) error {
	const query = `SELECT pg_is_in_recovery(), EXISTS (SELECT FROM pg_roles WHERE rolname = $1), (SELECT count(*) FROM pg_stat_activity WHERE usename = $1)`
	_, err := s.Row(ctx, query, []any{user}, &o.isStandby, &o.exists, &o.sessions)
	return err
}

// usesOnReplicas adds the sessions on standbys to those on the primary. What cannot be
// seen is an error: nobody could say that the version is not in use.
func (c *Connection) usesOnReplicas(ctx context.Context, user string, uses []rotator.Use) ([]rotator.Use, error) {
	type answer struct {
		uses []rotator.Use
		err  error
	}
	for i, a := range onReplicas(ctx, c, replicaWait, func(ctx context.Context, r *replica) (a answer) {
		a.uses, a.err = usesOn(ctx, r.db, user, "pg_is_in_recovery()") // the primary has been asked
		return a
	}) {
		if a.err != nil {
			return nil, c.replicas[i].failed("look for sessions", a.err)
		}
		uses = append(uses, a.uses...)
	}
	return merged(uses), nil
}

// merged sums up what has the same name and address, busiest first.
func merged(uses []rotator.Use) []rotator.Use {
	counts := map[rotator.Use]int{}
	for _, u := range uses {
		counts[rotator.Use{ApplicationName: u.ApplicationName, ClientAddr: u.ClientAddr}] += u.Count
	}
	var out []rotator.Use
	for u, n := range counts {
		u.Count = n
		out = append(out, u)
	}
	slices.SortFunc(out, func(a, b rotator.Use) int {
		return cmp.Or(b.Count-a.Count, strings.Compare(a.ApplicationName, b.ApplicationName), strings.Compare(a.ClientAddr, b.ClientAddr))
	})
	return out
}
