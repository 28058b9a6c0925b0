package email

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
)

// What is enough for a person, in characters and fields.
const (
	maxSubject = 180
	maxSummary = 4000
	maxRoles   = 4000
	maxName    = 100
	maxValue   = 2000
	maxFields  = 100
	maxFact    = 500
)

// compose writes the mail. What becomes a header is on one line before the library sees it.
func (s *settings) compose(m *notify.Message) *gomail.Msg {
	msg := gomail.NewMsg(gomail.WithNoDefaultUserAgent())
	msg.FromMailAddress(s.sender)
	msg.ToMailAddress(s.readers...)
	msg.Subject(subjectOf(m))
	msg.SetDateWithValue(m.Time.UTC())
	msg.SetMessageIDWithValue(s.messageID(m))
	// So that no absence is answered (RFC 3834).
	msg.SetGenHeader("Auto-Submitted", "auto-generated")
	msg.SetBodyString(gomail.TypeTextPlain, bodyOf(m))
	return msg
}

// subjectOf is how much it matters, and the sentence.
func subjectOf(m *notify.Message) string {
	severity := strings.ToUpper(string(m.Severity))
	if len(m.Over) > 0 && m.Alarm == "" {
		severity = "RESOLVED"
	}
	sentence := m.Summary
	if sentence == "" {
		sentence = m.Event
	}
	return notify.Cut(notify.Line("["+severity+"] "+sentence), maxSubject)
}

// idForm is what may stand left of the @ as it is (RFC 5322, dot-atom).
var idForm = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)

// messageID is the same however often a message is sent, so that readers see it once.
func (s *settings) messageID(m *notify.Message) string {
	id := m.ID
	if !idForm.MatchString(id) || len(id) > maxName {
		digest := sha256.Sum256([]byte(id))
		id = hex.EncodeToString(digest[:])
	}
	return id + "@" + s.domain
}

// bodyOf is plain text. Values keep their line breaks, indented below their names.
func bodyOf(m *notify.Message) string {
	var out strings.Builder
	if m.Summary != "" {
		fmt.Fprintf(&out, "%s\n\n", notify.Cut(m.Summary, maxSummary))
	}
	fact := func(name, value string, limit int) {
		if value != "" {
			value = strings.ReplaceAll(notify.Cut(value, limit), "\n", "\n    ")
			fmt.Fprintf(&out, "%s: %s\n", notify.Cut(notify.Line(name), maxName), value)
		}
	}
	switch len(m.Roles) {
	case 0:
	case 1:
		fact("role", notify.RoleNames(m.Roles, maxRoles), maxRoles)
	default:
		fact(fmt.Sprintf("%d roles", len(m.Roles)), notify.RoleNames(m.Roles, maxRoles), maxRoles)
	}
	fields := m.Fields[:min(len(m.Fields), maxFields)]
	for _, f := range fields {
		fact(f.Name, f.Value, maxValue)
	}
	if left := len(m.Fields) - len(fields); left > 0 {
		fmt.Fprintf(&out, "%d more fields are not shown\n", left)
	}
	out.WriteString("\n")
	fact("event", m.Event, maxFact)
	fact("time", m.Time.UTC().Format(time.RFC3339), maxFact)
	fact("source", m.Source, maxFact)
	fact("incident", m.IncidentID, maxFact)
	fact("id", m.ID, maxFact)
	fact("more", m.Link, maxValue)
	return out.String()
}
