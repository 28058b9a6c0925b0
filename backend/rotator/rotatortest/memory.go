package rotatortest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/mark"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// MemoryType is the type= of the in-memory kind and of its connection.
const MemoryType = "memory"

// Memory is a kind of secret whose target is a World. It uses every point of the
// contract, so that the engine's tests reach them all.
type Memory struct{ World *World }

// NewMemory makes the kind with a world of its own.
func NewMemory() *Memory { return &Memory{World: NewWorld()} }

type memoryRole struct {
	Prefix   string            `json:"prefix"`
	Announce rotation.Duration `json:"announce"`
	ByHand   bool              `json:"by_hand"`
	Destroy  rotation.Duration `json:"destroy_after"`
	Fixed    string            `json:"fixed"`
	Forward  bool              `json:"irreversible"`
	InPlace  bool              `json:"in_place"`
	Standing bool              `json:"standing"`
	Username string            `json:"username"`
	Minted   bool              `json:"minted"`
	Soak     rotation.Duration `json:"soak_period"`
	Auto     bool              `json:"auto_promote"`
	Public   bool              `json:"public"`
}

var memoryOptions = option.Set{
	{Name: "prefix", Type: option.String, Default: "u", Help: "Begins the name of every user."},
	{Name: "announce", Type: option.Duration, Default: int64(0), Help: "Keeps a standby version this long ahead."},
	{Name: "by_hand", Type: option.Bool, Default: false, Help: "New versions wait for a person."},
	{Name: "destroy_after", Type: option.Duration, Default: int64(0), Help: "How long a disabled user is kept."},
	{Name: "irreversible", Type: option.Bool, Default: false, Help: "What is prepared cannot be undone."},
	{Name: "in_place", Type: option.Bool, Default: false, Help: "One credential, changed where it stands."},
	{Name: "standing", Type: option.Bool, Default: false, Help: "Two users that take turns."},
	{Name: "minted", Type: option.Bool, Default: false, Help: "The target makes the passwords."},
	{Name: "soak_period", Type: option.Duration, Default: int64(0), Help: "How long a staged version stands by."},
	{Name: "auto_promote", Type: option.Bool, Default: true, Help: "A staged version takes over by itself."},
	{Name: "public", Type: option.Bool, Default: false, Help: "What readers get is taken for no secret."},
	{Name: "username", Type: option.String, Default: "", Help: "A user to take over, with its password."},
	{Name: "password", Type: option.String, Secret: true, Help: "The password of the user to take over."},
	{Name: "fixed", Type: option.String, Default: "", Help: "Cannot be changed.", Immutable: true},
}

// decodedRoles keeps what roles' values say: the engine asks the same roles the same questions all the time.
var decodedRoles sync.Map

func decode(r *rotator.Role) (memoryRole, error) {
	values := fmt.Sprintf("%#v", r.Values)
	if m, known := decodedRoles.Load(values); known {
		return m.(memoryRole), nil
	}
	var m memoryRole
	err := memoryOptions.Decode(r.Values, &m)
	if err == nil {
		decodedRoles.Store(values, m)
	}
	return m, err
}

// Kind implements rotator.Rotator.
func (m *Memory) Kind() rotator.Kind {
	return rotator.Kind{
		Name: MemoryType, ConnectionTypes: []string{MemoryType}, Options: memoryOptions,
		Period: 30 * 24 * time.Hour, Grace: time.Hour, Copied: []string{"username", "password"},
	}
}

// CheckRole implements rotator.Rotator.
func (m *Memory) CheckRole(_, after *rotator.Role) error {
	r, err := decode(after)
	if err != nil {
		return err
	}
	if len(r.Prefix) > 40 {
		return fault.Field("prefix", "must have at most 40 bytes")
	}
	return nil
}

