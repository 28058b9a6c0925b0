package tests

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// A clock is that of a Vault's plugin, which tests move: the plugin is built with a tag by
// which it is ahead of the real one by what a file says.
type clock struct {
	file  string
	ahead time.Duration
}

// newClockedVault starts a Vault of its own for a test that cannot wait for as long as what
// it looks at takes.
func newClockedVault(t *testing.T) (*vaulttest.Server, *clock) {
	t.Helper()
	plugin, err := vaulttest.BuildPlugin(t.Context(), "movedclock")
	require.NoError(t, err)
	c := &clock{file: filepath.Join(t.TempDir(), "clock")}
	return vaulttest.New(t, vaulttest.Options{Plugin: plugin, PluginEnv: []string{"ROTATION_CLOCK_FILE=" + c.file}}), c
}

func (c *clock) now() time.Time { return time.Now().Add(c.ahead).UTC() }

func (c *clock) move(d time.Duration) error {
	c.ahead += d.Truncate(time.Second)
	seconds := strconv.FormatInt(int64(c.ahead/time.Second), 10)
	if err := os.WriteFile(c.file+".new", []byte(seconds), 0o600); err != nil {
		return err
	}
	return os.Rename(c.file+".new", c.file)
}

// A keeper is a world whose role encrypts what lies in the tables of its database.
type keeper struct {
	*world
	clock *clock
	// moving is held while the clock is, where somebody must not see that.
	moving sync.Locker
}

// pass lets so much time pass at once.
func (k *keeper) pass(d time.Duration) {
	k.t.Helper()
	if k.moving != nil {
		k.moving.Lock()
		defer k.moving.Unlock()
	}
	require.NoError(k.t, k.clock.move(d))
}

// passTo lets time pass until a time of day.
func (k *keeper) passTo(hour, minute int) {
	k.t.Helper()
	now := k.clock.now()
	then := time.Date(now.Year(), now.Month(), now.Day(), hour, minute, 0, 0, time.UTC)
	if !then.After(now) {
		then = then.AddDate(0, 0, 1)
	}
	k.pass(then.Sub(now) + time.Second)
}

// clockStep is short enough for the engine not to take it for a pause of its process.
const clockStep = 20 * time.Second

// passUntil lets time pass, in steps, until the condition holds: at most so much, and no faster
// than the engine can follow.
func (k *keeper) passUntil(most time.Duration, what string, holds func() (yes bool, seen any)) {
	k.t.Helper()
	var passed time.Duration
	await.Until(k.t, fmt.Sprintf("%s, within %s", what, most), func() (bool, any) {
		yes, seen := holds()
		if !yes && passed < most {
			k.pass(clockStep)
			passed += clockStep
		}
		return yes, seen
	})
}

// billing are the tables of an application. What belongs into them was encrypted.
const billing = `
CREATE SCHEMA billing;
CREATE TABLE billing.cards (id bigint PRIMARY KEY, holder text, number text, secret bytea, tenant text);
`

// newKeeper makes the tables, and lets the connection main rewrite them. The role is the test's to write.
func newKeeper(t *testing.T, name string, vault *vaulttest.Server, postgres *pgtest.Server, c *clock) *keeper {
	t.Helper()
	k := &keeper{world: newWorld(t, name, vault, postgres), clock: c}
	k.superuser(billing, k.grants())
	k.write("connections/main", map[string]any{"allowed_tables": "billing.*"})
	return k
}

// grants are what a re-encryption needs, and no more.
func (k *keeper) grants() string {
	return fmt.Sprintf("GRANT USAGE ON SCHEMA billing TO %[1]s; GRANT SELECT, UPDATE ON ALL TABLES IN SCHEMA billing TO %[1]s", k.admin)
}

// keyRole gives the fields of a role whose data follows at once, with changes.
func keyRole(changes map[string]any) map[string]any {
	return with(map[string]any{
		"type": "encryption-key", "rotation_period": "365d", "grace_period": "20s", "reencrypt_after": 0, "settle_period": "1m",
	}, changes)
}

// cardsTarget gives the fields of a target, with changes.
func cardsTarget(changes map[string]any) map[string]any {
	return with(map[string]any{"connection": "main", "table": "billing.cards", "key_columns": "id", "columns": "number"}, changes)
}

// encrypt encrypts a text, which must be possible.
func (k *keeper) encrypt(role, plaintext string) string {
	k.t.Helper()
	var out struct{ Ciphertext string }
	require.NoError(k.t, unmarshal(k.write("encrypt/"+role, map[string]any{"plaintext": coded(plaintext)}), &out))
	return out.Ciphertext
}

// decrypt asks for the plaintext. What is refused has a sentence.
func (k *keeper) decrypt(role, ciphertext string) (plaintext, refusal string) {
	k.t.Helper()
	a := k.call(k.t.Context(), http.MethodPut, "decrypt/"+role, map[string]any{"ciphertext": ciphertext})
	if !a.ok() {
		require.Equal(k.t, http.StatusBadRequest, a.Status, a.Text)
		return "", a.sentence()
	}
	text, err := decoded(a)
	require.NoError(k.t, err)
	return text, ""
}

