package egress

import (
	"html"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// view is a way to read a text: its byte i stands for text[from[i]:to[i]] of the original.
type view struct {
	text     []byte
	from, to []int
}

func viewOf(text string) view {
	v := view{text: []byte(text), from: make([]int, len(text)), to: make([]int, len(text))}
	for i := range v.text {
		v.from[i], v.to[i] = i, i+1
	}
	return v
}

func (v *view) add(b byte, from, to int) {
	v.text, v.from, v.to = append(v.text, b), append(v.from, from), append(v.to, to)
}

// compact leaves out what Text does not show, and blanks: a secret is the same with a line
// break in it, or with a zero byte.
func (v view) compact() view {
	out := view{text: make([]byte, 0, len(v.text)), from: make([]int, 0, len(v.text)), to: make([]int, 0, len(v.text))}
	for i := 0; i < len(v.text); {
		r, size := utf8.DecodeRune(v.text[i:])
		if printable(r, size) {
			for j := i; j < i+size; j++ {
				out.add(v.text[j], v.from[j], v.to[j])
			}
		}
		i += size
	}
	return out
}

// escape reads an escape at the beginning of a text: what it stands for, and how many
// bytes it takes; 0 where there is none.
type escape func(text []byte) (plain string, size int)

var escapes = []escape{percent, form, backslash, entity}

// decoded gives the views that reading an escape leads to, where there is one to read.
func (v view) decoded() []view {
	var list []view
	for _, read := range escapes {
		if out, changed := v.decode(read); changed {
			list = append(list, out)
		}
	}
	return list
}

func (v view) decode(read escape) (out view, changed bool) {
	for i := 0; i < len(v.text); {
		plain, size := read(v.text[i:])
		if size == 0 {
			out.add(v.text[i], v.from[i], v.to[i])
			i++
			continue
		}
		changed = true
		for j := range len(plain) {
			out.add(plain[j], v.from[i], v.to[i+size-1])
		}
		i += size
	}
	return out, changed
}

func percent(text []byte) (string, int) {
	if text[0] != '%' {
		return "", 0
	}
	return hexadecimal(text, 1, 3)
}

// form is what percent is in the body of a form and in most queries.
func form(text []byte) (string, int) {
	if text[0] == '+' {
		return " ", 1
	}
	return percent(text)
}

// hexadecimal reads the byte that text[from:to] names.
func hexadecimal(text []byte, from, to int) (string, int) {
	if len(text) < to {
		return "", 0
	}
	n, err := strconv.ParseUint(string(text[from:to]), 16, 8)
	if err != nil {
		return "", 0
	}
	return string([]byte{byte(n)}), to
}

// backslash reads JSON's escapes, and \x41 of programming languages.
func backslash(text []byte) (string, int) {
	if text[0] != '\\' || len(text) < 2 {
		return "", 0
	}
	switch text[1] {
	case '"', '\\', '/', '\'':
		return string(text[1:2]), 2
	case 'b', 'f', 'n', 'r', 't':
		return " ", 2 // one blank is like another
	case 'x':
		return hexadecimal(text, 2, 4)
	case 'u':
		return utf16Escape(text)
	}
	return "", 0
}

// utf16Escape reads \u0041, and a pair of them where one is half a character.
func utf16Escape(text []byte) (string, int) {
	unit := func(at int) (rune, bool) {
		if len(text) < at+6 || text[at] != '\\' || text[at+1] != 'u' {
			return 0, false
		}
		n, err := strconv.ParseUint(string(text[at+2:at+6]), 16, 16)
		return rune(n), err == nil
	}
	first, ok := unit(0)
	if !ok {
		return "", 0
	}
	if utf16.IsSurrogate(first) {
		if second, ok := unit(6); ok && utf16.DecodeRune(first, second) != utf8.RuneError {
			return string(utf16.DecodeRune(first, second)), 12
		}
	}
	return string(first), 6
}

// entity reads HTML's escapes.
func entity(text []byte) (string, int) {
	if text[0] != '&' {
		return "", 0
	}
	end := strings.IndexByte(string(text[:min(len(text), 12)]), ';')
	if end < 0 {
		return "", 0
	}
	escaped := string(text[:end+1])
	if plain := html.UnescapeString(escaped); plain != escaped {
		return plain, end + 1
	}
	return "", 0
}
