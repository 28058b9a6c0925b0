package tests

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// An operator's way with the vault command, from a table of an application to the end of the key that
// encrypted it, and back. Each step goes on from the one before.
func TestReencryptionJourney(t *testing.T) {
	t.Parallel()
	vault, clock := newClockedVault(t)
	k := newKeeper(t, "cards", vault, pgtest.Shared(t), clock)
	j := &dataJourney{keeper: k, cli: &journey{world: k.world, t: t}}
	inSteps(t, j.cli, j, []step[*dataJourney]{
		{"connection", (*dataJourney).connection},
		{"role", (*dataJourney).writeRole},
		{"rows", (*dataJourney).rows},
		{"target", (*dataJourney).writeTarget},
		{"dry run", (*dataJourney).dryRun},
		{"rotate", (*dataJourney).rotate},
		{"window", (*dataJourney).window},
		{"run", (*dataJourney).run},
		{"reopen", (*dataJourney).reopen},
		{"missed", (*dataJourney).missed},
		{"destroy", (*dataJourney).destroy},
		{"pause", (*dataJourney).pause},
		{"cancel", (*dataJourney).cancel},
		{"rollback", (*dataJourney).rollback},
		{"retire", (*dataJourney).retire},
		{"delete", (*dataJourney).remove},
	})
}

type dataJourney struct {
	*keeper
	cli  *journey
	kept string // a ciphertext of version 1, in a backup
}

// journeyRows take a pass of a few seconds at the pace that the role allows.
const journeyRows = 60

func (j *dataJourney) connection() {
	j.write("connections/main", map[string]any{"allowed_tables": ""})
	shown := j.cli.vaultCommand("write", "connections/main", "allowed_tables=billing.*")
	assert.NotContains(j.t, shown.Text, "error")
	fields := j.cli.vaultCommand("read", "connections/main").fields()
	assert.Equal(j.t, []any{"billing.*"}, fields["allowed_tables"])
}

func (j *dataJourney) writeRole() {
	r := j.cli.rotated("write", "roles/"+j.role, "type=encryption-key", "rotation_period=365d", "grace_period=1h",
		"reencrypt_after=1h", "settle_period=10m", "destroy_after=2d", "max_rows_per_second=10",
		"maintenance_schedule=0 2 * * *", "maintenance_window=2h")
	assert.Equal(j.t, rotationAnswer{ID: r.ID, Trigger: "initial", Phase: "rolled_out", Outcome: "succeeded", Version: 1}, r)
}

func (j *dataJourney) rows() {
	made := j.cli.vaultCommand("write", "encrypt/"+j.role, "plaintext="+coded("kept")).fields()
	j.kept = made["ciphertext"].(string)
	assert.Equal(j.t, json.Number("1"), made["key_version"])
	back := j.cli.vaultCommand("write", "decrypt/"+j.role, "ciphertext="+j.kept).fields()
	assert.Equal(j.t, map[string]any{"plaintext": coded("kept")}, back)
	j.store(j.role, 1, journeyRows)
	j.superuser(
		"CREATE FUNCTION billing.note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
		"CREATE TRIGGER cards_audit BEFORE UPDATE ON billing.cards FOR EACH ROW EXECUTE FUNCTION billing.note()",
	)
}

func (j *dataJourney) writeTarget() {
	j.cli.vaultCommand("write", "reencrypt/"+j.role+"/targets/cards", "connection=main", "table=billing.cards", "key_columns=id", "columns=number")
	assert.Contains(j.t, j.cli.vaultCommand("list", "reencrypt/"+j.role+"/targets").Text, `"cards"`)
	assert.Equal(j.t, map[string]any{
		"connection": "main", "table": "billing.cards", "key_columns": []any{"id"}, "columns": []any{"number"},
		"context_column": nil, "associated_data_column": nil, "content": "ciphertext",
	}, j.cli.vaultCommand("read", "reencrypt/"+j.role+"/targets/cards").fields())
	assert.Equal(j.t, "idle", j.reencryption(j.role).State, "all there is was made by the current version")
}

// physical is each row with the place where it lies: whoever updates a row moves it.
func (j *dataJourney) physical() string {
	return j.postgres.MustQuery(j.t, j.database, "SELECT string_agg(concat_ws(' ', ctid, xmin, c::text), E'\n' ORDER BY id) FROM billing.cards c")
}

