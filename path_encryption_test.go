package rotationsecrets

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/encryption"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/rotatortest"
)

// newEncryptingMount has two roles of the kind itself, cards and derived, and app, which
// is of another.
func newEncryptingMount(t *testing.T) *mount {
	t.Helper()
	memory := rotatortest.NewMemory()
	m := &mount{t: t, storage: &logical.InmemStorage{}, memory: memory, others: []rotator.Rotator{encryption.New(), kindOf{Rotator: memory, name: "plain"}}}
	m.start(&logical.StaticSystemView{})
	m.connection()
	m.must(create, "roles/app", map[string]any{"type": "plain", "connection": "main"})
	m.must(create, "roles/cards", map[string]any{"type": encryption.Type})
	m.must(create, "roles/derived", map[string]any{"type": encryption.Type, "derived": true, "key_type": "chacha20-poly1305"})
	return m
}

func coded(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }

// batchOf answers a batch with a status, and the results that came with it.
func (m *mount) batchOf(status int, path string, data map[string]any) []map[string]any {
	m.t.Helper()
	resp, err := m.handle(update, path, data)
	require.NoError(m.t, err)
	require.NoError(m.t, resp.Error())
	require.Equal(m.t, status, resp.Data[logical.HTTPStatusCode])
	require.Equal(m.t, "application/json", resp.Data[logical.HTTPContentType])
	var body struct {
		Data struct {
			Results []map[string]any `json:"batch_results"`
		} `json:"data"`
	}
	require.NoError(m.t, json.Unmarshal([]byte(resp.Data[logical.HTTPRawBody].(string)), &body))
	return body.Data.Results
}

func TestEncryptAndDecrypt(t *testing.T) {
	m := newEncryptingMount(t)
	for role, about := range map[string]map[string]any{
		"cards":   {},
		"derived": {"context": coded("user-1"), "associated_data": coded("row 7")},
	} {
		ask := func(more map[string]any) map[string]any {
			out := map[string]any{}
			for _, fields := range []map[string]any{about, more} {
				for name, value := range fields {
					out[name] = value
				}
			}
			return out
		}
		made := m.must(update, "encrypt/"+role, ask(map[string]any{"plaintext": coded("4111"), "key_version": "1", "nonce": "", "type": "aes256-gcm96", "convergent_encryption": false})).Data
		require.Len(t, made, 2)
		require.Equal(t, 1, made["key_version"])
		require.Regexp(t, "^vault:v1:[A-Za-z0-9+/]+=*$", made["ciphertext"])
		require.Equal(t, map[string]any{"plaintext": coded("4111")}, m.must(update, "decrypt/"+role, ask(map[string]any{"ciphertext": made["ciphertext"]})).Data)

		m.must(update, "rotate/"+role, nil)
		require.Equal(t, 2, m.must(update, "encrypt/"+role, ask(map[string]any{"plaintext": ""})).Data["key_version"])
		require.Equal(t, map[string]any{"plaintext": coded("4111")}, m.must(update, "decrypt/"+role, ask(map[string]any{"ciphertext": made["ciphertext"]})).Data)
		moved := m.must(update, "rewrap/"+role, ask(map[string]any{"ciphertext": made["ciphertext"]})).Data
		require.Equal(t, 2, moved["key_version"])
		require.Regexp(t, "^vault:v2:", moved["ciphertext"])
		require.Equal(t, map[string]any{"plaintext": coded("4111")}, m.must(update, "decrypt/"+role, ask(map[string]any{"ciphertext": moved["ciphertext"]})).Data)
		m.refuses(update, "encrypt/"+role, ask(map[string]any{"plaintext": "", "key_version": 1}), "key_version: must be 2, the current version")
	}
}

