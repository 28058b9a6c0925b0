package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// A Bouncer is a PgBouncer in front of a Server, with its certificate. It pools by
// session, knows its readers by auth_query, and hands their SCRAM on.
type Bouncer struct {
	server *Server
	dir    string
	port   int
	// user asks for the verifiers of those who log in. Each has its own, since a server
	// may have several PgBouncers.
	user, password string
	proc           *process
}

// NewBouncer starts a PgBouncer that ends with the test; pinned are users with the verifiers
// that it is to go by. The environment's PGBOUNCER_BINARY names it.
func NewBouncer(t TB, s *Server, database string, pinned map[string]string) *Bouncer {
	t.Helper()
	b := &Bouncer{server: s}
	t.Cleanup(b.stop)
	if err := b.start(context.Background(), database, pinned); err != nil {
		t.Fatalf("start PgBouncer: %v", err)
	}
	return b
}

// Address puts PgBouncer's port in the place of the server's in a URL.
func (b *Bouncer) Address(rawURL string) string {
	return strings.Replace(rawURL, ":"+strconv.Itoa(b.server.port)+"/", ":"+strconv.Itoa(b.port)+"/", 1)
}

func (b *Bouncer) start(ctx context.Context, database string, pinned map[string]string) (err error) {
	binary := os.Getenv("PGBOUNCER_BINARY")
	if binary == "" {
		return errors.New("PGBOUNCER_BINARY is not set; scripts/ensure-pgbouncer finds or fetches one")
	}
	b.user, b.password = "pgtest_bouncer_"+strings.ToLower(randomPassword()), randomPassword()
	if err := b.allow(ctx, database); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "pgbouncer-"); err != nil {
		return fmt.Errorf("make a directory for PgBouncer: %w", err)
	}
	if err := b.server.account.own(b.dir); err != nil {
		return err
	}
	if err := b.write("users", b.users(pinned)); err != nil {
		return err
	}
	return onFreePort(ctx, func(port int) error {
		b.port = port
		if err := b.write("ini", b.settings()); err != nil {
			return err
		}
		return b.run(ctx, binary)
	})
}

// users is userlist.txt: PgBouncer asks the server for those who are not in it.
func (b *Bouncer) users(pinned map[string]string) string {
	lines := fmt.Sprintf("%q %q\n", b.user, b.password)
	for user, verifier := range pinned {
		lines += fmt.Sprintf("%q %q\n", user, verifier)
	}
	return lines
}

func (b *Bouncer) write(name, content string) error {
	path := filepath.Join(b.dir, name)
	if err := errors.Join(os.WriteFile(path, []byte(content), 0o600), b.server.account.own(path)); err != nil {
		return fmt.Errorf("write PgBouncer's files: %w", err)
	}
	return nil
}

func (b *Bouncer) run(ctx context.Context, binary string) error {
	log, err := os.Create(filepath.Join(b.dir, "log"))
	if err != nil {
		return fmt.Errorf("open PgBouncer's log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(binary, filepath.Join(b.dir, "ini"))
	cmd.Dir, cmd.Stdout, cmd.Stderr = b.dir, log, log
	b.server.account.apply(cmd)
	if b.proc = start(cmd); b.proc.startErr != nil {
		return b.proc.startErr
	}
	err = b.server.waitFor(ctx, "PgBouncer to listen", func() bool {
		conn, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(b.port))
		if err == nil {
			_ = conn.Close()
		}
		return err == nil || !b.proc.running()
	})
	if err == nil && !b.proc.running() {
		err = errors.New("it ended at once: " + b.Log())
	}
	return err
}

// allow lets PgBouncer's own user read verifiers through a function, as its
// documentation advises.
func (b *Bouncer) allow(ctx context.Context, database string) error {
	err := b.server.Exec(ctx, database,
		"SET log_statement = 'none'",
		"CREATE ROLE "+b.user+" LOGIN PASSWORD '"+b.password+"'",
		// No row for a user that may not log in: a row of NULLs is an error of its configuration to PgBouncer.
		`CREATE OR REPLACE FUNCTION bouncer_auth(name text) RETURNS TABLE (usename name, passwd text) LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
			AS 'SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1 AND rolcanlogin'`,
		"REVOKE ALL ON FUNCTION bouncer_auth FROM PUBLIC", "GRANT EXECUTE ON FUNCTION bouncer_auth TO "+b.user)
	if err != nil {
		return fmt.Errorf("prepare auth_query: %w", err)
	}
	return nil
}

func (b *Bouncer) settings() string {
	file := func(name string) string { return filepath.Join(b.server.dir, name) }
	return strings.Join([]string{
		"[databases]", "* = host=127.0.0.1 port=" + strconv.Itoa(b.server.port),
		"[pgbouncer]", "listen_addr = 127.0.0.1", "listen_port = " + strconv.Itoa(b.port), "unix_socket_dir =",
		"pool_mode = session", "default_pool_size = 1", "server_login_retry = 1",
		"auth_type = scram-sha-256", "auth_file = " + filepath.Join(b.dir, "users"), "auth_user = " + b.user,
		"auth_query = SELECT usename, passwd FROM public.bouncer_auth($1)",
		"client_tls_sslmode = require", "client_tls_cert_file = " + file("server.crt"), "client_tls_key_file = " + file("server.key"),
		"server_tls_sslmode = verify-ca", "server_tls_ca_file = " + file("ca.crt"), "",
	}, "\n")
}

// Log is what PgBouncer wrote.
func (b *Bouncer) Log() string {
	content, _ := os.ReadFile(filepath.Join(b.dir, "log"))
	return string(content)
}

func (b *Bouncer) stop() {
	if b.proc != nil {
		b.proc.stop()
	}
	if b.dir != "" {
		_ = os.RemoveAll(b.dir)
	}
}
