package tests

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

const (
	trafficTime      = time.Minute
	killPerRounds    = 3
	rollbackPerRound = 4
)

// No token that has not expired is refused, by the mount or by services that cache its keys, while the
// role rotates as fast as it may, rolls back, and its process is killed.
func TestJWTNoTokenBreaks(t *testing.T) {
	t.Parallel()
	w := newKeys(t, "traffic", vaulttest.New(t, vaulttest.Options{})) // its own: the plugin's process serves every mount
	w.write("roles/"+w.role, keyFields(map[string]any{
		"rotation_period": "60s", "token_ttl": "5s", "clock_skew": "1s", "announce_period": "4s", "grace_period": "20s",
	}))
	f := &traffic{world: w, kids: map[string]bool{}}
	f.start()
	kills, rollbacks, rotations := f.through(trafficTime)
	f.stop()

	t.Logf("%d tokens of %d keys, through %d rotations, %d rollbacks and %d kills (%d of them cut a rotation off): %d checks by verify/, %d by caching verifiers "+
		"(%d fetches of the keys); %d requests were repeated; %d tokens broke; a verifier that caches for too long met %d unknown keys",
		f.signed, len(f.kids), rotations, rollbacks, kills, f.cut, f.asked, f.checked, f.fetched, f.repeated, len(f.broken), f.careless)
	assert.Empty(t, f.broken, "no unexpired token may be refused")
	assert.GreaterOrEqual(t, kills, 3)
	assert.GreaterOrEqual(t, rotations, 8)
	assert.GreaterOrEqual(t, rollbacks, 2)
	assert.Greater(t, len(f.kids), rotations/2)
	assert.Greater(t, f.signed, 100)
	assert.Greater(t, f.asked, f.signed)
	assert.Greater(t, f.checked, f.signed)
	assert.Positive(t, f.careless, "nobody would notice an announcement that is too short: this test shows nothing")
	assert.Zero(t, w.status(w.role).Failures)
}

// traffic is everybody who depends on a role's keys: an issuer, and who checks what it issued.
type traffic struct {
	*world
	all sync.WaitGroup
	end context.CancelFunc

	mu       sync.Mutex
	tokens   []signedToken // that have not expired
	kids     map[string]bool
	broken   []string
	signed   int
	asked    int // checks by verify/
	checked  int // by verifiers that keep to Cache-Control
	fetched  int
	careless int // unknown keys of one that does not
	repeated int // requests, while there was no process
	cut      int // rotations that the process did not live to answer
}

func (f *traffic) start() {
	ctx, cancel := context.WithCancel(f.t.Context())
	f.end = cancel
	f.t.Cleanup(f.stop)
	f.regularly(ctx, 100*time.Millisecond, f.issue)
	f.regularly(ctx, 250*time.Millisecond, f.ask)
	// They begin at different moments, so that their caches end at different ones.
	for i := range 3 {
		v := &cachingVerifier{url: f.url("jwks/" + f.role)}
		f.regularly(ctx, time.Duration(100+30*i)*time.Millisecond, func(ctx context.Context) { f.check(ctx, v) })
	}
	careless := &cachingVerifier{url: f.url("jwks/" + f.role), stretch: 10}
	f.regularly(ctx, time.Second, func(ctx context.Context) { f.neglect(ctx, careless) })
}

func (f *traffic) stop() {
	f.end()
	f.all.Wait()
}

// regularly does something until the context ends.
func (f *traffic) regularly(ctx context.Context, every time.Duration, do func(context.Context)) {
	f.all.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for ctx.Err() == nil {
			do(ctx)
			select {
			case <-ticker.C:
			case <-ctx.Done():
			}
		}
	})
}

