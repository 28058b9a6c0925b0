package backend

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/schedule"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// policyOf derives the schedule from a stored role; cron text is parsed again at
// each load, always in UTC.
func (e *Engine) policyOf(r *store.Role) (schedule.Policy, error) {
	p := schedule.Policy{
		Period: r.Policy.Period.Std(), Window: r.Policy.Window.Std(), Jitter: r.Policy.Jitter.Std(),
		Disabled: r.Policy.Disabled, OverdueAfter: overdueAfter(r.Policy.OverdueAfter.Std(), e.config.Load().OverdueAfter.Std()),
	}
	if r.Policy.Schedule != "" {
		cron, err := schedule.ParseCron(r.Policy.Schedule)
		if err != nil {
			return p, fmt.Errorf("role %s: %w", r.Name, err)
		}
		p.Cron = cron
	}
	return p, nil
}

// overdueAfter is the role's own value, or the mount's.
func overdueAfter(own, mount time.Duration) time.Duration {
	if own > 0 {
		return own
	}
	return mount
}

// nextRotation is when a role whose rotation ends now is due again. The first time
// may have been set by the operator, to keep roles apart.
func (e *Engine) nextRotation(s *subject, policy schedule.Policy, now time.Time) time.Time {
	r := s.state.InFlight
	if first, err := time.Parse(time.RFC3339, s.role.Policy.NextRotation); err == nil && first.After(now) &&
		!policy.Disabled && r.PreviousVersion == 0 {
		return first.UTC()
	}
	return policy.Next(now, s.name)
}

// adoptPolicy derives the stored times anew after the operator changed the policy.
// It counts from the last rotation, never from now: changing a thousand roles does
// not rotate them all at once, unless they are due.
func (e *Engine) adoptPolicy(ctx context.Context, s *subject) error {
	policy, err := e.policyOf(s.role)
	if err != nil {
		return err
	}
	kind, err := e.kindOf(s.role.Type)
	if err != nil {
		return err
	}
	_, err = e.update(ctx, s.name, func(s *subject) error {
		st := s.state
		st.AnnounceFor(e.clock.Now(), rotation.Duration(announceAhead(kind, s.role)))
		if cur := st.CurrentVersion(); cur != nil {
			cur.Grace = max(cur.Grace, s.role.Policy.Grace)
		}
		policyNow := fingerprint(s.role.Policy)
		if st.Policy == policyNow {
			return nil
		}
		st.Policy = policyNow
		st.NextRotation = policy.Next(st.ActivatedTime, s.name)
		if first, err := time.Parse(time.RFC3339, s.role.Policy.NextRotation); err == nil && !policy.Disabled && first.After(st.ActivatedTime) {
			st.NextRotation = first.UTC()
		}
		return nil
	})
	return err
}

// fingerprint changes whenever a stored time would have to be derived anew.
func fingerprint(p store.Policy) string {
	return strings.Join([]string{
		p.Period.String(), p.Schedule, p.NextRotation, p.Jitter.String(), fmt.Sprint(p.Disabled),
	}, "|")
}
