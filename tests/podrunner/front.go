package podrunner

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// listen starts the front address.
func (r *Runner) listen(ctx context.Context) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	r.address = listener.Addr().String()
	r.front = &http.Server{Handler: http.HandlerFunc(r.serve), ReadHeaderTimeout: time.Minute}
	r.owned.Go(func() {
		if err := r.front.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			r.failed(err)
		}
	})
	return nil
}

// URL is the front address: http://127.0.0.1:port. Every path asks a ready pod for its health, and is
// answered with 200 when it could log in, else with 503. The body is its Health.
func (r *Runner) URL() string { return "http://" + r.address }

// Counts are what the front address has answered so far.
func (r *Runner) Counts() Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts
}

// serve asks one pod after the other until one answers: one that has just ended is no failure, as
// behind a Service.
func (r *Runner) serve(w http.ResponseWriter, request *http.Request) {
	client := &http.Client{Timeout: probeTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	health := Health{Error: "no pod is ready"}
	healthy, answered := false, false
	for _, p := range r.inTurn() {
		if health, healthy = ask(request.Context(), client, p); health.Pod != "" {
			answered = true
			break
		}
	}
	if request.Context().Err() != nil {
		return // nobody waits for it
	}
	r.count(health, healthy, answered)
	w.Header().Set("Content-Type", "application/json")
	if !healthy {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(health) // whoever asked may be gone
}

func (r *Runner) count(health Health, healthy, answered bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !answered:
		r.counts.Unavailable++
	case healthy:
		r.counts.Healthy++
	case health.Refused:
		r.counts.Refused++
	default:
		r.counts.Failed++
	}
}

// inTurn are the addresses of ready pods, beginning with another one each time.
func (r *Runner) inTurn() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var addresses []string
	for _, p := range r.pods {
		if p.ready {
			addresses = append(addresses, p.address)
		}
	}
	if len(addresses) == 0 {
		return nil
	}
	slices.SortFunc(addresses, strings.Compare)
	r.turn = (r.turn + 1) % len(addresses)
	return append(addresses[r.turn:], addresses[:r.turn]...)
}

// Ask asks the front address once, as a client of the application does.
func (r *Runner) Ask(ctx context.Context) (health Health, healthy bool) {
	client := &http.Client{Timeout: probeTimeout, Transport: &http.Transport{DisableKeepAlives: true}}
	return ask(ctx, client, r.address)
}
