package encryption

import (
	"encoding/base64"
	"encoding/json"
	"strconv"

	"github.com/hashicorp/vault/sdk/helper/keysutil"

	"github.com/intelliflow/vault-plugin-secrets-rotation/backend/fault"
)

// exported is what transit/export/encryption-key/<name> answers: its data.
type exported struct {
	Type string            `json:"type"`
	Keys map[string]string `json:"keys"`
}

// readExport reads the whole answer or its data. It does not tell whether keys are
// derived: that is left to the role.
func readExport(_ *roleOptions, kt *keyType, text string) (imported, error) {
	var answer struct {
		Data *exported `json:"data"`
		exported
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		return nil, fault.Field(importKey, "is not what transit/export/encryption-key/<name> answers as JSON")
	}
	in := &answer.exported
	if answer.Data != nil {
		in = answer.Data
	}
	if len(in.Keys) == 0 {
		return nil, fault.Field(importKey, "is JSON without keys: transit/export/encryption-key/<name> answers them as {\"data\": {\"keys\": {\"1\": ...}}}")
	}
	if in.Type != "" {
		if err := checkType(importKey, in.Type, kt); err != nil {
			return nil, err
		}
	}
	keys := imported{}
	for name, encoded := range in.Keys {
		number, ok := parseNumber(name)
		if !ok {
			return nil, fault.Field(importKey, "has a key under what is no number of a version")
		}
		raw, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return nil, fault.Field(importKey, "has a key as version %d that is not base64: only symmetric keys can be taken over", number)
		}
		keys[number] = raw
	}
	return keys, nil
}

// backup is what counts of a plaintext backup (keysutil.KeyData). It is read into these
// few fields and not into a policy, which holds numbers of any size and much else.
type backup struct {
	Policy *struct {
		Keys                map[string]backupKey `json:"keys"`
		Type                int                  `json:"type"`
		Derived             bool                 `json:"derived"`
		KDF                 int                  `json:"kdf"`
		Convergent          bool                 `json:"convergent_encryption"`
		SoftDeleted         bool                 `json:"soft_deleted"`
		VersionTemplate     string               `json:"version_template"`
		LatestVersion       int                  `json:"latest_version"`
		MinDecryption       int                  `json:"min_decryption_version"`
		MinAvailableVersion int                  `json:"min_available_version"`
	} `json:"policy"`
	Archive *struct {
		Keys []backupKey `json:"keys"`
	} `json:"archived_keys"`
}

type backupKey struct {
	Key []byte `json:"key"`
}

// readBackup reads the versions that transit would decrypt with.
func readBackup(o *roleOptions, kt *keyType, text string) (imported, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, notBackup()
	}
	var in backup
	if err := json.Unmarshal(raw, &in); err != nil || in.Policy == nil {
		return nil, notBackup()
	}
	if err := in.check(o, kt); err != nil {
		return nil, err
	}
	return in.keys()
}

func notBackup() error {
	return fault.Field(importBackup, "is not what transit/backup/<name> answers as backup: base64 of JSON with a policy")
}

// check refuses keys that are not for the role, and those whose ciphertexts others made
// in a way that is not followed here.
func (b *backup) check(o *roleOptions, kt *keyType) error {
	p := b.Policy
	if err := checkType(importBackup, keysutil.KeyType(p.Type).String(), kt); err != nil {
		return err
	}
	switch {
	case p.Convergent:
		return fault.Field(importBackup, "is of a key with convergent_encryption, which is not supported: equal plaintexts would show as equal ciphertexts")
	case p.Derived != o.Derived:
		return fault.Field(importBackup, "is of a key with derived=%t: write derived=%t", p.Derived, p.Derived)
	case p.Derived && p.KDF != keysutil.Kdf_hkdf_sha256:
		return fault.Field(importBackup, "is of a key that is derived in the way of the first releases of transit (kdf hmac-sha256-counter), and not by HKDF: such keys cannot be taken over")
	case p.SoftDeleted:
		return fault.Field(importBackup, "is of a key that is marked as deleted: undelete it in transit and make the backup again")
	case p.VersionTemplate != "" && p.VersionTemplate != keysutil.DefaultVersionTemplate:
		return fault.Field(importBackup, "is of a key whose ciphertexts do not begin as usual (version_template)")
	}
	return nil
}

// keys are those from min_decryption_version to the latest. An older one may lie in the
// archive alone.
func (b *backup) keys() (imported, error) {
	p := b.Policy
	least := max(p.MinDecryption, 1)
	if p.LatestVersion < least || p.LatestVersion > maxVersion || p.MinAvailableVersion < 0 {
		return nil, fault.Field(importBackup, "does not say which versions it has (latest_version, min_decryption_version)")
	}
	out := imported{}
	if n := p.LatestVersion - least + 1; n > maxImportVersions {
		return nil, tooMany(importBackup, n)
	}
	for number := least; number <= p.LatestVersion; number++ {
		key := p.Keys[strconv.Itoa(number)].Key
		if at := number - p.MinAvailableVersion; len(key) == 0 && b.Archive != nil && at >= 0 && at < len(b.Archive.Keys) {
			key = b.Archive.Keys[at].Key
		}
		if len(key) == 0 {
			return nil, fault.Field(importBackup, "has no key for version %d, which still decrypts", number)
		}
		out[number] = key
	}
	return out, nil
}
