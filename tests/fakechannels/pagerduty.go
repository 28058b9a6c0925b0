package fakechannels

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"
	"unicode/utf8"
)

// What PagerDuty documents, in characters; of an event as a whole in bytes.
const (
	pagerDutySummary  = 1024
	pagerDutyDedupKey = 255
	pagerDutyEvent    = 512 << 10
)

// PagerDuty imitates the Events API v2 of one service: it refuses what does not fit with 400, and keeps
// its alerts.
type PagerDuty struct {
	Server
	key     string
	alerts  map[string]Alert
	changes []PagerDutyEvent
}

// PagerDutyEvent is an event that was taken, of an alert or a change.
type PagerDutyEvent struct {
	RoutingKey  string           `json:"routing_key"`
	EventAction string           `json:"event_action"`
	DedupKey    string           `json:"dedup_key"`
	Client      string           `json:"client"`
	ClientURL   string           `json:"client_url"`
	Payload     PagerDutyPayload `json:"payload"`
	Links       []PagerDutyLink  `json:"links"`
}

// PagerDutyPayload is what happened.
type PagerDutyPayload struct {
	Summary       string         `json:"summary"`
	Source        string         `json:"source"`
	Severity      string         `json:"severity"`
	Timestamp     string         `json:"timestamp"`
	Component     string         `json:"component"`
	Group         string         `json:"group"`
	Class         string         `json:"class"`
	CustomDetails map[string]any `json:"custom_details"`
}

// PagerDutyLink is a link beside an event.
type PagerDutyLink struct {
	Href string `json:"href"`
	Text string `json:"text"`
}

// Alert is one alert: all triggers of a dedup key until it is resolved.
type Alert struct {
	DedupKey string
	Open     bool
	// Opened is how often a trigger opened it, and Triggers how many there were.
	Opened, Triggers int
	// Last is the last trigger.
	Last PagerDutyEvent
}

// NewPagerDuty starts one, whose service has this routing key.
func NewPagerDuty(key string, options ...Option) *PagerDuty {
	p := &PagerDuty{key: key, alerts: map[string]Alert{}}
	p.start(p.enqueue, options)
	return p
}

// Alerts are all that ever were, in the order of their keys.
func (p *PagerDuty) Alerts() []Alert {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Alert, 0, len(p.alerts))
	for _, key := range slices.Sorted(maps.Keys(p.alerts)) {
		out = append(out, p.alerts[key])
	}
	return out
}

// OpenAlerts are those that somebody is paged for.
func (p *PagerDuty) OpenAlerts() []Alert {
	return slices.DeleteFunc(p.Alerts(), func(a Alert) bool { return !a.Open })
}

// Changes are the change events, oldest first.
func (p *PagerDuty) Changes() []PagerDutyEvent {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.changes)
}

func (p *PagerDuty) enqueue(r *Request) Reply {
	if r.Method != http.MethodPost || r.Path != "/v2/enqueue" && r.Path != "/v2/change/enqueue" {
		return plain(http.StatusNotFound, "Not Found")
	}
	if len(r.Body) > pagerDutyEvent {
		return plain(http.StatusRequestEntityTooLarge, "")
	}
	var e PagerDutyEvent
	if err := json.Unmarshal(r.Body, &e); err != nil {
		return invalid("Event is not valid JSON")
	}
	if wrong := p.wrong(&e, r.Path == "/v2/change/enqueue"); len(wrong) > 0 {
		return invalid(wrong...)
	}
	if r.Path == "/v2/change/enqueue" {
		p.changes = append(p.changes, e)
		return accepted(map[string]any{"status": "success", "message": "Change event processed"})
	}
	a := p.alerts[e.DedupKey]
	switch {
	case e.EventAction == "trigger":
		if !a.Open {
			a.Opened++
		}
		a.DedupKey, a.Open, a.Last = e.DedupKey, true, e
		a.Triggers++
		p.alerts[e.DedupKey] = a
	case e.EventAction == "resolve" && a.Open: // of one that is not open it means nothing
		a.Open = false
		p.alerts[e.DedupKey] = a
	}
	return accepted(map[string]any{"status": "success", "message": "Event processed", "dedup_key": e.DedupKey})
}

func (p *PagerDuty) wrong(e *PagerDutyEvent, change bool) (wrong []string) {
	refuse := func(when bool, format string, args ...any) {
		if when {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	refuse(len(e.RoutingKey) != 32, "Length of 'routing_key' is incorrect (should be 32 characters)")
	refuse(len(e.RoutingKey) == 32 && e.RoutingKey != p.key, "'routing_key' is of no integration")
	if e.EventAction != "resolve" {
		refuse(e.Payload.Summary == "", "'payload.summary' is missing or blank")
		refuse(e.Payload.Source == "" && !change, "'payload.source' is missing or blank")
	}
	refuse(utf8.RuneCountInString(e.Payload.Summary) > pagerDutySummary, "'payload.summary' is too long")
	if e.Payload.Timestamp != "" {
		_, err := time.Parse(time.RFC3339Nano, e.Payload.Timestamp)
		refuse(err != nil, "'payload.timestamp' is none")
	}
	if change {
		refuse(e.EventAction != "" || e.DedupKey != "" || e.Payload.Severity != "", "a change has neither action, key nor severity")
		return wrong
	}
	refuse(!slices.Contains([]string{"trigger", "acknowledge", "resolve"}, e.EventAction), "'event_action' is invalid (must be one of: 'trigger', 'acknowledge' or 'resolve')")
	refuse(!slices.Contains([]string{"critical", "error", "warning", "info"}, e.Payload.Severity) && e.EventAction == "trigger", "'payload.severity' is invalid (must be one of the following: 'critical', 'warning', 'error' or 'info')")
	refuse(utf8.RuneCountInString(e.DedupKey) > pagerDutyDedupKey, "'dedup_key' is too long")
	refuse(e.DedupKey == "" && e.EventAction != "trigger", "'dedup_key' is missing or blank")
	return wrong
}

func invalid(errors ...string) Reply {
	return inJSON(http.StatusBadRequest, map[string]any{"status": "invalid event", "message": "Event object is invalid", "errors": errors})
}

func accepted(body any) Reply { return inJSON(http.StatusAccepted, body) }

func inJSON(status int, body any) Reply {
	raw, err := json.Marshal(body)
	if err != nil {
		panic(err) // a shape of our own
	}
	return Reply{Status: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: string(raw)}
}
