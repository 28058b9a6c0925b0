package backend

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ryanuber/go-glob"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// ChannelOptions declares what channels of every type have.
func ChannelOptions() option.Set {
	return option.Set{
		{Name: "events", Type: option.List, Default: []string{"*"}, Help: "Names of events, with * as a wildcard, that the channel is told of, such as rotation.*."},
		{Name: "severity", Type: option.String, Default: string(notify.Info), Help: "The least severity that the channel is told of: info, warning, error or critical."},
		{Name: "roles", Type: option.List, Default: []string{"*"}, Help: "Names of roles, with * as a wildcard, of which the channel is told."},
	}
}

type channelCommon struct {
	Events   []string `json:"events"`
	Severity string   `json:"severity"`
	Roles    []string `json:"roles"`
}

// ChannelView is a stored channel without its secrets, and how it fares.
type ChannelView struct {
	Name   string
	Type   string
	Values option.Values // common and own options, defaults included
	// Waiting are the messages on their way.
	Waiting int
	store.Deliveries
}

// ofChannel begins the name under which a channel has its place in the index and among the
// couriers; no role may have a space in its name.
const ofChannel = "channel "

func channelLock(name string) string { return ofChannel + name }

func (e *Engine) channelKind(typ string) (notify.Kind, error) {
	return kindNamed(e.channelKinds, "channel", typ)
}

func (e *Engine) channel(ctx context.Context, name string) (*store.Channel, error) {
	doc, err := e.store.Channel(ctx, name)
	if err == nil && doc == nil {
		return nil, fault.New(fault.NotFound, "there is no channel %q", name)
	}
	return doc, err
}

// ChannelType is the type of a stored channel.
func (e *Engine) ChannelType(ctx context.Context, name string) (string, error) {
	doc, err := e.channel(ctx, name)
	if err != nil {
		return "", err
	}
	return doc.Type, nil
}

// ChannelNames lists the channels.
func (e *Engine) ChannelNames(ctx context.Context) ([]string, error) { return e.store.Channels(ctx) }

// Channel shows a channel without its secrets.
func (e *Engine) Channel(ctx context.Context, name string) (*ChannelView, error) {
	doc, err := e.channel(ctx, name)
	if err != nil {
		return nil, err
	}
	kind, err := e.channelKind(doc.Type)
	if err != nil {
		return nil, err
	}
	fares, err := e.store.Deliveries(ctx, name)
	if err != nil {
		return nil, err
	}
	keys, err := e.store.OutboxKeys(ctx, name)
	if err != nil {
		return nil, err
	}
	values := kind.Options().WithDefaults(doc.Values)
	values["events"], values["severity"], values["roles"] = doc.Events, doc.Severity, doc.Roles
	view := &ChannelView{Name: name, Type: doc.Type, Values: values, Waiting: len(keys)}
	if fares != nil {
		view.Deliveries = *fares
	}
	return view, nil
}

// WriteChannel stores a channel: what is left out keeps its value, but a secret does not
// follow an address. What waits for it is tried at once.
func (e *Engine) WriteChannel(ctx context.Context, w Write) (warnings []string, err error) {
	unlock, err := e.locks.lock(ctx, channelLock(w.Name))
	if err != nil {
		return nil, err
	}
	defer unlock()
	before, err := e.store.Channel(ctx, w.Name)
	if err != nil {
		return nil, err
	}
	doc, kind, err := e.mergeChannel(before, w)
	if err != nil {
		return nil, err
	}
	if err := kind.Check(channelOf(doc)); err != nil {
		return nil, err
	}
	// Also after an error: the Put may have gone through, only its answer was lost.
	defer e.forgetChannels()
	if err := e.store.PutChannel(ctx, doc); err != nil {
		return nil, err
	}
	e.tryNow(w.Name)
	return e.matchesNone(ctx, doc), nil
}

func channelOf(doc *store.Channel) *notify.Channel {
	return &notify.Channel{Name: doc.Name, Values: doc.Values, Secrets: secret.NewMap(doc.Secrets)}
}

