package backend_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"
	jwxt "github.com/lestrrat-go/jwx/v3/jwt"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/jwt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// signingKeys is the kind with what the fault injection asks of every kind.
type signingKeys struct{ *jwt.Rotator }

// InUse implements rotator.InUser.
func (signingKeys) InUse(context.Context, *rotator.Target) ([]rotator.Use, error) { return nil, nil }

// Preflight implements rotator.Preflighter.
func (signingKeys) Preflight(context.Context, *rotator.Target) ([]rotator.Line, error) {
	return nil, nil
}

// Survey implements rotator.Surveyor: the journal is the target, and sees itself.
func (signingKeys) Survey(_ context.Context, t *rotator.Target) (seen []rotator.Sighting, err error) {
	for _, v := range t.Others {
		m := t.Mark
		m.Version, m.RotationID = v.Number, v.RotationID
		seen = append(seen, rotator.Sighting{Mark: m, Identifier: v.Identifier, Authentic: true})
	}
	return seen, nil
}

// Times of the role that plays are given with: an announcement of a minute, and keys
// that readers take along and sign with by themselves.
var signingRole = option.Values{
	"algorithm": "ES256", "exportable": true, "token_ttl": int64(20), "clock_skew": int64(5), "announce_period": int64(60),
	"allowed_claims": []string{"sub"},
}

// jwtStage is a stage whose target is the mount itself: what it publishes, and what it
// says of a token.
func jwtStage(*testing.T) *enginetest.Stage {
	kind := signingKeys{jwt.New()}
	var play *enginetest.Play
	return &enginetest.Stage{
		Rotator: func(f *enginetest.Faults) rotator.Rotator { return enginetest.NewFaulty(kind, f) },
		Role:    signingRole,
		Begin:   func(p *enginetest.Play) { play = p },
		Login:   func(rendered map[string]any) error { return signsByItself(play, rendered) },
		Objects: func() ([]string, error) {
			set, err := fetch(play.Engine())
			var unused *fault.Error
			if errors.As(err, &unused) && unused.Kind == fault.NotFound {
				return nil, nil
			}
			return kidsOf(set), err
		},
		Step: 4 * time.Second,
	}
}

// signsByItself is a reader of an exported key: it signs, and asks whether that is good.
func signsByItself(play *enginetest.Play, rendered map[string]any) error {
	pem, _ := rendered["private_key"].(string)
	kid, _ := rendered["kid"].(string)
	key, err := jwk.ParseKey([]byte(pem), jwk.WithPEM(true))
	if err != nil {
		return err
	}
	now := play.Clock.Now()
	token, err := signed(key, kid, now, now.Add(20*time.Second))
	if err != nil {
		return err
	}
	answer, err := verify(play.Engine(), token)
	if err != nil {
		return err
	}
	if !answer.Active {
		return fault.New(fault.AuthFailed, "%s", answer.Reason)
	}
	return nil
}

func verify(e *backend.Engine, token string) (*jwt.Verified, error) {
	answer, err := e.Use(context.Background(), app, jwt.VerifyRequest{Token: token})
	if err != nil {
		return nil, err
	}
	return answer.(*jwt.Verified), nil
}

func fetch(e *backend.Engine) (*jwt.Document, error) {
	answer, err := e.Use(context.Background(), app, jwt.KeySetRequest{})
	if err != nil {
		return nil, err
	}
	return answer.(*jwt.Document), nil
}

func kidsOf(set *jwt.Document) (kids []string) {
	if set == nil {
		return nil
	}
	var doc struct {
		Keys []struct {
			Kid string `json:"kid"`
		} `json:"keys"`
	}
	_ = json.Unmarshal(set.JSON, &doc)
	for _, k := range doc.Keys {
		kids = append(kids, k.Kid)
	}
	return kids
}

