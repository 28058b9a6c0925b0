package tests

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
)

// Keys, plaintexts and ciphertexts go through a role's whole life: through batches, data keys, a job that meets rows
// which do not decrypt or are refused, an emergency, and into fields where they do not belong. None turns up in a log,
// an error, a status, a history or an incident.
func TestReencryptionCanaries(t *testing.T) {
	t.Parallel()
	vault, clock := newClockedVault(t)
	audit := filepath.Join(t.TempDir(), "audit.log")
	require.NoError(t, vault.EnableAudit(t.Context(), audit))
	c := &dataCanaries{keeper: newKeeper(t, "canarydata", vault, pgtest.Shared(t), clock)}
	c.secret = canaries{world: c.world, secrets: map[string]string{}, told: map[string]string{}}
	c.live()
	c.misplace()
	c.lookAround()

	log, err := os.ReadFile(audit)
	require.NoError(t, err)
	places := c.secret.told
	places["Vault's log, with the plugin's"], places["Vault's audit log"] = vault.Log(), string(log)
	require.Contains(t, places["Vault's log, with the plugin's"], "role="+c.role)
	require.Contains(t, places["Vault's audit log"], c.path+"/encrypt/"+c.role)
	c.secret.standNowhere(places)
}

type dataCanaries struct {
	*keeper
	secret canaries
}

func (c *dataCanaries) tell(method, path string, body map[string]any) answer {
	c.t.Helper()
	return c.secret.tell(method, path, body)
}

// make encrypts, and makes a canary of the text, in both forms, and of its ciphertext.
func (c *dataCanaries) make(what string) string {
	c.t.Helper()
	plaintext := fmt.Sprintf("canary plaintext %s, %d", what, len(c.secret.secrets)*7919)
	made := c.encrypt(c.role, plaintext)
	c.hold(what, plaintext, made)
	return made
}

func (c *dataCanaries) hold(what, plaintext, ciphertext string) {
	c.secret.secrets["the plaintext "+what] = plaintext
	c.secret.secrets["the plaintext in base64 "+what] = coded(plaintext)
	_, sealed, _ := strings.Cut(strings.TrimPrefix(ciphertext, "vault:"), ":")
	c.secret.secrets["the ciphertext "+what] = sealed
}

// holdKey makes the current key a canary, in the forms in which a program could print it.
func (c *dataCanaries) holdKey() {
	c.t.Helper()
	shown := c.get("creds/" + c.role).fields()
	key, ok := shown["key"].(string)
	require.True(c.t, ok, "the role is exportable")
	raw, err := base64.StdEncoding.DecodeString(key)
	require.NoError(c.t, err)
	for form, text := range map[string]string{
		"base64": key, "base64url": base64.RawURLEncoding.EncodeToString(raw), "hexadecimal": hex.EncodeToString(raw), "bytes": string(raw), "decimal": fmt.Sprintf("%d", raw),
	} {
		c.secret.secrets[fmt.Sprintf("the key of version %v in %s", shown["version"], form)] = text
	}
}

func (c *dataCanaries) live() {
	c.t.Helper()
	assert.Equal(c.t, http.StatusOK, c.tell(http.MethodPut, "roles/"+c.role, keyRole(map[string]any{"exportable": true, "destroy_after": "1h"})).Status)
	c.holdKey()
	app := c.app()
	insert := func(id int, number string) {
		_, err := app.Exec(c.t.Context(), "INSERT INTO billing.cards (id, number) VALUES ($1, $2)", id, number)
		require.NoError(c.t, err)
	}
	for id := range 5 {
		insert(id, c.make(fmt.Sprintf("of row %d", id)))
	}
	c.batch()
	made := c.write("datakey/plaintext/"+c.role, nil).fields()
	c.hold("of a data key", "a data key, which is random and no text", made["ciphertext"].(string))
	c.secret.secrets["a data key"] = made["plaintext"].(string)
	old := c.make("of a backup")
	c.tell(http.MethodPut, "reencrypt/"+c.role+"/targets/cards", cardsTarget(nil))
	c.tell(http.MethodPut, "reencrypt/"+c.role+"/run", map[string]any{"dry_run": true})

	// A trigger that refuses a row and quotes it, a text that is no ciphertext, one that was changed.
	c.superuser(`CREATE FUNCTION billing.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			RAISE EXCEPTION 'row % holds %', OLD.id, NEW.number USING DETAIL = OLD.number, HINT = NEW.number; END $$`,
		"CREATE TRIGGER refuse BEFORE UPDATE ON billing.cards FOR EACH ROW WHEN (OLD.id = 1) EXECUTE FUNCTION billing.refuse()")
	insert(6, "canary in plain text, which nobody encrypted")
	c.secret.secrets["what nobody encrypted"] = "canary in plain text, which nobody encrypted"
	changed := c.make("that was changed")
	insert(7, changed[:len(changed)-8]+"AAAAAAA=")
	assert.Equal(c.t, http.StatusOK, c.tell(http.MethodPut, "rotate/"+c.role, nil).Status)
	c.holdKey()
	r := c.job(c.role, 10*time.Minute, "action_required")
	require.Len(c.t, r.Targets["cards"].Rows, 3, "rows 1, 6 and 7")
	c.lookAround()
	assert.Equal(c.t, http.StatusOK, c.tell(http.MethodPut, "emergency/"+c.role, map[string]any{"reason": "an exercise"}).Status)
	c.holdKey()
	c.superuser("DROP TRIGGER refuse ON billing.cards", "DELETE FROM billing.cards WHERE id > 5")
	c.tell(http.MethodPut, "reencrypt/"+c.role+"/run", nil)
	c.follows(c.role, 1, "disabled")
	assert.Equal(c.t, http.StatusBadRequest, c.tell(http.MethodPut, "decrypt/"+c.role, map[string]any{"ciphertext": old}).Status)
	assert.Equal(c.t, http.StatusBadRequest, c.tell(http.MethodPut, "rewrap/"+c.role, map[string]any{"ciphertext": old}).Status)
}

