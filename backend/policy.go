package backend

import (
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/schedule"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// RoleOptions declares what roles of every kind have. Defaults that differ by kind
// are those of its Kind.
func RoleOptions() option.Set {
	return option.Set{
		{Name: "rotation_period", Type: option.Duration, Help: "How often the secret rotates, at least a minute. Either this or rotation_schedule. Each type has a default."},
		{Name: "rotation_schedule", Type: option.String, Help: "When the secret rotates, as five cron fields in UTC: minute, hour, day of month, month, weekday. Either this or rotation_period."},
		{Name: "rotation_window", Type: option.Duration, Help: "How long after a time of rotation_schedule a rotation may still begin. A missed window is caught up in the next one; an overdue role does not wait for it."},
		{Name: "next_rotation", Type: option.String, Help: "RFC 3339 time of the first scheduled rotation, to keep roles apart that must not rotate together."},
		{Name: "jitter", Type: option.Duration, Help: "Spreads roles that share a schedule: a fixed share of this is taken off a period, or added to a cron time."},
		{Name: "disable_automated_rotation", Type: option.Bool, Help: "Only people rotate this role."},
		{Name: "grace_period", Type: option.Duration, Help: "How long a version stays valid after its successor took over: at least 20s and shorter than the period. Readers are told to come back within a quarter of it. Each type has a default."},
		{Name: "wait_for_idle", Type: option.Bool, Help: "A version whose grace is over is not ended while somebody still uses it, for at most max_grace_period. Not in an emergency."},
		{Name: "max_grace_period", Type: option.Duration, Help: "How long wait_for_idle may put off the end of a version, counted from the end of its grace; at most 30d, default 24h."},
		{Name: "max_versions", Type: option.Int, Help: "How many versions are remembered, 2 to 100, default 10. Material of older retired ones is destroyed."},
		{Name: "max_attempts", Type: option.Int, Help: "How many attempts a rotation has before the role is blocked for a person, 1 to 100, default 10."},
		{Name: "overdue_after", Type: option.Duration, Help: "From which lateness the role is overdue. Default: the mount's."},
		{Name: "access_rate_threshold", Type: option.Int, Help: "Above how many reads a minute of the secret people are told who reads it; 0 for never. Default, and -1: the mount's."},
		{Name: "rollout", Type: option.List, Help: "Workloads that are restarted once readers get the next version, each as connection/namespace/kind/name, or with a label selector in the place of the name."},
		{Name: "rollout_order", Type: option.String, Help: "sequential (the default): each workload has completed before the next one is restarted; or parallel."},
		{Name: "rollout_timeout", Type: option.Duration, Help: "How long all of rollout, the checks after it and the mirror before it may take each, 10s to 24h, default 10m."},
		{Name: "checks", Type: option.List, Help: "Connections of type http-check that must pass after the rollout."},
		{Name: "expect_sessions", Type: option.List, Help: "Application names that must each have a session under the new version after the rollout."},
		{Name: "on_rollout_failure", Type: option.String, Help: "What happens when dependents fail after the switch: rollback (the default) or hold."},
		{Name: "mirror", Type: option.String, Help: "Where each new current version is copied to, as connection/path with a connection of type vault: a path of a KV v2 mount there."},
		{Name: "mirror_fields", Type: option.Map, Help: "What the copy holds: its field names, each with a field of creds, or text with such fields in it as {{.username}}:{{urlquery .password}}. Default: the fields of creds. rotation_id and version are always in it."},
		{Name: "mirror_force", Type: option.Bool, Help: "Let the copy take the place of what somebody else wrote there."},
		{Name: "channels", Type: option.List, Help: "The channels that are told of this role. Default: the mount's."},
		{Name: "custom_metadata", Type: option.Map, Help: "Up to 64 labels of your own."},
	}
}

func defaultPolicy(k rotator.Kind) store.Policy {
	return store.Policy{
		Period: rotation.Duration(k.Period), Grace: rotation.Duration(k.Grace),
		MaxGrace: rotation.Duration(defaultMaxGrace), MaxVersions: 10, MaxAttempts: 10, OnRolloutFailure: onFailureRollback,
		RolloutOrder: orderSequential, RolloutTimeout: rotation.Duration(defaultRolloutTimeout),
	}
}

// followGrace lets a grace that nobody chose follow the kind's own options, from which
// its default is derived.
func followGrace(kind rotator.Rotator, before, role *store.Role) {
	g, ok := kind.(rotator.Gracer)
	if !ok {
		return
	}
	if before == nil || before.Policy.Grace.Std() == g.DefaultGrace(roleView(before, nil)) {
		role.Policy.Grace = rotation.Duration(g.DefaultGrace(roleView(role, nil)))
	}
}

// mergePolicy lays given common options over the role's policy.
func (e *Engine) mergePolicy(kind rotator.Rotator, role *store.Role, given option.Values) error {
	_, period := given["rotation_period"]
	cron, _ := given["rotation_schedule"].(string)
	if period && cron != "" {
		return fault.Field("rotation_schedule", "cannot be given together with rotation_period: a role has one of the two")
	}
	if period {
		role.Policy.Schedule = ""
		if _, window := given["rotation_window"]; !window {
			role.Policy.Window = 0
		}
	}
	if cron != "" {
		role.Policy.Period = 0
	}
	if err := overlay(RoleOptions(), &role.Policy, given); err != nil {
		return err
	}
	if t := role.Policy.AccessRateThreshold; t != nil && *t == mountsThreshold {
		role.Policy.AccessRateThreshold = nil
	}
	if _, grace := given["grace_period"]; !grace && changesInPlace(kind, role) {
		role.Policy.Grace = 0
	}
	return e.checkPolicy(kind, role)
}

// checkPolicy refuses a policy that could not keep its promises, and works out the
// interval.
func (e *Engine) checkPolicy(kind rotator.Rotator, role *store.Role) error {
	p := role.Policy
	interval, err := interval(p)
	if err != nil {
		return err
	}
	role.Interval = rotation.Duration(interval)
	first, err := time.Parse(time.RFC3339, p.NextRotation)
	switch {
	case p.NextRotation != "" && err != nil:
		return fault.Field("next_rotation", "must be an RFC 3339 time such as 2030-01-31T02:00:00Z")
	case p.NextRotation != "" && first.After(e.clock.Now().Add(10*365*24*time.Hour)):
		return fault.Field("next_rotation", "is more than ten years away")
	case p.Window != 0 && p.Schedule == "":
		return fault.Field("rotation_window", "needs rotation_schedule: a period has no window")
	case p.Window.Std() < 0 || p.Window.Std() > interval:
		return fault.Field("rotation_window", "must not be longer than the shortest gap of the schedule, %s", interval)
	case p.Jitter.Std() < 0 || p.Jitter.Std() > interval/2:
		return fault.Field("jitter", "must not be longer than half of the shortest time between rotations, %s", interval/2)
	case p.Window != 0 && p.Jitter >= p.Window:
		return fault.Field("jitter", "must be shorter than rotation_window")
	case p.MaxVersions < 2 || p.MaxVersions > 100:
		return fault.Field("max_versions", "must be between 2 and 100")
	case p.MaxAttempts < 1 || p.MaxAttempts > 100:
		return fault.Field("max_attempts", "must be between 1 and 100")
	case p.OverdueAfter < 0:
		return fault.Field("overdue_after", "must not be negative")
	case p.AccessRateThreshold != nil && *p.AccessRateThreshold < 0:
		return fault.Field("access_rate_threshold", "must be a number of reads a minute, 0 for never, or -1 for the mount's")
	case p.OnRolloutFailure != onFailureRollback && p.OnRolloutFailure != onFailureHold:
		return fault.Field("on_rollout_failure", "must be %s or %s", onFailureRollback, onFailureHold)
	case rolloutOrder(p) != orderSequential && rolloutOrder(p) != orderParallel:
		return fault.Field("rollout_order", "must be %s or %s", orderSequential, orderParallel)
	case rolloutTimeout(p) < minRolloutTimeout || rolloutTimeout(p) > maxRolloutTimeout:
		return fault.Field("rollout_timeout", "must be from %s to %s", minRolloutTimeout, maxRolloutTimeout)
	}
	if err := checkMetadata(p.CustomMetadata); err != nil {
		return err
	}
	if err := checkIdle(kind, role); err != nil {
		return err
	}
	return checkGrace(kind, role, interval)
}

func interval(p store.Policy) (time.Duration, error) {
	if p.Schedule == "" {
		if p.Period.Std() < schedule.MinPeriod {
			return 0, fault.Field("rotation_period", "must be at least %s", schedule.MinPeriod)
		}
		return p.Period.Std(), nil
	}
	cron, err := schedule.ParseCron(p.Schedule)
	if err != nil {
		return 0, fault.Field("rotation_schedule", "%s", err)
	}
	return cron.ShortestGap(), nil
}

func checkGrace(kind rotator.Rotator, role *store.Role, interval time.Duration) error {
	if changesInPlace(kind, role) {
		if role.Policy.Grace != 0 {
			return fault.Field("grace_period", "must be 0 for a credential that is changed in place: there is no second one to overlap with")
		}
		return nil
	}
	grace := role.Policy.Grace.Std()
	if grace < schedule.MinGrace {
		return fault.Field("grace_period", "must be at least %s", schedule.MinGrace)
	}
	if g, ok := kind.(rotator.Gracer); ok && grace >= interval && grace == g.DefaultGrace(roleView(role, nil)) {
		return fault.Field("rotation_period", "makes %s between rotations, and must be longer than the grace_period that follows from the role's other options, %s", interval, grace)
	}
	if grace >= interval {
		return fault.Field("grace_period", "is %s and must be shorter than the time between rotations, %s", grace, interval)
	}
	return nil
}

// changesInPlace tells whether a role's versions are one credential that changes
// where it stands.
func changesInPlace(kind rotator.Rotator, role *store.Role) bool {
	in, ok := kind.(rotator.InPlace)
	return ok && in.InPlace(roleView(role, nil))
}

// checkIdle refuses to wait for something that nobody could tell, or that would
// never come: the one user of a credential changed in place is always in use.
func checkIdle(kind rotator.Rotator, role *store.Role) error {
	p := role.Policy
	_, tells := kind.(rotator.InUser)
	switch {
	case p.MaxGrace.Std() < 0 || p.MaxGrace.Std() > maxMaxGrace:
		return fault.Field("max_grace_period", "must be from 0 to %s", maxMaxGrace)
	case p.WaitForIdle && !tells:
		return fault.Field("wait_for_idle", "is not possible for type %s: it cannot tell who uses a version", role.Type)
	case p.WaitForIdle && changesInPlace(kind, role):
		return fault.Field("wait_for_idle", "is not possible for a credential that is changed in place")
	}
	return nil
}

// Bounds of waiting until nobody uses a version any more.
const (
	defaultMaxGrace = 24 * time.Hour
	maxMaxGrace     = 30 * 24 * time.Hour
)

func checkMetadata(m map[string]string) error {
	if len(m) > 64 {
		return fault.Field("custom_metadata", "has %d entries: at most 64 are kept", len(m))
	}
	for k, v := range m {
		if k == "" || len(k) > 128 || len(v) > 512 || strings.ContainsFunc(k+v, func(r rune) bool { return r < ' ' }) {
			return fault.Field("custom_metadata", "keys have 1 to 128 bytes and values at most 512, without control characters")
		}
	}
	return nil
}
