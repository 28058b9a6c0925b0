package apikey

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
)

// ready is a definition of docs/providers and the fake of its API.
type ready struct {
	name string
	// values are what an operator gives beside the definition.
	values    option.Values
	second    bool // admin_secret is asked for
	abilities abilities
	start     func() running
}

// running is a fake that runs.
type running struct {
	*fakeapi.Server
	second     string
	parameters map[string]string
	makeByHand func(name string) (key, id string)
}

// readyMade are all of them; the test fails on a file that is not here.
var readyMade = []ready{
	{
		"openrouter", nil, false,
		abilities{Create: true, Disable: true, Revoke: true},
		func() running {
			api := fakeapi.NewOpenRouter()
			api.PageSize(2)
			return running{Server: api.Server, makeByHand: api.MakeByHand}
		},
	},
	{
		"cloudflare",
		option.Values{"parameters": map[string]string{"permission_group": "c8fed203ed3043cba015a93ad1616f1f", "resource": "com.cloudflare.api.account.023e105f"}},
		false,
		abilities{Create: true, Revoke: true, Identify: true},
		func() running {
			api := fakeapi.NewCloudflare()
			return running{Server: api.Server, makeByHand: api.MakeByHand, parameters: map[string]string{"permission_group": "g", "resource": "com.cloudflare.api.account.1"}}
		},
	},
	{
		"sendgrid", nil, false,
		abilities{Create: true, Revoke: true},
		func() running {
			api := fakeapi.NewSendGrid()
			return running{Server: api.Server, makeByHand: api.MakeByHand}
		},
	},
	{
		"datadog", nil, true,
		abilities{Create: true, Revoke: true, Propagation: time.Minute},
		func() running {
			api := fakeapi.NewDatadog()
			return running{Server: api.Server, makeByHand: api.MakeByHand, second: api.ApplicationKey()}
		},
	},
	{
		"grafana",
		option.Values{"base_url": "https://acme.grafana.net", "parameters": map[string]string{"service_account": "2"}},
		false,
		abilities{Create: true, Revoke: true},
		func() running {
			api := fakeapi.NewGrafana()
			return running{Server: api.Server, makeByHand: api.MakeByHand, parameters: map[string]string{"service_account": strconv.FormatInt(api.ServiceAccount(), 10)}}
		},
	},
	{
		"inplace", nil, false,
		abilities{Replace: true, Identify: true},
		func() running {
			api := fakeapi.NewInPlace()
			return running{Server: api.Server, makeByHand: api.MakeByHand}
		},
	},
}

func (r *ready) definition(t *testing.T) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("../../../docs/providers", r.name+".json"))
	require.NoError(t, err)
	return string(raw)
}

func (r *ready) open(t *testing.T, api running, adminKey string) *httpProvider {
	t.Helper()
	return openSettings(t, &settings{
		BaseURL: api.URL(), Definition: r.definition(t), Parameters: api.parameters, AdminKey: secret.New(adminKey), AdminSecret: secret.New(api.second),
	})
}

