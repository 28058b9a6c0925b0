// Package pgtest starts throw-away PostgreSQL clusters from the server binaries
// found on the machine: a real server for tests and for the demonstration.
//
// A cluster listens on a free port of 127.0.0.1 with TLS (a CA of its own),
// asks for SCRAM-SHA-256, logs every statement to a file that tests may read,
// and ends with the process that started it, however that one ends.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/certs"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/child"
)

// Superuser is the name of the cluster's superuser.
const Superuser = "postgres"

// startTimeout bounds one start of the server, initdb apart.
const startTimeout = 60 * time.Second

// Options are all optional.
type Options struct {
	// BinDir holds initdb and postgres; by default the environment's PGTEST_BIN,
	// else the newest /usr/lib/postgresql/*/bin.
	BinDir string
	// Dir is where the cluster's own directory is made; by default the system's
	// temporary directory.
	Dir string
	// Settings are added to postgresql.conf; values are quoted as needed.
	Settings map[string]string
	// HBA are lines put in front of pg_hba.conf.
	HBA []string
	// Replication prepares the cluster to have standbys, see StartStandby.
	Replication bool
}

// Server is a running cluster.
type Server struct {
	binDir, dir, dataDir, logFile string
	port                          int
	options                       Options
	superuserPassword             string
	account                       *account
	authority                     *certs.Authority

	mu   sync.Mutex
	proc *process
}

// Start makes a cluster and starts it. The caller ends it with Stop; it also
// ends with this process.
func Start(ctx context.Context, o Options) (*Server, error) {
	binDir, err := findBinDir(o.BinDir)
	if err != nil {
		return nil, err
	}
	acc, err := serverAccount()
	if err != nil {
		return nil, err
	}
	s := &Server{binDir: binDir, options: o, account: acc, superuserPassword: randomPassword()}
	if err := s.create(ctx); err != nil {
		return nil, errors.Join(err, s.remove())
	}
	err = onFreePort(ctx, func(port int) error {
		s.port = port
		if err := s.writeSettings(); err != nil {
			return err
		}
		return s.Resume(ctx)
	})
	if err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

// onFreePort starts something that listens. A port is only known to be free when it
// was taken, so another is tried when the start fails.
func onFreePort(ctx context.Context, start func(port int) error) error {
	for attempt := 1; ; attempt++ {
		ports, err := child.FreePorts(1)
		if err == nil {
			err = start(ports[0])
		}
		if err == nil || attempt == 3 || ctx.Err() != nil {
			return err
		}
	}
}

func (s *Server) create(ctx context.Context) (err error) {
	if err := s.makeDir(); err != nil {
		return err
	}
	if s.authority, err = certs.New("pgtest CA"); err != nil {
		return err
	}
	if err := s.initDB(ctx); err != nil {
		return err
	}
	if err := s.writeCertificates(); err != nil {
		return err
	}
	return s.writeHBA(s.options.HBA)
}

func (s *Server) makeDir() (err error) {
	if s.dir, err = os.MkdirTemp(s.options.Dir, "pgtest-"); err != nil {
		return fmt.Errorf("make a directory for the cluster: %w", err)
	}
	s.dataDir, s.logFile = filepath.Join(s.dir, "data"), filepath.Join(s.dir, "server.log")
	return s.account.own(s.dir)
}

func (s *Server) writeCertificates() error {
	certificate, key, err := s.authority.Server("localhost")
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{"server.crt": certificate, "server.key": key, "ca.crt": s.authority.PEM} {
		if err := s.writeFile(name, content); err != nil {
			return err
		}
	}
	return nil
}

// writeSettings writes a file that postgresql.conf includes last.
func (s *Server) writeSettings() error {
	settings := map[string]string{
		"listen_addresses":          "127.0.0.1",
		"port":                      strconv.Itoa(s.port),
		"unix_socket_directories":   s.dir,
		"max_connections":           "400",
		"max_prepared_transactions": "10",
		"shared_buffers":            "32MB",
		"fsync":                     "off",
		"synchronous_commit":        "off",
		"full_page_writes":          "off",
		"wal_level":                 "minimal",
		"max_wal_senders":           "0",
		"ssl":                       "on",
		"ssl_cert_file":             filepath.Join(s.dir, "server.crt"),
		"ssl_key_file":              filepath.Join(s.dir, "server.key"),
		"ssl_ca_file":               filepath.Join(s.dir, "ca.crt"),
		"password_encryption":       "scram-sha-256",
		"log_statement":             "all",
		"log_connections":           "on",
		"log_line_prefix":           "%m [%p] %u@%d ",
		"lc_messages":               "C",
	}
	if s.options.Replication {
		settings["wal_level"], settings["max_wal_senders"] = "replica", "10"
	}
	maps.Copy(settings, s.options.Settings)
	var b strings.Builder
	for name, value := range settings {
		fmt.Fprintf(&b, "%s = '%s'\n", name, strings.ReplaceAll(value, "'", "''"))
	}
	return s.writeFile("data/pgtest.conf", []byte(b.String()))
}

var defaultHBA = []string{
	"local all all scram-sha-256",
	"host all all 127.0.0.1/32 scram-sha-256",
	"host replication all 127.0.0.1/32 scram-sha-256",
}

func (s *Server) writeHBA(first []string) error {
	lines := append(append([]string{}, first...), defaultHBA...)
	return s.writeFile("data/pg_hba.conf", []byte(strings.Join(lines, "\n")+"\n"))
}

// SetHBA puts lines in front of the cluster's pg_hba.conf, in place of those an
// earlier call put there, and makes the server read it.
func (s *Server) SetHBA(ctx context.Context, lines ...string) error {
	const loaded = "SELECT pg_conf_load_time()::text"
	before, err := s.QueryString(ctx, "postgres", loaded)
	if err != nil {
		return err
	}
	if err := s.writeHBA(lines); err != nil {
		return err
	}
	if err := s.Exec(ctx, "postgres", "SELECT pg_reload_conf()"); err != nil {
		return err
	}
	// The reload is asynchronous; a session inherits the load time of the
	// postmaster that forked it, and with it the rules.
	return s.waitFor(ctx, "pg_hba.conf to be reloaded", func() bool {
		after, err := s.QueryString(ctx, "postgres", loaded)
		return err == nil && after != before
	})
}

func (s *Server) writeFile(name string, content []byte) error {
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		return fmt.Errorf("write the cluster's files: %w", err)
	}
	return s.account.own(path)
}

