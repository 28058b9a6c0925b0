package tests

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// Wrong input about data and its keys is answered with one sentence that names the field, and changes nothing: neither
// in Vault nor in a row.
func TestReencryptionBadInput(t *testing.T) {
	t.Parallel()
	vault, clock := newClockedVault(t) // its own: it looks at the memory of the plugin's process
	b := &badData{keeper: newKeeper(t, "baddata", vault, pgtest.Shared(t), clock)}
	b.prepare()
	before := b.everything()
	for _, r := range concat(b.badTargets(), b.badTables(), b.badKeyColumns(), b.badTexts(), b.badCiphertexts(), b.badBatches(), b.badControls(), b.nobody()) {
		t.Run(r.name, func(t *testing.T) {
			r.check(t, b.world)
			assert.Equal(t, before, b.everything(), "nothing may change")
		})
	}
	assert.Less(t, pluginMemory(t, vault), uint64(mostMemory), "after batches that are far too large")
}

// badData is a role with two versions, whose data waits for its window; and others that are not fit for what is asked.
type badData struct {
	*keeper
	idle, derived, signs string
	old, bound, ofUser   string // ciphertexts: of version 1, of one row, of one context
	foreign              string // of another role
}

func (b *badData) prepare() {
	b.idle, b.derived, b.signs = b.role+"-idle", b.role+"-derived", b.role+"-signs"
	b.write("roles/"+b.role, keyRole(map[string]any{"maintenance_schedule": "0 2 30 6 *", "maintenance_window": "1h"}))
	b.write("roles/"+b.idle, keyRole(nil))
	b.write("roles/"+b.derived, keyRole(map[string]any{"derived": true}))
	b.write("roles/"+b.signs, keyFields(nil))
	b.announced(b.signs)
	b.superuser(`
		CREATE TABLE billing.dups (id bigint NOT NULL, number text);
		CREATE INDEX ON billing.dups (id);
		CREATE TABLE billing.partial (id bigint NOT NULL, number text);
		CREATE UNIQUE INDEX ON billing.partial (id) WHERE id > 0;
		CREATE TABLE billing.loose (id bigint UNIQUE, number text);
		CREATE TABLE billing.pair (a bigint, b bigint, c bigint NOT NULL, number text, PRIMARY KEY (a, b));
		CREATE TABLE billing.hidden (id bigint PRIMARY KEY, number text);
		ALTER TABLE billing.hidden ENABLE ROW LEVEL SECURITY;
		CREATE POLICY mine ON billing.hidden USING (id < 10);
		CREATE VIEW billing.shown AS SELECT * FROM billing.cards;
		CREATE TABLE billing.typed (id bigint PRIMARY KEY, number int, padded char(200), made text GENERATED ALWAYS AS ('x') STORED)`,
		b.grants(), `
		CREATE TABLE billing.closed (id bigint PRIMARY KEY, number text);
		CREATE TABLE billing.readonly (id bigint PRIMARY KEY, number text)`,
		"GRANT SELECT ON billing.readonly TO "+b.admin, `
		CREATE SCHEMA private;
		CREATE TABLE private.cards (id bigint PRIMARY KEY, number text)`,
	)
	b.write("connections/main", map[string]any{"allowed_tables": "billing.*,private.*"})
	b.write("connections/narrow", b.connection(map[string]any{"allowed_tables": "billing.*", "allowed_roles": "other-*"}))
	b.store(b.role, 1, 3)
	b.write("reencrypt/"+b.role+"/targets/cards", cardsTarget(nil))
	b.old = b.encrypt(b.role, "of version 1")
	b.foreign = b.encrypt(b.idle, "of another role")
	b.bound = b.encryptWith(b.role, "associated_data", "row 7")
	b.ofUser = b.encryptWith(b.derived, "context", "user-1")
	b.rotation("rotate/"+b.role, nil)
	b.job(b.role, time.Minute, "waiting")
	b.settled()
}

func (b *badData) encryptWith(role, field, value string) string {
	b.t.Helper()
	return b.write("encrypt/"+role, map[string]any{"plaintext": coded("x"), field: coded(value)}).fields()["ciphertext"].(string)
}

