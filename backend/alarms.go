package backend

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// remindEvery is how often people are told again of what is still wrong.
const remindEvery = 24 * time.Hour

// telling is what decide has to know to tell people in time.
type telling struct {
	rotation.Trouble // that status shows now
	// told says that what the word stands for was told by an event of its own.
	told bool
	// overdueAt is when the role becomes overdue; zero for never.
	overdueAt time.Time
	alarm     rotation.AlarmPolicy
	ahead     time.Duration // of a rotation
	// asks tells that the kind knows who uses a version.
	asks bool
}

func (e *Engine) telling(s *subject, kind rotator.Rotator, now time.Time) telling {
	config := e.config.Load()
	sum := s.summary().at(now, config.OverdueAfter.Std())
	t := telling{
		Trouble: s.alarmAbout(sum), told: toldOf(s.state, sum.State), ahead: config.NotifyBefore.Std(),
		alarm: alarmPolicy(config),
	}
	if next := s.state.NextRotation; !next.IsZero() && !s.state.Deleted {
		t.overdueAt = next.Add(overdueAfter(s.role.Policy.OverdueAfter.Std(), config.OverdueAfter.Std()) + 1)
	}
	if s.state.Deleted { // only what a person has to do for it is left
		t.Trouble = rotation.Trouble{}
		if state, reason := s.personActs(); state != "" {
			t.Trouble = rotation.Trouble{State: string(state), Reason: reason}
		}
	}
	_, t.asks = kind.(rotator.InUser)
	t.asks = t.asks && !changesInPlace(kind, s.role)
	return t
}

func alarmPolicy(c *store.Config) rotation.AlarmPolicy {
	return rotation.AlarmPolicy{Remind: remindEvery, Contacts: c.Contacts, Escalate: c.EscalateAfter.Std()}
}

// alarmAbout is what an alarm is about.
func (s *subject) alarmAbout(sum summary) rotation.Trouble {
	t := rotation.Trouble{State: string(sum.State)}
	switch {
	case sum.reason != "":
		t.Reason = sum.reason
	case sum.State == StateOverdue && sum.LastError != "":
		t.Reason = fmt.Sprintf("due since %s: %s", s.state.NextRotation.UTC().Format(time.RFC3339), sum.LastError)
	case sum.State == StateOverdue:
		t.Reason = "due since " + s.state.NextRotation.UTC().Format(time.RFC3339)
	default:
		t.Reason, t.Cause = lastError(s.state)
	}
	return t
}

// toldOf tells whether an event of its own told why a role fails.
func toldOf(st *rotation.State, state RoleState) bool {
	return state == StateFailing && (st.Failures > 0 || st.Postponed != nil && st.Postponed.Failing || st.Reencryption.Runs() && st.Reencryption.Failures > 0)
}

// ruleAlarm raises, repeats, passes on and ends the alarm of a role.
func ruleAlarm(v view) decision {
	a, t := v.state.Alarm, v.telling
	was := ""
	if a != nil {
		was = a.State
	}
	if rotation.Alarming(t.State) && t.State != was {
		return v.due(actAlarm)
	}
	if a != nil && !rotation.Alarming(t.State) {
		if v.state.InFlight != nil { // whether the role is well again is what it will tell
			return decision{}
		}
		return v.due(actAlarm)
	}
	at := v.state.AlarmAt(t.alarm)
	if overdue := t.overdueAt; overdue.After(v.now) && (at.IsZero() || overdue.Before(at)) {
		at = overdue
	}
	return decision{act: actAlarm, at: at}
}

// alarmed lets an alarm begin by the Put that stores the event that raises it. Were that left to an
// act of its own, what failed could be well before, and nothing would tell of the end of what people
// were told of.
func (e *Engine) alarmed(s *subject) {
	raises := func(ev rotation.Event) bool { k := kindOf(ev); return k.alarm == ofRole && !k.closes }
	if s.state.Alarm != nil || s.state.Deleted || !slices.ContainsFunc(s.state.Events, raises) {
		return
	}
	now := e.clock.Now()
	if t := e.telling(s, e.rotators[s.role.Type], now); rotation.Alarming(t.State) {
		s.state.ReviewAlarm(t.Trouble, t.told, t.alarm, now)
	}
}

// reviewAlarm does what ruleAlarm found due.
func (e *Engine) reviewAlarm(ctx context.Context, s *subject) error {
	_, err := e.update(ctx, s.name, func(s *subject) error {
		now := e.clock.Now()
		t := e.telling(s, e.rotators[s.role.Type], now)
		if !s.state.ReviewAlarm(t.Trouble, t.told, t.alarm, now) {
			return errStale
		}
		return nil
	})
	return err
}

