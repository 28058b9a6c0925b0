package enginetest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/dependent"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// AroundName is the connection to the surroundings in every play.
const AroundName = "around"

// Surroundings are what depends on a secret, in memory: workloads whose pods read it when
// they begin, endpoints, and a place for copies. They outlive processes.
type Surroundings struct {
	// OnWrite happens just before a copy is written; nil for nothing.
	OnWrite func()
	// OnTry happens just before an endpoint is asked; nil for nothing.
	OnTry func()
	// OnReady happens while one is asked whether it could be restarted; nil for nothing.
	OnReady func()

	// reads is what a pod does when it begins.
	reads func() (map[string]any, error)

	mu        sync.Mutex
	workloads map[string]*Workload
	copies    map[string][]stored
	unwell    map[string]string
	tries     map[string]int
	readOnly  bool
	away      bool
	noCopies  bool
}

// Workload is one that is restarted.
type Workload struct {
	// Template is the order that the pod template bears, Before the one in its place earlier.
	Template, Before string
	// Changes are all orders that changed the template, in their order.
	Changes []string
	// Holds is what its pods read when they began; nil for nothing.
	Holds map[string]any
	// Broken lets new pods never become ready; those before them stay.
	Broken bool
	// Stalled is what the cluster says of new pods, whichever they are.
	Stalled bool
	// Paused is refused.
	Paused bool
	// Gone is not there any more.
	Gone bool
	// Away is not found for now: nothing answers who lists it.
	Away   bool
	looks  int
	rolled bool
}

type stored struct {
	fields  secret.Map
	deleted bool
}

// looksUntilDone is how often a rollout is looked at before it has completed.
const looksUntilDone = 2

// NewSurroundings has workloads of these names.
func NewSurroundings(workloads ...string) *Surroundings {
	s := &Surroundings{workloads: map[string]*Workload{}, copies: map[string][]stored{}, unwell: map[string]string{}, tries: map[string]int{}}
	for _, name := range workloads {
		s.workloads[name] = &Workload{rolled: true}
	}
	return s
}

// Change changes a workload.
func (s *Surroundings) Change(name string, change func(*Workload)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s.workloads[name])
}

// Workload is a copy of one.
func (s *Surroundings) Workload(name string) Workload {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := *s.workloads[name]
	w.Changes = slices.Clone(w.Changes)
	return w
}

// SetAway lets nothing answer.
func (s *Surroundings) SetAway(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

// SetReadOnly lets no copy be written.
func (s *Surroundings) SetReadOnly(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readOnly = on
}

// SetCopiesAway lets the place for copies not answer, while all else does.
func (s *Surroundings) SetCopiesAway(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noCopies = away
}

// Unwell lets an endpoint fail for a reason; "" lets it pass again.
func (s *Surroundings) Unwell(check, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unwell[check] = why
}

// Tries is how often an endpoint was asked.
func (s *Surroundings) Tries(check string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tries[check]
}

// Copies are the plain fields of all copies at a path, the oldest first.
func (s *Surroundings) Copies(path string) (out []map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.copies[path] {
		out = append(out, c.fields.Reveal())
	}
	return out
}

// Put is what somebody else writes; nil removes the latest.
func (s *Surroundings) Put(path string, fields map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if fields == nil {
		last := len(s.copies[path]) - 1
		s.copies[path][last] = stored{deleted: true}
		return
	}
	s.copies[path] = append(s.copies[path], stored{fields: secret.NewMap(fields)})
}

// Wipe removes all that ever was at a path, numbers included.
func (s *Surroundings) Wipe(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.copies, path)
}

// Around is a type of connection to surroundings; each of its calls is a point of a run.
type Around struct {
	*Surroundings
	Faults *Faults
}

var (
	_ rotator.ConnectionKind = Around{}
	_ dependent.Restarter    = Around{}
	_ dependent.Checker      = Around{}
	_ dependent.Mirrorer     = Around{}
)

// named is an open connection.
type named string

// Close implements rotator.Connection.
func (named) Close() {}

