package backend

import (
	"context"
	"maps"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// RotateRoot gives a connection a new credential of its own. The new secret is
// stored before it is set; whoever finds both afterwards asks the target which one
// works.
func (e *Engine) RotateRoot(ctx context.Context, name string) (warnings []string, err error) {
	if err := e.allowed(); err != nil {
		return nil, err
	}
	unlock, err := e.locks.lock(ctx, connectionLock(name))
	if err != nil {
		return nil, err
	}
	defer unlock()
	// From here on a client that hangs up cancels nothing.
	ctx, done := context.WithTimeout(e.ctx, effectTimeout)
	defer done()
	doc, err := e.connection(ctx, name)
	if err != nil {
		return nil, err
	}
	if doc.NextSecrets != nil {
		if doc, err = e.settleRootLocked(ctx, doc); err != nil {
			return nil, err
		}
	}
	kind, err := e.connectionKind(doc.Type)
	if err != nil {
		return nil, err
	}
	switch kind := kind.(type) {
	case rotator.RootRotator:
		return nil, e.rotateRoot(ctx, kind, doc)
	case rotator.RootMinter:
		return e.mintRoot(ctx, kind, doc)
	default:
		return nil, fault.New(fault.Invalid, "connections of type %s have no credential that can be rotated here", doc.Type)
	}
}

func (e *Engine) rotateRoot(ctx context.Context, rooter rotator.RootRotator, doc *store.Connection) error {
	conn, err := e.connections.get(doc)
	if err != nil {
		return err
	}
	next, err := rooter.NewRoot(ctx, configOf(doc, doc.Secrets), e.system)
	if err != nil {
		return err
	}
	doc.NextSecrets = next.Reveal()
	if err := e.store.PutConnection(ctx, doc); err != nil {
		return err
	}
	setErr := e.effect(ctx, func(ctx context.Context) error { return rooter.SetRoot(ctx, conn, next) })
	settled, err := e.settleRootLocked(ctx, doc)
	if err != nil {
		return err
	}
	if setErr != nil && settled.RotatedTime.Equal(doc.RotatedTime) {
		return setErr
	}
	return nil
}

// settleRoot finds out which credential works after an interrupted rotation, and ends what
// is not used any more.
func (e *Engine) settleRoot(ctx context.Context, name string) (*store.Connection, error) {
	unlock, err := e.locks.lock(ctx, connectionLock(name))
	if err != nil {
		return nil, err
	}
	defer unlock()
	doc, err := e.connection(ctx, name)
	if err == nil && doc.NextSecrets != nil {
		doc, err = e.settleRootLocked(ctx, doc)
	}
	if err == nil && len(doc.Roots) > 0 {
		doc, err = e.endRoots(ctx, doc)
	}
	return doc, err
}

// settleRootLocked asks the target, the new credential first: it was set if it
// works. Only the target's own refusal decides; no answer leaves both stored.
func (e *Engine) settleRootLocked(ctx context.Context, doc *store.Connection) (*store.Connection, error) {
	kind, err := e.connectionKind(doc.Type)
	if err != nil {
		return nil, err
	}
	next := maps.Clone(doc.Secrets)
	maps.Copy(next, doc.NextSecrets)
	settled := *doc
	settled.NextSecrets, settled.NextRoot = nil, nil
	err = e.ping(ctx, kind, configOf(doc, next))
	switch {
	case err == nil:
		settled.Secrets, settled.RotatedTime = next, e.clock.Now()
		settled.Roots = replaced(doc, e.clock.Now())
	case !fault.Is(err, fault.AuthFailed):
		return nil, err
	default:
		if err := e.ping(ctx, kind, configOf(doc, doc.Secrets)); err != nil {
			return nil, fault.New(fault.KindOf(err), "neither the old nor the new credential of connection %s works: %w", doc.Name, err)
		}
	}
	if err := e.store.PutConnection(ctx, &settled); err != nil {
		return nil, err
	}
	return &settled, nil
}

// scheduleRoots lets workers settle what an earlier process left open.
func (e *Engine) scheduleRoots(ctx context.Context) error {
	names, err := e.store.Connections(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		doc, err := e.store.Connection(ctx, name)
		if isStorage(err) {
			return err
		}
		if err != nil { // one connection's trouble is its own
			e.logger.Error("could not read a connection", "connection", name, "error", err)
			continue
		}
		if doc != nil && doc.Unsettled() {
			e.index.found(connectionLock(name), e.clock.Now())
		}
	}
	return nil
}

// workOnRoots settles a connection's own credential, and looks again later for what is
// not ended yet.
func (e *Engine) workOnRoots(ctx context.Context, name string) {
	if e.config.Load().Paused || !e.system.Writable() {
		e.index.forget(connectionLock(name)) // a rebuild finds it again
		return
	}
	doc, err := e.settleRoot(ctx, name)
	wait := time.Minute
	switch {
	case ctx.Err() != nil:
		return
	case fault.Is(err, fault.NotFound), err == nil && !doc.Unsettled():
		e.index.forget(connectionLock(name))
		return
	case err != nil:
		e.logger.Warn("a connection's own credential is not settled; tried again", "connection", name, "error", err)
	default:
		wait = lookForRoots
	}
	e.index.set(connectionLock(name), e.clock.Now().Add(wait))
	e.nudge()
}
