package apikey

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// Prepare implements rotator.Rotator: a key is valid from its making on; one that was
// disabled is brought back.
func (*Rotator) Prepare(ctx context.Context, t *rotator.Target) error {
	c, o, err := openKey(t)
	if err != nil {
		return err
	}
	if t.Material[keyName].Empty() {
		return fault.New(fault.Target, "the key of version %d was destroyed here", t.Version.Number)
	}
	if !o.Reversible {
		return nil
	}
	if !c.abilities().Disable {
		return fault.New(fault.Target, "connection %s has no call any more that brings a key back: see its definition", t.Role.Connection)
	}
	return fault.In("bring the key back", c.enable(ctx, o.Reference))
}

// Verify implements rotator.Rotator. A key that was just made may be refused at first.
func (*Rotator) Verify(ctx context.Context, t *rotator.Target) error {
	c, err := open(t)
	if err != nil {
		return err
	}
	key, err := keyOf(&t.Version, t.Material)
	if err != nil {
		return err
	}
	if err := lastsLongEnough(t); err != nil {
		return err
	}
	return fault.In("verify the key", verifyNew(ctx, c, &t.Version, key, t.Now))
}

// lastsLongEnough refuses a new key that its provider ends while readers may still hold it.
func lastsLongEnough(t *rotator.Target) error {
	o, err := objectOf(&t.Version)
	if err != nil || t.Version.State != rotation.Pending || o.Reference.Expires.IsZero() {
		return err
	}
	needed := t.Now.Add(t.Role.Interval + t.Role.Grace)
	if !o.Reference.Expires.Before(needed) {
		return nil
	}
	return fault.New(fault.Target, "the provider ends the new key at %s, before its time here is over (%s): let keys live longer there, or rotate more often",
		o.Reference.Expires.UTC().Format(time.RFC3339), needed.UTC().Format(time.RFC3339))
}

// verifyNew repeats the proof of a new key for as long as its provider may take to learn
// of it.
func verifyNew(ctx context.Context, c *Connection, v *rotation.Version, key secret.String, now time.Time) error {
	left := c.abilities().Propagation
	if v.State != rotation.Pending || v.MintBegun.IsZero() || now.Sub(v.MintBegun) > left {
		left = 0
	}
	return untilAccepted(ctx, left, func() error {
		_, err := c.verify(ctx, key)
		return err
	})
}

// untilAccepted repeats a proof for as long as the provider may take to learn of a key; 0
// for once. Anything but its refusal ends that.
func untilAccepted(ctx context.Context, within time.Duration, prove func() error) error {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval = 200*time.Millisecond, 5*time.Second
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := prove()
		if err != nil && (within == 0 || !fault.Is(err, fault.AuthFailed)) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithBackOff(b), backoff.WithMaxElapsedTime(within))
	return err
}

// Restorable implements rotator.Restorer. A key that a person is still to end is alive
// until they do: Verify tells.
func (*Rotator) Restorable(t *rotator.Target) string {
	o, err := objectOf(&t.Version)
	waits := t.Version.State == rotation.Retiring
	switch {
	case err != nil:
		return err.Error()
	case optionsOf(t.Role).Strategy == strategyInPlace:
		return "a key that is changed in place ends the earlier one, which cannot be brought back"
	case o.Reversible && (waits || t.Version.State == rotation.Disabled), !o.Endable && waits:
		return ""
	case o.Endable:
		return "its key was revoked at the provider, which cannot be undone"
	default:
		return "its key was ended at the provider by hand, which cannot be undone"
	}
}

// Probe implements rotator.Prober: the provider refuses the old key, and accepts the
// current one on the same path a moment later. Where there is no current one, the
// connection's own credential stands in for it, if it has one.
func (*Rotator) Probe(ctx context.Context, t *rotator.Target) (rotator.Proof, error) {
	c, err := open(t)
	if err != nil {
		return rotator.Proof{}, err
	}
	key, err := keyOf(&t.Version, t.Material)
	if err != nil {
		return rotator.Proof{}, fault.New(fault.Target, "version %d cannot be probed: its key was destroyed here", t.Version.Number)
	}
	answer, err := c.verify(ctx, key)
	if err == nil {
		return rotator.Proof{Alive: true, Result: fmt.Sprintf("%s still accepts it (%s): a key that was just ended may live for some minutes", c.title(), answer)}, nil
	}
	if !fault.Is(err, fault.AuthFailed) {
		return rotator.Proof{}, fault.In("probe the old key", err)
	}
	refusal := err.Error()
	witness, err := accepted(ctx, c, t)
	if errors.Is(err, errNoWitness) {
		return rotator.Proof{
			Unprovable: !hasCurrent(t),
			Result:     refusal + "; there is no other key which it could accept, so that this proves nothing yet",
		}, nil
	}
	if err != nil {
		return rotator.Proof{}, notAProof(err)
	}
	return rotator.Proof{Dead: true, Result: fmt.Sprintf("%s, and accepted %s a moment later", refusal, witness)}, nil
}

// hasCurrent tells whether the role has a current version, or will have one again.
func hasCurrent(t *rotator.Target) bool {
	return t.Version.State == rotation.Current || slices.ContainsFunc(t.Others, func(v rotation.Version) bool { return v.State == rotation.Current })
}

func accepted(ctx context.Context, c *Connection, t *rotator.Target) (witness string, err error) {
	if t.Current == nil {
		return c.witness(ctx)
	}
	key, err := keyOf(&t.Current.Version, t.Current.Material)
	if err != nil {
		return "", err
	}
	answer, err := c.verify(ctx, key)
	return fmt.Sprintf("%s (%s)", t.Current.Version.Identifier, answer), err
}

// notAProof keeps the witness's own refusal from being taken for that of the old key.
func notAProof(err error) error {
	if err == nil {
		return nil
	}
	err = fault.In("the old key was refused, but so was the witness, which proves nothing", err)
	if fault.Is(err, fault.AuthFailed) {
		return fault.New(fault.Target, "%w", err)
	}
	return err
}

// Preflight implements rotator.Preflighter.
func (*Rotator) Preflight(ctx context.Context, t *rotator.Target) ([]rotator.Line, error) {
	c, err := open(t)
	if err != nil {
		return nil, err
	}
	lines, err := c.check(ctx)
	if err == nil && optionsOf(t.Role).Strategy == strategyByHand {
		lines = append(lines, rotator.Line{Check: "next key", Result: rotator.Warn, Detail: c.byHand().Make + ", and write stage/" + t.Role.Name})
	}
	return lines, err
}

// Render implements rotator.Rotator.
func (*Rotator) Render(t *rotator.Target) (map[string]any, error) { return render(t, "primary") }

// RenderSecond implements rotator.Pairer.
func (*Rotator) RenderSecond(t *rotator.Target) (map[string]any, error) {
	return render(t, "secondary")
}

func render(t *rotator.Target, which string) (map[string]any, error) {
	key, err := keyOf(&t.Version, t.Material)
	if err != nil {
		return nil, fault.New(fault.Internal, "version %d has no key", t.Version.Number)
	}
	o, err := objectOf(&t.Version)
	if err != nil {
		return nil, err
	}
	out := map[string]any{which + "_key": key.Reveal()}
	if o.Reference.ID != "" {
		out[which+"_key_id"] = o.Reference.ID
	}
	return out, nil
}
