package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

func TestDiagramsHaveEveryLineOfTheTables(t *testing.T) {
	t.Parallel()
	got := string(diagrams())
	for _, tr := range rotation.Transitions {
		require.Contains(t, got, "    "+string(tr.From)+" --> "+target(tr)+": "+tr.When+"\n")
	}
	for _, tr := range rotation.VersionTransitions {
		require.Contains(t, got, "    "+string(tr.From)+" --> "+string(tr.To)+": "+tr.When+"\n")
	}
	for _, ended := range []string{"succeeded", "failed", "blocked", "superseded", "rolled_back", "retired", "discarded"} {
		require.Equal(t, 1, strings.Count(got, "    "+ended+" --> [*]\n"), ended)
	}
}

// A colon would end the label, a semicolon the line.
func TestLabelsAreMermaid(t *testing.T) {
	t.Parallel()
	for _, tr := range rotation.Transitions {
		require.NotContains(t, tr.When, ":")
		require.NotContains(t, tr.When, ";")
	}
	for _, tr := range rotation.VersionTransitions {
		require.NotContains(t, tr.When, ":")
		require.NotContains(t, tr.When, ";")
	}
}

func TestInsert(t *testing.T) {
	t.Parallel()
	got, err := insert([]byte("head\n"+begin+"old\n"+end+"tail\n"), []byte("new\n"))
	require.NoError(t, err)
	require.Equal(t, "head\n"+begin+"new\n"+end+"tail\n", string(got))
	for _, doc := range []string{"", begin, end, end + begin} {
		_, err := insert([]byte(doc), nil)
		require.ErrorContains(t, err, "are not there")
	}
}

func TestArchitectureIsCurrent(t *testing.T) {
	t.Parallel()
	path := filepath.Join("..", "..", "docs", "architecture.md")
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	after, err := insert(before, diagrams())
	require.NoError(t, err)
	require.Equal(t, string(before), string(after), "run `make generate`")
}
