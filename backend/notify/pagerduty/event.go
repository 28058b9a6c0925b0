package pagerduty

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/notify"
)

// What PagerDuty admits, in characters; of the event as a whole 512 KiB.
const (
	maxSummary  = 1024
	maxDedupKey = 255
)

// What is enough for a person, and keeps an event far below its bound.
const (
	maxRoles   = 1000
	maxDetail  = 2000
	maxName    = 100
	maxDetails = 50
	maxLink    = 2048
)

// event is an alert's or a change's: a change has neither action, key nor severity.
type event struct {
	RoutingKey string  `json:"routing_key"`
	Action     string  `json:"event_action,omitempty"`
	DedupKey   string  `json:"dedup_key,omitempty"`
	Client     string  `json:"client,omitempty"`
	ClientURL  string  `json:"client_url,omitempty"`
	Payload    details `json:"payload"`
	Links      []link  `json:"links,omitempty"`
}

type details struct {
	Summary   string            `json:"summary"`
	Source    string            `json:"source"`
	Severity  notify.Severity   `json:"severity,omitempty"`
	Timestamp string            `json:"timestamp"`
	Component string            `json:"component,omitempty"`
	Class     string            `json:"class,omitempty"`
	Custom    map[string]string `json:"custom_details,omitempty"`
}

type link struct {
	Href string `json:"href"`
	Text string `json:"text"`
}

// eventOf is a message as a change.
func eventOf(m *notify.Message) *event {
	e := &event{Payload: details{
		Summary: notify.Cut(summaryOf(m), maxSummary), Source: notify.Cut(m.Source, maxDetail),
		Timestamp: m.Time.UTC().Format(time.RFC3339Nano), Custom: customOf(m),
	}}
	if u, err := url.Parse(m.Link); err == nil && u.Host != "" && len(m.Link) <= maxLink {
		e.Links = []link{{Href: m.Link, Text: "more"}}
	}
	return e
}

// trigger lets an event open an alert, or tell of it again.
func (k *Kind) trigger(e *event, m *notify.Message, alarm string) {
	e.Client = k.client
	if len(e.Links) > 0 {
		e.ClientURL = m.Link
	}
	e.alert("trigger", m, alarm)
}

// alert makes an event one of the alert of an alarm.
func (e *event) alert(action string, m *notify.Message, alarm string) {
	e.Action, e.DedupKey = action, dedupKey(m.Source, alarm)
	e.Payload.Severity = m.Severity
	e.Payload.Component = notify.RoleNames(m.Roles, maxName)
	e.Payload.Class = notify.Cut(m.Event, maxName)
}

func summaryOf(m *notify.Message) string {
	if m.Summary == "" {
		return m.Event
	}
	return notify.Line(m.Summary)
}

// dedupKey is the same for all messages of an alarm. A source has no fragment, so that no two
// alarms share a key. Where it would be too long its digest takes its place.
func dedupKey(source, alarm string) string {
	key := source + "#" + alarm
	if len(key) <= maxDedupKey {
		return key
	}
	digest := sha256.Sum256([]byte(key))
	return "sha256:" + hex.EncodeToString(digest[:])
}

// customOf is what else there is to know, by name: of several of one name the first keeps it.
func customOf(m *notify.Message) map[string]string {
	custom := map[string]string{"event": notify.Cut(m.Event, maxDetail), "id": notify.Cut(m.ID, maxDetail)}
	if len(m.Roles) > 0 {
		custom["roles"] = notify.RoleNames(m.Roles, maxRoles)
	}
	if m.IncidentID != "" {
		custom["incident"] = notify.Cut(m.IncidentID, maxDetail)
	}
	for _, f := range m.Fields {
		name := notify.Cut(f.Name, maxName)
		if _, taken := custom[name]; !taken && len(custom) < maxDetails {
			custom[name] = notify.Cut(f.Value, maxDetail)
		}
	}
	return custom
}
