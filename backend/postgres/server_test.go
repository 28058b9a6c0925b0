package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/certs"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Main(m)) }

// open is the superuser's access, changed as a test needs it.
func open(t testing.TB, change func(*postgres.Config)) *postgres.DB {
	t.Helper()
	s := pgtest.Shared(t)
	c := config(t, s.TemplateURL("postgres"))
	if change != nil {
		change(&c)
	}
	db, err := postgres.Open(c)
	require.NoError(t, err)
	t.Cleanup(db.Close)
	return db
}

func config(t testing.TB, url string) postgres.Config {
	t.Helper()
	s := pgtest.Shared(t)
	address, err := postgres.ParseAddress(url)
	require.NoError(t, err)
	return postgres.Config{
		Address: address, Username: pgtest.Superuser, Password: secret.New(s.SuperuserPassword()), CA: s.CAPEM(),
		MaxOpen: 4, MaxIdle: 1, ConnectTimeout: 5 * time.Second, StatementTimeout: 30 * time.Second,
	}
}

func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func role(t testing.TB, name, attributes string) {
	t.Helper()
	s := pgtest.Shared(t)
	s.MustExec(t, "postgres", "CREATE ROLE "+pgtest.Ident(name)+" "+attributes)
	t.Cleanup(func() { s.MustExec(t, "postgres", "DROP ROLE "+pgtest.Ident(name)) })
}

