package postgres_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
)

// cards is a table with all that a target can have.
func (r *rowsRig) cards() *reencrypt.Target {
	r.exec(`CREATE TABLE cards (id int PRIMARY KEY, number text, cvc bytea, tenant uuid, note varchar(30))`,
		`INSERT INTO cards SELECT i, 'vault:v1:n' || i, convert_to('vault:v1:c' || i, 'UTF8'), '00000000-0000-4000-8000-000000000001', 'note ' || i FROM generate_series(1, 5) i`,
		`UPDATE cards SET tenant = NULL WHERE id = 5`)
	r.grant("cards")
	return &reencrypt.Target{Table: "public.cards", KeyColumns: []string{"id"}, Columns: []string{"number", "cvc"}, ContextColumn: "tenant", AssociatedDataColumn: "note"}
}

// What somebody wrote since a row was read stays, whichever of the columns that matter it is.
func TestSwapIsGuarded(t *testing.T) {
	r := newRowsRig(t)
	table := r.open(r.cards())
	rows := r.all(table, 10, "vault:v2:")
	require.Len(t, rows, 5)
	require.Equal(t, "vault:v1:c1", string(rows[0].Values[1]))
	require.Equal(t, "00000000-0000-4000-8000-000000000001", string(rows[0].Context))
	require.Equal(t, "note 1", string(rows[0].AssociatedData))
	require.Nil(t, rows[4].Context)
	r.exec(`UPDATE cards SET number = 'vault:v1:app' WHERE id = 1`, `UPDATE cards SET tenant = NULL WHERE id = 2`, `DELETE FROM cards WHERE id = 3`,
		`UPDATE cards SET cvc = 'vault:v1:app' WHERE id = 4`)
	results := r.swap(table, to(rows[0], "vault:v2:n1", "vault:v2:c1"), to(rows[1], "vault:v2:n2", ""), to(rows[2], "vault:v2:n3", ""),
		to(rows[3], "vault:v2:n4", ""), to(rows[4], "", "vault:v2:c5"))
	require.Equal(t, []reencrypt.Outcome{reencrypt.Moved, reencrypt.Moved, reencrypt.Moved, reencrypt.Changed, reencrypt.Changed}, outcomes(results),
		"a column that does not change does not matter")
	require.Equal(t, "1 vault:v1:app vault:v1:c1, 2 vault:v1:n2 vault:v1:c2, 4 vault:v2:n4 vault:v1:app, 5 vault:v1:n5 vault:v2:c5",
		r.query(`SELECT string_agg(id || ' ' || number || ' ' || convert_from(cvc, 'UTF8'), ', ' ORDER BY id) FROM cards`))
	results = r.swap(table, to(rows[4], "", "vault:v2:other"))
	require.Equal(t, []reencrypt.Outcome{reencrypt.Moved}, outcomes(results))
}

// A value is compared by its bytes, whatever the column's collation takes for equal.
func TestSwapComparesBytes(t *testing.T) {
	r := newRowsRig(t)
	r.exec(`CREATE COLLATION folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false)`,
		`CREATE TABLE folded (id int PRIMARY KEY, c text COLLATE folding)`, `INSERT INTO folded VALUES (1, 'vault:v1:abc')`)
	r.grant("folded")
	table := r.open(&reencrypt.Target{Table: "public.folded", KeyColumns: []string{"id"}, Columns: []string{"c"}})
	rows := r.all(table, 10, "vault:v2:")
	r.exec(`UPDATE folded SET c = 'vault:v1:ABC'`)
	require.Equal(t, []reencrypt.Outcome{reencrypt.Moved}, outcomes(r.swap(table, to(rows[0], "vault:v2:x"))))
	require.Equal(t, "vault:v1:ABC", r.query(`SELECT c::text FROM folded`))
}

