package fakechannels

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"unicode/utf16"
)

// slackPath is the webhook's; who has it can post.
const slackPath = "/services/T0FAKE/B0FAKE/n0tAr3alS3cr3t0fAW3bh00k"

// What Slack documents: blocks of a message, characters of texts, and fields of a section.
const (
	slackBlocks   = 50
	slackHeader   = 150
	slackSection  = 3000
	slackFields   = 10
	slackField    = 2000
	slackElements = 10
)

// Slack imitates an incoming webhook: it refuses what does not fit the documented shapes and limits with
// 400 invalid_payload or invalid_blocks, and another path with 404 no_service.
type Slack struct {
	Server
	messages []SlackMessage
	why      string
}

// SlackMessage is a message that was posted.
type SlackMessage struct {
	Text   string       `json:"text"`
	Blocks []SlackBlock `json:"blocks"`
}

// SlackBlock is a header, section or context.
type SlackBlock struct {
	Type     string      `json:"type"`
	Text     *SlackText  `json:"text"`
	Fields   []SlackText `json:"fields"`
	Elements []SlackText `json:"elements"`
}

// SlackText is a text object.
type SlackText struct {
	Type     string `json:"type"`
	Text     string `json:"text"`
	Verbatim bool   `json:"verbatim"`
}

// NewSlack starts one.
func NewSlack(options ...Option) *Slack {
	s := &Slack{}
	s.start(s.post, options)
	return s
}

// WebhookURL is where to post.
func (s *Slack) WebhookURL() string { return s.URL() + slackPath }

// Messages are those that were taken, oldest first.
func (s *Slack) Messages() []SlackMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.messages)
}

// Why tells what was wrong with the last message that did not fit; the service itself does not say.
func (s *Slack) Why() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.why
}

func (s *Slack) post(r *Request) Reply {
	switch {
	case r.Path != slackPath:
		return plain(http.StatusNotFound, "no_service")
	case r.Method != http.MethodPost || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json"):
		return plain(http.StatusBadRequest, "invalid_payload")
	}
	var m SlackMessage
	if err := json.Unmarshal(r.Body, &m); err != nil {
		s.why = err.Error()
		return plain(http.StatusBadRequest, "invalid_payload")
	}
	if s.why = m.wrong(); s.why != "" {
		return plain(http.StatusBadRequest, "invalid_blocks")
	}
	s.messages = append(s.messages, m)
	return plain(http.StatusOK, "ok")
}

func (m *SlackMessage) wrong() string {
	switch {
	case m.Text == "":
		return "no text for notifications"
	case len(m.Blocks) > slackBlocks:
		return fmt.Sprintf("%d blocks", len(m.Blocks))
	}
	for i, b := range m.Blocks {
		if why := b.wrong(); why != "" {
			return fmt.Sprintf("block %d: %s", i, why)
		}
	}
	return ""
}

func (b *SlackBlock) wrong() string {
	switch b.Type {
	case "header":
		if b.Text == nil || b.Text.Type != "plain_text" {
			return "a header is plain text"
		}
		return b.Text.wrong(slackHeader)
	case "section":
		if b.Text == nil && len(b.Fields) == 0 || len(b.Fields) > slackFields {
			return "a section has a text or up to 10 fields"
		}
		if b.Text != nil {
			if why := b.Text.wrong(slackSection); why != "" {
				return why
			}
		}
		return wrongAmong(b.Fields, slackField)
	case "context":
		if len(b.Elements) == 0 || len(b.Elements) > slackElements {
			return "a context has 1 to 10 elements"
		}
		return wrongAmong(b.Elements, slackSection)
	}
	return "type " + b.Type
}

func wrongAmong(texts []SlackText, limit int) string {
	for i := range texts {
		if why := texts[i].wrong(limit); why != "" {
			return fmt.Sprintf("text %d: %s", i, why)
		}
	}
	return ""
}

func (t *SlackText) wrong(limit int) string {
	switch n := len(utf16.Encode([]rune(t.Text))); {
	case t.Type != "plain_text" && t.Type != "mrkdwn":
		return "text of type " + t.Type
	case n == 0:
		return "an empty text"
	case n > limit:
		return fmt.Sprintf("%d characters, and %d are admitted", n, limit)
	}
	return ""
}

var angles = regexp.MustCompile(`<[^>]*>`)

// Links are what Slack makes of all that stands in angle brackets: links, and mentions such as !channel.
func (m *SlackMessage) Links() []string {
	links := angles.FindAllString(m.Text, -1)
	for _, t := range m.Texts() {
		if t.Type == "mrkdwn" {
			links = append(links, angles.FindAllString(t.Text, -1)...)
		}
	}
	return links
}

// Texts are those of all blocks, in the order in which they are shown.
func (m *SlackMessage) Texts() []SlackText {
	var texts []SlackText
	for _, b := range m.Blocks {
		if b.Text != nil {
			texts = append(texts, *b.Text)
		}
		texts = append(texts, b.Fields...)
		texts = append(texts, b.Elements...)
	}
	return texts
}
