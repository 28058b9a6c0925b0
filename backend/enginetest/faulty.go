package enginetest

import (
	"context"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// full is a rotator with every optional part of the contract.
type full interface {
	rotator.Rotator
	rotator.Prober
	rotator.InUser
	rotator.Preflighter
	rotator.Surveyor
	rotator.Restorer
}

// Faulty wraps a rotator so that each of its calls outside is a point of a run.
type Faulty struct {
	full
	Faults *Faults
}

// NewFaulty wraps a rotator that has every optional part.
func NewFaulty(r full, f *Faults) *Faulty { return &Faulty{full: r, Faults: f} }

// around turns an injected fault into what a target that went away looks like.
func (f *Faulty) around(name string, do func() error) error {
	err := f.Faults.Around(name, do)
	if err == ErrInjected { //nolint:errorlint // only the bare one is ours
		return fault.New(fault.Unreachable, "%s: %w", name, err)
	}
	return err
}

// Prepare implements rotator.Rotator.
func (f *Faulty) Prepare(ctx context.Context, t *rotator.Target) error {
	return f.around("Prepare", func() error { return f.full.Prepare(ctx, t) })
}

// Verify implements rotator.Rotator.
func (f *Faulty) Verify(ctx context.Context, t *rotator.Target) error {
	return f.around("Verify", func() error { return f.full.Verify(ctx, t) })
}

// Retire implements rotator.Rotator.
func (f *Faulty) Retire(ctx context.Context, t *rotator.Target, stage rotator.Stage) (p rotator.Progress, err error) {
	err = f.around("Retire "+string(stage), func() (err error) {
		p, err = f.full.Retire(ctx, t, stage)
		return err
	})
	return p, err
}

// Discard implements rotator.Rotator.
func (f *Faulty) Discard(ctx context.Context, t *rotator.Target) (p rotator.Progress, err error) {
	err = f.around("Discard", func() (err error) {
		p, err = f.full.Discard(ctx, t)
		return err
	})
	return p, err
}

// Probe implements rotator.Prober.
func (f *Faulty) Probe(ctx context.Context, t *rotator.Target) (p rotator.Proof, err error) {
	err = f.around("Probe", func() (err error) {
		p, err = f.full.Probe(ctx, t)
		return err
	})
	return p, err
}

// Survey implements rotator.Surveyor.
func (f *Faulty) Survey(ctx context.Context, t *rotator.Target) (s []rotator.Sighting, err error) {
	err = f.around("Survey", func() (err error) {
		s, err = f.full.Survey(ctx, t)
		return err
	})
	return s, err
}

// Preflight implements rotator.Preflighter.
func (f *Faulty) Preflight(ctx context.Context, t *rotator.Target) (l []rotator.Line, err error) {
	err = f.around("Preflight", func() (err error) {
		l, err = f.full.Preflight(ctx, t)
		return err
	})
	return l, err
}

// AnnounceAhead implements rotator.Announcer where the wrapped kind does.
func (f *Faulty) AnnounceAhead(r *rotator.Role) time.Duration {
	if a, ok := f.full.(rotator.Announcer); ok {
		return a.AnnounceAhead(r)
	}
	return 0
}

// DefaultGrace implements rotator.Gracer: the kind's constant where the wrapped kind does
// not.
func (f *Faulty) DefaultGrace(r *rotator.Role) time.Duration {
	if g, ok := f.full.(rotator.Gracer); ok {
		return g.DefaultGrace(r)
	}
	return f.full.Kind().Grace
}

// Advice implements rotator.Adviser where the wrapped kind does.
func (f *Faulty) Advice(r *rotator.Role, leaked []rotation.Version, current rotation.Version, now time.Time) []string {
	if a, ok := f.full.(rotator.Adviser); ok {
		return a.Advice(r, leaked, current, now)
	}
	return nil
}

// PrepareIsIrreversible implements rotator.Irreversible where the wrapped kind does.
func (f *Faulty) PrepareIsIrreversible(r *rotator.Role) bool {
	i, ok := f.full.(rotator.Irreversible)
	return ok && i.PrepareIsIrreversible(r)
}

// InPlace implements rotator.InPlace where the wrapped kind does.
func (f *Faulty) InPlace(r *rotator.Role) bool {
	i, ok := f.full.(rotator.InPlace)
	return ok && i.InPlace(r)
}

// Imports implements rotator.Importer where the wrapped kind does.
func (f *Faulty) Imports(r *rotator.Role) bool {
	i, ok := f.full.(rotator.Importer)
	return ok && i.Imports(r)
}

// Load implements rotator.LiveUser where the wrapped kind does.
func (f *Faulty) Load(v *rotation.Version, material secret.Map) (any, error) {
	u, ok := f.full.(rotator.LiveUser)
	if !ok {
		return nil, nil
	}
	return u.Load(v, material)
}

// Use implements rotator.LiveUser where the wrapped kind does.
func (f *Faulty) Use(ctx context.Context, live *rotator.LiveVersions, request any) (any, error) {
	u, ok := f.full.(rotator.LiveUser)
	if !ok {
		return nil, fault.New(fault.Invalid, "this type has nothing to use")
	}
	return u.Use(ctx, live, request)
}

// FaultyConnection wraps a connection type likewise.
type FaultyConnection struct {
	rotator.ConnectionKind
	Faults *Faults
}

// Ping implements rotator.ConnectionKind.
func (f FaultyConnection) Ping(ctx context.Context, conn rotator.Connection) error {
	err := f.Faults.Around("Ping", func() error { return f.ConnectionKind.Ping(ctx, conn) })
	if err == ErrInjected { //nolint:errorlint // only the bare one is ours
		return fault.New(fault.Unreachable, "ping: %w", err)
	}
	return err
}

// NewRoot implements rotator.RootRotator.
func (f FaultyConnection) NewRoot(ctx context.Context, c *rotator.ConnectionConfig, p rotator.PasswordPolicy) (secret.Map, error) {
	return f.root().NewRoot(ctx, c, p)
}

// SetRoot implements rotator.RootRotator.
func (f FaultyConnection) SetRoot(ctx context.Context, conn rotator.Connection, next secret.Map) error {
	err := f.Faults.Around("SetRoot", func() error { return f.root().SetRoot(ctx, conn, next) })
	if err == ErrInjected { //nolint:errorlint // only the bare one is ours
		return fault.New(fault.Unreachable, "set root: %w", err)
	}
	return err
}

func (f FaultyConnection) root() rotator.RootRotator {
	r, _ := f.ConnectionKind.(rotator.RootRotator)
	return r
}
