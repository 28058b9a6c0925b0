package fakeapi_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// fake is what the helpers need of a fake.
type fake interface {
	URL() string
	Client() *http.Client
}

type answer struct {
	status int
	header http.Header
	body   any
}

// exchange sends one request, and reads the answer's JSON.
func exchange(t *testing.T, api fake, header http.Header, method, path, body string) answer {
	t.Helper()
	resp, err := send(t, api, header, method, path, body)
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	a := answer{status: resp.StatusCode, header: resp.Header}
	if len(text) > 0 {
		require.NoError(t, json.Unmarshal(text, &a.body), "%s", text)
	}
	return a
}

func send(t *testing.T, api fake, header http.Header, method, path, body string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, api.URL()+path, strings.NewReader(body))
	require.NoError(t, err)
	req.Header = header.Clone()
	return api.Client().Do(req)
}

// at gives a field by its JSON pointer; nil where there is none.
func (a answer) at(t *testing.T, pointer string) any {
	t.Helper()
	v := a.body
	for part := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		switch inner := v.(type) {
		case map[string]any:
			v = inner[part]
		case []any:
			if part != "0" || len(inner) == 0 {
				return nil
			}
			v = inner[0]
		default:
			return nil
		}
	}
	return v
}

func (a answer) text(t *testing.T, pointer string) string {
	t.Helper()
	s, isText := a.at(t, pointer).(string)
	require.True(t, isText, "%s in %v", pointer, a.body)
	return s
}

func (a answer) items(t *testing.T, pointer string) []any {
	t.Helper()
	list, isList := a.at(t, pointer).([]any)
	require.True(t, isList, "%s in %v", pointer, a.body)
	return list
}

// shape is a documented request and what comes back: the status, and fields by JSON pointer. Any
// stands for a field that is there, whatever it is.
type shape struct {
	name         string
	header       http.Header
	method, path string
	body         string
	status       int
	fields       map[string]any
}

type anything struct{}

func check(t *testing.T, api fake, shapes []shape) {
	t.Helper()
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) {
			a := exchange(t, api, s.header, s.method, s.path, s.body)
			require.Equal(t, s.status, a.status, "%v", a.body)
			for pointer, want := range s.fields {
				if want == (anything{}) {
					require.NotNil(t, a.at(t, pointer), "%s in %v", pointer, a.body)
				} else {
					require.Equal(t, want, a.at(t, pointer), "%s in %v", pointer, a.body)
				}
			}
		})
	}
}

func bearer(key string) http.Header { return http.Header{"Authorization": {"Bearer " + key}} }
