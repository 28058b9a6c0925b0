package backend_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/access"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

func (r *rig) incident(id string) *store.Incident {
	r.t.Helper()
	i, err := r.Engine().Incident(context.Background(), id)
	require.NoError(r.t, err)
	return i
}

func (r *rig) writeIncident(id string, w backend.IncidentWrite) error {
	_, err := r.Engine().WriteIncident(context.Background(), id, w)
	return err
}

func (r *rig) closeIncident(id string, c backend.IncidentClose) error {
	_, err := r.Engine().CloseIncident(context.Background(), id, c)
	return err
}

// told are the events of an incident that were told.
func (r *rig) told(id string) (types []string) {
	r.Step()
	for _, e := range r.published.Get() {
		if kind, ok := strings.CutPrefix(e.ID, id+"/"); ok {
			types = append(types, kind)
		}
	}
	return types
}

// event is one that was told.
func (r *rig) event(id string) rotation.Event {
	all := r.published.Get()
	i := slices.IndexFunc(all, func(e rotation.Event) bool { return e.ID == id })
	require.GreaterOrEqual(r.t, i, 0, "%s was not told", id)
	return all[i]
}

// openIncident is that of a role whose replacement cannot be verified.
func (r *rig) openIncident() string {
	r.world.SetRefuse(true)
	r.Leak(true)
	out := r.emergency(false)
	r.Leak(true)
	r.Wait(20 * time.Second)
	require.Equal(r.t, store.IncidentOpen, out.Status)
	return out.IncidentID
}

func of[T any](v T) *T { return &v }

func TestIncidentIsSeenTo(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	id := r.emergency(false).IncidentID
	r.Wait(time.Minute)
	alice := backend.Actor{EntityID: "e-1", DisplayName: "alice", Accessor: "a-1"}
	require.NoError(t, r.writeIncident(id, backend.IncidentWrite{Actor: alice, Note: of("the log was rotated away"), Acknowledge: of(true)}))
	require.NoError(t, r.writeIncident(id, backend.IncidentWrite{Actor: backend.Actor{DisplayName: "bob"}, Severity: of("critical"), Acknowledge: of(true)}))
	require.NoError(t, r.writeIncident(id, backend.IncidentWrite{Severity: of("critical")}))
	require.NoError(t, r.writeIncident(id, backend.IncidentWrite{Severity: of("low")}))
	require.NoError(t, r.closeIncident(id, backend.IncidentClose{Actor: alice, Conclusion: "a token in a log; the logger redacts it now"}))

	i := r.incident(id)
	require.Equal(t, store.IncidentClosed, i.Status)
	require.Equal(t, "low", i.Severity)
	require.Equal(t, "alice", i.Acknowledged.Actor.DisplayName, "the first who did stays")
	require.NotContains(t, i.Acknowledged.Actor.AccessorHash, "a-1")
	require.Len(t, i.Notes, 1)
	require.Equal(t, "alice", i.Notes[0].Actor.DisplayName)
	require.False(t, i.Closing.Forced)
	require.Equal(t, r.Clock.Now(), i.ClosedTime)
	require.Equal(t, []string{
		"emergency.declared", "incident.contained", "incident.acknowledged", "incident.severity/1", "incident.severity/2", "incident.closed",
	}, r.told(id))
	require.Empty(t, r.incident(id).Events, "they leave the record once they are told")
}

func TestClosedIncidentTakesNotesOnly(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	id := r.emergency(false).IncidentID
	r.Wait(time.Minute)
	done := backend.IncidentClose{Conclusion: "done"}
	require.NoError(t, r.closeIncident(id, done))
	for _, w := range []backend.IncidentWrite{{Severity: of("low")}, {Acknowledge: of(true)}, {Note: of("late"), Severity: of("low")}} {
		requireKind(t, fault.Conflict, r.writeIncident(id, w), "it takes notes only")
	}
	require.Empty(t, r.incident(id).Notes, "a write that is refused leaves nothing")
	require.NoError(t, r.writeIncident(id, backend.IncidentWrite{Note: of("late")}))
	require.Len(t, r.incident(id).Notes, 1)
	require.NoError(t, r.closeIncident(id, done), "written again, since the answer was lost")
	requireKind(t, fault.Conflict, r.closeIncident(id, backend.IncidentClose{Conclusion: "another"}), "was closed at")
}

