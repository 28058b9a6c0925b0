package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// createWithin bounds how long a role write waits for its first version.
const createWithin = 30 * time.Second

// cleanWithin bounds how long a failed creation waits for its remains to go, so
// that the operator can try again at once.
const cleanWithin = 5 * time.Second

// RoleNames lists the roles.
func (e *Engine) RoleNames(ctx context.Context) ([]string, error) { return e.store.Roles(ctx) }

// everyName lists all roles, and the deleted ones that are not gone.
func (e *Engine) everyName(ctx context.Context) ([]string, error) {
	names, err := e.store.Roles(ctx)
	if err != nil {
		return nil, err
	}
	ended, err := e.store.Tombstones(ctx)
	if err != nil {
		return nil, err
	}
	names = append(names, ended...)
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Role returns the operator's intent.
func (e *Engine) Role(ctx context.Context, name string) (*store.Role, error) {
	s, err := e.loadLive(ctx, name)
	if err != nil {
		return nil, err
	}
	if kind, ok := e.rotators[s.role.Type]; ok {
		s.role.Values = kind.Kind().Options.WithDefaults(s.role.Values)
	}
	return s.role, nil
}

// WriteRole makes a role, and its first version current before it answers; or it
// changes the policy of one. A creation that fails leaves no role.
func (e *Engine) WriteRole(ctx context.Context, w Write) (*RoleWritten, error) {
	before, err := e.loadLive(ctx, w.Name)
	if err != nil && !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	var stored *store.Role
	if before != nil {
		stored = before.role
	}
	role, warnings, err := e.mergeRole(ctx, stored, w)
	if err != nil {
		return nil, err
	}
	told, err := e.tryDependents(ctx, before, role)
	if err != nil {
		return nil, err
	}
	warnings = append(warnings, told...)
	if stored != nil {
		if e.imports(role, w.Secrets) {
			warnings = append(warnings, "the secret to take over was not used and is not kept: a role takes over what exists when it is made, and only then")
		}
		return e.changeRole(ctx, stored, role, warnings)
	}
	return e.createRole(ctx, role, w, warnings)
}

// mergeRole lays what was given over what is stored, and refuses what is wrong.
func (e *Engine) mergeRole(ctx context.Context, before *store.Role, w Write) (*store.Role, []string, error) {
	given := maps.Clone(w.Given)
	typ, _ := given["type"].(string)
	connection, named := given["connection"].(string)
	delete(given, "type")
	delete(given, "connection")
	kind, err := e.roleKind(before, typ)
	if err != nil {
		return nil, nil, err
	}
	k := kind.Kind()
	role := &store.Role{Name: w.Name, Type: k.Name, Connection: connection, Values: option.Values{}, CreatedTime: e.clock.Now(), Policy: defaultPolicy(k)}
	if before != nil {
		if named && connection != before.Connection {
			return nil, nil, fault.Field("connection", "is %q and cannot be changed: the role's versions live there", before.Connection)
		}
		role.Connection, role.Values, role.CreatedTime, role.Policy = before.Connection, maps.Clone(before.Values), before.CreatedTime, before.Policy
	}
	shared, own := split(RoleOptions(), given)
	if err := mergeValues(k.Options, k.Name, role.Values, own); err != nil {
		return nil, nil, err
	}
	if err := nameConnection(kind, role); err != nil {
		return nil, nil, err
	}
	// After the kind's own values: whether grace applies may depend on them.
	followGrace(kind, before, role)
	if err := e.mergePolicy(kind, role, shared); err != nil {
		return nil, nil, err
	}
	if before != nil {
		if fixed := k.Options.Changed(before.Values, role.Values, func(o option.Option) bool { return o.Immutable }); len(fixed) > 0 {
			return nil, nil, fault.Field(fixed[0], "cannot be changed once the role exists: make another role")
		}
	}
	warnings, err := e.checkRole(ctx, kind, before, role, w)
	return role, warnings, err
}

func (e *Engine) roleKind(before *store.Role, typ string) (rotator.Rotator, error) {
	if before != nil {
		if typ != "" && typ != before.Type {
			return nil, fault.Field("type", "is %s and cannot be changed: make another role", before.Type)
		}
		return e.kindOf(before.Type)
	}
	if kind, ok := e.rotators[typ]; ok {
		return kind, nil
	}
	known := strings.Join(slices.Sorted(maps.Keys(e.rotators)), ", ")
	if typ == "" {
		return nil, fault.Field("type", "is required: one of %s", known)
	}
	return nil, fault.Field("type", "%q is not a type of role: use one of %s", typ, known)
}

// soleValues refuses what only one role may have and another one has.
func (e *Engine) soleValues(ctx context.Context, k rotator.Kind, role *store.Role) error {
	for _, o := range k.Options {
		value := role.Values[o.Name]
		if !o.Sole || value == nil || value == "" {
			continue
		}
		name, err := e.otherRole(ctx, role, func(other *store.Role) bool {
			return other.Type == role.Type && reflect.DeepEqual(other.Values[o.Name], value)
		})
		if err != nil {
			return err
		}
		if name != "" {
			return fault.Field(o.Name, "%v is what the role %q has: it can be of one role alone", value, name)
		}
	}
	return nil
}

// otherRole names one other than this that is alike in some way; "" for none.
func (e *Engine) otherRole(ctx context.Context, role *store.Role, alike func(other *store.Role) bool) (string, error) {
	names, err := e.store.Roles(ctx)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		other, err := e.store.Role(ctx, name)
		if isStorage(err) {
			return "", err
		}
		if err == nil && other != nil && name != role.Name && alike(other) {
			return name, nil
		}
	}
	return "", nil
}

