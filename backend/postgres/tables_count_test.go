package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
)

func (r *rowsRig) count(tables ...reencrypt.Table) []reencrypt.Counts {
	r.t.Helper()
	counts, err := r.tables.Count(bounded(r.t), tables)
	require.NoError(r.t, err)
	require.Len(r.t, counts, len(tables))
	return counts
}

func TestCount(t *testing.T) {
	r := newRowsRig(t)
	r.exec(`CREATE TABLE counted (id int PRIMARY KEY, c text, b bytea)`,
		`INSERT INTO counted VALUES
			(1, 'vault:v1:x', 'vault:v2:x'), (2, 'vault:v12:x', 'vault:v123456789:x'), (3, NULL, NULL), (4, 'vault:v3:', '\xff00'), (5, '', ''),
			(6, 'vault:v3', 'vault:v1234567890:x'), (7, 'vault:vx:y', E'vault:v\\\\001:x'), (8, 'vault:v1234567890:', 'vault:v-1:'), (9, 'VAULT:v1:', 'vault:v1:' || '\xff'::bytea),
			(10, 'vault:v:', 'vault:v12x:'), (11, ' vault:v1:', 'vault:v1'), (12, E'vault:v1\n:', 'vault:v1:'), (13, 'vault:v007:x', 'vault:v٣:x')`,
		`CREATE TABLE other (id int PRIMARY KEY, c varchar)`, `INSERT INTO other SELECT i, 'vault:v' || 1 + i % 3 || ':x' FROM generate_series(1, 10) i`,
		`CREATE TABLE bare (id int PRIMARY KEY, c varchar)`)
	r.grant("counted", "other", "bare")
	counted := r.open(&reencrypt.Target{Table: "public.counted", KeyColumns: []string{"id"}, Columns: []string{"c", "b"}})
	other := r.open(&reencrypt.Target{Table: "public.other", KeyColumns: []string{"id"}, Columns: []string{"c"}})
	bare := r.open(&reencrypt.Target{Table: "public.bare", KeyColumns: []string{"id"}, Columns: []string{"c"}})
	require.Equal(t, []reencrypt.Counts{
		{Rows: 13, Versions: map[int]int64{1: 3, 2: 1, 3: 1, 7: 1, 12: 1, 123456789: 1}, Foreign: 16},
		{Rows: 10, Versions: map[int]int64{1: 3, 2: 4, 3: 3}},
		{Versions: map[int]int64{}},
	}, r.count(counted, other, bare))
	require.Empty(t, r.count())
}

// A scan takes as long as its caller lets it, whatever statement_timeout is for all else.
func TestCountHasALimitOfItsOwn(t *testing.T) {
	r := newRowsRig(t)
	r.exec(`CREATE TABLE waited (id int PRIMARY KEY, c text)`)
	r.grant("waited")
	table := r.open(&reencrypt.Target{Table: "public.waited", KeyColumns: []string{"id"}, Columns: []string{"c"}})
	r.exec(`INSERT INTO waited SELECT i, 'vault:v1:x' FROM generate_series(1, 1000000) i`)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := r.tables.Count(ctx, []reencrypt.Table{table})
	require.Error(t, err)
	require.Contains(t, []fault.Kind{fault.Target, fault.Unreachable}, fault.KindOf(err), "%v", err)
	require.Equal(t, map[int]int64{1: 1000000}, r.count(table)[0].Versions)
}

// Whether a table's rows are hidden is asked again by each statement.
func TestRowSecurityIsNotOverlooked(t *testing.T) {
	r := newRowsRig(t)
	table := r.open(r.cards())
	r.exec(`ALTER TABLE cards ENABLE ROW LEVEL SECURITY`, `CREATE POLICY part ON cards USING (id < 3)`)
	_, err := r.tables.Count(bounded(t), []reencrypt.Table{table})
	require.Equal(t, postgres.CodeNoPrivilege, postgres.Code(err), "%v", err)
	require.ErrorContains(t, err, "row-level security")
	_, err = table.Page(bounded(t), nil, 1, "vault:v2:")
	require.Equal(t, postgres.CodeNoPrivilege, postgres.Code(err), "%v", err)
	_, err = r.tables.Open(bounded(t), r.target("public.cards"))
	require.True(t, fault.Is(err, fault.Invalid), "%v", err)
	require.ErrorContains(t, err, "table: has row security")
	r.exec("ALTER ROLE " + r.user + " BYPASSRLS")
	require.Equal(t, int64(5), r.count(r.open(r.target("public.cards")))[0].Rows)
}

func (r *rowsRig) target(table string) *reencrypt.Target {
	return &reencrypt.Target{Table: table, KeyColumns: []string{"id"}, Columns: []string{"number"}}
}
