package backend

import (
	"context"
	"slices"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/access"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// readLedger tells who read a version of a role.
type readLedger func(ctx context.Context, role string, version int) ([]access.Reader, error)

// addReaders puts who had read the leaked versions into a role's facts, beside those that
// were recorded before: the ledger may forget, the record of an incident does not.
func (e *Engine) addReaders(ctx context.Context, role string, before, facts *store.IncidentRole) error {
	if before != nil {
		facts.Readers, facts.MoreReaders = before.Readers, before.MoreReaders
	}
	all := slices.Clone(facts.Readers)
	for _, v := range facts.Compromised {
		readers, err := e.ledger(ctx, role, v.Version)
		if err != nil {
			return err
		}
		for _, r := range readers {
			all = addReader(all, store.IncidentReader{Version: v.Version, Reader: r})
		}
	}
	facts.Readers = all[:min(len(all), store.MaxIncidentReaders)]
	facts.MoreReaders = max(facts.MoreReaders, len(all)-len(facts.Readers))
	return nil
}

// addReader adds a reader, or what else is known of one.
func addReader(all []store.IncidentReader, r store.IncidentReader) []store.IncidentReader {
	i := slices.IndexFunc(all, func(o store.IncidentReader) bool { return whoReads(o) == whoReads(r) })
	if i < 0 {
		return append(all, r)
	}
	known := &all[i]
	known.Reads = max(known.Reads, r.Reads)
	if r.First.Before(known.First) {
		known.First = r.First
	}
	known.Last = later(known.Last, r.Last)
	return all
}

// whoReads is what tells one reader from another.
func whoReads(r store.IncidentReader) store.IncidentReader {
	r.Reads, r.First, r.Last = 0, time.Time{}, time.Time{}
	return r
}