// ruleForetell tells ahead of a rotation.
func ruleForetell(v view) decision {
	next := v.dueAt()
	if v.telling.ahead <= 0 || next.IsZero() || v.state.Foretold.Equal(v.state.NextRotation) || v.soak.Waits() {
		return decision{}
	}
	return decision{act: actForetell, at: next.Add(-v.telling.ahead)}
}

// foretell tells ahead of a rotation, once.
func (e *Engine) foretell(ctx context.Context, s *subject) error {
	_, err := e.update(ctx, s.name, func(s *subject) error {
		next := s.state.NextRotation
		if s.state.Foretold.Equal(next) || s.state.Deleted || s.state.InFlight != nil {
			return errStale
		}
		s.state.Foretold = next
		s.state.Emit(rotation.Event{
			ID: fmt.Sprintf("rotation.upcoming/%d", next.UnixNano()), Type: "rotation.upcoming", Time: e.clock.Now(),
			Data: map[string]string{"at": next.UTC().Format(time.RFC3339)},
		})
		return nil
	})
	return err
}

// ruleUse asks, near the end of a version's grace, who still uses it.
func ruleUse(v view) decision {
	if !v.telling.asks || v.state.Deleted || v.frozen() {
		return decision{}
	}
	return v.first(func(ver *rotation.Version) decision {
		if ver.State != rotation.Retiring || ver.Compromised || ver.RetireAt.IsZero() || !ver.RetireBegun.IsZero() {
			return decision{}
		}
		at := nearlyOver(ver.RetireAt, ver.Grace.Std())
		if !ver.UseAsked.Before(at) || !v.now.Before(ver.RetireAt) {
			return decision{}
		}
		return decision{act: actUse, version: ver.Number, at: at}
	})
}

// askUse tells who still uses a version that is about to end. That nobody could be asked is
// no reason to tell anything: the end itself will tell.
func (e *Engine) askUse(ctx context.Context, s *subject, number int) error {
	v := s.state.Version(number)
	asker, ok := e.rotators[s.role.Type].(rotator.InUser)
	if !ok {
		return errStale
	}
	asked, done := context.WithTimeout(ctx, inUseTimeout)
	users, err := e.usersOfVersion(asked, s, asker, v)
	done()
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		e.logger.Warn("could not ask who uses a version that is about to end", "role", s.name, "version", number, "error", failureOf(err, nil).Message)
	}
	_, err = e.update(ctx, s.name, func(s *subject) error {
		v, err := s.version(number, rotation.Retiring)
		if err != nil {
			return err
		}
		v.UseAsked = e.clock.Now()
		if len(users) == 0 {
			return nil
		}
		s.state.Emit(rotation.Event{
			ID: fmt.Sprintf("version.still_used/%d/%d", number, v.RetireAt.UnixNano()), Type: "version.still_used", Time: v.UseAsked,
			Data: map[string]string{"version": fmt.Sprint(number), "retire_at": v.RetireAt.UTC().Format(time.RFC3339), "users": usersInWords(users)},
		})
		return nil
	})
	return err
}

func usersInWords(users []rotator.Use) string {
	words := make([]string, 0, len(users))
	for _, u := range users {
		words = append(words, strings.TrimSpace(fmt.Sprintf("%s %s (%d)", u.ApplicationName, u.ClientAddr, u.Count)))
	}
	slices.Sort(words)
	return joinFirst(words, maxNamed)
}

// Acknowledge lets a person say that they look after what is wrong with a role: no further
// contact is told of it.
func (e *Engine) Acknowledge(ctx context.Context, name string, by Actor) (*rotation.Alarm, error) {
	if _, err := e.loadLive(ctx, name); err != nil {
		return nil, err
	}
	who, err := e.actor(ctx, by)
	if err != nil {
		return nil, err
	}
	s, err := e.update(ctx, name, func(s *subject) error {
		switch {
		case s.state.Alarm == nil:
			return fault.New(fault.Conflict, "nothing is wrong with role %q that people were told of", name)
		case s.state.Alarm.Acknowledged != nil:
			return errNoChange
		}
		s.state.Alarm.Acknowledged = &rotation.Acknowledgement{Time: e.clock.Now(), Actor: who}
		return nil
	})
	if err != nil {
		return nil, err
	}
	e.workers.add(forOne, name) // the next time to look is another
	return s.state.Alarm, nil
}
