package enginetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// Mode is what goes wrong at a point.
type Mode string

// The modes.
const (
	None  Mode = "none"
	Fail  Mode = "fail"  // it does not happen, and says so
	Lose  Mode = "lose"  // it happens, and its answer is lost
	Crash Mode = "crash" // it happens, and the process dies at once
)

// Modes lists what can go wrong.
var Modes = []Mode{Fail, Lose, Crash}

// Faults counts the points of a run, and lets one of them go wrong.
type Faults struct {
	mu    sync.Mutex
	mode  Mode
	at    int
	count int
	dead  bool
	names []string
}

// NewFaults lets the at-th point go wrong (1 is the first).
func NewFaults(mode Mode, at int) *Faults { return &Faults{mode: mode, at: at} }

// ErrInjected is the answer where something went wrong.
var ErrInjected = errors.New("injected fault")

// Around runs one act of the outside world or of storage.
func (f *Faults) Around(name string, do func() error) error {
	f.mu.Lock()
	if f.dead {
		f.mu.Unlock()
		return ErrInjected
	}
	f.count++
	f.names = append(f.names, name)
	hit := f.count == f.at
	mode := f.mode
	f.mu.Unlock()
	if !hit || mode == None {
		return do()
	}
	if mode == Fail {
		return ErrInjected
	}
	_ = do()
	if mode == Crash {
		f.mu.Lock()
		f.dead = true
		f.mu.Unlock()
	}
	return ErrInjected
}

// Dead tells whether the process of this run died.
func (f *Faults) Dead() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dead
}

// Count is how many points were passed.
func (f *Faults) Count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count
}

// Name says what the n-th point was.
func (f *Faults) Name(n int) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n < 1 || n > len(f.names) {
		return fmt.Sprintf("point %d", n)
	}
	return f.names[n-1]
}

// Disk is Vault's storage, in memory; it outlives processes.
type Disk struct {
	mu   sync.Mutex
	data map[string][]byte
}

// NewDisk is empty.
func NewDisk() *Disk { return &Disk{data: map[string][]byte{}} }

// Snapshot copies the disk, as a backup does.
func (d *Disk) Snapshot() map[string][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.data)
}

// get is one document, nil where there is none.
func (d *Disk) get(key string) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.data[key]
}

// Restore replaces the disk by a backup.
func (d *Disk) Restore(data map[string][]byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.data = maps.Clone(data)
}

// Storage is one process's handle on a disk.
type Storage struct {
	Disk   *Disk
	Faults *Faults
	mu     sync.Mutex
	calls  int
}

// Calls counts every storage call, reads included.
func (s *Storage) Calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

func (s *Storage) called(ctx context.Context) error {
	s.mu.Lock()
	s.calls++
	s.mu.Unlock()
	if s.Faults != nil && s.Faults.Dead() {
		return ErrInjected
	}
	return ctx.Err()
}

// Get implements store.Storage.
func (s *Storage) Get(ctx context.Context, key string) ([]byte, error) {
	if err := s.called(ctx); err != nil {
		return nil, err
	}
	s.Disk.mu.Lock()
	defer s.Disk.mu.Unlock()
	return slices.Clone(s.Disk.data[key]), nil
}

// Put implements store.Storage.
func (s *Storage) Put(ctx context.Context, key string, value []byte) error {
	return s.write(ctx, "put "+shape(key), func() { s.Disk.data[key] = slices.Clone(value) })
}

// Delete implements store.Storage.
func (s *Storage) Delete(ctx context.Context, key string) error {
	return s.write(ctx, "delete "+shape(key), func() { delete(s.Disk.data, key) })
}

func (s *Storage) write(ctx context.Context, name string, act func()) error {
	if err := s.called(ctx); err != nil {
		return err
	}
	do := func() error {
		s.Disk.mu.Lock()
		defer s.Disk.mu.Unlock()
		act()
		return nil
	}
	// Who read is stored beside everything else and promised to nobody, whenever the tick
	// comes to it: as a point it would shift all others from run to run.
	if s.Faults == nil || name == "put access" || name == "delete access" {
		return do()
	}
	return s.Faults.Around(name, do)
}

// List implements store.Storage.
func (s *Storage) List(ctx context.Context, prefix string) ([]string, error) {
	if err := s.called(ctx); err != nil {
		return nil, err
	}
	s.Disk.mu.Lock()
	defer s.Disk.mu.Unlock()
	seen := map[string]bool{}
	for key := range s.Disk.data {
		if rest, ok := strings.CutPrefix(key, prefix); ok {
			if i := strings.Index(rest, "/"); i >= 0 {
				rest = rest[:i+1]
			}
			seen[rest] = true
		}
	}
	return slices.Sorted(maps.Keys(seen)), nil
}

// shape names a key without what differs from run to run.
func shape(key string) string {
	before, _, _ := strings.Cut(key, "/")
	return before
}

// System is the Vault around an engine.
type System struct {
	mu       sync.Mutex
	readOnly bool
	// Enterprise is a Vault whose standbys answer reads.
	Enterprise bool
}

// ReadsElsewhere implements backend.System.
func (s *System) ReadsElsewhere(context.Context) bool { return s.Enterprise }

// Writable implements backend.System.
func (s *System) Writable() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.readOnly
}

// SetReadOnly makes the node one that must not act.
func (s *System) SetReadOnly(v bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readOnly = v
}

// GeneratePasswordFromPolicy implements backend.System.
func (s *System) GeneratePasswordFromPolicy(_ context.Context, policy string) (string, error) {
	return "", fault.Field("password_policy", "there is no policy %q", policy)
}
