package postgres

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// DialFunc opens a network connection, as net.Dialer.DialContext does.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Config is how to reach a cluster, and as whom.
type Config struct {
	Address  *Address
	Username string
	Password secret.String

	// CA, Certificate and ServerName serve TLS: the authority of the server's
	// certificate (the system's when empty) and a client certificate, in PEM, and
	// the name to expect in place of the host's.
	CA          string
	Certificate string
	PrivateKey  secret.String
	ServerName  string

	// MaxOpen bounds the connections of the administrator, all told; at least 2, because a
	// lock is held on one while another works in a further database.
	MaxOpen     int
	MaxIdle     int
	MaxLifetime time.Duration // 0: no limit

	ConnectTimeout   time.Duration
	StatementTimeout time.Duration

	// AllowWeakAuth lets the server ask for the password in clear or as MD5.
	AllowWeakAuth bool

	// Dial replaces the network, for tests; nil for the real one.
	Dial DialFunc
}

// idleTransactionTimeout ends a transaction of ours that lost its client, so that
// its locks do not outlive it. It is longer than any act inside one.
const idleTransactionTimeout = 5 * time.Minute

const maxOpenLimit = 1000

// Check refuses a configuration that can be seen to be wrong without the network.
// Errors are Invalid and name the connection's option.
func (c *Config) Check() error {
	switch {
	case c.Username == "":
		return fault.Field("username", "is required")
	case strings.ContainsRune(c.Username, 0) || len(c.Username) > MaxIdentifier:
		return fault.Field("username", "must be at most %d bytes", MaxIdentifier)
	case c.MaxOpen < 2 || c.MaxOpen > maxOpenLimit:
		return fault.Field("max_open_connections", "must be from 2 (one connection holds a lock while another works) to %d", maxOpenLimit)
	case c.MaxIdle < 0 || c.MaxIdle > c.MaxOpen:
		return fault.Field("max_idle_connections", "must be from 0 to max_open_connections")
	case c.MaxLifetime < 0:
		return fault.Field("max_connection_lifetime", "must not be negative")
	case c.ConnectTimeout < time.Second || c.ConnectTimeout > time.Minute:
		return fault.Field("connect_timeout", "must be from 1s to 1m")
	case c.StatementTimeout < time.Second || c.StatementTimeout > 10*time.Minute:
		return fault.Field("statement_timeout", "must be from 1s to 10m")
	}
	_, err := c.tlsBase()
	return err
}

// beside is how many of MaxOpen are kept for connections beside the pool: one for
// work in a further database, of which there is one at a time, under the lock; and
// where there are enough, one for logins that prove the administrator's credential,
// which would otherwise wait for that work.
func (c *Config) beside() int {
	if c.MaxOpen > 2 {
		return 2
	}
	return 1
}

func (c *Config) tlsBase() (*tls.Config, error) {
	base := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		base.RootCAs = x509.NewCertPool()
		if !base.RootCAs.AppendCertsFromPEM([]byte(c.CA)) {
			return nil, fault.Field("tls_ca", "holds no certificate in PEM form")
		}
	}
	if (c.Certificate == "") != c.PrivateKey.Empty() {
		return nil, fault.Field("tls_certificate", "and private_key must be given together")
	}
	if c.Certificate != "" {
		pair, err := tls.X509KeyPair([]byte(c.Certificate), []byte(c.PrivateKey.Reveal()))
		if err != nil {
			return nil, fault.Field("tls_certificate", "and private_key are not a certificate and its key in PEM form")
		}
		base.Certificates = []tls.Certificate{pair}
	}
	return base, nil
}

// endpoint is one way to try one host; a nil TLS means plain text.
type endpoint struct {
	host Host
	tls  *tls.Config
}

// endpoints lists what sslmode stands for, in libpq's order. As with libpq,
// require verifies the certificate's chain when an authority is given.
func (c *Config) endpoints() ([]endpoint, error) {
	base, err := c.tlsBase()
	if err != nil {
		return nil, err
	}
	var out []endpoint
	for _, h := range c.Address.Hosts {
		t := base.Clone()
		t.ServerName = c.ServerName
		if t.ServerName == "" {
			t.ServerName = h.Name
		}
		mode := c.Address.SSLMode
		if mode == "require" && c.CA != "" {
			mode = "verify-ca"
		}
		switch mode {
		case "verify-full":
		case "verify-ca":
			t.InsecureSkipVerify = true // the name alone is not checked
			t.VerifyConnection = verifyChain(t.RootCAs)
		default:
			t.InsecureSkipVerify = true // accepted by the operator, with a warning
		}
		encrypted, plain := endpoint{h, t}, endpoint{h, nil}
		switch mode {
		case "disable":
			out = append(out, plain)
		case "allow":
			out = append(out, plain, encrypted)
		case "", "prefer":
			out = append(out, encrypted, plain)
		default:
			out = append(out, encrypted)
		}
	}
	return out, nil
}

