package rotationsecrets

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// maxCrypt bounds a batch. Transit has no bound but Vault's on the size of a request.
// 10,000 small items take a few hundredths of a second; what is gained by larger ones
// is lost in the memory of whoever takes them apart, here and in Vault.
const maxCrypt = 10_000

var batchHelp = fmt.Sprintf(`

With batch_input the fields beside it that belong into its items are ignored, as by
transit. A batch has at most %d items and is answered item by item, in order; one that
fails does not fail the others. A batch of which an item has another form is refused
whole.`, maxCrypt)

const statusHelp = `
Where items failed the answer is 400, with batch_results all the same: each has its
result or its error. Where others did not fail, partial_failure_response_code takes the
place of 400.`

// itemFields are those of one item, itself or in a batch. Those that are there to be
// refused belong to keys that transit has and this engine has not.
func itemFields(text, help string) map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"name":            nameField("role"),
		text:              {Type: framework.TypeString, Description: help, DisplayAttrs: &framework.DisplayAttributes{Sensitive: text == "plaintext"}},
		"context":         contextField(),
		"associated_data": associatedDataField(),
		"reference":       {Type: framework.TypeString, Description: "In an item of a batch: comes back with its result. Has no effect elsewhere."},
		"nonce":           {Type: framework.TypeString, Description: "Must be left out: nonces are drawn here. Transit takes one for convergent encryption alone."},
		"batch_input": {
			Type: framework.TypeSlice,
			Description: fmt.Sprintf("Several at once, at most %d: a list of objects with the fields of one item, or its JSON text. "+
				"The fields beside it are then ignored.", maxCrypt),
		},
	}
}

func contextField() *framework.FieldSchema {
	return &framework.FieldSchema{Type: framework.TypeString, Description: "From what the key is derived, in base64. Required where the role is derived; has no effect where it is not."}
}

func associatedDataField() *framework.FieldSchema {
	return &framework.FieldSchema{Type: framework.TypeString, Description: "What the ciphertext is bound to, in base64: it decrypts with the same only. It is not part of the ciphertext."}
}

func keyVersionField() *framework.FieldSchema {
	return &framework.FieldSchema{Type: framework.TypeInt, Description: "The version that encrypts: the current one, or 0, which is the default. Earlier versions only decrypt."}
}

// crypt is what a request asks for.
type crypt struct {
	items []cryptItem
	batch bool
}

// cryptItem is one text, and what goes with it; all but the reference and the version
// is base64 still.
type cryptItem struct {
	text, context, associatedData, reference string
	keyVersion                               int
}

// readCrypt reads the one text of a request, or its batch. text names its field;
// versioned tells whether a version may be named.
func readCrypt(data *framework.FieldData, text string, versioned bool) (*crypt, error) {
	if given(data, "batch_input") {
		// The list as it came: Get would go through all of it once more.
		list, _ := data.Raw["batch_input"].([]any)
		return readBatch(list, text, versioned)
	}
	if !given(data, text) {
		return nil, fault.Field(text, "is required, or batch_input")
	}
	if data.Get("nonce").(string) != "" {
		return nil, fault.Field("nonce", nonceRefused)
	}
	item := cryptItem{text: data.Get(text).(string), context: data.Get("context").(string), associatedData: data.Get("associated_data").(string)}
	if versioned {
		item.keyVersion = data.Get("key_version").(int)
	}
	return &crypt{items: []cryptItem{item}}, nil
}

const nonceRefused = "must be left out: it is for convergent encryption, which is not supported here"

func readBatch(list []any, text string, versioned bool) (*crypt, error) {
	if len(list) < 1 || len(list) > maxCrypt {
		return nil, fault.Field("batch_input", "has %d items; 1 to %d are allowed", len(list), maxCrypt)
	}
	out := &crypt{items: make([]cryptItem, len(list)), batch: true}
	for i, value := range list {
		values, isObject := value.(map[string]any)
		if !isObject {
			return nil, fault.Field(fmt.Sprintf("batch_input[%d]", i), "must be a JSON object with %s", text)
		}
		if err := out.items[i].read(values, text, versioned); err != nil {
			return nil, inside(fmt.Sprintf("batch_input[%d]", i), err)
		}
	}
	return out, nil
}

// read reads an item of a batch. There may be very many: fields are looked up one by
// one, and not through the framework.
func (i *cryptItem) read(values map[string]any, text string, versioned bool) error {
	if values[text] == nil {
		return fault.Field(text, "is required")
	}
	known := 0
	for _, f := range [...]struct {
		name string
		into *string
	}{{text, &i.text}, {"context", &i.context}, {"associated_data", &i.associatedData}, {"reference", &i.reference}} {
		switch v := values[f.name].(type) {
		case string:
			*f.into = v
			known++
		case nil:
		default:
			return fault.Field(f.name, "must be a text")
		}
	}
	if value := values["key_version"]; versioned && value != nil {
		var ok bool
		if i.keyVersion, ok = wholeNumber(value); !ok {
			return fault.Field("key_version", "must be a whole number")
		}
		known++
	}
	if known == len(values) {
		return nil
	}
	return checkRest(values, text, versioned)
}

// checkRest looks at the fields of an item that say nothing: null, or empty ones of keys
// that only transit has.
func checkRest(values map[string]any, text string, versioned bool) error {
	fields := []string{text, "context", "associated_data", "reference", "nonce"}
	if versioned {
		fields = append(fields, "key_version")
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		empty := values[name] == nil || values[name] == ""
		switch {
		case name == "nonce" && !empty:
			return fault.Field(name, nonceRefused)
		case !slices.Contains(fields, name) && (!empty || !slices.Contains(onlyTransit, name)):
			return unknown(name, "an item", fields)
		}
	}
	return nil
}

// onlyTransit are fields of transit's items for keys of other kinds. Clients that fill
// in a structure send them empty.
var onlyTransit = []string{"padding_scheme", "encrypt_padding_scheme", "decrypt_padding_scheme", "iv", "key_version", "plaintext", "ciphertext"}

// wholeNumber reads what the plugin protocol, a JSON text and Go make of a number.
func wholeNumber(value any) (int, bool) {
	switch v := value.(type) {
	case float64:
		return int(v), v == float64(int(v))
	case json.Number:
		n, err := v.Int64()
		return int(n), err == nil
	case int:
		return v, true
	}
	return 0, false
}
