package backend

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// Of each channel it is stored which alarms it was told of, and what they are about, so that
// it hears of their end, and of one alarm where one cause hit many roles.

// rolesOf are whom a message is about, in the order of their names.
func rolesOf(q *store.Queued) (roles []string) {
	if q.Role != "" {
		roles = append(roles, q.Role)
	}
	for _, other := range q.Others {
		roles = append(roles, other.Role)
	}
	slices.Sort(roles)
	return roles
}

// holders are what an alarm of this kind is about: roles, or what no role can be named.
func (k EventKind) holders(q *store.Queued) []string {
	switch k.alarm {
	case ofRole:
		return rolesOf(q)
	case ofIncident, ofAChannel:
		return []string{k.alarmKey(q.Role, q.Event.Data)}
	default:
		return nil
	}
}

// opens tells whether a channel knows of an alarm of any of them.
func opens(d store.Deliveries, holders []string) bool {
	return slices.ContainsFunc(holders, func(h string) bool { return d.Alarms[h] != "" })
}

// concernsNobody tells whether a message is the end of what the channel was never told of,
// and does not ask for by its filters.
func (e *Engine) concernsNobody(c *store.Channel, q *store.Queued) bool {
	kind := eventKind(q.Event.Type)
	return kind.closes && !opens(e.outbox.fares(c.Name), kind.holders(q)) && !wants(c, q.Role, q.Event, kind)
}

// alarms sets which alarm a message raises, and which it ends. What is raised is stored
// before it is told.
func (e *Engine) alarms(ctx context.Context, channel string, q *store.Queued, m *notify.Message) error {
	fares, kind := e.outbox.fares(channel), eventKind(q.Event.Type)
	holders, key := kind.holders(q), kind.alarmKey(q.Role, q.Event.Data)
	switch {
	case kind.closes:
		m.Over = ended(holders, "", fares.Alarms)
		if len(m.Over) == 0 && len(holders) == 1 && !opens(fares, holders) {
			m.Over = []string{key}
		}
		return nil
	case len(holders) == 0: // no alarm, or one that nothing ends
		m.Alarm = key
		return nil
	case fares.Alarms[holders[0]] != "":
		m.Alarm = fares.Alarms[holders[0]]
	case len(holders) > 1:
		m.Alarm = fmt.Sprintf("cause/%x", sha256.Sum256([]byte(kind.same(q.Event))))[:40]
	default:
		m.Alarm = key
	}
	m.Over = ended(holders, m.Alarm, fares.Alarms)
	if !slices.ContainsFunc(holders, func(h string) bool { return fares.Alarms[h] != m.Alarm }) {
		return nil
	}
	return e.changeFares(ctx, channel, func(d *store.Deliveries) {
		if d.Alarms == nil {
			d.Alarms = map[string]string{}
		}
		for _, holder := range holders {
			d.Alarms[holder] = m.Alarm
		}
	})
}

// ended are the alarms that are about nothing any more once holders have another one, or
// none.
func ended(holders []string, another string, open map[string]string) (keys []string) {
	after := maps.Clone(open)
	for _, holder := range holders {
		delete(after, holder)
	}
	still := slices.Collect(maps.Values(after))
	for _, holder := range holders {
		if was := open[holder]; was != "" && was != another && !slices.Contains(still, was) {
			keys = append(keys, was)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}