// Plan implements rotator.Rotator.
func (m *Memory) Plan(_ context.Context, t *rotator.Target) (*rotator.Candidate, error) {
	r, err := decode(t.Role)
	if err != nil {
		return nil, err
	}
	if r.ByHand && t.Current != nil {
		return nil, &rotator.WaitsForPerson{What: "make a user by hand"}
	}
	if password, given := t.Role.Secrets["password"]; given {
		return &rotator.Candidate{Identifier: r.Username, Material: secret.Map{"password": password}}, nil
	}
	if r.Username != "" && t.Version.Number == 1 {
		return nil, fault.New(fault.Target, "the password of %s is not known any more", r.Username)
	}
	if r.shared() {
		return planShared(t, r), nil
	}
	planned := &rotator.Candidate{Identifier: fmt.Sprintf("%s_%s_v%d_%s", r.Prefix, t.Role.Name, t.Version.Number, t.Version.RotationID[:8])}
	if !r.Minted {
		planned.Material = secret.NewMap(map[string]string{"password": rand.Text()})
	}
	return planned, nil
}

// ours finds the target's user if it bears exactly our mark; a user with any other
// mark is refused.
func ours(users map[string]*User, t *rotator.Target) (*User, error) {
	u := users[t.Version.Identifier]
	if u == nil {
		return nil, nil
	}
	found, mac, err := mark.Parse(u.Comment)
	if err != nil || !t.MarkKey.Verify(found, mac, t.Version.Identifier) || found.RotationID != t.Version.RotationID {
		return nil, fault.New(fault.Target, "user %q is not ours", t.Version.Identifier)
	}
	return u, nil
}

// Prepare implements rotator.Rotator.
func (m *Memory) Prepare(_ context.Context, t *rotator.Target) error {
	if r, err := decode(t.Role); err != nil || r.shared() {
		return errors.Join(err, m.prepareShared(t))
	}
	return m.World.change(func(users map[string]*User) error {
		if takenOver(users, t) {
			return nil
		}
		u, err := ours(users, t)
		if err != nil {
			return err
		}
		if t.Material == nil {
			return fault.New(fault.Target, "the material of version %d is gone", t.Version.Number)
		}
		if u == nil {
			u = &User{}
			users[t.Version.Identifier] = u
		}
		u.Comment = t.MarkKey.Sign(t.Mark, t.Version.Identifier)
		u.Password, u.Enabled = t.Material["password"].Reveal(), true
		return nil
	})
}

// Verify implements rotator.Rotator.
func (m *Memory) Verify(_ context.Context, t *rotator.Target) error {
	m.World.mu.Lock()
	refuse := m.World.refuse
	m.World.mu.Unlock()
	if refuse {
		return fault.New(fault.Conflict, "the check query failed")
	}
	return m.World.Login(t.Version.Identifier, t.Material["password"].Reveal())
}

// Retire implements rotator.Rotator.
func (m *Memory) Retire(_ context.Context, t *rotator.Target, stage rotator.Stage) (rotator.Progress, error) {
	var p rotator.Progress
	r, err := decode(t.Role)
	if err != nil {
		return p, err
	}
	if r.shared() {
		return m.retireShared(t, r)
	}
	err = m.World.change(func(users map[string]*User) error {
		u, err := ours(users, t)
		if err != nil || u == nil {
			return err
		}
		if stage == rotator.Destroy {
			delete(users, t.Version.Identifier)
			return nil
		}
		if m.World.busy {
			p.NotYet, p.AskAgain = "somebody is busy", 30*time.Second
			return nil
		}
		p.SessionsEnded, p.DestroyAfter = u.Sessions, r.Destroy.Std()
		u.Enabled, u.Sessions = false, 0
		return nil
	})
	return p, err
}

// Discard implements rotator.Rotator.
func (m *Memory) Discard(ctx context.Context, t *rotator.Target) (rotator.Progress, error) {
	if r, err := decode(t.Role); err != nil || r.Username == t.Version.Identifier {
		return m.giveBack(t)
	}
	p, err := m.Retire(ctx, t, rotator.Destroy)
	if err == nil && t.Version.Lost() && t.Now.Sub(t.Version.MintBegun) < searchFor {
		p.NotYet, p.AskAgain = "it may appear late", searchFor/2
	}
	return p, err
}

