package backend

import (
	"context"
	"fmt"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// Use puts a role's versions to use, for kinds that sign or encrypt with them. Like
// reading, it takes no lock of the role and, from the cache, no storage. What the versions
// of a deleted role made can be checked until they have ended.
func (e *Engine) Use(ctx context.Context, name string, request any) (answer any, err error) {
	var kind rotator.LiveUser
	deleted := false
	snap, err := e.snapshotOf(ctx, name, func(typ string, gone bool) (err error) {
		deleted = gone
		kind, err = e.liveUser(name, typ)
		return err
	})
	if err != nil {
		return nil, err
	}
	if snap.live.Current == nil && !deleted {
		return nil, fault.New(fault.NotFound, "role %q has no current version yet", name)
	}
	if deleted && len(snap.live.All) == 0 {
		return nil, notFound(name)
	}
	return kind.Use(ctx, e.liveNow(name, snap), request)
}

// liveNow is a snapshot's versions for one request.
func (e *Engine) liveNow(name string, snap *snapshot) *rotator.LiveVersions {
	live := *snap.live
	live.Now = e.clock.Now()
	live.Missed = func(version int, made func(any) bool) { e.missed(name, missedVersion{version, made}) }
	return &live
}

// missed notes that somebody had need of a version that ended. A node that may not write
// can only say so.
func (e *Engine) missed(name string, m missedVersion) {
	if !e.memory.miss(name, m, e.clock.Now()) {
		return
	}
	if !e.system.Writable() {
		e.memory.recordedMissed(name, []missedVersion{m}, e.clock.Now())
		e.logger.Warn("somebody had need of a version that ended, which only the active node can record", "role", name, "version", m.version)
		return
	}
	e.workers.add(whenDue, name)
}

func (e *Engine) liveUser(role, typ string) (rotator.LiveUser, error) {
	kind, ok := e.rotators[typ].(rotator.LiveUser)
	if !ok {
		return nil, fault.New(fault.Invalid, "role %q is of type %s, whose versions are read and not used here", role, typ)
	}
	return kind, nil
}

// loadVersions readies every version that may be put to use.
func (e *Engine) loadVersions(s *subject, kind rotator.LiveUser, view *rotator.Role, materials func(version int) (secret.Map, error)) (*rotator.LiveVersions, error) {
	live := &rotator.LiveVersions{Role: view, Ahead: s.state.Announce.Ahead.Std()}
	current := -1
	for i := range s.state.Versions {
		v := s.state.Versions[i]
		if !readable(&v) && v.State != rotation.Standby {
			live.Ended = append(live.Ended, v)
			continue
		}
		material, err := materials(v.Number)
		if err != nil {
			return nil, err
		}
		ready, err := kind.Load(&v, material)
		if err != nil && v.Number != s.state.Current {
			// One that nobody makes anything with must not take the others down.
			e.logger.Error("a version cannot be used", "role", s.name, "version", v.Number, "error", failureOf(err, material).Message)
			live.Ended = append(live.Ended, v)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("load version %d of %s: %w", v.Number, s.name, err)
		}
		if v.Number == s.state.Current {
			current = len(live.All)
		}
		live.All = append(live.All, rotator.Live{Version: v, Material: material, Ready: ready})
	}
	if current >= 0 {
		live.Current = &live.All[current]
	}
	return live, nil
}
