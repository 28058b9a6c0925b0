package rotatortest

import (
	"context"
	"testing"
	"time"

	"github.com/hashicorp/go-uuid"
	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/mark"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// Subject is a rotator under test, with a target of its own.
type Subject struct {
	Rotator rotator.Rotator
	Role    *rotator.Role
	Conn    rotator.Connection
	// Works tells, without the rotator, whether a reader of what Render gave is
	// accepted by the target.
	Works func(t *testing.T, rendered map[string]any) bool
	// Exists tells, without the rotator, whether the object is still at the target; for
	// one that outlives its versions, whether anybody could use it.
	Exists func(t *testing.T, identifier string) bool
	// Forge puts a foreign object in the place of the identifier; nil when that is
	// impossible at the target.
	Forge func(t *testing.T, identifier string)
	// Honours stands in for Works and Exists where the journal itself is the target: it
	// tells whether the kind, given the journal, accepts a reader of what Render gave.
	Honours func(t *testing.T, live *rotator.LiveVersions, rendered map[string]any) bool
}

const deadline = 30 * time.Second

// Run proves the contract's promises for one kind and strategy. fresh makes a
// subject whose target holds nothing of it.
func Run(t *testing.T, fresh func(t *testing.T) *Subject) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, *suite)
	}{
		{"Plan has no effect outside", planHasNoEffect},
		{"Verify refuses what was not prepared", verifyRefusesUnprepared},
		{"Prepare is idempotent and makes it work", prepareIsIdempotent},
		{"Discard undoes, is idempotent, and needs no Prepare", discardUndoes},
		{"Retire ends a version in two idempotent stages", retireEnds},
		{"Retire of what is gone is done", retireOfMissing},
		{"Prepare brings back what Retire disabled or destroyed", prepareBringsBack},
		{"Probe proves neither too much nor too little", probeIsHonest},
		{"a foreign object is never touched", foreignIsLeft},
		{"Render is stable", renderIsStable},
		{"a cancelled context is obeyed", cancelledIsObeyed},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, &suite{Subject: fresh(t), key: mark.Key("conformance key")}) })
	}
}

type suite struct {
	*Subject
	key     mark.Key
	version int
	last    *rotation.Version // the version prepared last, which stands for the current one
	journal []*rotator.Target // of all versions, for kinds that live by it
}

func (s *suite) ctx(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	return ctx
}

// plan mints the next version and returns its target.
func (s *suite) plan(t *testing.T) *rotator.Target {
	s.version++
	id, err := uuid.GenerateUUID()
	require.NoError(t, err)
	target := &rotator.Target{
		Role: s.Role, Conn: s.Conn, MarkKey: s.key, Now: time.Now(), Fence: int64(s.version),
		Version: rotation.Version{Number: s.version, RotationID: id, State: rotation.Pending},
		Mark:    mark.Mark{Instance: "conformance", Role: s.Role.Name, Version: s.version, RotationID: id},
	}
	if s.last != nil {
		target.Others = []rotation.Version{*s.last}
	}
	planned, err := s.Rotator.Plan(s.ctx(t), target)
	require.NoError(t, err)
	require.NotEmpty(t, planned.Identifier)
	require.NotEqual(t, s.mints(), len(planned.Material) > 0, "who makes the secret")
	take(target, planned)
	s.journal = append(s.journal, target)
	s.record(target, rotation.Pending)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		_, _ = s.Rotator.Retire(ctx, target, rotator.Disable)
		_, _ = s.Rotator.Discard(ctx, target)
	})
	return target
}

// take notes what a version is, as the engine does.
func take(target *rotator.Target, c *rotator.Candidate) {
	target.Version.Identifier, target.Version.Object, target.Material = c.Identifier, c.Object, c.Material
	target.Version.HasMaterial = len(c.Material) > 0
}

// mints tells whether the target makes the secret, and not Plan.
func (s *suite) mints() bool {
	m, ok := s.Rotator.(rotator.Minter)
	return ok && m.Mints(s.Role)
}

func (s *suite) prepare(t *testing.T, target *rotator.Target) {
	if !target.Version.HasMaterial {
		m, ok := s.Rotator.(rotator.Minter)
		require.True(t, ok)
		target.Version.MintBegun = time.Now()
		minted, err := m.Mint(s.ctx(t), target)
		require.NoError(t, err)
		require.NotEmpty(t, minted.Identifier)
		require.NotEmpty(t, minted.Material)
		take(target, minted)
	}
	require.NoError(t, s.Rotator.Prepare(s.ctx(t), target))
	s.record(target, rotation.Current)
}

func (s *suite) prepared(t *testing.T) *rotator.Target {
	target := s.plan(t)
	s.prepare(t, target)
	last := target.Version
	last.State = rotation.Current
	s.last = &last
	return target
}

func (s *suite) works(t *testing.T, target *rotator.Target) bool {
	if target.Material == nil && s.mints() {
		return false // there is nothing that a reader could have
	}
	rendered, err := s.Rotator.Render(target)
	require.NoError(t, err)
	if s.Honours != nil {
		return s.Honours(t, s.live(t), rendered)
	}
	return s.Works(t, rendered)
}

func (s *suite) exists(t *testing.T, target *rotator.Target) bool {
	if s.Honours != nil {
		return s.works(t, target)
	}
	return s.Exists(t, target.Version.Identifier)
}

func (s *suite) discard(t *testing.T, target *rotator.Target) {
	p, err := s.Rotator.Discard(s.ctx(t), target)
	require.NoError(t, err)
	require.Empty(t, p.NotYet)
	s.record(target, rotation.Discarded)
}

