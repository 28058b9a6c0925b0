package tests

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/await"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/pgtest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/vaulttest"
)

// The plugin's process is killed, or its connection cut, right around the write of a copy: whatever happened to
// it, each rotation has exactly one version in KV.
func TestMirrorCrashes(t *testing.T) {
	t.Parallel()
	vault := vaulttest.New(t, vaulttest.Options{})
	w := newWorld(t, "mirrorcrash", vault, pgtest.Shared(t))
	c := &mirrorCrash{world: w, kv: newPlace(w, vault, "team"), front: newFront(t, vault), killed: make(chan error, 1)}
	w.write("connections/front", c.kv.connection(map[string]any{"address": c.front.URL, "ca_cert": c.front.ca(), "allow_insecure_http": nil}))
	w.write("roles/"+w.role, w.roleFields(map[string]any{"mirror": c.kv.to("front", "app"), "grace_period": "1h"}))
	require.Equal(t, 1, c.kv.copied("app").Version)

	for i, around := range []struct {
		name   string
		kills  bool
		around func(http.ResponseWriter, func(http.ResponseWriter))
	}{
		{"killed before it is written", true, func(http.ResponseWriter, func(http.ResponseWriter)) {
			c.kill()
			panic(http.ErrAbortHandler)
		}},
		{"killed before it learns of it", true, func(_ http.ResponseWriter, forward func(http.ResponseWriter)) {
			forward(nowhere{})
			c.kill()
			panic(http.ErrAbortHandler)
		}},
		{"killed after it was told", true, func(w http.ResponseWriter, forward func(http.ResponseWriter)) {
			forward(w)
			_ = http.NewResponseController(w).Flush()
			c.kill()
		}},
		{"cut off before it is written", false, func(http.ResponseWriter, func(http.ResponseWriter)) {
			panic(http.ErrAbortHandler)
		}},
		{"cut off before it learns of it", false, func(_ http.ResponseWriter, forward func(http.ResponseWriter)) {
			forward(nowhere{})
			panic(http.ErrAbortHandler)
		}},
	} {
		t.Run(around.name, func(t *testing.T) {
			c.t = t
			c.front.next(around.around)
			c.rotates(i+2, around.kills)
		})
	}
	w.t = t
	assert.Equal(t, []string{"succeeded", "succeeded", "succeeded", "succeeded", "succeeded", "succeeded"}, w.outcomes(w.role))
}

type mirrorCrash struct {
	*world
	kv     *place
	front  *front
	killed chan error
}

// kill is called while the test waits.
func (c *mirrorCrash) kill() {
	n, err := c.vault.KillPlugin(context.Background())
	if err == nil && n != 1 {
		err = fmt.Errorf("killed %d processes, not 1", n)
	}
	c.killed <- err
}

// nowhere is for an answer that nobody gets.
type nowhere struct{}

func (nowhere) Header() http.Header         { return http.Header{} }
func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) WriteHeader(int)             {}

// rotates asks once for a rotation, to the version that also KV then counts.
func (c *mirrorCrash) rotates(version int, kills bool) {
	c.t.Helper()
	before := c.front.seen()
	a := c.call(c.t.Context(), http.MethodPut, "rotate/"+c.role, nil)
	if kills {
		select {
		case err := <-c.killed:
			require.NoError(c.t, err)
		case <-c.t.Context().Done():
			c.t.Fatal("the process was not killed")
		}
	} else {
		require.True(c.t, a.ok(), a.sentence())
	}
	await.Until(c.t, "the rotation to end", func() (bool, any) {
		s, m := c.status(c.role), c.mirrorStatus(c.role)
		return s.Rotation == nil && s.Current == version && m.Mirror.Version == version, fmt.Sprintf("version %d, %+v, %+v", s.Current, m.Rotation, m.Mirror)
	})
	assert.Greater(c.t, c.front.seen(), before)
	found := c.kv.copied("app")
	assert.Equal(c.t, version, found.Version, "one version in KV a rotation")
	assert.Equal(c.t, strconv.Itoa(version), found.Fields["version"])
	held := c.current(c.role)
	assert.Equal(c.t, version, held.Version)
	assert.Equal(c.t, held.Password, found.Fields["password"], "the copy holds what readers get")
	m := c.mirrorStatus(c.role).Mirror
	assert.Equal(c.t, []any{version, ""}, []any{m.Copy, m.Trouble})
}

// outcomes are those of a role's rotations, newest first.
func (w *world) outcomes(role string) (outcomes []string) {
	w.t.Helper()
	var page struct{ Rotations []rotationAnswer }
	require.NoError(w.t, unmarshal(w.get("history/"+role), &page))
	for _, r := range page.Rotations {
		outcomes = append(outcomes, r.Outcome)
	}
	return outcomes
}
