package fakeapi

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// object is a JSON object.
type object = map[string]any

// reply is an answer to be sent.
type reply struct {
	status int
	header http.Header
	body   any // nil for none
}

func ok(body any) reply { return reply{status: http.StatusOK, body: body} }

func (a reply) write(w http.ResponseWriter) {
	for name, values := range a.header {
		w.Header()[name] = values
	}
	if a.body == nil {
		w.WriteHeader(a.status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(a.status)
	if err := json.NewEncoder(w).Encode(a.body); err != nil {
		panic(err) // into memory, and a shape of our own
	}
}

// decode reads a JSON body; an empty one leaves into as it is.
func decode(r *http.Request, into any) bool {
	if r.ContentLength == 0 {
		return true
	}
	return json.NewDecoder(r.Body).Decode(into) == nil
}

// bearer is the token of the Authorization header.
func bearer(r *http.Request) []string {
	scheme, token, found := strings.Cut(r.Header.Get("Authorization"), " ")
	if !found || !strings.EqualFold(scheme, "Bearer") {
		return nil
	}
	return some(strings.TrimSpace(token))
}

// some leaves empty ones out.
func some(values ...string) []string {
	var out []string
	for _, v := range values {
		if v != "" {
			out = append(out, v)
		}
	}
	return out
}

// number is a parameter of the query, or its default; false if it is out of bounds.
func number(r *http.Request, name string, otherwise, least, most int) (int, bool) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return otherwise, true
	}
	n, err := strconv.Atoi(text)
	return n, err == nil && n >= least && n <= most
}

// after cuts a listing to what follows a cursor, at most limit of it. A cursor stays good when what
// it names is gone; false if it never was.
func (s *Server) after(list []*record, cursor string, limit int) (page []*record, more, found bool) {
	from := 0
	if cursor != "" {
		for _, r := range s.records {
			if r.ID == cursor {
				from = r.number
			}
		}
		if from == 0 {
			return nil, false, false
		}
	}
	for _, r := range list {
		switch {
		case r.number <= from:
		case len(page) == limit:
			return page, true, true
		default:
			page = append(page, r)
		}
	}
	return page, false, true
}

// window cuts a listing by position.
func window(list []*record, offset, limit int) []*record {
	offset = min(offset, len(list))
	return list[offset:min(offset+limit, len(list))]
}

// ends are the first and the last id of a page, null for an empty one.
func ends(page []*record) (first, last any) {
	if len(page) == 0 {
		return nil, nil
	}
	return page[0].ID, page[len(page)-1].ID
}

// orNull is null for an empty text.
func orNull(text string) any {
	if text == "" {
		return nil
	}
	return text
}

// each never gives null for an empty list.
func each(page []*record, shape func(*record) object) []object {
	out := make([]object, 0, len(page))
	for _, r := range page {
		out = append(out, shape(r))
	}
	return out
}

// unix and stamp are null for a time that never was.
func unix(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.Unix()
}

func stamp(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UTC().Format("2006-01-02T15:04:05.000000Z07:00")
}
