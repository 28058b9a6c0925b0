package enginetest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// Stage is the world in which plays are given: one kind and strategy, and a target
// that starts empty.
type Stage struct {
	Rotator func(*Faults) rotator.Rotator
	// Connection is nil for a kind that needs none.
	Connection func(*Faults) rotator.ConnectionKind
	// Address and Secrets make the connection, Role and RoleSecrets the role's own
	// options.
	Address     option.Values
	Secrets     secret.Map
	Role        option.Values
	RoleSecrets secret.Map
	// ByHand is a person who makes a secret at the target, once for each name.
	ByHand func(name string) secret.Map
	// Login tells, without the engine, whether the target accepts what a reader got.
	Login func(rendered map[string]any) error
	// Objects lists what is at the target and bears a mark.
	Objects func() ([]string, error)
	// Rests tells whether nothing is left to be done at the target beside the roles; nil
	// where there is nothing beside them.
	Rests func() bool
	// Begin is told of the play before it begins, where the mount itself is the target;
	// Ended once it is over.
	Begin func(*Play)
	Ended func()
	// Step is how far the clock moves at a time.
	Step time.Duration
	// Quiet is how long a play waits at its end, 0 for ten minutes: longer than any
	// back-off that a single fault causes, and than a grace.
	Quiet time.Duration
	// Storage wraps a process's storage; nil leaves it. Seeded bugs sit here.
	Storage func(store.Storage) store.Storage
	// Around is what depends on the secret; nil for nothing.
	Around *Surroundings
	Sink   backend.EventSink
	// Channel is the kind of channels; nil for none.
	Channel func(*Faults) notify.Kind
}

// RoleName and ConnectionName are what every play uses.
const (
	RoleName       = "app"
	ConnectionName = "main"
	patience       = 20 * time.Second // of real time, for one act
)

// Play is one run of a scenario on a stage. It watches the promises all the time,
// as a reader that follows the ttl contract would.
type Play struct {
	stage  *Stage
	Clock  *Clock
	Disk   *Disk
	System *System
	faults *Faults
	engine *backend.Engine
	log    syncBuffer

	raw         []byte // the state document, and what it decodes to
	state       *rotation.State
	role        []byte // the role's document, and what was asked of it
	roleInPlace bool
	others      map[string]bool // roles beside the one that is read; whether they were deleted
	held        []held
	seen        map[string]bool // secrets that readers got
	leaked      bool            // an emergency: what was read before may die
	violations  []string
	crashed     bool
	Versions    map[int]bool
	Logins      int
}