func TestIncidentRefusesWhatIsWrong(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	id := r.openIncident()
	before := r.Disk.Snapshot()
	for says, w := range map[string]backend.IncidentWrite{
		"note: is missing: give a note":            {},
		"note: is empty":                           {Note: of(" \n\t")},
		"note: has 4097 bytes; at most 4096":       {Note: of(strings.Repeat("x", 4097))},
		"severity: must be one of low, medium":     {Severity: of("High")},
		"severity: must be one of low, medium, hi": {Severity: of("")},
		"acknowledge: can only be true":            {Acknowledge: of(false)},
	} {
		requireKind(t, fault.Invalid, r.writeIncident(id, w), says)
	}
	for says, c := range map[string]backend.IncidentClose{
		"conclusion: is empty":               {Force: true, Reason: "r"},
		"conclusion: has 4097 bytes":         {Conclusion: strings.Repeat("x", 4097), Force: true, Reason: "r"},
		"reason: has 1001 bytes":             {Conclusion: "c", Force: true, Reason: strings.Repeat("x", 1001)},
		"reason: is required with force=tru": {Conclusion: "c", Force: true, Reason: " "},
	} {
		requireKind(t, fault.Invalid, r.closeIncident(id, c), says)
	}
	err := r.closeIncident(id, backend.IncidentClose{Conclusion: "c", Reason: "no force"})
	requireKind(t, fault.Conflict, err, "is not contained: app: the leak lives on: version 1")
	require.ErrorContains(t, err, "write force=true and a reason")
	requireKind(t, fault.NotFound, r.writeIncident("none", backend.IncidentWrite{Note: of("x")}), `there is no incident "none"`)
	requireKind(t, fault.NotFound, r.closeIncident("none", backend.IncidentClose{Conclusion: "c"}), "there is no incident")
	require.Equal(t, before, r.Disk.Snapshot())
}

// Closing is a person's word; what leaked is ended all the same, and the record says when.
func TestIncidentClosedByForceIsContainedLater(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	id := r.openIncident()
	require.NoError(t, r.closeIncident(id, backend.IncidentClose{Conclusion: strings.Repeat("ü", 400), Force: true, Reason: "a false alarm"}))
	i := r.incident(id)
	require.True(t, i.Closing.Forced)
	require.Equal(t, "a false alarm", i.Closing.Reason)
	require.True(t, i.ContainedTime.IsZero())
	r.Step()
	closed := r.event(id + "/incident.closed")
	require.Equal(t, strings.Repeat("ü", 299)+"…", closed.Data["conclusion"])
	require.Equal(t, "true", closed.Data["forced"])

	r.Restart() // and whatever was left to be done is taken up
	r.world.SetRefuse(false)
	r.waitUntil("ended all the same", 5*time.Minute, func() bool { return !r.incident(id).ContainedTime.IsZero() })
	r.Wait(time.Minute)
	require.Equal(t, store.IncidentClosed, r.incident(id).Status, "it stays closed")
	require.Equal(t, []string{"emergency.declared", "incident.closed", "incident.contained"}, r.told(id))
	require.Empty(t, r.status().OpenIncidents)
	r.Leak(false)
}

func TestIncidentsListOpenOnesFirst(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	closed := r.emergency(false).IncidentID
	r.Wait(time.Minute)
	contained := r.emergency(false).IncidentID
	r.Wait(time.Minute)
	newer := r.emergency(false).IncidentID
	r.Wait(time.Minute)
	require.NoError(t, r.closeIncident(closed, backend.IncidentClose{Conclusion: "c"}))
	open := r.openIncident()
	require.NoError(t, r.writeIncident(open, backend.IncidentWrite{Acknowledge: of(true), Severity: of("critical")}))
	list, err := r.Engine().Incidents(context.Background())
	require.NoError(t, err)
	ids := make([]string, 0, len(list))
	for _, i := range list {
		ids = append(ids, i.ID)
	}
	require.Equal(t, []string{open, newer, contained, closed}, ids)
	require.Equal(t, backend.IncidentSummary{
		ID: open, Status: store.IncidentOpen, Severity: "critical", OpenedTime: r.incident(open).OpenedTime, Roles: 1, Acknowledged: true,
	}, list[0])
	r.world.SetRefuse(false)
	r.Wait(5 * time.Minute)
	r.Leak(false)
}

