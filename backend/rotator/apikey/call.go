package apikey

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/egress"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// caller makes the calls of one provider: what all of them have in common.
type caller struct {
	title  string
	base   string
	client *egress.Client
	admin  secret.String
	// isAdmin tells that all calls are made with the admin key.
	isAdmin bool
	// authorize puts a key into a request's header, and whatever else the API wants there.
	authorize func(h http.Header, key secret.String)
	// decline reads the provider's own form of an error. Anything else is nil: a gateway's
	// page, say, which proves nothing of a key.
	decline func(body []byte) *declined
	// refuses tells the provider's refusal of the key itself from everything else that it
	// may decline with the same status.
	refuses func(status int, d *declined) bool
	// formless tells that the form of the provider's errors is not known: any may be its own.
	formless bool
}

// declined is a provider's error in its own form.
type declined struct {
	Code, Type, Message string
}

// word is what the error is called, if that looks like a name.
func (d *declined) word() string {
	for _, word := range []string{d.Code, d.Type} {
		if errorWord.MatchString(word) {
			return word
		}
	}
	return ""
}

var errorWord = regexp.MustCompile(`^[a-z0-9_.-]{1,64}$`)

// call is one call of an API.
type call struct {
	action string // "list the service accounts"
	method string
	path   string // below the base, its ids escaped
	query  url.Values
	body   any // sent as JSON, if any
	key    secret.String
	once   bool // see egress.Request
}

// answer is what came of a call.
type answer struct {
	*egress.Response
	caller  *caller
	request egress.Request
	// declined is nil for a success, and for what is not of the provider's own form.
	declined *declined
}