func TestDataKeys(t *testing.T) {
	m := newEncryptingMount(t)
	for bits, data := range map[int]map[string]any{128: {"bits": "128"}, 256: nil, 512: {"bits": json.Number("512")}} {
		made := m.must(update, "datakey/plaintext/cards", data).Data
		require.Len(t, made, 3)
		require.Equal(t, 1, made["key_version"])
		key, err := base64.StdEncoding.DecodeString(made["plaintext"].(string))
		require.NoError(t, err)
		require.Len(t, key, bits/8)
		require.Equal(t, made["plaintext"], m.must(update, "decrypt/cards", map[string]any{"ciphertext": made["ciphertext"]}).Data["plaintext"])
	}
	wrapped := m.must(update, "datakey/wrapped/derived", map[string]any{"context": coded("c"), "associated_data": coded("a")}).Data
	require.Len(t, wrapped, 2)
	require.Equal(t, 1, wrapped["key_version"])
	m.must(update, "decrypt/derived", map[string]any{"ciphertext": wrapped["ciphertext"], "context": coded("c"), "associated_data": coded("a")})

	m.refuses(update, "datakey/plaintext/derived", nil, "context: is required")
	m.refuses(update, "datakey/wrapped/cards", map[string]any{"bits": 192}, "bits: must be 128, 256 or 512")
	m.refuses(update, "datakey/wrapped/cards", map[string]any{"nonce": "AAAA"}, "nonce: must be left out")
	m.refuses(update, "datakey/wrapped/app", nil, `role "app" is of type plain`)
	m.answers404(update, "datakey/wrapped/nobody", nil)
	m.answers404(update, "datakey/other/cards", nil)
}

func TestEncryptRefuses(t *testing.T) {
	m := newEncryptingMount(t)
	const secret = "hunter2!"
	for _, c := range []struct {
		path string
		data map[string]any
		want string
	}{
		{"encrypt/cards", nil, "plaintext: is required, or batch_input"},
		{"encrypt/cards", map[string]any{"plaintext": nil}, "plaintext: is required, or batch_input"},
		{"encrypt/cards", map[string]any{"plaintext": secret}, "plaintext: must be base64"},
		{"encrypt/cards", map[string]any{"plaintext": "", "context": secret}, "context: must be base64"},
		{"encrypt/cards", map[string]any{"plaintext": "", "associated_data": secret}, "associated_data: must be base64"},
		{"encrypt/cards", map[string]any{"plaintext": "", "nonce": coded("123456789012")}, "nonce: must be left out: it is for convergent encryption"},
		{"encrypt/cards", map[string]any{"plaintext": "", "key_version": secret}, "key_version: must be a whole number"},
		{"encrypt/cards", map[string]any{"plaintext": "", "key_version": 7}, "key_version: must be 1, the current version"},
		{"encrypt/cards", map[string]any{"plaintxt": secret}, "plaintxt: is not a field of encrypt/:name; did you mean plaintext?"},
		{"encrypt/derived", map[string]any{"plaintext": ""}, "context: is required: the keys of this role are derived from it"},
		{"encrypt/app", map[string]any{"plaintext": ""}, `role "app" is of type plain`},
		{"decrypt/cards", nil, "ciphertext: is required, or batch_input"},
		{"decrypt/cards", map[string]any{"ciphertext": ""}, "ciphertext: is required"},
		{"decrypt/cards", map[string]any{"ciphertext": secret}, "ciphertext: is not of this form: vault:v<version>:<base64>"},
		{"decrypt/cards", map[string]any{"ciphertext": "vault:v2:" + coded(strings.Repeat("x", 40))}, "ciphertext: names version 2, which this role does not have yet: its highest is 1"},
		{"decrypt/cards", map[string]any{"ciphertext": "vault:v1:" + coded(strings.Repeat("x", 40))}, "ciphertext: cannot be decrypted"},
		{"decrypt/cards", map[string]any{"ciphertext": secret, "key_version": 1}, "key_version: is not a field of decrypt/:name"},
		{"rewrap/cards", nil, "ciphertext: is required, or batch_input"},
		{"rewrap/cards", map[string]any{"ciphertext": secret, "key_version": 2}, "key_version: must be 1, the current version"},
	} {
		require.NotContains(t, m.refuses(update, c.path, c.data, c.want), secret)
	}
	m.answers404(update, "encrypt/nobody", map[string]any{"plaintext": ""})
	m.answers404(update, "decrypt/nobody", map[string]any{"ciphertext": "vault:v1:x"})
	m.answers404(update, "rewrap/nobody", map[string]any{"ciphertext": "vault:v1:x"})
}

