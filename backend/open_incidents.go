package backend

import (
	"sync"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/metrics"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// openIncidents are, in memory, the incidents that are not closed: every header that this
// process read or wrote says so. A rebuild reads them all.
type openIncidents struct {
	mu sync.Mutex
	by map[string]openIncident
}

type openIncident struct {
	status store.IncidentStatus
	opened time.Time
}

// note takes in what a header says, as it was stored.
func (o *openIncidents) note(header *store.IncidentHeader) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.by == nil {
		o.by = map[string]openIncident{}
	}
	if header.Status == store.IncidentClosed {
		delete(o.by, header.ID)
		return
	}
	o.by[header.ID] = openIncident{header.Status, header.OpenedTime}
}

// count tells how many there are.
func (o *openIncidents) count() (out metrics.Incidents) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, i := range o.by {
		if i.status != store.IncidentOpen {
			out.Contained++
			continue
		}
		out.Open++
		if out.OldestOpen.IsZero() || i.opened.Before(out.OldestOpen) {
			out.OldestOpen = i.opened
		}
	}
	return out
}