// request makes a request, and repeats it while Vault answers with a 5xx or not at all: so it is for a
// moment after the plugin's process was killed.
func (f *traffic) request(ctx context.Context, path string, body map[string]any) (a answer) {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for ctx.Err() == nil {
		a = f.call(ctx, http.MethodPut, path, body)
		if a.Status != 0 && a.Status < http.StatusInternalServerError {
			return a
		}
		f.mu.Lock()
		f.repeated++
		f.mu.Unlock()
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
	return a
}

func (f *traffic) issue(ctx context.Context) {
	a := f.request(ctx, "sign/"+f.role, map[string]any{"claims": map[string]any{"sub": "user-1"}})
	if ctx.Err() != nil {
		return
	}
	var s signedToken
	if err := unmarshal(a, &s); !a.ok() || err != nil {
		f.breaks("nothing was signed: %d %s %v", a.Status, a.sentence(), err)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.signed++
	f.kids[s.Kid] = true
	f.tokens = slices.DeleteFunc(append(f.tokens, s), expired)
}

func expired(s signedToken) bool { return !time.Now().Before(s.Expires) }

// good are the tokens that must pass, the oldest first.
func (f *traffic) good() []signedToken {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(f.tokens), expired)
}

func (f *traffic) breaks(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = append(f.broken, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// ask lets the mount verify. A token that expired meanwhile says nothing.
func (f *traffic) ask(ctx context.Context) {
	for _, s := range f.good() {
		a := f.request(ctx, "verify/"+f.role, map[string]any{"token": s.Token})
		var v verdict
		err := unmarshal(a, &v)
		switch {
		case ctx.Err() != nil:
			return
		case a.ok() && err == nil && v.Active:
			f.count(&f.asked)
		case !expired(s):
			f.breaks("verify/ refuses a token of version %d that ends at %s: %d %s %s %v", s.Version, s.Expires, a.Status, a.sentence(), v.Reason, err)
		}
	}
}

func (f *traffic) count(what *int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	*what++
}

// check is a service that keeps the keys for as long as it is told.
func (f *traffic) check(ctx context.Context, v *cachingVerifier) {
	for _, s := range f.good() {
		before := v.fetches
		err := v.check(ctx, s.Token)
		if v.fetches != before {
			f.count(&f.fetched)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			f.count(&f.checked)
		case !expired(s):
			f.breaks("a caching verifier refuses a token of version %d that ends at %s: %v", s.Version, s.Expires, err)
		}
	}
}

// neglect is a service that keeps them for longer.
func (f *traffic) neglect(ctx context.Context, v *cachingVerifier) {
	for _, s := range f.good() {
		if err := v.check(ctx, s.Token); err != nil && ctx.Err() == nil && !expired(s) {
			f.count(&f.careless)
		}
	}
}

// through rotates whenever the next key may take over, without force, and rolls back and kills the
// process now and then, at a random moment of a rotation.
func (f *traffic) through(during time.Duration) (kills, rollbacks, rotations int) {
	f.t.Helper()
	end := time.Now().Add(during)
	for round := 1; time.Now().Before(end); round++ {
		before := f.status(f.role).Current
		if round%killPerRounds == 0 {
			kills += f.killRotating()
		}
		f.rotateOn(before)
		rotations++
		if round%rollbackPerRound != 0 {
			continue
		}
		back := f.rollBack()
		require.Less(f.t, back, f.status(f.role).highest(), "to an earlier one than the schedule may have made current meanwhile")
		rollbacks++
	}
	return kills, rollbacks, rotations
}

// rotateOn rotates once the next key may take over.
func (f *traffic) rotateOn(before int) {
	f.t.Helper()
	f.announced(f.role)
	f.awaitAbove(f.role, before)
}

// killRotating kills the process while it rotates, or just before or after.
func (f *traffic) killRotating() int {
	f.t.Helper()
	ready := f.announced(f.role).ReadyAt.Add(time.Second) // it is told without its fraction
	await.Until(f.t, "the announcement to have run", func() (bool, any) { return !time.Now().Before(ready), ready })
	asked := make(chan answer, 1)
	go func() { asked <- f.call(f.t.Context(), http.MethodPut, "rotate/"+f.role, nil) }()
	moment := time.NewTimer(rand.N(30 * time.Millisecond))
	defer moment.Stop()
	<-moment.C
	n, err := f.vault.KillPlugin(f.t.Context())
	require.NoError(f.t, err)
	if a := <-asked; a.Status == 0 || a.Status >= http.StatusInternalServerError {
		f.cut++
	}
	return n
}
