package backend_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/rotatortest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// The enumeration is worth something only if it turns red for a bug. Each of these
// is one, laid over the engine from outside.

func rotateOnce(p *enginetest.Play) { p.Create(nil); p.Rotate(); p.Wait(2 * time.Minute) }

// TestEnumerationFindsIgnoredGrace: versions end the moment their grace is set.
func TestEnumerationFindsIgnoredGrace(t *testing.T) {
	t.Parallel()
	stage := func(*testing.T) *enginetest.Stage {
		s := memoryStage(rotatortest.NewMemory())
		s.Storage = func(inner store.Storage) store.Storage { return graceIgnored{inner} }
		return s
	}
	found := enginetest.FindsBug(t, stage, enginetest.Scenario{Name: "rotate", Run: func(p *enginetest.Play) {
		p.Create(nil)
		p.Wait(time.Minute) // past the time in which nothing retires after a start
		p.Rotate()
		p.Wait(2 * time.Minute)
	}})
	require.Contains(t, found, "promise 1")
	t.Log(found)
}

type graceIgnored struct{ store.Storage }

func (g graceIgnored) Put(ctx context.Context, key string, value []byte) error {
	return putChanged(ctx, g.Storage, key, value, func(v *rotation.Version) {
		if !v.RetireAt.IsZero() {
			v.RetireAt = v.DeactivatedTime
		}
	})
}

// putChanged stores another journal than the engine meant.
func putChanged(ctx context.Context, storage store.Storage, key string, value []byte, change func(*rotation.Version)) error {
	if !strings.HasPrefix(key, "state/") {
		return storage.Put(ctx, key, value)
	}
	var doc struct {
		Schema int            `json:"schema"`
		Body   rotation.State `json:"body"`
	}
	if err := json.Unmarshal(value, &doc); err != nil {
		return err
	}
	for i := range doc.Body.Versions {
		change(&doc.Body.Versions[i])
	}
	changed, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	return storage.Put(ctx, key, changed)
}

type mintUnrecorded struct{ store.Storage }

func (m mintUnrecorded) Put(ctx context.Context, key string, value []byte) error {
	return putChanged(ctx, m.Storage, key, value, func(v *rotation.Version) {
		if !v.HasMaterial {
			v.MintBegun = time.Time{}
		}
	})
}

// TestEnumerationFindsLatePointer: the old version is ended before the Put that
// moves the pointer away from it.
func TestEnumerationFindsLatePointer(t *testing.T) {
	t.Parallel()
	stage := func(*testing.T) *enginetest.Stage {
		kind := rotatortest.NewMemory()
		s := memoryStage(kind)
		s.Rotator = func(f *enginetest.Faults) rotator.Rotator { return latePointer{enginetest.NewFaulty(kind, f)} }
		return s
	}
	found := enginetest.FindsBug(t, stage, enginetest.Scenario{Name: "rotate", Run: rotateOnce}, enginetest.Modes...)
	require.Contains(t, found, "promise")
	t.Log(found)
}

type latePointer struct{ *enginetest.Faulty }

func (l latePointer) Verify(ctx context.Context, t *rotator.Target) error {
	err := l.Faulty.Verify(ctx, t)
	if err == nil && t.Current != nil {
		old := *t
		old.Version, old.Material = t.Current.Version, t.Current.Material
		_, err = l.Retire(ctx, &old, rotator.Disable)
	}
	return err
}

// TestEnumerationFindsSkippedDiscard: an abandoned candidate is left where it is.
func TestEnumerationFindsSkippedDiscard(t *testing.T) {
	t.Parallel()
	stage := func(*testing.T) *enginetest.Stage {
		kind := rotatortest.NewMemory()
		s := memoryStage(kind)
		s.Rotator = func(f *enginetest.Faults) rotator.Rotator { return noDiscard{enginetest.NewFaulty(kind, f)} }
		return s
	}
	found := enginetest.FindsBug(t, stage, enginetest.Scenario{Name: "rotate", Run: rotateOnce}, enginetest.Modes...)
	require.Contains(t, found, "promise 4")
	t.Log(found)
}

type noDiscard struct{ *enginetest.Faulty }

func (noDiscard) Discard(context.Context, *rotator.Target) (rotator.Progress, error) {
	return rotator.Progress{}, nil
}

// TestEnumerationFindsForgottenRoles: a process does not take up the emergencies that
// an earlier one only recorded.
func TestEnumerationFindsForgottenRoles(t *testing.T) {
	t.Parallel()
	stage := func(*testing.T) *enginetest.Stage {
		s := memoryStage(rotatortest.NewMemory())
		s.Storage = func(inner store.Storage) store.Storage { return incidentsUnlisted{inner} }
		return s
	}
	found := enginetest.FindsBug(t, stage, enginetest.Scenario{Name: "bulk emergency", Run: func(p *enginetest.Play) {
		p.Create(nil)
		p.Add(nil, "billing")
		p.BulkEmergency(false)
	}}, enginetest.Crash)
	// Roles that are not replaced, or, where the crash comes late, the end that nobody hears of.
	require.Regexp(t, "bulk emergency: not reached|incident.contained was not told", found)
	t.Log(found)
}

type incidentsUnlisted struct{ store.Storage }

func (i incidentsUnlisted) List(ctx context.Context, prefix string) ([]string, error) {
	if prefix == "incident/" {
		return nil, nil
	}
	return i.Storage.List(ctx, prefix)
}
