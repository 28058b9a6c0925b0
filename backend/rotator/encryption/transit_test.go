package encryption

import (
	"context"
	"encoding/base64"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/option"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/vaultclient"
	"github.com/intelliflow/vault-plugin-secrets-rotation/tests/faketransit"
)

// remote is a role whose key is transit's.
type remote struct {
	*faketransit.Server
	conn *vaultclient.Client
	role *rotator.Role
}

func newRemote(t *testing.T, versions int, derived bool) *remote {
	t.Helper()
	r := &remote{Server: faketransit.New()}
	t.Cleanup(r.Close)
	r.Create("data", versions, derived)
	client, err := vaultclient.New(vaultclient.Options{
		Address: r.URL, AllowInsecureHTTP: true, RetryWait: time.Millisecond, Credential: vaultclient.Credential{Token: secret.New(faketransit.Token)},
	})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	r.conn = client
	r.role = &rotator.Role{
		Name: "app", Values: option.Values{"backend": "self/transit/data"}, Connection: "self",
		ConnectionValues: option.Values{"allowed_paths": []any{"transit/*"}},
	}
	return r
}

func (r *remote) target(number int, state rotation.VersionState, others ...rotation.Version) *rotator.Target {
	about := transitVersion{object: object{KeyType: "aes256-gcm96"}, Transit: "self/transit/data", Before: number - 1}
	c, err := about.candidate(number)
	if err != nil {
		panic(err)
	}
	v := rotation.Version{Number: number, State: state, Object: c.Object, KeepsData: true, HasMaterial: true}
	return &rotator.Target{Role: r.role, Conn: r.conn, Version: v, Material: c.Material, Others: others}
}

func used(number int, state rotation.VersionState) rotation.Version {
	return rotation.Version{Number: number, State: state, ActivatedTime: time.Unix(1, 0), KeepsData: true}
}

func TestTransitPlan(t *testing.T) {
	r, ctx := newRemote(t, 5, true), t.Context()
	r.SetMinDecryption("data", 3)
	require.NoError(t, New().CheckRole(nil, r.role))
	plan := func(next int, others ...rotation.Version) (numbers []int, c *rotator.Candidate) {
		t.Helper()
		c, err := New().Plan(ctx, &rotator.Target{Role: r.role, Conn: r.conn, Version: rotation.Version{Number: next, State: rotation.Pending}, Others: others})
		require.NoError(t, err)
		for i := range c.Earlier {
			numbers = append(numbers, c.Earlier[i].Number)
		}
		return append(numbers, c.Number), c
	}
	numbers, c := plan(1)
	require.Equal(t, []int{3, 4, 5}, numbers, "a new role takes what there is")
	require.NotContains(t, string(c.Object), "key\":", "no key material")
	rendered, err := New().Render(&rotator.Target{Role: r.role, Version: rotation.Version{Number: 5, State: rotation.Current, Object: c.Object}, Material: c.Material})
	require.NoError(t, err)
	require.Equal(t, map[string]any{"key_type": "aes256-gcm96", "derived": true, "latest_version": 5, "min_decryption_version": 5}, rendered)

	numbers, _ = plan(40)
	require.Equal(t, []int{3, 4, 5}, numbers, "numbers are transit's, whatever was given or seen here")
	numbers, _ = plan(6, used(3, rotation.Retiring), used(4, rotation.Retiring), used(5, rotation.Current))
	require.Equal(t, []int{6}, numbers)
	numbers, _ = plan(5, used(3, rotation.Disabled), used(4, rotation.Current))
	require.Equal(t, []int{5, 6}, numbers, "somebody else made version 5")
	gone := func(number int) rotation.Version {
		return rotation.Version{Number: number, State: rotation.Discarded}
	}
	numbers, _ = plan(7, used(3, rotation.Disabled), used(4, rotation.Disabled), used(5, rotation.Current), gone(6))
	require.Equal(t, []int{7}, numbers, "what was given up stays so")
	many := []rotation.Version{used(5, rotation.Current)}
	for n := 6; n < 20; n++ {
		many = append(many, gone(n))
	}
	_, err = New().Plan(ctx, &rotator.Target{Role: r.role, Conn: r.conn, Others: many})
	require.ErrorContains(t, err, "the key transit/data is at version 5, and the next one free in this role is 20: rotate it there by hand until it has that")
	require.Zero(t, rotations(r))
}

