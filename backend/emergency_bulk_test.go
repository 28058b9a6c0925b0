package backend_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/rotatortest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

func everyRole(confirm int) backend.BulkEmergencyRequest {
	return backend.BulkEmergencyRequest{
		EmergencyRequest: backend.EmergencyRequest{Reason: "a backup was stolen", Wait: backend.Wait},
		Scope:            backend.EmergencyScope{Connection: enginetest.ConnectionName}, Confirm: confirm,
	}
}

func (r *rig) bulk(request backend.BulkEmergencyRequest) (out *backend.BulkEmergencyResult, err error) {
	r.Leak(true)
	defer r.Leak(false)
	err = r.Act(func(ctx context.Context, e *backend.Engine) (err error) {
		out, err = e.BulkEmergency(ctx, request)
		return err
	})
	return out, err
}

func (r *rig) dryRun(scope backend.EmergencyScope) map[string]backend.LeakedRole {
	hit, err := r.Engine().EmergencyDryRun(context.Background(), scope)
	require.NoError(r.t, err)
	out := map[string]backend.LeakedRole{}
	for _, role := range hit {
		out[role.Name] = role
	}
	return out
}

// contained waits until the one incident is over.
func (r *rig) contained(within time.Duration) *store.Incident {
	r.t.Helper()
	r.waitUntil("contained", within, func() bool { return r.Incidents()[0].Status == store.IncidentContained })
	require.Len(r.t, r.Incidents(), 1)
	return r.Incidents()[0]
}

func TestBulkEmergencyLooksBeforeItActs(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.Add(nil, "billing-1", "billing-2")
	r.Rotate()
	r.Wait(time.Minute)
	before := r.Disk.Snapshot()

	hit := r.dryRun(backend.EmergencyScope{Connection: enginetest.ConnectionName})
	require.Len(t, hit, 3)
	require.Equal(t, backend.StateOK, hit["billing-1"].State)
	require.Equal(t, enginetest.ConnectionName, hit["billing-1"].Connection)
	require.Len(t, hit["billing-1"].Versions, 1)
	require.Len(t, r.dryRun(backend.EmergencyScope{Roles: "billing-*"}), 2)

	for _, confirm := range []int{0, 2, 4, -3} {
		_, err := r.bulk(everyRole(confirm))
		requireKind(t, fault.Conflict, err, "would hit 3 roles")
		require.ErrorContains(t, err, "confirm=3")
	}
	for says, scope := range map[string]backend.EmergencyScope{
		"connection: is required":       {},
		"roles: cannot be given":        {Connection: "main", Roles: "*"},
		"connection: there is no":       {Connection: "elsewhere"},
		"roles: names no role":          {Roles: "nobody*"},
		"roles: names no role with a v": {Roles: "app,billing-1"},
	} {
		_, err := r.Engine().EmergencyDryRun(context.Background(), scope)
		requireKind(t, fault.Invalid, err, says)
	}
	_, err := r.bulk(backend.BulkEmergencyRequest{Scope: backend.EmergencyScope{Roles: "*"}, Confirm: 3})
	requireKind(t, fault.Invalid, err, "reason: is required")
	require.Equal(t, before, r.Disk.Snapshot(), "nothing of this changes anything")
}

func TestBulkEmergencyIsOneIncident(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.Add(nil, "billing-1", "billing-2")
	request := everyRole(2)
	request.Scope = backend.EmergencyScope{Roles: "billing-*"}
	out, err := r.bulk(request)
	require.NoError(t, err)
	require.Equal(t, store.IncidentContained, out.Status)
	require.Empty(t, out.Failed)
	require.Len(t, out.Roles, 2)
	for _, one := range out.Roles {
		require.Equal(t, rotation.Succeeded, one.Rotation.Outcome)
		require.Equal(t, []backend.Killed{{Version: 1, ProvenDead: true}}, one.Killed)
		require.Empty(t, one.NextSteps)
	}
	incident := r.contained(time.Minute)
	require.Equal(t, out.IncidentID, incident.ID)
	require.Len(t, incident.Roles, 2)
	for name, facts := range incident.Roles {
		require.Equal(t, 2, facts.ReplacedBy, name)
	}
	require.Equal(t, 1, r.Current(), "app is none of them")
}

