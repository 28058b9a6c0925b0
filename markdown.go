package rotationsecrets

import (
	"strings"
	"unicode"
)

// markdown is a document in the making (CommonMark, with the tables of GitHub). What is
// laid into it is text: nothing of it is read as Markdown or HTML.
type markdown struct{ b strings.Builder }

// String is the document so far.
func (d *markdown) String() string { return strings.TrimRight(d.b.String(), "\n") + "\n" }

// line adds one that is Markdown already.
func (d *markdown) line(text string) { d.b.WriteString(text + "\n") }

// section begins one under a heading of ours, "" for none.
func (d *markdown) section(heading string) {
	d.line("")
	if heading != "" {
		d.line("## " + heading)
		d.line("")
	}
}

// orNone says so where a section lists nothing.
func (d *markdown) orNone(n int) {
	if n == 0 {
		d.line("None.")
	}
}

// table adds rows of texts.
func (d *markdown) table(heads []string, rows [][]string) {
	if len(rows) == 0 {
		d.line("None.")
		return
	}
	d.line("| " + strings.Join(heads, " | ") + " |")
	d.line("|" + strings.Repeat(" --- |", len(heads)))
	for _, row := range rows {
		cells := make([]string, 0, len(row))
		for _, text := range row {
			cells = append(cells, inline(text))
		}
		d.line("| " + strings.Join(cells, " | ") + " |")
	}
}

// quote adds a text as a block of its own, line by line.
func (d *markdown) quote(text string) {
	text = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\v", "\n", "\f", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n").Replace(text)
	for line := range strings.SplitSeq(strings.Trim(text, "\n"), "\n") {
		if line = inline(line); line == "" {
			d.line(">")
			continue
		}
		d.line("> " + line + "  ") // two spaces keep the line's end
	}
}

// special are the characters that make Markdown, HTML or a link out of a text wherever
// they stand. A backslash before any of them makes it a plain character.
const special = "\\`*_[]<>|#~&!$"

// inline makes a text of one line that reads as it was written, wherever on a line it
// stands.
func inline(text string) string {
	var b strings.Builder
	plain := strings.Join(strings.Fields(printable(text)), " ")
	for i, r := range plain {
		switch {
		case strings.ContainsRune(special, r), i == 0 && strings.ContainsRune("-+=", r), marksList(plain, i):
			b.WriteByte('\\')
		case r == ':' && strings.HasPrefix(plain[i:], "://"), r == '.' && i >= 3 && strings.EqualFold(plain[i-3:i], "www"):
			b.WriteByte('\\') // no address becomes a link
		}
		b.WriteRune(r)
	}
	return b.String()
}

// marksList tells whether the character at i would make a text that begins with a number
// an entry of a list.
func marksList(text string, i int) bool {
	return i > 0 && (text[i] == '.' || text[i] == ')') && strings.Trim(text[:i], "0123456789") == ""
}

// printable replaces what cannot be seen, or changes how what stands around it is seen.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r):
			return unicode.ReplacementChar
		default:
			return r
		}
	}, strings.ToValidUTF8(text, "\ufffd"))
}
