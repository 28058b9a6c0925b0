package backend_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend"
	transitvault "github.com/intelliflow/vault-plugin-secrets-rotation/backend/dependent/vault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/enginetest"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator/encryption"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/faketransit"
)

// Of a role whose key is transit's: applications encrypt and decrypt there, whatever the
// role's journal says, and a rotation there cannot be taken back.

const transitName = "data"

// transitKind is a connection to a Vault, beside which rows lie.
type transitKind struct {
	*transitvault.ConnectionKind
	rows   *memoryRows
	faults *enginetest.Faults
}

func (k transitKind) Database(rotator.Connection) (reencrypt.Database, error) {
	return faultyRows{k.rows.db, k.faults}, nil
}

// transitPlay is a play of such a role.
type transitPlay struct {
	*enginetest.Play
	transit *faketransit.Server
	rows    *memoryRows
	written map[string]string
	turn    int
}

// act is a turn of the application: it reads all rows, and writes one.
func (tp *transitPlay) act() error {
	const count = 12
	for id := 1; id <= count; id++ {
		text := tp.rows.get(key(id))
		if text == "" {
			continue
		}
		got, err := tp.transit.Decrypt(transitName, text, nil)
		if err != nil || got != tp.written[key(id)[0]] {
			return fault.New(fault.AuthFailed, "row %d of %.12s is %q (%v), and should be %q", id, text, got, err, tp.written[key(id)[0]])
		}
	}
	tp.turn++
	id := tp.turn%count + 1
	if tp.turn > count {
		id = tp.turn%(count/2) + 1 // the others are written once
	}
	plain := fmt.Sprintf("row %d, turn %d", id, tp.turn)
	if tx := tp.rows.begin(key(id), tp.transit.Encrypt(transitName, plain, nil)); tx != nil {
		tx.commit()
		tp.written[key(id)[0]] = plain
	}
	return nil
}

// decrypting are the identifiers of the versions that transit decrypts.
func (tp *transitPlay) decrypting() (out []string, err error) {
	latest, least, _ := tp.transit.State(transitName)
	for n := least; n <= latest; n++ {
		name := fmt.Sprintf("version %d, of which nothing is known", n)
		if v := tp.State().Version(n); v != nil {
			name = v.Identifier
		}
		out = append(out, name)
	}
	return out, nil
}

var transitRole = option.Values{
	"backend": enginetest.ConnectionName + "/transit/" + transitName, "reencrypt_after": int64(40), "settle_period": int64(60), "destroy_after": int64(120),
	"disable_automated_rotation": true,
}

func newTransitPlay(t *testing.T, versions int) (*transitPlay, *enginetest.Stage) {
	t.Helper()
	tp := &transitPlay{transit: faketransit.New(), rows: newMemoryRows(), written: map[string]string{}}
	t.Cleanup(tp.transit.Close)
	tp.transit.Create(transitName, versions, false)
	return tp, &enginetest.Stage{
		Begin:   func(p *enginetest.Play) { tp.Play = p },
		Rotator: func(*enginetest.Faults) rotator.Rotator { return encryption.New() },
		Connection: func(f *enginetest.Faults) rotator.ConnectionKind {
			kind := &transitvault.ConnectionKind{RetryWait: time.Millisecond, Now: tp.Clock.Now}
			kind.Transport = func(inner http.RoundTripper) http.RoundTripper { return faultyTransport{inner, f} }
			return transitKind{kind, tp.rows, f}
		},
		Address: option.Values{
			"address": tp.transit.URL, "allow_insecure_http": true, "auth": "token", "allowed_paths": []string{"transit/*"},
		},
		Secrets: secret.NewMap(map[string]string{"token": faketransit.Token}),
		Role:    transitRole,
		Login:   func(map[string]any) error { return tp.act() },
		Objects: tp.decrypting,
		Rests: func() bool {
			job := tp.State().Reencryption
			return job == nil || job.Phase == rotation.Over
		},
		Step: 4 * time.Second, Quiet: 20 * time.Minute,
	}
}

