package notify_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
)

func TestFailureOf(t *testing.T) {
	t.Parallel()
	said := &notify.Failure{Permanent: true, Reason: "gone", Err: context.Canceled}
	require.Same(t, said, notify.FailureOf(fmt.Errorf("deliver: %w", said)))
	require.ErrorIs(t, said, context.Canceled)

	other := errors.New("something else")
	got := notify.FailureOf(other)
	require.Equal(t, &notify.Failure{Reason: "something else", Err: other}, got, "it is tried again")
	require.ErrorIs(t, got, other)
}

func TestSeverityAtLeast(t *testing.T) {
	t.Parallel()
	require.True(t, notify.Critical.AtLeast(notify.Warning))
	require.True(t, notify.Warning.AtLeast(notify.Warning))
	require.False(t, notify.Info.AtLeast(notify.Warning))
}