// everything is all that a refused request could have changed.
func (b *badData) everything() map[string]string {
	b.t.Helper()
	shown := map[string]string{"rows": b.postgres.MustQuery(b.t, b.database,
		"SELECT string_agg(concat_ws(' ', ctid, xmin, c::text), E'\n' ORDER BY id) FROM billing.cards c")}
	paths := []string{"connections/main", "status", "config", "reencrypt/" + b.role + "/targets/cards"}
	for _, role := range []string{b.role, b.idle, b.derived} {
		paths = append(paths, "roles/"+role, "status/"+role, "history/"+role, "reencrypt/"+role)
	}
	for _, path := range paths {
		shown[path] = string(b.get(path).Data)
	}
	for _, path := range []string{"roles", "connections", "incidents", "reencrypt/" + b.role + "/targets"} {
		a := b.call(b.t.Context(), "LIST", path, nil)
		shown[path] = fmt.Sprint(a.Status, string(a.Data))
	}
	return shown
}

// badTarget is a write of a new target with one thing wrong.
func (b *badData) badTarget(name, field, says string, changes map[string]any) refusal {
	return refusal{name: "target: " + name, path: "reencrypt/" + b.role + "/targets/new", body: cardsTarget(changes), field: field + ":", says: says}
}

func (b *badData) badTargets() []refusal {
	type m = map[string]any
	return []refusal{
		b.badTarget("no connection", "connection", "is required", m{"connection": nil}),
		b.badTarget("no table", "table", "is required", m{"table": nil}),
		b.badTarget("no key", "key_columns", "is required", m{"key_columns": nil}),
		b.badTarget("no columns", "columns", "is required", m{"columns": nil}),
		b.badTarget("unknown field", "colums", "did you mean columns?", m{"colums": "number"}),
		b.badTarget("unknown content", "content", "must be ciphertext or datakey", m{"content": "plaintext"}),
		b.badTarget("unknown connection", "connection", `there is no connection "other"`, m{"connection": "other"}),
		b.badTarget("connection for other roles", "connection", "does not allow the role", m{"connection": "narrow"}),
		{name: "target: name that is none", path: "reencrypt/" + b.role + "/targets/" + strings.Repeat("n", 129), body: cardsTarget(nil), field: "name:", says: "128"},
		{name: "existing target: a table that is not there", path: "reencrypt/" + b.role + "/targets/cards", body: cardsTarget(m{"table": "billing.gone"}), field: "table:", says: "is not there"},
	}
}

func (b *badData) badTables() []refusal {
	type m = map[string]any
	return []refusal{
		b.badTarget("table that does not exist", "table", "is not there", m{"table": "billing.gone"}),
		b.badTarget("table without a schema", "table", "must be schema.table", m{"table": "cards"}),
		b.badTarget("table that is a statement", "table", "must be schema.table", m{"table": "billing.cards; DROP TABLE billing.cards"}),
		b.badTarget("table that is not allowed", "table", `is not admitted: connection "main" names no such table in its allowed_tables`, m{"table": "public.orders"}),
		b.badTarget("table of the server", "table", "is not admitted", m{"table": "pg_catalog.pg_authid"}),
		b.badTarget("view", "table", "is a view", m{"table": "billing.shown"}),
		b.badTarget("schema that may not be used", "table", "grant it USAGE on the schema", m{"table": "private.cards"}),
		b.badTarget("table that may not be read", "key_columns", "may not read: grant it SELECT", m{"table": "billing.closed"}),
		b.badTarget("table that may not be changed", "columns", "may not change: grant it UPDATE", m{"table": "billing.readonly"}),
		b.badTarget("table with row security", "table", "has row security", m{"table": "billing.hidden"}),
	}
}

func (b *badData) badKeyColumns() []refusal {
	type m = map[string]any
	return []refusal{
		b.badTarget("column that does not exist", "columns", `names "numbr", which "billing"."cards" does not have`, m{"columns": "numbr"}),
		b.badTarget("key that does not exist", "key_columns", `names "uid", which "billing"."cards" does not have`, m{"key_columns": "uid"}),
		b.badTarget("context that does not exist", "context_column", "does not have", m{"context_column": "user"}),
		b.badTarget("associated data that do not exist", "associated_data_column", "does not have", m{"associated_data_column": "user"}),
		b.badTarget("key that is not unique", "key_columns", "must be, together, all columns of a primary key", m{"table": "billing.dups"}),
		b.badTarget("key that is unique for some rows", "key_columns", "not partial", m{"table": "billing.partial"}),
		b.badTarget("half a key", "key_columns", "must be, together, all columns", m{"table": "billing.pair", "key_columns": "a"}),
		b.badTarget("more than a key", "key_columns", "must be, together, all columns", m{"table": "billing.pair", "key_columns": "a,b,c"}),
		b.badTarget("key that may be NULL", "key_columns", "must be NOT NULL", m{"table": "billing.loose"}),
		b.badTarget("key twice", "key_columns", "twice", m{"key_columns": "id,id"}),
		b.badTarget("column twice", "columns", "twice", m{"columns": "number,number"}),
		b.badTarget("column that is the key", "columns", "which is among key_columns", m{"columns": "id"}),
		b.badTarget("column that is the context", "context_column", "must not be among columns", m{"context_column": "number"}),
		b.badTarget("column of numbers", "columns", "must be of type text, varchar or bytea", m{"table": "billing.typed"}),
		b.badTarget("column that is padded", "columns", "pads values with blanks", m{"table": "billing.typed", "columns": "padded"}),
		b.badTarget("column that is computed", "columns", "the server computes it", m{"table": "billing.typed", "columns": "made"}),
	}
}

