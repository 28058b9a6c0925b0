package notify

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
)

const ellipsis = "…"

// Cut shortens a text to at most limit characters, the last an ellipsis where something is
// left out. A character beyond the basic plane counts as two, as it does where a service
// counts in UTF-16: what fits so fits for those that count characters.
func Cut(text string, limit int) string { return CutEscaped(text, limit, nil) }

// CutEscaped is Cut for a text in which some characters are written as something longer:
// what was written counts, and none is cut in two. Both leave control characters out, but for
// line breaks and tabs: services refuse some of them, and nobody sees them.
func CutEscaped(text string, limit int, escapes map[rune]string) string {
	var out strings.Builder
	length, fits := 0, 0 // fits is the beginning, in bytes, that leaves place for an ellipsis
	for _, r := range text {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			continue
		}
		piece, escaped := escapes[r]
		if !escaped {
			piece = string(r)
		}
		if length += characters(piece); length > limit {
			return out.String()[:fits] + ellipsis
		}
		out.WriteString(piece)
		if length < limit {
			fits = out.Len()
		}
	}
	return out.String()
}

func characters(text string) (n int) {
	for _, r := range text {
		n += utf16.RuneLen(r) // of what range makes of text, which is a surrogate never
	}
	return n
}

// Line puts a text on one line: line breaks and what else cannot be shown become blanks, of
// which there is one at a time and none at the ends.
func Line(text string) string {
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	}), " ")
}

// RoleNames lists roles in at most limit characters: all of them, or the first, and how many
// more there are.
func RoleNames(roles []string, limit int) string {
	list, best := "", ""
	for i, name := range roles {
		if i > 0 {
			list += ", "
		}
		list += name
		whole := list + more(len(roles)-i-1)
		if characters(list) > limit {
			break
		}
		if characters(whole) <= limit {
			best = whole
		}
	}
	if best == "" && len(roles) > 0 {
		rest := more(len(roles) - 1)
		return Cut(roles[0], limit-characters(rest)) + rest
	}
	return best
}

func more(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(" and %d more", n)
}