// checkRole asks the connection and the kind.
func (e *Engine) checkRole(ctx context.Context, kind rotator.Rotator, before, role *store.Role, w Write) ([]string, error) {
	conn, err := e.roleConnection(ctx, kind, role)
	if err != nil {
		return nil, err
	}
	if d, ok := kind.(rotator.Defaulter); ok && before == nil {
		defaults, err := d.Defaults(roleView(role, conn))
		if err != nil {
			return nil, err
		}
		for name, value := range defaults {
			role.Values[name] = value
		}
	}
	if err := e.checkChannels(ctx, "channels", role.Policy.Channels); err != nil {
		return nil, err
	}
	if err := e.checkDependents(ctx, kind, before, role); err != nil {
		return nil, err
	}
	if before == nil {
		if err := e.soleValues(ctx, kind.Kind(), role); err != nil {
			return nil, err
		}
	}
	after := roleView(role, conn)
	after.Secrets = w.Secrets
	var was *rotator.Role
	if before != nil {
		was = roleView(before, conn)
	}
	if err := kind.CheckRole(was, after); err != nil {
		return nil, err
	}
	if _, err := dataPolicyOf(kind, role); err != nil {
		return nil, err
	}
	if warner, ok := kind.(rotator.Warner); ok {
		return warner.Warnings(after), nil
	}
	return nil, nil
}

// nameConnection lets a role have the connection that the kind's own options name.
func nameConnection(kind rotator.Rotator, role *store.Role) error {
	c, ok := kind.(rotator.Connector)
	if !ok {
		return nil
	}
	name, _ := c.ConnectionOf(role.Values)
	if name == "" || role.Connection == name {
		return nil
	}
	if role.Connection != "" {
		return fault.Field("connection", "is named by another field, as %q: leave it out", name)
	}
	role.Connection = name
	return nil
}

// connectionTypes are those that a role's connection may have.
func connectionTypes(kind rotator.Rotator, role *store.Role) []string {
	if c, ok := kind.(rotator.Connector); ok {
		if name, types := c.ConnectionOf(role.Values); name != "" {
			return types
		}
	}
	return kind.Kind().ConnectionTypes
}

func (e *Engine) roleConnection(ctx context.Context, kind rotator.Rotator, role *store.Role) (*store.Connection, error) {
	k, types := kind.Kind(), connectionTypes(kind, role)
	if len(types) == 0 {
		if role.Connection != "" {
			return nil, fault.Field("connection", "is not a field of type %s: it needs none", k.Name)
		}
		return nil, nil
	}
	if role.Connection == "" {
		return nil, fault.Field("connection", "is required: the name of a connection of type %s", strings.Join(types, " or "))
	}
	doc, err := e.connectionNamed(ctx, role.Connection)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(types, doc.Type) {
		return nil, fault.Field("connection", "%q is of type %s: a role of type %s needs %s", role.Connection, doc.Type, k.Name, strings.Join(types, " or "))
	}
	return doc, admitted(doc, role.Name)
}