// badText is a request to encrypt, decrypt or rewrap with one thing wrong.
func badText(name, path, field, says string, body map[string]any) refusal {
	verb, _, _ := strings.Cut(path, "/")
	return refusal{name: verb + ": " + name, path: path, body: body, field: field + ":", says: says}
}

func (b *badData) badTexts() []refusal {
	type m = map[string]any
	encrypt := "encrypt/" + b.role
	return []refusal{
		badText("no plaintext", encrypt, "plaintext", "is required", nil),
		badText("plaintext that is not base64", encrypt, "plaintext", "must be base64", m{"plaintext": "4111 1111"}),
		badText("context that is not base64", encrypt, "context", "must be base64", m{"plaintext": "", "context": "!"}),
		badText("associated data that are not base64", encrypt, "associated_data", "must be base64", m{"plaintext": "", "associated_data": "!"}),
		badText("an earlier version", encrypt, "key_version", "must be 2, the current version", m{"plaintext": "", "key_version": 1}),
		badText("a version that is not there", encrypt, "key_version", "must be 2, the current version", m{"plaintext": "", "key_version": 3}),
		badText("nonce", encrypt, "nonce", "must be left out", m{"plaintext": "", "nonce": "AAAA"}),
		badText("unknown field", encrypt, "plaintxt", "did you mean plaintext?", m{"plaintxt": "AAAA"}),
		badText("no context", "encrypt/"+b.derived, "context", "is required", m{"plaintext": "AAAA"}),
		badText("bits", "datakey/wrapped/"+b.role, "bits", "must be 128, 256 or 512", m{"bits": 7}),
	}
}

func (b *badData) badCiphertexts() []refusal {
	type m = map[string]any
	var all []refusal
	for _, verb := range []string{"decrypt", "rewrap"} {
		path := verb + "/" + b.role
		of := func(name, says, ciphertext string) refusal {
			return badText(name, path, "ciphertext", says, m{"ciphertext": ciphertext})
		}
		all = append(all,
			badText("no ciphertext", path, "ciphertext", "is required", nil),
			of("plain text", "is not of this form", "4111-1111"),
			of("ciphertext of another program", "is not of this form", "$ANSIBLE_VAULT;1.1;AES256"),
			of("no version", "names no version", "vault:v:AAAA"),
			of("negative version", "names no version", "vault:v-1:AAAA"),
			of("version 0", "names version 0", strings.Replace(b.old, ":v1:", ":v0:", 1)),
			of("version with a zero", "with a zero before it", strings.Replace(b.old, ":v1:", ":v01:", 1)),
			of("version of many digits", "names a version that no key has", "vault:v9999999999999999999:AAAA"),
			of("version beyond the range", "names version 9, which this role does not have yet: its highest is 2", strings.Replace(b.old, ":v1:", ":v9:", 1)),
			of("what is not base64", "is not base64 after vault:v1:", b.old[:20]+"!"+b.old[20:]),
			of("a cut", "is too short", b.old[:len("vault:v1:")+16]),
			of("one byte less", "", b.old[:len(b.old)-4]),
			of("ciphertext of another role", "cannot be decrypted", b.foreign),
			of("ciphertext of another version", "cannot be decrypted", strings.Replace(b.old, ":v1:", ":v2:", 1)),
			of("no associated data", "cannot be decrypted", b.bound),
			badText("other associated data", path, "ciphertext", "cannot be decrypted", m{"ciphertext": b.bound, "associated_data": coded("row 8")}),
			badText("another context", verb+"/"+b.derived, "ciphertext", "cannot be decrypted", m{"ciphertext": b.ofUser, "context": coded("user-2")}),
			badText("no context", verb+"/"+b.derived, "context", "is required", m{"ciphertext": b.ofUser}),
		)
	}
	return all
}

