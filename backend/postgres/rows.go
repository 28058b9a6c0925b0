package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// rowLockWait is how long a lock of somebody else's is waited for, of a row or of the
// table. It is shorter than the server's deadlock_timeout of one second: of an application
// and us who wait for each other, we are the ones who give up.
const rowLockWait = 500 * time.Millisecond

// rowsIdle is for how long a session stays open between uses: a pass has many, and then
// there is none for days.
const rowsIdle = 30 * time.Second

// rowSettings are added to an administrator's for sessions that move rows. Keys travel as
// text, which has to mean the same on its way back. Rows that a policy hides are an error,
// not overlooked. Rows are found by their keys, whatever the server believes to know about
// a table's size: a plan that reads the whole table for each batch is never the better one.
var rowSettings = map[string]string{
	"row_security": "off",
	"TimeZone":     "UTC", "DateStyle": "ISO, YMD", "IntervalStyle": "postgres", "extra_float_digits": "3", "bytea_output": "hex",
	"lock_timeout":   milliseconds(rowLockWait),
	"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off", "jit": "off",
}

// rows returns the pool of sessions in the connection's own database.
func (db *DB) rows() (*pgxpool.Pool, error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return nil, errClosed()
	}
	if db.rowPool != nil {
		return db.rowPool, nil
	}
	l := db.adminLogin(db.config.Address.Database)
	maps.Copy(l.settings, rowSettings)
	config, err := db.config.driver(l)
	if err != nil {
		return nil, err
	}
	config.ConnConfig.DialFunc = db.conns.dial
	config.ConnConfig.ValidateConnect = onPrimary(config.ConnConfig.ValidateConnect)
	config.MaxConns, config.MinConns, config.MinIdleConns = int32(db.config.MaxOpen), 0, 0
	config.MaxConnIdleTime, config.PingTimeout = rowsIdle, db.config.ConnectTimeout
	if db.config.MaxLifetime > 0 {
		config.MaxConnLifetime = db.config.MaxLifetime
	}
	pool, err := pgxpool.NewWithConfig(db.ctx, config)
	if err != nil {
		return nil, classify(err, db.config.Password)
	}
	db.rowPool = pool
	return pool, nil
}

// onPrimary passes over hosts that are standbys: they lag behind, and know neither the
// locks nor the transactions of their primary.
func onPrimary(also pgconn.ValidateConnectFunc) pgconn.ValidateConnectFunc {
	return func(ctx context.Context, conn *pgconn.PgConn) error {
		if err := pgconn.ValidateConnectTargetSessionAttrsPrimary(ctx, conn); err != nil || also == nil {
			return err
		}
		return also(ctx, conn)
	}
}

// primary refuses a session on a standby. What pools sessions may lead elsewhere than the
// login did.
func (s *Session) primary(ctx context.Context) error {
	var standby bool
	if _, err := s.Row(ctx, "SELECT pg_is_in_recovery()", nil, &standby); err != nil {
		return err
	}
	if standby {
		return errStandby(pgconn.ErrStandbyConnection)
	}
	return nil
}

func errStandby(cause error) error {
	return &fault.Error{Kind: fault.Unreachable, Message: "PostgreSQL is a standby there, which lags behind and knows no transactions: rows are counted and moved on the primary alone", Err: cause}
}

// withRows runs do on a session in the connection's own database. It ends as soon as
// nothing has come of a statement for much longer than the server lets one run.
func (db *DB) withRows(ctx context.Context, do func(context.Context, *pgxpool.Conn) error) error {
	dialling := 2 * time.Duration(len(db.config.Address.Hosts)) * db.config.ConnectTimeout // with TLS, and without
	ctx, hung := watch(ctx, db.config.StatementTimeout+answerMargin+dialling)
	err := db.withRowsFor(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		progress(ctx, db.config.StatementTimeout+answerMargin)
		return do(ctx, conn)
	})
	if hung() && err != nil {
		return &fault.Error{Kind: fault.Unreachable, Message: "PostgreSQL did not answer in time, and the session was given up", Err: context.DeadlineExceeded}
	}
	return err
}

// answerMargin is for how much longer than statement_timeout an answer is waited for.
const answerMargin = 5 * time.Second

