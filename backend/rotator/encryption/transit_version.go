package encryption

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-uuid"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/vaultclient"
)

// transitVersion is what a version remembers of a key that is transit's.
type transitVersion struct {
	object
	// Transit is where the key was: connection, mount and name.
	Transit string `json:"transit"`
	// Before is the latest version that transit had when this one was planned.
	Before int `json:"before"`
}

// transitVersionOf is nil for a version whose key is kept here.
func transitVersionOf(v *rotation.Version) *transitVersion {
	var out transitVersion
	if json.Unmarshal(v.Object, &out) != nil || out.Transit == "" {
		return nil
	}
	return &out
}

// newest is the latest version that the journal has, beside the one in question; 0 for none.
func newest(t *rotator.Target) (number int) {
	for i := range t.Others {
		if v := &t.Others[i]; v.State != rotation.Discarded {
			number = max(number, v.Number)
		}
	}
	return number
}

// newestUsed is the latest version that was current: transit had it once.
func newestUsed(t *rotator.Target) (number int) {
	for i := range t.Others {
		if v := &t.Others[i]; !v.ActivatedTime.IsZero() {
			number = max(number, v.Number)
		}
	}
	return number
}

// maxAhead bounds how often the key is rotated to come to a number that is free here.
const maxAhead = 10

// planTransit looks which version is to be current: for a new role the latest that there is,
// else the one that the next rotation makes. Versions that somebody else made since are
// taken over beside it.
func planTransit(ctx context.Context, t *rotator.Target) (*rotator.Candidate, error) {
	key, state, err := remoteKey(ctx, t.Conn, t.Role)
	if err != nil {
		return nil, notOfVersion(err)
	}
	known := newestUsed(t)
	if state.Latest < known {
		return nil, behind(key, state, known)
	}
	number := state.Latest
	if known > 0 {
		number++
	}
	for journalHas(t, number) { // one that was given up before transit had it
		number++
	}
	if number > min(state.Latest+maxAhead, maxVersion) {
		return nil, fault.New(fault.Conflict, "the key %s is at version %d, and the next one free in this role is %d: rotate it there by hand until it has that", key.Path(), state.Latest, number)
	}
	about := transitVersion{
		object: object{KeyType: state.Type, Derived: state.Derived}, Transit: t.Role.Connection + "/" + key.Path(), Before: state.Latest,
	}
	c, err := about.candidate(number)
	if err != nil {
		return nil, err
	}
	for n := state.MinDecryption; n < number && n <= state.Latest; n++ {
		if journalHas(t, n) {
			continue
		}
		earlier, err := about.candidate(n)
		if err != nil {
			return nil, err
		}
		if c.Earlier = append(c.Earlier, *earlier); len(c.Earlier) > maxImportVersions {
			return nil, fault.New(fault.Target, "the key %s has more than %d versions that decrypt: rewrap what the oldest made and raise min_decryption_version first", key.Path(), maxImportVersions)
		}
	}
	return c, nil
}

func journalHas(t *rotator.Target, number int) bool {
	return slices.ContainsFunc(t.Others, func(v rotation.Version) bool { return v.Number == number })
}

// notOfVersion is for what happens before there is a version.
func notOfVersion(err error) error {
	if fault.Is(err, fault.AuthFailed) || fault.Is(err, fault.NotFound) {
		return &fault.Error{Kind: fault.Target, Message: err.Error(), Err: err}
	}
	return err
}

// candidate describes a version. There is no secret: what is kept in the place of one says
// that the key is, as far as this role knows.
func (v transitVersion) candidate(number int) (*rotator.Candidate, error) {
	id, err := uuid.GenerateUUID()
	if err != nil {
		return nil, fmt.Errorf("make an identifier: %w", err)
	}
	about, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode the version's object: %w", err)
	}
	return &rotator.Candidate{
		Identifier: id, Object: about, Number: number, Counted: true, Material: secret.NewMap(map[string]string{"elsewhere": "yes"}),
	}, nil
}

