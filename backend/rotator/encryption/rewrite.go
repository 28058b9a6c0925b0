package encryption

import (
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// Rewriter implements rotator.DataKeeper.
func (*Rotator) Rewriter(live *rotator.LiveVersions) (reencrypt.Rewriter, error) {
	if hasBackend(live.Role) {
		return newTransitRewriter(live)
	}
	k, err := encrypting(live)
	if err != nil {
		return nil, err
	}
	// The job counts what it cannot read by itself: it is no caller who missed a version.
	quiet := *live
	quiet.Missed = nil
	return &rewriter{current: k, live: &quiet}, nil
}

// rewriter is used by many goroutines: it only reads.
type rewriter struct {
	current *key
	live    *rotator.LiveVersions
}

// Version implements reencrypt.Rewriter.
func (r *rewriter) Version() int { return r.current.version }

// Done implements reencrypt.Rewriter.
func (r *rewriter) Done() string { return r.current.prefix }

// Rewrite implements reencrypt.Rewriter. A data key is rewrapped so: it stays the same.
func (r *rewriter) Rewrite(value, context, associatedData []byte) ([]byte, error) {
	vs := versions{live: r.live}
	plaintext, err := vs.open(value, context, associatedData)
	if err != nil {
		return nil, err
	}
	return r.current.seal(plaintext, context, associatedData)
}

// DataPolicy implements rotator.DataKeeper.
func (*Rotator) DataPolicy(r *rotator.Role) (rotator.DataPolicy, error) {
	o, err := decodeRole(r)
	if err != nil {
		return rotator.DataPolicy{}, err
	}
	return rotator.DataPolicy{
		After: o.ReencryptAfter.Std(), Settle: o.SettlePeriod.Std(), DestroyAfter: o.DestroyAfter.Std(),
		Schedule: o.MaintenanceSchedule, Window: o.MaintenanceWindow.Std(),
		RowsPerSecond: int(o.MaxRowsPerSecond),
	}, nil
}
