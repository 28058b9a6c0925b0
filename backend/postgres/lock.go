package postgres

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jackc/pgx/v5"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// lockKey is the advisory lock under which all our changes of roles are made, so
// that they do not meet each other's "tuple concurrently updated". The number is
// "varotate" in ASCII; it must never change.
const lockKey int64 = 0x7661726f74617465

// maxTries bounds how often a transaction that met another one is repeated.
const maxTries = 8

// WithLock runs a transaction in the cluster's lock database while holding the
// cluster-wide advisory lock, and commits it. It is repeated, with a growing
// pause, when it met a concurrent change; do must be able to run again, and must
// not ask for a further session of the same DB but through InDatabase. An
// Unconfirmed error means that the answer to the commit was lost.
func (db *DB) WithLock(ctx context.Context, do func(context.Context, *Session) error) error {
	return db.locked(ctx, do, true)
}

// Trial is WithLock with a rollback in place of the commit: what do sees is true
// inside, and nothing stays.
func (db *DB) Trial(ctx context.Context, do func(context.Context, *Session) error) error {
	return db.locked(ctx, do, false)
}

func (db *DB) locked(ctx context.Context, do func(context.Context, *Session) error, commit bool) error {
	ctx, cancel := db.bound(ctx)
	defer cancel()
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 20*time.Millisecond, time.Second
	var last error
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		last = db.lockedOnce(ctx, do, commit)
		if last != nil && !concurrent(last) {
			return struct{}{}, backoff.Permanent(last)
		}
		return struct{}{}, last
	}, backoff.WithBackOff(pause), backoff.WithMaxTries(maxTries))
	if err != nil && last != nil {
		return last
	}
	return classify(err)
}

func (db *DB) lockedOnce(ctx context.Context, do func(context.Context, *Session) error, commit bool) error {
	pool, err := db.admin(ctx)
	if err != nil {
		return err
	}
	tx, err := pool.BeginTx(ctx, pgx.TxOptions{})
	if err != nil {
		return asAdmin(classify(err, db.config.Password))
	}
	return db.transact(ctx, tx, func(ctx context.Context, s *Session) error {
		if err := s.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", lockKey); err != nil {
			return fault.New(fault.KindOf(err), "wait for other changes of users to end: %w", err)
		}
		return do(ctx, s)
	}, commit)
}

// Read runs queries on a pooled session, without lock or transaction.
func (db *DB) Read(ctx context.Context, do func(context.Context, *Session) error) error {
	ctx, cancel := db.bound(ctx)
	defer cancel()
	pool, err := db.admin(ctx)
	if err != nil {
		return err
	}
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return asAdmin(classify(err, db.config.Password))
	}
	defer conn.Release()
	return do(ctx, &Session{q: conn, conn: conn.Conn(), secrets: []secret.String{db.config.Password}})
}
