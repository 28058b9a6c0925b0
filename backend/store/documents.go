package store

import (
	"context"
	"slices"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// The schemas of this release. A change of form appends an upgrade, and a
// fixture to testdata/.
var (
	configSchema     = schema{what: "mount configuration"}
	instanceSchema   = schema{what: "instance"}
	connectionSchema = schema{what: "connection"}
	roleSchema       = schema{what: "role"}
	stateSchema      = schema{what: "state of a role"}
	materialSchema   = schema{what: "material of a version"}
	historySchema    = schema{what: "rotation"}
	tombstoneSchema  = schema{what: "tombstone"}
)

// Config is the mount-wide configuration.
type Config struct {
	Paused                 bool              `json:"paused"`
	MaxConcurrentRotations int               `json:"max_concurrent_rotations"`
	OverdueAfter           rotation.Duration `json:"overdue_after"`
	HistoryLimit           int               `json:"history_limit"`
	// AccessRateThreshold is how many reads a minute of one role nobody is told of; 0 for
	// any number.
	AccessRateThreshold int `json:"access_rate_threshold"`
	// ExternalURL is where clients reach Vault, without a slash at its end.
	ExternalURL string `json:"external_url,omitempty"`
	// Channels are told of roles that name none themselves; empty for all channels.
	Channels []string `json:"channels,omitempty"`
	// Contacts are the channels in line for what nobody acknowledges within EscalateAfter.
	Contacts      []string          `json:"contacts,omitempty"`
	EscalateAfter rotation.Duration `json:"escalate_after"`
	// NotifyBefore is how long ahead people are told of a rotation; 0: they are not.
	NotifyBefore rotation.Duration `json:"notify_before"`
	// UnauthenticatedMetrics lets anybody read metrics.
	UnauthenticatedMetrics bool `json:"unauthenticated_metrics,omitempty"`
}

// DefaultConfig is in force until an operator writes another.
func DefaultConfig() Config {
	return Config{
		MaxConcurrentRotations: 16,
		OverdueAfter:           rotation.Duration(7 * 24 * time.Hour),
		HistoryLimit:           100,
		EscalateAfter:          rotation.Duration(time.Hour),
		AccessRateThreshold:    1000,
	}
}

// Instance identifies this mount in marks.
type Instance struct {
	ID      string `json:"id"`
	HMACKey []byte `json:"hmac_key"`
}

// Connection is a stored connection.
type Connection struct {
	Name         string            `json:"name"`
	Type         string            `json:"type"`
	AllowedRoles []string          `json:"allowed_roles"`
	Verify       bool              `json:"verify_connection"`
	Values       option.Values     `json:"values"`
	Secrets      map[string]string `json:"secrets"`
	// NextSecrets were minted by rotate-root and may or may not be in force: they
	// are stored before they are set.
	NextSecrets map[string]string `json:"next_secrets,omitempty"`
	// NextRoot is set beside NextSecrets that the target minted itself.
	NextRoot *NextRoot `json:"next_root,omitempty"`
	// Roots are credentials of the connection's own that are to be ended at the target:
	// replaced ones, and any that an unconfirmed call may have made.
	Roots       []Root    `json:"roots,omitempty"`
	RotatedTime time.Time `json:"rotated_time,omitzero"`
}

// Unsettled tells whether a rotation of the connection's own credential left something to
// be done.
func (c *Connection) Unsettled() bool { return c.NextSecrets != nil || len(c.Roots) > 0 }

// NextRoot is how the target calls the next credential, and the one that it replaces.
type NextRoot struct {
	Name     string `json:"name"`
	Replaces string `json:"replaces"`
}

// Root is a credential that is to be ended: by the target's id of it, or by the mark that
// it bears for its name, should it exist.
type Root struct {
	ID    string    `json:"id,omitempty"`
	Name  string    `json:"name,omitempty"`
	Since time.Time `json:"since"`
}

// Role is the operator's intent.
type Role struct {
	Name       string `json:"name"`
	Type       string `json:"type"`
	Connection string `json:"connection,omitempty"`
	Policy     Policy `json:"policy"`
	// Values are the options of the role's own kind.
	Values      option.Values `json:"values"`
	CreatedTime time.Time     `json:"created_time"`
	// Interval is the period, or the shortest gap of the schedule; kept here since
	// reading credentials answers it.
	Interval rotation.Duration `json:"interval"`
}

// Policy is what roles of every kind have. The names are those of the role's
// fields.
type Policy struct {
	Period       rotation.Duration `json:"rotation_period"`
	Schedule     string            `json:"rotation_schedule"`
	Window       rotation.Duration `json:"rotation_window"`
	NextRotation string            `json:"next_rotation"` // RFC 3339: the first one
	Jitter       rotation.Duration `json:"jitter"`
	Disabled     bool              `json:"disable_automated_rotation"`
	Grace        rotation.Duration `json:"grace_period"`
	WaitForIdle  bool              `json:"wait_for_idle"`
	MaxGrace     rotation.Duration `json:"max_grace_period"`
	MaxVersions  int               `json:"max_versions"`
	MaxAttempts  int               `json:"max_attempts"`
	OverdueAfter rotation.Duration `json:"overdue_after"` // 0: the mount's
	// AccessRateThreshold is nil for the mount's.
	AccessRateThreshold *int `json:"access_rate_threshold"`
	// Rollout are the workloads that are restarted, in RolloutOrder, after a switch.
	Rollout          []string          `json:"rollout,omitempty"`
	RolloutOrder     string            `json:"rollout_order,omitempty"`
	RolloutTimeout   rotation.Duration `json:"rollout_timeout,omitempty"`
	OnRolloutFailure string            `json:"on_rollout_failure"`
	// Checks are connections that tell whether what depends on the secret is well.
	Checks         []string `json:"checks,omitempty"`
	ExpectSessions []string `json:"expect_sessions,omitempty"`
	// Mirror is where the current version is copied to.
	Mirror         string            `json:"mirror,omitempty"`
	MirrorFields   map[string]string `json:"mirror_fields,omitempty"`
	MirrorForce    bool              `json:"mirror_force,omitempty"`
	CustomMetadata map[string]string `json:"custom_metadata"`
	Channels       []string          `json:"channels,omitempty"` // empty: the mount's
}

// Tombstone is what stays of a deleted role. Pending is nil once nothing is left
// to be done; the highest version number, and the revision that fences of objects
// outside may bear, are kept for good.
type Tombstone struct {
	Highest  int      `json:"highest"`
	Revision int64    `json:"revision"`
	Pending  *Pending `json:"pending,omitempty"`
}

// Pending is the rest of a deleted role's life.
type Pending struct {
	Role  Role           `json:"role"`
	State rotation.State `json:"state"`
}

// Config returns the stored configuration, or the default one.
func (s *Store) Config(ctx context.Context) (Config, error) {
	c := DefaultConfig()
	_, err := s.read(ctx, ConfigKey, configSchema, &c)
	return c, err
}

// PutConfig stores the configuration.
func (s *Store) PutConfig(ctx context.Context, c Config) error {
	return s.write(ctx, ConfigKey, configSchema, c)
}

// Instance returns this mount's identity, nil when none was made yet.
func (s *Store) Instance(ctx context.Context) (*Instance, error) {
	return readPtr[Instance](ctx, s, instanceKey, instanceSchema)
}

// PutInstance stores this mount's identity.
func (s *Store) PutInstance(ctx context.Context, i Instance) error {
	return s.write(ctx, instanceKey, instanceSchema, i)
}

// Connection returns nil when there is none of this name.
func (s *Store) Connection(ctx context.Context, name string) (*Connection, error) {
	return readPtr[Connection](ctx, s, connectionKey(name), connectionSchema)
}

// PutConnection stores a connection, secrets included.
func (s *Store) PutConnection(ctx context.Context, c *Connection) error {
	return s.write(ctx, connectionKey(c.Name), connectionSchema, c)
}

// DeleteConnection removes a connection.
func (s *Store) DeleteConnection(ctx context.Context, name string) error {
	return s.delete(ctx, connectionKey(name))
}

// Connections lists the names.
func (s *Store) Connections(ctx context.Context) ([]string, error) {
	return s.list(ctx, connectionPrefix)
}

// Role returns nil when there is none of this name.
func (s *Store) Role(ctx context.Context, name string) (*Role, error) {
	return readPtr[Role](ctx, s, roleKey(name), roleSchema)
}

// PutRole stores the operator's intent.
func (s *Store) PutRole(ctx context.Context, r *Role) error {
	return s.write(ctx, roleKey(r.Name), roleSchema, r)
}

// DeleteRole removes intent, state, targets and history of a role.
func (s *Store) DeleteRole(ctx context.Context, name string) error {
	if err := s.deleteTargets(ctx, name); err != nil {
		return err
	}
	entries, err := s.list(ctx, historyFolder(name))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := s.delete(ctx, historyFolder(name)+e); err != nil {
			return err
		}
	}
	if err := s.delete(ctx, stateKey(name)); err != nil {
		return err
	}
	return s.delete(ctx, roleKey(name))
}