// jwtScenarios are the life of a signing key, in pieces.
var jwtScenarios = []enginetest.Scenario{
	{Name: "create", AtLeast: 8, Run: func(p *enginetest.Play) { p.Create(nil); p.Wait(20 * time.Second) }},
	{Name: "rotate", AtLeast: 25, Run: func(p *enginetest.Play) {
		p.Create(nil)
		p.Wait(80 * time.Second)
		p.Rotate()
		p.Wait(2 * time.Minute)
	}},
	{Name: "scheduled", AtLeast: 25, Run: func(p *enginetest.Play) { p.Create(nil); p.Wait(12 * time.Minute) }},
	{Name: "rollback to a living key", AtLeast: 30, Run: func(p *enginetest.Play) {
		p.Create(nil)
		first := p.Current()
		p.Wait(80 * time.Second)
		p.Rotate()
		p.Rollback(first)
		p.Wait(2 * time.Minute)
	}},
	{Name: "rollback to a retired key", AtLeast: 35, Run: func(p *enginetest.Play) {
		p.Create(nil)
		first := p.Current()
		p.Wait(80 * time.Second)
		p.Rotate()
		p.Wait(2 * time.Minute)
		p.AskRollback(first)
		p.Wait(3 * time.Minute)
	}},
	{Name: "emergency", AtLeast: 25, Run: func(p *enginetest.Play) {
		p.Create(nil)
		p.Wait(20 * time.Second)
		p.Emergency(false)
		p.Wait(time.Minute)
	}},
	{Name: "emergency, kill first", AtLeast: 25, Run: func(p *enginetest.Play) {
		p.Create(nil)
		p.Wait(20 * time.Second)
		p.Emergency(true)
		p.Wait(time.Minute)
	}},
	{Name: "delete", AtLeast: 15, Deleted: true, Run: func(p *enginetest.Play) { p.Create(nil); p.Wait(20 * time.Second); p.Delete(); p.Wait(2 * time.Minute) }},
}

func TestJWTCrashAnywhere(t *testing.T) {
	t.Parallel()
	enumerate(t, jwtStage, jwtScenarios)
}

func TestJWTCrashAnywhereInAnImport(t *testing.T) {
	t.Parallel()
	enginetest.Enumerate(t, func(t *testing.T) *enginetest.Stage {
		stage := jwtStage(t)
		stage.RoleSecrets = secret.NewMap(map[string]string{"import_key": importedKey})
		login := stage.Login
		stage.Login = func(rendered map[string]any) error {
			if rendered["version"] == 1 && rendered["kid"] != "1" {
				return fault.New(fault.AuthFailed, "this is not the key that was taken over: %v", rendered["kid"])
			}
			return login(rendered)
		}
		return stage
	}, enginetest.Scenario{Name: "import", AtLeast: 15, Run: func(p *enginetest.Play) {
		p.Create(nil)
		p.Wait(80 * time.Second)
		p.Rotate()
		p.Wait(2 * time.Minute)
	}})
}

// importedKey is the EC key of RFC 7517, appendix A.2, under its own name.
const importedKey = `{"kty":"EC","crv":"P-256","kid":"1","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",` +
	`"y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","d":"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"}`

// cachingVerifier is a service that checks tokens: it knows the role's key set, keeps
// it for as long as the set's max-age says, and honours nothing else. It never fetches
// again because it does not know a key.
type cachingVerifier struct {
	set    jwk.Set
	until  time.Time
	offset time.Duration // how long after the end of its cache it comes back
}

func (v *cachingVerifier) check(e *backend.Engine, now time.Time, token string) error {
	if !now.Before(v.until) {
		doc, err := fetch(e)
		if err != nil {
			return fmt.Errorf("fetch the key set: %w", err)
		}
		if v.set, err = jwk.Parse(doc.JSON); err != nil {
			return fmt.Errorf("parse the key set: %w", err)
		}
		v.until = now.Add(doc.MaxAge).Add(-v.offset)
	}
	_, err := jwxt.ParseString(token, jwxt.WithKeySet(v.set), jwxt.WithClock(jwxt.ClockFunc(func() time.Time { return now })))
	return err
}

// issued is a token that somebody holds.
type issued struct {
	token   string
	kid     string
	version int
	expires time.Time
}

// issue lets the mount sign.
func (r *rig) issue() issued {
	r.t.Helper()
	answer, err := r.Engine().Use(context.Background(), app, jwt.SignRequest{Items: []jwt.SignItem{{Claims: map[string]any{"sub": "user-1"}}}})
	require.NoError(r.t, err)
	one := answer.([]jwt.Signed)[0]
	require.NoError(r.t, one.Err)
	return issued{one.Token, one.KeyID, one.Version, one.ExpireTime}
}

// issueByItself lets a reader of the exported key sign, with what it read up to its ttl
// ago.
func (r *rig) issueByItself(read map[string]any) issued {
	r.t.Helper()
	key, err := jwk.ParseKey([]byte(read["private_key"].(string)), jwk.WithPEM(true))
	require.NoError(r.t, err)
	now := r.Clock.Now()
	token, err := signed(key, read["kid"].(string), now, now.Add(20*time.Second))
	require.NoError(r.t, err)
	return issued{token, read["kid"].(string), read["version"].(int), now.Add(20 * time.Second)}
}

