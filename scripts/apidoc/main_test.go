package main

import (
	"bytes"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// The document in the repository is what the registered paths say.
func TestDocumentIsCurrent(t *testing.T) {
	var want bytes.Buffer
	require.NoError(t, run(&want))
	got, err := os.ReadFile("../../docs/api.md")
	require.NoError(t, err)
	require.Equal(t, want.String(), string(got), "run: go generate ./scripts/apidoc")
}