// Rows that somebody holds are told of, and the others of the batch are changed.
func TestSwapAroundLocks(t *testing.T) {
	r := newRowsRig(t)
	table := r.open(r.cards())
	rows := r.all(table, 10, "vault:v2:")
	app := r.session()
	r.must(app, "BEGIN")
	r.must(app, "UPDATE cards SET number = 'vault:v1:app' WHERE id = 2")
	r.exec("DELETE FROM cards WHERE id = 3", "UPDATE cards SET number = 'vault:v1:app' WHERE id = 4")
	var changes []reencrypt.Change
	for _, row := range rows {
		changes = append(changes, to(row, "vault:v2:n", "vault:v2:c"))
	}
	results := r.swap(table, changes...)
	require.Equal(t, []reencrypt.Outcome{reencrypt.Changed, reencrypt.Locked, reencrypt.Locked, reencrypt.Moved, reencrypt.Changed}, outcomes(results))
	r.must(app, "COMMIT")
	results = r.swap(table, changes[1], changes[2])
	require.Equal(t, []reencrypt.Outcome{reencrypt.Moved, reencrypt.Moved}, outcomes(results))
	require.Equal(t, "vault:v1:app", r.query("SELECT number FROM cards WHERE id = 2"))

	r.must(app, "BEGIN")
	r.must(app, "LOCK TABLE cards IN ACCESS EXCLUSIVE MODE")
	require.Equal(t, []reencrypt.Outcome{reencrypt.Locked}, outcomes(r.swap(table, changes[4])))
	r.must(app, "ROLLBACK")
}

// A row that another one refers to in this moment is not locked for us.
func TestSwapBesideForeignKeys(t *testing.T) {
	r := newRowsRig(t)
	table := r.open(r.cards())
	rows := r.all(table, 10, "vault:v2:")
	r.exec("CREATE TABLE payments (card int REFERENCES cards)")
	app := r.session()
	r.must(app, "BEGIN")
	r.must(app, "INSERT INTO payments VALUES (1)")
	blocker := r.session()
	r.must(blocker, "BEGIN")
	r.must(blocker, "SELECT FROM cards WHERE id = 2 FOR UPDATE")
	results := r.swap(table, to(rows[0], "vault:v2:n1", ""), to(rows[1], "vault:v2:n2", ""))
	require.Equal(t, []reencrypt.Outcome{reencrypt.Changed, reencrypt.Locked}, outcomes(results), "around the lock of another row, too")
}

// What a type, a constraint or a trigger does not take stops nothing else, and the reason
// holds nothing of the row.
func TestSwapTellsWhatIsRefused(t *testing.T) {
	r := newRowsRig(t)
	r.exec(`CREATE DOMAIN checked AS text CHECK (VALUE NOT LIKE '%canary-domain%')`,
		`CREATE TABLE picky (id int PRIMARY KEY, short varchar(20), checked text CONSTRAINT "no canary" CHECK (checked NOT LIKE '%canary-check%'), guarded text, d checked, u text UNIQUE)`,
		`INSERT INTO picky SELECT i, 'vault:v1:s', 'vault:v1:c', 'vault:v1:g', 'vault:v1:d', 'vault:v1:u' || i FROM generate_series(1, 40) i`,
		`CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF NEW.guarded LIKE '%canary-raise%' THEN RAISE EXCEPTION 'will not take %', NEW.guarded; END IF;
			IF NEW.guarded LIKE '%canary-own%' THEN RAISE EXCEPTION 'will not take %', NEW.guarded USING ERRCODE = 'UE123'; END IF;
			RETURN NEW; END $$`,
		`CREATE TRIGGER watch BEFORE UPDATE OF guarded ON picky FOR EACH ROW EXECUTE FUNCTION watch()`)
	r.grant("picky")
	table := r.open(&reencrypt.Target{Table: "public.picky", KeyColumns: []string{"id"}, Columns: []string{"short", "checked", "guarded", "d", "u"}})
	rows := r.all(table, 100, "vault:v2:")
	var changes []reencrypt.Change
	for _, row := range rows {
		changes = append(changes, to(row, "vault:v2:s", "vault:v2:c", "vault:v2:g", "vault:v2:d", "vault:v2:u"+row.Key[0]))
	}
	wrong := map[int]string{
		3: "the new value is longer than the column takes (SQLSTATE 22001)", 7: `a CHECK constraint refused the new value, constraint "no canary" (SQLSTATE 23514)`,
		8: "a trigger refused the new value (SQLSTATE P0001)", 9: "PostgreSQL refused the new value (SQLSTATE UE123)",
		11: `a CHECK constraint refused the new value, constraint "checked_check" (SQLSTATE 23514)`,
		39: `PostgreSQL refused the new value, constraint "picky_u_key" (SQLSTATE 23505)`,
	}
	changes[3].New[0] = []byte("vault:v2:canary-long-much-longer")
	changes[7].New[1] = []byte("vault:v2:canary-check")
	changes[8].New[2] = []byte("vault:v2:canary-raise")
	changes[9].New[2] = []byte("vault:v2:canary-own")
	changes[11].New[3] = []byte("vault:v2:canary-domain")
	changes[39].New[4] = []byte("vault:v2:u1")
	results := r.swap(table, changes...)
	for i, result := range results {
		if reason := wrong[i]; reason != "" {
			require.Equal(t, reencrypt.Result{Outcome: reencrypt.Refused, Reason: reason}, result, i)
		} else {
			require.Equal(t, reencrypt.Result{Outcome: reencrypt.Changed}, result, i)
		}
	}
	require.Equal(t, "34", r.query("SELECT count(*)::text FROM picky WHERE short = 'vault:v2:s'"))
	require.Equal(t, "6", r.query("SELECT count(*)::text FROM picky WHERE short = 'vault:v1:s'"))
}

