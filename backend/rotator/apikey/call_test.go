package apikey

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/egress"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// openProvider opens a connection of a kind from its options, as the engine does, with a
// client that does not wait between attempts.
func openProvider(t *testing.T, kind providerKind, baseURL, adminKey string, values option.Values) provider {
	t.Helper()
	all := option.Values{"base_url": baseURL, "allow_insecure_http": true}
	for name, value := range values {
		all[name] = value
	}
	config := &rotator.ConnectionConfig{Name: "api", Values: all, Secrets: secret.Map{}}
	if adminKey != "" {
		config.Secrets["admin_key"] = secret.New(adminKey)
	}
	s, _, err := (&ConnectionKind{kind: kind}).settings(config)
	require.NoError(t, err)
	client := egress.New(egress.Options{
		AllowInsecureHTTP: true, AllowedHosts: s.AllowedHosts, Timeout: 10 * time.Second, RetryWait: time.Millisecond,
	})
	t.Cleanup(client.Close)
	p, err := kind.open(s, client)
	require.NoError(t, err)
	return p
}

// checkOptions gives what a kind makes of options.
func checkOptions(kind providerKind, adminKey string, values option.Values) error {
	config := &rotator.ConnectionConfig{Name: "api", Values: values, Secrets: secret.Map{}}
	if adminKey != "" {
		config.Secrets["admin_key"] = secret.New(adminKey)
	}
	_, err := (&ConnectionKind{kind: kind}).CheckConnection(config)
	return err
}

// nobody listens there: a port of the system's, since one that a test closed may be another
// test's by now.
const nobody = "http://127.0.0.1:1"

// script is a server that says what a test makes up, and keeps what it was asked.
type script struct {
	*httptest.Server
	mu   sync.Mutex
	seen []string // "DELETE /v1/x?limit=1 {body}"
}

// answering starts a server. A nil answer is a 200 that is empty.
func answering(t *testing.T, answer http.HandlerFunc) *script {
	t.Helper()
	s := &script{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.seen = append(s.seen, strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Method, r.URL.RequestURI(), body)))
		s.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *script) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.seen...)
}

// saying answers everything alike.
func saying(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body) // the client may be gone
	}
}

// requireFault asserts an error's kind and a part of its sentence, and that no secret is in it.
func requireFault(t *testing.T, err error, kind fault.Kind, part string, secrets ...string) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, kind, fault.KindOf(err), err)
	require.Contains(t, err.Error(), part)
	for _, s := range secrets {
		require.NotContains(t, err.Error(), s)
	}
	require.Less(t, len(err.Error()), 1024, "a sentence is bounded")
}

// requireOutcome is requireFault, or the absence of one where kind is empty.
func requireOutcome(t *testing.T, err error, kind fault.Kind, part string, secrets ...string) {
	t.Helper()
	if kind == "" {
		require.NoError(t, err)
		return
	}
	requireFault(t, err, kind, part, secrets...)
}

func TestValidID(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"key_abc", "svc_acct_abc", "a", "..a", "user:1@x", strings.Repeat("a", maxID)} {
		require.True(t, validID(id), id)
	}
	for _, id := range []string{"", ".", "..", "a/b", "a%2Fb", "%2e%2e", "a%", `a\b`, "a b", "a\n", "é", "\x00", "a\x7f", strings.Repeat("a", maxID+1)} {
		require.False(t, validID(id), "%q", id)
	}
}

func TestBetrays(t *testing.T) {
	t.Parallel()
	const key = "sk-0123456789abcdefghijkl"
	for _, id := range []string{key, "id-" + key, "0123456789abc", "sk-0123456789abcdefghij"} {
		require.True(t, betrays(id, secret.New(key)), id)
	}
	for _, id := range []string{"", "key_1", "0123456789ab", "sk-012345678", "0123456789abd", "SK-0123456789ABCDEFGHIJKL"} {
		require.False(t, betrays(id, secret.New(key)), id)
	}
	require.True(t, betrays("short", secret.New("short")))
	require.False(t, betrays("key_1", secret.String{}))
	require.False(t, betrays("abcdefghijklmnopqrstuv", secret.New("SG.abcdefghijklmnopqrstuv.0123456789012345678901234567890123456789012")), "as SendGrid has it")
}

// What keys of a provider have in common tells nothing of one.
func TestToldByAHint(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		alike alike
		shown string
		key   string
		want  int
	}{
		{openAIAlike, "sk-abc...def", "sk-abcxxxxxxxdef", 6},
		{openAIAlike, "sk-...wxyz", "sk-abcxxxxxxxwxyz", 4},
		{openAIAlike, "sk-pro...xyz", "sk-proj-abcxxxxxxxyz", 3},
		{openAIAlike, "sk-proj-...wxyz", "sk-proj-abcxxxwxyz", 4},
		{openAIAlike, "sk-proj-a...wxyz", "sk-proj-abcxxxwxyz", 5},
		{openAIAlike, "sk-svcacct-abc...xyz", "sk-svcacct-abcxxxxxxxyz", 6},
		{anthropicAlike, "sk-ant-api03-R2D...igAA", testAnthropicKey, 5},
		{anthropicAlike, "sk-ant-api03...igAA", testAnthropicKey, 2},
		{anthropicAlike, "no hint", testAnthropicKey, 0},
	} {
		require.Equal(t, c.want, c.alike.told(c.shown, secret.New(c.key)), c.shown)
	}
}