// The definitions that come with the plugin are accepted as they stand.
func TestReadyMadeLoads(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../../docs/providers/*.json")
	require.NoError(t, err)
	require.Len(t, files, len(readyMade))
	for _, r := range readyMade {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			secrets := map[string]string{"admin_key": rootCanary}
			if r.second {
				secrets["admin_secret"] = secondCanary
			}
			warnings, err := checkOf(r.definition(t), r.values, secrets)
			require.NoError(t, err)
			require.Empty(t, warnings)
		})
	}
}

// Each of them goes through the whole life of a key at the fake of its API.
func TestReadyMadeLife(t *testing.T) {
	t.Parallel()
	for _, r := range readyMade {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			api := r.start()
			t.Cleanup(api.Close)
			h := r.open(t, api, api.AdminKey())
			require.Equal(t, r.abilities, h.abilities())
			require.NoError(t, h.ping(t.Context()))
			lines, err := h.check(t.Context())
			require.NoError(t, err)
			for _, line := range lines {
				require.NotEqual(t, "fail", string(line.Result), line.Detail)
			}
			l := &life{t: t, api: api, h: h}
			if r.abilities.Create {
				l.create()
				l.lost()
			}
			if r.abilities.Identify {
				l.identify()
			}
			if r.abilities.Replace {
				l.replace()
			}
			l.scopes()
			l.careless(&r)
		})
	}
}

type life struct {
	t   *testing.T
	api running
	h   *httpProvider
}

// dead asserts that a key is refused as such.
func (l *life) dead(key secret.String) {
	l.t.Helper()
	require.False(l.t, l.api.Works(key.Reveal()))
	_, err := l.h.verify(l.t.Context(), key)
	require.Equal(l.t, fault.AuthFailed, fault.KindOf(err), err)
}

func (l *life) alive(key secret.String) {
	l.t.Helper()
	require.True(l.t, l.api.Works(key.Reveal()))
	answer, err := l.h.verify(l.t.Context(), key)
	require.NoError(l.t, err)
	require.Equal(l.t, "200", answer)
}

// create makes keys, finds them over several pages, and ends one.
func (l *life) create() {
	t, ctx := l.t, l.t.Context()
	var made []*created
	for i := range 5 {
		c, err := l.h.create(ctx, "ours 1-"+strconv.Itoa(i))
		require.NoError(t, err)
		l.alive(c.Key)
		made = append(made, c)
	}
	l.api.makeByHand("theirs")
	got, err := l.h.find(ctx, "ours 1-")
	require.NoError(t, err)
	require.Len(t, got, len(made))
	byName := map[string]found{}
	for _, f := range got {
		byName[f.Name] = f
	}
	for i, c := range made {
		f := byName["ours 1-"+strconv.Itoa(i)]
		require.Equal(t, c.Reference.ID, f.Reference.ID)
		if l.h.definition.List.created != nil {
			require.WithinDuration(t, time.Now(), f.Created, time.Minute)
		}
	}

	one := made[2]
	if l.h.abilities().Disable {
		require.NoError(t, only(l.h.disable(ctx, one.Reference)))
		l.dead(one.Key)
		require.NoError(t, only(l.h.disable(ctx, one.Reference)))
		require.NoError(t, l.h.enable(ctx, one.Reference))
		l.alive(one.Key)
		require.NoError(t, only(l.h.disable(ctx, one.Reference)))
		got, err := l.h.find(ctx, "ours 1-2")
		require.NoError(t, err)
		require.Len(t, got, 1, "a disabled key is found too")
	}
	require.NoError(t, only(l.h.revoke(ctx, one.Reference)))
	l.dead(one.Key)
	l.alive(made[3].Key)
	require.NoError(t, only(l.h.revoke(ctx, one.Reference)), "what is gone is done")
	if l.h.abilities().Disable {
		require.NoError(t, only(l.h.disable(ctx, one.Reference)))
		require.True(t, fault.Is(l.h.enable(ctx, one.Reference), fault.Target))
	}
	got, err = l.h.find(ctx, "ours 1-")
	require.NoError(t, err)
	require.Len(t, got, len(made)-1)
}

// lost makes a key of which nobody learns, but by its name.
func (l *life) lost() {
	t, ctx := l.t, l.t.Context()
	path, err := l.h.definition.Create.path.fillPath(l.h.parameters)
	require.NoError(t, err)
	l.api.LoseAnswer(1, fakeapi.On("POST", path))
	_, err = l.h.create(ctx, "ours 2-lost")
	require.True(t, fault.Is(err, fault.Unconfirmed), err)
	got, err := l.h.find(ctx, "ours 2-")
	require.NoError(t, err)
	require.Len(t, got, 1)
	require.NoError(t, only(l.h.revoke(ctx, got[0].Reference)))
	got, err = l.h.find(ctx, "ours 2-")
	require.NoError(t, err)
	require.Empty(t, got)
}

// identify learns the id of a key that a person made.
func (l *life) identify() {
	key, id := l.api.makeByHand("by hand")
	r, err := l.h.identify(l.t.Context(), secret.New(key), "")
	require.NoError(l.t, err)
	require.Equal(l.t, id, r.ID)
	if l.h.abilities().Revoke {
		require.NoError(l.t, only(l.h.revoke(l.t.Context(), r)))
		l.dead(secret.New(key))
	}
}

// replace changes a key in place.
func (l *life) replace() {
	key, id := l.api.makeByHand("in place")
	l.alive(secret.New(key))
	c, err := l.h.replace(l.t.Context(), reference{ID: id})
	require.NoError(l.t, err)
	require.Equal(l.t, id, c.Reference.ID)
	l.alive(c.Key)
	l.dead(secret.New(key))
	_, err = l.h.replace(l.t.Context(), reference{ID: "gone"})
	require.True(l.t, fault.Is(err, fault.Target), err)
}

// scopes takes all rights from a key: it is alive, whatever the API answers then.
func (l *life) scopes() {
	key, _ := l.api.makeByHand("limited")
	l.api.LimitScopes(key)
	answer, err := l.h.verify(l.t.Context(), secret.New(key))
	require.NoError(l.t, err)
	require.Contains(l.t, []string{"200", "403, valid but forbidden"}, answer)

	// A gateway that is in the way proves nothing, with any status.
	for _, status := range []int{401, 403, 404, 429, 502} {
		l.api.Fail(-1, nil, status, nil, "<html>no</html>")
		_, err = l.h.verify(l.t.Context(), secret.New(key))
		require.True(l.t, fault.Is(err, fault.Unreachable), "%d: %v", status, err)
		l.api.Heal()
	}
}

// careless lets the API quote the secrets that it was sent.
func (l *life) careless(r *ready) {
	t, ctx := l.t, l.t.Context()
	l.api.Echo(true)
	const wrong = "wrong-canary-0123456789"
	h := r.open(t, l.api, wrong)
	_, err := h.verify(ctx, secret.New(wrong))
	require.True(t, fault.Is(err, fault.AuthFailed), err)
	errs := []error{err}
	if h.definition.List != nil {
		errs = append(errs, h.ping(ctx))
	}
	if h.abilities().Create {
		_, err := h.create(ctx, "ours")
		errs = append(errs, err, only(h.revoke(ctx, reference{ID: "1"})))
	}
	for _, err := range errs {
		require.Error(t, err)
		require.NotContains(t, err.Error(), wrong)
		require.False(t, l.api.second != "" && strings.Contains(err.Error(), l.api.second))
	}
}

// The examples of the reference are definitions.
func TestReferenceExamples(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../../docs/http-provider.md")
	require.NoError(t, err)
	examples := strings.Split(string(text), "```json\n")[1:]
	require.Len(t, examples, 2)
	for _, example := range examples {
		definition, _, _ := strings.Cut(example, "```")
		_, _, err := parseDefinition(definition, map[string]string{"project": "web"})
		require.NoError(t, err)
	}
}
