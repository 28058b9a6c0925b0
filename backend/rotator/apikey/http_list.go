package apikey

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

const (
	// maxItems bounds a list.
	maxItems = 20000
	// maxCursor bounds what a page says the next one begins with.
	maxCursor = 1024
)

// find implements provider. An error is never a shorter list: a key that is missing from
// one is believed not to exist.
func (h *httpProvider) find(ctx context.Context, prefix string) ([]found, error) {
	w := h.walk(prefix)
	for range maxPages {
		p, err := w.fetch(ctx)
		if err != nil {
			return nil, err
		}
		if err := w.take(p); err != nil {
			return nil, err
		}
		more, err := w.advance(p)
		switch {
		case err != nil:
			return nil, err
		case !more:
			return w.out, nil
		case w.passed > maxItems:
			return nil, fault.New(fault.Target, "%s gives a list of more than %d keys", h.title(), maxItems)
		}
	}
	return nil, fault.New(fault.Target, "%s gives a list of more than %d pages", h.title(), maxPages)
}

// listWalk is the way through a list, page by page.
type listWalk struct {
	h      *httpProvider
	spec   *listSpec
	prefix string

	out    []found
	seen   map[string]bool // items and cursors that were met before
	pages  int
	passed int  // items
	fresh  bool // the last page had an item that was not met before
	cursor string
}

func (h *httpProvider) walk(prefix string) *listWalk {
	return &listWalk{h: h, spec: h.definition.List, prefix: prefix, seen: map[string]bool{}}
}

// listPage is one page.
type listPage struct {
	*answer
	document any
	items    []any
}

// fetch reads the next page.
func (w *listWalk) fetch(ctx context.Context) (*listPage, error) {
	in := w.h.asAdmin("list keys", &w.spec.callSpec, nil)
	in.page = w.query()
	a, err := w.h.do(ctx, in)
	switch {
	case err != nil:
		return nil, err
	case !w.spec.succeeded(a):
		return nil, a.failed()
	}
	p := &listPage{answer: a}
	if p.document, err = decodeAnswer(a.Body); err != nil {
		return nil, a.unclear()
	}
	var ok bool
	switch items := w.spec.items.in(p.document).(type) {
	case []any:
		p.items, ok = items, true
	case nil:
		// Some write an empty list as null. One that is not there is another answer.
		ok = w.spec.items.present(p.document)
	}
	if !ok {
		return nil, a.unclear()
	}
	return p, nil
}

// query asks for the page.
func (w *listWalk) query() url.Values {
	q := url.Values{}
	if w.spec.Prefix != "" && w.prefix != "" {
		q.Set(w.spec.Prefix, w.prefix)
	}
	p := w.spec.Page
	if p == nil {
		return q
	}
	if p.SizeParameter != "" {
		q.Set(p.SizeParameter, strconv.Itoa(p.Size))
	}
	switch {
	case p.Style == byOffset:
		q.Set(p.Parameter, strconv.Itoa(p.start+w.passed))
	case p.Style == byNumber:
		q.Set(p.Parameter, strconv.Itoa(p.start+w.pages))
	case w.cursor != "":
		q.Set(p.Parameter, w.cursor)
	}
	return q
}

// take keeps the items of a page whose names begin with the prefix, whatever the API
// thinks of it.
func (w *listWalk) take(p *listPage) error {
	w.fresh = false
	for _, item := range p.items {
		id, usable := identifier(w.spec.id.in(item))
		if !w.meet(item, id) {
			continue // pages shift while keys come and go
		}
		name, _ := w.spec.name.in(item).(string)
		if !strings.HasPrefix(name, w.prefix) {
			continue
		}
		if !usable || slices.ContainsFunc(p.request.Secrets, func(s secret.String) bool { return len(s.Reveal()) >= tooMuch && betrays(id, s) }) {
			return fault.New(fault.Target, "%s: a key that is named as ours are has no id that can be used", p.request.Action)
		}
		made, _ := date(w.spec.created.in(item))
		w.out = append(w.out, found{Name: name, Reference: reference{ID: id}, Created: made})
	}
	w.pages++
	w.passed += len(p.items)
	return nil
}

// meet tells whether an item was not met before. One without an id is known by all of it.
func (w *listWalk) meet(item any, id string) bool {
	key := "id " + id
	if id == "" {
		text, err := json.Marshal(item)
		if err != nil {
			return false
		}
		key = "item " + string(text)
	}
	if w.seen[key] {
		return false
	}
	w.seen[key], w.fresh = true, true
	return true
}

// advance tells whether there is another page, and refuses to go in circles.
func (w *listWalk) advance(p *listPage) (more bool, err error) {
	page := w.spec.Page
	if page == nil {
		return false, nil
	}
	more = len(p.items) > 0
	if page.more != nil {
		var ok bool
		if more, ok = page.more.in(p.document).(bool); !ok {
			return false, p.unclear()
		}
	}
	nowhere := fault.New(fault.Target, "%s gives a list whose pages lead nowhere", w.h.title())
	switch {
	case page.Style == byCursor:
		return w.follow(page, p, nowhere)
	case !more:
		return false, nil
	case len(p.items) > 0 && !w.fresh, len(p.items) == 0 && page.Style == byOffset:
		return false, nowhere
	}
	return true, nil
}

// follow takes the cursor of the next page. Without one there is none, unless the API says
// that there is.
func (w *listWalk) follow(page *pageSpec, p *listPage, nowhere error) (more bool, err error) {
	next, said := page.next.in(p.document), page.more.in(p.document)
	switch {
	case said == false:
		return false, nil
	case next == nil || next == "":
		if said == true {
			return false, nowhere
		}
		return false, nil
	}
	cursor, ok := plain(next)
	if !ok || len(cursor) > maxCursor || !isPrintable(cursor) || w.seen["cursor "+cursor] {
		return false, nowhere
	}
	w.cursor, w.seen["cursor "+cursor] = cursor, true
	return true, nil
}