// Roles lists the names.
func (s *Store) Roles(ctx context.Context) ([]string, error) { return s.list(ctx, rolePrefix) }

// State returns nil when the role has none.
func (s *Store) State(ctx context.Context, name string) (*rotation.State, error) {
	return readPtr[rotation.State](ctx, s, stateKey(name), stateSchema)
}

// PutState commits a step of a role.
func (s *Store) PutState(ctx context.Context, name string, state *rotation.State) error {
	return s.write(ctx, stateKey(name), stateSchema, state)
}

// Material returns the secret bytes of a version, nil when they are gone.
func (s *Store) Material(ctx context.Context, name string, version int) (secret.Map, error) {
	plain, err := readPtr[map[string]string](ctx, s, materialKey(name, version), materialSchema)
	if err != nil || plain == nil {
		return nil, err
	}
	return secret.NewMap(*plain), nil
}

// PutMaterial stores the secret bytes of a version.
func (s *Store) PutMaterial(ctx context.Context, name string, version int, m secret.Map) error {
	return s.write(ctx, materialKey(name, version), materialSchema, m.Reveal())
}

// DeleteMaterial destroys the secret bytes of a version.
func (s *Store) DeleteMaterial(ctx context.Context, name string, version int) error {
	return s.delete(ctx, materialKey(name, version))
}

