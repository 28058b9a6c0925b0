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
	crashSeed  = 20261122
	minKills   = 20 // of them, in the middle of a rotation
	maxRounds  = 80
	restartPer = 8 // every so many rounds PostgreSQL restarts as well
)

// The plugin's process is killed in the middle of rotations, again and again, and PostgreSQL is
// restarted under some. Whatever creds/ answers meanwhile logs in; afterwards there is exactly one
// user a role.
func TestCrashes(t *testing.T) {
	t.Parallel()
	postgres := pgtest.New(t)
	c := &crashing{
		world: newWorld(t, "crash", vaulttest.New(t, vaulttest.Options{}), postgres),
		dice:  rand.New(rand.NewPCG(crashSeed, 0)),
	}
	for i := range 3 {
		role := fmt.Sprintf("%s-%d", c.role, i)
		c.roles = append(c.roles, role)
		c.write("roles/"+role, c.roleFields(nil))
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var reading sync.WaitGroup
	reading.Go(func() { c.keepReading(ctx) })

	c.measure()
	restarts := 0
	for round := 1; c.cut < minKills && round <= maxRounds; round++ {
		restart := round%restartPer == 0
		if restart {
			restarts++
		}
		c.round(restart)
	}
	t.Logf("seed %d: %d kills, %d of them in the middle of a rotation of about %s; %d restarts of PostgreSQL",
		crashSeed, c.kills, c.cut, c.usual, restarts)
	assert.GreaterOrEqual(t, c.cut, minKills)
	assert.Positive(t, restarts)
	for _, role := range c.roles {
		c.settles(role)
	}
	stop()
	reading.Wait()
	t.Logf("%d logins with what creds/ answered; %d while PostgreSQL was down", c.logins, c.excused)
	assert.Greater(t, c.logins, 100)
	assert.Empty(t, c.failed, "whatever creds/ answers must log in")
}

type crashing struct {
	*world
	dice  *rand.Rand
	roles []string
	usual time.Duration // how long a rotation takes

	kills, cut int

	mu              sync.Mutex
	outages         int // of PostgreSQL that have begun or ended
	down            bool
	logins, excused int
	failed          []string
}

// measure finds out how long a rotation takes here, so that the kills fall into it.
func (c *crashing) measure() {
	c.t.Helper()
	began := time.Now()
	for _, role := range c.roles {
		c.awaitRotation(role)
	}
	c.usual = time.Since(began) / time.Duration(len(c.roles))
}

// round asks for a rotation of each role and kills the plugin's process at some moment of them.
func (c *crashing) round(restart bool) {
	c.t.Helper()
	asked := make(chan answer, len(c.roles))
	for _, role := range c.roles {
		go func() { asked <- c.call(c.t.Context(), http.MethodPut, "rotate/"+role, nil) }()
	}
	moment := time.NewTimer(time.Duration(c.dice.Float64() * 1.5 * float64(c.usual)))
	defer moment.Stop()
	<-moment.C
	if restart {
		c.restartPostgres()
	}
	n, err := c.vault.KillPlugin(c.t.Context())
	require.NoError(c.t, err)
	c.kills += n
	for range c.roles {
		// A request that was in the works when the process died got no answer from it.
		if a := <-asked; a.Status == 0 || a.Status >= http.StatusInternalServerError {
			c.cut += n
			n = 0 // one process, one kill
		}
	}
	for _, role := range c.roles {
		c.status(role) // until there is a process again, or the next kill would hit nothing
	}
}

func (c *crashing) restartPostgres() {
	c.t.Helper()
	c.outage(true)
	require.NoError(c.t, c.postgres.Restart(c.t.Context()))
	c.outage(false)
}

func (c *crashing) outage(begins bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outages++
	c.down = begins
}

// keepReading logs in with whatever creds/ answers, for each role in turn.
func (c *crashing) keepReading(ctx context.Context) {
	for i := 0; ctx.Err() == nil; i++ {
		role := c.roles[i%len(c.roles)]
		credential, err := c.creds(ctx, role)
		c.mu.Lock()
		before, down := c.outages, c.down
		c.mu.Unlock()
		if err == nil {
			err = c.login(ctx, credential.URL)
		}
		if ctx.Err() != nil {
			return
		}
		c.mu.Lock()
		switch outage := down || c.outages != before; {
		case err == nil:
			c.logins++
		case outage && !refused(err): // a credential that is refused is wrong at any time
			c.excused++
		default:
			c.failed = append(c.failed, fmt.Sprintf("%s: version %d of %s: %v", time.Now().Format(time.TimeOnly), credential.Version, role, err))
		}
		c.mu.Unlock()
	}
}

// settles waits until a role has come to rest: one user, which creds/ gives, and nothing in flight.
func (c *crashing) settles(role string) {
	c.t.Helper()
	await.Within(c.t, 3*time.Minute, role+" to come to rest with one user", func() (bool, any) {
		s, users := c.status(role), c.users(role)
		return s.State == "ok" && len(users) == 1, fmt.Sprintf("%s (%s), users %v", s.State, s.Reason, users)
	})
	credential := c.current(role)
	assert.Equal(c.t, []string{credential.Username}, c.users(role))
	require.NoError(c.t, c.login(c.t.Context(), credential.URL))

	s := c.status(role)
	numbers := map[int]bool{}
	for _, v := range s.Versions {
		assert.False(c.t, numbers[v.Version], "version %d is there twice", v.Version)
		numbers[v.Version] = true
		if v.Version != s.Current {
			assert.Contains(c.t, []string{"retired", "discarded"}, v.State, "version %d", v.Version)
		}
	}
	assert.Equal(c.t, s.Current, slices.Max(slices.Collect(maps.Keys(numbers))), "nothing newer than the current version was left half-made")
}