// connectionNamed reads the connection that a request names.
func (e *Engine) connectionNamed(ctx context.Context, name string) (*store.Connection, error) {
	doc, err := e.store.Connection(ctx, name)
	if err == nil && doc == nil {
		return nil, fault.Field("connection", "there is no connection %q: write connections/%s first", name, name)
	}
	return doc, err
}

// admitted refuses a role that may not use a connection.
func admitted(doc *store.Connection, role string) error {
	if !allowsRole(doc, role) {
		return fault.Field("connection", "%q does not allow the role %q: see its allowed_roles", doc.Name, role)
	}
	return nil
}

// changeRole stores a changed policy. Times derived from it follow in the
// background, from the policy's fingerprint.
func (e *Engine) changeRole(ctx context.Context, before, role *store.Role, warnings []string) (*RoleWritten, error) {
	if err := e.tryValues(ctx, before, role); err != nil {
		return nil, err
	}
	unlock, err := e.locks.lock(ctx, role.Name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	now, err := e.loadLive(ctx, role.Name)
	if err != nil {
		return nil, err
	}
	if !reflect.DeepEqual(now.role, before) {
		return nil, fault.New(fault.Conflict, "role %q was changed by another request meanwhile: look at it and write again", role.Name)
	}
	defer e.cache.drop(role.Name)
	if err := e.store.PutRole(ctx, role); err != nil {
		return nil, err
	}
	e.summaries.set(e.subject(role.Name, role, now.state, false))
	e.workers.add(whenDue, role.Name)
	return &RoleWritten{Role: role, Warnings: warnings}, nil
}

// tryValues asks the target about changed options of the kind's own, as the first
// rotation of a new role does: what would fail a month later is refused now.
func (e *Engine) tryValues(ctx context.Context, before, role *store.Role) error {
	if reflect.DeepEqual(before.Values, role.Values) {
		return nil
	}
	s, err := e.loadLive(ctx, role.Name)
	if err != nil {
		return err
	}
	bounded, done := context.WithTimeout(ctx, preflightTimeout)
	defer done()
	ask := func(r *store.Role) ([]rotator.Line, error) {
		s.role = r
		lines, err := e.askKind(bounded, s)
		if errors.Is(err, errInterrupted) && ctx.Err() == nil {
			err = fault.New(fault.Unreachable, "the role was not changed: its target did not answer within %s", preflightTimeout)
		}
		return lines, err
	}
	after, err := ask(role)
	if err != nil || failures(after) == "" {
		return err
	}
	// What is wrong already is no reason against a change, which may mend it.
	lines, err := ask(before)
	if err != nil {
		return err
	}
	after = slices.DeleteFunc(after, func(line rotator.Line) bool {
		return slices.ContainsFunc(lines, func(l rotator.Line) bool { return l.Check == line.Check && l.Result == rotator.Fail })
	})
	if reasons := failures(after); reasons != "" {
		return fault.New(fault.Target, "the role was not changed: %s", reasons)
	}
	return nil
}

// createRole stores the intent of a new role and of its first rotation, and waits.
func (e *Engine) createRole(ctx context.Context, role *store.Role, w Write, warnings []string) (*RoleWritten, error) {
	if err := e.allowed(); err != nil {
		return nil, err
	}
	by, err := e.actor(ctx, w.Actor)
	if err != nil {
		return nil, err
	}
	id, err := newID()
	if err != nil {
		return nil, err
	}
	trigger := rotation.Initial
	if e.imports(role, w.Secrets) {
		trigger = rotation.Import
	}
	expected := e.waiters.expect(id)
	if err := e.storeNewRole(ctx, role, &rotation.Intent{ID: id, Trigger: trigger, At: e.clock.Now(), Attempt: 1, Actor: by}, w.Secrets); err != nil {
		e.waiters.forget(id)
		if trigger == rotation.Import && !isStorage(err) { // else the Put may have gone through
			e.memory.takeBack(role.Name, id)
		}
		return nil, err
	}
	e.workers.add(forOne, role.Name)
	r, err := e.outcome(ctx, role.Name, id, createWithin, expected)
	if waits := e.waitsForFirst(ctx, role.Name, err); waits != "" {
		return &RoleWritten{Role: role, Warnings: append(warnings, "the role has no secret yet: "+waits)}, nil
	}
	if err == nil && r.Outcome == rotation.Succeeded {
		return &RoleWritten{Role: role, Warnings: warnings, Rotation: r}, nil
	}
	if err == nil && r.Outcome == "" {
		err = e.abandon(ctx, role.Name, id)
	} else if err == nil {
		err = fault.New(fault.Target, "%s", endOf(r))
	}
	if err == nil { // readers have it already; its end is near
		return &RoleWritten{Role: role, Warnings: warnings, Rotation: r}, nil
	}
	e.awaitGone(ctx, role.Name)
	return nil, fault.New(fault.KindOf(err), "role %s was not created: %w", role.Name, err)
}

// waitsForFirst is what a person has to do before a new role has a secret; "" if nothing.
// The answer of the Put that says so may be lost.
func (e *Engine) waitsForFirst(ctx context.Context, name string, outcome error) string {
	if person := (*rotator.WaitsForPerson)(nil); errors.As(outcome, &person) {
		return person.What
	}
	if outcome == nil {
		return ""
	}
	s, err := e.load(ctx, name)
	if err != nil || s.state.Deleted || s.state.Current != 0 {
		return ""
	}
	return s.state.ActionRequired
}

// imports tells whether a new role takes over a secret that exists already.
func (e *Engine) imports(role *store.Role, secrets secret.Map) bool {
	importer, ok := e.rotators[role.Type].(rotator.Importer)
	view := roleView(role, nil)
	view.Secrets = secrets
	return ok && importer.Imports(view)
}

// endOf says how a rotation that did not succeed ended.
func endOf(r *rotation.Rotation) string {
	if r.Error != nil {
		return r.Error.Message
	}
	return fmt.Sprintf("rotation %s was %s", r.ID, r.Outcome)
}

// storeNewRole writes state, then role: until the second Put there is no role.
func (e *Engine) storeNewRole(ctx context.Context, role *store.Role, intent *rotation.Intent, secrets secret.Map) error {
	unlock, err := e.locks.lock(ctx, role.Name)
	if err != nil {
		return err
	}
	defer unlock()
	earlier, err := e.earlierRole(ctx, role)
	if err != nil {
		return err
	}
	state := &rotation.State{
		Intent: intent, Policy: fingerprint(role.Policy),
		Announce: rotation.Announce{Ahead: rotation.Duration(announceAhead(e.rotators[role.Type], role))},
		Highest:  earlier.Highest, Base: earlier.Highest, Revision: earlier.Revision, Versions: earlier.Versions, Events: earlier.Events,
	}
	defer e.cache.drop(role.Name)
	if intent.Trigger == rotation.Import {
		// Until the journal has it: whoever asked may stop waiting before.
		e.memory.hand(role.Name, intent.ID, secrets)
	}
	if err := e.store.PutState(ctx, role.Name, state); err != nil {
		return err
	}
	if err := e.store.PutRole(ctx, role); err != nil {
		return e.unsure(role.Name, errors.Join(err, e.store.DeleteRole(ctx, role.Name)))
	}
	e.summaries.set(e.subject(role.Name, role, state, false))
	if earlier.Deleted { // what it left is in the new state now, which counts from here on
		err := e.store.PutTombstone(ctx, role.Name, &store.Tombstone{Highest: earlier.Highest, Revision: earlier.Revision})
		return e.unsure(role.Name, err)
	}
	return nil
}

// earlierRole is what an earlier role of the same name left: its highest number, and the
// versions of which nothing is known but that they may have been made. Those do not keep
// the name: they are looked for under the new role.
func (e *Engine) earlierRole(ctx context.Context, role *store.Role) (*rotation.State, error) {
	s, err := e.load(ctx, role.Name)
	switch {
	case err == nil && !s.state.Deleted:
		return nil, fault.New(fault.Conflict, "role %q was made by another request meanwhile", role.Name)
	case err == nil && !s.onlySearched(role):
		return nil, fault.New(fault.Conflict, "the last versions of a deleted role %q are still being ended: wait for that, or delete it with force=true", role.Name)
	case err == nil:
		if err := e.moveToTombstone(ctx, s); err != nil { // from there it goes on should the new role not come to be
			return nil, err
		}
		var left []rotation.Version
		for _, v := range s.state.Versions {
			if !v.Settled() {
				left = append(left, v)
			} else if err := e.store.DeleteMaterial(ctx, s.name, v.Number); err != nil {
				return nil, err
			}
		}
		return &rotation.State{Highest: s.state.Highest, Revision: s.state.Revision, Versions: left, Events: s.state.Events, Deleted: true}, nil
	case !fault.Is(err, fault.NotFound):
		return nil, err
	}
	tombstone, err := e.store.Tombstone(ctx, role.Name)
	if err != nil || tombstone == nil {
		return &rotation.State{}, err
	}
	return &rotation.State{Highest: tombstone.Highest, Revision: tombstone.Revision}, nil
}

// onlySearched tells whether nothing is left of a deleted role but what is looked for, at
// the target of a role that takes its name.
func (s *subject) onlySearched(role *store.Role) bool {
	return role.Type == s.role.Type && role.Connection == s.role.Connection && len(s.state.Incidents) == 0 &&
		!slices.ContainsFunc(s.state.Versions, func(v rotation.Version) bool { return !v.Settled() && (!v.Lost() || !v.Undo) })
}

// abandon gives up a creation that takes too long.
func (e *Engine) abandon(ctx context.Context, name, id string) error {
	late := fault.New(fault.Target, "its first version was not ready within %s", createWithin)
	s, err := e.update(ctx, name, func(s *subject) error {
		r := s.state.InFlight
		switch now := e.clock.Now(); {
		case r != nil && r.ID == id && r.BeforeSwitch():
			if err := s.state.Fail(now, failureOf(late, nil), rotation.AfterFailure{}); err != nil {
				return err
			}
			return s.state.Delete(now)
		case s.state.Intent != nil && s.state.Intent.ID == id:
			return s.state.Delete(now)
		default:
			return errNoChange
		}
	})
	if err != nil {
		return err
	}
	if !s.state.Deleted {
		return nil
	}
	e.workers.interrupt(name)
	e.workers.add(forOne, name)
	return late
}

// awaitGone waits a little for what a failed creation left to be cleaned up.
func (e *Engine) awaitGone(ctx context.Context, name string) {
	if _, err := e.await(ctx, name, cleanWithin, func(s *subject) bool { return !s.state.Deleted || s.buried && s.onlySearched(s.role) }); err != nil && !fault.Is(err, fault.NotFound) {
		e.logger.Warn("could not see whether a failed role is cleaned up", "role", name, "error", err)
	}
}

// DeleteRole ends a role: what readers hold retires after its grace, and is proven
// dead; until then the name is taken. With force the objects stay outside.
func (e *Engine) DeleteRole(ctx context.Context, name string, force bool) (warnings []string, err error) {
	if force {
		return e.forceDelete(ctx, name)
	}
	s, err := e.update(ctx, name, func(s *subject) error {
		switch {
		case s.state.Deleted:
			return errNoChange
		case s.state.InFlight != nil:
			return conflictInFlight(s.state.InFlight)
		case s.state.Divergence != nil:
			return fault.New(fault.Conflict, "the role is diverged: %s; reconcile it first, or delete it with force=true, which leaves its objects at the target", s.state.Divergence.Reason)
		case s.decrypts() && noWayBack(e.rotators[s.role.Type], s.role) == "":
			return fault.New(fault.Conflict, "versions %s of %s decrypt, and whatever they encrypted could never be read again: delete it with force=true only if nothing is left", rotation.Numbers(s.readables()), s.name)
		}
		return s.state.Delete(e.clock.Now())
	})
	if fault.Is(err, fault.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, e.unsure(name, err)
	}
	e.workers.add(forOne, name)
	for i := range s.state.Versions {
		if v := &s.state.Versions[i]; v.State == rotation.Retiring {
			warnings = append(warnings, fmt.Sprintf("version %d (%s) stays valid until %s, then it is ended, by hand where only that is possible; the name cannot be used again before that", v.Number, v.Identifier, v.RetireAt.Format(timeFormat)))
		}
	}
	return warnings, nil
}

// decrypts tells whether a version is in use whose end would make data unreadable.
func (s *subject) decrypts() bool {
	return slices.ContainsFunc(s.state.Versions, func(v rotation.Version) bool { return v.KeepsData && readable(&v) })
}

// readables are the numbers of the versions that readers may get.
func (s *subject) readables() (numbers []int) {
	for i := range s.state.Versions {
		if v := &s.state.Versions[i]; readable(v) {
			numbers = append(numbers, v.Number)
		}
	}
	return numbers
}

func (e *Engine) forceDelete(ctx context.Context, name string) (warnings []string, err error) {
	if s, err := e.load(ctx, name); err == nil {
		err = e.leaveIncidents(ctx, s)
		if err != nil {
			return nil, err
		}
	} else if !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	unlock, err := e.locks.lock(ctx, name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	s, err := e.load(ctx, name)
	if fault.Is(err, fault.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for i := range s.state.Versions {
		switch v := &s.state.Versions[i]; {
		case v.KeepsData && v.HasMaterial && noWayBack(e.rotators[s.role.Type], s.role) == "":
			warnings = append(warnings, fmt.Sprintf("version %d was destroyed: what it encrypted cannot be read any more", v.Number))
		case !v.Settled():
			warnings = append(warnings, fmt.Sprintf("version %d (%s) was left at the target as it is: end it there by hand", v.Number, v.Identifier))
		}
	}
	if err := e.tellBeforeItGoes(ctx, s); err != nil {
		return nil, err
	}
	defer e.forget(name)
	defer e.workers.interrupt(name)
	return warnings, e.endRole(ctx, s)
}

// toldAll tells whether nothing is left to be told of a role.
func (e *Engine) toldAll(s *subject) bool {
	return s.state.Alarm == nil && !slices.ContainsFunc(s.state.Events, func(ev rotation.Event) bool { return !e.memory.delivered(s.name, ev.ID) })
}

// tellBeforeItGoes tells what is left to be told of a role that goes now, the end of its
// alarm with it.
func (e *Engine) tellBeforeItGoes(ctx context.Context, s *subject) error {
	s.state.ReviewAlarm(rotation.Trouble{}, false, rotation.AlarmPolicy{}, e.clock.Now())
	for _, ev := range s.state.Events {
		if e.memory.delivered(s.name, ev.ID) {
			continue
		}
		if err := e.tell(ctx, about{role: s.role}, ev); err != nil {
			return err
		}
	}
	return nil
}

// leaveIncidents lets open incidents say that a role goes and what leaked stays: nobody
// but a person will end it.
func (e *Engine) leaveIncidents(ctx context.Context, s *subject) error {
	for _, link := range s.state.Incidents {
		if s.contained(link.ID) {
			continue
		}
		if err := e.markIncident(ctx, link.ID, s.name, store.IncidentMark{Declared: true, Gone: true}); err != nil {
			return err
		}
	}
	return nil
}

// bury moves a deleted role into its tombstone, and ends the tombstone's work when
// nothing is left.
func (e *Engine) bury(ctx context.Context, s *subject) error {
	if s.state.Settled() && s.state.Recorded() { // what could not be proven is a person's to judge
		if err := e.leaveIncidents(ctx, s); err != nil {
			return err
		}
	}
	unlock, err := e.locks.lock(ctx, s.name)
	if err != nil {
		return err
	}
	defer unlock()
	if s, err = e.load(ctx, s.name); err != nil {
		return err
	}
	if !s.state.Deleted {
		return errStale
	}
	if s.state.Settled() && s.state.Recorded() && e.toldAll(s) {
		return e.endRole(ctx, s)
	}
	if s.buried {
		return errStale
	}
	return e.moveToTombstone(ctx, s)
}

// moveToTombstone does so unless it lies there already.
func (e *Engine) moveToTombstone(ctx context.Context, s *subject) error {
	if s.buried {
		return nil
	}
	s.buried = true
	defer e.waiters.changed()
	if err := e.put(ctx, s); err != nil {
		return err
	}
	return e.store.DeleteRole(ctx, s.name)
}

// endRole removes every document of a role but for its highest version number.
func (e *Engine) endRole(ctx context.Context, s *subject) error {
	defer e.waiters.changed()
	defer e.cache.drop(s.name)
	// Its end, in one Put, should the deletes below be interrupted.
	s.state.Deleted, s.state.Versions, s.state.Current, s.state.InFlight = true, nil, 0, nil
	if err := e.put(ctx, s); err != nil {
		return err
	}
	if err := e.store.DeleteAllMaterial(ctx, s.name); err != nil {
		return err
	}
	if err := e.store.DeleteAccessLog(ctx, s.name); err != nil {
		return err
	}
	// Before the role goes: an earlier tombstone must not bring it back.
	if err := e.store.PutTombstone(ctx, s.name, &store.Tombstone{Highest: s.state.Highest, Revision: s.state.Revision}); err != nil {
		return err
	}
	return e.store.DeleteRole(ctx, s.name)
}
