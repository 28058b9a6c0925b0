package backend

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/outbox"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// maxCouriers bounds the channels that are told something at the same time. They have
// workers of their own: a channel that hangs delays no rotation.
const maxCouriers = 32

// failingAfter is after how many failures in a row the other channels are told.
const failingAfter = 2

// deliver tells a channel what waits for it, one message after another, until nothing is
// due, and notes when to look again. There is one courier for each channel.
func (e *Engine) deliver(ctx context.Context, channel string) {
	defer e.survive("channel", channel, channelLock(channel))
	for ctx.Err() == nil && e.mayAct() {
		next, err := e.deliverOnce(ctx, channel)
		switch {
		case err == nil && next == nil:
			continue
		case err == nil:
			e.index.set(channelLock(channel), *next)
			e.nudge()
		case errors.Is(err, errNoChannel):
			e.outbox.drop(channel)
			e.index.forget(channelLock(channel))
		case ctx.Err() == nil:
			e.logger.Error("could not go on with a channel", "channel", channel, "error", err)
			e.index.set(channelLock(channel), e.clock.Now().Add(time.Minute))
			e.nudge()
		}
		return
	}
}

// deliverOnce does the one thing that is due for a channel, or says when to look again.
func (e *Engine) deliverOnce(ctx context.Context, channel string) (next *time.Time, err error) {
	doc, err := e.store.Channel(ctx, channel)
	if err != nil {
		return nil, err
	}
	if doc == nil {
		return nil, errNoChannel
	}
	kind, err := e.channelKind(doc.Type)
	if err != nil {
		return nil, err
	}
	if err := e.readOutbox(ctx, channel); err != nil {
		return nil, err
	}
	fares := e.outbox.fares(channel)
	var batch []outbox.Entry
	var surplus string
	var at time.Time
	var tested bool
	now := e.clock.Now()
	e.outbox.with(channel, func(c *channelQueue) {
		batch, at = c.Together(), c.Next()
		if at.Sub(now) > outbox.MaxWait { // the clock was set back
			at = now
		}
		tested = c.tested
		if !c.tryNow {
			at = later(at, c.fares.NextTime)
		}
		if fares.Failures > 0 { // one that takes messages takes many in one
			surplus = c.Surplus(maxWaiting)
		}
	})
	if few, ok := kind.(notify.EndsOneByOne); ok {
		batch = endingFew(batch, fares.Alarms, few.MaxEnded())
	}
	switch {
	case len(fares.Events) > 0:
		return nil, e.tellOfChannel(ctx, channel, fares.Events)
	case len(batch) == 0 && tested && fares.Failures > 0: // with no message that could say so
		return nil, e.recovered(ctx, channel, nil)
	case len(batch) == 0:
		return &time.Time{}, nil
	case surplus != "":
		return nil, e.giveUp(ctx, channel, surplus, fmt.Sprintf("more than %d messages waited", maxWaiting))
	case now.Sub(batch[0].QueuedTime) >= outbox.MaxAge:
		return nil, e.giveUp(ctx, channel, batch[0].Key, fmt.Sprintf("it waited for %s", outbox.MaxAge))
	case at.After(now):
		return &at, nil
	}
	return nil, e.send(ctx, kind, doc, batch)
}

