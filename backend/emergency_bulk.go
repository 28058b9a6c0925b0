package backend

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/ryanuber/go-glob"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// BulkEmergency declares that the secrets of all roles of a scope leaked: one incident
// over all of them. Its record names them before the first is touched, so that no crash
// leaves one out. What goes wrong with one role is told with that role, and stops no
// other.
func (e *Engine) BulkEmergency(ctx context.Context, r BulkEmergencyRequest) (*BulkEmergencyResult, error) {
	if err := e.allowed(); err != nil {
		return nil, err
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	hit, err := e.leaking(ctx, r.Scope)
	if err != nil {
		return nil, err
	}
	if len(hit) != r.Confirm {
		return nil, fault.New(fault.Conflict, "confirm is %d, and the emergency would hit %d roles: look at them with dry_run=true, then write confirm=%d", r.Confirm, len(hit), len(hit))
	}
	incident, err := e.openIncident(ctx, r.EmergencyRequest, hit...)
	if err != nil {
		return nil, err
	}
	names := rolesOfIncident(incident)
	e.rouse(forMany, names...)
	return e.bulkResult(ctx, names, incident.ID, r.Wait), nil
}

// bulkResult waits for one role after another, all within one wait; when it is over,
// the rest is told as it stands.
func (e *Engine) bulkResult(ctx context.Context, names []string, incident string, wait time.Duration) *BulkEmergencyResult {
	out := &BulkEmergencyResult{
		IncidentID: incident, Status: store.IncidentContained, Roles: make(map[string]*EmergencyResult, len(names)), Failed: map[string]string{},
	}
	deadline := e.clock.Now().Add(wait)
	for _, name := range names {
		one, err := e.emergencyResult(ctx, name, incident, deadline)
		if err != nil { // of the reading: the emergency itself goes on
			one = &EmergencyResult{IncidentID: incident, Status: store.IncidentOpen, Failed: fmt.Sprintf("its state could not be read: %s", err)}
		}
		out.Roles[name] = one
		if one.Failed != "" {
			out.Failed[name] = one.Failed
		}
		if one.Status != store.IncidentContained {
			out.Status = store.IncidentOpen
		}
	}
	return out
}

// EmergencyDryRun lists the roles that an emergency would hit, and changes nothing.
func (e *Engine) EmergencyDryRun(ctx context.Context, scope EmergencyScope) ([]LeakedRole, error) {
	hit, err := e.leaking(ctx, scope)
	if err != nil {
		return nil, err
	}
	out := make([]LeakedRole, 0, len(hit))
	for _, s := range hit {
		role := LeakedRole{Name: s.name, Type: s.role.Type, Connection: s.role.Connection}
		if !s.state.Deleted {
			role.State = s.summary().at(e.clock.Now(), e.config.Load().OverdueAfter.Std()).State
		}
		for _, v := range s.state.Versions {
			if leaking(v) {
				role.Versions = append(role.Versions, v)
			}
		}
		out = append(out, role)
	}
	return out, nil
}

// leaking finds the roles of a scope that have something that could have leaked, by
// name: also deleted ones whose last versions still work.
func (e *Engine) leaking(ctx context.Context, scope EmergencyScope) ([]*subject, error) {
	field, err := e.checkScope(ctx, scope)
	if err != nil {
		return nil, err
	}
	names, err := e.candidates(ctx, scope)
	if err != nil {
		return nil, err
	}
	var hit []*subject
	for _, name := range names {
		if len(hit) > store.MaxIncidentRoles {
			break
		}
		s, err := e.load(ctx, name)
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if scope.includes(name, s.role.Connection) && s.leaks() {
			hit = append(hit, s)
		}
	}
	switch {
	case len(hit) == 0:
		return nil, fault.Field(field, "names no role with a version that could have leaked")
	case len(hit) > store.MaxIncidentRoles:
		return nil, fault.Field(field, "names more than %d roles, the most that one emergency takes: go by parts, with a glob in roles", store.MaxIncidentRoles)
	}
	return hit, nil
}

// candidates are the names that may be of a scope, from storage and not from the
// index: a role that the index could not read may leak like any other.
func (e *Engine) candidates(ctx context.Context, scope EmergencyScope) ([]string, error) {
	names, err := e.everyName(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(names, func(name string) bool {
		connection, known := e.summaries.connection(name)
		if scope.Connection != "" && !known {
			return false
		}
		return !scope.includes(name, connection)
	}), nil
}

// checkScope returns the field that chooses the roles.
func (e *Engine) checkScope(ctx context.Context, scope EmergencyScope) (field string, err error) {
	switch {
	case scope.Connection != "" && scope.Roles != "":
		return "", fault.Field("roles", "cannot be given together with connection: choose the roles by one of them")
	case scope.Roles != "":
		return "roles", nil
	case scope.Connection == "":
		return "", fault.Field("connection", "is required, or roles with a glob such as billing-*: which roles leaked?")
	}
	conn, err := e.store.Connection(ctx, scope.Connection)
	if err == nil && conn == nil {
		err = fault.Field("connection", "there is no connection %q", scope.Connection)
	}
	return "connection", err
}

// includes tells whether a role is of the scope.
func (c EmergencyScope) includes(role, connection string) bool {
	if c.Connection != "" {
		return c.Connection == connection
	}
	return glob.Glob(c.Roles, role)
}

// leaking tells whether a version works for whoever holds it, or may.
func leaking(v rotation.Version) bool {
	return v.State.Live() || v.State == rotation.Disabled || v.State == rotation.Standby && v.Staged || v.Compromised && !v.ProvenDead()
}

// leaks tells whether a role has such a version.
func (s *subject) leaks() bool { return slices.ContainsFunc(s.state.Versions, leaking) }
