package apikey

import (
	"net/http"
	"slices"
	"time"
)

func (c *compiler) make(at string, s *makeSpec, auth *authSpec, known string) {
	if s == nil {
		return
	}
	mentioned := c.call(at, &s.callSpec, auth, known)
	s.mentionsID = mentioned[idValue]
	s.key = c.required(join(at, "key"), s.Key)
	s.id = c.optional(join(at, "id"), s.ID)
	s.expires = c.optional(join(at, "expires"), s.Expires)
	if known != nameValue {
		return // a key that is replaced may be the only one, and keep its id
	}
	c.required(join(at, "id"), s.ID)
	if !mentioned[nameValue] {
		c.fail(at, "must mention {{name}}: a key is found by it")
	}
}

func (c *compiler) ends(at string, s *callSpec, auth *authSpec) {
	if s != nil && !c.call(at, s, auth, idValue)[idValue] {
		c.fail(at, "must mention {{id}}: it is about one key")
	}
}

// ids refuses pointers that lead to a key in the place of an id, which everybody may see.
func (c *compiler) ids(d *definition) {
	for _, m := range []struct {
		at   string
		made *makeSpec
	}{{"create", d.Create}, {"replace", d.Replace}} {
		switch {
		case m.made == nil || m.made.Key == "":
		case m.made.ID == m.made.Key:
			c.fail(join(m.at, "id"), "is the same as key, which must stay secret")
		case d.Verify.ID == m.made.Key:
			c.fail("verify.id", "is the same as %s.key, which must stay secret", m.at)
		}
	}
}

// proof asks for what tells the API's answers to verify from those of others.
func (c *compiler) proof(d *definition) {
	switch {
	case len(d.Error) > 0:
	case len(d.Verify.Forbidden) > 0:
		c.fail("error", "is required with verify.forbidden: a gateway forbids too, and would prove a key")
	case d.Verify.State == nil:
		c.warnings = append(c.warnings, definitionField+": verify has no state, and there is no error: whatever answers, such as a gateway, passes for the API")
	}
}

func (c *compiler) verify(s *verifySpec, auth *authSpec) {
	if s == nil {
		return
	}
	c.call("verify", &s.callSpec, auth)
	if len(s.Dead) == 0 {
		s.Dead = []int{http.StatusUnauthorized}
	}
	c.verdicts("verify.dead", s.Dead)
	c.verdicts("verify.forbidden", s.Forbidden)
	for _, status := range s.Forbidden {
		if slices.Contains(s.Dead, status) {
			c.fail("verify.forbidden", "%d is in dead too: a key is either alive or dead", status)
		}
	}
	s.id = c.optional("verify.id", s.ID)
	c.state(s.State)
	c.propagation(s)
}

// verdicts checks statuses that say something of a key.
func (c *compiler) verdicts(at string, list []int) {
	c.statuses(at, list, 400, 499)
	if slices.Contains(list, http.StatusTooManyRequests) || slices.Contains(list, http.StatusRequestTimeout) {
		c.fail(at, "must not have 408 nor 429, which say nothing of a key")
	}
}

func (c *compiler) state(s *stateSpec) {
	if s == nil {
		return
	}
	s.at = c.required("verify.state.pointer", s.Pointer)
	for _, value := range s.Alive {
		if slices.Contains(s.Dead, value) {
			c.fail("verify.state.alive", "%.64q is in dead too: a key is either alive or dead", value)
		}
	}
}

func (c *compiler) propagation(s *verifySpec) {
	if s.Propagation == "" {
		return
	}
	var err error
	if s.propagation, err = time.ParseDuration(s.Propagation); err != nil || s.propagation < 0 || s.propagation > maxPropagation {
		c.fail("verify.propagation", `must be a duration such as "30s", at most %s`, maxPropagation)
	}
}

func (c *compiler) list(s *listSpec, auth *authSpec) {
	if s == nil {
		return
	}
	c.call("list", &s.callSpec, auth)
	s.items = c.pointer("list.items", s.Items)
	s.name = c.required("list.name", s.Name)
	s.id = c.required("list.id", s.ID)
	s.created = c.optional("list.created", s.Created)
	c.page(s.Page)
	c.parametersOf(s, auth)
}

// parametersOf refuses two uses of one parameter in the query of a list.
func (c *compiler) parametersOf(s *listSpec, auth *authSpec) {
	taken := map[string]bool{"": true}
	for _, p := range s.query {
		taken[p.name] = true
	}
	if auth != nil {
		for _, p := range auth.query {
			taken[p.name] = true
		}
	}
	own := []pairOf{{"list.prefix_parameter", s.Prefix}}
	if s.Page != nil {
		own = append(own, pairOf{"list.page.parameter", s.Page.Parameter}, pairOf{"list.page.size_parameter", s.Page.SizeParameter})
	}
	for _, p := range own {
		if p.name != "" && taken[p.name] {
			c.fail(p.at, "%.64q is in the query already", p.name)
		}
		taken[p.name] = true
	}
}

// pairOf is a name and where it stands.
type pairOf struct{ at, name string }

// The styles of pagination.
const (
	byOffset = "offset" // the parameter is how many items to pass over
	byNumber = "number" // the number of the page
	byCursor = "cursor" // what the page before says
)

func (c *compiler) page(p *pageSpec) {
	if p == nil {
		return
	}
	p.next = c.optional("list.page.next", p.Next)
	p.more = c.optional("list.page.more", p.More)
	switch {
	case p.Style != byOffset && p.Style != byNumber && p.Style != byCursor:
		c.fail("list.page.style", "must be one of %s, %s, %s", byOffset, byNumber, byCursor)
	case p.Parameter == "":
		c.fail("list.page.parameter", "is required: the parameter of the query that tells pages apart")
	case p.Style == byCursor && p.Next == "":
		c.fail("list.page.next", "is required with style %s", byCursor)
	case p.Style != byCursor && p.Next != "":
		c.fail("list.page.next", "has no use with style %s", p.Style)
	case p.Style == byCursor && p.Start != nil:
		c.fail("list.page.start", "has no use with style %s: the first page has no cursor", byCursor)
	case (p.Size == 0) != (p.SizeParameter == ""):
		c.fail("list.page.size", "and size_parameter need each other")
	case p.Size < 0 || p.Size > maxListSize:
		c.fail("list.page.size", "must be from 1 to %d", maxListSize)
	case p.Start != nil && (*p.Start < 0 || *p.Start > maxListSize):
		c.fail("list.page.start", "must be from 0 to %d", maxListSize)
	case p.Start != nil:
		p.start = *p.Start
	case p.Style == byNumber:
		p.start = 1
	}
}
