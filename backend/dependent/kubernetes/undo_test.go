package kubernetes

import (
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

func ofTemplate(annotations map[string]any) map[string]any {
	return map[string]any{"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{"annotations": annotations}}}}
}

// A template that is again what it was lets the pods of that time stay.
func TestUndoGivesTheTemplateBack(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]map[string]any{
		"nothing": {}, "others": {"team": "crm", restartedAt: "2026-05-01T08:00:00Z", orders: "two one"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			w := s.add("default", deployment, "api", nil, ofTemplate(before))
			k, conn := s.open(t)
			require.NoError(t, k.Restart(t.Context(), conn, w, order("rot")))
			require.NoError(t, k.Undo(t.Context(), conn, w, order("rot/back"), "rot"))
			is := s.annotations(w)
			if is == nil {
				is = map[string]any{}
			}
			require.Equal(t, before, is)
			s.seen("PATCH")
			require.NoError(t, k.Undo(t.Context(), conn, w, order("rot/back"), "rot"))
			require.Empty(t, s.seen("PATCH"), "once for each order")
			require.Equal(t, 2, s.changed(w))
			require.NoError(t, k.Restart(t.Context(), conn, w, order("next")))
			require.NoError(t, k.Undo(t.Context(), conn, w, order("next/back"), "next"))
			require.Equal(t, 4, s.changed(w))
		})
	}
}

func TestUndoOfWhatNeverWas(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	w := s.add("default", deployment, "api", nil, nil)
	k, conn := s.open(t)
	require.NoError(t, k.Undo(t.Context(), conn, w, order("rot/back"), "rot"))
	require.Zero(t, s.changed(w))
	require.NoError(t, k.Restart(t.Context(), conn, w, order("of-another-role")))
	require.NoError(t, k.Undo(t.Context(), conn, w, order("rot/back"), "rot"))
	require.Equal(t, 1, s.changed(w))
}

// Pods that began meanwhile may hold what ends: an order can go also where the other never came.
func TestUndoEverywhere(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	w := s.add("default", deployment, "api", nil, nil)
	k, conn := s.open(t)
	back := order("rot/back")
	back.Everywhere = true
	for range 2 {
		require.NoError(t, k.Undo(t.Context(), conn, w, back, "rot"))
		require.Equal(t, 1, s.changed(w))
		require.Equal(t, "rot/back", s.annotations(w)[orders])
	}
}

// Where the template was written since, what it was is not what it should be: the pods are
// replaced, so that none holds what they read in between.
func TestUndoAfterSomebodyElse(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	k, conn := s.open(t)
	t.Run("another role's restart", func(t *testing.T) {
		w := s.add("default", deployment, "api", nil, nil)
		require.NoError(t, k.Restart(t.Context(), conn, w, order("rot")))
		require.NoError(t, k.Restart(t.Context(), conn, w, order("of-another-role")))
		for range 2 {
			require.NoError(t, k.Undo(t.Context(), conn, w, order("rot/back"), "rot"))
		}
		require.Equal(t, 3, s.changed(w))
		require.Equal(t, "rot/back of-another-role rot", s.annotations(w)[orders])
	})
	t.Run("a release that took our annotation off", func(t *testing.T) {
		w := s.add("default", deployment, "web", nil, nil)
		require.NoError(t, k.Restart(t.Context(), conn, w, order("rot")))
		s.edit(w, ofTemplate(map[string]any{orders: nil, restartedAt: nil}))
		for range 2 {
			require.NoError(t, k.Undo(t.Context(), conn, w, order("rot/back"), "rot"))
		}
		require.Equal(t, 3, s.changed(w))
	})
	t.Run("a release that left it", func(t *testing.T) {
		w := s.add("default", deployment, "worker", nil, nil)
		require.NoError(t, k.Restart(t.Context(), conn, w, order("rot")))
		s.edit(w, ofTemplate(map[string]any{"release": "2"}))
		require.NoError(t, k.Undo(t.Context(), conn, w, order("rot/back"), "rot"))
		require.Equal(t, map[string]any{"release": "2"}, s.annotations(w), "the release stays")
	})
	t.Run("paused", func(t *testing.T) {
		w := s.add("default", deployment, "batch", nil, nil)
		require.NoError(t, k.Restart(t.Context(), conn, w, order("rot")))
		s.edit(w, map[string]any{"spec": map[string]any{"paused": true}})
		requireFault(t, k.Undo(t.Context(), conn, w, order("rot/back"), "rot"), fault.Target, "is paused")
	})
}

func TestUndoWithLostAnswers(t *testing.T) {
	t.Parallel()
	points := 0
	for _, served := range []bool{true, false} {
		for at := 1; ; at++ {
			s := newServer(t)
			w := s.add("default", deployment, "api", nil, nil)
			k, conn := s.open(t)
			require.NoError(t, k.Restart(t.Context(), conn, w, order("rot")))
			var n atomic.Int32
			s.set(func(s *server) {
				s.around = func(rw http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
					switch {
					case int(n.Add(1)) != at:
						serve(rw, r)
					case served:
						losing(serve, r)
					default:
						panic(http.ErrAbortHandler)
					}
				}
			})
			var err error
			for range 3 {
				if err = k.Undo(t.Context(), conn, w, order("rot/back"), "rot"); err == nil {
					break
				}
			}
			require.NoError(t, err)
			require.NoError(t, k.Undo(t.Context(), conn, w, order("rot/back"), "rot"))
			require.Equal(t, 2, s.changed(w), "at=%d served=%t", at, served)
			if int(n.Load()) < at {
				break
			}
			points++
		}
	}
	require.GreaterOrEqual(t, points, 6)
}