// Each item has its result; the status says whether all went well, as in transit.
func TestBatches(t *testing.T) {
	m := newEncryptingMount(t)
	good, bad := map[string]any{"plaintext": coded("a"), "reference": "first"}, map[string]any{"plaintext": "!", "key_version": 1.0, "context": nil, "iv": "", "nonce": ""}
	// Beside a batch, fields of an item are ignored.
	got := m.batchOf(http.StatusOK, "encrypt/cards", map[string]any{"batch_input": []any{good, map[string]any{"plaintext": ""}}, "plaintext": "!", "context": "!", "nonce": "!"})
	require.Len(t, got, 2)
	require.Equal(t, "first", got[0]["reference"])
	require.EqualValues(t, 1, got[0]["key_version"])
	require.Len(t, got[0], 3)
	require.Empty(t, got[1]["reference"])
	first := map[string]any{"ciphertext": got[0]["ciphertext"], "reference": "again"}

	for _, c := range []struct {
		items  []any
		code   any
		status int
	}{
		{[]any{good, bad}, nil, 400},
		{[]any{bad, bad}, nil, 400},
		{[]any{good, bad}, 207, 207},
		{[]any{bad, good}, "207", 207},
		{[]any{bad}, 207, 400},
		{[]any{good}, 207, 200},
	} {
		got := m.batchOf(c.status, "encrypt/cards", map[string]any{"batch_input": c.items, "partial_failure_response_code": c.code})
		require.Len(t, got, len(c.items))
		for i, item := range c.items {
			if item.(map[string]any)["reference"] == "first" {
				require.Regexp(t, "^vault:v1:", got[i]["ciphertext"])
				require.NotContains(t, got[i], "error")
				continue
			}
			require.Equal(t, map[string]any{"error": "plaintext: must be base64", "reference": ""}, got[i])
		}
	}

	foreign := map[string]any{"ciphertext": "mine"}
	require.Equal(t, []map[string]any{
		{"plaintext": coded("a"), "reference": "again"}, {"plaintext": "", "error": "ciphertext: is not of this form: vault:v<version>:<base64>", "reference": ""},
	}, m.batchOf(http.StatusBadRequest, "decrypt/cards", map[string]any{"batch_input": []any{first, foreign}}))
	require.Len(t, m.batchOf(http.StatusAccepted, "decrypt/cards", map[string]any{"batch_input": []any{first, foreign}, "partial_failure_response_code": 202}), 2)

	m.must(update, "rotate/cards", nil)
	got = m.batchOf(http.StatusOK, "rewrap/cards", map[string]any{"batch_input": []any{first, foreign}})
	require.EqualValues(t, 2, got[0]["key_version"])
	require.Equal(t, "again", got[0]["reference"])
	require.Equal(t, map[string]any{"error": "ciphertext: is not of this form: vault:v<version>:<base64>", "reference": ""}, got[1], "200 although an item failed, as in transit")

	m.refuses(update, "encrypt/cards", map[string]any{"batch_input": []any{good}, "partial_failure_response_code": 700}, "partial_failure_response_code: must be 200 to 599")
	m.refuses(update, "encrypt/cards", map[string]any{"batch_input": []any{good}, "partial_failure_response_code": 0}, "partial_failure_response_code: must be 200 to 599")
	m.refuses(update, "encrypt/app", map[string]any{"batch_input": []any{good}}, `role "app" is of type plain`)
}

