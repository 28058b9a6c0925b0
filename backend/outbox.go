package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/outbox"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// queues are the outbox in memory: what waits for each channel. Storage is the truth.
type queues struct {
	mu sync.Mutex
	by map[string]*channelQueue
}

type channelQueue struct {
	outbox.Queue
	// read tells that what storage had is in the queue.
	read bool
	// tryNow lets the next attempt not wait: somebody mended the channel.
	tryNow bool
	// tested tells that the channel took a test after the last message that went to it. A
	// crash forgets it: then the next message, or another test, says that it is well.
	tested bool
	// fares is what is stored of the channel's deliveries.
	fares store.Deliveries
}

// with runs f over a channel's queue.
func (q *queues) with(channel string, f func(*channelQueue)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.by == nil {
		q.by = map[string]*channelQueue{}
	}
	if q.by[channel] == nil {
		q.by[channel] = &channelQueue{}
	}
	f(q.by[channel])
}

func (q *queues) drop(channel string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.by, channel)
}

// fares is how a channel fares.
func (q *queues) fares(channel string) (d store.Deliveries) {
	q.with(channel, func(c *channelQueue) { d = c.fares })
	return d
}

// failing lists the channels that do not take messages.
func (q *queues) failing() (names []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for name, one := range q.by {
		if one.fares.Told {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// maxWaiting bounds what waits for a channel that takes nothing. Beyond it the oldest that is
// not urgent goes, and is recorded as lost.
const maxWaiting = 5000

// tell puts an event into the outbox of every channel that is to be told, and publishes it.
// Whoever calls stored the event with what it tells of, and does this again until it
// succeeded: what is put twice is there once.
func (e *Engine) tell(ctx context.Context, of about, ev rotation.Event) error {
	name := of.name()
	key := store.OutboxKey(ev.Time, name, ev.ID)
	channels, err := e.listening(ctx, of, ev)
	if err != nil {
		return err
	}
	if e.clock.Now().Sub(ev.Time) >= outbox.MaxAge { // of a time when nobody listened
		channels = nil
	}
	for _, channel := range channels {
		handed := ev.ID + " " + channel
		if e.memory.delivered(name, handed) { // before something else failed: it may be on its way with others
			continue
		}
		q, err := e.queue(ctx, channel, key, &store.Queued{Role: name, Event: ev, QueuedTime: e.clock.Now()})
		if err != nil {
			return err
		}
		e.memory.setDelivered(name, handed)
		e.outbox.with(channel, func(c *channelQueue) { c.Add(entryOf(key, q)) })
		e.hurry(channel)
	}
	e.publish(ctx, name, ev)
	return nil
}

// queue stores what waits for a channel, unless it waits there already: others may stand in
// it, and it may have been sent. It returns what is stored.
func (e *Engine) queue(ctx context.Context, channel, key string, q *store.Queued) (*store.Queued, error) {
	waits, err := e.store.Queued(ctx, channel, key)
	if is, _ := unreadable(err); is { // it was the same event
		waits, err = nil, nil
	}
	if err != nil || waits != nil {
		return waits, err
	}
	return q, e.store.PutQueued(ctx, channel, key, q)
}

func entryOf(key string, q *store.Queued) outbox.Entry {
	kind := kindOf(q.Event)
	return outbox.Entry{
		Key: key, Role: q.Role, Same: kind.same(q.Event), QueuedTime: q.QueuedTime,
		OfAlarm: kind.alarm == ofRole, Urgent: kind.Severity == "critical", Fixed: len(q.Others) > 0 || q.Alarm != "" || len(q.Over) > 0,
	}
}

// hurry lets a courier look after a channel now.
func (e *Engine) hurry(channel string) {
	if e.mayAct() {
		e.couriers.add(forOne, channel)
	}
}

// mayAct tells whether this process acts: a paused mount may be a copy, whose news nobody
// must hear.
func (e *Engine) mayAct() bool { return e.system.Writable() && !e.config.Load().Paused }

// handOver gives a role's events to the outbox, and then takes them out of the document:
// were they to wait for its next Put, a restart months later would tell them again.
func (e *Engine) handOver(ctx context.Context, s *subject) error {
	for _, ev := range s.state.Events {
		if e.memory.delivered(s.name, ev.ID) {
			continue
		}
		if err := e.tell(ctx, about{role: s.role}, ev); err != nil {
			return err
		}
		e.memory.setDelivered(s.name, ev.ID)
	}
	if all, err := e.allChannels(ctx); err != nil || len(all) == 0 { // nobody is told: it may wait
		return err
	}
	_, err := e.update(ctx, s.name, func(*subject) error { return nil })
	return err
}

// readOutbox fills a channel's queue from storage.
func (e *Engine) readOutbox(ctx context.Context, channel string) error {
	read := false
	e.outbox.with(channel, func(c *channelQueue) { read = c.read })
	if read {
		return nil
	}
	fares, err := e.store.Deliveries(ctx, channel)
	if err != nil {
		return err
	}
	if fares != nil {
		e.outbox.with(channel, func(c *channelQueue) { c.fares = *fares })
	}
	keys, err := e.store.OutboxKeys(ctx, channel)
	if err != nil {
		return err
	}
	entries, err := e.readQueued(ctx, channel, keys)
	if err != nil {
		return err
	}
	e.outbox.with(channel, func(c *channelQueue) {
		for _, entry := range entries {
			c.Add(entry)
		}
		c.Resume()
		c.Fix(c.fares.Attempted)
		c.read = true
	})
	return nil
}

// readQueued reads what waits, and removes what an earlier message told with it.
func (e *Engine) readQueued(ctx context.Context, channel string, keys []string) ([]outbox.Entry, error) {
	void := map[string]bool{}
	var entries []outbox.Entry
	for _, key := range keys {
		q, err := e.store.Queued(ctx, channel, key)
		if is, newer := unreadable(err); is {
			err = e.setAside(ctx, channel, key, newer)
		}
		if err != nil {
			return nil, err
		}
		if q == nil {
			continue
		}
		for _, other := range q.Others {
			void[other.Key] = true
		}
		entries = append(entries, entryOf(key, q))
	}
	for key := range void {
		if err := e.store.DeleteQueued(ctx, channel, key); err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(entries, func(entry outbox.Entry) bool { return void[entry.Key] }), nil
}

// setAside leaves out a message that cannot be read: what waits beside it is told. One of a
// newer release stays where it is, until that release runs again and tells it, or gives it up
// for its age. Of any other nothing can be made ever: it is lost, and goes. What is wrong with
// a document is not said, since that quotes it.
func (e *Engine) setAside(ctx context.Context, channel, key string, newer bool) error {
	if newer {
		e.logger.Error("a message waits for the newer release that queued it", "channel", channel, "message", key)
		return nil
	}
	e.logger.Error("a message could not be read, and is not delivered", "channel", channel, "message", key)
	now, q := e.clock.Now(), &store.Queued{Event: rotation.Event{Type: "unknown"}}
	if err := e.changeFares(ctx, channel, func(d *store.Deliveries) { lose(d, q, "its document could not be read", now) }); err != nil {
		return err
	}
	return e.store.DeleteQueued(ctx, channel, key)
}

// inLine reads a message whose turn it is. Where it cannot be read any more, all is read anew,
// which sets it aside.
func (e *Engine) inLine(ctx context.Context, channel, key string) (*store.Queued, error) {
	q, err := e.store.Queued(ctx, channel, key)
	if is, _ := unreadable(err); is {
		e.outbox.drop(channel)
	}
	return q, err
}

// scheduleChannels lets couriers look after all channels: after a start, what waits in
// storage is known to nobody.
func (e *Engine) scheduleChannels(ctx context.Context) error {
	all, err := e.allChannels(ctx)
	if err != nil {
		return err
	}
	for _, c := range all {
		e.index.found(channelLock(c.Name), e.clock.Now())
	}
	return nil
}

// changeFares stores how a channel fares. Only its courier calls it.
func (e *Engine) changeFares(ctx context.Context, channel string, change func(*store.Deliveries)) error {
	fares := e.outbox.fares(channel)
	fares.Lost, fares.Events, fares.Alarms = slices.Clone(fares.Lost), slices.Clone(fares.Events), maps.Clone(fares.Alarms)
	change(&fares)
	if err := e.store.PutDeliveries(ctx, channel, &fares); err != nil {
		return err
	}
	e.outbox.with(channel, func(c *channelQueue) { c.fares = fares })
	return nil
}

// lose records a message that is not delivered.
func lose(d *store.Deliveries, q *store.Queued, reason string, now time.Time) {
	const kept = 100
	d.LostTotal += 1 + len(q.Others)
	d.Lost = append(d.Lost, store.LostMessage{Time: now, Event: q.Event.Type, Role: q.Role, Reason: reason})
	for _, other := range q.Others {
		d.Lost = append(d.Lost, store.LostMessage{Time: now, Event: q.Event.Type, Role: other.Role, Reason: reason})
	}
	d.Lost = d.Lost[max(0, len(d.Lost)-kept):]
}

// lostSince counts what is on record as lost since a time.
func lostSince(d *store.Deliveries, since time.Time) (n int) {
	for _, l := range d.Lost {
		if !l.Time.Before(since) {
			n++
		}
	}
	return n
}

// channelEvent is an event of a channel itself, which the others are told.
func channelEvent(kind, channel string, since, now time.Time, data map[string]string) rotation.Event {
	data["channel"] = channel
	return rotation.Event{ID: fmt.Sprintf("%s/%s/%d", kind, channel, since.UnixNano()), Type: kind, Time: now, Data: data}
}

// errNoChannel says that a channel was removed.
var errNoChannel = errors.New("there is no such channel any more")