// slow is a kind that counts how many roles it works on at a time, and refuses some.
type slow struct {
	*enginetest.Faulty
	refused *enginetest.Shared[string]
	gate    *enginetest.Shared[chan struct{}] // where roles other than app wait
	mu      *sync.Mutex
	now     *int
	most    *int
}

func (s slow) Verify(ctx context.Context, t *rotator.Target) error {
	s.mu.Lock()
	*s.now++
	*s.most = max(*s.most, *s.now)
	s.mu.Unlock()
	defer func() { s.mu.Lock(); *s.now--; s.mu.Unlock() }()
	if gate := s.gate.Get(); gate != nil && t.Role.Name != app {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if t.Role.Name == s.refused.Get() {
		return fault.New(fault.Target, "this target refuses")
	}
	return s.Faulty.Verify(ctx, t)
}

func newSlow() slow {
	return slow{refused: &enginetest.Shared[string]{}, gate: &enginetest.Shared[chan struct{}]{}, mu: &sync.Mutex{}, now: new(int), most: new(int)}
}

// onStage lays it over a stage's kind.
func (s slow) onStage(stage *enginetest.Stage) {
	inner := stage.Rotator
	stage.Rotator = func(f *enginetest.Faults) rotator.Rotator {
		laid := s // each caller its own: a stage is asked from several goroutines
		laid.Faulty, _ = inner(f).(*enginetest.Faulty)
		return laid
	}
}

// atATime is the most roles that were worked on at a time.
func (s slow) atATime() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *s.most
}

func TestBulkEmergencyTellsPartialFailure(t *testing.T) {
	t.Parallel()
	kind := newSlow()
	r := created(t, nil, kind.onStage)
	r.Add(nil, "billing", "shop")
	kind.refused.Set("billing")
	out, err := r.bulk(everyRole(3))
	require.NoError(t, err)
	require.Equal(t, store.IncidentOpen, out.Status)
	require.Equal(t, map[string]string{"billing": "this target refuses"}, out.Failed)
	require.Equal(t, store.IncidentContained, out.Roles[app].Status)
	require.Equal(t, store.IncidentContained, out.Roles["shop"].Status)
	bad := out.Roles["billing"]
	require.Equal(t, rotation.Failed, bad.Rotation.Outcome)
	require.Equal(t, []backend.Killed{{Version: 1}}, bad.Killed)
	require.Contains(t, bad.NextSteps[0], "the leak lives on: version 1")
	require.Contains(t, bad.NextSteps[0], "emergency/billing with kill_first=true")

	r.Wait(20 * time.Second)
	incident := r.Incidents()[0]
	require.Equal(t, store.IncidentOpen, incident.Status)
	require.True(t, incident.Marks[app].Contained)
	require.False(t, incident.Marks["billing"].Contained)
	require.Contains(t, incident.Roles["billing"].Detail, "the leak lives on")

	kind.refused.Set("")
	require.Equal(t, 2, r.contained(5 * time.Minute).Roles["shop"].ReplacedBy)
}

// Whatever state a role is in, an emergency does what can be done.
func TestBulkEmergencyOverRolesInTrouble(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.Add(option.Values{"by_hand": true}, "by-hand")
	r.Add(inPlace, "one-credential")
	r.Add(option.Values{"max_attempts": int64(1)}, "blocked")
	r.Add(option.Values{"grace_period": int64(599)}, "deleted", "forgotten")
	r.world.SetRefuse(true)
	require.NoError(t, r.Act(func(ctx context.Context, e *backend.Engine) error {
		_, err := e.Rotate(ctx, "blocked", backend.RotateRequest{Wait: backend.Wait})
		return err
	}))
	r.world.SetRefuse(false)
	r.DeleteOther("deleted")
	leaked := map[string]backend.LeakedRole{}
	for name, role := range r.dryRun(backend.EmergencyScope{Roles: "*"}) {
		leaked[name] = role
	}
	require.Len(t, leaked, 6)
	require.Equal(t, backend.StateBlocked, leaked["blocked"].State)
	require.Empty(t, leaked["deleted"].State)
	require.Equal(t, rotation.Retiring, leaked["deleted"].Versions[0].State)

	out, err := r.bulk(everyRole(6))
	require.NoError(t, err)
	require.Equal(t, store.IncidentOpen, out.Status)
	require.Equal(t, map[string]string{"by-hand": "make a user by hand"}, out.Failed)
	require.Contains(t, strings.Join(out.Roles["by-hand"].NextSteps, "\n"), "make a user by hand")
	require.Nil(t, out.Roles["deleted"].Rotation, "it needs no replacement")
	for name, one := range out.Roles {
		if name != "by-hand" {
			require.Equal(t, store.IncidentContained, one.Status, "%s: %v", name, one.NextSteps)
			require.True(t, one.Killed[0].ProvenDead, name)
		}
	}
	_, err = r.Engine().Emergency(context.Background(), "deleted", backend.EmergencyRequest{Reason: "again"})
	requireKind(t, fault.NotFound, err, "no role")
}

