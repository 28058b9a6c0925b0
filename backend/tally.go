package backend

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/metrics"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

// tally counts, since the process started, what metrics tell and storage does not keep.
type tally struct {
	roles sync.Map // role name -> *roleTally

	mu      sync.Mutex
	endings map[ending]*metrics.Durations
}

type roleTally struct {
	reads    atomic.Uint64
	attempts [len(outcomes)]atomic.Uint64
}

// outcomes are all there are.
var outcomes = [...]rotation.Outcome{rotation.Succeeded, rotation.Failed, rotation.RolledBack, rotation.Superseded, rotation.Blocked}

// ending is a way in which a rotation may end.
type ending struct {
	kind    string
	trigger rotation.Trigger
	outcome rotation.Outcome
}

// of is the tally of a role that exists.
func (t *tally) of(role string) *roleTally {
	v, ok := t.roles.Load(role)
	if !ok {
		v, _ = t.roles.LoadOrStore(role, &roleTally{})
	}
	r, _ := v.(*roleTally)
	return r
}

func (t *tally) read(role string) { t.of(role).reads.Add(1) }

// ended counts a rotation that has just ended.
func (t *tally) ended(role, kind string, r *rotation.Rotation) {
	if i := slices.Index(outcomes[:], r.Outcome); i >= 0 {
		t.of(role).attempts[i].Add(1)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	key := ending{kind, r.Trigger, r.Outcome}
	if t.endings[key] == nil {
		if t.endings == nil {
			t.endings = map[ending]*metrics.Durations{}
		}
		t.endings[key] = &metrics.Durations{}
	}
	t.endings[key].Observe(r.EndedTime.Sub(r.StartedTime))
}

func (t *tally) forget(role string) { t.roles.Delete(role) }

// tell adds to a role's metrics what was counted.
func (t *tally) tell(to *metrics.Role) {
	r := &roleTally{}
	if v, counted := t.roles.Load(to.Name); counted {
		r, _ = v.(*roleTally)
	}
	to.Reads, to.Attempts = r.reads.Load(), make(map[string]uint64, len(outcomes))
	for i, outcome := range outcomes {
		to.Attempts[string(outcome)] = r.attempts[i].Load()
	}
}

// all lists how rotations ended, in a fixed order.
func (t *tally) all() []metrics.Ending {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]metrics.Ending, 0, len(t.endings))
	for key, durations := range t.endings {
		out = append(out, metrics.Ending{Type: key.kind, Trigger: string(key.trigger), Outcome: string(key.outcome), Durations: *durations})
	}
	slices.SortFunc(out, func(a, b metrics.Ending) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Trigger, b.Trigger), cmp.Compare(a.Outcome, b.Outcome))
	})
	return out
}
