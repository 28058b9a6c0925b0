package apikey

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// compiler checks a definition and makes ready what its calls need. It goes on after the
// first mistake, which is the one that it reports.
type compiler struct {
	parameters map[string]string
	// mentioned are the placeholders met so far.
	mentioned map[string]bool
	warnings  []string
	err       error
}

// fail reports a mistake at a place such as create.path.
func (c *compiler) fail(at, format string, args ...any) {
	if c.err == nil {
		c.err = fault.Field(definitionField, "%.200s: %s", at, fmt.Sprintf(format, args...))
	}
}

func (c *compiler) refuse(at string, err error) {
	if err != nil {
		c.fail(at, "%v", err)
	}
}

const (
	maxTitleBytes    = 64
	maxSentenceBytes = 512
	maxPropagation   = 10 * time.Minute
	maxListSize      = 1000
)

func (c *compiler) definition(d *definition) {
	c.sentence("title", d.Title, maxTitleBytes)
	if c.parts(d); c.err != nil {
		return
	}
	c.auth("admin", d.Admin, adminKeyValue, adminSecretValue)
	c.auth("key", d.Key, keyValue)
	c.make("create", d.Create, d.Admin, nameValue)
	c.make("replace", d.Replace, d.Admin, idValue)
	if d.Replace != nil && d.Replace.mentionsID && d.Verify.ID == "" {
		// What a person says is the id of their key may be that of another's.
		c.fail("replace", "mentions {{id}}, and nothing tells the id of a key that is handed in (verify.id may)")
	}
	c.ids(d)
	c.list(d.List, d.Admin)
	c.verify(d.Verify, d.Key)
	for _, end := range []struct {
		at   string
		spec *callSpec
	}{{"disable", d.Disable}, {"enable", d.Enable}, {"revoke", d.Revoke}} {
		c.ends(end.at, end.spec, d.Admin)
	}
	for i, text := range d.Error {
		d.errors = append(d.errors, c.pointer(fmt.Sprintf("error, entry %d", i+1), text))
	}
	c.proof(d)
	if d.ByHand != nil {
		c.sentence("by_hand.make", d.ByHand.Make, maxSentenceBytes)
		c.sentence("by_hand.end", d.ByHand.End, maxSentenceBytes)
	}
}

// parts refuses a definition in which something is missing, or can never be used.
func (c *compiler) parts(d *definition) {
	identify := d.Verify != nil && d.Verify.ID != ""
	switch {
	case d.Verify == nil:
		c.fail("verify", "is required: no key is used before it was proven")
	case d.Key == nil:
		c.fail("key", "is required: it says how a key goes on verify")
	case d.Create != nil && d.List == nil:
		c.fail("create", "needs list: a key whose creation was not answered is found by its name")
	case d.Create != nil && d.Revoke == nil:
		c.fail("create", "needs revoke: what is made must be ended")
	case d.Create == nil && d.Replace == nil && d.ByHand == nil:
		c.fail("create", "is required, with list and revoke, unless there is replace or by_hand")
	case d.ByHand != nil && (d.ByHand.Make == "" || d.ByHand.End == ""):
		c.fail("by_hand", "needs both make and end: what a person is told")
	case (d.Disable == nil) != (d.Enable == nil):
		c.fail("disable", "and enable need each other: what is disabled can be brought back")
	case d.Disable != nil && d.Revoke == nil:
		c.fail("disable", "needs revoke: a disabled key is not ended")
	case d.Revoke != nil && d.Create == nil && !identify:
		c.fail("revoke", "has no use without create: nothing tells the id of a key (verify.id may)")
	case d.Admin == nil && (d.Create != nil || d.Replace != nil || d.List != nil || d.Revoke != nil):
		c.fail("admin", "is required: it says how the admin key goes on all calls but verify")
	}
}

func (c *compiler) sentence(at, text string, limit int) {
	if len(text) > limit || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\u2028' || r == '\u2029' }) {
		c.fail(at, "must be one line of at most %d bytes", limit)
	}
}