// A deleted role's last version does not live out its grace when it leaked.
func TestEmergencyOfADeletedRole(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.Add(option.Values{"grace_period": int64(599)}, "left")
	user := r.dryRun(backend.EmergencyScope{Roles: "left"})["left"].Versions[0].Identifier
	r.DeleteOther("left")
	var out *backend.EmergencyResult
	require.NoError(t, r.Act(func(ctx context.Context, e *backend.Engine) (err error) {
		out, err = e.Emergency(ctx, "left", backend.EmergencyRequest{Reason: "leaked before it was deleted", Wait: backend.Wait})
		return err
	}))
	require.Equal(t, store.IncidentContained, out.Status, out.NextSteps)
	require.Equal(t, []backend.Killed{{Version: 1, ProvenDead: true}}, out.Killed)
	require.NotContains(t, r.world.Users(), user)
	require.True(t, r.contained(time.Minute).Marks["left"].Contained)
}

// A process that died right after it had stored the record left everything to the
// next, which also tells of a role that went meanwhile.
func TestRecordedEmergencyIsCarriedOut(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.Add(nil, "billing")
	now := r.Clock.Now()
	require.NoError(t, store.New(&enginetest.Storage{Disk: r.Disk}).PutIncidentHeader(context.Background(), &store.IncidentHeader{
		ID: "20300101T000000Z-00000000", Severity: "high", Status: store.IncidentOpen, Reason: "leaked", OpenedTime: now, DetectedTime: now,
		Marks: map[string]store.IncidentMark{app: {}, "billing": {}, "went": {}},
	}))
	r.Leak(true)
	r.Restart()
	r.waitUntil("declared", time.Minute, func() bool {
		for _, mark := range r.Incidents()[0].Marks {
			if !mark.Contained && !mark.Gone {
				return false
			}
		}
		return true
	})
	incident := r.Incidents()[0]
	require.Equal(t, store.IncidentOpen, incident.Status, "nobody knows what became of what the role had")
	require.True(t, incident.Marks["went"].Gone)
	require.Equal(t, 2, incident.Roles["billing"].ReplacedBy)
	require.Equal(t, 2, r.Current())

	r.Restart()
	r.Wait(time.Minute)
	require.Equal(t, 2, r.Current(), "it is carried out once")
	r.Leak(false)
}

// A paused mount does nothing of it, and goes on when the pause is over.
func TestBulkEmergencyWaitsForAPause(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.Add(nil, "billing")
	pause := func(paused bool) {
		require.NoError(t, r.Act(func(ctx context.Context, e *backend.Engine) error {
			_, err := e.WriteConfig(ctx, backend.Write{Given: option.Values{"paused": paused}})
			return err
		}))
	}
	pause(true)
	_, err := r.bulk(everyRole(2))
	requireKind(t, fault.Conflict, err, "paused")
	require.Len(t, r.dryRun(backend.EmergencyScope{Roles: "*"}), 2, "looking goes on")
	require.Empty(t, r.Incidents())
	pause(false)
	request := everyRole(2)
	request.Wait = 0
	r.Leak(true)
	out, err := r.bulk(request)
	require.NoError(t, err)
	r.Leak(true)
	require.Len(t, out.Roles, 2)
	r.contained(time.Minute)
	r.Leak(false)
}

