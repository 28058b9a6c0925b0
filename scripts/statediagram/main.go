// Command statediagram writes the legal transitions of rotations and of versions,
// as Mermaid diagrams, between the markers of the file that is named, or else to
// its standard output:
//
//	go run ./scripts/statediagram docs/architecture.md
package main

//go:generate go run . ../../docs/architecture.md

import (
	"bytes"
	"fmt"
	"os"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

// The markers stand on lines of their own; what is between them is ours.
const (
	begin = "<!-- begin generated: scripts/statediagram -->\n"
	end   = "<!-- end generated -->\n"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "statediagram:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		_, err := os.Stdout.Write(diagrams())
		return err
	}
	before, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	after, err := insert(before, diagrams())
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return os.WriteFile(args[0], after, 0o644)
}

// insert replaces what stands between the markers.
func insert(doc, generated []byte) ([]byte, error) {
	head, rest, found := bytes.Cut(doc, []byte(begin))
	_, tail, closed := bytes.Cut(rest, []byte(end))
	if !found || !closed {
		return nil, fmt.Errorf("the markers %q and %q are not there", begin, end)
	}
	return bytes.Join([][]byte{head, []byte(begin), generated, []byte(end), tail}, nil), nil
}

func diagrams() []byte {
	var out bytes.Buffer
	out.WriteString("\nA rotation: the phase it is in, and, where it ends, the outcome it ends with.\n\n```mermaid\nstateDiagram-v2\n")
	fmt.Fprintf(&out, "    [*] --> %s: begin\n", rotation.Planned)
	for _, t := range rotation.Transitions {
		fmt.Fprintf(&out, "    %s --> %s: %s\n", t.From, target(t), t.When)
	}
	for _, o := range outcomes() {
		fmt.Fprintf(&out, "    %s --> [*]\n", o)
	}
	out.WriteString("```\n\nA version.\n\n```mermaid\nstateDiagram-v2\n")
	fmt.Fprintf(&out, "    [*] --> %s: Plan done\n", rotation.Pending)
	left := map[rotation.VersionState]bool{}
	for _, t := range rotation.VersionTransitions {
		fmt.Fprintf(&out, "    %s --> %s: %s\n", t.From, t.To, t.When)
		left[t.From] = true
	}
	seen := map[rotation.VersionState]bool{}
	for _, t := range rotation.VersionTransitions {
		if !seen[t.To] && (t.To.Ended() || !left[t.To]) {
			fmt.Fprintf(&out, "    %s --> [*]\n", t.To)
		}
		seen[t.To] = true
	}
	out.WriteString("```\n\n")
	return out.Bytes()
}

// target is where a transition leads: the next phase, or the outcome.
func target(t rotation.Transition) string {
	if t.Outcome != "" {
		return string(t.Outcome)
	}
	return string(t.To)
}

// outcomes lists the outcomes of the table, once each, in its order.
func outcomes() (list []rotation.Outcome) {
	seen := map[rotation.Outcome]bool{"": true}
	for _, t := range rotation.Transitions {
		if !seen[t.Outcome] {
			list = append(list, t.Outcome)
		}
		seen[t.Outcome] = true
	}
	return list
}
