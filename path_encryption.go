package rotationsecrets

import (
	"context"
	"fmt"
	"net/http"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/encryption"
)

// The requests and answers of these paths are those of Vault's transit engine, so that
// an application moves by changing the path of the mount. Nothing here writes anything:
// every node of a cluster answers, performance standbys included.
func (b *Backend) encryptionPaths() []*framework.Path {
	return []*framework.Path{b.encryptPath(), b.decryptPath(), b.rewrapPath(), b.dataKeyPath(false), b.dataKeyPath(true)}
}

func (b *Backend) encryptPath() *framework.Path {
	fields := itemFields("plaintext", "What to encrypt, in base64. Required.")
	fields["key_version"] = keyVersionField()
	fields["type"] = &framework.FieldSchema{Type: framework.TypeString, Description: "Has no effect: the role says of which type its keys are. Transit takes it for keys that it would make."}
	fields["convergent_encryption"] = &framework.FieldSchema{Type: framework.TypeBool, Description: "Has no effect, as for a transit key that exists: encryption here is never convergent."}
	fields["partial_failure_response_code"] = partialFailureField()
	return &framework.Path{
		Pattern: pattern("encrypt/:name"),
		Fields:  fields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: reads(framework.PathOperation{
				Callback:     b.encrypt,
				Summary:      "Encrypt a text, or several.",
				DisplayAttrs: operation("encrypt", "text"),
				Examples: []framework.RequestExample{
					example("", map[string]any{"plaintext": examplePlaintext}),
					example("Several at once:", map[string]any{"batch_input": `[{"plaintext": "` + examplePlaintext + `", "reference": "row 7"}]`}),
				},
				Responses: answers("The ciphertext, or batch_results alone for a batch.", encryptedFields(), map[string]any{
					"ciphertext": exampleCiphertext, "key_version": 4,
				}),
			}),
		},
		HelpSynopsis: "Encrypt with a role's current key, as transit does.",
		HelpDescription: `
For roles of type encryption-key. Request and answer are those of transit/encrypt/:name.
Only the current version encrypts; key_version may say so, and names no other.` + batchHelp + statusHelp,
	}
}

func (b *Backend) decryptPath() *framework.Path {
	fields := itemFields("ciphertext", "What encrypt or rewrap answered. Required.")
	fields["partial_failure_response_code"] = partialFailureField()
	return &framework.Path{
		Pattern: pattern("decrypt/:name"),
		Fields:  fields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: reads(framework.PathOperation{
				Callback:     b.decrypt,
				Summary:      "Decrypt a ciphertext, or several.",
				DisplayAttrs: operation("decrypt", "text"),
				Examples: []framework.RequestExample{
					example("", map[string]any{"ciphertext": exampleCiphertext}),
					example("Several at once:", map[string]any{"batch_input": `[{"ciphertext": "` + exampleCiphertext + `"}]`}),
				},
				Responses: answers("The plaintext, or batch_results alone for a batch.", map[string]*framework.FieldSchema{
					"plaintext":     sometimes(framework.TypeString, "What was encrypted, in base64."),
					"batch_results": sometimes(framework.TypeSlice, "For a batch: for each item, in order, plaintext, or error; and its reference."),
				}, map[string]any{"plaintext": examplePlaintext}),
			}),
		},
		HelpSynopsis: "Decrypt what a role's current key, or an earlier one that has not ended, encrypted.",
		HelpDescription: `
For roles of type encryption-key. Request and answer are those of transit/decrypt/:name.
What a version encrypted that has ended is refused, and the sentence names the version.` + batchHelp + statusHelp,
	}
}

func (b *Backend) rewrapPath() *framework.Path {
	fields := itemFields("ciphertext", "What encrypt or rewrap answered. Required.")
	fields["key_version"] = keyVersionField()
	return &framework.Path{
		Pattern: pattern("rewrap/:name"),
		Fields:  fields,
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: reads(framework.PathOperation{
				Callback:     b.rewrap,
				Summary:      "Encrypt again with the current key.",
				DisplayAttrs: operation("rewrap", "text"),
				Examples:     []framework.RequestExample{example("", map[string]any{"ciphertext": exampleCiphertext})},
				Responses: answers("The new ciphertext, or batch_results alone for a batch.", encryptedFields(), map[string]any{
					"ciphertext": exampleCiphertext, "key_version": 4,
				}),
			}),
		},
		HelpSynopsis: "Encrypt again with a role's current key what it or an earlier one encrypted, without showing what it is.",
		HelpDescription: `
For roles of type encryption-key. Request and answer are those of transit/rewrap/:name,
which may carry associated_data too.` + batchHelp + `
The answer to a batch is 200 even if items failed.`,
	}
}

func encryptedFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"ciphertext":    sometimes(framework.TypeString, "The ciphertext: vault:v, the version, a colon, and base64."),
		"key_version":   sometimes(framework.TypeInt, "Number of the version that encrypted."),
		"batch_results": sometimes(framework.TypeSlice, "For a batch: for each item, in order, ciphertext and key_version, or error; and its reference."),
	}
}

func (b *Backend) encrypt(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	in, err := readCrypt(data, "plaintext", true)
	if err != nil {
		return nil, err
	}
	request := encryption.EncryptRequest{Items: make([]encryption.EncryptItem, len(in.items))}
	for i := range in.items {
		item := &in.items[i]
		request.Items[i] = encryption.EncryptItem{Plaintext: item.text, Context: item.context, AssociatedData: item.associatedData, KeyVersion: item.keyVersion}
	}
	out, err := use[[]encryption.Encrypted](ctx, b.engine, named(data), request)
	if err != nil {
		return nil, err
	}
	resp, went, err := in.renderEncrypted(out)
	if err != nil {
		return nil, err
	}
	return in.answer(req, data, resp, went)
}

func (b *Backend) rewrap(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	in, err := readCrypt(data, "ciphertext", true)
	if err != nil {
		return nil, err
	}
	request := encryption.RewrapRequest{Items: make([]encryption.RewrapItem, len(in.items))}
	for i := range in.items {
		request.Items[i] = encryption.RewrapItem{DecryptItem: in.items[i].decryptItem(), KeyVersion: in.items[i].keyVersion}
	}
	out, err := use[[]encryption.Encrypted](ctx, b.engine, named(data), request)
	if err != nil {
		return nil, err
	}
	resp, _, err := in.renderEncrypted(out)
	if err != nil {
		return nil, err
	}
	return in.respond(req, resp, http.StatusOK)
}

func (b *Backend) decrypt(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	in, err := readCrypt(data, "ciphertext", false)
	if err != nil {
		return nil, err
	}
	request := encryption.DecryptRequest{Items: make([]encryption.DecryptItem, len(in.items))}
	for i := range in.items {
		request.Items[i] = in.items[i].decryptItem()
	}
	out, err := use[[]encryption.Decrypted](ctx, b.engine, named(data), request)
	if err != nil {
		return nil, err
	}
	resp, went, err := in.renderDecrypted(out)
	if err != nil {
		return nil, err
	}
	return in.answer(req, data, resp, went)
}

func (i *cryptItem) decryptItem() encryption.DecryptItem {
	return encryption.DecryptItem{Ciphertext: i.text, Context: i.context, AssociatedData: i.associatedData}
}

// asMany is a fault of ours where answers do not fit what was asked.
func asMany(asked, got int) error {
	if asked != got {
		return fmt.Errorf("asked for %d texts, got %d", asked, got)
	}
	return nil
}