func transitStage(versions int) func(*testing.T) *enginetest.Stage {
	return func(t *testing.T) *enginetest.Stage {
		_, stage := newTransitPlay(t, versions)
		return stage
	}
}

var transitScenarios = []enginetest.Scenario{
	{Name: "rotate, and the data follows", AtLeast: 60, Run: func(p *enginetest.Play) {
		withTarget(p, nil)
		p.Rotate()
		p.Wait(8 * time.Minute)
	}},
	{Name: "emergency", AtLeast: 60, Run: func(p *enginetest.Play) {
		withTarget(p, nil)
		p.Emergency(false)
		p.Wait(8 * time.Minute)
	}},
}

// TestTransitCrashAnywhere: each request to transit, each act on the rows and each storage
// write fails, loses its answer, and is the last act of the process. At the end transit
// decrypts with the current version alone, and no row was ever out of reach.
func TestTransitCrashAnywhere(t *testing.T) {
	t.Parallel()
	enumerate(t, transitStage(1), transitScenarios)
}

// A database that did not count would let min_decryption_version rise above rows: the
// application must notice.
func TestTransitEnumerationFindsAMissingCount(t *testing.T) {
	t.Parallel()
	blind := func(t *testing.T) *enginetest.Stage {
		tp, stage := newTransitPlay(t, 1)
		sees := stage.Connection
		stage.Connection = func(f *enginetest.Faults) rotator.ConnectionKind {
			return blindTransit{sees(f).(transitKind), blindKind{rowsKind{tp.rows.db}}}
		}
		return stage
	}
	require.NotEmpty(t, enginetest.FindsBug(t, blind, transitScenarios[0], enginetest.Modes...), "a version ended under rows that it made")
}

type blindTransit struct {
	transitKind
	blind blindKind
}

func (k blindTransit) Database(conn rotator.Connection) (reencrypt.Database, error) {
	return k.blind.Database(conn)
}

// An application that goes on with a key of several versions: they come along.
func TestTransitKeyThatExists(t *testing.T) {
	t.Parallel()
	tp, stage := newTransitPlay(t, 5)
	tp.transit.SetMinDecryption(transitName, 3)
	p := enginetest.NewPlay(stage, enginetest.NewFaults(enginetest.None, 0))
	withTarget(p, nil)
	require.Equal(t, 5, p.Current(), "the latest is taken as it is")
	latest, least, rotations := tp.transit.State(transitName)
	require.Equal(t, []int{5, 3, 0}, []int{latest, least, rotations})
	require.Equal(t, []int{3, 4, 5}, numbersOf(p.State()))
	p.Wait(8 * time.Minute)
	latest, least, _ = tp.transit.State(transitName)
	require.Equal(t, []int{5, 5}, []int{latest, least}, "nothing is left of the earlier ones")
	p.Rotate()
	require.Equal(t, 6, p.Current())
	require.Empty(t, p.End(false))
	_, _, rotations = tp.transit.State(transitName)
	require.Equal(t, 1, rotations)
}

func numbersOf(s *rotation.State) (numbers []int) {
	for i := range s.Versions {
		numbers = append(numbers, s.Versions[i].Number)
	}
	slices.Sort(numbers)
	return numbers
}

// Whoever rotates the key by hand is noticed, and what that made is taken over.
func TestTransitKeyRotatedByHand(t *testing.T) {
	t.Parallel()
	tp, stage := newTransitPlay(t, 1)
	stage.Step = time.Minute // days pass
	p := enginetest.NewPlay(stage, enginetest.NewFaults(enginetest.None, 0))
	withTarget(p, nil)
	tp.transit.Rotate(transitName)
	tp.transit.Rotate(transitName)
	for range 30 {
		p.Wait(time.Hour)
	}
	d := p.State().Divergence
	require.NotNil(t, d)
	require.Contains(t, d.Reason, "somebody else rotated the key transit/data: its latest version is 3, which this role does not have, and not 1")
	require.NoError(t, p.Act(func(ctx context.Context, e *backend.Engine) error {
		_, err := e.Reconcile(ctx, app, backend.RotateRequest{Wait: time.Minute})
		return err
	}))
	p.Wait(time.Minute)
	require.Equal(t, 4, p.Current())
	require.Equal(t, []int{1, 2, 3, 4}, numbersOf(p.State()))
	require.Empty(t, p.End(false))
	latest, least, _ := tp.transit.State(transitName)
	require.Equal(t, []int{4, 4}, []int{latest, least})
}

