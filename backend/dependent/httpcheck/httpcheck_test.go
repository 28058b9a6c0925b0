package httpcheck

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/certs"
)

func TestRequest(t *testing.T) {
	t.Parallel()
	var got *http.Request
	e := newEndpoint(t, func(_ http.ResponseWriter, r *http.Request) { got = r.Clone(context.Background()) })
	conn := opened(t, e.config(option.Values{"url": e.URL + "/health?full=1"}))
	detail, err := New().Try(t.Context(), conn)
	require.NoError(t, err)
	require.Equal(t, e.host()+" answered 200", detail)
	require.Equal(t, "GET /health?full=1", got.Method+" "+got.RequestURI)
	require.Equal(t, "Bearer "+canaryToken, got.Header.Get("Authorization"))
	require.Equal(t, "no-cache", got.Header.Get("Cache-Control"))
	require.True(t, got.Close, "no answer of a process that was since replaced")

	anonymous := e.config(option.Values{"method": "HEAD"})
	anonymous.Secrets = secret.Map{}
	_, err = New().Try(t.Context(), opened(t, anonymous))
	require.NoError(t, err)
	require.Equal(t, http.MethodHead, got.Method)
	require.NotContains(t, got.Header, "Authorization")
}

func TestTry(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		values option.Values
		says   string // of an error, after the host
	}{
		"well":                     {answers(200, "ok"), nil, ""},
		"another status":           {answers(204, ""), option.Values{"expected_status": []string{"200", "204"}}, ""},
		"a class":                  {answers(299, ""), option.Values{"expected_status": []string{"2xx"}}, ""},
		"a body":                   {answers(200, `{"status":"UP"}`), option.Values{"body_match": `"status":\s*"UP"`}, ""},
		"an expected 503":          {answers(503, ""), option.Values{"expected_status": []string{"503"}}, ""},
		"an expected redirect":     {answers(302, ""), option.Values{"expected_status": []string{"302"}}, ""},
		"unwell":                   {answers(503, canaryAnswer), nil, "answered 503, expected 200"},
		"of several":               {answers(500, canaryAnswer), option.Values{"expected_status": []string{"200", "204", "3xx"}}, "answered 500, expected 200, 204 or 3xx"},
		"another body":             {answers(200, canaryAnswer), option.Values{"body_match": "UP"}, "answered 200, but the body does not match body_match"},
		"a body of another status": {answers(500, "UP"), option.Values{"body_match": "UP"}, "answered 500, expected 200"},
		"a redirect":               {redirects("https://" + canaryAnswer + ".example"), nil, "answered 308, a redirect, which is not followed, expected 200"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEndpoint(t, tc.answer)
			detail, err := New().Try(t.Context(), opened(t, e.config(tc.values)))
			require.EqualValues(t, 1, e.asked.Load(), "one request an attempt, no redirect followed")
			if tc.says == "" {
				require.NoError(t, err)
				require.Contains(t, detail, e.host()+" answered ")
				clean(t, detail)
				return
			}
			require.Equal(t, "ask the health endpoint: "+e.host()+" "+tc.says, fails(t, err))
			require.Equal(t, fault.Target, fault.KindOf(err))
		})
	}
}

func redirects(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusPermanentRedirect) }
}

// An answer that comes late is no reason for the next one to wait.
func TestRetryAfterIsNotHeeded(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	conn := opened(t, e.config(nil))
	for i := range int32(3) {
		_, err := New().Try(t.Context(), conn)
		require.Equal(t, fault.Target, fault.KindOf(err), "%v", err)
		require.Equal(t, i+1, e.asked.Load())
	}
}

func TestNoAnswer(t *testing.T) {
	t.Parallel()
	over := make(chan struct{})
	slow := newEndpoint(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, canaryAnswer)
		_ = http.NewResponseController(w).Flush()
		<-over
	})
	t.Cleanup(func() { close(over) })
	gone := newEndpoint(t, answers(200, ""))
	gone.Close()
	broken := newEndpoint(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	stranger := newEndpoint(t, answers(200, ""))
	unknown := stranger.config(option.Values{"tls_ca": otherCA(t)})
	for name, tc := range map[string]struct {
		config *rotator.ConnectionConfig
		says   string
	}{
		"slow":        {slow.config(option.Values{"timeout": 1}), "no answer: it took longer than 1s"},
		"gone":        {gone.config(nil), "connection refused"},
		"broken":      {broken.config(nil), "no answer: "},
		"another CA":  {unknown, "failed to verify certificate"},
		"no such CA":  {stranger.config(option.Values{"tls_ca": ""}), "failed to verify certificate"},
		"another one": {stranger.config(option.Values{"url": strings.Replace(stranger.URL, "127.0.0.1", "localhost", 1)}), "failed to verify certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := New().Try(t.Context(), opened(t, tc.config))
			require.Contains(t, fails(t, err), tc.says)
			require.Equal(t, fault.Unreachable, fault.KindOf(err), "%v", err)
		})
	}
	t.Cleanup(func() {
		require.EqualValues(t, 1, broken.asked.Load())
		require.Zero(t, stranger.asked.Load())
	})
}

