package encryption

import (
	"encoding/base64"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/rotator"
	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/secret"
)

// A role may begin with keys that exist, so that what they encrypted goes on being
// decrypted: their versions keep the numbers that stand in the ciphertexts. What people
// paste here is refused in our own words: a parser's error may quote it.

const (
	maxImportBytes    = 4 << 20
	maxImportVersions = 200
)

// imported are raw keys by the number of their version.
type imported map[int][]byte

// Imports implements rotator.Importer.
func (*Rotator) Imports(r *rotator.Role) bool { return imports(r) }

func imports(r *rotator.Role) bool {
	return !r.Secrets[importKey].Empty() || !r.Secrets[importBackup].Empty()
}

// planImport makes a version of each key: the highest becomes current.
func planImport(o *roleOptions, kt *keyType, secrets secret.Map) (*rotator.Candidate, error) {
	keys, err := parseImport(o, kt, secrets)
	if err != nil {
		return nil, err
	}
	var all []rotator.Candidate
	for _, number := range slices.Sorted(maps.Keys(keys)) {
		c, err := candidate(kt, o.Derived, keys[number])
		if err != nil {
			return nil, err
		}
		c.Number = number
		all = append(all, *c)
	}
	last := all[len(all)-1]
	if len(all) > 1 {
		last.Earlier = all[:len(all)-1]
	}
	return &last, nil
}

// parseImport reads the keys, at least one, and refuses those that are not for the role.
func parseImport(o *roleOptions, kt *keyType, secrets secret.Map) (imported, error) {
	key, backup := secrets[importKey], secrets[importBackup]
	if !key.Empty() && !backup.Empty() {
		return nil, fault.Field(importBackup, "and import_key exclude each other: give one of them")
	}
	field, text, read := importKey, key, readKey
	if key.Empty() {
		field, text, read = importBackup, backup, readBackup
	}
	if len(text.Reveal()) > maxImportBytes {
		return nil, fault.Field(field, "must be at most %d bytes", maxImportBytes)
	}
	keys, err := read(o, kt, strings.TrimSpace(text.Reveal()))
	if err != nil {
		return nil, err
	}
	return keys, keys.check(field, kt)
}

// check bounds the versions, and wants each key to be of the cipher's size.
func (keys imported) check(field string, kt *keyType) error {
	switch {
	case len(keys) == 0:
		return fault.Field(field, "holds no key")
	case len(keys) > maxImportVersions:
		return tooMany(field, len(keys))
	}
	for _, number := range slices.Sorted(maps.Keys(keys)) {
		if got := len(keys[number]); got != kt.bytes {
			return fault.Field(field, "has a key of %d bytes as version %d; %s takes %d bytes", got, number, kt.name, kt.bytes)
		}
	}
	return nil
}

func tooMany(field string, versions int) error {
	return fault.Field(field, "holds %d versions that still decrypt, of which at most %d can be taken over: rewrap what the oldest made and raise min_decryption_version first", versions, maxImportVersions)
}

// readKey reads one raw key, or what transit exports.
func readKey(o *roleOptions, kt *keyType, text string) (imported, error) {
	if strings.HasPrefix(text, "{") {
		return readExport(o, kt, text)
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fault.Field(importKey, "is neither a key in base64 nor what transit/export/encryption-key/<name> answers as JSON")
	}
	return imported{1: raw}, nil
}

// parseNumber reads the number of a version, which has one way to be written.
func parseNumber(text string) (number int, ok bool) {
	number, err := strconv.Atoi(text)
	return number, err == nil && number >= 1 && number <= maxVersion && strconv.Itoa(number) == text
}

// checkType says what to write where keys are of another type than the role.
func checkType(field, of string, kt *keyType) error {
	switch {
	case of == kt.name:
		return nil
	case keyTypeNamed(of) != nil:
		return fault.Field(field, "is of type %s: write key_type=%s", of, of)
	default:
		return fault.Field(field, "is of a type that is not supported here; those are %s", keyTypeNames())
	}
}
