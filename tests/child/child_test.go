package child_test

import (
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/child"
)

func TestProcessEndsWhenAsked(t *testing.T) {
	p, err := child.Start(exec.CommandContext(t.Context(), "sleep", "300"))
	require.NoError(t, err)
	require.Positive(t, p.PID())
	require.NoError(t, p.Stop(time.Minute))
	require.NoError(t, p.Stop(time.Minute), "it has ended")
	require.ErrorContains(t, p.Err(), "terminated")
}

func TestProcessThatDoesNotListenIsKilled(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `trap "" TERM; echo ready; exec sleep 300`)
	output, err := cmd.StdoutPipe()
	require.NoError(t, err)
	p, err := child.Start(cmd)
	require.NoError(t, err)
	_, err = output.Read(make([]byte, 16))
	require.NoError(t, err, "until it has its trap")
	require.ErrorContains(t, p.Stop(50*time.Millisecond), "was killed")
}

func TestProcessThatCannotStart(t *testing.T) {
	_, err := child.Start(exec.CommandContext(t.Context(), "/nonexistent"))
	require.ErrorContains(t, err, "start /nonexistent")
}
