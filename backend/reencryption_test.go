package backend_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt/reencrypttest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/encryption"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/store"
)

// encryptionKeys is the kind with what the fault injection asks of every kind.
type encryptionKeys struct {
	*encryption.Rotator
	refuses *atomic.Bool
}

// Verify implements rotator.Rotator.
func (k encryptionKeys) Verify(ctx context.Context, t *rotator.Target) error {
	if k.refuses.Load() {
		return fault.New(fault.Target, "refused")
	}
	return k.Rotator.Verify(ctx, t)
}

// InUse implements rotator.InUser.
func (encryptionKeys) InUse(context.Context, *rotator.Target) ([]rotator.Use, error) { return nil, nil }

// Preflight implements rotator.Preflighter.
func (encryptionKeys) Preflight(context.Context, *rotator.Target) ([]rotator.Line, error) {
	return nil, nil
}

// Survey implements rotator.Surveyor.
func (encryptionKeys) Survey(ctx context.Context, t *rotator.Target) ([]rotator.Sighting, error) {
	return signingKeys{}.Survey(ctx, t)
}

// rowsKind is a type of connection over a database in memory.
type rowsKind struct{ db *reencrypttest.Database }

type rowsConnection struct{}

func (rowsConnection) Close() {}

func (rowsKind) Type() string        { return "rows" }
func (rowsKind) Options() option.Set { return nil }

func (rowsKind) CheckConnection(*rotator.ConnectionConfig) ([]string, error) { return nil, nil }

func (rowsKind) Open(*rotator.ConnectionConfig) (rotator.Connection, error) {
	return rowsConnection{}, nil
}

func (rowsKind) Ping(context.Context, rotator.Connection) error { return nil }

func (rowsKind) Check(context.Context, rotator.Connection) ([]rotator.Line, error) { return nil, nil }

func (k rowsKind) Database(rotator.Connection) (reencrypt.Database, error) { return k.db, nil }

var _ rotator.DataHolder = rowsKind{}

// Times of the role that plays are given with.
var encryptionRole = option.Values{
	"exportable": true, "reencrypt_after": int64(40), "settle_period": int64(60), "destroy_after": int64(120),
}

// vault is a play of an encryption key whose data lies in a table.
type vault struct {
	*rig
	db    *reencrypttest.Database
	cards *reencrypttest.Table
	// written has what each row holds.
	written map[string]string
	// refuses lets nothing pass Verify.
	refuses atomic.Bool
}

// stateOf reads the state of another role than the play's.
func (v *vault) stateOf(role string) *rotation.State {
	s, err := store.New(&enginetest.Storage{Disk: v.Disk}).State(context.Background(), role)
	require.NoError(v.t, err)
	return s
}

// encryptionStage is a stage whose target is the mount itself; data lies beside it.
func encryptionStage(v *vault) *enginetest.Stage {
	return &enginetest.Stage{
		Rotator: func(f *enginetest.Faults) rotator.Rotator {
			return enginetest.NewFaultyKeeper(encryptionKeys{encryption.New(), &v.refuses}, f)
		},
		Role:    encryptionRole,
		Begin:   func(p *enginetest.Play) { v.rig = &rig{Play: p} },
		Login:   func(rendered map[string]any) error { return encryptsByItself(v.Engine(), rendered) },
		Objects: func() (live []string, err error) { return decrypting(v.State()), nil },
		Step:    4 * time.Second,
	}
}

// decrypting are the identifiers of the versions that decrypt.
func decrypting(s *rotation.State) (out []string) {
	for _, v := range s.Versions {
		if v.State == rotation.Current || v.State == rotation.Retiring && v.RetireBegun.IsZero() {
			out = append(out, v.Identifier)
		}
	}
	return out
}

