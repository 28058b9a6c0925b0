package backend

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/access"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// AccessReport is who read a role's secret.
type AccessReport struct {
	Role string
	// LastMinute is how often this node was asked within a minute, Threshold how often
	// nobody is told of; 0 for any number.
	LastMinute int
	Threshold  int
	Versions   []access.Version
	// FlushedTime is when reads were last stored; zero for never.
	FlushedTime time.Time
	// Complete tells whether no read but those that a crash took along can be missing, and
	// Note, if not, what is.
	Complete bool
	Note     string
}

// Access tells who read a role's secret, version by version. Of a deleted role it does so
// until its last version was proven dead.
func (e *Engine) Access(ctx context.Context, name string) (*AccessReport, error) {
	s, err := e.load(ctx, name)
	if err != nil {
		return nil, err
	}
	stored, err := e.accessLog(ctx, name)
	if err != nil {
		return nil, err
	}
	out := &AccessReport{
		Role: name, LastMinute: e.access.ledger.Rate(name, e.clock.Now()), Threshold: e.threshold(ownThreshold(s.role.Policy)),
		Versions: stored.Log.Versions, FlushedTime: stored.FlushedTime,
	}
	out.Note = strings.Join(e.uncounted(ctx, s), "; ")
	out.Complete = out.Note == ""
	return out, nil
}

// uncounted names the reads that are in no log.
func (e *Engine) uncounted(ctx context.Context, s *subject) (notes []string) {
	if kind, err := e.kindOf(s.role.Type); err == nil && !discloses(kind, roleView(s.role, nil)) {
		notes = append(notes, "readers of this role get no secret, and are not counted")
	}
	if !e.system.Writable() || e.system.ReadsElsewhere(ctx) {
		notes = append(notes, "counts are at least: reads that performance standbys answered are not among them")
	}
	if missed := e.access.ledger.Missed(); missed > 0 {
		notes = append(notes, fmt.Sprintf("counts are at least: %d reads on this mount found no place in memory", missed))
	}
	return notes
}

// readersOf names those who read a version, whoever read most first.
func (e *Engine) readersOf(ctx context.Context, role string, version int) ([]access.Reader, error) {
	stored, err := e.accessLog(ctx, role)
	if err != nil {
		return nil, err
	}
	v := stored.Log.Of(version)
	if v == nil {
		return nil, nil
	}
	return v.Readers, nil
}

// accessLog is what is stored of a role's reads together with what waits in memory.
func (e *Engine) accessLog(ctx context.Context, name string) (*store.AccessLog, error) {
	hash, err := e.accessorHash(ctx)
	if err != nil {
		return nil, err
	}
	waiting := e.access.ledger.Waiting(name, hash) // before storage is read: what arrives there meanwhile is known by its mark
	stored, err := e.store.AccessLog(ctx, name)
	if err != nil {
		return nil, err
	}
	if stored == nil {
		stored = &store.AccessLog{}
	}
	for _, b := range waiting {
		if !stored.Mark.Covers(b.Mark) {
			stored.Log.Merge(b.Log)
		}
	}
	return stored, nil
}

// flushAccess stores what was read of as many roles as asked for, and lets go of what memory
// needs no more.
func (e *Engine) flushAccess(ctx context.Context, within time.Duration, roles int) {
	ctx, done := context.WithTimeout(ctx, within)
	defer done()
	hash, err := e.accessorHash(ctx)
	if err != nil {
		e.logger.Warn("could not store who read secrets", "error", err)
		return
	}
	failed := 0
	for _, name := range e.access.ledger.Due(roles) {
		e.tellCrossings() // none waits for a flush
		if err = e.flushRole(ctx, name, hash); err == nil {
			continue
		}
		if ctx.Err() != nil {
			break
		}
		failed++
		e.logger.Debug("could not store who read a role", "role", name, "error", err)
	}
	if failed > 0 || ctx.Err() != nil {
		e.logger.Warn("could not store who read some roles; it is tried again with the next tick", "roles", failed, "error", err)
	}
	e.access.ledger.Sweep(e.clock.Now())
}

// flushRole merges what was read of a role into its log, with one Put.
func (e *Engine) flushRole(ctx context.Context, name string, hash func(string) string) error {
	ctx, done := context.WithTimeout(ctx, flushRoleTimeout)
	defer done()
	unlock, err := e.locks.lock(ctx, name) // so that a role that ends takes its log along
	if err != nil {
		return err
	}
	defer unlock()
	if e.cache.get(name) == nil { // else it exists: its end empties the cache, under the same lock
		if _, err := e.load(ctx, name); fault.Is(err, fault.NotFound) {
			e.access.ledger.Forget(name)
			return nil
		} else if err != nil {
			return err
		}
	}
	batch := e.access.ledger.Take(name, hash)
	if batch == nil {
		return nil
	}
	stored, err := e.store.AccessLog(ctx, name)
	if err != nil {
		return err
	}
	if stored == nil {
		stored = &store.AccessLog{}
	}
	if !stored.Mark.Covers(batch.Mark) {
		stored.Log.Merge(batch.Log)
		stored.Mark, stored.FlushedTime = batch.Mark, e.clock.Now()
		if err := e.store.PutAccessLog(ctx, name, stored); err != nil {
			return err
		}
	}
	e.access.ledger.Stored(name)
	return nil
}

// flushLast stores what it can when the process ends. What storage does not take is lost, as
// in a crash.
func (e *Engine) flushLast() {
	if !e.system.Writable() || len(e.access.ledger.Due(1)) == 0 {
		return
	}
	e.flushAccess(context.Background(), flushLastTimeout, flushRoles)
}
