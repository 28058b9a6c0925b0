package backend_test

import (
	"context"
	"encoding/base64"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt/reencrypttest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
)

// What must keep a version from ending, or its key from being destroyed.

var rotatedByHand = option.Values{"disable_automated_rotation": true}

func TestATransactionThatIsPreparedMeanwhileKeepsTheVersion(t *testing.T) {
	t.Parallel()
	v := newVault(t, 10, rotatedByHand)
	slow := v.storesLate("an application")
	v.Rotate()
	v.waitUntil("draining", 5*time.Minute, func() bool { return v.job().Phase == rotation.Draining })
	slow.Prepare()
	v.Wait(10 * time.Minute)
	require.Equal(t, rotation.Retiring, v.State().Version(1).State)
	slow.Commit()
	v.written[key(11)[0]] = "late"
	v.waitUntil("disabled", 10*time.Minute, v.is(1, rotation.Disabled))
	require.Equal(t, map[int]int{2: 11}, v.readable())
}

func TestANumberThatStorageForgotIsNotGivenAgain(t *testing.T) {
	t.Parallel()
	v := newVault(t, 10, rotatedByHand)
	forgotten := "vault:v7:" + base64.StdEncoding.EncodeToString(make([]byte, 40)) // Vault was restored from before
	require.NoError(t, v.cards.Put(key(50), []byte(forgotten)))
	v.Rotate()
	v.waitUntil("counted", 10*time.Minute, func() bool { return v.job().Person })
	require.Contains(t, v.status().StateReason, "1 values are of version 7, which is not known here")
	require.Equal(t, rotation.Retiring, v.State().Version(1).State, "nobody knows what they need")
	v.Rotate()
	require.Equal(t, 8, v.Current())
	require.Equal(t, forgotten, string(v.cards.Get(key(50))[0]))

	_, err := decrypt(v.Engine(), "vault:v30:"+base64.StdEncoding.EncodeToString(make([]byte, 40)))
	require.Error(t, err)
	v.Wait(20 * time.Second)
	v.Rotate()
	require.Equal(t, 31, v.Current(), "a caller is the first to notice a restore")
}

func TestAJumpOfTheClockSettlesNothing(t *testing.T) {
	t.Parallel()
	v := newVault(t, 3, option.Values{"disable_automated_rotation": true, "settle_period": int64(3600)})
	began := v.Clock.Mono()
	v.Rotate()
	v.waitUntil("settling", 10*time.Minute, func() bool { return v.job().Phase == rotation.Settling })
	v.Clock.Jump(2 * time.Hour)
	v.waitUntil("disabled", 3*time.Hour, v.is(1, rotation.Disabled))
	require.GreaterOrEqual(t, v.Clock.Mono()-began, time.Hour)
}

func TestAChangedDestroyAfterIsObeyed(t *testing.T) {
	t.Parallel()
	v := newVault(t, 3, option.Values{"disable_automated_rotation": true, "destroy_after": int64(1200)})
	v.Rotate()
	v.waitUntil("disabled", 10*time.Minute, v.is(1, rotation.Disabled))
	_, err := v.write(option.Values{"destroy_after": int64(0)})
	require.NoError(t, err)
	v.Wait(time.Hour)
	require.Equal(t, rotation.Disabled, v.State().Version(1).State, "never")
	_, err = v.write(option.Values{"destroy_after": int64(7200)})
	require.NoError(t, err)
	v.Wait(30 * time.Minute)
	require.Equal(t, rotation.Disabled, v.State().Version(1).State)
	v.waitUntil("destroyed", time.Hour, v.is(1, rotation.Retired))
}

func TestMadeUpCiphertextsDoNotPutADestructionOff(t *testing.T) {
	t.Parallel()
	v := newVault(t, 3, option.Values{"disable_automated_rotation": true, "destroy_after": int64(7200)})
	v.Rotate()
	v.waitUntil("disabled", 10*time.Minute, v.is(1, rotation.Disabled))
	for range 3 {
		_, err := decrypt(v.Engine(), "vault:v1:"+base64.StdEncoding.EncodeToString(make([]byte, 28)))
		require.Error(t, err)
		v.Wait(time.Hour + time.Minute)
	}
	require.Equal(t, rotation.Retired, v.State().Version(1).State)
}

