// Package await is how tests wait for what other processes do.
package await

import (
	"testing"
	"time"
)

// Patience is how long a condition that should hold within seconds may take on a loaded machine.
const Patience = 90 * time.Second

// Within polls until the condition holds, and ends the test when it does not in time, with what it
// saw last.
func Within(t *testing.T, limit time.Duration, what string, holds func() (yes bool, seen any)) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		yes, seen := holds()
		if yes {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline.C:
			t.Fatalf("waited %s for %s; last seen: %v", limit, what, seen)
		case <-t.Context().Done():
			t.Fatalf("the test ended while it waited for %s", what)
		}
	}
}

// Until is Within Patience.
func Until(t *testing.T, what string, holds func() (yes bool, seen any)) {
	t.Helper()
	Within(t, Patience, what, holds)
}
