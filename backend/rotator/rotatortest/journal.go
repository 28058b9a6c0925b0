package rotatortest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// Kinds without an effect outside live by the journal alone. For them the suite
// keeps the versions' states as the engine would, and asks what the kind makes of
// them.

// record notes in the journal what became of a version.
func (s *suite) record(target *rotator.Target, state rotation.VersionState) {
	if s.Honours == nil {
		return
	}
	for _, other := range s.journal {
		if state == rotation.Current && other.Version.State == rotation.Current {
			other.Version.State = rotation.Retiring
		}
	}
	target.Version.State = state
	for _, one := range s.journal {
		one.Others = nil
		for _, other := range s.journal {
			if other != one {
				one.Others = append(one.Others, other.Version)
			}
		}
	}
}

// live is the journal as the engine hands it to a rotator.LiveUser.
func (s *suite) live(t *testing.T) *rotator.LiveVersions {
	user, ok := s.Rotator.(rotator.LiveUser)
	require.True(t, ok, "a kind without a target must be a LiveUser")
	live := &rotator.LiveVersions{Role: s.Role, Now: time.Now()}
	for _, target := range s.journal {
		v := target.Version
		if !v.State.Live() && v.State != rotation.Standby {
			live.Ended = append(live.Ended, v)
			continue
		}
		ready, err := user.Load(&v, target.Material)
		require.NoError(t, err)
		live.All = append(live.All, rotator.Live{Version: v, Material: target.Material, Ready: ready})
	}
	for i := range live.All {
		if live.All[i].Version.State == rotation.Current {
			live.Current = &live.All[i]
		}
	}
	return live
}