// Host is the address the server's certificate is valid for, beside localhost.
func (s *Server) Host() string { return "127.0.0.1" }

// Port is the TCP port.
func (s *Server) Port() int { return s.port }

// SuperuserPassword is the password of Superuser.
func (s *Server) SuperuserPassword() string { return s.superuserPassword }

// CAPEM is the certificate authority of the server's certificate.
func (s *Server) CAPEM() string { return string(s.authority.PEM) }

// ClientCertificate makes a certificate for a database user, signed by the
// cluster's CA.
func (s *Server) ClientCertificate(user string) (certPEM, keyPEM string, err error) {
	cert, key, err := s.authority.Client(user)
	return string(cert), string(key), err
}

// TemplateURL is a connection_url for the plugin, with templated user and
// password and the full verification of the server.
func (s *Server) TemplateURL(database string) string {
	return fmt.Sprintf("postgresql://{{username}}:{{password}}@%s/%s?sslmode=verify-full", s.address(), url.PathEscape(database))
}

// URL is a connection URL for a user and a database. It verifies nothing: the CA
// is not in a file.
func (s *Server) URL(user, password, database string) string {
	u := url.URL{Scheme: "postgresql", User: url.UserPassword(user, password), Host: s.address(), Path: "/" + database, RawQuery: "sslmode=require"}
	return u.String()
}

func (s *Server) address() string { return net.JoinHostPort(s.Host(), strconv.Itoa(s.port)) }

// Log is everything the server has logged so far.
func (s *Server) Log() string {
	content, err := os.ReadFile(s.logFile)
	if err != nil {
		return "cannot read the server's log: " + err.Error()
	}
	return string(content)
}

func (s *Server) waitFor(ctx context.Context, what string, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		if done() {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		case <-ticker.C:
		}
	}
}
