package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// idlePoll is how often a version that somebody still uses is looked at.
const idlePoll = time.Minute

// waitsForIdle puts off the end of a version while somebody uses it, if the role
// wants that, and says who; what could not be seen counts as use. It looks before
// the retirement begins: until then the version can still be rolled back to.
func (e *Engine) waitsForIdle(ctx context.Context, s *subject, v *rotation.Version) (bool, error) {
	last := v.RetireAt.Add(s.role.Policy.MaxGrace.Std())
	if !s.role.Policy.WaitForIdle && !v.AwaitIdle || v.Compromised || !e.clock.Now().Before(last) {
		return false, nil
	}
	reason, err := e.usedBy(ctx, s, v)
	if reason == "" || err != nil {
		return false, err
	}
	_, err = e.update(ctx, s.name, func(s *subject) error {
		v, err := s.version(v.Number, rotation.Retiring)
		if err != nil {
			return err
		}
		if v.Compromised {
			return errStale
		}
		now := e.clock.Now()
		v.Attention = attention(v.Attention, now, fmt.Sprintf("%s; it is ended at %s at the latest", reason, last.Format(timeFormat)), idlePoll, false)
		if v.Attention.At.After(last) {
			v.Attention.At = last
		}
		return nil
	})
	return true, err
}

// usedBy says who uses a version, "" for nobody.
func (e *Engine) usedBy(ctx context.Context, s *subject, v *rotation.Version) (string, error) {
	kind, ok := e.rotators[s.role.Type].(rotator.InUser)
	if !ok {
		return "", nil
	}
	t, err := e.target(ctx, s, *v)
	var uses []rotator.Use
	if err == nil {
		err = e.effect(ctx, func(ctx context.Context) (err error) {
			uses, err = kind.InUse(ctx, t)
			return err
		})
	}
	switch {
	case errors.Is(err, errInterrupted), isStorage(err):
		return "", err
	case err != nil:
		return "it could not be seen whether somebody uses it: " + failureOf(err, materialOf(t)).Message, nil
	case len(uses) == 0:
		return "", nil
	}
	total := 0
	who := make([]string, len(uses))
	for i, use := range uses {
		total += use.Count
		who[i] = fmt.Sprintf("%d of %q", use.Count, use.ApplicationName)
		if use.ClientAddr != "" {
			who[i] += " from " + use.ClientAddr
		}
	}
	return fmt.Sprintf("%d sessions of %s remain: %s", total, v.Identifier, joinFirst(who, 5)), nil
}
