package enginetest

import (
	"context"
	"slices"
	"sync"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
)

// Channel is a kind of channel that keeps what it is told, by the name of the channel. It
// outlives processes, as a service does.
type Channel struct {
	mu      sync.Mutex
	told    map[string][]notify.Message
	failure map[string]error
	hangs   map[string]bool
	attempt map[string]int
}

// Type implements notify.Kind.
func (*Channel) Type() string { return "memory" }

// MaxEnded implements notify.EndsOneByOne.
func (*Channel) MaxEnded() int { return 10 }

// Help implements notify.Kind.
func (*Channel) Help() string { return "Keeps what it is told." }

// Options implements notify.Kind.
func (*Channel) Options() option.Set {
	return option.Set{{Name: "url", Type: option.String, Secret: true, Help: "Is not used."}}
}

// Check implements notify.Kind.
func (*Channel) Check(*notify.Channel) error { return nil }

// Send implements notify.Kind.
func (c *Channel) Send(ctx context.Context, to *notify.Channel, m *notify.Message) error {
	c.mu.Lock()
	if c.attempt == nil {
		c.told, c.attempt = map[string][]notify.Message{}, map[string]int{}
	}
	c.attempt[to.Name]++
	failure, hangs := c.failure[to.Name], c.hangs[to.Name]
	if failure == nil && !hangs {
		c.told[to.Name] = append(c.told[to.Name], *m)
	}
	c.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	return failure
}

// Fail lets a channel refuse messages; nil lets it take them again.
func (c *Channel) Fail(channel string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failure == nil {
		c.failure = map[string]error{}
	}
	c.failure[channel] = err
}

// Hang lets a channel neither take nor refuse messages.
func (c *Channel) Hang(channel string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hangs = map[string]bool{channel: true}
}

// Told is what a channel took, in order.
func (c *Channel) Told(channel string) []notify.Message {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.told[channel])
}

// Attempts is how often a channel was asked to take a message.
func (c *Channel) Attempts(channel string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.attempt[channel]
}

// FaultyChannel lets faults happen around the deliveries of a kind.
type FaultyChannel struct {
	notify.Kind
	Faults *Faults
}

// Send implements notify.Kind.
func (f FaultyChannel) Send(ctx context.Context, c *notify.Channel, m *notify.Message) error {
	return f.Faults.Around("send "+m.Event, func() error { return f.Kind.Send(ctx, c, m) })
}
