// Package backend is the Engine: what the plugin does, one file per use case.
//
// Every rotation, whatever triggered it, goes through one reconcile loop: a
// role's state document says how far it got, decide says what is next, perform
// does that one thing, and one Put commits it. A crash anywhere is therefore
// only a loop that goes on in the next process.
package backend

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-uuid"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/mark"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// System is what the engine asks of the Vault it runs in.
type System interface {
	rotator.PasswordPolicy
	// Writable is false on a node that must not act: a standby, a secondary that
	// does not own the mount, or a mount that is being removed.
	Writable() bool
	// ReadsElsewhere tells whether nodes that do not act may answer reads by themselves.
	ReadsElsewhere(ctx context.Context) bool
}

// Options assemble an Engine.
type Options struct {
	Storage     store.Storage
	System      System
	Logger      hclog.Logger
	Clock       Clock // nil: the real one
	Rotators    []rotator.Rotator
	Connections []rotator.ConnectionKind
	// Channels are the types of channel.
	Channels []notify.Kind
	Sink     EventSink // nil: nobody
}

// Engine is the whole of the plugin but for Vault's protocol. Its exported
// methods are safe for concurrent use.
type Engine struct {
	store     *store.Store
	system    System
	logger    hclog.Logger
	clock     Clock
	rotators  map[string]rotator.Rotator
	kinds     []rotator.Kind
	connKinds []rotator.ConnectionKind
	steps     []step
	sink      EventSink
	// channelKinds are the types of channel, channels all that are stored, without their
	// secrets; nil while they are not read.
	channelKinds []notify.Kind
	channels     atomic.Pointer[[]*store.Channel]
	channelEpoch atomic.Uint64
	outbox       queues
	couriers     *workers
	config       atomic.Pointer[store.Config]
	instance     atomic.Pointer[store.Instance]
	locks        locks
	index        *index
	workers      *workers
	cache        *cache
	connections  *connections
	waiters      waiters
	undeclared   undeclared
	marks        incidentMarks
	summaries    summaries
	memory       memory
	tally        tally
	uses         uses
	access       *accessKeeper
	ledger       readLedger

	openIncidents openIncidents

	reencryptions *reencryptions

	ctx     context.Context
	cancel  context.CancelFunc
	loop    sync.WaitGroup
	wake    chan struct{}
	startMu sync.Mutex
	started bool

	serviceMu sync.Mutex
	service   service
}

const (
	// effectTimeout bounds one call of a rotator.
	effectTimeout = time.Minute
	// closeTimeout bounds how long Close waits for workers.
	closeTimeout = 10 * time.Second
)

// New assembles an engine. It touches neither storage nor network.
func New(o Options) *Engine {
	e := &Engine{
		store: store.New(o.Storage), system: o.System, logger: o.Logger, clock: o.Clock,
		rotators: map[string]rotator.Rotator{}, connKinds: o.Connections,
		sink: o.Sink, channelKinds: o.Channels,
		index: newIndex(), cache: newCache(), wake: make(chan struct{}, 1),
	}
	e.steps = e.builtinSteps()
	if e.clock == nil {
		e.clock = newClock()
	}
	if e.logger == nil {
		e.logger = hclog.NewNullLogger()
	}
	for _, r := range o.Rotators {
		e.rotators[r.Kind().Name] = r
		e.kinds = append(e.kinds, r.Kind())
	}
	config := store.DefaultConfig()
	e.config.Store(&config)
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.workers = newWorkers(e.ctx, func() int { return e.config.Load().MaxConcurrentRotations }, e.work)
	e.couriers = newWorkers(e.ctx, func() int { return maxCouriers }, e.deliver)
	e.reencryptions = newReencryptions(e)
	e.connections = newConnections(e)
	e.access = newAccessKeeper()
	e.ledger = e.readersOf
	return e
}

// Kinds lists the types of secret.
func (e *Engine) Kinds() []rotator.Kind { return e.kinds }

// ConnectionKinds lists the types of connection.
func (e *Engine) ConnectionKinds() []rotator.ConnectionKind { return e.connKinds }

// ChannelKinds lists the types of channel.
func (e *Engine) ChannelKinds() []notify.Kind { return e.channelKinds }

// Start reads the mount's settings and begins to work. Vault calls it after each
// mount, unseal and plugin restart; once it succeeded, further calls do nothing.
func (e *Engine) Start(ctx context.Context) error {
	e.startMu.Lock()
	defer e.startMu.Unlock()
	if e.started {
		return nil
	}
	config, err := e.store.Config(ctx)
	if err != nil {
		return err
	}
	if e.system.Writable() {
		if _, err := e.identity(ctx); err != nil {
			return err
		}
	}
	e.config.Store(&config)
	e.beat()
	e.loop.Go(e.watch)
	e.loop.Go(e.keepAccess)
	e.started = true
	return nil
}

