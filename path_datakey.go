package rotationsecrets

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/encryption"
)

// dataKeyPath is datakey/plaintext/:name, or, with wrapped, datakey/wrapped/:name: two
// paths, so that a policy can grant the one without the other.
func (b *Backend) dataKeyPath(wrapped bool) *framework.Path {
	sort, answer, synopsis := "plaintext", "The key and its ciphertext.", "Make a data key, and encrypt it with a role's current key."
	fields := map[string]*framework.FieldSchema{
		"plaintext":   sometimes(framework.TypeString, "The data key, in base64."),
		"ciphertext":  {Type: framework.TypeString, Required: true, Description: "The data key as a ciphertext: decrypt gives it again."},
		"key_version": number("Number of the version that encrypted it."),
	}
	shown := map[string]any{"plaintext": exampleDataKey, "ciphertext": exampleCiphertext, "key_version": 4}
	if wrapped {
		sort, answer, synopsis = "wrapped", "The key's ciphertext.", "Make a data key, and give its ciphertext alone."
		delete(fields, "plaintext")
		delete(shown, "plaintext")
	}
	return &framework.Path{
		Pattern: pattern("datakey/" + sort + "/:name"),
		Fields: map[string]*framework.FieldSchema{
			"name":            nameField("role"),
			"bits":            {Type: framework.TypeInt, Default: 256, Description: "Size of the data key: 128, 256 or 512."},
			"context":         contextField(),
			"associated_data": associatedDataField(),
			"key_version":     keyVersionField(),
			"nonce":           {Type: framework.TypeString, Description: "Must be left out: nonces are drawn here."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: reads(framework.PathOperation{
				Callback: func(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
					return b.dataKey(ctx, data, wrapped)
				},
				Summary:      synopsis,
				DisplayAttrs: operation("generate", sort+"-data-key"),
				Examples:     []framework.RequestExample{example("", map[string]any{"bits": 256})},
				Responses:    answers(answer, fields, shown),
			}),
		},
		HelpSynopsis: synopsis,
		HelpDescription: `
For roles of type encryption-key. Request and answer are those of transit/datakey/` + sort + `/:name,
which may carry associated_data too. The data key is for the caller's own cipher, and is
stored as its ciphertext beside what it encrypted: one that a rotation need not touch,
since only the ciphertext of the data key follows the next version.`,
	}
}

func (b *Backend) dataKey(ctx context.Context, data *framework.FieldData, wrapped bool) (*logical.Response, error) {
	if data.Get("nonce").(string) != "" {
		return nil, fault.Field("nonce", nonceRefused)
	}
	k, err := use[*encryption.DataKey](ctx, b.engine, named(data), encryption.DataKeyRequest{
		Context: data.Get("context").(string), AssociatedData: data.Get("associated_data").(string),
		KeyVersion: data.Get("key_version").(int), Bits: data.Get("bits").(int), WrappedOnly: wrapped,
	})
	if err != nil {
		return nil, err
	}
	out := map[string]any{"ciphertext": k.Ciphertext, "key_version": k.KeyVersion}
	if !wrapped {
		out["plaintext"] = k.Plaintext
	}
	return &logical.Response{Data: out}, nil
}
