package encryption

import (
	"slices"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotation"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
)

// decrypts tells whether callers get back what a version encrypted. That a key leaked
// does not end it: the data is still there, and follows the next version.
func decrypts(v *rotation.Version) bool {
	return (v.State == rotation.Standby || v.State == rotation.Current || v.State == rotation.Retiring) &&
		v.KilledTime.IsZero() && v.RetireBegun.IsZero()
}

// versions are what one request, or one pass over stored data, decrypts with.
type versions struct {
	live *rotator.LiveVersions
	// missed are the versions that somebody had need of and that ended: each is told once.
	missed []int
}

// find gives the key of a version, or says why callers do not get it.
func (vs *versions) find(number int, made func(ready any) bool) (*key, error) {
	all := vs.live.All
	if i, found := slices.BinarySearchFunc(all, number, func(l rotator.Live, n int) int { return l.Version.Number - n }); found {
		if v := &all[i].Version; !decrypts(v) {
			return nil, refuse(v)
		}
		return readyKey(&all[i])
	}
	for i := range vs.live.Ended {
		if v := &vs.live.Ended[i]; v.Number == number {
			never := v.State == rotation.Pending || v.State == rotation.Discarded
			if !never { // else it made nothing: who names it names what another role made
				vs.miss(number, made)
			}
			return nil, refuse(v)
		}
	}
	if number > vs.highest() {
		vs.miss(number, made)
		return nil, ofVersion("names version %d, which this role does not have yet: its highest is %d", number, vs.highest())
	}
	return nil, ofVersion("names version %d, which this role does not have: it ended long ago, or never was", number)
}

// maxMissed bounds the versions that one request has told of.
const maxMissed = 16

// miss tells that somebody had need of a version that is not there.
func (vs *versions) miss(number int, made func(ready any) bool) {
	if vs.live.Missed == nil || made == nil || len(vs.missed) == maxMissed || slices.Contains(vs.missed, number) {
		return
	}
	vs.missed = append(vs.missed, number)
	vs.live.Missed(number, made)
}

// refuse says what became of a version.
func refuse(v *rotation.Version) error {
	return ofVersion("names version %d, which %s", v.Number, ended(v))
}

func (vs *versions) highest() (number int) {
	if n := len(vs.live.All); n > 0 {
		number = vs.live.All[n-1].Version.Number
	}
	if n := len(vs.live.Ended); n > 0 {
		number = max(number, vs.live.Ended[n-1].Number)
	}
	return number
}

// ended says what became of a version that does not decrypt.
func ended(v *rotation.Version) string {
	switch {
	case v.State == rotation.Pending && !v.Undo:
		return "is not in use yet"
	case v.State == rotation.Discarded, v.State == rotation.Pending:
		return "was given up before it was used"
	case v.State == rotation.Retired || !v.HasMaterial:
		return "is retired: its key is destroyed"
	case v.State == rotation.Current:
		return "was ended by an emergency"
	default:
		return "is disabled: reencrypt/:name/reopen lets it decrypt again while its key is kept"
	}
}

// versionRefused is a refusal for the version alone, whatever else the ciphertext is.
type versionRefused struct{ why *fault.Error }

// Error implements error.
func (r versionRefused) Error() string { return r.why.Error() }

// Unwrap shows the fault to those that look for its kind.
func (r versionRefused) Unwrap() error { return r.why }

func ofVersion(format string, args ...any) error {
	return versionRefused{fault.Field(ciphertextField, format, args...)}
}

// maxKept bounds the ciphertexts that are kept until somebody has looked whether a version
// made them.
const maxKept = 64 << 10

// madeBy tells of a key whether it made a ciphertext; nil for one too large to be kept.
func madeBy(sealed, context, associatedData []byte) func(ready any) bool {
	if len(sealed)+len(context)+len(associatedData) > maxKept {
		return nil
	}
	return func(ready any) bool {
		k, ok := ready.(*key)
		if !ok {
			return true // nobody can tell
		}
		_, err := k.open(sealed, context, associatedData)
		return err == nil
	}
}

// open decrypts a ciphertext with whichever version made it.
func (vs *versions) open(ciphertext, context, associatedData []byte) ([]byte, error) {
	version, sealed, err := parse(ciphertext)
	if err != nil {
		return nil, err
	}
	k, err := vs.find(version, madeBy(sealed, context, associatedData))
	if err != nil {
		return nil, err
	}
	return k.open(sealed, context, associatedData)
}

// encrypting is the current version's key.
func encrypting(live *rotator.LiveVersions) (*key, error) {
	if live.Current == nil {
		return nil, fault.New(fault.NotFound, "role %q is deleted: nothing is encrypted any more", live.Role.Name)
	}
	if v := &live.Current.Version; !decrypts(v) {
		return nil, fault.New(fault.Conflict, "the key of version %d was ended by an emergency and encrypts nothing: its replacement is being made", v.Number)
	}
	return readyKey(live.Current)
}

// asked refuses a version that is to encrypt and is not the current one.
func (k *key) asked(version int) error {
	if version == 0 || version == k.version {
		return nil
	}
	return fault.Field("key_version", "must be %d, the current version, or left out: earlier versions only decrypt, so that they can end", k.version)
}
