package rotationsecrets

import (
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// statusOf is the HTTP status and sentence that Vault makes of an answer.
func statusOf(t *testing.T, op logical.Operation, resp *logical.Response, err error) (int, string) {
	t.Helper()
	status, sentence := logical.RespondErrorCommon(&logical.Request{Operation: op}, resp, err)
	switch {
	case sentence == nil && status == 0:
		return http.StatusOK, ""
	case sentence == nil:
		return status, ""
	}
	logical.AdjustErrorStatusCode(&status, err)
	return status, sentence.Error()
}

func TestRespondMapsEveryKind(t *testing.T) {
	for kind, want := range map[fault.Kind]int{
		fault.Invalid:     http.StatusBadRequest,
		fault.Target:      http.StatusBadRequest,
		fault.Unreachable: http.StatusBadRequest,
		fault.Unconfirmed: http.StatusBadRequest,
		fault.AuthFailed:  http.StatusBadRequest,
		fault.NotFound:    http.StatusNotFound,
		fault.Conflict:    http.StatusConflict,
		fault.Internal:    http.StatusInternalServerError,
	} {
		t.Run(string(kind), func(t *testing.T) {
			// Also below a wrapper: what Vault gets must be bare.
			resp, err := respond(nil, fmt.Errorf("outer: %w", fault.New(kind, "the sentence")))
			status, sentence := statusOf(t, logical.UpdateOperation, resp, err)
			require.Equal(t, want, status)
			require.Equal(t, "outer: the sentence", sentence)
		})
	}
}

func TestRespondNamesTheFieldAndCarriesData(t *testing.T) {
	f := fault.Field("grace_period", "is too short")
	f.Data = map[string]any{"rotation_id": "r1"}
	resp, err := respond(nil, f)
	require.NoError(t, err)
	require.EqualError(t, resp.Error(), "grace_period: is too short")
	require.Equal(t, map[string]any{"rotation_id": "r1"}, resp.Data["data"])
}

// A node that may not write lets Vault forward the request. Over the plugin
// protocol the error is text alone.
func TestRespondForwardsReadOnly(t *testing.T) {
	for _, err := range []error{
		fmt.Errorf("write role/a: %w", logical.ErrReadOnly),
		fmt.Errorf("write role/a: %w", errors.New(logical.ErrReadOnly.Error())),
	} {
		resp, got := respond(nil, err)
		require.Nil(t, resp)
		require.Equal(t, logical.ErrReadOnly, got, "unwrapped")
	}
	// A target that says the same is a target that failed.
	resp, err := respond(nil, fault.New(fault.Target, "%s", logical.ErrReadOnly))
	require.NoError(t, err)
	require.True(t, resp.IsError())
}

func TestRespondLeavesOthersAlone(t *testing.T) {
	resp, err := respond(&logical.Response{}, nil)
	require.NoError(t, err)
	require.NotNil(t, resp)

	_, err = respond(nil, logical.ErrUnsupportedPath)
	require.Equal(t, logical.ErrUnsupportedPath, err)
}