func rotations(r *remote) int {
	_, _, n := r.State("data")
	return n
}

// However often Prepare is called, the key is rotated once.
func TestTransitPrepare(t *testing.T) {
	r, ctx := newRemote(t, 1, false), t.Context()
	target := r.target(2, rotation.Pending, used(1, rotation.Current))
	require.Equal(t, fault.Target, fault.KindOf(New().Verify(ctx, target)), "not there yet")
	p, err := New().Discard(ctx, target)
	require.NoError(t, err)
	require.Empty(t, p.Left)
	for range 3 {
		require.NoError(t, New().Prepare(ctx, target))
		require.NoError(t, New().Verify(ctx, target))
	}
	require.Equal(t, 1, rotations(r))
	p, err = New().Discard(ctx, target)
	require.NoError(t, err)
	require.Contains(t, p.Left, "transit keeps version 2 of the key, which it cannot take back")

	r.Rotate("data")
	r.SetMinDecryption("data", 3)
	requireSays(t, New().Verify(ctx, target), fault.Unreachable, "its min_decryption_version is 3")
	r.SetMinDecryption("data", 1)
	require.NoError(t, New().Verify(ctx, target), "a candidate goes on beside what somebody else did")
	target.Version.State = rotation.Current
	requireSays(t, New().Verify(ctx, target), fault.Target, "somebody else rotated the key transit/data: its latest version is 3, which this role does not have, and not 2")
	r.Create("data", 0, false)
	requireSays(t, New().Prepare(ctx, r.target(2, rotation.Pending)), fault.Unreachable, "does not have the documented form")
	r.Delete("data")
	requireSays(t, New().Verify(ctx, target), fault.Target, "there is no key transit/data")
}

func requireSays(t *testing.T, err error, kind fault.Kind, part string) {
	t.Helper()
	require.ErrorContains(t, err, part)
	require.Equal(t, kind, fault.KindOf(err), err.Error())
}

// What is wrong with the connection says nothing of a version.
func TestTransitThatRefusesUs(t *testing.T) {
	r, ctx := newRemote(t, 2, false), t.Context()
	client, err := vaultclient.New(vaultclient.Options{Address: r.URL, AllowInsecureHTTP: true, Credential: vaultclient.Credential{Token: secret.New("hvs.other")}})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	r.conn = client
	target := r.target(2, rotation.Current)
	for _, do := range []func(context.Context, *rotator.Target) error{New().Prepare, New().Verify} {
		requireSays(t, do(ctx, target), fault.Unreachable, "403 Forbidden")
	}
	_, err = New().Plan(ctx, target)
	requireSays(t, err, fault.Target, "403 Forbidden")
}

func TestTransitRetireAndProbe(t *testing.T) {
	r, ctx := newRemote(t, 4, true), t.Context()
	text := r.Encrypt("data", "x", []byte("c"))
	retire := func(target *rotator.Target) rotator.Progress {
		t.Helper()
		p, err := New().Retire(ctx, target, rotator.Disable)
		require.NoError(t, err)
		return p
	}
	least := func() int {
		_, n, _ := r.State("data")
		return n
	}
	current := used(4, rotation.Current)
	second, first := r.target(2, rotation.Retiring, used(1, rotation.Retiring), used(3, rotation.Retiring), current), r.target(1, rotation.Retiring, used(2, rotation.Retiring), used(3, rotation.Retiring), current)
	proof, err := New().Probe(ctx, second)
	require.NoError(t, err)
	require.True(t, proof.Alive && !proof.Dead, proof.Result)

	p := retire(second)
	require.Equal(t, "transit ends versions from the lowest on, and version 1 has not ended here", p.NotYet)
	require.Equal(t, 1, least())
	require.Empty(t, retire(first))
	require.Equal(t, 2, least())
	unknown := r.target(2, rotation.Retiring, used(1, rotation.Disabled), used(5, rotation.Current))
	r.Rotate("data")
	require.Empty(t, retire(unknown))
	require.Equal(t, 3, least(), "no further than to a version of which nothing is known")
	r.SetMinDecryption("data", 2)
	second.Others[0].State = rotation.Disabled
	require.Empty(t, retire(second))
	require.Equal(t, 3, least())
	require.Empty(t, retire(first), "done is done")
	proof, err = New().Probe(ctx, second)
	require.NoError(t, err)
	require.True(t, proof.Dead, proof.Result)
	require.Equal(t, "transit refuses version 2 (ciphertext or signature version is disallowed by policy (too old)); what version 5 encrypts is rewrapped", proof.Result)
	_, err = r.Decrypt("data", text, []byte("c"))
	require.NoError(t, err)

	deleted := r.target(3, rotation.Retiring, current)
	deleted.Version.KeepsData = false
	require.Contains(t, retire(deleted).Left, "transit keeps version 3 of the key, which outlives this role")
	require.Equal(t, 3, least())
	proof, err = New().Probe(ctx, deleted)
	require.NoError(t, err)
	require.True(t, proof.Unprovable)
}