func TestANewTargetWithRowsOfADisabledVersionIsTold(t *testing.T) {
	t.Parallel()
	v := newVault(t, 3, option.Values{"disable_automated_rotation": true, "destroy_after": int64(0)})
	old := v.cards.Get(key(1))[0]
	v.Rotate()
	v.waitUntil("disabled", 10*time.Minute, v.is(1, rotation.Disabled))
	require.NoError(t, v.db.Create("billing.more", []string{"id"}, "number").Put(key(1), old))
	require.NoError(t, v.Engine().WriteTarget(context.Background(), app, "more", &reencrypt.Target{
		Connection: enginetest.ConnectionName, Table: "billing.more", KeyColumns: []string{"id"}, Columns: []string{"number"}, Content: reencrypt.Ciphertext,
	}))
	v.waitUntil("told", 10*time.Minute, func() bool { return v.status().State == backend.StateActionRequired })
	require.Contains(t, v.status().StateReason, "1 values are of version 1, which is disabled")
	require.False(t, v.State().Version(1).MissedTime.IsZero())
}

func TestATriggerThatUndoesWhatIsWrittenIsTold(t *testing.T) {
	t.Parallel()
	v := newVault(t, 3, rotatedByHand)
	v.cards.Ignores = true
	v.Rotate()
	v.waitUntil("told", 30*time.Minute, func() bool { return v.job().Person })
	require.Contains(t, v.job().Trouble, "a trigger may undo what is written")
	require.Less(t, v.job().Round, 6, "the table is not gone through for ever")
	require.Equal(t, map[int]int{1: 3}, v.readable())
}

func TestALeakThatNothingReplacesIsSaidSo(t *testing.T) {
	t.Parallel()
	v := newVault(t, 1, rotatedByHand)
	v.refuses.Store(true)
	out := v.emergency(false)
	require.Len(t, out.NextSteps, 1)
	require.Contains(t, out.NextSteps[0], "the leak lives on: app still encrypts with version 1")
	require.NotContains(t, out.NextSteps[0], "kill_first")
}

func TestAPausedMountWritesNoMoreRows(t *testing.T) {
	t.Parallel()
	v := newVault(t, 20_000, rotatedByHand)
	pausesIn(t, v, func() error {
		_, err := v.Engine().WriteConfig(context.Background(), backend.Write{Given: option.Values{"paused": true}})
		return err
	})
	require.Equal(t, rotation.Rewriting, v.job().Phase)
	require.Greater(t, v.readable()[1], 10_000)
}

func TestAnEmergencyLetsThePassBefore(t *testing.T) {
	t.Parallel()
	v := newVault(t, 20_000, rotatedByHand)
	pausesIn(t, v, func() error {
		_, err := v.Engine().Emergency(context.Background(), app, backend.EmergencyRequest{Reason: "a leak"})
		return err
	})
	v.waitUntil("disabled", 10*time.Minute, v.is(2, rotation.Disabled))
	require.Equal(t, map[int]int{3: 20_000}, v.readable())
	require.Equal(t, rotation.Disabled, v.State().Version(1).State)
}

// pausesIn rotates, and does something at the first swap of the pass. No more are made for
// the job that ran then.
func pausesIn(t *testing.T, v *vault, do func() error) {
	t.Helper()
	var begun atomic.Bool
	gate := make(chan error, 1)
	v.db.Fault = func(op reencrypttest.Op, after bool) error {
		if op == reencrypttest.Swap && !after && begun.CompareAndSwap(false, true) {
			gate <- do()
		}
		return nil
	}
	v.Rotate()
	v.Wait(2 * time.Minute)
	require.NoError(t, <-gate)
}
