package tests

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/fakeapi"
)

// With a soak the schedule makes the next key ahead: readers get it as the secondary, and it takes over
// when it has soaked, or when a person says so. Neither a promotion nor a second key comes before.
func TestAPIKeySoak(t *testing.T) {
	t.Parallel()
	api := started(t, fakeapi.NewOpenAI())
	w := newPairs(t, "soak", sharedVault(t), toOpenAI(api, nil))
	asks := w.role + "-asks"
	due := func(changes map[string]any) map[string]any {
		soon := time.Now().Add(2 * time.Second).UTC().Format(time.RFC3339)
		return pairFields(with(map[string]any{"rotation_period": "2m", "grace_period": "1m", "next_rotation": soon}, changes))
	}
	w.write("roles/"+w.role, due(map[string]any{"soak_period": "15s"}))
	w.write("roles/"+asks, due(map[string]any{"auto_promote": false}))
	first := w.pair(w.role)

	ready := w.awaitVersion(w.role, 2, "standby").ReadyAt
	assert.WithinDuration(t, time.Now().Add(15*time.Second), ready, 15*time.Second)
	now := w.pair(w.role)
	assert.Equal(t, 1, now.Version)
	assert.Equal(t, first.Primary, now.Primary)
	assert.True(t, api.Works(now.Secondary), "the next one, made and proven")
	w.denied(http.StatusConflict, "promote/"+w.role, nil, "version 2 is staged, and may take over at "+ready.Format(time.RFC3339), "force=true")

	w.awaitVersion(asks, 2, "standby")
	s := w.status(asks)
	assert.Equal(t, "action_required", s.State)
	assert.Contains(t, s.Reason, "write promote/"+asks)
	asked := w.pair(asks)
	r := w.rotation("promote/"+asks, nil)
	assert.Equal(t, rotationAnswer{ID: r.ID, Trigger: "manual", Phase: "rolled_out", Outcome: "succeeded", Version: 2, Previous: 1}, r)
	after := w.pair(asks)
	assert.Equal(t, asked.Primary, after.Secondary, "they changed places")
	assert.Equal(t, asked.Secondary, after.Primary)

	w.awaitVersion(w.role, 2, "current")
	assert.False(t, time.Now().Before(ready), "not before it had soaked")
	after = w.pair(w.role)
	assert.Equal(t, now.Secondary, after.Primary)
	assert.Equal(t, now.Primary, after.Secondary)
	assert.Equal(t, []string{"scheduled succeeded 2", "initial succeeded 1"}, w.told(w.role))
	assert.Len(t, api.Accounts(), 4)
	for _, k := range []string{after.Primary, after.Secondary} {
		assert.True(t, api.Works(k))
	}
}
