package jwt

import (
	"fmt"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// Advice implements rotator.Adviser. Verify refuses a revoked key at once; who
// verifies by himself does so when he has fetched the keys again.
func (*Rotator) Advice(r *rotator.Role, leaked []rotation.Version, current rotation.Version, now time.Time) (out []string) {
	o, err := decodeRole(r)
	if err != nil {
		return nil
	}
	cacheLife := o.cacheLife(r.Interval)
	for i := range leaked {
		left := unpublished(&leaked[i], now)
		if until := left.Add(cacheLife); now.Before(until) {
			out = append(out, fmt.Sprintf("verifiers that fetched the keys before %s may accept tokens of kid %s until %s: let them fetch jwks/%s again now",
				stamp(left), leaked[i].Identifier, stamp(until), r.Name))
		}
	}
	since := current.AnnouncedTime
	if since.IsZero() { // it never stood by
		since = current.ActivatedTime
	}
	if until := since.Add(cacheLife); now.Before(until) {
		out = append(out, fmt.Sprintf("kid %s signs before every verifier can know it: those that do not fetch the keys again for a kid they do not know refuse its tokens until %s",
			current.Identifier, stamp(until)))
	}
	return out
}

// unpublished is when a leaked version left the key set, as far as it tells: that it
// is compromised took it out, and is never later than what is recorded.
func unpublished(v *rotation.Version, now time.Time) time.Time {
	left := now
	for _, t := range []time.Time{v.KilledTime, v.RetireBegun} {
		if !t.IsZero() && t.Before(left) {
			left = t
		}
	}
	return left
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
