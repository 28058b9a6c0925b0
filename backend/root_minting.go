package backend

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/mark"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// Where the target mints a connection's own credential, the old one lives until it is
// ended, and a lost answer leaves one that nobody knows. Both stand in the connection's
// document until they are gone: the replaced one by its id, the other by the name that it
// would bear.

const (
	// searchRoots is how long a credential is looked for that may have been made.
	searchRoots = 24 * time.Hour
	// lookForRoots is the wait between two looks.
	lookForRoots = 10 * time.Minute
)

// mintRoot lets the target make a connection's next credential, takes it into use once it
// works, and ends the one before. A warning says what could not be ended yet.
func (e *Engine) mintRoot(ctx context.Context, minter rotator.RootMinter, doc *store.Connection) ([]string, error) {
	defer e.workers.add(whenDue, connectionLock(doc.Name)) // whatever is left, also by an error
	if err := e.ownsRoot(ctx, doc); err != nil {
		return nil, err
	}
	conn, err := e.connections.get(doc)
	if err != nil {
		return nil, err
	}
	var old string
	if err := e.effect(ctx, func(ctx context.Context) (err error) {
		old, err = minter.RootID(ctx, conn)
		return err
	}); err != nil {
		return nil, err
	}
	name, err := e.rootName(ctx, doc.Name)
	if err != nil {
		return nil, err
	}
	doc.Roots = append(doc.Roots, store.Root{Name: name, Since: e.clock.Now()})
	if err := e.store.PutConnection(ctx, doc); err != nil {
		return nil, err
	}
	if err := e.askForRoot(ctx, minter, conn, doc, name, old); err != nil {
		return nil, err
	}
	before := doc.RotatedTime
	if doc, err = e.settleRootLocked(ctx, doc); err != nil {
		return nil, err
	}
	if doc.RotatedTime.Equal(before) {
		return nil, fault.New(fault.AuthFailed, "the target refuses the new credential of connection %s: the one before stays in use, and the new one is looked for and ended", doc.Name)
	}
	doc, err = e.endRoots(ctx, doc)
	if err == nil && len(doc.Roots) == 0 {
		return nil, nil
	}
	return []string{fmt.Sprintf("the new credential of connection %s is in use; %d earlier ones are not ended yet, which is tried again: %s", doc.Name, len(doc.Roots), rootsOf(doc, err))}, nil
}

// ownsRoot refuses to replace a credential that another connection has too: its end would
// be the other's.
func (e *Engine) ownsRoot(ctx context.Context, doc *store.Connection) error {
	names, err := e.store.Connections(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		other, err := e.store.Connection(ctx, name)
		if isStorage(err) {
			return err
		}
		if err != nil || other == nil || name == doc.Name || other.Type != doc.Type || !secret.NewMap(other.Secrets).Equal(secret.NewMap(doc.Secrets)) {
			continue
		}
		return fault.New(fault.Conflict, "connection %s has the same credential, which would end: give it one of its own first", name)
	}
	return nil
}

// askForRoot makes the call and stores its answer.
func (e *Engine) askForRoot(ctx context.Context, minter rotator.RootMinter, conn rotator.Connection, doc *store.Connection, name, old string) error {
	return e.effect(ctx, func(ctx context.Context) error {
		next, err := minter.MintRoot(ctx, conn, name)
		switch {
		case err == nil:
			doc.NextSecrets, doc.NextRoot = next.Reveal(), &store.NextRoot{Name: name, Replaces: old}
			return e.store.PutConnection(ctx, doc)
		case fault.Is(err, fault.Unconfirmed) || ctx.Err() != nil:
			return err // it is looked for
		}
		doc.Roots = withoutRoot(doc.Roots, name)
		if putErr := e.store.PutConnection(ctx, doc); putErr != nil {
			return putErr
		}
		return err
	})
}

// rootName is the mark that a connection's next credential bears.
func (e *Engine) rootName(ctx context.Context, connection string) (string, error) {
	identity, err := e.identity(ctx)
	if err != nil {
		return "", err
	}
	id, err := newID()
	if err != nil {
		return "", err
	}
	return markKey(identity).Name(mark.Mark{Instance: identity.ID, Role: "connection " + connection, Version: 1, RotationID: id}), nil
}

func withoutRoot(roots []store.Root, name string) []store.Root {
	return slices.DeleteFunc(slices.Clone(roots), func(r store.Root) bool { return r.Name == name })
}

// replaced are the credentials to be ended once the next one is in use: it is none of
// them, and the one before is.
func replaced(doc *store.Connection, now time.Time) []store.Root {
	if doc.NextRoot == nil {
		return doc.Roots
	}
	return append(withoutRoot(doc.Roots, doc.NextRoot.Name), store.Root{ID: doc.NextRoot.Replaces, Since: now})
}

// endRoots ends what is to be ended, as far as that is possible now. What may appear late
// is kept in mind for a day.
func (e *Engine) endRoots(ctx context.Context, doc *store.Connection) (*store.Connection, error) {
	kind, err := e.connectionKind(doc.Type)
	if err != nil {
		return doc, err
	}
	minter, ok := kind.(rotator.RootMinter)
	conn, err := e.connections.get(doc)
	if err != nil || !ok {
		return doc, err
	}
	inUse := ""
	if slices.ContainsFunc(doc.Roots, func(r store.Root) bool { return r.ID != "" }) {
		if err := e.effect(ctx, func(ctx context.Context) (err error) {
			inUse, err = minter.RootID(ctx, conn)
			return err
		}); err != nil {
			return doc, err
		}
	}
	var left []store.Root
	var failed error
	for _, root := range doc.Roots {
		if root.ID != "" && root.ID == inUse { // an operator wrote it back
			continue
		}
		err := e.effect(ctx, func(ctx context.Context) error { return minter.EndRoot(ctx, conn, root.ID, root.Name) })
		if err != nil {
			failed = err
			e.logger.Warn("an earlier credential of a connection could not be ended; tried again", "connection", doc.Name, "error", err)
		}
		if err != nil || root.ID == "" && e.clock.Now().Sub(root.Since) < searchRoots {
			left = append(left, root)
		}
	}
	settled := *doc
	settled.Roots = left
	if len(left) == len(doc.Roots) {
		return doc, failed
	}
	if err := e.store.PutConnection(ctx, &settled); err != nil {
		return doc, err
	}
	return &settled, failed
}

// rootsOf names what is to be ended, in a sentence.
func rootsOf(doc *store.Connection, why error) string {
	var names []string
	for _, root := range doc.Roots {
		names = append(names, root.ID+root.Name)
	}
	text := joinFirst(names, 5)
	if why != nil {
		text += " (" + why.Error() + ")"
	}
	return text
}