func (e *Engine) mergeChannel(before *store.Channel, w Write) (*store.Channel, notify.Kind, error) {
	given := maps.Clone(w.Given)
	typ, _ := given["type"].(string)
	delete(given, "type")
	doc := &store.Channel{Name: w.Name, Type: typ, Values: option.Values{}, Secrets: map[string]string{}}
	common := channelCommon{Events: []string{"*"}, Severity: string(notify.Info), Roles: []string{"*"}}
	if before != nil {
		if typ != "" && typ != before.Type {
			return nil, nil, fault.Field("type", "is %s and cannot be changed: make another channel", before.Type)
		}
		doc.Type, doc.Values, doc.Secrets = before.Type, maps.Clone(before.Values), maps.Clone(before.Secrets)
		common = channelCommon{Events: before.Events, Severity: before.Severity, Roles: before.Roles}
	}
	kind, err := e.channelKind(doc.Type)
	if err != nil {
		return nil, nil, err
	}
	shared, own := split(ChannelOptions(), given)
	if err := overlay(ChannelOptions(), &common, shared); err != nil {
		return nil, nil, err
	}
	if err := checkFilters(&common); err != nil {
		return nil, nil, err
	}
	doc.Events, doc.Severity, doc.Roles = common.Events, common.Severity, common.Roles
	if err := mergeValues(kind.Options(), doc.Type, doc.Values, own); err != nil {
		return nil, nil, err
	}
	if before != nil {
		if err := secretsAgain(kind.Options(), before.Values, doc.Values, before.Secrets, w.Secrets); err != nil {
			return nil, nil, err
		}
	}
	maps.Copy(doc.Secrets, w.Secrets.Reveal())
	return doc, kind, nil
}

// checkFilters refuses filters that let nothing through.
func checkFilters(c *channelCommon) error {
	if !slices.Contains(notify.Severities, notify.Severity(c.Severity)) {
		return fault.Field("severity", "must be info, warning, error or critical")
	}
	if len(c.Events) == 0 || len(c.Roles) == 0 {
		return fault.Field(map[bool]string{true: "events", false: "roles"}[len(c.Events) == 0], "must name something: * for all")
	}
	for _, pattern := range c.Events {
		if !slices.ContainsFunc(EventKinds, func(k EventKind) bool { return glob.Glob(pattern, k.Name) }) {
			return fault.Field("events", "%q is no event: there are %s", pattern, strings.Join(eventNames(), ", "))
		}
	}
	return nil
}

func eventNames() []string {
	names := make([]string, len(EventKinds))
	for i, k := range EventKinds {
		names[i] = k.Name
	}
	return names
}

// matchesNone warns of patterns that no role has today.
func (e *Engine) matchesNone(ctx context.Context, doc *store.Channel) (warnings []string) {
	if !e.summaries.ready() && e.rebuild(ctx) != nil {
		return nil // the channel is written; this is only a hint
	}
	all := e.summaries.all()
	for _, pattern := range doc.Roles {
		if pattern != "*" && !slices.ContainsFunc(all, func(s summary) bool { return glob.Glob(pattern, s.Name) }) {
			warnings = append(warnings, fmt.Sprintf("roles: %q matches none of the %d roles of this mount yet", pattern, len(all)))
		}
	}
	return warnings
}

// DeleteChannel removes a channel, and what waits for it.
func (e *Engine) DeleteChannel(ctx context.Context, name string) error {
	unlock, err := e.locks.lock(ctx, channelLock(name))
	if err != nil {
		return err
	}
	defer unlock()
	config, err := e.store.Config(ctx)
	if err != nil {
		return err
	}
	if slices.Contains(config.Channels, name) || slices.Contains(config.Contacts, name) {
		return fault.New(fault.Conflict, "channel %q is named by config (channels or contacts): take it out there first", name)
	}
	users, err := e.toldThrough(ctx, name)
	if err != nil {
		return err
	}
	if len(users) > 0 {
		return fault.New(fault.Conflict, "channel %q is named by the channels of %s: take it out there first", name, joinFirst(users, maxNamed))
	}
	defer e.forgetChannels()
	if err := e.store.DeleteChannel(ctx, name); err != nil {
		return err
	}
	fares := e.outbox.fares(name)
	e.outbox.drop(name)
	e.index.forget(channelLock(name))
	if fares.Told { // else the others would believe for ever that it fails
		e.forgetChannels()
		err = e.tell(ctx, about{}, channelEvent("channel.recovered", name, fares.FailingSince, e.clock.Now(), map[string]string{"lost": "0"}))
	}
	return err
}