type dryRunAnswer struct {
	Targets map[string]struct {
		Rows       int            `json:"rows"`
		Versions   map[string]int `json:"versions"`
		Foreign    int            `json:"foreign"`
		Triggers   []string       `json:"triggers"`
		Partitions int            `json:"partitions"`
		Bytes      int64          `json:"bytes"`
		Error      *string        `json:"error"`
	} `json:"targets"`
}

func (j *dataJourney) look() (d dryRunAnswer) {
	j.t.Helper()
	rows, planned := j.physical(), j.reencryption(j.role)
	require.NoError(j.t, unmarshal(j.cli.vaultCommand("write", "reencrypt/"+j.role+"/run", "dry_run=true"), &d))
	assert.Equal(j.t, rows, j.physical(), "a dry run touches nothing")
	assert.Equal(j.t, planned, j.reencryption(j.role), "nor does it plan anything")
	return d
}

func (j *dataJourney) dryRun() {
	cards := j.look().Targets["cards"]
	assert.Equal(j.t, journeyRows, cards.Rows)
	assert.Equal(j.t, map[string]int{"1": journeyRows}, cards.Versions)
	require.Len(j.t, cards.Triggers, 1)
	assert.Contains(j.t, cards.Triggers[0], "cards_audit")
	assert.Positive(j.t, cards.Bytes)
	assert.Nil(j.t, cards.Error)
}

func (j *dataJourney) rotate() {
	j.passTo(12, 0)
	before := j.physical()
	assert.Equal(j.t, 2, j.cli.rotated("write", "rotate/"+j.role).Version)
	r := j.job(j.role, time.Minute, "waiting")
	assert.Equal(j.t, 2, r.Version)
	require.NotNil(j.t, r.Starts)
	assert.Equal(j.t, 2, r.Starts.Hour(), "the window, which opens after reencrypt_after: %s", r.Starts)
	assert.Equal(j.t, 0, r.Starts.Minute())
	assert.Equal(j.t, 2, j.status(j.role).Current)
	j.pass(3 * time.Hour)
	assert.Equal(j.t, "waiting", j.reencryption(j.role).State, "reencrypt_after is over, the window is not open")
	assert.Equal(j.t, before, j.physical())
	j.readable(j.role)
}

// window opens the window, and lets it close over a pass that is not done.
func (j *dataJourney) window() {
	j.passTo(2, 0)
	await.Until(j.t, "the pass to have rewritten rows", func() (bool, any) {
		under := j.under()
		return under["vault:v2"] > 0, under
	})
	assert.NotEmpty(j.t, j.under()["vault:v1"], "or the window closes too late to be seen")
	j.passTo(4, 0)
	r := j.job(j.role, time.Minute, "waiting")
	require.NotNil(j.t, r.Starts)
	assert.Equal(j.t, 2, r.Starts.Hour())
	assert.Equal(j.t, j.clock.now().AddDate(0, 0, 1).Day(), r.Starts.Day(), "the next night")
	cards := r.Targets["cards"]
	assert.Equal(j.t, "rewriting", cards.State)
	assert.Equal(j.t, journeyRows, cards.Total)
	stopped := j.physical()
	j.pass(10 * time.Hour)
	assert.Equal(j.t, "waiting", j.reencryption(j.role).State)
	assert.Equal(j.t, stopped, j.physical(), "nothing is touched outside the window")
	under := j.under()
	assert.Equal(j.t, journeyRows, under["vault:v1"]+under["vault:v2"])
	assert.Positive(j.t, under["vault:v1"])
	j.readable(j.role)
}

func (j *dataJourney) run() {
	var out struct{ Waives []string }
	require.NoError(j.t, unmarshal(j.cli.vaultCommand("write", "reencrypt/"+j.role+"/run"), &out))
	require.Len(j.t, out.Waives, 2, out.Waives)
	assert.Contains(j.t, out.Waives[0], "the maintenance window, which opens at ")
	assert.Equal(j.t, "max_rows_per_second, 10", out.Waives[1])
	j.follows(j.role, 1, "disabled")
	r := j.job(j.role, time.Minute, "done")
	cards := r.Targets["cards"]
	assert.Equal(j.t, []int{journeyRows, journeyRows, 0}, []int{cards.Total, cards.Done, cards.Unreadable})
	assert.Equal(j.t, map[string]int{"2": journeyRows}, cards.Versions)
	assert.NotNil(j.t, r.Versions["1"].Cleared)
	assert.NotNil(j.t, r.Versions["1"].Destroy)
	assert.Equal(j.t, map[string]int{"vault:v2": journeyRows}, j.under())
	j.readable(j.role)
	_, says := j.decrypt(j.role, j.kept)
	assert.Contains(j.t, says, "ciphertext: names version 1, which is disabled")
	j.awaitProven(1)
}

