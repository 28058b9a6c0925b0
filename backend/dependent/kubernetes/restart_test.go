package kubernetes

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/dependent"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

func order(id string) dependent.Order {
	return dependent.Order{ID: id, Time: time.Date(2026, 5, 4, 12, 30, 0, 0, time.FixedZone("CEST", 7200))}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			w := s.add("default", kind, "api.v1", nil, nil)
			k, conn := s.open(t)
			require.NoError(t, k.Restart(t.Context(), conn, w, order("rot-1/forward")))
			require.Equal(t, map[string]any{restartedAt: "2026-05-04T10:30:00Z", orders: "rot-1/forward"}, s.annotations(w))
			patches := s.seen("PATCH")
			require.Len(t, patches, 1)
			require.Contains(t, patches[0], "/"+kind+"s/api.v1?fieldManager=vault-plugin-secrets-rotation {")

			require.NoError(t, k.Restart(t.Context(), conn, w, order("rot-1/forward")))
			require.Empty(t, s.seen("PATCH"), "the order lies on the template")
			require.NoError(t, k.Restart(t.Context(), conn, w, order("rot-1/back")))
			require.Equal(t, 2, s.changed(w), "another order in the same second")
		})
	}
}

// Whoever restarts the workload in between, an order does so once.
func TestRestartIsOncePerOrder(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	w := s.add("default", deployment, "api", nil, nil)
	k, conn := s.open(t)
	require.NoError(t, k.Restart(t.Context(), conn, w, order("one")))
	s.edit(w, map[string]any{"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{"annotations": map[string]any{restartedAt: "2026-05-04T11:00:00Z"}}}}})
	require.NoError(t, k.Restart(t.Context(), conn, w, order("one")))
	require.Equal(t, 2, s.changed(w), "ours, and the person's")

	for i := range maxOrders - 1 { // of other roles
		require.NoError(t, k.Restart(t.Context(), conn, w, order(fmt.Sprint("other-", i))))
	}
	before := s.changed(w)
	require.NoError(t, k.Restart(t.Context(), conn, w, order("one")))
	require.Equal(t, before, s.changed(w))
	for i := range 20 {
		require.NoError(t, k.Restart(t.Context(), conn, w, order(fmt.Sprint("more-", i))))
	}
	require.Len(t, strings.Fields(s.annotations(w)[orders].(string)), maxOrders, "what lies on the object is bounded")
}

// An answer that is lost after the k-th request, or a request that is lost before it is served,
// changes nothing of that: the engine asks again, and the template changes once.
func TestRestartWithLostAnswers(t *testing.T) {
	t.Parallel()
	points := 0
	for _, served := range []bool{true, false} {
		for k := 1; ; k++ {
			s := newServer(t)
			w := s.add("default", deployment, "api", nil, nil)
			kind, conn := s.open(t)
			var n atomic.Int32
			s.set(func(s *server) {
				s.around = func(rw http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
					switch {
					case int(n.Add(1)) != k:
						serve(rw, r)
					case served:
						losing(serve, r)
					default:
						panic(http.ErrAbortHandler)
					}
				}
			})
			var err error
			for range 3 { // as the engine does
				if err = kind.Restart(t.Context(), conn, w, order("one")); err == nil {
					break
				}
				requireFault(t, err, fault.Unreachable, "restart default/deployment/api")
			}
			require.NoError(t, err)
			require.NoError(t, kind.Restart(t.Context(), conn, w, order("one")))
			require.Equal(t, 1, s.changed(w), "k=%d served=%t", k, served)
			if int(n.Load()) < k {
				break
			}
			points++
		}
	}
	require.GreaterOrEqual(t, points, 6)
}

// Answers are lost again and again: at some time somebody else has to say that the API server is
// not to be reached, and still nothing happened twice.
func TestRestartWithoutAnyAnswer(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	w := s.add("default", deployment, "api", nil, nil)
	k, conn := s.open(t)
	s.set(func(s *server) {
		s.around = func(rw http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			if r.Method == http.MethodPatch {
				panic(http.ErrAbortHandler)
			}
			serve(rw, r)
		}
	})
	err := k.Restart(t.Context(), conn, w, order("one"))
	requireFault(t, err, fault.Unreachable, "restart default/deployment/api: ")
	require.Len(t, s.seen("PATCH"), maxTries)
	require.Zero(t, s.changed(w))

	// A gateway's page, or its time-out, in the place of an answer: served all the same.
	s.set(func(s *server) {
		s.around = func(rw http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			if r.Method == http.MethodPatch {
				serve(&discard{}, r)
				rw.WriteHeader(http.StatusGatewayTimeout)
				return
			}
			serve(rw, r)
		}
	})
	require.NoError(t, k.Restart(t.Context(), conn, w, order("one")), "settled by reading again")
	require.Equal(t, 1, s.changed(w))
}

type discard struct{ header http.Header }

func (d *discard) Header() http.Header {
	if d.header == nil {
		d.header = http.Header{}
	}
	return d.header
}
func (*discard) Write(b []byte) (int, error) { return len(b), nil }
func (*discard) WriteHeader(int)             {}

// A request that was thought to be lost is served late: what was read then is stale by now.
func TestRestartServedLate(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	w := s.add("default", deployment, "api", nil, nil)
	k, conn := s.open(t)
	var late []func()
	s.set(func(s *server) {
		s.around = func(rw http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			if r.Method == http.MethodPatch && len(late) == 0 {
				late = append(late, func() { serve(&discard{}, r) })
				panic(http.ErrAbortHandler)
			}
			serve(rw, r)
		}
	})
	require.NoError(t, k.Restart(t.Context(), conn, w, order("one")))
	require.Equal(t, 1, s.changed(w))
	late[0]()
	require.Equal(t, 1, s.changed(w))
}

// Others write the object all the time: the change is made over what they wrote.
func TestRestartAmongOtherWriters(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	w := s.add("default", statefulSet, "db", nil, nil)
	k, conn := s.open(t)
	conflicts := 2
	s.set(func(s *server) {
		s.around = func(rw http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
			if r.Method == http.MethodPatch && conflicts > 0 {
				conflicts--
				s.edit(w, map[string]any{"spec": map[string]any{"replicas": 5 + conflicts}})
			}
			serve(rw, r)
		}
	})
	require.NoError(t, k.Restart(t.Context(), conn, w, order("one")))
	require.Equal(t, 1, s.changed(w))
	require.Len(t, s.seen("PATCH"), 3)

	s.set(func(*server) { conflicts = 1000 })
	err := k.Restart(t.Context(), conn, w, order("two"))
	requireFault(t, err, fault.Unreachable, "restart default/statefulset/db: it was changed each time just after it was read (status 409 Conflict")
	require.Equal(t, 1, s.changed(w))
}

// The object goes, or another one takes its place, between the look and the change.
func TestRestartOfWhatGoes(t *testing.T) {
	t.Parallel()
	for again, says := range map[bool]string{false: "restart default/deployment/api: it is gone", true: "default/deployment/api was deleted and made again"} {
		s := newServer(t)
		w := s.add("default", deployment, "api", nil, nil)
		k, conn := s.open(t)
		s.set(func(s *server) {
			s.around = func(rw http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
				if r.Method == http.MethodPatch {
					s.remove(w)
					if again {
						s.add("default", deployment, "api", nil, nil)
					}
				}
				serve(rw, r)
			}
		})
		requireFault(t, k.Restart(t.Context(), conn, w, order("one")), fault.Target, says)
		require.Zero(t, s.changed(w))
	}
}

// Two leaders, one of which was deposed and does not know yet.
func TestRestartFromTwoSides(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	w := s.add("default", deployment, "api", nil, nil)
	var both sync.WaitGroup
	for range 4 {
		k, conn := s.open(t)
		both.Go(func() {
			if err := k.Restart(t.Context(), conn, w, order("one")); err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	require.Equal(t, 1, s.changed(w))
}

func TestRestartRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		kind   string
		change map[string]any
		do     func(s *server, w *dependent.Workload)
		says   string
	}{
		"paused":           {deployment, map[string]any{"spec": map[string]any{"paused": true}}, nil, "default/deployment/x is paused, so that its pods would not be replaced: resume it first (kubectl rollout resume)"},
		"OnDelete":         {statefulSet, map[string]any{"spec": map[string]any{"updateStrategy": map[string]any{"type": "OnDelete"}}}, nil, `default/statefulset/x has the update strategy "OnDelete"`},
		"OnDelete, daemon": {daemonSet, map[string]any{"spec": map[string]any{"updateStrategy": map[string]any{"type": "OnDelete"}}}, nil, `must be RollingUpdate`},
		"being deleted":    {deployment, map[string]any{"metadata": map[string]any{"deletionTimestamp": "2026-05-04T10:00:00Z"}}, nil, "default/deployment/x is being deleted"},
		"deleted":          {daemonSet, nil, func(s *server, w *dependent.Workload) { s.remove(*w) }, "there is no daemonset x in namespace default, or no such namespace"},
		"made again":       {deployment, nil, func(_ *server, w *dependent.Workload) { w.UID = "uid-of-before" }, "default/deployment/x was deleted and made again since the restart began"},
		"no right": {
			deployment, nil,
			func(s *server, _ *dependent.Workload) {
				s.set(func(s *server) { s.rules[0].Verbs = []string{"get"} })
			},
			"restart default/deployment/x: the service account may not patch deployments.apps x in namespace default: grant it that (status 403 Forbidden: ",
		},
		"invalid": {
			deployment, nil,
			func(s *server, _ *dependent.Workload) {
				s.set(func(s *server) {
					s.around = func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
						if r.Method == http.MethodPatch {
							refuse(w, 422, "Invalid", "admission webhook \"policy\" denied the request:\n\x1b[31mno "+canary)
							return
						}
						serve(w, r)
					}
				})
			},
			"restart default/deployment/x: the API server declined (status 422 Invalid: admission webhook",
		},
		"undone by a webhook": {
			deployment, nil,
			func(s *server, w *dependent.Workload) {
				at := *w
				s.set(func(s *server) {
					s.around = func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
						if r.Method != http.MethodPatch {
							serve(w, r)
							return
						}
						serve(&discard{}, r)
						s.edit(at, map[string]any{"spec": map[string]any{"template": map[string]any{"metadata": map[string]any{"annotations": nil}}}})
						s.mu.Lock()
						defer s.mu.Unlock()
						respond(w, 200, s.objects[at.String()])
					}
				})
			},
			"restart default/deployment/x: the change did not last",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			w := s.add("default", c.kind, "x", nil, c.change)
			if c.do != nil {
				c.do(s, &w)
			}
			k, conn := s.open(t)
			requireFault(t, k.Restart(t.Context(), conn, w, order("one")), fault.Target, c.says)
			require.LessOrEqual(t, len(s.seen("PATCH")), 1)
			if name != "undone by a webhook" {
				require.Zero(t, s.changed(w))
			}
		})
	}
}