type held struct {
	rendered map[string]any
	version  int
	until    time.Time
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// String returns what was written.
func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// NewPlay starts the first process, with faults.
func NewPlay(stage *Stage, faults *Faults) *Play {
	p := &Play{stage: stage, Clock: NewClock(), Disk: NewDisk(), System: &System{}, others: map[string]bool{}, seen: map[string]bool{}, Versions: map[int]bool{}}
	if stage.Begin != nil {
		stage.Begin(p)
	}
	p.boot(faults)
	return p
}

func (p *Play) boot(faults *Faults) {
	p.faults = faults
	var storage store.Storage = &Storage{Disk: p.Disk, Faults: faults}
	if p.stage.Storage != nil {
		storage = p.stage.Storage(storage)
	}
	options := backend.Options{
		Storage: storage, System: p.System, Clock: p.Clock,
		Logger:   hclog.New(&hclog.LoggerOptions{Output: &p.log, Level: hclog.Debug}),
		Rotators: []rotator.Rotator{p.stage.Rotator(faults)},
		Sink:     p.stage.Sink,
	}
	if p.stage.Channel != nil {
		options.Channels = []notify.Kind{p.stage.Channel(faults)}
	}
	if p.stage.Connection != nil {
		options.Connections = []rotator.ConnectionKind{p.stage.Connection(faults)}
	}
	if around := p.stage.Around; around != nil {
		options.Connections = append(options.Connections, Around{Surroundings: around, Faults: faults})
	}
	p.engine = backend.New(options)
	_ = p.engine.Start(context.Background())
}

// Engine is the process that runs now.
func (p *Play) Engine() *backend.Engine { return p.engine }

// Around is what depends on the secret.
func (p *Play) Around() *Surroundings { return p.stage.Around }

// Violations are the promises that were seen broken.
func (p *Play) Violations() []string { return p.violations }

// Log is what all processes logged.
func (p *Play) Log() string { return p.log.String() }

// Restart ends the process, as kill -9 would as far as storage can tell, and starts
// another one that meets no more faults.
func (p *Play) Restart() {
	p.engine.Close()
	p.boot(NewFaults(None, 0))
}

// Close ends the play.
func (p *Play) Close() { p.engine.Close() }

// Step lets the world go on: workers come to rest, promises are looked at, the
// clock moves, Vault ticks. A process that died is replaced.
func (p *Play) Step() { p.step(p.stage.Step) }

func (p *Play) step(by time.Duration) {
	ctx, done := context.WithTimeout(context.Background(), patience)
	defer done()
	if err := p.engine.Quiesce(ctx); err != nil {
		p.violate("workers did not come to rest: %s", err)
	}
	if p.faults.Dead() {
		p.crashed = true
		p.Restart()
	}
	p.observe()
	p.Clock.Advance(by)
	_ = p.engine.Tick(ctx)
	// The index is built in the background; here no time may pass before it is.
	_, _ = p.engine.Status(ctx, backend.StatusQuery{Limit: 1})
	_ = p.engine.Tick(ctx)
}

// Wait steps until so much time has passed.
func (p *Play) Wait(d time.Duration) {
	for end := p.Clock.Now().Add(d); p.Clock.Now().Before(end); {
		p.Step()
	}
}

// Act runs a request as a client would, while the world goes on.
func (p *Play) Act(do func(ctx context.Context, e *backend.Engine) error) error {
	engine := p.engine
	result := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	go func() { result <- do(ctx, engine) }()
	for {
		select {
		case err := <-result:
			return err
		case <-time.After(time.Millisecond):
			p.Step()
		}
	}
}

// attempts is how often an operator tries again after a fault.
const attempts = 6

// until repeats a request until the wanted state is reached.
func (p *Play) until(what string, reached func() bool, do func(ctx context.Context, e *backend.Engine) error) {
	var err error
	for range attempts {
		if err = p.Act(do); err == nil && reached() {
			return
		}
		p.Wait(10 * p.stage.Step)
		if reached() {
			return
		}
	}
	p.violate("%s: not reached, last error: %v", what, err)
}

// Create writes connection and role until both exist.
func (p *Play) Create(extra option.Values) {
	if p.stage.Connection != nil {
		p.Connect()
	}
	p.createRole(RoleName, extra)
}

// Connect writes the connection until it exists.
func (p *Play) Connect() {
	given := option.Values{"type": p.stage.Connection(NewFaults(None, 0)).Type()}
	maps.Copy(given, p.stage.Address)
	p.connect(ConnectionName, given, p.stage.Secrets)
}

// ConnectAround writes the connection to the surroundings, under the names that are given.
func (p *Play) ConnectAround(names ...string) {
	p.stage.Around.reads = p.readAsPod
	for _, name := range append(names, AroundName) {
		p.connect(name, option.Values{"type": Around{}.Type()}, nil)
	}
}

// readAsPod is what an application does when it begins.
func (p *Play) readAsPod() (map[string]any, error) {
	creds, err := p.engine.Creds(context.Background(), RoleName, backend.Actor{})
	if err != nil {
		return nil, err
	}
	return creds.Data, nil
}

func (p *Play) connect(name string, given option.Values, secrets secret.Map) {
	p.until("connection", func() bool {
		_, err := p.engine.Connection(context.Background(), name)
		return err == nil
	}, func(ctx context.Context, e *backend.Engine) error {
		_, err := e.WriteConnection(ctx, backend.Write{Name: name, Given: given, Secrets: secrets})
		return err
	})
}

// WriteChannel writes a channel until it exists.
func (p *Play) WriteChannel(name string, given option.Values) {
	p.until("channel", func() bool {
		_, err := p.engine.Channel(context.Background(), name)
		return err == nil
	}, func(ctx context.Context, e *backend.Engine) error {
		values := option.Values{"type": p.stage.Channel(NewFaults(None, 0)).Type()}
		for k, v := range given {
			values[k] = v
		}
		_, err := e.WriteChannel(ctx, backend.Write{Name: name, Given: values})
		return err
	})
}

// History reads the role's ended rotations from the disk.
func (p *Play) History() []rotation.Rotation {
	records, _, err := p.stored().History(context.Background(), RoleName, "", 1000)
	if err != nil {
		p.violate("could not read the history: %s", err)
	}
	return records
}

// Violate records that a promise was broken.
func (p *Play) Violate(format string, args ...any) { p.violate(format, args...) }

// Add makes further roles on the same connection.
func (p *Play) Add(extra option.Values, names ...string) {
	for _, name := range names {
		p.others[name] = false
		p.createRole(name, extra)
	}
}

func (p *Play) createRole(name string, extra option.Values) {
	p.until("role", func() bool { return p.stateOf(name).Current > 0 }, func(ctx context.Context, e *backend.Engine) error {
		kind := p.stage.Rotator(NewFaults(None, 0)).Kind()
		given := option.Values{"type": kind.Name, "rotation_period": int64(600), "grace_period": int64(40)}
		if len(kind.ConnectionTypes) > 0 {
			given["connection"] = ConnectionName
		}
		for _, values := range []option.Values{p.stage.Role, extra} {
			for k, v := range values {
				given[k] = v
			}
		}
		_, err := e.WriteRole(ctx, backend.Write{Name: name, Given: given, Secrets: p.stage.RoleSecrets})
		return err
	})
}

// State reads the role's state from the disk, past the engine.
func (p *Play) State() *rotation.State {
	raw := p.Disk.get("state/" + RoleName)
	if p.state != nil && bytes.Equal(raw, p.raw) {
		return p.state
	}
	p.raw, p.state = raw, p.stateOf(RoleName)
	return p.state
}

// stored reads the disk past the engine.
func (p *Play) stored() *store.Store { return store.New(&Storage{Disk: p.Disk}) }

func (p *Play) stateOf(name string) *rotation.State {
	s, err := p.stored().State(context.Background(), name)
	if err != nil || s == nil {
		return &rotation.State{}
	}
	return s
}

// Current is the version that readers get, 0 for none.
func (p *Play) Current() int { return p.State().Current }

// Rotate asks for a rotation until the version moved on. Where a secret that changes in
// place was lost, the operator does what the refusal says.
func (p *Play) Rotate() {
	before := p.Current()
	p.until("rotate", func() bool { return p.Current() > before && p.State().InFlight == nil }, func(ctx context.Context, e *backend.Engine) error {
		if p.State().Divergence != nil && p.inPlace() {
			_, err := e.Reconcile(ctx, RoleName, backend.RotateRequest{Wait: backend.Wait})
			return err
		}
		_, err := e.Rotate(ctx, RoleName, backend.RotateRequest{Wait: backend.Wait})
		return err
	})
}

// Rollback asks to go back to a version until it is current.
func (p *Play) Rollback(version int) {
	p.until("rollback", func() bool { return p.Current() == version && p.State().InFlight == nil }, func(ctx context.Context, e *backend.Engine) error {
		_, err := e.Rollback(ctx, RoleName, backend.RollbackRequest{Wait: backend.Wait, Version: version})
		return err
	})
}

// AskRollback asks to go back to a version that has to be announced first, until that is
// on its way.
func (p *Play) AskRollback(version int) {
	p.until("rollback", func() bool { return p.State().Version(version).Returns || p.Current() == version }, func(ctx context.Context, e *backend.Engine) error {
		_, err := e.Rollback(ctx, RoleName, backend.RollbackRequest{Version: version})
		return err
	})
}

// Stage hands in a secret that a person made, until it took over.
func (p *Play) Stage(name string) {
	before, secrets := p.Current(), p.stage.ByHand(name)
	p.until("stage", func() bool { return p.Current() > before && p.State().InFlight == nil }, func(ctx context.Context, e *backend.Engine) error {
		_, err := e.Stage(ctx, RoleName, backend.StageRequest{Secrets: secrets, Wait: backend.Wait})
		return err
	})
}

// Emergency declares one until the version was replaced.
func (p *Play) Emergency(killFirst bool) {
	before := p.Current()
	p.Leak(true)
	p.until("emergency", func() bool { return p.Current() > before && p.State().InFlight == nil }, func(ctx context.Context, e *backend.Engine) error {
		r, err := e.Emergency(ctx, RoleName, backend.EmergencyRequest{Reason: "a test leak", KillFirst: killFirst, Wait: backend.Wait})
		if err == nil && r.Rotation != nil && r.Rotation.Outcome == rotation.Failed {
			return fault.New(fault.Target, "not replaced yet")
		}
		return err
	})
	p.Leak(false)
}

// DeclareEmergency declares one over a role whose next secret a person makes: no more than
// that is on record then.
func (p *Play) DeclareEmergency() {
	leaked := func() bool { cur := p.State().CurrentVersion(); return cur == nil || cur.Compromised }
	p.until("emergency", leaked, func(ctx context.Context, e *backend.Engine) error {
		_, err := e.Emergency(ctx, RoleName, backend.EmergencyRequest{Reason: "a test leak", Wait: backend.Wait})
		return err
	})
}

// BulkEmergency declares one over all roles of the connection, until each was replaced.
// The operator asks again only where no incident was opened.
func (p *Play) BulkEmergency(killFirst bool) {
	before := map[string]int{}
	for _, name := range p.roles() {
		before[name] = p.stateOf(name).Current
	}
	p.Leak(true)
	defer p.Leak(false)
	p.until("bulk emergency", func() bool {
		for name, version := range before {
			if s := p.stateOf(name); s.Current <= version || s.InFlight != nil {
				return false
			}
		}
		return true
	}, func(ctx context.Context, e *backend.Engine) error {
		if len(p.Incidents()) > 0 {
			return nil
		}
		scope := backend.EmergencyScope{Connection: ConnectionName}
		hit, err := e.EmergencyDryRun(ctx, scope)
		if err != nil {
			return err
		}
		_, err = e.BulkEmergency(ctx, backend.BulkEmergencyRequest{
			EmergencyRequest: backend.EmergencyRequest{Reason: "a test leak", KillFirst: killFirst, Wait: backend.Wait},
			Scope:            scope, Confirm: len(hit),
		})
		return err
	})
	if n := len(p.Incidents()); n != 1 {
		p.violate("%d incidents for one emergency", n)
	}
}

// DeclareOverAll declares an emergency over all roles of the connection, and waits for no
// more than that.
func (p *Play) DeclareOverAll() {
	p.Leak(true)
	p.until("declared", func() bool { return len(p.Incidents()) > 0 }, func(ctx context.Context, e *backend.Engine) error {
		_, err := e.BulkEmergency(ctx, backend.BulkEmergencyRequest{
			EmergencyRequest: backend.EmergencyRequest{Reason: "a test leak"},
			Scope:            backend.EmergencyScope{Connection: ConnectionName}, Confirm: len(p.roles()),
		})
		return err
	})
}

// Incidents reads the records of all emergencies from the disk.
func (p *Play) Incidents() (out []*store.Incident) {
	ids, err := p.stored().Incidents(context.Background())
	if err != nil {
		p.violate("could not list the incidents: %s", err)
	}
	for _, id := range ids {
		i, err := p.stored().Incident(context.Background(), id)
		if err != nil || i == nil {
			p.violate("could not read incident %s: %v", id, err)
			continue
		}
		out = append(out, i)
	}
	return out
}

// roles are the names of all roles that were not deleted.
func (p *Play) roles() []string {
	names := []string{RoleName}
	for name, deleted := range p.others {
		if !deleted {
			names = append(names, name)
		}
	}
	return names
}

// Leak says that an emergency begins or is over: what was read before may die.
func (p *Play) Leak(on bool) { p.leaked, p.held = on, nil }

// Delete deletes the role until it is gone.
func (p *Play) Delete() { p.delete(RoleName) }

// DeleteOther deletes a role that Add made.
func (p *Play) DeleteOther(name string) {
	p.others[name] = true
	p.delete(name)
}

func (p *Play) delete(name string) {
	p.until("delete", func() bool {
		_, err := p.engine.Role(context.Background(), name)
		return fault.Is(err, fault.NotFound)
	}, func(ctx context.Context, e *backend.Engine) error {
		_, err := e.DeleteRole(ctx, name, false)
		return err
	})
}

// RotateRoot rotates the connection's own credential.
func (p *Play) RotateRoot() {
	p.until("rotate-root", func() bool {
		c, err := p.engine.Connection(context.Background(), ConnectionName)
		return err == nil && !c.RotatedTime.IsZero()
	}, func(ctx context.Context, e *backend.Engine) error {
		_, err := e.RotateRoot(ctx, ConnectionName)
		return err
	})
}

// observe is the reader: what it holds must work until its ttl has run out, and
// what it is given must work at once.
func (p *Play) observe() {
	inPlace := p.inPlace()
	if inPlace && !p.quietInPlace() {
		return // the gap that one credential has by nature
	}
	before, now := p.State().Revision, p.Clock.Now()
	given := p.given(now)
	var refusal error
	if given != nil {
		refusal = p.login(given.rendered)
	}
	kept := p.held[:0]
	for _, h := range p.held {
		if now.After(h.until) {
			continue
		}
		kept = append(kept, h)
		err := refusal
		if !h.same(given) { // logins are what a play spends its time with
			err = p.login(h.rendered)
		}
		if fault.Is(err, fault.AuthFailed) {
			p.violate("promise 1: version %d was to stay valid until %s and is refused at %s: %s", h.version, h.until, now, err)
		}
	}
	p.held = kept
	if given == nil || inPlace && p.State().Revision != before {
		return // the gap began meanwhile: it is journalled before it begins
	}
	if fault.Is(refusal, fault.AuthFailed) {
		p.violate("promise 2: the current version %d is refused: %s", given.version, refusal)
	}
	p.hold(given, inPlace)
}

func (p *Play) login(rendered map[string]any) error {
	p.Logins++
	return p.stage.Login(rendered)
}

// given is what a reader gets now, nil where that is nothing, or has leaked.
func (p *Play) given(now time.Time) *held {
	creds, err := p.engine.Creds(context.Background(), RoleName, backend.Actor{})
	if err != nil {
		return nil
	}
	version, _ := creds.Data["version"].(int)
	ttl, _ := creds.Data["ttl"].(int64)
	if v := p.State().Version(version); p.leaked || v != nil && v.Compromised {
		return nil
	}
	return &held{rendered: creds.Data, version: version, until: now.Add(time.Duration(ttl) * time.Second)}
}

// same tells whether both are the same login, so that asking once answers for both.
func (h held) same(other *held) bool {
	if other == nil || h.version != other.version || len(h.rendered) != len(other.rendered) {
		return false
	}
	for name, value := range h.rendered {
		if name != "ttl" && !reflect.DeepEqual(value, other.rendered[name]) {
			return false
		}
	}
	return true
}

// hold keeps what the reader was given, for as long as it is promised.
func (p *Play) hold(given *held, inPlace bool) {
	p.Versions[given.version] = true
	for _, name := range []string{"password", "private_key", "primary_key", "secondary_key"} {
		if v, ok := given.rendered[name].(string); ok {
			p.seen[v] = true
		}
	}
	if inPlace {
		return // it is promised until the next rotation, whenever somebody asks for that
	}
	if n := len(p.held); n > 0 && p.held[n-1].version == given.version {
		p.held[n-1] = *given
	} else {
		p.held = append(p.held, *given)
	}
}

func (p *Play) violate(format string, args ...any) {
	if len(p.violations) < 20 {
		p.violations = append(p.violations, fmt.Sprintf(format, args...))
	}
}

// quiet is how long a play waits at its end, in steps of which as many as these are enough.
const (
	quiet      = 10 * time.Minute
	quietSteps = 200
)

// End waits until nothing happens any more, then asks for what must be left.
func (p *Play) End(deleted bool) []string {
	p.waitForRest(quiet, p.stage.Step, deleted)
	if p.stage.Quiet > quiet {
		p.waitForRest(p.stage.Quiet, p.stage.Quiet/quietSteps, deleted)
	}
	p.checkLeft(deleted)
	p.checkIncidents()
	p.checkInPlace()
	p.checkSecrets()
	p.engine.Close()
	if p.stage.Ended != nil {
		p.stage.Ended()
	}
	return p.violations
}

func (p *Play) waitForRest(most, step time.Duration, deleted bool) {
	for end := p.Clock.Now().Add(most); p.Clock.Now().Before(end) && !p.atRest(deleted); {
		p.step(step)
	}
}

func (p *Play) atRest(deleted bool) bool {
	return p.settled(deleted) && (p.stage.Rests == nil || p.stage.Rests())
}

func (p *Play) settled(deleted bool) bool {
	if !p.roleSettled(RoleName, deleted) {
		return false
	}
	for name, deleted := range p.others {
		if !p.roleSettled(name, deleted) {
			return false
		}
	}
	for _, i := range p.Incidents() {
		for _, mark := range i.Marks {
			if mark.Outstanding() {
				return false
			}
		}
	}
	return true
}

func (p *Play) roleSettled(name string, deleted bool) bool {
	if deleted {
		t, err := p.stored().Tombstone(context.Background(), name)
		return err == nil && t != nil && t.Pending == nil
	}
	s := p.stateOf(name)
	if s.InFlight != nil || s.Intent != nil || len(s.Incidents) > 0 {
		return false
	}
	for i := range s.Versions {
		if v := &s.Versions[i]; v.Number != s.Current && v.State != rotation.Standby && !v.Settled() {
			return false
		}
	}
	return true
}

// checkIncidents asks that every record is complete: each of its roles was declared,
// and everything that leaked is proven dead.
func (p *Play) checkIncidents() {
	for _, i := range p.Incidents() {
		for name, mark := range i.Marks {
			if !mark.Declared || !mark.Contained || !i.Roles[name].Contained || len(i.Roles[name].Compromised) == 0 {
				p.violate("incident %s: %s is %+v, with %+v", i.ID, name, mark, i.Roles[name])
			}
		}
		if i.Status == store.IncidentOpen || i.ContainedTime.IsZero() {
			p.violate("incident %s is %s", i.ID, i.Status)
		}
		p.checkTold(i)
	}
}

// checkTold looks whether what happened to an incident was told.
func (p *Play) checkTold(i *store.Incident) {
	want := []string{i.ID + "/emergency.declared", i.ID + "/incident.contained"}
	if i.Status == store.IncidentClosed {
		want = append(want, i.ID+"/incident.severity/1", i.ID+"/incident.acknowledged", i.ID+"/incident.closed")
		if len(i.Notes) != 1 {
			p.violate("incident %s has %d notes for one", i.ID, len(i.Notes))
		}
	}
	for _, id := range want {
		if !strings.Contains(p.Log(), " id="+id) {
			p.violate("%s was not told", id)
		}
	}
	if len(i.Events) > 0 {
		p.violate("incident %s has %d events to tell still", i.ID, len(i.Events))
	}
}

// CloseIncidents sees to every incident, until each is closed. Where one is not contained
// yet it is forced.
func (p *Play) CloseIncidents() {
	closed := func() bool {
		return !slices.ContainsFunc(p.Incidents(), func(i *store.Incident) bool { return i.Status != store.IncidentClosed })
	}
	p.until("close incidents", closed, func(ctx context.Context, e *backend.Engine) error {
		for _, i := range p.Incidents() {
			if i.Status == store.IncidentClosed {
				continue
			}
			severity, note, yes := "critical", "a test leak is seen to", true
			if _, err := e.WriteIncident(ctx, i.ID, backend.IncidentWrite{Severity: &severity, Note: &note, Acknowledge: &yes}); err != nil {
				return err
			}
			if _, err := e.CloseIncident(ctx, i.ID, backend.IncidentClose{Conclusion: "a test", Force: true, Reason: "the test is over"}); err != nil {
				return err
			}
		}
		return nil
	})
}

// checkLeft is promises 3 and 4: nothing is lost, nothing is left behind.
func (p *Play) checkLeft(deleted bool) {
	if !p.atRest(deleted) {
		raw, _ := json.Marshal(p.State())
		p.violate("promise 3: it did not come to rest: %s", raw)
	}
	var want []string
	for _, name := range p.roles() {
		s := p.stateOf(name)
		for _, v := range []*rotation.Version{s.CurrentVersion(), s.StandbyVersion()} {
			if v != nil {
				want = append(want, v.Identifier)
			}
		}
		if s.Blocked != "" || s.Divergence != nil || !deleted && s.Current == 0 {
			raw, _ := json.Marshal(s)
			p.violate("promise 3: role %s is not well: %s", name, raw)
		}
	}
	have, err := p.stage.Objects()
	if err != nil {
		p.violate("could not list the target's objects: %s", err)
	}
	slices.Sort(want)
	slices.Sort(have)
	if !slices.Equal(want, have) {
		p.violate("promise 4: at the target are %v, and should be %v", have, want)
	}
}

// inPlace tells whether the role's one credential changes where it stands. Every step asks, so the
// answer is kept for as long as the role's document stays what it is.
func (p *Play) inPlace() bool {
	document := p.Disk.get("role/" + RoleName)
	if document == nil || p.State().Deleted {
		return false
	}
	if p.role == nil || !bytes.Equal(document, p.role) {
		role, err := p.engine.Role(context.Background(), RoleName)
		if err != nil {
			return false
		}
		in, ok := p.stage.Rotator(NewFaults(None, 0)).(rotator.InPlace)
		p.role, p.roleInPlace = document, ok && in.InPlace(&rotator.Role{Name: role.Name, Values: role.Values})
	}
	return p.roleInPlace
}

// quietInPlace tells that nothing is on its way: exactly one stored version works
// then, which is the current one. Where the target's answer had the new secret and was
// lost, the role is blocked for a person instead.
func (p *Play) quietInPlace() bool {
	s := p.State()
	return s.InFlight == nil && s.Intent == nil && s.Blocked == "" && p.settled(false)
}

// checkInPlace finds by logging in which of the stored versions work.
func (p *Play) checkInPlace() {
	if !p.inPlace() {
		return
	}
	s := p.State()
	disk := p.stored()
	var works []int
	for _, v := range s.Versions {
		material, err := disk.Material(context.Background(), RoleName, v.Number)
		if err != nil || len(material) == 0 {
			continue
		}
		if p.stage.Login(map[string]any{"username": v.Identifier, "password": material["password"].Reveal(), "primary_key": material["key"].Reveal()}) == nil {
			works = append(works, v.Number)
		}
	}
	if !slices.Equal(works, []int{s.Current}) {
		p.violate("in place: versions %v work, and exactly %d should", works, s.Current)
	}
}

// checkSecrets is promise 5: what readers got is nowhere but in material.
func (p *Play) checkSecrets() {
	var out strings.Builder
	out.WriteString(p.log.String())
	for key, value := range p.Disk.Snapshot() {
		if shape(key) != "material" {
			out.Write(value)
		}
	}
	text := out.String()
	for s := range p.seen {
		if strings.Contains(text, s) {
			p.violate("promise 5: a secret stands in a log or document")
		}
	}
}
