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

// respond answers with the status that transit gives: wrong input of any item comes
// before a fault of ours, which may be tried again.
func (o outcomes) respond(req *logical.Request, data *framework.FieldData, resp *logical.Response) (*logical.Response, error) {
	code := data.Get("partial_failure_response_code").(int)
	if given(data, "partial_failure_response_code") && (code < http.StatusOK || code > 599) {
		return nil, fault.Field("partial_failure_response_code", "must be 200 to 599")
	}
	switch {
	case !o.refused && !o.broken:
		return resp, nil
	case o.done && code != 0:
	case o.refused:
		code = http.StatusBadRequest
	default:
		code = http.StatusInternalServerError
	}
	return logical.RespondWithStatusCode(resp, req, code)
}
