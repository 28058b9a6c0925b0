package backend

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/ryanuber/go-glob"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// ConnectionOptions declares what connections of every type have.
func ConnectionOptions() option.Set {
	return option.Set{
		{Name: "verify_connection", Type: option.Bool, Default: true, Help: "Proves, at each write, that the connection's credential works."},
		{Name: "allowed_roles", Type: option.List, Default: []string{"*"}, Help: "Names, with * as a wildcard, of the roles that may use this connection."},
	}
}

type connectionCommon struct {
	Verify       bool     `json:"verify_connection"`
	AllowedRoles []string `json:"allowed_roles"`
}

// connections keeps one open connection per stored one.
type connections struct {
	engine *Engine
	mu     sync.Mutex
	opened map[string]openConnection
	closed bool
	ending sync.WaitGroup
}

type openConnection struct {
	print [sha256.Size]byte // of the stored document it was opened from
	conn  rotator.Connection
}

func newConnections(e *Engine) *connections {
	return &connections{engine: e, opened: map[string]openConnection{}}
}

// open returns the open connection for a stored one. One whose own credential was
// being rotated when a process ended is settled first.
func (c *connections) open(ctx context.Context, doc *store.Connection) (rotator.Connection, error) {
	if doc.NextSecrets != nil {
		settled, err := c.engine.settleRoot(ctx, doc.Name)
		if err != nil {
			return nil, err
		}
		doc = settled
	}
	if doc.Unsettled() { // an error may have left it to nobody
		c.engine.index.found(connectionLock(doc.Name), c.engine.clock.Now())
	}
	return c.get(doc)
}

func (c *connections) get(doc *store.Connection) (rotator.Connection, error) {
	version, err := printOf(doc)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, fault.New(fault.Unreachable, "the plugin is stopping")
	}
	if have, ok := c.opened[doc.Name]; ok && have.print == version {
		return have.conn, nil
	}
	kind, err := c.engine.connectionKind(doc.Type)
	if err != nil {
		return nil, err
	}
	conn, err := kind.Open(configOf(doc, doc.Secrets))
	if err != nil {
		return nil, err
	}
	c.end(doc.Name)
	c.opened[doc.Name] = openConnection{print: version, conn: conn}
	return conn, nil
}

// end closes an open connection once effects that use it must be over; the caller
// holds mu.
func (c *connections) end(name string) {
	old, ok := c.opened[name]
	if !ok {
		return
	}
	delete(c.opened, name)
	over := c.engine.clock.After(effectTimeout)
	c.ending.Go(func() {
		select {
		case <-over:
		case <-c.engine.ctx.Done():
		}
		old.conn.Close()
	})
}

// reset closes all: another node changed one.
func (c *connections) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.opened {
		c.end(name)
	}
}

func (c *connections) closeAll() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.reset()
	c.ending.Wait()
}

func printOf(doc *store.Connection) ([sha256.Size]byte, error) {
	raw, err := json.Marshal(doc)
	if err != nil {
		return [sha256.Size]byte{}, fmt.Errorf("encode connection %s: %w", doc.Name, err)
	}
	return sha256.Sum256(raw), nil
}

func configOf(doc *store.Connection, secrets map[string]string) *rotator.ConnectionConfig {
	return &rotator.ConnectionConfig{Name: doc.Name, Values: doc.Values, Secrets: secret.NewMap(secrets)}
}

func (e *Engine) connectionKind(typ string) (rotator.ConnectionKind, error) {
	return kindNamed(e.connKinds, "connection", typ)
}

// kindNamed finds a kind by its type= value.
func kindNamed[K interface{ Type() string }](kinds []K, of, typ string) (found K, err error) {
	var known []string
	for _, k := range kinds {
		if k.Type() == typ {
			return k, nil
		}
		known = append(known, k.Type())
	}
	if typ == "" {
		return found, fault.Field("type", "is required: one of %s", strings.Join(known, ", "))
	}
	return found, fault.Field("type", "%q is not a type of %s: use one of %s", typ, of, strings.Join(known, ", "))
}

func (e *Engine) connection(ctx context.Context, name string) (*store.Connection, error) {
	doc, err := e.store.Connection(ctx, name)
	if err == nil && doc == nil {
		return nil, fault.New(fault.NotFound, "there is no connection %q", name)
	}
	return doc, err
}

// ConnectionNames lists the connections.
func (e *Engine) ConnectionNames(ctx context.Context) ([]string, error) {
	return e.store.Connections(ctx)
}