// identity returns this mount's id and key, made on first use.
func (e *Engine) identity(ctx context.Context) (*store.Instance, error) {
	if i := e.instance.Load(); i != nil {
		return i, nil
	}
	unlock, err := e.locks.lock(ctx, "instance document")
	if err != nil {
		return nil, err
	}
	defer unlock()
	i, err := e.store.Instance(ctx)
	if err != nil {
		return nil, err
	}
	if i == nil {
		if i, err = newInstance(); err != nil {
			return nil, err
		}
		if err := e.store.PutInstance(ctx, *i); err != nil {
			return nil, err
		}
	}
	e.instance.Store(i)
	return i, nil
}

func newInstance() (*store.Instance, error) {
	id, err := uuid.GenerateUUID()
	if err != nil {
		return nil, fmt.Errorf("make an instance id: %w", err)
	}
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("make an instance key: %w", err)
	}
	return &store.Instance{ID: id, HMACKey: key}, nil
}

// markKey signs the marks on our objects outside.
func markKey(i *store.Instance) mark.Key { return mark.Key(i.HMACKey) }

// Close stops all work: contexts are cancelled, and what runs is waited for, for
// a bounded time. What was interrupted goes on from storage in the next process.
func (e *Engine) Close() {
	e.cancel()
	ctx, done := context.WithTimeout(context.Background(), closeTimeout)
	defer done()
	err := errors.Join(e.workers.close(ctx), e.couriers.close(ctx), e.reencryptions.close(ctx), e.uses.close(ctx))
	if err != nil {
		e.logger.Warn("some work did not stop in time; it goes on from storage", "error", err)
	}
	e.loop.Wait()
	e.flushLast()
	e.connections.closeAll()
}

// Quiesce waits until no worker runs, none is asked for, no data is on its way, what was to
// be stored of reads is stored, and nobody is asked who uses a version.
func (e *Engine) Quiesce(ctx context.Context) error {
	if err := e.uses.wait(ctx); err != nil {
		return err
	}
	for {
		if err := e.access.wait(ctx); err != nil { // may leave work to the workers
			return err
		}
		if err := e.workers.wait(ctx); err != nil {
			return err
		}
		if err := e.couriers.wait(ctx); err != nil {
			return err
		}
		ran, err := e.reencryptions.wait(ctx)
		if err != nil || !ran { // what ran may have left work to the workers
			return err
		}
	}
}

// Invalidate drops what is cached of a storage key that another node changed.
func (e *Engine) Invalidate(key string) {
	if name := store.RoleOf(key); name != "" {
		e.cache.drop(name)
		e.forgetAll()
	}
	if store.IsConnection(key) {
		e.connections.reset()
		e.cache.dropAll()
	}
	if store.IsChannel(key) {
		e.forgetChannels()
	}
	if key == store.ConfigKey {
		if config, err := e.store.Config(e.ctx); err == nil {
			e.config.Store(&config)
		}
	}
}

// beat notes that this process serves, and returns for how long it has. Where the clock was set
// back, what the index has noted would not come for as long as it was ahead.
func (e *Engine) beat() time.Duration {
	e.serviceMu.Lock()
	served, setBack := e.service.beat(e.clock)
	e.serviceMu.Unlock()
	if setBack {
		e.forgetAll()
		e.memory.forgetLooks()
	}
	return served
}

// beginService lets the time for which this process has served begin anew: it looked after
// nothing before.
func (e *Engine) beginService() {
	e.serviceMu.Lock()
	defer e.serviceMu.Unlock()
	e.service = service{}
}

// kindOf returns the rotator of a stored role.
func (e *Engine) kindOf(typ string) (rotator.Rotator, error) {
	r, ok := e.rotators[typ]
	if !ok {
		return nil, fault.New(fault.Internal, "this release of the plugin does not know roles of type %q", typ)
	}
	return r, nil
}

// errStale says that the state moved on while an effect ran: its result is void.
var errStale = errors.New("the state moved on meanwhile")

// errPassedOver says that nothing acts now: the mount is paused, or the node is not
// the one to act.
var errPassedOver = errors.New("passed over")

// errLetOthersFirst puts a role behind those of its incident that do not even know of
// it yet.
var errLetOthersFirst = errors.New("others go first")

// errNoChange ends an update without a Put.
var errNoChange = errors.New("nothing to change")

func newID() (string, error) {
	id, err := uuid.GenerateUUID()
	if err != nil {
		return "", fmt.Errorf("make an id: %w", err)
	}
	return id, nil
}