// What a person asks of one role does not wait behind an emergency over many.
func TestOneRoleDoesNotWaitBehindMany(t *testing.T) {
	t.Parallel()
	kind := newSlow()
	r := created(t, nil, kind.onStage)
	for i := range 20 {
		r.Add(nil, fmt.Sprintf("billing-%d", i))
	}
	require.NoError(t, r.Act(func(ctx context.Context, e *backend.Engine) error {
		_, err := e.WriteConfig(ctx, backend.Write{Given: option.Values{"max_concurrent_rotations": int64(2)}})
		return err
	}))
	gate := make(chan struct{})
	kind.gate.Set(gate)
	request := everyRole(20)
	request.Scope, request.Wait = backend.EmergencyScope{Roles: "billing-*"}, 0
	r.Leak(true)
	ctx := context.Background() // the clock stands still: nobody's wait ends
	many, err := r.Engine().BulkEmergency(ctx, request)
	require.NoError(t, err)
	require.Equal(t, store.IncidentOpen, many.Status)
	one, err := r.Engine().Emergency(ctx, app, backend.EmergencyRequest{Reason: "another leak", Wait: backend.Wait})
	require.NoError(t, err)
	require.Equal(t, store.IncidentContained, one.Status)
	require.LessOrEqual(t, kind.atATime(), 3, "two of the many, and app")
	close(gate)
	r.waitUntil("all contained", time.Minute, func() bool {
		return !slices.ContainsFunc(r.Incidents(), func(i *store.Incident) bool { return i.Status != store.IncidentContained })
	})
	r.Leak(false)
}

// A role that is deleted by force takes nobody with it to the target: the record says so.
func TestIncidentOfARoleDeletedByForce(t *testing.T) {
	t.Parallel()
	kind := newSlow()
	r := created(t, nil, kind.onStage)
	r.Add(nil, "billing")
	kind.refused.Set("billing")
	_, err := r.bulk(everyRole(2))
	require.NoError(t, err)
	require.NoError(t, r.Act(func(ctx context.Context, e *backend.Engine) error {
		_, err := e.DeleteRole(ctx, "billing", true)
		return err
	}))
	r.Wait(time.Minute)
	require.Equal(t, store.IncidentMark{Declared: true, Gone: true}, r.Incidents()[0].Marks["billing"])
	require.Equal(t, store.IncidentOpen, r.Incidents()[0].Status)
}

const hundreds = 300

// Hundreds of roles: a bounded number at a time, reads go on, and the record stays
// small and is not written for every step of every role.
func TestBulkEmergencyOverHundredsOfRoles(t *testing.T) {
	t.Parallel()
	puts := &headerPuts{}
	kind := newSlow()
	r := newRig(t, kind.onStage, func(s *enginetest.Stage) {
		s.Storage = func(inner store.Storage) store.Storage { return headerCounter{inner, puts} }
	})
	month := option.Values{"rotation_period": int64(30 * 86400)}
	r.Create(month)
	ctx := context.Background() // the clock stands still: nothing of this needs time
	for i := range hundreds {
		_, err := r.Engine().WriteRole(ctx, backend.Write{Name: fmt.Sprintf("app-%03d", i), Given: option.Values{
			"type": rotatortest.MemoryType, "connection": enginetest.ConnectionName, "rotation_period": month["rotation_period"], "grace_period": int64(40),
		}})
		require.NoError(t, err)
	}
	r.Leak(true)
	reading := make(chan error)
	go func() { reading <- r.readOn(ctx) }()
	out, err := r.Engine().BulkEmergency(ctx, everyRole(hundreds+1))
	require.NoError(t, err)
	require.NoError(t, <-reading)
	require.Equal(t, store.IncidentContained, out.Status)
	require.Empty(t, out.Failed)
	require.Len(t, out.Roles, hundreds+1)
	require.LessOrEqual(t, kind.atATime(), 16, "max_concurrent_rotations")
	require.NoError(t, r.Engine().Quiesce(ctx))
	incident := r.contained(time.Minute)
	for name, facts := range incident.Roles {
		require.Equal(t, 2, facts.ReplacedBy, name)
	}
	number, largest := puts.get()
	require.LessOrEqual(t, number, 2*(hundreds+1)+1, "at most twice a role: it was declared, it is contained")
	require.Less(t, largest, 32<<10)
	t.Logf("%d roles: the header was written %d times, and has %d bytes; at most %d roles at a time", hundreds+1, number, largest, kind.atATime())
	r.Leak(false)
}