// DeleteAllMaterial destroys the secret bytes of every version of a role.
func (s *Store) DeleteAllMaterial(ctx context.Context, name string) error {
	versions, err := s.list(ctx, materialFolder(name))
	if err != nil {
		return err
	}
	for _, v := range versions {
		if err := s.delete(ctx, materialFolder(name)+v); err != nil {
			return err
		}
	}
	return nil
}

// PutHistory writes the record of a rotation; writing it again replaces it.
func (s *Store) PutHistory(ctx context.Context, name string, r *rotation.Rotation) error {
	return s.write(ctx, historyKey(name, r.StartedTime, r.ID), historySchema, r)
}

// History returns up to limit records, newest first, older than the entry named
// before (empty: from the newest), and the name to go on with.
func (s *Store) History(ctx context.Context, name, before string, limit int) (records []rotation.Rotation, next string, err error) {
	entries, err := s.list(ctx, historyFolder(name))
	if err != nil {
		return nil, "", err
	}
	slices.Sort(entries)
	for _, entry := range slices.Backward(entries) {
		if before != "" && entry >= before {
			continue
		}
		if len(records) == limit {
			return records, next, nil
		}
		var r rotation.Rotation
		found, err := s.read(ctx, historyFolder(name)+entry, historySchema, &r)
		if err != nil {
			return nil, "", err
		}
		if found {
			records, next = append(records, r), entry
		}
	}
	return records, "", nil
}

// TrimHistory keeps the newest records.
func (s *Store) TrimHistory(ctx context.Context, name string, keep int) error {
	entries, err := s.list(ctx, historyFolder(name))
	if err != nil {
		return err
	}
	slices.Sort(entries)
	for _, entry := range entries[:max(len(entries)-keep, 0)] {
		if err := s.delete(ctx, historyFolder(name)+entry); err != nil {
			return err
		}
	}
	return nil
}

// Tombstone returns nil when no role of this name was ever deleted.
func (s *Store) Tombstone(ctx context.Context, name string) (*Tombstone, error) {
	return readPtr[Tombstone](ctx, s, tombstoneKey(name), tombstoneSchema)
}

// PutTombstone stores what a deleted role leaves.
func (s *Store) PutTombstone(ctx context.Context, name string, t *Tombstone) error {
	return s.write(ctx, tombstoneKey(name), tombstoneSchema, t)
}

// Tombstones lists the names of deleted roles.
func (s *Store) Tombstones(ctx context.Context) ([]string, error) {
	return s.list(ctx, tombstonePrefix)
}

func readPtr[T any](ctx context.Context, s *Store, key string, form schema) (*T, error) {
	var doc T
	found, err := s.read(ctx, key, form, &doc)
	if err != nil || !found {
		return nil, err
	}
	return &doc, nil
}
