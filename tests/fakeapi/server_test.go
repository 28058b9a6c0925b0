package fakeapi_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
)

// clock is a time that tests move.
type clock struct{ seconds atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(1_700_000_000+c.seconds.Load(), 0) }
func (c *clock) advance(d time.Duration) { c.seconds.Add(int64(d / time.Second)) }

func newOpenAI(t *testing.T, o ...fakeapi.Option) *fakeapi.OpenAI {
	t.Helper()
	api := fakeapi.NewOpenAI(o...)
	t.Cleanup(api.Close)
	return api
}

func TestFail(t *testing.T) {
	api := newOpenAI(t)
	key, _ := api.MakeByHand("mine")
	models := fakeapi.On(http.MethodGet, "/v1/models")
	api.Fail(1, models, http.StatusTooManyRequests, http.Header{"Retry-After": {"7"}}, api.ErrorBody(429, "slow down, "+fakeapi.SentCredential))
	api.Fail(1, models, 529, nil, "")

	a := exchange(t, api, bearer(key), "GET", "/v1/models", "")
	require.Equal(t, http.StatusTooManyRequests, a.status)
	require.Equal(t, "7", a.header.Get("Retry-After"))
	require.Equal(t, "slow down, "+key, a.at(t, "/error/message"))
	require.Equal(t, "rate_limit_exceeded", a.at(t, "/error/code"))
	require.Equal(t, 529, exchange(t, api, bearer(key), "GET", "/v1/models", "").status)
	require.Equal(t, http.StatusOK, exchange(t, api, bearer(key), "GET", "/v1/models", "").status)

	api.Fail(-1, nil, http.StatusBadGateway, nil, "")
	for range 3 {
		require.Equal(t, http.StatusBadGateway, exchange(t, api, bearer(key), "GET", "/v1/models", "").status)
	}
	api.Heal()
	require.Equal(t, http.StatusOK, exchange(t, api, bearer(key), "GET", "/v1/models", "").status)
}

func TestLoseAnswer(t *testing.T) {
	for name, options := range map[string][]fakeapi.Option{"plain": nil, "TLS": {fakeapi.TLS()}} {
		t.Run(name, func(t *testing.T) {
			api := newOpenAI(t, options...)
			require.Equal(t, name == "TLS", strings.HasPrefix(api.URL(), "https://"))
			require.Equal(t, name == "TLS", len(api.CA()) > 0)
			accounts := "/v1/organization/projects/" + api.Project() + "/service_accounts"
			api.LoseAnswer(1, fakeapi.On(http.MethodPost, accounts))
			_, err := send(t, api, bearer(api.AdminKey()), "POST", accounts, `{"name":"lost"}`) //nolint:bodyclose // there is no answer
			require.Error(t, err)
			require.Len(t, api.Accounts(), 1, "it was served")
			require.Len(t, api.Requests(), 1, "and sent once")
			require.Zero(t, api.Requests()[0].Status)
		})
	}
}

func TestHang(t *testing.T) {
	api := newOpenAI(t)
	api.Hang(1, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, api.URL()+"/v1/models", http.NoBody)
	require.NoError(t, err)
	_, err = api.Client().Do(req) //nolint:bodyclose // there is no answer
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestStall(t *testing.T) {
	api := newOpenAI(t)
	accounts := "/v1/organization/projects/" + api.Project() + "/service_accounts"
	api.Stall(1, fakeapi.On(http.MethodPost, accounts))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, api.URL()+accounts, strings.NewReader(`{"name":"kept back"}`))
	require.NoError(t, err)
	req.Header = bearer(api.AdminKey())
	ended := make(chan error, 1)
	go func() {
		_, err := api.Client().Do(req) //nolint:bodyclose // there is no answer
		ended <- err
	}()
	require.Eventually(t, func() bool { return len(api.Accounts()) == 1 }, 10*time.Second, time.Millisecond, "it was served")
	require.Empty(t, ended, "and is not answered")
	cancel()
	require.ErrorIs(t, <-ended, context.Canceled)
}

