package backend

import (
	"context"
	"fmt"
	"maps"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/access"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/schedule"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// Creds returns the current version, with the ttl for which a reader may rely on
// it. From the cache it takes no lock and makes no storage call.
func (e *Engine) Creds(ctx context.Context, name string, reader Actor) (*Creds, error) {
	snap, err := e.snapshot(ctx, name)
	if err != nil {
		return nil, err
	}
	if snap.current == nil {
		return nil, fault.New(fault.NotFound, "role %q has no current version yet", name)
	}
	now := e.clock.Now()
	ttl, second := snap.pair(now)
	if second != nil && !second.retireAt.IsZero() && !e.system.Writable() { // the node that ends it would not know
		ttl, second = snap.ttl(now), nil
	}
	out := snap.answer(snap.current, ttl)
	also := 0
	if second != nil {
		also = second.version
		maps.Copy(out.Data, second.data)
		e.memory.issue(name, also, now, now.Add(ttl))
	}
	e.recordRead(snap, &access.Read{Role: name, Version: snap.current.version, Also: also, Time: now}, &reader)
	return out, nil
}

// pair is the ttl of the current version, and the second one with which readers get it.
// What they hold of a retiring one is promised as well: the ttl ends before it does, and
// in its last moments it is not handed out any more.
func (s *snapshot) pair(now time.Time) (time.Duration, *rendered) {
	ttl := s.ttl(now)
	if s.second == nil {
		return ttl, nil
	}
	most, ok := schedule.RetiringTTL(s.second.grace, s.second.retireAt, now)
	if !ok {
		return ttl, nil
	}
	return min(ttl, most), s.second
}

// VersionCreds returns a live version by its number: the current one, or one that
// is still valid until the end of its grace.
func (e *Engine) VersionCreds(ctx context.Context, name string, version int, reader Actor) (*Creds, error) {
	snap, err := e.snapshot(ctx, name)
	if err != nil {
		return nil, err
	}
	r := snap.versions[version]
	if r == nil {
		return nil, fault.New(fault.NotFound, "role %q has no live version %d", name, version)
	}
	now := e.clock.Now()
	ttl := snap.ttl(now)
	if r != snap.current {
		var ok bool
		if ttl, ok = schedule.RetiringTTL(r.grace, r.retireAt, now); !ok {
			return nil, fault.New(fault.NotFound, "version %d of role %q ends at %s: too soon to be handed out", version, name, r.retireAt.Format(timeFormat))
		}
		e.memory.issue(name, version, now, now.Add(ttl))
	}
	e.recordRead(snap, &access.Read{Role: name, Version: version, Time: now}, &reader)
	out := snap.answer(r, ttl)
	out.Data["state"] = r.state
	if !r.retireAt.IsZero() {
		out.Data["expire_time"] = r.retireAt.UTC().Format(time.RFC3339)
	}
	return out, nil
}

func (s *snapshot) ttl(now time.Time) time.Duration {
	grace := s.current.grace
	if s.inPlace {
		grace = 0
	}
	return schedule.TTL(grace, s.next, now)
}

func (s *snapshot) answer(r *rendered, ttl time.Duration) *Creds {
	data := make(map[string]any, len(r.data)+3)
	maps.Copy(data, r.data)
	data["ttl"] = int64(ttl / time.Second)
	return &Creds{Data: data, Warnings: s.warnings}
}

// snapshot returns what readers of a role get, from the cache or from storage.
func (e *Engine) snapshot(ctx context.Context, name string) (*snapshot, error) {
	return e.snapshotOf(ctx, name, func(_ string, deleted bool) error {
		if deleted {
			return notFound(name)
		}
		return nil
	})
}

// snapshotOf is snapshot for certain roles; no material of others is read.
func (e *Engine) snapshotOf(ctx context.Context, name string, admits func(kind string, deleted bool) error) (*snapshot, error) {
	if snap := e.cache.get(name); snap != nil {
		return snap, admits(snap.kind, snap.deleted)
	}
	since := e.cache.begin(name)
	s, err := e.load(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := admits(s.role.Type, s.state.Deleted); err != nil {
		return nil, err
	}
	snap, err := e.render(ctx, s)
	if err != nil {
		return nil, err
	}
	e.cache.fill(name, since, snap)
	return snap, nil
}

// render prepares the answers of every live version.
func (e *Engine) render(ctx context.Context, s *subject) (*snapshot, error) {
	kind, err := e.kindOf(s.role.Type)
	if err != nil {
		return nil, err
	}
	snap := &snapshot{kind: s.role.Type, deleted: s.state.Deleted, versions: map[int]*rendered{}, next: s.state.NextRotation, warnings: s.warnings()}
	conn, err := e.store.Connection(ctx, s.role.Connection)
	if err != nil {
		return nil, err
	}
	view := roleView(s.role, conn)
	snap.inPlace = changesInPlace(kind, s.role)
	snap.discloses, snap.threshold = discloses(kind, view), ownThreshold(s.role.Policy)
	materials := e.readingOnce(ctx, s.name)
	if user, ok := kind.(rotator.LiveUser); ok { // there may be very many roles: none keeps what nobody asks for
		if snap.live, err = e.loadVersions(s, user, view, materials); err != nil {
			return nil, err
		}
	}
	for i := range s.state.Versions {
		v := &s.state.Versions[i]
		if !readable(v) || snap.inPlace && v.Number != s.state.Current { // it ended when its successor was prepared
			continue
		}
		r, err := e.renderVersion(s, kind, view, v, materials)
		switch {
		case err == nil:
			snap.versions[v.Number] = r
		case v.Number == s.state.Current || isStorage(err):
			return nil, err
		default: // readers of the current version do not suffer from a damaged earlier one
			e.logger.Error("an earlier version cannot be handed out", "role", s.name, "version", v.Number, "error", failureOf(err, nil).Message)
		}
	}
	snap.current = snap.versions[s.state.Current]
	if pairer, ok := kind.(rotator.Pairer); ok && !snap.inPlace {
		if snap.second, err = e.renderSecond(s, pairer, view, materials); err != nil && !isStorage(err) {
			e.logger.Error("the second version of a pair cannot be handed out", "role", s.name, "error", failureOf(err, nil).Message)
			err = nil
		}
	}
	return snap, err
}

// renderSecond prepares what readers get of the other live version: the one that is
// staged, else the one that retires last.
func (e *Engine) renderSecond(s *subject, kind rotator.Pairer, view *rotator.Role, materials func(int) (secret.Map, error)) (*rendered, error) {
	v := s.second()
	if v == nil {
		return nil, nil
	}
	material, err := materials(v.Number)
	if err != nil {
		return nil, err
	}
	data, err := kind.RenderSecond(&rotator.Target{Role: view, Version: *v, Material: material, Now: e.clock.Now()})
	if err != nil {
		return nil, fmt.Errorf("render version %d of %s: %w", v.Number, s.name, err)
	}
	if data == nil {
		return nil, nil
	}
	return &rendered{version: v.Number, grace: v.Grace.Std(), retireAt: v.RetireAt, data: data}, nil
}

func (s *subject) second() *rotation.Version {
	if staged := s.state.StagedVersion(); staged != nil {
		return staged
	}
	var last *rotation.Version
	for i := range s.state.Versions {
		v := &s.state.Versions[i]
		if v.State != rotation.Retiring || !v.RetireBegun.IsZero() || v.Compromised {
			continue
		}
		if last == nil || v.DeactivatedTime.After(last.DeactivatedTime) {
			last = v
		}
	}
	return last
}

// readingOnce gives the materials of a role's versions, each read from storage once.
func (e *Engine) readingOnce(ctx context.Context, name string) func(version int) (secret.Map, error) {
	known := map[int]secret.Map{}
	return func(version int) (secret.Map, error) {
		if material, ok := known[version]; ok {
			return material, nil
		}
		material, err := e.store.Material(ctx, name, version)
		if err == nil {
			known[version] = material
		}
		return material, err
	}
}

// readable tells whether readers may get a version.
func readable(v *rotation.Version) bool {
	return v.State == rotation.Current || v.State == rotation.Retiring && v.RetireBegun.IsZero()
}

// renderVersion needs no open connection: reading credentials works while the
// database is away.
func (e *Engine) renderVersion(s *subject, kind rotator.Rotator, view *rotator.Role, v *rotation.Version, materials func(int) (secret.Map, error)) (*rendered, error) {
	material, err := materials(v.Number)
	if err != nil {
		return nil, err
	}
	data, err := kind.Render(&rotator.Target{Role: view, Version: *v, Material: material, Others: s.others(v.Number), Now: e.clock.Now()})
	if err != nil {
		return nil, fmt.Errorf("render version %d of %s: %w", v.Number, s.name, err)
	}
	data["version"] = v.Number
	data["last_vault_rotation"] = s.state.ActivatedTime.UTC().Format(time.RFC3339Nano)
	data["rotation_period"] = s.role.Interval.Seconds()
	// The smaller of what the policy says now and what was promised: whichever
	// changes first, no ttl outlives the version.
	grace := min(s.role.Policy.Grace, v.Grace).Std()
	return &rendered{version: v.Number, state: string(v.State), grace: grace, retireAt: v.RetireAt, data: data}, nil
}

// warnings are what a reader should know.
func (s *subject) warnings() (out []string) {
	if d := s.state.Divergence; d != nil {
		out = append(out, fmt.Sprintf("role %s is diverged: %s", s.name, d.Reason))
	}
	if cur := s.state.CurrentVersion(); cur != nil && cur.Compromised {
		out = append(out, fmt.Sprintf("version %d of role %s is compromised and has no replacement yet", cur.Number, s.name))
	}
	return out
}