// searchFor is how long a user is looked for whose making was not confirmed.
const searchFor = 2 * time.Minute

// Render implements rotator.Rotator.
func (m *Memory) Render(t *rotator.Target) (map[string]any, error) {
	return map[string]any{"username": t.Version.Identifier, "password": t.Material["password"].Reveal()}, nil
}

// Probe implements rotator.Prober.
func (m *Memory) Probe(_ context.Context, t *rotator.Target) (rotator.Proof, error) {
	err := m.World.Login(t.Version.Identifier, t.Material["password"].Reveal())
	switch {
	case err == nil:
		return rotator.Proof{Result: "it still logs in"}, nil
	case !fault.Is(err, fault.AuthFailed):
		return rotator.Proof{}, err
	}
	if t.Current != nil {
		if err := m.World.Login(t.Current.Version.Identifier, t.Current.Material["password"].Reveal()); err != nil {
			return rotator.Proof{}, fault.New(fault.Target, "the current version is refused too: %w", err)
		}
	}
	return rotator.Proof{Dead: true, Result: "the target refused it"}, nil
}

// InUse implements rotator.InUser.
func (m *Memory) InUse(_ context.Context, t *rotator.Target) ([]rotator.Use, error) {
	u, ok := m.World.Users()[t.Version.Identifier]
	if !ok || u.Sessions == 0 {
		return nil, nil
	}
	return []rotator.Use{{ApplicationName: "app", ClientAddr: "127.0.0.1", Count: u.Sessions}}, nil
}

// Preflight implements rotator.Preflighter.
func (m *Memory) Preflight(_ context.Context, _ *rotator.Target) ([]rotator.Line, error) {
	if err := m.World.change(func(map[string]*User) error { return nil }); err != nil {
		return nil, err
	}
	return []rotator.Line{{Check: "target", Result: rotator.Pass, Detail: "reachable"}}, nil
}

// Survey implements rotator.Surveyor.
func (m *Memory) Survey(_ context.Context, t *rotator.Target) (seen []rotator.Sighting, err error) {
	err = m.World.change(func(users map[string]*User) error {
		for name, u := range users {
			found, mac, err := mark.Parse(u.Comment)
			if err != nil || found.Role != t.Role.Name {
				continue
			}
			seen = append(seen, rotator.Sighting{Mark: found, Identifier: name, Authentic: t.MarkKey.Verify(found, mac, name)})
		}
		return nil
	})
	slices.SortFunc(seen, func(a, b rotator.Sighting) int { return a.Mark.Version - b.Mark.Version })
	return seen, err
}

// Restorable implements rotator.Restorer.
func (m *Memory) Restorable(*rotator.Target) string { return "" }

// AnnounceAhead implements rotator.Announcer.
func (m *Memory) AnnounceAhead(r *rotator.Role) time.Duration {
	decoded, err := decode(r)
	if err != nil {
		return 0
	}
	return decoded.Announce.Std()
}

// Discloses implements rotator.Discloser.
func (m *Memory) Discloses(r *rotator.Role) bool {
	decoded, err := decode(r)
	return err != nil || !decoded.Public
}

// PrepareIsIrreversible implements rotator.Irreversible.
func (m *Memory) PrepareIsIrreversible(r *rotator.Role) bool {
	decoded, err := decode(r)
	return err == nil && decoded.Forward
}

// InPlace implements rotator.InPlace.
func (m *Memory) InPlace(r *rotator.Role) bool {
	decoded, err := decode(r)
	return err == nil && decoded.InPlace
}

// Load implements rotator.LiveUser.
func (m *Memory) Load(_ *rotation.Version, material secret.Map) (any, error) {
	return material["password"].Reveal(), nil
}