func TestLateness(t *testing.T) {
	api := newOpenAI(t)
	var c clock
	api.SetNow(c.now)
	keys := func() int {
		a := exchange(t, api, bearer(api.AdminKey()), "GET", "/v1/organization/projects/"+api.Project()+"/api_keys", "")
		return len(a.items(t, "/data"))
	}
	api.AppearLate(time.Minute)
	api.PropagateAfter(10 * time.Second)
	key, _ := api.MakeByHand("late")
	require.False(t, api.Works(key))
	require.Equal(t, 401, exchange(t, api, bearer(key), "GET", "/v1/models", "").status)
	c.advance(10 * time.Second)
	require.True(t, api.Works(key))
	require.Zero(t, keys())
	c.advance(50 * time.Second)
	require.Equal(t, 1, keys())

	api.LingerAfterExpiry(time.Minute)
	api.ExpireByHand(key)
	require.Empty(t, api.Keys())
	require.Zero(t, keys())
	require.Equal(t, 200, exchange(t, api, bearer(key), "GET", "/v1/models", "").status)
	c.advance(time.Minute)
	require.False(t, api.Works(key))
	require.Equal(t, 401, exchange(t, api, bearer(key), "GET", "/v1/models", "").status)
}

func TestEcho(t *testing.T) {
	api := newOpenAI(t)
	a := exchange(t, api, bearer("sk-proj-nobodys-key-at-all"), "GET", "/v1/models", "")
	require.NotContains(t, a.text(t, "/error/message"), "sk-proj-nobodys-key-at-all")
	api.Echo(true)
	a = exchange(t, api, bearer("sk-proj-nobodys-key-at-all"), "GET", "/v1/models", "")
	require.Contains(t, a.text(t, "/error/message"), "sk-proj-nobodys-key-at-all")
	a = exchange(t, api, bearer(api.AdminKey()), "DELETE", "/v1/organization/admin_api_keys/none", "")
	require.Contains(t, a.text(t, "/error/message"), api.AdminKey())
}

func TestRequests(t *testing.T) {
	api := newOpenAI(t)
	key, _ := api.MakeByHand("mine")
	exchange(t, api, nil, "GET", "/v1/models", "")
	exchange(t, api, bearer("other"), "GET", "/v1/models", "")
	exchange(t, api, bearer(key), "GET", "/v1/models", "")
	exchange(t, api, bearer(api.AdminKey()), "DELETE", "/v1/organization/admin_api_keys/none", "")
	require.Equal(t, []fakeapi.Request{
		{Method: "GET", Path: "/v1/models", Route: "GET /v1/models", Credential: fakeapi.NoCredential, Status: 401},
		{Method: "GET", Path: "/v1/models", Route: "GET /v1/models", Credential: fakeapi.UnknownCredential, Status: 401},
		{Method: "GET", Path: "/v1/models", Route: "GET /v1/models", Credential: fakeapi.KeyCredential, Status: 200},
		{
			Method: "DELETE", Path: "/v1/organization/admin_api_keys/none", Route: "DELETE /v1/organization/admin_api_keys/{id}",
			Credential: fakeapi.AdminCredential, Status: 404,
		},
	}, api.Requests())
	require.Equal(t, 3, api.Counts()["GET /v1/models"])
	api.ForgetRequests()
	require.Empty(t, api.Requests())
}

func TestManyAtOnce(t *testing.T) {
	api := newOpenAI(t)
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for range 5 {
				api.Fail(1, fakeapi.On("", "/none"), 500, nil, "")
				resp, err := send(t, api, bearer(api.AdminKey()), "POST", "/v1/organization/admin_api_keys", `{"name":"x"}`)
				if assert.NoError(t, err) {
					assert.NoError(t, resp.Body.Close())
				}
				api.Keys()
				api.Requests()
			}
		})
	}
	wait.Wait()
	require.Len(t, api.AdminKeys(), 41)
}

func TestTLS(t *testing.T) {
	api := newOpenAI(t, fakeapi.TLS())
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(api.CA()))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get(api.BaseURL() + "/models")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
}
