package httpcheck

import (
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

func TestOptions(t *testing.T) {
	t.Parallel()
	require.Equal(t, "http-check", New().Type())
	var secrets, addresses []string
	for _, o := range New().Options() {
		require.NotEmpty(t, o.Help, o.Name)
		if o.Secret {
			secrets = append(secrets, o.Name)
		}
		if o.Address {
			addresses = append(addresses, o.Name)
		}
	}
	require.Equal(t, []string{"token"}, secrets)
	require.Equal(t, []string{"url", "tls_ca", "allow_insecure_http"}, addresses)
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	c := &rotator.ConnectionConfig{Values: option.Values{"url": example}}
	warnings, err := New().CheckConnection(c)
	require.NoError(t, err)
	require.Empty(t, warnings)
	attempts, interval, err := New().Pace(c)
	require.NoError(t, err)
	require.Equal(t, 10, attempts)
	require.Equal(t, 6*time.Second, interval)

	s, err := settingsOf(c)
	require.NoError(t, err)
	require.Equal(t, "GET", s.Method)
	require.Equal(t, 5*time.Second, s.timeout())
	require.True(t, s.expected.admit(200))
	require.False(t, s.expected.admit(204))
	require.Nil(t, s.pattern)
	require.Nil(t, s.roots)
}

func TestPace(t *testing.T) {
	t.Parallel()
	attempts, interval, err := New().Pace(&rotator.ConnectionConfig{Values: option.Values{"url": example, "attempts": 100, "interval": 300}})
	require.NoError(t, err)
	require.Equal(t, 100, attempts)
	require.Equal(t, 5*time.Minute, interval)
	_, _, err = New().Pace(&rotator.ConnectionConfig{Values: option.Values{}})
	require.Equal(t, fault.Invalid, fault.KindOf(err))
}

func TestInsecureHTTPIsWarnedOf(t *testing.T) {
	t.Parallel()
	warnings, err := New().CheckConnection(&rotator.ConnectionConfig{Values: option.Values{"url": "http://api.internal:8080/health", "allow_insecure_http": true}})
	require.NoError(t, err)
	require.Len(t, warnings, 1)
	require.Contains(t, warnings[0], "between Vault and api.internal:8080")
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		values option.Values
		field  string
		says   string
	}{
		"no URL":             {option.Values{"url": ""}, "url", "is required"},
		"no scheme":          {option.Values{"url": "api.example.com/health"}, "url", "must be a URL"},
		"opaque":             {option.Values{"url": "https:api.example.com"}, "url", "must be a URL"},
		"no host":            {option.Values{"url": "https:///health"}, "url", "must be a URL"},
		"a port alone":       {option.Values{"url": "https://:443/health"}, "url", "must be a URL"},
		"a fragment":         {option.Values{"url": example + "#"}, "url", "must be a URL"},
		"a space":            {option.Values{"url": example + " "}, "url", "must be a URL"},
		"a line break":       {option.Values{"url": example + "\r\nHost: x"}, "url", "must be a URL"},
		"not ASCII":          {option.Values{"url": "https://exämple.com"}, "url", "must be a URL"},
		"a user":             {option.Values{"url": "https://u:p@api.example.com"}, "url", "must not hold a user"},
		"http":               {option.Values{"url": "http://api.example.com"}, "url", "needs allow_insecure_http=true"},
		"file":               {option.Values{"url": "file://host/etc/passwd", "allow_insecure_http": true}, "url", "must begin with https://"},
		"POST":               {option.Values{"method": "POST"}, "method", "must be GET or HEAD"},
		"get":                {option.Values{"method": "get"}, "method", "must be GET or HEAD"},
		"no attempt":         {option.Values{"attempts": 0}, "attempts", "must be from 1 to 100"},
		"too many attempts":  {option.Values{"attempts": 101}, "attempts", "must be from 1 to 100"},
		"no interval":        {option.Values{"interval": 0}, "interval", "must be from 1s to 5m"},
		"a long interval":    {option.Values{"interval": 301}, "interval", "must be from 1s to 5m"},
		"no timeout":         {option.Values{"timeout": 0}, "timeout", "must be from 1s to 15s"},
		"a long timeout":     {option.Values{"timeout": 16}, "timeout", "must be from 1s to 15s"},
		"a body of HEAD":     {option.Values{"method": "HEAD", "body_match": "ok"}, "body_match", "needs method=GET"},
		"no expression":      {option.Values{"body_match": "(ok"}, "body_match", "is not a regular expression"},
		"a look-ahead":       {option.Values{"body_match": "(?=ok)"}, "body_match", "is not a regular expression"},
		"a large expression": {option.Values{"body_match": "a{999}b{999}"}, "body_match", "is too large"},
		"a huge expression":  {option.Values{"body_match": strings.Repeat("(a|b)?", 10000)}, "body_match", "is too large"},
		"garbage for a CA":   {option.Values{"tls_ca": "garbage"}, "tls_ca", "holds no certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			values := option.Values{"url": example}
			maps.Copy(values, tc.values)
			_, err := New().CheckConnection(&rotator.ConnectionConfig{Values: values})
			refused(t, err, tc.field, tc.says)
			_, err = New().Open(&rotator.ConnectionConfig{Values: values})
			refused(t, err, tc.field, tc.says)
		})
	}
}

func refused(t *testing.T, err error, field, says string) {
	t.Helper()
	var f *fault.Error
	require.ErrorAs(t, err, &f)
	require.Equal(t, fault.Invalid, f.Kind)
	require.Equal(t, field, f.Field)
	require.ErrorContains(t, err, says)
}

func TestBadTokens(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"canary\n", "canary token", "canary\r\nX-Admin: 1", "canarÿ"} {
		_, err := New().CheckConnection(&rotator.ConnectionConfig{
			Values: option.Values{"url": example}, Secrets: secret.Map{"token": secret.New(bad)},
		})
		refused(t, err, "token", "must be one bearer token")
		clean(t, err.Error())
	}
}

func TestStatuses(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		entries  []string
		text     string
		in, out  int
		also, no int
	}{
		{[]string{"200"}, "200", 200, 201, 200, 199},
		{[]string{"200", " 204"}, "200 or 204", 204, 201, 200, 205},
		{[]string{"2xx"}, "2xx", 200, 300, 299, 199},
		{[]string{"5XX", "302", "200-299"}, "5xx, 302 or 200-299", 599, 303, 250, 499},
		{[]string{"204-204"}, "204-204", 204, 203, 204, 205},
	} {
		s, err := parseStatuses(tc.entries)
		require.NoError(t, err)
		require.Equal(t, tc.text, s.String())
		require.True(t, s.admit(tc.in))
		require.True(t, s.admit(tc.also))
		require.False(t, s.admit(tc.out))
		require.False(t, s.admit(tc.no))
	}
	many := strings.Split(strings.Repeat("200,", maxStatuses)+"200", ",")
	for _, bad := range [][]string{
		nil, many,
		{""},
		{"ok"},
		{"20"},
		{"2000"},
		{"100"},
		{"1xx"},
		{"600"},
		{"6xx"},
		{"2x"},
		{"-200"},
		{"200-"},
		{"299-200"},
		{"200-2xx"},
		{"200-600"},
		{"+200"},
		{"200", "x"},
		{"２００"},
		{strings.Repeat("9", 10000)},
	} {
		_, err := parseStatuses(bad)
		refused(t, err, "expected_status", "")
		require.Less(t, len(err.Error()), 300)
	}
}