// jwtRig plays with signing keys, without faults.
func jwtRig(t *testing.T, stage *enginetest.Stage) *rig {
	r := &rig{t: t, Play: enginetest.NewPlay(stage, enginetest.NewFaults(enginetest.None, 0))}
	t.Cleanup(r.Close)
	r.Create(nil)
	return r
}

// traffic is everybody who depends on a role's keys: an issuer, a reader of the exported
// key that signs by itself, and verifiers that cache.
type traffic struct {
	*rig
	random    *rand.Rand
	verifiers []*cachingVerifier
	tokens    []issued
	read      map[string]any
	readUntil time.Time

	checked, rollbacks, kills int
	keys                      map[string]bool
}

func newTraffic(r *rig) *traffic {
	return &traffic{
		rig: r, random: rand.New(rand.NewPCG(7, 42)), // the same run each time
		verifiers: []*cachingVerifier{{}, {offset: 3 * time.Second}, {offset: 11 * time.Second}}, keys: map[string]bool{},
	}
}

// flow signs, and lets everybody check every token that has not expired.
func (f *traffic) flow() error {
	now := f.Clock.Now()
	if !now.Before(f.readUntil) {
		c := f.creds()
		f.read, f.readUntil = c.Data, now.Add(time.Duration(c.Data["ttl"].(int64))*time.Second)
	}
	f.tokens = append(f.tokens, f.issue(), f.issueByItself(f.read))
	f.tokens = slices.DeleteFunc(f.tokens, func(i issued) bool { return !i.expires.After(now) })
	for _, i := range f.tokens {
		f.keys[i.kid] = true
		for n, v := range f.verifiers {
			if err := v.check(f.Engine(), now, i.token); err != nil {
				return fmt.Errorf("verifier %d, at %s, key %s of version %d: %w", n, now, i.kid, i.version, err)
			}
		}
		answer, err := verify(f.Engine(), i.token)
		if err != nil || !answer.Active {
			return fmt.Errorf("verify/, at %s, key %s of version %d: %v, %w", now, i.kid, i.version, answer, err)
		}
		f.checked++
	}
	return nil
}

// disturb ends the process, rotates or rolls back, now and then.
func (f *traffic) disturb() {
	switch f.random.IntN(24) {
	case 0:
		f.Restart()
		f.kills++
	case 1:
		_, _ = f.Engine().Rotate(context.Background(), app, backend.RotateRequest{})
	case 2:
		_, _ = f.Engine().Rollback(context.Background(), app, backend.RollbackRequest{})
	default:
	}
}

// through goes on until the pointer has moved so often.
func (f *traffic) through(rotations int) error {
	for done := 0; done < rotations; {
		if err := f.flow(); err != nil {
			return err
		}
		before := f.State().ActivatedTime
		f.disturb()
		f.Step()
		if s := f.State(); !s.ActivatedTime.Equal(before) {
			done++
			if s.Last != nil && s.Last.Trigger == rotation.Rollback {
				f.rollbacks++
			}
		}
		if broken := f.Violations(); len(broken) > 0 {
			return errors.New(broken[0])
		}
	}
	return nil
}

// No token that has not expired is refused through rotations, rollbacks and ends of the
// process, and no verifier meets a key that it does not know.
func TestNoTokenBreaks(t *testing.T) {
	t.Parallel()
	f := newTraffic(jwtRig(t, jwtStage(t)))
	require.NoError(t, f.through(100))
	t.Logf("%d of 100 rotations were rollbacks, %d ends of the process, %d keys, %d checks by verify/ and %d by verifiers",
		f.rollbacks, f.kills, len(f.keys), f.checked, f.checked*len(f.verifiers))
	require.Greater(t, f.rollbacks, 10)
	require.Greater(t, f.kills, 10)
	require.Greater(t, len(f.keys), 20)
}

// The check of the check: a verifier that keeps the keys for longer than it was told meets
// keys that it does not know.
func TestVerifierThatCachesTooLongMeetsUnknownKeys(t *testing.T) {
	t.Parallel()
	f := newTraffic(jwtRig(t, jwtStage(t)))
	f.verifiers = []*cachingVerifier{{offset: -5 * time.Minute}}
	require.ErrorContains(t, f.through(10), "failed to find key with key ID")
}