// The journal is ours. What it cannot hold is asked of nobody.
func TestRestartOfNothing(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	good := s.add("default", deployment, "api", nil, nil)
	k, conn := s.open(t)
	for _, change := range []func(w *dependent.Workload){
		func(w *dependent.Workload) { w.Kind = "secret" },
		func(w *dependent.Workload) { w.Namespace = "../kube-system" },
		func(w *dependent.Workload) { w.Name = "a/b" },
		func(w *dependent.Workload) { w.UID = "" },
	} {
		w := good
		change(&w)
		requireFault(t, k.Restart(t.Context(), conn, w, order("one")), fault.Internal, "the journal names a workload")
		_, err := k.Look(t.Context(), conn, w)
		requireFault(t, err, fault.Internal, "the journal names a workload")
	}
	for _, o := range []dependent.Order{{}, {ID: "one"}, {ID: "one two", Time: time.Unix(1, 0)}, {ID: strings.Repeat("x", 257), Time: time.Unix(1, 0)}} {
		requireFault(t, k.Restart(t.Context(), conn, good, o), fault.Internal, "an order has an id and a time")
	}
	requireFault(t, k.Restart(t.Context(), nil, good, order("one")), fault.Internal, "not a connection to Kubernetes")
	require.Empty(t, s.seen(""))
}
