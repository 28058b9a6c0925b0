package rotationsecrets

import (
	"errors"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// respond gives Vault the answer of a path. It is the one place where a fault of
// the engine becomes a status code.
//
// A coded error is returned unwrapped and without a response: the plugin protocol
// looks at its type, and Vault prefers a response to the code. A target that
// failed is a 400, since Vault's clients repeat 5xx by themselves.
func respond(resp *logical.Response, err error) (*logical.Response, error) {
	if err == nil {
		return resp, nil
	}
	if readOnly(err) {
		return nil, logical.ErrReadOnly // Vault forwards the request
	}
	var f *fault.Error
	if !errors.As(err, &f) {
		return resp, err // Vault's own, or a fault of ours: 500
	}
	sentence := err.Error() // what wraps the fault says where it happened
	switch f.Kind {
	case fault.NotFound:
		return nil, logical.CodedError(http.StatusNotFound, sentence)
	case fault.Conflict:
		return nil, logical.CodedError(http.StatusConflict, sentence)
	case fault.Invalid, fault.Target, fault.Unreachable, fault.Unconfirmed, fault.AuthFailed:
		return refusal(sentence, f.Data), nil
	case fault.Internal:
	}
	return nil, logical.CodedError(http.StatusInternalServerError, sentence)
}

// refusal is a 400 with a sentence, and with the fault's data beside it.
func refusal(sentence string, data map[string]any) *logical.Response {
	resp := logical.ErrorResponse(sentence)
	if len(data) > 0 {
		resp.Data["data"] = data // where Vault's HTTP layer looks for it
	}
	return resp
}

// readOnly recognises storage that this node may not write. From an external
// plugin the error arrives as text.
func readOnly(err error) bool {
	return errors.Is(err, logical.ErrReadOnly) ||
		fault.Is(err, fault.Internal) && strings.Contains(err.Error(), logical.ErrReadOnly.Error())
}