// A trigger fires for the columns that change, and for no other.
func TestSwapFiresTriggers(t *testing.T) {
	r := newRowsRig(t)
	target := r.cards()
	r.exec(`CREATE TABLE fired (what text)`,
		`CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$ BEGIN INSERT INTO fired VALUES (TG_NAME || ' ' || NEW.id); RETURN NEW; END $$`,
		`CREATE TRIGGER of_number AFTER UPDATE OF number ON cards FOR EACH ROW EXECUTE FUNCTION note()`,
		`CREATE TRIGGER of_cvc AFTER UPDATE OF cvc ON cards FOR EACH ROW EXECUTE FUNCTION note()`,
		`CREATE TRIGGER of_note AFTER UPDATE OF note ON cards FOR EACH ROW EXECUTE FUNCTION note()`,
		`CREATE TRIGGER of_all AFTER UPDATE ON cards FOR EACH ROW EXECUTE FUNCTION note()`,
		`CREATE TRIGGER of_insert AFTER INSERT ON cards FOR EACH ROW EXECUTE FUNCTION note()`,
		`CREATE TRIGGER off AFTER UPDATE ON cards FOR EACH ROW EXECUTE FUNCTION note()`, `ALTER TABLE cards DISABLE TRIGGER off`)
	table := r.open(target)
	rows := r.all(table, 10, "vault:v2:")
	r.swap(table, to(rows[0], "vault:v2:n", ""), to(rows[1], "", "vault:v2:c"))
	require.Equal(t, "of_all 1,of_all 2,of_cvc 2,of_number 1", r.query("SELECT string_agg(what, ',' ORDER BY what) FROM fired"))
	facts, err := table.Facts(bounded(t))
	require.NoError(t, err)
	require.Equal(t, []string{"of_all", "of_cvc", "of_number"}, facts.Triggers)
	require.Positive(t, facts.Bytes)
}

// What concerns all rows is an error, and not blamed on any.
func TestSwapFailsAsAWhole(t *testing.T) {
	r := newRowsRig(t)
	table := r.open(r.cards())
	rows := r.all(table, 10, "vault:v2:")
	r.exec("REVOKE UPDATE ON cards FROM " + r.user)
	_, err := table.Swap(bounded(t), []reencrypt.Change{to(rows[0], "vault:v2:canary", "")})
	require.True(t, fault.Is(err, fault.Target), "%v", err)
	require.ErrorContains(t, err, "42501")
	_, err = table.Page(bounded(t), reencrypt.Key{"canary"}, 1, "vault:v2:")
	require.True(t, fault.Is(err, fault.Target), "%v", err)
	require.NotContains(t, err.Error(), "canary")
}