// toldThrough names the roles that name a channel.
func (e *Engine) toldThrough(ctx context.Context, channel string) (users []string, err error) {
	names, err := e.store.Roles(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		role, err := e.store.Role(ctx, name)
		if err != nil {
			return nil, err
		}
		if role != nil && slices.Contains(role.Policy.Channels, channel) {
			users = append(users, name)
		}
	}
	return users, nil
}

// TestChannel sends a message, and answers what came of it.
func (e *Engine) TestChannel(ctx context.Context, name string, by Actor) error {
	doc, err := e.channel(ctx, name)
	if err != nil {
		return err
	}
	kind, err := e.channelKind(doc.Type)
	if err != nil {
		return err
	}
	source, err := e.source(ctx)
	if err != nil {
		return err
	}
	id, err := newID()
	if err != nil {
		return err
	}
	err = e.sendOnce(ctx, kind, doc, &notify.Message{
		ID: id, Event: "channel.test", Severity: notify.Info, Time: e.clock.Now().UTC(), Source: source,
		Summary: fmt.Sprintf("this is a test of channel %s: if you read it, the channel works", name),
		Fields:  []notify.Field{{Name: "asked for by", Value: by.DisplayName}},
	})
	if err != nil {
		return fault.New(fault.Target, "channel %q did not take the message: %s", name, notify.FailureOf(err).Reason)
	}
	e.outbox.with(name, func(c *channelQueue) { c.tested = true })
	e.tryNow(name)
	return nil
}

// tryNow lets what waits for a channel be tried at once: somebody mended it.
func (e *Engine) tryNow(channel string) {
	e.outbox.with(channel, func(c *channelQueue) { c.tryNow = true })
	e.hurry(channel)
}

// sendTimeout bounds one delivery.
const sendTimeout = 30 * time.Second

func (e *Engine) sendOnce(ctx context.Context, kind notify.Kind, doc *store.Channel, m *notify.Message) error {
	ctx, done := context.WithTimeout(ctx, sendTimeout)
	defer done()
	return kind.Send(ctx, channelOf(doc), m)
}

// allChannels are kept in memory: who is told is asked for every event.
func (e *Engine) allChannels(ctx context.Context) ([]*store.Channel, error) {
	if known := e.channels.Load(); known != nil {
		return *known, nil
	}
	since := e.channelEpoch.Load()
	names, err := e.store.Channels(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]*store.Channel, 0, len(names))
	for _, name := range names {
		doc, err := e.store.Channel(ctx, name)
		if isStorage(err) {
			return nil, err
		}
		if err != nil { // one channel's trouble is its own
			e.logger.Error("could not read a channel: it is told nothing", "channel", name, "error", err)
			continue
		}
		if doc != nil {
			doc.Secrets = nil // read when they are needed
			all = append(all, doc)
		}
	}
	if e.channelEpoch.Load() == since {
		e.channels.Store(&all)
	}
	if e.channelEpoch.Load() != since { // one changed while they were read
		e.channels.Store(nil)
	}
	return all, nil
}

// forgetChannels lets them be read anew: one changed.
func (e *Engine) forgetChannels() {
	e.channelEpoch.Add(1)
	e.channels.Store(nil)
}

// about is what an event is of: a role, an incident or, where it has neither, the mount.
type about struct {
	role     *store.Role
	incident *store.IncidentHeader
}

// name is that of the role, and empty for all else.
func (a about) name() string {
	if a.role == nil {
		return ""
	}
	return a.role.Name
}

// concerns tells whether a channel is there for what an event is of.
func (a about) concerns(c *store.Channel, config *store.Config) bool {
	switch {
	case a.incident != nil:
		return slices.Contains(a.incident.Channels, c.Name)
	case a.role != nil:
		return hears(c, a.role, config)
	default: // a channel's trouble: any other may be the only one that is read
		return true
	}
}

