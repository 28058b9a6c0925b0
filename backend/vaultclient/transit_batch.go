package vaultclient

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/egress"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// Value is one to be encrypted, or encrypted anew.
type Value struct {
	// Text is a ciphertext, or the plaintext that becomes one.
	Text secret.String
	// Context is that of a derived key; either all values of a batch have one, or none.
	Context []byte
	// AssociatedData is what the value is bound to; Rewrap does not heed it.
	AssociatedData []byte
}

// Result is what became of one value: the new one, or why there is none.
type Result struct {
	Text    secret.String
	Refused string
}

// batchItem is a value as transit takes it.
type batchItem struct {
	Ciphertext     string  `json:"ciphertext,omitempty"`
	Plaintext      *string `json:"plaintext,omitempty"` // which may be empty
	Context        string  `json:"context,omitempty"`
	AssociatedData string  `json:"associated_data,omitempty"`
	KeyVersion     int     `json:"key_version,omitempty"`
}

const (
	// maxBatch bounds the bytes of values in one request, where not a single one is longer, and
	// maxValues their number: Vault bounds what it reads, too.
	maxBatch  = 1 << 20
	maxValues = 1000
)

// Rewrap encrypts ciphertexts anew with a version; no plaintext leaves Vault. Bound to
// associated data are none that Rewrap takes: Vault refuses them.
func (k *TransitKey) Rewrap(ctx context.Context, version int, values []Value) ([]Result, error) {
	return k.batches(ctx, "rewrap", values, func(v Value) batchItem {
		return batchItem{Ciphertext: v.Text.Reveal(), Context: encode(v.Context), KeyVersion: version}
	})
}

// Encrypt encrypts plaintexts with a version.
func (k *TransitKey) Encrypt(ctx context.Context, version int, values []Value) ([]Result, error) {
	return k.batches(ctx, "encrypt", values, func(v Value) batchItem {
		plain := encode([]byte(v.Text.Reveal()))
		return batchItem{Plaintext: &plain, Context: encode(v.Context), AssociatedData: encode(v.AssociatedData), KeyVersion: version}
	})
}

// Decrypt decrypts ciphertexts.
func (k *TransitKey) Decrypt(ctx context.Context, values []Value) ([]Result, error) {
	results, err := k.batches(ctx, "decrypt", values, func(v Value) batchItem {
		return batchItem{Ciphertext: v.Text.Reveal(), Context: encode(v.Context), AssociatedData: encode(v.AssociatedData)}
	})
	if err != nil {
		return nil, err
	}
	for i := range results {
		plain, err := base64.StdEncoding.DecodeString(results[i].Text.Reveal())
		if err != nil {
			return nil, fault.New(fault.Target, "decrypt values of %s: Vault's answer does not have the documented form", k.Path())
		}
		results[i].Text = secret.New(string(plain))
	}
	return results, nil
}

func encode(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// batches sends values, as many at a time as one request should carry.
func (k *TransitKey) batches(ctx context.Context, verb string, values []Value, item func(Value) batchItem) ([]Result, error) {
	out := make([]Result, 0, len(values))
	for len(values) > 0 {
		n, size := 0, 0
		for n < min(len(values), maxValues) && (n == 0 || size+len(values[n].Text.Reveal()) <= maxBatch) {
			size += len(values[n].Text.Reveal())
			n++
		}
		part, err := k.batch(ctx, verb, values[:n], item)
		if err != nil {
			return nil, err
		}
		out, values = append(out, part...), values[n:]
	}
	return out, nil
}

func (k *TransitKey) batch(ctx context.Context, verb string, values []Value, item func(Value) batchItem) ([]Result, error) {
	items := make([]batchItem, len(values))
	for i, v := range values {
		items[i] = item(v)
	}
	var out batchResults
	in := call{
		action: verb + " values of " + k.Path(), method: http.MethodPost, path: k.under(verb), body: map[string]any{"batch_input": items},
	}
	err := k.client.do(ctx, in, &out)
	// Where none of the values is taken, the results come with a 400.
	if r := refusalIn(err); r != nil && r.status == http.StatusBadRequest && out.within(r.body) {
		err = nil
	}
	if r := refusalIn(err); r != nil && len(values) == 1 && r.says("exceeds allowed length") {
		return []Result{{Refused: "it is longer than Vault takes: " + r.text}}, nil
	}
	if err != nil {
		return nil, err
	}
	if len(out.Results) != len(values) {
		return nil, fault.New(fault.Target, "%s: Vault answered %d values where %d were sent", in.action, len(out.Results), len(values))
	}
	results := make([]Result, len(values))
	for i, r := range out.Results {
		switch {
		case r.Error != "":
			results[i].Refused = egress.Request{}.Text(r.Error)
		case verb != "decrypt" && r.Ciphertext == "":
			return nil, fault.New(fault.Target, "%s: Vault answered a value without a ciphertext", in.action)
		default:
			results[i].Text = secret.New(r.Ciphertext + r.Plaintext)
		}
	}
	return results, nil
}

type batchResults struct {
	Results []struct {
		Ciphertext string `json:"ciphertext"`
		Plaintext  string `json:"plaintext"`
		Error      string `json:"error"`
	} `json:"batch_results"`
}

func (b *batchResults) within(body []byte) bool {
	var in struct {
		Data *batchResults `json:"data"`
	}
	if json.Unmarshal(body, &in) != nil || in.Data == nil || len(in.Data.Results) == 0 {
		return false
	}
	*b = *in.Data
	return true
}
