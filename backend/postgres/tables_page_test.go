package postgres_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
)

// Each type of key, and keys of several, come in the index's order, one page after another,
// and find their rows again.
func TestPageByEachTypeOfKey(t *testing.T) {
	r := newRowsRig(t)
	r.exec(`CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')`,
		`CREATE DOMAIN small AS int CHECK (VALUE < 1000)`,
		`CREATE COLLATION folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false)`,
		`CREATE SCHEMA ext`)
	for i, c := range []struct{ columns, key, rows string }{
		{"k int PRIMARY KEY", "k", "(-5), (0), (7), (2147483647)"},
		{"k bigint PRIMARY KEY", "k", "(-5), (0), (7), (9223372036854775807)"},
		{"k smallint PRIMARY KEY", "k", "(-5), (0), (7)"},
		{"k uuid PRIMARY KEY", "k", "('6f1d2c3b-0000-4000-8000-000000000001'), ('00000000-0000-4000-8000-000000000001'), ('ffffffff-0000-4000-8000-000000000001')"},
		{"k text PRIMARY KEY", "k", `(''), ('a'), ('B'), ('ä'), (E'q''"\\\n'), ('NULL'), ('{}')`},
		{`k text COLLATE "en-x-icu" PRIMARY KEY`, "k", "('a'), ('B'), ('ä'), ('Z'), ('')"},
		{"k text COLLATE folding PRIMARY KEY", "k", "('a'), ('B'), ('c'), ('ä')"},
		{"k varchar(20) PRIMARY KEY", "k", "('a'), ('b b '), ('B')"},
		{"k char(5) PRIMARY KEY", "k", "('a'), ('b b'), ('abcde')"},
		{`k "char" PRIMARY KEY`, "k", "('a'), ('b')"},
		{"k name PRIMARY KEY", "k", "('a'), ('b')"},
		{"k timestamptz PRIMARY KEY", "k", "('2024-01-01 00:00:00.123456+02'), ('infinity'), ('-infinity'), ('0044-03-15 BC'), ('12024-01-01')"},
		{"k timestamp PRIMARY KEY", "k", "('2024-01-02 03:04:05.000001'), ('infinity')"},
		{"k date PRIMARY KEY", "k", "('2024-03-02'), ('2024-02-03'), ('0044-03-15 BC'), ('infinity')"},
		{"k time PRIMARY KEY", "k", "('00:00:00.000001'), ('24:00')"},
		{"k interval PRIMARY KEY", "k", "('1 mon -1 day +00:00:00.000001'), ('-3 years'), ('0')"},
		{"k numeric PRIMARY KEY", "k", "(0.1), (123456789012345678901234567890.000001), ('NaN'), (-7)"},
		{"k numeric(10,2) PRIMARY KEY", "k", "(0.10), (7)"},
		{"k float8 PRIMARY KEY", "k", "(0.1), ('NaN'), ('-Infinity'), (1e300), (0.1::float8 + 0.2::float8)"},
		{"k real PRIMARY KEY", "k", "(0.1), (16777216), (1e-30)"},
		{"k bytea PRIMARY KEY", "k", `('\x'), ('\x00'), ('\xff00ff'), ('\x5c')`},
		{"k bool PRIMARY KEY", "k", "(true), (false)"},
		{"k mood PRIMARY KEY", "k", "('happy'), ('sad'), ('ok')"},
		{"k small PRIMARY KEY", "k", "(1), (2), (999)"},
		{"k bit(3) PRIMARY KEY", "k", "(B'101'), (B'001')"},
		{"k inet PRIMARY KEY", "k", "('10.0.0.1'), ('::1'), ('10.0.0.0/8')"},
		{"k int[] PRIMARY KEY", "k", "('{1,2}'), ('{}'), ('{1,NULL}')"},
		{"k int4range PRIMARY KEY", "k", "('[1,5)'), ('empty'), ('(,3)')"},
		{"k jsonb PRIMARY KEY", "k", `('{"a": 1}'), ('[]'), ('"x"')`},
		{
			"a int, b uuid, c text, d timestamptz, PRIMARY KEY (a, b, c, d)", "a,b,c,d",
			"(1, '00000000-0000-4000-8000-000000000001', 'x', '2024-01-01'), (1, '00000000-0000-4000-8000-000000000001', 'x', '2023-01-01'), " +
				"(1, '00000000-0000-4000-8000-000000000001', 'a', '2025-01-01'), (0, 'ffffffff-0000-4000-8000-000000000001', 'z', '2024-01-01')",
		},
		{"a int, b text, PRIMARY KEY (b, a)", "a,b", "(1, 'z'), (2, 'a'), (3, 'm'), (1, 'a')"},
		{"a int NOT NULL, b int NOT NULL, UNIQUE (a, b) INCLUDE (v)", "b,a", "(1, 2), (2, 1), (1, 1)"},
	} {
		t.Run(c.columns, func(t *testing.T) {
			name := fmt.Sprintf("keyed_%d", i)
			columns := strings.Split(c.key, ",")
			r.exec("CREATE TABLE "+name+" (v text, "+c.columns+")", "INSERT INTO "+name+" ("+strings.Join(slices.Sorted(slices.Values(columns)), ", ")+") VALUES "+c.rows,
				"UPDATE "+name+" SET v = 'vault:v1:' || ctid")
			r.grant(name)
			table := r.open(&reencrypt.Target{Table: "public." + name, KeyColumns: columns, Columns: []string{"v"}})
			whole := r.all(table, 100, "vault:v2:")
			require.Equal(t, r.query("SELECT count(*)::text FROM "+name), fmt.Sprint(len(whole)))
			for limit := 1; limit <= len(whole); limit++ {
				require.Equal(t, whole, r.all(table, limit, "vault:v2:"), limit)
			}
			var changes []reencrypt.Change
			var keys []reencrypt.Key
			for n, row := range whole {
				changes, keys = append(changes, to(row, fmt.Sprintf("vault:v2:%d", n))), append(keys, row.Key)
			}
			for _, result := range r.swap(table, changes...) {
				require.Equal(t, reencrypt.Changed, result.Outcome)
			}
			again, err := table.Read(bounded(t), keys, "vault:v1:")
			require.NoError(t, err)
			require.Len(t, again, len(whole))
			for _, row := range again {
				n := slices.IndexFunc(whole, func(w reencrypt.Row) bool { return slices.Equal(w.Key, row.Key) })
				require.Equal(t, fmt.Sprintf("vault:v2:%d", n), string(row.Values[0]))
			}
			for _, row := range r.all(table, 2, "vault:v2:") {
				require.Nil(t, row.Values[0], "what is done is not read")
			}
		})
	}
}