// Connection shows a connection without its secrets.
func (e *Engine) Connection(ctx context.Context, name string) (*ConnectionView, error) {
	doc, err := e.connection(ctx, name)
	if err != nil {
		return nil, err
	}
	kind, err := e.connectionKind(doc.Type)
	if err != nil {
		return nil, err
	}
	values := kind.Options().WithDefaults(doc.Values)
	values["verify_connection"], values["allowed_roles"] = doc.Verify, doc.AllowedRoles
	return &ConnectionView{Name: doc.Name, Type: doc.Type, Values: values, RotatedTime: doc.RotatedTime}, nil
}

// ofConnection begins the name under which the mutex of a connection's document, and its
// place in the index, are known; no role may have a space in its name.
const ofConnection = "connection "

func connectionLock(name string) string { return ofConnection + name }

// WriteConnection stores a connection: what is left out keeps its value, but a
// secret does not follow an address.
func (e *Engine) WriteConnection(ctx context.Context, w Write) (warnings []string, err error) {
	unlock, err := e.locks.lock(ctx, connectionLock(w.Name))
	if err != nil {
		return nil, err
	}
	defer unlock()
	before, err := e.store.Connection(ctx, w.Name)
	if err != nil {
		return nil, err
	}
	if before != nil && before.NextSecrets != nil && !givesAll(before.Secrets, w.Secrets) {
		if before, err = e.settleRootLocked(ctx, before); err != nil {
			return nil, err
		}
	}
	doc, kind, err := e.mergeConnection(before, w)
	if err != nil {
		return nil, err
	}
	if warnings, err = kind.CheckConnection(configOf(doc, doc.Secrets)); err != nil {
		return nil, err
	}
	if err := e.anchored(ctx, kind, before, doc); err != nil {
		return nil, err
	}
	if doc.Verify {
		if err := e.ping(ctx, kind, configOf(doc, doc.Secrets)); err != nil {
			return nil, fmt.Errorf("connection %s was not written: %w", w.Name, err)
		}
	}
	// Also after an error: the Put may have gone through, only its answer was lost.
	defer e.cache.dropAll()
	if err := e.store.PutConnection(ctx, doc); err != nil {
		return nil, err
	}
	if before != nil && len(kind.Options().Changed(before.Values, doc.Values, func(o option.Option) bool { return o.Address })) > 0 {
		e.memory.forgetLooks() // do the versions of its roles work there?
		e.forgetAll()
		if err := e.dataMoved(ctx, doc.Name); err != nil {
			return nil, fmt.Errorf("connection %s was written, but re-encryptions do not know yet that it leads elsewhere, write it again: %w", doc.Name, err)
		}
	}
	return warnings, nil
}

// anchored refuses to move a connection whose roles' secrets would be sent elsewhere.
func (e *Engine) anchored(ctx context.Context, kind rotator.ConnectionKind, before, after *store.Connection) error {
	a, ok := kind.(rotator.Anchored)
	if !ok || before == nil {
		return nil
	}
	was, err := a.Anchor(configOf(before, nil))
	if err != nil {
		return err
	}
	is, err := a.Anchor(configOf(after, nil))
	if err != nil || was == is {
		return err
	}
	users, err := e.usersOf(ctx, before.Name)
	if err != nil || len(users) == 0 {
		return err
	}
	moved := kind.Options().Changed(before.Values, after.Values, func(o option.Option) bool { return o.Address })
	return fault.New(fault.Conflict, "connection %q cannot lead elsewhere (%s changed) while roles use it, whose secrets would be sent there: make another connection; it is used by %s",
		before.Name, strings.Join(moved, ", "), joinFirst(users, 10))
}

// givesAll tells whether a write brings every stored secret anew: what an
// interrupted rotate-root left open is then of no interest.
func givesAll(stored map[string]string, given secret.Map) bool {
	for name := range stored {
		if _, ok := given[name]; !ok {
			return false
		}
	}
	return true
}

func (e *Engine) mergeConnection(before *store.Connection, w Write) (*store.Connection, rotator.ConnectionKind, error) {
	given := maps.Clone(w.Given)
	typ, _ := given["type"].(string)
	delete(given, "type")
	doc := &store.Connection{Name: w.Name, Type: typ, Values: option.Values{}, Secrets: map[string]string{}}
	common := connectionCommon{Verify: true, AllowedRoles: []string{"*"}}
	if before != nil {
		if typ != "" && typ != before.Type {
			return nil, nil, fault.Field("type", "is %s and cannot be changed: make another connection", before.Type)
		}
		doc.Type, doc.Values, doc.Secrets, doc.RotatedTime = before.Type, maps.Clone(before.Values), maps.Clone(before.Secrets), before.RotatedTime
		doc.Roots = before.Roots
		common = connectionCommon{Verify: before.Verify, AllowedRoles: before.AllowedRoles}
	}
	kind, err := e.connectionKind(doc.Type)
	if err != nil {
		return nil, nil, err
	}
	shared, own := split(ConnectionOptions(), given)
	if err := overlay(ConnectionOptions(), &common, shared); err != nil {
		return nil, nil, err
	}
	doc.Verify, doc.AllowedRoles = common.Verify, common.AllowedRoles
	if err := mergeValues(kind.Options(), doc.Type, doc.Values, own); err != nil {
		return nil, nil, err
	}
	if before != nil {
		if fixed := kind.Options().Changed(before.Values, doc.Values, func(o option.Option) bool { return o.Immutable }); len(fixed) > 0 {
			return nil, nil, fault.Field(fixed[0], "cannot be changed once the connection exists: make another connection")
		}
		if err := secretsAgain(kind.Options(), before.Values, doc.Values, before.Secrets, w.Secrets); err != nil {
			return nil, nil, err
		}
	}
	maps.Copy(doc.Secrets, w.Secrets.Reveal())
	return doc, kind, nil
}