// otherCA is a certificate that vouches for no endpoint here.
func otherCA(t *testing.T) string {
	t.Helper()
	a, err := certs.New("another CA")
	require.NoError(t, err)
	return string(a.PEM)
}

func TestCallerGivesUp(t *testing.T) {
	t.Parallel()
	over := make(chan struct{})
	e := newEndpoint(t, func(http.ResponseWriter, *http.Request) { <-over })
	t.Cleanup(func() { close(over) })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := New().Try(ctx, opened(t, e.config(nil)))
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, fault.Unreachable, fault.KindOf(err))
}

// What machines learn their credentials at is not dialled, whoever writes the connection.
func TestEgressPolicy(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"169.254.169.254", "169.254.1.1", "[fe80::1]", "[fd00:ec2::254]", "[::ffff:169.254.169.254]", "0.0.0.0"} {
		c := &rotator.ConnectionConfig{
			Values:  option.Values{"url": "http://" + host + "/latest/meta-data/", "allow_insecure_http": true, "timeout": 1},
			Secrets: secret.Map{"token": secret.New(canaryToken)},
		}
		conn := opened(t, c)
		_, err := New().Try(t.Context(), conn)
		require.Contains(t, fails(t, err), "the egress policy refuses the address", host)
		require.Equal(t, fault.Target, fault.KindOf(err), host)
		err = New().Ping(t.Context(), conn)
		require.Contains(t, fails(t, err), "the egress policy refuses the address", host)
	}
}

// The first MiB counts, and the rest is not read.
func TestHugeBody(t *testing.T) {
	t.Parallel()
	chunk := strings.Repeat(".", 1<<10)
	endless := func(first string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, first)
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, chunk); err != nil {
					return
				}
			}
		}
	}
	e := newEndpoint(t, endless("UP"))
	_, err := New().Try(t.Context(), opened(t, e.config(option.Values{"body_match": "^UP"})))
	require.NoError(t, err)

	late := newEndpoint(t, endless(strings.Repeat(chunk, 1<<10)+"UP"))
	_, err = New().Try(t.Context(), opened(t, late.config(option.Values{"body_match": "UP"})))
	require.Contains(t, fails(t, err), "the body does not match body_match")
}

// A body that makes a search by backtracking take for ever takes no longer than another.
func TestHostileBody(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, answers(200, strings.Repeat("a", 1<<20)+canaryAnswer))
	_, err := New().Try(t.Context(), opened(t, e.config(option.Values{"body_match": "^(a+)+b$"})))
	require.Contains(t, fails(t, err), "the body does not match body_match")
}

// Answers that quote what was asked, and that no library would make.
func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"the token in the status": "HTTP/1.1 503 " + canaryToken + "\r\nContent-Length: 0\r\n\r\n",
		"the token for a header":  "HTTP/1.1 503 no\r\nLocation: https://" + canaryToken + "\r\nContent-Length: 0\r\n\r\n",
		"no status":               "HTTP/1.1 " + canaryToken + "\r\n\r\n",
		"no HTTP":                 canaryToken + "\r\n\r\n",
		"a bad header":            "HTTP/1.1 200 OK\r\n" + canaryToken + "\r\n\r\n",
		"a long header":           "HTTP/1.1 200 OK\r\nX: " + strings.Repeat(canaryToken, 10000) + "\r\n\r\n",
		"a bad length":            "HTTP/1.1 200 OK\r\nContent-Length: " + canaryToken + "\r\n\r\n",
		"colours and a new line":  "HTTP/1.1 500 \x1b[31m" + canaryAnswer + "\r\nContent-Length: 1\r\n\r\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEndpoint(t, func(w http.ResponseWriter, _ *http.Request) {
				conn, _, err := http.NewResponseController(w).Hijack()
				if err == nil {
					_, _ = io.WriteString(conn, answer)
					_ = conn.Close()
				}
			})
			conn := opened(t, e.config(nil))
			_, err := New().Try(t.Context(), conn)
			said := fails(t, err)
			require.NotContains(t, said, "\n")
			require.NotContains(t, said, "\x1b")
			lines, err := New().Check(t.Context(), conn)
			require.NoError(t, err)
			for _, l := range lines {
				clean(t, l.Detail)
			}
			require.EqualValues(t, 2, e.asked.Load())
		})
	}
}