// The rotation that comes next takes over, too, where nobody looked since, and a pass that
// runs meanwhile stops.
func TestTransitKeyRotatedByHandJustBefore(t *testing.T) {
	t.Parallel()
	tp, stage := newTransitPlay(t, 1)
	p := enginetest.NewPlay(stage, enginetest.NewFaults(enginetest.None, 0))
	withTarget(p, nil)
	p.Rotate()
	tp.transit.Rotate(transitName)
	p.Wait(2 * time.Minute)
	require.Contains(t, p.State().Reencryption.Trouble, "somebody else rotated the key transit/data: its latest version is 3, which this role does not have, and not 2")
	p.Rotate()
	require.Equal(t, 4, p.Current())
	require.Empty(t, p.End(false))
}

// What such a role does not do it says.
func TestTransitRoleRefuses(t *testing.T) {
	t.Parallel()
	tp, stage := newTransitPlay(t, 1)
	stage.Step = time.Minute // days pass
	p := enginetest.NewPlay(stage, enginetest.NewFaults(enginetest.None, 0))
	t.Cleanup(p.Close)
	withTarget(p, nil)
	first := p.Current()
	p.Rotate()
	ctx, e := t.Context(), p.Engine()
	_, err := e.Rollback(ctx, app, backend.RollbackRequest{Version: first})
	requireKind(t, fault.Conflict, err, "cannot roll back to version 1: a transit key's latest version cannot go back")
	_, err = e.Use(ctx, app, encryption.EncryptRequest{Items: []encryption.EncryptItem{{Plaintext: "eA=="}}})
	requireKind(t, fault.Invalid, err, `call transit of connection "main" directly, with the key transit/data`)
	requireKind(t, fault.Conflict, e.DeleteConnection(ctx, enginetest.ConnectionName), `connection "main" is in use by app`)
	_, err = e.WriteRole(ctx, backend.Write{Name: app, Given: option.Values{"backend": "main/transit/other"}})
	requireKind(t, fault.Invalid, err, "backend: cannot be changed once the role exists: make another role")
	lines, err := e.Preflight(ctx, app)
	require.NoError(t, err)
	var said []string
	for _, line := range lines {
		said = append(said, line.Check+": "+string(line.Result)+": "+line.Detail)
	}
	require.Contains(t, strings.Join(said, "\n"), "backend: pass: the key transit/data is of type aes256-gcm96, at version 2, and decrypts from version ")
	require.Contains(t, strings.Join(said, "\n"), "the rotation cannot be undone: a transit key's latest version cannot go back")

	// A new role of the name, after it was deleted, takes the key as it is.
	_, err = e.DeleteRole(ctx, app, false)
	require.NoError(t, err)
	for range 20 {
		p.Wait(time.Hour)
	}
	latest, least, _ := tp.transit.State(transitName)
	require.Equal(t, 2, latest, "the key outlives the role")
	p.Create(nil)
	require.Equal(t, 2, p.Current())
	require.Len(t, numbersOf(p.State()), 3-least, "what still decrypts comes along")
}