// encryptsByItself is a reader of an exported key: it encrypts, and asks whether that
// decrypts.
func encryptsByItself(e *backend.Engine, rendered map[string]any) error {
	raw, err := base64.StdEncoding.DecodeString(rendered["key"].(string))
	if err != nil {
		return err
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return err
	}
	nonce := make([]byte, gcm.NonceSize())
	_, _ = rand.Read(nonce)
	text := fmt.Sprintf("vault:v%d:%s", rendered["version"], base64.StdEncoding.EncodeToString(gcm.Seal(nonce, nonce, []byte("reader"), nil)))
	plain, err := decrypt(e, text)
	if err == nil && plain != "reader" {
		return fault.New(fault.AuthFailed, "it decrypts to something else")
	}
	if fault.Is(err, fault.Invalid) {
		return fault.New(fault.AuthFailed, "%w", err)
	}
	return err
}

func encrypt(e *backend.Engine, plaintext string) (string, error) {
	answer, err := e.Use(context.Background(), app, encryption.EncryptRequest{Items: []encryption.EncryptItem{{Plaintext: base64.StdEncoding.EncodeToString([]byte(plaintext))}}})
	if err != nil {
		return "", err
	}
	one := answer.([]encryption.Encrypted)[0]
	return one.Ciphertext, one.Err
}

func decrypt(e *backend.Engine, ciphertext string) (string, error) {
	answer, err := e.Use(context.Background(), app, encryption.DecryptRequest{Items: []encryption.DecryptItem{{Ciphertext: ciphertext}}})
	if err != nil {
		return "", err
	}
	one := answer.([]encryption.Decrypted)[0]
	if one.Err != nil {
		return "", one.Err
	}
	plain, err := base64.StdEncoding.DecodeString(one.Plaintext)
	return string(plain), err
}

func key(id int) reencrypt.Key { return reencrypt.Key{fmt.Sprintf("%06d", id)} }

// newVault is a role with a target of so many rows, in a process that has served long
// enough.
func newVault(t *testing.T, rows int, values option.Values) *vault {
	t.Helper()
	v := &vault{db: reencrypttest.New(), written: map[string]string{}}
	stage := encryptionStage(v)
	stage.Connection = func(*enginetest.Faults) rotator.ConnectionKind { return rowsKind{v.db} }
	v.cards = v.db.Create("billing.cards", []string{"id"}, "number")
	play := enginetest.NewPlay(stage, enginetest.NewFaults(enginetest.None, 0))
	v.rig = &rig{Play: play, t: t}
	t.Cleanup(func() { play.Close() })
	v.Connect()
	_, err := v.write(v.role(values))
	require.NoError(t, err)
	v.Wait(time.Minute)
	v.store(1, rows)
	v.target()
	return v
}

func (v *vault) role(values option.Values) option.Values {
	given := option.Values{"type": encryption.Type, "rotation_period": int64(3600), "grace_period": int64(40)}
	for _, layer := range []option.Values{encryptionRole, values} {
		for k, value := range layer {
			given[k] = value
		}
	}
	return given
}

// store encrypts rows as an application does.
func (v *vault) store(from, to int) {
	for id := from; id <= to; id++ {
		plain := fmt.Sprintf("card %d, at %d", id, v.Clock.Now().Unix())
		text, err := encrypt(v.Engine(), plain)
		require.NoError(v.t, err)
		require.NoError(v.t, v.cards.Put(key(id), []byte(text)))
		v.written[key(id)[0]] = plain
	}
}

func (v *vault) target() {
	require.NoError(v.t, v.Engine().WriteTarget(context.Background(), app, "cards", &reencrypt.Target{
		Connection: enginetest.ConnectionName, Table: "billing.cards", KeyColumns: []string{"id"}, Columns: []string{"number"}, Content: reencrypt.Ciphertext,
	}))
}

// storesLate begins a transaction that stores, once it ends, a row that was encrypted now.
func (v *vault) storesLate(what string) *reencrypttest.Tx {
	v.t.Helper()
	slow := v.db.Begin(what)
	text, err := encrypt(v.Engine(), "late")
	require.NoError(v.t, err)
	require.NoError(v.t, slow.Put(v.cards, key(11), []byte(text)))
	return slow
}

