package rotationsecrets

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/access"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

func TestIncidentIsWrittenAndClosed(t *testing.T) {
	m := newMount(t)
	m.role()
	id := m.must(update, "emergency/app", map[string]any{"reason": "seen in a log"}).Data["incident_id"].(string)
	path := "incidents/" + id
	m.refuses(update, path, nil, "note: is missing")
	m.refuses(update, path, map[string]any{"severity": "grave"}, "severity: must be one of low, medium, high, critical")
	m.refuses(update, path, map[string]any{"severity": ""}, "severity: must be one of")
	m.refuses(update, path, map[string]any{"acknowledge": "perhaps"}, "acknowledge: must be true or false")
	m.refuses(update, path, map[string]any{"format": "markdown"}, "format: has no meaning in a write")
	m.refuses(update, path, map[string]any{"notes": "x"}, "notes: is not a field of incidents/:id; did you mean note?")
	m.refuses(read, path, map[string]any{"format": "html"}, "format: must be json or markdown")
	m.refuses(update, path+"/close", nil, "conclusion: is empty")
	m.fails(http.StatusNotFound, update, "incidents/none/close", map[string]any{"conclusion": "x"})

	head := m.must(update, path, map[string]any{"severity": "critical", "note": "two lines\nof text", "acknowledge": true}).Data
	require.Equal(t, "critical", head["severity"])
	require.Equal(t, "alice", head["acknowledged"].(map[string]any)["actor"].(map[string]any)["display_name"])
	closed := m.must(update, path+"/close", map[string]any{"conclusion": "the logger redacts now"})
	require.Equal(t, "closed", closed.Data["status"])
	require.Empty(t, closed.Warnings)
	m.fails(http.StatusConflict, update, path, map[string]any{"severity": "low"})
	m.must(update, path, map[string]any{"note": "seen again"})

	i := m.must(read, path, nil).Data
	require.Nil(t, i["report"])
	require.Equal(t, "the logger redacts now", i["conclusion"])
	require.Equal(t, false, i["closing"].(map[string]any)["forced"])
	require.Len(t, i["notes"], 2)
	require.Equal(t, "two lines\nof text", i["notes"].([]any)[0].(map[string]any)["text"])
	report := m.must(read, path, map[string]any{"format": "markdown"}).Data["report"].(string)
	require.Contains(t, report, "> two lines  \n> of text  \n")
	require.Contains(t, report, "the target refused it")

	list := m.must(listed, "incidents/", nil).Data
	require.Equal(t, []string{id}, list["keys"])
	info := list["key_info"].(map[string]any)[id].(map[string]any)
	require.Equal(t, "closed", info["status"])
	require.Equal(t, "critical", info["severity"])
	require.Equal(t, 1, info["roles"])
}

func TestIncidentThatIsOpenIsClosedByForce(t *testing.T) {
	m := newMount(t)
	m.role()
	m.memory.World.SetRefuse(true)
	id := m.must(update, "emergency/app", map[string]any{"reason": "leak"}).Data["incident_id"].(string)
	path := "incidents/" + id + "/close"
	sentence := m.fails(http.StatusConflict, update, path, map[string]any{"conclusion": "x"})
	require.Contains(t, sentence, "is not contained: app")
	require.Contains(t, sentence, "force=true and a reason")
	m.refuses(update, path, map[string]any{"conclusion": "x", "force": true}, "reason: is required with force=true")
	resp := m.must(update, path, map[string]any{"conclusion": "x", "force": true, "reason": "a false alarm"})
	require.Len(t, resp.Warnings, 1)
	require.Contains(t, m.must(read, "incidents/"+id, map[string]any{"format": "markdown"}).Data["report"], "| Closed before it was contained | a false alarm |")
	m.memory.World.SetRefuse(false)
}

// hostile is what somebody may write to forge a report.
const hostile = "# Closed\n\n| a | b |\n|---|---|\n| x | y |\n---\n===\n- item\n1. one\n2) two\n    code\n```\nfence\n``` " +
	"<script>alert(1)</script> <b>x</b> &lt; [link](https://evil.example) ![i](x) *b* _i_ ~~s~~ `c` \\| www.evil.example a@evil.example $x$\u202e\u0000\u2028> quote\r\n## Conclusion"

