package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
)

// livingQuery lists the transactions of the database's sessions. Everybody may see who
// holds the lock of a virtual transaction, which every transaction holds until what it did
// can be seen, be it idle, without a write so far, or read-only. A session that is not
// listed any more, or not yet, is taken to be of this database. What runs without a user,
// such as autovacuum, writes nobody's rows; a worker that applies what a publication sends,
// or a scheduler in the server, runs as a user, and does.
//
// The number of a virtual transaction is counted up from the start of the server; the
// process, too, tells it from one before a crash.
const livingQuery = `
SELECT extract(epoch FROM pg_postmaster_start_time())::text || ':' || coalesce(l.pid, 0) || ':' || l.virtualxid,
	coalesce(l.pid, 0), coalesce(a.usename::text, '?'), coalesce(a.application_name, ''), coalesce(a.state, ''),
	coalesce(to_char(a.xact_start, 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), '')
FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'virtualxid' AND l.granted AND l.virtualxid = l.virtualtransaction AND l.pid <> pg_backend_pid()
	AND (a.pid IS NULL OR a.datname = current_database() AND a.usesysid IS NOT NULL)
ORDER BY a.xact_start, l.pid`

// preparedQuery lists the prepared transactions of the database. They outlive the server.
const preparedQuery = `
SELECT transaction::text || ':' || extract(epoch FROM prepared)::text || ':' || gid, gid, owner::text, to_char(prepared, 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared, gid`

// Transactions implements reencrypt.Database. A transaction that is prepared in this moment
// is in the second list before it leaves the first, so they are asked for in this order. A
// standby knows neither; one that was promoted knows both, and a session does not outlive
// the opposite.
func (d *Tables) Transactions(ctx context.Context) (all []reencrypt.Transaction, err error) {
	err = d.db.withRows(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		s := d.db.session(conn)
		if err := s.primary(ctx); err != nil {
			return err
		}
		err := s.Each(ctx, livingQuery, nil, func(scan func(...any) error) error {
			var id, user, application, state, since string
			var pid int32
			if err := scan(&id, &pid, &user, &application, &state, &since); err != nil {
				return err
			}
			what := fmt.Sprintf("transaction of %s (application_name %q, pid %d)", Ident(user), application, pid)
			if since != "" {
				what += ", " + state + ", since " + since
			}
			all = append(all, reencrypt.Transaction{ID: "session:" + id, What: clean(what, s.secrets)})
			return nil
		})
		if err != nil {
			return err
		}
		return s.Each(ctx, preparedQuery, nil, func(scan func(...any) error) error {
			var id, gid, owner, since string
			if err := scan(&id, &gid, &owner, &since); err != nil {
				return err
			}
			what := fmt.Sprintf("prepared transaction %q of %s, since %s", gid, Ident(owner), since)
			all = append(all, reencrypt.Transaction{ID: "prepared:" + id, What: clean(what, s.secrets), Prepared: true})
			return nil
		})
	})
	if err != nil {
		return nil, in("look for transactions", err)
	}
	return all, nil
}
