package apikey

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

const (
	// searchFor is how long a key is looked for whose making was not confirmed: it may
	// appear late.
	searchFor = 24 * time.Hour
	// A key that a person ends may live on for some minutes: it is asked for often at
	// first, and then as often as nobody minds.
	askOften, askSeldom = 30 * time.Second, 15 * time.Minute
	often               = 10
)

// Retire implements rotator.Rotator. Where the provider can refuse a key and bring it back,
// the first stage does that and the second ends it; where it can only end it, the first
// stage does. Where no call ends it a person has to, which is done once the provider
// refuses it.
func (r *Rotator) Retire(ctx context.Context, t *rotator.Target, stage rotator.Stage) (rotator.Progress, error) {
	c, o, err := openKey(t)
	if err != nil {
		return rotator.Progress{}, err
	}
	can := c.abilities()
	switch {
	case t.Version.Lost() || t.Material == nil && !o.Endable:
		return rotator.Progress{}, nil // it was not made
	case !o.Endable || !can.Revoke && !can.Disable || sharesKey(t, o):
		return r.endByHand(ctx, c, t, stage)
	}
	if others, err := othersEnd(ctx, c, t, o); others != "" || err != nil {
		return rotator.Progress{NotYet: others, AskAgain: askSeldom, Person: true}, fault.In("look which keys would end with it", err)
	}
	switch {
	case stage == rotator.Destroy && !can.Revoke:
		return rotator.Progress{}, nil
	case stage == rotator.Disable && can.Disable:
		return endByCall(ctx, c, t, rotator.Progress{DestroyAfter: destroyAfter(t)}, func() (bool, error) { return c.disable(ctx, o.Reference) })
	default:
		return endByCall(ctx, c, t, rotator.Progress{}, func() (bool, error) { return c.revoke(ctx, o.Reference) })
	}
}

// endByCall ends a key. One that its provider does not know may be gone, or the connection
// leads to where it never was: then the key still works.
func endByCall(ctx context.Context, c *Connection, t *rotator.Target, done rotator.Progress, end func() (gone bool, err error)) (rotator.Progress, error) {
	gone, err := end()
	if err != nil || !gone || t.Material == nil {
		return done, fault.In("end the key", err)
	}
	key, err := keyOf(&t.Version, t.Material)
	if err != nil {
		return done, nil
	}
	answer, err := c.verify(ctx, key)
	switch {
	case fault.Is(err, fault.AuthFailed):
		return done, nil
	case err != nil:
		return rotator.Progress{}, fault.In("look whether the key is refused", err)
	}
	return rotator.Progress{
		NotYet: fmt.Sprintf("%s does not know %s any more, and still accepts it (%s): it was just ended, or the connection leads to another organization, project or place than before",
			c.title(), t.Version.Identifier, answer),
		AskAgain: askAgain(&t.Version),
	}, nil
}

// othersEnd says which keys would end with a key that a person handed in: somebody may have
// added them since. For one that leaked this is no reason to let it live.
func othersEnd(ctx context.Context, c *Connection, t *rotator.Target, o object) (string, error) {
	shares, ok := c.provider.(ownerShared)
	if !ok || !o.Handed || o.Reference.Owner == "" || t.Version.Compromised {
		return "", nil
	}
	others, err := shares.endsWith(ctx, o.Reference)
	if err != nil || others == "" {
		return "", err
	}
	return fmt.Sprintf("%s, which a person made, has further keys by now (%s), and they end only all together: move those elsewhere, or end the key by hand", o.Reference.Owner, others), nil
}

// ownerShared is a provider at which keys end together with what owns them.
type ownerShared interface {
	// endsWith names the other keys of a key's owner, "" for none.
	endsWith(ctx context.Context, r reference) (string, error)
}

// askAgain is the wait before a key is looked at again.
func askAgain(v *rotation.Version) time.Duration {
	if a := v.Attention; a == nil || a.Attempts < often {
		return askOften
	}
	return askSeldom
}

// EndedByHand implements rotator.HandEnded.
func (*Rotator) EndedByHand(v *rotation.Version) bool {
	o, err := objectOf(v)
	return err == nil && len(v.Object) > 0 && !o.Endable
}

// destroyAfter keeps a refused key for a rollback, but for one that leaked.
func destroyAfter(t *rotator.Target) time.Duration {
	if t.Version.Compromised {
		return 0
	}
	return optionsOf(t.Role).DestroyAfter.Std()
}