func (c *caller) do(ctx context.Context, in call) (*answer, error) {
	r := egress.Request{
		Action: fmt.Sprintf("%s at %s", in.action, c.title), Method: in.method, URL: c.base + in.path, Header: http.Header{},
		Once: in.once,
	}
	if len(in.query) > 0 {
		r.URL += "?" + in.query.Encode()
	}
	r.Header.Set("Accept", "application/json")
	if !in.key.Empty() {
		r.Secrets = []secret.String{in.key}
		c.authorize(r.Header, in.key)
	}
	if in.body != nil {
		body, err := json.Marshal(in.body)
		if err != nil {
			return nil, fault.New(fault.Internal, "%s: %w", r.Action, err)
		}
		r.Body = body
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.client.Do(ctx, r)
	if err != nil {
		return nil, err
	}
	a := &answer{Response: resp, caller: c, request: r}
	if !a.ok() {
		a.declined = c.decline(resp.Body)
	}
	return a, nil
}

func (a *answer) ok() bool { return a.Status >= 200 && a.Status < 300 }

// own tells that what is no success is the provider's own word. All else comes from
// elsewhere, such as a gateway, and says nothing of a key.
func (a *answer) own() bool { return a.declined != nil || a.caller.formless }

// gone tells that what was named does not exist.
func (a *answer) gone() bool { return a.Status == http.StatusNotFound && a.own() }

// unconfirmedAbsence is the error of an answer that says that something is gone, where the
// list that it would stand in cannot be read.
func unconfirmedAbsence(a *answer, err error) error {
	return fault.In(a.request.Action+": it is said to be gone, which is not confirmed", err)
}

// notMade tells that a call that makes something was declined for certain. Whoever timed
// out, or failed in between, may have made it; and so may an API whose answer, in which a
// key stands, was kept back on its way by a page of somebody else's.
func (a *answer) notMade() bool {
	return a.own() && a.Status >= 400 && a.Status < 500 && a.Status != http.StatusRequestTimeout
}

// read decodes a success; anything else is what failed.
func (a *answer) read(out any) error {
	if !a.ok() {
		return a.failed()
	}
	if err := json.Unmarshal(a.Body, out); err != nil {
		// The decoder's own words may quote the answer.
		return a.unclear()
	}
	return nil
}

// unclear is the error of an answer of a form that is not the API's.
func (a *answer) unclear() error {
	return fault.New(fault.Target, "%s: the answer cannot be understood (status %d)", a.request.Action, a.Status)
}

// failed is the error of an answer that is no success.
func (a *answer) failed() error {
	switch {
	case a.caller.refuses(a.Status, a.declined):
		return fault.New(fault.AuthFailed, "%s: %s is refused (%s)", a.request.Action, a.whose(), a.said())
	case a.busy():
		return fault.New(fault.Unreachable, "%s: it cannot serve now (%s)", a.request.Action, a.said())
	case a.Status == http.StatusNotFound && !a.own():
		return a.foreign()
	}
	return fault.New(fault.Target, "%s: declined (%s)", a.request.Action, a.said())
}

// unproven is the error of an answer to a key's verification that says nothing of the key.
// One of the provider's own form declines the key; any other was not the provider's word,
// and must not pass for it.
func (a *answer) unproven() error {
	if a.declined == nil && !a.caller.refuses(a.Status, a.declined) && !a.busy() {
		return a.foreign()
	}
	return a.failed()
}

// foreign is the error of an answer that is not the provider's own.
func (a *answer) foreign() error {
	return fault.New(fault.Unreachable, "%s: something answered that is not in the form of %s, and proves nothing (status %d)",
		a.request.Action, a.caller.title, a.Status)
}

// nothing is the error of the provider's own answer to a key's verification that neither
// accepts nor refuses the key.
func (a *answer) nothing() error {
	return fault.New(fault.Unreachable, "%s: the answer proves nothing of the key (%s)", a.request.Action, a.said())
}

// busy tells that the provider, or what stands before it, could not serve the call.
func (a *answer) busy() bool { return a.Status == http.StatusTooManyRequests || a.Status >= 500 }

// said is what an answer says in a few words: its status, the name of the error, and a
// piece of the message.
func (a *answer) said() string {
	out := fmt.Sprint("status ", a.Status)
	if a.declined == nil {
		return out
	}
	if word := a.request.Text(a.declined.word()); word != "" {
		out += " " + word
	}
	if text := a.request.Text(a.declined.Message); text != "" {
		out += ": " + text
	}
	return out
}

// whose names the key that a call was made with.
func (a *answer) whose() string {
	if a.caller.isAdmin || slices.ContainsFunc(a.request.Secrets, a.caller.admin.Equal) {
		return theAdminKey
	}
	return "the key"
}

// unconfirmed is the error of a call that may have made something.
func (a *answer) unconfirmed() error {
	// Nothing of the answer is quoted: a key that nobody knows of may stand in it.
	return fault.New(fault.Unconfirmed, "%s: it may have been done, but the answer cannot be used (status %d)", a.request.Action, a.Status)
}

// The bounds of a list that is read to its end.
const (
	maxPages = 100
	pageSize = 100
)

// page is one page of a list, and what the next one begins after.
type page[T any] struct {
	items []T
	more  bool
	last  string
}

// collect reads a list to its end: fetch gives the page after a cursor, at first an empty
// one. An error is never a shorter list, in which a key would seem to be missing.
func collect[T any](title string, fetch func(after string) (*page[T], error)) ([]T, error) {
	var out []T
	seen, after := map[string]bool{}, ""
	for range maxPages {
		p, err := fetch(after)
		if err != nil {
			return nil, err
		}
		out = append(out, p.items...)
		if !p.more {
			return out, nil
		}
		if !validID(p.last) || seen[p.last] {
			return nil, fault.New(fault.Target, "%s gives a list whose pages lead nowhere", title)
		}
		after, seen[p.last] = p.last, true
	}
	return nil, fault.New(fault.Target, "%s gives a list of more than %d pages", title, maxPages)
}

// maxID bounds a provider's id of anything.
const maxID = 256

// validID tells whether a text can be a provider's id. It becomes a segment of a path: what
// would lead to another one is none.
func validID(id string) bool {
	return id != "" && len(id) <= maxID && id != "." && id != ".." && isPrintable(id) && !strings.ContainsAny(id, `/\%`)
}

// tooMuch is how many bytes of a secret in a row are no accident.
const tooMuch = 12

// betrays tells that an id, which everybody may see, is a secret, or the greater part of one.
// Less than that is an id that stands in its key, as SendGrid's do.
func betrays(id string, s secret.String) bool {
	text := s.Reveal()
	return text != "" && strings.Contains(id, text) || len(id) >= tooMuch && 2*len(id) > len(text) && strings.Contains(text, id)
}

// isPrintable tells whether a text is of printable ASCII, without spaces.
func isPrintable(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' })
}

// segment makes an id a part of a path.
func segment(id string) string { return url.PathEscape(id) }

// maxKey bounds a key.
const maxKey = 4096

// checkKeyText refuses what cannot be a key of any provider.
func checkKeyText(key secret.String) error {
	switch text := key.Reveal(); {
	case text == "":
		return fault.Field("key", "is empty")
	case len(text) > maxKey:
		return fault.Field("key", "is longer than %d bytes", maxKey)
	case !isPrintable(text):
		return fault.Field("key", "must be of printable ASCII characters, without spaces")
	}
	return nil
}

// instant reads a time in Unix seconds. What lies outside of the years that JSON can write
// is none.
func instant(seconds int64) time.Time {
	if seconds <= 0 || seconds > maxInstant {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}

// maxInstant is the end of the year 9999.
const maxInstant = 253402300799

// hint is the form in which a provider shows a key: its beginning, something instead of its
// middle, and its end.
var hint = regexp.MustCompile(`^([!-)+-~]*?)(?:\.{2,}|\*+|…+|•+)([!-)+-~]*)$`)

const (
	// minTail is how much of a key's end a hint must show. Beginnings are alike.
	minTail = 3
	// minTold is of how many characters a hint must tell, that other keys are likely not to
	// have, to be taken for the only one that fits.
	minTold = 5
)

// alike is what the keys of a provider have in common.
type alike struct {
	begin *regexp.Regexp
	end   string
}

// told counts the characters that a hint, which fits a key, shows of it and of no other.
func (a alike) told(shown string, key secret.String) int {
	parts := hint.FindStringSubmatch(shown)
	if parts == nil {
		return 0
	}
	begin := max(0, len(parts[1])-len(a.begin.FindString(key.Reveal())))
	return begin + len(strings.TrimSuffix(parts[2], a.end))
}

// hintFits tells whether a hint can be of a key. Others may look alike.
func hintFits(shown string, key secret.String) bool {
	parts := hint.FindStringSubmatch(shown)
	text := key.Reveal()
	return parts != nil && len(parts[2]) >= minTail && len(parts[1])+len(parts[2]) < len(text) &&
		strings.HasPrefix(text, parts[1]) && strings.HasSuffix(text, parts[2])
}

// maxListed bounds the ids that an error names.
const maxListed = 5

// listed names ids in a sentence.
func listed(ids []string) string {
	ids = slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return !validID(id) })
	if n := len(ids) - maxListed; n > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(ids[:maxListed], ", "), n)
	}
	return strings.Join(ids, ", ")
}

// unable is what a provider answers that lacks an ability. It is embedded, so that a
// provider writes only what it can do.
type unable struct{}

var errUnable = fault.New(fault.Internal, "the provider was asked for what it cannot do")

func (unable) create(context.Context, string) (*created, error) { return nil, errUnable }
func (unable) find(context.Context, string) ([]found, error)    { return nil, errUnable }
func (unable) identify(context.Context, secret.String, string) (reference, error) {
	return reference{}, errUnable
}
func (unable) disable(context.Context, reference) (bool, error)     { return false, errUnable }
func (unable) enable(context.Context, reference) error              { return errUnable }
func (unable) revoke(context.Context, reference) (bool, error)      { return false, errUnable }
func (unable) replace(context.Context, reference) (*created, error) { return nil, errUnable }

// passed and failed are lines of a check.
func passed(check, detail string) rotator.Line {
	return rotator.Line{Check: check, Result: rotator.Pass, Detail: detail}
}

func failed(check, detail string) rotator.Line {
	return rotator.Line{Check: check, Result: rotator.Fail, Detail: detail}
}
