package webhook

import (
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
)

// typePrefix stands before the name of what happened. It never changes: receivers choose by it.
const typePrefix = "vault."

// maxRoles bounds how many roles an event names; it always tells how many there are.
const maxRoles = 1000

// cloudEvent is the JSON form of CloudEvents 1.0 (structured mode).
type cloudEvent struct {
	SpecVersion     string    `json:"specversion"`
	ID              string    `json:"id"`
	Source          string    `json:"source"`
	Type            string    `json:"type"`
	Subject         string    `json:"subject,omitempty"` // the role, where it is about one
	Time            time.Time `json:"time"`
	DataContentType string    `json:"datacontenttype"`
	Data            data      `json:"data"`
}

type data struct {
	Event      string          `json:"event"`
	Severity   notify.Severity `json:"severity"`
	Summary    string          `json:"summary"`
	Roles      []string        `json:"roles"`
	RoleCount  int             `json:"role_count"`
	Fields     []field         `json:"fields"`
	Alarm      string          `json:"alarm,omitempty"`
	Over       []string        `json:"over,omitempty"` // alarms that end
	IncidentID string          `json:"incident_id,omitempty"`
	Link       string          `json:"link,omitempty"`
}

type field struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func eventOf(m *notify.Message) *cloudEvent {
	e := &cloudEvent{
		SpecVersion: "1.0", ID: m.ID, Source: m.Source, Type: typePrefix + m.Event, Time: m.Time.UTC(), DataContentType: "application/json",
		Data: data{
			Event: m.Event, Severity: m.Severity, Summary: m.Summary, Roles: []string{}, RoleCount: len(m.Roles), Fields: []field{},
			Alarm: m.Alarm, Over: m.Over, IncidentID: m.IncidentID, Link: m.Link,
		},
	}
	if len(m.Roles) == 1 {
		e.Subject = m.Roles[0]
	}
	e.Data.Roles = append(e.Data.Roles, m.Roles[:min(len(m.Roles), maxRoles)]...)
	for _, f := range m.Fields {
		e.Data.Fields = append(e.Data.Fields, field{Name: f.Name, Value: f.Value})
	}
	return e
}