// A key is not ended by hand while a token that it signed may be in use.
func TestRetiringASigningKeyByHandWaitsForItsTokens(t *testing.T) {
	t.Parallel()
	r := jwtRig(t, jwtStage(t))
	r.ready()
	r.Rotate()
	r.Wait(16 * time.Second) // whoever read it has read again
	retire := func(force bool) error {
		_, err := r.Engine().Retire(context.Background(), app, backend.RetireRequest{Wait: backend.Wait, Force: force})
		return err
	}
	requireKind(t, fault.Conflict, retire(false), "version 1 may be in use until "+r.State().Version(1).RetireAt.Format(time.RFC3339))
	require.NoError(t, retire(true))
	require.Equal(t, rotation.Retired, r.State().Version(1).State)
}

// Who deletes a role takes nothing from those who hold its tokens.
func TestTokensOfADeletedRoleStayGood(t *testing.T) {
	t.Parallel()
	r := jwtRig(t, jwtStage(t))
	token := r.issue()
	r.Delete()
	verifier := &cachingVerifier{}
	for now := r.Clock.Now(); now.Before(token.expires); now = r.Clock.Now() {
		answer, err := verify(r.Engine(), token.token)
		require.NoError(t, err)
		require.True(t, answer.Active, answer.Reason)
		require.NoError(t, verifier.check(r.Engine(), now, token.token))
		_, err = r.Engine().Use(context.Background(), app, jwt.SignRequest{Items: []jwt.SignItem{{}}})
		requireKind(t, fault.NotFound, err, "is deleted")
		_, err = r.Engine().Creds(context.Background(), app, backend.Actor{})
		requireKind(t, fault.NotFound, err, "there is no role")
		_, err = r.Engine().VersionCreds(context.Background(), app, 1, backend.Actor{})
		requireKind(t, fault.NotFound, err, "there is no role")
		r.Step()
	}
	r.Wait(2 * time.Minute)
	_, err := fetch(r.Engine())
	requireKind(t, fault.NotFound, err, "there is no role")
}

// Whoever read the key sets under a longer time comes back within it, also when the
// journal never had it.
func TestLongerAnnouncementCountsOnceItIsAdopted(t *testing.T) {
	t.Parallel()
	r := jwtRig(t, jwtStage(t))
	r.waitUntil("the next", time.Minute, func() bool { return r.State().StandbyVersion() != nil })
	_, err := r.Engine().WriteConfig(context.Background(), backend.Write{Given: option.Values{"paused": true}})
	require.NoError(t, err)
	_, err = r.Engine().WriteRole(context.Background(), backend.Write{Name: app, Given: option.Values{"announce_period": int64(580)}})
	require.NoError(t, err)
	set, err := fetch(r.Engine())
	require.NoError(t, err)
	require.Equal(t, 30*time.Second, set.MaxAge)
	_, err = r.Engine().WriteConfig(context.Background(), backend.Write{Given: option.Values{"paused": false}})
	require.NoError(t, err)
	r.waitUntil("adopted", time.Minute, func() bool {
		set, err = fetch(r.Engine())
		return err == nil && set.MaxAge == 290*time.Second
	})
}

// A key that another one took over from is not handed out: what it signed now would
// outlive it.
func TestRetiringPrivateKeyIsNotHandedOut(t *testing.T) {
	t.Parallel()
	r := jwtRig(t, jwtStage(t))
	r.ready()
	r.Rotate()
	old, err := r.Engine().VersionCreds(context.Background(), app, 1, backend.Actor{})
	require.NoError(t, err)
	require.NotContains(t, old.Data, "private_key")
	require.Contains(t, old.Data, "public_key")
	require.Contains(t, r.creds().Data, "private_key")
}

// The default of a rollback is no version that may have leaked with a later one.
func TestRollbackAfterALeakAsksForAName(t *testing.T) {
	t.Parallel()
	r := jwtRig(t, jwtStage(t))
	r.ready()
	r.Rotate()
	r.waitUntil("retired", 5*time.Minute, func() bool { return r.State().Version(1).State == rotation.Retired })
	r.waitUntil("the next", time.Minute, func() bool { return r.State().StandbyVersion() != nil })
	r.Emergency(false)
	_, err := r.rollbackNow(0, false)
	requireKind(t, fault.Conflict, err, "version 1: it ended before version 2 leaked, and may have leaked too: name it with version=1")
	_, err = r.rollbackNow(1, true)
	require.NoError(t, err)
	require.Equal(t, 1, r.Current())
}

