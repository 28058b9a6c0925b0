package backend

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/outbox"
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
		return []string{k.alarmKey(q.Role, q.Event)}
	default:
		return nil
	}
}

// ends are those of the holders whose alarm a message of this kind ends.
func (k EventKind) ends(q *store.Queued) []string {
	if !k.closes {
		return nil
	}
	return k.holders(q)
}

// opens tells whether a channel knows of an alarm of any of them.
func opens(d store.Deliveries, holders []string) bool {
	return slices.ContainsFunc(holders, func(h string) bool { return d.Alarms[h] != "" })
}

// concernsNobody tells whether a message is the end of what the channel was never told of.
// That of an incident is news all the same to a channel that is there for its roles, where its
// filters let that through.
func (e *Engine) concernsNobody(c *store.Channel, q *store.Queued, incident *store.IncidentHeader) bool {
	kind, fares := kindOf(q.Event), e.outbox.fares(c.Name)
	if !kind.closes || opens(fares, kind.holders(q)) || len(fares.Alarms) >= maxAlarms {
		return false
	}
	return incident == nil || !slices.Contains(incident.Channels, c.Name) || !wants(c, q.Event, kind)
}

// maxAlarms bounds what is kept of a channel in one document. Beyond it each alarm is of one
// message alone.
const maxAlarms = 5000

// decideAlarms says which alarm a message raises, and which it ends, and stores that before
// it is sent: it stays so when the message is sent again.
func (e *Engine) decideAlarms(ctx context.Context, channel, key string, q *store.Queued) error {
	fares, kind := e.outbox.fares(channel), kindOf(q.Event)
	holders := kind.holders(q)
	if kind.alarm != "" && q.Alarm == "" && len(q.Over) == 0 {
		q.Alarm, q.Over = alarmsOf(kind, q, holders, fares.Alarms)
		if err := e.store.PutQueued(ctx, channel, key, q); err != nil {
			return err
		}
	}
	unknown := func(h string) bool { return fares.Alarms[h] != q.Alarm }
	if kind.closes || q.Alarm == "" || len(fares.Alarms) >= maxAlarms || !slices.ContainsFunc(holders, unknown) {
		return nil
	}
	return e.changeFares(ctx, channel, func(d *store.Deliveries) {
		if d.Alarms == nil {
			d.Alarms = map[string]string{}
		}
		for _, holder := range holders {
			d.Alarms[holder] = q.Alarm
		}
	})
}

// alarmsOf says which alarm a message raises, and which it ends, given those that are open.
func alarmsOf(kind EventKind, q *store.Queued, holders []string, open map[string]string) (alarm string, over []string) {
	key := kind.alarmKey(q.Role, q.Event)
	switch {
	case kind.closes:
		over = ended(holders, "", open)
		if len(over) == 0 && len(holders) == 1 && open[holders[0]] == "" {
			over = []string{key}
		}
		return "", over
	case len(holders) == 0:
		return key, nil
	case open[holders[0]] != "":
		alarm = open[holders[0]]
	case len(holders) > 1:
		alarm = fmt.Sprintf("cause/%x", sha256.Sum256([]byte(kind.same(q.Event))))[:40]
	default:
		alarm = key
	}
	return alarm, ended(holders, alarm, open)
}

// endingFew cuts a batch so that its message ends, or takes the place of, at most so many of
// the alarms that are open. Roles that share one are no more than it.
func endingFew(batch []outbox.Entry, open map[string]string, most int) []outbox.Entry {
	if len(batch) == 0 || !batch[0].OfAlarm {
		return batch
	}
	alarms := map[string]bool{}
	for i, entry := range batch {
		if alarm := open[entry.Role]; alarm != "" {
			alarms[alarm] = true
		}
		if len(alarms) > most {
			return batch[:i]
		}
	}
	return batch
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
