package postgres

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
)

// sizeQuery adds up a table, or its partitions.
const sizeQuery = `
SELECT count(*) FILTER (WHERE level > 0 AND isleaf), coalesce(sum(pg_total_relation_size(relid)), pg_total_relation_size($1))::bigint
FROM pg_partition_tree($1)`

// triggersQuery lists the triggers of users that an UPDATE of the columns fires. Those that
// a partition has of its parent are told once.
const triggersQuery = `
SELECT DISTINCT tg.tgname::text
FROM pg_trigger tg
WHERE (tg.tgrelid = $1 OR tg.tgrelid IN (SELECT relid FROM pg_partition_tree($1)))
	AND NOT tg.tgisinternal AND tg.tgenabled IN ('O', 'A') AND tg.tgtype & 16 <> 0
	AND (tg.tgattr::text = '' OR EXISTS (SELECT FROM pg_attribute a
		WHERE a.attrelid = tg.tgrelid AND a.attnum = ANY (tg.tgattr) AND a.attname = ANY ($2::text[])))
ORDER BY 1`

// Facts implements reencrypt.Table.
func (t *table) Facts(ctx context.Context) (facts reencrypt.Facts, err error) {
	err = t.db.withRows(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		s := t.db.session(conn)
		if _, err := s.Row(ctx, sizeQuery, []any{t.oid}, &facts.Partitions, &facts.Bytes); err != nil {
			return err
		}
		names := make([]string, len(t.columns))
		for i := range t.columns {
			names[i] = t.columns[i].plain
		}
		return s.Each(ctx, triggersQuery, []any{t.oid, names}, func(scan func(...any) error) error {
			var name string
			err := scan(&name)
			facts.Triggers = append(facts.Triggers, name)
			return err
		})
	})
	if err != nil {
		return reencrypt.Facts{}, in("look at "+t.name, err)
	}
	return facts, nil
}
