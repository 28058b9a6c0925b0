package tests

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwk"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// newKeys mounts the engine for signing keys alone, which need no database.
func newKeys(t *testing.T, name string, vault *vaulttest.Server) *world {
	t.Helper()
	name = fmt.Sprintf("%s%d", name, worlds.Add(1))
	w := &world{mount: mount{vault.Address(), vault.Token(), name}, t: t, vault: vault, role: name}
	require.NoError(t, vault.Mount(t.Context(), w.path))
	return w
}

// keyFields gives the fields of a working role whose keys are made in no time, with changes.
func keyFields(changes map[string]any) map[string]any {
	return with(map[string]any{
		"type": "jwt", "algorithm": "ES256", "rotation_period": "7d", "token_ttl": "10m", "allowed_claims": "sub,aud,scope",
	}, changes)
}

// A signedToken is an answer of sign/.
type signedToken struct {
	Token   string    `json:"token"`
	Kid     string    `json:"kid"`
	Version int       `json:"version"`
	Expires time.Time `json:"expire_time"`
	Error   string    `json:"error"` // in a batch
}

// A verdict is an answer of verify/.
type verdict struct {
	Active  bool           `json:"active"`
	Claims  map[string]any `json:"claims"`
	Kid     string         `json:"kid"`
	Version int            `json:"version"`
	Reason  string         `json:"reason"`
}

// sign makes one token, which must be possible.
func (w *world) sign(role string, body map[string]any) (s signedToken) {
	w.t.Helper()
	require.NoError(w.t, unmarshal(w.write("sign/"+role, body), &s))
	require.Equal(w.t, 2, strings.Count(s.Token, "."), "a compact JWS")
	return s
}

func (w *world) signFor(role, subject string) signedToken {
	w.t.Helper()
	return w.sign(role, map[string]any{"claims": map[string]any{"sub": subject}})
}

func (w *world) verify(role, token string) (v verdict) {
	w.t.Helper()
	require.NoError(w.t, unmarshal(w.write("verify/"+role, map[string]any{"token": token}), &v))
	require.Equal(w.t, v.Active, v.Reason == "", "a reason for what is refused, and for nothing else")
	return v
}

// A document is what anyone may fetch.
type document struct {
	Status int
	Header http.Header
	Text   string
}

// fetch gets a document as verifiers do: by its URL, with no token.
func fetch(ctx context.Context, url string) (d document, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return d, err
	}
	response, err := httpClient.Do(request)
	if err != nil {
		return d, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return document{response.StatusCode, response.Header, string(text)}, err
}

// maxAge is for how long a document may be kept.
func (d document) maxAge() (time.Duration, error) {
	_, age, found := strings.Cut(d.Header.Get("Cache-Control"), "max-age=")
	if !found {
		return 0, fmt.Errorf("Cache-Control %q has no max-age", d.Header.Get("Cache-Control"))
	}
	seconds, err := strconv.Atoi(age)
	return time.Duration(seconds) * time.Second, err
}

func (m mount) url(path string) string { return m.address + "/v1/" + m.path + "/" + path }

// keySet fetches a role's public keys, which must be there.
func (w *world) keySet(role string) (document, jwk.Set) {
	w.t.Helper()
	d, err := fetch(w.t.Context(), w.url("jwks/"+role))
	require.NoError(w.t, err)
	require.Equal(w.t, http.StatusOK, d.Status, d.Text)
	set, err := jwk.Parse([]byte(d.Text))
	require.NoError(w.t, err, d.Text)
	return d, set
}

// kids are the ids of the published keys, in the order of the key set.
func (w *world) kids(role string) (kids []string) {
	w.t.Helper()
	_, set := w.keySet(role)
	for i := range set.Len() {
		key, _ := set.Key(i)
		kid, _ := key.KeyID()
		kids = append(kids, kid)
	}
	return kids
}

// announced waits until the next key is published, and gives its version.
func (w *world) announced(role string) (next versionAnswer) {
	w.t.Helper()
	await.Until(w.t, "the next key of "+role+" to be announced", func() (bool, any) {
		s := w.status(role)
		i := slices.IndexFunc(s.Versions, func(v versionAnswer) bool { return v.State == "standby" })
		if i >= 0 {
			next = s.Versions[i]
		}
		return i >= 0, s
	})
	return next
}

// keyStatus is what only signing keys have in status/:name.
type keyStatus struct {
	roleStatus
	Revoked []string `json:"revoked_kids"`
}

func (w *world) keyStatus(role string) (s keyStatus) {
	w.t.Helper()
	require.NoError(w.t, json.Unmarshal(w.get("status/"+role).Data, &s))
	return s
}