// Type implements rotator.ConnectionKind.
func (Around) Type() string { return "surroundings" }

// Options implements rotator.ConnectionKind.
func (Around) Options() option.Set {
	return option.Set{{Name: "attempts", Type: option.Int, Default: int64(3), Help: "How often an endpoint is asked."}}
}

// CheckConnection implements rotator.ConnectionKind.
func (Around) CheckConnection(*rotator.ConnectionConfig) ([]string, error) { return nil, nil }

// Open implements rotator.ConnectionKind.
func (Around) Open(c *rotator.ConnectionConfig) (rotator.Connection, error) {
	return named(c.Name), nil
}

// Ping implements rotator.ConnectionKind.
func (Around) Ping(context.Context, rotator.Connection) error { return nil }

// Check implements rotator.ConnectionKind.
func (Around) Check(context.Context, rotator.Connection) ([]rotator.Line, error) { return nil, nil }

// around lets a fault happen, or nothing answer.
func (a Around) around(name string, do func() error) error {
	err := a.Faults.Around(name, func() error {
		a.mu.Lock()
		away := a.away
		a.mu.Unlock()
		if away {
			return fault.New(fault.Unreachable, "%s: nothing answers", name)
		}
		return do()
	})
	if err == ErrInjected { //nolint:errorlint // only the bare one is ours
		return fault.New(fault.Unreachable, "%s: %w", name, err)
	}
	return err
}

// CheckTarget implements dependent.Restarter.
func (a Around) CheckTarget(_ *rotator.ConnectionConfig, target string) error {
	if strings.Count(target, "/") != 2 {
		return fault.New(fault.Invalid, "must be namespace/kind/name")
	}
	return nil
}