// readable asks that every row decrypts to what was written, and gives the versions that
// they are of.
func (v *vault) readable() map[int]int {
	v.t.Helper()
	versions := map[int]int{}
	for id, plain := range v.written {
		text := string(v.cards.Get(reencrypt.Key{id})[0])
		got, err := decrypt(v.Engine(), text)
		require.NoError(v.t, err, "row %s", id)
		require.Equal(v.t, plain, got)
		version, _ := reencrypttest.VersionOf([]byte(text))
		versions[version]++
	}
	return versions
}

// job is the re-encryption, an empty one before it is planned.
func (v *vault) job() *rotation.Reencryption {
	if job := v.State().Reencryption; job != nil {
		return job
	}
	return &rotation.Reencryption{}
}

func (v *vault) is(number int, state rotation.VersionState) func() bool {
	return func() bool { return v.State().Version(number).State == state }
}

func TestDataFollowsARotationAndOnlyThenTheOldVersionEnds(t *testing.T) {
	t.Parallel()
	v := newVault(t, 2500, nil)
	v.Rotate()
	require.Equal(t, map[int]int{1: 2500}, v.readable(), "nothing is touched before reencrypt_after")
	v.waitUntil("rewritten", 2*time.Minute, func() bool { return v.job().Phase == rotation.Settling })
	require.Equal(t, map[int]int{2: 2500}, v.readable())
	require.Equal(t, rotation.Retiring, v.State().Version(1).State, "what it encrypted last may be on its way")
	v.waitUntil("disabled", 3*time.Minute, v.is(1, rotation.Disabled))
	require.False(t, v.Clock.Now().Before(v.State().Version(1).DeactivatedTime.Add(time.Minute)), "not before settle_period")
	v.Wait(10 * time.Second)
	require.True(t, v.State().Version(1).ProvenDead())
	require.Equal(t, 1, v.State().Version(1).Cleared.Targets)
	require.NotEmpty(t, v.Disk.Snapshot()["material/app/1"], "it can be brought back")
	v.waitUntil("destroyed", 5*time.Minute, v.is(1, rotation.Retired))
	v.Wait(10 * time.Second)
	require.Empty(t, v.Disk.Snapshot()["material/app/1"])
	require.Equal(t, map[int]int{2: 2500}, v.readable())
}

// Whoever read a row a moment before it was rewritten decrypts what stood there, however
// long ago the rotation was.
func TestWhatWasReadBeforeARowWasRewrittenDecrypts(t *testing.T) {
	t.Parallel()
	v := newVault(t, 10, option.Values{"disable_automated_rotation": true, "reencrypt_after": int64(1200)})
	v.Rotate()
	v.Wait(19 * time.Minute)
	old := string(v.cards.Get(key(1))[0])
	v.waitUntil("rewritten", 5*time.Minute, func() bool { return v.readable()[2] == 10 })
	for range 3 {
		v.Wait(10 * time.Second)
		_, err := decrypt(v.Engine(), old)
		require.NoError(t, err)
	}
	v.waitUntil("disabled", 5*time.Minute, v.is(1, rotation.Disabled))
}

func TestASlowTransactionKeepsTheVersion(t *testing.T) {
	t.Parallel()
	v := newVault(t, 10, nil)
	slow := v.storesLate("a report, since 10:00")
	v.Rotate()
	v.waitUntil("draining", 5*time.Minute, func() bool { return v.job().Phase == rotation.Draining })
	v.Wait(10 * time.Minute)
	require.Equal(t, rotation.Retiring, v.State().Version(1).State)
	require.Contains(t, v.job().Trouble, "a report, since 10:00")
	slow.Commit()
	v.written[key(11)[0]] = "late"
	v.waitUntil("disabled", 10*time.Minute, v.is(1, rotation.Disabled))
	require.Equal(t, map[int]int{2: 11}, v.readable(), "what came late has followed")
	require.Equal(t, 2, v.job().Round)
}

