package postgresql

import (
	"context"
	"fmt"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// connectionOptionSet declares what a connection understands beside what all
// connections do. The password follows neither another address, name nor way of sending it:
// changing any requires it again.
var connectionOptionSet = option.Set{
	{Name: "connection_url", Type: option.String, Address: true, Help: "postgresql://{{username}}:{{password}}@host:5432/database?sslmode=verify-full, or keyword=value pairs. Several hosts may be given."},
	{Name: "replica_urls", Type: option.List, Address: true, Help: "Addresses of hot standbys on which readers have sessions, one for each, in the forms of connection_url: sessions there are ended too, and a proof of death covers them. They are reached with the same user, password and TLS options."},
	{Name: "username", Type: option.String, Address: true, Help: "Name of the administrator's user."},
	{Name: "password", Type: option.String, Secret: true, Help: "Password of the administrator's user."},
	{Name: "tls_ca", Type: option.String, Address: true, Help: "Certificate authority of the server, in PEM form. Default: the system's."},
	{Name: "tls_certificate", Type: option.String, Address: true, Help: "Client certificate, in PEM form."},
	{Name: "private_key", Type: option.String, Secret: true, Help: "Key of tls_certificate, in PEM form."},
	{Name: "tls_server_name", Type: option.String, Address: true, Help: "Name to expect in the server's certificate. Default: the host's."},
	{Name: "max_open_connections", Type: option.Int, Default: int64(4), Help: "Most connections of the administrator at a time to one server, all told; at least 2. Logins as a role's own users, to verify and to probe them, are not counted, and as many again re-encrypt rows."},
	{Name: "max_idle_connections", Type: option.Int, Default: int64(1), Help: "Most connections kept open between uses."},
	{Name: "max_connection_lifetime", Type: option.Duration, Default: int64(0), Help: "How long a connection is used; 0 for no limit."},
	{Name: "connect_timeout", Type: option.Duration, Default: int64(5), Help: "How long to wait for a host to accept a login."},
	{Name: "statement_timeout", Type: option.Duration, Default: int64(30), Help: "How long one statement may run."},
	{Name: "allow_custom_statements", Type: option.Bool, Default: false, Help: "Let roles bring SQL statements of their own."},
	{Name: "allowed_groups", Type: option.List, Help: "Group roles that member_of may name. Default: any that gives no administrator's power."},
	{Name: "allowed_tables", Type: option.List, Help: "Tables of the connection's database whose rows may be re-encrypted, as schema.table; * stands for anything within either name, such as billing.*. Default: none."},
	{Name: "allow_weak_auth", Type: option.Bool, Default: false, Address: true, Help: "Answer requests for the password in clear or as MD5."},
}

type connectionOptions struct {
	ConnectionURL         string            `json:"connection_url"`
	ReplicaURLs           []string          `json:"replica_urls"`
	Username              string            `json:"username"`
	CA                    string            `json:"tls_ca"`
	Certificate           string            `json:"tls_certificate"`
	ServerName            string            `json:"tls_server_name"`
	MaxOpen               int               `json:"max_open_connections"`
	MaxIdle               int               `json:"max_idle_connections"`
	MaxLifetime           rotation.Duration `json:"max_connection_lifetime"`
	ConnectTimeout        rotation.Duration `json:"connect_timeout"`
	StatementTimeout      rotation.Duration `json:"statement_timeout"`
	AllowCustomStatements bool              `json:"allow_custom_statements"`
	AllowedGroups         []string          `json:"allowed_groups"`
	AllowedTables         []string          `json:"allowed_tables"`
	AllowWeakAuth         bool              `json:"allow_weak_auth"`
}

// decodeConnection reads stored values, in which the options common to all
// connections may stand too.
func decodeConnection(values option.Values) (*connectionOptions, error) {
	own := option.Values{}
	for name, value := range values {
		if o := connectionOptionSet.Named(name); o != nil && !o.Secret {
			own[name] = value
		}
	}
	var o connectionOptions
	if err := connectionOptionSet.Decode(own, &o); err != nil {
		return nil, err
	}
	return &o, nil
}

func (o *connectionOptions) config(secrets secret.Map, dial postgres.DialFunc) (postgres.Config, error) {
	address, err := postgres.ParseAddress(o.ConnectionURL)
	if err != nil {
		return postgres.Config{}, err
	}
	return postgres.Config{
		Address: address, Username: o.Username, Password: secrets["password"],
		CA: o.CA, Certificate: o.Certificate, PrivateKey: secrets["private_key"], ServerName: o.ServerName,
		MaxOpen: o.MaxOpen, MaxIdle: o.MaxIdle, MaxLifetime: o.MaxLifetime.Std(),
		ConnectTimeout: o.ConnectTimeout.Std(), StatementTimeout: o.StatementTimeout.Std(),
		AllowWeakAuth: o.AllowWeakAuth, Dial: dial,
	}, nil
}

// ConnectionKind is the connection type postgresql.
type ConnectionKind struct {
	// Dial replaces the network in tests; nil for the real one.
	Dial postgres.DialFunc
}

// NewConnectionKind returns the connection type.
func NewConnectionKind() *ConnectionKind { return &ConnectionKind{} }

var (
	_ rotator.ConnectionKind = (*ConnectionKind)(nil)
	_ rotator.RootRotator    = (*ConnectionKind)(nil)
	_ rotator.DataHolder     = (*ConnectionKind)(nil)
)

// Type implements rotator.ConnectionKind.
func (*ConnectionKind) Type() string { return Type }

// Options implements rotator.ConnectionKind.
func (*ConnectionKind) Options() option.Set { return connectionOptionSet }

// sslWarnings says what each sslmode without full verification leaves open.
var sslWarnings = map[string]string{
	"disable":   "sslmode=disable: nothing is encrypted; SCRAM hides the password, but everything else is in clear. Use sslmode=verify-full",
	"allow":     "sslmode=allow: encryption is used only if the server insists on it, and nobody checks who the server is. Use sslmode=verify-full",
	"prefer":    "sslmode=prefer, the default: falls back to plain text without a word, and nobody checks who the server is. Use sslmode=verify-full",
	"require":   "sslmode=require: the connection is encrypted, but nobody checks who the server is. Use sslmode=verify-full",
	"verify-ca": "sslmode=verify-ca: the server's certificate is checked, but not that it is this host's. Use sslmode=verify-full",
}

// CheckConnection implements rotator.ConnectionKind.
func (k *ConnectionKind) CheckConnection(c *rotator.ConnectionConfig) (warnings []string, err error) {
	o, err := decodeConnection(c.Values)
	if err != nil {
		return nil, err
	}
	config, err := o.config(c.Secrets, k.Dial)
	if err != nil {
		return nil, err
	}
	if err := config.Check(); err != nil {
		return nil, err
	}
	replicas, err := o.replicaConfigs(&config)
	if err != nil {
		return nil, err
	}
	if config.Password.Empty() && o.Certificate == "" {
		return nil, fault.Field("password", "is required, unless a client certificate takes its place")
	}
	for _, group := range o.AllowedGroups {
		if err := checkGroupName(group, o); err != nil {
			return nil, fault.Field("allowed_groups", "contains a name that cannot be a group: it is empty, too long, predefined or contains a semicolon")
		}
	}
	if err := o.checkAllowedTables(); err != nil {
		return nil, err
	}
	return o.warnings(config.Address, replicas), nil
}

func (o *connectionOptions) warnings(a *postgres.Address, replicas []postgres.Config) (warnings []string) {
	if text := o.sslWarning(a); text != "" {
		warnings = append(warnings, text)
	}
	for i, r := range replicas {
		if text := o.sslWarning(r.Address); text != "" {
			warnings = append(warnings, fmt.Sprintf("replica_urls, entry %d: %s", i+1, text))
		}
	}
	if len(a.Hosts) > 1 && (a.TargetSessionAttrs == "" || a.TargetSessionAttrs == "any") {
		warnings = append(warnings, "connection_url has several hosts without target_session_attrs=read-write: the first that answers is used, also when it is a standby, on which nothing can be changed")
	}
	if o.AllowWeakAuth {
		warnings = append(warnings, "allow_weak_auth: a server, or whoever poses as it, may ask for passwords in clear or as MD5")
	}
	if o.AllowCustomStatements {
		warnings = append(warnings, "allow_custom_statements: whoever may write roles may have SQL of their own run")
	}
	return warnings
}

func (o *connectionOptions) sslWarning(a *postgres.Address) string {
	mode := a.SSLMode
	switch {
	case mode == "":
		mode = "prefer"
	case mode == "require" && o.CA != "":
		mode = "verify-ca"
	}
	return sslWarnings[mode]
}

// Connection is an open connection of this type.
type Connection struct {
	DB       *postgres.DB
	replicas []*replica
	options  *connectionOptions
}

// Close implements rotator.Connection.
func (c *Connection) Close() {
	closeReplicas(c.replicas)
	c.DB.Close()
}

// Open implements rotator.ConnectionKind. It does not dial.
func (k *ConnectionKind) Open(c *rotator.ConnectionConfig) (rotator.Connection, error) {
	o, err := decodeConnection(c.Values)
	if err != nil {
		return nil, err
	}
	config, err := o.config(c.Secrets, k.Dial)
	if err != nil {
		return nil, err
	}
	replicaConfigs, err := o.replicaConfigs(&config)
	if err != nil {
		return nil, err
	}
	db, err := postgres.Open(config)
	if err != nil {
		return nil, err
	}
	replicas, err := openReplicas(replicaConfigs)
	if err != nil {
		db.Close()
		return nil, err
	}
	return &Connection{DB: db, replicas: replicas, options: o}, nil
}

// Ping implements rotator.ConnectionKind.
func (*ConnectionKind) Ping(ctx context.Context, conn rotator.Connection) error {
	c, err := own(conn)
	if err != nil {
		return err
	}
	return c.DB.Ping(ctx)
}

func own(conn rotator.Connection) (*Connection, error) {
	c, ok := conn.(*Connection)
	if !ok {
		return nil, fault.New(fault.Internal, "not a PostgreSQL connection")
	}
	return c, nil
}

// NewRoot implements rotator.RootRotator.
func (*ConnectionKind) NewRoot(_ context.Context, c *rotator.ConnectionConfig, _ rotator.PasswordPolicy) (secret.Map, error) {
	if c.Secrets["password"].Empty() {
		return nil, fault.New(fault.Conflict, "the connection has no password that could be rotated")
	}
	return secret.Map{"password": secret.New(random(passwordAlphabet, passwordLength))}, nil
}

// SetRoot implements rotator.RootRotator.
func (*ConnectionKind) SetRoot(ctx context.Context, conn rotator.Connection, next secret.Map) error {
	c, err := own(conn)
	if err != nil {
		return err
	}
	password := next["password"]
	if password.Empty() {
		return fault.New(fault.Internal, "there is no new password to set")
	}
	verifier, err := postgres.Verifier(password)
	if err != nil {
		return err
	}
	return c.DB.WithLock(ctx, func(ctx context.Context, s *postgres.Session) error {
		literal, err := s.Literal(verifier.Reveal())
		if err != nil {
			return err
		}
		return fault.In("set the administrator's password",
			s.ExecSecret(ctx, "ALTER ROLE "+postgres.Ident(c.DB.Username())+" PASSWORD "+literal, verifier))
	})
}
