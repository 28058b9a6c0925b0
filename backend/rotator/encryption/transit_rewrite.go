package encryption

import (
	"bytes"
	"context"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/reencrypt"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/vaultclient"
)

// transitRewriter lets transit rewrap values: no plaintext comes here, but of those with
// associated data, which its rewrap does not heed.
type transitRewriter struct {
	live    *rotator.LiveVersions
	version int
}

var _ reencrypt.BatchRewriter = (*transitRewriter)(nil)

func newTransitRewriter(live *rotator.LiveVersions) (reencrypt.Rewriter, error) {
	if live.Current == nil {
		return nil, fault.New(fault.NotFound, "role %q is deleted: nothing follows any more", live.Role.Name)
	}
	return &transitRewriter{live: live, version: live.Current.Version.Number}, nil
}

// Version implements reencrypt.Rewriter.
func (r *transitRewriter) Version() int { return r.version }

// Done implements reencrypt.Rewriter.
func (r *transitRewriter) Done() string { return prefixOf(r.version) }

// Rewrite implements reencrypt.Rewriter.
func (r *transitRewriter) Rewrite(_, _, _ []byte) ([]byte, error) {
	return nil, fault.New(fault.Internal, "transit is asked for many values at a time")
}

// RewriteAll implements reencrypt.BatchRewriter. It looks first that the version still is the
// latest: what applications store by a later one would never become less.
func (r *transitRewriter) RewriteAll(ctx context.Context, values []reencrypt.Value) ([]reencrypt.Rewritten, error) {
	key, state, err := remoteKey(ctx, r.live.Conn, r.live.Role)
	if err != nil {
		return nil, err
	}
	if state.Latest != r.version {
		return nil, fault.New(fault.Conflict, "%s: rotate this role, or reconcile it, so that it takes them over", foreign(key, state, r.version))
	}
	b := &transitBatch{out: make([]reencrypt.Rewritten, len(values)), derived: state.Derived}
	for i, v := range values {
		b.add(i, v)
	}
	if err := b.rewrite(ctx, key, r.version); err != nil {
		return nil, err
	}
	for i := range b.out {
		if b.out[i].Err == nil && !bytes.HasPrefix(b.out[i].Value, []byte(r.Done())) {
			return nil, fault.New(fault.Target, "the key %s was asked for version %d, and answered a value of another", key.Path(), r.version)
		}
	}
	return b.out, nil
}

// transitBatch are values on their way: those that transit rewraps, and those that it has
// to decrypt and encrypt, with their places.
type transitBatch struct {
	out              []reencrypt.Rewritten
	derived          bool
	plain, bound     []vaultclient.Value
	plainAt, boundAt []int
}

// add sorts a value. One that is no ciphertext is not sent.
func (b *transitBatch) add(i int, v reencrypt.Value) {
	if _, _, err := parse(v.Value); err != nil {
		b.out[i].Err = err
		return
	}
	value := vaultclient.Value{Text: secret.New(string(v.Value)), AssociatedData: v.AssociatedData}
	switch {
	case b.derived && len(v.Context) == 0:
		b.out[i].Err = fault.Field("context", "is required: the key is a derived one, and the row has none")
		return
	case b.derived: // without derivation a context has no effect
		value.Context = v.Context
	}
	if len(v.AssociatedData) == 0 {
		b.plain, b.plainAt = append(b.plain, value), append(b.plainAt, i)
		return
	}
	b.bound, b.boundAt = append(b.bound, value), append(b.boundAt, i)
}

func (b *transitBatch) rewrite(ctx context.Context, key *vaultclient.TransitKey, version int) error {
	made, err := key.Rewrap(ctx, version, b.plain)
	if err != nil {
		return err
	}
	b.take(b.plainAt, made)
	opened, err := key.Decrypt(ctx, b.bound)
	if err != nil {
		return err
	}
	again, places := []vaultclient.Value{}, []int{}
	for n, place := range b.boundAt {
		if b.out[place].Err = refusedValue(opened[n]); b.out[place].Err == nil {
			again, places = append(again, vaultclient.Value{Text: opened[n].Text, Context: b.bound[n].Context, AssociatedData: b.bound[n].AssociatedData}), append(places, place)
		}
	}
	if made, err = key.Encrypt(ctx, version, again); err != nil {
		return err
	}
	b.take(places, made)
	return nil
}

func (b *transitBatch) take(places []int, made []vaultclient.Result) {
	for n, place := range places {
		b.out[place] = reencrypt.Rewritten{Value: []byte(made[n].Text.Reveal()), Err: refusedValue(made[n])}
	}
}

func refusedValue(r vaultclient.Result) error {
	if r.Refused == "" {
		return nil
	}
	return fault.Field(ciphertextField, "transit refuses it: %s", r.Refused)
}
