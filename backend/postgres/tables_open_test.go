package postgres_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/postgres"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
)

func TestParseTableName(t *testing.T) {
	for text, want := range map[string]postgres.TableName{
		`public.orders`:       {Schema: "public", Table: "orders"},
		`Public.ORDERS`:       {Schema: "public", Table: "orders"},
		`"Public"."a.b""c"`:   {Schema: "Public", Table: `a.b"c`},
		` public . "x y" `:    {Schema: "public", Table: "x y"},
		`ünï.Tätigkeit_1$`:    {Schema: "ünï", Table: "tätigkeit_1$"},
		`public."'; DROP --"`: {Schema: "public", Table: `'; DROP --`},
	} {
		got, err := postgres.ParseTableName(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{
		"", ".", "orders", "a.b.c", `public."orders`, `public.""`, "public.or ders", "public.orders;", "public.1x", "public.a-b", "public.*", "a..b", "public.a\x00b", `"a"b.c`, "public.\xff",
		"public.x234567890123456789012345678901234567890123456789012345678901234",
	} {
		_, err := postgres.ParseTableName(text)
		require.True(t, fault.Is(err, fault.Invalid), "%q: %v", text, err)
		require.ErrorContains(t, err, "table: ")
	}
}

// Each thing that is wrong with a target is told of the field that is at fault.
func TestOpenRefuses(t *testing.T) {
	r := newRowsRig(t)
	r.exec(`CREATE TABLE good (id int PRIMARY KEY, a int NOT NULL, b int NOT NULL, c text, v varchar(20), e bytea, fixed char(5), j jsonb, n int,
			made text GENERATED ALWAYS AS ('x') STORED, late int NOT NULL UNIQUE DEFERRABLE, part int NOT NULL, expr int NOT NULL, hashed int NOT NULL, mixed1 int NOT NULL, mixed2 int NOT NULL)`,
		`CREATE UNIQUE INDEX ON good (a, b)`, `CREATE UNIQUE INDEX ON good (part) WHERE part > 0`, `CREATE UNIQUE INDEX ON good ((expr + 1))`, `CREATE UNIQUE INDEX ON good (n)`,
		`CREATE UNIQUE INDEX ON good (mixed1, mixed2 DESC)`, `CREATE INDEX ON good (hashed)`,
		`CREATE VIEW shown AS SELECT * FROM good`, `CREATE MATERIALIZED VIEW kept AS SELECT 1 AS id`, `CREATE SEQUENCE counts`,
		`CREATE TABLE parent (id int PRIMARY KEY, c text)`, `CREATE TABLE child () INHERITS (parent)`,
		`CREATE TABLE ruled (id int PRIMARY KEY, c text)`, `CREATE RULE nothing AS ON UPDATE TO ruled DO INSTEAD NOTHING`,
		`CREATE TABLE secret (id int PRIMARY KEY, c text, x text)`, `CREATE SCHEMA closed`, `CREATE TABLE closed.secret (id int PRIMARY KEY, c text)`,
		`CREATE EXTENSION IF NOT EXISTS plpgsql`)
	r.grant("good", "shown", "parent", "ruled", "closed.secret")
	r.exec("GRANT SELECT (id, c), UPDATE (x) ON secret TO " + r.user)
	for _, c := range []struct {
		change func(*reencrypt.Target)
		field  string
		says   string
	}{
		{func(g *reencrypt.Target) { g.Table = "good" }, "table", "schema.table"},
		{func(g *reencrypt.Target) { g.Table = "public.absent" }, "table", "is not there"},
		{func(g *reencrypt.Target) { g.Table = "public.shown" }, "table", "a view"},
		{func(g *reencrypt.Target) { g.Table = "public.kept" }, "table", "a materialized view"},
		{func(g *reencrypt.Target) { g.Table = "public.counts" }, "table", "a sequence"},
		{func(g *reencrypt.Target) { g.Table = "public.good_pkey" }, "table", "an index"},
		{func(g *reencrypt.Target) { g.Table = "public.parent" }, "table", "inherit"},
		{func(g *reencrypt.Target) { g.Table = "public.ruled" }, "table", "rules"},
		{func(g *reencrypt.Target) { g.Table = "closed.secret" }, "table", `USAGE on the schema "closed"`},
		{func(g *reencrypt.Target) { g.Table = "pg_catalog.pg_authid" }, "table", "server's own"},
		{func(g *reencrypt.Target) { g.Table = "information_schema.sql_parts" }, "table", "server's own"},
		{func(g *reencrypt.Target) { g.KeyColumns = nil }, "key_columns", "is required"},
		{func(g *reencrypt.Target) { g.KeyColumns = []string{"id", "id"} }, "key_columns", "twice"},
		{func(g *reencrypt.Target) { g.KeyColumns = []string{"absent"} }, "key_columns", "does not have"},
		{func(g *reencrypt.Target) { g.KeyColumns = []string{"n"} }, "key_columns", "must be NOT NULL"},
		{func(g *reencrypt.Target) { g.KeyColumns = []string{"a"} }, "key_columns", "primary key"},
		{func(g *reencrypt.Target) { g.KeyColumns = []string{"id", "a"} }, "key_columns", "primary key"},
		{func(g *reencrypt.Target) { g.KeyColumns = []string{"late"} }, "key_columns", "deferrable"},
		{func(g *reencrypt.Target) { g.KeyColumns = []string{"part"} }, "key_columns", "partial"},
		{func(g *reencrypt.Target) { g.KeyColumns = []string{"expr"} }, "key_columns", "expressions"},
		{func(g *reencrypt.Target) { g.KeyColumns = []string{"hashed"} }, "key_columns", "unique"},
		{func(g *reencrypt.Target) { g.KeyColumns = []string{"mixed1", "mixed2"} }, "key_columns", "all ascending"},
		{func(g *reencrypt.Target) { g.Columns = nil }, "columns", "is required"},
		{func(g *reencrypt.Target) { g.Columns = []string{"c", "c"} }, "columns", "twice"},
		{func(g *reencrypt.Target) { g.Columns = []string{"id"} }, "columns", "among key_columns"},
		{func(g *reencrypt.Target) { g.Columns = []string{"absent"} }, "columns", "does not have"},
		{func(g *reencrypt.Target) { g.Columns = []string{"ctid"} }, "columns", "does not have"},
		{func(g *reencrypt.Target) { g.Columns = []string{"j"} }, "columns", "is jsonb"},
		{func(g *reencrypt.Target) { g.Columns = []string{"fixed"} }, "columns", "is character(5), which pads"},
		{func(g *reencrypt.Target) { g.Columns = []string{"made"} }, "columns", "computes"},
		{func(g *reencrypt.Target) { g.ContextColumn = "absent" }, "context_column", "does not have"},
		{func(g *reencrypt.Target) { g.ContextColumn = "fixed" }, "context_column", "blanks"},
		{func(g *reencrypt.Target) { g.ContextColumn = "c" }, "context_column", "among columns"},
		{func(g *reencrypt.Target) { g.AssociatedDataColumn = "absent" }, "associated_data_column", "does not have"},
		{func(g *reencrypt.Target) { g.AssociatedDataColumn = "c" }, "associated_data_column", "among columns"},
		{func(g *reencrypt.Target) { g.Table = "public.secret" }, "columns", "grant it UPDATE"},
		{func(g *reencrypt.Target) { g.Table, g.Columns = "public.secret", []string{"x"} }, "columns", "grant it SELECT"},
	} {
		target := &reencrypt.Target{Table: "public.good", KeyColumns: []string{"id"}, Columns: []string{"c"}}
		c.change(target)
		_, err := r.tables.Open(bounded(t), target)
		var f *fault.Error
		require.ErrorAs(t, err, &f, "%+v", target)
		require.Equal(t, c.field, f.Field, "%+v: %v", target, err)
		require.Equal(t, fault.Invalid, f.Kind)
		require.Contains(t, f.Message, c.says)
	}
	r.open(&reencrypt.Target{Table: "public.good", KeyColumns: []string{"b", "a"}, Columns: []string{"c", "v", "e"}, ContextColumn: "j", AssociatedDataColumn: "id"})
}

// Names with quotes, dots, capitals, blanks and letters of any script.
func TestOddIdentifiers(t *testing.T) {
	r := newRowsRig(t)
	r.exec(`CREATE SCHEMA "Odd.schema"`, `CREATE TABLE "Odd.schema"."t""able ü" ("Key.1" int, "key ""2""" text, "SELECT" text, "ctx'" text, PRIMARY KEY ("Key.1", "key ""2"""))`,
		`INSERT INTO "Odd.schema"."t""able ü" VALUES (1, 'a', 'vault:v1:x', 'c'), (1, 'b', 'vault:v1:y', NULL)`, `GRANT USAGE ON SCHEMA "Odd.schema" TO `+r.user)
	r.grant(`"Odd.schema"."t""able ü"`)
	table := r.open(&reencrypt.Target{Table: `"Odd.schema"."t""able ü"`, KeyColumns: []string{`key "2"`, "Key.1"}, Columns: []string{"SELECT"}, ContextColumn: "ctx'"})
	rows := r.all(table, 1, "vault:v2:")
	require.Equal(t, reencrypt.Key{"b", "1"}, rows[1].Key)
	require.Equal(t, []reencrypt.Outcome{reencrypt.Changed, reencrypt.Changed}, outcomes(r.swap(table, to(rows[0], "vault:v2:x"), to(rows[1], "vault:v2:y"))))
	require.Equal(t, map[int]int64{2: 2}, r.count(table)[0].Versions)
	_, err := table.Facts(bounded(t))
	require.NoError(t, err)
}

// A partitioned table is one table: its pages, swaps and counts go over all partitions.
func TestPartitions(t *testing.T) {
	r := newRowsRig(t)
	r.exec(`CREATE TABLE parts (id int, day date, c text, PRIMARY KEY (day, id)) PARTITION BY RANGE (day)`,
		`CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2024-01-01') TO ('2024-02-01')`,
		`CREATE TABLE parts_2 (day date NOT NULL, extra text, c text, id int NOT NULL)`, `ALTER TABLE parts_2 DROP COLUMN extra`,
		`ALTER TABLE parts ATTACH PARTITION parts_2 FOR VALUES FROM ('2024-02-01') TO ('2024-03-01')`,
		`CREATE TABLE parts_rest PARTITION OF parts DEFAULT`,
		`CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'`,
		`CREATE TRIGGER on_all AFTER UPDATE OF c ON parts FOR EACH ROW EXECUTE FUNCTION nothing()`,
		`CREATE TRIGGER on_one BEFORE UPDATE OF c ON parts_2 FOR EACH ROW EXECUTE FUNCTION nothing()`,
		`INSERT INTO parts SELECT i, '2024-01-01'::date + i, 'vault:v1:' || i FROM generate_series(0, 99) i`)
	r.grant("parts")
	table := r.open(&reencrypt.Target{Table: "public.parts", KeyColumns: []string{"id", "day"}, Columns: []string{"c"}})
	rows := r.all(table, 7, "vault:v2:")
	require.Len(t, rows, 100)
	var changes []reencrypt.Change
	for _, row := range rows {
		changes = append(changes, to(row, "vault:v2:x"))
	}
	for _, result := range r.swap(table, changes...) {
		require.Equal(t, reencrypt.Changed, result.Outcome)
	}
	require.Equal(t, reencrypt.Counts{Rows: 100, Versions: map[int]int64{2: 100}}, r.count(table)[0])
	facts, err := table.Facts(bounded(t))
	require.NoError(t, err)
	require.Equal(t, 3, facts.Partitions)
	require.Equal(t, []string{"on_all", "on_one"}, facts.Triggers)
	require.Positive(t, facts.Bytes)
	one := r.query("SELECT count(*)::text FROM parts_2")
	r.grant("parts_2")
	part := r.open(&reencrypt.Target{Table: "public.parts_2", KeyColumns: []string{"day", "id"}, Columns: []string{"c"}})
	require.Equal(t, "29", one)
	require.Equal(t, int64(29), r.count(part)[0].Rows)
}
