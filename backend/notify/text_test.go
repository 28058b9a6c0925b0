package notify_test

import (
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
)

func length(text string) int { return len(utf16.Encode([]rune(text))) }

func TestCut(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text  string
		limit int
		want  string
	}{
		{"", 5, ""},
		{"12345", 5, "12345"},
		{"123456", 5, "1234…"},
		{"ääääää", 5, "ääää…"},
		{"日本語日本語", 3, "日本…"},
		{"🔑🔑", 4, "🔑🔑"},
		{"🔑🔑🔑", 4, "🔑…"}, // half a pair is left unused
		{"🔑", 1, "…"},
		{"a\xffb", 3, "a\ufffdb"},
		{"a\x00\r\n\tb\x1b", 4, "a\n\tb"},
	} {
		require.Equal(t, c.want, notify.Cut(c.text, c.limit), "%q to %d", c.text, c.limit)
	}
}

func TestCutEscaped(t *testing.T) {
	t.Parallel()
	escapes := map[rune]string{'&': "&amp;", '<': "&lt;"}
	require.Equal(t, "a&amp;b", notify.CutEscaped("a&b", 7, escapes))
	require.Equal(t, "a…", notify.CutEscaped("a&b", 6, escapes), "no escape is cut")
	require.Equal(t, "&lt;…", notify.CutEscaped("<<<", 8, escapes))
}

func TestWhatIsCutFits(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text, limit := rapid.String().Draw(t, "text"), rapid.IntRange(1, 30).Draw(t, "limit")
		cut := notify.CutEscaped(text, limit, map[rune]string{'&': "&amp;"})
		require.LessOrEqual(t, length(cut), limit)
		require.True(t, utf8.ValidString(cut))
		plain := strings.ReplaceAll(strings.TrimSuffix(cut, "…"), "&amp;", "&")
		visible := strings.Map(func(r rune) rune {
			if unicode.IsControl(r) && r != '\n' && r != '\t' {
				return -1
			}
			return r
		}, text)
		require.True(t, strings.HasPrefix(visible, plain), "what is shown is the beginning")
	})
}

func TestLine(t *testing.T) {
	t.Parallel()
	require.Equal(t, "a b c", notify.Line(" a\r\nb\t\x00\u2028 c\u202e\n"))
	require.Empty(t, notify.Line("\r\n"))
}

func TestRoleNames(t *testing.T) {
	t.Parallel()
	require.Empty(t, notify.RoleNames(nil, 10))
	require.Equal(t, "a", notify.RoleNames([]string{"a"}, 10))
	require.Equal(t, "a, b, c", notify.RoleNames([]string{"a", "b", "c"}, 7))
	require.Equal(t, "abc, def and 3 more", notify.RoleNames([]string{"abc", "def", "ghi", "jkl", "mno"}, 19))
	require.Equal(t, "abc and 4 more", notify.RoleNames([]string{"abc", "def", "ghi", "jkl", "mno"}, 18))
	require.Equal(t, "aaa… and 1 more", notify.RoleNames([]string{"aaaaaaaa", "bbbbbbb"}, 15))
	require.Equal(t, "aaaa…", notify.RoleNames([]string{"aaaaaaaa"}, 5))

	var many []string
	for i := range 500 {
		many = append(many, fmt.Sprintf("role-%03d", i))
	}
	got := notify.RoleNames(many, 60)
	require.Equal(t, "role-000, role-001, role-002, role-003 and 496 more", got)
}