// Whoever writes rows cannot move numbers by what looks like a later version's.
func TestTransitIgnoresNumbersThatRowsMakeUp(t *testing.T) {
	t.Parallel()
	tp, stage := newTransitPlay(t, 1)
	p := enginetest.NewPlay(stage, enginetest.NewFaults(enginetest.None, 0))
	withTarget(p, nil)
	p.Rotate()
	made := tp.rows.begin(key(99), "vault:v900:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	made.commit()
	p.Wait(8 * time.Minute)
	require.Equal(t, 900, p.State().Highest)
	p.Rotate()
	require.Equal(t, 3, p.Current())
	latest, least, _ := tp.transit.State(transitName)
	require.Equal(t, []int{3, 1}, []int{latest, least}, "nobody knows what it is, so nothing ends")
	p.Close()
}

func TestTransitRolesThatAreRefused(t *testing.T) {
	t.Parallel()
	tp, stage := newTransitPlay(t, 1)
	p := enginetest.NewPlay(stage, enginetest.NewFaults(enginetest.None, 0))
	t.Cleanup(p.Close)
	p.Connect()
	write := func(given option.Values, secrets map[string]string) error {
		all := option.Values{"type": "encryption-key"}
		for name, value := range given {
			all[name] = value
		}
		_, err := p.Engine().WriteRole(t.Context(), backend.Write{Name: "other", Given: all, Secrets: secret.NewMap(secrets)})
		return err
	}
	for _, c := range []struct {
		given   option.Values
		secrets map[string]string
		kind    fault.Kind
		want    string
	}{
		{option.Values{"backend": "main"}, nil, fault.Invalid, "backend: must be <connection>/<mount>/<key>, such as self/transit/intelliflow-data"},
		{option.Values{"backend": "/transit/x"}, nil, fault.Invalid, "backend: must be <connection>/<mount>/<key>"},
		{option.Values{"backend": "none/transit/x"}, nil, fault.Invalid, `connection: there is no connection "none": write connections/none first`},
		{option.Values{"backend": "main/secret/x"}, nil, fault.Invalid, `backend: the connection does not admit "secret/x": none of its allowed_paths fits`},
		{option.Values{"backend": "main/transit/../x"}, nil, fault.Invalid, "must not have . or .."},
		{option.Values{"backend": "main/transit/data", "connection": "other"}, nil, fault.Invalid, `connection: is named by another field, as "main": leave it out`},
		{option.Values{"backend": "main/transit/data", "exportable": true}, nil, fault.Invalid, "exportable: must be left out where backend names a key"},
		{option.Values{"backend": "main/transit/data", "key_type": "aes256-gcm96"}, nil, fault.Invalid, "key_type: must be left out where backend names a key"},
		{option.Values{"backend": "main/transit/data"}, map[string]string{"import_key": "eA=="}, fault.Invalid, "backend: excludes import_key and backup"},
		{option.Values{"backend": "main/transit/missing"}, nil, fault.Target, "there is no key transit/missing: make it with vault write -f transit/keys/missing"},
		{option.Values{"connection": "main"}, nil, fault.Invalid, "connection: is not a field of type encryption-key: it needs none"},
	} {
		requireKind(t, c.kind, write(c.given, c.secrets), c.want)
	}
	p.Create(nil)
	requireKind(t, fault.Invalid, write(option.Values{"backend": "main/transit/data"}, nil), `backend: main/transit/data is what the role "app" has: it can be of one role alone`)
	tp.transit.Create("more", 1, false)
	tp.transit.AutoRotate(3600)
	requireKind(t, fault.Target, write(option.Values{"backend": "main/transit/more"}, nil), "transit rotates the key transit/more by itself every 1h0m0s, beside this role: set auto_rotate_period=0 there")
	_, _, rotations := tp.transit.State(transitName)
	require.Zero(t, rotations)
}

// A key that lost versions stops the role, and says what to do.
func TestTransitKeyThatLostVersions(t *testing.T) {
	t.Parallel()
	tp, stage := newTransitPlay(t, 3)
	p := enginetest.NewPlay(stage, enginetest.NewFaults(enginetest.None, 0))
	t.Cleanup(p.Close)
	p.Create(nil)
	tp.transit.Create(transitName, 2, false)
	tp.written = map[string]string{}
	require.NoError(t, tp.rows.cards.Put(key(1), nil))
	r, err := p.Engine().Rotate(t.Context(), app, backend.RotateRequest{Wait: time.Minute})
	require.NoError(t, err)
	require.Equal(t, rotation.Failed, r.Outcome)
	require.Contains(t, r.Error.Message, "the key transit/data is at version 2, and this role knows version 3 of it: that Vault was restored from an older state")
	_, _, rotations := tp.transit.State(transitName)
	require.Zero(t, rotations)
}