func (b *badData) badBatches() (all []refusal) {
	type m = map[string]any
	for verb, item := range map[string]m{"encrypt": {"plaintext": "AAAA"}, "decrypt": {"ciphertext": b.old}, "rewrap": {"ciphertext": b.old}} {
		path := verb + "/" + b.role
		wrong := with(m{"textt": "x"}, item)
		// As a list so many never come as far as the plugin: Vault by itself reads no more than 10,000 elements.
		list := make([]m, 100_000)
		for i := range list {
			list[i] = item
		}
		all = append(all,
			refusal{name: verb + ": 100,000 items", path: path, body: m{"batch_input": list}, status: http.StatusInternalServerError, says: "JSON array exceeds allowed element count"},
			badText("100,000 items as a text", path, "batch_input", "has 100000 items; 1 to 10000 are allowed", m{"batch_input": "[" + strings.Repeat("{},", 99_999) + "{}]"}),
			badText("no items", path, "batch_input", "has 0 items", m{"batch_input": []any{}}),
			badText("items that are no list", path, "batch_input", "list", m{"batch_input": "all"}),
			badText("item that is a text", path, "batch_input[1]", "must be a JSON object", m{"batch_input": []any{item, "x"}}),
			badText("item with an unknown field", path, "batch_input[0].textt", "is not a field of an item", m{"batch_input": []any{wrong}}),
		)
	}
	return all
}

func (b *badData) badControls() (all []refusal) {
	type m = map[string]any
	conflict := func(name, path, says string, body m) refusal {
		return refusal{name: name, path: path, body: body, status: http.StatusConflict, says: says}
	}
	for _, verb := range []string{"pause", "resume", "cancel"} {
		all = append(all, conflict(verb+" without a job", "reencrypt/"+b.idle+"/"+verb, "no re-encryption of "+b.idle+" is planned or runs", nil))
	}
	return append(all,
		refusal{name: "dry_run that is neither", path: "reencrypt/" + b.role + "/run", body: m{"dry_run": "perhaps"}, field: "dry_run:", says: "true or false"},
		refusal{name: "unknown field of a run", path: "reencrypt/" + b.role + "/run", body: m{"dryrun": true}, field: "dryrun:", says: "did you mean dry_run?"},
		refusal{name: "unknown field of a pause", path: "reencrypt/" + b.role + "/pause", body: m{"until": "1h"}, field: "until:"},
		refusal{name: "reopen no version", path: "reencrypt/" + b.role + "/reopen", field: "version:"},
		refusal{name: "reopen a version that is not there", path: "reencrypt/" + b.role + "/reopen", body: m{"version": 9}, field: "version:", says: "has no version 9"},
		conflict("reopen the current version", "reencrypt/"+b.role+"/reopen", "version 2 is current: only a disabled one can be reopened", m{"version": 2}),
		conflict("reopen a version that decrypts", "reencrypt/"+b.role+"/reopen", "version 1 is retiring: only a disabled one can be reopened", m{"version": 1}),
		conflict("retire what rows need", "retire/"+b.role, "version 1 is needed until no target holds anything that it made", m{"version": 1}),
		refusal{name: "delete the role", method: http.MethodDelete, path: "roles/" + b.role, status: http.StatusConflict, says: "could never be read again"},
		refusal{name: "delete the connection", method: http.MethodDelete, path: "connections/main", status: http.StatusConflict, says: b.role},
		refusal{name: "kill_first", path: "emergency/" + b.role, body: m{"reason": "x", "kill_first": true}, field: "kill_first:", says: "unreadable"},
	)
}

// nobody are requests about roles and targets that are not there, or are of another type.
func (b *badData) nobody() (all []refusal) {
	type m = map[string]any
	requests := []struct {
		method, path string
		body         m
	}{
		{http.MethodPut, "encrypt/%s", m{"plaintext": "AAAA"}},
		{http.MethodPut, "decrypt/%s", m{"ciphertext": b.old}},
		{http.MethodPut, "rewrap/%s", m{"ciphertext": b.old}},
		{http.MethodPut, "datakey/plaintext/%s", nil},
		{http.MethodGet, "reencrypt/%s", nil},
		{http.MethodPut, "reencrypt/%s/run", nil},
		{http.MethodPut, "reencrypt/%s/run", m{"dry_run": true}},
		{http.MethodPut, "reencrypt/%s/pause", nil},
		{http.MethodPut, "reencrypt/%s/reopen", m{"version": 1}},
		{http.MethodPut, "reencrypt/%s/targets/cards", cardsTarget(nil)},
		{http.MethodGet, "reencrypt/%s/targets/cards", nil},
		{"LIST", "reencrypt/%s/targets", nil},
	}
	for i, r := range requests {
		of := func(role string) refusal {
			path := fmt.Sprintf(r.path, role)
			return refusal{name: fmt.Sprintf("%d: %s %s", i, r.method, path), method: r.method, path: path, body: r.body}
		}
		missing, other := of("nobody"), of(b.signs)
		missing.status, missing.says = http.StatusNotFound, "nobody"
		other.says = "jwt"
		all = append(all, missing, other)
	}
	return append(all,
		refusal{name: "target that is not there", method: http.MethodGet, path: "reencrypt/" + b.role + "/targets/gone", status: http.StatusNotFound, says: `has no target "gone"`},
	)
}

