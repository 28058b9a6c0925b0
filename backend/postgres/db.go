package postgres

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// commonDatabase is the database in which locks are taken, see lockDatabase.
const commonDatabase = "postgres"

// DB is an administrator's access to a cluster. It dials when it is first used.
type DB struct {
	config Config
	// ctx ends with Close, and every act with it.
	ctx   context.Context
	end   context.CancelFunc
	conns *tracker
	// side admits the connections beside the pool's.
	side chan struct{}
	// looked holds the last look of Alive; whoever looks takes it out meanwhile.
	looked chan look

	mu     sync.Mutex
	pool   *pgxpool.Pool
	lockDB string
	// rowPool is the pool of sessions in the connection's own database, see rows.
	rowPool *pgxpool.Pool
	closed  bool
}

// Open prepares access without dialling. Errors are Invalid.
func Open(c Config) (*DB, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	db := &DB{config: c, conns: newTracker(c.Dial), side: make(chan struct{}, c.beside()), looked: make(chan look, 1)}
	db.looked <- look{}
	db.ctx, db.end = context.WithCancel(context.Background())
	return db, nil
}

// Username is the administrator's name.
func (db *DB) Username() string { return db.config.Username }

// Address is where the cluster is.
func (db *DB) Address() *Address { return db.config.Address }

// closeTimeout bounds the polite part of Close.
const closeTimeout = 2 * time.Second

// Close ends every act and connection, within a few seconds also when the server
// does not answer.
func (db *DB) Close() {
	db.mu.Lock()
	pools, closed := []*pgxpool.Pool{db.pool, db.rowPool}, db.closed
	db.pool, db.rowPool, db.closed = nil, nil, true
	db.mu.Unlock()
	if closed {
		return
	}
	db.end()
	force := time.AfterFunc(closeTimeout, db.conns.closeAll)
	defer force.Stop()
	for _, pool := range pools {
		if pool != nil {
			pool.Close()
		}
	}
	db.conns.closeAll()
}