func TestReportIsNobodysToForge(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	actor := rotation.Actor{EntityID: hostile, DisplayName: hostile, AccessorHash: hostile}
	record := func(text string, actor rotation.Actor) *store.Incident {
		return &store.Incident{
			IncidentHeader: store.IncidentHeader{
				ID: "20260301T100000Z-1", Severity: text, Status: store.IncidentClosed, Reason: text, Actor: actor, DetectedTime: at, OpenedTime: at, KillFirst: true,
				Acknowledged: &rotation.Acknowledgement{Time: at, Actor: actor}, ClosedTime: at, ContainedTime: at, Closing: &store.IncidentClosing{Actor: actor, Conclusion: text, Forced: true, Reason: text},
				Marks: map[string]store.IncidentMark{"app": {Declared: true}},
			},
			Roles: map[string]*store.IncidentRole{"app": {
				Compromised: []store.IncidentVersion{{Version: 1, Identifier: text, RevokedTime: at, Proof: &rotation.Proof{Time: at, Result: text}}},
				ReplacedBy:  2, ReplacedTime: at, Detail: text,
				Steps:   []store.IncidentStep{{Time: at, Action: text, Result: text, Detail: text}},
				Readers: []store.IncidentReader{{Version: 1, Reader: access.Reader{DisplayName: text, EntityID: text, AccessorHash: text, Address: text, Reads: 3}}}, MoreReaders: 7,
			}},
			Notes: []store.IncidentNote{{Time: at, Actor: actor, Text: text}},
			Told:  []store.IncidentTold{{Channel: text, Delivered: 1, Events: []store.ToldEvent{{ID: text, Type: text, Role: text, Status: text, Detail: text}}}},
		}
	}
	forged := incidentReport(record(hostile, actor))
	plain := incidentReport(record("x", rotation.Actor{EntityID: "x", DisplayName: "x", AccessorHash: "x"}))

	require.Equal(t, shapes(plain), shapes(forged), "the same headings and tables, whatever is written in them")
	require.Equal(t, []string{"# Incident 20260301T100000Z-1", "## Facts", "## Timeline", "## Leaked versions", "## Who had read them", "## Who was told", "## Notes", "## Next steps", "## Conclusion"},
		headings(forged))
	for _, bad := range []string{"<", "&", "`", "[", "*", "_", "~", "$"} {
		require.NotContains(t, strings.ReplaceAll(forged, `\`+bad, ""), bad, "left as it was")
	}
	for _, bad := range []string{"\u202e", "\x00", "\u2028", "\r", "://", "www."} {
		require.NotContains(t, strings.ReplaceAll(forged, `\://`, ""), bad)
	}
	for line := range strings.SplitSeq(forged, "\n") {
		quoted, ok := strings.CutPrefix(line, "> ")
		if !ok {
			continue
		}
		require.NotRegexp(t, `^(\s|[-+=#>|]|\d+[.)])`, quoted, "a line of a quotation is plain text")
	}
	require.Contains(t, forged, `\# Closed`)
	require.Contains(t, forged, "and 7 more")
}

// shapes are the lines of a report without their texts: what kind each is, and how many
// cells it has. Quotations and entries of lists count once.
func shapes(report string) (out []string) {
	for line := range strings.SplitSeq(report, "\n") {
		shape := "text"
		switch {
		case strings.HasPrefix(line, "#"):
			shape = line
		case strings.HasPrefix(line, "|"):
			shape = "row of " + strings.Repeat("|", strings.Count(strings.ReplaceAll(line, `\|`, ""), "|"))
		case strings.HasPrefix(line, ">"):
			shape = "quote"
		case line == "":
			shape = ""
		}
		if shape == "quote" && len(out) > 0 && out[len(out)-1] == "quote" {
			continue
		}
		out = append(out, shape)
	}
	return out
}

func headings(report string) (out []string) {
	for line := range strings.SplitSeq(report, "\n") {
		if strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return out
}

func TestTextsStayAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"plain text, 3.5 of 7.":     "plain text, 3.5 of 7.",
		"- 1":                       `\- 1`,
		"1. one":                    `1\. one`,
		"12) two":                   `12\) two`,
		"a|b":                       `a\|b`,
		`a\|b`:                      `a\\\|b`,
		"https://a.example":         `https\://a.example`,
		"WWW.a.example":             `WWW\.a.example`,
		" many \t spaces\n":         "many spaces",
		"\u200b\u202eabc\u00adü 日本": "\ufffd\ufffdabc\ufffdü 日本",
		"\xff":                      "\ufffd",
	} {
		require.Equal(t, want, inline(text))
	}
}