// send delivers one message, for all events that go together.
func (e *Engine) send(ctx context.Context, kind notify.Kind, doc *store.Channel, batch []outbox.Entry) error {
	key := batch[0].Key
	q, err := e.putTogether(ctx, doc.Name, batch)
	if err != nil {
		return err
	}
	if q == nil {
		e.outbox.with(doc.Name, func(c *channelQueue) { c.Remove(key) })
		return nil
	}
	incident, err := e.incidentOf(ctx, q)
	if err != nil {
		return err
	}
	if e.concernsNobody(doc, q, incident) {
		return e.done(ctx, doc.Name, key)
	}
	if err := e.decideAlarms(ctx, doc.Name, key, q); err != nil {
		return err
	}
	m, err := e.message(ctx, q, incident)
	if err != nil {
		return err
	}
	e.outbox.with(doc.Name, func(c *channelQueue) { c.Fix(key) })
	sent := e.sendOnce(ctx, kind, doc, m)
	if sent != nil && ctx.Err() != nil {
		return ctx.Err() // we are ending; it is told again
	}
	now := e.clock.Now()
	e.outbox.with(doc.Name, func(c *channelQueue) { c.Sent(batch[0].Same, now); c.tryNow, c.tested = false, false })
	told := ""
	if sent != nil {
		why := notify.FailureOf(sent)
		if !why.Partial {
			return e.sendFailed(ctx, doc.Name, key, q, why)
		}
		told = why.Reason
		e.logger.Warn("a channel told not all of its people", "channel", doc.Name, "event", q.Event.Type, "reason", told)
	}
	if err := e.recovered(ctx, doc.Name, kindOf(q.Event).ends(q)); err != nil {
		return err
	}
	if err := e.recordTold(ctx, doc.Name, q, store.ToldDelivered, told); err != nil {
		return err
	}
	return e.done(ctx, doc.Name, key)
}

// putTogether stores which events go with the first one, before it is sent: whatever
// happens then, the same message is sent again under the same id. Their own documents go
// afterwards.
func (e *Engine) putTogether(ctx context.Context, channel string, batch []outbox.Entry) (*store.Queued, error) {
	key := batch[0].Key
	q, err := e.inLine(ctx, channel, key)
	if err != nil || q == nil || len(batch) == 1 {
		return q, err
	}
	gone := make([]string, 0, len(batch)-1)
	for _, entry := range batch[1:] {
		q.Others = append(q.Others, store.Other{Key: entry.Key, Role: entry.Role})
		gone = append(gone, entry.Key)
	}
	if err := e.store.PutQueued(ctx, channel, key, q); err != nil {
		// It may have gone through: storage knows.
		e.outbox.drop(channel)
		return nil, err
	}
	e.outbox.with(channel, func(c *channelQueue) { c.Remove(gone...) })
	for _, other := range gone {
		if err := e.store.DeleteQueued(ctx, channel, other); err != nil {
			e.outbox.drop(channel)
			return nil, err
		}
	}
	return q, nil
}

// done takes a message out of the outbox that was told, or given up.
func (e *Engine) done(ctx context.Context, channel, key string) error {
	if err := e.store.DeleteQueued(ctx, channel, key); err != nil {
		return err
	}
	e.outbox.with(channel, func(c *channelQueue) { c.Remove(key) })
	return nil
}

// sendFailed notes a failure. What the service will not take ever goes out of the way of
// what waits behind it, after it had its chances; all else is tried until it is too old.
func (e *Engine) sendFailed(ctx context.Context, channel, key string, q *store.Queued, why *notify.Failure) error {
	e.logger.Warn("a channel did not take a message", "channel", channel, "event", q.Event.Type, "reason", why.Reason)
	now, refused := e.clock.Now(), false
	err := e.changeFares(ctx, channel, func(d *store.Deliveries) {
		d.Failures++
		if d.FailingSince.IsZero() {
			d.FailingSince = now
		}
		d.LastError, d.Attempted = why.Reason, key
		d.NextTime = now.Add(outbox.Backoff(d.Failures, why.RetryAfter))
		if !d.Told && (d.Failures >= failingAfter || why.Permanent) {
			d.Told = true
			d.Events = append(d.Events, channelEvent("channel.failing", channel, d.FailingSince, now, map[string]string{"reason": why.Reason}))
		}
		if refused = why.Permanent && d.Failures > failingAfter; refused {
			lose(d, q, why.Reason, now)
			d.Failures, d.NextTime = failingAfter-1, now // the next one may fare better
		}
	})
	if err != nil {
		return err
	}
	if !refused {
		return e.recordTold(ctx, channel, q, store.ToldWaiting, why.Reason)
	}
	if err := e.recordTold(ctx, channel, q, store.ToldRefused, why.Reason); err != nil {
		return err
	}
	return e.done(ctx, channel, key)
}

