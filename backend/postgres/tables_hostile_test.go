package postgres_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// as gives the rig's tables through another access.
func (r *rowsRig) as(change func(*postgres.Config)) *postgres.Tables {
	r.t.Helper()
	address, err := postgres.ParseAddress(r.server.TemplateURL("postgres"))
	require.NoError(r.t, err)
	address.Database = r.database
	c := postgres.Config{
		Address: address, Username: r.user, Password: secret.New("pw"), CA: r.server.CAPEM(),
		MaxOpen: 4, MaxIdle: 1, ConnectTimeout: 5 * time.Second, StatementTimeout: 30 * time.Second,
	}
	change(&c)
	db, err := postgres.Open(c)
	require.NoError(r.t, err)
	r.t.Cleanup(db.Close)
	return db.Tables()
}

// A standby neither counts, nor tells of transactions, nor gives rows.
func TestTablesOnAStandby(t *testing.T) {
	primary, standby := pgtest.NewPair(t)
	r := newRowsRigOn(t, primary)
	target := r.cards()
	table := r.open(target)
	require.NoError(t, standby.CatchUp(t.Context(), primary))
	address, err := postgres.ParseAddress(standby.TemplateURL("postgres"))
	require.NoError(t, err)
	only := r.as(func(c *postgres.Config) { c.Address.Hosts = address.Hosts })
	both := r.as(func(c *postgres.Config) { c.Address.Hosts = append(address.Hosts, c.Address.Hosts...) })
	refused := func(err error) {
		t.Helper()
		require.True(t, fault.Is(err, fault.Unreachable), "%v", err)
		require.ErrorContains(t, err, "is a standby there")
	}
	_, err = only.Transactions(bounded(t))
	refused(err)
	_, err = only.Count(bounded(t), nil)
	refused(err)
	_, err = only.Open(bounded(t), target)
	refused(err)
	app := r.app("on-the-primary")
	r.must(app, "BEGIN")
	all, err := both.Transactions(bounded(t))
	require.NoError(t, err)
	require.Len(t, all, 1, "the host that is a standby is passed over")

	// A login that led to the primary, and a session that does not: what pools may do. A
	// primary that was made a standby keeps no sessions, so the pool meets it anew.
	primary.Halt()
	_, err = both.Count(bounded(t), nil)
	require.True(t, fault.Is(err, fault.Unreachable), "%v", err)
	require.NoError(t, primary.Resume(bounded(t)))
	require.Eventually(t, func() bool { _, err := table.Page(bounded(t), nil, 1, "vault:v2:"); return err == nil }, 10*time.Second, 50*time.Millisecond)
}