// template parses a template at a place where the given names may stand, and parameters.
func (c *compiler) template(at, text string, known ...string) template {
	t, err := parseTemplate(text)
	c.refuse(at, err)
	for _, part := range t {
		_, parameter := c.parameters[part.name]
		switch {
		case part.name == "", slices.Contains(known, part.name), parameter:
			c.mentioned[part.name] = true
		case belongs[part.name] != "":
			c.fail(at, "{{%s}} must not stand here, only in %s", part.name, belongs[part.name])
		default:
			c.fail(at, "{{%.64s}} is not among the connection's parameters", part.name)
		}
	}
	return t
}

// pairs parses named templates. Names are no templates.
func (c *compiler) pairs(at string, named map[string]string, known ...string) []pair {
	var out []pair
	for _, name := range slices.Sorted(maps.Keys(named)) {
		if name == "" || strings.Contains(name, "{{") || strings.Contains(name, "}}") {
			c.fail(join(at, name), "is not a name: it must not be empty, nor hold a placeholder")
		}
		out = append(out, pair{name, c.template(join(at, name), named[name], known...)})
	}
	return out
}

const authorization = "Authorization"

var (
	headerName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$")
	// ownHeaders are set by the HTTP client, which knows them better.
	ownHeaders = []string{"Accept-Encoding", "Connection", "Content-Length", "Expect", "Host", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}
)

func (c *compiler) headers(at string, named map[string]string, known ...string) []pair {
	out := c.pairs(at, named, known...)
	for i := range out {
		place := join(at, out[i].name)
		if !headerName.MatchString(out[i].name) {
			c.fail(place, "is not the name of a header")
		}
		out[i].name = http.CanonicalHeaderKey(out[i].name)
		if slices.Contains(ownHeaders, out[i].name) {
			c.fail(place, "is a header that the HTTP client sets")
		}
		for _, part := range out[i].value {
			if !printable(part.text) {
				c.fail(place, "must be one line of printable ASCII")
			}
		}
	}
	return out
}

// auth compiles what proves who calls. The first of the names is the secret that must be in
// it: without the key in question verify would prove some other key, each time.
func (c *compiler) auth(at string, a *authSpec, known ...string) {
	if a == nil {
		return
	}
	mentioned := c.collect(func() {
		a.headers = c.headers(join(at, "headers"), a.Headers, known...)
		a.query = c.pairs(join(at, "query"), a.Query, known...)
		c.basic(at, a, known...)
	})
	if !mentioned[known[0]] {
		c.fail(at, "must mention {{%s}}", known[0])
	}
	if len(a.query) > 0 {
		c.warnings = append(c.warnings, fmt.Sprintf("%s: %s.query puts keys into URLs, which servers and proxies write into their logs", definitionField, at))
	}
}

func (c *compiler) basic(at string, a *authSpec, known ...string) {
	if a.Basic == nil {
		return
	}
	a.username = c.template(join(at, "basic.username"), a.Basic.Username, known...)
	a.password = c.template(join(at, "basic.password"), a.Basic.Password, known...)
	if slices.ContainsFunc(a.headers, func(p pair) bool { return p.name == authorization }) {
		c.fail(at, "must not have both basic and a header Authorization: they are the same header")
	}
	if strings.Contains(a.username.fill(c.parameters, asIs), ":") {
		c.fail(join(at, "basic.username"), "must not hold a colon: the password begins there")
	}
}

// collect tells which placeholders are met in what it runs.
func (c *compiler) collect(compile func()) (mentioned map[string]bool) {
	before := c.mentioned
	c.mentioned = map[string]bool{}
	compile()
	mentioned, c.mentioned = c.mentioned, before
	maps.Copy(c.mentioned, mentioned)
	return mentioned
}

var methods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// call compiles what all calls have. It returns the placeholders that are mentioned.
func (c *compiler) call(at string, s *callSpec, auth *authSpec, known ...string) map[string]bool {
	if !slices.Contains(methods, s.Method) {
		c.fail(join(at, "method"), "must be one of %s", strings.Join(methods, ", "))
	}
	mentioned := c.collect(func() {
		c.path(at, s, known...)
		s.query = append(s.query, c.pairs(join(at, "query"), s.Query, known...)...)
		s.headers = c.headers(join(at, "headers"), s.Headers, known...)
		s.form = c.pairs(join(at, "form"), s.Form, known...)
		c.body(at, s, known...)
	})
	c.clashes(at, s, auth)
	if len(s.Success) == 0 {
		s.Success = []int{200, 201, 202, 203, 204}
	}
	c.statuses(join(at, "success"), s.Success, 200, 299)
	return mentioned
}