// A page ends early before it holds much more than PageBytes.
func TestPageIsBoundedByBytes(t *testing.T) {
	r := newRowsRig(t)
	r.exec(`CREATE TABLE large (id int PRIMARY KEY, c text, b bytea)`, `ALTER TABLE large ALTER c SET STORAGE EXTERNAL`,
		`INSERT INTO large SELECT i, 'vault:v1:' || repeat('x', 700000), 'small' FROM generate_series(1, 7) i`,
		`UPDATE large SET c = 'vault:v1:' || repeat('y', 5000000) WHERE id = 4`, `UPDATE large SET c = 'vault:v2:' || repeat('y', 5000000) WHERE id = 5`)
	r.grant("large")
	table := r.open(&reencrypt.Target{Table: "public.large", KeyColumns: []string{"id"}, Columns: []string{"c", "b"}})
	var sizes []int
	var after reencrypt.Key
	for {
		rows, err := table.Page(bounded(t), after, 100, "vault:v2:")
		require.NoError(t, err)
		if len(rows) == 0 {
			break
		}
		sizes, after = append(sizes, len(rows)), rows[len(rows)-1].Key
	}
	require.Equal(t, []int{3, 1, 3}, sizes, "three of 0.7 MB, the large one, and the rest, of which one is done")
	require.Equal(t, strings.Repeat("y", 10), string(r.all(table, 1, "vault:v2:")[3].Values[0][9:19]))
}

// Rows that are, each for itself, larger than most make a page end where their sum does.
func TestPageOfRowsOfAllSizes(t *testing.T) {
	r := newRowsRig(t)
	r.exec(`CREATE TABLE mixed (id int PRIMARY KEY, c text)`, `ALTER TABLE mixed ALTER c SET STORAGE EXTERNAL`,
		`INSERT INTO mixed SELECT i, 'vault:v1:' || repeat('x', CASE i WHEN 20 THEN 3000000 WHEN 40 THEN 50000 ELSE 10 END) FROM generate_series(1, 60) i`)
	r.grant("mixed")
	table := r.open(&reencrypt.Target{Table: "public.mixed", KeyColumns: []string{"id"}, Columns: []string{"c"}})
	for _, c := range []struct{ after, limit, rows, last int }{
		{0, 19, 19, 19},
		{0, 100, 20, 3000009},
		{19, 100, 1, 3000009},
		{20, 100, 40, 19},
		{20, 20, 20, 50009},
	} {
		rows, err := table.Page(bounded(t), reencrypt.Key{strconv.Itoa(c.after)}, c.limit, "vault:v2:")
		require.NoError(t, err)
		require.Len(t, rows, c.rows, c)
		require.Len(t, rows[len(rows)-1].Values[0], c.last, c)
		for i, row := range rows {
			require.Equal(t, reencrypt.Key{strconv.Itoa(c.after + i + 1)}, row.Key)
			require.NotNil(t, row.Values[0])
		}
	}
}

// A trigger may keep a row from being changed without an error: nobody takes it for changed.
func TestSwapTellsOfRowsThatATriggerKeeps(t *testing.T) {
	r := newRowsRig(t)
	table := r.open(r.cards())
	rows := r.all(table, 10, "vault:v2:")
	r.exec(`CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN CASE WHEN NEW.id = 2 THEN NULL ELSE NEW END; END $$`,
		`CREATE TRIGGER keep BEFORE UPDATE ON cards FOR EACH ROW EXECUTE FUNCTION keep()`)
	results := r.swap(table, to(rows[0], "vault:v2:n1", ""), to(rows[1], "vault:v2:n2", ""), to(rows[2], "vault:v2:n3", "vault:v2:c3"))
	require.Equal(t, []reencrypt.Outcome{reencrypt.Changed, reencrypt.Moved, reencrypt.Changed}, outcomes(results))
	require.Equal(t, "vault:v1:n2", r.query("SELECT number FROM cards WHERE id = 2"))
}