// batch lets a batch through, and one that is wrong in places.
func (c *dataCanaries) batch() {
	c.t.Helper()
	type m = map[string]any
	item := m{"plaintext": coded("canary in a batch, which is long enough")}
	var out struct {
		Results []struct{ Ciphertext string } `json:"batch_results"`
	}
	require.NoError(c.t, unmarshal(c.write("encrypt/"+c.role, m{"batch_input": []any{item, item}}), &out))
	require.Len(c.t, out.Results, 2)
	for i, made := range out.Results {
		c.hold(fmt.Sprintf("of item %d", i), "canary in a batch, which is long enough", made.Ciphertext)
	}
	ciphertext := out.Results[0].Ciphertext
	for path, items := range map[string][]any{
		"encrypt/" + c.role: {m{"plaintext": "canary that is not base64"}},
		"decrypt/" + c.role: {m{"ciphertext": ciphertext, "associated_data": coded("another")}, m{"ciphertext": ciphertext[:40]}},
		"rewrap/" + c.role:  {m{"ciphertext": ciphertext, "associated_data": coded("another")}},
	} {
		c.tell(http.MethodPut, path, m{"batch_input": items})
	}
	c.secret.secrets["what is not base64"] = "canary that is not base64"
}

// misplace gives secrets where they do not belong.
func (c *dataCanaries) misplace() {
	c.t.Helper()
	type m = map[string]any
	made := c.make("that is misplaced")
	key := c.get("creds/" + c.role).fields()["key"].(string)
	for _, r := range []struct {
		path string
		body m
	}{
		{"roles/wrong", keyRole(m{"import_key": key[:40]})},
		{"roles/wrong", keyRole(m{"import_key": key, "key_type": "aes128-gcm96"})},
		{"roles/wrong", keyRole(m{"backup": key})},
		{"roles/wrong", keyRole(m{"key_type": key})},
		{"roles/wrong", keyRole(m{"settle_period": key})},
		{"roles/wrong", keyRole(m{"maintenance_schedule": key, "maintenance_window": "1h"})},
		{"roles/wrong", keyRole(m{"import_kee": key})},
		{"encrypt/" + c.role, m{"plaintext": made}},
		{"encrypt/" + c.role, m{"plaintext": "", "context": made}},
		{"encrypt/" + c.role, m{"plaintext": "", "key_version": made}},
		{"encrypt/" + c.role, m{"plaintext": "", "nonce": key}},
		{"encrypt/" + c.role, m{"batch_input": made}},
		{"decrypt/" + c.role, m{"ciphertext": key}},
		{"decrypt/" + c.role, m{"ciphertext": made, "associated_data": key}},
		{"datakey/wrapped/" + c.role, m{"bits": key}},
		{"reencrypt/" + c.role + "/run", m{"dry_run": made}},
		{"reencrypt/" + c.role + "/reopen", m{"version": made}},
		{"reencrypt/" + c.role + "/targets/wrong", cardsTarget(m{"content": made})},
	} {
		a := c.tell(http.MethodPut, r.path, r.body)
		assert.Equal(c.t, http.StatusBadRequest, a.Status, "%s: %s", r.path, a.sentence())
	}
}

// lookAround asks for everything that tells of the role.
func (c *dataCanaries) lookAround() {
	c.t.Helper()
	for _, path := range []string{"roles/", "status/", "history/", "preflight/", "reencrypt/"} {
		assert.Equal(c.t, http.StatusOK, c.tell(http.MethodGet, path+c.role, nil).Status, path)
	}
	for _, path := range []string{"status", "connections/main", "reencrypt/" + c.role + "/targets/cards"} {
		assert.Equal(c.t, http.StatusOK, c.tell(http.MethodGet, path, nil).Status, path)
	}
	var list struct{ Keys []string }
	a := c.tell("LIST", "incidents", nil)
	if a.Status == http.StatusOK {
		require.NoError(c.t, unmarshal(a, &list))
	}
	for _, id := range list.Keys {
		c.tell(http.MethodGet, "incidents/"+id, nil)
	}
}
