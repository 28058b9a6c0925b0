package backend

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/mark"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// target gathers what an effect on a version needs.
func (e *Engine) target(ctx context.Context, s *subject, version rotation.Version) (*rotator.Target, error) {
	identity, err := e.identity(ctx)
	if err != nil {
		return nil, err
	}
	t := &rotator.Target{
		Version: version, MarkKey: markKey(identity), Passwords: e.system, Now: e.clock.Now(),
		Mark:   mark.Mark{Instance: identity.ID, Role: s.name, Version: version.Number, RotationID: version.RotationID},
		Others: s.others(version.Number), Fence: s.state.Revision,
	}
	if version.HasMaterial {
		if t.Material, err = e.material(ctx, s.name, version.Number); err != nil {
			return nil, err
		}
	}
	// A current version that kill_first ended is no witness for anything.
	if cur := s.state.CurrentVersion(); cur != nil && cur.Number != version.Number && cur.KilledTime.IsZero() {
		material, err := e.material(ctx, s.name, cur.Number)
		if err != nil {
			return nil, err
		}
		t.Current = &rotator.Live{Version: *cur, Material: material}
	}
	conn, err := e.store.Connection(ctx, s.role.Connection)
	if err != nil {
		return nil, err
	}
	t.Role = roleView(s.role, conn)
	if s.role.Connection == "" {
		return t, nil
	}
	if conn == nil {
		return nil, fault.New(fault.Invalid, "connection %q of the role does not exist", s.role.Connection)
	}
	t.Conn, err = e.connections.open(ctx, conn)
	return t, err
}

// others are all versions but one.
func (s *subject) others(number int) []rotation.Version {
	return slices.DeleteFunc(slices.Clone(s.state.Versions), func(v rotation.Version) bool { return v.Number == number })
}

// roleView is a stored role as a rotator sees it.
func roleView(r *store.Role, conn *store.Connection) *rotator.Role {
	view := &rotator.Role{
		Name: r.Name, Values: r.Values, Connection: r.Connection, Grace: r.Policy.Grace.Std(), Interval: r.Interval.Std(),
	}
	if conn != nil {
		view.ConnectionType, view.ConnectionValues = conn.Type, conn.Values
	}
	return view
}

// effect runs one call of a rotator under its own deadline. When the engine
// itself is stopped, or an emergency interrupts, its context error is returned:
// nothing is then known of the effect, and nothing is recorded.
func (e *Engine) effect(ctx context.Context, do func(ctx context.Context) error) error {
	bounded, done := context.WithTimeout(ctx, effectTimeout)
	defer done()
	err := do(bounded)
	if ctx.Err() != nil {
		return errors.Join(errInterrupted, ctx.Err())
	}
	return err
}

// errInterrupted ends a run without a record.
var errInterrupted = errors.New("interrupted")

// failureOf renders an error for the journal. Rotators never put secrets into
// errors; should one slip, what it says is cleaned of this version's material.
func failureOf(err error, material secret.Map) rotation.Failure {
	return rotation.Failure{Kind: string(fault.KindOf(err)), Message: scrub(err.Error(), material)}
}

// materialOf is nil where there is not even a target.
func materialOf(t *rotator.Target) secret.Map {
	if t == nil {
		return nil
	}
	return t.Material
}

// maxMessage bounds what is kept of an error.
const maxMessage = 1000

func scrub(text string, material secret.Map) string {
	for _, value := range material {
		if plain := value.Reveal(); len(plain) > 3 {
			text = strings.ReplaceAll(text, plain, secret.Placeholder)
		}
	}
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + "…"
	}
	return text
}

// attention is the back-off after an effect on a version that is still to be done.
func attention(before *rotation.Attention, now time.Time, reason string, after time.Duration, failing bool) *rotation.Attention {
	a := &rotation.Attention{Attempts: 1, Reason: reason, Failing: failing}
	if before != nil {
		a.Attempts = before.Attempts + 1
	}
	if after <= 0 {
		after = retryAfter(a.Attempts)
	}
	a.At = now.Add(after)
	return a
}
