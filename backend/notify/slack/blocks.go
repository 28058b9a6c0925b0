package slack

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
)

// What Slack admits, in characters, and blocks of a message, and fields of a section.
const (
	maxHeader        = 150
	maxText          = 3000
	maxField         = 2000
	maxBlocks        = 50
	fieldsOfASection = 10
)

// What is enough for a person.
const (
	maxRoles = 300
	maxName  = 100
	maxFact  = 300 // of a fact in the context
)

type payload struct {
	// Text is what a notification shows.
	Text   string  `json:"text"`
	Blocks []block `json:"blocks"`
}

type block struct {
	Type     string `json:"type"`
	Text     *text  `json:"text,omitempty"`
	Fields   []text `json:"fields,omitempty"`
	Elements []text `json:"elements,omitempty"`
}

type text struct {
	Type string `json:"type"`
	Text string `json:"text"`
	// Verbatim keeps Slack from making links of what only looks like a URL, a channel or a
	// person.
	Verbatim bool `json:"verbatim,omitempty"`
}

func payloadOf(m *notify.Message) payload {
	summary := m.Summary
	if summary == "" {
		summary = m.Event // Slack refuses an empty text
	}
	blocks := []block{
		{Type: "header", Text: &text{Type: "plain_text", Text: notify.Cut(notify.Line(titleOf(m)), maxHeader)}},
		{Type: "section", Text: &text{Type: "mrkdwn", Text: escape(summary, maxText), Verbatim: true}},
	}
	fields := fieldsOf(m)
	const most = fieldsOfASection * (maxBlocks - 3) // beside header, summary and context
	left := max(0, len(fields)-most)
	for some := range slices.Chunk(fields[:len(fields)-left], fieldsOfASection) {
		blocks = append(blocks, block{Type: "section", Fields: some})
	}
	blocks = append(blocks, block{Type: "context", Elements: contextOf(m, left)})
	return payload{Text: escape(titleOf(m)+": "+summary, maxText), Blocks: blocks}
}

// titleOf says how much it matters, and what it is.
func titleOf(m *notify.Message) string {
	severity := strings.ToUpper(string(m.Severity))
	if len(m.Over) > 0 && m.Alarm == "" {
		severity = "RESOLVED"
	}
	return severity + " " + m.Event
}

func fieldsOf(m *notify.Message) []text {
	facts := make([]notify.Field, 0, len(m.Fields)+1)
	switch len(m.Roles) {
	case 0:
	case 1:
		facts = append(facts, notify.Field{Name: "role", Value: notify.RoleNames(m.Roles, maxRoles)})
	default:
		facts = append(facts, notify.Field{Name: "roles", Value: notify.RoleNames(m.Roles, maxRoles)})
	}
	facts = append(facts, m.Fields...)
	fields := make([]text, 0, len(facts))
	for _, f := range facts {
		title := "*" + escape(notify.Line(f.Name), maxName) + "*\n"
		fields = append(fields, text{Type: "mrkdwn", Text: title + escape(f.Value, maxField-len(title)), Verbatim: true})
	}
	return fields
}

// contextOf is what stands below, in small letters. left is how many fields found no place.
func contextOf(m *notify.Message, left int) []text {
	facts := []string{escape(m.Time.UTC().Format(time.RFC3339), maxFact), escape("from "+notify.Line(m.Source), maxFact)}
	if m.IncidentID != "" {
		facts = append(facts, escape("incident "+notify.Line(m.IncidentID), maxFact))
	}
	if link := linkTo(m.Link); link != "" {
		facts = append(facts, link)
	}
	facts = append(facts, escape("id "+notify.Line(m.ID), maxFact))
	if left > 0 {
		facts = append(facts, fmt.Sprintf("%d more fields are not shown", left))
	}
	elements := make([]text, 0, len(facts))
	for _, fact := range facts {
		elements = append(elements, text{Type: "mrkdwn", Text: fact, Verbatim: true})
	}
	return elements
}

// linkTo writes a link; none where it is not one of the web, or too long to be shown.
func linkTo(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return ""
	}
	// A bar would end the address; < and > are percent signs in what String makes, & is not.
	escaped := strings.NewReplacer("&", "&amp;", "|", "%7C", "<", "%3C", ">", "%3E", " ", "%20").Replace(u.String())
	link := "<" + escaped + "|more>"
	if len(link) > maxText {
		return ""
	}
	return link
}

// escapes are the characters that begin mentions and links, and those that stand for them.
var escapes = map[rune]string{'&': "&amp;", '<': "&lt;", '>': "&gt;"}

func escape(plain string, limit int) string { return notify.CutEscaped(plain, limit, escapes) }
