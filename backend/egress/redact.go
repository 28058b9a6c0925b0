package egress

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

const (
	// maxText bounds what Text gives, and maxPiece what it looks at for it, in bytes.
	maxText  = 200
	maxPiece = 4 << 10
	// fragment is how much of a secret, in a row, is too much: less is what providers show
	// when they mask a key themselves.
	fragment = 12
	// minEncoded is how long a secret must be to be looked for in base64 or hexadecimal: of a
	// shorter one so few characters are certain that they stand in any text.
	minEncoded = 6
)

// Text gives a piece of an answer for a sentence: bounded, on one line, printable, and
// without the secrets of the request, be they whole or cut, plain or encoded: with
// percent signs, with JSON's or HTML's escapes, in hexadecimal, in base64 also where
// something stands before them, or two of these in turn. Twelve bytes in a row from anywhere
// in a secret count as it, in upper case or lower.
func (r Request) Text(piece string) string {
	cut := len(piece) > maxPiece
	if cut {
		piece = piece[:maxPiece]
	}
	found := make(marks, len(piece))
	if n := needlesOf(r.Secrets); len(n) > 0 {
		v := viewOf(piece)
		n.mark(v, found)
		for _, first := range v.decoded() {
			n.mark(first, found)
			for _, second := range first.decoded() {
				n.mark(second, found)
			}
		}
		found.spread(piece)
	}
	return bound(line(piece, found), cut)
}

// needles are what is looked for: each row of so many bytes that a secret has, in lower
// case, by their number, and whether it is base64.
type needles map[int]map[string]bool

func needlesOf(secrets []secret.String) needles {
	n := needles{}
	for _, s := range secrets {
		plain := s.Reveal()
		n.add(string(viewOf(plain).compact().text), fragment, false)
		if len(plain) < minEncoded {
			continue
		}
		n.add(hex.EncodeToString([]byte(plain)), hex.EncodedLen(fragment), false)
		for _, core := range base64Cores(plain) {
			n.add(core, fragment, true)
			n.add(strings.NewReplacer("+", "-", "/", "_").Replace(core), fragment, true)
		}
	}
	return n
}

func (n needles) add(text string, limit int, encoded bool) {
	text = string(lower([]byte(text)))
	size := min(len(text), limit)
	if size == 0 {
		return
	}
	if n[size] == nil {
		n[size] = map[string]bool{}
	}
	for i := 0; i+size <= len(text); i++ {
		n[size][text[i:i+size]] = encoded || n[size][text[i:i+size]]
	}
}

// base64Cores gives what surely stands in the base64 of any text that holds a secret: for
// each of the three ways it may lie to groups of three bytes, the characters that depend
// on the secret alone. What stands before it is, for one, the user of basic authentication.
func base64Cores(plain string) []string {
	cores := make([]string, 0, 3)
	for lead := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString(append(make([]byte, lead), plain...))
		cores = append(cores, encoded[(lead*8+5)/6:(lead+len(plain))*8/6])
	}
	return cores
}

// mark finds the needles in a view, and marks where they were read from.
func (n needles) mark(v view, found marks) {
	v = v.compact()
	text := lower(v.text)
	for size, rows := range n {
		for i := 0; i+size <= len(text); i++ {
			encoded, ok := rows[string(text[i:i+size])]
			if !ok {
				continue
			}
			for at := v.from[i]; at < v.to[i+size-1]; at++ {
				found[at].hidden = true
				found[at].encoded = found[at].encoded || encoded
			}
		}
	}
}

// lower is a text with the letters of ASCII in lower case; what else it holds keeps its
// length.
func lower(text []byte) []byte {
	out := make([]byte, len(text))
	for i, b := range text {
		if b >= 'A' && b <= 'Z' {
			b += 'a' - 'A'
		}
		out[i] = b
	}
	return out
}

// marks say of each byte of a piece what becomes of it.
type marks []struct{ hidden, encoded bool }

// spread hides all of a word in base64 of which a part is: its ends hold bits of the
// secret, and the user's name beside it.
func (m marks) spread(piece string) {
	step := func(i, from int) {
		if m[from].encoded && !m[i].hidden && inBase64(piece[i]) {
			m[i] = m[from]
		}
	}
	for i := 1; i < len(m); i++ {
		step(i, i-1)
	}
	for i := len(m) - 2; i >= 0; i-- {
		step(i, i+1)
	}
}

func inBase64(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || strings.IndexByte("+/-_=", b) >= 0
}

// line writes what is not hidden, on one line and without what cannot be printed.
func line(piece string, found marks) string {
	var out strings.Builder
	space, placed := false, false
	write := func(text string) {
		if space && out.Len() > 0 {
			out.WriteByte(' ')
		}
		space = false
		out.WriteString(text)
	}
	for i := 0; i < len(piece); {
		if found[i].hidden {
			if !placed {
				write(secret.Placeholder)
			}
			placed = true
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(piece[i:])
		switch {
		case unicode.IsSpace(r) || unicode.IsControl(r):
			space = true
		case printable(r, size):
			write(piece[i : i+size])
			placed = false
		}
		i += size
	}
	return out.String()
}

// bound cuts a text to what a sentence bears, between characters.
func bound(text string, cut bool) string {
	const more = "…"
	if len(text) > maxText {
		end := maxText - len(more)
		for end > 0 && !utf8.RuneStart(text[end]) {
			end--
		}
		text, cut = text[:end], true
	}
	if cut {
		text += more
	}
	return text
}

// printable tells whether a rune is kept where it is looked for secrets, and shown.
func printable(r rune, size int) bool {
	return (r != utf8.RuneError || size > 1) && r != ' ' && unicode.IsPrint(r)
}
