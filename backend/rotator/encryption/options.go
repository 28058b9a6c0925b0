package encryption

import (
	"fmt"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// The options that bring keys along.
const (
	importKey    = "import_key"
	importBackup = "backup"
)

const (
	defaultReencryptAfter = 24 * time.Hour
	defaultSettlePeriod   = time.Hour
	// leastSettle: what encrypt answered is on its way through an application, and its
	// transaction, for some time. A shorter one would end versions under rows that are
	// about to be stored.
	leastSettle = time.Minute
	// leastWindow lets a job look, rewrite a page, and stop, before its window closes.
	leastWindow = 10 * time.Minute
	maxWait     = 10 * 365 * 24 * time.Hour
	// maxRows keeps the bound within what any database does.
	maxRows = 1_000_000
)

var roleOptionSet = option.Set{
	{Name: "key_type", Type: option.String, Default: keyTypes[0].name, Immutable: true, Help: "The cipher: aes256-gcm96, which is the default, chacha20-poly1305, or aes128-gcm96 for keys that come from transit."},
	{Name: "derived", Type: option.Bool, Default: false, Immutable: true, Help: "Each request names a context, from which and the version's key its key is derived (HKDF-SHA256), as by a derived key of transit."},
	{Name: "exportable", Type: option.Bool, Default: false, Immutable: true, Help: "Readers of creds get the key itself, in base64, so that it can be taken to a transit engine."},
	{Name: importKey, Type: option.String, Secret: true, Help: "A key that exists: in base64, which becomes version 1, or what transit/export/encryption-key/:name answers (JSON), whose versions keep their numbers."},
	{Name: importBackup, Type: option.String, Secret: true, Help: "A key that exists, as transit/backup/:name answers it (the text of its field backup). Its versions from min_decryption_version on keep their numbers. Excludes import_key."},
	{Name: "reencrypt_after", Type: option.Duration, Default: int64(defaultReencryptAfter / time.Second), Help: "How long after a rotation stored data begins to follow: the time in which a rollback costs nothing."},
	{Name: "settle_period", Type: option.Duration, Default: int64(defaultSettlePeriod / time.Second), Help: "The time within which applications store what encrypt gave them, and decrypt what they read; at least 1m. A version does not end before so long after the last pass over the rows: what is stored later could not be read."},
	{Name: "maintenance_schedule", Type: option.String, Help: "When stored data may be re-encrypted: five cron fields, UTC. Needs maintenance_window. Default: at any time."},
	{Name: "maintenance_window", Type: option.Duration, Help: "For how long it may be from then on; at least 10m. Given with maintenance_schedule, and only with it."},
	{Name: "max_rows_per_second", Type: option.Int, Default: int64(0), Help: "The most rows of a table that are re-encrypted in a second, up to 1000000. Default: 0, which sets no bound."},
	{Name: "destroy_after", Type: option.Duration, Default: int64(0), Help: "How long a version that does not decrypt any more keeps its key before that is destroyed for good. Default: 0, which keeps it for ever. It must exceed the age of the oldest database backup that you may have to read: what lies in there was encrypted with earlier keys."},
	{Name: backendOption, Type: option.String, Immutable: true, Sole: true, Help: "A key of a transit engine, as connection/mount/key, such as self/transit/intelliflow-data: its versions are the role's, rotations rotate it there, and stored data follows by its rewrap. The connection is one of type vault whose allowed_paths admit mount/key."},
}

type roleOptions struct {
	KeyType             string            `json:"key_type"`
	Derived             bool              `json:"derived"`
	Exportable          bool              `json:"exportable"`
	ReencryptAfter      rotation.Duration `json:"reencrypt_after"`
	SettlePeriod        rotation.Duration `json:"settle_period"`
	MaintenanceSchedule string            `json:"maintenance_schedule"`
	MaintenanceWindow   rotation.Duration `json:"maintenance_window"`
	MaxRowsPerSecond    int64             `json:"max_rows_per_second"`
	DestroyAfter        rotation.Duration `json:"destroy_after"`
	Backend             string            `json:"backend"`
}

func decodeRole(r *rotator.Role) (*roleOptions, error) {
	var o roleOptions
	if err := roleOptionSet.Decode(r.Values, &o); err != nil {
		return nil, err
	}
	return &o, nil
}

func (o *roleOptions) keyType() (*keyType, error) {
	kt := keyTypeNamed(o.KeyType)
	if kt == nil {
		return nil, fault.Field("key_type", "is not known; valid is %s", keyTypeNames())
	}
	return kt, nil
}

// CheckRole implements rotator.Rotator.
func (*Rotator) CheckRole(_, after *rotator.Role) error {
	o, err := decodeRole(after)
	if err != nil {
		return err
	}
	kt, err := o.keyType()
	if err != nil {
		return err
	}
	if err := checkBackend(after); err != nil {
		return err
	}
	if err := o.checkTimes(); err != nil {
		return err
	}
	if err := o.checkMaintenance(); err != nil {
		return err
	}
	if !imports(after) {
		return nil
	}
	_, err = parseImport(o, kt, after.Secrets)
	return err
}

func (o *roleOptions) checkTimes() error {
	switch {
	case o.ReencryptAfter < 0 || o.ReencryptAfter.Std() > maxWait:
		return fault.Field("reencrypt_after", "must be from 0 to 10 years")
	case o.SettlePeriod.Std() < leastSettle || o.SettlePeriod.Std() > maxWait:
		return fault.Field("settle_period", "must be at least 1m, and at most 10 years: what encrypt answered is stored some time later")
	case o.DestroyAfter < 0:
		return fault.Field("destroy_after", "must not be negative; 0 keeps keys for ever")
	}
	return nil
}

// checkMaintenance leaves the schedule's text to the engine, which follows it.
func (o *roleOptions) checkMaintenance() error {
	switch {
	case o.MaintenanceSchedule == "" && o.MaintenanceWindow != 0:
		return fault.Field("maintenance_window", "needs maintenance_schedule: when the window opens")
	case o.MaintenanceSchedule != "" && o.MaintenanceWindow == 0:
		return fault.Field("maintenance_schedule", "needs maintenance_window: for how long the window is open")
	case o.MaintenanceWindow != 0 && o.MaintenanceWindow.Std() < leastWindow:
		return fault.Field("maintenance_window", "must be at least 10m")
	case o.MaxRowsPerSecond < 0 || o.MaxRowsPerSecond > maxRows:
		return fault.Field("max_rows_per_second", "must be from 0, which sets no bound, to %d", maxRows)
	}
	return nil
}

// readersHold is the part of the grace for which a reader may go on with what it read.
const readersHold = 4

// Warnings implements rotator.Warner.
func (*Rotator) Warnings(r *rotator.Role) (out []string) {
	o, err := decodeRole(r)
	if err != nil {
		return nil
	}
	if o.Backend != "" {
		out = append(out, noWayBack)
	}
	if o.DestroyAfter > 0 && o.Backend == "" {
		out = append(out, fmt.Sprintf("the key of a version is destroyed %s after the version ended: a database backup that is older holds data which nobody can decrypt any more, so destroy_after must exceed the age of the oldest one that you keep", o.DestroyAfter))
	}
	if o.Exportable && o.SettlePeriod.Std() < r.Grace/readersHold {
		out = append(out, fmt.Sprintf("who reads a key from creds may encrypt with it outside Vault for %s after the next rotation, a quarter of the grace: let settle_period be at least as long if anybody does", r.Grace/readersHold))
	}
	return out
}