func (s *suite) retire(t *testing.T, target *rotator.Target, stage rotator.Stage) rotator.Progress {
	p, err := s.Rotator.Retire(s.ctx(t), target, stage)
	require.NoError(t, err)
	require.Empty(t, p.NotYet)
	if stage == rotator.Disable {
		s.record(target, rotation.Disabled)
	} else {
		s.record(target, rotation.Retired)
	}
	return p
}

func planHasNoEffect(t *testing.T, s *suite) {
	target := s.plan(t)
	require.False(t, s.exists(t, target))
	require.False(t, s.works(t, target))
}

func verifyRefusesUnprepared(t *testing.T, s *suite) {
	target := s.plan(t)
	if s.Honours != nil { // there is nothing to prepare: what can be missing is the material
		target.Material = nil
	}
	err := s.Rotator.Verify(s.ctx(t), target)
	require.Error(t, err)
	require.Equal(t, fault.AuthFailed, fault.KindOf(err))
}

func prepareIsIdempotent(t *testing.T, s *suite) {
	target := s.prepared(t)
	s.prepare(t, target)
	require.NoError(t, s.Rotator.Verify(s.ctx(t), target))
	require.NoError(t, s.Rotator.Verify(s.ctx(t), target))
	require.True(t, s.works(t, target))
}

func discardUndoes(t *testing.T, s *suite) {
	target := s.plan(t)
	for range 2 { // before Prepare
		s.discard(t, target)
	}
	s.prepare(t, target)
	for range 2 {
		s.discard(t, target)
		require.False(t, s.works(t, target))
		require.False(t, s.exists(t, target))
	}
}

func retireEnds(t *testing.T, s *suite) {
	target, other := s.prepared(t), s.prepared(t)
	for range 2 {
		s.retire(t, target, rotator.Disable)
		require.False(t, s.works(t, target), "a disabled version must be refused")
	}
	for range 2 {
		s.retire(t, target, rotator.Destroy)
		require.False(t, s.works(t, target))
		require.False(t, s.exists(t, target))
	}
	require.True(t, s.works(t, other), "ending one version must leave the others alone")
}

func retireOfMissing(t *testing.T, s *suite) {
	target := s.plan(t)
	s.retire(t, target, rotator.Disable)
	s.retire(t, target, rotator.Destroy)
}

func prepareBringsBack(t *testing.T, s *suite) {
	restorer, ok := s.Rotator.(rotator.Restorer)
	if !ok {
		return // such a kind promises nothing here
	}
	target := s.prepared(t)
	for _, stage := range []rotator.Stage{rotator.Disable, rotator.Destroy} {
		s.retire(t, target, stage)
		if restorer.Restorable(target) != "" {
			continue
		}
		s.prepare(t, target)
		require.NoError(t, s.Rotator.Verify(s.ctx(t), target))
		require.True(t, s.works(t, target))
		s.retire(t, target, rotator.Disable)
	}
}

func probeIsHonest(t *testing.T, s *suite) {
	prober, ok := s.Rotator.(rotator.Prober)
	if !ok {
		return
	}
	target, current := s.prepared(t), s.prepared(t)
	target.Current = &rotator.Live{Version: current.Version, Material: current.Material}
	proof, err := prober.Probe(s.ctx(t), target)
	require.NoError(t, err)
	require.False(t, proof.Dead, "a living version must not be taken for dead")

	s.retire(t, target, rotator.Disable)
	proof, err = prober.Probe(s.ctx(t), target)
	require.NoError(t, err)
	require.True(t, proof.Dead)
	require.NotEmpty(t, proof.Result)

	s.retire(t, target, rotator.Destroy)
	proof, err = prober.Probe(s.ctx(t), target)
	require.NoError(t, err)
	require.True(t, proof.Dead)

	// Where the current version is refused too, the refusal proves nothing.
	s.retire(t, current, rotator.Disable)
	target.Current.Version = current.Version
	_, err = prober.Probe(s.ctx(t), target)
	require.Error(t, err)
}

func foreignIsLeft(t *testing.T, s *suite) {
	if s.Forge == nil {
		return
	}
	target := s.plan(t)
	s.Forge(t, target.Version.Identifier)
	require.Error(t, s.Rotator.Prepare(s.ctx(t), target))
	for _, stage := range []rotator.Stage{rotator.Disable, rotator.Destroy} {
		_, err := s.Rotator.Retire(s.ctx(t), target, stage)
		require.Error(t, err)
	}
	// There is nothing of ours to undo; that it is foreign has to be said.
	p, err := s.Rotator.Discard(s.ctx(t), target)
	require.True(t, err != nil || p.Left != "")
	require.True(t, s.Exists(t, target.Version.Identifier))
}

func renderIsStable(t *testing.T, s *suite) {
	target := s.prepared(t)
	first, err := s.Rotator.Render(target)
	require.NoError(t, err)
	again, err := s.Rotator.Render(target)
	require.NoError(t, err)
	require.Equal(t, first, again)
}

func cancelledIsObeyed(t *testing.T, s *suite) {
	target := s.plan(t)
	if s.mints() {
		target = s.prepared(t)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Rotator.Prepare(ctx, target)
		_ = s.Rotator.Verify(ctx, target)
	}()
	select {
	case <-done:
	case <-time.After(deadline):
		t.Fatal("an effect went on after its context was cancelled")
	}
}