func TestIncidentNotesAreBounded(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	id := r.emergency(false).IncidentID
	for n := range 100 {
		require.NoError(t, r.writeIncident(id, backend.IncidentWrite{Note: of(fmt.Sprintf("note %d", n))}))
	}
	requireKind(t, fault.Conflict, r.writeIncident(id, backend.IncidentWrite{Note: of("one more")}), "has 100 notes")
	require.NoError(t, r.writeIncident(id, backend.IncidentWrite{Note: of("note 99")}), "the newest again is no more")
	notes := r.incident(id).Notes
	require.Len(t, notes, 100)
	require.Equal(t, "note 0", notes[0].Text)
	require.Equal(t, "note 99", notes[99].Text)
}

func TestIncidentDeclaredEventSaysWhat(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	r.Add(nil, "billing", "shop")
	request := everyRole(3)
	request.KillFirst = true
	out, err := r.bulk(request)
	require.NoError(t, err)
	r.Step()
	e := r.event(out.IncidentID + "/emergency.declared")
	require.Equal(t, rotation.Event{
		ID: out.IncidentID + "/emergency.declared", Type: "emergency.declared", Time: r.incident(out.IncidentID).OpenedTime,
		Data: map[string]string{"incident_id": out.IncidentID, "reason": "a backup was stolen", "severity": "high", "roles": "app, billing, shop", "kill_first": "true", "contacts": "0"},
	}, e)
	for _, name := range []string{"billing", "shop"} {
		raw := string(r.Disk.Snapshot()["state/"+name])
		require.NotContains(t, raw, "emergency.declared", "an emergency is told once, not for each role")
	}
}

func TestIncidentNamesReaders(t *testing.T) {
	t.Parallel()
	r := created(t, nil)
	at := r.Clock.Now()
	var reads int64 = 3
	many := func(n int) (out []access.Reader) {
		for i := range n {
			out = append(out, access.Reader{DisplayName: fmt.Sprint("reader ", i), Reads: reads, First: at, Last: at.Add(time.Duration(reads) * time.Second)})
		}
		return out
	}
	r.Engine().SetLedger(func(_ context.Context, role string, _ int) ([]access.Reader, error) {
		require.Equal(t, app, role)
		return many(60), nil
	})
	id := r.openIncident()
	facts := r.incident(id).Roles[app]
	require.Len(t, facts.Readers, store.MaxIncidentReaders)
	require.Equal(t, 10, facts.MoreReaders)
	for i, want := range many(50) {
		require.Equal(t, store.IncidentReader{Version: 1, Reader: want}, facts.Readers[i])
	}

	reads = 9 // it goes on being read until its end, and then the ledger forgets the first of them
	r.Engine().SetLedger(func(context.Context, string, int) ([]access.Reader, error) {
		return append(many(2)[1:], access.Reader{DisplayName: "late", Reads: 1}), nil
	})
	r.world.SetRefuse(false)
	r.waitUntil("contained", 5*time.Minute, func() bool { return !r.incident(id).ContainedTime.IsZero() })
	facts = r.incident(id).Roles[app]
	require.Len(t, facts.Readers, store.MaxIncidentReaders)
	require.Equal(t, int64(3), facts.Readers[0].Reads)
	require.Equal(t, int64(9), facts.Readers[1].Reads)
	require.Equal(t, at.Add(9*time.Second), facts.Readers[1].Last)
	require.Equal(t, at, facts.Readers[1].First)
	require.Equal(t, 10, facts.MoreReaders)
	r.Leak(false)
}