func TestVerifierLogsIn(t *testing.T) {
	db := open(t, nil)
	s := pgtest.Shared(t)
	for i, password := range []string{"simple", `q'uo"te\`, " spaces ", strings.Repeat("long", 100)} {
		name := fmt.Sprintf("scram_%d", i)
		v, err := postgres.Verifier(secret.New(password))
		require.NoError(t, err)
		role(t, name, "LOGIN PASSWORD '"+v.Reveal()+"'")
		session, err := db.Login(bounded(t), name, secret.New(password))
		require.NoError(t, err, "%q", password)
		session.Close()
		require.Equal(t, v.Reveal(), s.MustQuery(t, "postgres", "SELECT rolpassword FROM pg_authid WHERE rolname = $1", name), "stored as it is")
	}
}

// The server's own verifier of a password is the reference, odd ones included.
func TestVerifierIsTheServers(t *testing.T) {
	s := pgtest.Shared(t)
	role(t, "reference", "")
	for _, password := range []string{"simple", "\u2168 roman nine", "soft\u00adhyphen", "n\u00a0bsp", "ünïcode 密码 🔑", "bell\a", "\u0627\u0031x", "\u0221 unassigned"} {
		s.MustExec(t, "postgres", "ALTER ROLE reference PASSWORD '"+password+"'")
		want := s.MustQuery(t, "postgres", "SELECT rolpassword FROM pg_authid WHERE rolname = 'reference'")
		_, rest, _ := strings.Cut(want, ":")
		salt, _, _ := strings.Cut(rest, "$")
		got, err := postgres.VerifierWithSalt(password, salt)
		require.NoError(t, err, "%q", password)
		require.Equal(t, want, got, "%q", password)
	}
}

// Which answer of the server means what.
func TestLoginErrors(t *testing.T) {
	s := pgtest.Shared(t)
	v, err := postgres.Verifier(secret.New("canary-password"))
	require.NoError(t, err)
	role(t, "err_ok", "LOGIN PASSWORD '"+v.Reveal()+"'")
	role(t, "err_nologin", "NOLOGIN PASSWORD '"+v.Reveal()+"'")
	role(t, "err_nopassword", "LOGIN")
	role(t, "err_rejected", "LOGIN PASSWORD '"+v.Reveal()+"'")
	role(t, "err_full", "LOGIN CONNECTION LIMIT 0 PASSWORD '"+v.Reveal()+"'")
	role(t, "err_trusted", "LOGIN")
	role(t, "err_clear", "LOGIN PASSWORD '"+v.Reveal()+"'")
	role(t, "err_md5", "LOGIN PASSWORD 'md5"+"a3556571e93b0d20722ba62be61e8c2d"+"'")
	require.NoError(t, s.SetHBA(bounded(t), "host all err_rejected all reject", "host all err_trusted all trust",
		"host all err_trusted_gone all trust", "host all err_clear all password", "host all err_md5 all md5"))
	t.Cleanup(func() { require.NoError(t, s.SetHBA(bounded(t))) })

	db := open(t, nil)
	for _, c := range []struct {
		user string
		kind fault.Kind
		code string
	}{
		{"err_ok", "", ""},
		{"err_absent", fault.AuthFailed, "28P01"},
		{"err_nopassword", fault.AuthFailed, "28P01"},
		{"err_nologin", fault.AuthFailed, "28000"},
		{"err_trusted_gone", fault.Unreachable, ""},
		{"err_rejected", fault.Unreachable, "28000"},
		{"err_full", fault.Unreachable, "53300"},
		{"err_trusted", fault.Unreachable, ""}, // the server never asked
		{"err_clear", fault.Unreachable, ""},
		{"err_md5", fault.Unreachable, ""},
	} {
		session, err := db.Login(bounded(t), c.user, secret.New("canary-password"))
		if err == nil {
			session.Close()
		}
		require.Equal(t, c.kind, fault.KindOf(err), "%s: %v", c.user, err)
		require.Equal(t, c.code, postgres.Code(err), "%s: %v", c.user, err)
		if err != nil {
			require.NotContains(t, fmt.Sprintf("%v %+v %#v", err, err, errors.Unwrap(err)), "canary")
			var raw *pgconn.ConnectError
			require.NotErrorAs(t, err, &raw, "the driver's error carries the password")
		}
	}
	_, err = db.Login(bounded(t), "err_ok", secret.New("wrong"))
	require.True(t, fault.Is(err, fault.AuthFailed))

	// What says nothing about the credential.
	require.NoError(t, s.CreateDatabase(bounded(t), "err_closed", ""))
	require.NoError(t, s.CreateDatabase(bounded(t), "err_revoked", ""))
	s.MustExec(t, "postgres", "ALTER DATABASE err_closed ALLOW_CONNECTIONS false", "REVOKE CONNECT ON DATABASE err_revoked FROM PUBLIC")
	for name, change := range map[string]func(*postgres.Config){
		"3D000":       func(c *postgres.Config) { c.Address.Database = "err_no_such_database" },
		"55000":       func(c *postgres.Config) { c.Address.Database = "err_closed" },
		"42501":       func(c *postgres.Config) { c.Address.Database = "err_revoked" },
		"not trusted": func(c *postgres.Config) { c.CA = "" },
	} {
		_, err := open(t, change).Login(bounded(t), "err_ok", secret.New("canary-password"))
		require.True(t, fault.Is(err, fault.Unreachable), "%s: %v", name, err)
		require.ErrorContains(t, err, name)
	}

	weak := open(t, func(c *postgres.Config) { c.AllowWeakAuth = true })
	session, err := weak.Login(bounded(t), "err_clear", secret.New("canary-password"))
	require.NoError(t, err)
	session.Close()
	_, err = weak.Login(bounded(t), "err_trusted", secret.New("x"))
	require.True(t, fault.Is(err, fault.Unreachable), "even then a login has to be asked for the password: %v", err)
}

func TestClassificationDoesNotReadMessages(t *testing.T) {
	// What a server with lc_messages=de_DE answers; the routine is never localised.
	s := newFakeServer(t)
	for routine, kind := range map[string]fault.Kind{"auth_failed": fault.Target, "InitializeSessionUserId": fault.AuthFailed, "ClientAuthentication": fault.Target} {
		s.answer("FATAL", "28000", "Rolle darf sich nicht anmelden", routine)
		err := open(t, func(c *postgres.Config) { c.Address = s.address(t) }).Ping(bounded(t))
		require.Equal(t, kind, fault.KindOf(err), "%s: %v", routine, err)
	}
	s.answer("FATAL", "57P03", "das Datenbanksystem startet", "ProcessStartupPacket")
	require.True(t, fault.Is(open(t, func(c *postgres.Config) { c.Address = s.address(t) }).Ping(bounded(t)), fault.Unreachable))
	s.answer("FATAL", "XX000", "echo: "+pgtest.Shared(t).SuperuserPassword()+" SCRAM-SHA-256$4096:abc$d:e md5"+strings.Repeat("a", 32), "hostile")
	err := open(t, func(c *postgres.Config) { c.Address = s.address(t) }).Ping(bounded(t))
	require.NotContains(t, err.Error(), pgtest.Shared(t).SuperuserPassword())
	require.NotContains(t, err.Error(), "4096")
	require.NotContains(t, err.Error(), "aaaaaaaa")
}

func TestTLS(t *testing.T) {
	s := pgtest.Shared(t)
	url := func(host, mode string) string {
		return fmt.Sprintf("postgres://{{username}}:{{password}}@%s:%d/postgres?sslmode=%s", host, s.Port(), mode)
	}
	const byOtherName = "127.0.0.2" // the same server, but not in its certificate
	forward(t, byOtherName, s.Port())
	for name, c := range map[string]struct {
		url    string
		change func(*postgres.Config)
		ok     bool
		tls    bool
	}{
		"verify-full":                            {url("127.0.0.1", "verify-full"), nil, true, true},
		"verify-full, localhost":                 {url("localhost", "verify-full"), nil, true, true},
		"verify-full, wrong name":                {url(byOtherName, "verify-full"), nil, false, true},
		"verify-full, named otherwise":           {url(byOtherName, "verify-full"), func(c *postgres.Config) { c.ServerName = "localhost" }, true, true},
		"verify-full, unknown authority":         {url("127.0.0.1", "verify-full"), func(c *postgres.Config) { c.CA = "" }, false, true},
		"verify-ca, wrong name":                  {url(byOtherName, "verify-ca"), nil, true, true},
		"verify-ca, unknown authority":           {url(byOtherName, "verify-ca"), func(c *postgres.Config) { c.CA = "" }, false, true},
		"require":                                {url(byOtherName, "require"), func(c *postgres.Config) { c.CA = "" }, true, true},
		"require with CA is verify-ca":           {url(byOtherName, "require"), func(c *postgres.Config) { c.CA = otherCA(t) }, false, true},
		"prefer":                                 {url(byOtherName, "prefer"), func(c *postgres.Config) { c.CA = "" }, true, true},
		"allow begins in plain text":             {url("127.0.0.1", "allow"), nil, true, false},
		"disable":                                {url("127.0.0.1", "disable"), nil, true, false},
		"channel binding":                        {url("127.0.0.1", "verify-full") + "&channel_binding=require", nil, true, true},
		"primary wanted":                         {url("127.0.0.1", "verify-full") + "&target_session_attrs=primary", nil, true, true},
		"the second host when the first is down": {strings.Replace(url("127.0.0.1", "verify-full"), "127.0.0.1", "127.0.0.1:1,127.0.0.1", 1), nil, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			db := open(t, func(cfg *postgres.Config) {
				cfg.Address = config(t, c.url).Address
				if c.change != nil {
					c.change(cfg)
				}
			})
			err := db.Ping(bounded(t))
			if !c.ok {
				require.True(t, fault.Is(err, fault.Target), "%v", err)
				require.ErrorContains(t, err, "not trusted")
				return
			}
			require.NoError(t, err)
			var encrypted bool
			require.NoError(t, db.Read(bounded(t), func(ctx context.Context, s *postgres.Session) error {
				_, err := s.Row(ctx, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", nil, &encrypted)
				return err
			}))
			require.Equal(t, c.tls, encrypted)
		})
	}
	t.Run("client certificate", func(t *testing.T) {
		role(t, "certified", "LOGIN SUPERUSER")
		require.NoError(t, s.SetHBA(bounded(t), "hostssl all certified all cert"))
		t.Cleanup(func() { require.NoError(t, s.SetHBA(bounded(t))) })
		cert, key, err := s.ClientCertificate("certified")
		require.NoError(t, err)
		db := open(t, func(c *postgres.Config) {
			c.Username, c.Password, c.Certificate, c.PrivateKey = "certified", secret.String{}, cert, secret.New(key)
		})
		require.NoError(t, db.Ping(bounded(t)))
	})
}

// otherCA is a certificate authority that signed nothing here.
func otherCA(t testing.TB) string {
	t.Helper()
	a, err := certs.New("another CA")
	require.NoError(t, err)
	return string(a.PEM)
}

// Nothing of the machine that runs Vault flows into a connection. The driver's
// configuration is made once, so this test has a process of its own to itself.
func TestEnvironmentDoesNotLeak(t *testing.T) {
	home := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(home, ".postgresql"), 0o700))
	for _, name := range []string{"postgresql.crt", "postgresql.key", "root.crt"} {
		require.NoError(t, os.WriteFile(filepath.Join(home, ".postgresql", name), []byte("garbage"), 0o600))
	}
	require.NoError(t, os.WriteFile(filepath.Join(home, ".pgpass"), []byte("*:*:*:*:stolen\n"), 0o600))
	t.Setenv("HOME", home)
	for name, value := range map[string]string{
		"PGHOST": "/tmp", "PGPORT": "1,2,3", "PGDATABASE": "x", "PGUSER": "x", "PGPASSWORD": "x", "PGPASSFILE": "/nonexistent", "PGAPPNAME": "x",
		"PGCONNECT_TIMEOUT": "x", "PGSSLMODE": "x", "PGSSLKEY": "/etc/shadow", "PGSSLCERT": "/etc/shadow", "PGSSLROOTCERT": "/etc/shadow", "PGSSLCERTMODE": "require",
		"PGSSLNEGOTIATION": "direct", "PGTARGETSESSIONATTRS": "standby", "PGSERVICE": "x", "PGSERVICEFILE": "/nonexistent", "PGTZ": "Mars", "PGOPTIONS": "-c nonsense=1",
		"PGMINPROTOCOLVERSION": "9", "PGMAXPROTOCOLVERSION": "9", "PGCHANNELBINDING": "x", "PGREQUIREAUTH": "none", "PGSSLPASSWORD": "x", "PGSSLSNI": "0",
	} {
		t.Setenv(name, value)
	}
	postgres.ForgetDriverConfig(t)
	db := open(t, nil)
	require.NoError(t, db.Ping(bounded(t)))
	require.Equal(t, "x", os.Getenv("PGSERVICE"), "the environment is as it was")
	_, err := db.Login(bounded(t), pgtest.Superuser, secret.String{})
	require.True(t, fault.Is(err, fault.AuthFailed), "no password from ~/.pgpass: %v", err)
}

// What is wrong is said once, whatever the ways to try a host.
func TestUnreachableIsSaidOnce(t *testing.T) {
	for url, says := range map[string]string{
		"127.0.0.1:1/x?sslmode=disable":               "could not connect to 127.0.0.1:1: connection refused",
		"127.0.0.1:1/x":                               "could not connect to 127.0.0.1:1: connection refused",
		"[::1]:1,127.0.0.1:2/x?sslmode=prefer":        "could not connect to [::1]:1: connection refused; could not connect to 127.0.0.1:2: connection refused",
		"no-such-host.invalid,no-such-host.invalid/x": "could not look up no-such-host.invalid: no such host",
		"localhost:1/x?sslmode=verify-full":           "could not connect to 127.0.0.1:1 (localhost): connection refused",
	} {
		db := open(t, func(c *postgres.Config) {
			c.Address = config(t, "postgres://"+url).Address
			if !strings.Contains(url, "::1") {
				c.Dial = func(ctx context.Context, _, address string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, "tcp4", address)
				}
			}
		})
		require.EqualError(t, db.Ping(bounded(t)), says)
	}
}

func TestUnreachable(t *testing.T) {
	t.Run("nobody listens", func(t *testing.T) {
		db := open(t, func(c *postgres.Config) {
			c.Dial = func(context.Context, string, string) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
			}
		})
		require.True(t, fault.Is(db.Ping(bounded(t)), fault.Unreachable))
	})
	t.Run("somebody listens and says nothing", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer l.Close()
		db := open(t, func(c *postgres.Config) {
			c.ConnectTimeout = time.Second
			c.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, l.Addr().String())
			}
		})
		start := time.Now()
		err = db.Ping(bounded(t))
		require.True(t, fault.Is(err, fault.Unreachable), "%v", err)
		require.Regexp(t, `^PostgreSQL did not answer in time: could not connect to [0-9.]+:[0-9]+: no answer$`, err.Error())
		require.Less(t, time.Since(start), 10*time.Second)
	})
	t.Run("the server goes down and comes back", func(t *testing.T) {
		s := pgtest.New(t)
		c := config(t, s.TemplateURL("postgres"))
		c.Password, c.CA = secret.New(s.SuperuserPassword()), s.CAPEM()
		db, err := postgres.Open(c)
		require.NoError(t, err)
		defer db.Close()
		nothing := func(context.Context, *postgres.Session) error { return nil }
		require.NoError(t, db.WithLock(bounded(t), nothing))
		s.Halt()
		require.True(t, fault.Is(db.WithLock(bounded(t), nothing), fault.Unreachable))
		require.NoError(t, s.Resume(bounded(t)))
		require.Eventually(t, func() bool { return db.WithLock(bounded(t), nothing) == nil }, 10*time.Second, 50*time.Millisecond)
	})
}

func TestCommitAnswerLost(t *testing.T) {
	var breaks faulty
	db := open(t, func(c *postgres.Config) { c.Dial = breaks.dial; c.Address.SSLMode = "disable" })
	err := db.WithLock(bounded(t), func(ctx context.Context, s *postgres.Session) error {
		if err := s.Exec(ctx, "CREATE ROLE lost_answer"); err != nil {
			return err
		}
		breaks.loseAnswers()
		return nil
	})
	require.True(t, fault.Is(err, fault.Unconfirmed), "%v", err)
	s := pgtest.Shared(t)
	require.Eventually(t, func() bool {
		return s.MustQuery(t, "postgres", "SELECT count(*)::text FROM pg_roles WHERE rolname = 'lost_answer'") == "1"
	}, 10*time.Second, 20*time.Millisecond)
	s.MustExec(t, "postgres", "DROP ROLE lost_answer")
}

// Role changes of many at a time would meet "tuple concurrently updated".
func TestConcurrentChanges(t *testing.T) {
	role(t, "contended", "")
	dbs := []*postgres.DB{open(t, nil), open(t, func(c *postgres.Config) { c.Address = config(t, pgtest.Shared(t).TemplateURL("template1")).Address })}
	var wg sync.WaitGroup
	errs := make(chan error, 40)
	for i := range 40 {
		wg.Go(func() {
			errs <- dbs[i%2].WithLock(bounded(t), func(ctx context.Context, s *postgres.Session) error {
				return s.Exec(ctx, fmt.Sprintf("ALTER ROLE contended CONNECTION LIMIT %d", i))
			})
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
}

func TestRetryOfConcurrentUpdate(t *testing.T) {
	db := open(t, nil)
	tries := 0
	err := db.WithLock(bounded(t), func(context.Context, *postgres.Session) error {
		tries++
		if tries < 3 {
			return fault.New(fault.Target, "%w", &postgres.Error{Code: "XX000", Message: "tuple concurrently updated"})
		}
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, 3, tries)
}

func TestLockDatabaseFallsBack(t *testing.T) {
	s := pgtest.Shared(t)
	require.NoError(t, s.CreateDatabase(bounded(t), "own_only", ""))
	role(t, "locked_out", "LOGIN CREATEROLE PASSWORD 'pw'")
	require.NoError(t, s.SetHBA(bounded(t), "host postgres locked_out all reject"))
	t.Cleanup(func() { require.NoError(t, s.SetHBA(bounded(t))) })
	db := open(t, func(c *postgres.Config) {
		c.Address, c.Username, c.Password = config(t, s.TemplateURL("own_only")).Address, "locked_out", secret.New("pw")
	})
	var name string
	require.NoError(t, db.WithLock(bounded(t), func(ctx context.Context, s *postgres.Session) error {
		_, err := s.Row(ctx, "SELECT current_database()::text", nil, &name)
		return err
	}))
	require.Equal(t, "own_only", name)
}

func TestCloseIsBoundedAndLeavesNothing(t *testing.T) {
	pgtest.Shared(t)
	before := goleak.IgnoreCurrent()
	var breaks faulty
	db := open(t, func(c *postgres.Config) { c.Dial = breaks.dial })
	require.NoError(t, db.Ping(bounded(t)))
	inside, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- db.WithLock(bounded(t), func(ctx context.Context, s *postgres.Session) error {
			close(inside)
			return s.Exec(ctx, "SELECT pg_sleep(25)")
		})
	}()
	<-inside
	breaks.loseAnswers()
	start := time.Now()
	db.Close()
	require.Error(t, <-done)
	require.Less(t, time.Since(start), 10*time.Second)
	db.Close()
	require.True(t, fault.Is(db.Ping(bounded(t)), fault.Unreachable))
	goleak.VerifyNone(t, before)
}

// A change of ours is waited for, also when it takes longer than a stranger may
// hold the lock; what is urgent goes on without.
func TestLockOfOurOwn(t *testing.T) {
	patient := func(c *postgres.Config) { c.StatementTimeout = 2 * time.Minute }
	one, other := open(t, patient), open(t, patient)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	nothing := func(context.Context, *postgres.Session) error { return nil }
	question := func(ctx context.Context, s *postgres.Session) error { return s.Exec(ctx, "SELECT 1") }
	require.NoError(t, other.WithLock(ctx, nothing))
	inside, release, done := make(chan struct{}), make(chan struct{}), make(chan error, 2)
	go func() {
		done <- one.WithLock(ctx, func(context.Context, *postgres.Session) error {
			close(inside)
			<-release
			return nil
		})
	}()
	<-inside
	go func() { done <- other.WithLock(ctx, nothing) }()
	begin := time.Now()
	short, cancelShort := context.WithTimeout(ctx, 5*time.Second)
	defer cancelShort()
	require.NoError(t, other.Urgent(short, question), "within the call's own deadline")
	require.NoError(t, other.Urgent(ctx, question))
	require.NoError(t, other.UrgentTrial(ctx, question))
	require.Greater(t, time.Since(begin), 5*time.Second)
	close(release)
	require.NoError(t, <-done)
	require.NoError(t, <-done)
}

// Statements of an operator stay inside the transaction that is rolled back.
func TestExecForeign(t *testing.T) {
	s := pgtest.Shared(t)
	v, err := postgres.Verifier(secret.New("pw"))
	require.NoError(t, err)
	role(t, "foreign_sql", "LOGIN SUPERUSER PASSWORD '"+v.Reveal()+"'")
	s.MustExec(t, "postgres", "CREATE PROCEDURE foreign_commit() LANGUAGE plpgsql AS 'BEGIN COMMIT; END'")
	t.Cleanup(func() { s.MustExec(t, "postgres", "DROP PROCEDURE foreign_commit") })
	session, err := open(t, nil).Login(bounded(t), "foreign_sql", secret.New("pw"))
	require.NoError(t, err)
	defer session.Close()
	try := func(statement string) error {
		return session.RolledBack(bounded(t), 10*time.Second, func(s *postgres.Session) error {
			require.NoError(t, s.Exec(bounded(t), "CREATE TABLE foreign_left (id int)"))
			return s.ExecForeign(bounded(t), statement)
		})
	}
	for _, statement := range []string{
		"SELECT 1", "SELECT generate_series(1, 100000)", "SELECT 'COMMIT'", "-- COMMIT\nSELECT 1", "INSERT INTO foreign_left VALUES (1);", "/* /* */ COMMIT */ SELECT 1", "DO $$ BEGIN END $$",
	} {
		require.NoError(t, try(statement), statement)
	}
	for _, statement := range []string{
		"COMMIT", "commit and chain", " ;; Commit", "END", "ROLLBACK", "ABORT", "/* /* */ */ COMMIT", "-- x\rCOMMIT", "--\n/**/COMMIT/**/", "ROLLBACK AND CHAIN", "PREPARE TRANSACTION 'x'",
		"BEGIN", "START TRANSACTION", "SAVEPOINT a", "COMMIT; DROP TABLE foreign_left", "\v\fCOMMIT",
	} {
		require.ErrorIs(t, try(statement), postgres.ErrTransactionEnded, statement)
		require.True(t, postgres.EndsTransaction(statement))
	}
	for statement, code := range map[string]string{
		"SELECT 1; COMMIT": "42601", "SELECT 1; COMMIT; SELECT 2": "42601", "DO $$ BEGIN COMMIT; END $$": "2D000", "CALL foreign_commit()": "2D000", "SELECT $1": "08P01",
	} {
		require.Equal(t, code, postgres.Code(try(statement)), statement)
	}
	require.Equal(t, "0", s.MustQuery(t, "postgres", "SELECT count(*)::text FROM pg_tables WHERE tablename = 'foreign_left'"), "nothing is left")
}

// Whatever is done at a time, the administrator's connections are bounded.
func TestMaxOpen(t *testing.T) {
	for _, most := range []int{2, 3, 4} {
		var counted openConns
		db := open(t, func(c *postgres.Config) { c.MaxOpen, c.MaxIdle, c.Dial = most, 1, counted.dial })
		nothing := func(context.Context, *postgres.Session) error { return nil }
		var wg sync.WaitGroup
		errs := make(chan error, 40)
		for range 10 {
			wg.Go(func() { errs <- db.Ping(bounded(t)) })
			wg.Go(func() { errs <- db.Read(bounded(t), nothing) })
			wg.Go(func() { errs <- db.WithLock(bounded(t), nothing) })
			wg.Go(func() {
				errs <- db.WithLock(bounded(t), func(ctx context.Context, _ *postgres.Session) error {
					return db.InDatabase(ctx, "template1", time.Second, nothing)
				})
			})
		}
		wg.Wait()
		close(errs)
		for err := range errs {
			require.NoError(t, err)
		}
		require.LessOrEqual(t, counted.most(), most)
	}
}
