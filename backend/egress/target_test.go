package egress

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

func TestHostAllowed(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		pattern, host string
		want          bool
	}{
		{"api.example.com", "api.example.com", true},
		{"API.example.com", "api.EXAMPLE.com", true},
		{"api.example.com", "xapi.example.com", false},
		{"api.example.com", "api.example.com.evil.net", false},
		{"api.example.com", "example.com", false},
		{"*.example.com", "a.example.com", true},
		{"*.Example.com", "a.b.eXample.com", true},
		{"*.example.com", "example.com", false},
		{"*.example.com", ".example.com", false},
		{"*.example.com", "aexample.com", false},
		{"*.example.com", "a.example.com.evil.net", false},
		{"*", "example.com", false},
		{"*.", "example.", false},
		{"*example.com", "anexample.com", false},
		{"*.0.0.1", "127.0.0.1", false},
		{"127.0.0.1", "127.0.0.1", true},
		{"127.0.0.1", "::ffff:127.0.0.1", false},
		{"::1", "0:0:0:0:0:0:0:1", true},
		{"[::1]", "::1", true},
		{"to\u212aen.example.com", "token.example.com", true}, // the operator's own Kelvin sign
		{"token.example.com", "to\u212aen.example.com", false},
		{"", "", false},
	} {
		require.Equal(t, tc.want, HostAllowed([]string{"other.test", tc.pattern}, tc.host), "%q for %q", tc.pattern, tc.host)
	}
	require.False(t, HostAllowed(nil, "example.com"))
}

func TestNotAdmitted(t *testing.T) {
	t.Parallel()
	c := New(Options{AllowedHosts: []string{"api.example.com", "*.example.org"}, Transport: func(http.RoundTripper) http.RoundTripper {
		return tripper(func(*http.Request) (*http.Response, error) {
			panic("sent")
		})
	}})
	for name, tc := range map[string]struct {
		change func(*Request)
		want   string
	}{
		"http":               {func(r *Request) { r.URL = "http://api.example.com/canary" }, "must begin with https://"},
		"another scheme":     {func(r *Request) { r.URL = "file://api.example.com/canary" }, "must begin with https://"},
		"another host":       {func(r *Request) { r.URL = "https://evil.test/canary?canary" }, "evil.test is not among the allowed hosts"},
		"not below the name": {func(r *Request) { r.URL = "https://example.org/canary" }, "example.org is not among"},
		"a user":             {func(r *Request) { r.URL = "https://canary:canary@api.example.com/" }, "must not hold a user"},
		"no user's name":     {func(r *Request) { r.URL = "https://@api.example.com/" }, "must not hold a user"},
		"no host":            {func(r *Request) { r.URL = "https:///canary" }, "must be absolute"},
		"a port alone":       {func(r *Request) { r.URL = "https://:443/canary" }, "must be absolute"},
		"opaque":             {func(r *Request) { r.URL = "https:api.example.com/canary" }, "must be absolute"},
		"relative":           {func(r *Request) { r.URL = "/canary" }, "must be absolute"},
		"empty":              {func(r *Request) { r.URL = "" }, "must be absolute"},
		"no URL":             {func(r *Request) { r.URL = "https://api.example.com/canary\x7f" }, "must be absolute"},
		"a host not ASCII":   {func(r *Request) { r.URL = "https://api.e\u212aample.com/canary" }, "in ASCII"},
		"a method of no one": {func(r *Request) { r.Method = "GET /canary" }, "method"},
		"no method":          {func(r *Request) { r.Method = "" }, "method"},
		"a header's value":   {func(r *Request) { r.Header = http.Header{"Authorization": {"Bearer canary\n"}} }, "a header holds characters"},
		"a header's name":    {func(r *Request) { r.Header = http.Header{"canary: x": {"y"}} }, "a header holds characters"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := list("https://api.example.com/")
			tc.change(&r)
			_, err := c.Do(t.Context(), r)
			require.ErrorContains(t, err, "list the keys: ")
			require.ErrorContains(t, err, tc.want)
			require.NotContains(t, err.Error(), "canary")
			require.Equal(t, fault.Invalid, fault.KindOf(err))
		})
	}
}

func TestAdmitted(t *testing.T) {
	t.Parallel()
	var sent []string
	c := New(Options{AllowedHosts: []string{"api.example.com", "*.example.org"}, Transport: func(http.RoundTripper) http.RoundTripper {
		return tripper(func(r *http.Request) (*http.Response, error) {
			sent = append(sent, r.URL.String())
			return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody}, nil
		})
	}})
	urls := []string{"https://API.example.com", "https://api.example.com:8443/x?y=z", "https://a.b.example.org/"}
	for _, url := range urls {
		resp, err := c.Do(t.Context(), list(url))
		require.NoError(t, err)
		require.Equal(t, 204, resp.Status)
	}
	require.Equal(t, urls, sent)
}
