package backend

import (
	"context"
	"sync"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// locks is one mutex per name, never nested. A role's is held for a change of its
// stored document alone, never across an effect outside; a connection's also while
// its credential is tried or rotated, which readers do not wait for.
type locks struct {
	mu   sync.Mutex
	held map[string]*lock
}

type lock struct {
	token chan struct{}
	users int
}

// lock waits for the name's mutex as long as the context lasts.
func (l *locks) lock(ctx context.Context, name string) (unlock func(), err error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*lock{}
	}
	k, ok := l.held[name]
	if !ok {
		k = &lock{token: make(chan struct{}, 1)}
		l.held[name] = k
	}
	k.users++
	l.mu.Unlock()

	select {
	case k.token <- struct{}{}:
		return func() { <-k.token; l.release(name, k) }, nil
	case <-ctx.Done():
		l.release(name, k)
		return nil, fault.New(fault.Conflict, "%s is being changed by another request: %w", name, ctx.Err())
	}
}

func (l *locks) release(name string, k *lock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if k.users--; k.users == 0 {
		delete(l.held, name)
	}
}
