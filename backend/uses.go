package backend

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// uses remember who was seen to use versions that retire, and look again in the background.
type uses struct {
	mu      sync.Mutex
	seen    map[use]seenUse
	closed  bool
	looking chan struct{} // closed when the look ends that runs; nil while none does
}

type use struct {
	role    string
	version int
}

type seenUse struct {
	users int
	known bool // false: it could not be seen
	at    time.Time
}

const (
	// lookEvery is how often, at most, it is asked who uses a version.
	lookEvery = time.Minute
	// lookFor bounds one look at all that are due; the next one goes on with the others.
	lookFor = time.Minute
)

// last is how many used a version when that was last seen.
func (u *uses) last(role string, version int) (users int, known bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	seen := u.seen[use{role, version}]
	return seen.users, seen.known
}

// saw notes who uses a version.
func (u *uses) saw(of use, seen seenUse) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.seen == nil {
		u.seen = map[use]seenUse{}
	}
	u.seen[of] = seen
}

// begin tells which of these versions are to be looked at, and forgets all others; none while
// a look runs. Whoever gets any calls end.
func (u *uses) begin(wanted map[use]bool, now time.Time) (due []use) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed || u.looking != nil {
		return nil
	}
	for of := range u.seen {
		if !wanted[of] {
			delete(u.seen, of)
		}
	}
	for of := range wanted {
		if last, ok := u.seen[of]; !ok || !now.Before(last.at.Add(lookEvery)) {
			due = append(due, of)
		}
	}
	if len(due) > 0 {
		u.looking = make(chan struct{})
	}
	return due
}

func (u *uses) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	close(u.looking)
	u.looking = nil
}

// wait returns when no look runs.
func (u *uses) wait(ctx context.Context) error {
	u.mu.Lock()
	looking := u.looking
	u.mu.Unlock()
	if looking == nil {
		return nil
	}
	select {
	case <-looking:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for who uses versions: %w", ctx.Err())
	}
}

// close starts no more, and waits as long as ctx lasts; the engine's own context must have
// been cancelled.
func (u *uses) close(ctx context.Context) error {
	u.mu.Lock()
	u.closed = true
	u.mu.Unlock()
	return u.wait(ctx)
}

// lookWhoUses asks targets, in the background, who uses the versions whose grace is nearly
// over. A mount that is paused, perhaps since it is a copy, asks nobody.
func (e *Engine) lookWhoUses(roles []summary, now time.Time) {
	if !e.system.Writable() || e.config.Load().Paused {
		return
	}
	wanted := map[use]bool{}
	for i := range roles {
		if _, ok := e.rotators[roles[i].Type].(rotator.InUser); !ok {
			continue
		}
		for _, v := range roles[i].facts.retiring {
			if v.nearlyOver(now) {
				wanted[use{roles[i].Name, v.number}] = true
			}
		}
	}
	due := e.uses.begin(wanted, now)
	if len(due) == 0 {
		return
	}
	go func() { // ends in end, which Close waits for
		defer e.uses.end()
		ctx, done := context.WithTimeout(e.ctx, lookFor)
		defer done()
		for _, of := range due {
			if ctx.Err() != nil {
				return
			}
			e.lookWhoUsesOne(ctx, of)
		}
	}()
}

func (e *Engine) lookWhoUsesOne(ctx context.Context, of use) {
	ctx, done := context.WithTimeout(ctx, inUseTimeout)
	defer done()
	s, err := e.loadLive(ctx, of.role)
	if fault.Is(err, fault.NotFound) {
		return
	}
	seen := seenUse{}
	if err == nil {
		seen, err = e.whoUses(ctx, s, of.version)
	}
	if err != nil {
		e.logger.Warn("could not ask who uses a version that is about to end", "role", of.role, "version", of.version, "error", failureOf(err, nil).Message)
	}
	seen.at = e.clock.Now()
	e.uses.saw(of, seen)
}

func (e *Engine) whoUses(ctx context.Context, s *subject, version int) (seen seenUse, err error) {
	v := s.state.Version(version)
	asker, ok := e.rotators[s.role.Type].(rotator.InUser)
	if !ok || v == nil || v.State != rotation.Retiring {
		return seenUse{}, nil
	}
	users, err := e.usersOfVersion(ctx, s, asker, v)
	if err != nil {
		return seenUse{}, err
	}
	for _, u := range users {
		seen.users += u.Count
	}
	seen.known = true
	return seen, nil
}