func verifyChain(roots *x509.CertPool) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		intermediates := x509.NewCertPool()
		for _, cert := range state.PeerCertificates[1:] {
			intermediates.AddCert(cert)
		}
		_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates})
		return err
	}
}

// environmentFile are the variables that make the driver read a service file.
var environmentFile = []string{"PGSERVICE", "PGSERVICEFILE", "PGSSLCERTMODE"}

// driverConfig returns a configuration of the driver that nothing of this machine
// has flowed into. The driver insists on making its configurations itself, from a
// text, the environment and the home directory; everything it may take from there
// is named in the text (which wins), removed for the moment, or overwritten below.
var driverConfig = sync.OnceValues(newDriverConfig)

func newDriverConfig() (*pgxpool.Config, error) {
	for _, name := range environmentFile {
		//nolint:forbidigo // not to be configured by it, but to keep it from configuring the driver
		if value, set := os.LookupEnv(name); set {
			_ = os.Unsetenv(name)
			defer os.Setenv(name, value) //nolint:errcheck // it was valid a moment ago
		}
	}
	return pgxpool.ParseConfig("host=127.0.0.1 port=1 dbname=none user=none password=none passfile='' sslmode=disable " +
		"sslcert='' sslkey='' sslrootcert='' sslnegotiation='' connect_timeout=5 target_session_attrs=any " +
		"min_protocol_version=3.0 max_protocol_version=3.0 channel_binding=prefer require_auth='' krbsrvname='' krbspn=''")
}

// login describes a session to open.
type login struct {
	user     string
	password secret.String
	database string
	// asked requires the server to have asked for the password: without that, a
	// successful login proves nothing about it.
	asked bool
	// settings are sent with the login.
	settings map[string]string
}

// driver makes the driver's configuration of a login.
func (c *Config) driver(l login) (*pgxpool.Config, error) {
	base, err := driverConfig()
	if err != nil {
		return nil, fmt.Errorf("prepare the PostgreSQL driver: %T", err)
	}
	points, err := c.endpoints()
	if err != nil {
		return nil, err
	}
	pool := base.Copy()
	d := pool.ConnConfig
	d.Host, d.Port, d.TLSConfig = points[0].host.Name, points[0].host.Port, points[0].tls
	d.Fallbacks = nil
	for _, p := range points[1:] {
		d.Fallbacks = append(d.Fallbacks, &pgconn.FallbackConfig{Host: p.host.Name, Port: p.host.Port, TLSConfig: p.tls})
	}
	d.User, d.Password, d.Database = l.user, l.password.Reveal(), l.database
	d.RuntimeParams = l.settings
	d.ConnectTimeout = c.ConnectTimeout
	d.RequireAuth = c.requireAuth(l.asked)
	d.KerberosSrvName, d.KerberosSpn = "", ""
	if c.Address.ChannelBinding != "" {
		d.ChannelBinding = c.Address.ChannelBinding
	}
	switch c.Address.TargetSessionAttrs {
	case "read-write":
		d.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	case "primary":
		d.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsPrimary
	}
	// Statements are sent whole and unnamed: nothing is left behind in a session.
	d.DefaultQueryExecMode = pgx.QueryExecModeExec
	d.StatementCacheCapacity, d.DescriptionCacheCapacity = 0, 0
	return pool, nil
}

// requireAuth is libpq's require_auth: which requests for a password are answered.
func (c *Config) requireAuth(asked bool) string {
	switch {
	case asked && c.AllowWeakAuth:
		return "scram-sha-256,md5,password"
	case asked:
		return "scram-sha-256"
	case c.AllowWeakAuth:
		return ""
	default:
		return "!password,!md5"
	}
}

// adminSettings make a session independent of the defaults of server, database
// and role. The search path keeps functions that others may have put into the
// schemas of a database from being called in place of the server's own.
func (c *Config) adminSettings() map[string]string {
	return map[string]string{
		"application_name":                    ApplicationName,
		"search_path":                         "pg_catalog",
		"client_encoding":                     "UTF8",
		"standard_conforming_strings":         "on",
		"default_transaction_isolation":       "read committed",
		"default_transaction_read_only":       "off",
		"statement_timeout":                   milliseconds(c.StatementTimeout),
		"idle_in_transaction_session_timeout": milliseconds(idleTransactionTimeout),
	}
}

// ApplicationName is how our own sessions call themselves.
const ApplicationName = "vault-plugin-secrets-rotation"

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