// sharesKey tells whether another version that is not over lives under the same id, as
// where a key changes in place: ending it by that id would end the other.
func sharesKey(t *rotator.Target, o object) bool {
	return slices.ContainsFunc(t.Others, func(other rotation.Version) bool {
		theirs, err := objectOf(&other)
		same := theirs.Reference.ID == o.Reference.ID && theirs.Reference.Owner == o.Reference.Owner
		return !other.State.Ended() && len(other.Object) > 0 && (err != nil || same)
	})
}

// endByHand looks whether the provider refuses a key that a person has to end, or that
// its successor ended.
func (*Rotator) endByHand(ctx context.Context, c *Connection, t *rotator.Target, stage rotator.Stage) (rotator.Progress, error) {
	if stage == rotator.Destroy {
		return rotator.Progress{}, nil
	}
	key, err := keyOf(&t.Version, t.Material)
	if err != nil {
		return rotator.Progress{Left: "its key was destroyed here, so whether it still works cannot be told"}, nil
	}
	answer, err := c.verify(ctx, key)
	if fault.Is(err, fault.AuthFailed) {
		if t.Current != nil { // else proving it waits for one
			_, err = accepted(ctx, c, t)
			return rotator.Progress{}, notAProof(err)
		}
		return rotator.Progress{}, nil
	}
	if err != nil {
		return rotator.Progress{}, fault.In("look whether the key is refused", err)
	}
	p := rotator.Progress{AskAgain: askAgain(&t.Version), Person: true}
	p.NotYet = fmt.Sprintf("%s still accepts it (%s): %s. A key that was just ended may live for some minutes", c.title(), answer, c.byHand().End)
	if t.Version.State == rotation.Retiring {
		p.NotYet += fmt.Sprintf("; write retire/%s with version=%d to look again at once", t.Role.Name, t.Version.Number)
	}
	return p, nil
}

// Discard implements rotator.Rotator. What a person handed in is theirs, and stays. A key
// whose making was not confirmed is looked for, for a day, by its name, which nobody else
// can give to theirs.
func (*Rotator) Discard(ctx context.Context, t *rotator.Target) (rotator.Progress, error) {
	c, o, err := openKey(t)
	if err != nil {
		return rotator.Progress{}, err
	}
	can := c.abilities()
	switch {
	case o.Handed:
		return rotator.Progress{}, nil
	case t.Version.Lost() && can.Create:
		return discardLost(ctx, c, t)
	case optionsOf(t.Role).Strategy == strategyInPlace:
		return undoReplace(&t.Version), nil
	case t.Version.Lost() || o.Endable && !can.Revoke:
		return rotator.Progress{
			NotYet:   fmt.Sprintf("connection %s has no call any more that would find or revoke %s: give it one, or look for the key at %s", t.Role.Connection, t.Version.Identifier, c.title()),
			AskAgain: askSeldom, Person: true,
		}, nil
	case !o.Endable:
		return rotator.Progress{}, nil // it was not made
	default:
		return endByCall(ctx, c, t, rotator.Progress{}, func() (bool, error) { return c.revoke(ctx, o.Reference) })
	}
}

func undoReplace(v *rotation.Version) rotator.Progress {
	if !v.HasMaterial {
		return rotator.Progress{}
	}
	return rotator.Progress{Left: "it took the place of the earlier key at the provider, which cannot be undone"}
}

func discardLost(ctx context.Context, c *Connection, t *rotator.Target) (rotator.Progress, error) {
	name := t.MarkKey.Name(t.Mark)
	revoke := func(r reference) error { _, err := c.revoke(ctx, r); return err }
	if err := endNamed("revoke", "a key", name, func() ([]found, error) { return c.find(ctx, name) }, revoke); err != nil {
		return rotator.Progress{}, err
	}
	age := t.Now.Sub(t.Version.MintBegun)
	if age >= searchFor {
		return rotator.Progress{}, nil
	}
	return rotator.Progress{
		NotYet:   fmt.Sprintf("the answer of the call that makes %s was lost: whatever appears under that name until %s is revoked", name, t.Version.MintBegun.Add(searchFor).Format(time.RFC3339)),
		AskAgain: min(max(age/4, askOften), searchFor-age, time.Hour),
	}, nil
}

// endNamed ends what was found of a name: what a call made whose answer was lost. Names that
// only begin so are others'.
func endNamed(verb, what, name string, find func() ([]found, error), end func(reference) error) error {
	keys, err := find()
	if err != nil {
		return fault.In(fmt.Sprintf("look for %s whose making was not confirmed", what), err)
	}
	for _, key := range keys {
		if key.Name != name {
			continue
		}
		if err := end(key.Reference); err != nil {
			return fault.In(fmt.Sprintf("%s %s whose making was not confirmed", verb, what), err)
		}
	}
	return nil
}
