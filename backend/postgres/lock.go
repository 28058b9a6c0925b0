package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
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

// How long the advisory lock is waited for. Anybody who may log in can take it:
// it needs no privilege, and its key stands here.
const (
	lockWait = 5 * time.Second
	// urgentWait bounds each wait for a lock of what must happen whoever holds one.
	urgentWait = 3 * time.Second
	// hopelessWait is that of further tries, after urgentWait passed in vain.
	hopelessWait = 50 * time.Millisecond
)

// WithLock runs a transaction in the cluster's lock database while holding the
// cluster-wide advisory lock, and commits it. It is repeated, with a growing
// pause, when it met a concurrent change; do must be able to run again, and must
// not ask for a further session of the same DB but through InDatabase. An
// Unconfirmed error means that the answer to the commit was lost; ErrLockHeld that
// somebody else than the administrator keeps the lock.
func (db *DB) WithLock(ctx context.Context, do func(context.Context, *Session) error) error {
	return db.locked(ctx, &act{do: do, commit: true, wait: lockWait})
}

// Trial is WithLock with a rollback in place of the commit: what do sees is true
// inside, and nothing stays.
func (db *DB) Trial(ctx context.Context, do func(context.Context, *Session) error) error {
	return db.locked(ctx, &act{do: do, wait: lockWait})
}

// Urgent is WithLock for what ends a credential: whoever holds the lock must not
// be able to keep itself alive by it. The wait for it is short, and do then runs
// without; what it meets of others is left to the repetition. do's own waits for
// locks are as short and end in TimedOut.
func (db *DB) Urgent(ctx context.Context, do func(context.Context, *Session) error) error {
	return db.locked(ctx, &act{do: do, commit: true, urgent: true, wait: urgentWait})
}

// UrgentTrial is Urgent with a rollback in place of the commit.
func (db *DB) UrgentTrial(ctx context.Context, do func(context.Context, *Session) error) error {
	return db.locked(ctx, &act{do: do, urgent: true, wait: urgentWait})
}

// act is one transaction under the lock.
type act struct {
	do             func(context.Context, *Session) error
	commit, urgent bool
	wait           time.Duration
}

func (db *DB) locked(ctx context.Context, a *act) error {
	ctx, cancel := db.bound(ctx)
	defer cancel()
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 20*time.Millisecond, time.Second
	var last error
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		last = db.lockedOnce(ctx, a)
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

func (db *DB) lockedOnce(ctx context.Context, a *act) error {
	pool, err := db.admin(ctx)
	if err != nil {
		return err
	}
	tx, err := pool.BeginTx(ctx, pgx.TxOptions{})
	if err != nil {
		return asAdmin(classify(err, db.config.Password))
	}
	return db.transact(ctx, tx, func(ctx context.Context, s *Session) error {
		if err := db.takeLock(ctx, s, a); err != nil {
			return in("wait for other changes of users to end", err)
		}
		return a.do(ctx, s)
	}, a.commit)
}

// takeLock waits for the advisory lock. Another change of ours, which nobody else
// can pose as, is waited for as long as for a statement.
func (db *DB) takeLock(ctx context.Context, s *Session, a *act) error {
	begin := time.Now()
	for {
		got, err := tryLock(ctx, s, waitWithin(ctx, a.wait))
		if err != nil {
			return err
		}
		if a.urgent {
			if !got {
				a.wait = hopelessWait
			}
			return s.Exec(ctx, "SET LOCAL lock_timeout = "+milliseconds(waitWithin(ctx, urgentWait)))
		}
		if got {
			return nil
		}
		holders, ours, err := lockHolders(ctx, s)
		switch {
		case err != nil:
			return err
		case holders == "": // it was given back this moment
		case !ours || time.Since(begin) >= db.config.StatementTimeout:
			return &fault.Error{Kind: fault.Target, Err: ErrLockHeld, Message: "the advisory lock of these changes is held by " + clean(holders, s.secrets) +
				"; end that session, or what it belongs to (an emergency's kill_first ends a leaked user and its sessions before anything else)"}
		}
	}
}

// ErrLockHeld tells that somebody keeps the advisory lock.
var ErrLockHeld = errors.New("the advisory lock is held")

// waitWithin leaves at least half of what the call has left to what follows.
func waitWithin(ctx context.Context, wait time.Duration) time.Duration {
	if deadline, has := ctx.Deadline(); has {
		wait = min(wait, time.Until(deadline)/2)
	}
	return max(wait, time.Millisecond) // 0 would be no limit
}

// tryLock waits for the lock under a savepoint, so that the transaction outlives a
// wait in vain. All of it is one text, and one trip to the server.
func tryLock(ctx context.Context, s *Session, wait time.Duration) (got bool, err error) {
	err = s.Exec(ctx, fmt.Sprintf("SAVEPOINT before_lock; SET LOCAL lock_timeout = %s; SELECT pg_advisory_xact_lock(%d); SET LOCAL lock_timeout TO DEFAULT",
		milliseconds(wait), lockKey))
	if TimedOut(err) { // statement_timeout may be the shorter one
		return false, s.Exec(ctx, "ROLLBACK TO SAVEPOINT before_lock")
	}
	return err == nil, err
}

// holdersQuery names who holds the lock. A prepared transaction has no process; it
// is known by its transaction.
const holdersQuery = `
SELECT coalesce(a.usename::text, p.owner::text, '?'), coalesce(a.application_name, ''), coalesce(l.pid, 0), coalesce(p.gid, ''),
	coalesce(a.usename = session_user, false)
FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
	LEFT JOIN pg_locks x ON l.pid IS NULL AND x.pid IS NULL AND x.locktype = 'transactionid' AND x.virtualtransaction = l.virtualtransaction
	LEFT JOIN pg_prepared_xacts p ON p.transaction = x.transactionid
WHERE l.locktype = 'advisory' AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
	AND l.classid = $1::bigint::oid AND l.objid = $2::bigint::oid AND l.objsubid = 1 LIMIT 5`

// lockHolders describes them, and tells whether all are the administrator's own
// sessions.
func lockHolders(ctx context.Context, s *Session) (text string, ours bool, err error) {
	var all []string
	ours = true
	args := []any{lockKey >> 32, lockKey & 0xffffffff}
	err = s.Each(ctx, holdersQuery, args, func(scan func(...any) error) error {
		var user, application, prepared string
		var pid int32
		var own bool
		if err := scan(&user, &application, &pid, &prepared, &own); err != nil {
			return err
		}
		one := fmt.Sprintf("%s (application_name %q, pid %d)", Ident(user), application, pid)
		if prepared != "" {
			one = fmt.Sprintf("%s (prepared transaction %q)", Ident(user), prepared)
		}
		all, ours = append(all, one), ours && own
		return nil
	})
	return strings.Join(all, ", "), ours, err
}

// in says in which step an error happened, and keeps its kind and chain.
func in(step string, err error) error {
	return &fault.Error{Kind: fault.KindOf(err), Message: step + ": " + err.Error(), Err: err}
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