func TestRowsThatDoNotDecryptKeepTheVersion(t *testing.T) {
	t.Parallel()
	v := newVault(t, 5, option.Values{"disable_automated_rotation": true})
	require.NoError(t, v.cards.Put(key(7), []byte("vault:v1:bm90IG9mIHRoaXMga2V5IGF0IGFsbCwgc29ycnk=")))
	require.NoError(t, v.cards.Put(key(8), []byte("4111 1111 1111 1111")))
	v.Rotate()
	v.waitUntil("counted", 10*time.Minute, func() bool { return v.job().Person })
	v.Wait(time.Hour)
	require.Equal(t, rotation.Retiring, v.State().Version(1).State)
	require.Equal(t, backend.StateActionRequired, v.status().State)
	require.Equal(t, map[int]int{2: 5}, v.readable(), "the others have followed")
	progress, err := v.Engine().Reencryption(context.Background(), app)
	require.NoError(t, err)
	require.Equal(t, int64(1), progress.Targets["cards"].Progress.Counted.Foreign)
	require.Equal(t, "4111 1111 1111 1111", string(v.cards.Get(key(8))[0]), "they are not touched")

	require.NoError(t, v.Act(func(ctx context.Context, e *backend.Engine) error {
		_, err := e.Retire(ctx, app, backend.RetireRequest{})
		requireKind(t, fault.Conflict, err, "is needed until no target holds")
		return nil
	}))
	tx := v.db.Begin("an operator mends the rows")
	require.NoError(t, tx.Delete(v.cards, key(7)))
	require.NoError(t, tx.Delete(v.cards, key(8)))
	tx.Commit()
	waives, err := v.Engine().RunReencryption(context.Background(), app)
	require.NoError(t, err)
	require.Empty(t, waives, "nothing was waited for but them")
	v.waitUntil("disabled", 10*time.Minute, v.is(1, rotation.Disabled))
}

func TestAVersionWithoutTargetsStaysUntilAPersonEndsIt(t *testing.T) {
	t.Parallel()
	v := newVault(t, 0, nil)
	_, err := v.Engine().DeleteTarget(context.Background(), app, "cards")
	require.NoError(t, err)
	text, err := encrypt(v.Engine(), "somewhere else")
	require.NoError(t, err)
	v.Rotate()
	_, err = v.Engine().Retire(context.Background(), app, backend.RetireRequest{Version: 1})
	requireKind(t, fault.Conflict, err, "settle_period")
	v.Wait(50 * time.Minute)
	require.Equal(t, rotation.Retiring, v.State().Version(1).State)
	require.Equal(t, backend.StateOK, v.status().State, "nobody has to do anything")
	require.NoError(t, v.Act(func(ctx context.Context, e *backend.Engine) error {
		out, err := e.Retire(ctx, app, backend.RetireRequest{Version: 1, Wait: backend.Wait})
		if err == nil {
			require.Equal(t, rotation.Disabled, out.State)
		}
		return err
	}))
	_, err = decrypt(v.Engine(), text)
	require.Error(t, err)
}

func TestAMissedVersionIsToldAndReopened(t *testing.T) {
	t.Parallel()
	v := newVault(t, 3, nil)
	old := v.cards.Get(key(1))[0]
	v.Rotate()
	v.waitUntil("disabled", 10*time.Minute, v.is(1, rotation.Disabled))
	v.Wait(90 * time.Second)
	was := v.State().Version(1).DestroyAt
	_, err := decrypt(v.Engine(), string(old)) // a backup was restored
	require.ErrorContains(t, err, "disabled")
	v.Wait(20 * time.Second)
	require.Nil(t, v.State().Version(1).Cleared, "the proof is void")
	require.True(t, v.State().Version(1).DestroyAt.After(was), "and so is the wait")
	require.False(t, v.State().Version(1).MissedTime.IsZero())

	require.NoError(t, v.cards.Put(key(9), old))
	_, err = v.Engine().ReopenVersion(context.Background(), app, 1)
	require.NoError(t, err)
	plain, err := decrypt(v.Engine(), string(old))
	require.NoError(t, err)
	v.written[key(9)[0]] = plain
	v.waitUntil("disabled again", 10*time.Minute, v.is(1, rotation.Disabled))
	require.Equal(t, map[int]int{2: 4}, v.readable())
	v.waitUntil("destroyed", 10*time.Minute, v.is(1, rotation.Retired))
	_, err = v.Engine().ReopenVersion(context.Background(), app, 1)
	requireKind(t, fault.Conflict, err, "was destroyed")
}