// A standby key that turns out to be damaged is replaced, and takes nothing with it.
func TestDamagedStandbyKeyIsReplaced(t *testing.T) {
	t.Parallel()
	r := jwtRig(t, jwtStage(t))
	damaged := r.ready()
	disk := &enginetest.Storage{Disk: r.Disk}
	require.NoError(t, store.New(disk).PutMaterial(t.Context(), app, damaged.Number, secret.NewMap(map[string]string{"private_key": "no key"})))
	r.Restart()
	r.issue()
	_, err := fetch(r.Engine())
	require.NoError(t, err)
	_, err = r.Engine().Rotate(context.Background(), app, backend.RotateRequest{Wait: backend.Wait})
	require.NoError(t, err)
	r.waitUntil("another one", 5*time.Minute, func() bool {
		s := r.State().StandbyVersion()
		return s != nil && s.Number > damaged.Number
	})
	r.waitUntil("rotated", 10*time.Minute, func() bool { return r.Current() > damaged.Number })
}

// A retiring key that turns out to be damaged leaves the current one alone.
func TestDamagedRetiringKeyTakesNothingWithIt(t *testing.T) {
	t.Parallel()
	r := jwtRig(t, jwtStage(t))
	r.ready()
	r.Rotate()
	require.Equal(t, rotation.Retiring, r.State().Version(1).State)
	disk := &enginetest.Storage{Disk: r.Disk}
	require.NoError(t, store.New(disk).PutMaterial(t.Context(), app, 1, secret.NewMap(map[string]string{"private_key": "no key"})))
	r.Restart()
	r.issue()
	require.Equal(t, 2, r.creds().Data["version"])
	_, err := r.Engine().VersionCreds(t.Context(), app, 1, backend.Actor{})
	requireKind(t, fault.NotFound, err, "no live version 1")
}

// TestNoTokenOfALeakedKeyPasses declares leaks: verify/ refuses at once whatever the
// leaked key signed or signs, a caching verifier once its cache lifetime is over.
func TestNoTokenOfALeakedKeyPasses(t *testing.T) {
	t.Parallel()
	for _, killFirst := range []bool{false, true} {
		t.Run(fmt.Sprintf("kill_first=%t", killFirst), func(t *testing.T) {
			t.Parallel()
			r := jwtRig(t, jwtStage(t))
			r.waitUntil("the next", time.Minute, func() bool { return r.State().StandbyVersion() != nil })
			stolen := r.creds().Data
			verifier := &cachingVerifier{}
			old := r.issue()
			require.NoError(t, verifier.check(r.Engine(), r.Clock.Now(), old.token))
			cached := verifier.until

			r.Leak(true)
			out, err := r.emergencyNow(backend.EmergencyRequest{Reason: "the key was in a repository", KillFirst: killFirst, Wait: backend.Wait})
			require.NoError(t, err)
			require.Equal(t, "contained", string(out.Status), out.NextSteps)
			require.True(t, out.Killed[0].ProvenDead)
			fresh := r.issue()
			require.Equal(t, 2, fresh.version, "the key that was announced signs")
			set, err := fetch(r.Engine())
			require.NoError(t, err)
			require.NotContains(t, kidsOf(set), old.kid)
			require.Contains(t, kidsOf(set), fresh.kid)
			status := r.status()
			require.Equal(t, []string{old.kid}, status.RevokedIDs)
			require.Contains(t, fmt.Sprint(out.NextSteps), "may accept tokens of kid "+old.kid)

			for now := r.Clock.Now(); now.Before(cached.Add(time.Minute)); now = r.Clock.Now() {
				forged := r.issueByItself(stolen) // whoever stole the key goes on
				for _, token := range []string{old.token, forged.token} {
					answer, err := verify(r.Engine(), token)
					require.NoError(t, err)
					require.False(t, answer.Active)
					require.Contains(t, answer.Reason, "compromised")
				}
				if err := verifier.check(r.Engine(), now, forged.token); !now.Before(cached) {
					require.Error(t, err, "the cache lifetime is over")
				}
				require.NoError(t, (&cachingVerifier{set: verifier.set, until: verifier.until}).check(r.Engine(), now, fresh.token), "everybody knew the next key")
				fresh = r.issue()
				r.Step()
			}
			_, err = r.Engine().Rollback(context.Background(), app, backend.RollbackRequest{Version: 1})
			requireKind(t, fault.Conflict, err, "it is compromised")
		})
	}
}

// signed makes a token with a library that the mount does not use.
func signed(key jwk.Key, kid string, now, expires time.Time) (string, error) {
	if err := key.Set(jwk.KeyIDKey, kid); err != nil {
		return "", err
	}
	token, err := jwxt.NewBuilder().Subject("user-2").IssuedAt(now).Expiration(expires).Build()
	if err != nil {
		return "", err
	}
	raw, err := jwxt.Sign(token, jwxt.WithKey(jwa.ES256(), key))
	return string(raw), err
}