// behind tells of a key that lost versions.
func behind(key *vaultclient.TransitKey, state *vaultclient.KeyState, known int) error {
	return fault.New(fault.Target, "the key %s is at version %d, and this role knows version %d of it: that Vault was restored from an older state, or the key was made anew. Restore the newer state; or, if that is lost, and with it what later versions encrypted, rotate the key there until it has version %d", key.Path(), state.Latest, known, known)
}

// prepareTransit rotates the key, unless it has the version already: an earlier call made
// it, whose answer was lost, or somebody else did.
func prepareTransit(ctx context.Context, t *rotator.Target) error {
	key, state, err := remoteKey(ctx, t.Conn, t.Role)
	if err != nil {
		return ofConnection(err)
	}
	about := transitVersionOf(&t.Version)
	if about == nil {
		return fault.New(fault.Internal, "version %d is not one of transit", t.Version.Number)
	}
	if state.Latest < about.Before {
		return behind(key, state, about.Before)
	}
	for state.Latest < t.Version.Number {
		rotated := key.Rotate(ctx)
		if rotated != nil && !fault.Is(rotated, fault.Unconfirmed) {
			return ofConnection(rotated)
		}
		was := state.Latest
		if state, err = key.State(ctx); err != nil {
			if rotated != nil {
				return rotated
			}
			return ofConnection(err)
		}
		if state.Latest <= was { // not yet, or not at all
			if rotated != nil {
				return rotated
			}
			return fault.New(fault.Unconfirmed, "the key %s was rotated and still is at version %d: it is looked at again", key.Path(), was)
		}
	}
	return nil
}

// verifyTransit proves a version, and that the current one still is the latest.
func verifyTransit(ctx context.Context, t *rotator.Target) error {
	key, state, err := remoteKey(ctx, t.Conn, t.Role)
	if err != nil {
		return ofConnection(err)
	}
	number := t.Version.Number
	known := max(number, newest(t))
	switch {
	case state.Latest < number:
		return behind(key, state, number)
	case state.MinDecryption > number:
		return fault.New(provenBy(t), "the key %s does not decrypt with version %d any more: its min_decryption_version is %d", key.Path(), number, state.MinDecryption)
	case t.Version.State == rotation.Current && state.Latest > known:
		return fault.New(fault.Target, "%s", foreign(key, state, known))
	}
	return unlessRefused(t, works(ctx, key, state, number))
}

// provenBy is the kind of a fault that says something of a version which is there. A
// candidate is not given up for one: transit has it, and encrypts with it.
func provenBy(t *rotator.Target) fault.Kind {
	if t.Version.State == rotation.Current {
		return fault.Target
	}
	return fault.Unreachable
}

func unlessRefused(t *rotator.Target, err error) error {
	if fault.Is(err, fault.Target) {
		return &fault.Error{Kind: provenBy(t), Message: err.Error(), Err: err}
	}
	return err
}

// works proves that what a version encrypts it decrypts.
func works(ctx context.Context, key *vaultclient.TransitKey, state *vaultclient.KeyState, number int) error {
	random, err := uuid.GenerateRandomBytes(32)
	if err != nil {
		return fmt.Errorf("make a value to try: %w", err)
	}
	value := vaultclient.Value{Text: secret.New(string(random))}
	if state.Derived {
		value.Context = []byte(probeContext)
	}
	for _, do := range []func(context.Context, int, []vaultclient.Value) ([]vaultclient.Result, error){key.Encrypt, key.Rewrap} {
		made, err := do(ctx, number, []vaultclient.Value{value})
		if err != nil {
			return ofConnection(err)
		}
		if made[0].Refused != "" {
			return fault.New(fault.Target, "the key %s cannot be used with version %d: %s", key.Path(), number, made[0].Refused)
		}
		if value.Text = made[0].Text; !strings.HasPrefix(value.Text.Reveal(), prefixOf(number)) {
			return fault.New(fault.Target, "the key %s was asked for version %d, and answered a value of another", key.Path(), number)
		}
	}
	return nil
}

// discardTransit leaves what transit has: it may be in use.
func discardTransit(ctx context.Context, t *rotator.Target) (rotator.Progress, error) {
	_, state, err := remoteKey(ctx, t.Conn, t.Role)
	if fault.Is(err, fault.NotFound) {
		return rotator.Progress{}, nil
	}
	if err != nil {
		return rotator.Progress{}, err
	}
	if state.Latest < t.Version.Number || !hasBefore(&t.Version) {
		return rotator.Progress{}, nil
	}
	return rotator.Progress{Left: fmt.Sprintf("transit keeps version %d of the key, which it cannot take back", t.Version.Number)}, nil
}

