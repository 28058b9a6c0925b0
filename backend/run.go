package backend

import (
	"context"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// run is what one run of a role carries from act to act, so that storage, which is
// a call into Vault's process, is not asked again for what this run itself wrote or
// read a moment ago. Only a run's own acts look here: update always reads afresh.
type run struct {
	// after is the role as the last update of this run left it, and since the epoch
	// of then: a change by anybody else since makes it void.
	after *subject
	since epoch
	kept  time.Duration // by monotonic time
	// materials are those of versions that the journal names: they never change.
	materials map[int]secret.Map
}

type runKey struct{}

func withRun(ctx context.Context) context.Context {
	return context.WithValue(ctx, runKey{}, &run{materials: map[int]secret.Map{}})
}

// runOf is nil outside a run.
func runOf(ctx context.Context) *run {
	r, _ := ctx.Value(runKey{}).(*run)
	return r
}

// resumeRun gives the role for the next act.
func (e *Engine) resumeRun(ctx context.Context, name string) (*subject, error) {
	r := runOf(ctx)
	after := r.after
	r.after = nil
	if after != nil && e.cache.begin(name) == r.since && e.clock.Mono()-r.kept < keptFor {
		return after, nil
	}
	return e.load(ctx, name)
}

// keptFor bounds how long a run goes on without asking storage: a process that was
// frozen may have been deposed meanwhile, and storage tells.
const keptFor = time.Second

// keep notes what an update has just stored; the caller holds the role's mutex.
func (e *Engine) keep(ctx context.Context, s *subject) {
	if r := runOf(ctx); r != nil {
		r.after, r.since, r.kept = s, e.cache.begin(s.name), e.clock.Mono()
	}
}

// material reads the secret bytes of a version that the journal names.
func (e *Engine) material(ctx context.Context, name string, version int) (secret.Map, error) {
	r := runOf(ctx)
	if r != nil && r.materials[version] != nil {
		return r.materials[version], nil
	}
	m, err := e.store.Material(ctx, name, version)
	if r != nil && err == nil {
		r.materials[version] = m
	}
	return m, err
}
