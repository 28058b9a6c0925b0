// Package runbook reads docs/runbook.md as its tests do. A fence of ```sh is run by bash, all in one
// go, and fails when one of its commands does. Words behind sh say more:
//
//	setup        it is run before all others
//	after=25h    so much time goes by before it
//	until        it is repeated, and time goes by, until it prints what is expected
//	kubernetes   it is run where there is a cluster
//
// A fence of ```text right behind it is what it prints, line by line: lines may be missing in between,
// blanks count as one, and ... stands for anything within a line. A comment <!-- meanwhile: ... --> names
// what happens outside before the next command, which the test does.
package runbook

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Block is a fence of commands.
type Block struct {
	// Line is where it stands in the page.
	Line int
	Code string
	// Prints are the lines to expect, Meanwhile what happens before it.
	Prints, Meanwhile        []string
	Setup, Until, Kubernetes bool
	After                    time.Duration
}

var (
	fenceLine     = regexp.MustCompile("^(?: *)```(.*)$")
	meanwhileLine = regexp.MustCompile(`^<!-- meanwhile: (.+) -->$`)
)

// Read finds the blocks of a page, those of the setup first.
func Read(text string) (blocks []Block, err error) {
	var meanwhile []string
	lines := strings.Split(text, "\n")
	follows := false // nothing but blank lines since the last block
	for i := 0; i < len(lines); i++ {
		if found := meanwhileLine.FindStringSubmatch(lines[i]); found != nil {
			meanwhile = append(meanwhile, found[1])
		}
		opening := fenceLine.FindStringSubmatch(lines[i])
		if opening == nil {
			follows = follows && strings.TrimSpace(lines[i]) == ""
			continue
		}
		start := i + 1
		for i++; i < len(lines) && fenceLine.FindStringSubmatch(lines[i]) == nil; i++ {
		}
		if i == len(lines) {
			return nil, fmt.Errorf("line %d: the fence has no end", start)
		}
		inside := outdented(lines[start:i], len(lines[start-1])-len(strings.TrimLeft(lines[start-1], " ")))
		words := strings.Fields(opening[1])
		switch {
		case follows && slices.Equal(words, []string{"text"}):
			blocks[len(blocks)-1].Prints = inside
			follows = false
		case len(words) > 0 && words[0] == "sh":
			b := Block{Line: start, Code: strings.Join(inside, "\n"), Meanwhile: meanwhile}
			if err := b.read(words[1:]); err != nil {
				return nil, fmt.Errorf("line %d: %w", start, err)
			}
			blocks, meanwhile, follows = append(blocks, b), nil, true
		default:
			follows = false
		}
	}
	if meanwhile != nil {
		return nil, fmt.Errorf("no command follows what happens meanwhile: %s", meanwhile)
	}
	slices.SortStableFunc(blocks, func(a, b Block) int {
		switch {
		case a.Setup == b.Setup:
			return 0
		case a.Setup:
			return -1
		}
		return 1
	})
	return blocks, nil
}

// outdented takes the blanks away by which a fence in a list is moved to the right.
func outdented(lines []string, by int) (out []string) {
	for _, line := range lines {
		out = append(out, strings.TrimPrefix(line, strings.Repeat(" ", by)))
	}
	return out
}

func (b *Block) read(words []string) (err error) {
	for _, word := range words {
		switch name, value, _ := strings.Cut(word, "="); name {
		case "setup":
			b.Setup = true
		case "until":
			b.Until = true
		case "kubernetes":
			b.Kubernetes = true
		case "after":
			if b.After, err = time.ParseDuration(value); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%q says nothing of how a block is run", word)
		}
	}
	return nil
}

// Missing is the first line that was to be printed and was not; empty if there is none.
func (b *Block) Missing(printed string) string {
	at, lines := 0, strings.Split(printed, "\n")
	for _, want := range b.Prints {
		form := lineForm(want)
		for at < len(lines) && !form.MatchString(oneBlank(lines[at])) {
			at++
		}
		if at == len(lines) {
			return want
		}
		at++
	}
	return ""
}

func oneBlank(line string) string { return strings.Join(strings.Fields(line), " ") }

func lineForm(want string) *regexp.Regexp {
	parts := strings.Split(oneBlank(want), "...")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".*") + "$")
}