func TestBatchesOfAnotherForm(t *testing.T) {
	m := newEncryptingMount(t)
	const secret = "hunter2!"
	many := make([]any, maxCrypt+1)
	for i := range many {
		many[i] = map[string]any{"plaintext": ""}
	}
	require.Len(t, m.batchOf(http.StatusOK, "encrypt/cards", map[string]any{"batch_input": many[:maxCrypt]}), maxCrypt)
	m.refuses(update, "encrypt/cards", map[string]any{"batch_input": many}, "batch_input: has 10001 items; 1 to 10000 are allowed")
	m.refuses(update, "encrypt/cards", map[string]any{"batch_input": "[" + strings.Repeat("7,", 99_999) + "7]"}, "batch_input: has 100000 items; 1 to 10000 are allowed")
	for batch, want := range map[string]string{
		`hunter2!`:                  "batch_input: must be a JSON list such as",
		`{"plaintext": "hunter2!"}`: "batch_input: must be a JSON list such as",
		`[]`:                        "batch_input: has 0 items; 1 to 10000 are allowed",
		`["hunter2!"]`:              "batch_input[0]: must be a JSON object with plaintext",
		`[{"plaintext": ""}, null]`: "batch_input[1]: must be a JSON object with plaintext",
		`[{}]`:                      "batch_input[0].plaintext: is required",
		`[{"plaintext": null}]`:     "batch_input[0].plaintext: is required",
		`[{"plaintext": 7}]`:        "batch_input[0].plaintext: must be a text",
		`[{"plaintext": "", "context": ["hunter2!"]}]`:                   "batch_input[0].context: must be a text",
		`[{"plaintext": "", "associated_data": true}]`:                   "batch_input[0].associated_data: must be a text",
		`[{"plaintext": "", "reference": 7}]`:                            "batch_input[0].reference: must be a text",
		`[{"plaintext": "", "key_version": "1"}]`:                        "batch_input[0].key_version: must be a whole number",
		`[{"plaintext": "", "key_version": 1.5}]`:                        "batch_input[0].key_version: must be a whole number",
		`[{"plaintext": "", "key_version": 1e30}]`:                       "batch_input[0].key_version: must be a whole number",
		`[{"plaintext": "", "nonce": "hunter2!"}]`:                       "batch_input[0].nonce: must be left out: it is for convergent encryption",
		`[{"plaintext": "", "iv": "hunter2!"}]`:                          "batch_input[0].iv: is not a field of an item, which takes associated_data, context, key_version, nonce, plaintext, reference",
		`[{"plaintext": "", "ciphertext": "hunter2!"}]`:                  "batch_input[0].ciphertext: is not a field of an item",
		`[{"plaintext": ""}, {"plaintext": "", "associated_dta": "AA"}]`: "batch_input[1].associated_dta: is not a field of an item; did you mean associated_data?",
		`[{"plaintext": "", "associated_dta": ""}]`:                      "batch_input[0].associated_dta: is not a field of an item; did you mean associated_data?",
	} {
		require.NotContains(t, m.refuses(update, "encrypt/cards", map[string]any{"batch_input": batch}, want), secret)
	}
	m.refuses(update, "decrypt/cards", map[string]any{"batch_input": `[{"ciphertext": "x", "key_version": 1}]`}, "batch_input[0].key_version: is not a field of an item")
	m.refuses(update, "rewrap/cards", map[string]any{"batch_input": `[{"plaintext": "x"}]`}, "batch_input[0].ciphertext: is required")
}

// A fault of ours may be tried again, where nothing in the request is wrong.
func TestStatusOfABatch(t *testing.T) {
	path := (&Backend{}).encryptPath()
	for _, c := range []struct {
		errs    []error
		partial any
		want    int
	}{
		{[]error{nil, nil}, nil, 200},
		{[]error{nil, errors.New("inside")}, nil, 500},
		{[]error{nil, errors.New("inside")}, 207, 207},
		{[]error{errors.New("inside")}, 207, 500},
		{[]error{errors.New("inside"), fault.Field("plaintext", "is wrong")}, nil, 400},
		{[]error{fault.Field("plaintext", "is wrong"), errors.New("inside")}, 207, 400},
	} {
		var o outcomes
		for _, err := range c.errs {
			o.note(err)
		}
		got, err := o.status(&framework.FieldData{Raw: map[string]any{"partial_failure_response_code": c.partial}, Schema: path.Fields})
		require.NoError(t, err)
		require.Equal(t, c.want, got, "%v", c)
	}
}

func TestWholeNumbers(t *testing.T) {
	for value, want := range map[any]int{1: 1, 2.0: 2, json.Number("3"): 3, -4.0: -4} {
		got, ok := wholeNumber(value)
		require.True(t, ok, "%v", value)
		require.Equal(t, want, got)
	}
	for _, value := range []any{1.5, 1e300, -1e300, json.Number("1.0"), json.Number("9999999999999999999"), "1", true, nil, []any{}} {
		_, ok := wholeNumber(value)
		require.False(t, ok, "%v", value)
	}
}

func TestReadersOfAnEncryptionKey(t *testing.T) {
	m := newEncryptingMount(t)
	require.NotContains(t, m.must(read, "creds/cards", nil).Data, "key")
	raw := coded(strings.Repeat("k", 32))
	m.must(create, "roles/mine", map[string]any{"type": encryption.Type, "exportable": true, "import_key": raw})
	got := m.must(read, "creds/mine", nil).Data
	require.Equal(t, raw, got["key"])
	require.Equal(t, "aes256-gcm96", got["key_type"])
	require.Equal(t, 1, got["latest_version"])
	require.NotContains(t, fmt.Sprint(m.must(read, "roles/mine", nil).Data), raw)
	m.refuses(update, "roles/mine", map[string]any{"derived": true}, "derived: ")
	m.refuses(create, "roles/other", map[string]any{"type": encryption.Type, "import_key": "hunter2"}, "import_key: is neither a key in base64")
}