// path compiles a path; a query in it is taken apart, so that its values are escaped as
// those of the field query are.
func (c *compiler) path(at string, s *callSpec, known ...string) {
	path, query, _ := strings.Cut(s.Path, "?")
	at = join(at, "path")
	s.path = c.template(at, path, known...)
	example := values{}
	maps.Copy(example, c.parameters)
	for name := range belongs {
		example[name] = "x"
	}
	_, err := s.path.fillPath(example)
	c.refuse(at, err)
	parsed, err := url.ParseQuery(query)
	if err != nil || strings.ContainsAny(query, "#") {
		c.fail(at, "has a query that is not one")
	}
	for _, name := range slices.Sorted(maps.Keys(parsed)) {
		for _, value := range parsed[name] {
			s.query = append(s.query, c.pairs(at, map[string]string{name: value}, known...)...)
		}
	}
}

func (c *compiler) body(at string, s *callSpec, known ...string) {
	if len(s.Body) == 0 {
		return
	}
	if s.Form != nil {
		c.fail(join(at, "form"), "must not be given with body")
	}
	value, err := decodeBody(s.Body)
	c.refuse(join(at, "body"), err)
	s.body = c.value(join(at, "body"), value, known...)
	if s.Method == http.MethodGet {
		c.fail(join(at, "body"), "must not be given with GET")
	}
}

// member is a member of an object in a body.
type member struct {
	name  template
	value any
}

// value compiles a JSON value: each string, and each name in an object, is a template.
// What fills one stays within its string, since the body is encoded after that.
func (c *compiler) value(at string, value any, known ...string) any {
	switch value := value.(type) {
	case string:
		return c.template(at, value, known...)
	case []any:
		for i, entry := range value {
			value[i] = c.value(at, entry, known...)
		}
		return value
	case map[string]any:
		members := make([]member, 0, len(value))
		for _, name := range slices.Sorted(maps.Keys(value)) {
			place := join(at, name)
			members = append(members, member{c.template(place, name, known...), c.value(place, value[name], known...)})
		}
		return members
	}
	return value
}

// clashes refuses a call that gives what its auth gives.
func (c *compiler) clashes(at string, s *callSpec, auth *authSpec) {
	if auth == nil {
		return
	}
	names := func(p pair) string { return p.name }
	taken := mapped(auth.headers, names)
	if auth.Basic != nil {
		taken = append(taken, authorization)
	}
	for _, h := range s.headers {
		if slices.Contains(taken, h.name) {
			c.fail(join(at, "headers."+h.name), "is given by admin or key, which goes on each call")
		}
	}
	for _, q := range s.query {
		if slices.Contains(mapped(auth.query, names), q.name) {
			c.fail(join(at, "query."+q.name), "is given by admin or key, which goes on each call")
		}
	}
}

func mapped[T, U any](in []T, f func(T) U) []U {
	out := make([]U, 0, len(in))
	for _, v := range in {
		out = append(out, f(v))
	}
	return out
}

func (c *compiler) statuses(at string, list []int, from, to int) {
	for _, status := range list {
		if status < from || status > to {
			c.fail(at, "must be from %d to %d, not %d", from, to, status)
		}
	}
}

func (c *compiler) pointer(at, text string) *pointer {
	p, err := parsePointer(text)
	c.refuse(at, err)
	return p
}

// optional compiles a pointer that need not be there; the empty text is none.
func (c *compiler) optional(at, text string) *pointer {
	if text == "" {
		return nil
	}
	return c.pointer(at, text)
}

func (c *compiler) required(at, text string) *pointer {
	if text == "" {
		c.fail(at, `is required: a JSON pointer (RFC 6901), such as "/data/id"`)
	}
	return c.optional(at, text)
}

// unused warns of parameters that no template mentions.
func (c *compiler) unused() {
	for _, name := range slices.Sorted(maps.Keys(c.parameters)) {
		if !c.mentioned[name] {
			c.warnings = append(c.warnings, fmt.Sprintf("parameters: the definition does not mention {{%s}}", name))
		}
	}
}
