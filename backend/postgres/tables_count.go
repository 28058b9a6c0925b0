package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
)

// Count implements reencrypt.Database: one scan of each table, all in one snapshot. A scan
// takes as long as the context lets it, and not longer: a server that is not told goes on
// for nobody.
func (d *Tables) Count(ctx context.Context, tables []reencrypt.Table) ([]reencrypt.Counts, error) {
	counts := make([]reencrypt.Counts, len(tables))
	err := d.db.withRowsFor(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
		if err != nil {
			return classify(err, d.db.config.Password)
		}
		return d.db.transact(ctx, tx, func(ctx context.Context, s *Session) error {
			if err := s.primary(ctx); err != nil {
				return err
			}
			if err := s.Exec(ctx, "SET LOCAL enable_seqscan = on"); err != nil {
				return err
			}
			for i, each := range tables {
				t, ok := each.(*table)
				if !ok || t.db != d.db {
					return fault.New(fault.Internal, "a table of another database cannot be counted here")
				}
				if counts[i], err = t.count(ctx, s); err != nil {
					return in("count the values of "+t.name, withoutRows(err))
				}
			}
			return nil
		}, false)
	})
	if err != nil {
		return nil, err
	}
	return counts, nil
}

// versionPrefix is what stands before the version in what transit's form begins with, and
// versionBytes how long all of that may be, with a version of nine digits and a colon.
const (
	versionPrefix = "vault:v"
	versionBytes  = len(versionPrefix) + 10
)

// version is what stands between the prefix and the first colon after it; where there is no
// colon, with a mark that no number has; empty without the prefix, and NULL of NULL. That is
// all that is done for each row: the few different ones are looked at afterwards.
func (c *column) version() string {
	value := c.read()
	if c.bytea {
		value = fmt.Sprintf(`(encode(substr(%s, 1, %d), 'escape') COLLATE "C")`, value, versionBytes)
	}
	return fmt.Sprintf("CASE WHEN starts_with(%s, '%s') THEN split_part(substr(%[1]s, %[3]d, %[4]d) || '?', ':', 1) WHEN %[5]s IS NOT NULL THEN '' END",
		value, versionPrefix, len(versionPrefix)+1, versionBytes-len(versionPrefix), c.read())
}

func (t *table) count(ctx context.Context, s *Session) (reencrypt.Counts, error) {
	counts := reencrypt.Counts{Versions: map[int]int64{}}
	if err := s.Exec(ctx, "SET LOCAL statement_timeout = "+milliseconds(timeLeft(ctx))); err != nil {
		return counts, err
	}
	groups := make([]string, len(t.columns))
	for i := range t.columns {
		groups[i] = fmt.Sprintf("%s AS g%d", t.columns[i].version(), i+1)
	}
	names := join(len(t.columns), func(i int) string { return fmt.Sprintf("g%d", i+1) })
	// The rows themselves are counted as a group of their own, -2; what is no ciphertext, -1.
	sql := fmt.Sprintf(`WITH seen AS MATERIALIZED (SELECT %[1]s, count(*) AS n FROM %[2]s t GROUP BY %[3]s)
SELECT CASE WHEN g ~ '^[0-9]{1,9}$' THEN g::int ELSE -1 END, sum(n)::bigint
FROM seen CROSS JOIN LATERAL unnest(ARRAY[%[3]s]) g WHERE g IS NOT NULL GROUP BY 1
UNION ALL SELECT -2, coalesce(sum(n), 0)::bigint FROM seen`, strings.Join(groups, ", "), t.name, names)
	err := s.Each(ctx, sql, nil, func(scan func(...any) error) error {
		var version int
		var n int64
		if err := scan(&version, &n); err != nil {
			return err
		}
		switch version {
		case -2:
			counts.Rows = n
		case -1:
			counts.Foreign = n
		default:
			counts.Versions[version] = n
		}
		return nil
	})
	return counts, err
}

// timeLeft is what a context leaves to a statement; 0, no limit, where it has no deadline.
func timeLeft(ctx context.Context) time.Duration {
	deadline, has := ctx.Deadline()
	if !has {
		return 0
	}
	return max(time.Until(deadline), time.Millisecond)
}
