package mark_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/mark"
)

var (
	key  = mark.Key("a key of thirty-two bytes, or so.")
	ours = mark.Mark{Instance: "6f1c", Role: "billing-db", Version: 7, RotationID: "9b2e"}
)

const object = "billing-db_v7_x1"

func TestSignAndParse(t *testing.T) {
	t.Parallel()
	text := key.Sign(ours, object)
	require.True(t, strings.HasPrefix(text, mark.Prefix+" instance=6f1c role=billing-db version=7 rotation=9b2e mac="), text)
	m, mac, err := mark.Parse(text)
	require.NoError(t, err)
	require.Equal(t, ours, m)
	require.True(t, key.Verify(m, mac, object))
	require.Equal(t, text, key.Sign(ours, object), "the same mark each time")
}

func TestFence(t *testing.T) {
	t.Parallel()
	fenced := ours
	fenced.Fence = 12
	text := key.Sign(fenced, object)
	require.Contains(t, text, " rotation=9b2e fence=12 mac=")
	m, mac, err := mark.Parse(text)
	require.NoError(t, err)
	require.Equal(t, fenced, m)
	require.True(t, key.Verify(m, mac, object))
	for _, bad := range []string{"0", "-1", "012", "", "x", "99999999999999999999"} {
		_, _, err := mark.Parse(strings.Replace(text, "fence=12", "fence="+bad, 1))
		require.ErrorIs(t, err, mark.ErrNotAMark, bad)
	}
}

// long is a mark whose fields may all be, with a MAC of so many bytes.
func long(m mark.Mark, mac int) string {
	text := key.Sign(m, object)
	return text[:strings.LastIndex(text, "=")+1] + strings.Repeat("A", mac-1)
}

func TestTheLongestMarkOfOurs(t *testing.T) {
	t.Parallel()
	id := strings.Repeat("f", 36)
	longest := mark.Mark{Instance: id, Role: strings.Repeat("x", 128), Version: 1 << 40, RotationID: id, Fence: 1 << 60}
	text := key.Sign(longest, object)
	require.Less(t, len(text), mark.MaxBytes)
	m, mac, err := mark.Parse(text)
	require.NoError(t, err)
	require.True(t, key.Verify(m, mac, object))
}

func TestForgedMarksAreRefused(t *testing.T) {
	t.Parallel()
	_, mac, err := mark.Parse(key.Sign(ours, object))
	require.NoError(t, err)
	for name, tc := range map[string]struct {
		change func(m *mark.Mark, mac, object *string)
		key    mark.Key
	}{
		"another instance":        {change: func(m *mark.Mark, _, _ *string) { m.Instance = "6f1d" }},
		"another role":            {change: func(m *mark.Mark, _, _ *string) { m.Role = "billing" }},
		"another version":         {change: func(m *mark.Mark, _, _ *string) { m.Version = 8 }},
		"another fence":           {change: func(m *mark.Mark, _, _ *string) { m.Fence = 9 }},
		"another rotation":        {change: func(m *mark.Mark, _, _ *string) { m.RotationID = "9b2f" }},
		"copied to another":       {change: func(_ *mark.Mark, _, object *string) { *object = "postgres" }},
		"no MAC":                  {change: func(_ *mark.Mark, mac, _ *string) { *mac = "" }},
		"a MAC cut short":         {change: func(_ *mark.Mark, mac, _ *string) { *mac = (*mac)[:10] }},
		"a MAC with more to it":   {change: func(_ *mark.Mark, mac, _ *string) { *mac += "A" }},
		"another key":             {key: mark.Key("another key of thirty-two bytes.")},
		"no key":                  {key: mark.Key{}},
		"text moved to its right": {change: func(m *mark.Mark, _, _ *string) { m.Role, m.Instance = "db", "6f1c role=billing" }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, mac, object, k := ours, mac, object, key
			if tc.change != nil {
				tc.change(&m, &mac, &object)
			}
			if tc.key != nil {
				k = tc.key
			}
			require.False(t, k.Verify(m, mac, object))
		})
	}
	require.True(t, key.Verify(ours, mac, object))
}

func TestWhatIsNoMark(t *testing.T) {
	t.Parallel()
	good := key.Sign(ours, object)
	for name, text := range map[string]string{
		"nothing":               "",
		"a comment of a person": "owned by the billing team",
		"the prefix alone":      mark.Prefix,
		"a later form":          strings.Replace(good, ":1 ", ":2 ", 1),
		"text before":           " " + good,
		"text after":            good + " and more",
		"a line after":          good + "\nand=more",
		"a field less":          strings.Replace(good, " role=billing-db", "", 1),
		"a field twice":         strings.Replace(good, " role=billing-db", " role=a role=b", 1),
		"another order":         strings.Replace(strings.Replace(good, "role=", "x=", 1), "instance=", "role=", 1),
		"an empty field":        strings.Replace(good, "role=billing-db", "role=", 1),
		"no number":             strings.Replace(good, "version=7", "version=seven", 1),
		"version zero":          strings.Replace(good, "version=7", "version=0", 1),
		"a negative version":    strings.Replace(good, "version=7", "version=-7", 1),
		"a number with a sign":  strings.Replace(good, "version=7", "version=+7", 1),
		"a number with a zero":  strings.Replace(good, "version=7", "version=07", 1),
		"too large a number":    strings.Replace(good, "version=7", "version=99999999999999999999", 1),
		"two spaces":            strings.Replace(good, " role", "  role", 1),
		"a long field":          strings.Replace(good, "role=billing-db", "role="+strings.Repeat("r", 129), 1),
		"a long MAC":            good + strings.Repeat("A", 129),
		"long altogether":       long(mark.Mark{Instance: strings.Repeat("i", 128), Role: strings.Repeat("r", 128), Version: 7, RotationID: strings.Repeat("o", 128)}, 129),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, mac, err := mark.Parse(text)
			if name == "a line after" { // it is a mark, but nobody's
				require.NoError(t, err)
				require.False(t, key.Verify(m, mac, object))
				return
			}
			require.ErrorIs(t, err, mark.ErrNotAMark)
			require.Zero(t, m)
			require.Empty(t, mac)
		})
	}
}

// Whatever stands in a comment, what parses is written exactly so, and is ours only
// if we signed it.
func FuzzParse(f *testing.F) {
	good := key.Sign(ours, object)
	for _, text := range []string{good, strings.Replace(good, "7", "07", 1), strings.Replace(good, " mac=", " fence=3 mac=", 1), mark.Prefix + " instance= role= version= rotation= mac=", "x", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, mac, err := mark.Parse(text)
		if err != nil {
			require.Zero(t, m)
			return
		}
		unsigned, _, _ := strings.Cut(key.Sign(m, object), " mac=")
		require.Equal(t, text, unsigned+" mac="+mac)
		if key.Verify(m, mac, object) {
			require.Equal(t, key.Sign(m, object), text)
		}
	})
}
