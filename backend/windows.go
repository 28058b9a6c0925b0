package backend

import (
	"context"
	"fmt"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

// windowOf is when the maintenance window closes in which a role's data follows now; zero
// while none is open, or nothing follows. next is when that may be another.
func (v view) windowOf() (closes, next time.Time) {
	job := v.state.Reencryption
	if v.data == nil || v.data.window.Cron == nil || v.state.Deleted || !job.Runs() || job.Urgent {
		return time.Time{}, time.Time{}
	}
	closes = v.data.window.ClosesAt(v.now)
	if closes.IsZero() || !job.At.Before(closes) { // it begins in a later one
		return time.Time{}, v.data.window.OpensAt(later(v.now, job.At))
	}
	return closes, closes
}

// ruleWindow tells when a window opens that a role's data waited for, and when it closes.
func ruleWindow(v view) decision {
	closes, next := v.windowOf()
	if closes.Equal(v.state.WindowCloses) {
		return decision{act: actWindow, at: next}
	}
	return v.due(actWindow)
}

func (e *Engine) tellWindow(ctx context.Context, s *subject) error {
	_, err := e.update(ctx, s.name, func(s *subject) error {
		v, err := e.view(s)
		if err != nil {
			return err
		}
		closes, _ := v.windowOf()
		was := s.state.WindowCloses
		if closes.Equal(was) {
			return errStale
		}
		s.state.WindowCloses = closes
		if !was.IsZero() {
			then := "nothing is left to be done"
			if job := s.state.Reencryption; job.Runs() && job.Phase == rotation.Rewriting {
				then = "what is left waits for the next one"
			}
			s.state.Emit(windowEvent("window.closed", v.now, was, then))
		}
		if !closes.IsZero() {
			s.state.Emit(windowEvent("window.opened", v.now, closes, ""))
		}
		return nil
	})
	return err
}

func windowEvent(kind string, now, closes time.Time, then string) rotation.Event {
	return rotation.Event{
		ID: fmt.Sprintf("%s/%d", kind, closes.UnixNano()), Type: kind, Time: now,
		Data: map[string]string{"closes": closes.UTC().Format(time.RFC3339), "then": then},
	}
}