// hasBefore tells whether a rotation was to make the version, and it was not there before.
func hasBefore(v *rotation.Version) bool {
	about := transitVersionOf(v)
	return about != nil && about.Before < v.Number
}

// lowerWait is the wait for versions below one that is to end.
const lowerWait = 10 * time.Minute

// retireTransit raises min_decryption_version above a version of which nothing is left.
// Transit ends versions from the lowest on.
func retireTransit(ctx context.Context, t *rotator.Target, stage rotator.Stage) (rotator.Progress, error) {
	number := t.Version.Number
	if !t.Version.KeepsData { // the role was deleted
		return rotator.Progress{Left: fmt.Sprintf("transit keeps version %d of the key, which outlives this role", number)}, nil
	}
	if stage == rotator.Destroy {
		return rotator.Progress{}, nil
	}
	key, state, err := remoteKey(ctx, t.Conn, t.Role)
	if err != nil {
		return rotator.Progress{}, err
	}
	if state.MinDecryption > number {
		return rotator.Progress{}, nil
	}
	least := state.MinDecryption
	for least <= state.Latest && mayEnd(t, least) {
		least++
	}
	switch {
	case least > state.Latest:
		return rotator.Progress{}, fault.New(fault.Conflict, "no version of the key %s would be left", key.Path())
	case least < number:
		return rotator.Progress{NotYet: fmt.Sprintf("transit ends versions from the lowest on, and version %d has not ended here", least), AskAgain: lowerWait}, nil
	}
	return rotator.Progress{}, key.SetMinDecryption(ctx, least)
}

// mayEnd tells whether nothing is left of a version, as far as the journal knows it: one that
// it does not have, or took for never made, may be in use.
func mayEnd(t *rotator.Target, number int) bool {
	if number == t.Version.Number {
		return true
	}
	return slices.ContainsFunc(t.Others, func(v rotation.Version) bool {
		return v.Number == number && (v.State == rotation.Disabled || v.State == rotation.Retired || v.State == rotation.Retiring && !v.RetireBegun.IsZero())
	})
}

// tooOld is what transit says to a version below min_decryption_version.
const tooOld = "disallowed by policy (too old)"

// probeTransit asks transit itself: what the version made is refused because of it, and what
// the current one makes is taken.
func probeTransit(ctx context.Context, t *rotator.Target) (rotator.Proof, error) {
	number := t.Version.Number
	if !t.Version.KeepsData {
		return rotator.Proof{Unprovable: true, Result: "transit keeps the key, which outlives this role: nothing was ended there"}, nil
	}
	key, state, err := remoteKey(ctx, t.Conn, t.Role)
	if err != nil {
		return rotator.Proof{}, err
	}
	// Of zeros: that a version is refused shows before anybody looks at what it encrypted.
	value := vaultclient.Value{Text: secret.New(string(compose(prefixOf(number), make([]byte, nonceBytes+tagBytes))))}
	if state.Derived {
		value.Context = []byte(probeContext)
	}
	current := state.Latest
	if t.Current != nil {
		current = t.Current.Version.Number
	}
	made, err := key.Rewrap(ctx, current, []vaultclient.Value{value})
	if err != nil {
		return rotator.Proof{}, err
	}
	if !strings.Contains(made[0].Refused, tooOld) {
		return rotator.Proof{Alive: true, Result: fmt.Sprintf("transit does not refuse version %d of the key %s: its min_decryption_version is %d", number, key.Path(), state.MinDecryption)}, nil
	}
	if err := works(ctx, key, state, current); err != nil {
		return rotator.Proof{}, fault.New(fault.Target, "the current version is refused too, which proves nothing: %w", err)
	}
	return rotator.Proof{Dead: true, Result: fmt.Sprintf("transit refuses version %d (%s); what version %d encrypts is rewrapped", number, made[0].Refused, current)}, nil
}