// Ready implements dependent.Restarter, and dependent.Mirrorer for paths below secret/.
func (a Around) Ready(_ context.Context, _ rotator.Connection, target string) error {
	return a.around("ready", func() error {
		switch {
		case strings.HasPrefix(target, "secret/v1/"):
			return fault.New(fault.Target, "is a mount of KV version 1")
		case strings.HasPrefix(target, "secret/"):
			return nil
		}
		if a.OnReady != nil {
			a.OnReady()
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		w := a.workloads[target]
		switch {
		case w == nil:
			return dependent.Gone(fault.New(fault.Target, "there is no %s", target))
		case w.Paused:
			return fault.New(fault.Target, "%s is paused", target)
		}
		return nil
	})
}

// Resolve implements dependent.Restarter.
func (a Around) Resolve(_ context.Context, _ rotator.Connection, target string) (out []dependent.Workload, err error) {
	err = a.around("resolve", func() error {
		a.mu.Lock()
		defer a.mu.Unlock()
		switch w := a.workloads[target]; {
		case w == nil || w.Gone:
			return dependent.Gone(fault.New(fault.Target, "there is no %s", target))
		case w.Away:
			return fault.New(fault.Unreachable, "nothing answers")
		}
		parts := strings.Split(target, "/")
		out = []dependent.Workload{{Namespace: parts[0], Kind: parts[1], Name: parts[2], UID: target}}
		return nil
	})
	return out, err
}

// Restart implements dependent.Restarter.
func (a Around) Restart(_ context.Context, _ rotator.Connection, w dependent.Workload, o dependent.Order) error {
	return a.around("restart", func() error {
		a.mu.Lock()
		defer a.mu.Unlock()
		one := a.workloads[w.UID]
		switch {
		case one.Gone:
			return goneFor(w)
		case one.Paused:
			return fault.New(fault.Target, "is paused")
		}
		if one.Template != o.ID {
			one.change(o.ID)
		}
		return nil
	})
}

// Undo implements dependent.Restarter.
func (a Around) Undo(_ context.Context, _ rotator.Connection, w dependent.Workload, o dependent.Order, undone string) error {
	return a.around("undo", func() error {
		a.mu.Lock()
		defer a.mu.Unlock()
		one := a.workloads[w.UID]
		if one.Gone {
			return goneFor(w)
		}
		switch {
		case slices.Contains(one.Changes, o.ID):
			return nil
		case one.Template != undone:
			if o.Everywhere {
				one.change(o.ID)
			}
			return nil
		}
		rolled := one.rolled
		one.change(one.Before)
		one.Changes[len(one.Changes)-1] = o.ID
		one.rolled = !rolled // the pods of the earlier template still run
		return nil
	})
}

func goneFor(w dependent.Workload) error {
	return dependent.Gone(fault.New(fault.Target, "there is no %s", w))
}

func (w *Workload) change(template string) {
	w.Template, w.Before = template, w.Template
	w.Changes = append(w.Changes, template)
	w.looks, w.rolled = 0, false
}

// Look implements dependent.Restarter.
func (a Around) Look(_ context.Context, _ rotator.Connection, w dependent.Workload) (p dependent.Progress, err error) {
	err = a.around("look", func() error {
		a.mu.Lock()
		one := a.workloads[w.UID]
		if one.Gone {
			a.mu.Unlock()
			return goneFor(w)
		}
		if one.Stalled {
			a.mu.Unlock()
			p.Detail = "0 of 1 pods are new"
			return dependent.Stalled(fault.New(fault.Target, "%s: its new pods did not become available", w))
		}
		rolled, broken := one.rolled, one.Broken
		one.looks++
		ready := one.looks >= looksUntilDone
		a.mu.Unlock()
		if rolled || broken || !ready {
			p = dependent.Progress{Done: rolled, Detail: "0 of 1 pods are new"}
			return nil
		}
		holds, err := a.reads()
		if err != nil {
			p.Detail = "the new pod cannot read its secret"
			return nil //nolint:nilerr // it tries again
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		one.Holds, one.rolled = holds, true
		p.Done = true
		return nil
	})
	return p, err
}

// Pace implements dependent.Checker.
func (Around) Pace(c *rotator.ConnectionConfig) (int, time.Duration, error) {
	attempts, ok := c.Values["attempts"].(int64)
	if !ok {
		attempts = 3
	}
	return int(attempts), 5 * time.Second, nil
}

// Try implements dependent.Checker.
func (a Around) Try(_ context.Context, conn rotator.Connection) (detail string, err error) {
	name := fmt.Sprint(conn)
	err = a.around("try", func() error {
		if a.OnTry != nil {
			a.OnTry()
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.tries[name]++
		if why := a.unwell[name]; why != "" {
			return fault.New(fault.Target, "%s", why)
		}
		return nil
	})
	return "answered 200", err
}

// CheckPath implements dependent.Mirrorer.
func (Around) CheckPath(_ *rotator.ConnectionConfig, path string) error {
	if strings.HasPrefix(path, "forbidden/") {
		return fault.New(fault.Invalid, "is not among allowed_paths")
	}
	return nil
}

// Read implements dependent.Mirrorer.
func (a Around) Read(_ context.Context, _ rotator.Connection, path string) (c dependent.Copy, err error) {
	err = a.around("read the copy", func() error {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.noCopies {
			return fault.New(fault.Unreachable, "the place for copies does not answer")
		}
		all := a.copies[path]
		if c.Version = len(all); c.Version > 0 {
			last := all[len(all)-1]
			c.Deleted, c.Fields = last.deleted, maps.Clone(last.fields)
		}
		return nil
	})
	return c, err
}

// Write implements dependent.Mirrorer.
func (a Around) Write(_ context.Context, _ rotator.Connection, path string, fields secret.Map, instead int) (version int, err error) {
	err = a.around("write the copy", func() error {
		if a.OnWrite != nil {
			a.OnWrite()
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.readOnly {
			return fault.New(fault.Target, "permission denied")
		}
		if len(a.copies[path]) != instead {
			return fault.New(fault.Conflict, "version %d is not the latest", instead)
		}
		a.copies[path] = append(a.copies[path], stored{fields: maps.Clone(fields)})
		version = len(a.copies[path])
		return nil
	})
	return version, err
}