func TestTransitRewriter(t *testing.T) {
	for _, derived := range []bool{false, true} {
		r, ctx := newRemote(t, 1, derived), t.Context()
		context := []byte("row 1")
		old := r.Encrypt("data", "secret", context)
		bound := boundTo(t, r, context, "row 7")
		r.Rotate("data")
		live := &rotator.LiveVersions{Role: r.role, Conn: r.conn, Current: &rotator.Live{Version: used(2, rotation.Current)}}
		rewriter, err := New().Rewriter(live)
		require.NoError(t, err)
		require.Equal(t, "vault:v2:", rewriter.Done())
		batch := rewriter.(reencrypt.BatchRewriter)
		made, err := batch.RewriteAll(ctx, []reencrypt.Value{
			{Value: []byte(old), Context: context},
			{Value: []byte("no ciphertext")},
			{Value: []byte(bound), Context: context, AssociatedData: []byte("row 7")},
			{Value: []byte(bound), Context: context, AssociatedData: []byte("row 8")},
			{Value: []byte(old[:len(old)-8] + "AAAAAAA="), Context: context},
			{Value: []byte(old)},
		})
		require.NoError(t, err)
		plain, err := r.Decrypt("data", string(made[0].Value), context)
		require.NoError(t, err)
		require.Equal(t, "secret", plain)
		require.ErrorContains(t, made[1].Err, "is not of this form")
		require.Equal(t, "bound", openBound(t, r, string(made[2].Value), context, "row 7"), "what is bound to its row stays so")
		require.ErrorContains(t, made[3].Err, "transit refuses it")
		require.ErrorContains(t, made[4].Err, "transit refuses it")
		if derived {
			require.ErrorContains(t, made[5].Err, "context: is required")
		} else {
			require.NoError(t, made[5].Err)
		}
		r.Rotate("data")
		_, err = batch.RewriteAll(ctx, []reencrypt.Value{{Value: []byte(old), Context: context}})
		requireSays(t, err, fault.Conflict, "somebody else rotated the key transit/data: its latest version is 3, which this role does not have, and not 2: rotate this role, or reconcile it")
	}
}

func boundTo(t *testing.T, r *remote, context []byte, associated string) string {
	t.Helper()
	key, err := r.conn.TransitKey(t.Context(), "transit/data")
	require.NoError(t, err)
	made, err := key.Encrypt(t.Context(), 1, []vaultclient.Value{{Text: secret.New("bound"), Context: context, AssociatedData: []byte(associated)}})
	require.NoError(t, err)
	return made[0].Text.Reveal()
}

func openBound(t *testing.T, r *remote, text string, context []byte, associated string) string {
	t.Helper()
	key, err := r.conn.TransitKey(t.Context(), "transit/data")
	require.NoError(t, err)
	made, err := key.Decrypt(t.Context(), []vaultclient.Value{{Text: secret.New(text), Context: context, AssociatedData: []byte(associated)}})
	require.NoError(t, err)
	require.Empty(t, made[0].Refused)
	return made[0].Text.Reveal()
}

func TestTransitRoleAnswersNoRequest(t *testing.T) {
	r := newRemote(t, 1, false)
	about := base64.StdEncoding.EncodeToString([]byte("x"))
	for _, request := range []any{
		EncryptRequest{Items: []EncryptItem{{Plaintext: about}}}, DecryptRequest{}, RewrapRequest{}, DataKeyRequest{Bits: 256},
	} {
		_, err := New().Use(t.Context(), &rotator.LiveVersions{Role: r.role, Current: &rotator.Live{Version: used(1, rotation.Current)}}, request)
		requireSays(t, err, fault.Invalid, `the keys of role "app" are those of transit, and only that uses them: call transit of connection "self" directly, with the key transit/data`)
	}
	require.Contains(t, New().Warnings(r.role)[0], "transit has no way to take a version back")
}