// watched ends a context when nothing happens.
type watched struct {
	timer *time.Timer
	limit atomic.Int64
	fired atomic.Bool
}

type watchedKey struct{}

// watch ends a context after a limit that progress begins anew. The function it returns
// ends it too, and tells whether the limit did.
func watch(ctx context.Context, limit time.Duration) (context.Context, func() bool) {
	w := &watched{}
	ctx, cancel := context.WithCancel(ctx)
	w.timer = time.AfterFunc(limit, func() {
		w.fired.Store(true)
		cancel()
	})
	return context.WithValue(ctx, watchedKey{}, w), func() bool {
		w.timer.Stop()
		cancel()
		return w.fired.Load()
	}
}

// progress begins the limit of a watched context anew; with 0, the last one.
func progress(ctx context.Context, limit time.Duration) {
	w, ok := ctx.Value(watchedKey{}).(*watched)
	if !ok {
		return
	}
	if limit > 0 {
		w.limit.Store(int64(limit))
	}
	if w.timer.Stop() { // else it has fired
		w.timer.Reset(time.Duration(w.limit.Load()))
	}
}

// withRowsFor is withRows for as long as the context lets it.
func (db *DB) withRowsFor(ctx context.Context, do func(context.Context, *pgxpool.Conn) error) error {
	ctx, cancel := db.bound(ctx)
	defer cancel()
	pool, err := db.rows()
	if err != nil {
		return err
	}
	conn, err := pool.Acquire(ctx)
	switch {
	case errors.Is(err, pgconn.ErrStandbyConnection):
		return in(clean(driverText(err), []secret.String{db.config.Password}), errStandby(pgconn.ErrStandbyConnection))
	case err != nil:
		return asAdmin(classify(err, db.config.Password))
	}
	defer conn.Release()
	return do(ctx, conn)
}

// session is a Session over a pooled one.
func (db *DB) session(conn *pgxpool.Conn) *Session {
	return &Session{q: conn, conn: conn.Conn(), secrets: []secret.String{db.config.Password}}
}

// param is a parameter as it travels: in binary form, which for text and bytea is what they hold.
type param struct {
	oid   uint32
	value []byte
}

func textParam(value string) param { return param{pgtype.TextOID, []byte(value)} }

// arrayParam makes a parameter of an array of text or bytea; nil elements are NULL.
func arrayParam(oid uint32, elements [][]byte) param {
	size := 20
	for _, e := range elements {
		size += 4 + len(e)
	}
	b := make([]byte, 0, size)
	b = binary.BigEndian.AppendUint32(b, 1) // dimensions
	b = binary.BigEndian.AppendUint32(b, 1) // there may be NULLs
	b = binary.BigEndian.AppendUint32(b, oid)
	b = binary.BigEndian.AppendUint32(b, uint32(len(elements)))
	b = binary.BigEndian.AppendUint32(b, 1) // the first index
	for _, e := range elements {
		if e == nil {
			b = binary.BigEndian.AppendUint32(b, ^uint32(0))
			continue
		}
		b = binary.BigEndian.AppendUint32(b, uint32(len(e)))
		b = append(b, e...)
	}
	array := uint32(pgtype.TextArrayOID)
	if oid == pgtype.ByteaOID {
		array = pgtype.ByteaArrayOID
	}
	return param{array, b}
}

// binaryFormat is the protocol's number of it.
const binaryFormat = 1

// query runs one statement whose results are text or bytea, and gives row what each row
// holds, which is valid during the call. It tells how many rows there were, or were
// changed. The driver's own conversions would cost more than all else that a pass does
// beside the server. The error is the driver's.
func query(ctx context.Context, conn *pgxpool.Conn, sql string, params []param, row func(values [][]byte)) (int64, error) {
	progress(ctx, 0)
	values, oids := make([][]byte, len(params)), make([]uint32, len(params))
	for i, p := range params {
		values[i], oids[i] = p.value, p.oid
	}
	reader := conn.Conn().PgConn().ExecParams(ctx, sql, values, oids, []int16{binaryFormat}, []int16{binaryFormat})
	for reader.NextRow() {
		row(reader.Values())
	}
	tag, err := reader.Close()
	return tag.RowsAffected(), err
}