func TestDataThatCameBackKeepsAVersionFromBeingDestroyed(t *testing.T) {
	t.Parallel()
	v := newVault(t, 3, nil)
	old := v.cards.Get(key(1))[0]
	v.Rotate()
	v.waitUntil("disabled", 10*time.Minute, v.is(1, rotation.Disabled))
	require.NoError(t, v.cards.Put(key(9), old))
	v.Wait(20 * time.Minute)
	require.Equal(t, rotation.Disabled, v.State().Version(1).State, "the count was repeated before")
	require.Contains(t, v.job().Trouble, "1 values are of version 1")
}

func TestAnEmergencyReencryptsAtOnceAndStaysOpenUntilThen(t *testing.T) {
	t.Parallel()
	v := newVault(t, 10, option.Values{"maintenance_schedule": "0 2 1 6 *", "maintenance_window": int64(3600), "max_rows_per_second": int64(1)})
	_, err := v.Engine().Emergency(context.Background(), app, backend.EmergencyRequest{Reason: "a leak", KillFirst: true})
	requireKind(t, fault.Invalid, err, "kill_first")
	out := v.emergency(false)
	require.Equal(t, "open", string(out.Status))
	require.Contains(t, fmt.Sprint(out.NextSteps), "decrypts until its data has followed")
	require.Equal(t, 10, v.readable()[1]+v.readable()[2])
	v.waitUntil("disabled", 5*time.Minute, v.is(1, rotation.Disabled))
	require.Equal(t, map[int]int{2: 10}, v.readable())
	v.Wait(20 * time.Second)
	require.Equal(t, "contained", string(v.Incidents()[0].Status))
	require.Less(t, v.Clock.Now().Sub(v.State().ActivatedTime), 5*time.Minute)
}

func TestTheMaintenanceWindowIsKept(t *testing.T) {
	t.Parallel()
	v := newVault(t, 10, option.Values{"maintenance_schedule": "0 2 * * *", "maintenance_window": int64(3600), "disable_automated_rotation": true})
	v.Rotate()
	v.Wait(30 * time.Minute)
	require.Equal(t, map[int]int{1: 10}, v.readable())
	progress, err := v.Engine().Reencryption(context.Background(), app)
	require.NoError(t, err)
	require.Equal(t, time.Date(2030, 1, 1, 2, 0, 0, 0, time.UTC), progress.Opens)
	v.waitUntil("rewritten", 3*time.Hour, func() bool { return v.readable()[2] == 10 })
	require.Equal(t, 2, v.Clock.Now().Hour())
	v.waitUntil("people were told", 2*time.Hour, func() bool { return strings.Contains(v.Log(), "event=window.closed") })
	require.Equal(t, 1, strings.Count(v.Log(), "event=window.opened"))
	require.Contains(t, v.Log(), `then="nothing is left to be done"`)
}

func TestAJobIsPausedResumedAndCancelled(t *testing.T) {
	t.Parallel()
	v := newVault(t, 10, option.Values{"disable_automated_rotation": true})
	control := func(choice rotation.ReencryptionChoice) error {
		return v.Engine().ControlReencryption(context.Background(), app, choice)
	}
	requireKind(t, fault.Conflict, control(rotation.Paused), "no re-encryption")
	v.Rotate()
	v.Step()
	require.NoError(t, control(rotation.Paused))
	v.Wait(time.Hour)
	require.Equal(t, map[int]int{1: 10}, v.readable())
	require.NoError(t, control(rotation.Goes))
	v.waitUntil("disabled", 5*time.Minute, v.is(1, rotation.Disabled))

	v.Rotate()
	v.Step()
	require.NoError(t, control(rotation.Cancelled))
	requireKind(t, fault.Conflict, control(rotation.Goes), "was cancelled")
	v.Wait(time.Hour)
	require.Equal(t, map[int]int{2: 10}, v.readable())
	require.Equal(t, rotation.Retiring, v.State().Version(2).State)
	_, err := v.Engine().RunReencryption(context.Background(), app)
	require.NoError(t, err)
	v.waitUntil("disabled", 5*time.Minute, v.is(2, rotation.Disabled))
	require.Equal(t, map[int]int{3: 10}, v.readable())
}