// decoded is the plaintext in an answer.
func decoded(a answer) (string, error) {
	var out struct{ Plaintext string }
	if err := unmarshal(a, &out); err != nil {
		return "", err
	}
	raw, err := base64.StdEncoding.DecodeString(out.Plaintext)
	return string(raw), err
}

// store encrypts and inserts rows, as an application does: number holds the row's number.
func (k *keeper) store(role string, from, to int) {
	k.t.Helper()
	conn := k.app()
	for id := from; id <= to; id++ {
		_, err := conn.Exec(k.t.Context(), "INSERT INTO billing.cards (id, holder, number) VALUES ($1, 'a customer', $2)", id, k.encrypt(role, cardNumber(id)))
		require.NoError(k.t, err)
	}
}

func cardNumber(id int) string { return fmt.Sprintf("4111-%d", id) }

// app is a session of the application.
func (k *keeper) app() *pgx.Conn {
	k.t.Helper()
	conn, err := k.postgres.Connect(k.t.Context(), pgtest.Superuser, k.postgres.SuperuserPassword(), k.database)
	require.NoError(k.t, err)
	k.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

// stored are the values of a column by row.
func (k *keeper) stored(column string) map[int]string {
	k.t.Helper()
	rows, err := k.app().Query(k.t.Context(), fmt.Sprintf("SELECT id, %s::text FROM billing.cards WHERE %[1]s IS NOT NULL", column))
	require.NoError(k.t, err)
	out := map[int]string{}
	var id int
	var value string
	_, err = pgx.ForEachRow(rows, []any{&id, &value}, func() error {
		out[id] = value
		return nil
	})
	require.NoError(k.t, err)
	return out
}

// under counts the values of number by the version that made them.
func (k *keeper) under() map[string]int {
	k.t.Helper()
	out := map[string]int{}
	for _, value := range k.stored("number") {
		out[strings.Join(strings.SplitN(value, ":", 3)[:2], ":")]++
	}
	return out
}

// readable asks that every row decrypts to what store wrote.
func (k *keeper) readable(role string) {
	k.t.Helper()
	for id, value := range k.stored("number") {
		plaintext, refusal := k.decrypt(role, value)
		require.Empty(k.t, refusal, "row %d", id)
		require.Equal(k.t, cardNumber(id), plaintext)
	}
}

// A reencryptionAnswer is what reencrypt/:name answers.
type reencryptionAnswer struct {
	State    string                  `json:"state"`
	Reason   string                  `json:"state_reason"`
	Version  int                     `json:"version"`
	Round    int                     `json:"round"`
	Urgent   bool                    `json:"urgent"`
	Starts   *time.Time              `json:"starts_at"`
	Ended    *time.Time              `json:"ended_time"`
	Targets  map[string]targetAnswer `json:"targets"`
	Versions map[string]struct {
		State   string     `json:"state"`
		Cleared *time.Time `json:"cleared_time"`
		Destroy *time.Time `json:"destroy_at"`
		Missed  *time.Time `json:"missed_time"`
	} `json:"versions"`
}

type targetAnswer struct {
	State      string `json:"state"`
	Total      int    `json:"rows_total"`
	Done       int    `json:"rows_done"`
	Changed    int    `json:"rows_changed"`
	Unreadable int    `json:"rows_unreadable"`
	Rows       []struct {
		Key    []string `json:"key"`
		Column string   `json:"column"`
		Reason string   `json:"reason"`
	} `json:"unreadable"`
	Rate     int            `json:"rows_per_second"`
	Versions map[string]int `json:"versions"`
	Foreign  int            `json:"foreign"`
	Error    string         `json:"error"`
}

func reencryptionOf(t testing.TB, a answer) (r reencryptionAnswer) {
	t.Helper()
	require.NoError(t, unmarshal(a, &r), a.Text)
	return r
}

func (k *keeper) reencryption(role string) reencryptionAnswer {
	k.t.Helper()
	return reencryptionOf(k.t, k.get("reencrypt/"+role))
}

// follows lets time pass until a version is in a state.
func (k *keeper) follows(role string, version int, state string) {
	k.t.Helper()
	k.passUntil(time.Hour, fmt.Sprintf("version %d of %s to be %s", version, role, state), func() (bool, any) {
		r := k.reencryption(role)
		return k.status(role).version(version).State == state, r
	})
}

// job lets time pass until the re-encryption is in a state.
func (k *keeper) job(role string, most time.Duration, state string) (r reencryptionAnswer) {
	k.t.Helper()
	k.passUntil(most, "the re-encryption to be "+state, func() (bool, any) {
		r = k.reencryption(role)
		return r.State == state, r
	})
	return r
}

// pluginMemory is how many bytes of memory the plugin's process has.
func pluginMemory(t testing.TB, vault *vaulttest.Server) uint64 {
	t.Helper()
	pids, err := vault.PluginPIDs()
	require.NoError(t, err)
	require.Len(t, pids, 1)
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pids[0]), "status"))
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "VmRSS:" {
			kilobytes, err := strconv.ParseUint(fields[1], 10, 64)
			require.NoError(t, err)
			return kilobytes << 10
		}
	}
	t.Fatalf("no VmRSS of process %d", pids[0])
	return 0
}