// awaitProven waits until what a version encrypted is known to be refused.
func (j *dataJourney) awaitProven(version int) {
	j.t.Helper()
	j.passUntil(5*time.Minute, fmt.Sprintf("version %d to be proven dead", version), func() (bool, any) {
		v := j.status(j.role).version(version)
		return v.ProvenDead, v
	})
}

func (j *dataJourney) reopen() {
	a := j.cli.vaultCommand("write", "reencrypt/"+j.role+"/reopen", "version=1")
	assert.Equal(j.t, "retiring", a.fields()["state"])
	plaintext, says := j.decrypt(j.role, j.kept)
	assert.Equal(j.t, []string{"kept", ""}, []string{plaintext, says})
	assert.True(j.t, strings.HasPrefix(j.encrypt(j.role, "x"), "vault:v2:"), "it does not encrypt")
	j.superuser(fmt.Sprintf("INSERT INTO billing.cards (id, number) VALUES (0, '%s')", j.kept)) // the backup is restored
	j.cli.vaultCommand("write", "reencrypt/"+j.role+"/run")
	j.follows(j.role, 1, "disabled")
	assert.Equal(j.t, map[string]int{"vault:v2": journeyRows + 1}, j.under())
	plaintext, _ = j.decrypt(j.role, j.stored("number")[0])
	assert.Equal(j.t, "kept", plaintext)
	j.superuser("DELETE FROM billing.cards WHERE id = 0")
}

// missed is somebody who asks for what ended: the key is kept for as long again.
func (j *dataJourney) missed() {
	before := j.reencryption(j.role).Versions["1"]
	require.NotNil(j.t, before.Destroy)
	j.pass(12 * time.Hour)
	_, says := j.decrypt(j.role, j.kept)
	require.NotEmpty(j.t, says)
	await.Until(j.t, "the need of version 1 to be told", func() (bool, any) {
		v := j.reencryption(j.role).Versions["1"]
		return v.Missed != nil, v
	})
	after := j.reencryption(j.role).Versions["1"]
	assert.Nil(j.t, after.Cleared)
	require.NotNil(j.t, after.Destroy)
	assert.Greater(j.t, after.Destroy.Sub(*before.Destroy), 11*time.Hour)
}

func (j *dataJourney) destroy() {
	j.pass(47 * time.Hour)
	assert.Equal(j.t, "disabled", j.status(j.role).version(1).State, "destroy_after is not over")
	j.pass(2 * time.Hour)
	j.passTo(2, 0) // the count before it keeps to the window
	j.follows(j.role, 1, "retired")
	_, says := j.decrypt(j.role, j.kept)
	assert.Contains(j.t, says, "names version 1, which is retired: its key is destroyed")
	j.denied(http.StatusConflict, "reencrypt/"+j.role+"/reopen", map[string]any{"version": 1}, "the material of version 1 was destroyed")
}

func (j *dataJourney) pause() {
	j.passTo(12, 0)
	assert.Equal(j.t, 3, j.cli.rotated("write", "rotate/"+j.role).Version)
	j.job(j.role, time.Minute, "waiting")
	j.cli.vaultCommand("write", "reencrypt/"+j.role+"/pause")
	before := j.physical()
	assert.Equal(j.t, "paused", j.reencryption(j.role).State)
	j.passTo(2, 0)
	j.pass(10 * time.Minute)
	assert.Equal(j.t, "paused", j.reencryption(j.role).State)
	assert.Equal(j.t, before, j.physical(), "a window opens for nothing that is paused")
	j.passTo(12, 0)
	j.cli.vaultCommand("write", "reencrypt/"+j.role+"/resume")
	j.job(j.role, time.Minute, "waiting")
	assert.Equal(j.t, before, j.physical(), "the window is kept")
}