// Use implements rotator.LiveUser: it seals a text with the current version, or
// opens one that any live version sealed.
func (m *Memory) Use(_ context.Context, live *rotator.LiveVersions, request any) (any, error) {
	switch r := request.(type) {
	case Seal:
		if live.Current == nil {
			return nil, fault.New(fault.NotFound, "role %q is deleted", live.Role.Name)
		}
		return Open{Version: live.Current.Version.Number, Text: seal(live.Current, string(r))}, nil
	case Open:
		for i := range live.All {
			if text, ok := strings.CutPrefix(r.Text, seal(&live.All[i], "")); ok {
				return Seal(text), nil
			}
		}
		return nil, fault.New(fault.Invalid, "no live version sealed this")
	default:
		return nil, fault.New(fault.Invalid, "type %s neither signs nor verifies", MemoryType)
	}
}

// Seal asks Memory.Use to seal a text; it is the answer to Open.
type Seal string

// Open asks Memory.Use to open what it sealed; it is the answer to Seal.
type Open struct {
	Version int
	Text    string
}

// seal stands in for cryptography: what matters is whose material it takes.
func seal(v *rotator.Live, text string) string {
	password, _ := v.Ready.(string)
	return fmt.Sprintf("%x:%s", sha256.Sum256([]byte(password)), text)
}

// MemoryConnection is the connection type of the in-memory kind.
type MemoryConnection struct{ World *World }

var memoryConnectionOptions = option.Set{
	{Name: "address", Type: option.String, Help: "Where the target is.", Address: true},
	{Name: "password", Type: option.String, Help: "The admin's password.", Secret: true},
	{Name: "pool_size", Type: option.Int, Default: int64(4), Help: "How many connections are kept."},
}

type memoryConn struct{ password string }

// Close implements rotator.Connection.
func (memoryConn) Close() {}

// adminUser is the connection's own user in the world.
const adminUser = "admin"

// Type implements rotator.ConnectionKind.
func (MemoryConnection) Type() string { return MemoryType }

// Options implements rotator.ConnectionKind.
func (MemoryConnection) Options() option.Set { return memoryConnectionOptions }

// CheckConnection implements rotator.ConnectionKind.
func (MemoryConnection) CheckConnection(c *rotator.ConnectionConfig) ([]string, error) {
	if address, _ := c.Values["address"].(string); address == "" {
		return nil, fault.Field("address", "is required")
	}
	if c.Secrets["password"].Empty() {
		return nil, fault.Field("password", "is required")
	}
	return nil, nil
}

// Open implements rotator.ConnectionKind.
func (MemoryConnection) Open(c *rotator.ConnectionConfig) (rotator.Connection, error) {
	return memoryConn{password: c.Secrets["password"].Reveal()}, nil
}

// Ping implements rotator.ConnectionKind: the admin exists from its first use.
func (k MemoryConnection) Ping(_ context.Context, conn rotator.Connection) error {
	c, ok := conn.(memoryConn)
	if !ok {
		return fmt.Errorf("not a memory connection: %T", conn)
	}
	return k.World.change(func(users map[string]*User) error {
		u := users[adminUser]
		if u == nil {
			users[adminUser] = &User{Password: c.password, Enabled: true}
			return nil
		}
		if u.Password != c.password {
			return fault.New(fault.AuthFailed, "the admin's password was refused")
		}
		return nil
	})
}

// Check implements rotator.ConnectionKind.
func (k MemoryConnection) Check(ctx context.Context, conn rotator.Connection) ([]rotator.Line, error) {
	if err := k.Ping(ctx, conn); err != nil {
		return nil, err
	}
	return []rotator.Line{{Check: "login", Result: rotator.Pass, Detail: "the admin logs in"}}, nil
}

// NewRoot implements rotator.RootRotator.
func (MemoryConnection) NewRoot(context.Context, *rotator.ConnectionConfig, rotator.PasswordPolicy) (secret.Map, error) {
	return secret.NewMap(map[string]string{"password": rand.Text()}), nil
}

// SetRoot implements rotator.RootRotator.
func (k MemoryConnection) SetRoot(_ context.Context, _ rotator.Connection, next secret.Map) error {
	return k.World.change(func(users map[string]*User) error {
		users[adminUser] = &User{Password: next["password"].Reveal(), Enabled: true}
		return nil
	})
}
