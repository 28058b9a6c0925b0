package backend

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/access"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

const (
	// mountsThreshold is written to a role for "as the mount".
	mountsThreshold = -1
	// flushEvery is the least time between two flushes: Vault ticks once a minute, more or
	// less.
	flushEvery = 50 * time.Second
	// flushRoles is how many roles one tick flushes, each with one write, those that wait
	// longest first.
	flushRoles = 500
	// flushTimeout bounds a flush, flushLastTimeout the one at the end of the process, and
	// flushRoleTimeout each role's part: its mutex may be held.
	flushTimeout     = 40 * time.Second
	flushLastTimeout = 2 * time.Second
	flushRoleTimeout = 5 * time.Second
)

// accessKeeper owns the ledger of reads, and what is to be done about it outside the reads
// themselves. One goroutine, keepAccess, does it.
type accessKeeper struct {
	ledger *access.Ledger
	wake   chan struct{}

	mu        sync.Mutex
	crossings []access.Crossing
	asked     bool
	busy      bool
	flushed   time.Duration // when a flush was last asked for, by monotonic time; 0 for never
	idle      chan struct{} // closed and replaced whenever nothing is left to do
}

func newAccessKeeper() *accessKeeper {
	boot, err := newID()
	if err != nil {
		boot = "" // no randomness: nothing else will work either, and says so
	}
	return &accessKeeper{ledger: access.NewLedger(boot, access.DefaultLimits), wake: make(chan struct{}, 1), idle: make(chan struct{})}
}

// ask asks for a flush, unless the last one is less than a minute ago.
func (k *accessKeeper) ask(now time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.flushed != 0 && now-k.flushed < flushEvery {
		return
	}
	k.flushed, k.asked = now, true
	k.nudge()
}

// crossed hands over that a rate is too high. Reads do no more about it.
func (k *accessKeeper) crossed(c access.Crossing) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.crossings = append(k.crossings, c) // one for each role and cool-down
	k.nudge()
}

func (k *accessKeeper) nudge() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// begin takes what is to be done.
func (k *accessKeeper) begin() (flush bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	flush, k.asked, k.busy = k.asked, false, true
	return flush
}

// next takes the oldest crossing.
func (k *accessKeeper) next() (c access.Crossing, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.crossings) == 0 {
		return c, false
	}
	c, k.crossings = k.crossings[0], k.crossings[1:]
	return c, true
}

func (k *accessKeeper) end() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.busy = false
	close(k.idle)
	k.idle = make(chan struct{})
}

// wait returns when nothing is to be done.
func (k *accessKeeper) wait(ctx context.Context) error {
	for {
		k.mu.Lock()
		done, idle := !k.asked && !k.busy && len(k.crossings) == 0, k.idle
		k.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-idle:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// keepAccess stores what was read and tells of rates that are too high, until the engine
// ends.
func (e *Engine) keepAccess() {
	for {
		select {
		case <-e.ctx.Done():
			return
		case <-e.access.wake:
		}
		if e.access.begin() {
			e.flushAccess(e.ctx, flushTimeout, flushRoles)
		}
		e.tellCrossings()
		e.access.end()
	}
}

// tellCrossings tells of what was found since.
func (e *Engine) tellCrossings() {
	for {
		c, ok := e.access.next()
		if !ok {
			return
		}
		if err := e.accessRateExceeded(e.ctx, c); err != nil && e.ctx.Err() == nil && !fault.Is(err, fault.NotFound) {
			e.logger.Error("could not record that a secret is read too often", "role", c.Role, "reads_last_minute", c.Rate, "threshold", c.Threshold, "error", err)
		}
	}
}

// recordRead keeps account of a read. It touches no storage.
func (e *Engine) recordRead(snap *snapshot, r *access.Read, reader *Actor) {
	e.tally.read(r.Role)
	if !snap.discloses {
		return
	}
	r.Reader = access.Identity{EntityID: reader.EntityID, DisplayName: reader.DisplayName, Accessor: reader.Accessor, Address: reader.Address}
	r.Threshold = e.threshold(snap.threshold)
	if c := e.access.ledger.Record(r); c != nil {
		e.access.crossed(*c)
	}
}

// threshold is how many reads a minute nobody is told of, 0 for any number.
func (e *Engine) threshold(own int) int {
	if own == mountsThreshold {
		return e.config.Load().AccessRateThreshold
	}
	return own
}

func ownThreshold(p store.Policy) int {
	if p.AccessRateThreshold == nil {
		return mountsThreshold
	}
	return *p.AccessRateThreshold
}

// discloses tells whether readers of a role get a secret.
func discloses(kind rotator.Rotator, role *rotator.Role) bool {
	d, ok := kind.(rotator.Discloser)
	return !ok || d.Discloses(role)
}

// tellTries is how often it is tried to record a crossing: it is told of once.
const tellTries = 3

// accessRateExceeded is told of a role that is read more often than its threshold allows:
// at once, and once for each cool-down.
func (e *Engine) accessRateExceeded(ctx context.Context, c access.Crossing) (err error) {
	ctx, done := context.WithTimeout(ctx, effectTimeout)
	defer done()
	var who []string
	for _, r := range e.access.ledger.Recent(c.Role, c.Time, func(string) string { return "" }) {
		if name := r.Name(); len(who) < namedReaders {
			who = append(who, name)
		}
	}
	readers := strings.Join(who, ", ")
	e.logger.Warn("a secret is read more often than its threshold allows", "role", c.Role, "reads_last_minute", c.Rate, "threshold", c.Threshold, "readers", readers)
	if !e.system.Writable() {
		return nil // only the active node can record it
	}
	for range tellTries {
		_, err = e.update(ctx, c.Role, func(s *subject) error {
			if s.state.Deleted {
				return errNoChange
			}
			s.state.Emit(rotation.Event{
				ID: fmt.Sprintf("%s/access_rate.exceeded/%d", c.Role, c.Time.UnixNano()), Type: "access_rate.exceeded", Time: c.Time,
				Data: map[string]string{"rate": fmt.Sprint(c.Rate), "threshold": fmt.Sprint(c.Threshold), "readers": readers},
			})
			return nil
		})
		if !isStorage(err) {
			break
		}
	}
	if err == nil {
		e.workers.add(forOne, c.Role) // hands the event over
	}
	return err
}

// namedReaders is how many readers an event names.
const namedReaders = 5