// hears tells whether a channel is there for a role.
func hears(c *store.Channel, role *store.Role, config *store.Config) bool {
	chosen := config.Channels
	if len(role.Policy.Channels) > 0 {
		chosen = role.Policy.Channels
	}
	return (len(chosen) == 0 || slices.Contains(chosen, c.Name)) && matches(c.Roles, role.Name)
}

// channelsOf are the channels that are there for any of some roles; all where none of them would
// be told that they leaked: that must not stay unheard.
func (e *Engine) channelsOf(ctx context.Context, roles []*subject) (names []string, err error) {
	all, err := e.allChannels(ctx)
	if err != nil {
		return nil, err
	}
	config, declared, heard := e.config.Load(), rotation.Event{Type: "emergency.declared"}, false
	var every []string
	for _, c := range all {
		every = append(every, c.Name)
		if slices.ContainsFunc(roles, func(s *subject) bool { return hears(c, s.role, config) }) {
			names = append(names, c.Name)
			heard = heard || wants(c, declared, kindOf(declared))
		}
	}
	if !heard {
		return every, nil
	}
	return names, nil
}

// listening returns the channels that are to be told an event.
func (e *Engine) listening(ctx context.Context, of about, ev rotation.Event) (names []string, err error) {
	all, err := e.allChannels(ctx)
	if err != nil {
		return nil, err
	}
	config, kind := e.config.Load(), kindOf(ev)
	for _, c := range all {
		switch {
		case ev.Channel != "":
			if ev.Channel != c.Name {
				continue
			}
		case slices.Contains(line(config, kind, ev), c.Name):
		case kind.closes: // whoever was told of the beginning: its courier knows
		case !of.concerns(c, config) || !wants(c, ev, kind):
			continue
		}
		names = append(names, c.Name)
	}
	return names, nil
}

// line are the contacts who were told of an alarm, or are to be told first: how it goes on
// and ends is told them too, whatever else they want to know.
func line(config *store.Config, kind EventKind, ev rotation.Event) []string {
	switch kind.alarm {
	case ofAChannel: // any of them may be the only one that is read
		return slices.DeleteFunc(slices.Clone(config.Contacts), func(name string) bool { return name == ev.Data["channel"] })
	case ofRole, ofIncident:
	default:
		return nil
	}
	told := 1
	if n := 0; ev.Data["contacts"] != "" {
		if _, err := fmt.Sscan(ev.Data["contacts"], &n); err == nil {
			told = n
		}
	}
	return config.Contacts[:min(max(told, 0), len(config.Contacts))]
}

// wants tells whether a channel's filters of events let one through.
func wants(c *store.Channel, ev rotation.Event, kind EventKind) bool {
	if kind.alarm == ofAChannel && ev.Data["channel"] == c.Name { // it would not hear of it
		return false
	}
	return matches(c.Events, ev.Type) && kind.Severity.AtLeast(notify.Severity(c.Severity))
}

// checkChannels refuses names of channels that do not exist.
func (e *Engine) checkChannels(ctx context.Context, field string, names []string) error {
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			return fault.Field(field, "names %q twice", name)
		}
		doc, err := e.store.Channel(ctx, name)
		if err != nil {
			return err
		}
		if doc == nil {
			return fault.Field(field, "names %q, which is no channel: write channels/%s first", name, name)
		}
	}
	return nil
}

// channelLine tells whether anybody would hear of it should a rotation of the role fail.
func (e *Engine) channelLine(ctx context.Context, role *store.Role) (rotator.Line, error) {
	told, err := e.listening(ctx, about{role: role}, rotation.Event{Type: "rotation.failed"})
	if err != nil {
		return rotator.Line{}, err
	}
	failing := e.outbox.failing()
	silent := slices.DeleteFunc(slices.Clone(told), func(name string) bool { return !slices.Contains(failing, name) })
	switch {
	case len(told) == 0:
		return rotator.Line{Check: checkChannels, Result: rotator.Warn, Detail: "no channel is told should the rotation fail: write channels/:name"}, nil
	case len(silent) > 0:
		return rotator.Line{Check: checkChannels, Result: rotator.Warn, Detail: "do not take messages: " + joinFirst(silent, maxNamed)}, nil
	default:
		return rotator.Line{Check: checkChannels, Result: rotator.Pass, Detail: "told should the rotation fail: " + joinFirst(told, maxNamed)}, nil
	}
}
