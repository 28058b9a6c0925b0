package fakechannels

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// webhookTolerance is how far a delivery's time may be from the receiver's, by the specification's
// advice.
const webhookTolerance = 5 * time.Minute

// Webhook is a receiver: it verifies signatures with Standard Webhooks' own library, and takes CloudEvents
// in JSON. What it does not believe it answers with 401, what is no event with 400.
type Webhook struct {
	Server
	verifier   *standardwebhooks.Webhook
	deliveries []CloudEvent
}

// CloudEvent is an event that was delivered.
type CloudEvent struct {
	SpecVersion     string           `json:"specversion"`
	ID              string           `json:"id"`
	Source          string           `json:"source"`
	Type            string           `json:"type"`
	Subject         string           `json:"subject"`
	Time            time.Time        `json:"time"`
	DataContentType string           `json:"datacontenttype"`
	Data            WebhookEventData `json:"data"`
}

// WebhookEventData is what an event of the plugin holds.
type WebhookEventData struct {
	Event      string   `json:"event"`
	Severity   string   `json:"severity"`
	Summary    string   `json:"summary"`
	Roles      []string `json:"roles"`
	RoleCount  int      `json:"role_count"`
	Fields     []Field  `json:"fields"`
	Alarm      string   `json:"alarm"`
	Over       []string `json:"over"`
	IncidentID string   `json:"incident_id"`
	Link       string   `json:"link"`
}

// Field is a fact with its name.
type Field struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// NewWebhook starts a receiver that knows one secret.
func NewWebhook(secret string, options ...Option) *Webhook {
	w := &Webhook{}
	w.SetSecret(secret)
	w.start(w.receive, options)
	return w
}

// SetSecret replaces the secret that it knows, as a receiver that changes over does.
func (w *Webhook) SetSecret(secret string) {
	verifier, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		panic(err) // a secret of the test's own
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.verifier = verifier
}

// Deliveries are all that were believed, oldest first: one event may be among them several times.
func (w *Webhook) Deliveries() []CloudEvent {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.deliveries)
}

// Events are those that were delivered, each once.
func (w *Webhook) Events() []CloudEvent {
	var events []CloudEvent
	for _, d := range w.Deliveries() {
		if !slices.ContainsFunc(events, func(e CloudEvent) bool { return e.ID == d.ID }) {
			events = append(events, d)
		}
	}
	return events
}

func (w *Webhook) receive(r *Request) Reply {
	if r.Method != http.MethodPost {
		return plain(http.StatusMethodNotAllowed, "POST events here")
	}
	if err := w.verifier.VerifyIgnoringTimestamp(r.Body, r.Header); err != nil {
		return plain(http.StatusUnauthorized, err.Error())
	}
	seconds, err := strconv.ParseInt(r.Header.Get("Webhook-Timestamp"), 10, 64)
	if err != nil || w.now().Sub(time.Unix(seconds, 0)).Abs() > webhookTolerance {
		return plain(http.StatusUnauthorized, "the timestamp is not of now")
	}
	var e CloudEvent
	switch err := json.Unmarshal(r.Body, &e); {
	case err != nil || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/cloudevents+json"):
		return plain(http.StatusBadRequest, "not an event in JSON")
	case e.SpecVersion != "1.0" || e.ID == "" || e.Source == "" || e.Type == "":
		return plain(http.StatusBadRequest, "a required attribute is missing")
	case e.ID != r.Header.Get("Webhook-Id"):
		return plain(http.StatusBadRequest, "two ids")
	}
	if _, err := url.Parse(e.Source); err != nil {
		return plain(http.StatusBadRequest, "the source is no URI reference")
	}
	w.deliveries = append(w.deliveries, e)
	return Reply{Status: http.StatusNoContent}
}
