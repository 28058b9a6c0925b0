package egress

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

func carrying(secrets ...string) Request {
	var r Request
	for _, s := range secrets {
		r.Secrets = append(r.Secrets, secret.New(s))
	}
	return r
}

func TestTextIsForASentence(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ piece, want string }{
		{"", ""},
		{"plain", "plain"},
		{" a\r\n\tb\x00\u2028c\u00a0 ", "a b c"},
		{"bad \xff\xfe UTF-8 \xe2\x82", "bad UTF-8"},
		{"h\u00e9 \u4e16\u754c", "h\u00e9 \u4e16\u754c"},
		{"right\u202eleft\u200b\ufeff zero", "rightleft zero"},
		{"\x1b[31mred", "[31mred"},
		{`{"error":{"message":"no \"x\""}}`, `{"error":{"message":"no \"x\""}}`},
		{strings.Repeat("x", 200), strings.Repeat("x", 200)},
		{strings.Repeat("x", 201), strings.Repeat("x", 197) + "…"},
		{strings.Repeat("x", 196) + "\u00e9y\u00e9", strings.Repeat("x", 196) + "…"},
		{strings.Repeat("\x00", 1<<20), "…"},
	} {
		require.Equal(t, tc.want, carrying().Text(tc.piece), "%.40q", tc.piece)
		require.Equal(t, tc.want, carrying("", "not in there at all").Text(tc.piece), "%.40q", tc.piece)
	}
}

// A key with all that encodings change.
const key = `sk-proj-A+b/c"d<e>&f g=h%41\i` + "\u00e9" + `0123456789`

func TestTextHidesSecrets(t *testing.T) {
	t.Parallel()
	r := carrying("another-secret", key)
	for name, encoded := range encodings(key) {
		got := r.Text("before: " + encoded + ", after")
		require.Equal(t, "before: [redacted], after", got, name)
	}
	require.Equal(t, "[redacted] and [redacted]", r.Text(key+" and another-secret"))
	require.Equal(t, "7573653a[redacted]6d6f7265", r.Text(hex.EncodeToString([]byte("use:"+key+"more"))))
}

func encodings(s string) map[string]string {
	quoted, _ := json.Marshal(s)
	inJSON := string(quoted[1 : len(quoted)-1])
	return map[string]string{
		"plain":              s,
		"lower case":         string(lower([]byte(s))),
		"upper case":         upper(s),
		"hexadecimal":        hex.EncodeToString([]byte(s)),
		"HEXADECIMAL":        upper(hex.EncodeToString([]byte(s))),
		"query":              url.QueryEscape(s),
		"path":               url.PathEscape(s),
		"each byte":          eachByte(s),
		"in JSON":            inJSON,
		"in JSON twice":      strings.ReplaceAll(strings.ReplaceAll(inJSON, `\`, `\\`), `"`, `\"`),
		"in HTML":            html.EscapeString(s),
		"query in JSON":      strings.ReplaceAll(url.QueryEscape(s), "%", `\u0025`),
		"query of a query":   url.QueryEscape(url.QueryEscape(s)),
		"slashes":            strings.ReplaceAll(inJSON, "/", `\/`),
		"on two lines":       s[:10] + "\r\n " + s[10:],
		"with a zero":        s[:10] + "\x00" + s[10:],
		"with a zero width":  s[:10] + "\u200b" + s[10:],
		"base64":             base64.StdEncoding.EncodeToString([]byte(s)),
		"base64 of URLs":     base64.RawURLEncoding.EncodeToString([]byte(s)),
		"basic":              base64.StdEncoding.EncodeToString([]byte("u:" + s)),
		"basic, longer":      base64.StdEncoding.EncodeToString([]byte("us:" + s)),
		"basic, longer user": base64.StdEncoding.EncodeToString([]byte("use:" + s + "more")),
		"base64 in JSON":     strings.ReplaceAll(base64.StdEncoding.EncodeToString([]byte("use:"+s)), "/", `\/`),
		"base64 in lines":    base64.StdEncoding.EncodeToString([]byte(s))[:20] + "\r\n" + base64.StdEncoding.EncodeToString([]byte(s))[20:],
	}
}

// upper changes the letters of ASCII alone.
func upper(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' {
			return r - 'a' + 'A'
		}
		return r
	}, s)
}

func eachByte(s string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, "%%%02x", s[i])
	}
	return b.String()
}

