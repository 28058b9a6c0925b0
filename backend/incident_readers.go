package backend

import (
	"context"
	"slices"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// readLedger tells who read a version of a role.
type readLedger func(ctx context.Context, role string, version int) ([]store.IncidentReader, error)

// leakedTo asks the ledger of reads.
func (e *Engine) leakedTo(ctx context.Context, role string, version int) ([]store.IncidentReader, error) {
	readers, err := e.readersOf(ctx, role, version)
	if err != nil {
		return nil, err
	}
	out := make([]store.IncidentReader, 0, len(readers))
	for _, r := range readers {
		out = append(out, store.IncidentReader{
			EntityID: r.EntityID, DisplayName: r.DisplayName, AccessorHash: r.AccessorHash, Address: r.Address,
			Reads: r.Reads, FirstTime: r.First, LastTime: r.Last,
		})
	}
	return out, nil
}

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
			r.Role, r.Version = "", v.Version
			all = addReader(all, r)
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
	if r.FirstTime.Before(known.FirstTime) {
		known.FirstTime = r.FirstTime
	}
	known.LastTime = later(known.LastTime, r.LastTime)
	return all
}

// whoReads is what tells one reader from another.
func whoReads(r store.IncidentReader) store.IncidentReader {
	r.Reads, r.FirstTime, r.LastTime = 0, time.Time{}, time.Time{}
	return r
}