// Rows that do not decrypt are told by their key, stay as they are, and keep the version that they may be of. The
// others follow. Once they are mended, and run is written, the version ends.
func TestRowsThatDoNotDecrypt(t *testing.T) {
	t.Parallel()
	vault, clock := newClockedVault(t)
	k := newKeeper(t, "unreadable", vault, pgtest.Shared(t), clock)
	other := k.role + "-other"
	k.write("roles/"+k.role, keyRole(nil))
	k.write("roles/"+other, keyRole(nil))
	k.write("reencrypt/"+k.role+"/targets/cards", cardsTarget(map[string]any{"associated_data_column": "tenant"}))
	bound := func(tenant string) string {
		return k.write("encrypt/"+k.role, map[string]any{"plaintext": coded("bound"), "associated_data": coded(tenant)}).fields()["ciphertext"].(string)
	}
	app := k.app()
	for id, values := range map[int][2]string{
		1: {bound("a"), "a"}, 2: {bound("b"), "b"},
		3: {bound("a"), "b"}, // copied into a row of another tenant
		4: {k.encrypt(other, "foreign"), "a"},
		5: {"4111 1111 1111 1111", "a"},
		6: {"vault:v1:cut", "a"},
		7: {strings.Replace(bound("a"), ":v1:", ":v9:", 1), "a"},
	} {
		_, err := app.Exec(t.Context(), "INSERT INTO billing.cards (id, number, tenant) VALUES ($1, $2, $3)", id, values[0], values[1])
		require.NoError(t, err)
	}
	bad := func() string {
		return k.postgres.MustQuery(t, k.database, "SELECT string_agg(concat_ws(' ', ctid, xmin, c::text), E'\n' ORDER BY id) FROM billing.cards c WHERE id > 2")
	}
	before := bad()
	k.rotation("rotate/"+k.role, nil)
	r := k.job(k.role, 10*time.Minute, "action_required") // it waits for another pass, and tells what the last one found
	assert.Contains(t, r.Reason, "target cards has 5 rows that do not decrypt")
	assert.Contains(t, r.Reason, "versions 1 stay")
	cards := r.Targets["cards"]
	told := map[string]string{}
	for _, row := range cards.Rows {
		require.Len(t, row.Key, 1)
		assert.Equal(t, "number", row.Column)
		told[row.Key[0]] = row.Reason
	}
	for key, says := range map[string]string{
		"3": "cannot be decrypted", "4": "cannot be decrypted", "5": "is not of this form", "6": "base64", "7": "names version 9",
	} {
		assert.Contains(t, told[key], says, "row %s", key)
	}
	assert.Len(t, told, 5)
	for _, value := range k.stored("number") {
		assert.NotContains(t, string(k.get("reencrypt/"+k.role).Data), value[len("vault:v1:"):])
	}
	k.pass(30 * time.Hour) // another pass, on the next day, finds the same
	k.passUntil(10*time.Minute, "another pass", func() (bool, any) {
		again := k.reencryption(k.role)
		return again.State == "action_required" && again.Round > r.Round, again
	})
	assert.Equal(t, before, bad(), "they are never touched")
	assert.Equal(t, "retiring", k.status(k.role).version(1).State)
	assert.Equal(t, "action_required", k.status(k.role).State)
	k.denied(http.StatusConflict, "retire/"+k.role, map[string]any{"version": 1}, "is needed until no target holds")

	k.superuser("DELETE FROM billing.cards WHERE id > 2")
	k.write("reencrypt/"+k.role+"/run", nil)
	k.follows(k.role, 1, "disabled")
	assert.Equal(t, map[string]int{"vault:v2": 2}, k.under())
	assert.Equal(t, []string{"disabled", "current"}, states(k.status(k.role)))
}

// states are those of the versions, by number.
func states(s roleStatus) (all []string) {
	versions := slices.SortedFunc(slices.Values(s.Versions), func(a, b versionAnswer) int { return a.Version - b.Version })
	for _, v := range versions {
		all = append(all, v.State)
	}
	return all
}