// bound ties a context to the life of the DB.
func (db *DB) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(db.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// connect opens a session outside the pool.
func (db *DB) connect(ctx context.Context, l login) (*pgx.Conn, error) {
	config, err := db.config.driver(l)
	if err != nil {
		return nil, err
	}
	config.ConnConfig.DialFunc = db.conns.dial
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	return conn, classify(err, l.password)
}

// besides waits for a place for one connection beside the pool's.
func (db *DB) besides(ctx context.Context) (leave func(), err error) {
	select {
	case db.side <- struct{}{}:
		return func() { <-db.side }, nil
	case <-ctx.Done():
		return nil, classify(ctx.Err())
	}
}

func (db *DB) adminLogin(database string) login {
	return login{user: db.config.Username, password: db.config.Password, database: database, settings: db.config.adminSettings()}
}

// Ping proves that the administrator can log in to the connection's own database
// now, with a fresh session: pooled ones outlive a changed password.
func (db *DB) Ping(ctx context.Context) error {
	ctx, cancel := db.bound(ctx)
	defer cancel()
	leave, err := db.besides(ctx)
	if err != nil {
		return err
	}
	defer leave()
	conn, err := db.connect(ctx, db.adminLogin(db.config.Address.Database))
	if err != nil {
		return err
	}
	defer closeQuietly(conn)
	return classify(conn.Ping(ctx), db.config.Password)
}

// Login opens a session as another user over the same path as the
// administrator's: same hosts, same TLS, same database. The server must have asked
// for the password. The caller closes the session. Errors are AuthFailed when the
// server refused the credential, and else Unreachable: whatever stands in the way of
// a login, it says nothing about the credential.
func (db *DB) Login(ctx context.Context, user string, password secret.String) (*Session, error) {
	ctx, cancel := db.bound(ctx)
	defer cancel()
	settings := map[string]string{"application_name": ApplicationName}
	conn, err := db.connect(ctx, login{user: user, password: password, database: db.config.Address.Database, asked: true, settings: settings})
	if err != nil {
		return nil, NotTheCredential(err)
	}
	return &Session{q: conn, conn: conn, secrets: []secret.String{password}}, nil
}

// lockDatabase is the database in which advisory locks are taken: they are per
// database, so every connection to the cluster has to take them in the same one.
// That is "postgres", which every cluster has unless someone removed it; the
// connection's own where the administrator is not let in there.
func (db *DB) lockDatabase(ctx context.Context) (string, error) {
	db.mu.Lock()
	name := db.lockDB
	db.mu.Unlock()
	if name != "" {
		return name, nil
	}
	name = commonDatabase
	err := db.enter(ctx, name)
	if Code(err) != "" && (!fault.Is(err, fault.Unreachable) || Code(err) == codePoolerRefusal) {
		// Only a login to the own database tells a closed door from a wrong key.
		name = db.config.Address.Database
		err = db.enter(ctx, name)
	}
	if err != nil {
		return "", asAdmin(err)
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	db.lockDB = name
	return name, nil
}

// enter logs in as the administrator, and out again.
func (db *DB) enter(ctx context.Context, database string) error {
	leave, err := db.besides(ctx)
	if err != nil {
		return err
	}
	defer leave()
	conn, err := db.connect(ctx, db.adminLogin(database))
	if err == nil {
		closeQuietly(conn)
	}
	return err
}

// asAdmin keeps the administrator's own authentication failure from being taken
// for that of a version: only Ping and Login speak of AuthFailed.
func asAdmin(err error) error {
	if fault.Is(err, fault.AuthFailed) {
		return fault.New(fault.Target, "the connection's own user was refused: %w", err)
	}
	return err
}

// admin returns the pool of sessions in the lock database.
func (db *DB) admin(ctx context.Context) (*pgxpool.Pool, error) {
	name, err := db.lockDatabase(ctx)
	if err != nil {
		return nil, err
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return nil, errClosed()
	}
	if db.pool != nil {
		return db.pool, nil
	}
	config, err := db.config.driver(db.adminLogin(name))
	if err != nil {
		return nil, err
	}
	config.ConnConfig.DialFunc = db.conns.dial
	config.MaxConns = int32(db.config.MaxOpen - db.config.beside())
	config.MinConns, config.MinIdleConns = 0, 0
	config.MaxConnLifetime = db.config.MaxLifetime
	if config.MaxConnLifetime == 0 {
		config.MaxConnLifetime = 365 * 24 * time.Hour
	}
	config.PingTimeout = db.config.ConnectTimeout
	var pool *pgxpool.Pool
	config.AfterRelease = func(*pgx.Conn) bool { return int(pool.Stat().IdleConns()) < db.config.MaxIdle }
	if pool, err = pgxpool.NewWithConfig(db.ctx, config); err != nil {
		return nil, classify(err, db.config.Password)
	}
	db.pool = pool
	return pool, nil
}

func errClosed() error {
	return &fault.Error{Kind: fault.Unreachable, Message: "the connection to PostgreSQL was closed", Err: context.Canceled}
}

// InDatabase runs a transaction in another database of the cluster, on a session
// of its own. lockTimeout bounds the wait for locks that others hold: a statement
// that waits for a table makes everybody else wait behind it.
func (db *DB) InDatabase(ctx context.Context, name string, lockTimeout time.Duration, do func(context.Context, *Session) error) error {
	ctx, cancel := db.bound(ctx)
	defer cancel()
	leave, err := db.besides(ctx)
	if err != nil {
		return err
	}
	defer leave()
	l := db.adminLogin(name)
	l.settings = maps.Clone(l.settings)
	l.settings["lock_timeout"] = milliseconds(lockTimeout)
	conn, err := db.connect(ctx, l)
	if err != nil {
		return asAdmin(err)
	}
	defer closeQuietly(conn)
	tx, err := conn.Begin(ctx)
	if err != nil {
		return classify(err, db.config.Password)
	}
	return db.transact(ctx, tx, do, true)
}

// transact runs do in a transaction and ends it.
func (db *DB) transact(ctx context.Context, tx pgx.Tx, do func(context.Context, *Session) error, commit bool) error {
	s := &Session{q: tx, conn: tx.Conn(), secrets: []secret.String{db.config.Password}}
	err := do(ctx, s)
	if err == nil && commit {
		return commitError(tx.Commit(ctx), s.secrets)
	}
	// A rollback that fails ends with the session, which is then thrown away.
	rollbackCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = tx.Rollback(rollbackCtx)
	return err
}

// commitError tells a refused commit from one whose answer was lost.
func commitError(err error, secrets []secret.String) error {
	err = classify(err, secrets...)
	if err == nil || Code(err) != "" && !fault.Is(err, fault.Unreachable) {
		return err
	}
	return fault.New(fault.Unconfirmed, "the answer to a commit was lost, it may have happened: %w", err)
}

func closeQuietly(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = conn.Close(ctx)
}

// isDone tells whether an error is the context's own end.
func isDone(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
