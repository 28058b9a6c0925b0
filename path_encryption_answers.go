package rotationsecrets

import (
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/encryption"
)

// The results of a batch have the keys of transit's, those left out and those empty
// ones included. They are structures and no maps: there may be very many.

type encryptedResult struct {
	Ciphertext string `json:"ciphertext,omitempty"`
	KeyVersion int    `json:"key_version,omitempty"`
	Error      string `json:"error,omitempty"`
	Reference  string `json:"reference"`
}

type decryptedResult struct {
	Plaintext string `json:"plaintext"`
	Error     string `json:"error,omitempty"`
	Reference string `json:"reference"`
}

func (c *crypt) renderEncrypted(out []encryption.Encrypted) (resp *logical.Response, o outcomes, err error) {
	if err := asMany(len(c.items), len(out)); err != nil {
		return nil, o, err
	}
	if !c.batch {
		return &logical.Response{Data: map[string]any{"ciphertext": out[0].Ciphertext, "key_version": out[0].KeyVersion}}, o, out[0].Err
	}
	results := make([]encryptedResult, len(out))
	for i := range out {
		results[i] = encryptedResult{Ciphertext: out[i].Ciphertext, KeyVersion: out[i].KeyVersion, Error: o.note(out[i].Err), Reference: c.items[i].reference}
	}
	return &logical.Response{Data: map[string]any{"batch_results": results}}, o, nil
}

func (c *crypt) renderDecrypted(out []encryption.Decrypted) (resp *logical.Response, o outcomes, err error) {
	if err := asMany(len(c.items), len(out)); err != nil {
		return nil, o, err
	}
	if !c.batch {
		return &logical.Response{Data: map[string]any{"plaintext": out[0].Plaintext}}, o, out[0].Err
	}
	results := make([]decryptedResult, len(out))
	for i := range out {
		results[i] = decryptedResult{Plaintext: out[i].Plaintext, Error: o.note(out[i].Err), Reference: c.items[i].reference}
	}
	return &logical.Response{Data: map[string]any{"batch_results": results}}, o, nil
}

// outcomes are how the items of a batch went.
type outcomes struct{ done, refused, broken bool }

// note counts an item, and gives its error's sentence.
func (o *outcomes) note(err error) string {
	switch {
	case err == nil:
		o.done = true
		return ""
	case fault.KindOf(err) == fault.Internal:
		o.broken = true
	default:
		o.refused = true
	}
	return err.Error()
}

func partialFailureField() *framework.FieldSchema {
	return &framework.FieldSchema{
		Type:        framework.TypeInt,
		Description: "The status of the answer to a batch of which some items failed and others did not: 200 to 599. Default: 400.",
	}
}

// status is that of the answer to a batch, as transit gives it: wrong input of any item
// comes before a fault of ours, which may be tried again.
func (o outcomes) status(data *framework.FieldData) (int, error) {
	partial := data.Get("partial_failure_response_code").(int)
	if given(data, "partial_failure_response_code") && (partial < http.StatusOK || partial > 599) {
		return 0, fault.Field("partial_failure_response_code", "must be 200 to 599")
	}
	switch {
	case !o.refused && !o.broken:
		return http.StatusOK, nil
	case o.done && partial != 0:
		return partial, nil
	case o.refused:
		return http.StatusBadRequest, nil
	default:
		return http.StatusInternalServerError, nil
	}
}

// answer gives a batch the status that its items ask for.
func (c *crypt) answer(req *logical.Request, data *framework.FieldData, resp *logical.Response, went outcomes) (*logical.Response, error) {
	status, err := went.status(data)
	if err != nil {
		return nil, err
	}
	return c.respond(req, resp, status)
}

// respond answers a single text as any path does, and a batch as the text of the whole
// answer, which Vault passes on: it would else take each result apart and put it together
// again, which takes longer than to encrypt it. Clients see no difference.
func (c *crypt) respond(req *logical.Request, resp *logical.Response, status int) (*logical.Response, error) {
	if !c.batch {
		return resp, nil
	}
	return logical.RespondWithStatusCode(resp, req, status)
}