// secretsAgain refuses to send a stored secret to a new address.
func secretsAgain(set option.Set, before, after option.Values, kept map[string]string, given secret.Map) error {
	moved := set.Moved(before, after)
	if len(moved) == 0 {
		return nil
	}
	for name, stored := range kept {
		if _, again := given[name]; stored != "" && !again {
			return fault.Field(name, "is required again, because %s changed: a stored secret is not sent to a new address", strings.Join(moved, ", "))
		}
	}
	return nil
}

// split parts given values into those a set declares, and the rest.
func split(set option.Set, given option.Values) (declared, rest option.Values) {
	declared, rest = option.Values{}, option.Values{}
	for name, value := range given {
		if set.Named(name) != nil {
			declared[name] = value
		} else {
			rest[name] = value
		}
	}
	return declared, rest
}

// mergeValues lays a kind's own given values over the stored ones.
func mergeValues(set option.Set, typ string, stored, given option.Values) error {
	for name, value := range given {
		if o := set.Named(name); o == nil || o.Secret {
			return fault.Field(name, "is not a field of type %s", typ)
		}
		stored[name] = value
	}
	return nil
}

// ping opens a connection for a moment and proves its credential.
func (e *Engine) ping(ctx context.Context, kind rotator.ConnectionKind, c *rotator.ConnectionConfig) error {
	conn, err := kind.Open(c)
	if err != nil {
		return err
	}
	defer conn.Close()
	return e.effect(ctx, func(ctx context.Context) error { return kind.Ping(ctx, conn) })
}

// DeleteConnection removes a connection that no role uses, nor the rest of a
// deleted one.
func (e *Engine) DeleteConnection(ctx context.Context, name string) error {
	unlock, err := e.locks.lock(ctx, connectionLock(name))
	if err != nil {
		return err
	}
	defer unlock()
	users, err := e.usersOf(ctx, name)
	if err != nil {
		return err
	}
	if len(users) > 0 {
		return fault.New(fault.Conflict, "connection %q is in use by %s: delete those first", name, joinFirst(users, 10))
	}
	if err := e.store.DeleteConnection(ctx, name); err != nil {
		return err
	}
	e.connections.mu.Lock()
	defer e.connections.mu.Unlock()
	e.connections.end(name)
	return nil
}

// usersOf names the roles of a connection.
func (e *Engine) usersOf(ctx context.Context, connection string) (users []string, err error) {
	names, err := e.everyName(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		s, err := e.load(ctx, name)
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		uses := s.role.Connection == connection || slices.Contains(dependentConnections(s.role.Policy), connection)
		if !uses {
			if uses, err = e.dataLiesAt(ctx, s, connection); err != nil {
				return nil, err
			}
		}
		if !uses {
			if uses, err = s.restartsThrough(connection); err != nil {
				return nil, err
			}
			name += " (until its workloads there have followed a rotation)"
		}
		if !uses {
			continue
		}
		if s.state.Deleted {
			name += " (deleted, its last versions are being ended)"
		}
		users = append(users, name)
	}
	return users, nil
}

// CheckConnection says line by line what the connection's credential may do.
func (e *Engine) CheckConnection(ctx context.Context, name string) ([]rotator.Line, error) {
	doc, err := e.connection(ctx, name)
	if err != nil {
		return nil, err
	}
	kind, err := e.connectionKind(doc.Type)
	if err != nil {
		return nil, err
	}
	conn, err := e.connections.open(ctx, doc)
	if err != nil {
		return nil, err
	}
	var lines []rotator.Line
	err = e.effect(ctx, func(ctx context.Context) (err error) {
		lines, err = kind.Check(ctx, conn)
		return err
	})
	return lines, err
}

// allowsRole tells whether a connection may be used by a role of this name.
func allowsRole(doc *store.Connection, role string) bool {
	return matches(doc.AllowedRoles, role)
}

// matches tells whether a name is one that patterns admit, with * as a wildcard.
func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return glob.Glob(pattern, name) })
}
