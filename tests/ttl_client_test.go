package tests

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

const (
	clients        = 4
	loginsPerRound = 3 // in each version, over all clients
)

// A hardship is what the clients live through.
type hardship struct {
	rotations, rollbackEvery, killEvery int
	// turns tells that a rotation begins only once the version before the last has ended.
	turns  bool
	fields func(w *world) map[string]any
}

// Clients that keep to the ttl contract open new connections all the time, through rotations,
// rollbacks and kills of the plugin's process. They meet every version, and none is ever refused.
func TestClientsByTTL(t *testing.T) {
	t.Parallel()
	hardship{50, 6, 5, false, func(*world) map[string]any { return nil }}.test(t, "clients")
}

// The same where two users take turns: each rotation waits until nobody is promised the other user.
func TestClientsByTTLOfTwoUsers(t *testing.T) {
	t.Parallel()
	hardship{8, 3, 2, true, func(w *world) map[string]any {
		return map[string]any{"strategy": "alternate", "usernames": []string{w.role + "_blue", w.role + "_green"}}
	}}.test(t, "pair")
}

func (h hardship) test(t *testing.T, name string) {
	vault := vaulttest.New(t, vaulttest.Options{}) // its own: the plugin's process serves every mount
	w := newWorld(t, name, vault, pgtest.Shared(t))
	w.write("roles/"+w.role, w.roleFields(with(map[string]any{"max_versions": h.rotations + 10}, h.fields(w))))
	assert.Equal(t, 5, w.current(w.role).TTL, "a quarter of the grace")

	crowd := w.startClients(clients)
	crowd.await(t, 1)
	killed, rolledBack := 0, 0
	for round := 1; round <= h.rotations; round++ {
		var version int
		if h.turns {
			w.awaitState(w.role, await.Patience, "ok")
		}
		if round%h.killEvery == 0 {
			version = w.rotateUnderKill()
			killed++
		} else {
			version = w.awaitRotation(w.role)
		}
		crowd.await(t, version)
		if round%h.rollbackEvery == 0 {
			crowd.await(t, w.rollBack())
			rolledBack++
		}
	}
	await.Until(t, "one user to be left", func() (bool, any) {
		users := w.usable(w.role)
		return len(users) == 1, users
	})
	crowd.stop()

	logins := crowd.logins()
	total := 0
	for _, n := range logins {
		total += n
	}
	t.Logf("%d logins by %d clients in %d versions, through %d rotations, %d rollbacks and %d kills; %d refused",
		total, clients, len(logins), h.rotations, rolledBack, killed, len(crowd.failures()))
	assert.Empty(t, crowd.failures(), "a credential must work for as long as its ttl says")
	assert.GreaterOrEqual(t, total, h.rotations*loginsPerRound)
	assert.Len(t, slices.Collect(maps.Keys(logins)), h.rotations+1, "every version was used")
	assert.Equal(t, h.rotations/h.killEvery, killed)
	assert.Equal(t, h.rotations/h.rollbackEvery, rolledBack)
	assert.Zero(t, w.status(w.role).Failures)
}

// rotateUnderKill asks for a rotation and kills the plugin's process while it works on it.
func (w *world) rotateUnderKill() int {
	w.t.Helper()
	before := w.status(w.role).highest()
	asked := make(chan answer, 1)
	go func() { asked <- w.call(w.t.Context(), http.MethodPut, "rotate/"+w.role, nil) }()
	await.Until(w.t, "the rotation to begin", func() (bool, any) {
		s := w.status(w.role)
		return s.Rotation != nil || s.State == "rotating" || s.Current > before, s
	})
	n, err := w.vault.KillPlugin(w.t.Context())
	require.NoError(w.t, err)
	require.Positive(w.t, n, "there was no process to kill")
	<-asked // whatever it was answered
	return w.awaitAbove(w.role, before)
}

// rollBack goes back to the version before, and says which that is.
func (w *world) rollBack() int {
	w.t.Helper()
	var a answer
	await.Until(w.t, "a rollback", func() (bool, any) {
		a = w.call(w.t.Context(), http.MethodPut, "rollback/"+w.role, nil)
		return a.ok(), fmt.Sprintf("%d %s", a.Status, a.sentence())
	})
	return w.current(w.role).Version
}

// A crowd is a number of clients and what they have seen.
type crowd struct {
	world *world
	end   context.CancelFunc
	all   sync.WaitGroup

	mu     sync.Mutex
	seen   map[int]int // successful logins by version
	failed []string
}

func (w *world) startClients(n int) *crowd {
	ctx, cancel := context.WithCancel(w.t.Context())
	c := &crowd{world: w, end: cancel, seen: map[int]int{}}
	for i := range n {
		// The first one takes all the time it has. The others read again earlier, as clients with
		// some jitter do: together they meet each version soon.
		share := func() float64 { return 1 }
		if i > 0 {
			share = func() float64 { return 0.05 + 0.25*rand.Float64() }
		}
		c.all.Go(func() { c.live(ctx, share) })
	}
	w.t.Cleanup(c.stop)
	return c
}

func (c *crowd) stop() {
	c.end()
	c.all.Wait()
}

// live is one client: it reads, works with what it got for a share of the ttl, and reads again. While
// Vault does not answer it waits, and opens no connection with what is over.
func (c *crowd) live(ctx context.Context, share func() float64) {
	pause := time.NewTicker(100 * time.Millisecond)
	defer pause.Stop()
	for ctx.Err() == nil {
		credential, err := c.world.creds(ctx, c.world.role)
		until := time.Now().Add(time.Duration(share() * float64(credential.TTL) * float64(time.Second)))
		if err != nil {
			c.note(ctx, credential, err)
			continue
		}
		for ctx.Err() == nil && time.Now().Before(until) {
			c.note(ctx, credential, c.world.login(ctx, credential.URL))
			select {
			case <-pause.C:
			case <-ctx.Done():
			}
		}
	}
}

func (c *crowd) note(ctx context.Context, used credential, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		c.seen[used.Version]++
	case ctx.Err() == nil: // what was cut off by the end of the test is no failure
		c.failed = append(c.failed, fmt.Sprintf("%s version %d: %v", time.Now().Format(time.TimeOnly), used.Version, err))
	}
}

// await waits until the clients have used a version a few times more.
func (c *crowd) await(t *testing.T, version int) {
	t.Helper()
	before := c.logins()[version]
	await.Until(t, fmt.Sprintf("the clients to use version %d", version), func() (bool, any) {
		now := c.logins()
		return now[version] >= before+loginsPerRound, now
	})
}

func (c *crowd) logins() map[int]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.seen)
}

func (c *crowd) failures() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.failed)
}