func TestHintFits(t *testing.T) {
	t.Parallel()
	key := secret.New("sk-ant-api03-R2Dxxxxxxxxxxxxxx-x.xxigAA")
	for _, fits := range []string{"sk-ant-api03-R2D...igAA", "sk-ant-***gAA", "sk-ant…igAA", "...igAA", "sk-a..gAA", "sk-a••••igAA"} {
		require.True(t, hintFits(fits, key), fits)
	}
	for _, differs := range []string{
		"", "...", "sk-ant-api03-R2D...", "sk-ant-api03-R2D...AA", // shows too little
		"sk-ant-api03-R2D...igAB", "sk-ant-api03-R2E...igAA", "igAA", key.Reveal(), "sk-ant-api03-R2D.igAA",
		"sk-ant-api03-R2D...ig...igAA...", "sk-ant-api03-R2D... igAA",
	} {
		require.False(t, hintFits(differs, key), differs)
	}
	// The beginning and the end that are shown must not be the same characters.
	require.False(t, hintFits("abcd...bcde", secret.New("abcde")))
	require.False(t, hintFits("abc...def", secret.New("abcdef")))
	require.True(t, hintFits("abc...def", secret.New("abc-def")))
}

func TestCollectIsBounded(t *testing.T) {
	t.Parallel()
	pages := func(last func(n int) string) func(string) (*page[int], error) {
		n := 0
		return func(string) (*page[int], error) {
			n++
			return &page[int]{items: []int{n}, more: true, last: last(n)}, nil
		}
	}
	_, err := collect("Acme", pages(func(n int) string { return fmt.Sprint("id_", n) }))
	requireFault(t, err, fault.Target, "Acme gives a list of more than 100 pages")
	for name, last := range map[string]func(int) string{
		"standing": func(int) string { return "id_1" }, "circle": func(n int) string { return fmt.Sprint("id_", n%3) },
		"none": func(int) string { return "" }, "path": func(n int) string { return fmt.Sprint("../", n) },
	} {
		_, err := collect("Acme", pages(last))
		requireFault(t, err, fault.Target, "whose pages lead nowhere")
		require.Error(t, err, name)
	}
}

func TestInstant(t *testing.T) {
	t.Parallel()
	require.Equal(t, time.Date(2024, 3, 26, 16, 45, 33, 0, time.UTC), instant(1711471533))
	for _, none := range []int64{0, -1, maxInstant + 1, 1 << 62} {
		require.True(t, instant(none).IsZero(), none)
	}
	_, err := instant(maxInstant).MarshalJSON()
	require.NoError(t, err)
}

func TestListed(t *testing.T) {
	t.Parallel()
	require.Equal(t, "a, b", listed([]string{"a", "x/y", "b"}))
	require.Equal(t, "a, b, c, d, e and 2 more", listed([]string{"a", "b", "c", "d", "e", "f", "g"}))
}

// Whoever lacks an ability is not asked for it; if it is, that is our own fault.
func TestUnable(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	var u unable
	_, made := u.create(ctx, "n")
	_, found := u.find(ctx, "n")
	_, known := u.identify(ctx, secret.New("k"), "")
	_, changed := u.replace(ctx, reference{})
	for _, err := range []error{made, found, known, changed, only(u.disable(ctx, reference{})), u.enable(ctx, reference{}), only(u.revoke(ctx, reference{}))} {
		requireFault(t, err, fault.Internal, "cannot do")
	}
}

// What a provider says in an error is bounded, whatever it calls it.
func TestSaid(t *testing.T) {
	t.Parallel()
	said := func(d *declined) string {
		a := &answer{Response: &egress.Response{Status: 418}, caller: &caller{title: "Acme"}, declined: d}
		return a.said()
	}
	require.Equal(t, "status 418", said(nil))
	require.Equal(t, "status 418", said(&declined{}))
	require.Equal(t, "status 418 no_tea", said(&declined{Code: "no_tea", Type: "pot"}))
	require.Equal(t, "status 418 pot: short", said(&declined{Code: "No Tea\n", Type: "pot", Message: "short"}))
	require.Equal(t, "status 418", said(&declined{Code: strings.Repeat("a", 65), Type: "<b>"}))
}

// only gives the error of an end, whether the key was gone or not.
func only(_ bool, err error) error { return err }