// A transaction is listed at every moment of its life, the one of its preparation included.
func TestTransactionsWhilePrepared(t *testing.T) {
	r := newRowsRig(t)
	conn := r.app("prepares")
	r.must(conn, "CREATE TABLE written (id int)")
	var living atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	wg.Go(func() {
		for i := int64(1); ; i++ {
			for _, sql := range []string{"BEGIN", "INSERT INTO written VALUES (1)"} {
				if _, err := conn.Exec(context.Background(), sql); err != nil {
					return
				}
			}
			living.Store(i)
			<-time.After(time.Duration(i%7) * time.Millisecond)
			_, err := conn.Exec(context.Background(), "PREPARE TRANSACTION 'goes on'")
			<-time.After(10 * time.Millisecond)
			living.Store(0)
			if _, end := conn.Exec(context.Background(), "COMMIT PREPARED 'goes on'"); err != nil || end != nil {
				return
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	seen, prepared := 0, 0
	for end := time.Now().Add(time.Minute); (seen < 20 || prepared == 0) && time.Now().Before(end); {
		before := living.Load()
		all := r.transactions()
		if before == 0 || living.Load() != before {
			continue
		}
		seen++
		require.NotEmpty(t, all)
		for _, one := range all {
			if one.Prepared {
				prepared++
			}
		}
	}
	require.GreaterOrEqual(t, seen, 20)
	require.Positive(t, prepared)
}

// What reading a column would run is the server's own.
func TestOpenRefusesForeignText(t *testing.T) {
	r := newRowsRig(t)
	r.exec(`CREATE ROLE `+r.user+`_owner`, `CREATE TYPE plain AS ENUM ('a', 'b')`, `CREATE TYPE cast_out AS ENUM ('a', 'b')`, `CREATE TYPE cast_in AS ENUM ('a', 'b')`, `CREATE TYPE pair AS (x int)`,
		`CREATE FUNCTION out_of(cast_out) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'ran'; END $$`, `CREATE CAST (cast_out AS text) WITH FUNCTION out_of(cast_out)`,
		`CREATE FUNCTION into_it(text) RETURNS cast_in LANGUAGE plpgsql AS $$ BEGIN RAISE 'ran'; END $$`, `CREATE CAST (text AS cast_in) WITH FUNCTION into_it(text)`,
		`CREATE DOMAIN over_plain AS plain`, `CREATE DOMAIN over_out AS cast_out`,
		`CREATE FUNCTION checks(int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN IF session_user <> 'postgres' THEN RAISE 'ran'; END IF; RETURN true; END $$`, `CREATE DOMAIN checked AS int CHECK (public.checks(VALUE))`,
		`CREATE FUNCTION backwards(plain, plain) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN -pg_catalog.enum_cmp($1, $2); END $$`,
		`CREATE OPERATOR FAMILY odd USING btree`,
		`CREATE TABLE odd (id int PRIMARY KEY, p over_plain NOT NULL UNIQUE, o over_out NOT NULL UNIQUE, i cast_in NOT NULL UNIQUE, r pair, a plain[], k checked NOT NULL UNIQUE, c text)`,
		`INSERT INTO odd VALUES (1, 'a', 'a', 'a', ROW(1), '{a}', 1, 'vault:v1:x'), (2, 'b', 'b', 'b', ROW(1), '{a}', 2, 'vault:v1:y')`)
	r.grant("odd")
	for _, c := range []struct{ key, context, field string }{
		{"o", "", "key_columns"},
		{"i", "", "key_columns"},
		{"id", "o", "context_column"},
		{"id", "r", "context_column"},
		{"id", "a", "context_column"},
	} {
		_, err := r.tables.Open(bounded(t), &reencrypt.Target{Table: "public.odd", KeyColumns: []string{c.key}, Columns: []string{"c"}, ContextColumn: c.context})
		var f *fault.Error
		require.ErrorAs(t, err, &f, "%+v", c)
		require.Equal(t, c.field, f.Field, "%v", err)
		require.Contains(t, f.Message, "others may have written")
	}
	_, err := r.tables.Open(bounded(t), &reencrypt.Target{Table: "public.odd", KeyColumns: []string{"id"}, Columns: []string{"c"}, AssociatedDataColumn: "o"})
	require.ErrorContains(t, err, "associated_data_column: ")
	for _, key := range []string{"p", "k"} {
		table := r.open(&reencrypt.Target{Table: "public.odd", KeyColumns: []string{key}, Columns: []string{"c"}, ContextColumn: "id"})
		require.Len(t, r.all(table, 1, "vault:v2:"), 2, "no check of a domain runs to compare keys")
	}
}

// Whoever owns a table must not get the rights of a connection that has more.
func TestOpenRefusesForeignCode(t *testing.T) {
	r := newRowsRig(t)
	owner := r.user + "_owner"
	r.exec(`CREATE ROLE `+owner, `GRANT CREATE ON SCHEMA public TO `+owner)
	function := func(name, args, body string) []string {
		return []string{"CREATE FUNCTION " + name + "(" + args + ") " + body, "ALTER FUNCTION " + name + "(" + args + ") OWNER TO " + owner}
	}
	r.exec(function("fires", "", "RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")...)
	r.exec(function("says", "text", "RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN true; END'")...)
	r.exec(`CREATE FUNCTION trusted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'`,
		`CREATE OPERATOR ~~~ (FUNCTION = says, RIGHTARG = text)`, `CREATE DOMAIN said AS text CHECK (says(VALUE))`)
	cases := map[string][]string{
		"fired":    {`CREATE TABLE fired (id int PRIMARY KEY, c text, d text)`, `CREATE TRIGGER evil BEFORE UPDATE ON fired FOR EACH ROW EXECUTE FUNCTION fires()`},
		"checked":  {`CREATE TABLE checked (id int PRIMARY KEY, c text, CONSTRAINT evil CHECK (says(c)))`},
		"operated": {`CREATE TABLE operated (id int PRIMARY KEY, c text, CONSTRAINT evil CHECK (~~~ c))`},
		"domained": {`CREATE TABLE domained (id int PRIMARY KEY, c said)`},
		"indexed":  {`CREATE TABLE indexed (id int PRIMARY KEY, c text)`, `CREATE INDEX evil_1 ON indexed (says(c))`},
		"partial":  {`CREATE TABLE partial (id int PRIMARY KEY, c text)`, `CREATE INDEX evil_2 ON partial (id) WHERE says(c)`},
		"made":     {`CREATE TABLE made (id int PRIMARY KEY, c text, evil bool GENERATED ALWAYS AS (says(c)) STORED)`},
		"parts": {
			`CREATE TABLE parts (id int PRIMARY KEY, c text) PARTITION BY RANGE (id)`, `CREATE TABLE part PARTITION OF parts DEFAULT`,
			`CREATE TRIGGER evil AFTER UPDATE ON part FOR EACH ROW EXECUTE FUNCTION fires()`,
		},
		"cloned": {
			`CREATE TABLE whole (id int PRIMARY KEY, c text) PARTITION BY RANGE (id)`, `CREATE TABLE cloned PARTITION OF whole DEFAULT`,
			`CREATE TRIGGER evil AFTER UPDATE ON whole FOR EACH ROW EXECUTE FUNCTION fires()`,
		},
	}
	good := []string{
		`CREATE TABLE good (id int PRIMARY KEY, c text CHECK (length(c) > 1), d text DEFAULT says('x')::text, l text GENERATED ALWAYS AS (lower(c)) STORED, r int REFERENCES good)`,
		`CREATE INDEX ON good (upper(c))`, `CREATE TRIGGER a BEFORE UPDATE ON good FOR EACH ROW EXECUTE FUNCTION trusted()`,
		`CREATE TRIGGER b BEFORE INSERT ON good FOR EACH ROW EXECUTE FUNCTION fires()`, `CREATE TRIGGER c BEFORE UPDATE OF d ON good FOR EACH ROW EXECUTE FUNCTION fires()`,
		`CREATE TRIGGER d BEFORE UPDATE ON good FOR EACH ROW EXECUTE FUNCTION fires()`, `ALTER TABLE good DISABLE TRIGGER d`,
	}
	r.exec(good...)
	r.grant("good")
	target := func(name string) *reencrypt.Target {
		return &reencrypt.Target{Table: "public." + name, KeyColumns: []string{"id"}, Columns: []string{"c"}}
	}
	for name, statements := range cases {
		r.exec(statements...)
		r.exec("ALTER TABLE " + name + " OWNER TO " + owner)
		r.grant(name)
		r.open(target(name)) // with a user who may do nothing else
	}
	r.exec(`CREATE ROLE ` + r.user + `_admin CREATEROLE`)
	for give, take := range map[string]string{
		"ALTER ROLE " + r.user + " SUPERUSER": "NOSUPERUSER", "ALTER ROLE " + r.user + " CREATEROLE": "NOCREATEROLE",
		"ALTER ROLE " + r.user + " BYPASSRLS": "NOBYPASSRLS", "ALTER ROLE " + r.user + " REPLICATION": "NOREPLICATION",
		"GRANT " + r.user + "_admin TO " + r.user: "",
	} {
		r.exec(give)
		r.open(target("good"))
		for name := range cases {
			_, err := r.tables.Open(bounded(t), target(name))
			var f *fault.Error
			require.ErrorAs(t, err, &f, "%s, %s", give, name)
			require.Equal(t, "table", f.Field, "%v", err)
			require.Contains(t, f.Message, fmt.Sprintf("would run with the rights of %q, which are more than its owner's: use a connection whose user may do nothing but SELECT and UPDATE", r.user))
			if name == "fired" {
				require.Contains(t, f.Message, `has the trigger "evil", whose code`)
			}
		}
		if take != "" {
			r.exec("ALTER ROLE " + r.user + " " + take)
		} else {
			r.exec("REVOKE " + r.user + "_admin FROM " + r.user)
		}
	}
}

// Whatever a trigger says, and with whatever code: nothing of it comes back.
func TestErrorsHoldNothingOfRows(t *testing.T) {
	r := newRowsRig(t)
	table := r.open(r.cards())
	rows := r.all(table, 10, "vault:v2:")
	r.exec(`CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'`, `CREATE TRIGGER watch BEFORE UPDATE ON cards FOR EACH ROW EXECUTE FUNCTION watch()`)
	body := func(text string) {
		r.exec(`CREATE OR REPLACE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN ` + text + `; RETURN NEW; END $$`)
	}
	clean := func() (said string) {
		t.Helper()
		results, err := table.Swap(bounded(t), []reencrypt.Change{to(rows[0], "vault:v2:canary", "")})
		if err != nil {
			said = fmt.Sprintf("%v %+v", err, err)
		} else {
			said = results[0].Reason
		}
		require.NotContains(t, said, "canary")
		return said
	}
	for _, code := range []string{"42501", "0A000", "55000", "XX000", "P0001", "23514", "22001", "42P01", "42703", "25006", "08006", "57P01", "28P01", "UE001", "53100", "40003"} {
		body(`RAISE EXCEPTION 'row % is frozen', NEW.number USING ERRCODE = '` + code + `', CONSTRAINT = NEW.number, TABLE = NEW.number, DETAIL = NEW.number, HINT = NEW.number`)
		require.Contains(t, clean(), code)
	}
	body(`EXECUTE format('SELECT FROM %I', NEW.number)`)
	require.Contains(t, clean(), "search_path=pg_catalog")
	body(`PERFORM NEW.number::int`)
	clean()

	// Names without their schema are not found.
	body(`PERFORM count(*) FROM cards`)
	require.Contains(t, clean(), "undefined_table, in a trigger or another function that the table has: these run with search_path=pg_catalog")
	body(`PERFORM watched(NEW.id)`)
	require.Contains(t, clean(), "undefined_function, in a trigger or another function that the table has: these run with search_path=pg_catalog")

	// What the server says by itself about names is told.
	body(`NULL`)
	r.exec("REVOKE SELECT ON cards FROM " + r.user)
	_, err := table.Page(bounded(t), nil, 1, "vault:v2:")
	require.ErrorContains(t, err, "permission denied for table cards (SQLSTATE 42501)")
	r.exec("DROP TABLE cards")
	_, err = r.tables.Count(bounded(t), []reencrypt.Table{table})
	require.ErrorContains(t, err, `relation "public.cards" does not exist`)
}

// A key that was saved before its type changed is told from all else.
func TestPageTellsOfAStaleCursor(t *testing.T) {
	r := newRowsRig(t)
	r.exec(`CREATE TYPE mood AS ENUM ('sad', 'happy')`, `CREATE TABLE moods (id mood PRIMARY KEY, c text)`, `INSERT INTO moods VALUES ('sad', 'vault:v1:x'), ('happy', 'vault:v1:y')`,
		`CREATE TABLE numbers (id int PRIMARY KEY, c text)`, `CREATE TABLE days (id date PRIMARY KEY, c text)`, `CREATE TABLE ids (id uuid PRIMARY KEY, c text)`)
	r.grant("moods", "numbers", "days", "ids")
	for name, cursors := range map[string][]reencrypt.Key{
		"moods": {{"canary"}, {"sad", "1"}}, "numbers": {{"canary"}, {"99999999999"}, {}}, "days": {{"canary"}, {"2024-02-31"}}, "ids": {{"1"}},
	} {
		table := r.open(&reencrypt.Target{Table: "public." + name, KeyColumns: []string{"id"}, Columns: []string{"c"}})
		for _, after := range cursors {
			_, err := table.Page(bounded(t), after, 10, "vault:v2:")
			require.ErrorIs(t, err, reencrypt.ErrCursor, "%s after %v", name, after)
			require.True(t, fault.Is(err, fault.Target), "%v", err)
			require.NotContains(t, err.Error(), "canary")
		}
	}
	table := r.open(&reencrypt.Target{Table: "public.moods", KeyColumns: []string{"id"}, Columns: []string{"c"}})
	r.exec("REVOKE SELECT ON moods FROM " + r.user)
	_, err := table.Page(bounded(t), reencrypt.Key{"sad"}, 10, "vault:v2:")
	require.Error(t, err)
	require.NotErrorIs(t, err, reencrypt.ErrCursor)
}

// stalled is a network that forwards nothing while it is held.
type stalled struct {
	mu   sync.Mutex
	hold bool
}

func (s *stalled) set(hold bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold = hold
}

func (s *stalled) held() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hold
}

// dial puts a pipe in between, whose end is passed on and whose silence is the network's.
func (s *stalled) dial(ctx context.Context, network, address string) (net.Conn, error) {
	server, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	client, proxy := net.Pipe()
	for _, pair := range [][2]net.Conn{{proxy, server}, {server, proxy}} {
		go func() {
			_, _ = io.Copy(held{pair[0], s}, pair[1])
			_, _ = pair[0].Close(), pair[1].Close()
		}()
	}
	return client, nil
}

type held struct {
	net.Conn
	s *stalled
}

func (h held) Write(p []byte) (int, error) {
	if h.s.held() {
		return len(p), nil // into nothing
	}
	return h.Conn.Write(p)
}

// A server that hangs ends each act by itself, and the sessions are there again afterwards.
func TestTablesWithoutAnAnswer(t *testing.T) {
	r := newRowsRig(t)
	target := r.cards()
	var network stalled
	tables := r.as(func(c *postgres.Config) {
		c.MaxOpen, c.StatementTimeout, c.ConnectTimeout, c.Dial = 2, time.Second, time.Second, network.dial
	})
	table, err := tables.Open(t.Context(), target)
	require.NoError(t, err)
	rows, err := table.Page(t.Context(), nil, 10, "vault:v2:")
	require.NoError(t, err)
	acts := map[string]func() error{
		"open": func() error { _, err := tables.Open(t.Context(), target); return err },
		"page": func() error { _, err := table.Page(t.Context(), nil, 10, "vault:v2:"); return err },
		"read": func() error { _, err := table.Read(t.Context(), []reencrypt.Key{{"1"}}, "vault:v2:"); return err },
		"swap": func() error {
			_, err := table.Swap(t.Context(), []reencrypt.Change{to(rows[0], "vault:v1:n1", "")})
			return err
		},
		"facts":        func() error { _, err := table.Facts(t.Context()); return err },
		"transactions": func() error { _, err := tables.Transactions(t.Context()); return err },
	}
	network.set(true)
	errs := make(chan error, len(acts))
	var wg sync.WaitGroup
	for name, act := range acts {
		wg.Go(func() {
			begin := time.Now()
			err := act()
			if took := time.Since(begin); !fault.Is(err, fault.Unreachable) || took > 25*time.Second {
				err = fmt.Errorf("%s, after %s: %w", name, took, err)
			} else {
				err = nil
			}
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	network.set(false)
	for name, act := range acts {
		require.Eventually(t, func() bool { return act() == nil }, 10*time.Second, 50*time.Millisecond, name)
	}
}