func TestPing(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		status    int
		anonymous bool
		kind      fault.Kind
		says      string
	}{
		"well":                {200, false, "", ""},
		"unwell":              {503, false, "", ""},
		"not there yet":       {404, false, "", ""},
		"too much":            {429, false, "", ""},
		"a redirect":          {308, false, fault.Target, "a redirect, which is not followed"},
		"the token refused":   {401, false, fault.AuthFailed, "it does not accept the token"},
		"the token forbidden": {403, false, fault.AuthFailed, "it does not accept the token"},
		"a token wanted":      {401, true, fault.AuthFailed, "write token"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := newEndpoint(t, answers(tc.status, canaryAnswer))
			c := e.config(option.Values{"body_match": "UP"})
			if tc.anonymous {
				c.Secrets = secret.Map{}
			}
			err := New().Ping(t.Context(), opened(t, c))
			require.Equal(t, tc.kind, fault.KindOf(err), "%v", err)
			require.EqualValues(t, 1, e.asked.Load())
			if tc.says != "" {
				require.Contains(t, fails(t, err), tc.says)
			}
		})
	}
	gone := newEndpoint(t, answers(200, ""))
	gone.Close()
	require.Equal(t, fault.Unreachable, fault.KindOf(New().Ping(t.Context(), opened(t, gone.config(nil)))))
}

// An endpoint that says 401 when it is well is taken at its word.
func TestPingOfAnExpectedRefusal(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, answers(401, ""))
	require.NoError(t, New().Ping(t.Context(), opened(t, e.config(option.Values{"expected_status": []string{"401"}}))))
}

func TestCheck(t *testing.T) {
	t.Parallel()
	e := newEndpoint(t, answers(200, canaryAnswer))
	host := e.host()
	const ask = "ask the health endpoint: "
	for name, tc := range map[string]struct {
		values option.Values
		want   []rotator.Line
	}{
		"well": {nil, []rotator.Line{{Check: "answer", Result: rotator.Pass, Detail: host + " answers"}, {Check: "expected_status", Result: rotator.Pass, Detail: host + " answered 200"}}},
		"with its body": {option.Values{"body_match": "answer"}, []rotator.Line{
			{Check: "answer", Result: rotator.Pass, Detail: host + " answers"},
			{Check: "expected_status", Result: rotator.Pass, Detail: host + " answered 200"},
			{Check: "body_match", Result: rotator.Pass, Detail: "the body matches"},
		}},
		"another status": {option.Values{"expected_status": []string{"204"}, "body_match": "answer"}, []rotator.Line{
			{Check: "answer", Result: rotator.Pass, Detail: host + " answers"},
			{Check: "expected_status", Result: rotator.Fail, Detail: ask + host + " answered 200, expected 204"},
		}},
		"another body": {option.Values{"body_match": "UP"}, []rotator.Line{
			{Check: "answer", Result: rotator.Pass, Detail: host + " answers"},
			{Check: "expected_status", Result: rotator.Pass, Detail: host + " answered 200"},
			{Check: "body_match", Result: rotator.Fail, Detail: ask + host + " answered 200, but the body does not match body_match"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lines, err := New().Check(t.Context(), opened(t, e.config(tc.values)))
			require.NoError(t, err)
			require.Equal(t, tc.want, lines)
		})
	}
	gone := newEndpoint(t, answers(200, ""))
	gone.Close()
	lines, err := New().Check(t.Context(), opened(t, gone.config(nil)))
	require.NoError(t, err)
	require.Len(t, lines, 1)
	require.Equal(t, rotator.Fail, lines[0].Result)
	require.Contains(t, lines[0].Detail, "connection refused")
}

// stranger is a connection of another type.
type stranger struct{}

func (stranger) Close() {}

func TestConnectionOfAnotherType(t *testing.T) {
	t.Parallel()
	for _, conn := range []rotator.Connection{nil, stranger{}, (*connection)(nil)} {
		_, err := New().Try(t.Context(), conn)
		require.Equal(t, fault.Internal, fault.KindOf(err))
		_, err = New().Check(t.Context(), conn)
		require.Equal(t, fault.Internal, fault.KindOf(err))
		require.Equal(t, fault.Internal, fault.KindOf(New().Ping(t.Context(), conn)))
	}
}