func (j *dataJourney) cancel() {
	j.cli.vaultCommand("write", "reencrypt/"+j.role+"/cancel")
	assert.Equal(j.t, "cancelled", j.reencryption(j.role).State)
	j.denied(http.StatusConflict, "reencrypt/"+j.role+"/resume", nil, "was cancelled: write reencrypt/"+j.role+"/run")
	j.passTo(2, 0)
	j.pass(10 * time.Minute)
	assert.Equal(j.t, map[string]int{"vault:v2": journeyRows}, j.under())
	assert.Equal(j.t, "retiring", j.status(j.role).version(2).State, "its rows need it")
	j.cli.vaultCommand("write", "reencrypt/"+j.role+"/run")
	j.follows(j.role, 2, "disabled")
	assert.Equal(j.t, map[string]int{"vault:v3": journeyRows}, j.under())
}

// rollback lets an earlier version encrypt again; what the later one made follows it back.
func (j *dataJourney) rollback() {
	assert.Equal(j.t, 4, j.cli.rotated("write", "rotate/"+j.role).Version)
	j.store(j.role, journeyRows+1, journeyRows+5)
	made := j.encrypt(j.role, "of version 4")
	r := j.cli.rotated("write", "rollback/"+j.role)
	assert.Equal(j.t, rotationAnswer{ID: r.ID, Trigger: "rollback", Phase: "rolled_out", Outcome: "succeeded", Version: 3, Previous: 4}, r)
	assert.True(j.t, strings.HasPrefix(j.encrypt(j.role, "x"), "vault:v3:"), "an earlier version encrypts again")
	plaintext, _ := j.decrypt(j.role, made)
	assert.Equal(j.t, "of version 4", plaintext)
	j.cli.vaultCommand("write", "reencrypt/"+j.role+"/run")
	j.follows(j.role, 4, "disabled")
	assert.Equal(j.t, map[string]int{"vault:v3": journeyRows + 5}, j.under())
	j.readable(j.role)
}

// retire ends a version that rows need, which takes force, and can be taken back.
func (j *dataJourney) retire() {
	assert.Equal(j.t, 5, j.cli.rotated("write", "rotate/"+j.role).Version)
	j.denied(http.StatusConflict, "retire/"+j.role, map[string]any{"version": 3}, "version 3 is needed until no target holds anything that it made", "force=true")
	assert.Equal(j.t, "disabled", j.cli.vaultCommand("write", "retire/"+j.role, "version=3", "force=true").fields()["state"])
	_, says := j.decrypt(j.role, j.stored("number")[1])
	assert.Contains(j.t, says, "names version 3, which is disabled")
	j.cli.vaultCommand("write", "reencrypt/"+j.role+"/reopen", "version=3")
	j.readable(j.role)
	j.cli.vaultCommand("write", "reencrypt/"+j.role+"/run")
	j.follows(j.role, 3, "disabled")
	assert.Equal(j.t, map[string]int{"vault:v5": journeyRows + 5}, j.under())
	j.readable(j.role)
}

func (j *dataJourney) remove() {
	for path, says := range map[string]string{
		"connections/main": j.role,
		"roles/" + j.role:  "whatever they encrypted could never be read again",
	} {
		a := j.call(j.t.Context(), http.MethodDelete, path, nil)
		assert.Equal(j.t, http.StatusConflict, a.Status, path)
		assert.Contains(j.t, a.sentence(), says)
	}
	a := j.cli.vaultCommand("delete", "reencrypt/"+j.role+"/targets/cards")
	assert.Contains(j.t, a.Text, "counted no more")
	j.gone("reencrypt/" + j.role + "/targets/cards")
}

// A role without targets keeps its versions, until a person says that nothing is left.
func TestVersionsWithoutTargetsStay(t *testing.T) {
	t.Parallel()
	vault, clock := newClockedVault(t)
	k := newKeeper(t, "bare", vault, pgtest.Shared(t), clock)
	k.write("roles/"+k.role, keyRole(nil))
	old := k.encrypt(k.role, "somewhere else")
	k.rotation("rotate/"+k.role, nil)
	k.denied(http.StatusConflict, "retire/"+k.role, map[string]any{"version": 1}, "settle_period")
	r := k.job(k.role, 10*time.Minute, "done")
	assert.Contains(t, r.Reason, "the role has no targets: versions 1 decrypt until a person retires them")
	k.pass(400 * 24 * time.Hour / 2)
	assert.Equal(t, "ok", k.status(k.role).State, "nobody has to do anything")
	plaintext, _ := k.decrypt(k.role, old)
	assert.Equal(t, "somewhere else", plaintext)
	k.passUntil(time.Hour, "retire/ to be allowed", func() (bool, any) {
		a := k.call(t.Context(), http.MethodPut, "retire/"+k.role, map[string]any{"version": 1})
		return a.ok(), a.sentence()
	})
	k.follows(k.role, 1, "disabled")
	_, says := k.decrypt(k.role, old)
	assert.Contains(t, says, "names version 1, which is disabled")
}