// What a provider shows of a key stays, and nothing more does.
func TestTextLeavesTheProvidersOwnMask(t *testing.T) {
	t.Parallel()
	r := carrying("sk-abcdefghijklmnopqrstuvwxyz012345")
	for piece, want := range map[string]string{
		"Incorrect API key provided: sk-abc**********2345.":                     "Incorrect API key provided: sk-abc**********2345.",
		"Incorrect API key provided: sk-abcdefghijklmnopqrstuvwxyz012345.":      "Incorrect API key provided: [redacted].",
		"Incorrect API key provided: sk-abcdefghijk...":                         "Incorrect API key provided: [redacted]...",
		"sk-abcdefghijkl in " + hex.EncodeToString([]byte("abcdefghijk")):       "[redacted] in " + hex.EncodeToString([]byte("abcdefghijk")),
		hex.EncodeToString([]byte("abcdefghijkl")) + " and SK-ABCDEFGHIJ":       "[redacted] and [redacted]",
		"it ends in tuvwxyz012345, and has fghijklmnopqrs":                      "it ends in [redacted], and has [redacted]",
		"sk-abcdefgh and yz012345":                                              "sk-abcdefgh and yz012345",
		"sk-abcdefghijklmnop%71rstuvw":                                          "[redacted]",
		"Basic dXNlcjpzay1hYmNkZWZnaGlqa2xtbm9wcXJzdHV2d3h5ejAxMjM0NQ== no":     "Basic [redacted] no",
		"cut Basic dXNlcjpzay1hYmNkZWZnaGlqa2":                                  "cut Basic [redacted]",
		strings.Repeat("sk-abcdefghijklmnopqrstuvwxyz012345 ", 3) + "thrice":    "[redacted] thrice",
		strings.Repeat("y", 190) + "sk-abcdefghijklmnopqrstuvwxyz012345":        strings.Repeat("y", 190) + "[redacted]",
		strings.Repeat("\x00", maxPiece-14) + "sk-abcdefghijklmnopqrstuvwxyz01": "[redacted]…",
	} {
		require.Equal(t, want, r.Text(piece))
	}
}

func TestTextHidesShortSecretsAndLongOnes(t *testing.T) {
	t.Parallel()
	require.Equal(t, "pin [redacted]!", carrying("0042").Text("pin 0042!"))
	require.Equal(t, "pin [redacted]!", carrying("0042").Text("pin %30042!"))
	pem := "-----BEGIN PRIVATE KEY-----\n" + strings.Repeat("MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n", 20) + "-----END PRIVATE KEY-----\n"
	quoted, err := json.Marshal(pem)
	require.NoError(t, err)
	for _, piece := range []string{pem, strings.ReplaceAll(pem, "\n", ""), string(quoted), string(quoted[40:600])} {
		require.LessOrEqual(t, len(carrying(pem).Text(piece)), len(`"[redacted]"`)+2, "%q", carrying(pem).Text(piece))
	}
}

func FuzzText(f *testing.F) {
	f.Add("Incorrect API key provided: sk-abcdefghijklmnop", "sk-abcdefghijklmnop", "user:")
	f.Add("%73k-\\u0061bcdefghijklmnop&amp;", "sk-abcdefghijklmnop&", "")
	f.Add("line\nbreak\x00\xff", "a secret with\nbreaks \xff\u200b and all", "\u00e9")
	f.Add("0123456789[redacted]", "[redacted]0123456789", "x")
	for _, encoded := range encodings(key) {
		f.Add(encoded, key, ":")
	}
	f.Fuzz(func(t *testing.T, piece, plain, beside string) {
		r := carrying(plain)
		pieces := []string{piece, beside + plain + piece}
		for _, encoded := range encodings(strings.Repeat("-", max(0, 20-len(plain))) + plain) {
			pieces = append(pieces, beside+encoded+beside)
		}
		pieces = append(pieces, "Basic "+base64.StdEncoding.EncodeToString([]byte(beside+plain)))
		for _, p := range pieces {
			checkText(t, r, p, plain)
		}
	})
}

func checkText(t *testing.T, r Request, piece, plain string) {
	t.Helper()
	got := r.Text(piece)
	require.LessOrEqual(t, len(got), maxText+len("…"))
	require.True(t, utf8.ValidString(got))
	require.False(t, strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }), "%q", got)
	core := string(viewOf(plain).compact().text)
	if len(core) < fragment {
		return
	}
	// Between placeholders nothing of the secret is left, read as it stands or decoded.
	for _, part := range strings.Split(got, secret.Placeholder) {
		readings := []string{part, html.UnescapeString(part)}
		if read, err := url.QueryUnescape(part); err == nil {
			readings = append(readings, read)
		}
		if read, err := url.PathUnescape(part); err == nil {
			readings = append(readings, read)
		}
		var inJSON string
		if json.Unmarshal([]byte(`"`+part+`"`), &inJSON) == nil {
			readings = append(readings, inJSON)
		}
		for _, word := range strings.Fields(part) {
			if read, err := hex.DecodeString(word); err == nil && len(plain) == len(core) {
				readings = append(readings, string(read))
			}
			if read, err := base64.StdEncoding.DecodeString(word); err == nil && len(plain) == len(core) {
				readings = append(readings, string(read))
			}
		}
		for _, read := range readings {
			read = string(lower(viewOf(read).compact().text))
			for i := 0; i+fragment <= len(core); i++ {
				require.NotContains(t, read, string(lower([]byte(core[i:i+fragment]))), "%q of %q gives %q", plain, piece, got)
			}
		}
	}
}
