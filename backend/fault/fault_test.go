package fault_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

func TestNew(t *testing.T) {
	t.Parallel()
	err := fault.New(fault.Unreachable, "dial %s: %w", "db", io.ErrUnexpectedEOF)
	require.EqualError(t, err, "dial db: unexpected EOF")
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.True(t, fault.Is(err, fault.Unreachable))

	require.NoError(t, errors.Unwrap(fault.New(fault.Conflict, "plain: %v", io.EOF)), "%v keeps no cause")
	both := fault.New(fault.Target, "first %w, second %w", io.EOF, io.ErrClosedPipe)
	require.ErrorIs(t, both, io.EOF)
	require.ErrorIs(t, both, io.ErrClosedPipe)
	require.EqualError(t, both, "first EOF, second io: read/write on closed pipe")
}

func TestField(t *testing.T) {
	t.Parallel()
	err := fault.Field("grace_period", "must be at least %ds", 20)
	require.EqualError(t, err, "grace_period: must be at least 20s")
	require.Equal(t, "grace_period", err.Field)
	require.Equal(t, "must be at least 20s", err.Message)
	require.True(t, fault.Is(err, fault.Invalid))
}

func TestKindOf(t *testing.T) {
	t.Parallel()
	inner := fault.New(fault.AuthFailed, "refused")
	for name, tc := range map[string]struct {
		err  error
		want fault.Kind
	}{
		"nothing":              {nil, ""},
		"a plain error":        {io.EOF, fault.Internal},
		"a fault":              {inner, fault.AuthFailed},
		"a fault, wrapped":     {fmt.Errorf("log in: %w", inner), fault.AuthFailed},
		"the outermost counts": {fault.New(fault.Target, "verify: %w", inner), fault.Target},
		"one of several":       {errors.Join(io.EOF, inner), fault.AuthFailed},
		"a fault around plain": {fault.New(fault.NotFound, "x: %w", io.EOF), fault.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, tc.want, fault.KindOf(tc.err))
			for _, kind := range []fault.Kind{"", fault.Internal, fault.AuthFailed, fault.Target, fault.NotFound} {
				require.Equal(t, tc.err != nil && kind == tc.want, fault.Is(tc.err, kind), kind)
			}
		})
	}
}

func TestInKeepsKindAndField(t *testing.T) {
	t.Parallel()
	require.NoError(t, fault.In("look", nil))
	inner := fault.Field("key", "is empty")
	err := fault.In("look", inner)
	require.Equal(t, fault.Invalid, fault.KindOf(err))
	require.EqualError(t, err, "key: look: is empty")
	require.ErrorIs(t, err, inner)

	plain := errors.New("no")
	err = fault.In("look", plain)
	require.EqualError(t, err, "look: no")
	require.ErrorIs(t, err, plain)
}