// The key leaked. The data is still there: the leaked version decrypts until the data has followed, at once
// and whatever waits the role has, and the emergency is not over before. What cannot be contained is told.
func TestEmergencyOfAnEncryptionKey(t *testing.T) {
	t.Parallel()
	vault, clock := newClockedVault(t)
	k := newKeeper(t, "leaked", vault, pgtest.Shared(t), clock)
	k.write("roles/"+k.role, keyRole(map[string]any{
		"reencrypt_after": "7d", "max_rows_per_second": 1, "maintenance_schedule": "0 2 1 6 *", "maintenance_window": "1h",
	}))
	k.store(k.role, 1, 40)
	wrapped := k.wrapDataKeys(7)
	k.write("reencrypt/"+k.role+"/targets/cards", cardsTarget(nil))
	k.write("reencrypt/"+k.role+"/targets/keys", cardsTarget(map[string]any{"columns": "secret", "content": "datakey"}))
	k.denied(http.StatusBadRequest, "emergency/"+k.role, map[string]any{"reason": "a leak", "kill_first": true},
		"kill_first: would make what "+k.role+" encrypted unreadable")
	assert.Equal(t, 1, k.status(k.role).Current)

	blocker := k.app() // the rewritten rows wait for a row that somebody holds
	_, err := blocker.Exec(t.Context(), "BEGIN; SELECT * FROM billing.cards WHERE id = 20 FOR UPDATE")
	require.NoError(t, err)
	e := k.emergencyOf(k.role, map[string]any{"reason": "a leak"})
	assert.Equal(t, "open", e.Status)
	assert.Equal(t, 2, e.Version)
	assert.Contains(t, strings.Join(e.NextSteps, "\n"), "decrypts until its data has followed")
	k.readable(k.role)

	var i incidentAnswer
	k.passUntil(10*time.Minute, "the incident to tell how far the data is, and of data keys", func() (bool, any) {
		i = k.incident(e.IncidentID)
		steps := strings.Join(i.NextSteps, "\n")
		return strings.Contains(steps, "7 wrapped data keys of "+k.role+" may be known") && strings.Contains(steps, "reencrypt/"+k.role), i
	})
	steps := strings.Join(i.NextSteps, "\n")
	assert.Equal(t, "open", i.Status)
	assert.Contains(t, steps, "wrapping them anew does not contain that; make new data keys, and encrypt anew what they protect")
	assert.True(t, k.reencryption(k.role).Urgent)
	assert.Equal(t, "retiring", k.status(k.role).version(1).State)

	_, err = blocker.Exec(t.Context(), "COMMIT")
	require.NoError(t, err)
	k.follows(k.role, 1, "disabled")
	k.passUntil(5*time.Minute, "the incident to be contained", func() (bool, any) {
		i = k.incident(e.IncidentID)
		return i.Status == "contained", i
	})
	assert.Equal(t, map[string]int{"vault:v2": 40}, k.under())
	k.readable(k.role)
	for id, key := range wrapped {
		plaintext, says := k.decrypt(k.role, k.secret(id))
		require.Empty(t, says)
		assert.Equal(t, key, coded(plaintext), "a data key stays what it is")
	}
}

// wrapDataKeys stores wrapped data keys in as many rows, as an application does that encrypts by itself, and
// gives the keys by row.
func (k *keeper) wrapDataKeys(rows int) map[int]string {
	k.t.Helper()
	keys := map[int]string{}
	for id := 1; id <= rows; id++ {
		made := k.write("datakey/plaintext/"+k.role, nil).fields()
		keys[id] = made["plaintext"].(string)
		_, err := k.app().Exec(k.t.Context(), "UPDATE billing.cards SET secret = $1 WHERE id = $2", []byte(made["ciphertext"].(string)), id)
		require.NoError(k.t, err)
	}
	return keys
}

// secret is what a row has in the column of that name.
func (k *keeper) secret(id int) string {
	k.t.Helper()
	return k.postgres.MustQuery(k.t, k.database, "SELECT convert_from(secret, 'UTF8') FROM billing.cards WHERE id = $1", id)
}