// recovered notes that a channel takes messages again, and whose alarms it knows to be over.
func (e *Engine) recovered(ctx context.Context, channel string, over []string) error {
	fares := e.outbox.fares(channel)
	if fares.Failures == 0 && !fares.Told && !opens(fares, over) {
		return nil
	}
	now := e.clock.Now()
	return e.changeFares(ctx, channel, func(d *store.Deliveries) {
		if d.Told {
			d.Events = append(d.Events, channelEvent("channel.recovered", channel, d.FailingSince, now, map[string]string{"lost": fmt.Sprint(lostSince(d, d.FailingSince))}))
		}
		d.Failures, d.FailingSince, d.NextTime, d.LastError, d.Told, d.Attempted = 0, time.Time{}, time.Time{}, "", false, ""
		for _, holder := range over {
			delete(d.Alarms, holder)
		}
	})
}

// giveUp records that a message is not delivered any more.
func (e *Engine) giveUp(ctx context.Context, channel, key, reason string) error {
	q, err := e.inLine(ctx, channel, key)
	if err != nil {
		return err
	}
	if q != nil {
		now := e.clock.Now()
		if err := e.changeFares(ctx, channel, func(d *store.Deliveries) { lose(d, q, reason, now) }); err != nil {
			return err
		}
		if err := e.recordTold(ctx, channel, q, store.ToldExpired, reason); err != nil {
			return err
		}
		e.logger.Error("a message was not delivered", "channel", channel, "event", q.Event.Type, "role", q.Role, "reason", reason)
	}
	return e.done(ctx, channel, key)
}

// tellOfChannel hands a channel's own events to the others.
func (e *Engine) tellOfChannel(ctx context.Context, channel string, events []rotation.Event) error {
	for _, ev := range events {
		if err := e.tell(ctx, about{}, ev); err != nil {
			return err
		}
	}
	return e.changeFares(ctx, channel, func(d *store.Deliveries) { d.Events = d.Events[len(events):] })
}

// message makes what a channel is told of an event. incident is nil where it is of none.
func (e *Engine) message(ctx context.Context, q *store.Queued, incident *store.IncidentHeader) (*notify.Message, error) {
	source, err := e.source(ctx)
	if err != nil {
		return nil, err
	}
	kind, ev := kindOf(q.Event), q.Event
	roles := rolesOf(q)
	if incident != nil {
		roles = rolesOfIncident(incident)
	}
	m := &notify.Message{
		ID: messageID(source, q), Event: ev.Type, Severity: kind.Severity, Time: ev.Time.UTC(), Source: source, Roles: roles,
		Summary: kind.summary(roles, ev.Data), IncidentID: ev.Data["incident_id"], Link: e.config.Load().ExternalURL,
	}
	for _, name := range slices.Sorted(maps.Keys(ev.Data)) {
		own := len(q.Others) > 0 && name != kind.cause // of the first one alone
		// What the summary says already, and what only we need.
		silent := name == "contacts" || name == "roles" || name == rotation.AlarmCause
		if !silent && !own && ev.Data[name] != "" {
			m.Fields = append(m.Fields, notify.Field{Name: name, Value: ev.Data[name]})
		}
	}
	if ev.Type == "version.activated" && len(roles) == 1 { // so that a consumer can read at once
		m.Fields = append(m.Fields, notify.Field{Name: "path", Value: "creds/" + roles[0]})
	}
	m.Alarm, m.Over = q.Alarm, q.Over
	return m, nil
}

// messageID follows from the event, and from those that go with it: it stays the same
// however often the message is sent.
func messageID(source string, q *store.Queued) string {
	of := []string{source, q.Role, q.Event.ID}
	for _, other := range q.Others {
		of = append(of, other.Key)
	}
	sum := sha256.Sum256([]byte(strings.Join(of, "\x00")))
	return fmt.Sprintf("evt_%x", sum[:16])
}

// source names this mount in messages, as a URI reference.
func (e *Engine) source(ctx context.Context) (string, error) {
	i, err := e.identity(ctx)
	if err != nil {
		return "", err
	}
	return "/vault-plugin-secrets-rotation/" + i.ID, nil
}