func TestARollbackEncryptsWithTheEarlierVersionAgain(t *testing.T) {
	t.Parallel()
	v := newVault(t, 10, option.Values{"disable_automated_rotation": true})
	v.Rotate()
	v.store(11, 20)
	v.Rollback(1)
	v.store(21, 30)
	require.Equal(t, map[int]int{1: 20, 2: 10}, v.readable())
	v.waitUntil("disabled", 10*time.Minute, v.is(2, rotation.Disabled))
	require.Equal(t, map[int]int{1: 30}, v.readable())
}

// exported is what a transit engine exports of a key of two versions.
const exported = `{"keys": {"2": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "3": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="}, "name": "cards", "type": "aes256-gcm96"}`

func TestAnImportKeepsTheNumbersOfItsVersions(t *testing.T) {
	t.Parallel()
	v := newVault(t, 0, nil)
	given := v.role(option.Values{"disable_automated_rotation": true})
	imported := func(name string) (*backend.RoleWritten, error) {
		return v.Engine().WriteRole(context.Background(), backend.Write{Name: name, Given: given, Secrets: secret.NewMap(map[string]string{"import_key": exported})})
	}
	_, err := imported("cards")
	require.NoError(t, err)
	s := v.stateOf("cards")
	require.Equal(t, 3, s.Current)
	require.Equal(t, []rotation.VersionState{rotation.Retiring, rotation.Current}, []rotation.VersionState{s.Versions[0].State, s.Versions[1].State})
	creds, err := v.Engine().Creds(context.Background(), "cards", backend.Actor{})
	require.NoError(t, err)
	require.Equal(t, []any{3, 2}, []any{creds.Data["latest_version"], creds.Data["min_decryption_version"]})
	require.NoError(t, v.Act(func(ctx context.Context, e *backend.Engine) error {
		r, err := e.Rotate(ctx, "cards", backend.RotateRequest{Wait: backend.Wait})
		if err == nil {
			require.Equal(t, 4, r.Version)
		}
		return err
	}))
	_, err = v.Engine().DeleteRole(context.Background(), "cards", true)
	require.NoError(t, err)
	_, err = imported("cards")
	requireKind(t, fault.Target, err, "had versions up to 4")
}

func TestAnImportThatFailedCanBeTriedAgain(t *testing.T) {
	t.Parallel()
	v := newVault(t, 0, nil)
	given := v.role(nil)
	write := func() error {
		_, err := v.Engine().WriteRole(context.Background(), backend.Write{Name: "cards", Given: given, Secrets: secret.NewMap(map[string]string{"import_key": exported})})
		return err
	}
	v.refuses.Store(true)
	require.Error(t, v.Act(func(context.Context, *backend.Engine) error { return write() }))
	v.refuses.Store(false)
	v.Wait(20 * time.Second)
	require.NotContains(t, fmt.Sprint(v.Disk.Snapshot()), "AQEBAQEB", "nothing of it is left")
	require.NoError(t, v.Act(func(context.Context, *backend.Engine) error { return write() }))
	require.Equal(t, 3, v.stateOf("cards").Current)
}

func TestARoleWhoseVersionsDecryptIsNotDeleted(t *testing.T) {
	t.Parallel()
	v := newVault(t, 1, nil)
	_, err := v.Engine().DeleteRole(context.Background(), app, false)
	requireKind(t, fault.Conflict, err, "versions 1 of app decrypt")
	requireKind(t, fault.Conflict, v.Engine().DeleteConnection(context.Background(), enginetest.ConnectionName), "in use by app")
	warnings, err := v.Engine().DeleteRole(context.Background(), app, true)
	require.NoError(t, err)
	require.Contains(t, fmt.Sprint(warnings), "version 1 was destroyed")
	require.NotContains(t, fmt.Sprint(v.Disk.Snapshot()), "billing.cards")
}