// readOn reads credentials until they are those of the emergency.
func (r *rig) readOn(ctx context.Context) error {
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for {
		creds, err := r.Engine().Creds(ctx, app, backend.Actor{})
		if err != nil || creds.Data["version"] == 2 {
			return err
		}
		<-pace.C
	}
}

// A role that the index failed to read leaks like any other.
func TestBulkEmergencyTakesWhatTheIndexCouldNotRead(t *testing.T) {
	t.Parallel()
	var unreadable enginetest.Shared[bool]
	r := created(t, option.Values{"rotation_period": int64(30 * 24 * 3600)}, func(s *enginetest.Stage) {
		s.Storage = func(inner store.Storage) store.Storage { return &unread{inner, &unreadable} }
	})
	r.Add(nil, "billing-1", "billing-2")
	unreadable.Set(true)
	r.Restart()
	page, err := r.Engine().Status(t.Context(), backend.StatusQuery{Limit: 10})
	require.NoError(t, err)
	require.Len(t, page.Roles, 2, "the index went without it")
	unreadable.Set(false)
	require.Len(t, r.dryRun(backend.EmergencyScope{Connection: enginetest.ConnectionName}), 3)
	require.Len(t, r.dryRun(backend.EmergencyScope{Roles: "billing-*"}), 2)
	r.Wait(3 * time.Minute)
	page, err = r.Engine().Status(t.Context(), backend.StatusQuery{Limit: 10})
	require.NoError(t, err)
	require.Len(t, page.Roles, 3, "the next look at it found it")
}

type unread struct {
	store.Storage
	on *enginetest.Shared[bool]
}

func (u *unread) Get(ctx context.Context, key string) ([]byte, error) {
	if key == "state/billing-1" && u.on.Get() {
		return nil, enginetest.ErrInjected
	}
	return u.Storage.Get(ctx, key)
}

func TestEmergencyBoundsItsReason(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	long := backend.EmergencyRequest{Reason: strings.Repeat("x", 1001), Wait: backend.Wait}
	_, err := r.Engine().Emergency(t.Context(), app, long)
	requireKind(t, fault.Invalid, err, "1000 bytes")
	_, err = r.Engine().BulkEmergency(t.Context(), backend.BulkEmergencyRequest{EmergencyRequest: long, Scope: backend.EmergencyScope{Roles: "*"}, Confirm: 1})
	requireKind(t, fault.Invalid, err, "1000 bytes")
	require.Empty(t, r.Incidents())
}

type headerPuts struct {
	mu              sync.Mutex
	number, largest int
}

func (h *headerPuts) get() (number, largest int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.number, h.largest
}

type headerCounter struct {
	store.Storage
	puts *headerPuts
}

func (h headerCounter) Put(ctx context.Context, key string, value []byte) error {
	if strings.HasPrefix(key, "incident/") {
		h.puts.mu.Lock()
		h.puts.number, h.puts.largest = h.puts.number+1, max(h.puts.largest, len(value))
		h.puts.mu.Unlock()
	}
	return h.Storage.Put(ctx, key, value)
}

// The largest record that is let in fits Vault's storage, whatever the names.
func TestLargestIncidentFitsStorage(t *testing.T) {
	t.Parallel()
	header := store.IncidentHeader{Reason: strings.Repeat("x", 1000), Marks: map[string]store.IncidentMark{}}
	for i := range store.MaxIncidentRoles {
		header.Marks[fmt.Sprintf("%0128d", i)] = store.IncidentMark{Declared: true, Contained: true}
	}
	raw, err := json.Marshal(header)
	require.NoError(t, err)
	require.Less(t, len(raw), 700<<10)
}
