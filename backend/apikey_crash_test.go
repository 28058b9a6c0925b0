package backend_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/apikey"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
)

// faultyTransport makes every request a point of a run: one that fails was not sent, one
// whose answer is lost was served.
type faultyTransport struct {
	inner  http.RoundTripper
	faults *enginetest.Faults
}

func (f faultyTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	var served *http.Response
	err := f.faults.Around(r.Method+" request", func() error {
		resp, err := f.inner.RoundTrip(r) //nolint:bodyclose // whoever gets the answer closes it, or we below
		served = resp
		return err
	})
	switch {
	case !errors.Is(err, enginetest.ErrInjected):
		return served, err
	case served == nil:
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	return nil, errors.Join(io.ErrUnexpectedEOF, served.Body.Close())
}

// providerStage is a stage for a fake of a provider.
func providerStage(t *testing.T, typ string, api *fakeapi.Server, address option.Values, secrets map[string]string) *enginetest.Stage {
	t.Helper()
	t.Cleanup(api.Close)
	address["allow_insecure_http"], address["requests_per_second"] = true, int64(0)
	return &enginetest.Stage{
		Begin:   func(p *enginetest.Play) { api.SetNow(p.Clock.Now) },
		Rotator: func(*enginetest.Faults) rotator.Rotator { return apikey.New() },
		Connection: func(f *enginetest.Faults) rotator.ConnectionKind {
			kind := connectionKind(t, typ)
			kind.RetryWait = time.Millisecond
			kind.Transport = func(inner http.RoundTripper) http.RoundTripper { return faultyTransport{inner, f} }
			return kind
		},
		Address: address, Secrets: secret.NewMap(secrets),
		Role: option.Values{"rotation_period": int64(40 * 24 * 3600)},
		Login: func(rendered map[string]any) error {
			for _, name := range []string{"primary_key", "secondary_key"} {
				if key, given := rendered[name].(string); given && !api.Works(key) {
					return fault.New(fault.AuthFailed, "the %s is refused", name)
				}
			}
			return nil
		},
		Objects: func() (ids []string, err error) {
			for _, key := range api.Keys() {
				ids = append(ids, key.ID)
			}
			return ids, nil
		},
		Step: 4 * time.Second, Quiet: 26 * time.Hour, // a lost key is looked for during a day
	}
}

func connectionKind(t *testing.T, typ string) *apikey.ConnectionKind {
	t.Helper()
	for _, kind := range apikey.NewConnectionKinds() {
		if kind.Type() == typ {
			return kind
		}
	}
	t.Fatalf("no type %q", typ)
	return nil
}

// openAIStage is a fresh project in which a key appears in the list only after a while.
func openAIStage(t *testing.T) *enginetest.Stage {
	t.Helper()
	api := fakeapi.NewOpenAI()
	api.AppearLate(time.Minute)
	s := providerStage(t, "openai", api.Server,
		option.Values{"base_url": api.BaseURL(), "project": api.Project()}, map[string]string{"admin_key": api.AdminKey()})
	s.Rests = func() bool { return len(api.AdminKeys()) == 1 }
	return s
}

var openAIScenarios = []enginetest.Scenario{
	{Name: "rotate", AtLeast: 25, Run: func(p *enginetest.Play) { p.Create(nil); p.Rotate(); p.Wait(2 * time.Minute) }},
	{Name: "rollback", AtLeast: 30, Run: func(p *enginetest.Play) {
		p.Create(option.Values{"grace_period": int64(600)}) // an operator who tries again has the time
		first := p.Current()
		p.Rotate()
		p.Rollback(first)
		p.Wait(2 * time.Minute)
	}},
	{Name: "emergency", AtLeast: 30, Run: func(p *enginetest.Play) { p.Create(nil); p.Rotate(); p.Emergency(false); p.Wait(time.Minute) }},
	{Name: "emergency, kill first", AtLeast: 30, Run: func(p *enginetest.Play) { p.Create(nil); p.Emergency(true); p.Wait(time.Minute) }},
	{Name: "delete", AtLeast: 20, Deleted: true, Run: func(p *enginetest.Play) { p.Create(nil); p.Rotate(); p.Delete(); p.Wait(2 * time.Minute) }},
	{Name: "rotate root", AtLeast: 30, Run: func(p *enginetest.Play) { p.Create(nil); p.RotateRoot(); p.Rotate(); p.Wait(2 * time.Minute) }},
}

// TestCrashAnywhereOpenAI is the signature test over HTTP: each request and each storage
// write fails, loses its answer, and is the last act of the process.
func TestCrashAnywhereOpenAI(t *testing.T) {
	t.Parallel()
	enumerate(t, openAIStage, openAIScenarios)
}

// TestEnumerationFindsUnrecordedMint: the target is asked for a secret without a word in
// the journal, so that nobody looks for what it made.
func TestEnumerationFindsUnrecordedMint(t *testing.T) {
	t.Parallel()
	found := enginetest.FindsBug(t, func(t *testing.T) *enginetest.Stage {
		s := openAIStage(t)
		s.Storage = func(inner store.Storage) store.Storage { return mintUnrecorded{inner} }
		return s
	}, openAIScenarios[0], enginetest.Crash)
	require.Contains(t, found, "promise 4")
	t.Log(found)
}

// anthropicStage is an organization in which a person makes the keys. The first of them
// becomes version 1.
func anthropicStage(t *testing.T) *enginetest.Stage {
	t.Helper()
	api := fakeapi.NewAnthropic()
	s := providerStage(t, "anthropic", api.Server, option.Values{"base_url": api.URL()}, map[string]string{"admin_key": api.AdminKey()})
	made := map[string]secret.Map{}
	s.ByHand = func(name string) secret.Map {
		if made[name] == nil {
			key, _ := api.MakeByHand(name)
			made[name] = secret.NewMap(map[string]string{"key": key})
		}
		return made[name]
	}
	s.RoleSecrets = s.ByHand("first")
	s.Objects = func() (ids []string, err error) {
		for _, key := range api.Keys() {
			if key.Status == "active" { // an archived one stays in the list
				ids = append(ids, key.ID)
			}
		}
		return ids, nil
	}
	return s
}

var anthropicScenarios = []enginetest.Scenario{
	{Name: "staged by hand", AtLeast: 25, Run: func(p *enginetest.Play) { p.Create(nil); p.Stage("second"); p.Wait(2 * time.Minute) }},
	{Name: "rollback to a disabled key", AtLeast: 35, Run: func(p *enginetest.Play) {
		p.Create(nil)
		first := p.Current()
		p.Stage("second")
		p.Wait(3 * time.Minute)
		p.Rollback(first)
		p.Wait(2 * time.Minute)
	}},
	{Name: "staged by hand, soaking", AtLeast: 25, Run: func(p *enginetest.Play) {
		p.Create(option.Values{"soak_period": int64(30)})
		p.Stage("second")
		p.Wait(2 * time.Minute)
	}},
	{Name: "emergency", AtLeast: 35, Run: func(p *enginetest.Play) {
		p.Create(nil)
		p.Leak(true)
		p.DeclareEmergency()
		p.Stage("second")
		p.Leak(false)
		p.Wait(time.Minute)
	}},
	{Name: "delete", AtLeast: 20, Deleted: true, Run: func(p *enginetest.Play) { p.Create(nil); p.Stage("second"); p.Delete(); p.Wait(2 * time.Minute) }},
}

// httpStage is a fresh account at an API that a ready-made definition describes.
func httpStage(t *testing.T, definition string, api *fakeapi.Server) *enginetest.Stage {
	t.Helper()
	text, err := os.ReadFile("../docs/providers/" + definition)
	require.NoError(t, err)
	return providerStage(t, "http", api, option.Values{"base_url": api.URL(), "definition": string(text)}, map[string]string{"admin_key": api.AdminKey()})
}

// openRouterStage has keys that can be refused and brought back.
func openRouterStage(t *testing.T) *enginetest.Stage {
	t.Helper()
	return httpStage(t, "openrouter.json", fakeapi.NewOpenRouter().Server)
}

// inPlaceKeyStage has one key, which a call changes.
func inPlaceKeyStage(t *testing.T) *enginetest.Stage {
	t.Helper()
	api := fakeapi.NewInPlace()
	s := httpStage(t, "inplace.json", api.Server)
	key, _ := api.MakeByHand("the one")
	s.RoleSecrets = secret.NewMap(map[string]string{"key": key})
	s.Role["strategy"], s.Role["grace_period"] = "in_place", int64(0)
	return s
}

var httpScenarios = []struct {
	stage func(*testing.T) *enginetest.Stage
	enginetest.Scenario
}{
	{openRouterStage, enginetest.Scenario{Name: "rollback to a disabled key", AtLeast: 40, Run: func(p *enginetest.Play) {
		p.Create(nil)
		first := p.Current()
		p.Rotate()
		p.Wait(3 * time.Minute)
		p.Rollback(first)
		p.Wait(2 * time.Minute)
	}}},
	{openRouterStage, enginetest.Scenario{Name: "emergency", AtLeast: 30, Run: func(p *enginetest.Play) { p.Create(nil); p.Rotate(); p.Emergency(true); p.Wait(time.Minute) }}},
	{inPlaceKeyStage, enginetest.Scenario{Name: "in place", AtLeast: 20, Run: func(p *enginetest.Play) { p.Create(nil); p.Rotate(); p.Wait(time.Minute) }}},
	{inPlaceKeyStage, enginetest.Scenario{Name: "in place, emergency", AtLeast: 20, Run: func(p *enginetest.Play) { p.Create(nil); p.Emergency(false); p.Wait(time.Minute) }}},
}

// TestCrashAnywhereHTTP is the same over definitions: keys that can be disabled, and one
// that changes in place. There a lost answer blocks the role, and the operator rotates
// again.
func TestCrashAnywhereHTTP(t *testing.T) {
	t.Parallel()
	for _, s := range httpScenarios {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			enginetest.Enumerate(t, s.stage, s.Scenario)
		})
	}
}

// TestCrashAnywhereByHand is the same where a person makes the keys.
func TestCrashAnywhereByHand(t *testing.T) {
	t.Parallel()
	enumerate(t, anthropicStage, anthropicScenarios)
}
