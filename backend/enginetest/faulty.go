package enginetest

import (
	"context"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
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

// Discloses implements rotator.Discloser where the wrapped kind does.
func (f *Faulty) Discloses(r *rotator.Role) bool {
	d, ok := f.full.(rotator.Discloser)
	return !ok || d.Discloses(r)
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

// NoWayBack implements rotator.OnlyForward where the wrapped kind does.
func (f *Faulty) NoWayBack(r *rotator.Role) string {
	if o, ok := f.full.(rotator.OnlyForward); ok {
		return o.NoWayBack(r)
	}
	return ""
}

// ConnectionOf implements rotator.Connector where the wrapped kind does.
func (f *Faulty) ConnectionOf(values option.Values) (name string, types []string) {
	if c, ok := f.full.(rotator.Connector); ok {
		return c.ConnectionOf(values)
	}
	return "", nil
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

// Mints implements rotator.Minter where the wrapped kind does.
func (f *Faulty) Mints(r *rotator.Role) bool {
	m, ok := f.full.(rotator.Minter)
	return ok && m.Mints(r)
}

// Mint implements rotator.Minter: whatever goes wrong, it may have happened.
func (f *Faulty) Mint(ctx context.Context, t *rotator.Target) (c *rotator.Candidate, err error) {
	m, ok := f.full.(rotator.Minter)
	if !ok {
		return nil, fault.New(fault.Internal, "this type mints nothing")
	}
	err = f.Faults.Around("Mint", func() (err error) {
		c, err = m.Mint(ctx, t)
		return err
	})
	if err == ErrInjected { //nolint:errorlint // only the bare one is ours
		return nil, fault.New(fault.Unconfirmed, "mint: %w", err)
	}
	return c, err
}

// Stages implements rotator.Stager where the wrapped kind does.
func (f *Faulty) Stages(r *rotator.Role) string {
	if s, ok := f.full.(rotator.Stager); ok {
		return s.Stages(r)
	}
	return "nothing of this type is staged"
}

// Stage implements rotator.Stager where the wrapped kind does.
func (f *Faulty) Stage(ctx context.Context, t *rotator.Target) (c *rotator.Candidate, err error) {
	s, ok := f.full.(rotator.Stager)
	if !ok {
		return nil, fault.New(fault.Internal, "nothing of this type is staged")
	}
	err = f.around("Stage", func() (err error) {
		c, err = s.Stage(ctx, t)
		return err
	})
	return c, err
}

// Soak implements rotator.Soaker where the wrapped kind does.
func (f *Faulty) Soak(r *rotator.Role) rotator.Soak {
	if s, ok := f.full.(rotator.Soaker); ok {
		return s.Soak(r)
	}
	return rotator.Soak{}
}

// RenderSecond implements rotator.Pairer where the wrapped kind does.
func (f *Faulty) RenderSecond(t *rotator.Target) (map[string]any, error) {
	if p, ok := f.full.(rotator.Pairer); ok {
		return p.RenderSecond(t)
	}
	return nil, nil
}

// EndedByHand implements rotator.HandEnded where the wrapped kind does.
func (f *Faulty) EndedByHand(v *rotation.Version) bool {
	h, ok := f.full.(rotator.HandEnded)
	return ok && h.EndedByHand(v)
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

// FaultyKeeper wraps a rotator whose versions keep data.
type FaultyKeeper struct {
	*Faulty
	keeper rotator.DataKeeper
}

// NewFaultyKeeper wraps one that has every optional part beside.
func NewFaultyKeeper(r interface {
	full
	rotator.DataKeeper
}, f *Faults,
) *FaultyKeeper {
	return &FaultyKeeper{Faulty: NewFaulty(r, f), keeper: r}
}

// DataPolicy implements rotator.DataKeeper.
func (f *FaultyKeeper) DataPolicy(r *rotator.Role) (rotator.DataPolicy, error) {
	return f.keeper.DataPolicy(r)
}

// Rewriter implements rotator.DataKeeper.
func (f *FaultyKeeper) Rewriter(live *rotator.LiveVersions) (reencrypt.Rewriter, error) {
	return f.keeper.Rewriter(live)
}
